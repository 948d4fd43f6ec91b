//! `weir edge`.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::{Result, bail};
use api::process;
use model::{PoolName, WorkerId};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Serve this YAML file with no control plane; SIGHUP reloads it
    #[arg(long = "static", value_name = "FILE", conflicts_with = "agent")]
    file: Option<PathBuf>,
    /// Request threads, with --static
    #[arg(long, default_value_t = 1, requires = "file")]
    threads: usize,
    /// Prometheus metrics over HTTP, with --static
    #[arg(long, value_name = "ADDR", requires = "file")]
    metrics: Option<SocketAddr>,
    /// Access log: off, stdout or file:PATH; an installation's workers read it from the environment
    #[arg(long, env = "WEIR_ACCESS_LOG", value_name = "SINK", default_value = "off")]
    access_log: edge::accesslog::Sink,
    /// The socket of the agent that started this worker
    #[arg(long, value_name = "SOCKET", hide = true, requires_all = ["worker", "pool"])]
    agent: Option<PathBuf>,
    #[arg(long, hide = true)]
    worker: Option<WorkerId>,
    #[arg(long, hide = true)]
    pool: Option<PoolName>,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let access_log = args.access_log;
    process::init_tracing("info")?;
    process::log_panics(false);
    match (args.file, args.agent, args.worker, args.pool) {
        (Some(file), ..) => {
            let (threads, metrics) = (args.threads, args.metrics);
            edge::run_static(&edge::StaticArgs { file, threads, metrics, access_log })
        }
        (None, Some(agent_socket), Some(worker), Some(pool)) => {
            edge::run_worker(edge::WorkerArgs { agent_socket, worker, pool, access_log })
        }
        _ => bail!(
            "give a file to serve: weir edge --static FILE (workers of an installation are started by its agent)"
        ),
    }
}
