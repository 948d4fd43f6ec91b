//! The replicated state: keys with their history, the audit, and the requests already applied.
//!
//! [`Machine::apply`] is a function of the state and the command: no clock, no randomness, no hash order. Servers
//! that applied the same entries are equal to the byte, which [`Machine::hash`] proves.
//!
//! The state is a set of [items]; every change of it goes through one place, which keeps the running hash
//! and notes the change for whoever writes it to disk ([`Delta`]).

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use api::store as wire;
use bytes::Bytes;
use model::{Epoch, Revision};

use crate::{
    Compacted, Entry, Event, History, Key, MemberError, QuotaExceeded, Record, StateHash, WatchBatch,
    txn::{Command, InvalidTxn, Op, Ticket, Txn},
};

pub mod items;
mod keys;
mod members;
mod quotas;
mod read;

pub use items::{BadItem, Change, Delta};
use items::{Item, Sum};
use keys::Keys;
use quotas::Quotas;

/// How many applied requests are remembered: at 1,000 transactions a second the last ten seconds, far longer
/// than a client retries one. Part of the replicated state: it may only change with the format.
pub const REQUESTS_KEPT: usize = 10_000;

/// The most bytes of the whole state, history included. It is all in memory; beyond this only deletions are taken.
pub const QUOTA: u64 = 1 << 30;

/// A place in the Raft log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// The entry's index.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Done, by this revision.
    Committed(Revision),
    /// It had been done before, by this revision.
    Duplicate(Revision),
    /// A compare does not hold.
    Conflict {
        /// The first key whose compare failed.
        key: Key,
        /// What was expected.
        expected: Revision,
        /// What is.
        actual: Revision,
    },
    /// Another transaction had its request id.
    RequestIdReused,
    /// It may have been applied so long ago that its request is forgotten, or is a copy of a proposal that was refused:
    /// it is not applied.
    Expired,
    /// It breaks a bound.
    Invalid(InvalidTxn),
    /// The keys under a prefix would take more than their quota.
    Quota(QuotaExceeded),
    /// The quota of the whole state is reached.
    Full,
    /// History up to this revision is forgotten.
    Compacted(Revision),
    /// Membership is as it was asked.
    Members,
    /// It is not, for it does not fit to the members that there are.
    NoMember(MemberError),
}

/// One revision of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Version {
    revision: Revision,
    create_revision: Revision,
    version: u64,
    /// `None`: deleted.
    value: Option<Bytes>,
}

/// A transaction that was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Request {
    id: Key,
    fingerprint: u64,
    revision: Revision,
}

/// The replicated state. A clone shares the memory of almost all of it.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    epoch: Epoch,
    revision: Revision,
    compacted: Revision,
    applied: Position,
    members: wire::Members,
    /// Each key's versions, oldest first, never none. All but the newest are history.
    keys: Keys,
    /// One for each revision after `compacted`.
    records: VecDeque<Arc<Record>>,
    /// The newest has the sequence number `next_request - 1`.
    requests: VecDeque<Request>,
    next_request: u64,
    /// Only asked for one: its order, which is a hash's, is seen nowhere.
    request_index: HashMap<Key, u64>,
    live: u64,
    quotas: Quotas,
    sum: Sum,
}

impl Machine {
    /// The state that a cluster begins with, before its first entry.
    #[must_use]
    pub fn genesis(epoch: Epoch, at: Position, members: wire::Members) -> Self {
        let mut machine = Self { epoch, applied: at, members, ..Self::default() };
        machine.sum.add(&machine.meta_item());
        machine
    }

    /// Applies a command at its place in the log, and notes what changed.
    ///
    /// The ticket tells copies of a proposal apart from a request that its client makes again.
    pub fn apply(&mut self, at: Position, ticket: Ticket, command: Command, delta: &mut Delta) -> Outcome {
        self.change(at, delta, |machine, delta| match command {
            Command::Txn { txn, time_ms } => machine.transact(ticket, txn, time_ms, delta),
            Command::Compact { revision } => machine.compact(revision, delta),
            Command::Address { id, addresses } => machine.readdress(id, &addresses),
        })
    }

    /// Moves over an entry that changes no key: a new leader's first.
    pub fn skip(&mut self, at: Position, delta: &mut Delta) {
        self.change(at, delta, |_, _| ());
    }

    /// Every change goes through here: the meta item is one of the items that are hashed and written.
    fn change<T>(
        &mut self,
        at: Position,
        delta: &mut Delta,
        body: impl FnOnce(&mut Self, &mut Delta) -> T,
    ) -> T {
        let before = self.meta_item();
        self.sum.remove(&before);
        let outcome = body(self, delta);
        self.applied = at;
        let after = self.meta_item();
        self.sum.add(&after);
        delta.put(after);
        outcome
    }

