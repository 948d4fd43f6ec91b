//! From the feed's deltas to a [`Config`] that request threads can serve. Slow work (decode, compile, load
//! keys), never on a request thread.

use std::{collections::HashMap, sync::Arc};

use api::{
    convert,
    feed::{Delta, Nack},
};
use model::{CompileLimits, Epoch, HostIndex, PoolName, Revision, TenantId};

use super::mirror::{BadDelta, Held, Mirror};
use crate::config::{Config, PoolSettings, TenantTable, load_certificate};

/// A delta of which nothing can be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    /// See [`BadDelta`].
    #[error(transparent)]
    Delta(#[from] BadDelta),
    /// The host index names something that cannot be.
    #[error("the host index is not valid: {0}")]
    Hosts(String),
    /// The pool message is not valid.
    #[error(transparent)]
    Pool(#[from] convert::InvalidPool),
    /// The pool's own certificate cannot be used.
    #[error("the pool's default certificate: {0}")]
    Certificate(String),
}

/// What a worker holds, compiled.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    mirror: Mirror,
    tables: HashMap<TenantId, Arc<TenantTable>>,
    limits: CompileLimits,
}

impl Assembler {
    pub(crate) fn mirror(&self) -> &Mirror {
        &self.mirror
    }

    /// Takes a delta over. Returns what to serve from now on, and a refusal for each tenant whose snapshot cannot
    /// be served: such a tenant goes on with its last good table, under the new host index, so that it can never
    /// keep a host that now belongs to another.
    ///
    /// # Errors
    /// When no part of the delta can be used; nothing is changed.
    pub(crate) fn take(&mut self, delta: Delta) -> Result<(Config, Vec<Nack>), Unusable> {
        let mut verified = self.mirror.verify(delta)?;
        let hosts = verified.hosts.as_ref().or(self.mirror.hosts());
        let hosts = hosts.map(host_index).transpose()?.unwrap_or_default();
        let pool = verified.pool.as_ref().or(self.mirror.pool()).cloned().unwrap_or_default();
        let pool = convert::Pool::try_from(pool)?;
        let default_certificate = match &pool.default_certificate {
            Some((chain, key)) => Some(load_certificate(chain, key).map_err(Unusable::Certificate)?),
            None => None,
        };

        let mut refused = vec![];
        verified.tenants.retain(|tenant, held| match compile(tenant, held, &pool.name, &self.limits) {
            Ok(table) => {
                self.tables.insert(tenant.clone(), Arc::new(table));
                true
            }
            Err(nacks) => {
                refused.extend(nacks);
                false
            }
        });
        for tenant in &verified.removed {
            self.tables.remove(tenant);
        }
        let epoch = Epoch { counter: verified.epoch.counter, id: verified.epoch.id };
        let revision = Revision(verified.revision);
        self.mirror.merge(verified);

        let config = Config {
            epoch,
            revision,
            hosts,
            tenants: self.tables.clone(),
            pool: PoolSettings {
                name: pool.name,
                drain_deadline: pool.drain_deadline,
                max_connection_age: pool.max_connection_age,
            },
            default_certificate,
        };
        Ok((config, refused))
    }
}

fn host_index(wire: &api::feed::HostIndex) -> Result<HostIndex, Unusable> {
    let owners = convert::host_owners(wire).map_err(|error| Unusable::Hosts(error.to_string()))?;
    HostIndex::new(owners).map_err(|conflict| Unusable::Hosts(conflict.to_string()))
}

/// The tenant's table, or why not: a line for each object at fault.
fn compile(
    tenant: &TenantId,
    held: &Held,
    pool: &PoolName,
    limits: &CompileLimits,
) -> Result<TenantTable, Vec<Nack>> {
    let nack = |object: String, reason: String| Nack {
        revision: held.revision,
        tenant: tenant.to_string(),
        object,
        reason,
    };
    let config = convert::decode(&held.config)
        .map_err(|error| vec![nack(error.origin().to_owned(), error.to_string())])?;
    if config.tenant != *tenant {
        return Err(vec![nack(String::new(), format!("the snapshot is of tenant {}", config.tenant))]);
    }
    TenantTable::compile_for_pool(&config, pool, limits)
        .map_err(|rejected| rejected.into_iter().map(|r| nack(r.origin.to_string(), r.problem)).collect())
}

