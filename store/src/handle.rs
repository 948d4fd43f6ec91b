//! The asynchronous face of a store: any number of clones, on any runtime.

use std::{
    io,
    sync::{Arc, RwLock, RwLockReadGuard},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use model::{Epoch, Revision};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    time::timeout,
};

use crate::{
    BackupError, Committed, Entry, History, Key, Leadership, NodeId, Op, Outcome, Quota, QuotaExceeded, Read,
    ReadError, Record, Status, Txn, TxnError, Usage, Watch,
    machine::Machine,
    members::{Addresses, Member, MemberChange, MemberError},
    peer::{PeerMessage, Report},
    txn::Command,
};

/// Revisions looked at by one look into the history, while the state is locked.
const HISTORY_SCAN: usize = 1024;

/// What the driver publishes and everybody reads.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) node: NodeId,
    pub(crate) cluster_id: String,
    /// Held for a moment only: the driver waits for it to apply. Values are shared, not copied, under it.
    pub(crate) machine: Arc<RwLock<Machine>>,
    /// The last revision applied. Its sender belongs to the driver: when that ends, waiters are told.
    pub(crate) applied: watch::Receiver<Revision>,
    pub(crate) leadership: watch::Receiver<Leadership>,
    pub(crate) leader: watch::Receiver<Option<NodeId>>,
    pub(crate) log: watch::Receiver<LogFigures>,
    pub(crate) standing: watch::Receiver<Standing>,
}

/// What this server is in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Standing {
    /// It has not heard from the cluster that it joins.
    #[default]
    Joining,
    /// It is one of its servers.
    Member,
    /// It was removed, and takes part in nothing any more.
    Removed,
}

/// How the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct LogFigures {
    pub(crate) commit_index: u64,
    pub(crate) bytes: u64,
}

impl Shared {
    pub(crate) fn machine(&self) -> RwLockReadGuard<'_, Machine> {
        // A panic while it was held for writing aborts the process, so what is poisoned is not broken.
        self.machine.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// What the driver is asked.
#[derive(Debug)]
pub(crate) enum Ask {
    /// Put a command through the log.
    Propose {
        command: Command,
        size: OwnedSemaphorePermit,
        reply: oneshot::Sender<Result<Outcome, TxnError>>,
    },
    /// Change who belongs to the cluster.
    Change {
        change: MemberChange,
        /// Told at once when it is refused.
        refused: oneshot::Sender<MemberError>,
        reply: oneshot::Sender<Result<Outcome, TxnError>>,
        size: OwnedSemaphorePermit,
    },
    /// Answer when everything that was committed before now has been applied here.
    Barrier { reply: oneshot::Sender<Result<(), ReadError>> },
    /// A message of another server.
    Step(Box<PeerMessage>),
    /// Another server said where it is.
    Heard { node: NodeId, peers: String },
    /// What became of messages to other servers.
    Report(Report),
    /// Give leadership away.
    Transfer,
    /// Stop in good order.
    Shutdown { reply: oneshot::Sender<()> },
}

/// A store. Clones are the same store; it ends with [`Handle::shutdown`].
#[derive(Debug, Clone)]
pub struct Handle {
    pub(crate) asks: mpsc::Sender<Ask>,
    pub(crate) bytes: Arc<Semaphore>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) read_timeout: Duration,
}

