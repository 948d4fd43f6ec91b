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

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use api::{
    client::ClientError,
    pki::{self, Identity, PkiError, RoleKind},
};
use tokio::{runtime, sync::mpsc, task::JoinSet};

use crate::{
    MAX_TXN, NodeId, QUOTA, metric,
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
    /// Where the other servers listen, `host:port` each. This server's own address may be among them.
    pub addresses: BTreeMap<NodeId, String>,
    /// This server's certificate: its name is `server-<node>`.
    pub identity: Identity,
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
        identity: Identity,
        ca_pem: impl Into<String>,
    ) -> Self {
        Self {
            node,
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
#[derive(Debug, Clone)]
pub struct Observer(Arc<BTreeMap<NodeId, Arc<Outbox>>>);

impl Observer {
    /// How the link to a server is.
    #[must_use]
    pub fn link(&self, node: NodeId) -> Option<LinkState> {
        self.0.get(&node).map(|outbox| outbox.state())
    }
}

/// The [`Network`] of a server that has others. Its tasks run on the runtime that it was made on, from when a store is
/// opened with it until the store ends.
#[derive(Debug)]
pub struct Links {
    config: Arc<LinksConfig>,
    runtime: runtime::Handle,
    outboxes: Arc<BTreeMap<NodeId, Arc<Outbox>>>,
    /// Where snapshots go: one is on its way to a server, and one more may be asked for meanwhile.
    snapshots: BTreeMap<NodeId, mpsc::Sender<PeerMessage>>,
    reports: Option<Reports>,
    tasks: JoinSet<()>,
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
        let role = pki::role_of(&pki::der_of(&config.identity.cert_pem)?);
        let named = role.as_ref().filter(|role| role.kind == RoleKind::Server);
        if named.and_then(|role| node_of(&role.name)) != Some(config.node) {
            let found = role.map_or_else(|| "nothing".into(), |role| role.to_string());
            return Err(LinksError::Name { node: config.node, found });
        }
        config.addresses.remove(&config.node);
        for address in config.addresses.values() {
            // What is wrong with it is told now, not in a log later.
            api::client::peers(address, &config.ca_pem, &config.identity)?;
        }
        let outbox = |node: &NodeId| {
            (*node, Arc::new(Outbox::new(*node, config.outbox_messages, config.outbox_bytes)))
        };
        Ok(Self {
            outboxes: Arc::new(config.addresses.keys().map(outbox).collect()),
            config: Arc::new(config),
            runtime: runtime::Handle::current(),
            snapshots: BTreeMap::new(),
            reports: None,
            tasks: JoinSet::new(),
        })
    }

    /// To look at the links when the store has them.
    #[must_use]
    pub fn observer(&self) -> Observer {
        Observer(self.outboxes.clone())
    }
}

impl Network for Links {
    fn attach(&mut self, reports: Reports) {
        for (node, outbox) in self.outboxes.iter() {
            let link = Link::new(*node, self.config.clone(), outbox.clone(), reports.clone());
            let (snapshots, asked) = mpsc::channel(1);
            self.snapshots.insert(*node, snapshots);
            self.tasks.spawn_on(link.clone().keep_up(), &self.runtime);
            self.tasks.spawn_on(link.send_snapshots(asked), &self.runtime);
        }
        self.reports = Some(reports);
    }

    fn send(&mut self, message: PeerMessage) {
        let to = message.to;
        if message.snapshot.is_some() {
            // Full: one is on its way already.
            let snapshots = self.snapshots.get(&to);
            if snapshots.is_none_or(|snapshots| snapshots.try_send(message).is_err()) {
                tracing::debug!(to, "no second snapshot");
            }
        } else if let Some(outbox) = self.outboxes.get(&to) {
            if outbox.push(message).begins
                && let Some(reports) = &self.reports
            {
                tracing::warn!(to, "messages are lost: too many wait");
                reports.unreachable(to);
            }
        } else {
            metrics::counter!(metric::PEER_LOST, "peer" => to.to_string()).increment(1);
            tracing::debug!(to, "a message to a server without an address");
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
