//! `weir edge`.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::{Result, bail};
use api::process;
use edge::trace::{Collector, TraceArgs};
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
    /// Collector of traces, OTLP over HTTP: http://HOST:4318; an installation's workers read it from the environment
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL", hide_env_values = true)]
    otlp_endpoint: Option<Collector>,
    /// Headers for the collector: name=value, with commas between
    #[arg(
        long,
        env = "OTEL_EXPORTER_OTLP_HEADERS",
        value_name = "LIST",
        default_value = "",
        hide_env_values = true
    )]
    otlp_headers: String,
    /// Of the traces that begin here, those that are sampled, in percent; a ListenerPolicy may say otherwise
    #[arg(long, env = "WEIR_TRACE_SAMPLED_PERCENT", value_name = "PERCENT", default_value = "1", value_parser = ppm)]
    trace_sampled: u32,
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
    let collector =
        args.otlp_endpoint.map(|collector| collector.with_headers(&args.otlp_headers)).transpose()?;
    let tracing = collector.map(|collector| TraceArgs { collector, sampled_ppm: args.trace_sampled });
    process::init_tracing("info")?;
    process::log_panics(false);
    match (args.file, args.agent, args.worker, args.pool) {
        (Some(file), ..) => {
            let (threads, metrics) = (args.threads, args.metrics);
            edge::run_static(&edge::StaticArgs { file, threads, metrics, access_log, tracing })
        }
        (None, Some(agent_socket), Some(worker), Some(pool)) => {
            edge::run_worker(edge::WorkerArgs { agent_socket, worker, pool, access_log, tracing })
        }
        _ => bail!(
            "give a file to serve: weir edge --static FILE (workers of an installation are started by its agent)"
        ),
    }
}

/// A part of a hundred, in millionths.
fn ppm(text: &str) -> Result<u32, String> {
    let percent = text.parse::<f64>().ok().filter(|percent| (0.0..=100.0).contains(percent));
    let percent = percent.ok_or("use a number from 0 to 100, like 0.5")?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to a million")]
    Ok((percent * 10_000.0).round() as u32)
}
