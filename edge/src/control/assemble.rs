//! From the feed's deltas to a [`Config`] that request threads can serve. Slow work (unpack, decode, compile, load
//! keys), never on a request thread, and only for what a delta brings: the rest stays as it is.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use api::{
    convert::{self, Hash},
    feed::{self as wire, Delta, Hello, HostPatch, Nack, TenantSnapshot},
    tickets::{InvalidTicketKeys, TicketKeys},
};
use bytes::Bytes;
use model::{CompileLimits, Epoch, HostIndex, HostPattern, PoolName, Revision, TenantId, WorkerId};
use rustls::sign::CertifiedKey;

use super::mirror::{BadDelta, Held, Mirror};
use crate::{
    config::{Config, PoolSettings, PortSettings, TenantTable, Tenants, load_certificate},
    tls::tickets::Keyring,
};

/// A delta of which nothing can be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    /// See [`BadDelta`].
    #[error(transparent)]
    Delta(#[from] BadDelta),
    /// The host index names something that cannot be.
    #[error("the host index is not valid: {0}")]
    Hosts(String),
    /// The ticket keys are none.
    #[error("the ticket keys are not valid")]
    TicketKeys(#[from] InvalidTicketKeys),
    /// There is no other pool to go on with.
    #[error("the first pool: {0}")]
    Pool(String),
}

/// Tenants that one thread compiles rather than two: starting a thread costs as much as compiling a small one.
const ALONE: usize = 8;

/// What a worker holds, compiled.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    /// Shared with whoever keeps it on disk.
    kept: Arc<Mutex<Keepsake>>,
    tables: Tenants,
    hosts: Option<Hosts>,
    pool: Option<Pool>,
    ticket_keys: Option<Arc<Keyring>>,
    limits: CompileLimits,
}

/// What is kept on disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct Keepsake {
    pub(crate) mirror: Mirror,
    hosts: Arc<BTreeMap<HostPattern, TenantId>>,
    pool: wire::Pool,
    ticket_keys: Option<wire::TicketKeys>,
}

impl Keepsake {
    /// All of it as one delta.
    pub(crate) fn complete(&self) -> Delta {
        Delta {
            hosts: Some(convert::host_index(self.hosts.iter())),
            pool: Some(self.pool.clone()),
            ticket_keys: self.ticket_keys.clone(),
            ..self.mirror.complete()
        }
    }
}

/// Who owns which host, as sent and to look up.
#[derive(Debug)]
struct Hosts {
    hash: Hash,
    owners: Arc<BTreeMap<HostPattern, TenantId>>,
    index: Arc<HostIndex>,
}

#[derive(Debug)]
struct Pool {
    wire: wire::Pool,
    settings: PoolSettings,
    certificate: Option<Arc<CertifiedKey>>,
}

/// One tenant of a delta, and what has become of it.
struct Prepared {
    tenant: TenantId,
    held: Held,
    table: Result<TenantTable, Vec<Nack>>,
}

impl Assembler {
    pub(crate) fn kept(&self) -> Arc<Mutex<Keepsake>> {
        Arc::clone(&self.kept)
    }

    /// What the worker says first on a stream.
    pub(crate) fn hello(&self, worker: &WorkerId, pool: &PoolName) -> Hello {
        let hosts = self.hosts.as_ref().map(|hosts| hosts.hash.to_vec());
        let settings = self.pool.as_ref().map(|pool| convert::message_hash(&pool.wire).to_vec());
        let kept = lock(&self.kept);
        let ticket_keys = kept.ticket_keys.as_ref().map(|keys| convert::message_hash(keys).to_vec());
        Hello {
            hosts_hash: hosts.unwrap_or_default(),
            pool_hash: settings.unwrap_or_default(),
            ticket_keys_hash: ticket_keys.unwrap_or_default(),
            ..kept.mirror.hello(worker, pool)
        }
    }

