//! Who belongs to the cluster: replayed from the entries that servers write, apart from what their states say.

use std::collections::{BTreeMap, BTreeSet};

use protobuf::Message as _;
use raft::eraftpb::{ConfChange, ConfChangeType};
use store::{
    NodeId,
    disk::{EntryKind, LogEntry},
    machine::{Machine, Position},
};

/// The members from one entry on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Config {
    pub(super) voters: BTreeSet<NodeId>,
    pub(super) learners: BTreeSet<NodeId>,
    /// Every id below was given.
    pub(super) next_id: NodeId,
}

pub(super) type Change = (ConfChangeType, NodeId);

pub(super) struct Roll {
    /// By the entry that made it so, oldest first.
    configs: Vec<(u64, Config)>,
    /// Changes that a server has written, committed or not, by index and term.
    written: BTreeMap<(u64, u64), Change>,
    /// The terms of the committed entries, from the first after the genesis on.
    terms: Vec<u64>,
}

impl Config {
    pub(super) fn contains(&self, id: NodeId) -> bool {
        self.voters.contains(&id) || self.learners.contains(&id)
    }

    pub(super) fn members(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.voters.iter().chain(&self.learners).copied()
    }

    /// Whether so many of the voters are a majority.
    pub(super) fn is_majority(&self, voters: usize) -> bool {
        voters > self.voters.len() / 2
    }

    /// The members after a change; `None`: it does not fit.
    pub(super) fn after(&self, (kind, id): Change) -> Option<Self> {
        let mut next = self.clone();
        let fits = match kind {
            ConfChangeType::AddLearnerNode => {
                next.next_id = id + 1;
                id >= self.next_id && next.learners.insert(id)
            }
            ConfChangeType::AddNode => next.learners.remove(&id) && next.voters.insert(id),
            ConfChangeType::RemoveNode => next.learners.remove(&id) || next.voters.remove(&id),
        };
        (fits && !next.voters.is_empty()).then_some(next)
    }
}

impl Roll {
    pub(super) fn new(voters: u64) -> Self {
        let (voters, learners, next_id) = ((1..=voters).collect(), BTreeSet::new(), voters + 1);
        let configs = vec![(1, Config { voters, learners, next_id })];
        Self { configs, written: BTreeMap::new(), terms: Vec::new() }
    }

    /// The last entry that is committed.
    pub(super) fn committed(&self) -> u64 {
        1 + self.terms.len() as u64
    }

    /// A server writes entries; returns the changes of membership among them.
    pub(super) fn write(&mut self, entries: &[LogEntry]) -> Vec<(Position, Change)> {
        let mut changes = Vec::new();
        for entry in entries.iter().filter(|entry| entry.kind != EntryKind::Normal) {
            assert_eq!(entry.kind, EntryKind::Member, "members change one at a time");
            let change = ConfChange::parse_from_bytes(&entry.payload).expect("a change reads");
            let change = (change.change_type, change.node_id);
            let at = entry.at;
            let other = *self.written.entry((at.index, at.term)).or_insert(change);
            assert_eq!(change, other, "two changes at {at:?}");
            changes.push((at, change));
        }
        changes
    }

    /// The next entry is committed.
    pub(super) fn commit(&mut self, term: u64) {
        self.terms.push(term);
        let index = self.committed();
        if let Some(change) = self.written.get(&(index, term))
            && let Some(next) = self.newest().after(*change)
        {
            self.configs.push((index, next));
        }
    }

    /// The term of a committed entry.
    pub(super) fn term_of(&self, index: u64) -> u64 {
        self.terms[usize::try_from(index - 2).unwrap()]
    }

    /// The members in effect on a server that has applied this entry.
    pub(super) fn at(&self, applied: u64) -> &Config {
        &self.configs[self.place(applied)].1
    }

    /// The entry that made them so; 0: none did.
    pub(super) fn since(&self, applied: u64) -> u64 {
        self.configs[self.place(applied)].0 * u64::from(self.place(applied) > 0)
    }

    fn place(&self, applied: u64) -> usize {
        self.configs.partition_point(|(index, _)| *index <= applied.max(1)) - 1
    }

    /// All that were in effect while a server went from one entry to another.
    pub(super) fn between(&self, from: u64, to: u64) -> impl Iterator<Item = &Config> {
        let passed = self.configs.iter().filter(move |(index, _)| *index > from && *index <= to);
        std::iter::once(self.at(from)).chain(passed.map(|(_, config)| config))
    }

    pub(super) fn newest(&self) -> &Config {
        self.last().1
    }

    /// The newest members, and the entry that made them so.
    pub(super) fn last(&self) -> (u64, &Config) {
        let (index, config) = &self.configs[self.configs.len() - 1];
        (*index, config)
    }

    /// How often members have changed.
    pub(super) fn changes(&self) -> u64 {
        self.configs.len() as u64 - 1
    }

    /// The members that there may be soon: now, and after each change that is written and may yet be committed.
    pub(super) fn possible(&self) -> Vec<Config> {
        let now = self.newest();
        let open = self.written.range((self.committed() + 1, 0)..);
        let after = open.filter_map(|(_, change)| now.after(*change));
        std::iter::once(now.clone()).chain(after).collect()
    }

    /// A server shows its state.
    pub(super) fn compare(&self, server: NodeId, machine: &Machine) {
        let (config, shown) = (self.at(machine.applied().index), machine.members());
        let same = config.voters.iter().eq(&shown.voters) && config.learners.iter().eq(&shown.learners);
        assert!(same, "server {server} says that the members are {shown:?}, the log says {config:?}");
        let next = machine.next_id();
        assert_eq!(next, config.next_id, "server {server} would give the id {next} next");
    }
}
