//! Clients in closed loop: each waits for its answer before it asks again.

use std::{cell::Cell, net::SocketAddr, rc::Rc, sync::Arc};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use futures_util::future::try_join_all;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use memchr::memmem;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    process::Command,
    time::{Duration, Instant, timeout},
};
use tokio_rustls::TlsConnector;

use crate::{configs::Identity, figures, h3, proxies::Proxy, upstreams, websocket};

/// How long one answer may take, under valgrind too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Connections of the protocols that ask for one thing at a time on each.
pub(crate) const CONNECTIONS: usize = 64;
/// Connections of HTTP/2 and HTTP/3, and requests at a time on each.
pub(crate) const MULTIPLEXED: usize = 16;
pub(crate) const STREAMS: usize = 32;

/// A load.
#[derive(Debug, Clone)]
pub(crate) enum Load {
    /// HTTP/1.1, kept alive, in TLS or not; the connections go through the requests in turns.
    H1 { tls: bool, requests: Rc<Vec<Vec<u8>>> },
    /// HTTP/1.1, a connection for each request.
    Connect,
    /// HTTP/2 in TLS.
    H2,
    /// HTTP/3.
    H3,
    /// gRPC unary calls by HTTP/2 in TLS.
    Grpc,
    /// Messages that are echoed.
    WebSocket,
}

impl Load {
    pub(crate) fn h1(tls: bool) -> Self {
        Self::H1 { tls, requests: Rc::new(vec![request("localhost", "/")]) }
    }

    /// Answers of 1 MiB.
    pub(crate) fn large() -> Self {
        Self::H1 { tls: false, requests: Rc::new(vec![request("localhost", "/large")]) }
    }
}

/// A request without a body as HTTP/1.1 has it.
pub(crate) fn request(host: &str, path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").into()
}

/// How much there is still to do, and what has been done.
#[derive(Debug)]
pub(crate) struct Quota {
    left: Cell<u64>,
    ends: Option<Instant>,
    pace: Option<Pace>,
}

/// Requests that are made at a rate, for as long as their answers keep up.
#[derive(Debug)]
struct Pace {
    began: Instant,
    rate: f64,
    begun: Cell<u64>,
}

impl Quota {
    pub(crate) fn count(count: u64) -> Self {
        Self { left: Cell::new(count), ends: None, pace: None }
    }

    pub(crate) fn span(span: Duration) -> Self {
        Self { left: Cell::new(u64::MAX), ends: Some(Instant::now() + span), pace: None }
    }

    /// At a rate, of all connections together; of HTTP/1.1, by whoever waits with [`turn`](Self::turn).
    pub(crate) fn at(self, rate: f64) -> Self {
        Self { pace: Some(Pace { began: Instant::now(), rate, begun: Cell::new(0) }), ..self }
    }

    /// Waits until the next request is due; a millisecond's come together.
    async fn turn(&self) {
        if let Some(Pace { began, rate, begun }) = &self.pace {
            let due = *began + Duration::from_secs_f64(figures::float(begun.replace(begun.get() + 1)) / rate);
            tokio::time::sleep_until(due).await;
        }
    }

    /// Whether one more is to be done.
    pub(crate) fn take(&self) -> bool {
        let on = self.left.get() > 0 && self.ends.is_none_or(|ends| Instant::now() < ends);
        if on {
            self.left.set(self.left.get() - 1);
        }
        on
    }
}

/// Connected clients.
pub(crate) enum Clients {
    H1 { connections: Vec<Connection>, requests: Rc<Vec<Vec<u8>>> },
    Connect { to: SocketAddr, width: usize },
    H2 { connections: Vec<http2::SendRequest<Empty<Bytes>>>, streams: usize },
    H3 { connections: Vec<h3::Connection>, streams: usize },
    Grpc { url: String, message: tempfile::NamedTempFile },
    WebSocket { connections: Vec<Connection> },
}

impl Clients {
    /// As many as the load has.
    pub(crate) async fn open(load: &Load, proxy: &Proxy, identity: &Identity) -> Result<Self> {
        match load {
            Load::H2 | Load::H3 => Self::open_some(load, proxy, identity, (MULTIPLEXED, STREAMS)).await,
            _ => Self::open_some(load, proxy, identity, (CONNECTIONS, 1)).await,
        }
    }

