use super::*;

fn id(name: &str) -> WorkerId {
    name.parse().unwrap()
}

fn set(names: &[&str]) -> BTreeSet<WorkerId> {
    names.iter().map(|name| id(name)).collect()
}

fn group(transport: Transport, slots: u32) -> Group {
    let bind = "127.0.0.1:8080".parse().unwrap();
    let mut group = Group::new(&Listen { bind, port: 80, tls: false, transport, raw: false }, 0);
    for slot in group.number(slots as usize) {
        group.add(slot);
    }
    group
}

fn settle(group: &mut Group, ready: &[&str]) -> Vec<Transfer> {
    group.settle(Wanted { ready: &set(ready), threads: 2, abandoned: ready.is_empty() })
}

/// Answers transfers at once until there are none; returns how many slots were lent.
fn settle_fully(group: &mut Group, ready: &[&str]) -> usize {
    let mut lent = 0;
    loop {
        let transfers = settle(group, ready);
        if transfers.is_empty() {
            return lent;
        }
        for Transfer { worker, kind, slots } in transfers {
            match kind {
                TransferKind::Lend => {
                    lent += slots.len();
                    group.taken(&worker, &slots);
                }
                TransferKind::Return => group.returned(&worker, &slots),
            }
        }
    }
}

fn shares(group: &Group, workers: &[&str]) -> Vec<usize> {
    workers.iter().map(|worker| group.held_by(&id(worker))).collect()
}

#[test]
fn the_first_worker_gets_everything_and_the_second_half_of_it() {
    let mut group = group(Transport::Tcp, 16);
    assert_eq!(settle_fully(&mut group, &["a"]), 16);
    assert_eq!(settle_fully(&mut group, &["a", "b"]), 8);
    assert_eq!(shares(&group, &["a", "b"]), [8, 8]);
}

#[test]
fn as_few_slots_move_as_can() {
    let mut group = group(Transport::Tcp, 16);
    settle_fully(&mut group, &["a", "b", "c"]);
    // A fourth takes four; a leaver's four are all that moves.
    assert_eq!(settle_fully(&mut group, &["a", "b", "c", "d"]), 4);
    assert_eq!(settle_fully(&mut group, &["a", "b", "c"]), 4);
    let mut counts = shares(&group, &["a", "b", "c", "d"]);
    counts.sort_unstable();
    assert_eq!(counts, [0, 5, 5, 6]);
}

#[test]
fn nothing_is_asked_back_before_it_is_taken() {
    let mut group = group(Transport::Tcp, 4);
    settle_fully(&mut group, &["a"]);
    let lends = settle(&mut group, &["b"]);
    assert_eq!(lends.len(), 1);
    assert_eq!((lends[0].kind, &lends[0].worker), (TransferKind::Lend, &id("b")));
    assert_eq!(settle(&mut group, &["b"]), []);
    group.taken(&id("b"), &lends[0].slots[..1]);
    let returns = settle(&mut group, &["b"]);
    let expect =
        Transfer { worker: id("a"), kind: TransferKind::Return, slots: lends[0].slots[..1].to_vec() };
    assert_eq!(returns, [expect]);
}

#[test]
fn the_last_one_keeps_its_slots_unless_the_address_is_abandoned() {
    let mut group = group(Transport::Tcp, 4);
    settle_fully(&mut group, &["a"]);
    let nobody = BTreeSet::new();
    assert_eq!(group.settle(Wanted { ready: &nobody, threads: 1, abandoned: false }), []);
    let returns = group.settle(Wanted { ready: &nobody, threads: 1, abandoned: true });
    assert_eq!(returns, [Transfer { worker: id("a"), kind: TransferKind::Return, slots: vec![0, 1, 2, 3] }]);
}

#[test]
fn the_slots_of_the_dead_are_lent_again_at_once() {
    let mut group = group(Transport::Tcp, 8);
    settle_fully(&mut group, &["a", "b"]);
    group.ended(&id("a"));
    let lends = settle(&mut group, &["b"]);
    assert_eq!(lends.iter().map(|t| t.slots.len()).sum::<usize>(), 4);
    assert!(lends.iter().all(|t| t.worker == id("b") && t.kind == TransferKind::Lend));
}

#[test]
fn whoever_listens_already_inherits() {
    let mut group = group(Transport::Tcp, 4);
    settle_fully(&mut group, &["a"]);
    let lends = settle(&mut group, &["b"]);
    group.taken(&id("b"), &lends[0].slots);
    // a was not asked to return anything yet when b dies.
    group.ended(&id("b"));
    assert_eq!(settle(&mut group, &["a"]), []);
    assert_eq!(shares(&group, &["a"]), [4]);
}

#[test]
fn a_udp_slot_stays_with_its_worker_until_the_end() {
    let mut group = group(Transport::Udp, 4);
    assert_eq!(settle_fully(&mut group, &["a"]), 2);
    // A drainer keeps its own; its successor gets others.
    assert_eq!(settle_fully(&mut group, &["b"]), 2);
    assert_eq!(settle_fully(&mut group, &["c"]), 0);
    group.unlinked(&id("a"));
    assert_eq!(settle_fully(&mut group, &["c"]), 0);
    group.ended(&id("a"));
    assert_eq!(settle_fully(&mut group, &["c"]), 2);
    assert_eq!(shares(&group, &["a", "b", "c"]), [0, 2, 2]);
}

#[test]
fn a_udp_slot_that_never_arrived_is_free_when_the_worker_has_told_all() {
    let mut group = group(Transport::Udp, 2);
    assert_eq!(settle(&mut group, &["a"])[0].slots, [0, 1]);
    group.unlinked(&id("a"));
    group.recover(0, &id("a"));
    assert_eq!(group.held_by(&id("a")), 2);
    group.recovered_all(&id("a"));
    assert_eq!(settle(&mut group, &["a"])[0].slots, [1]);
}

#[test]
fn numbers_are_never_used_twice() {
    let mut group = group(Transport::Tcp, 4);
    group.recover(9, &id("a"));
    assert_eq!(group.number(7), [10, 11]);
    assert_eq!(group.number(7), [12, 13]);
}
