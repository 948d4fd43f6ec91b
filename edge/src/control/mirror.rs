//! What a worker holds of the feed. Pure: deltas in, what changed out.

use std::collections::BTreeMap;

use api::feed::{Delta, Epoch, Hello, HostIndex, Pool, TenantSnapshot, TenantVersion};
use bytes::Bytes;
use model::{Feature, PoolName, TenantId, WorkerId};
use sha2::{Digest, Sha256};

/// A delta that cannot be what a correct server sends: the stream is ended and begun again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadDelta {
    /// Invariant: a worker's (epoch, revision) never falls.
    #[error(
        "the server is behind: it sent epoch {sent_epoch} revision {sent}, this worker has {held_epoch}, {held}"
    )]
    Behind { sent_epoch: u64, sent: u64, held_epoch: u64, held: u64 },
    /// The bytes are not those that the hash names.
    #[error("the snapshot of tenant {tenant} does not have the hash that was announced")]
    Hash { tenant: TenantId },
    /// Not a name.
    #[error("the delta names a tenant that cannot exist")]
    Tenant(#[from] model::InvalidName),
    /// The first delta of a life must be whole.
    #[error("the first delta has no {0}")]
    Incomplete(&'static str),
}

/// One tenant's snapshot, verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) revision: u64,
    pub(crate) hash: [u8; 32],
    /// An encoded `weir.snapshot.v1.TenantConfig`.
    pub(crate) config: Bytes,
}

/// A delta whose snapshots have the hashes that they were announced with.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Verified {
    pub(crate) epoch: Epoch,
    pub(crate) revision: u64,
    pub(crate) tenants: BTreeMap<TenantId, Held>,
    pub(crate) removed: Vec<TenantId>,
    pub(crate) hosts: Option<HostIndex>,
    pub(crate) pool: Option<Pool>,
}

/// The feed as this worker last accepted it.
#[derive(Debug, Default)]
pub(crate) struct Mirror {
    epoch: Epoch,
    revision: u64,
    tenants: BTreeMap<TenantId, Held>,
    hosts: Option<HostIndex>,
    pool: Option<Pool>,
}