    /// Some connections, with some streams each where there are such.
    pub(crate) async fn open_some(
        load: &Load,
        proxy: &Proxy,
        identity: &Identity,
        (width, streams): (usize, usize),
    ) -> Result<Self> {
        Ok(match load {
            Load::H1 { tls, requests } => {
                let tls = if *tls { Some(connector(identity, b"http/1.1")?) } else { None };
                let to = if tls.is_some() { proxy.https } else { proxy.http };
                let opening = (0..width).map(|_| Connection::open(to, tls.as_ref()));
                Self::H1 { connections: try_join_all(opening).await?, requests: Rc::clone(requests) }
            }
            Load::Connect => Self::Connect { to: proxy.http, width },
            Load::H2 => {
                let tls = connector(identity, b"h2")?;
                let opening = (0..width).map(|_| open_h2(proxy.https, &tls));
                Self::H2 { connections: try_join_all(opening).await?, streams }
            }
            Load::H3 => {
                let opening = (0..width).map(|_| h3::Connection::open(proxy.https, identity));
                Self::H3 { connections: try_join_all(opening).await?, streams }
            }
            Load::Grpc => {
                let mut message = tempfile::NamedTempFile::new()?;
                std::io::Write::write_all(&mut message, &upstreams::message(100))?;
                let url = format!("https://{}/bench.Echo/Call", proxy.https);
                check_grpc(proxy, identity).await?;
                Self::Grpc { url, message }
            }
            Load::WebSocket => {
                let opening = (0..width).map(|_| async {
                    let mut connection = Connection::open(proxy.http, None).await?;
                    connection.upgrade().await?;
                    anyhow::Ok(connection)
                });
                Self::WebSocket { connections: try_join_all(opening).await? }
            }
        })
    }

    /// Uses up the quota and says how many were answered well; one that is not is an error.
    pub(crate) async fn run(&mut self, quota: &Quota) -> Result<u64> {
        let done = match self {
            Self::H1 { connections, requests } => {
                // Each connection begins elsewhere, so that all of the requests are on their way at any time.
                let apart = requests.len().div_ceil(connections.len());
                let loops = connections.iter_mut().enumerate().map(|(number, connection)| {
                    connection.run(quota, requests.iter().cycle().skip(number * apart))
                });
                try_join_all(loops).await?
            }
            Self::Connect { to, width } => {
                let request = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
                let loops = (0..*width).map(|_| async {
                    let mut done = 0;
                    while quota.take() {
                        Connection::open(*to, None).await?.ask(request).await?;
                        done += 1;
                    }
                    anyhow::Ok(done)
                });
                try_join_all(loops).await?
            }
            Self::H2 { connections, streams } => {
                let streams = connections.iter().flat_map(|sender| vec![sender.clone(); *streams]);
                try_join_all(streams.map(|sender| run_h2(sender, quota))).await?
            }
            Self::H3 { connections, streams } => {
                let streams = connections.iter().flat_map(|connection| vec![connection; *streams]);
                try_join_all(streams.map(|connection| connection.run(quota))).await?
            }
            Self::Grpc { url, message } => vec![h2load(url, message, quota).await?],
            Self::WebSocket { connections } => {
                try_join_all(connections.iter_mut().map(|connection| connection.chat(quota))).await?
            }
        };
        Ok(done.iter().sum())
    }
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A TLS client that believes the bench's certificate and resumes no session.
pub(crate) fn tls(identity: &Identity, protocol: &[u8]) -> Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(identity.certificate.as_bytes())?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![protocol.to_vec()];
    tls.resumption = rustls::client::Resumption::disabled();
    Ok(tls)
}

pub(crate) fn connector(identity: &Identity, protocol: &[u8]) -> Result<TlsConnector> {
    Ok(Arc::new(tls(identity, protocol)?).into())
}

async fn dial(to: SocketAddr, tls: Option<&TlsConnector>) -> Result<Box<dyn Stream>> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let Some(tls) = tls else { return Ok(Box::new(stream)) };
    let handshake = tls.connect(ServerName::try_from("localhost")?, stream);
    Ok(Box::new(timeout(PATIENCE, handshake).await.context("no handshake")??))
}

/// An HTTP/1.1 connection.
pub(crate) struct Connection {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(to: SocketAddr, tls: Option<&TlsConnector>) -> Result<Self> {
        Ok(Self { stream: dial(to, tls).await?, buffer: Vec::new() })
    }

