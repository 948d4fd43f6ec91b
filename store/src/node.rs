//! One server, without I/O: raft and the state machine. Inputs are ticks, messages and proposals; outputs are
//! batches to make durable, messages and answers.
//!
//! The order of things is in the types:
//!
//! ```text
//! tick | step | propose | read ...      any number
//! turn() -> Turn                        the node is lent to the turn: no input reaches it meanwhile
//!   turn.messages()                     may leave now: they promise nothing that is not durable
//!   turn.batch()                        make it durable
//!   turn.persisted() -> Effects         what may be said and done after that
//! ```
//!
//! A turn that is dropped before `persisted` leaves the node unusable; the server ends.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use api::store as wire;
use model::Revision;
use protobuf::ProtobufError;
use raft::{ProgressState, RawNode, ReadOnlyOption, Ready, SnapshotStatus, StateRole, eraftpb};

use crate::{
    Leadership, NodeId, Outcome,
    disk::{Batch, EntryKind, HardState, LogEntry, Recovered, Snapshot},
    image::{self, BadImage},
    machine::{Delta, Machine},
    peer::{
        self, BadMessage, PeerMessage, change_from_raft, change_of, entry_from_raft, snapshot_from_wire,
        snapshot_to_raft, to_wire,
    },
    txn::{Command, Ticket, UnknownCommand},
};

mod election;
mod log;
mod logger;
mod members;
mod reads;
mod writes;

use log::Log;
use members::Heard;
pub use reads::ReadId;
use reads::Reads;
use writes::Writes;

/// A message between servers carries about this many bytes of entries at most (one entry at least).
const MAX_MESSAGE: u64 = 1 << 20;
/// Messages on their way to one server.
const MAX_INFLIGHT: usize = 64;
/// Bytes of entries that are not committed yet. Beyond it, proposals are dropped.
const MAX_UNCOMMITTED: u64 = 128 << 20;
/// Bytes of entries that are applied in one turn: bounds how long the state is locked.
const MAX_APPLY: u64 = 16 << 20;
/// Ticks from one heartbeat to the next.
const HEARTBEAT_TICKS: usize = 1;
/// The fewest ticks without a leader before an election.
const ELECTION_TICKS: usize = 10;

/// History that stays however large the state is.
const MIN_HISTORY: u64 = 16;
/// A snapshot is of the whole state, so it waits until this part of the state's bytes was applied: writing snapshots
/// then costs a few times what the writes did, however large the state is.
const SNAPSHOT_SHARE: u64 = 4;
/// Ticks until a snapshot that was sent without an answer is sent again: 10 s by default.
const SNAPSHOT_TICKS: u32 = 200;

/// What a node is made with.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// This server.
    pub id: NodeId,
    /// Its installation.
    pub cluster_id: String,
    /// Drawn at random by each run of each server: tickets of two runs must differ.
    pub origin: u64,
    /// See [`Config`](crate::Config).
    pub keep_revisions: u64,
    /// See [`Config`](crate::Config).
    pub keep_bytes: u64,
    /// See [`Config`](crate::Config).
    pub snapshot_entries: u64,
    /// See [`Config`](crate::Config).
    pub snapshot_bytes: u64,
    /// Entries that stay in memory behind the newest snapshot, for servers that are nearly up to date.
    pub trailing_entries: u64,
    /// Entries that a learner may lack when it is promoted.
    pub caught_up_entries: u64,
    /// The ticks before an election, if not to be drawn at random: the simulation's.
    pub election_ticks: Option<usize>,
}