    /// Takes a delta over. Returns what to serve from now on, and a refusal for each tenant whose snapshot cannot
    /// be served: such a tenant goes on with its last good table, under the new host index, so that it can never
    /// keep a host that now belongs to another. A pool that cannot be served is refused in the same way.
    ///
    /// # Errors
    /// When no part of the delta can be used; nothing is changed.
    pub(crate) fn take(&mut self, delta: Delta) -> Result<(Config, Vec<Nack>), Unusable> {
        lock(&self.kept).mirror.check(&delta)?;
        let Delta { epoch, revision, tenants, removed, hosts, pool, hosts_patch, ticket_keys, .. } = delta;
        let removed: Vec<TenantId> =
            removed.into_iter().map(|t| t.parse()).collect::<Result<_, _>>().map_err(BadDelta::Tenant)?;
        let hosts = match (hosts, hosts_patch) {
            (Some(whole), _) => Some(Hosts::new(&whole)?),
            (None, Some(patch)) => {
                Some(self.hosts.as_ref().ok_or(BadDelta::Incomplete("host index"))?.patched(patch)?)
            }
            (None, None) if self.hosts.is_none() => return Err(BadDelta::Incomplete("host index").into()),
            (None, None) => None,
        };
        let keyring = ticket_keys.as_ref().map(TicketKeys::try_from).transpose()?.map(Keyring::new);
        let mut refused = vec![];
        let pool = match (pool.map(Pool::new).transpose(), &self.pool) {
            (Ok(None), None) => return Err(BadDelta::Incomplete("pool").into()),
            (Ok(pool), _) => pool,
            (Err((_, problem)), None) => return Err(Unusable::Pool(problem)),
            (Err((name, reason)), Some(_)) => {
                let object = format!("Pool {name}");
                refused.push(Nack { revision, tenant: String::new(), object, reason });
                None
            }
        };
        let name = pool.as_ref().or(self.pool.as_ref()).map(|pool| pool.settings.name.clone());
        let name = name.ok_or(BadDelta::Incomplete("pool"))?;
        let prepared = self.prepare(tenants, revision, &name)?;

        // Nothing can fail any more.
        let mut kept = lock(&self.kept);
        for Prepared { tenant, held, table } in prepared {
            match table {
                Ok(table) => {
                    self.tables.insert(tenant.clone(), Arc::new(table));
                    kept.mirror.accept(tenant, held);
                }
                Err(nacks) => {
                    refused.extend(nacks);
                    kept.mirror.refuse(tenant, held);
                }
            }
        }
        for tenant in &removed {
            self.tables.remove(tenant.as_str());
            kept.mirror.remove(tenant);
        }
        if let Some(hosts) = hosts {
            kept.hosts = Arc::clone(&hosts.owners);
            self.hosts = Some(hosts);
        }
        if let Some(pool) = pool {
            kept.pool = pool.wire.clone();
            self.pool = Some(pool);
        }
        if let Some(keyring) = keyring {
            kept.ticket_keys = ticket_keys;
            self.ticket_keys = Some(Arc::new(keyring));
        }
        kept.mirror.epoch = epoch.unwrap_or_default();
        kept.mirror.revision = revision;
        drop(kept);
        let epoch = epoch.map(|e| Epoch { counter: e.counter, id: e.id }).unwrap_or_default();
        let (Some(hosts), Some(pool)) = (&self.hosts, &self.pool) else {
            return Err(BadDelta::Incomplete("host index or pool").into());
        };
        let config = Config {
            epoch,
            revision: Revision(revision),
            hosts: Arc::clone(&hosts.index),
            tenants: self.tables.clone(),
            pool: pool.settings.clone(),
            default_certificate: pool.certificate.clone(),
            ticket_keys: self.ticket_keys.clone(),
        };
        Ok((config, refused))
    }