    async fn run<'a>(&mut self, quota: &Quota, requests: impl Iterator<Item = &'a Vec<u8>>) -> Result<u64> {
        let mut done = 0;
        for request in requests {
            quota.turn().await;
            if !quota.take() {
                break;
            }
            self.ask(request).await?;
            done += 1;
        }
        Ok(done)
    }

    /// A request and its whole response, which must be 200 with a Content-Length.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> Result<()> {
        self.stream.write_all(request).await?;
        // A TLS session keeps what the socket did not take at once.
        self.stream.flush().await?;
        let length = self.read_head().await?;
        let head = String::from_utf8_lossy(self.buffer.get(..length).context("a head")?).to_ascii_lowercase();
        ensure!(head.starts_with("http/1.1 200 "), "not 200: {head}");
        let body = head.lines().find_map(|line| line.strip_prefix("content-length:")).context("no length")?;
        let whole = length + body.trim().parse::<usize>()?;
        while self.buffer.len() < whole {
            self.read().await?;
        }
        ensure!(self.buffer.len() == whole, "more than the response");
        Ok(())
    }

    async fn upgrade(&mut self) -> Result<()> {
        self.stream.write_all(websocket::UPGRADE).await?;
        self.read_head().await?;
        ensure!(self.buffer.starts_with(b"HTTP/1.1 101 "), "no WebSocket: {}", self.buffer.escape_ascii());
        Ok(())
    }

    async fn chat(&mut self, quota: &Quota) -> Result<u64> {
        let (message, echoed) = (websocket::message(), websocket::echoed());
        let mut done = 0;
        while quota.take() {
            self.stream.write_all(&message).await?;
            self.buffer.clear();
            while self.buffer.len() < echoed.len() {
                self.read().await?;
            }
            ensure!(self.buffer == echoed, "another message");
            done += 1;
        }
        Ok(done)
    }

    /// The next head's length; it and perhaps more is in the buffer then.
    async fn read_head(&mut self) -> Result<usize> {
        self.buffer.clear();
        loop {
            self.read().await?;
            if let Some(at) = memmem::find(&self.buffer, b"\r\n\r\n") {
                return Ok(at + 4);
            }
        }
    }

    async fn read(&mut self) -> Result<()> {
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.buffer)).await.context("no answer")??;
        ensure!(read > 0, "closed after {}", self.buffer.escape_ascii());
        Ok(())
    }
}

async fn open_h2(to: SocketAddr, tls: &TlsConnector) -> Result<http2::SendRequest<Empty<Bytes>>> {
    let stream = TokioIo::new(dial(to, Some(tls)).await?);
    let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn run_h2(mut sender: http2::SendRequest<Empty<Bytes>>, quota: &Quota) -> Result<u64> {
    let mut done = 0;
    while quota.take() {
        let request = http::Request::get("https://localhost/").body(Empty::new())?;
        let response = timeout(PATIENCE, sender.send_request(request)).await.context("no answer")??;
        ensure!(response.status() == 200, "{}", response.status());
        response.into_body().collect().await?;
        done += 1;
    }
    Ok(done)
}

/// That a call comes back with its message and its status, which the load generator does not look at.
async fn check_grpc(proxy: &Proxy, identity: &Identity) -> Result<()> {
    let stream = TokioIo::new(dial(proxy.https, Some(&connector(identity, b"h2")?)).await?);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
    tokio::spawn(connection);
    let request = http::Request::post("https://localhost/bench.Echo/Call")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(http_body_util::Full::new(upstreams::message(100)))?;
    let answer = sender.send_request(request).await?.into_body().collect().await?;
    let status = answer.trailers().and_then(|trailers| trailers.get("grpc-status").cloned());
    ensure!(status.is_some_and(|status| status == "0"), "no grpc-status 0 in the trailers");
    ensure!(answer.to_bytes() == upstreams::message(100), "another message");
    Ok(())
}

async fn h2load(url: &str, message: &tempfile::NamedTempFile, quota: &Quota) -> Result<u64> {
    let amount = match quota.ends {
        // It measures whole seconds.
        Some(ends) => format!("-D{}", (ends - Instant::now()).as_secs_f64().round().max(1.0)),
        None => format!("-n{}", quota.left.replace(0)),
    };
    let ran = Command::new("h2load")
        .args(["-t1", &format!("-c{MULTIPLEXED}"), &format!("-m{STREAMS}"), &amount, "--warm-up-time=0"])
        .args(["-H", "content-type: application/grpc", "-H", "te: trailers", "-d"])
        .arg(message.path())
        .arg(url)
        .output()
        .await
        .context("h2load (nghttp2-client)")?;
    let said = String::from_utf8(ran.stdout)?;
    let count = |what: &str| {
        let (before, _) = said.lines().find(|line| line.starts_with("requests:"))?.split_once(what)?;
        before.split_whitespace().last()?.parse::<u64>().ok()
    };
    match (count(" succeeded"), count(" failed"), count(" errored")) {
        (Some(done), Some(0), Some(0)) => Ok(done),
        _ => bail!("h2load: {said}"),
    }
}
