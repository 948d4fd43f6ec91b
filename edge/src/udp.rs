//! Datagrams that are passed on: of one port's slot, on the slot's thread.
//!
//! UDP has no connections, so there are *sessions*: what one client says by one address and port, and what it is answered.
//! Its first datagram opens a session: the port's route, a backend by weight, one of its endpoints, and a socket of the
//! session's own that is connected to it. So what comes by that socket is the endpoint's and goes to that client and nobody
//! else, from the address that the client has called. A session ends when it was silent for long enough, had its answers, or
//! may not go on: its endpoint is gone, not well, or no longer what the route says. Then the client's next datagram opens
//! another one.
//!
//! Nothing waits here. What cannot be passed on at once is dropped and counted, as UDP has it; the queues are the sockets'.
//!
//! A client is one worker thread's (see [`sys::steer`]), and another's when workers come or go. Its session is made anew
//! there, with an endpoint of that worker's choice: the same only where the policy hashes the client's address. What the
//! session before is still answered, the client gets from there.

mod session;
mod table;

use std::{
    cell::{Cell, RefCell},
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use model::CompiledStream;
use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use tokio::{
    io::Interest,
    net::UdpSocket,
    sync::Notify,
    task::{JoinHandle, spawn_local},
    time::timeout,
};
use tracing::{debug, warn};

use crate::{
    config::{Config, TenantTable},
    limits::{ACCEPT_PAUSE, STREAM_TRIES, UDP_BUFFER, UDP_READS},
    listen::Point,
    metrics::{Counter, Counters},
    stream::{
        draw,
        record::{Carried, Record},
        source_key,
    },
    upstream::Endpoint,
    worker::Thread,
};
use session::{Ended, Session};
use table::Table;

/// The longest datagram, and what the kernel joins at most.
const DATAGRAM: usize = 64 * 1024;

/// Why a datagram is not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Dropped {
    #[error("the port has no route")]
    NoRoute,
    #[error("the route has no endpoint that may be used")]
    NoEndpoint,
    #[error("there are as many sessions as may be")]
    Limit,
    #[error("the endpoint cannot be reached")]
    Unreachable,
    #[error("the socket's buffer is full")]
    Full,
    #[error("it cannot be answered, or there is no socket for it")]
    Failed,
}

impl Dropped {
    fn counter(self, counters: &Counters) -> &Counter {
        match self {
            Self::NoRoute => &counters.udp_no_route,
            Self::NoEndpoint => &counters.udp_no_endpoint,
            Self::Limit => &counters.udp_over_limit,
            Self::Unreachable => &counters.udp_unreachable,
            Self::Full => &counters.udp_full,
            Self::Failed => &counters.udp_failed,
        }
    }
}

/// A slot that is served; no longer, when it is dropped.
pub(crate) struct Site {
    port: Rc<Port>,
    reading: JoinHandle<()>,
}

impl Site {
    /// Begins to serve.
    ///
    /// # Errors
    ///
    /// When the socket cannot be watched, or set up.
    pub(crate) fn open(thread: &Rc<Thread>, point: &Arc<Point>, socket: OwnedFd) -> io::Result<Self> {
        let socket = std::net::UdpSocket::from(socket);
        let state = UdpSocketState::new((&socket).into())?;
        // What has just been set up is a socket for QUIC, which wants no fragments.
        sys::steer::allow_fragments(socket.as_fd(), point.listen.bind.is_ipv6())?;
        state.set_recv_buffer_size((&socket).into(), UDP_BUFFER)?;
        let port = Rc::new(Port {
            thread: Rc::clone(thread),
            point: Arc::clone(point),
            socket: UdpSocket::from_std(socket)?,
            state,
            sessions: RefCell::default(),
            is_closing: Cell::new(false),
            emptied: Notify::new(),
            answer: RefCell::new(vec![0; DATAGRAM].into()),
        });
        let reading = spawn_local(read(Rc::clone(&port)));
        Ok(Self { port, reading })
    }

