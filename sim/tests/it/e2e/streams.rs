//! TCP and TLS that are passed on: workers come and go, and no conversation is lost.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use sim::harness::{Installation, free_port, tell};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{PATIENCE, long, no_errors, one_at_a_time};

/// Clients at once, of each kind.
const CLIENTS: usize = 8;

/// Messages of a conversation, and the time between two: a second in all, well within a drain.
const MESSAGES: usize = 20;
const PAUSE: Duration = Duration::from_millis(50);

const HOST: &str = "db.demo.localhost";

/// What the clients did.
#[derive(Debug, Default)]
struct Tally {
    tcp: AtomicU64,
    tls: AtomicU64,
    stop: AtomicBool,
}

/// Sends back what comes until there is no more.
async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<()> {
    let mut bytes = [0; 4096];
    loop {
        match stream.read(&mut bytes).await? {
            0 => return Ok(stream.shutdown().await?),
            count => stream.write_all(&bytes[..count]).await?,
        }
    }
}

/// A conversation from its first word to the other side's last.
async fn converse(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<()> {
    for number in 0..MESSAGES {
        let message = [u8::try_from(number)?; 100];
        stream.write_all(&message).await?;
        stream.flush().await?;
        let mut answer = [0; 100];
        timeout(PATIENCE, stream.read_exact(&mut answer)).await.context("no answer")??;
        ensure!(answer == message, "another answer");
        tokio::time::sleep(PAUSE).await;
    }
    stream.shutdown().await?;
    let mut rest = vec![];
    timeout(PATIENCE, stream.read_to_end(&mut rest)).await.context("no end")??;
    ensure!(rest.is_empty(), "{} bytes too many", rest.len());
    Ok(())
}

/// Both ends of TLS.
struct Tls {
    server: TlsAcceptor,
    client: TlsConnector,
}

fn tls() -> Result<Tls> {
    let made = rcgen::generate_simple_self_signed([HOST.to_owned()])?;
    let certificate: CertificateDer<'static> = made.cert.der().clone();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = || Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key.into())?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate)?;
    let client = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Tls { server: Arc::new(server).into(), client: Arc::new(client).into() })
}

/// Where the two kinds come in.
#[derive(Debug, Clone, Copy)]
struct Doors {
    tcp: SocketAddr,
    tls: SocketAddr,
}

/// Returns once a word comes back: addresses, and what is done with their connections, come by two ways.
async fn routed(door: SocketAddr) {
    let word = async || {
        let mut stream = TcpStream::connect(door).await?;
        stream.write_all(b"x").await?;
        stream.read_exact(&mut [0]).await
    };
    while word().await.is_err() {
        tokio::time::sleep(PAUSE).await;
    }
}

async fn client(doors: Doors, tls: Option<TlsConnector>, tally: Arc<Tally>) -> Result<()> {
    while !tally.stop.load(Ordering::Relaxed) {
        let count = match &tls {
            None => {
                converse(TcpStream::connect(doors.tcp).await?).await.context("by TCP")?;
                &tally.tcp
            }
            Some(connector) => {
                let stream = TcpStream::connect(doors.tls).await?;
                let stream = connector.connect(ServerName::try_from(HOST)?, stream).await.context("TLS")?;
                converse(stream).await.context("by TLS")?;
                &tally.tls
            }
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Runs servers and clients on a thread of their own while `meanwhile` goes on.
fn under_load(
    doors: Doors,
    (tcp, tls_server): (std::net::TcpListener, std::net::TcpListener),
    tally: &Arc<Tally>,
    meanwhile: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let Tls { server, client: connector } = tls()?;
    let shared = Arc::clone(tally);
    let running = std::thread::spawn(move || -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            for (listener, server) in [(tcp, None), (tls_server, Some(server))] {
                listener.set_nonblocking(true)?;
                let listener = TcpListener::from_std(listener)?;
                tokio::spawn(async move {
                    while let Ok((stream, _)) = listener.accept().await {
                        let server = server.clone();
                        // What goes wrong here, its client sees.
                        tokio::spawn(async move {
                            match server {
                                None => echo(stream).await,
                                Some(server) => echo(server.accept(stream).await?).await,
                            }
                        });
                    }
                });
            }
            timeout(PATIENCE, routed(doors.tcp)).await.context("never routed")?;
            let mut clients = tokio::task::JoinSet::new();
            for _ in 0..CLIENTS {
                clients.spawn(client(doors, None, Arc::clone(&shared)));
                clients.spawn(client(doors, Some(connector.clone()), Arc::clone(&shared)));
            }
            while let Some(ended) = clients.join_next().await {
                ended??;
            }
            Ok(())
        })
    });
    let result = meanwhile();
    tally.stop.store(true, Ordering::Relaxed);
    match running.join() {
        Ok(clients) => clients.and(result),
        Err(_) => bail!("the clients panicked"),
    }
}

