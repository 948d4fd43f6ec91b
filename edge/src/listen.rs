//! Listening sockets: who accepts from which, and the bounds on what is accepted.
//!
//! The sockets are shared with other processes. So nobody calls `shutdown` on one or changes its `O_NONBLOCK`, and
//! one that is given back leaves epoll before it is closed: closing alone would leave it registered, because the
//! other processes keep it open, and its events would come for ever.

use std::{
    cell::{Cell, OnceCell},
    collections::{BTreeMap, HashMap},
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    rc::Rc,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use api::agent::{IdleConnection, Listen, MAX_SOCKETS, Slots, Transport};
use rustix::{
    io::Errno,
    net::{SocketFlags, acceptfrom_with, sockopt},
};
use socket2::SockRef;
use sys::{
    polled::{Interest, Polled},
    reuseport,
};
use tokio::{
    sync::oneshot,
    task::{JoinHandle, spawn_local},
};
use tracing::{debug, warn};

use crate::{
    admit::{Overload, admit_connection},
    downstream::{self, Arrival},
    limits::{
        ACCEPT_BATCH, ACCEPT_LEAST_PER_MS, ACCEPT_PASS, ACCEPT_PAUSE, FIRST_BYTE, Limits, TCP_KEEPALIVE,
        UNSENT,
    },
    quic,
    share::Share,
    socket::{self, Socket},
    udp,
    worker::Thread,
};

/// Why slots could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// Not one socket for each slot.
    #[error("{slots} slots came with {sockets} sockets")]
    Count {
        /// Slots named.
        slots: usize,
        /// Sockets beside them.
        sockets: usize,
    },
    /// More slots of a UDP address than threads: two readers of one thread gain nothing.
    #[error("more than one UDP slot of an address for a thread")]
    Crowded,
    /// UDP whose datagrams are not to be passed on, without TLS.
    #[error("requests by UDP are HTTP/3, which is never without TLS")]
    Cleartext,
    /// Already held.
    #[error("slot {0} is held already")]
    Held(u32),
    /// A descriptor could not be duplicated.
    #[error("duplicate a socket")]
    Duplicate(#[source] io::Error),
    /// A socket could not be watched.
    #[error("watch a socket")]
    Register(#[source] io::Error),
    /// The thread is gone.
    #[error("the worker has ended")]
    Ended,
}

/// Which slots the worker holds: the authority, of which the threads' sockets are duplicates.
#[derive(Debug, Default)]
pub(crate) struct Listening {
    held: BTreeMap<Listen, BTreeMap<u32, Held>>,
    /// UDP sockets that are only held.
    kept: BTreeMap<Listen, BTreeMap<u32, OwnedFd>>,
}

#[derive(Debug)]
struct Held {
    socket: OwnedFd,
    thread: usize,
}

impl Listening {
    /// Notes the slots as held and says which thread gets each: the one with the fewest of that address.
    pub(crate) fn place(
        &mut self,
        slots: &Slots,
        sockets: &[OwnedFd],
        threads: usize,
    ) -> Result<Vec<usize>, TakeError> {
        let held = self.held.entry(slots.listen.clone()).or_default();
        if let Some(slot) = slots.slots.iter().find(|slot| held.contains_key(slot)) {
            return Err(TakeError::Held(*slot));
        }
        let copies: Result<Vec<_>, _> = sockets.iter().map(OwnedFd::try_clone).collect();
        let copies = copies.map_err(TakeError::Duplicate)?;
        let mut load = vec![0_usize; threads.max(1)];
        held.values().for_each(|h| load[h.thread] += 1);
        let mut placed = Vec::with_capacity(copies.len());
        for (slot, socket) in slots.slots.iter().zip(copies) {
            let thread = (0..load.len()).min_by_key(|t| load[*t]).unwrap_or(0);
            load[thread] += 1;
            if slots.listen.transport == Transport::Udp && load[thread] > 1 {
                return Err(TakeError::Crowded);
            }
            held.insert(*slot, Held { socket, thread });
            placed.push(thread);
        }
        Ok(placed)
    }

    /// Has clients accepted from now on before they have said anything. How long those take whose wait has begun.
    ///
    /// Theirs are not connections for the kernel yet: if the last copy of a socket closes, their first bytes meet a reset.
    pub(crate) fn accept_silent(&self) -> Duration {
        let mut waits = Duration::ZERO;
        for held in
            self.held.iter().filter(|(listen, _)| speaks_first(listen)).flat_map(|(_, held)| held.values())
        {
            match reuseport::set_defer_accept(held.socket.as_fd(), None) {
                // The kernel asks them once more, whose timers are late by some per cent.
                Ok(()) => waits = FIRST_BYTE * 5 / 4,
                Err(error) => warn!(%error, "clients that have said nothing yet may be reset"),
            }
        }
        waits
    }

    /// Forgets slots and closes our duplicates of them.
    pub(crate) fn forget(&mut self, slots: &Slots) {
        if let Some(held) = self.held.get_mut(&slots.listen) {
            slots.slots.iter().for_each(|slot| drop(held.remove(slot)));
            if held.is_empty() {
                self.held.remove(&slots.listen);
            }
        }
        if let Some(kept) = self.kept.get_mut(&slots.listen) {
            slots.slots.iter().for_each(|slot| drop(kept.remove(slot)));
        }
    }

    /// All slots.
    pub(crate) fn held(&self) -> Vec<Slots> {
        let slots = |(listen, held): (&Listen, &BTreeMap<u32, Held>)| Slots {
            listen: listen.clone(),
            slots: held.keys().copied().collect(),
        };
        self.held.iter().map(slots).collect()
    }

    /// Holds sockets without reading them.
    pub(crate) fn keep(&mut self, slots: Slots, sockets: Vec<OwnedFd>) {
        self.kept.entry(slots.listen).or_default().extend(slots.slots.into_iter().zip(sockets));
    }

    /// What is kept, with duplicates of the sockets, in packets.
    pub(crate) fn kept(&self) -> io::Result<Vec<(Slots, Vec<OwnedFd>)>> {
        let mut packets = Vec::new();
        for (listen, kept) in &self.kept {
            let all: Vec<_> = kept.iter().collect();
            for part in all.chunks(MAX_SOCKETS) {
                let slots = part.iter().map(|(slot, _)| **slot).collect();
                let sockets: io::Result<Vec<_>> = part.iter().map(|(_, socket)| socket.try_clone()).collect();
                packets.push((Slots { listen: listen.clone(), slots }, sockets?));
            }
        }
        Ok(packets)
    }

    /// Addresses that serve HTTP/3.
    pub(crate) fn quic_addresses(&self) -> Vec<SocketAddr> {
        let udp = self.held.keys().filter(|listen| listen.transport == Transport::Udp && !listen.raw);
        udp.map(|listen| listen.bind).collect()
    }

    /// All slots with duplicates of their sockets.
    pub(crate) fn duplicates(&self) -> io::Result<Vec<(Slots, Vec<OwnedFd>)>> {
        let sockets = self.held.values().map(|held| held.values().map(|h| h.socket.try_clone()).collect());
        let sockets: io::Result<Vec<Vec<OwnedFd>>> = sockets.collect();
        Ok(self.held().into_iter().zip(sockets?).collect())
    }
}

/// Connections per client address, over all threads. Taken at accept and close only.
#[derive(Debug, Default)]
pub(crate) struct ClientCounts(Mutex<HashMap<IpAddr, usize>>);

impl ClientCounts {
    fn enter(&self, client: IpAddr, limit: usize) -> bool {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(client).or_default();
        let allowed = *count < limit;
        if allowed {
            *count += 1;
        }
        allowed
    }

    fn leave(&self, client: IpAddr) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&client);
            }
        }
    }
}

