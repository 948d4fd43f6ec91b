use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use api::{convert, limits::DELTA_TARGET};
use dialect::PoolSpec;
use model::{Epoch, Revision, TenantConfig, TenantId};

use super::delta::Basis;
use crate::{PoolState, Snapshot, TenantState, World, world::pool_message};

fn state(name: &str, content: &[u8], pool: &str) -> (TenantId, Arc<TenantState>) {
    let tenant: TenantId = name.parse().unwrap();
    let bytes = bytes::Bytes::copy_from_slice(content);
    let snapshot = Snapshot {
        revision: Revision(1),
        hash: convert::hash(&bytes),
        bytes,
        pools: BTreeSet::from([pool.parse().unwrap()]),
        config: TenantConfig::empty(tenant.clone()),
    };
    let state = TenantState {
        snapshot: Some(Arc::new(snapshot)),
        held: vec![],
        statuses: BTreeMap::new(),
        revision: Revision(1),
    };
    (tenant, Arc::new(state))
}

fn world(revision: u64, tenants: Vec<(TenantId, Arc<TenantState>)>) -> World {
    let pool = "default".parse().unwrap();
    let wire = pool_message(&pool, &PoolSpec::default(), None);
    World {
        epoch: Epoch { counter: 1, id: 7 },
        revision: Revision(revision),
        tenants: tenants.into_iter().collect(),
        pools: BTreeMap::from([(pool, Arc::new(PoolState { spec: PoolSpec::default(), wire }))]),
        ..World::empty(Instant::now())
    }
}

fn nothing() -> Basis {
    Basis::new("default".parse().unwrap(), Epoch::default(), Revision(0), BTreeMap::new())
}

#[test]
fn the_first_delta_has_everything_and_the_next_only_what_changed() {
    let mut basis = nothing();
    let mut world = world(1, vec![state("a", b"1", "default"), state("b", b"1", "default")]);
    let deltas = basis.advance(&world);
    let (delta, _) = &deltas[0];
    assert_eq!((deltas.len(), delta.tenants.len()), (1, 2));
    assert!(delta.hosts.is_some() && delta.pool.is_some());

    assert!(basis.advance(&world).is_empty());

    world.tenants.extend([state("b", b"2", "default")]);
    world.revision = Revision(2);
    let deltas = basis.advance(&world);
    let (delta, sent) = &deltas[0];
    assert_eq!(delta.tenants[0].tenant, "b");
    assert!(delta.tenants.len() == 1 && delta.hosts.is_none() && delta.pool.is_none());
    assert_eq!((delta.revision, sent.tenants.len()), (2, 1));
}

#[test]
fn a_worker_that_has_the_hashes_gets_no_tenant() {
    let world = world(5, vec![state("a", b"1", "default")]);
    let hash = world.tenants["a"].snapshot.as_ref().unwrap().hash;
    let have = BTreeMap::from([("a".parse().unwrap(), hash)]);
    let mut basis = Basis::new("default".parse().unwrap(), world.epoch, Revision(5), have);
    let deltas = basis.advance(&world);
    assert!(deltas.len() == 1 && deltas[0].0.tenants.is_empty() && deltas[0].0.hosts.is_some());
}

#[test]
fn a_tenant_is_removed_when_it_is_gone_or_leaves_the_pool_but_not_when_it_is_unknown() {
    let mut basis = nothing();
    basis.advance(&world(
        1,
        vec![state("a", b"1", "default"), state("b", b"1", "default"), state("c", b"1", "default")],
    ));
    let unknown = TenantState {
        snapshot: None,
        held: vec!["broken".into()],
        statuses: BTreeMap::new(),
        revision: Revision(2),
    };
    let next = world(2, vec![state("b", b"1", "other"), ("c".parse().unwrap(), Arc::new(unknown))]);
    let deltas = basis.advance(&next);
    assert_eq!(deltas[0].0.removed, ["a", "b"]);
    assert!(deltas[0].0.tenants.is_empty());
}

#[test]
fn a_large_change_comes_in_chunks_of_one_revision() {
    let big = vec![0; DELTA_TARGET / 2 + 1];
    let tenants = ["a", "b", "c"].map(|t| state(t, &big, "default")).into();
    let deltas = nothing().advance(&world(3, tenants));
    assert_eq!(deltas.len(), 3);
    assert!(deltas.iter().all(|(delta, sent)| delta.revision == 3 && sent.tenants.len() == 1));
    // Hosts and pool once, with the first.
    assert_eq!(deltas.iter().filter(|(delta, _)| delta.hosts.is_some() && delta.pool.is_some()).count(), 1);
    assert!(deltas[0].0.hosts.is_some());
}

#[test]
fn a_worker_is_never_taken_back() {
    let here = world(5, vec![]);
    let at = |counter, id, revision| {
        Basis::new("default".parse().unwrap(), Epoch { counter, id }, Revision(revision), BTreeMap::new())
    };
    assert!(at(1, 7, 6).is_ahead_of(&here) && at(2, 1, 0).is_ahead_of(&here));
    assert!(!at(1, 7, 5).is_ahead_of(&here) && !at(0, 0, 9).is_ahead_of(&here));
}
