//! The client side: one task for each connection, from accept to close, on the thread that accepted it.

pub(crate) mod h1;
pub(crate) mod h2;
pub(crate) mod h3;
mod introduction;
mod request;
pub(crate) mod tunnel;

use std::{
    net::{IpAddr, SocketAddr},
    pin::pin,
    rc::Rc,
    sync::atomic::Ordering,
    task::Poll,
    time::{Duration, Instant},
};

use api::agent::IdleConnection;
use tracing::debug;

use crate::{
    buffer::ReadBuffer,
    drain::{Seat, Verdict},
    h1::{RequestError, RequestHead, Scheme, Upgrade},
    io::ClientIo,
    listen::{Admitted, Membership, over_limit},
    proxy::Hop,
    serve::upgrade,
    socket::Socket,
    stream,
    tls::{Accepted, Agreed, Spoken, clients::Credentials},
    turns,
    worker::Thread,
};

/// Who is at the other end of a connection, and how it came.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) peer: SocketAddr,
    /// What it connected to.
    pub(crate) local: SocketAddr,
    /// The peer's address as `X-Forwarded-For` has it.
    pub(crate) address: String,
    /// The port as Gateways name it.
    pub(crate) port: u16,
    pub(crate) scheme: Scheme,
    /// The host that the TLS session was made for.
    pub(crate) server_name: Option<String>,
    /// `TLSv1.3`
    pub(crate) tls_version: Option<&'static str>,
    /// What it has shown in the TLS handshake, where it was asked for a certificate.
    pub(crate) credentials: Option<Rc<Credentials>>,
    /// Whether it should learn that its address serves HTTP/3, too.
    pub(crate) advertise_h3: bool,
    /// Whose its connection is.
    pub(crate) membership: Rc<Membership>,
}

impl Client {
    fn new(thread: &Thread, ends: Hop, admitted: &Admitted) -> Self {
        let listen = &admitted.point.listen;
        Self {
            peer: ends.source,
            local: ends.destination,
            address: address_text(ends.source),
            port: listen.port,
            scheme: if listen.tls { Scheme::Https } else { Scheme::Http },
            server_name: None,
            tls_version: None,
            credentials: None,
            advertise_h3: listen.tls && thread.shared.advertises_h3(listen.bind),
            membership: Rc::new(Membership::new(&admitted.point)),
        }
    }

    /// Both ends of its connection, for an upstream that is to know them.
    pub(crate) fn hop(&self) -> Hop {
        Hop { source: self.peer, destination: self.local }
    }
}

/// A peer's address without its port; an IPv4 client on a dual-stack socket is one of IPv4. Each connection pays for it, and
/// `Display` costs ten times as much.
pub(crate) fn address_text(peer: SocketAddr) -> String {
    match peer.ip().to_canonical() {
        IpAddr::V4(address) => {
            let mut text = String::with_capacity("255.255.255.255".len());
            for (place, octet) in address.octets().into_iter().enumerate() {
                if place > 0 {
                    text.push('.');
                }
                text.push_str(itoa::Buffer::new().format(octet));
            }
            text
        }
        IpAddr::V6(address) => address.to_string(),
    }
}

/// What was before.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Past {
    /// Requests that were answered on the connection.
    pub(crate) served: u64,
    /// It is not to be handed over again.
    pub(crate) stays: bool,
}

/// A connection that was just accepted.
pub(crate) struct Arrival {
    pub(crate) stream: Socket,
    /// Who connected.
    pub(crate) peer: SocketAddr,
    /// Whether it passes on the connections of others, and then whether it must say whose.
    pub(crate) introduces: Option<bool>,
}

/// A request as it was read from a stream of HTTP/2 or HTTP/3.
#[derive(Debug)]
pub(crate) struct StreamRequest {
    /// That of an extended CONNECT is the upgrade's that it stands for.
    pub(crate) head: RequestHead,
    /// Bytes of the body that the head declares.
    pub(crate) length: Option<u64>,
    /// What an extended CONNECT asks for.
    pub(crate) upgrade: Option<Upgrade>,
    /// Whether the client sends the body only when it is told to (`Expect: 100-continue`).
    pub(crate) expects: bool,
}

impl StreamRequest {
    /// # Errors
    /// [`RequestError::ConnectBody`]: what follows an extended CONNECT is no body.
    pub(crate) fn new(
        mut head: RequestHead,
        length: Option<u64>,
        extended: bool,
    ) -> Result<Self, RequestError> {
        if extended && length.is_some_and(|length| length > 0) {
            return Err(RequestError::ConnectBody);
        }
        let upgrade = extended.then(|| upgrade::ask_for_websocket(&mut head));
        Ok(Self { head, length, upgrade, expects: false })
    }
}

