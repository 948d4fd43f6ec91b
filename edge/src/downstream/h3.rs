//! A client's HTTP/3 connection.
//!
//! A task for the connection, one for each of the client's unidirectional streams (three, for life) and one for each
//! request, all on the thread of the slot. Requests are served by the same [`serve_request`] as those of HTTP/1.
//!
//! An error of the protocol ends the connection with the code that RFC 9114 names; one of a request ends its stream.

mod body;
mod control;
mod frames;
mod reply;
mod tunnel;

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    task::{Poll, Waker},
    time::Duration,
};

use quinn::{Connecting, RecvStream, SendStream, crypto::rustls::HandshakeData};
use rustls::pki_types::CertificateDer;
use tokio::{sync::watch, task::spawn_local};
use tracing::debug;

pub(crate) use body::H3Body;
use frames::{Broken, Frames};
use reply::Answer;

use super::{Client, StreamRequest, request};
use crate::{
    body::RequestBody,
    clock::Timer,
    drain::{Seat, Verdict},
    h1::{Method, Scheme, Version},
    h3::{Code, FrameKind, VARINT_MAX, write_frame_header, write_settings, write_varint},
    limits::{H3_UNI_STREAMS_EVER, QUIC_QUIET},
    listen::{Admitted, Membership},
    metrics::Outcome,
    quic::Unproved,
    serve::{Incoming, Reply, ReplyBody, local, record, refusal::Refusal, serve_request},
    tls::{
        Spoken,
        clients::{ClientPolicy, Credentials},
    },
    worker::Thread,
};

/// A head that came by HTTP/3.
const VERSION: Version = Version::Http3;

/// What the tasks of a connection share.
pub(crate) struct Link {
    thread: Rc<Thread>,
    quic: quinn::Connection,
    /// Requests that are being served.
    open: Cell<usize>,
    /// When the last request ended or began.
    moved_ms: Cell<u64>,
    /// Requests that the client took back before they were answered, in the second that began then.
    cancelled: Cell<(u64, u32)>,
    control: control::Roles,
    /// The connection's task, which waits for the last request.
    waker: RefCell<Option<Waker>>,
}

impl Link {
    /// Ends the connection.
    fn close(&self, code: Code) {
        debug!(peer = %self.quic.remote_address(), %code, "HTTP/3 connection closed");
        self.quic.close(code.value().into(), b"");
    }

    /// The client took a request back. Too often is an attack (Rapid Reset, CVE-2023-44487): each costs us more than it.
    fn cancelled(&self) {
        let now = self.thread.clock.now_ms();
        let (began, count) = self.cancelled.get();
        let next = if now.saturating_sub(began) < 1000 { (began, count + 1) } else { (now, 1) };
        self.cancelled.set(next);
        if next.1 > self.thread.limits.h3_cancelled_per_s {
            self.close(Code::ExcessiveLoad);
        }
    }
}

/// A request that is being served.
struct OpenRequest(Rc<Link>);

impl OpenRequest {
    fn new(link: &Rc<Link>) -> Self {
        link.open.set(link.open.get() + 1);
        Self(Rc::clone(link))
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        let link = &self.0;
        link.open.set(link.open.get() - 1);
        link.moved_ms.set(link.thread.clock.now_ms());
        if link.open.get() == 0
            && let Some(waker) = link.waker.borrow_mut().take()
        {
            waker.wake();
        }
    }
}

