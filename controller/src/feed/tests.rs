use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use api::{
    convert::{self, encoding},
    feed::{Delta, ServerMessage, server_message::Message},
    limits::DELTA_TARGET,
    tickets::TicketKeys,
};
use dialect::PoolSpec;
use model::{Epoch, HostIndex, HostPattern, Revision, TenantId};
use prost::Message as _;

use super::delta::{Basis, Encoded, Said, Takes};
use crate::{
    PoolState, Snapshot, TenantState, TicketKeysState, World,
    world::{Hosts, Patch, Pending, View},
};

fn snapshot(content: &[u8], old: Option<&Snapshot>, pool: &str) -> Snapshot {
    let bytes = bytes::Bytes::copy_from_slice(content);
    let patch =
        old.map(|old| Patch { base: old.hash, frame: convert::pack_against(content, &old.bytes).unwrap() });
    Snapshot {
        revision: Revision(1),
        hash: convert::hash(&bytes),
        frame: convert::pack(&bytes),
        patch,
        bytes,
        pools: BTreeSet::from([pool.parse().unwrap()]),
    }
}

fn tenant(name: &str, snapshot: Option<Arc<Snapshot>>) -> (TenantId, Arc<TenantState>) {
    let state = TenantState { snapshot, held: vec![], statuses: BTreeMap::new(), revision: Revision(1) };
    (name.parse().unwrap(), Arc::new(state))
}

fn state(name: &str, content: &[u8], pool: &str) -> (TenantId, Arc<TenantState>) {
    tenant(name, Some(Arc::new(snapshot(content, None, pool))))
}

fn pools(max_workers: u32) -> BTreeMap<model::PoolName, Arc<PoolState>> {
    let pool = "default".parse().unwrap();
    let drain_deadline = std::time::Duration::from_secs(max_workers.into());
    let state = PoolState::new(&pool, PoolSpec { drain_deadline, ..PoolSpec::default() }, None);
    BTreeMap::from([(pool, Arc::new(state))])
}

/// Its revision is its step.
fn world(revision: u64, tenants: Vec<(TenantId, Arc<TenantState>)>) -> World {
    World {
        epoch: Epoch { counter: 1, id: 7 },
        revision: Revision(revision),
        step: revision,
        platform: 1,
        tenants: tenants.into_iter().collect(),
        pools: pools(1),
        ..World::empty(Instant::now())
    }
}

fn hosts(owners: &[(&str, &str)]) -> Arc<Hosts> {
    let owners: BTreeMap<HostPattern, TenantId> =
        owners.iter().map(|(host, tenant)| (host.parse().unwrap(), tenant.parse().unwrap())).collect();
    let wire = convert::host_index(&owners);
    Arc::new(Hosts { index: HostIndex::new(owners).unwrap(), hash: convert::message_hash(&wire), wire })
}

fn takes(encodings: &[&str]) -> Takes {
    Takes::new(&encodings.iter().map(ToString::to_string).collect::<Vec<_>>())
}

fn nothing() -> Basis {
    Basis::new("default".parse().unwrap(), Takes::default(), Said::default())
}

fn said(epoch: Epoch, revision: u64) -> Said {
    Said { epoch, revision: Revision(revision), ..Said::default() }
}

fn read(encoded: &Encoded) -> Delta {
    match ServerMessage::decode(&*encoded.message).unwrap().message {
        Some(Message::Delta(delta)) => delta,
        other => panic!("{other:?}"),
    }
}

/// The deltas that lead to `world`.
fn step(basis: &mut Basis, world: &World) -> Vec<Delta> {
    basis.advance(&Arc::new(world.clone()), View::Newest).iter().map(read).collect()
}

#[test]
fn the_first_delta_has_everything_and_the_next_only_what_changed() {
    let mut basis = nothing();
    let mut world = world(1, vec![state("a", b"1", "default"), state("b", b"1", "default")]);
    let deltas = step(&mut basis, &world);
    assert_eq!((deltas.len(), deltas[0].tenants.len()), (1, 2));
    assert!(deltas[0].hosts.is_some() && deltas[0].pool.is_some());
    assert!(deltas[0].tenants.iter().all(|t| t.zstd.is_empty() && t.config == b"1".as_slice()));

    assert!(step(&mut basis, &world).is_empty());

    world.tenants.extend([state("b", b"2", "default")]);
    (world.revision, world.step) = (Revision(2), 2);
    let encoded = basis.advance(&Arc::new(world), View::Newest);
    let delta = read(&encoded[0]);
    assert_eq!(delta.tenants[0].tenant, "b");
    assert!(delta.tenants.len() == 1 && delta.hosts.is_none() && delta.pool.is_none());
    assert_eq!((delta.revision, encoded[0].sent.tenants.len()), (2, 1));
}

