//! What an idle connection holds: kept alive, after one request.

use std::time::Duration;

use anyhow::Result;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::time::sleep;

use crate::{
    Bench,
    clients::{self, Connection, connector},
    figures,
    proxies::{Kind, Proxy, Service, Setup},
};

/// Connections: a listener of Weir takes 10,000, and HAProxy asks for two descriptors for each.
const IDLE: usize = 9_800;
/// Connections that are being opened at a time.
const OPENING: usize = 64;
/// Before the first figure: allocators, pools and code that is in memory then.
const WARM_UP: usize = 256;
/// What is freed a little later is not held.
const SETTLE: Duration = Duration::from_secs(2);

/// Bytes for each connection that are aimed at, in clear and in TLS.
const TARGETS: [(bool, u64); 2] = [(false, 6 * 1024), (true, 24 * 1024)];

pub(crate) async fn row(bench: &Bench) -> Result<()> {
    println!("{IDLE} idle connections, bytes of the proxy's memory (Pss) for each:\n");
    println!("| proxy | clear | TLS |");
    println!("|---|---|---|");
    let mut held = vec![];
    for kind in [Kind::Weir, Kind::Nginx, Kind::Haproxy] {
        if !kind.is_there() {
            continue;
        }
        let mut bytes = vec![];
        for (tls, target) in TARGETS {
            let each = measure(bench, kind, tls).await?;
            bytes.push(each.to_string());
            if kind == Kind::Weir {
                held.push((tls, each, target));
            }
        }
        println!("| {} | {} |", kind.name(), bytes.join(" | "));
    }
    println!();
    for (tls, each, target) in held {
        let (what, verdict) =
            (if tls { "TLS" } else { "clear" }, if each <= target { "kept" } else { "missed" });
        println!("{what}: at most {target}: {verdict}");
    }
    Ok(())
}

async fn measure(bench: &Bench, kind: Kind, tls: bool) -> Result<u64> {
    let setup = Setup { kind, service: Service::Http, upstream: bench.upstreams.http, routes: 1 };
    let proxy = Proxy::start(setup, &bench.identity).await?;
    drop(connect(bench, &proxy, tls, WARM_UP).await?);
    sleep(SETTLE).await;
    let before = figures::memory(proxy.process)?;
    let connections = connect(bench, &proxy, tls, IDLE).await?;
    sleep(SETTLE).await;
    let after = figures::memory(proxy.process)?;
    drop(connections);
    proxy.stop().await?;
    Ok(after.saturating_sub(before) / IDLE as u64)
}

/// Connections that have made a request each.
async fn connect(bench: &Bench, proxy: &Proxy, tls: bool, count: usize) -> Result<Vec<Connection>> {
    let connector = if tls { Some(connector(&bench.identity, b"http/1.1")?) } else { None };
    let to = if tls { proxy.https } else { proxy.http };
    let request = clients::request("localhost", "/");
    let opening = (0..count).map(|_| async {
        let mut connection = Connection::open(to, connector.as_ref()).await?;
        connection.ask(&request).await?;
        anyhow::Ok(connection)
    });
    stream::iter(opening).buffer_unordered(OPENING).try_collect().await
}
