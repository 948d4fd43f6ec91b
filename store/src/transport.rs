//! Servers that speak to each other over mTLS: [`Links`] sends, [`service`] receives.
//!
//! ```text
//! driver -> Links -> outbox of each peer -> Send, one stream per peer        -> service -> Handle::deliver
//!                 -> snapshots           -> SendSnapshot, a connection each  ->
//! ```
//!
//! Who speaks is what the certificate says: the role's name is `server-<id>` ([`role_name`]), and a stream that carries
//! a message of another server is ended. The callee is only known to be *a* server of the installation (as all clients
//! check); what was meant for another server it refuses.
//!
//! Raft takes the loss of messages: an outbox that is full loses its oldest, and what waits for a server that cannot be
//! reached is given up. raft is told of both.

mod link;
mod outbox;
mod receive;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use api::{
    client::ClientError,
    pki::{self, Identity, PkiError, RoleKind},
};
use tokio::{
    runtime,
    sync::{mpsc, watch},
    task::JoinSet,
};

use crate::{
    MAX_TXN, NodeId, QUOTA,
    members::Member,
    metric,
    peer::{Network, PeerMessage, Reports},
};

use link::Link;
use outbox::Outbox;
pub use receive::{Receiver, service};

/// A batch is closed when it has this many bytes of entries: no message waits long behind it.
const BATCH_BYTES: usize = 1 << 20;
/// The most messages of a batch.
const BATCH_MESSAGES: usize = 128;
/// The largest batch that is taken: one of the largest transactions behind an almost full batch.
const MAX_BATCH: usize = MAX_TXN + 4 * BATCH_BYTES;
/// Servers whose addresses are kept beside those of the state.
const MAX_TOLD: usize = 64;
/// In the head of a stream: where its caller listens.
const ADDRESS: &str = "weir-peers-address";
/// A snapshot travels in pieces of this size.
const PIECE: usize = 256 << 10;
/// The largest body of a snapshot. A state that is full still takes deletions.
const MAX_SNAPSHOT: u64 = QUOTA + QUOTA / 4;

/// The name in the certificate of a server: `server-<id>`.
#[must_use]
pub fn role_name(node: NodeId) -> String {
    format!("server-{node}")
}

/// The server that a certificate's name means. Only as [`role_name`] spells it: `server-01` is nobody.
fn node_of(name: &str) -> Option<NodeId> {
    let node = name.strip_prefix("server-")?.parse().ok()?;
    (role_name(node) == name).then_some(node)
}

/// What links are made with.
#[derive(Debug, Clone)]
pub struct LinksConfig {
    /// This server.
    pub node: NodeId,
    /// Where this server listens, `host:port`: told to those it connects to, which may not know it yet. Empty: not told.
    pub address: String,
    /// Where the other servers listen, `host:port` each, until the store's state says so itself. This server's own
    /// address may be among them.
    pub addresses: BTreeMap<NodeId, String>,
    /// This server's certificate: its name is `server-<node>`. A new one is used from the next connection on.
    pub identity: watch::Receiver<Identity>,
    /// The installation's CA.
    pub ca_pem: String,
    /// Messages that wait for one server. Default 1,024.
    pub outbox_messages: usize,
    /// Bytes of entries that wait for one server. Default 96 MiB: more than raft has on its way to one.
    pub outbox_bytes: usize,
    /// The first pause after a failure, doubled up to `max_backoff`, half of it random. Default 50 ms.
    pub backoff: Duration,
    /// The longest pause after a failure. Default 2 s: a server that comes back is not without news for long.
    pub max_backoff: Duration,
    /// A snapshot that is not taken by then is given up and begun anew. Default 5 minutes: the largest at 4 MB/s.
    pub snapshot_timeout: Duration,
}

impl LinksConfig {
    /// With the defaults.
    #[must_use]
    pub fn new(
        node: NodeId,
        addresses: BTreeMap<NodeId, String>,
        identity: watch::Receiver<Identity>,
        ca_pem: impl Into<String>,
    ) -> Self {
        Self {
            node,
            address: String::new(),
            addresses,
            identity,
            ca_pem: ca_pem.into(),
            outbox_messages: 1024,
            outbox_bytes: 96 << 20,
            backoff: Duration::from_millis(50),
            max_backoff: Duration::from_secs(2),
            snapshot_timeout: Duration::from_secs(300),
        }
    }
}

/// Why there are no links.
#[derive(Debug, thiserror::Error)]
pub enum LinksError {
    /// An address or a certificate cannot be used.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// This server's certificate does not read.
    #[error(transparent)]
    Certificate(#[from] PkiError),
    /// The others would refuse it.
    #[error("the certificate of server {node} is to name it {}, and says {found}", role_name(*.node))]
    Name {
        /// This server.
        node: NodeId,
        /// What its certificate says.
        found: String,
    },
    /// A bound of zero.
    #[error("outbox_messages and outbox_bytes must be at least 1")]
    Bounds,
}

/// How the link to one server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkState {
    /// Whether its stream is open.
    pub connected: bool,
    /// Messages that were given up so far.
    pub lost: u64,
    /// Snapshots that it has taken from here so far.
    pub snapshots: u64,
}

/// Looks at the links, which the store owns.
#[derive(Debug, Clone, Default)]
pub struct Observer(Arc<Mutex<BTreeMap<NodeId, Arc<Outbox>>>>);

impl Observer {
    /// How the link to a server is.
    #[must_use]
    pub fn link(&self, node: NodeId) -> Option<LinkState> {
        self.outboxes().get(&node).map(|outbox| outbox.state())
    }

