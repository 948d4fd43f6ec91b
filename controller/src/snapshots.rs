//! From the store's changes to the [`World`]: changed tenants are compiled again, the others stay as they are.

mod certificate;
mod compile;
mod watch;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Instant,
};

use api::convert;
use bytes::Bytes;
use dialect::{Environment, PoolSpec};
use model::{Epoch, ListenerProtocol, PoolName, Revision, TenantId};
use store::{Entry, Event, Key, seal::Sealer};
use tracing::{error, warn};

use crate::{
    Snapshot, TenantState, TicketKeysState, World, keys,
    objects::Stored,
    platform::Platform,
    tickets,
    world::{Hosts, Pending, PoolState},
};

pub(crate) use compile::{Job, compile};
pub(crate) use watch::{Sources, run};

use certificate::DefaultCertificate;
use compile::{Fresh, Known, Made};

/// Objects that are kept as they were read, some KiB each at most; further ones are read again each time.
const KEPT_OBJECTS: usize = 250_000;

/// How far back it is known which tenants a step changed. Workers are rarely further behind.
const STEPS: usize = 32;

/// What was read from the store, and what came of it. Changed by [`Builder::apply`], then by what [`compile`] made.
pub(crate) struct Builder {
    domain: String,
    default_pool: PoolSpec,
    sealer: Arc<Sealer>,
    objects: BTreeMap<TenantId, BTreeMap<Key, Known>>,
    /// How many of the objects are kept as they were read.
    kept: usize,
    tenants: BTreeSet<TenantId>,
    platform: Platform,
    /// Tenants whose snapshot may be out of date.
    dirty: BTreeMap<TenantId, Cause>,
    states: BTreeMap<TenantId, Arc<TenantState>>,
    /// Tenants whose state changed or went since the last world.
    changed: BTreeSet<TenantId>,
    /// Of the last worlds.
    recent: VecDeque<Arc<BTreeSet<TenantId>>>,
    certificate: Option<DefaultCertificate>,
    /// The certificate may have to name others.
    names_changed: bool,
    hosts: Arc<Hosts>,
    pools: BTreeMap<PoolName, Arc<PoolState>>,
    /// The last ones that could be opened.
    ticket_keys: Option<Arc<TicketKeysState>>,
    /// Of the ones in the store.
    ticket_keys_revision: Revision,
    rollout: Rollout,
}

/// Why a tenant is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Its own objects, or what it owns: that concerns nobody else.
    Own,
    /// The pools: all tenants are concerned, and their workers get it in waves.
    Platform,
}

/// The change for all workers that is on its way.
struct Rollout {
    number: u64,
    /// What workers that do not have it go on with; `None` once all have it.
    before: Option<Before>,
    /// It goes no further: the next change may take its place.
    held: bool,
    /// A further change waits for its end.
    waiting: bool,
}

struct Before {
    pools: Option<BTreeMap<PoolName, Arc<PoolState>>>,
    tenants: BTreeMap<TenantId, Option<Arc<Snapshot>>>,
}

