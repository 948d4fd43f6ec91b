//! HTTP/2 connections to an endpoint, shared by the requests of a thread.

use std::{
    cell::{Cell, RefCell},
    pin::pin,
    rc::{Rc, Weak},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use h2::client::SendRequest;
use model::PoolPolicy;
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};
use tracing::debug;

use super::{
    Endpoint,
    connect::{ConnectError, Way, Wish, open},
    pool::millis,
};
use crate::{
    gather::Gather,
    io::UpstreamIo,
    limits::{UPSTREAM_H2_FRAME, UPSTREAM_H2_STREAMS},
    metrics::Counters,
    worker::Thread,
};

/// The connections of one endpoint.
#[derive(Default)]
pub(super) struct Links {
    list: RefCell<Vec<Rc<Link>>>,
    /// One is being opened: whoever comes meanwhile shares it.
    opening: Cell<bool>,
    /// Told when one was opened, or not; when an upstream has said how many streams it takes; and when one has ended.
    changed: Rc<Notify>,
}

/// h2's bound on streams before the upstream has said its own: a number that no SETTINGS frame can say. Streams above the
/// upstream's bound are refused, each at the price of a retry, so until then there is only the stream of whoever opened
/// the connection (RFC 9113 section 5.1.2).
const UNSAID: usize = usize::MAX - 1;

/// One connection, as its streams see it. When the last of them and the list have let go, it ends.
struct Link {
    sender: SendRequest<Bytes>,
    streams: Cell<usize>,
    /// It has had streams.
    used: Cell<bool>,
    /// It takes no new streams.
    retired: Rc<Cell<bool>>,
    born_ms: u64,
    idle_since_ms: Cell<u64>,
}

impl Link {
    fn has_room(&self, now_ms: u64, policy: PoolPolicy) -> bool {
        if self.retired.get() || now_ms.saturating_sub(self.born_ms) >= millis(policy.max_age) {
            return false;
        }
        // h2 knows of a GOAWAY or a broken connection before its task has come to an end.
        let mut cx = Context::from_waker(Waker::noop());
        if matches!(self.sender.clone().poll_ready(&mut cx), Poll::Ready(Err(_))) {
            self.retired.set(true);
            return false;
        }
        let most = match self.sender.current_max_send_streams() {
            UNSAID => 1,
            said => said.clamp(1, UPSTREAM_H2_STREAMS),
        };
        self.streams.get() < most
    }

    /// Its upstream has not said yet how many streams it takes.
    fn is_unsaid(&self) -> bool {
        !self.retired.get() && self.sender.current_max_send_streams() == UNSAID
    }
}

/// A stream's place on a connection; dropping it makes room for another.
pub(crate) struct Slot {
    link: Rc<Link>,
    reused: bool,
}

impl Slot {
    fn on(link: &Rc<Link>) -> Self {
        link.streams.set(link.streams.get() + 1);
        Self { link: Rc::clone(link), reused: link.used.replace(true) }
    }

    /// Whether the connection has had other streams.
    pub(super) fn is_reused(&self) -> bool {
        self.reused
    }

    /// A handle to begin the stream with.
    pub(super) fn sender(&self) -> SendRequest<Bytes> {
        self.link.sender.clone()
    }

    /// The connection seems to be dead: it gets no new streams.
    pub(super) fn retire(&self) {
        self.link.retired.set(true);
    }

    /// The stream is over.
    pub(super) fn release(self, now_ms: u64) {
        self.link.idle_since_ms.set(now_ms);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.link.streams.set(self.link.streams.get() - 1);
    }
}

impl Links {
    /// A place on the connection that has been open for longest: the others may then grow idle and go.
    fn pick(&self, now_ms: u64, policy: PoolPolicy) -> Option<Slot> {
        let mut list = self.list.borrow_mut();
        let found = list.iter().find(|link| link.has_room(now_ms, policy)).map(Slot::on);
        if found.is_none() {
            list.retain(|link| !link.retired.get());
        }
        found
    }

    /// Whether there may be room in a moment without another connection.
    fn is_settling(&self) -> bool {
        self.opening.get() || self.list.borrow().iter().any(|link| link.is_unsaid())
    }

    /// Lets go of connections that are over, too old, or were idle for too long.
    pub(super) fn expire(&self, now_ms: u64, policy: PoolPolicy) {
        self.list.borrow_mut().retain(|link| {
            let idle = link.streams.get() == 0
                && now_ms.saturating_sub(link.idle_since_ms.get()) >= millis(policy.idle);
            let old = now_ms.saturating_sub(link.born_ms) >= millis(policy.max_age);
            !(idle || old || link.retired.get())
        });
    }
}

