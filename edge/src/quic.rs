//! QUIC endpoints: one for each UDP slot, on the slot's thread, for the slot's life.
//!
//! quinn does the protocol; here are its bounds (several of its defaults are none), its keys, and who gets in.

mod config;
mod tls;

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use quinn::{Endpoint, Incoming, Runtime, TokioRuntime};
use tokio::{
    sync::watch,
    task::{JoinHandle, spawn_local},
    time::timeout,
};
use tracing::{debug, warn};

use crate::{
    downstream::h3,
    limits::{ACCEPT_BATCH, QUIC_FAREWELL},
    listen::{Admitted, Point},
    worker::Thread,
};

/// A slot that is served.
pub(crate) struct Site {
    endpoint: Endpoint,
    /// Said to the slot's connections: no longer served.
    leaving: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Site {
    /// Begins to serve.
    ///
    /// # Errors
    ///
    /// When the socket cannot be watched, or TLS cannot be used.
    pub(crate) fn open(
        thread: &Rc<Thread>,
        point: &Arc<Point>,
        slot: u32,
        socket: OwnedFd,
    ) -> io::Result<Self> {
        let shared = &thread.shared;
        let tls = tls::ByHello::new(Arc::clone(&shared.tls), point.listen.port)?;
        let server = config::server(tls, &shared.quic, &thread.limits)?;
        let endpoint = config::endpoint(&shared.quic, slot)?;
        let socket = std::net::UdpSocket::from(socket);
        let same = socket.try_clone()?;
        let wrapped = TokioRuntime.wrap_udp_socket(socket)?;
        // quinn has just asked for the opposite.
        sys::steer::keep_datagrams_apart(same.as_fd())?;
        let endpoint =
            Endpoint::new_with_abstract_socket(endpoint, Some(server), wrapped, Arc::new(TokioRuntime))?;
        let (leaving, left) = watch::channel(false);
        let task = spawn_local(accept(Rc::clone(thread), endpoint.clone(), Arc::clone(point), left));
        Ok(Self { endpoint, leaving, task })
    }

    /// Takes no new connections and retires the others. Returns when the last one is gone, or at the deadline.
    pub(crate) async fn close(self, deadline: Duration) {
        self.endpoint.set_server_config(None);
        self.leaving.send_replace(true);
        // Late: those that are left are closed with the endpoint.
        let _late = timeout(deadline, self.endpoint.wait_idle()).await;
        self.say_goodbye().await;
    }

    /// Sends what is still to be said to clients whose connections have ended.
    pub(crate) async fn say_goodbye(self) {
        self.task.abort();
        self.endpoint.close(crate::h3::Code::NoError.value().into(), b"");
        let _late = timeout(QUIC_FAREWELL, self.endpoint.wait_idle()).await;
    }
}

async fn accept(thread: Rc<Thread>, endpoint: Endpoint, point: Arc<Point>, leaving: watch::Receiver<bool>) {
    loop {
        for _ in 0..ACCEPT_BATCH {
            let Some(incoming) = endpoint.accept().await else {
                // Only after `close`, which aborts us; otherwise the endpoint's own task has ended by a panic.
                return warn!(bind = %point.listen.bind, "QUIC ended");
            };
            begin(&thread, &endpoint, &point, incoming, &leaving);
        }
        tokio::task::yield_now().await;
    }
}

fn begin(
    thread: &Rc<Thread>,
    endpoint: &Endpoint,
    point: &Arc<Point>,
    incoming: Incoming,
    leaving: &watch::Receiver<bool>,
) {
    // An address that is not proved may be anybody's. Under many such, each costs the client a round trip and us nothing.
    if !incoming.remote_address_validated() && thread.unproved.get() >= thread.limits.quic_unproved {
        thread.counters.quic_retries.add(1);
        if let Err(error) = incoming.retry() {
            error.into_incoming().ignore();
        }
        return;
    }
    thread.counters.accepted.add(1);
    let peer = incoming.remote_address();
    let Some(admitted) = Admitted::new(thread, point, peer, &thread.limits) else {
        thread.counters.over_limit.add(1);
        debug!(%peer, bind = %point.listen.bind, "connection limit reached");
        return incoming.refuse();
    };
    let unproved = Unproved::new(thread, &incoming);
    match incoming.accept() {
        Ok(connecting) => {
            debug!(open = endpoint.open_connections(), %peer, "QUIC handshake");
            let seat = thread.registry.enter(thread.random_below(1000));
            let leaving = leaving.clone();
            spawn_local(h3::serve(Rc::clone(thread), connecting, admitted, seat, unproved, leaving));
        }
        Err(error) => {
            thread.counters.handshake_errors.add(1);
            debug!(%peer, %error, "QUIC handshake failed");
        }
    }
}

/// A handshake with an address that is not proved to be the client's; dropped when it is, or at the end.
pub(crate) struct Unproved(Option<Rc<Thread>>);

impl Unproved {
    fn new(thread: &Rc<Thread>, incoming: &Incoming) -> Self {
        if incoming.remote_address_validated() {
            return Self(None);
        }
        thread.unproved.set(thread.unproved.get() + 1);
        Self(Some(Rc::clone(thread)))
    }
}

impl Drop for Unproved {
    fn drop(&mut self) {
        if let Some(thread) = &self.0 {
            thread.unproved.set(thread.unproved.get() - 1);
        }
    }
}
