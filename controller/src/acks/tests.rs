use std::sync::Arc;

use super::*;
use crate::{rollout::Standing, world::Pending};

fn tenant(name: &str) -> TenantId {
    name.parse().unwrap()
}

fn hash(n: u8) -> Hash {
    [n; 32]
}

fn delta(revision: u64, tenants: &[(&str, Option<u8>)]) -> Sent {
    Sent {
        revision: Revision(revision),
        seen_at: Instant::now(),
        more: false,
        tenants: Arc::new(tenants.iter().map(|(t, h)| (tenant(t), h.map(hash))).collect()),
        platform: 0,
        pending: None,
    }
}

#[test]
fn a_delta_is_active_when_it_is_acknowledged() {
    let mut ledger = Ledger::default();
    ledger.sent(delta(3, &[("a", Some(1))]));
    assert!(!ledger.serves(&tenant("a"), &hash(1)));
    assert_eq!(ledger.ack(Revision(3)).len(), 1);
    assert!(ledger.serves(&tenant("a"), &hash(1)));
    assert_eq!(ledger.revision(), Revision(3));
}

#[test]
fn a_later_ack_settles_earlier_deltas_and_an_older_one_nothing() {
    let mut ledger = Ledger::default();
    ledger.sent(delta(3, &[("a", Some(1))]));
    ledger.sent(delta(5, &[("a", Some(2)), ("b", Some(3))]));
    assert!(ledger.ack(Revision(2)).is_empty());
    assert_eq!(ledger.ack(Revision(5)).len(), 2);
    assert!(ledger.serves(&tenant("a"), &hash(2)) && ledger.serves(&tenant("b"), &hash(3)));
}

#[test]
fn chunks_of_one_revision_are_acknowledged_one_by_one() {
    let mut ledger = Ledger::default();
    ledger.sent(delta(3, &[("a", Some(1))]));
    ledger.sent(delta(3, &[("b", Some(2))]));
    ledger.ack(Revision(3));
    assert!(ledger.serves(&tenant("a"), &hash(1)) && !ledger.serves(&tenant("b"), &hash(2)));
    ledger.ack(Revision(3));
    assert!(ledger.serves(&tenant("b"), &hash(2)));
}

#[test]
fn what_is_refused_stays_as_it_was_until_it_is_replaced() {
    let mut ledger = Ledger::new(Revision(1), BTreeMap::from([(tenant("a"), hash(1))]));
    ledger.sent(delta(3, &[("a", Some(2)), ("b", Some(3))]));
    assert!(ledger.refuse(&tenant("a"), Cause::new("HTTPRoute ns/x", "bad regex")));
    assert!(ledger.refuse(&tenant("a"), Cause::new("", "too large")));
    let nack = ledger.nack(&tenant("a")).unwrap();
    assert_eq!(nack.to_string(), "HTTPRoute ns/x: bad regex; too large; revision 3");
    ledger.ack(Revision(3));
    assert!(ledger.serves(&tenant("a"), &hash(1)) && ledger.serves(&tenant("b"), &hash(3)));
    assert!(ledger.nack(&tenant("a")).is_some());

    ledger.sent(delta(4, &[("a", Some(4))]));
    ledger.ack(Revision(4));
    assert!(ledger.serves(&tenant("a"), &hash(4)) && ledger.nack(&tenant("a")).is_none());
}

#[test]
fn a_tenant_that_was_never_sent_cannot_be_refused() {
    let mut ledger = Ledger::default();
    ledger.sent(delta(3, &[("a", None)]));
    assert!(!ledger.refuse(&tenant("a"), Cause::new("", "no")));
    assert!(!ledger.refuse(&tenant("b"), Cause::new("", "no")));
}

#[test]
fn the_window_is_bounded() {
    let mut ledger = Ledger::default();
    for revision in 0..ledger::WINDOW as u64 {
        assert!(ledger.has_room());
        ledger.sent(delta(revision, &[]));
    }
    assert!(!ledger.has_room());
}

#[test]
fn propagation_counts_the_workers_of_the_tenants_pools() {
    let acks = Acks::default();
    let (a, pool): (_, PoolName) = (tenant("a"), "p".parse().unwrap());
    let active = BTreeMap::from([(a.clone(), hash(1))]);
    acks.connect("w1".parse().unwrap(), pool.clone(), Revision(1), active.clone());
    let stream = acks.connect("w2".parse().unwrap(), pool.clone(), Revision(1), BTreeMap::new());
    acks.connect("w3".parse().unwrap(), "q".parse().unwrap(), Revision(1), active);

    let count = || acks.propagation(&a, &hash(1), |p| *p == pool);
    assert_eq!((count().wanted, count().active), (2, 1));
    let worker: WorkerId = "w2".parse().unwrap();
    acks.with(&worker, stream, |ledger| {
        ledger.sent(delta(1, &[("a", Some(1))]));
        ledger.refuse(&a, Cause::new("", "no"))
    });
    assert_eq!(count().refused.len(), 1);

    // A newer stream of the same worker counts; the end of the older one changes nothing.
    acks.connect(worker.clone(), pool.clone(), Revision(1), BTreeMap::new());
    acks.disconnect(&worker, stream);
    assert_eq!((count().wanted, count().refused.len()), (2, 0));
}

