//! What belongs to the installation: which tenants there are, what they own, which pools there are. Pure.

use std::collections::{BTreeMap, BTreeSet};

use dialect::{Environment, Mistake, Object, PoolSpec, Spec, TenantQuotas};
use model::{HostIndex, HostPattern, PoolName, TenantId, TrafficQuota};

/// The installation's tenants, hosts and pools.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Platform {
    /// Without the reserved tenant.
    pub(crate) tenants: BTreeSet<TenantId>,
    /// Hosts that Tenant objects grant.
    pub(crate) grants: BTreeMap<TenantId, Vec<HostPattern>>,
    /// How much Tenant objects let them have.
    pub(crate) quotas: BTreeMap<TenantId, TenantQuotas>,
    /// The default pool is always among them.
    pub(crate) pools: BTreeMap<PoolName, PoolSpec>,
}

impl Platform {
    /// What these tenants and the platform's objects amount to. The default pool is as `default_pool` unless an object
    /// says otherwise.
    pub(crate) fn new<'o>(
        tenants: impl IntoIterator<Item = TenantId>,
        objects: impl IntoIterator<Item = &'o Object>,
        default_pool: &PoolSpec,
    ) -> Self {
        let mut platform =
            Self { tenants: tenants.into_iter().filter(|t| !t.is_platform()).collect(), ..Self::default() };
        // The default pool exists whether or not an object says how it is.
        if let Ok(default) = dialect::DEFAULT_POOL.parse() {
            platform.pools.insert(default, default_pool.clone());
        }
        for object in objects {
            match &object.spec {
                Spec::Pool(spec) => {
                    if let Ok(name) = object.key.name.parse() {
                        // An object that only says how many workers there are must not move them to other addresses.
                        let spec = match object.key.name == dialect::DEFAULT_POOL {
                            true => spec.clone().or_listen(default_pool),
                            false => spec.clone(),
                        };
                        platform.pools.insert(name, spec);
                    }
                }
                Spec::Tenant(spec) => {
                    if let Ok(tenant) = object.key.name.parse() {
                        platform.quotas.insert(TenantId::clone(&tenant), spec.quotas);
                        platform.grants.insert(tenant, spec.hostnames.clone());
                    }
                }
                _ => {}
            }
        }
        platform
    }

    /// How much of a worker a tenant may take.
    pub(crate) fn quota(&self, tenant: &TenantId) -> TrafficQuota {
        self.quotas.get(tenant).map(|quotas| quotas.traffic).unwrap_or_default()
    }

    /// What surrounds the objects of a tenant.
    pub(crate) fn environment(&self, tenant: &TenantId, domain: &str) -> Environment {
        let granted = self.grants.get(tenant).into_iter().flatten().cloned();
        let mut environment = Environment::of_tenant(tenant.clone(), domain, granted);
        environment.pools.clone_from(&self.pools);
        environment.quota = self.quota(tenant);
        environment
    }

    /// Who owns which hosts: what every tenant has by its name first, then what it is granted.
    pub(crate) fn owners(&self, domain: &str) -> Vec<(HostPattern, TenantId)> {
        let own = self.tenants.iter().flat_map(|tenant| {
            let environment = Environment::of_tenant(tenant.clone(), domain, []);
            environment.hostnames.into_iter().map(move |host| (host, tenant.clone()))
        });
        let granted = self
            .grants
            .iter()
            .filter(|(tenant, _)| self.tenants.contains(*tenant))
            .flat_map(|(tenant, hosts)| hosts.iter().map(move |host| (host.clone(), tenant.clone())));
        own.chain(granted).collect()
    }

    /// The owners, without claims that lose to an earlier one; those come second. Applies are checked, so that none
    /// should.
    pub(crate) fn undisputed(&self, domain: &str) -> (Vec<(HostPattern, TenantId)>, Vec<String>) {
        let mut owners: BTreeMap<HostPattern, TenantId> = BTreeMap::new();
        let mut lost = vec![];
        for (host, tenant) in self.owners(domain) {
            match owners.get(&host) {
                Some(owner) if *owner != tenant => {
                    lost.push(format!(
                        "{host} belongs to tenant {owner}; tenant {tenant} cannot have it too"
                    ));
                }
                _ => {
                    owners.insert(host, tenant);
                }
            }
        }
        (owners.into_iter().collect(), lost)
    }

    /// What is wrong with the platform's objects together.
    pub(crate) fn mistakes(&self, objects: &[Object], domain: &str) -> Vec<Mistake> {
        let mut mistakes = vec![];
        for object in objects {
            let wrong = |field: &str| Mistake::at(&object.source, &object.key, field);
            if object.key.kind.is_platform() && object.key.namespace != dialect::DEFAULT_NAMESPACE {
                // Two objects of one name would decide together on one tenant or pool, and one would outlive it.
                mistakes.push(
                    wrong("metadata.namespace").because(
                        format!("a {} is in no namespace", object.key.kind),
                        "leave the namespace out",
                    ),
                );
            }
            match &object.spec {
                Spec::Tenant(_) => match object.key.name.parse::<TenantId>() {
                    Ok(tenant) if self.tenants.contains(&tenant) => {}
                    Ok(tenant) => mistakes.push(wrong("metadata.name").because(
                        format!("there is no tenant {tenant}"),
                        format!("create it first: weir tenant create {tenant}"),
                    )),
                    Err(e) => mistakes.push(wrong("metadata.name").because(e.to_string(), "")),
                },
                Spec::Pool(spec) => {
                    if let Err(e) = object.key.name.parse::<PoolName>() {
                        mistakes.push(wrong("metadata.name").because(e.to_string(), ""));
                    }
                    if spec.listen.is_empty() && object.key.name != dialect::DEFAULT_POOL {
                        mistakes.push(wrong("spec.listen").because(
                            "only the pool default has addresses by itself",
                            "add some, like - {port: 80, bind: \"127.0.0.1:8081\"}",
                        ));
                    }
                }
                _ => mistakes.push(wrong("kind").because(
                    format!("the platform has no {} of its own", object.key.kind),
                    "apply it to a tenant",
                )),
            }
        }
        mistakes.extend(self.shared_addresses(objects));
        if let Err(conflict) = HostIndex::new(self.owners(domain)) {
            let claim = objects.iter().find(|o| o.key.name == conflict.claimant.as_str());
            let mistake = match claim {
                Some(object) => Mistake::at(&object.source, &object.key, "spec.hostnames"),
                None => Mistake::at(
                    &dialect::Source::default(),
                    &Self::tenant_key(&conflict.claimant),
                    "spec.hostnames",
                ),
            };
            mistakes.push(mistake.because(conflict.to_string(), "take it from one of them"));
        }
        mistakes
    }

    /// The Tenant object of a tenant, of which there need not be one.
    pub(crate) fn tenant_key(tenant: &TenantId) -> dialect::ObjectKey {
        dialect::ObjectKey {
            namespace: dialect::DEFAULT_NAMESPACE.to_owned(),
            kind: dialect::Kind::Tenant,
            name: tenant.to_string(),
        }
    }

    /// Two pools cannot listen on one address.
    fn shared_addresses(&self, objects: &[Object]) -> Vec<Mistake> {
        let mut users: BTreeMap<_, &PoolName> = BTreeMap::new();
        let mut mistakes = vec![];
        for (name, spec) in &self.pools {
            for listen in &spec.listen {
                let Some(other) = users.insert(listen.bind, name).filter(|other| *other != name) else {
                    continue;
                };
                // The implied pool has no object to blame: then it is the other one's mistake.
                let object = [name, other].into_iter().find_map(|pool| {
                    objects.iter().find(|o| matches!(o.spec, Spec::Pool(_)) && o.key.name == pool.as_str())
                });
                if let Some(object) = object {
                    mistakes.push(Mistake::at(&object.source, &object.key, "spec.listen").because(
                        format!("pools {other} and {name} both listen on {}", listen.bind),
                        "give each pool addresses of its own",
                    ));
                }
            }
        }
        mistakes
    }
}
