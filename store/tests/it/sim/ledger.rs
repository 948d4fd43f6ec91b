//! What has to be true of the replicated history, whoever shows a part of it.
//!
//! Each write returns its revision, so the history is known in its order: each revision that any server applies is
//! replayed against a map of keys ([`Entry`] by key). From then on every server, every answer, every read and every
//! watch is compared with that map at that revision.

use std::collections::{BTreeMap, BTreeSet};

use store::{Entry, Epoch, Event, Key, Op, Record, Revision, StateHash, Txn, WatchBatch, machine::Machine};

/// The live keys at one revision.
type Keys = BTreeMap<Key, Entry>;

#[derive(Default)]
pub(super) struct Ledger {
    requests: BTreeMap<String, Request>,
    /// By revision, from 1.
    records: Vec<Record>,
    /// By revision, from 0.
    states: Vec<Keys>,
    /// By request id.
    applied: BTreeMap<Key, Revision>,
    /// Transactions whose clients were told that they are not done.
    refused: BTreeSet<String>,
    /// How far history is forgotten on the server that has forgotten most.
    compacted: Revision,
    /// The hash at each entry, and who showed it first.
    hashes: BTreeMap<u64, (u64, StateHash)>,
    /// What a new operation has to see: the newest revision that any client has been told.
    floor: Revision,
    /// The newest write that was acknowledged.
    acknowledged: Revision,
    epoch: Option<Epoch>,
}

struct Request {
    txn: Txn,
    /// When it was proposed, by each proposer's clock.
    times_ms: BTreeSet<i64>,
}

impl Ledger {
    pub(super) fn new() -> Self {
        Self { states: vec![Keys::new()], ..Self::default() }
    }

    /// The newest revision that any server has applied.
    pub(super) fn newest(&self) -> Revision {
        Revision(self.records.len() as u64)
    }

    pub(super) fn floor(&self) -> Revision {
        self.floor
    }

    pub(super) fn acknowledged(&self) -> Revision {
        self.acknowledged
    }

    /// When a key was changed last, at the newest revision.
    pub(super) fn mod_revision(&self, key: &Key) -> Revision {
        self.mod_revision_at(self.newest(), key)
    }

    fn mod_revision_at(&self, at: Revision, key: &Key) -> Revision {
        self.at(at).get(key).map_or(Revision(0), |entry| entry.mod_revision)
    }

    /// A transaction is about to be proposed, by a server whose clock shows `time_ms`.
    pub(super) fn proposed(&mut self, txn: &Txn, time_ms: i64) {
        let new = || Request { txn: txn.clone(), times_ms: BTreeSet::new() };
        let request = self.requests.entry(txn.request_id.clone()).or_insert_with(new);
        if request.txn == *txn {
            request.times_ms.insert(time_ms);
        }
    }

    /// A server shows its state. `seen`: what it has shown before.
    pub(super) fn observe(&mut self, server: u64, machine: &Machine, seen: &mut Revision) {
        let (applied, hash) = (machine.applied().index, machine.hash());
        let (other, expected) = *self.hashes.entry(applied).or_insert((server, hash));
        assert_eq!(hash, expected, "servers {server} and {other} differ at entry {applied}");
        assert_eq!(*self.epoch.get_or_insert(machine.epoch()), machine.epoch(), "another epoch");
        self.compacted = self.compacted.max(machine.compacted());
        let from = Revision((*seen).max(machine.compacted()).0 + 1);
        assert!(from <= Revision(self.newest().0 + 1), "server {server} forgets what nobody has seen");
        for record in machine.records_from(from).expect("not before what is compacted") {
            match self.records.get(index(record.revision) - 1) {
                Some(known) => assert_eq!(known, record, "server {server} has another history"),
                None => self.append(record, machine),
            }
        }
        assert!(machine.revision() >= *seen, "server {server} went back to {}", machine.revision());
        *seen = machine.revision();
    }

    /// A revision that no server has shown before.
    fn append(&mut self, record: &Record, machine: &Machine) {
        let revision = Revision(self.newest().0 + 1);
        assert_eq!(record.revision, revision, "a revision is left out or used twice");
        let id = &record.request_id;
        let request = self.requests.get(&**id).unwrap_or_else(|| panic!("nobody asked for {id}"));
        let earlier = self.applied.insert(id.clone(), revision);
        assert_eq!(earlier, None, "{id} was applied twice");
        assert!(!self.refused.contains(&**id), "{id} was refused, and is applied");
        let mut keys = self.states.last().expect("one more than records").clone();
        for compare in &request.txn.compares {
            let have = keys.get(&compare.key).map_or(Revision(0), |entry| entry.mod_revision);
            assert_eq!(have, compare.mod_revision, "{id}: a compare that did not hold was committed");
        }
        let changed: Vec<Key> = request
            .txn
            .ops
            .iter()
            .filter(|op| replay(&mut keys, op, revision))
            .map(|op| op.key().clone())
            .collect();
        assert_eq!(record.keys, changed, "{id}: keys of {revision}");
        assert_eq!((&*record.actor, &*record.note), (&*request.txn.actor, &*request.txn.note), "{id}");
        assert!(request.times_ms.contains(&record.time_ms), "{id}: a time that no proposer had");
        let live = machine.live_keys();
        if machine.revision() == revision {
            assert_eq!(live, keys.len() as u64, "live keys at {revision}");
        }
        self.records.push(record.clone());
        self.states.push(keys);
    }