#[test]
fn a_worker_counts_from_when_it_is_current() {
    let acks = Acks::default();
    let pool: PoolName = "default".parse().unwrap();
    let of = |acks: &Acks| {
        let propagation = acks.propagation(&tenant("a"), &hash(1), |_| true);
        (propagation.active, propagation.wanted)
    };
    let worker = |name: &str| name.parse::<WorkerId>().unwrap();
    // One that comes back with what it has serves already, also what is old.
    let have = |n: u8| BTreeMap::from([(tenant("a"), hash(n))]);
    acks.connect(worker("w1"), pool.clone(), Revision(3), have(1));
    assert_eq!(of(&acks), (1, 1));
    acks.connect(worker("w2"), pool.clone(), Revision(2), have(9));
    assert_eq!(of(&acks), (1, 2));
    acks.connect(worker("w2"), pool.clone(), Revision(3), have(1));

    // One that starts has nothing, and takes no traffic before the last delta of its first revision.
    let stream = acks.connect(worker("w3"), pool, Revision(0), BTreeMap::new());
    let with = |change: &dyn Fn(&mut Ledger)| acks.with(&worker("w3"), stream, change).unwrap();
    with(&|ledger| ledger.sent(Sent { more: true, ..delta(4, &[("b", Some(2))]) }));
    with(&|ledger| ledger.sent(delta(4, &[("a", Some(1))])));
    assert_eq!(of(&acks), (2, 2));
    with(&|ledger| drop(ledger.ack(Revision(4))));
    assert_eq!(of(&acks), (2, 2), "half of it");
    with(&|ledger| drop(ledger.ack(Revision(4))));
    assert_eq!(of(&acks), (3, 3));
}

/// A delta that brings a change for all workers.
fn change(revision: u64, number: u64, tenants: &[(&str, Option<u8>)]) -> Sent {
    let before = tenants.iter().map(|(t, _)| (tenant(t), None)).collect();
    let pending = Pending { number, pools: None, tenants: before };
    Sent { platform: number, pending: Some(Arc::new(pending)), ..delta(revision, tenants) }
}

#[test]
fn a_change_for_all_stands_with_its_last_delta() {
    let mut ledger = Ledger::default();
    ledger.sent(Sent { more: true, ..change(3, 2, &[("a", Some(1))]) });
    ledger.sent(change(3, 2, &[("b", Some(1))]));
    ledger.ack(Revision(3));
    assert_eq!(ledger.standing(2), Standing::Waiting);
    ledger.ack(Revision(3));
    assert_eq!(ledger.standing(2), Standing::Active);
    // One that it brings nothing to is up to date with it; not before what is on its way, though.
    ledger.spared(3);
    assert_eq!(ledger.standing(3), Standing::Active);
    ledger.sent(delta(4, &[]));
    ledger.spared(4);
    assert_eq!(ledger.standing(4), Standing::Waiting);
    ledger.ack(Revision(4));
    assert_eq!(ledger.standing(4), Standing::Active);
}

#[test]
fn a_change_for_all_is_refused_by_what_it_does_not_by_what_tenants_do() {
    let mut ledger = Ledger::default();
    let own =
        Sent { tenants: Arc::new(BTreeMap::from([(tenant("own"), Some(hash(1)))])), ..change(3, 2, &[]) };
    ledger.sent(own);
    ledger.refuse(&tenant("own"), Cause::new("", "its own fault"));
    assert_eq!(ledger.standing(2), Standing::Waiting);
    ledger.ack(Revision(3));
    assert_eq!(ledger.standing(2), Standing::Active);

    ledger.sent(change(4, 3, &[("a", Some(2))]));
    ledger.refuse(&tenant("a"), Cause::new("", "no such port"));
    ledger.ack(Revision(4));
    assert_eq!(ledger.standing(3), Standing::Refused("tenant a: no such port".into()));

    ledger.sent(change(5, 4, &[]));
    assert!(ledger.refuse_pool(Revision(5), Cause::new("Pool default", "bad key")));
    assert!(!ledger.refuse_pool(Revision(6), Cause::new("", "")));
    ledger.ack(Revision(5));
    assert_eq!(ledger.standing(4), Standing::Refused("Pool default: bad key".into()));
    // The next one that is taken.
    ledger.sent(change(6, 5, &[]));
    ledger.ack(Revision(6));
    assert_eq!((ledger.standing(5), ledger.refused()), (Standing::Active, None));
}

#[test]
fn a_change_for_all_goes_to_the_next_workers_when_the_first_has_it() {
    let acks = Acks::default();
    let pool: PoolName = "default".parse().unwrap();
    let workers: Vec<WorkerId> = (0..20).map(|n| format!("w{n:02}").parse().unwrap()).collect();
    let streams: Vec<_> = workers
        .iter()
        .map(|worker| acks.connect(worker.clone(), pool.clone(), Revision(1), BTreeMap::new()))
        .collect();
    let admitted = || workers.iter().filter(|worker| acks.admits(worker, 2)).count();
    let mut admissions = acks.admissions();
    acks.begin(2, true, Instant::now());
    assert!(admissions.has_changed().unwrap() && admitted() == 1);
    assert!(acks.admits(&workers[1], 1), "an older change is over");
    for (wave, wanted) in [(1, 2), (2, 20), (20, 20)] {
        assert_eq!(acks.progress().borrow().stage, Stage::Running);
        for (worker, stream) in workers.iter().zip(&streams).take(wave) {
            acks.with(worker, *stream, |ledger| ledger.spared(2));
        }
        assert_eq!(admitted(), wanted);
    }
    admissions.mark_unchanged();
    let progress = acks.progress().borrow().clone();
    assert_eq!((progress.number, progress.stage), (2, Stage::Done));
}
