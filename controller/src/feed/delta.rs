//! What a worker lacks, as deltas. Pure.

use std::{collections::BTreeMap, sync::Arc};

use api::{
    convert::Hash,
    feed::{self as wire, Delta, TenantSnapshot},
    limits::DELTA_TARGET,
};
use model::{Epoch, PoolName, Revision, TenantId};

use crate::{PoolState, World, acks::Sent, world::Hosts};

/// What a worker has been sent: the base of the next delta.
#[derive(Debug)]
pub(super) struct Basis {
    pub(super) pool: PoolName,
    pub(super) epoch: Epoch,
    pub(super) revision: Revision,
    pub(super) tenants: BTreeMap<TenantId, Hash>,
    hosts: Option<Arc<Hosts>>,
    pool_state: Option<Arc<PoolState>>,
}

impl Basis {
    /// What a worker said that it has.
    pub(super) fn new(
        pool: PoolName,
        epoch: Epoch,
        revision: Revision,
        tenants: BTreeMap<TenantId, Hash>,
    ) -> Self {
        Self { pool, epoch, revision, tenants, hosts: None, pool_state: None }
    }

    /// Whether `world` is older than what the worker has: then it waits, it is never taken back.
    pub(super) fn is_ahead_of(&self, world: &World) -> bool {
        (self.epoch, self.revision) > (world.epoch, world.revision)
    }

    /// The deltas that lead from here to `world`, and what each brings. After this the worker counts as having it.
    ///
    /// A large change comes in several deltas of one revision, closed at [`DELTA_TARGET`]; the host index and the pool
    /// come with the first. None if the worker lacks nothing.
    pub(super) fn advance(&mut self, world: &World) -> Vec<(Delta, Sent)> {
        let hosts_changed = !self.hosts.as_ref().is_some_and(|h| Arc::ptr_eq(h, &world.hosts));
        let pool_state = world.pools.get(&self.pool);
        let pool_changed = match (&self.pool_state, pool_state) {
            (_, None) => false,
            (Some(old), Some(new)) => old.wire != new.wire,
            (None, Some(_)) => true,
        };
        let wanted: BTreeMap<_, _> = world.snapshots_of(&self.pool).collect();
        let removed: Vec<_> = self
            .tenants
            .keys()
            // A tenant that exists but never compiled here: the worker keeps what it has.
            .filter(|tenant| !wanted.contains_key(tenant) && !world.is_unknown(tenant.as_str()))
            .cloned()
            .collect();
        let changed = wanted.iter().filter(|(tenant, s)| self.tenants.get(**tenant) != Some(&s.hash));

        let mut batch = Batch::default();
        batch.delta.hosts = hosts_changed.then(|| world.hosts.wire.clone());
        batch.delta.pool = pool_state.filter(|_| pool_changed).map(|p| p.wire.clone());
        for tenant in &removed {
            batch.delta.removed.push(tenant.to_string());
            batch.brings.insert(tenant.clone(), None);
        }
        let mut deltas = vec![];
        for (tenant, snapshot) in changed {
            if batch.bytes + snapshot.bytes.len() > DELTA_TARGET && !batch.delta.tenants.is_empty() {
                deltas.push(std::mem::take(&mut batch));
            }
            batch.bytes += snapshot.bytes.len();
            batch.brings.insert((*tenant).clone(), Some(snapshot.hash));
            batch.delta.tenants.push(TenantSnapshot {
                tenant: tenant.to_string(),
                revision: snapshot.revision.0,
                hash: snapshot.hash.to_vec().into(),
                config: snapshot.bytes.clone(),
            });
        }
        // The stream's first delta is sent even if it brings no tenant: it has the hosts and the pool.
        if !batch.is_empty() {
            deltas.push(batch);
        }

        self.epoch = world.epoch;
        self.revision = world.revision;
        self.hosts = Some(world.hosts.clone());
        self.pool_state = pool_state.cloned().or(self.pool_state.take());
        for (tenant, hash) in deltas.iter().flat_map(|batch| &batch.brings) {
            match hash {
                Some(hash) => drop(self.tenants.insert(tenant.clone(), *hash)),
                None => drop(self.tenants.remove(tenant)),
            }
        }
        let last = deltas.len().saturating_sub(1);
        deltas.into_iter().enumerate().map(|(index, batch)| batch.close(world, index < last)).collect()
    }
}

#[derive(Default)]
struct Batch {
    delta: Delta,
    brings: BTreeMap<TenantId, Option<Hash>>,
    bytes: usize,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.brings.is_empty() && self.delta.hosts.is_none() && self.delta.pool.is_none()
    }

    fn close(mut self, world: &World, more: bool) -> (Delta, Sent) {
        self.delta.more = more;
        self.delta.epoch = Some(wire::Epoch { counter: world.epoch.counter, id: world.epoch.id });
        self.delta.revision = world.revision.0;
        let sent = Sent { revision: world.revision, seen_at: world.seen_at, tenants: self.brings, more };
        (self.delta, sent)
    }
}