    fn transact(&mut self, ticket: Ticket, txn: Txn, mut time_ms: i64, delta: &mut Delta) -> Outcome {
        planted!(ClockInApply, time_ms = crate::planted::clock());
        planted!(RequestForgotten, self.request_index.clear());
        if let Err(problem) = txn.check() {
            return Outcome::Invalid(problem);
        }
        let fingerprint = txn.fingerprint();
        if let Some(request) = self.request(&txn.request_id) {
            return if request.fingerprint == fingerprint || planted!(FingerprintIgnored) {
                Outcome::Duplicate(request.revision)
            } else {
                Outcome::RequestIdReused
            };
        }
        if txn.seen.0 > 0 && self.requests.front().is_some_and(|oldest| oldest.revision.0 > txn.seen.0 + 1) {
            return Outcome::Expired;
        }
        let refusal = refusal(ticket);
        if self.request_index.contains_key(&refusal) {
            return Outcome::Expired;
        }
        let compared = if planted!(OnlyFirstCompare) { 1 } else { txn.compares.len() };
        for compare in txn.compares.into_iter().take(compared) {
            let actual = self.mod_revision(&compare.key);
            if actual != compare.mod_revision {
                // What is there may be deleted before a copy of this proposal comes. No other compare that fails holds
                // later.
                if compare.mod_revision.0 == 0 && !planted!(RefusalForgotten) {
                    self.remember(Request { id: refusal, fingerprint, revision: self.revision }, delta);
                }
                return Outcome::Conflict { key: compare.key, expected: compare.mod_revision, actual };
            }
        }
        let puts = txn.ops.iter().any(|op| matches!(op, Op::Put { .. }));
        if puts && self.sum.bytes() >= QUOTA {
            return Outcome::Full;
        }
        if let Err(exceeded) = self.check_quotas(&txn.ops) {
            return Outcome::Quota(exceeded);
        }
        self.revision.0 += 1;
        let mut keys: Vec<Key> = txn.ops.into_iter().filter_map(|op| self.write(op, delta)).collect();
        self.follow_quotas(&keys);
        planted!(HashOrder, keys = crate::planted::shuffle(keys));
        let request_id = Key::from(txn.request_id);
        let request = Request { id: request_id.clone(), fingerprint, revision: self.revision };
        self.remember(request, delta);
        let record = Record {
            revision: self.revision,
            request_id,
            actor: txn.actor.into(),
            note: txn.note.into(),
            origin: txn.origin.into(),
            time_ms,
            keys,
        };
        self.put(items::record(&record), delta);
        self.records.push_back(Arc::new(record));
        Outcome::Committed(self.revision)
    }

    /// Does one operation in the current revision; the key, if that changed anything.
    fn write(&mut self, op: Op, delta: &mut Delta) -> Option<Key> {
        let (key, value) = match op {
            Op::Put { key, value } => (key, Some(value)),
            Op::Delete { key } => (key, None),
        };
        let revision = self.revision;
        let last = self
            .keys
            .get(&key)
            .and_then(|(_, all)| all.last())
            .filter(|v| v.value.is_some() || planted!(VersionOutlivesDeletion));
        let version = match last {
            None if value.is_none() && !planted!(NothingDeleted) => return None,
            None => Version { revision, create_revision: revision, version: 1, value },
            Some(last) => {
                Version { revision, create_revision: last.create_revision, version: last.version + 1, value }
            }
        };
        self.live = self.live + u64::from(version.value.is_some()) - u64::from(last.is_some());
        let size = |value: &Option<Bytes>| value.as_ref().map(|value| (key.len() + value.len()) as u64);
        self.quotas.change(&key, last.and_then(|last| size(&last.value)), size(&version.value));
        self.put(items::version(&key, &version), delta);
        self.keys.push(&key, version);
        Some(key)
    }

    fn request(&self, id: &str) -> Option<&Request> {
        let sequence = *self.request_index.get(id)?;
        let first = self.next_request - self.requests.len() as u64;
        self.requests.get(usize::try_from(sequence - first).ok()?)
    }

    fn remember(&mut self, request: Request, delta: &mut Delta) {
        if self.requests.len() >= REQUESTS_KEPT
            && let Some(oldest) = self.requests.pop_front()
        {
            let sequence = self.next_request - self.requests.len() as u64 - 1;
            self.request_index.remove(&oldest.id);
            self.remove(items::request(sequence, &oldest), delta);
        }
        self.put(items::request(self.next_request, &request), delta);
        self.request_index.insert(request.id.clone(), self.next_request);
        self.requests.push_back(request);
        self.next_request += 1;
    }

    fn compact(&mut self, through: Revision, delta: &mut Delta) -> Outcome {
        // A revision of the future is cut to the present: what it asks for can only be all history there is.
        let through = through.min(self.revision);
        while let Some(record) = self.records.pop_front_if(|record| record.revision <= through) {
            for key in &record.keys {
                self.prune(key, through, delta);
            }
            self.remove(items::record(&record), delta);
        }
        self.compacted = self.compacted.max(through);
        Outcome::Compacted(self.compacted)
    }

    /// Forgets the versions of a key that no revision from `through` on can see.
    fn prune(&mut self, key: &Key, through: Revision, delta: &mut Delta) {
        let Some(versions) = self.keys.get_mut(key) else { return };
        let old = versions.partition_point(|version| version.revision <= through);
        // The newest of the old ones is what a reader at `through` sees, unless that is a deletion.
        let keep = old > 0 && versions[old - 1].value.is_some() && !planted!(CompactionDropsLive);
        let gone: Vec<Version> = versions.drain(..old - usize::from(keep)).collect();
        if versions.is_empty() {
            self.keys.remove(key);
        }
        for version in gone {
            self.remove(items::version(key, &version), delta);
        }
    }

    fn put(&mut self, item: Item, delta: &mut Delta) {
        self.sum.add(&item);
        delta.put(item);
    }

    fn remove(&mut self, item: Item, delta: &mut Delta) {
        if !planted!(HashKeepsTheGone) {
            self.sum.remove(&item);
        }
        delta.remove(item);
    }
}

/// The name under which a refused proposal is remembered among the requests. The store itself proposes a transaction
/// again when a change of leader may have lost it; its proposer has been told then that it was refused, and a copy that
/// comes later must not be applied. (A client that makes its request again gets another ticket.)
fn refusal(ticket: Ticket) -> Key {
    format!("\0refused/{:x}/{:x}", ticket.origin, ticket.number).into()
}

#[cfg(test)]
pub(crate) mod tests;