fn pool(weir: &Installation, doors: Doors, workers: usize) -> String {
    format!(
        "apiVersion: weir.dev/v1
kind: Pool
metadata: {{name: default}}
spec:
  listen:
  - {{port: 80, bind: '127.0.0.1:{}', protocol: HTTP}}
  - {{port: 443, bind: '127.0.0.1:{}', protocol: HTTPS}}
  - {{port: 8443, bind: '{}', protocol: TLS}}
  - {{port: 5432, bind: '{}', protocol: TCP, tenant: demo}}
  minWorkers: {workers}
  maxWorkers: {workers}
  scaleInDelay: 1s
  drainDeadline: 15s
",
        weir.ports.http, weir.ports.https, doors.tls, doors.tcp
    )
}

fn routes(tcp: SocketAddr, tls: SocketAddr) -> String {
    let route = |kind: &str, name: &str, listener: &str, hosts: &str| {
        format!(
            "---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: {kind}
metadata: {{name: {name}}}
spec:
  parentRefs: [{{name: streams, sectionName: {listener}}}]
{hosts}  rules: [{{backendRefs: [{{group: weir.dev, kind: Backend, name: {name}}}]}}]
"
        )
    };
    let backend = |name: &str, address: SocketAddr| {
        format!(
            "---
apiVersion: weir.dev/v1
kind: Backend
metadata: {{name: {name}}}
spec: {{endpoints: [{{address: '{address}'}}]}}
"
        )
    };
    [
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: streams}
spec:
  gatewayClassName: weir
  listeners:
  - {name: tls, port: 8443, protocol: TLS, tls: {mode: Passthrough}}
  - {name: tcp, port: 5432, protocol: TCP}
",
        &route("TLSRoute", "tls", "tls", &format!("  hostnames: [{HOST}]\n")),
        &route("TCPRoute", "tcp", "tcp", ""),
        &backend("tls", tls),
        &backend("tcp", tcp),
    ]
    .concat()
}

#[test]
fn streams_survive_scale_events() -> Result<()> {
    let _turn = one_at_a_time();
    let weir = Installation::up(&["--demo"])?;
    let bind = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    let doors = Doors { tcp: bind(free_port()?), tls: bind(free_port()?) };
    let servers = (std::net::TcpListener::bind(bind(0))?, std::net::TcpListener::bind(bind(0))?);
    weir.apply("platform", &pool(&weir, doors, 1))?;
    weir.apply("demo", &routes(servers.0.local_addr()?, servers.1.local_addr()?))?;
    let tally = Arc::new(Tally::default());
    let cycles = if long() { 25 } else { 2 };
    let mut events = 0;
    let result = under_load(doors, servers, &tally, || {
        let conversations = || tally.tcp.load(Ordering::Relaxed).min(tally.tls.load(Ordering::Relaxed));
        for workers in [3, 1].into_iter().cycle().take(2 * cycles) {
            weir.apply("platform", &pool(&weir, doors, workers))?;
            weir.wait(PATIENCE, &format!("{workers} workers"), || {
                Ok(weir.ready_workers()?.len() == workers && weir.workers()?.len() == workers)
            })?;
            events += 1;
            // Some conversations with so many workers.
            let before = conversations();
            weir.wait(PATIENCE, "conversations", || Ok(conversations() > before + 2 * CLIENTS as u64))?;
        }
        Ok(())
    });
    tell(&format!(
        "streams: {events} scale events, {} conversations by TCP, {} by TLS, {}",
        tally.tcp.load(Ordering::Relaxed),
        tally.tls.load(Ordering::Relaxed),
        if result.is_ok() { "0 failed" } else { "failed" },
    ));
    result.with_context(|| weir.log())?;
    let (status, log) = weir.stop()?;
    assert!(status.success(), "{log}");
    no_errors(&log);
    Ok(())
}