/// Serves a connection to its end.
pub(crate) async fn serve(
    thread: Rc<Thread>,
    connecting: Connecting,
    admitted: Admitted,
    seat: Seat,
    unproved: Unproved,
    leaving: watch::Receiver<bool>,
) {
    let peer = connecting.remote_address();
    let port = admitted.point.listen.port;
    let timer = thread.clock.timer();
    let mut connecting = pin!(connecting);
    let handshake = timer.within(thread.limits.handshake, |cx| {
        if seat.poll(cx) == Verdict::Abort {
            return Poll::Ready(None);
        }
        connecting.as_mut().poll(cx).map(Some)
    });
    let quic = match Box::pin(handshake).await {
        Ok(Some(Ok(quic))) => quic,
        Ok(None) => return,
        Ok(Some(Err(error))) => {
            thread.counters.handshake_errors.add(1);
            return debug!(%peer, %error, "QUIC handshake failed");
        }
        Err(_expired) => {
            thread.counters.handshake_errors.add(1);
            return debug!(%peer, "QUIC handshake took too long");
        }
    };
    drop(unproved);
    thread.counters.handshakes.add(1);
    thread.counters.quic_connections.add(1);
    let agreed = quic.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
    let server_name = agreed.and_then(|data| data.server_name);
    // The policy that the handshake went by, or the one that has come since.
    let asked =
        thread.shared.tls.server(port, server_name.as_deref().unwrap_or_default(), Spoken::Http3).clients;
    let credentials = match asked.as_deref().map(|policy| quic_credentials(&quic, policy)) {
        None => None,
        Some(Some(credentials)) => Some(Rc::new(credentials)),
        Some(None) => {
            thread.counters.handshake_errors.add(1);
            debug!(%peer, "a client may not come in by its certificate");
            return quic.close(Code::GeneralProtocolError.value().into(), b"");
        }
    };
    let bind = admitted.point.listen.bind;
    let client = Client {
        peer,
        local: quic.local_ip().map_or(bind, |ip| std::net::SocketAddr::new(ip, bind.port())),
        address: super::address_text(peer),
        port,
        scheme: Scheme::Https,
        server_name,
        tls_version: Some("TLSv1.3"),
        credentials,
        advertise_h3: false,
        membership: Rc::new(Membership::new(&admitted.point)),
    };
    let link = Rc::new(Link {
        open: Cell::new(0),
        moved_ms: Cell::new(thread.clock.now_ms()),
        cancelled: Cell::default(),
        control: control::Roles::default(),
        waker: RefCell::default(),
        thread,
        quic,
    });
    let connection =
        Connection { link, seat, timer, leaving, client: Rc::new(client), next_id: 0, uni_streams: 0 };
    connection.run().await;
}

/// What a client has shown in its handshake; `None`: `policy` does not let it in.
fn quic_credentials(quic: &quinn::Connection, policy: &ClientPolicy) -> Option<Credentials> {
    let shown = quic.peer_identity().and_then(|shown| shown.downcast::<Vec<CertificateDer<'static>>>().ok());
    Credentials::new(policy, shown.as_ref().map(|chain| chain.as_slice()))
}

/// A connection whose handshake is over.
struct Connection {
    link: Rc<Link>,
    seat: Seat,
    timer: Timer,
    /// Whether the slot is no longer served.
    leaving: watch::Receiver<bool>,
    client: Rc<Client>,
    /// The number of the next request's stream.
    next_id: u64,
    /// Unidirectional streams that the client has opened.
    uni_streams: u32,
}

/// What a connection waits for.
enum Event {
    Request(SendStream, RecvStream),
    Uni(RecvStream),
    /// A deadline, a verdict, or no request any more.
    Look,
    Closed,
}

/// How far a connection is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaving {
    No,
    /// GOAWAY was sent then, with a number that no request has.
    Said {
        at_ms: u64,
    },
    /// GOAWAY was sent with the number of the first request that is not served.
    Final,
}