    fn at(&self, revision: Revision) -> &Keys {
        self.states.get(index(revision)).unwrap_or_else(|| panic!("{revision} is not there yet"))
    }

    /// A write that began at `floor` was answered with a revision.
    pub(super) fn acknowledge(&mut self, id: &str, revision: Revision, floor: Revision) {
        assert_eq!(self.applied.get(id), Some(&revision), "{id} was acknowledged, and is not there");
        assert!(revision > floor, "{id} has {revision}, but began after {floor} was answered");
        self.acknowledged = self.acknowledged.max(revision);
        self.floor = self.floor.max(revision);
    }

    /// A write that began at `floor` was refused because a key had been changed.
    pub(super) fn conflict(
        &self,
        id: &str,
        key: &Key,
        (expected, actual): (Revision, Revision),
        floor: Revision,
    ) {
        let txn = &self.requests[id].txn;
        let compared = txn.compares.iter().any(|other| other.key == *key && other.mod_revision == expected);
        assert!(
            compared && expected != actual,
            "{id}: {key} at {actual}, expected at {expected}, is no conflict"
        );
        // Another try of it may have been applied since.
        let until = self.applied.get(id).map_or(self.newest().0 + 1, |applied| applied.0);
        let held = (floor.0..until).any(|at| self.mod_revision_at(Revision(at), key) == actual);
        assert!(held, "{id}: {key} was never at {actual} since {floor}");
    }

    /// The client of a write that was tried once knows now that it is not done, and never will be.
    pub(super) fn refuse(&mut self, id: &str) {
        self.refused.insert(id.to_owned());
    }

    /// A read was answered: `least` is what it had to see.
    pub(super) fn read(&mut self, prefix: &str, entries: &[Entry], revision: Revision, least: Revision) {
        assert!(revision >= least, "a read saw {revision}, and had to see {least}");
        let expected = self.at(revision).values().filter(|entry| entry.key.starts_with(prefix));
        assert!(expected.eq(entries), "a read of {prefix:?} at {revision} saw {entries:?}");
    }

    /// A linearizable read was answered: what begins from now on sees at least as much.
    pub(super) fn raise(&mut self, revision: Revision) {
        self.floor = self.floor.max(revision);
    }

    /// Somebody was told that history from `wanted` on is gone up to `compacted`.
    pub(super) fn refused(&self, wanted: Revision, compacted: Revision) {
        assert!(wanted <= compacted, "{wanted} is refused, though only {compacted} is compacted");
        assert!(
            compacted <= self.compacted,
            "told that {compacted} is compacted, only {} is",
            self.compacted
        );
    }

    /// A watch of `prefix` that had been told everything before `from` was told this.
    pub(super) fn told(&self, prefix: &str, from: Revision, batch: &WatchBatch) {
        let revision = batch.revision;
        assert!(revision >= from, "a watch at {from} was told {revision} again");
        assert!(revision <= self.newest(), "a watch was told {revision}, which nobody has applied");
        for skipped in from.0..revision.0 {
            let skipped = self.events(prefix, Revision(skipped));
            assert_eq!(skipped, [], "a watch of {prefix:?} missed events before {revision}");
        }
        assert_eq!(batch.events, self.events(prefix, revision), "a watch of {prefix:?} at {revision}");
    }

    /// What a watch of `prefix` has to be told of a revision.
    fn events(&self, prefix: &str, revision: Revision) -> Vec<Event> {
        let (record, keys) = (&self.records[index(revision) - 1], self.at(revision));
        let under = record.keys.iter().filter(|key| key.starts_with(prefix));
        under.map(|key| Event { key: key.clone(), entry: keys.get(key).cloned() }).collect()
    }

    /// A server that has applied everything shows all that it has.
    pub(super) fn compare(&self, machine: &Machine) {
        assert_eq!(machine.revision(), self.newest());
        for at in machine.compacted().0..=machine.revision().0 {
            let listed = machine.list_at("", Revision(at)).expect("not compacted");
            assert!(self.at(Revision(at)).values().eq(&listed), "the keys at {at} are {listed:?}");
        }
        assert!(self.at(self.newest()).values().eq(&machine.list("")), "the keys now");
        if let Some(gone) = machine.compacted().0.checked_sub(1) {
            assert!(machine.list_at("", Revision(gone)).is_err(), "a read of what is compacted");
        }
    }
}

/// Does one operation; whether it changed anything.
fn replay(keys: &mut Keys, op: &Op, revision: Revision) -> bool {
    match op {
        Op::Delete { key } => keys.remove(key).is_some(),
        Op::Put { key, value } => {
            let (create_revision, version) =
                keys.get(key).map_or((revision, 1), |entry| (entry.create_revision, entry.version + 1));
            let (key, value) = (key.clone(), value.clone());
            keys.insert(key.clone(), Entry { key, value, create_revision, mod_revision: revision, version });
            true
        }
    }
}

fn index(revision: Revision) -> usize {
    usize::try_from(revision.0).unwrap()
}
