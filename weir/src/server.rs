//! `weir server`: store, controller and autoscaler in one process.

mod fleet;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use api::{
    pki::{self, Ca},
    process,
};
use controller::Controller;
use dialect::{Listen, PoolSpec};
use model::ListenerProtocol;
use store::{Store, seal::Sealer};
use tokio::net::TcpListener;
use tracing::info;

use crate::{metrics_http, supervised};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The store's directory
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The key-encryption key, outside of the data directory; made if it is not there
    #[arg(long, value_name = "FILE")]
    key_file: PathBuf,
    /// Directory with the CA and the server's certificate
    #[arg(long, value_name = "DIR")]
    pki: PathBuf,
    /// File with the platform admin's token, made known to the store at start
    #[arg(long, value_name = "FILE")]
    admin_token_file: PathBuf,
    /// Admin API
    #[arg(long, value_name = "ADDR", default_value_t = local(7070))]
    admin: SocketAddr,
    /// Metrics, HTTP
    #[arg(long, value_name = "ADDR", default_value_t = local(7071))]
    metrics: SocketAddr,
    /// Feed for workers and agents
    #[arg(long, value_name = "ADDR", default_value_t = local(7072))]
    feed: SocketAddr,
    /// Where the default pool listens for port 80
    #[arg(long, value_name = "ADDR", default_value_t = local(8080))]
    http: SocketAddr,
    /// Where the default pool listens for port 443
    #[arg(long, value_name = "ADDR", default_value_t = local(8443))]
    https: SocketAddr,
    /// Tenants get <tenant>.<domain>
    #[arg(long, default_value = "localhost")]
    domain: String,
    /// End when standard input ends
    #[arg(long, hide = true)]
    supervised: bool,
}

const fn local(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
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
    let ca = Arc::new(Ca::load(&args.pki)?);
    let identity = pki::load(&args.pki, "server")?;
    let token = std::fs::read_to_string(&args.admin_token_file)
        .with_context(|| format!("read the admin token in {}", args.admin_token_file.display()))?;
    // Before the store opens: an address that is taken is told at once.
    let admin = listen("the admin API", args.admin).await?;
    let feed = listen("the feed", args.feed).await?;
    let metrics = metrics_http::listen(args.metrics).await?;

    expect_key(&args)?;
    let store = Store::open(store::Config::new(&args.data)).await?;
    let sealer = Arc::new(Sealer::from_file(&args.key_file)?);
    let fleet = fleet::Fleet::start(store.clone(), shutdown.clone());
    let controller = Controller::start(controller::Config {
        store: store.clone(),
        sealer,
        ca: Arc::clone(&ca),
        domain: args.domain,
        default_pool: PoolSpec {
            listen: vec![
                Listen { port: 80, bind: args.http, protocol: ListenerProtocol::Http },
                Listen { port: 443, bind: args.https, protocol: ListenerProtocol::Https },
            ],
            ..PoolSpec::default()
        },
        fleet: fleet.clone(),
        intake: fleet.clone(),
        shutdown: shutdown.clone(),
    })
    .await?;
    controller.install_admin_token(token.trim()).await?;
    fleet.follow(controller.world());

    // Both ports end by themselves at the shutdown, when the calls in progress are answered: the store is there for
    // them until then.
    let ports = async {
        tokio::try_join!(
            async { controller.serve_admin(admin, &identity, ca.cert_pem()).await.context("admin API") },
            async {
                let agents = fleet.services();
                controller.serve_feed(feed, &identity, ca.cert_pem(), agents).await.context("feed")
            },
        )
    };
    let result = tokio::select! {
        result = ports => result.map(|_| ()),
        result = metrics_http::serve(metrics, recorder) => result.map(|never| match never {}),
    };
    drop(controller);
    store.shutdown().await;
    info!("stopped");
    result
}

/// A new key beside old data would open none of its secrets, and hide that the old one is lost.
fn expect_key(args: &Args) -> Result<()> {
    let has_data = std::fs::read_dir(&args.data).is_ok_and(|mut entries| entries.next().is_some());
    if has_data && !args.key_file.exists() {
        bail!(
            "{} is missing, and the secrets in {} can be opened with nothing else: restore it from its backup",
            args.key_file.display(),
            args.data.display()
        );
    }
    Ok(())
}

async fn listen(what: &str, address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("listen for {what} on {address}"))
}
