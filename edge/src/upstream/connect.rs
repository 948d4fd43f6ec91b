//! From an endpoint to a connection that can carry a request: one that is there, or a new one.

use std::{io, rc::Rc, sync::Arc, time::Duration};

use model::UpstreamProtocol;
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    Endpoint,
    links::{self, Slot},
    pool::Connection,
    transport::ClientTls,
};
use crate::{
    io::UpstreamIo,
    proxy::{self, Hop},
    socket::{self, Socket},
    worker::Thread,
};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("connect")]
    Io(#[source] io::Error),
    #[error("connect timed out")]
    TimedOut,
    /// The TLS handshake failed: its certificate is not trusted, or it does not like ours.
    #[error("TLS handshake")]
    Tls(#[source] io::Error),
    /// It was to speak HTTP/2 and does not.
    #[error("it does not speak HTTP/2")]
    NotHttp2,
}

/// What a request asks of its connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wish {
    /// A new one: another idle one may be as dead as the first.
    pub(crate) fresh: bool,
    /// One that can change protocols, which is HTTP/1.1.
    pub(crate) upgrade: bool,
    /// The time for all of it.
    pub(crate) limit: Duration,
    /// Whose request it is, for an endpoint that is to know.
    pub(crate) hop: Hop,
}

/// By which a request goes.
pub(crate) enum Way {
    /// An HTTP/1.1 connection of its own.
    H1(Box<Connection>),
    /// A stream of an HTTP/2 connection.
    H2(Slot),
}

impl Way {
    /// Whether earlier requests have gone by it.
    pub(crate) fn is_reused(&self) -> bool {
        match self {
            Self::H1(connection) => connection.is_reused(),
            Self::H2(slot) => slot.is_reused(),
        }
    }
}

/// What an endpoint whose protocol is negotiated chose when it was last asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Spoken {
    #[default]
    Unknown,
    Http1,
    Http2,
}

impl Endpoint {
    /// Whether requests to it may share a connection.
    fn may_share(&self, upgrade: bool) -> bool {
        match self.transport.protocol {
            // One client's only.
            _ if self.transport.proxy.is_some() => false,
            UpstreamProtocol::Http1 => false,
            UpstreamProtocol::Http2 => true,
            UpstreamProtocol::Negotiated => {
                self.transport.tls.is_some() && !upgrade && self.spoken.get() != Spoken::Http1
            }
        }
    }
}

/// A way to the endpoint.
///
/// # Errors
/// [`ConnectError`]; the upstream has seen nothing of the request.
pub(crate) async fn connect(
    thread: &Rc<Thread>,
    endpoint: &Rc<Endpoint>,
    wish: Wish,
) -> Result<Way, ConnectError> {
    if endpoint.may_share(wish.upgrade) {
        return Box::pin(links::acquire(thread, endpoint, wish)).await;
    }
    if !wish.fresh
        && let Some(connection) = Connection::reuse(endpoint, wish.hop)
    {
        return Ok(Way::H1(connection));
    }
    // Boxed: few requests need a new one.
    Box::pin(open(thread, endpoint, wish)).await
}

/// A new connection: with whatever TLS and protocol the endpoint agrees to.
pub(super) async fn open(
    thread: &Rc<Thread>,
    endpoint: &Rc<Endpoint>,
    wish: Wish,
) -> Result<Way, ConnectError> {
    let ends = Instant::now() + wish.limit;
    let stream = tcp(thread, endpoint, wish).await?;
    let wants_http2 = endpoint.transport.protocol == UpstreamProtocol::Http2;
    let Some(tls) = &endpoint.transport.tls else {
        let io = UpstreamIo::Plain(stream.into());
        return if wants_http2 {
            Ok(Way::H2(links::begin(thread, endpoint, io)))
        } else {
            Ok(Way::H1(Connection::new(thread, endpoint, wish.hop, io)))
        };
    };
    let only_http1 = wish.upgrade || endpoint.transport.proxy.is_some();
    let config = if only_http1 && !wants_http2 { &tls.http1 } else { &tls.any };
    let stream = handshake(thread, endpoint, tls, config, stream, ends).await?;
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let io = UpstreamIo::Tls(Box::new(stream));
    if is_http2 {
        endpoint.spoken.set(Spoken::Http2);
        return Ok(Way::H2(links::begin(thread, endpoint, io)));
    }
    if wants_http2 {
        endpoint.rest(thread.clock.now_ms());
        return Err(ConnectError::NotHttp2);
    }
    if !wish.upgrade {
        endpoint.spoken.set(Spoken::Http1);
    }
    Ok(Way::H1(Connection::new(thread, endpoint, wish.hop, io)))
}

/// A connection for a stream, whose bytes are nobody's business: in TLS no protocol is offered by ALPN.
///
/// # Errors
/// [`ConnectError`]; the endpoint has seen nothing of the stream.
pub(crate) async fn open_stream(
    thread: &Rc<Thread>,
    endpoint: &Rc<Endpoint>,
    wish: Wish,
) -> Result<Box<Connection>, ConnectError> {
    let ends = Instant::now() + wish.limit;
    let stream = tcp(thread, endpoint, wish).await?;
    let io = match &endpoint.transport.tls {
        None => UpstreamIo::Plain(stream.into()),
        Some(tls) => {
            UpstreamIo::Tls(Box::new(handshake(thread, endpoint, tls, &tls.raw, stream, ends).await?))
        }
    };
    Ok(Connection::new(thread, endpoint, wish.hop, io))
}

/// Begins TLS, in whichever protocols `config` offers.
async fn handshake(
    thread: &Thread,
    endpoint: &Endpoint,
    tls: &ClientTls,
    config: &Arc<rustls::ClientConfig>,
    stream: TcpStream,
    ends: Instant,
) -> Result<TlsStream<Socket>, ConnectError> {
    let handshake =
        TlsConnector::from(Arc::clone(config)).connect(tls.server_name.clone(), Socket::from(stream));
    let result = match timeout_at(ends, handshake).await {
        Ok(result) => result.map_err(ConnectError::Tls),
        Err(_) => Err(ConnectError::TimedOut),
    };
    match &result {
        Ok(_) => thread.counters.upstream_handshakes.add(1),
        Err(_) => {
            thread.counters.upstream_handshake_errors.add(1);
            endpoint.rest(thread.clock.now_ms());
        }
    }
    result
}

/// A TCP connection, with the header that says whose it is where the endpoint is to know.
async fn tcp(thread: &Thread, endpoint: &Endpoint, wish: Wish) -> Result<TcpStream, ConnectError> {
    let connecting = async {
        let mut stream = TcpStream::connect(endpoint.address).await?;
        stream.set_nodelay(true)?;
        socket::unpaced(&stream, endpoint.address);
        if let Some(version) = endpoint.transport.proxy {
            let mut header = Vec::new();
            proxy::write(version, &wish.hop, &mut header);
            stream.write_all(&header).await?;
        }
        io::Result::Ok(stream)
    };
    let result = match tokio::time::timeout(wish.limit, connecting).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(ConnectError::Io(error)),
        Err(_) => Err(ConnectError::TimedOut),
    };
    match &result {
        Ok(_) => thread.counters.upstream_connects.add(1),
        Err(_) => {
            thread.counters.upstream_connect_errors.add(1);
            endpoint.rest(thread.clock.now_ms());
        }
    }
    result
}
