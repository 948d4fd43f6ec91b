//! `weir node`.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use api::{pki, process};
use node::{Identities, Identity, NodeConfig, Timing};
use tokio::sync::watch;

use crate::{metrics_http, supervised};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// This machine's name among the nodes
    #[arg(long, default_value = "local")]
    name: String,
    /// The agent's own directory
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Where workers find the agent
    #[arg(long, value_name = "SOCKET")]
    socket: PathBuf,
    /// Directory with ca.pem and the certificates of the node and its workers
    #[arg(long, value_name = "DIR")]
    pki: PathBuf,
    /// A server's feed address; may be repeated, any of them will do
    #[arg(long = "server", value_name = "HOST:PORT", required = true)]
    servers: Vec<String>,
    /// CPUs that workers may use; all by default
    #[arg(long)]
    cpus: Option<u32>,
    /// Prometheus metrics of the agent, HTTP
    #[arg(long, value_name = "ADDR")]
    metrics: Option<SocketAddr>,
    /// End when standard input ends
    #[arg(long, hide = true)]
    supervised: bool,
}

pub(crate) fn run(args: Args) -> Result<()> {
    process::init_tracing("info")?;
    process::log_panics(false);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut shutdown = supervised::shutdown(args.supervised)?;
        if let Some(address) = args.metrics {
            let listener = metrics_http::listen(address).await?;
            tokio::spawn(metrics_http::serve(listener, metrics_http::recorder()?));
        }
        let (_keep, identities) = watch::channel(identities(&args.pki)?);
        let program = std::env::current_exe().context("find this program's own file")?;
        let config = NodeConfig {
            node: args.name,
            data_dir: args.data,
            agent_socket: args.socket,
            servers: args.servers,
            identities,
            edge_command: vec![program.display().to_string(), "edge".into()],
            cpus: args.cpus.unwrap_or_else(cpus),
            timing: Timing::default(),
        };
        node::run(config, async move { process::shut_down(&mut shutdown).await }).await?;
        Ok(())
    })
}

fn identities(directory: &Path) -> Result<Identities> {
    let ca_pem = std::fs::read_to_string(directory.join("ca.pem"))
        .with_context(|| format!("read the CA in {}", directory.display()))?;
    let identity = |name: &str| -> Result<Identity> {
        let pki::Identity { cert_pem, key_pem } = pki::load(directory, name)?;
        Ok(Identity { ca_pem: ca_pem.clone(), cert_pem, key_pem })
    };
    Ok(Identities { node: identity("node")?, worker: identity("edge")? })
}

fn cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX))
}
