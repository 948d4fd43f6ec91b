//! HTTP/3 of an installation: workers come and go, clients move from port to port, and no request is lost.

use std::{
    future::poll_fn,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, Bytes};
use h3::client::SendRequest;
use quinn::{Endpoint, crypto::rustls::QuicClientConfig};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use sim::harness::{Installation, tell};
use tokio::time::timeout;

use super::{PATIENCE, long, no_errors, one_at_a_time, set_pool};

/// Clients at once, each with a connection.
const CLIENTS: usize = 16;

/// Requests after which a client goes on from another port.
const MOVE_AFTER: u64 = 20;

/// What the clients did.
#[derive(Debug, Default)]
struct Tally {
    answered: AtomicU64,
    connections: AtomicU64,
    moves: AtomicU64,
    stop: AtomicBool,
}

impl Tally {
    fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

struct Client {
    server: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
    tally: Arc<Tally>,
}

/// What sends requests on a connection.
pub(super) type Sender = SendRequest<h3_quinn::OpenStreams, Bytes>;

/// A connection from a port of its own.
pub(super) async fn connect(
    server: SocketAddr,
    host: &str,
    tls: &Arc<rustls::ClientConfig>,
) -> Result<(Sender, Endpoint)> {
    let mut endpoint = Endpoint::client(([127, 0, 0, 1], 0).into())?;
    let crypto = QuicClientConfig::try_from(Arc::clone(tls))?;
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
    let connection =
        timeout(PATIENCE, endpoint.connect(server, host)?).await.context("no handshake in time")??;
    let (mut driver, sender) = h3::client::new(h3_quinn::Connection::new(connection)).await?;
    tokio::spawn(async move { drop(poll_fn(|cx| driver.poll_close(cx)).await) });
    Ok((sender, endpoint))
}

impl Client {
    async fn connect(&self) -> Result<(Sender, Endpoint)> {
        let connected = connect(self.server, "demo.localhost", &self.tls).await?;
        Tally::add(&self.tally.connections);
        Ok(connected)
    }

    /// Asks again and again, on one connection as long as the server lets it.
    async fn run(self) -> Result<()> {
        let (mut sender, mut endpoint) = self.connect().await?;
        let mut asked = 0;
        while !self.tally.stop.load(Ordering::Relaxed) {
            let request = http::Request::get("https://demo.localhost/").body(())?;
            let Ok(mut stream) = sender.send_request(request).await else {
                // It said GOAWAY, or closed the connection after that: nothing was sent.
                (sender, endpoint) = self.connect().await?;
                continue;
            };
            stream.finish().await?;
            let response = timeout(PATIENCE, stream.recv_response()).await.context("no answer")??;
            ensure!(response.status() == 200, "{}", response.status());
            let mut length = 0;
            while let Some(data) = timeout(PATIENCE, stream.recv_data()).await.context("half an answer")?? {
                length += data.remaining();
            }
            ensure!(length > 0, "an empty answer");
            Tally::add(&self.tally.answered);
            asked += 1;
            if asked % MOVE_AFTER == 0 {
                endpoint.rebind(UdpSocket::bind("127.0.0.1:0")?)?;
                Tally::add(&self.tally.moves);
            }
        }
        Ok(())
    }
}

fn tls(weir: &Installation) -> Result<Arc<rustls::ClientConfig>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(weir.directory().join("weir-data/pki/ca.pem"))?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    Ok(Arc::new(tls))
}

/// Runs the clients on a thread of their own while `meanwhile` goes on; an error of any client is one of the whole.
fn under_load(weir: &Installation, tally: &Arc<Tally>, meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
    let server = SocketAddr::from(([127, 0, 0, 1], weir.ports.https));
    let (tls, shared) = (tls(weir)?, Arc::clone(tally));
    let clients = std::thread::spawn(move || -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut running = tokio::task::JoinSet::new();
            for _ in 0..CLIENTS {
                let client = Client { server, tls: Arc::clone(&tls), tally: Arc::clone(&shared) };
                running.spawn(client.run());
            }
            while let Some(ended) = running.join_next().await {
                ended??;
            }
            Ok(())
        })
    });
    let result = meanwhile();
    tally.stop.store(true, Ordering::Relaxed);
    match clients.join() {
        Ok(clients) => clients.and(result),
        Err(_) => bail!("the clients panicked"),
    }
}

#[test]
fn http3_requests_survive_scale_events_while_clients_move() -> Result<()> {
    let _turn = one_at_a_time();
    let weir = Installation::up(&["--demo"])?;
    let more = "  scaleInDelay: 1s\n  drainDeadline: 10s\n";
    set_pool(&weir, 1..=1, more)?;
    weir.settle(1, PATIENCE)?;
    let tally = Arc::new(Tally::default());
    let cycles = if long() { 25 } else { 2 };
    let mut events = 0;
    let result = under_load(&weir, &tally, || {
        for workers in [3, 1].into_iter().cycle().take(2 * cycles) {
            set_pool(&weir, workers..=workers, more)?;
            weir.wait(PATIENCE, &format!("{workers} ready workers"), || {
                Ok(weir.ready_workers()?.len() == workers && weir.workers()?.len() == workers)
            })?;
            events += 1;
            // Some requests with so many workers.
            let before = tally.answered.load(Ordering::Relaxed);
            weir.wait(PATIENCE, "answers", || Ok(tally.answered.load(Ordering::Relaxed) > before + 500))?;
        }
        Ok(())
    });
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    tell(&format!(
        "http3: {events} scale events, {} requests answered, {} moves, {} connections, {}",
        count(&tally.answered),
        count(&tally.moves),
        count(&tally.connections),
        if result.is_ok() { "0 failed" } else { "failed" },
    ));
    result.with_context(|| weir.log())?;
    assert!(count(&tally.moves) > 20 && count(&tally.connections) > CLIENTS as u64, "{tally:?}");
    let (status, log) = weir.stop()?;
    assert!(status.success(), "{log}");
    no_errors(&log);
    Ok(())
}

/// A new agent finds the UDP sockets of the one before it, and connections go on.
#[test]
fn http3_connections_survive_their_agent() -> Result<()> {
    let _turn = one_at_a_time();
    let weir = Installation::up(&["--demo"])?;
    let more = "  scaleInDelay: 1s\n";
    set_pool(&weir, 2..=2, more)?;
    weir.settle(2, PATIENCE)?;
    let tally = Arc::new(Tally::default());
    under_load(&weir, &tally, || {
        let answers = |more: u64| {
            let before = tally.answered.load(Ordering::Relaxed);
            weir.wait(PATIENCE, "answers", || Ok(tally.answered.load(Ordering::Relaxed) > before + more))
        };
        answers(200)?;
        sim::harness::kill(weir.child("node")?, sys::process::Signal::KILL)?;
        answers(200)?;
        // The next agent steers new workers, too.
        weir.wait(Duration::from_secs(60), "a third worker", || {
            set_pool(&weir, 3..=3, more)?;
            Ok(weir.ready_workers()?.len() == 3)
        })?;
        answers(500)
    })
    .with_context(|| weir.log())?;
    tell(&format!(
        "http3: {} requests answered over an agent's death",
        tally.answered.load(Ordering::Relaxed)
    ));
    let (status, log) = weir.stop()?;
    assert!(status.success(), "{log}");
    Ok(())
}