/// One listening address, as the connections that came by it know it.
#[derive(Debug)]
pub(crate) struct Point {
    pub(crate) listen: Listen,
    pub(crate) connections: AtomicUsize,
}

/// A connection's place under the limits; dropped when it ends.
pub(crate) struct Admitted {
    pub(crate) point: Arc<Point>,
    client: Option<IpAddr>,
    thread: Rc<Thread>,
}

impl Admitted {
    pub(crate) fn new(
        thread: &Rc<Thread>,
        point: &Arc<Point>,
        client: SocketAddr,
        limits: &Limits,
    ) -> Option<Self> {
        let mut admitted = Self::of_unknown(thread, point, limits)?;
        admitted.count(client, limits).then_some(admitted)
    }

    /// The place of a connection whose client is yet to be heard of.
    fn of_unknown(thread: &Rc<Thread>, point: &Arc<Point>, limits: &Limits) -> Option<Self> {
        if !thread.door.borrow().is_open(limits) {
            return None;
        }
        point.connections.fetch_add(1, Ordering::Relaxed);
        thread.counters.connections.add(1);
        let admitted = Self { point: Arc::clone(point), client: None, thread: Rc::clone(thread) };
        (point.connections.load(Ordering::Relaxed) <= limits.connections).then_some(admitted)
    }