/// A node that met what must not be. It cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// raft refuses what it was given.
    #[error("raft: {0}")]
    Raft(#[from] raft::Error),
    /// A committed entry does not read.
    #[error(transparent)]
    Command(#[from] UnknownCommand),
    /// A committed membership change does not read.
    #[error("a committed membership change does not read: {0}")]
    Change(#[from] ProtobufError),
    /// A snapshot does not read.
    #[error(transparent)]
    Image(#[from] BadImage),
    /// The state is ahead of the log: the log lost what had been committed.
    #[error(
        "the state has applied entry {applied}, but the log ends at {last}: the log lost committed entries"
    )]
    LogLost {
        /// The state's last entry.
        applied: u64,
        /// The log's.
        last: u64,
    },
}

/// A proposal did not enter the log, for certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotProposed {
    /// Nobody leads, or leadership is being handed over.
    #[error("no leader")]
    NoLeader,
    /// Too much is not committed yet.
    #[error("too much is not committed yet")]
    Busy,
}

/// One server.
pub struct Node {
    raw: RawNode<Log>,
    config: NodeConfig,
    machine: Arc<RwLock<Machine>>,
    /// Promises that have not been written: a commit index alone is not worth a sync.
    unwritten: Option<HardState>,
    proposals: u64,
    writes: Writes,
    reads: Reads,
    /// The state of a leader's snapshot, from its arrival until it is durable.
    incoming: Option<Machine>,
    /// The newest snapshot's index, and whether another is being made.
    snapshot_index: u64,
    snapshotting: bool,
    /// The newest snapshot does not know all members.
    snapshot_stale: bool,
    /// Bytes of entries applied since it was begun.
    applied_bytes: u64,
    /// Ticks since a snapshot was sent to a server that has not answered.
    sending: BTreeMap<NodeId, u32>,
    heard: Heard,
    /// Ticks without a leader.
    leaderless: u64,
    /// The last compaction proposed.
    compact_proposed: Revision,
}

/// What the node wants done.
#[derive(Debug, Default)]
pub struct Effects {
    /// May leave now.
    pub messages: Vec<PeerMessage>,
    /// What became of commands, in the order they were applied; also of other servers' commands.
    pub answers: Vec<(Ticket, Outcome)>,
    /// Reads that may be answered from the state.
    pub reads: Vec<ReadId>,
    /// What changed in the state.
    pub delta: Delta,
    /// The whole state was replaced; `delta` says nothing about that.
    pub replaced: bool,
    /// Encode this state, save it and say [`Node::snapshot_saved`].
    pub snapshot: Option<Machine>,
    /// Another server needs the newest snapshot: [`Node::offer_snapshot`].
    pub snapshot_wanted: bool,
    /// Who belongs to the cluster, or where somebody is, may have changed.
    pub members: bool,
}

impl Node {
    /// A server as it was left. The state is the snapshot's, or a later one that its log contains.
    ///
    /// # Errors
    ///
    /// If state and log do not belong together.
    pub fn new(config: NodeConfig, recovered: &Recovered, machine: Machine) -> Result<Self, NodeError> {
        let applied = machine.applied().index;
        let at = recovered.snapshot.meta.at.index;
        let last = recovered.entries.last().map_or(at, |entry| entry.at.index);
        if applied > last {
            return Err(NodeError::LogLost { applied, last });
        }
        // What was applied was committed.
        let commit = recovered.hard_state.commit.max(applied);
        let mut kept = HardState { commit, ..recovered.hard_state };
        planted!(VoteForgotten, kept.vote = 0);
        let mut members = machine.members().clone();
        planted!(MembersOfSnapshot, members = image::decode(&recovered.snapshot)?.members().clone());
        let log = Log::new(recovered, kept, &members);
        let raw = RawNode::new(&raft_config(&config, applied), log, &logger::logger())?;
        Ok(Self {
            raw,
            reads: Reads::new(config.origin),
            config,
            machine: Arc::new(RwLock::new(machine)),
            unwritten: None,
            proposals: 0,
            writes: Writes::default(),
            incoming: None,
            snapshot_index: at,
            snapshotting: false,
            snapshot_stale: false,
            applied_bytes: 0,
            sending: BTreeMap::new(),
            heard: Heard::default(),
            leaderless: 0,
            compact_proposed: Revision(0),
        })
    }