/// Serves a connection to its end.
pub(crate) async fn serve(thread: Rc<Thread>, arrival: Arrival, mut admitted: Admitted, seat: Seat) {
    let Arrival { mut stream, peer, introduces } = arrival;
    let ends = match introduces {
        None => Hop { source: peer, destination: local(&thread, &stream, &admitted) },
        Some(required) => {
            let Ok(socket) = stream.watched() else { return };
            let read = introduction::read(&thread, socket, peer, required, &seat);
            let Some(said) = Box::pin(read).await else { return };
            let ends =
                said.unwrap_or_else(|| Hop { source: peer, destination: local(&thread, &stream, &admitted) });
            if !admitted.count(ends.source, &thread.limits) {
                return over_limit(&thread, &admitted.point, ends.source);
            }
            ends
        }
    };
    let listen = &admitted.point.listen;
    if listen.raw {
        return Box::pin(stream::serve(&thread, stream, ends, &admitted.point, &seat)).await;
    }
    let client = Client::new(&thread, ends, &admitted);
    // A connection is of one kind for life, so the larger states are boxed and paid for only where they are needed.
    if listen.tls {
        return Box::pin(serve_tls(thread, stream, client, seat)).await;
    }
    serve_plain(thread, stream, client, seat, Past::default()).await;
}

/// Serves a connection on, from which another worker read whole requests.
pub(crate) async fn resume(
    thread: Rc<Thread>,
    socket: Socket,
    connection: IdleConnection,
    admitted: Admitted,
    seat: Seat,
) {
    let ends = Hop { source: connection.client, destination: connection.local };
    let client = Client::new(&thread, ends, &admitted);
    // Whoever drains, too, keeps it: the agent could only give it back and forth.
    let past = Past { served: connection.served, stays: thread.registry.is_draining() };
    serve_plain(thread, socket, client, seat, past).await;
}

async fn serve_plain(thread: Rc<Thread>, socket: Socket, client: Client, seat: Seat, past: Past) {
    match h1::serve(&thread, ClientIo::Plain(socket), &client, &seat, past).await {
        h1::End::Closed => {}
        h1::End::PriorKnowledge(io, input) => {
            Box::pin(h2::serve(thread, io, input, Rc::new(client), seat)).await;
        }
    }
}

async fn serve_tls(thread: Rc<Thread>, stream: Socket, mut client: Client, seat: Seat) {
    let Some((io, agreed, credentials)) = handshake(&thread, stream, &seat, &client).await else { return };
    client.server_name = agreed.server_name;
    client.tls_version = agreed.version;
    client.credentials = credentials.map(Rc::new);
    if agreed.h2 {
        h2::serve(thread, io, ReadBuffer::default(), Rc::new(client), seat).await;
    } else {
        // HTTP/2 by prior knowledge is for cleartext; here ALPN has decided.
        let _closed = Box::pin(h1::serve(&thread, io, &client, &seat, Past::default())).await;
    }
}

/// What the client connected to. The kernel is asked only where an upstream is to hear of it and the socket does not say.
fn local(thread: &Thread, stream: &Socket, admitted: &Admitted) -> SocketAddr {
    let bind = admitted.point.listen.bind;
    if bind.ip().is_unspecified() && thread.shared.sends_proxy.load(Ordering::Relaxed) {
        return stream.local_addr().unwrap_or(bind);
    }
    bind
}

async fn handshake(
    thread: &Rc<Thread>,
    stream: Socket,
    seat: &Seat,
    client: &Client,
) -> Option<(ClientIo, Agreed, Option<Credentials>)> {
    // Its signature is the most that a client can ask for before it has said anything.
    let handshakes = &thread.shares.handshakes;
    turns::wait(thread, handshakes, None, Instant::now()).await.ok()?;
    let mut spent = Duration::ZERO;
    let timer = thread.clock.timer();
    let result = {
        let tls = &thread.shared.tls;
        let mut accepting = pin!(tls.accept(client.port, Spoken::Http, stream, ReadBuffer::default()));
        let accepting = timer.within(thread.limits.handshake, |cx| {
            if seat.poll(cx) == Verdict::Abort {
                return Poll::Ready(None);
            }
            thread.turns.timed(&mut spent, || accepting.as_mut().poll(cx)).map(Some)
        });
        Box::pin(accepting).await
    };
    if !spent.is_zero() {
        thread.turns.charge(handshakes, spent);
    }
    match result {
        Ok(Some(Ok(Accepted { stream, agreed, credentials }))) => {
            thread.counters.handshakes.add(1);
            if agreed.resumed {
                thread.counters.resumed.add(1);
            }
            Some((ClientIo::Tls(Box::new(stream)), agreed, credentials))
        }
        Ok(None) => None,
        Ok(Some(Err(error))) => {
            thread.counters.handshake_errors.add(1);
            debug!(peer = %client.peer, %error, "TLS handshake failed");
            None
        }
        Err(_expired) => {
            thread.counters.handshake_errors.add(1);
            debug!(peer = %client.peer, "TLS handshake took too long");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_written_as_everybody_does() {
        for text in ["0.0.0.0", "10.1.100.255", "255.255.255.255", "2001:db8::1", "::1"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(address_text(SocketAddr::new(ip, 1)), text);
        }
        assert_eq!(address_text("[::ffff:192.0.2.1]:9".parse().unwrap()), "192.0.2.1");
    }
}