    /// Counts the connection as `client`'s, once. Whether that client may have another.
    pub(crate) fn count(&mut self, client: SocketAddr, limits: &Limits) -> bool {
        let client = counted(client);
        if client.is_some_and(|c| !self.thread.shared.clients.enter(c, limits.connections_per_client)) {
            return false;
        }
        self.client = client;
        true
    }
}

/// Whose a connection is among the tenants, once it is known; dropped when it ends.
#[derive(Debug)]
pub(crate) struct Membership {
    point: Arc<Point>,
    share: OnceCell<Rc<Share>>,
    /// One of its requests was answered.
    answered: Cell<bool>,
    /// One of its requests waits for its turn before those of strangers.
    waits: Cell<bool>,
}

impl Membership {
    pub(crate) fn new(point: &Arc<Point>) -> Self {
        Self {
            point: Arc::clone(point),
            share: OnceCell::new(),
            answered: Cell::default(),
            waits: Cell::default(),
        }
    }

    /// Where its connection was accepted.
    pub(crate) fn listen(&self) -> &Listen {
        &self.point.listen
    }

    /// One of the connection's requests was answered.
    pub(crate) fn answered(&self) {
        self.answered.set(true);
    }

    /// Whose request it is that is to wait for its turn now: one at a time is somebody's whom we know.
    pub(crate) fn asks(&self) -> Asking<'_> {
        let known = self.answered.get() && !self.waits.replace(true);
        Asking(known.then_some(self))
    }

    /// Whose it is, if that is known.
    pub(crate) fn share(&self) -> Option<&Rc<Share>> {
        self.share.get()
    }

    /// The connection is `share`'s tenant's, unless it is another's already.
    ///
    /// # Errors
    /// [`Overload`], if that tenant may not have another.
    pub(crate) fn join(&self, thread: &Thread, share: &Rc<Share>) -> Result<(), Overload> {
        if self.share.get().is_some() {
            return Ok(());
        }
        let open = self.point.connections.load(Ordering::Relaxed) as u64;
        admit_connection(&thread.shares, share, open, &thread.limits)?;
        share.counters.connections.add(1);
        // It was empty a moment ago.
        let _set = self.share.set(Rc::clone(share));
        Ok(())
    }
}

/// A request that waits for its turn.
pub(crate) struct Asking<'m>(Option<&'m Membership>);

impl Asking<'_> {
    /// One whose client is not known.
    pub(crate) fn stranger() -> Self {
        Self(None)
    }

    pub(crate) fn is_known(&self) -> bool {
        self.0.is_some()
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if let Some(membership) = self.0 {
            membership.waits.set(false);
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        if let Some(share) = self.share.get() {
            share.counters.connections.sub(1);
        }
    }
}

/// The client that a connection counts for. A proxy on this machine speaks for many, so it is not counted; an IPv4
/// client on a dual-stack socket is the same client.
pub(crate) fn counted(peer: SocketAddr) -> Option<IpAddr> {
    let client = peer.ip().to_canonical();
    (!client.is_loopback()).then_some(client)
}