    /// The state; only the node changes it.
    #[must_use]
    pub fn machine(&self) -> Arc<RwLock<Machine>> {
        self.machine.clone()
    }

    /// Raft's clock.
    pub fn tick(&mut self) {
        self.raw.tick();
        self.stand_again();
        self.reads.tick();
        self.heard.tick();
        self.retry_snapshots();
        self.promote_learners();
    }

    /// raft sends a snapshot once, and nothing else to that server until it hears how that went. Messages get lost:
    /// after a while without an answer it is told to begin again.
    fn retry_snapshots(&mut self) {
        planted!(SnapshotNotSentAgain, return);
        let progress = self.raw.raft.prs().iter();
        let sending = progress.filter(|(_, progress)| progress.state == ProgressState::Snapshot);
        let sending: Vec<NodeId> = sending.map(|(id, _)| *id).collect();
        self.sending.retain(|id, _| sending.contains(id));
        for id in sending {
            let ticks = self.sending.entry(id).or_insert(0);
            *ticks += 1;
            if *ticks >= SNAPSHOT_TICKS {
                self.sending.remove(&id);
                self.raw.report_snapshot(id, SnapshotStatus::Failure);
            }
        }
    }

    /// Stands for election without waiting: a server that is alone need not.
    ///
    /// # Errors
    ///
    /// If raft refuses.
    pub fn campaign(&mut self) -> Result<(), NodeError> {
        Ok(self.raw.campaign()?)
    }

