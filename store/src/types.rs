//! The words of the public interface: keys, entries, events, transactions' results, ways to read.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use model::{Epoch, Revision};

/// A key: UTF-8, at most [`MAX_KEY`](crate::MAX_KEY) bytes. By convention a path, `objects/acme/...`.
pub type Key = Arc<str>;

/// A server of the store, unique for ever within its cluster; never 0.
pub type NodeId = u64;

/// A live key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub key: Key,
    /// Its value.
    pub value: Bytes,
    /// The revision that created it (after its last deletion, if any).
    pub create_revision: Revision,
    /// The revision that changed it last: what a [`Compare`](crate::Compare) compares with.
    pub mod_revision: Revision,
    /// How often it was changed since it was created, from 1.
    pub version: u64,
}

/// A key's change in one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its name.
    pub key: Key,
    /// What it is from this revision on; `None`: deleted.
    pub entry: Option<Entry>,
}

/// All changes of one revision that a watch asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchBatch {
    /// The revision. A watch resumes from the one after it.
    pub revision: Revision,
    /// In the order of the transaction's operations. Empty: a bookmark, which says that nothing was missed up
    /// to this revision.
    pub events: Vec<Event>,
}

impl WatchBatch {
    /// Whether this only moves the watch's revision on.
    #[must_use]
    pub fn is_bookmark(&self) -> bool {
        self.events.is_empty()
    }
}

/// What one revision was for: who, why and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The revision.
    pub revision: Revision,
    /// The id of the transaction's request.
    pub request_id: Key,
    /// Who asked for it.
    pub actor: Key,
    /// Why.
    pub note: Key,
    /// From where it was asked.
    pub origin: Key,
    /// When it was proposed, by the proposer's clock: milliseconds since the Unix epoch.
    pub time_ms: i64,
    /// The keys that it changed.
    pub keys: Vec<Key>,
}

/// Part of the history, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History {
    /// Revisions, and what each changed of what was asked for.
    pub changes: Vec<(Record, Vec<Event>)>,
    /// It goes on before this revision; `None`: what is older is forgotten, or never was.
    pub next: Option<Revision>,
}

/// The answer to a transaction that is durable on a quorum and applied here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The transaction's revision.
    pub revision: Revision,
    /// An earlier transaction with this request id had been applied already; the revision is that one's.
    pub duplicate: bool,
}

/// How fresh a read has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// Sees every write that was answered before the read began, on any server. Costs a round to a quorum, and
    /// no disk.
    Linearizable,
    /// Sees at least this revision, and waits for it: what a reader that was given a revision asks for.
    AtLeast(Revision),
    /// Sees exactly this revision, as long as it is not compacted; waits for it.
    At(Revision),
    /// Whatever this server has applied.
    Local,
}

/// Whether this server leads, and in which term. A term has one leader at most: work done for the cluster is
/// fenced by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Leadership {
    /// This server leads and has applied everything that was committed before its term.
    pub leader: bool,
    /// The current term.
    pub term: u64,
}

/// The hash of the replicated state: equal on all servers that applied the same index.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct StateHash(pub [u8; 32]);

impl fmt::Display for StateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for StateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How a server is, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// This server.
    pub node: NodeId,
    /// The installation that its data belongs to.
    pub cluster_id: String,
    /// Whether it leads.
    pub leadership: Leadership,
    /// Who leads, as far as it knows.
    pub leader: Option<NodeId>,
    /// The life of the store.
    pub epoch: Epoch,
    /// The last revision applied.
    pub revision: Revision,
    /// History up to and including this one is forgotten.
    pub compacted: Revision,
    /// The last Raft entry applied.
    pub applied_index: u64,
    /// The last Raft entry known to be committed; not behind `applied_index`.
    pub commit_index: u64,
    /// What the write-ahead log takes on the disk, bytes.
    pub wal_bytes: u64,
    /// The state's hash at that index.
    pub hash: StateHash,
    /// Live keys.
    pub keys: u64,
    /// Bytes of the whole state, history included; bounded by [`QUOTA`](crate::QUOTA).
    pub bytes: u64,
    /// The voters.
    pub voters: Vec<NodeId>,
    /// Who follows without a vote.
    pub learners: Vec<NodeId>,
}
