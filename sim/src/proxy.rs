//! A TCP proxy that does to connections what networks do: delay, silence in one direction or both, ends of all kinds.
//!
//! ```text
//! client -> [ proxy ] -> server        up: what the client sends; down: what the server answers
//! ```
//!
//! Silence holds bytes back and loses none: TCP would send them again. What was held goes on when the silence ends,
//! unless the connection ended meanwhile.

mod pump;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// What happens to bytes in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Way {
    /// They pass.
    #[default]
    Pass,
    /// They arrive so much later, in order.
    Delay(Duration),
    /// They wait until something else holds.
    Silent,
}

/// What happens to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// From the client to the server.
    pub up: Way,
    /// From the server to the client.
    pub down: Way,
}

impl Faults {
    /// Nothing arrives in either direction.
    pub const SILENT: Self = Self { up: Way::Silent, down: Way::Silent };

    /// Everything arrives so much later.
    #[must_use]
    pub fn delay(by: Duration) -> Self {
        Self { up: Way::Delay(by), down: Way::Delay(by) }
    }
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Both sides read the end of the stream; what was on its way is lost.
    Cut,
    /// Both sides get a reset.
    Reset,
    /// The server reads the end of the stream, and what it answers still arrives.
    HalfClose,
}

/// Says who a client is by its address: a label that faults can be given to. `None`: nobody in particular.
pub type Origin = Arc<dyn Fn(SocketAddr) -> Option<u64> + Send + Sync>;

/// Something that a connection is told.
#[derive(Debug, Clone, Copy, Default)]
struct Told {
    faults: Faults,
    end: Option<End>,
}

#[derive(Default)]
struct State {
    next: u64,
    /// What new connections get: those of a label, and all others.
    faults: Faults,
    of_label: BTreeMap<u64, Faults>,
    connections: BTreeMap<u64, Connection>,
}

struct Connection {
    label: Option<u64>,
    told: watch::Sender<Told>,
}

impl State {
    fn faults_of(&self, label: Option<u64>) -> Faults {
        label.and_then(|label| self.of_label.get(&label)).copied().unwrap_or(self.faults)
    }
}

/// A proxy on a port of its own; it ends with its value, and all its connections with it.
pub struct Proxy {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    ended: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Proxy {
    /// A proxy to `to` on a free port.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn to(to: SocketAddr) -> Result<Self> {
        Self::between(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), to, Arc::new(|_| None))
    }

    /// A proxy that listens at `at` and tells clients apart.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn between(at: SocketAddr, to: SocketAddr, origin: Origin) -> Result<Self> {
        let listener = std::net::TcpListener::bind(at).with_context(|| format!("listen on {at}"))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State::default()));
        let (ended, mut end) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let shared = Arc::clone(&state);
        let thread = std::thread::Builder::new().name("proxy".into()).spawn(move || {
            runtime.block_on(async move {
                tokio::select! {
                    () = accept(listener, to, shared, origin) => {}
                    _ = end.wait_for(|ended| *ended) => {}
                }
            });
        })?;
        Ok(Self { address, state, ended, thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Gives these faults to all connections, those that stand and those that come.
    pub fn set(&self, faults: Faults) {
        let mut state = lock(&self.state);
        state.faults = faults;
        state.of_label.clear();
        tell(&state, |_| true, |told| told.faults = faults);
    }

    /// Gives these faults to the connections of one client, those that stand and those that come.
    pub fn set_for(&self, label: u64, faults: Faults) {
        let mut state = lock(&self.state);
        state.of_label.insert(label, faults);
        tell(&state, |connection| connection.label == Some(label), |told| told.faults = faults);
    }

    /// The connections that stand, oldest first.
    #[must_use]
    pub fn connections(&self) -> Vec<u64> {
        lock(&self.state).connections.keys().copied().collect()
    }

    /// Gives these faults to one connection.
    pub fn set_one(&self, connection: u64, faults: Faults) {
        if let Some(connection) = lock(&self.state).connections.get(&connection) {
            connection.told.send_modify(|told| told.faults = faults);
        }
    }

    /// Ends one connection.
    pub fn end_one(&self, connection: u64, end: End) {
        if let Some(connection) = lock(&self.state).connections.get(&connection) {
            connection.told.send_modify(|told| told.end = Some(end));
        }
    }

    /// Ends all connections that stand.
    pub fn end_all(&self, end: End) {
        tell(&lock(&self.state), |_| true, |told| told.end = Some(end));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.ended.send_replace(true);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn tell(state: &State, whom: impl Fn(&Connection) -> bool, what: impl Fn(&mut Told)) {
    for connection in state.connections.values().filter(|connection| whom(connection)) {
        connection.told.send_modify(&what);
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: std::net::TcpListener, to: SocketAddr, state: Arc<Mutex<State>>, origin: Origin) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    while let Ok((client, from)) = listener.accept().await {
        // Of a connection that ended meanwhile nobody knows whose it was.
        let label = origin(from);
        let (number, told) = {
            let mut state = lock(&state);
            let number = state.next;
            state.next += 1;
            let (sender, told) = watch::channel(Told { faults: state.faults_of(label), end: None });
            state.connections.insert(number, Connection { label, told: sender });
            (number, told)
        };
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            serve(client, to, told).await;
            lock(&state).connections.remove(&number);
        });
    }
}

async fn serve(client: TcpStream, to: SocketAddr, told: watch::Receiver<Told>) {
    // A server that is not there refuses its clients through the proxy as well.
    match TcpStream::connect(to).await {
        Ok(server) => pump::between(client, server, told).await,
        Err(_) => drop(client.set_zero_linger()),
    }
}

#[cfg(test)]
mod tests;