impl Point {
    fn new(listen: Listen) -> Arc<Self> {
        Arc::new(Self { listen, connections: AtomicUsize::new(0) })
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.point.connections.fetch_sub(1, Ordering::Relaxed);
        self.thread.counters.connections.sub(1);
        if let Some(client) = self.client {
            self.thread.shared.clients.leave(client);
        }
    }
}

/// Whether clients speak first, whatever they speak.
fn speaks_first(listen: &Listen) -> bool {
    listen.transport == Transport::Tcp && (listen.tls || !listen.raw)
}

enum Acceptor {
    Tcp {
        /// Says whether to accept what is queued before the socket is closed.
        stop: oneshot::Sender<bool>,
        task: JoinHandle<()>,
    },
    Quic(quic::Site),
    Udp(udp::Site),
}

/// The sockets that one thread accepts from.
#[derive(Default)]
pub(crate) struct Acceptors {
    points: BTreeMap<Listen, (Arc<Point>, BTreeMap<u32, Acceptor>)>,
}

impl Acceptors {
    /// Begins to accept.
    pub(crate) fn take(
        &mut self,
        thread: &Rc<Thread>,
        slots: &Slots,
        sockets: Vec<OwnedFd>,
    ) -> io::Result<()> {
        let (point, acceptors) = self
            .points
            .entry(slots.listen.clone())
            .or_insert_with(|| (Point::new(slots.listen.clone()), BTreeMap::new()));
        if slots.listen.transport == Transport::Udp {
            for (slot, socket) in slots.slots.iter().zip(sockets) {
                let acceptor = match slots.listen.raw {
                    true => Acceptor::Udp(udp::Site::open(thread, point, socket)?),
                    false => Acceptor::Quic(quic::Site::open(thread, point, *slot, socket)?),
                };
                acceptors.insert(*slot, acceptor);
            }
            return Ok(());
        }
        for (slot, socket) in slots.slots.iter().zip(sockets) {
            // What is accepted inherits it: one system call for all connections.
            sockopt::set_tcp_nodelay(&socket, true)?;
            sockopt::set_socket_keepalive(&socket, true)?;
            sockopt::set_tcp_keepidle(&socket, TCP_KEEPALIVE)?;
            sockopt::set_tcp_keepintvl(&socket, TCP_KEEPALIVE)?;
            sockopt::set_tcp_keepcnt(&socket, 3)?;
            SockRef::from(&socket).set_tcp_notsent_lowat(UNSENT)?;
            socket::unpaced(&socket, slots.listen.bind);
            if speaks_first(&slots.listen) {
                reuseport::set_defer_accept(socket.as_fd(), Some(FIRST_BYTE))?;
            }
            let listener = Polled::new(socket, Interest::READABLE)?;
            let (stop, stopped) = oneshot::channel();
            let task = spawn_local(accept(Rc::clone(thread), listener, Arc::clone(point), stopped));
            acceptors.insert(*slot, Acceptor::Tcp { stop, task });
        }
        Ok(())
    }

    /// Serves connections that another worker has accepted, of addresses that this one may not listen on yet.
    pub(crate) fn adopt(&self, thread: &Rc<Thread>, connections: Vec<(IdleConnection, OwnedFd)>) {
        for (connection, socket) in connections {
            let point = self.points.get(&connection.listen).map(|(point, _)| Arc::clone(point));
            let point = point.unwrap_or_else(|| Point::new(connection.listen.clone()));
            let Some(admitted) = Admitted::new(thread, &point, connection.client, &thread.limits) else {
                over_limit(thread, &point, connection.client);
                continue;
            };
            thread.counters.adopted.add(1);
            let seat = thread.registry.enter_aged(thread.random_below(1000), connection.age_ms);
            let socket = Socket::accepted(socket);
            spawn_local(Box::pin(downstream::resume(Rc::clone(thread), socket, connection, admitted, seat)));
        }
    }

    /// Whether no TCP slot is accepted from. UDP slots stay to the end: connections live on them.
    pub(crate) fn is_empty(&self) -> bool {
        self.points.keys().all(|listen| listen.transport == Transport::Udp)
    }

