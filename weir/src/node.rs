//! `weir node`.

mod renewal;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use api::{pki, process};
use node::{Identities, Identity, NodeConfig, Timing};
use tokio::sync::watch;

use crate::{client, cluster, layout::Layout, metrics_http, supervised};

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Run,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make the data directory of a host agent that joins an installation (`weir cluster token create --role node`)
    Join(cluster::node::Args),
}

#[derive(Debug, clap::Args)]
struct Run {
    /// Data directory that `weir node join` made; or, with --pki, the agent's own directory
    #[arg(long, value_name = "DIR", default_value = crate::layout::DEFAULT_DATA)]
    data: PathBuf,
    /// This machine's name among the nodes
    #[arg(long)]
    name: Option<String>,
    /// Where workers find the agent
    #[arg(long, value_name = "SOCKET")]
    socket: Option<PathBuf>,
    /// Directory with ca.pem and the certificates of the node and its workers
    #[arg(long, value_name = "DIR", requires_all = ["socket", "servers"])]
    pki: Option<PathBuf>,
    /// Where agents and workers reach a server; may be repeated, any of them will do
    #[arg(long = "server", value_name = "HOST:PORT")]
    servers: Vec<String>,
    /// CPUs that workers may use; all by default
    #[arg(long)]
    cpus: Option<u32>,
    /// Prometheus metrics of the agent and of its workers, HTTP
    #[arg(long, value_name = "ADDR")]
    metrics: Option<std::net::SocketAddr>,
    /// End when standard input ends
    #[arg(long, hide = true)]
    supervised: bool,
}

/// Where the agent's things are, with no option left to interpret.
struct Place {
    name: String,
    data: PathBuf,
    socket: PathBuf,
    pki: PathBuf,
    servers: Vec<String>,
    /// Its certificates were asked for, and are renewed.
    joined: bool,
}

pub(crate) fn run(args: Args) -> Result<()> {
    match args.command {
        Some(Command::Join(join)) => client::run(cluster::node::run(join)),
        None => agent(args.run),
    }
}

fn agent(args: Run) -> Result<()> {
    process::init_tracing("info")?;
    process::log_panics(false);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut shutdown = supervised::shutdown(args.supervised)?;
        let (scraper, scrapes) = node::scrapes();
        if let Some(address) = args.metrics {
            let listener = metrics_http::listen(address).await?;
            let source = metrics_http::Source { own: metrics_http::recorder()?, workers: Some(scraper) };
            tokio::spawn(metrics_http::serve(listener, source));
        }
        let cpus = args.cpus.unwrap_or_else(cpus);
        let place = place(args)?;
        let (renewed, identities) = watch::channel(identities(&place.pki)?);
        let renewed = Arc::new(renewed);
        let learned = watch::Sender::new(place.servers.clone());
        if place.joined {
            tokio::spawn(renewal::keep(place.pki.clone(), learned.subscribe(), Arc::clone(&renewed)));
        }
        let program = std::env::current_exe().context("find this program's own file")?;
        let config = NodeConfig {
            node: place.name,
            data_dir: place.data,
            agent_socket: place.socket,
            servers: place.servers,
            learned,
            identities,
            edge_command: vec![program.display().to_string(), "edge".into()],
            cpus,
            timing: Timing::default(),
        };
        node::run(config, scrapes, async move { process::shut_down(&mut shutdown).await }).await?;
        Ok(())
    })
}

fn place(args: Run) -> Result<Place> {
    if let (Some(pki), Some(socket)) = (args.pki, args.socket.clone()) {
        let name = args.name.unwrap_or_else(|| "local".into());
        return Ok(Place { name, data: args.data, socket, pki, servers: args.servers, joined: false });
    }
    let layout = Layout::new(&args.data)?;
    let Some(file) = layout.read_node()? else {
        bail!(
            "{} is no host agent's directory: make one with `weir node join`, with a token of \
             `weir cluster token create --role node`",
            layout.root().display()
        );
    };
    Ok(Place {
        // Its certificate says its name.
        name: file.name,
        data: layout.node(),
        socket: args.socket.unwrap_or_else(|| layout.agent_socket()),
        pki: layout.pki(),
        servers: if args.servers.is_empty() { file.servers } else { args.servers },
        joined: true,
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