#[test]
fn a_worker_that_has_all_hashes_is_told_that_it_is_current() {
    let world = world(5, vec![state("a", b"1", "default")]);
    let said = Said {
        tenants: BTreeMap::from([("a".parse().unwrap(), convert::hash(b"1"))]),
        hosts: Some(world.hosts.hash),
        pool: Some(world.pools["default"].hash),
        ..said(world.epoch, 5)
    };
    let mut basis = Basis::new("default".parse().unwrap(), Takes::default(), said);
    let deltas = step(&mut basis, &world);
    let current = Delta { epoch: deltas[0].epoch, revision: 5, ..Delta::default() };
    assert_eq!(deltas, [current]);
}

#[test]
fn workers_that_lack_the_same_share_one_encoding() {
    let first = Arc::new(world(1, vec![state("a", b"1", "default")]));
    let second = Arc::new(world(2, vec![state("a", b"2", "default"), state("b", b"1", "default")]));
    let mut workers: Vec<_> = (0..200).map(|_| nothing()).collect();
    let mut messages = vec![];
    for basis in &mut workers {
        basis.advance(&first, View::Newest);
        messages.push(basis.advance(&second, View::Newest)[0].message.clone());
    }
    assert!(messages.iter().all(|message| message.as_ptr() == messages[0].as_ptr()));
}

#[test]
fn a_snapshot_travels_in_the_smallest_form_that_the_worker_takes() {
    let (old, new) = (vec![b'x'; 3000], [vec![b'x'; 2999], vec![b'y']].concat());
    let before = Arc::new(snapshot(&old, None, "default"));
    let after = Arc::new(snapshot(&new, Some(&before), "default"));
    let first = Arc::new(world(1, vec![tenant("a", Some(before.clone()))]));
    let second = Arc::new(world(2, vec![tenant("a", Some(after.clone()))]));
    let sent = |takes: Takes, said: Said| {
        let mut basis = Basis::new("default".parse().unwrap(), takes, said.clone());
        if said.revision == Revision(0) {
            basis.advance(&first, View::Newest);
        }
        let delta = read(&basis.advance(&second, View::Newest)[0]);
        assert_eq!(delta.tenants[0].hash, after.hash.as_slice());
        delta.tenants[0].clone()
    };
    let plain = sent(Takes::default(), Said::default());
    assert!(plain.config == new && plain.length == 0);
    let frame = sent(takes(&[encoding::ZSTD]), Said::default());
    assert!(frame.config.is_empty() && frame.base.is_empty());
    assert_eq!(convert::unpack(&frame.zstd, None, frame.length).unwrap(), new);
    let patch = sent(takes(&encoding::ALL), Said::default());
    assert_eq!(patch.base, before.hash.as_slice());
    assert_eq!(convert::unpack(&patch.zstd, Some(&old), patch.length).unwrap(), new);

    // One that comes back with the snapshot before needs no more than that; with another one, the whole.
    let has = |hash| Said { tenants: BTreeMap::from([("a".parse().unwrap(), hash)]), ..said(first.epoch, 1) };
    assert_eq!(sent(takes(&encoding::ALL), has(before.hash)).base, before.hash.as_slice());
    assert!(sent(takes(&encoding::ALL), has([0; 32])).base.is_empty());
}

#[test]
fn a_tenant_is_removed_when_it_is_gone_or_leaves_the_pool_but_not_when_it_is_unknown() {
    let mut basis = nothing();
    let all = ["a", "b", "c"].map(|t| state(t, b"1", "default"));
    step(&mut basis, &world(1, all.into()));
    let next = world(2, vec![state("b", b"1", "other"), tenant("c", None)]);
    let deltas = step(&mut basis, &next);
    assert_eq!(deltas[0].removed, ["a", "b"]);
    assert!(deltas[0].tenants.is_empty());
    // What was kept of the unknown one goes with the tenant.
    assert_eq!(step(&mut basis, &world(3, vec![]))[0].removed, ["b", "c"]);
}

