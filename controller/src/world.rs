//! What the edges are to serve, at one revision. Immutable, shared, replaced as a whole.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Instant,
};

use api::{
    convert::{self, ConvertError, Hash, PoolPort},
    feed as wire,
    pki::Identity,
};
use bytes::Bytes;
use dialect::{Http3, ObjectKey, ObjectStatus, PoolSpec};
use model::{Epoch, HostIndex, PoolName, Revision, TenantConfig, TenantId};

use crate::{TicketKeysState, feed::Deltas};

/// What the edges are to serve, at one revision.
#[derive(Debug, Clone)]
pub struct World {
    /// The store's life.
    pub epoch: Epoch,
    /// The last change of an object or tenant.
    pub revision: Revision,
    /// When this server saw that change.
    pub seen_at: Instant,
    /// Every tenant that exists.
    pub tenants: BTreeMap<TenantId, Arc<TenantState>>,
    /// Who owns a host.
    pub hosts: Arc<Hosts>,
    /// Every pool, the implied one included.
    pub pools: BTreeMap<PoolName, Arc<PoolState>>,
    /// The keys of session tickets, once there are any.
    pub ticket_keys: Option<Arc<TicketKeysState>>,
    /// Counts the worlds of this process.
    pub(crate) step: u64,
    /// What the last steps changed, the newest last: this world's own.
    pub(crate) recent: VecDeque<Arc<BTreeSet<TenantId>>>,
    /// Counts the changes that concern all workers.
    pub(crate) platform: u64,
    /// The last of them, while it is on its way.
    pub(crate) pending: Option<Arc<Pending>>,
    /// A further one waits for its end.
    pub(crate) waiting: bool,
    /// What leads here from earlier worlds, made once for all workers.
    pub(crate) deltas: Arc<Deltas>,
}

/// A change that concerns all workers and that some do not have yet: what those go on with.
#[derive(Debug)]
pub(crate) struct Pending {
    /// Which change.
    pub(crate) number: u64,
    /// The pools before it. `None`: those that the workers have, which this process does not know.
    pub(crate) pools: Option<BTreeMap<PoolName, Arc<PoolState>>>,
    /// The snapshots that it changed, as they were. A tenant that changed by itself since then is not among them: its
    /// own changes wait for nobody.
    pub(crate) tenants: BTreeMap<TenantId, Option<Arc<Snapshot>>>,
}

/// Which side of a change that is on its way a worker is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    /// It goes on with what was before.
    Before,
    /// It has, or gets, the newest.
    Newest,
}

/// What a worker of a pool is to have of a tenant.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wanted<'w> {
    /// Nothing: it is no tenant of the pool.
    Nothing,
    /// What it has, whatever that is: the tenant never compiled here.
    Whatever,
    /// This.
    This(&'w Arc<Snapshot>),
}

/// The host index, in memory and on the wire.
#[derive(Debug, Default)]
pub struct Hosts {
    /// To look owners up.
    pub index: HostIndex,
    /// As it is sent.
    pub wire: wire::HostIndex,
    /// Names what is sent.
    pub hash: Hash,
}

/// A tenant as it was compiled last.
#[derive(Debug)]
pub struct TenantState {
    /// What the edges are sent; the last good one when the tenant is held. `None`: there never was a good one in the
    /// life of this process, so the edges keep what they have.
    pub snapshot: Option<Arc<Snapshot>>,
    /// Why the tenant is held at its last good snapshot: what does not compile, one line each.
    pub held: Vec<String>,
    /// What became of its objects, as of `revision`.
    pub statuses: BTreeMap<ObjectKey, ObjectStatus>,
    /// The last change of its objects.
    pub revision: Revision,
}

/// One tenant's configuration as the edges get it.
#[derive(Debug)]
pub struct Snapshot {
    /// The revision that it was made of.
    pub revision: Revision,
    /// Names the bytes.
    pub hash: Hash,
    /// An encoded `weir.snapshot.v1.TenantConfig`, shared by all subscribers.
    pub bytes: Bytes,
    /// The pools whose workers serve it.
    pub pools: BTreeSet<PoolName>,
    /// The bytes as one zstd frame.
    pub(crate) frame: Option<Bytes>,
    /// What they are to those who have the snapshot before.
    pub(crate) patch: Option<Patch>,
}

