//! Messages between servers: Raft's, in our own spelling, so that raft's types stay in this crate.

use api::store as wire;
use bytes::Bytes;
use prost::Message as _;
use protobuf::{Message as _, ProtobufEnum};
use raft::eraftpb;
use tokio::sync::mpsc;

use crate::{
    NodeId, StateHash,
    disk::{EntryKind, LogEntry, Snapshot, SnapshotMeta},
    handle::Ask,
    machine::Position,
    members::{Addresses, Member, MemberChange},
    txn::Ticket,
};

pub use api::store::PeerMessage;

/// Carries messages to other servers.
///
/// May lose, repeat and reorder them; must not block. A transport that cannot reach a server drops.
pub trait Network: Send {
    /// Sends it to the server that [`PeerMessage::to`] names.
    fn send(&mut self, message: PeerMessage);

    /// Called once, before the first message: where to say what became of them. Raft does without, but slower.
    fn attach(&mut self, reports: Reports) {
        drop(reports);
    }

    /// Who belongs to the cluster now: called before the first message and whenever that changes.
    fn members(&mut self, members: &[Member]) {
        let _unused = members;
    }

    /// A server said where it is, which may be news: it joined while this one was away.
    fn heard(&mut self, node: NodeId, peers: &str) {
        let _unused = (node, peers);
    }
}

/// Where a transport says what became of messages. Reports may be lost, as messages may; they keep no store open.
#[derive(Debug, Clone)]
pub struct Reports(mpsc::WeakSender<Ask>);

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Report {
    Unreachable(NodeId),
    Snapshot {
        to: NodeId,
        taken: bool,
    },
    /// This server said that ours is none of the cluster's any more.
    Expelled {
        by: NodeId,
    },
}

impl Reports {
    pub(crate) fn new(asks: &mpsc::Sender<Ask>) -> Self {
        Self(asks.downgrade())
    }

    /// Messages to this server were lost: raft sends less until it hears from it.
    pub fn unreachable(&self, node: NodeId) {
        self.report(Report::Unreachable(node));
    }

    /// This server has taken a snapshot, or has not: raft goes on behind it, or sends another.
    pub fn snapshot(&self, to: NodeId, taken: bool) {
        self.report(Report::Snapshot { to, taken });
    }

    /// This server says that ours was removed from the cluster.
    pub fn expelled(&self, by: NodeId) {
        self.report(Report::Expelled { by });
    }

    fn report(&self, report: Report) {
        if self.0.upgrade().is_none_or(|asks| asks.try_send(Ask::Report(report)).is_err()) {
            tracing::debug!(?report, "the store does not hear a report");
        }
    }
}

/// No other servers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl Network for Alone {
    fn send(&mut self, _message: PeerMessage) {}
}

/// A message of another server is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("message of server {from}: {problem}")]
pub struct BadMessage {
    /// Who sent it, as it says.
    pub from: NodeId,
    /// What is wrong.
    pub problem: &'static str,
}

pub(crate) fn to_wire(message: eraftpb::Message, cluster_id: &str) -> PeerMessage {
    PeerMessage {
        kind: u32::try_from(message.msg_type.value()).unwrap_or_default(),
        to: message.to,
        from: message.from,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        entries: message.entries.iter().map(|entry| entry_to_wire(&entry_from_raft(entry))).collect(),
        commit: message.commit,
        commit_term: message.commit_term,
        snapshot: message.snapshot.as_ref().and_then(|s| wire::Snapshot::decode(s.data.clone()).ok()),
        request_snapshot: message.request_snapshot,
        reject: message.reject,
        reject_hint: message.reject_hint,
        context: message.context,
        priority: message.priority,
        cluster_id: cluster_id.to_owned(),
    }
}

pub(crate) fn from_wire(message: PeerMessage) -> Result<eraftpb::Message, BadMessage> {
    let bad = |problem| BadMessage { from: message.from, problem };
    let kind = i32::try_from(message.kind).ok().and_then(eraftpb::MessageType::from_i32);
    let kind = kind.ok_or_else(|| bad("unknown kind"))?;
    let mut raft = eraftpb::Message::default();
    let first = message.index.wrapping_add(1);
    for (expected, entry) in (first..).zip(&message.entries) {
        if kind == eraftpb::MessageType::MsgAppend && entry.index != expected {
            return Err(bad("entries with a gap"));
        }
        raft.entries.push(entry_to_raft(entry_from_wire(entry).ok_or_else(|| bad("unknown kind of entry"))?));
    }
    raft.msg_type = kind;
    raft.to = message.to;
    raft.from = message.from;
    raft.term = message.term;
    raft.log_term = message.log_term;
    raft.index = message.index;
    raft.commit = message.commit;
    raft.commit_term = message.commit_term;
    raft.request_snapshot = message.request_snapshot;
    raft.reject = message.reject;
    raft.reject_hint = message.reject_hint;
    raft.priority = message.priority;
    if let Some(snapshot) = &message.snapshot {
        let decoded =
            snapshot_from_wire(snapshot.clone()).ok_or_else(|| bad("snapshot without a meaning"))?;
        let members = snapshot.meta.as_ref().and_then(|meta| meta.members.clone()).unwrap_or_default();
        raft.snapshot = Some(snapshot_to_raft(&decoded, &members)).into();
    }
    raft.context = message.context;
    Ok(raft)
}