    /// Whether this server is the only voter.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        let members = self.read_machine(|machine| machine.members().clone());
        members.voters == [self.config.id] && members.voters_outgoing.is_empty()
    }

    /// Takes a message of another server.
    ///
    /// # Errors
    ///
    /// If it is not one, is another installation's or came from a server that is not a member: it is dropped.
    pub fn step(&mut self, message: PeerMessage) -> Result<(), BadMessage> {
        let from = message.from;
        let bad = |problem| BadMessage { from, problem };
        if message.cluster_id != self.config.cluster_id {
            return Err(bad("another cluster's"));
        }
        if message.to != self.config.id {
            return Err(bad("another server's"));
        }
        if let Some(snapshot) = message.snapshot.clone() {
            // Before raft sees it: from then on there is no way back.
            let snapshot = snapshot_from_wire(snapshot).ok_or_else(|| bad("snapshot without a meaning"))?;
            if snapshot.meta.cluster_id != self.config.cluster_id {
                return Err(bad("snapshot of another cluster"));
            }
            self.incoming = Some(image::decode(&snapshot).map_err(|_| bad("snapshot that does not read"))?);
        }
        self.heard.from(from);
        match self.raw.step(peer::from_wire(message)?) {
            Err(raft::Error::StepPeerNotFound) => Err(bad("not from a member")),
            Err(raft::Error::StepLocalMsg) => Err(bad("of a kind that no server sends")),
            // A forwarded proposal that finds no leader here, or the like: whoever waits for it is told in time.
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Messages to a server were lost.
    pub fn unreachable(&mut self, id: NodeId) {
        self.raw.report_unreachable(id);
        if self.leader() == Some(id) {
            // What was forwarded to it may be among them.
            self.writes.lost();
        }
    }

    /// A server has taken the snapshot that was sent to it, or has not.
    pub fn snapshot_sent(&mut self, id: NodeId, taken: bool) {
        let status = if taken { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.raw.report_snapshot(id, status);
    }

    /// Asks for a linearizable read: [`Effects::reads`] says when the state is fresh enough. It is asked again, by
    /// another message, until [`Node::forget_read`].
    pub fn read(&mut self) -> ReadId {
        self.reads.begin()
    }

    /// The caller waits no longer.
    pub fn forget_read(&mut self, id: ReadId) {
        self.reads.forget(id);
    }

    /// Whether this server leads, which it does from when it has applied its term's first entry.
    #[must_use]
    pub fn leadership(&self) -> Leadership {
        let term = self.raw.raft.term;
        let applied = self.read_machine(|machine| machine.applied().term);
        Leadership {
            leader: self.raw.raft.state == StateRole::Leader && (applied == term || planted!(LeadsTooEarly)),
            term,
        }
    }

    /// Whether this server has won an election; [`Node::leadership`] says whether it is ready to lead.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// Who leads, as far as this server knows.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        Some(self.raw.raft.leader_id).filter(|id| *id != 0)
    }

    /// The last entry that this server knows to be committed.
    #[must_use]
    pub fn commit_index(&self) -> u64 {
        self.raw.raft.raft_log.committed
    }

    /// Hands leadership to a voter, if this server leads and there is another: of those that were heard of a moment ago
    /// the one that is furthest. (One that is down may be as far as they are, and would be asked again and again.)
    pub fn transfer(&mut self) -> Option<NodeId> {
        if self.raw.raft.state != StateRole::Leader {
            return None;
        }
        let progress = self.raw.raft.prs();
        let voters = progress.conf().voters().ids();
        let (.., to) = progress
            .iter()
            .filter(|(id, _)| **id != self.config.id && voters.contains(**id))
            .map(|(id, progress)| (self.is_there(*id), progress.matched, *id))
            .max()?;
        self.raw.transfer_leader(to);
        Some(to)
    }

    /// A snapshot is durable: the log before it is not needed here any more.
    pub fn snapshot_saved(&mut self, index: u64) {
        self.snapshotting = false;
        self.snapshot_index = self.snapshot_index.max(index);
        let NodeConfig { trailing_entries, snapshot_bytes, .. } = self.config;
        self.raw.mut_store().compact(index, trailing_entries, snapshot_bytes);
    }

    /// The newest snapshot, for servers that are too far behind for the log. One that was taken before the last change
    /// of membership is of no use to a server that joined since, which finds itself not in it: then another is taken,
    /// and raft asks again. So it is with one that the log does not continue: a newer one does not read any more.
    pub fn offer_snapshot(&mut self, snapshot: &Snapshot, members: &wire::Members) {
        let is_continued = self.raw.store().continues(snapshot.meta.at.index);
        let is_useful = is_continued || planted!(OldSnapshotOffered);
        let is_known = self.read_machine(|machine| machine.members() == members);
        if is_useful && (is_known || planted!(OldMembersOffered)) {
            self.raw.mut_store().offer(snapshot_to_raft(snapshot, members));
        } else {
            self.snapshot_stale = true;
        }
    }

    /// What is to be done now, if anything.
    pub fn turn(&mut self) -> Option<Turn<'_>> {
        self.propose_again();
        if let Some(context) = self.reads.ask() {
            self.raw.read_index(context);
        }
        if !self.raw.has_ready() {
            return None;
        }
        let mut ready = self.raw.ready();
        if let Some(promises) = ready.hs() {
            self.unwritten = Some(hard_state(promises));
        }
        let mut batch = Batch::default();
        // That a change of members is committed is no hint: a server that forgot it would wait for those that are gone.
        let changes_members =
            ready.committed_entries().iter().any(|entry| entry.entry_type != eraftpb::EntryType::EntryNormal);
        if ready.must_sync() || (changes_members && !planted!(ChangeUnwritten)) {
            batch.hard_state = self.unwritten.take();
            planted!(
                VoteNotWritten,
                batch.hard_state = batch.hard_state.map(|kept| HardState { vote: 0, ..kept })
            );
            batch.entries = ready.entries().iter().map(entry_from_raft).collect();
            if !ready.snapshot().is_empty() {
                let snapshot = decode_data(ready.snapshot());
                batch.snapshot = Some(snapshot.expect("read in step, before raft took it"));
            }
        }
        let mut messages = ready.take_messages();
        planted!(PromiseBeforeSync, messages.extend(ready.take_persisted_messages()));
        let messages = self.outgoing(messages);
        Some(Turn { node: self, ready, batch, messages })
    }

    /// The promises that were not worth a sync yet: to be written in a last batch when a server stops.
    pub fn last_batch(&mut self) -> Batch {
        Batch { hard_state: self.unwritten.take(), ..Batch::default() }
    }

    fn outgoing(&self, messages: Vec<eraftpb::Message>) -> Vec<PeerMessage> {
        messages.into_iter().map(|message| to_wire(message, &self.config.cluster_id)).collect()
    }

    fn read_machine<T>(&self, read: impl FnOnce(&Machine) -> T) -> T {
        read(&self.machine.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn apply(&mut self, entries: Vec<eraftpb::Entry>, effects: &mut Effects) -> Result<(), NodeError> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut machine = self.machine.write().unwrap_or_else(PoisonError::into_inner);
        for entry in &entries {
            let LogEntry { kind, at, payload } = entry_from_raft(entry);
            self.applied_bytes += payload.len() as u64;
            match kind {
                EntryKind::Normal if payload.is_empty() => machine.skip(at, &mut effects.delta),
                EntryKind::Normal => {
                    let (ticket, command) = Command::decode(&payload)?;
                    effects.members |= matches!(command, Command::Address { .. });
                    let outcome = machine.apply(at, ticket, command, &mut effects.delta);
                    self.writes.settle(ticket, self.config.origin);
                    effects.answers.push((ticket, outcome));
                }
                EntryKind::Member | EntryKind::Members => {
                    let raft = change_of(&LogEntry { kind, at, payload })?;
                    let change = change_from_raft(&raft);
                    if let Some((ticket, change)) = &change
                        && let Err(reason) = machine.check_change(change)
                    {
                        // Proposed before another change that it does not fit to any more.
                        machine.skip(at, &mut effects.delta);
                        effects.answers.push((*ticket, Outcome::NoMember(reason)));
                        continue;
                    }
                    let what = change.as_ref().map(|(_, change)| change);
                    let conf = members::tell(&mut self.raw, &raft, what, machine.members())?;
                    machine.change_members(at, conf, what, &mut effects.delta);
                    effects.answers.extend(change.map(|(ticket, _)| (ticket, Outcome::Members)));
                    effects.members = true;
                    self.raw.mut_store().withdraw();
                }
            }
        }
        Ok(())
    }

    /// Asks for a snapshot when the log has grown, for a compaction when history has.
    fn housekeep(&mut self, effects: &mut Effects) {
        let (applied, bytes) = self.read_machine(|machine| (machine.applied().index, machine.bytes()));
        let many = applied - self.snapshot_index >= self.config.snapshot_entries
            && self.applied_bytes >= bytes / SNAPSHOT_SHARE;
        let grown = many || self.applied_bytes >= self.config.snapshot_bytes || self.snapshot_stale;
        if grown && !self.snapshotting {
            self.snapshotting = true;
            self.snapshot_stale = false;
            self.applied_bytes = 0;
            effects.snapshot = Some(self.read_machine(Machine::clone));
        }
        effects.snapshot_wanted = self.raw.mut_store().take_wanted();
        if let Some(target) = self.compaction() {
            self.compact_proposed = target;
            // Refused or lost, it comes again after the next step.
            if let Err(error) = self.propose(&Command::Compact { revision: target }) {
                tracing::debug!(%error, "history is not compacted yet");
            }
        }
    }

    /// Up to where the leader should have history forgotten.
    fn compaction(&self) -> Option<Revision> {
        if !self.leadership().leader {
            return None;
        }
        let config = &self.config;
        let (revision, history, bytes) =
            self.read_machine(|machine| (machine.revision().0, machine.history(), machine.bytes()));
        let begun = (revision - history).max(self.compact_proposed.0);
        // In steps: a compaction is an entry of its own.
        let by_count = revision.saturating_sub(config.keep_revisions);
        if by_count >= begun.saturating_add((config.keep_revisions / 4).max(1)) {
            return Some(Revision(by_count));
        }
        let by_size = revision - history / 2;
        let too_large = bytes > config.keep_bytes && history >= MIN_HISTORY && by_size > begun;
        too_large.then_some(Revision(by_size))
    }
}

/// One round of the node's work.
#[must_use = "the node goes on only when the turn is persisted"]
pub struct Turn<'n> {
    node: &'n mut Node,
    ready: Ready,
    batch: Batch,
    messages: Vec<PeerMessage>,
}