impl Connection {
    async fn run(mut self) {
        let Some(mut control) = self.open_control().await else {
            return self.link.close(Code::StreamCreationError);
        };
        let mut leaving = Leaving::No;
        loop {
            match self.next(leaving).await {
                Event::Request(send, recv) => self.request(send, recv, leaving),
                Event::Uni(recv) => {
                    self.uni_streams += 1;
                    if self.uni_streams > H3_UNI_STREAMS_EVER {
                        return self.link.close(Code::ExcessiveLoad);
                    }
                    spawn_local(control::serve(Rc::clone(&self.link), recv));
                }
                Event::Closed => return,
                Event::Look => {}
            }
            let verdict = self.seat.verdict();
            if verdict == Verdict::Abort {
                return self.link.close(Code::NoError);
            }
            let now = self.link.thread.clock.now_ms();
            let idle_ms = now.saturating_sub(self.link.moved_ms.get());
            let idle = self.link.open.get() == 0;
            let tired = idle && idle_ms >= millis(self.link.thread.limits.idle)
                || self.next_id / 4 >= self.link.thread.limits.requests_per_connection;
            let retired = verdict >= Verdict::Retire || *self.leaving.borrow() || tired;
            match leaving {
                Leaving::No if retired => {
                    // A number that no request reaches: those on their way are still served.
                    if !self.goaway(&mut control, VARINT_MAX - 3).await {
                        return self.link.close(Code::ClosedCriticalStream);
                    }
                    leaving = Leaving::Said { at_ms: now };
                }
                // A request that was sent before our GOAWAY came has come by now.
                Leaving::Said { at_ms }
                    if idle && now.saturating_sub(at_ms) >= self.quiet_ms() && idle_ms >= self.quiet_ms() =>
                {
                    // It is not lost if the close is: whoever sees the number knows that no later request was served.
                    let _closing = self.goaway(&mut control, self.next_id).await;
                    return self.link.close(Code::NoError);
                }
                // The client does not care; during a drain its requests are served until the deadline all the same.
                Leaving::Said { at_ms }
                    if verdict < Verdict::Retire
                        && now.saturating_sub(at_ms) >= millis(self.link.thread.limits.idle) =>
                {
                    if !self.goaway(&mut control, self.next_id).await {
                        return self.link.close(Code::ClosedCriticalStream);
                    }
                    leaving = Leaving::Final;
                }
                Leaving::Final if idle => return self.link.close(Code::NoError),
                _ => {}
            }
        }
    }

    /// Opens our control stream and says our settings.
    async fn open_control(&self) -> Option<SendStream> {
        let limits = &self.link.thread.limits;
        let mut hello = Vec::new();
        write_varint(&mut hello, 0x00);
        write_settings(&mut hello, limits.head_bytes as u64);
        let mut opening = pin!(async {
            let mut control = self.link.quic.open_uni().await.ok()?;
            control.write_all(&hello).await.ok()?;
            Some(control)
        });
        self.timer.within(limits.handshake, |cx| opening.as_mut().poll(cx)).await.ok()?
    }

    /// Says that requests from `id` on are not served; whether the client let us.
    async fn goaway(&self, control: &mut SendStream, id: u64) -> bool {
        let mut payload = Vec::new();
        write_varint(&mut payload, id);
        let mut frame = Vec::new();
        write_frame_header(&mut frame, FrameKind::GoAway, payload.len());
        frame.extend_from_slice(&payload);
        // A client that gives no room for ten bytes is none.
        let mut writing = pin!(control.write(&frame));
        let written = self.timer.within(self.link.thread.limits.stall, |cx| writing.as_mut().poll(cx)).await;
        matches!(written, Ok(Ok(written)) if written == frame.len())
    }

    /// How long nothing must have come before the connection is closed: what was sent when our GOAWAY came is here then.
    fn quiet_ms(&self) -> u64 {
        millis(QUIC_QUIET.max(self.link.quic.rtt() * 3))
    }

    async fn next(&mut self, leaving: Leaving) -> Event {
        let link = &self.link;
        let limits = &link.thread.limits;
        let idle = link.open.get() == 0;
        match leaving {
            Leaving::No if idle => {
                self.seat.idle();
                self.timer.set(limits.idle);
            }
            Leaving::No => {
                self.seat.busy();
                self.timer.clear();
            }
            Leaving::Said { .. } if idle => self.timer.set(Duration::from_millis(self.quiet_ms())),
            Leaving::Said { .. } | Leaving::Final => self.timer.set(limits.idle),
        }
        let before = self.seat.verdict();
        let look = poll_fn(|cx| {
            let verdict = self.seat.poll(cx);
            let now_idle = link.open.get() == 0;
            if verdict != before || now_idle != idle || self.timer.poll(cx).is_ready() {
                return Poll::Ready(());
            }
            *link.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        });
        tokio::select! {
            biased;
            stream = link.quic.accept_bi() => stream.map_or(Event::Closed, |(send, recv)| Event::Request(send, recv)),
            stream = link.quic.accept_uni() => stream.map_or(Event::Closed, Event::Uni),
            () = look => Event::Look,
            // Its sender is gone when the slot is.
            Ok(()) = self.leaving.changed() => Event::Look,
        }
    }

