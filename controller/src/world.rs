//! What the edges are to serve, at one revision. Immutable, shared, replaced as a whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use api::{
    convert::{self, Hash, PoolPort},
    feed as wire,
    pki::Identity,
};
use bytes::Bytes;
use dialect::{ObjectKey, ObjectStatus, PoolSpec};
use model::{Epoch, HostIndex, ListenerProtocol, PoolName, Revision, TenantConfig, TenantId};

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
}

/// The host index, in memory and on the wire.
#[derive(Debug, Default)]
pub struct Hosts {
    /// To look owners up.
    pub index: HostIndex,
    /// As it is sent.
    pub wire: wire::HostIndex,
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
    /// The same, to explain routes with.
    pub config: TenantConfig,
}

/// A pool.
#[derive(Debug)]
pub struct PoolState {
    /// As its object says.
    pub spec: PoolSpec,
    /// As its workers get it.
    pub wire: wire::Pool,
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
        }
    }

    /// The snapshots that workers of `pool` serve.
    pub fn snapshots_of<'w>(
        &'w self,
        pool: &'w PoolName,
    ) -> impl Iterator<Item = (&'w TenantId, &'w Arc<Snapshot>)> {
        self.tenants.iter().filter_map(move |(tenant, state)| {
            state.snapshot.as_ref().filter(|s| s.pools.contains(pool)).map(|s| (tenant, s))
        })
    }

    /// Whether the tenant exists and has never compiled in this process's life: edges keep what they have of it.
    #[must_use]
    pub fn is_unknown(&self, tenant: &str) -> bool {
        self.tenants.get(tenant).is_some_and(|state| state.snapshot.is_none())
    }
}

/// A pool as its workers get it.
pub(crate) fn pool_message(name: &PoolName, spec: &PoolSpec, identity: Option<&Identity>) -> wire::Pool {
    let ports = spec.listen.iter().map(|listen| PoolPort {
        port: listen.port,
        bind: listen.bind,
        tls: listen.protocol == ListenerProtocol::Https,
    });
    let pool = convert::Pool {
        name: name.clone(),
        ports: ports.collect(),
        default_certificate: identity.map(|i| (i.cert_pem.clone(), i.key_pem.clone())),
        max_connection_age: Some(spec.max_connection_age).filter(|age| !age.is_zero()),
        drain_deadline: spec.drain_deadline,
    };
    wire::Pool::from(&pool)
}