/// A zstd frame with another snapshot as its prefix.
#[derive(Debug)]
pub(crate) struct Patch {
    /// The other snapshot.
    pub(crate) base: Hash,
    /// The frame.
    pub(crate) frame: Bytes,
}

impl Snapshot {
    /// What the bytes say.
    ///
    /// # Errors
    ///
    /// Never: they were made here.
    pub fn config(&self) -> Result<TenantConfig, ConvertError> {
        convert::decode(&self.bytes)
    }
}

/// A pool.
#[derive(Debug)]
pub struct PoolState {
    /// As its object says.
    pub spec: PoolSpec,
    /// As its workers get it.
    pub wire: wire::Pool,
    /// Names what is sent.
    pub hash: Hash,
}

impl PoolState {
    pub(crate) fn new(name: &PoolName, spec: PoolSpec, identity: Option<&Identity>) -> Self {
        let wire = pool_message(name, &spec, identity);
        Self { spec, hash: convert::message_hash(&wire), wire }
    }
}

impl World {
    /// Before anything was read: nothing, at revision 0.
    #[must_use]
    pub fn empty(now: Instant) -> Self {
        Self {
            epoch: Epoch::default(),
            revision: Revision(0),
            seen_at: now,
            tenants: BTreeMap::new(),
            hosts: Arc::default(),
            pools: BTreeMap::new(),
            ticket_keys: None,
            step: 0,
            recent: VecDeque::new(),
            platform: 0,
            pending: None,
            waiting: false,
            deltas: Arc::default(),
        }
    }

    /// The tenants that differ from those of an earlier world, and maybe others. `None`: that is too long ago to know.
    pub(crate) fn changed_since(&self, from: &Self) -> Option<BTreeSet<&TenantId>> {
        let steps = usize::try_from(self.step.checked_sub(from.step)?).ok()?;
        let first = self.recent.len().checked_sub(steps)?;
        Some(self.recent.range(first..).flat_map(|step| &**step).collect())
    }

    /// What a worker of `pool` on this side of a change is to have of a tenant that exists.
    pub(crate) fn wanted<'w>(
        &'w self,
        tenant: &TenantId,
        state: &'w TenantState,
        pool: &PoolName,
        view: View,
    ) -> Wanted<'w> {
        let before = self.pending.as_ref().filter(|_| view == View::Before);
        let snapshot = match before.and_then(|pending| pending.tenants.get(tenant)) {
            Some(before) => before.as_ref(),
            None => state.snapshot.as_ref(),
        };
        match snapshot {
            None => Wanted::Whatever,
            Some(snapshot) if snapshot.pools.contains(pool) => Wanted::This(snapshot),
            Some(_) => Wanted::Nothing,
        }
    }

    /// The pool as a worker on this side of a change is to have it. `None`: as it has it.
    pub(crate) fn pool(&self, pool: &PoolName, view: View) -> Option<&Arc<PoolState>> {
        let newest = self.pools.get(pool);
        match (view, &self.pending) {
            (View::Before, Some(pending)) => match &pending.pools {
                None => None,
                // Of a pool that is new there is nothing before.
                Some(before) => before.get(pool).or(newest),
            },
            _ => newest,
        }
    }
}

/// A pool as its workers get it.
fn pool_message(name: &PoolName, spec: &PoolSpec, identity: Option<&Identity>) -> wire::Pool {
    let ports = spec.listen.iter().map(|listen| PoolPort {
        port: listen.port,
        bind: listen.bind,
        tls: listen.protocol.is_tls(),
        udp: listen.protocol.is_udp(),
        proxy: listen.proxy.clone(),
        tenant: listen.tenant.clone(),
    });
    let pool = convert::Pool {
        name: name.clone(),
        ports: ports.collect(),
        default_certificate: identity.map(|i| (i.cert_pem.clone(), i.key_pem.clone())),
        max_connection_age: Some(spec.max_connection_age).filter(|age| !age.is_zero()),
        drain_deadline: spec.drain_deadline,
        advertise_h3: spec.http3 == Http3::On,
    };
    wire::Pool::from(&pool)
}