impl Mirror {
    /// What the worker says first on a stream: what it has, so that only the rest is sent.
    pub(crate) fn hello(&self, worker: &WorkerId, pool: &PoolName) -> Hello {
        Hello {
            worker: worker.to_string(),
            pool: pool.to_string(),
            epoch: Some(self.epoch),
            revision: self.revision,
            have: self
                .tenants
                .iter()
                .map(|(tenant, held)| TenantVersion {
                    tenant: tenant.to_string(),
                    revision: held.revision,
                    hash: held.hash.to_vec(),
                })
                .collect(),
            features: Feature::ALL.iter().map(|f| f.as_str().to_owned()).collect(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    #[cfg(test)]
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    pub(crate) fn hosts(&self) -> Option<&HostIndex> {
        self.hosts.as_ref()
    }

    pub(crate) fn pool(&self) -> Option<&Pool> {
        self.pool.as_ref()
    }

    /// Checks everything about a delta that does not need its content.
    ///
    /// # Errors
    /// When a correct server would not have sent it; nothing is changed.
    pub(crate) fn verify(&self, delta: Delta) -> Result<Verified, BadDelta> {
        let epoch = delta.epoch.unwrap_or_default();
        let behind = epoch.counter < self.epoch.counter
            || (epoch == self.epoch && delta.revision < self.revision)
            || (epoch.counter == self.epoch.counter && epoch.id != self.epoch.id && self.revision > 0);
        if behind {
            return Err(BadDelta::Behind {
                sent_epoch: epoch.counter,
                sent: delta.revision,
                held_epoch: self.epoch.counter,
                held: self.revision,
            });
        }
        if self.hosts.is_none() && delta.hosts.is_none() {
            return Err(BadDelta::Incomplete("host index"));
        }
        if self.pool.is_none() && delta.pool.is_none() {
            return Err(BadDelta::Incomplete("pool"));
        }
        let mut tenants = BTreeMap::new();
        for TenantSnapshot { tenant, revision, hash, config } in delta.tenants {
            let tenant: TenantId = tenant.parse()?;
            let actual: [u8; 32] = Sha256::digest(&config).into();
            if hash[..] != actual {
                return Err(BadDelta::Hash { tenant });
            }
            tenants.insert(tenant, Held { revision, hash: actual, config });
        }
        let removed = delta.removed.into_iter().map(|t| t.parse()).collect::<Result<_, _>>()?;
        let (hosts, pool) = (delta.hosts, delta.pool);
        Ok(Verified { epoch, revision: delta.revision, tenants, removed, hosts, pool })
    }

    /// Takes over a verified delta. The caller has taken out the tenants that it refused: of those the worker
    /// goes on holding what it had.
    pub(crate) fn merge(&mut self, delta: Verified) {
        self.epoch = delta.epoch;
        self.revision = delta.revision;
        self.tenants.extend(delta.tenants);
        for tenant in &delta.removed {
            self.tenants.remove(tenant);
        }
        self.hosts = delta.hosts.or(self.hosts.take());
        self.pool = delta.pool.or(self.pool.take());
    }

    /// All of it as one delta, for the last-known-good file.
    pub(crate) fn complete(&self) -> Delta {
        Delta {
            epoch: Some(self.epoch),
            revision: self.revision,
            tenants: self
                .tenants
                .iter()
                .map(|(tenant, held)| TenantSnapshot {
                    tenant: tenant.to_string(),
                    revision: held.revision,
                    hash: held.hash.to_vec().into(),
                    config: held.config.clone(),
                })
                .collect(),
            removed: vec![],
            hosts: self.hosts.clone(),
            pool: self.pool.clone(),
            more: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(counter: u64) -> Option<Epoch> {
        Some(Epoch { counter, id: counter * 10 })
    }

    fn snapshot(tenant: &str, revision: u64) -> TenantSnapshot {
        let config = Bytes::from(format!("{tenant} {revision}"));
        let hash = Sha256::digest(&config).to_vec().into();
        TenantSnapshot { tenant: tenant.into(), revision, hash, config }
    }

    fn delta(counter: u64, revision: u64, tenants: &[TenantSnapshot]) -> Delta {
        Delta {
            epoch: epoch(counter),
            revision,
            tenants: tenants.to_vec(),
            removed: vec![],
            hosts: Some(HostIndex::default()),
            pool: Some(Pool::default()),
            more: false,
        }
    }

    fn mirror_at(counter: u64, revision: u64) -> Mirror {
        let mut mirror = Mirror::default();
        let verified = mirror.verify(delta(counter, revision, &[snapshot("a", revision)])).unwrap();
        mirror.merge(verified);
        mirror
    }

    #[test]
    fn a_revision_never_falls() {
        let mirror = mirror_at(2, 10);
        for (counter, revision, fits) in
            [(2, 10, true), (2, 11, true), (2, 9, false), (1, 99, false), (3, 1, true)]
        {
            assert_eq!(mirror.verify(delta(counter, revision, &[])).is_ok(), fits, "{counter}.{revision}");
        }
    }

    #[test]
    fn another_life_of_the_same_count_is_refused() {
        let mirror = mirror_at(2, 10);
        let mut other = delta(2, 11, &[]);
        other.epoch = Some(Epoch { counter: 2, id: 99 });
        assert!(matches!(mirror.verify(other), Err(BadDelta::Behind { .. })));
    }

    #[test]
    fn a_snapshot_must_have_its_hash() {
        let mut wrong = snapshot("a", 1);
        wrong.config = Bytes::from_static(b"other");
        let error = Mirror::default().verify(delta(1, 1, &[wrong])).unwrap_err();
        assert_eq!(error, BadDelta::Hash { tenant: "a".parse().unwrap() });
    }

    #[test]
    fn the_first_delta_must_be_whole() {
        let first = Delta { hosts: None, ..delta(1, 1, &[]) };
        assert_eq!(Mirror::default().verify(first), Err(BadDelta::Incomplete("host index")));
    }

    #[test]
    fn a_complete_delta_makes_the_same_mirror() {
        let mut mirror = mirror_at(1, 5);
        let mut change = delta(1, 6, &[snapshot("b", 6)]);
        change.removed = vec!["a".into()];
        let verified = mirror.verify(change).unwrap();
        mirror.merge(verified);
        let mut copy = Mirror::default();
        let verified = copy.verify(mirror.complete()).unwrap();
        copy.merge(verified);
        assert_eq!(copy.complete(), mirror.complete());
        assert_eq!(copy.tenants.keys().map(TenantId::as_str).collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn a_refused_tenant_is_held_at_last_good() {
        let mut mirror = mirror_at(1, 5);
        let mut verified = mirror.verify(delta(1, 6, &[snapshot("a", 6), snapshot("b", 6)])).unwrap();
        verified.tenants.remove("a");
        mirror.merge(verified);
        let have = mirror.hello(&"w".parse().unwrap(), &"default".parse().unwrap()).have;
        assert_eq!(
            have.iter().map(|h| (h.tenant.as_str(), h.revision)).collect::<Vec<_>>(),
            [("a", 5), ("b", 6)]
        );
    }
}
