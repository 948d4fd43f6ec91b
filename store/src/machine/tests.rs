use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::{Addresses, Member, Quota, Usage, members::MemberChange};

/// A machine, fed like a node feeds it.
#[derive(Default)]
pub(crate) struct Fed {
    pub(crate) machine: Machine,
    items: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Fed {
    pub(crate) fn new() -> Self {
        let members = wire::Members { voters: vec![1], next_id: 2, ..wire::Members::default() };
        let machine = Machine::genesis(Epoch { counter: 1, id: 9 }, Position { index: 1, term: 1 }, members);
        let items = machine.items().map(|item| (item.key, item.value)).collect();
        Self { machine, items }
    }

    fn next(&self) -> Position {
        Position { index: self.machine.applied().index + 1, term: 1 }
    }

    pub(crate) fn txn(&mut self, txn: Txn) -> Outcome {
        self.command(Command::Txn { txn, time_ms: 5 })
    }

    pub(crate) fn compact(&mut self, revision: u64) -> Outcome {
        self.command(Command::Compact { revision: Revision(revision) })
    }

    fn members(&mut self, conf: wire::Members, change: &MemberChange) {
        let mut delta = Delta::default();
        self.machine.change_members(self.next(), conf, Some(change), &mut delta);
        self.follow(delta);
    }

    fn command(&mut self, command: Command) -> Outcome {
        let at = self.next();
        self.proposed(Ticket { origin: 1, number: at.index }, command)
    }

    fn proposed(&mut self, ticket: Ticket, command: Command) -> Outcome {
        let mut delta = Delta::default();
        let outcome = self.machine.apply(self.next(), ticket, command, &mut delta);
        self.follow(delta);
        outcome
    }

    fn follow(&mut self, delta: Delta) {
        for (key, change) in delta.changes {
            match change {
                Change::Put(value) => drop(self.items.insert(key, value)),
                Change::Remove(length) => {
                    let old = self.items.remove(&key).expect("only what was there is removed");
                    assert_eq!(old.len(), length);
                }
            }
        }
    }

    /// Everything that is kept beside the items agrees with them.
    pub(crate) fn check(&self) {
        let items = self.items.iter().map(|(key, value)| Item { key: key.clone(), value: value.clone() });
        assert!(self.machine.items().eq(items.clone()), "the deltas add up to the state");
        let read = Machine::from_items(items).unwrap();
        assert_eq!(read.hash(), self.machine.hash());
        assert_eq!(read.bytes(), self.machine.bytes());
        assert_eq!(read.live_keys(), self.machine.live_keys());
        assert_eq!(read.live_keys(), self.machine.list("").len() as u64);
        assert_eq!(read.request_index, self.machine.request_index);
        self.machine.check_usages();
    }
}

/// A state with history, deletions, compaction and remembered requests.
pub(crate) fn busy_machine(transactions: u64) -> Machine {
    let mut fed = Fed::new();
    for i in 0..transactions {
        let txn = Txn { request_id: format!("r{i}"), ..Txn::new("ada").note("n") };
        fed.txn(
            txn.put(format!("k/{}", i % 17), format!("value {i}")).delete(format!("k/{}", (i + 5) % 19 + 17)),
        );
        fed.txn(Txn { request_id: format!("d{i}"), ..Txn::new("bob") }.put(format!("k/{}", i % 7 + 17), "x"));
    }
    fed.compact(transactions / 2);
    fed.machine
}

fn keys(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(|entry| &*entry.key).collect()
}

#[test]
fn a_transaction_has_one_revision() {
    let mut fed = Fed::new();
    assert_eq!(fed.txn(Txn::new("a").put("x", "1").put("y", "2")), Outcome::Committed(Revision(1)));
    assert_eq!(
        fed.txn(Txn::new("a").put("x", "3").delete("y").put("z", "")),
        Outcome::Committed(Revision(2))
    );
    let x = fed.machine.get("x").unwrap();
    assert_eq!((x.create_revision, x.mod_revision, x.version), (Revision(1), Revision(2), 2));
    assert_eq!(x.value, "3");
    assert_eq!(fed.machine.get("y"), None);
    assert_eq!(keys(&fed.machine.list("")), ["x", "z"]);
    fed.check();
}

#[test]
fn a_key_begins_anew_after_its_deletion() {
    let mut fed = Fed::new();
    fed.txn(Txn::new("a").put("x", "1"));
    fed.txn(Txn::new("a").delete("x"));
    fed.txn(Txn::new("a").put("x", "2"));
    let x = fed.machine.get("x").unwrap();
    assert_eq!((x.create_revision, x.version), (Revision(3), 1));
    fed.check();
}

#[test]
fn compares_hold_or_nothing_is_done() {
    let mut fed = Fed::new();
    fed.txn(Txn::new("a").put("x", "1"));
    let conflict = |key: &str, expected, actual| Outcome::Conflict {
        key: key.into(),
        expected: Revision(expected),
        actual: Revision(actual),
    };
    let check = |fed: &mut Fed, key: &str, revision, expect: Outcome| {
        let txn = Txn::new("a").compare(key, Revision(revision)).put("y", "1");
        assert_eq!(fed.txn(txn), expect, "{key} {revision}");
    };
    check(&mut fed, "x", 0, conflict("x", 0, 1));
    check(&mut fed, "x", 2, conflict("x", 2, 1));
    check(&mut fed, "none", 1, conflict("none", 1, 0));
    assert_eq!((fed.machine.get("y"), fed.machine.revision()), (None, Revision(1)));
    check(&mut fed, "x", 1, Outcome::Committed(Revision(2)));
    check(&mut fed, "none", 0, Outcome::Committed(Revision(3)));
    fed.txn(Txn::new("a").delete("x"));
    check(&mut fed, "x", 1, conflict("x", 1, 0));
    fed.check();
}

#[test]
fn a_request_is_applied_once() {
    let mut fed = Fed::new();
    let txn = Txn::new("a").put("x", "1");
    assert_eq!(fed.txn(txn.clone()), Outcome::Committed(Revision(1)));
    fed.txn(Txn::new("a").put("x", "2"));
    assert_eq!(fed.txn(txn.clone()), Outcome::Duplicate(Revision(1)));
    assert_eq!(fed.machine.get("x").unwrap().value, "2");
    assert_eq!(fed.txn(txn.put("y", "1")), Outcome::RequestIdReused);
    fed.check();
}

#[test]
fn a_refused_request_may_come_again() {
    let mut fed = Fed::new();
    let txn = Txn::new("a").compare("x", Revision(1)).put("y", "1");
    assert!(matches!(fed.txn(txn.clone()), Outcome::Conflict { .. }));
    fed.txn(Txn::new("a").put("x", "1"));
    assert_eq!(fed.txn(txn), Outcome::Committed(Revision(2)));
}

#[test]
fn a_copy_of_a_refused_proposal_is_not_applied() {
    let mut fed = Fed::new();
    fed.txn(Txn::new("a").put("k", "1"));
    let create = Txn::new("a").compare("k", Revision(0)).put("k", "2");
    let command = Command::Txn { txn: create, time_ms: 1 };
    let ticket = Ticket { origin: 7, number: 1 };
    assert!(matches!(fed.proposed(ticket, command.clone()), Outcome::Conflict { .. }));
    fed.txn(Txn::new("a").delete("k"));
    // The compare would hold now; but the proposer was told that it does not.
    assert_eq!(fed.proposed(ticket, command.clone()), Outcome::Expired);
    // Its client asks again.
    assert_eq!(fed.proposed(Ticket { number: 2, ..ticket }, command), Outcome::Committed(Revision(3)));
}

#[test]
fn remembered_requests_are_bounded() {
    let mut fed = Fed::new();
    let request = |i: usize| Txn { request_id: i.to_string(), ..Txn::new("a") }.put("x", i.to_string());
    for i in 0..REQUESTS_KEPT + 5 {
        fed.txn(request(i));
    }
    assert_eq!(fed.machine.requests.len(), REQUESTS_KEPT);
    assert!(matches!(fed.txn(request(5)), Outcome::Duplicate(Revision(6))));
    assert!(matches!(fed.txn(request(4)), Outcome::Committed(_)), "forgotten");
    assert!(matches!(fed.txn(request(REQUESTS_KEPT)), Outcome::Duplicate(_)));
    fed.check();
}

#[test]
fn a_request_that_may_have_been_forgotten_is_not_applied() {
    let mut fed = Fed::new();
    let request = |i: usize, seen| Txn { request_id: i.to_string(), seen: Revision(seen), ..Txn::new("a") };
    fed.txn(request(0, 0).put("x", "0"));
    for i in 1..=REQUESTS_KEPT {
        fed.txn(request(i, 0).put("x", i.to_string()));
    }
    // Request 0 is forgotten now: nobody can tell it from a new one but by what its proposer had seen.
    let before = fed.machine.revision();
    assert_eq!(fed.txn(request(0, 0).put("x", "0")), Outcome::Committed(Revision(before.0 + 1)), "no bound");
    let again = Txn { request_id: "late".into(), seen: Revision(1), ..Txn::new("a") };
    assert_eq!(fed.txn(again.clone().put("x", "0")), Outcome::Expired);
    assert_eq!(
        fed.txn(Txn { seen: Revision(2), ..again }.put("x", "0")),
        Outcome::Committed(Revision(before.0 + 2))
    );
    fed.check();
}

#[test]
fn what_breaks_a_bound_changes_nothing() {
    let mut fed = Fed::new();
    let before = fed.machine.items().filter(|item| item.key != b"m").collect::<Vec<_>>();
    assert!(matches!(fed.txn(Txn::new("a").put("", "v")), Outcome::Invalid(_)));
    assert_eq!(fed.machine.items().filter(|item| item.key != b"m").collect::<Vec<_>>(), before);
    fed.check();
}

#[test]
fn history_reads_as_it_was_until_it_is_compacted() {
    let mut fed = Fed::new();
    fed.txn(Txn::new("a").put("x", "1").put("y", "1"));
    fed.txn(Txn::new("a").put("x", "2"));
    fed.txn(Txn::new("a").delete("x").put("z", "3"));
    fed.txn(Txn::new("a").put("x", "4"));
    let at = |fed: &Fed, revision| fed.machine.list_at("", Revision(revision));
    let value = |fed: &Fed, revision| fed.machine.get_at("x", Revision(revision)).unwrap().map(|e| e.value);
    assert_eq!(keys(&at(&fed, 1).unwrap()), ["x", "y"]);
    assert_eq!(value(&fed, 1).unwrap(), "1");
    assert_eq!(keys(&at(&fed, 3).unwrap()), ["y", "z"]);
    assert_eq!(keys(&at(&fed, 0).unwrap()), Vec::<&str>::new());

    assert_eq!(fed.compact(2), Outcome::Compacted(Revision(2)));
    fed.check();
    assert_eq!(at(&fed, 1), Err(Compacted { compacted: Revision(2) }));
    assert_eq!(value(&fed, 2).unwrap(), "2", "the revision that is compacted at still reads");
    assert_eq!(value(&fed, 3), None);
    assert_eq!(fed.machine.records_from(Revision(2)).err(), Some(Compacted { compacted: Revision(2) }));
    assert_eq!(fed.machine.records_from(Revision(3)).unwrap().count(), 2);

    assert_eq!(fed.compact(1), Outcome::Compacted(Revision(2)), "it never comes back");
    assert_eq!(fed.compact(99), Outcome::Compacted(Revision(4)), "the future is the present");
    assert_eq!(keys(&fed.machine.list("")), ["x", "y", "z"]);
    assert_eq!(fed.machine.history(), 0);
    fed.check();
}

#[test]
fn a_deleted_key_is_forgotten_with_its_history() {
    let mut fed = Fed::new();
    fed.txn(Txn::new("a").put("x", "1"));
    fed.txn(Txn::new("a").delete("x"));
    fed.compact(2);
    assert!(fed.machine.keys.is_empty());
    fed.check();
}

#[test]
fn events_are_whole_revisions_under_the_prefix() {
    let mut fed = Fed::new();
    fed.txn(Txn::new("a").put("a/1", "1").put("b/1", "1").put("a/2", "1"));
    fed.txn(Txn::new("a").put("b/1", "2"));
    fed.txn(Txn::new("a").delete("a/1"));
    let events = |from, scan| fed.machine.events("a/", Revision(from), scan).unwrap();
    let first = events(1, 10).unwrap();
    assert_eq!(first.revision, Revision(1));
    assert_eq!(first.events.iter().map(|e| &*e.key).collect::<Vec<_>>(), ["a/1", "a/2"]);
    assert_eq!(first.events[0].entry.as_ref().unwrap().value, "1", "as it was, not as it is");
    let third = events(2, 10).unwrap();
    assert_eq!((third.revision, third.events.len()), (Revision(3), 1));
    assert_eq!(third.events[0].entry, None);
    let bookmark = events(2, 1).unwrap();
    assert!(bookmark.is_bookmark() && bookmark.revision == Revision(2));
    assert_eq!(events(4, 10), None);
    assert_eq!(events(99, 10), None);
}

#[test]
fn the_audit_says_who_why_and_when() {
    let mut fed = Fed::new();
    let txn = Txn::new("ada").note("because").put("x", "1").delete("none");
    let id = txn.request_id.clone();
    fed.txn(txn);
    let records: Vec<&Record> = fed.machine.records_from(Revision(1)).unwrap().collect();
    let [record] = records[..] else { panic!("{records:?}") };
    assert_eq!((&*record.actor, &*record.note, record.time_ms), ("ada", "because", 5));
    assert_eq!((&*record.request_id, &*record.keys), (&*id, &["x".into()][..]));
}

#[test]
fn a_hash_tells_states_apart_and_not_how_they_came_about_in_memory() {
    let one = busy_machine(50);
    let read = Machine::from_items(one.items()).unwrap();
    assert_eq!(one.hash(), read.hash());
    let hashes: BTreeSet<_> = (1..30).map(|n| busy_machine(n).hash().0).collect();
    assert_eq!(hashes.len(), 29);
}

#[test]
fn items_that_do_not_fit_are_refused() {
    let items: Vec<Item> = busy_machine(20).items().collect();
    let read = |items: Vec<Item>| Machine::from_items(items);
    assert!(read(items.clone()).is_ok());
    let records = items.iter().position(|item| item.key[0] == b'r').unwrap();
    for (what, position) in [("meta", 0), ("request", 3), ("last request", records - 1), ("record", records)]
    {
        let mut without = items.clone();
        without.remove(position);
        assert!(read(without).is_err(), "{what}");
    }
    let mut swapped = items.clone();
    swapped.swap(1, 2);
    assert!(read(swapped).is_err());
    for position in 0..items.len() {
        for cut in 0..items[position].value.len() {
            let mut cut_item = items.clone();
            cut_item[position].value.truncate(cut);
            // It may read (as another state): it must not panic.
            let _outcome = read(cut_item);
        }
    }
}

proptest::proptest! {
    #[test]
    fn any_commands_keep_state_deltas_and_hash_in_step(seed in proptest::collection::vec((0u8..6, 0u8..6, 0u8..4), 1..80)) {
        let mut fed = Fed::new();
        for (kind, key, other) in seed {
            let txn = Txn::new("a");
            let revision = fed.machine.revision().0;
            match kind {
                0 | 1 => drop(fed.txn(txn.put(format!("{key}"), format!("{other}")))),
                2 => drop(fed.txn(txn.delete(format!("{key}")).put(format!("x{other}"), ""))),
                3 => drop(fed.txn(txn.compare(format!("{key}"), Revision(revision)).delete(format!("{key}")))),
                4 => drop(fed.compact(revision.saturating_sub(u64::from(other)))),
                _ => drop(fed.txn(Txn { request_id: format!("{key}"), ..txn }.put("r", format!("{other}")))),
            }
        }
        fed.check();
    }
}

fn conf(voters: &[u64], learners: &[u64]) -> wire::Members {
    wire::Members { voters: voters.to_vec(), learners: learners.to_vec(), ..wire::Members::default() }
}

fn addresses(host: &str) -> Addresses {
    Addresses { peers: format!("{host}:7072"), admin: format!("{host}:7070") }
}

#[test]
fn no_id_is_used_twice() {
    let mut fed = Fed::new();
    assert_eq!(fed.machine.next_id(), 2);
    let add = |id| MemberChange::AddLearner { id, addresses: addresses("b") };
    fed.members(conf(&[1], &[2]), &add(2));
    assert_eq!(fed.machine.next_id(), 3);
    assert!(!fed.machine.is_retired(2) && !fed.machine.is_retired(3));
    fed.members(conf(&[1, 2], &[]), &MemberChange::Promote { id: 2 });
    fed.members(conf(&[1], &[]), &MemberChange::Remove { id: 2 });
    assert_eq!((fed.machine.next_id(), fed.machine.is_retired(2)), (3, true));
    assert_eq!(fed.machine.check_change(&add(2)), Err(MemberError::Retired { id: 2 }));
    assert_eq!(fed.machine.check_change(&add(3)), Ok(()));
    fed.check();
}

#[test]
fn a_change_fits_to_the_members_that_there_are() {
    let mut fed = Fed::new();
    fed.members(conf(&[1], &[2]), &MemberChange::AddLearner { id: 2, addresses: addresses("b") });
    let check = |change, expect| assert_eq!(fed.machine.check_change(&change), expect);
    check(MemberChange::Promote { id: 2 }, Ok(()));
    check(MemberChange::Promote { id: 1 }, Err(MemberError::Voter { id: 1 }));
    check(MemberChange::Promote { id: 3 }, Err(MemberError::Unknown { id: 3 }));
    check(MemberChange::Remove { id: 3 }, Err(MemberError::Unknown { id: 3 }));
    check(MemberChange::Remove { id: 1 }, Err(MemberError::Last { id: 1 }));
    check(MemberChange::Remove { id: 2 }, Ok(()));
}

#[test]
fn the_roster_says_who_votes_and_where_each_is() {
    let mut fed = Fed::new();
    fed.members(conf(&[1], &[2]), &MemberChange::AddLearner { id: 2, addresses: addresses("b") });
    let address = |id, host| Command::Address { id, addresses: addresses(host) };
    assert_eq!(fed.command(address(1, "a")), Outcome::Members);
    assert_eq!(fed.command(address(9, "x")), Outcome::NoMember(MemberError::Unknown { id: 9 }));
    let member = |id, voter, host| Member { id, voter, addresses: addresses(host) };
    assert_eq!(fed.machine.roster(), [member(1, true, "a"), member(2, false, "b")]);
    assert_eq!(fed.command(address(2, "c")), Outcome::Members);
    assert_eq!(fed.machine.roster(), [member(1, true, "a"), member(2, false, "c")]);
    fed.check();
}

#[test]
fn a_new_life_has_one_member_and_all_that_was_there() {
    let old = busy_machine(30);
    let epoch = Epoch { counter: 7, id: 8 };
    let new = old.clone().reborn(epoch, 4, &addresses("d"));
    assert_eq!((new.epoch(), new.revision()), (epoch, old.revision()));
    assert_eq!(new.roster(), [Member { id: 4, voter: true, addresses: addresses("d") }]);
    assert_eq!(new.list(""), old.list(""));
    assert_eq!(Machine::from_items(new.items()).unwrap().hash(), new.hash());
    assert_eq!(new.next_id(), 5);
}

#[test]
fn a_prefix_keeps_its_quota_in_keys_and_bytes() {
    let mut fed = Fed::new();
    let quota = |max_keys, max_bytes| Some(Quota { max_keys, max_bytes });
    // Set with keys there already, and with some in the same transaction.
    fed.txn(Txn::new("a").put("a/1", "1234567").put("b/1", "x"));
    fed.txn(Txn::new("a").quota("a/", quota(3, 30)).put("a/2", "1234567"));
    assert_eq!(fed.machine.usage("a/"), Usage { keys: 2, bytes: 20 });
    let before = fed.machine.hash();
    let refused = |what, have, would, most| {
        Outcome::Quota(QuotaExceeded { prefix: "a/".into(), what, have, would, most })
    };
    let two = Txn::new("a").put("a/3", "").put("a/4", "").put("b/2", "");
    assert_eq!(fed.txn(two), refused("keys", 2, 4, 3));
    assert_eq!(fed.txn(Txn::new("a").put("a/3", "12345678")), refused("bytes", 20, 31, 30));
    assert_eq!(fed.machine.revision(), Revision(2));
    assert_ne!(fed.machine.hash(), before, "the log moved on");
    // What is deleted by the same transaction makes room; other prefixes have no quota.
    for good in [
        Txn::new("a").put("a/3", "1234567").put("b/2", "y".repeat(1000)),
        Txn::new("a").delete("a/1").put("a/4", "1234567"),
        Txn::new("a").put("a/4", "7654321"),
    ] {
        assert!(matches!(fed.txn(good.clone()), Outcome::Committed(_)), "{good:?}");
        fed.check();
    }
    // Below what there is: it may shrink and stay, not grow.
    fed.txn(Txn::new("a").quota("a/", quota(1, 1)));
    assert_eq!(fed.txn(Txn::new("a").put("a/2", "12345678")), refused("bytes", 30, 31, 1));
    assert!(matches!(fed.txn(Txn::new("a").put("a/2", "123456")), Outcome::Committed(_)));
    assert!(matches!(fed.txn(Txn::new("a").delete("a/2")), Outcome::Committed(_)));
    fed.check();
    fed.txn(Txn::new("a").quota("a/", None));
    assert!(matches!(fed.txn(Txn::new("a").put("a/5", "x".repeat(99))), Outcome::Committed(_)));
    assert_eq!((fed.machine.quota("a/"), fed.machine.usage("a/").keys), (None, 3));
    fed.check();
}

#[test]
fn a_record_says_from_where() {
    let mut fed = Fed::new();
    fed.txn(Txn::new("a").origin("127.0.0.1:9").put("k", "v"));
    assert_eq!(&*fed.machine.records_from(Revision(1)).unwrap().next().unwrap().origin, "127.0.0.1:9");
    fed.check();
}

#[test]
fn history_is_told_backwards_in_parts() {
    let mut fed = Fed::new();
    for i in 1..=20u64 {
        let txn =
            Txn::new("a").put(format!("{}/k", if i.is_multiple_of(3) { "b" } else { "a" }), i.to_string());
        fed.txn(if i == 20 { txn.delete("b/k") } else { txn });
    }
    fed.compact(4);
    let (mut before, mut seen, mut looks) = (Revision(u64::MAX), vec![], 0);
    loop {
        let part = fed.machine.changes_before("b/", before, 2, 5);
        looks += 1;
        for (record, events) in part.changes {
            assert!(record.revision < before && events.len() == 1);
            seen.push((record.revision.0, events[0].entry.as_ref().map(|entry| entry.value.clone())));
        }
        let Some(next) = part.next else { break };
        before = next;
    }
    let value = |i: u64| (i, Some(Bytes::from(i.to_string())));
    assert_eq!(seen, [(20, None), value(18), value(15), value(12), value(9), value(6)]);
    assert!(looks > 3);
    assert_eq!(fed.machine.changes_before("b/", Revision(3), 2, 5), History::default());
}
