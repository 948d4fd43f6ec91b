//! What a worker lacks, as deltas, encoded once for all workers that lack the same. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use api::{
    convert::{Hash, encoding},
    feed::{
        self as wire, Delta, HostOwner, HostPatch, ServerMessage, TenantSnapshot, server_message::Message,
    },
    limits::DELTA_TARGET,
};
use bytes::Bytes;
use model::{Epoch, PoolName, Revision, TenantId};
use prost::Message as _;

use crate::{
    PoolState, Snapshot, TicketKeysState, World,
    acks::Sent,
    metric,
    world::{Hosts, View, Wanted},
};

/// A delta as it is sent, and what it brings. Clones share everything.
#[derive(Debug, Clone)]
pub(super) struct Encoded {
    /// A `ServerMessage`.
    pub(super) message: Bytes,
    pub(super) sent: Sent,
}

/// The forms that a worker takes beside the plain ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Takes {
    zstd: bool,
    patch: bool,
    hosts_patch: bool,
}

impl Takes {
    /// What a hello names.
    pub(super) fn new(encodings: &[String]) -> Self {
        let takes = |name: &str| encodings.iter().any(|known| known == name);
        Self {
            zstd: takes(encoding::ZSTD),
            patch: takes(encoding::ZSTD) && takes(encoding::PATCH),
            hosts_patch: takes(encoding::HOSTS_PATCH),
        }
    }
}

/// What a worker said that it has.
#[derive(Debug, Clone, Default)]
pub(super) struct Said {
    pub(super) epoch: Epoch,
    pub(super) revision: Revision,
    pub(super) tenants: BTreeMap<TenantId, Hash>,
    pub(super) hosts: Option<Hash>,
    pub(super) pool: Option<Hash>,
    pub(super) ticket_keys: Option<Hash>,
}

/// What a worker has been sent: the base of the next delta.
#[derive(Debug)]
pub(super) struct Basis {
    pool: PoolName,
    takes: Takes,
    has: Has,
}

#[derive(Debug)]
enum Has {
    Said(Said),
    World(Arc<World>, View),
}

/// Deltas that were encoded for a world: most workers come from the same one before it.
#[derive(Debug, Default)]
pub(crate) struct Deltas(Mutex<Vec<(Path, Arc<[Encoded]>)>>);

/// Different ways to one world that are kept. Workers that are behind by one or two steps share; who is further behind
/// costs an encoding of its own.
const PATHS: usize = 32;

/// What makes deltas equal.
#[derive(Debug, PartialEq, Eq)]
struct Path {
    pool: PoolName,
    takes: Takes,
    from: (u64, View),
    to: View,
}

impl Basis {
    pub(super) fn new(pool: PoolName, takes: Takes, said: Said) -> Self {
        Self { pool, takes, has: Has::Said(said) }
    }

    pub(super) fn version(&self) -> (Epoch, Revision) {
        match &self.has {
            Has::Said(said) => (said.epoch, said.revision),
            Has::World(world, _) => (world.epoch, world.revision),
        }
    }

    /// Whether `world` is older than what the worker has: then it waits, it is never taken back.
    pub(super) fn is_ahead_of(&self, world: &World) -> bool {
        self.version() > (world.epoch, world.revision)
    }

    /// The deltas that lead from here to `world` on one side of a change that is on its way. After this the worker
    /// counts as having it.
    ///
    /// A large change comes in several deltas of one revision, closed at [`DELTA_TARGET`]; the host index, the pool
    /// and the ticket keys come with the first. None if the worker lacks nothing.
    pub(super) fn advance(&mut self, world: &Arc<World>, view: View) -> Arc<[Encoded]> {
        let view = if world.pending.is_some() { view } else { View::Newest };
        let has = std::mem::replace(&mut self.has, Has::World(world.clone(), view));
        match has {
            // The first one is sent even if it brings nothing: it says that the worker is current.
            Has::Said(said) => encode(self.lacks_by_hash(&said, world, view), true, world, view).into(),
            Has::World(from, from_view) => {
                if from.step == world.step && from_view == view {
                    return [].into();
                }
                let path = Path {
                    pool: self.pool.clone(),
                    takes: self.takes,
                    from: (from.step, from_view),
                    to: view,
                };
                world.deltas.get(path, || {
                    let parts = self.lacks_since((&from, from_view), world, view);
                    encode(parts, false, world, view)
                })
            }
        }
    }