    /// Opens no new sessions. Returns when the last one has ended, or at the deadline.
    pub(crate) async fn close(self, deadline: Duration) {
        self.port.is_closing.set(true);
        let empty = async {
            while !self.port.sessions.borrow().is_empty() {
                self.port.emptied.notified().await;
            }
        };
        if timeout(deadline, empty).await.is_err() {
            self.port.sessions.borrow().each(|session| session.end(Ended::Drained));
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// A slot's socket and its sessions.
struct Port {
    thread: Rc<Thread>,
    point: Arc<Point>,
    /// Not connected: all clients'.
    socket: UdpSocket,
    state: UdpSocketState,
    sessions: RefCell<Table<Rc<Session>>>,
    is_closing: Cell<bool>,
    emptied: Notify,
    /// What an endpoint says, on its way to the client.
    answer: RefCell<Box<[u8]>>,
}

/// A client, and where it has called: the answers come from there.
#[derive(Debug, Clone, Copy)]
struct Caller {
    client: SocketAddr,
    called: Option<IpAddr>,
}

async fn read(port: Rc<Port>) {
    let mut memory = vec![0; UDP_READS * DATAGRAM];
    let mut metas = [RecvMeta::default(); UDP_READS];
    loop {
        let receive = || {
            let mut parts = memory.chunks_mut(DATAGRAM);
            let mut buffers: [_; UDP_READS] =
                std::array::from_fn(|_| IoSliceMut::new(parts.next().unwrap_or_default()));
            port.state.recv((&port.socket).into(), &mut buffers, &mut metas)
        };
        match port.socket.async_io(Interest::READABLE, receive).await {
            Ok(count) => {
                for (meta, part) in metas[..count].iter().zip(memory.chunks(DATAGRAM)) {
                    let caller = Caller { client: meta.addr, called: meta.dst_ip };
                    joined(part, meta).for_each(|datagram| port.take(caller, datagram));
                }
            }
            Err(error) => {
                warn!(bind = %port.point.listen.bind, %error, "cannot receive datagrams, pausing");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
        tokio::task::yield_now().await;
    }
}

/// The datagrams of one read: the kernel may have joined several of one client's.
fn joined<'b>(part: &'b [u8], meta: &RecvMeta) -> impl Iterator<Item = &'b [u8]> {
    let bytes = &part[..meta.len.min(part.len())];
    // One without content is one, too.
    let empty = bytes.is_empty().then_some(bytes);
    empty.into_iter().chain(bytes.chunks(meta.stride.max(1)))
}

impl Port {
    /// Passes on what a client says.
    fn take(self: &Rc<Self>, caller: Caller, datagram: &[u8]) {
        let counters = &self.thread.counters;
        counters.bytes_in.add(datagram.len() as u64);
        match self.pass(caller, datagram) {
            Ok(()) => counters.udp_received.add(1),
            Err(why) => {
                why.counter(counters).add(1);
                debug!(client = %caller.client, bind = %self.point.listen.bind, %why, "a datagram is dropped");
            }
        }
    }

    fn pass(self: &Rc<Self>, caller: Caller, datagram: &[u8]) -> Result<(), Dropped> {
        let config = self.thread.config();
        let mut failed = None;
        if let Some(session) = self.session(&config, caller.client) {
            match session.send(datagram) {
                Err(Dropped::Unreachable) => {
                    // That is said of what was sent before; this one is not sent yet.
                    session.end(Ended::Unreachable);
                    self.forget(&session);
                    failed = Some(Rc::clone(session.endpoint()));
                }
                done => return done,
            }
        }
        self.open(&config, caller, failed)?.send(datagram)
    }

    /// The client's session, if it may go on.
    fn session(&self, config: &Arc<Config>, client: SocketAddr) -> Option<Rc<Session>> {
        let session = Rc::clone(self.sessions.borrow().get(&client)?);
        if !session.is_current(&self.thread, config) {
            if !self.holds(config, &session) {
                session.leave();
                self.forget(&session);
                return None;
            }
            session.see(&self.thread, config);
        }
        Some(session)
    }

    /// Whether the route leads to the session's endpoint still, which may be used.
    fn holds(&self, config: &Config, session: &Session) -> bool {
        let Ok((table, route)) = self.route(config) else { return false };
        session.follow(table.sessions(self.point.listen.port));
        let backends = route.forward.variants().iter().filter_map(|variant| variant.backend.as_ref());
        backends.into_iter().any(|backend| {
            let balancer = self.thread.upstreams.balancer(&self.thread, table, backend);
            balancer.allows(&self.thread, session.endpoint())
        })
    }

    fn route<'c>(&self, config: &'c Config) -> Result<(&'c TenantTable, &'c CompiledStream), Dropped> {
        let port = self.point.listen.port;
        let tenant = config.pool.tenant_of(port, true).ok_or(Dropped::NoRoute)?;
        let table = config.tenants.get(tenant.as_str()).ok_or(Dropped::NoRoute)?;
        let route = table.routes.streams().find_udp(port).ok_or(Dropped::NoRoute)?;
        Ok((table, route))
    }

    /// A new session, with another endpoint than the one that failed if there is another.
    fn open(
        self: &Rc<Self>,
        config: &Arc<Config>,
        caller: Caller,
        mut failed: Option<Rc<Endpoint>>,
    ) -> Result<Rc<Session>, Dropped> {
        let thread = &self.thread;
        let (table, route) = self.route(config)?;
        // Who cannot be answered does not get a session.
        if caller.client.port() == 0 {
            return Err(Dropped::Failed);
        }
        let has_room = self.sessions.borrow().has_room(caller.client, &thread.limits);
        if self.is_closing.get() || !has_room || !thread.door.borrow().is_open(&thread.limits) {
            return Err(Dropped::Limit);
        }
        let backend = draw(thread, &route.forward).ok_or(Dropped::NoEndpoint)?;
        let balancer = thread.upstreams.balancer(thread, table, backend);
        balancer.group.retries.borrow_mut().earn();
        let key = source_key(backend, caller.client);
        for _ in 0..STREAM_TRIES {
            let endpoint = balancer.pick(thread, key, failed.as_ref()).map_err(|_| Dropped::NoEndpoint)?;
            match session::connect(endpoint.address) {
                Ok(socket) => {
                    let policy = table.sessions(self.point.listen.port);
                    let session = Session::new(thread, caller, socket, &balancer, endpoint, policy);
                    session.see(thread, config);
                    let mut record = Record::begin(thread, caller.client, Carried::Udp);
                    record.of(&table.tenant);
                    record.found(&route.id);
                    record.tries(session.endpoint().address);
                    self.begin(&session, record);
                    return Ok(session);
                }
                Err(Dropped::Unreachable) => {
                    session::unreachable(thread, &endpoint, Some(&balancer));
                    failed = Some(endpoint);
                }
                Err(other) => return Err(other),
            }
        }
        Err(Dropped::Unreachable)
    }

    fn begin(self: &Rc<Self>, session: &Rc<Session>, mut record: Record) {
        let thread = &self.thread;
        record.opened();
        thread.counters.udp_sessions.add(1);
        self.sessions.borrow_mut().insert(session.client(), Rc::clone(session));
        // Entered here, not by the task's first turn: a drain that ends in between would take it for none.
        let seat = thread.registry.enter(thread.random_below(1000));
        seat.session();
        spawn_local(session::run(Rc::clone(self), Rc::clone(session), seat, record));
    }

    /// The client's next datagram opens another session.
    fn forget(&self, session: &Rc<Session>) {
        let mut sessions = self.sessions.borrow_mut();
        let client = session.client();
        if !sessions.get(&client).is_some_and(|known| Rc::ptr_eq(known, session)) {
            // It was forgotten before, and the client has another by now.
            return;
        }
        sessions.remove(&client);
        if sessions.is_empty() {
            self.emptied.notify_one();
        }
    }

    /// Sends an answer to a client. Whether it went out.
    fn answer(&self, caller: Caller, datagram: &[u8]) -> bool {
        let transmit = Transmit {
            destination: caller.client,
            ecn: None,
            contents: datagram,
            segment_size: None,
            src_ip: caller.called,
        };
        let counters = &self.thread.counters;
        let why = match self.state.try_send((&self.socket).into(), &transmit) {
            Ok(()) => {
                counters.udp_sent.add(1);
                counters.bytes_out.add(datagram.len() as u64);
                return true;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Dropped::Full,
            Err(error) => {
                debug!(client = %caller.client, %error, "an answer cannot be sent");
                Dropped::Failed
            }
        };
        why.counter(counters).add(1);
        false
    }
}