impl Handle {
    /// Applies a transaction: it is durable on a quorum and visible to reads on this server when this returns.
    /// Dropping the future does not take the transaction back.
    ///
    /// # Errors
    ///
    /// [`TxnError::Conflict`] asks to read again; [`TxnError::Busy`], [`TxnError::NoLeader`] and
    /// [`TxnError::Unknown`] may be tried again with the same transaction, request id included.
    pub async fn txn(&self, mut txn: Txn) -> Result<Committed, TxnError> {
        txn.check()?;
        if txn.seen.0 == 0 {
            txn.seen = *self.shared.applied.borrow();
        }
        let id = txn.request_id.clone();
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let time_ms = i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX);
        let size = txn.ops.iter().map(|op| op.key().len() + value_len(op)).sum::<usize>();
        match self.propose(Command::Txn { txn, time_ms }, size).await? {
            Outcome::Committed(revision) => Ok(Committed { revision, duplicate: false }),
            Outcome::Duplicate(revision) => Ok(Committed { revision, duplicate: true }),
            Outcome::Conflict { key, expected, actual } => Err(TxnError::Conflict { key, expected, actual }),
            Outcome::RequestIdReused => Err(TxnError::RequestIdReused(id)),
            Outcome::Invalid(problem) => Err(problem.into()),
            Outcome::Expired => Err(TxnError::Unknown),
            Outcome::Quota(exceeded) => Err(exceeded.into()),
            Outcome::Full => Err(TxnError::Full { bytes: self.shared.machine().bytes() }),
            // Not an answer to a transaction: to whoever reads it, not answered.
            Outcome::Compacted(_) | Outcome::Members | Outcome::NoMember(_) => Err(TxnError::Unknown),
        }
    }

    /// Forgets history up to and including a revision; returns what is forgotten then. The leader does this by
    /// itself as history grows.
    ///
    /// # Errors
    ///
    /// As [`Handle::txn`].
    pub async fn compact(&self, revision: Revision) -> Result<Revision, TxnError> {
        match self.propose(Command::Compact { revision }, 0).await? {
            Outcome::Compacted(revision) => Ok(revision),
            _ => Err(TxnError::Unknown),
        }
    }

    /// A key, if it exists.
    ///
    /// # Errors
    ///
    /// If the server cannot be as fresh as asked in time.
    pub async fn get(&self, key: &str, read: Read) -> Result<Option<Entry>, ReadError> {
        self.get_with_revision(key, read).await.map(|(entry, _)| entry)
    }

    /// A key, if it exists, and the revision that was read.
    ///
    /// # Errors
    ///
    /// If the server cannot be as fresh as asked in time.
    pub async fn get_with_revision(
        &self,
        key: &str,
        read: Read,
    ) -> Result<(Option<Entry>, Revision), ReadError> {
        let at = self.wait(read).await?;
        let machine = self.shared.machine();
        Ok(match at {
            Some(revision) => (machine.get_at(key, revision)?, revision),
            None => (machine.get(key), machine.revision()),
        })
    }

    /// The life of the store.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.shared.machine().epoch()
    }

    /// The keys that begin with `prefix`, in the order of their bytes, and the revision that they are of: watch
    /// from the one after it.
    ///
    /// # Errors
    ///
    /// If the server cannot be as fresh as asked in time.
    pub async fn list(&self, prefix: &str, read: Read) -> Result<(Vec<Entry>, Revision), ReadError> {
        let at = self.wait(read).await?;
        let machine = self.shared.machine();
        Ok(match at {
            Some(revision) => (machine.list_at(prefix, revision)?, revision),
            None => (machine.list(prefix), machine.revision()),
        })
    }

    /// The changes of keys that begin with `prefix`, from revision `from` on (0: from the next one). Whole
    /// revisions, in order, each once, none left out.
    #[must_use]
    pub fn watch(&self, prefix: impl Into<Key>, from: Revision) -> Watch {
        Watch::new(self.shared.clone(), prefix.into(), from)
    }

    /// At most `limit` records of the audit from a revision on, oldest first.
    ///
    /// # Errors
    ///
    /// If history does not reach back to `from`.
    pub fn audit(&self, from: Revision, limit: usize) -> Result<Vec<Record>, ReadError> {
        Ok(self.shared.machine().records_from(from)?.take(limit).cloned().collect())
    }

    /// The newest revisions before `before` that changed a key under `prefix`, at most `limit`, newest first. A call looks
    /// at a bounded number of revisions: an answer with few or none says where to go on.
    #[must_use]
    pub fn history(&self, prefix: &str, before: Revision, limit: usize) -> History {
        self.shared.machine().changes_before(prefix, before, limit, HISTORY_SCAN)
    }

    /// What the live keys under a prefix take, and their quota if there is one.
    #[must_use]
    pub fn usage(&self, prefix: &str) -> (Usage, Option<Quota>) {
        let machine = self.shared.machine();
        (machine.usage(prefix), machine.quota(prefix))
    }

    /// The quota of a prefix, if it has one.
    #[must_use]
    pub fn quota(&self, prefix: &str) -> Option<Quota> {
        self.shared.machine().quota(prefix)
    }

    /// Whether operations would keep all quotas, as things are now. Applying them decides.
    ///
    /// # Errors
    ///
    /// The first that they would not.
    pub fn check_quotas(&self, ops: &[Op]) -> Result<(), QuotaExceeded> {
        self.shared.machine().check_quotas(ops)
    }

    /// How this server is.
    #[must_use]
    pub fn status(&self) -> Status {
        let leadership = *self.shared.leadership.borrow();
        let leader = *self.shared.leader.borrow();
        let log = *self.shared.log.borrow();
        let machine = self.shared.machine();
        Status {
            node: self.shared.node,
            cluster_id: self.shared.cluster_id.clone(),
            leadership,
            leader,
            epoch: machine.epoch(),
            revision: machine.revision(),
            compacted: machine.compacted(),
            applied_index: machine.applied().index,
            // Published after what is applied: the state is never ahead of what is committed.
            commit_index: log.commit_index.max(machine.applied().index),
            wal_bytes: log.bytes,
            hash: machine.hash(),
            keys: machine.live_keys(),
            bytes: machine.bytes(),
            voters: machine.members().voters.clone(),
            learners: machine.members().learners.clone(),
        }
    }

    /// The members, in the order of their ids, as this server has applied them.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        self.shared.machine().roster()
    }

    /// What this server is in its cluster, as it changes. The channel closes when the store is shut down or fails.
    #[must_use]
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.shared.standing.clone()
    }

    /// Adds a server, which follows and does not vote until it has caught up; then the leader promotes it. Returns its
    /// id, which no server had before: what it has to be started with ([`Start::Join`](crate::Start)).
    ///
    /// # Errors
    ///
    /// If this server does not lead, or another change is under way.
    pub async fn add_learner(&self, addresses: Addresses) -> Result<NodeId, MemberError> {
        let id = self.shared.machine().next_id();
        self.change(MemberChange::AddLearner { id, addresses }).await.map(|()| id)
    }

    /// Has a learner vote.
    ///
    /// # Errors
    ///
    /// If this server does not lead, or the learner has not caught up.
    pub async fn promote(&self, id: NodeId) -> Result<(), MemberError> {
        self.change(MemberChange::Promote { id }).await
    }

    /// Removes a server for ever. One that is down may be removed, as long as a majority of the others is there.
    ///
    /// # Errors
    ///
    /// If this server does not lead, is itself the one (it hands leadership over), or nothing could be written
    /// afterwards.
    pub async fn remove(&self, id: NodeId) -> Result<(), MemberError> {
        self.change(MemberChange::Remove { id }).await
    }

    /// Says where a member is reached now. Any server takes it.
    ///
    /// # Errors
    ///
    /// If there is no such member, or nobody leads.
    pub async fn set_addresses(&self, id: NodeId, addresses: Addresses) -> Result<(), MemberError> {
        let outcome = self.propose(Command::Address { id, addresses }, 0).await;
        self.member_answer(outcome)
    }

    /// Hands leadership to another voter, if this server leads and there is one. Returns at once; whether it happens
    /// is seen in [`Handle::leadership`].
    pub async fn transfer(&self) {
        // An error: the store is shut down, and leads nothing.
        self.asks.send(Ask::Transfer).await.ok();
    }

    async fn change(&self, change: MemberChange) -> Result<(), MemberError> {
        let size = self.bytes.clone().try_acquire_many_owned(256).map_err(|_| MemberError::Busy)?;
        let (reply, answer) = oneshot::channel();
        let (refused, refusal) = oneshot::channel();
        let ask = Ask::Change { change, refused, reply, size };
        self.asks.send(ask).await.map_err(|_| MemberError::Stopped)?;
        if let Ok(reason) = refusal.await {
            return Err(reason);
        }
        self.member_answer(answer.await.unwrap_or(Err(TxnError::Stopped)))
    }

    fn member_answer(&self, outcome: Result<Outcome, TxnError>) -> Result<(), MemberError> {
        match outcome {
            Ok(Outcome::Members) => Ok(()),
            Ok(Outcome::NoMember(reason)) => Err(reason),
            Err(TxnError::NoLeader) => Err(MemberError::NotLeader { leader: None }),
            Err(TxnError::Busy) => Err(MemberError::Busy),
            Err(TxnError::Stopped) => Err(MemberError::Stopped),
            Ok(_) | Err(_) => Err(MemberError::Unanswered),
        }
    }

    /// All that this server has, as the bytes of one file that [`restore`](crate::restore) reads: every write that was
    /// answered before this began is in it. Secrets are in it as they are in the store, sealed.
    ///
    /// # Errors
    ///
    /// If the server cannot be fresh in time, or there is no memory.
    pub async fn backup(&self) -> Result<Bytes, BackupError> {
        self.barrier().await?;
        let machine = self.shared.machine().clone();
        let cluster_id = self.shared.cluster_id.clone();
        let encoded =
            tokio::task::spawn_blocking(move || crate::restore::backup(&machine, &cluster_id)).await;
        Ok(encoded.map_err(io::Error::other).flatten()?)
    }

    /// Whether this server leads, as it changes. The channel closes when the store is shut down or fails.
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.shared.leadership.clone()
    }

    /// Whether this server leads now.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.shared.leadership.borrow().leader
    }

    /// Gives the driver a message that another server sent. Messages may be lost: when too many wait, this drops
    /// it, and Raft sends again.
    pub fn deliver(&self, message: PeerMessage) {
        self.try_deliver(message);
    }

    /// As [`Handle::deliver`]; whether the driver has it.
    pub(crate) fn try_deliver(&self, message: PeerMessage) -> bool {
        let taken = self.asks.try_send(Ask::Step(Box::new(message))).is_ok();
        if !taken {
            metrics::counter!(crate::metric::PEER_DROPPED).increment(1);
        }
        taken
    }

    /// Stops in good order: hands leadership over if there is somebody to take it, answers who waits, writes the
    /// state and its marker. Returns when the data directory is free. A second call returns at once.
    pub async fn shutdown(&self) {
        let (reply, stopped) = oneshot::channel();
        if self.asks.send(Ask::Shutdown { reply }).await.is_ok() {
            // An error is the driver's end as well.
            drop(stopped.await);
        }
        self.asks.closed().await;
    }

    async fn propose(&self, command: Command, size: usize) -> Result<Outcome, TxnError> {
        let permits = u32::try_from(size + 256).unwrap_or(u32::MAX);
        let size = self.bytes.clone().try_acquire_many_owned(permits).map_err(|_| TxnError::Busy)?;
        let (reply, answer) = oneshot::channel();
        self.asks.try_send(Ask::Propose { command, size, reply }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => TxnError::Busy,
            mpsc::error::TrySendError::Closed(_) => TxnError::Stopped,
        })?;
        // No answer: the driver ended with the proposal in its hands.
        answer.await.unwrap_or(Err(TxnError::Unknown))
    }

    /// Waits until the server is as fresh as asked; the revision to read at, if it is not the newest.
    async fn wait(&self, read: Read) -> Result<Option<Revision>, ReadError> {
        match read {
            Read::Local => Ok(None),
            Read::Linearizable => self.barrier().await.map(|()| None),
            Read::AtLeast(wanted) => self.reach(wanted).await.map(|()| None),
            Read::At(wanted) => self.reach(wanted).await.map(|()| Some(wanted)),
        }
    }

    async fn barrier(&self) -> Result<(), ReadError> {
        let (reply, answer) = oneshot::channel();
        self.asks.try_send(Ask::Barrier { reply }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ReadError::Busy,
            mpsc::error::TrySendError::Closed(_) => ReadError::Stopped,
        })?;
        answer.await.unwrap_or(Err(ReadError::Stopped))
    }

    async fn reach(&self, wanted: Revision) -> Result<(), ReadError> {
        let mut applied = self.shared.applied.clone();
        let reached = timeout(self.read_timeout, applied.wait_for(|have| *have >= wanted)).await;
        match reached {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(ReadError::Stopped),
            Err(_) => Err(ReadError::Behind { wanted, have: self.shared.machine().revision() }),
        }
    }
}

fn value_len(op: &Op) -> usize {
    match op {
        Op::Put { value, .. } => value.len(),
        Op::Delete { .. } => 0,
    }
}
