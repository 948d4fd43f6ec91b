//! HTTP/2 connections to an endpoint, shared by the requests of a thread.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
};

use model::PoolPolicy;
use tokio::{
    sync::Notify,
    task::spawn_local,
    time::{Instant, timeout_at},
};

use super::{
    Endpoint,
    connect::{ConnectError, Way, Wish, open},
    h2::{self, Channel},
    pool::millis,
};
use crate::{io::UpstreamIo, metrics::Counters, worker::Thread};

/// The connections of one endpoint.
#[derive(Default)]
pub(super) struct Links {
    list: RefCell<Vec<Rc<Link>>>,
    /// One is being opened: whoever comes meanwhile shares it.
    opening: Cell<bool>,
    /// Told when one was opened, or not; when an upstream has said how many streams it takes; and when one has ended.
    changed: Rc<Notify>,
}

/// One connection, as its streams see it. When the last of them and the list have let go, it ends.
struct Link {
    channel: Rc<Channel>,
    streams: Cell<usize>,
    /// It has had streams.
    used: Cell<bool>,
    born_ms: u64,
    idle_since_ms: Cell<u64>,
}

impl Link {
    fn has_room(&self, now_ms: u64, policy: PoolPolicy) -> bool {
        !self.is_old(now_ms, policy) && self.streams.get() < self.channel.most_streams()
    }

    fn is_old(&self, now_ms: u64, policy: PoolPolicy) -> bool {
        now_ms.saturating_sub(self.born_ms) >= millis(policy.max_age)
    }

    /// It takes no more streams.
    fn is_retired(&self) -> bool {
        self.channel.most_streams() == 0
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.channel.leave();
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

    /// The connection to begin the stream on.
    pub(super) fn channel(&self) -> &Rc<Channel> {
        &self.link.channel
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
            list.retain(|link| !link.is_retired());
        }
        found
    }

    /// Whether there may be room in a moment without another connection.
    fn is_settling(&self) -> bool {
        self.opening.get() || self.list.borrow().iter().any(|link| link.channel.is_unsaid())
    }

    /// Lets go of connections that are over, too old, or were idle for too long.
    pub(super) fn expire(&self, now_ms: u64, policy: PoolPolicy) {
        self.list.borrow_mut().retain(|link| {
            let idle = link.streams.get() == 0
                && now_ms.saturating_sub(link.idle_since_ms.get()) >= millis(policy.idle);
            !(idle || link.is_old(now_ms, policy) || link.is_retired())
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
pub(super) fn begin(thread: &Rc<Thread>, endpoint: &Rc<Endpoint>, io: UpstreamIo) -> Slot {
    let clock = &thread.clock;
    let channel = Channel::new(thread.limits, Rc::clone(clock), Rc::clone(&endpoint.links.changed));
    let link = Rc::new(Link {
        channel: Rc::clone(&channel),
        used: Cell::new(false),
        streams: Cell::new(0),
        born_ms: clock.now_ms(),
        idle_since_ms: Cell::new(clock.now_ms()),
    });
    let open = Open::new(&thread.counters);
    let running = h2::run(channel, io, endpoint.address, clock.timer());
    // Ends with the connection: when nobody holds it any more, or when the upstream has enough.
    drop(spawn_local(async move {
        let _open = open;
        running.await;
    }));
    let slot = Slot::on(&link);
    endpoint.links.list.borrow_mut().push(link);
    slot
}

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