fn entry_to_wire(entry: &LogEntry) -> wire::Entry {
    wire::Entry {
        kind: u32::from(kind_number(entry.kind)),
        term: entry.at.term,
        index: entry.at.index,
        payload: entry.payload.clone(),
    }
}

fn entry_from_wire(entry: &wire::Entry) -> Option<LogEntry> {
    Some(LogEntry {
        kind: u8::try_from(entry.kind).ok().and_then(kind_of)?,
        at: Position { index: entry.index, term: entry.term },
        payload: entry.payload.clone(),
    })
}

/// As the wire and the write-ahead log number them.
pub(crate) fn kind_number(kind: EntryKind) -> u8 {
    match kind {
        EntryKind::Normal => 0,
        EntryKind::Member => 1,
        EntryKind::Members => 2,
    }
}

pub(crate) fn kind_of(number: u8) -> Option<EntryKind> {
    match number {
        0 => Some(EntryKind::Normal),
        1 => Some(EntryKind::Member),
        2 => Some(EntryKind::Members),
        _ => None,
    }
}

pub(crate) fn entry_to_raft(entry: LogEntry) -> eraftpb::Entry {
    let entry_type = match entry.kind {
        EntryKind::Normal => eraftpb::EntryType::EntryNormal,
        EntryKind::Member => eraftpb::EntryType::EntryConfChange,
        EntryKind::Members => eraftpb::EntryType::EntryConfChangeV2,
    };
    let Position { index, term } = entry.at;
    eraftpb::Entry { entry_type, index, term, data: entry.payload, ..eraftpb::Entry::default() }
}

pub(crate) fn entry_from_raft(entry: &eraftpb::Entry) -> LogEntry {
    let kind = match entry.entry_type {
        eraftpb::EntryType::EntryNormal => EntryKind::Normal,
        eraftpb::EntryType::EntryConfChange => EntryKind::Member,
        eraftpb::EntryType::EntryConfChangeV2 => EntryKind::Members,
    };
    LogEntry { kind, at: Position { index: entry.index, term: entry.term }, payload: entry.data.clone() }
}

/// Raft carries our snapshot as its data.
pub(crate) fn snapshot_to_raft(snapshot: &Snapshot, members: &wire::Members) -> eraftpb::Snapshot {
    let data = Bytes::from(snapshot_to_wire(snapshot, members).encode_to_vec());
    let mut raft = eraftpb::Snapshot { data, ..eraftpb::Snapshot::default() };
    let meta = raft.mut_metadata();
    meta.index = snapshot.meta.at.index;
    meta.term = snapshot.meta.at.term;
    meta.set_conf_state(members_to_raft(members));
    raft
}

pub(crate) fn snapshot_to_wire(snapshot: &Snapshot, members: &wire::Members) -> wire::Snapshot {
    let meta = wire::SnapshotMeta {
        index: snapshot.meta.at.index,
        term: snapshot.meta.at.term,
        members: Some(members.clone()),
        cluster_id: snapshot.meta.cluster_id.clone(),
        state_hash: Bytes::copy_from_slice(&snapshot.meta.hash.0),
    };
    wire::Snapshot { meta: Some(meta), body: snapshot.body.clone() }
}

pub(crate) fn snapshot_from_wire(snapshot: wire::Snapshot) -> Option<Snapshot> {
    let meta = snapshot.meta?;
    let meta = SnapshotMeta {
        at: Position { index: meta.index, term: meta.term },
        cluster_id: meta.cluster_id,
        hash: StateHash(meta.state_hash[..].try_into().ok()?),
    };
    Some(Snapshot { meta, body: snapshot.body })
}

pub(crate) fn members_to_raft(members: &wire::Members) -> eraftpb::ConfState {
    let mut state = eraftpb::ConfState::default();
    state.voters.clone_from(&members.voters);
    state.learners.clone_from(&members.learners);
    state.voters_outgoing.clone_from(&members.voters_outgoing);
    state.learners_next.clone_from(&members.learners_next);
    state.auto_leave = members.auto_leave;
    state
}

/// In the order of their numbers: raft gives them in the order of a hash, and they are part of the state.
pub(crate) fn members_from_raft(state: &eraftpb::ConfState) -> wire::Members {
    let sorted = |ids: &[u64]| {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids
    };
    wire::Members {
        voters: sorted(&state.voters),
        learners: sorted(&state.learners),
        voters_outgoing: sorted(&state.voters_outgoing),
        learners_next: sorted(&state.learners_next),
        auto_leave: state.auto_leave,
        ..wire::Members::default()
    }
}