/// Lets the next one open when the one that does has ended, however it ended.
struct Opening<'e>(&'e Links);

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.0.opening.set(false);
        self.0.changed.notify_waiters();
    }
}

/// A place on a connection: one that is open, one that will be in a moment, or one that we open. `H1` if the endpoint
/// turns out to speak only that.
pub(super) async fn acquire(
    thread: &Rc<Thread>,
    endpoint: &Rc<Endpoint>,
    wish: Wish,
) -> Result<Way, ConnectError> {
    let ends = Instant::now() + wish.limit;
    let links = &endpoint.links;
    loop {
        if let Some(slot) = links.pick(thread.clock.now_ms(), endpoint.pool.get()) {
            return Ok(Way::H2(slot));
        }
        let left = ends.saturating_duration_since(Instant::now());
        if links.is_settling() {
            timeout_at(ends, links.changed.notified()).await.map_err(|_| ConnectError::TimedOut)?;
            // It may have found out that nothing can be shared.
            if endpoint.spoken.get() == super::connect::Spoken::Http1 {
                return open(thread, endpoint, Wish { fresh: true, upgrade: false, limit: left, ..wish })
                    .await;
            }
            continue;
        }
        links.opening.set(true);
        let _opening = Opening(links);
        return open(thread, endpoint, Wish { fresh: true, upgrade: false, limit: left, ..wish }).await;
    }
}

/// Begins HTTP/2 on a new connection, with a place for the one who opened it.
pub(super) async fn begin(
    thread: &Rc<Thread>,
    endpoint: &Rc<Endpoint>,
    io: UpstreamIo,
) -> Result<Slot, ConnectError> {
    let limits = &thread.limits;
    let gather = Gather::new(io);
    let handshake = h2::client::Builder::new()
        .initial_window_size(limits.h2_stream_window)
        .initial_connection_window_size(limits.h2_connection_window)
        .max_frame_size(UPSTREAM_H2_FRAME)
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
        .max_send_buffer_size(limits.h2_send_buffer)
        .initial_max_send_streams(UNSAID)
        .enable_push(false)
        .handshake::<_, Bytes>(gather.clone())
        .await;
    let (sender, connection) = handshake.map_err(|error| {
        endpoint.rest(thread.clock.now_ms());
        ConnectError::Io(std::io::Error::other(error))
    })?;
    let now = thread.clock.now_ms();
    let retired = Rc::new(Cell::new(false));
    let link = Rc::new(Link {
        used: Cell::new(false),
        sender,
        streams: Cell::new(0),
        retired: Rc::clone(&retired),
        born_ms: now,
        idle_since_ms: Cell::new(now),
    });
    let (address, open) = (endpoint.address, Open::new(&thread.counters));
    let changed = Rc::clone(&endpoint.links.changed);
    let mut unsaid = Some(Rc::downgrade(&link));
    let closing = thread.clock.timer();
    // Ends with the connection: when nobody holds it any more, or when the upstream has enough.
    drop(tokio::task::spawn_local(async move {
        let _open = open;
        let mut connection = pin!(async move {
            if let Err(error) = connection.await {
                debug!(%address, %error, "HTTP/2 connection to an upstream ended");
            }
        });
        std::future::poll_fn(|cx| {
            if gather.poll_connection(cx, connection.as_mut()) {
                return Poll::Ready(());
            }
            let is_unsaid = |link: &Weak<Link>| link.upgrade().is_some_and(|link| link.is_unsaid());
            if unsaid.take_if(|link| !is_unsaid(link)).is_some() {
                changed.notify_waiters();
            }
            Poll::Pending
        })
        .await;
        retired.set(true);
        changed.notify_waiters();
        // What is left is a GOAWAY: an upstream that does not take it is not waited for.
        let _late = closing.within(CLOSING, |cx| gather.poll_close(cx)).await;
    }));
    let slot = Slot::on(&link);
    endpoint.links.list.borrow_mut().push(link);
    Ok(slot)
}

/// How long an upstream is given to take our goodbye.
const CLOSING: Duration = Duration::from_secs(2);

/// Counts a connection until it has ended.
struct Open(Arc<Counters>);

impl Open {
    fn new(counters: &Arc<Counters>) -> Self {
        counters.upstream_connections.add(1);
        Self(Arc::clone(counters))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.upstream_connections.sub(1);
    }
}