    fn request(&mut self, send: SendStream, recv: RecvStream, leaving: Leaving) {
        let mut answer = Answer::new(send);
        let frames = Frames::new(recv);
        if leaving == Leaving::Final {
            answer.reset(Code::RequestRejected);
            return;
        }
        self.next_id += 4;
        let link = &self.link;
        let peer = link.quic.remote_address();
        if peer != self.client.peer {
            // It moved to another network, or its NAT to another port.
            let address = super::address_text(peer);
            self.client = Rc::new(Client { peer, address, ..Client::clone(&self.client) });
        }
        let open = OpenRequest::new(link);
        link.moved_ms.set(link.thread.clock.now_ms());
        spawn_local(serve_stream(open, Rc::clone(&self.client), answer, frames));
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Serves one request to its end.
async fn serve_stream(open: OpenRequest, client: Rc<Client>, mut answer: Answer, frames: Frames) {
    let link = Rc::clone(&open.0);
    let stopped = answer.stopped();
    let serving = serve_request_stream(&link, &client, &mut answer, frames);
    tokio::select! {
        biased;
        served = serving => {
            if let Err(code) = served {
                answer.reset(code);
            }
        }
        // Whatever was under way is dropped, and cancelled upstream with it.
        () = stopped => {
            answer.reset(Code::RequestCancelled);
            link.cancelled();
        }
    }
}

async fn serve_request_stream(
    link: &Rc<Link>,
    client: &Client,
    answer: &mut Answer,
    mut frames: Frames,
) -> Result<(), Code> {
    let thread = &link.thread;
    let limits = &thread.limits;
    let timer = thread.clock.timer();
    let section = timer.within(limits.head, |cx| frames.poll_head(cx, limits)).await;
    let read = match section {
        Ok(Ok(lines)) => request::convert(&lines, limits, VERSION),
        Ok(Err(Broken::Gone)) => {
            link.cancelled();
            return Err(Code::RequestCancelled);
        }
        Ok(Err(Broken::Stream(code))) => return Err(code),
        Ok(Err(Broken::Connection(code))) => {
            link.close(code);
            return Err(code);
        }
        Ok(Err(Broken::Head(error))) => Err(request::Fault::Refused(Refusal::Request(error.into()))),
        Err(_expired) => Err(request::Fault::Refused(Refusal::HeadTimeout)),
    };
    let StreamRequest { head, length, upgrade, .. } = match read {
        Ok(read) => read,
        Err(request::Fault::Malformed(error)) => {
            record::unread(thread, client, &Refusal::Request(error));
            return Err(Code::MessageError);
        }
        Err(request::Fault::Refused(refusal)) => {
            let (head, bytes) = local::refuse_unread(thread, client, &refusal);
            return answer.local(&timer, limits, &head, &bytes).await;
        }
    };
    let method = head.method();
    if upgrade.is_none() && method != Method::Connect {
        let body = H3Body::request(link, frames, &head, length, client.membership.share());
        let reply = serve_request(thread, client, Incoming { head: Box::new(head), body, upgrade }).await;
        return answer.reply(link, &timer, reply, method).await;
    }
    let incoming = Incoming { head: Box::new(head), body: RequestBody::Empty, upgrade };
    let reply = serve_request(thread, client, incoming).await;
    match reply {
        Reply { head, body: ReplyBody::Tunnel(tunnel), mut record } => {
            answer.begin(&timer, limits, &head).await?;
            record.finished(Outcome::Forwarded);
            drop(record);
            tunnel::run(link, *tunnel, answer, frames, client.membership.share()).await;
            if method == Method::Connect {
                // Not where it has ended as it should.
                answer.reset(Code::ConnectError);
            }
            Ok(())
        }
        reply => answer.reply(link, &timer, reply, method).await,
    }
}
