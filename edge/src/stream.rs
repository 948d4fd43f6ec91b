//! Connections that are passed on as they are: of TLS by the host that the client asks for, of TCP by their port.
//!
//! In the order of events: the client's hello (TLS only), the route, the end of TLS where the listener ends it, a backend by
//! weight and one of its endpoints, then bytes both ways until both sides have ended. A connection that comes to nothing is
//! reset, or told so by a TLS alert.

pub(crate) mod record;
mod splice;

use std::{
    net::SocketAddr,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::Poll,
};

use model::{Backend, CompiledStream, Forward, HashKey, ListenerProtocol, TenantId};
use tokio::io::AsyncWriteExt;
use tracing::debug;

use crate::{
    balance::hash::hash,
    buffer::ReadBuffer,
    config::{Config, TenantTable},
    downstream::address_text,
    drain::{Seat, Verdict},
    health,
    hello::{DECODE_ERROR, HelloReader, INTERNAL_ERROR, NotHello, UNRECOGNIZED_NAME, alert},
    io::ClientIo,
    limits::STREAM_TRIES,
    listen::Point,
    proxy::Hop,
    socket::Socket,
    tls::Spoken,
    upstream::{
        NoEndpoint, Occupied,
        connect::{self, Wish},
        pool::Connection,
    },
    worker::Thread,
};
use record::{Carried, Record};

/// Why a connection is not passed on. Each kind is a label of the access log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    /// What the client said first is no TLS, or malformed.
    #[error(transparent)]
    Hello(#[from] NotHello),
    /// Its hello is longer than a connection may buffer.
    #[error("the client hello is too long")]
    LongHello,
    /// It said nothing, or half of it, for too long.
    #[error("the client said too little for too long")]
    Slow,
    /// It went away before there was anything to do.
    #[error("the client went away")]
    Gone,
    /// The drain was over first.
    #[error("the drain is over")]
    Drained,
    /// Nobody's host, or port.
    #[error("no tenant has this host or port")]
    UnknownHost,
    /// The tenant has no route for it.
    #[error("no route takes it")]
    NoRoute,
    /// TLS was to end here and did not begin.
    #[error("the TLS handshake failed")]
    Handshake,
    /// The route has no backend, or the share fell to one that does not exist.
    #[error("the route has no backend")]
    NoBackend,
    /// No address of the backend is known.
    #[error("the backend's name does not resolve")]
    Unresolved,
    /// None of them is well, and the backend's policy says not to try.
    #[error("no endpoint of the backend is well")]
    Unhealthy,
    /// All have as many connections as the backend allows.
    #[error("all endpoints of the backend are busy")]
    Full,
    /// No endpoint could be connected to.
    #[error("no endpoint could be connected to")]
    Connect,
}

impl Refusal {
    /// The label.
    const fn kind(self) -> &'static str {
        match self {
            Self::Hello(_) | Self::LongHello => "hello",
            Self::Slow => "hello_timeout",
            Self::Gone => "gone",
            Self::Drained => "drained",
            Self::UnknownHost => "unknown_host",
            Self::NoRoute => "no_route",
            Self::Handshake => "handshake",
            Self::NoBackend => "no_backend",
            Self::Unresolved => "unresolved",
            Self::Unhealthy => "unhealthy",
            Self::Full => "upstream_full",
            Self::Connect => "connect",
        }
    }

    /// What a client of TLS is told, before TLS has begun here. `None`: it would not understand, or is not there.
    const fn alert(self) -> Option<u8> {
        match self {
            Self::Hello(NotHello::NotTls) | Self::Slow | Self::Gone | Self::Drained | Self::Handshake => None,
            Self::Hello(_) | Self::LongHello => Some(DECODE_ERROR),
            Self::UnknownHost | Self::NoRoute => Some(UNRECOGNIZED_NAME),
            Self::NoBackend | Self::Unresolved | Self::Unhealthy | Self::Full | Self::Connect => {
                Some(INTERNAL_ERROR)
            }
        }
    }
}