impl Rollout {
    /// Whether another change may begin. The first one keeps nobody from it: there may be no workers for long.
    fn is_free(&self) -> bool {
        self.held || self.before.as_ref().is_none_or(|before| before.pools.is_none())
    }
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
            kept: 0,
            tenants: BTreeSet::new(),
            platform: Platform::default(),
            dirty: BTreeMap::new(),
            states: BTreeMap::new(),
            changed: BTreeSet::new(),
            recent: VecDeque::with_capacity(STEPS),
            certificate: None,
            names_changed: true,
            hosts: Arc::default(),
            pools: BTreeMap::new(),
            ticket_keys: None,
            ticket_keys_revision: Revision(0),
            // What workers have from another server's life, this one does not know: its first word is a change.
            rollout: Rollout {
                number: 1,
                before: Some(Before { pools: None, tenants: BTreeMap::new() }),
                held: false,
                waiting: false,
            },
        };
        for entry in entries {
            builder.note(&entry.key.clone(), Some(entry));
        }
        builder.dirty = builder.tenants.iter().map(|tenant| (tenant.clone(), Cause::Own)).collect();
        builder.refresh_platform();
        builder
    }

    /// Takes the whole store after a gap in its changes: what is there as it was known costs nothing more. Returns how
    /// many keys differed.
    pub(crate) fn reconcile(&mut self, entries: Vec<Entry>) -> usize {
        let there: BTreeSet<&Key> = entries.iter().map(|entry| &entry.key).collect();
        let objects = self.objects.values().flat_map(BTreeMap::keys).cloned();
        let tenants = self.tenants.iter().map(|tenant| Key::from(keys::tenant(tenant)));
        let gone: Vec<_> = objects.chain(tenants).filter(|key| !there.contains(key)).collect();
        let known = |entry: &Entry| match (keys::parse_tenant(&entry.key), keys::parse_object(&entry.key)) {
            (Some(tenant), _) => self.tenants.contains(&tenant),
            (None, Some((tenant, _))) => {
                let known = self.objects.get(&tenant).and_then(|objects| objects.get(&entry.key));
                known.is_some_and(|Known { entry: known, .. }| {
                    (known.mod_revision, known.version) == (entry.mod_revision, entry.version)
                })
            }
            (None, None) => {
                *entry.key != *keys::TICKET_KEYS || entry.mod_revision == self.ticket_keys_revision
            }
        };
        let gone = gone.into_iter().map(|key| Event { key, entry: None }).collect::<Vec<_>>();
        let changed = entries.iter().filter(|entry| !known(entry)).cloned();
        let changed = changed.map(|entry| Event { key: entry.key.clone(), entry: Some(entry) });
        let events: Vec<_> = gone.into_iter().chain(changed).collect();
        let count = events.len();
        self.apply(events);
        count
    }

    /// Takes the changes of one revision. Returns whether any of them is of interest here.
    pub(crate) fn apply(&mut self, events: Vec<Event>) -> bool {
        let mut platform_changed = false;
        let mut changed = false;
        for event in events {
            match self.note(&event.key, event.entry) {
                Noted::Object(tenant) if tenant.is_platform() => platform_changed = true,
                Noted::Object(tenant) => drop(self.dirty.insert(tenant, Cause::Own)),
                Noted::Tenants => platform_changed = true,
                Noted::TicketKeys => {}
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
            self.dirty.insert(tenant, Cause::Own);
            self.names_changed = true;
            return Noted::Tenants;
        }
        if **key == *keys::TICKET_KEYS {
            return self.note_ticket_keys(entry);
        }
        if !key.starts_with(keys::OBJECTS) {
            return Noted::Nothing;
        }
        let Some((tenant, _)) = keys::parse_object(key) else {
            warn!(%key, "a key in the store is no object of this version");
            return Noted::Nothing;
        };
        let objects = self.objects.entry(tenant.clone()).or_default();
        let before = match entry {
            Some(entry) => objects.insert(key.clone(), Known { entry, object: None }),
            None => objects.remove(key),
        };
        self.kept -= usize::from(before.is_some_and(|known| known.object.is_some()));
        Noted::Object(tenant)
    }

    /// Workers go on with what they have, where there are none or they do not open.
    fn note_ticket_keys(&mut self, entry: Option<Entry>) -> Noted {
        let Some(entry) = entry else { return Noted::Nothing };
        self.ticket_keys_revision = entry.mod_revision;
        match tickets::open(&self.sealer, &entry.value) {
            Ok(opened) => {
                self.ticket_keys = Some(Arc::new(TicketKeysState::from(&opened)));
                Noted::TicketKeys
            }
            Err(error) => {
                error!(error = &error as &dyn std::error::Error, "session tickets go on with other keys");
                Noted::Nothing
            }
        }
    }

    fn refresh_platform(&mut self) {
        let reserved = self.objects.get(TenantId::PLATFORM).into_iter().flat_map(BTreeMap::values);
        let objects: Vec<_> = reserved
            .filter_map(|Known { entry, .. }| {
                let object = Stored::read(entry)
                    .map_err(|e| vec![e.to_string()])
                    .and_then(|stored| stored.into_object(&self.sealer));
                object
                    .map_err(|problems| error!(key = %entry.key, ?problems, "a platform object is left out"))
                    .ok()
            })
            .collect();
        let mut platform = Platform::new(self.tenants.iter().cloned(), &objects, &self.default_pool);
        if platform.pools != self.platform.pools {
            if self.pools.is_empty() || self.rollout.is_free() {
                self.begin();
                // What tenants' listeners ask of pools.
                if doors(&platform.pools) != doors(&self.platform.pools) {
                    for tenant in &self.tenants {
                        self.dirty.entry(tenant.clone()).or_insert(Cause::Platform);
                    }
                }
            } else {
                // One at a time: else a second mistake would reach the workers that the first one was kept from.
                self.rollout.waiting = true;
                platform.pools.clone_from(&self.platform.pools);
            }
        }
        for tenant in &platform.tenants {
            let granted = platform.grants.get(tenant) == self.platform.grants.get(tenant);
            if !granted || platform.quota(tenant) != self.platform.quota(tenant) {
                self.dirty.insert(tenant.clone(), Cause::Own);
            }
        }
        self.platform = platform;
        self.make_pools();
        let gone = self.states.keys().filter(|tenant| !self.platform.tenants.contains(*tenant));
        self.changed.extend(gone.cloned());
        self.states.retain(|tenant, _| self.platform.tenants.contains(tenant));
        let (owners, lost) = self.platform.undisputed(&self.domain);
        for claim in lost {
            error!(claim, "a host is claimed twice");
        }
        let wire = convert::host_index(owners.iter().map(|(host, tenant)| (host, tenant)));
        if wire != self.hosts.wire {
            match model::HostIndex::new(owners) {
                Ok(index) => {
                    let hash = convert::message_hash(&wire);
                    self.hosts = Arc::new(Hosts { index, wire, hash });
                }
                Err(error) => error!(%error, "the host index stays as it was"),
            }
        }
    }

    /// A change for all workers begins; what they have until now is kept for those whose turn has not come.
    fn begin(&mut self) {
        if self.pools.is_empty() {
            // Nothing was shown yet: this is the first one still.
            return;
        }
        self.rollout.number += 1;
        self.rollout.held = false;
        // In place of one that was held, it is that one's `before` that is known to be good.
        self.rollout
            .before
            .get_or_insert_with(|| Before { pools: Some(self.pools.clone()), tenants: BTreeMap::new() });
    }

    fn make_pools(&mut self) {
        let identity = self.certificate.as_ref().map(DefaultCertificate::identity);
        let make = |(name, spec): (&PoolName, &PoolSpec)| {
            let state = PoolState::new(name, spec.clone(), identity);
            let same = self.pools.get(name).filter(|old| old.hash == state.hash && old.spec == state.spec);
            (name.clone(), same.cloned().unwrap_or_else(|| Arc::new(state)))
        };
        self.pools = self.platform.pools.iter().map(make).collect();
    }

    /// Whether another default certificate may be shown: it concerns all workers, so not while a change is on its way.
    fn may_take_certificate(&self) -> bool {
        self.certificate.is_none() || self.rollout.is_free()
    }

    fn take_certificate(&mut self, certificate: DefaultCertificate) {
        self.names_changed = false;
        if self.certificate.is_some() {
            self.begin();
        }
        self.certificate = Some(certificate);
        self.make_pools();
    }

    /// The change for all workers has come to all of them. Whether that changes anything.
    pub(crate) fn rolled_out(&mut self, number: u64) -> bool {
        if self.rollout.number != number || self.rollout.before.is_none() {
            return false;
        }
        self.rollout.before = None;
        self.rollout.held = false;
        self.next_rollout();
        true
    }

    /// The change for all workers goes no further. Whether another takes its place.
    pub(crate) fn held_up(&mut self, number: u64, held: bool) -> bool {
        if self.rollout.number != number || self.rollout.before.is_none() {
            return false;
        }
        self.rollout.held = held;
        held && self.next_rollout()
    }

    /// Whether that is known already.
    pub(crate) fn is_held_up(&self, number: u64) -> bool {
        self.rollout.number == number && self.rollout.held
    }

    fn next_rollout(&mut self) -> bool {
        if !std::mem::take(&mut self.rollout.waiting) {
            return false;
        }
        self.refresh_platform();
        true
    }

    /// What has to be compiled, up to date as of `revision`. The tenants are no longer dirty then.
    pub(crate) fn jobs(&mut self, revision: Revision) -> Vec<Job> {
        std::mem::take(&mut self.dirty)
            .into_iter()
            .filter(|(tenant, _)| self.platform.tenants.contains(tenant))
            .map(|(tenant, cause)| Job {
                cause,
                environment: self.environment(&tenant),
                objects: self.objects.get(&tenant).into_iter().flat_map(BTreeMap::values).cloned().collect(),
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
    pub(crate) fn compiled(&mut self, tenant: TenantId, cause: Cause, made: Made) {
        let Made { state, read } = made;
        for Fresh { key, revision, object } in read {
            let known = self.objects.get_mut(&tenant).and_then(|objects| objects.get_mut(&key));
            if let Some(known) = known
                && known.entry.mod_revision == revision
                && known.object.is_none()
                && self.kept < KEPT_OBJECTS
            {
                known.object = Some(object);
                self.kept += 1;
            }
        }
        if !state.held.is_empty() {
            error!(%tenant, problems = ?state.held, "tenant held at its last good snapshot");
        }
        let old = self.states.get(&tenant).and_then(|old| old.snapshot.clone());
        if let Some(before) = &mut self.rollout.before {
            let changed = old.as_ref().map(|s| s.hash) != state.snapshot.as_ref().map(|s| s.hash);
            match cause {
                Cause::Own => drop(before.tenants.remove(&tenant)),
                Cause::Platform if changed => drop(before.tenants.entry(tenant.clone()).or_insert(old)),
                Cause::Platform => {}
            }
        }
        self.changed.insert(tenant.clone());
        self.states.insert(tenant, Arc::new(state));
    }

    /// Ends a step: what changed since the last one is what makes the next world another.
    pub(crate) fn end_step(&mut self) {
        if self.recent.len() == STEPS {
            self.recent.pop_front();
        }
        self.recent.push_back(Arc::new(std::mem::take(&mut self.changed)));
    }

    /// What the edges are to serve now: the world of this number.
    pub(crate) fn world(&self, step: u64, epoch: Epoch, revision: Revision, now: Instant) -> World {
        let pending = self.rollout.before.as_ref().map(|before| {
            Arc::new(Pending {
                number: self.rollout.number,
                pools: before.pools.clone(),
                tenants: before.tenants.clone(),
            })
        });
        World {
            epoch,
            revision,
            seen_at: now,
            tenants: self.states.clone(),
            hosts: self.hosts.clone(),
            pools: self.pools.clone(),
            ticket_keys: self.ticket_keys.clone(),
            step,
            recent: self.recent.clone(),
            platform: self.rollout.number,
            pending,
            waiting: self.rollout.waiting,
            deltas: Arc::default(),
        }
    }

    /// Bytes of all snapshots, and how many tenants are held.
    pub(crate) fn figures(&self) -> (usize, usize) {
        let bytes =
            self.states.values().filter_map(|s| s.snapshot.as_ref()).map(|s| Bytes::len(&s.bytes)).sum();
        (bytes, self.states.values().filter(|s| !s.held.is_empty()).count())
    }
}

/// What listeners ask of pools: which ports there are, and what is spoken there.
fn doors(pools: &BTreeMap<PoolName, PoolSpec>) -> BTreeMap<&PoolName, Vec<Door<'_>>> {
    fn door(listen: &dialect::Listen) -> Door<'_> {
        (listen.port, listen.protocol, listen.tenant.as_ref())
    }
    pools.iter().map(|(name, spec)| (name, spec.listen.iter().map(door).collect())).collect()
}

/// A port, what is spoken there, and whose it is alone.
type Door<'p> = (u16, ListenerProtocol, Option<&'p TenantId>);

/// What a change was.
enum Noted {
    Object(TenantId),
    Tenants,
    TicketKeys,
    Nothing,
}