/// A membership change as raft proposes it.
pub(crate) fn change_to_raft(change: &MemberChange, ticket: Ticket) -> eraftpb::ConfChange {
    let addresses = match change {
        MemberChange::AddLearner { addresses, .. } => addresses.clone(),
        MemberChange::Promote { .. } | MemberChange::Remove { .. } => Addresses::default(),
    };
    let Addresses { peers, admin } = addresses;
    let member = Some(wire::Member { id: change.id(), peers, admin });
    let context = wire::MemberChange { origin: ticket.origin, number: ticket.number, member };
    let change_type = match change {
        MemberChange::AddLearner { .. } => eraftpb::ConfChangeType::AddLearnerNode,
        MemberChange::Promote { .. } => eraftpb::ConfChangeType::AddNode,
        MemberChange::Remove { .. } => eraftpb::ConfChangeType::RemoveNode,
    };
    let context = context.encode_to_vec().into();
    eraftpb::ConfChange { node_id: change.id(), change_type, context, ..eraftpb::ConfChange::default() }
}

/// What a membership change of this version means, and who waits for it.
pub(crate) fn change_from_raft(change: &eraftpb::ConfChangeV2) -> Option<(Ticket, MemberChange)> {
    let [single] = change.changes.as_ref() else { return None };
    let context = wire::MemberChange::decode(change.context.clone()).ok()?;
    let wire::Member { id, peers, admin } = context.member.filter(|member| member.id == single.node_id)?;
    let ticket = Ticket { origin: context.origin, number: context.number };
    let change = match single.change_type {
        eraftpb::ConfChangeType::AddLearnerNode => {
            MemberChange::AddLearner { id, addresses: Addresses { peers, admin } }
        }
        eraftpb::ConfChangeType::AddNode => MemberChange::Promote { id },
        eraftpb::ConfChangeType::RemoveNode => MemberChange::Remove { id },
    };
    Some((ticket, change))
}

/// A membership change from an entry's payload.
pub(crate) fn change_of(entry: &LogEntry) -> Result<eraftpb::ConfChangeV2, protobuf::ProtobufError> {
    let mut joint = eraftpb::ConfChangeV2::default();
    if entry.kind == EntryKind::Members {
        joint.merge_from_bytes(&entry.payload)?;
        return Ok(joint);
    }
    let mut single = eraftpb::ConfChange::default();
    single.merge_from_bytes(&entry.payload)?;
    let (node_id, change_type) = (single.node_id, single.change_type);
    joint.changes.push(eraftpb::ConfChangeSingle { node_id, change_type, ..Default::default() });
    joint.context = single.context;
    Ok(joint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> eraftpb::Message {
        let msg_type = eraftpb::MessageType::MsgAppend;
        let mut message = eraftpb::Message { msg_type, ..eraftpb::Message::default() };
        (message.to, message.from, message.term, message.log_term) = (2, 1, 5, 4);
        (message.index, message.commit, message.commit_term, message.priority) = (8, 7, 4, -3);
        (message.request_snapshot, message.reject, message.reject_hint) = (9, true, 6);
        message.context = Bytes::from_static(b"context");
        for (index, kind) in [(9, EntryKind::Normal), (10, EntryKind::Member), (11, EntryKind::Members)] {
            let at = Position { index, term: 5 };
            message.entries.push(entry_to_raft(LogEntry { kind, at, payload: Bytes::from_static(b"p") }));
        }
        let meta = SnapshotMeta {
            at: Position { index: 3, term: 2 },
            cluster_id: "c".into(),
            hash: StateHash([7; 32]),
        };
        let snapshot = Snapshot { meta, body: Bytes::from_static(b"body") };
        let members = wire::Members { voters: vec![1, 2], learners: vec![3], ..wire::Members::default() };
        message.set_snapshot(snapshot_to_raft(&snapshot, &members));
        message
    }

    #[test]
    fn a_message_arrives_as_it_was_sent() {
        let wire = to_wire(message(), "c");
        let sent = PeerMessage::decode(&wire.encode_to_vec()[..]).unwrap();
        assert_eq!(from_wire(sent), Ok(message()));
    }

    #[test]
    fn what_raft_would_panic_on_is_refused() {
        let problem = |change: fn(&mut PeerMessage)| {
            let mut message = to_wire(message(), "c");
            change(&mut message);
            from_wire(message).unwrap_err().problem
        };
        assert_eq!(problem(|m| m.kind = 99), "unknown kind");
        assert_eq!(problem(|m| m.kind = u32::MAX), "unknown kind");
        assert_eq!(problem(|m| m.entries[1].index = 12), "entries with a gap");
        assert_eq!(problem(|m| m.entries[0].kind = 3), "unknown kind of entry");
        let cut = |m: &mut PeerMessage| {
            m.snapshot.as_mut().unwrap().meta.as_mut().unwrap().state_hash = Bytes::from_static(b"short");
        };
        assert_eq!(problem(cut), "snapshot without a meaning");
    }
}
