//! One client's session with one endpoint.
//!
//! ```text
//! open --(silence, its answers, the drain's end)--> over
//!  |---(the endpoint cannot be reached)-----------> over
//!  '---(the endpoint may not be used any more)----> left --(a while, in which answers still come)--> over
//! ```
//!
//! What its client says after that opens another.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    net::SocketAddr,
    num::NonZeroU32,
    rc::{Rc, Weak},
    sync::{self, Arc},
    task::{Context, Poll, Waker},
};

use model::SessionPolicy;
use rustix::{
    io::Errno,
    net::{AddressFamily, SendFlags, SocketFlags, SocketType},
};
use tokio::{io::ReadBuf, net::UdpSocket};
use tracing::debug;

use super::{Caller, Dropped, Port};
use crate::{
    clock::Timer,
    config::Config,
    drain::{Registry, Seat, Verdict},
    health,
    limits::UDP_DRAIN_QUIET,
    metrics::Outcome,
    stream::record::Record,
    upstream::{Balancer, Endpoint, Occupied},
    worker::Thread,
};

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// Nothing was said for long enough.
    Idle,
    /// It had as many answers as its listener allows.
    Answered,
    /// The route leads elsewhere by now, or the endpoint is not well.
    Moved,
    /// The endpoint, or the network before it, says that it is not there.
    Unreachable,
    /// The drain was over first.
    Drained,
}

impl Ended {
    /// What the access log says of it.
    const fn told(self) -> (Outcome, Option<&'static str>) {
        match self {
            Self::Idle | Self::Answered => (Outcome::Forwarded, None),
            Self::Moved => (Outcome::Forwarded, Some("moved")),
            Self::Unreachable => (Outcome::Truncated, Some("connect")),
            Self::Drained => (Outcome::Truncated, Some("drained")),
        }
    }
}

/// One client's session.
pub(super) struct Session {
    caller: Caller,
    /// Connected to the endpoint: nobody else's datagrams come by it, and what the network says of the endpoint does.
    socket: UdpSocket,
    /// Counted on it like a request.
    endpoint: Rc<Endpoint>,
    _occupied: Occupied,
    /// What chose it. Not held: it would outlive its configuration.
    balancer: Weak<Balancer>,
    policy: Cell<SessionPolicy>,
    registry: Rc<Registry>,
    timer: Timer,
    /// When it was last known that it may go on.
    seen: RefCell<Seen>,
    /// Bytes from the client.
    received: Cell<u64>,
    /// Bytes to the client.
    sent: Cell<u64>,
    /// The client has another session by now, or none.
    is_left: Cell<bool>,
    answers: Cell<u32>,
    ended: Cell<Option<Ended>>,
    waker: RefCell<Option<Waker>>,
}

/// A configuration, the addresses of its names, and the state of an endpoint's backend.
#[derive(Debug, Default)]
struct Seen {
    config: sync::Weak<Config>,
    names: u64,
    changes: u64,
}

/// A socket that is connected to an endpoint.
pub(super) fn connect(endpoint: SocketAddr) -> Result<UdpSocket, Dropped> {
    let family = if endpoint.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let failed = |error| {
        debug!(%endpoint, %error, "no socket for a session");
        Dropped::Failed
    };
    let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)
        .map_err(|errno| failed(std::io::Error::from(errno)))?;
    rustix::net::connect(&socket, &endpoint).map_err(|_| Dropped::Unreachable)?;
    UdpSocket::from_std(socket.into()).map_err(failed)
}

impl Session {
    pub(super) fn new(
        thread: &Rc<Thread>,
        caller: Caller,
        socket: UdpSocket,
        balancer: &Rc<Balancer>,
        endpoint: Rc<Endpoint>,
        policy: SessionPolicy,
    ) -> Rc<Self> {
        let session = Self {
            caller,
            socket,
            _occupied: endpoint.occupy(),
            endpoint,
            balancer: Rc::downgrade(balancer),
            policy: Cell::new(policy),
            registry: Rc::clone(&thread.registry),
            timer: thread.clock.timer(),
            seen: RefCell::default(),
            received: Cell::new(0),
            sent: Cell::new(0),
            is_left: Cell::new(false),
            answers: Cell::new(0),
            ended: Cell::new(None),
            waker: RefCell::new(None),
        };
        session.moved();
        Rc::new(session)
    }

    pub(super) fn client(&self) -> SocketAddr {
        self.caller.client
    }

    pub(super) fn endpoint(&self) -> &Rc<Endpoint> {
        &self.endpoint
    }

    /// Whether nothing has changed since it was known that it may go on.
    pub(super) fn is_current(&self, thread: &Thread, config: &Arc<Config>) -> bool {
        let seen = self.seen.borrow();
        std::ptr::eq(seen.config.as_ptr(), Arc::as_ptr(config))
            && seen.names == thread.shared.resolved.load().version
            && seen.changes == self.endpoint.changes()
    }

    /// It may go on, as things are.
    pub(super) fn see(&self, thread: &Thread, config: &Arc<Config>) {
        let names = thread.shared.resolved.load().version;
        self.seen.replace(Seen { config: Arc::downgrade(config), names, changes: self.endpoint.changes() });
    }

