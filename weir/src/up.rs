//! `weir up`: a real installation on one machine.
//!
//! Three kinds of process, because a server that loses its disk aborts and must not take the sockets with it:
//! this one supervises a server and a host agent; the agent starts the workers.

mod demo;
mod preflight;
mod supervise;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};
use api::{
    admin::{ListWorkersRequest, StatusRequest},
    client::Admin,
    process,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use crate::{
    layout::{ClientFile, DEFAULT_DATA, Layout},
    output,
};

/// How long the first worker may take to be ready before `up` says what is wrong. A cold debug build on a busy
/// machine needs some seconds; a release build needs a fraction of one.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// How often a starting process is asked whether it is there: the whole start takes a fraction of a second.
const POLL: Duration = Duration::from_millis(5);

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Add a tenant, a built-in upstream and a route, and print the curl line
    #[arg(long)]
    demo: bool,
    /// Data directory
    #[arg(long, env = "WEIR_DATA", value_name = "DIR", default_value = DEFAULT_DATA)]
    data: PathBuf,
    /// Where workers listen for HTTP (port 80 of a Gateway)
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub(crate) http: SocketAddr,
    /// Where workers listen for HTTPS (port 443 of a Gateway)
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8443")]
    pub(crate) https: SocketAddr,
    /// Admin API, gRPC over TLS
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7070")]
    pub(crate) admin: SocketAddr,
    /// Metrics of the server, HTTP
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7071")]
    pub(crate) metrics: SocketAddr,
    /// Metrics of the workers and their agent, HTTP
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7073")]
    pub(crate) worker_metrics: SocketAddr,
    /// Feed for workers and agents, mTLS
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7072")]
    pub(crate) feed: SocketAddr,
    /// Tenants get <tenant>.<domain>
    #[arg(long, default_value = "localhost")]
    pub(crate) domain: String,
}

pub(crate) fn run(args: Args) -> Result<()> {
    process::init_tracing("info")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(up(args))
}

async fn up(args: Args) -> Result<()> {
    let shutdown = process::shutdown_signal().context("install signal handlers")?;
    let layout = Layout::new(&args.data)?;
    let made_for_demo = demo::claim_directory(&layout, args.demo)?;
    // Who runs on this data has its addresses too, and "the data is in use" is the better word.
    let held = layout.root().exists().then(|| preflight::lock(&layout)).transpose()?;
    // Before anything is made, so that a start that is refused leaves nothing.
    preflight::addresses(&args)?;
    layout.create()?;
    if made_for_demo {
        demo::mark(&layout)?;
    }
    let _lock = held.map_or_else(|| preflight::lock(&layout), Ok)?;
    preflight::identities(&layout, &args)?;

    let mut children = supervise::Children::new(&layout)?;
    let outcome = serve(&args, &layout, &mut children, shutdown).await;
    if outcome.is_ok() {
        output::note("draining: idle connections have 20 s, requests 30 s");
    }
    let stopped = children.stop().await;
    if made_for_demo {
        demo::remove(&layout);
    }
    outcome.and(stopped)
}

/// Starts everything, says where it is, and waits for the end.
async fn serve(
    args: &Args,
    layout: &Layout,
    children: &mut supervise::Children,
    mut shutdown: watch::Receiver<bool>,
) -> Result<()> {
    let started = Instant::now();
    children.start_server(args)?;
    children.start_node(args)?;
    let start = async {
        let mut client = admin_client(args, layout).await?;
        layout.write_client(&ClientFile::new(&args.admin.to_string(), &[]))?;
        first_worker(&mut client).await?;
        let demo = if args.demo { Some(demo::start(args, &mut client).await?) } else { None };
        output::text(&banner(args, layout, started.elapsed(), demo.as_ref()))?;
        anyhow::Ok(demo)
    };
    tokio::select! {
        result = timeout(START_DEADLINE, start) => {
            let _demo = result.context("nothing answered in 60 s; the lines above say why")??;
            tokio::select! {
                () = process::shut_down(&mut shutdown) => Ok(()),
                error = children.supervise() => Err(error),
            }
        }
        error = children.failed_to_start() => Err(error),
        () = process::shut_down(&mut shutdown) => Ok(()),
    }
}