/// Passes a connection on to its end.
pub(crate) async fn serve(thread: &Rc<Thread>, stream: Socket, ends: Hop, point: &Point, seat: &Seat) {
    // A drain takes a connection without a request for one that waits, and this one may be silent and alive.
    seat.busy();
    let carried = if point.listen.tls { Carried::Tls } else { Carried::Tcp };
    let mut record = Record::begin(thread, ends.source, carried);
    let mut client =
        Opening { io: Some(ClientIo::Plain(stream)), input: ReadBuffer::default(), host: String::new() };
    match open(thread, &mut client, ends, point, seat, &mut record).await {
        Ok((connection, _occupied)) => {
            record.opened();
            let Some(io) = client.io else { return };
            let moved = splice::run(thread, io, client.input, connection, seat).await;
            record.ended(moved);
        }
        Err(refusal) => {
            debug!(peer = %ends.source, bind = %point.listen.bind, host = client.host, %refusal, "not passed on");
            record.refused(refusal.kind());
            if let Some(io) = client.io {
                turn_away(io, refusal.alert().filter(|_| point.listen.tls)).await;
            }
        }
    }
}

/// A client's connection before it is passed on.
struct Opening {
    /// `None`: a TLS handshake that failed has closed it.
    io: Option<ClientIo>,
    /// What was read of it, and is still to be passed on.
    input: ReadBuffer,
    /// The host that it asks for; empty where it does not say.
    host: String,
}

/// From the first byte to a connection with an endpoint.
async fn open(
    thread: &Rc<Thread>,
    client: &mut Opening,
    ends: Hop,
    point: &Point,
    seat: &Seat,
    record: &mut Record,
) -> Result<(Box<Connection>, Occupied), Refusal> {
    let listen = &point.listen;
    if listen.tls {
        read_hello(thread, client, seat).await?;
        record.asked(&client.host);
    }
    // One connection sees one configuration.
    let config = thread.config();
    let tenant = owner(&config, point, &client.host).ok_or(Refusal::UnknownHost)?;
    record.of(tenant);
    let table = config.tenants.get(tenant.as_str()).ok_or(Refusal::UnknownHost)?;
    let found = table.routes.streams().find(listen.port, &client.host).ok_or(Refusal::NoRoute)?;
    record.found(&found.route.id);
    if found.protocol == ListenerProtocol::Tls {
        terminate(thread, client, listen.port, seat).await?;
    }
    connect(thread, table, found.route, ends, record).await
}

/// Whose a connection is: of TLS who owns the host, else who was given the port.
fn owner<'c>(config: &'c Config, point: &Point, host: &str) -> Option<&'c TenantId> {
    if point.listen.tls {
        return config.hosts.owner(host);
    }
    config.pool.tenant_of(point.listen.port, false)
}