    /// Ends QUIC, when no connection is left.
    pub(crate) async fn end_quic(self) {
        let acceptors = self.points.into_values().flat_map(|(_, acceptors)| acceptors.into_values());
        for acceptor in acceptors {
            if let Acceptor::Quic(site) = acceptor {
                site.say_goodbye().await;
            }
        }
    }

    /// Stops to accept; returns when the sockets are closed. A UDP slot's is closed when its last connection or session is gone.
    pub(crate) async fn drop_slots(&mut self, slots: &Slots, empty: bool, deadline: Duration) {
        let Some((_, acceptors)) = self.points.get_mut(&slots.listen) else { return };
        for slot in &slots.slots {
            match acceptors.remove(slot) {
                Some(Acceptor::Tcp { stop, task }) => {
                    // Errors mean that the task has ended, by a panic: the socket is closed then, too.
                    let _ended = stop.send(empty);
                    let _panicked = task.await;
                }
                Some(Acceptor::Quic(site)) => drop(spawn_local(site.close(deadline))),
                Some(Acceptor::Udp(site)) => drop(spawn_local(site.close(deadline))),
                None => {}
            }
        }
        if acceptors.is_empty() {
            self.points.remove(&slots.listen);
        }
    }
}

async fn accept(
    thread: Rc<Thread>,
    listener: Polled<OwnedFd>,
    point: Arc<Point>,
    mut stop: oneshot::Receiver<bool>,
) {
    let mut batch = ACCEPT_BATCH;
    loop {
        let ready = tokio::select! {
            biased;
            stop = &mut stop => {
                if stop.unwrap_or(false) {
                    accept_queued(&thread, &listener, &point);
                }
                return;
            }
            ready = listener.readable() => ready,
        };
        // The runtime ends.
        let Ok(mut ready) = ready else { return };
        match accept_some(&thread, &listener, &point, batch) {
            Ok(Queue::Empty) => ready.clear_ready(),
            Ok(Queue::Unknown) => {
                let accepted = Instant::now();
                tokio::task::yield_now().await;
                batch = next_batch(batch, accepted.elapsed());
            }
            Err(error) => {
                warn!(%error, "cannot accept connections, pausing");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// How many connections are accepted at once after `batch` of them, behind which all that was ready took so long: as many as
/// take [`ACCEPT_PASS`] with all that they ask for. So a burst of clients waits in the kernel's queue, and not in front of
/// those who are here.
fn next_batch(batch: usize, took: Duration) -> usize {
    // What takes long may be others' requests: clients are taken in all the same, to be refused if need be.
    let least = 1 + usize::try_from(took.as_millis()).unwrap_or(ACCEPT_BATCH) * ACCEPT_LEAST_PER_MS;
    let next = if took > ACCEPT_PASS { batch / 2 } else { batch * 2 };
    next.clamp(least.min(ACCEPT_BATCH), ACCEPT_BATCH)
}

/// What is known of the connections that wait in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Queue {
    Empty,
    /// As many were accepted as were wanted.
    Unknown,
}

/// Accepts at most `most` connections. Asks the kernel itself: the runtime would ask for its readiness each time, and knows only of
/// what its last look at the events told.
///
/// # Errors
/// Those that are ours (no descriptors, no memory) and will last. Others are a connection's own.
fn accept_some(
    thread: &Rc<Thread>,
    listener: &Polled<OwnedFd>,
    point: &Arc<Point>,
    most: usize,
) -> io::Result<Queue> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    for _ in 0..most {
        match acceptfrom_with(listener.inner(), flags) {
            Ok((socket, peer)) => {
                let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
                if let Some(peer) = peer {
                    begin(thread, point, Socket::accepted(socket), peer);
                }
            }
            Err(Errno::WOULDBLOCK) => return Ok(Queue::Empty),
            // Not the end of the queue.
            Err(Errno::INTR) => {}
            Err(error) => {
                thread.counters.accept_errors.add(1);
                if [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM].contains(&error) {
                    return Err(error.into());
                }
            }
        }
    }
    Ok(Queue::Unknown)
}

/// Accepts until the queue is empty; what is left is reset when the socket closes.
fn accept_queued(thread: &Rc<Thread>, listener: &Polled<OwnedFd>, point: &Arc<Point>) {
    while matches!(accept_some(thread, listener, point, ACCEPT_BATCH), Ok(Queue::Unknown)) {}
}

fn begin(thread: &Rc<Thread>, point: &Arc<Point>, stream: Socket, peer: SocketAddr) {
    thread.counters.accepted.add(1);
    // A peer that speaks for others is no client; its connections count for those.
    let introduces = thread.config().pool.introduces(point.listen.port, peer.ip());
    let admitted = match introduces {
        None => Admitted::new(thread, point, peer, &thread.limits),
        Some(_) => Admitted::of_unknown(thread, point, &thread.limits),
    };
    let Some(admitted) = admitted else {
        over_limit(thread, point, peer);
        return;
    };
    // Entered here, not by the task's first turn: a drain that ends in between would take it for no connection.
    let seat = thread.registry.enter(thread.random_below(1000));
    let from = Arrival { stream, peer, introduces };
    // Boxed: a task is moved several times before it is where it stays, and once more at its end.
    spawn_local(Box::pin(downstream::serve(Rc::clone(thread), from, admitted, seat)));
}

/// A client has, or an address has, as many connections as it may.
pub(crate) fn over_limit(thread: &Thread, point: &Point, client: SocketAddr) {
    thread.counters.over_limit.add(1);
    debug!(%client, bind = %point.listen.bind, "connection limit reached");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_so_many_connections_whatever_its_notation() {
        let counts = ClientCounts::default();
        let client = |text: &str| counted(text.parse().unwrap());
        let plain = client("192.0.2.1:1").unwrap();
        let mapped = client("[::ffff:192.0.2.1]:2").unwrap();
        assert_eq!(plain, mapped);
        assert!(counts.enter(plain, 2));
        assert!(counts.enter(mapped, 2));
        assert!(!counts.enter(plain, 2));
        assert!(counts.enter(client("[2001:db8::1]:1").unwrap(), 2), "another client");
        counts.leave(mapped);
        assert!(counts.enter(plain, 2));
        for loopback in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert_eq!(client(loopback), None, "{loopback}");
        }
    }

    #[test]
    fn as_many_are_accepted_as_are_worked_on_in_time() {
        let settled = |each: Duration| {
            let mut batch = ACCEPT_BATCH;
            (0..20).for_each(|_| batch = next_batch(batch, each * u32::try_from(batch).unwrap()));
            batch
        };
        assert_eq!(settled(Duration::from_micros(10)), ACCEPT_BATCH);
        assert!(settled(Duration::from_micros(300)) <= 2, "what they ask for is much");
        // All else takes ten milliseconds.
        let took = Duration::from_millis(10);
        let settled = (0..20).fold(1, |batch, _| next_batch(batch, took));
        assert!(settled >= 20, "2,000 a second, whatever else there is to do: {settled}");
        assert_eq!(next_batch(1, Duration::from_secs(1)), ACCEPT_BATCH);
    }

    #[test]
    fn of_one_connection_one_request_at_a_time_goes_before_strangers() {
        let listen = Listen {
            bind: "127.0.0.1:1".parse().unwrap(),
            port: 80,
            tls: false,
            transport: Transport::Tcp,
            raw: false,
        };
        let membership = Membership::new(&Arc::new(Point { listen, connections: AtomicUsize::new(0) }));
        assert!(!membership.asks().is_known(), "nobody knows it");
        membership.answered();
        let first = membership.asks();
        assert!(first.is_known() && !membership.asks().is_known());
        drop(first);
        assert!(membership.asks().is_known());
    }

    #[test]
    fn who_is_gone_is_forgotten() {
        let counts = ClientCounts::default();
        let client = "192.0.2.1".parse().unwrap();
        assert!(counts.enter(client, 1));
        assert!(!counts.enter(client, 1));
        counts.leave(client);
        assert!(counts.0.lock().unwrap().is_empty());
    }
}
