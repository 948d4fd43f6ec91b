//! What surrounds a tenant's objects.

use std::collections::BTreeMap;

use model::{HostPattern, PoolName, TenantId, TrafficQuota};

use crate::spec::PoolSpec;

/// The pool of Gateways that name none.
pub const DEFAULT_POOL: &str = "default";

/// What surrounds a tenant's objects: what it owns, and the pools that it can use.
#[derive(Debug, Clone)]
pub struct Environment {
    /// Whose objects they are.
    pub tenant: TenantId,
    /// The hosts that the tenant owns.
    pub hostnames: Vec<HostPattern>,
    /// The pools that Gateways can name.
    pub pools: BTreeMap<PoolName, PoolSpec>,
    /// The pool of Gateways that name none.
    pub default_pool: PoolName,
    /// How much of a worker the tenant may take.
    pub quota: TrafficQuota,
    /// Every host is the tenant's, and Pool objects are its own to write: `edge --static`, which has no tenants.
    pub any_host: bool,
}

impl Environment {
    /// The surroundings of `edge --static`: one tenant that owns every host, and the default pool.
    #[must_use]
    pub fn standalone(tenant: TenantId) -> Self {
        let default_pool = default_pool();
        Self {
            tenant,
            hostnames: vec![],
            pools: BTreeMap::from([(default_pool.clone(), PoolSpec::default())]),
            default_pool,
            quota: TrafficQuota::default(),
            any_host: true,
        }
    }

    /// The surroundings of a tenant: the hosts `<tenant>.<domain>` and below are its own besides `granted`.
    ///
    /// `domain` without a leading dot; one that makes no hostname adds nothing.
    #[must_use]
    pub fn of_tenant(tenant: TenantId, domain: &str, granted: impl IntoIterator<Item = HostPattern>) -> Self {
        let default_pool = default_pool();
        let own = [format!("{tenant}.{domain}"), format!("*.{tenant}.{domain}")];
        let hostnames = own.iter().filter_map(|host| HostPattern::parse(host).ok()).chain(granted).collect();
        Self {
            tenant,
            hostnames,
            pools: BTreeMap::from([(default_pool.clone(), PoolSpec::default())]),
            default_pool,
            quota: TrafficQuota::default(),
            any_host: false,
        }
    }

    /// Whether every host of `pattern` is the tenant's.
    #[must_use]
    pub fn owns(&self, pattern: &HostPattern) -> bool {
        self.any_host || self.hostnames.iter().any(|own| own.covers(pattern))
    }
}

fn default_pool() -> PoolName {
    DEFAULT_POOL.parse().expect("`default` is a DNS label")
}