/// Reads the hello and keeps it, for whoever TLS ends with.
async fn read_hello(thread: &Thread, client: &mut Opening, seat: &Seat) -> Result<(), Refusal> {
    let mut reader = HelloReader::default();
    let timer = thread.clock.timer();
    let Opening { io: Some(io), input, host } = client else { return Err(Refusal::Gone) };
    let reading = timer.within(thread.limits.handshake, |cx| {
        loop {
            if let Some(hello) = reader.advance(input.filled())? {
                *host = hello.server_name.unwrap_or_default();
                return Poll::Ready(Ok(()));
            }
            if input.is_full() {
                return Poll::Ready(Err(Refusal::LongHello));
            }
            match input.poll_read(cx, Pin::new(io), false) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(_) => return Poll::Ready(Err(Refusal::Gone)),
                Poll::Pending if seat.poll(cx) == Verdict::Abort => {
                    return Poll::Ready(Err(Refusal::Drained));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    });
    reading.await.unwrap_or(Err(Refusal::Slow))
}

/// Ends TLS here: the handshake goes on from the hello.
async fn terminate(thread: &Thread, client: &mut Opening, port: u16, seat: &Seat) -> Result<(), Refusal> {
    let Some(ClientIo::Plain(stream)) = client.io.take() else { return Err(Refusal::Handshake) };
    let begun = std::mem::take(&mut client.input);
    let timer = thread.clock.timer();
    let mut accepting = pin!(thread.shared.tls.accept(port, Spoken::Bytes, stream, begun));
    let accepted = timer.within(thread.limits.handshake, |cx| {
        if seat.poll(cx) == Verdict::Abort {
            return Poll::Ready(None);
        }
        accepting.as_mut().poll(cx).map(Some)
    });
    match accepted.await {
        Ok(Some(Ok(accepted))) => {
            thread.counters.handshakes.add(1);
            client.io = Some(ClientIo::Tls(Box::new(accepted.stream)));
            Ok(())
        }
        Ok(None) => Err(Refusal::Drained),
        Ok(Some(Err(_))) | Err(_) => {
            thread.counters.handshake_errors.add(1);
            Err(Refusal::Handshake)
        }
    }
}

/// A connection with an endpoint of a backend that is drawn by weight; with another if one cannot be connected to.
async fn connect(
    thread: &Rc<Thread>,
    table: &TenantTable,
    route: &CompiledStream,
    ends: Hop,
    record: &mut Record,
) -> Result<(Box<Connection>, Occupied), Refusal> {
    let backend = draw(thread, &route.forward).ok_or(Refusal::NoBackend)?;
    let balancer = thread.upstreams.balancer(thread, table, backend);
    let wish = Wish { fresh: true, upgrade: false, limit: backend.connect_timeout, hop: ends };
    balancer.group.retries.borrow_mut().earn();
    let key = source_key(backend, ends.source);
    let (mut tries, mut failed_on) = (1, None);
    loop {
        let endpoint = balancer.pick(thread, key, failed_on.as_ref())?;
        let occupied = endpoint.occupy();
        record.tries(endpoint.address);
        match connect::open_stream(thread, &endpoint, wish).await {
            Ok(connection) => {
                balancer.note(thread, &endpoint, health::Verdict::Success);
                return Ok((connection, occupied));
            }
            Err(error) => {
                balancer.note(thread, &endpoint, health::Verdict::Unreachable);
                debug!(endpoint = %endpoint.address, %error, "cannot connect");
            }
        }
        if tries == STREAM_TRIES || !balancer.group.retries.borrow_mut().spend() {
            return Err(Refusal::Connect);
        }
        tries += 1;
        thread.counters.retries.add(1);
        record.retried();
        failed_on = Some(endpoint);
    }
}

/// A backend by weight. `None`: there is none, or the share fell to one that does not exist.
pub(crate) fn draw<'f>(thread: &Thread, forward: &'f Forward) -> Option<&'f Arc<Backend>> {
    let total = u64::from(forward.total_weight());
    if total == 0 {
        return None;
    }
    let point = u32::try_from(thread.random_below(total)).unwrap_or(0);
    forward.pick(point)?.backend.as_ref()
}

/// What a policy that hashes looks at, of one who makes no requests: all else that can be hashed is a request's.
pub(crate) fn source_key(backend: &Backend, client: SocketAddr) -> Option<u64> {
    match backend.traffic.balancing.key() {
        Some(HashKey::SourceIp) => Some(hash(address_text(client).as_bytes())),
        _ => None,
    }
}

impl From<NoEndpoint> for Refusal {
    fn from(error: NoEndpoint) -> Self {
        match error {
            NoEndpoint::Unresolved => Self::Unresolved,
            NoEndpoint::Unhealthy => Self::Unhealthy,
            NoEndpoint::Full => Self::Full,
        }
    }
}

/// Closes a connection that comes to nothing, so that nobody takes it for one that was served.
async fn turn_away(mut io: ClientIo, alert_of: Option<u8>) {
    match (&mut io, alert_of) {
        (ClientIo::Plain(stream), Some(description)) => {
            // Seven bytes fit into the socket's empty buffer; what the client thinks of them is its own affair.
            if stream.write_all(&alert(description)).await.is_ok() {
                let _closed = stream.shutdown().await;
            }
        }
        (io, _) => io.reset_on_close(),
    }
}