/// Waits until the server answers.
async fn admin_client(args: &Args, layout: &Layout) -> Result<Admin> {
    let ca_pem = std::fs::read_to_string(layout.ca()).context("read the CA")?;
    let token = std::fs::read_to_string(layout.admin_token()).context("read the admin token")?;
    loop {
        // A new one each time: a channel waits longer after each failure, and this one is expected to fail at first.
        let mut client = Admin::new(&args.admin.to_string(), &ca_pem, token.trim())?;
        if client.cluster.status(StatusRequest {}).await.is_ok() {
            return Ok(client);
        }
        sleep(POLL).await;
    }
}

/// Waits until one worker takes connections.
async fn first_worker(client: &mut Admin) -> Result<()> {
    loop {
        let workers = client.workers.list_workers(ListWorkersRequest::default()).await;
        if workers.is_ok_and(|w| w.into_inner().workers.iter().any(|w| w.state == "ready" && w.slots > 0)) {
            return Ok(());
        }
        sleep(POLL).await;
    }
}

/// What a user needs next, and nothing that is not there.
fn banner(args: &Args, layout: &Layout, took: Duration, demo: Option<&demo::Demo>) -> String {
    let current = std::env::current_dir().unwrap_or_default();
    let near = |path: PathBuf| path.strip_prefix(&current).map_or_else(|_| path.clone(), Into::into);
    let ca = near(layout.ca());
    let mut text = format!("\nWeir is up ({} ms).\n\n", took.as_millis());
    let mut line = |name: &str, value: String| text.push_str(&format!("  {name:<9} {value}\n"));
    let (http, https) = (args.http.port(), args.https.port());
    match demo {
        Some(demo) => {
            line("tenant", demo.tenant.clone());
            line("HTTP", format!("http://{}:{http}/", demo.hostname));
            line("HTTPS", format!("https://{}:{https}/   (CA: {})", demo.hostname, ca.display()));
        }
        None => {
            line("HTTP", format!("{}   (port 80 of a Gateway)", args.http));
            line("HTTPS", format!("{}   (port 443 of a Gateway; CA: {})", args.https, ca.display()));
        }
    }
    line("admin", format!("{}   (gRPC over TLS)", args.admin));
    line("metrics", format!("http://{}/metrics", args.metrics));
    line("", format!("http://{}/metrics   (workers)", args.worker_metrics));
    line("token", near(layout.admin_token()).display().to_string());
    match demo {
        Some(demo) => {
            text.push_str(&format!("\n  curl http://{}:{http}/\n", demo.hostname));
            text.push_str(&format!("  curl --cacert {} https://{}:{https}/\n", ca.display(), demo.hostname));
        }
        None => text.push_str("\n  weir tenant create NAME, then weir apply -t NAME -f FILE\n"),
    }
    text.push_str("\nCtrl-C drains and stops.\n");
    text
}

/// Refuses two addresses that are one.
fn distinct(args: &Args) -> Result<()> {
    let named = [
        ("--http", args.http),
        ("--https", args.https),
        ("--admin", args.admin),
        ("--metrics", args.metrics),
        ("--worker-metrics", args.worker_metrics),
        ("--feed", args.feed),
    ];
    for (index, (flag, address)) in named.iter().enumerate() {
        if let Some((other, _)) = named[..index].iter().find(|(_, a)| a == address && a.port() != 0) {
            bail!("{other} and {flag} are both {address}: give one of them another port");
        }
        if address.port() == 0 {
            bail!("{flag} needs a port of its own: port 0 would be another at every start");
        }
    }
    Ok(())
}