    fn outboxes(&self) -> MutexGuard<'_, BTreeMap<NodeId, Arc<Outbox>>> {
        // Nothing panics under it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One other server, with the tasks that keep the line to it.
#[derive(Debug)]
struct Line {
    address: String,
    outbox: Arc<Outbox>,
    /// Where snapshots go: one is on its way to a server, and one more may be asked for meanwhile.
    snapshots: mpsc::Sender<PeerMessage>,
    /// Ended when it is dropped.
    _tasks: JoinSet<()>,
}

/// The [`Network`] of a server that has others. Its tasks run on the runtime that it was made on, from when a store is
/// opened with it until the store ends.
#[derive(Debug)]
pub struct Links {
    config: Arc<LinksConfig>,
    runtime: runtime::Handle,
    lines: BTreeMap<NodeId, Line>,
    /// Where servers are that the state does not know or gives no address of: as configured, or as they said.
    told: BTreeMap<NodeId, String>,
    members: Vec<Member>,
    observer: Observer,
    reports: Option<Reports>,
}

impl Links {
    /// Links to all other servers, on this runtime.
    ///
    /// # Errors
    ///
    /// An address or a certificate cannot be used.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn new(mut config: LinksConfig) -> Result<Self, LinksError> {
        if config.outbox_messages == 0 || config.outbox_bytes == 0 {
            return Err(LinksError::Bounds);
        }
        let identity = config.identity.borrow().clone();
        let role = pki::role_of(&pki::der_of(&identity.cert_pem)?);
        let named = role.as_ref().filter(|role| role.kind == RoleKind::Server);
        if named.and_then(|role| node_of(&role.name)) != Some(config.node) {
            let found = role.map_or_else(|| "nothing".into(), |role| role.to_string());
            return Err(LinksError::Name { node: config.node, found });
        }
        config.addresses.remove(&config.node);
        for address in config.addresses.values() {
            // What is wrong with it is told now, not in a log later.
            api::client::peers(address, &config.ca_pem, &identity)?;
        }
        Ok(Self {
            told: config.addresses.clone(),
            config: Arc::new(config),
            runtime: runtime::Handle::current(),
            lines: BTreeMap::new(),
            members: Vec::new(),
            observer: Observer::default(),
            reports: None,
        })
    }

    /// To look at the links when the store has them.
    #[must_use]
    pub fn observer(&self) -> Observer {
        self.observer.clone()
    }

    /// Keeps a line to each other server whose address is known. One that was removed, or is elsewhere now, has its
    /// line ended; what waited on it is lost, which raft takes.
    fn connect(&mut self) {
        let Some(reports) = self.reports.clone() else { return };
        let mut wanted = self.told.clone();
        for Member { id, addresses, .. } in &self.members {
            if !addresses.peers.is_empty() {
                wanted.insert(*id, addresses.peers.clone());
            }
        }
        wanted.remove(&self.config.node);
        self.lines.retain(|node, line| wanted.get(node) == Some(&line.address));
        for (node, address) in wanted {
            if !self.lines.contains_key(&node) {
                self.lines.insert(node, self.line(node, address, reports.clone()));
            }
        }
        let outboxes = self.lines.iter().map(|(node, line)| (*node, line.outbox.clone()));
        *self.observer.outboxes() = outboxes.collect();
    }

    fn line(&self, node: NodeId, address: String, reports: Reports) -> Line {
        let LinksConfig { outbox_messages, outbox_bytes, .. } = *self.config;
        let outbox = Arc::new(Outbox::new(node, outbox_messages, outbox_bytes));
        let link = Link::new(node, address.clone(), self.config.clone(), outbox.clone(), reports);
        let (snapshots, asked) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        tasks.spawn_on(link.clone().keep_up(), &self.runtime);
        tasks.spawn_on(link.send_snapshots(asked), &self.runtime);
        Line { address, outbox, snapshots, _tasks: tasks }
    }
}

impl Network for Links {
    fn attach(&mut self, reports: Reports) {
        self.reports = Some(reports);
        self.connect();
    }

    fn members(&mut self, members: &[Member]) {
        // Who was a member and is none any more is not to be reached under its old address either.
        for gone in self.members.iter().filter(|old| members.iter().all(|member| member.id != old.id)) {
            self.told.remove(&gone.id);
        }
        self.members = members.to_vec();
        self.connect();
    }

    fn heard(&mut self, node: NodeId, peers: &str) {
        let known = self.lines.get(&node).is_some_and(|line| line.address == peers);
        if known || node == self.config.node || self.told.len() >= MAX_TOLD {
            return;
        }
        let of_state = self.members.iter().find(|member| member.id == node);
        if of_state.is_none_or(|member| member.addresses.peers.is_empty()) {
            tracing::info!(node, peers, "a server that the state does not know yet says where it is");
            self.told.insert(node, peers.to_owned());
            self.connect();
        }
    }

    fn send(&mut self, message: PeerMessage) {
        let to = message.to;
        let Some(line) = self.lines.get(&to) else {
            metrics::counter!(metric::PEER_LOST, "peer" => to.to_string()).increment(1);
            tracing::debug!(to, "a message to a server without an address");
            return;
        };
        if message.snapshot.is_some() {
            // Full: one is on its way already.
            if line.snapshots.try_send(message).is_err() {
                tracing::debug!(to, "no second snapshot");
            }
        } else if line.outbox.push(message).begins
            && let Some(reports) = &self.reports
        {
            tracing::warn!(to, "messages are lost: too many wait");
            reports.unreachable(to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_means_one_server() {
        assert_eq!(node_of(&role_name(7)), Some(7));
        for other in ["server-", "server-01", "server-+1", "server", "edge-1", "server-1.x"] {
            assert_eq!(node_of(other), None, "{other}");
        }
    }
}