#[test]
fn a_large_change_comes_in_chunks_of_one_revision() {
    let big = vec![0; DELTA_TARGET / 2 + 1];
    let tenants = ["a", "b", "c"].map(|t| state(t, &big, "default")).into();
    let encoded = nothing().advance(&Arc::new(world(3, tenants)), View::Newest);
    let deltas: Vec<_> = encoded.iter().map(read).collect();
    assert_eq!(deltas.iter().map(|d| d.more).collect::<Vec<_>>(), [true, true, false]);
    assert!(deltas.iter().all(|delta| delta.revision == 3));
    assert!(encoded.iter().all(|e| e.sent.tenants.len() == 1));
    // Hosts and pool once, with the first.
    assert_eq!(deltas.iter().filter(|delta| delta.hosts.is_some() && delta.pool.is_some()).count(), 1);
    assert!(deltas[0].hosts.is_some());
}

#[test]
fn a_new_host_is_not_the_whole_index_for_who_takes_patches() {
    let mut first = world(1, vec![]);
    let same = ["1.test", "2.test", "3.test", "4.test", "5.test"].map(|host| (host, "a"));
    first.hosts = hosts(&[&same[..], &[("c.test", "c"), ("e.test", "e")]].concat());
    let mut second = world(2, vec![]);
    second.hosts = hosts(&[&same[..], &[("c.test", "x"), ("f.test", "f"), ("g.test", "g")]].concat());
    for (takes, patched) in [(Takes::default(), false), (takes(&[encoding::HOSTS_PATCH]), true)] {
        let mut basis = Basis::new("default".parse().unwrap(), takes, Said::default());
        assert!(step(&mut basis, &first)[0].hosts.is_some());
        let delta = step(&mut basis, &second).remove(0);
        assert_eq!(delta.hosts.is_none(), patched);
        let Some(patch) = delta.hosts_patch else { continue };
        assert_eq!(
            patch.put.iter().map(|o| o.pattern.as_str()).collect::<Vec<_>>(),
            ["c.test", "f.test", "g.test"]
        );
        assert_eq!((patch.gone, patch.hash), (vec!["e.test".to_owned()], second.hosts.hash.to_vec()));
    }
}

#[test]
fn a_worker_is_never_taken_back() {
    let here = world(5, vec![]);
    let at = |counter, id, revision| {
        Basis::new("default".parse().unwrap(), Takes::default(), said(Epoch { counter, id }, revision))
    };
    assert!(at(1, 7, 6).is_ahead_of(&here) && at(2, 1, 0).is_ahead_of(&here));
    assert!(!at(1, 7, 5).is_ahead_of(&here) && !at(0, 0, 9).is_ahead_of(&here));
}

#[test]
fn only_tenants_of_the_steps_between_are_compared() {
    let first = world(1, vec![state("a", b"1", "default"), state("b", b"1", "default")]);
    let mut second = world(2, vec![state("a", b"2", "default"), state("b", b"2", "default")]);
    // As if the steps had forgotten `b`: that it is not sent shows that it was not looked at.
    second.recent = [Arc::new(["a".parse().unwrap()].into())].into();
    let names = |delta: &Delta| delta.tenants.iter().map(|t| t.tenant.clone()).collect::<Vec<_>>();
    let mut worker = nothing();
    step(&mut worker, &first);
    assert_eq!(names(&step(&mut worker, &second)[0]), ["a"]);
    // Too long ago to know: all are compared.
    let mut late = nothing();
    step(&mut late, &World { step: 0, ..first });
    assert_eq!(names(&step(&mut late, &second)[0]), ["a", "b"]);
}

/// A world in which a change of the pools is on its way that changed tenant `a`; tenant `b` changed by itself since.
fn in_waves() -> World {
    let mut world = world(2, vec![state("a", b"new", "default"), state("b", b"2", "default")]);
    let before = ("a".parse().unwrap(), Some(Arc::new(snapshot(b"1", None, "default"))));
    world.platform = 2;
    world.pending =
        Some(Arc::new(Pending { number: 2, pools: Some(pools(1)), tenants: BTreeMap::from([before]) }));
    world.pools = pools(2);
    world
}

