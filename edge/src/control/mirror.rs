//! What a worker holds of the feed. Pure: deltas in, what changed out.

use std::collections::BTreeMap;

use api::{
    convert::{self, Hash, UnpackError, encoding},
    feed::{Delta, Epoch, Hello, TenantSnapshot, TenantVersion},
};
use bytes::Bytes;
use model::{PoolName, TenantId, WorkerId};

/// A delta that cannot be what a correct server sends: the stream is ended and begun again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadDelta {
    /// Invariant: a worker's (epoch, revision) never falls.
    #[error(
        "the server is behind: it sent epoch {sent_epoch} revision {sent}, this worker has {held_epoch}, {held}"
    )]
    Behind { sent_epoch: u64, sent: u64, held_epoch: u64, held: u64 },
    /// The bytes are not those that the hash names.
    #[error("the snapshot of tenant {tenant} does not have the hash that was announced")]
    Hash { tenant: TenantId },
    /// The frame does not open.
    #[error("the snapshot of tenant {tenant}")]
    Frame {
        tenant: TenantId,
        #[source]
        source: UnpackError,
    },
    /// A patch of something that is not here.
    #[error("the snapshot of tenant {tenant} is a patch of another than this worker has")]
    Base { tenant: TenantId },
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
    pub(crate) hash: Hash,
    length: u64,
    kept: Kept,
}

/// An encoded `weir.snapshot.v1.TenantConfig`, to be patched and kept on disk. It is looked at seldom, and there may be
/// many: packed, it takes a tenth.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kept {
    Raw(Bytes),
    Frame(Bytes),
}

impl Held {
    /// What a delta brings, with the bytes that it stands for. `base` is what is held of the tenant.
    ///
    /// # Errors
    /// When they are not the bytes that the hash names.
    pub(crate) fn open(
        tenant: &TenantId,
        snapshot: TenantSnapshot,
        base: impl Fn(&[u8]) -> Option<Self>,
    ) -> Result<(Self, Bytes), BadDelta> {
        let TenantSnapshot { revision, hash, config, zstd, length, base: wanted, .. } = snapshot;
        let frame = |source| BadDelta::Frame { tenant: tenant.clone(), source };
        // What is kept must not keep the whole message or file that it came in.
        let alone = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
        let (raw, kept) = if zstd.is_empty() {
            (config.clone(), Kept::Raw(alone(&config)))
        } else if wanted.is_empty() {
            (convert::unpack(&zstd, None, length).map_err(frame)?, Kept::Frame(alone(&zstd)))
        } else {
            let base = base(&wanted).ok_or_else(|| BadDelta::Base { tenant: tenant.clone() })?;
            let base = base.raw().map_err(frame)?;
            let raw = convert::unpack(&zstd, Some(&base), length).map_err(frame)?;
            (raw.clone(), Kept::Raw(raw))
        };
        let actual = convert::hash(&raw);
        if hash[..] != actual {
            return Err(BadDelta::Hash { tenant: tenant.clone() });
        }
        Ok((Self { revision, hash: actual, length: raw.len() as u64, kept }, raw))
    }

    fn raw(&self) -> Result<Bytes, UnpackError> {
        match &self.kept {
            Kept::Raw(raw) => Ok(raw.clone()),
            Kept::Frame(frame) => convert::unpack(frame, None, self.length),
        }
    }

    /// The same, packed. `None` if it is already, or cannot be.
    pub(crate) fn packed(&self) -> Option<Self> {
        let Kept::Raw(raw) = &self.kept else { return None };
        Some(Self { kept: Kept::Frame(convert::pack(raw)?), ..self.clone() })
    }

    fn message(&self, tenant: &TenantId) -> TenantSnapshot {
        let message = TenantSnapshot {
            tenant: tenant.to_string(),
            revision: self.revision,
            hash: self.hash.to_vec().into(),
            ..TenantSnapshot::default()
        };
        match &self.kept {
            Kept::Raw(raw) => TenantSnapshot { config: raw.clone(), ..message },
            Kept::Frame(frame) => TenantSnapshot { zstd: frame.clone(), length: self.length, ..message },
        }
    }
}