    /// Compiles what a delta brings, on all cores where that is much.
    fn prepare(
        &self,
        snapshots: Vec<TenantSnapshot>,
        revision: u64,
        pool: &PoolName,
    ) -> Result<Vec<Prepared>, BadDelta> {
        let one = |snapshot: TenantSnapshot| {
            let tenant: TenantId = snapshot.tenant.parse()?;
            let find = |hash: &[u8]| lock(&self.kept).mirror.find(&tenant, hash);
            let (held, raw) = Held::open(&tenant, snapshot, find)?;
            let table = compile(&tenant, &raw, revision, pool, &self.limits);
            Ok(Prepared { tenant, held, table })
        };
        let most = snapshots.len() / ALONE;
        // The cores are counted only where it matters: that reads several files.
        let cores = || thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = if most < 2 { 1 } else { most.min(cores()) };
        if threads < 2 {
            return snapshots.into_iter().map(one).collect();
        }
        // Taken one by one: tenants differ in size.
        let next = Mutex::new(snapshots.into_iter());
        let work = || {
            let mut done = vec![];
            loop {
                let Some(snapshot) = lock(&next).next() else { return Ok(done) };
                done.push(one(snapshot)?);
            }
        };
        thread::scope(|scope| {
            let helpers: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let mut all = work();
            for helper in helpers {
                // A panic of one is this thread's, as if it had done the work itself.
                let done = helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                all = all.and_then(|mut all: Vec<_>| {
                    all.extend(done?);
                    Ok(all)
                });
            }
            all
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is whole before anything can panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hosts {
    fn new(whole: &wire::HostIndex) -> Result<Self, Unusable> {
        let owners = convert::host_owners(whole).map_err(|error| Unusable::Hosts(error.to_string()))?;
        Self::of(owners)
    }

    fn of(owners: impl IntoIterator<Item = (HostPattern, TenantId)> + Clone) -> Result<Self, Unusable> {
        let index =
            HostIndex::new(owners.clone()).map_err(|conflict| Unusable::Hosts(conflict.to_string()))?;
        let owners: BTreeMap<_, _> = owners.into_iter().collect();
        let hash = convert::message_hash(&convert::host_index(&owners));
        Ok(Self { hash, owners: Arc::new(owners), index: Arc::new(index) })
    }

    fn patched(&self, HostPatch { put, gone, hash }: HostPatch) -> Result<Self, Unusable> {
        let invalid = |problem: String| Unusable::Hosts(problem);
        let mut owners = (*self.owners).clone();
        for pattern in gone {
            owners.remove(&HostPattern::parse(&pattern).map_err(|e| invalid(e.to_string()))?);
        }
        let put = convert::host_owners(&wire::HostIndex { owners: put });
        owners.extend(put.map_err(|e| invalid(e.to_string()))?);
        let patched = Self::of(owners)?;
        if hash != patched.hash {
            return Err(invalid("what the patch makes is not what was announced".to_owned()));
        }
        Ok(patched)
    }
}

impl Pool {
    /// Or its name and what is wrong with it.
    fn new(wire: wire::Pool) -> Result<Self, (String, String)> {
        let invalid = |problem: String| (wire.name.clone(), problem);
        let pool = convert::Pool::try_from(wire.clone()).map_err(|error| invalid(error.to_string()))?;
        let certificate = pool.default_certificate.as_ref();
        let certificate = certificate.map(|(chain, key)| load_certificate(chain, key)).transpose();
        let certificate =
            certificate.map_err(|problem| invalid(format!("the default certificate: {problem}")))?;
        let settings = PoolSettings {
            name: pool.name,
            drain_deadline: pool.drain_deadline,
            max_connection_age: pool.max_connection_age,
            advertise_h3: pool.advertise_h3,
            ports: pool.ports.into_iter().filter_map(port_settings).collect(),
            // Tenants write what is allowed, and must not reach the platform's own network by it.
            connect_private: false,
        };
        Ok(Self { wire, settings, certificate })
    }
}

fn port_settings(port: convert::PoolPort) -> Option<PortSettings> {
    let convert::PoolPort { port, udp, proxy, tenant, .. } = port;
    (proxy.is_some() || tenant.is_some()).then_some(PortSettings { port, udp, proxy, tenant })
}

/// The tenant's table, or why not: a line for each object at fault.
fn compile(
    tenant: &TenantId,
    raw: &Bytes,
    revision: u64,
    pool: &PoolName,
    limits: &CompileLimits,
) -> Result<TenantTable, Vec<Nack>> {
    let nack = |object: String, reason: String| Nack { revision, tenant: tenant.to_string(), object, reason };
    let config =
        convert::decode(raw).map_err(|error| vec![nack(error.origin().to_owned(), error.to_string())])?;
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
        TenantSnapshot { tenant: tenant.into(), revision, hash, config, ..Default::default() }
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
            hosts: owners(hosts),
            pool: Some(pool()),
            ..Delta::default()
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
        assert!(config.tenants.get("c").is_some());
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
        assert_eq!(lock(&assembler.kept).mirror.revision, 1);
    }

    #[test]
    fn the_first_delta_must_be_whole() {
        let whole = || delta(1, vec![good("a", 1)], &[]);
        for partial in [Delta { hosts: None, ..whole() }, Delta { pool: None, ..whole() }] {
            let error = Assembler::default().take(partial).unwrap_err();
            assert!(matches!(error, Unusable::Delta(BadDelta::Incomplete(_))), "{error}");
        }
    }

    #[test]
    fn what_a_delta_does_not_bring_stays_as_it_is() {
        let mut assembler = Assembler::default();
        let (first, _) =
            assembler.take(delta(1, vec![good("a", 1), good("b", 1)], &[("x.test", "a")])).unwrap();
        let change = Delta { hosts: None, pool: None, ..delta(2, vec![good("b", 2)], &[]) };
        let (second, _) = assembler.take(change).unwrap();
        assert!(Arc::ptr_eq(&first.hosts, &second.hosts));
        assert!(Arc::ptr_eq(&first.tenants["a"], &second.tenants["a"]));
        assert!(!Arc::ptr_eq(&first.tenants["b"], &second.tenants["b"]));
    }

    #[test]
    fn what_is_kept_makes_the_same_worker() {
        let mut assembler = Assembler::default();
        assembler.take(delta(1, vec![good("a", 1), good("b", 1)], &[("x.test", "a")])).unwrap();
        let removed = Delta { removed: vec!["b".into()], ..delta(2, vec![], &[("x.test", "a")]) };
        assembler.take(removed).unwrap();
        let complete = lock(&assembler.kept).complete();
        let mut copy = Assembler::default();
        let (config, refused) = copy.take(complete.clone()).unwrap();
        assert!(refused.is_empty() && config.revision == Revision(2));
        assert_eq!(config.tenants.iter().map(|(tenant, _)| tenant.as_str()).collect::<Vec<_>>(), ["a"]);
        assert_eq!(lock(&copy.kept).complete(), complete);
        let (worker, pool) = ("w".parse().unwrap(), "default".parse().unwrap());
        assert_eq!(copy.hello(&worker, &pool), assembler.hello(&worker, &pool));
    }

    #[test]
    fn ticket_keys_stay_until_others_come_and_are_kept() {
        let keys = |byte: u8| {
            let key = api::feed::TicketKey { name: vec![byte; 16], secret: vec![byte; 32], from_s: 1 };
            Some(api::feed::TicketKeys { keys: vec![key] })
        };
        let mut assembler = Assembler::default();
        let (none, _) = assembler.take(delta(1, vec![], &[])).unwrap();
        assert!(none.ticket_keys.is_none(), "the worker's own");
        let names = (&"w".parse().unwrap(), &"default".parse().unwrap());
        assert!(assembler.hello(names.0, names.1).ticket_keys_hash.is_empty());

        let (first, _) = assembler.take(Delta { ticket_keys: keys(1), ..delta(2, vec![], &[]) }).unwrap();
        let (same, _) = assembler.take(delta(3, vec![good("a", 3)], &[])).unwrap();
        let (first, same) = (first.ticket_keys.unwrap(), same.ticket_keys.unwrap());
        assert!(Arc::ptr_eq(&first, &same));
        let hash = convert::message_hash(&keys(1).unwrap());
        assert_eq!(assembler.hello(names.0, names.1).ticket_keys_hash, hash);
        let complete = lock(&assembler.kept).complete();
        assert_eq!(complete.ticket_keys, keys(1));
        let (restarted, _) = Assembler::default().take(complete).unwrap();
        assert!(restarted.ticket_keys.is_some(), "a worker that starts without a server has them");

        let bad = Delta { ticket_keys: Some(Default::default()), ..delta(4, vec![], &[]) };
        assert!(matches!(assembler.take(bad), Err(Unusable::TicketKeys(_))));
        let (other, _) = assembler.take(Delta { ticket_keys: keys(2), ..delta(4, vec![], &[]) }).unwrap();
        assert!(!Arc::ptr_eq(&first, &other.ticket_keys.unwrap()));
    }

    #[test]
    fn hosts_are_patched_and_the_result_is_checked() {
        let mut assembler = Assembler::default();
        assembler.take(delta(1, vec![], &[("x.test", "a"), ("y.test", "a")])).unwrap();
        let becomes = convert::message_hash(&owners(&[("x.test", "b"), ("*.z.test", "c")]).unwrap());
        let becomes = {
            // In the order of patterns, as servers have it.
            let sorted = Hosts::new(&owners(&[("*.z.test", "c"), ("x.test", "b")]).unwrap()).unwrap();
            assert_eq!(sorted.hash, becomes);
            becomes.to_vec()
        };
        let patch = |hash: Vec<u8>| Delta {
            hosts: None,
            hosts_patch: Some(HostPatch {
                put: owners(&[("x.test", "b"), ("*.z.test", "c")]).unwrap().owners,
                gone: vec!["y.test".into()],
                hash,
            }),
            ..delta(2, vec![], &[])
        };
        assert!(matches!(assembler.take(patch(vec![1; 32])), Err(Unusable::Hosts(_))));
        let (config, _) = assembler.take(patch(becomes.clone())).unwrap();
        let owner = |host: &str| config.hosts.owner(host).map(TenantId::as_str);
        assert_eq!((owner("x.test"), owner("y.test"), owner("1.z.test")), (Some("b"), None, Some("c")));
        assert_eq!(assembler.hello(&"w".parse().unwrap(), &"p".parse().unwrap()).hosts_hash, becomes);
        assert!(Assembler::default().take(patch(becomes)).is_err(), "there is nothing to patch");
    }

    #[test]
    fn a_pool_that_cannot_be_served_is_refused_and_the_rest_taken() {
        let mut assembler = Assembler::default();
        let broken = || {
            let pool = api::feed::Pool { default_chain_pem: "junk".into(), ..pool() };
            Delta { pool: Some(pool), ..delta(2, vec![good("a", 2)], &[]) }
        };
        assert!(matches!(assembler.take(broken()), Err(Unusable::Pool(_))), "there is no other");
        assembler.take(delta(1, vec![], &[])).unwrap();
        let (config, refused) = assembler.take(broken()).unwrap();
        assert!(config.tenants.get("a").is_some() && config.default_certificate.is_none());
        assert_eq!((refused[0].tenant.as_str(), refused[0].object.as_str()), ("", "Pool default"));
        assert!(refused[0].reason.contains("certificate"), "{}", refused[0].reason);
    }

    #[test]
    fn a_snapshot_that_needs_more_than_this_version_knows_is_refused() {
        use prost::Message as _;
        let mut assembler = Assembler::default();
        let (before, _) = assembler.take(delta(1, vec![good("a", 1)], &[])).unwrap();
        let newer = api::snapshot::TenantConfig {
            tenant: "a".into(),
            features: vec!["teleport".into()],
            ..Default::default()
        };
        let newer = snapshot("a", 2, newer.encode_to_vec().into());
        let (after, refused) = assembler.take(delta(2, vec![newer], &[])).unwrap();
        assert!(refused[0].reason.contains("\"teleport\""), "{}", refused[0].reason);
        assert!(Arc::ptr_eq(&before.tenants["a"], &after.tenants["a"]), "held at its last good one");
    }

    #[test]
    fn many_tenants_are_compiled_together_and_one_bad_delta_is_none() {
        let names: Vec<_> = (0..100).map(|n| format!("t{n}")).collect();
        let all = || names.iter().map(|name| good(name, 1)).collect::<Vec<_>>();
        let (config, refused) = Assembler::default().take(delta(1, all(), &[])).unwrap();
        assert!(config.tenants.len() == 100 && refused.is_empty());
        let mut damaged = all();
        damaged[57].config = Bytes::from_static(b"other");
        let error = Assembler::default().take(delta(1, damaged, &[])).unwrap_err();
        assert!(matches!(error, Unusable::Delta(BadDelta::Hash { tenant }) if tenant.as_str() == "t57"));
    }
}