    /// What a worker lacks that says what it has.
    fn lacks_by_hash(&self, said: &Said, world: &World, view: View) -> Vec<Part> {
        let mut parts = vec![];
        let pool = world.pool(&self.pool, view);
        // Who has none gets what there is.
        let pool = pool.or_else(|| world.pools.get(&self.pool).filter(|_| said.pool.is_none()));
        parts.extend(pool.filter(|p| said.pool != Some(p.hash)).cloned().map(Part::Pool));
        if said.hosts != Some(world.hosts.hash) {
            parts.push(Part::Hosts(world.hosts.clone()));
        }
        let ticket_keys = world.ticket_keys.as_ref().filter(|keys| said.ticket_keys != Some(keys.hash));
        parts.extend(ticket_keys.cloned().map(Part::TicketKeys));
        for tenant in said.tenants.keys().filter(|tenant| !world.tenants.contains_key(*tenant)) {
            parts.push(Part::Removed(tenant.clone()));
        }
        for (tenant, state) in &world.tenants {
            let has = said.tenants.get(tenant);
            match world.wanted(tenant, state, &self.pool, view) {
                Wanted::Nothing if has.is_some() => parts.push(Part::Removed(tenant.clone())),
                Wanted::This(snapshot) if has != Some(&snapshot.hash) => {
                    parts.push(Part::tenant(tenant, snapshot, has, self.takes));
                }
                _ => {}
            }
        }
        parts
    }

    /// What a worker lacks that had all of an earlier world.
    fn lacks_since(&self, (from, from_view): (&World, View), world: &World, view: View) -> Vec<Part> {
        let mut parts = vec![];
        if let Some(pool) = world.pool(&self.pool, view) {
            // Where it was told nothing of its pool, it may have any.
            let had = from.pool(&self.pool, from_view);
            if had.is_none_or(|had| had.hash != pool.hash) {
                parts.push(Part::Pool(pool.clone()));
            }
        }
        if from.hosts.hash != world.hosts.hash {
            let patch = self.takes.hosts_patch.then(|| host_patch(&from.hosts, &world.hosts)).flatten();
            parts.push(patch.map_or_else(|| Part::Hosts(world.hosts.clone()), Part::HostPatch));
        }
        // At once to all, not in waves: what one worker seals with them, another is to open.
        let had = from.ticket_keys.as_ref().map(|keys| keys.hash);
        let ticket_keys = world.ticket_keys.as_ref().filter(|keys| had != Some(keys.hash));
        parts.extend(ticket_keys.cloned().map(Part::TicketKeys));
        // A change for all workers that is on its way may make a difference of any tenant.
        let all_newest = (from_view, view) == (View::Newest, View::Newest);
        let changed = all_newest.then(|| world.changed_since(from)).flatten();
        let tenants = changed.unwrap_or_else(|| from.tenants.keys().chain(world.tenants.keys()).collect());
        for tenant in tenants {
            let had = match from.tenants.get(tenant) {
                None => Wanted::Nothing,
                Some(old) => from.wanted(tenant, old, &self.pool, from_view),
            };
            let Some(state) = world.tenants.get(tenant) else {
                if from.tenants.contains_key(tenant) {
                    parts.push(Part::Removed(tenant.clone()));
                }
                continue;
            };
            match (had, world.wanted(tenant, state, &self.pool, view)) {
                (Wanted::This(had), Wanted::This(now)) if had.hash == now.hash => {}
                (Wanted::This(had), Wanted::This(now)) => {
                    parts.push(Part::tenant(tenant, now, Some(&had.hash), self.takes));
                }
                (_, Wanted::This(now)) => parts.push(Part::tenant(tenant, now, None, self.takes)),
                (Wanted::This(_) | Wanted::Whatever, Wanted::Nothing) => {
                    parts.push(Part::Removed(tenant.clone()));
                }
                (_, Wanted::Nothing | Wanted::Whatever) => {}
            }
        }
        parts
    }
}

impl Deltas {
    /// What leads here by `path`: made by the first who asks.
    fn get(&self, path: Path, make: impl FnOnce() -> Vec<Encoded>) -> Arc<[Encoded]> {
        // Held while it is made: the others wait for the one that makes it, a fraction of a millisecond.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, deltas)) = known.iter().find(|(known, _)| *known == path) {
            return deltas.clone();
        }
        let deltas: Arc<[Encoded]> = make().into();
        if known.len() < PATHS {
            known.push((path, deltas.clone()));
        }
        deltas
    }
}

/// One thing that a worker lacks.
enum Part {
    Pool(Arc<PoolState>),
    Hosts(Arc<Hosts>),
    HostPatch(HostPatch),
    TicketKeys(Arc<TicketKeysState>),
    Removed(TenantId),
    Tenant(TenantId, Hash, TenantSnapshot),
}

