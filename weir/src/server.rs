//! `weir server`: store, controller and autoscaler in one process.

mod fleet;
mod installation;
mod member;
mod renewal;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use api::process;
use controller::{Controller, Joins, PeersPort};
use dialect::{Listen, PoolSpec};
use model::ListenerProtocol;
use tokio::{net::TcpListener, sync::watch};
use tracing::{info, warn};

use crate::{metrics_http, supervised};
use installation::Installation;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Data directory that `weir cluster init` or `join` made; or, with --pki, the store's own directory
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The key-encryption key, outside of the data directory; made if it is not there
    #[arg(long, value_name = "FILE", requires = "pki")]
    key_file: Option<PathBuf>,
    /// Directory with the CA and the server's certificate, of a server that is alone
    #[arg(long, value_name = "DIR", requires_all = ["key_file", "admin_token_file"])]
    pki: Option<PathBuf>,
    /// File with the platform admin's token, made known to the store at start
    #[arg(long, value_name = "FILE", requires = "pki")]
    admin_token_file: Option<PathBuf>,
    /// Where to listen for the admin API
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,
    /// Metrics, HTTP
    #[arg(long, value_name = "ADDR")]
    metrics: Option<SocketAddr>,
    /// Where to listen for other servers, workers and agents
    #[arg(long, value_name = "ADDR")]
    feed: Option<SocketAddr>,
    /// Where the default pool listens for port 80
    #[arg(long, value_name = "ADDR")]
    http: Option<SocketAddr>,
    /// Where the default pool listens for port 443
    #[arg(long, value_name = "ADDR")]
    https: Option<SocketAddr>,
    /// Tenants get <tenant>.<domain>
    #[arg(long)]
    domain: Option<String>,
    /// How long the certificates live that this server signs, seconds
    #[arg(long, hide = true, value_name = "SECONDS")]
    certificate_lifetime: Option<u64>,
    /// End when standard input ends
    #[arg(long, hide = true)]
    supervised: bool,
}

pub(crate) fn run(args: Args) -> Result<()> {
    process::init_tracing("info")?;
    // A panic may have left the store half changed, and the log is the truth: end, and begin again from it.
    process::log_panics(true);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(serve(args))
}

async fn serve(args: Args) -> Result<()> {
    let shutdown = supervised::shutdown(args.supervised)?;
    let recorder = metrics_http::recorder()?;
    let lifetime = args.certificate_lifetime.map_or(controller::CERTIFICATE_LIFETIME, Duration::from_secs);
    let installation = Installation::find(&args)?;
    // Before the store opens: an address that is taken is told at once.
    let admin = listen("the admin API", &installation.listen_admin).await?;
    let feed = listen("the feed", &installation.listen_peers).await?;
    let metrics = metrics_http::listen(installation.metrics).await?;

    let server = installation.open().await?;
    let (store, live, ca_pem) = (server.store.clone(), server.identity.clone(), server.ca_pem.clone());
    let (stopped, mut stop) = watch::channel(false);
    let down = async move { process::shut_down(&mut stop).await };
    let (port, serving) = PeersPort::open(store.clone(), feed, live.clone(), &ca_pem, down)?;
    let peers = tokio::spawn(serving);

    let mut asked = shutdown.clone();
    let running = async {
        let ca = tokio::select! {
            ca = server.authority() => ca?,
            () = process::shut_down(&mut asked) => return Ok(()),
        };
        let _renewal = server.keep_certificate(Arc::clone(&ca), lifetime);
        let fleet = fleet::Fleet::start(store.clone(), shutdown.clone());
        let controller = Controller::start(controller::Config {
            store: store.clone(),
            sealer: Arc::clone(&server.sealer),
            ca: Arc::clone(&ca),
            joins: Joins { key_file: server.shared_key_file.clone(), lifetime },
            domain: installation.domain.clone(),
            default_pool: default_pool(&installation),
            fleet: fleet.clone(),
            intake: fleet.clone(),
            others: server.others(),
            shutdown: shutdown.clone(),
        })
        .await?;
        let controller = Arc::new(controller);
        let _founding = server.found(&controller, ca).await?;
        fleet.follow(controller.world());
        port.begin(controller.feed_routes(fleet.services()));
        // Ends by itself at the shutdown, when the calls in progress are answered.
        controller.serve_admin(admin, live, &ca_pem).await.context("admin API")?;
        anyhow::Ok(())
    };
    let result = tokio::select! {
        result = running => result,
        result = metrics_http::serve(metrics, metrics_http::Source { own: recorder, workers: None }) => result.map(|never| match never {}),
        error = server.removed() => Err(error),
    };
    // Leadership goes to another server while its messages still come in; their streams end with the store.
    store.shutdown().await;
    stopped.send_replace(true);
    match tokio::time::timeout(PORT_GRACE, peers).await {
        Ok(served) => served.context("the feed's task")?.context("feed")?,
        Err(_) => warn!("calls that did not end are cut"),
    }
    info!("stopped");
    result
}

/// What streams of agents and workers have to end in once the store has stopped: they end by themselves.
const PORT_GRACE: Duration = Duration::from_secs(2);

fn default_pool(installation: &Installation) -> PoolSpec {
    PoolSpec {
        listen: vec![
            Listen::new(80, installation.http, ListenerProtocol::Http),
            Listen::new(443, installation.https, ListenerProtocol::Https),
        ],
        ..PoolSpec::default()
    }
}

async fn listen(what: &str, address: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("listen for {what} on {address}"))
}