#[cfg(test)]
mod tests {
    use api::feed::{HostOwner, TenantSnapshot};
    use model::TenantConfig;

    use super::*;

    fn pool() -> api::feed::Pool {
        api::feed::Pool { name: "default".into(), drain_deadline_ms: 1000, ..Default::default() }
    }

    fn owners(pairs: &[(&str, &str)]) -> Option<api::feed::HostIndex> {
        let owner = |(pattern, tenant): &(&str, &str)| HostOwner {
            pattern: (*pattern).into(),
            tenant: (*tenant).into(),
        };
        Some(api::feed::HostIndex { owners: pairs.iter().map(owner).collect() })
    }

    fn snapshot(tenant: &str, revision: u64, config: bytes::Bytes) -> TenantSnapshot {
        let hash = convert::hash(&config).to_vec().into();
        TenantSnapshot { tenant: tenant.into(), revision, hash, config }
    }

    fn good(tenant: &str, revision: u64) -> TenantSnapshot {
        let config = TenantConfig::empty(tenant.parse().unwrap());
        snapshot(tenant, revision, convert::encode(&config).0)
    }

    fn delta(revision: u64, tenants: Vec<TenantSnapshot>, hosts: &[(&str, &str)]) -> Delta {
        Delta {
            epoch: Some(api::feed::Epoch { counter: 1, id: 1 }),
            revision,
            tenants,
            removed: vec![],
            hosts: owners(hosts),
            pool: Some(pool()),
            more: false,
        }
    }

    #[test]
    fn a_bad_tenant_is_refused_alone_and_loses_hosts_that_are_now_anothers() {
        let mut assembler = Assembler::default();
        let first = delta(1, vec![good("a", 1), good("b", 1)], &[("x.test", "a")]);
        let (config, refused) = assembler.take(first).unwrap();
        assert!(refused.is_empty());
        let kept = Arc::clone(&config.tenants["a"]);

        let garbage = snapshot("a", 2, bytes::Bytes::from_static(b"\xff\xff\xff"));
        let second = delta(2, vec![garbage, good("c", 2)], &[("x.test", "b")]);
        let (config, refused) = assembler.take(second).unwrap();
        assert_eq!(refused.len(), 1);
        assert_eq!((refused[0].tenant.as_str(), refused[0].revision), ("a", 2));
        assert!(Arc::ptr_eq(&config.tenants["a"], &kept));
        assert!(config.tenants.contains_key("c"));
        assert_eq!(config.hosts.owner("x.test").map(TenantId::as_str), Some("b"));
        assert_eq!(config.revision, Revision(2));
    }

    #[test]
    fn an_unchanged_tenant_keeps_its_table() {
        let mut assembler = Assembler::default();
        let (before, _) = assembler.take(delta(1, vec![good("a", 1)], &[])).unwrap();
        let (after, _) = assembler.take(delta(2, vec![good("b", 2)], &[])).unwrap();
        assert!(Arc::ptr_eq(&before.tenants["a"], &after.tenants["a"]));
    }

    #[test]
    fn a_snapshot_of_another_tenant_is_refused() {
        let mut assembler = Assembler::default();
        let swapped = snapshot("a", 1, good("b", 1).config);
        let (config, refused) = assembler.take(delta(1, vec![swapped], &[])).unwrap();
        assert!(config.tenants.is_empty());
        assert!(refused[0].reason.contains("tenant b"), "{}", refused[0].reason);
    }

    #[test]
    fn a_bad_host_index_changes_nothing() {
        let mut assembler = Assembler::default();
        assembler.take(delta(1, vec![good("a", 1)], &[])).unwrap();
        let error = assembler.take(delta(2, vec![good("b", 2)], &[("not a host", "b")])).unwrap_err();
        assert!(matches!(error, Unusable::Hosts(_)), "{error}");
        assert_eq!(assembler.mirror().revision(), 1);
    }
}
