//! From the store's changes to the [`World`]: changed tenants are compiled again, the others stay as they are.

mod certificate;
mod compile;
mod watch;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use api::convert;
use bytes::Bytes;
use dialect::{Environment, PoolSpec};
use model::{Epoch, Revision, TenantId};
use store::{Entry, Event, Key, seal::Sealer};
use tracing::{error, warn};

use crate::{
    TenantState, World, keys,
    objects::Stored,
    platform::Platform,
    world::{Hosts, PoolState},
};

pub(crate) use compile::{Job, compile};
pub(crate) use watch::{Sources, run};

use certificate::DefaultCertificate;

/// What was read from the store, and what came of it. Changed by [`Builder::apply`], then by what [`compile`] made.
pub(crate) struct Builder {
    domain: String,
    default_pool: PoolSpec,
    sealer: Arc<Sealer>,
    objects: BTreeMap<TenantId, BTreeMap<Key, Entry>>,
    tenants: BTreeSet<TenantId>,
    platform: Platform,
    /// Tenants whose snapshot may be out of date.
    dirty: BTreeSet<TenantId>,
    states: BTreeMap<TenantId, Arc<TenantState>>,
    certificate: Option<DefaultCertificate>,
    hosts: Arc<Hosts>,
}

impl Builder {
    /// With what the whole store holds.
    pub(crate) fn new(
        domain: String,
        default_pool: PoolSpec,
        sealer: Arc<Sealer>,
        entries: Vec<Entry>,
    ) -> Self {
        let mut builder = Self {
            domain,
            default_pool,
            sealer,
            objects: BTreeMap::new(),
            tenants: BTreeSet::new(),
            platform: Platform::default(),
            dirty: BTreeSet::new(),
            states: BTreeMap::new(),
            certificate: None,
            hosts: Arc::default(),
        };
        for entry in entries {
            builder.note(&entry.key.clone(), Some(entry));
        }
        builder.dirty.clone_from(&builder.tenants);
        builder.refresh_platform();
        builder
    }

    /// Takes the changes of one revision. Returns whether any of them is of interest here.
    pub(crate) fn apply(&mut self, events: Vec<Event>) -> bool {
        let mut platform_changed = false;
        let mut changed = false;
        for event in events {
            match self.note(&event.key, event.entry) {
                Noted::Object(tenant) if tenant.is_platform() => platform_changed = true,
                Noted::Object(tenant) => drop(self.dirty.insert(tenant)),
                Noted::Tenants => platform_changed = true,
                Noted::Nothing => continue,
            }
            changed = true;
        }
        if platform_changed {
            self.refresh_platform();
        }
        changed
    }

    fn note(&mut self, key: &Key, entry: Option<Entry>) -> Noted {
        if let Some(tenant) = keys::parse_tenant(key) {
            let existed = self.tenants.contains(&tenant);
            let exists = entry.is_some();
            if exists {
                self.tenants.insert(tenant.clone());
            } else {
                self.tenants.remove(&tenant);
            }
            if existed == exists {
                // Every change of a tenant's objects rewrites its key.
                return Noted::Nothing;
            }
            self.dirty.insert(tenant);
            return Noted::Tenants;
        }
        if !key.starts_with(keys::OBJECTS) {
            return Noted::Nothing;
        }
        let Some((tenant, _)) = keys::parse_object(key) else {
            warn!(%key, "a key in the store is no object of this version");
            return Noted::Nothing;
        };
        let objects = self.objects.entry(tenant.clone()).or_default();
        match entry {
            Some(entry) => drop(objects.insert(key.clone(), entry)),
            None => drop(objects.remove(key)),
        }
        Noted::Object(tenant)
    }

    fn refresh_platform(&mut self) {
        let reserved = self.objects.get(TenantId::PLATFORM).into_iter().flat_map(BTreeMap::values);
        let objects: Vec<_> = reserved
            .filter_map(|entry| {
                let object = Stored::read(entry)
                    .map_err(|e| vec![e.to_string()])
                    .and_then(|stored| stored.object(&self.sealer));
                object
                    .map_err(|problems| error!(key = %entry.key, ?problems, "a platform object is left out"))
                    .ok()
            })
            .collect();
        let platform = Platform::new(self.tenants.iter().cloned(), &objects, &self.default_pool);
        if platform.pools != self.platform.pools {
            // Listeners name pools: all may be concerned.
            self.dirty.extend(self.tenants.iter().cloned());
        }
        for tenant in &platform.tenants {
            if platform.grants.get(tenant) != self.platform.grants.get(tenant) {
                self.dirty.insert(tenant.clone());
            }
        }
        self.platform = platform;
        self.states.retain(|tenant, _| self.platform.tenants.contains(tenant));
        let (owners, lost) = self.platform.undisputed(&self.domain);
        for claim in lost {
            error!(claim, "a host is claimed twice");
        }
        let wire = convert::host_index(owners.iter().map(|(host, tenant)| (host, tenant)));
        if wire != self.hosts.wire {
            match model::HostIndex::new(owners) {
                Ok(index) => self.hosts = Arc::new(Hosts { index, wire }),
                Err(error) => error!(%error, "the host index stays as it was"),
            }
        }
    }

    /// What has to be compiled, up to date as of `revision`. The tenants are no longer dirty then.
    pub(crate) fn jobs(&mut self, revision: Revision) -> Vec<Job> {
        std::mem::take(&mut self.dirty)
            .into_iter()
            .filter(|tenant| self.platform.tenants.contains(tenant))
            .map(|tenant| Job {
                environment: self.environment(&tenant),
                entries: self.objects.get(&tenant).into_iter().flat_map(BTreeMap::values).cloned().collect(),
                sealer: self.sealer.clone(),
                last: self.states.get(&tenant).cloned(),
                revision,
                tenant,
            })
            .collect()
    }

    fn environment(&self, tenant: &TenantId) -> Environment {
        self.platform.environment(tenant, &self.domain)
    }

    /// Takes what a job made.
    pub(crate) fn compiled(&mut self, tenant: TenantId, state: TenantState) {
        if !state.held.is_empty() {
            error!(%tenant, problems = ?state.held, "tenant held at its last good snapshot");
        }
        self.states.insert(tenant, Arc::new(state));
    }

    /// What the edges are to serve now.
    pub(crate) fn world(&self, epoch: Epoch, revision: Revision, now: Instant) -> World {
        let pools = self.platform.pools.iter().map(|(name, spec)| {
            let identity = self.certificate.as_ref().map(DefaultCertificate::identity);
            let wire = crate::world::pool_message(name, spec, identity);
            (name.clone(), Arc::new(PoolState { spec: spec.clone(), wire }))
        });
        World {
            epoch,
            revision,
            seen_at: now,
            tenants: self.states.clone(),
            hosts: self.hosts.clone(),
            pools: pools.collect(),
        }
    }

    /// Bytes of all snapshots, and how many tenants are held.
    pub(crate) fn figures(&self) -> (usize, usize) {
        let bytes =
            self.states.values().filter_map(|s| s.snapshot.as_ref()).map(|s| Bytes::len(&s.bytes)).sum();
        (bytes, self.states.values().filter(|s| !s.held.is_empty()).count())
    }
}

/// What a change was.
enum Noted {
    Object(TenantId),
    Tenants,
    Nothing,
}