#[test]
fn a_worker_whose_turn_has_not_come_gets_what_concerns_it_alone() {
    let first = Arc::new(world(1, vec![state("a", b"1", "default"), state("b", b"1", "default")]));
    let mut waits = nothing();
    waits.advance(&first, View::Newest);
    let during = Arc::new(in_waves());
    let delta = read(&waits.advance(&during, View::Before)[0]);
    let names = |delta: &Delta| delta.tenants.iter().map(|t| t.tenant.clone()).collect::<Vec<_>>();
    assert_eq!((names(&delta), delta.pool), (vec!["b".to_owned()], None));

    // Its turn: the same world, the other side.
    let encoded = waits.advance(&during, View::Newest);
    let delta = read(&encoded[0]);
    assert_eq!((names(&delta), delta.pool.is_some()), (vec!["a".to_owned()], true));
    assert_eq!((encoded[0].sent.platform, encoded[0].sent.pending.is_some()), (2, true));

    // All have it: nothing to send.
    let after = World { pending: None, step: 3, ..(*during).clone() };
    assert!(step(&mut waits, &after).is_empty());
}

#[test]
fn a_worker_that_comes_during_a_change_gets_what_was_good_before() {
    let delta = read(&nothing().advance(&Arc::new(in_waves()), View::Before)[0]);
    assert_eq!(delta.tenants.iter().map(|t| &t.config[..]).collect::<Vec<_>>(), [b"1", b"2"]);
    let deadline = |pools: &BTreeMap<_, Arc<PoolState>>| pools["default"].wire.drain_deadline_ms;
    assert_eq!(delta.pool.unwrap().drain_deadline_ms, deadline(&pools(1)));
}

#[test]
fn after_a_start_a_worker_keeps_its_pool_until_its_turn() {
    let mut world = world(1, vec![]);
    world.pending = Some(Arc::new(Pending { number: 1, pools: None, tenants: BTreeMap::new() }));
    let world = Arc::new(world);
    let has = Said { pool: Some([9; 32]), ..said(world.epoch, 1) };
    let mut resumes = Basis::new("default".parse().unwrap(), Takes::default(), has);
    assert!(read(&resumes.advance(&world, View::Before)[0]).pool.is_none());
    assert!(read(&resumes.advance(&world, View::Newest)[0]).pool.is_some());
    // One that has none cannot do without.
    assert!(read(&nothing().advance(&world, View::Before)[0]).pool.is_some());
}

fn ticket_keys(number: u8) -> Arc<TicketKeysState> {
    let keys = TicketKeys::first(number.into(), &mut || ([number; 16], [number; 32]));
    Arc::new(TicketKeysState::from(&keys))
}

#[test]
fn ticket_keys_come_once_and_to_all_at_once() {
    let with = |keys: u8, world: World| World { ticket_keys: Some(ticket_keys(keys)), ..world };
    let sent = |deltas: &[Encoded]| deltas.iter().filter_map(|d| read(d).ticket_keys).collect::<Vec<_>>();
    let first = Arc::new(with(1, world(1, vec![])));
    let mut worker = nothing();
    assert_eq!(sent(&worker.advance(&first, View::Newest)), [ticket_keys(1).wire.clone()]);
    let second = Arc::new(with(1, world(2, vec![state("a", b"1", "default")])));
    assert_eq!(sent(&worker.advance(&second, View::Newest)), []);
    // Whoever waits for its turn in another change does not wait for these.
    let third = Arc::new(with(2, World { step: 3, ..in_waves() }));
    assert_eq!(sent(&worker.advance(&third, View::Before)), [ticket_keys(2).wire.clone()]);
    assert_eq!(sent(&worker.advance(&third, View::Newest)), []);

    let has = |keys: u8| {
        let said = Said { ticket_keys: Some(ticket_keys(keys).hash), ..said(third.epoch, 1) };
        let mut back = Basis::new("default".parse().unwrap(), Takes::default(), said);
        sent(&back.advance(&third, View::Before)).len()
    };
    assert_eq!((has(1), has(2)), (1, 0));
}