    /// Ends as its listener says now.
    pub(super) fn follow(&self, policy: SessionPolicy) {
        self.policy.set(policy);
    }

    /// Sends what the client says.
    pub(super) fn send(&self, datagram: &[u8]) -> Result<(), Dropped> {
        let send = || rustix::net::send(&self.socket, datagram, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        // What was sent before was too long for a packet of some network on the way; now that this is known it is cut.
        let sent = send().or_else(|errno| if errno == Errno::MSGSIZE { send() } else { Err(errno) });
        match sent {
            Ok(_) => {
                self.received.set(self.received.get() + datagram.len() as u64);
                self.moved();
                Ok(())
            }
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => Err(Dropped::Full),
            Err(Errno::CONNREFUSED | Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::NETDOWN) => {
                Err(Dropped::Unreachable)
            }
            // Such as one that is longer than IPv4 has them, from a client by IPv6: no fault of the endpoint's.
            Err(errno) => {
                debug!(endpoint = %self.endpoint.address, error = %errno, "a datagram cannot be sent");
                Err(Dropped::Failed)
            }
        }
    }

    /// Ends it, if it has not ended.
    pub(super) fn end(&self, why: Ended) {
        self.ended.set(self.ended.get().or(Some(why)));
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Is of no use to its client any more but for what was asked already.
    pub(super) fn leave(&self) {
        self.timer.set(self.policy.get().idle.min(UDP_DRAIN_QUIET));
        self.is_left.set(true);
    }

    /// Something was said: the time of silence begins anew.
    fn moved(&self) {
        if self.is_left.get() {
            return;
        }
        let idle = self.policy.get().idle;
        self.timer.set(if self.registry.is_draining() { idle.min(UDP_DRAIN_QUIET) } else { idle });
    }

    /// Passes the endpoint's answers on. Ready when the session is over.
    fn poll(&self, cx: &mut Context<'_>, port: &Port, seat: &Seat, hurried: &mut bool) -> Poll<Ended> {
        if let Some(ended) = self.ended.get() {
            return Poll::Ready(ended);
        }
        while let Poll::Ready(result) = self.poll_answer(cx, port) {
            if let Some(ended) = result {
                return Poll::Ready(ended);
            }
        }
        match seat.poll(cx) {
            Verdict::Stay => {}
            Verdict::Abort => return Poll::Ready(Ended::Drained),
            Verdict::Retire | Verdict::Leave => {
                // The drain has begun.
                if !std::mem::replace(hurried, true) {
                    self.moved();
                }
            }
        }
        *self.waker.borrow_mut() = Some(cx.waker().clone());
        let ended = if self.is_left.get() { Ended::Moved } else { Ended::Idle };
        self.timer.poll(cx).map(|()| ended)
    }

    /// Ready when an answer was passed on, or with the end of the session.
    fn poll_answer(&self, cx: &mut Context<'_>, port: &Port) -> Poll<Option<Ended>> {
        let mut memory = port.answer.borrow_mut();
        let mut buffer = ReadBuf::new(&mut memory);
        match self.socket.poll_recv(cx, &mut buffer) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(error)) if error.raw_os_error() == Some(Errno::MSGSIZE.raw_os_error()) => {
                // Said of what was sent; what is sent from now on is cut.
                return Poll::Ready(None);
            }
            Poll::Ready(Err(error)) => {
                debug!(endpoint = %self.endpoint.address, %error, "a session's endpoint cannot be reached");
                return Poll::Ready(Some(Ended::Unreachable));
            }
            Poll::Ready(Ok(())) => {}
        }
        if self.answers.get() == 0 {
            self.answered(&port.thread);
        }
        self.answers.set(self.answers.get().saturating_add(1));
        if port.answer(self.caller, buffer.filled()) {
            self.sent.set(self.sent.get() + buffer.filled().len() as u64);
        }
        self.moved();
        let most = self.policy.get().responses.map_or(u32::MAX, NonZeroU32::get);
        Poll::Ready((self.answers.get() >= most).then_some(Ended::Answered))
    }

    /// Its endpoint is there.
    fn answered(&self, thread: &Thread) {
        if let Some(balancer) = self.balancer.upgrade() {
            balancer.note(thread, &self.endpoint, health::Verdict::Success);
        }
    }
}

/// Others are preferred to that endpoint for a while.
pub(super) fn unreachable(thread: &Thread, endpoint: &Endpoint, balancer: Option<&Balancer>) {
    thread.counters.upstream_connect_errors.add(1);
    endpoint.rest(thread.clock.now_ms());
    if let Some(balancer) = balancer {
        balancer.note(thread, endpoint, health::Verdict::Unreachable);
    }
}

/// Passes on what the endpoint says, to the end of the session.
pub(super) async fn run(port: Rc<Port>, session: Rc<Session>, seat: Seat, mut record: Record) {
    let mut hurried = false;
    let ended = poll_fn(|cx| session.poll(cx, &port, &seat, &mut hurried)).await;
    port.forget(&session);
    let thread = &port.thread;
    thread.counters.udp_sessions.sub(1);
    if ended == Ended::Unreachable {
        unreachable(thread, &session.endpoint, session.balancer.upgrade().as_deref());
    }
    let (outcome, why) = ended.told();
    record.closed(outcome, why, session.received.get(), session.sent.get());
}