/// The tenants of the feed as this worker last accepted them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mirror {
    pub(crate) epoch: Epoch,
    pub(crate) revision: u64,
    tenants: BTreeMap<TenantId, Held>,
    /// Refused, and the base of the server's next patch all the same.
    refused: BTreeMap<TenantId, Held>,
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
            features: convert::known_features(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            encodings: encoding::ALL.map(str::to_owned).into(),
            hosts_hash: vec![],
            pool_hash: vec![],
            ticket_keys_hash: vec![],
            recalls: true,
        }
    }

    /// Checks that a delta leads forward.
    ///
    /// # Errors
    /// When a correct server would not have sent it.
    pub(crate) fn check(&self, delta: &Delta) -> Result<(), BadDelta> {
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
        Ok(())
    }

    /// The snapshot of a tenant with this hash, if it is here.
    pub(crate) fn find(&self, tenant: &TenantId, hash: &[u8]) -> Option<Held> {
        let found = [&self.tenants, &self.refused]
            .into_iter()
            .find_map(|all| all.get(tenant).filter(|h| h.hash == hash));
        found.cloned()
    }

    /// Takes over a tenant's snapshot that is served now.
    pub(crate) fn accept(&mut self, tenant: TenantId, held: Held) {
        self.refused.remove(&tenant);
        self.tenants.insert(tenant, held);
    }

    /// Takes note of a snapshot that is not served: of its tenant the worker goes on holding what it had.
    pub(crate) fn refuse(&mut self, tenant: TenantId, held: Held) {
        self.refused.insert(tenant, held);
    }

    pub(crate) fn remove(&mut self, tenant: &TenantId) {
        self.refused.remove(tenant);
        self.tenants.remove(tenant);
    }

    /// What is served and not packed yet.
    pub(crate) fn unpacked(&self) -> Vec<(TenantId, Held)> {
        let raw = self.tenants.iter().filter(|(_, held)| matches!(held.kept, Kept::Raw(_)));
        raw.map(|(tenant, held)| (tenant.clone(), held.clone())).collect()
    }

    /// Takes the packed form of what is still held.
    pub(crate) fn take_packed(&mut self, tenant: &TenantId, packed: Held) {
        if let Some(held) = self.tenants.get_mut(tenant)
            && held.hash == packed.hash
        {
            *held = packed;
        }
    }

    /// All tenants as one delta, for the last-known-good file.
    pub(crate) fn complete(&self) -> Delta {
        Delta {
            epoch: Some(self.epoch),
            revision: self.revision,
            tenants: self.tenants.iter().map(|(tenant, held)| held.message(tenant)).collect(),
            ..Delta::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> TenantId {
        name.parse().unwrap()
    }

    fn snapshot(config: &[u8]) -> TenantSnapshot {
        let hash = convert::hash(config).to_vec().into();
        TenantSnapshot {
            tenant: "a".into(),
            revision: 1,
            hash,
            config: config.to_vec().into(),
            ..Default::default()
        }
    }

    fn open(snapshot: TenantSnapshot, base: Option<&Held>) -> Result<(Held, Bytes), BadDelta> {
        Held::open(&tenant("a"), snapshot, |hash| base.filter(|held| held.hash == hash).cloned())
    }

    fn mirror_at(counter: u64, revision: u64) -> Mirror {
        Mirror { epoch: Epoch { counter, id: counter * 10 }, revision, ..Mirror::default() }
    }

    fn delta(counter: u64, id: u64, revision: u64) -> Delta {
        Delta { epoch: Some(Epoch { counter, id }), revision, ..Delta::default() }
    }

    #[test]
    fn a_revision_never_falls() {
        let mirror = mirror_at(2, 10);
        for (counter, revision, fits) in
            [(2, 10, true), (2, 11, true), (2, 9, false), (1, 99, false), (3, 1, true)]
        {
            let fine = mirror.check(&delta(counter, counter * 10, revision)).is_ok();
            assert_eq!(fine, fits, "{counter}.{revision}");
        }
    }

    #[test]
    fn another_life_of_the_same_count_is_refused() {
        assert!(matches!(mirror_at(2, 10).check(&delta(2, 99, 11)), Err(BadDelta::Behind { .. })));
    }

    #[test]
    fn a_snapshot_must_have_its_hash_in_whatever_form_it_comes() {
        let wrong = TenantSnapshot { config: Bytes::from_static(b"other"), ..snapshot(b"right") };
        assert!(matches!(open(wrong, None), Err(BadDelta::Hash { .. })));

        let (old, new) = ([b'x'; 500], [b'y'; 500]);
        let (base, _) = open(snapshot(&old), None).unwrap();
        let packed = |zstd: Option<Bytes>, base: &[u8]| TenantSnapshot {
            config: Bytes::new(),
            zstd: zstd.unwrap(),
            length: 500,
            base: base.to_vec().into(),
            ..snapshot(&new)
        };
        let whole = packed(convert::pack(&new), &[]);
        let patch = packed(convert::pack_against(&new, &old), &base.hash);
        for form in [whole, patch.clone()] {
            assert_eq!(open(form.clone(), Some(&base)).unwrap().1, new.as_slice());
            let wrong = TenantSnapshot { hash: vec![7; 32].into(), ..form.clone() };
            assert!(matches!(open(wrong, Some(&base)), Err(BadDelta::Hash { .. })));
            let damaged = TenantSnapshot { zstd: Bytes::from_static(b"junk"), ..form };
            assert!(matches!(open(damaged, Some(&base)), Err(BadDelta::Frame { .. })));
        }
        assert!(matches!(open(patch, None), Err(BadDelta::Base { .. })));
    }

    #[test]
    fn what_is_packed_is_the_same_snapshot() {
        let (held, _) = open(snapshot(&[b'x'; 500]), None).unwrap();
        let packed = held.packed().unwrap();
        assert_eq!((packed.hash, packed.raw().unwrap()), (held.hash, held.raw().unwrap()));
        assert!(packed.packed().is_none());
        let message = packed.message(&tenant("a"));
        assert!(message.config.is_empty());
        assert_eq!(open(message, None).unwrap().0, packed);

        let mut mirror = Mirror::default();
        mirror.accept(tenant("a"), held);
        assert_eq!(mirror.unpacked().len(), 1);
        mirror.take_packed(&tenant("a"), packed);
        assert!(mirror.unpacked().is_empty());
        let (other, _) = open(snapshot(b"other"), None).unwrap();
        mirror.take_packed(&tenant("a"), other.packed().unwrap());
        assert_eq!(mirror.find(&tenant("a"), &other.hash), None, "it is another one by now");
    }

    #[test]
    fn a_refused_tenant_is_held_at_last_good_and_both_can_be_patched() {
        let mut mirror = Mirror::default();
        let (good, _) = open(snapshot(b"good"), None).unwrap();
        let (bad, _) = open(snapshot(b"bad"), None).unwrap();
        mirror.accept(tenant("a"), good.clone());
        mirror.refuse(tenant("a"), bad.clone());
        let have = mirror.hello(&"w".parse().unwrap(), &"default".parse().unwrap()).have;
        assert_eq!(have.iter().map(|h| h.hash.as_slice()).collect::<Vec<_>>(), [good.hash.as_slice()]);
        for held in [&good, &bad] {
            assert_eq!(mirror.find(&tenant("a"), &held.hash).as_ref(), Some(held));
        }
        assert_eq!(mirror.complete().tenants, [good.message(&tenant("a"))]);
        mirror.remove(&tenant("a"));
        assert!(mirror.find(&tenant("a"), &bad.hash).is_none() && mirror.complete().tenants.is_empty());
    }
}