impl Part {
    /// A snapshot in the smallest form that the worker takes; `has` is the one that it holds.
    fn tenant(tenant: &TenantId, snapshot: &Snapshot, has: Option<&Hash>, takes: Takes) -> Self {
        let patch = snapshot.patch.as_ref().filter(|patch| takes.patch && Some(&patch.base) == has);
        let mut message = TenantSnapshot {
            tenant: tenant.to_string(),
            revision: snapshot.revision.0,
            hash: snapshot.hash.to_vec().into(),
            ..TenantSnapshot::default()
        };
        match (patch, &snapshot.frame) {
            (Some(patch), _) => {
                message.zstd = patch.frame.clone();
                message.base = patch.base.to_vec().into();
            }
            (None, Some(frame)) if takes.zstd => message.zstd = frame.clone(),
            _ => message.config = snapshot.bytes.clone(),
        }
        if message.config.is_empty() {
            message.length = snapshot.bytes.len() as u64;
        }
        Self::Tenant(tenant.clone(), snapshot.hash, message)
    }

    fn size(&self) -> usize {
        match self {
            Self::Tenant(_, _, message) => message.config.len() + message.zstd.len(),
            _ => 0,
        }
    }
}

/// What to put and take away, if that is less than the whole.
fn host_patch(from: &Hosts, to: &Hosts) -> Option<HostPatch> {
    let pairs = |hosts: &Hosts| {
        hosts.wire.owners.iter().map(|o| (o.pattern.clone(), o.tenant.clone())).collect::<BTreeSet<_>>()
    };
    let (old, new) = (pairs(from), pairs(to));
    let put: Vec<_> = new
        .difference(&old)
        .map(|(pattern, tenant)| HostOwner { pattern: pattern.clone(), tenant: tenant.clone() })
        .collect();
    let patterns: BTreeSet<_> = new.iter().map(|(pattern, _)| pattern).collect();
    let gone = old.iter().map(|(pattern, _)| pattern).filter(|pattern| !patterns.contains(pattern));
    let gone: Vec<_> = gone.cloned().collect();
    (put.len() + gone.len() <= new.len() / 2).then(|| HostPatch { put, gone, hash: to.hash.to_vec() })
}

/// The parts as messages; `always` makes one of no parts.
fn encode(parts: Vec<Part>, always: bool, world: &World, view: View) -> Vec<Encoded> {
    let mut batches = vec![];
    let mut batch = Batch { begun: always, ..Batch::default() };
    for part in parts {
        if batch.bytes + part.size() > DELTA_TARGET && batch.bytes > 0 {
            batches.push(std::mem::take(&mut batch));
        }
        batch.take(part);
    }
    if batch.begun {
        batches.push(batch);
    }
    metrics::counter!(metric::DELTAS_ENCODED).increment(batches.len() as u64);
    let last = batches.len().saturating_sub(1);
    batches.into_iter().enumerate().map(|(index, batch)| batch.close(world, view, index < last)).collect()
}

#[derive(Default)]
struct Batch {
    delta: Delta,
    brings: BTreeMap<TenantId, Option<Hash>>,
    bytes: usize,
    begun: bool,
}

impl Batch {
    fn take(&mut self, part: Part) {
        self.begun = true;
        self.bytes += part.size();
        match part {
            Part::Pool(pool) => self.delta.pool = Some(pool.wire.clone()),
            Part::Hosts(hosts) => self.delta.hosts = Some(hosts.wire.clone()),
            Part::HostPatch(patch) => self.delta.hosts_patch = Some(patch),
            Part::TicketKeys(keys) => self.delta.ticket_keys = Some(keys.wire.clone()),
            Part::Removed(tenant) => {
                self.delta.removed.push(tenant.to_string());
                self.brings.insert(tenant, None);
            }
            Part::Tenant(tenant, hash, message) => {
                self.delta.tenants.push(message);
                self.brings.insert(tenant, Some(hash));
            }
        }
    }

    fn close(mut self, world: &World, view: View, more: bool) -> Encoded {
        self.delta.more = more;
        self.delta.epoch = Some(wire::Epoch { counter: world.epoch.counter, id: world.epoch.id });
        self.delta.revision = world.revision.0;
        let message = ServerMessage { message: Some(Message::Delta(self.delta)) };
        let newest = view == View::Newest;
        let sent = Sent {
            revision: world.revision,
            seen_at: world.seen_at,
            tenants: Arc::new(self.brings),
            more,
            platform: if newest { world.platform } else { 0 },
            pending: world.pending.clone().filter(|_| newest),
        };
        Encoded { message: message.encode_to_vec().into(), sent }
    }
}