impl Turn<'_> {
    /// May leave before the batch is durable.
    pub fn messages(&mut self) -> Vec<PeerMessage> {
        std::mem::take(&mut self.messages)
    }

    /// Has to be durable before [`Turn::persisted`]; may be empty.
    #[must_use]
    pub fn batch(&self) -> &Batch {
        &self.batch
    }

    /// Goes on: the batch is durable.
    ///
    /// # Errors
    ///
    /// If a committed entry or a snapshot does not read: the server has to end.
    pub fn persisted(mut self) -> Result<Effects, NodeError> {
        let node = self.node;
        let mut effects = Effects::default();
        if let Some(snapshot) = self.batch.snapshot.take() {
            let at = snapshot.meta.at;
            let machine = match node.incoming.take().filter(|machine| machine.applied() == at) {
                Some(machine) => machine,
                None => image::decode(&snapshot)?,
            };
            *node.machine.write().unwrap_or_else(PoisonError::into_inner) = machine;
            node.raw.mut_store().reset(at);
            node.snapshot_index = at.index;
            effects.replaced = true;
            effects.members = true;
        }
        // Also of a snapshot that raft had no use for.
        node.incoming = None;
        node.raw.mut_store().append(self.ready.take_entries());
        node.reads.confirmed(self.ready.take_read_states());
        effects.messages = node.outgoing(self.ready.take_persisted_messages());
        let committed = self.ready.take_committed_entries();
        node.apply(committed, &mut effects)?;
        // Before raft counts what this server has written itself: it has no place for one that is no member.
        let last_words = node.step_down_if_removed();
        effects.messages.extend(node.outgoing(last_words));
        let mut light = node.raw.advance_append(self.ready);
        if let Some(commit) = light.commit_index() {
            node.unwritten = Some(HardState { commit, ..hard_state(&node.raw.raft.hard_state()) });
        }
        effects.messages.extend(node.outgoing(light.take_messages()));
        node.apply(light.take_committed_entries(), &mut effects)?;
        node.raw.advance_apply();
        let last_words = node.step_down_if_removed();
        effects.messages.extend(node.outgoing(last_words));
        let applied = node.read_machine(Machine::applied).index;
        effects.reads = node.reads.reached(applied);
        node.housekeep(&mut effects);
        Ok(effects)
    }
}

fn hard_state(raft: &eraftpb::HardState) -> HardState {
    HardState { term: raft.term, vote: raft.vote, commit: raft.commit }
}

fn decode_data(snapshot: &eraftpb::Snapshot) -> Option<Snapshot> {
    use prost::Message as _;
    snapshot_from_wire(wire::Snapshot::decode(snapshot.data.clone()).ok()?)
}

fn raft_config(config: &NodeConfig, applied: u64) -> raft::Config {
    let fixed = config.election_ticks;
    raft::Config {
        id: config.id,
        election_tick: ELECTION_TICKS,
        heartbeat_tick: HEARTBEAT_TICKS,
        min_election_tick: fixed.unwrap_or(0),
        max_election_tick: fixed.map_or(0, |ticks| ticks + 1),
        applied,
        max_size_per_msg: MAX_MESSAGE,
        max_inflight_msgs: MAX_INFLIGHT,
        max_uncommitted_size: MAX_UNCOMMITTED,
        max_committed_size_per_ready: MAX_APPLY,
        pre_vote: true,
        check_quorum: true,
        read_only_option: ReadOnlyOption::Safe,
        ..raft::Config::default()
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("config", &self.config).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Turn<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Turn").field("batch", &self.batch).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
