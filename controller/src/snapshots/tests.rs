use serde_json::json;
use store::seal::Sealer;

use super::*;

struct Harness {
    _directory: tempfile::TempDir,
    builder: Builder,
    revision: u64,
}

/// An object's entry as an apply stores it.
fn entry(key: &str, revision: u64, json: &serde_json::Value) -> Entry {
    let value = serde_json::to_vec(&json!({"generation": 1, "json": json})).unwrap();
    Entry {
        key: key.into(),
        value: value.into(),
        create_revision: Revision(revision),
        mod_revision: Revision(revision),
        version: 1,
    }
}

fn backend(address: &str) -> serde_json::Value {
    json!({
        "apiVersion": "weir.dev/v1", "kind": "Backend", "metadata": {"name": "b"},
        "spec": {"endpoints": [{"address": address}]},
    })
}

fn gateway() -> serde_json::Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "g"},
        "spec": {
            "gatewayClassName": "weir",
            "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}],
        },
    })
}

fn grant(tenant: &str, host: &str) -> serde_json::Value {
    json!({
        "apiVersion": "weir.dev/v1", "kind": "Tenant", "metadata": {"name": tenant},
        "spec": {"hostnames": [host]},
    })
}

impl Harness {
    fn new(entries: Vec<Entry>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let sealer = Arc::new(Sealer::from_file(&directory.path().join("kek")).unwrap());
        let builder = Builder::new("localhost".into(), PoolSpec::default(), sealer, entries);
        let mut harness = Self { _directory: directory, builder, revision: 1 };
        harness.compile();
        harness
    }

    /// Applies one revision; the tenants that were compiled.
    fn put(&mut self, key: &str, json: Option<&serde_json::Value>) -> Vec<String> {
        self.revision += 1;
        let entry = json.map(|json| entry(key, self.revision, json));
        self.builder.apply(vec![Event { key: key.into(), entry }]);
        self.compile()
    }

    fn compile(&mut self) -> Vec<String> {
        let jobs = self.builder.jobs(Revision(self.revision));
        let tenants = jobs.iter().map(|job| job.tenant.to_string()).collect();
        for job in jobs {
            let state = compile(&job);
            self.builder.compiled(job.tenant, job.cause, state);
        }
        tenants
    }

    fn world(&self) -> World {
        self.builder.world(1, Epoch { counter: 1, id: 1 }, Revision(self.revision), Instant::now())
    }

    fn hash(&self, tenant: &str) -> convert::Hash {
        self.world().tenants[tenant].snapshot.as_ref().unwrap().hash
    }
}

fn two_tenants() -> Harness {
    Harness::new(vec![
        entry("tenants/a", 1, &json!({})),
        entry("tenants/b", 1, &json!({})),
        entry("objects/a/Gateway/default/g", 1, &gateway()),
    ])
}

#[test]
fn only_the_tenant_that_changed_is_compiled() {
    let mut harness = two_tenants();
    assert_eq!(harness.put("objects/a/Backend/default/b", Some(&backend("127.0.0.1:1"))), ["a"]);
    // Rewriting a tenant's own key is part of every apply, and no change of the tenants there are.
    assert!(harness.put("tenants/b", Some(&json!({}))).is_empty());
    assert!(harness.put("desired/default", Some(&json!({}))).is_empty());
}

#[test]
fn a_change_without_effect_keeps_the_snapshot() {
    let mut harness = two_tenants();
    let before = harness.world().tenants["a"].snapshot.clone().unwrap();
    // A backend that no route names is in no snapshot.
    harness.put("objects/a/Backend/default/b", Some(&backend("127.0.0.1:1")));
    assert!(Arc::ptr_eq(&before, harness.world().tenants["a"].snapshot.as_ref().unwrap()));
    assert_eq!(harness.world().tenants["a"].revision, Revision(2));
}

#[test]
fn a_tenant_that_does_not_compile_is_held_and_the_others_go_on() {
    let mut harness = two_tenants();
    let good = harness.hash("a");
    harness
        .put("objects/a/Gateway/default/h", Some(&json!({"kind": "Gateway", "spec": "of another version"})));
    let state = harness.world().tenants["a"].clone();
    assert!(!state.held.is_empty() && harness.hash("a") == good, "{:?}", state.held);

    harness.put("objects/b/Gateway/default/g", Some(&gateway()));
    assert!(harness.world().tenants["b"].held.is_empty());

    harness.put("objects/a/Gateway/default/h", None);
    assert!(harness.world().tenants["a"].held.is_empty());
}

#[test]
fn a_tenant_that_never_compiled_is_unknown_not_gone() {
    let harness = Harness::new(vec![
        entry("tenants/a", 1, &json!({})),
        entry("objects/a/Gateway/default/g", 1, &json!("nonsense")),
    ]);
    let world = harness.world();
    assert!(world.tenants["a"].snapshot.is_none());
    assert!(!world.tenants.contains_key("b"));
}

#[test]
fn a_grant_moves_the_host_and_compiles_its_tenant() {
    let mut harness = two_tenants();
    assert_eq!(harness.world().hosts.index.owner("a.localhost").unwrap().as_str(), "a");
    assert!(harness.world().hosts.index.owner("shop.example.com").is_none());
    let compiled = harness.put("objects/platform/Tenant/default/b", Some(&grant("b", "shop.example.com")));
    assert_eq!(compiled, ["b"]);
    assert_eq!(harness.world().hosts.index.owner("shop.example.com").unwrap().as_str(), "b");
    harness.put("objects/platform/Tenant/default/b", None);
    assert!(harness.world().hosts.index.owner("shop.example.com").is_none());
}

#[test]
fn what_a_tenant_may_take_of_a_worker_is_in_its_snapshot_and_what_it_may_store_is_not() {
    let mut harness = two_tenants();
    let quotas = |said: &serde_json::Value| {
        json!({
            "apiVersion": "weir.dev/v1", "kind": "Tenant", "metadata": {"name": "a"},
            "spec": {"quotas": said},
        })
    };
    let (key, before) = ("objects/platform/Tenant/default/a", harness.hash("a"));
    harness.put(key, Some(&quotas(&json!({"objects": 5}))));
    assert!(harness.put(key, Some(&quotas(&json!({"objects": 6})))).is_empty());
    assert_eq!(harness.put(key, Some(&quotas(&json!({"connections": 5, "weight": 200})))), ["a"]);
    let snapshot = harness.world().tenants["a"].snapshot.clone().unwrap();
    let quota = convert::decode(&snapshot.bytes).unwrap().quota;
    assert_eq!((quota.connections, quota.requests, quota.weight.get()), (Some(5), None, 200));
    assert_eq!(harness.put(key, None), ["a"]);
    assert_eq!(harness.hash("a"), before);
}

#[test]
fn a_deleted_tenant_leaves_the_world() {
    let mut harness = two_tenants();
    harness.put("tenants/a", None);
    assert!(!harness.world().tenants.contains_key("a"));
    assert!(harness.world().hosts.index.owner("a.localhost").is_none());
}

#[test]
fn the_default_pool_is_there_without_an_object() {
    let harness = two_tenants();
    assert!(harness.world().pools.contains_key(dialect::DEFAULT_POOL));
}

#[test]
fn a_default_pool_that_does_not_say_where_it_listens_keeps_the_addresses() {
    let mut harness = two_tenants();
    let listen = |harness: &Harness| harness.world().pools[dialect::DEFAULT_POOL].spec.listen.clone();
    let before = listen(&harness);
    let pool = json!({
        "apiVersion": "weir.dev/v1", "kind": "Pool", "metadata": {"name": "default"},
        "spec": {"maxWorkers": 2},
    });
    harness.put("objects/platform/Pool/default/default", Some(&pool));
    assert_eq!(harness.world().pools[dialect::DEFAULT_POOL].spec.max_workers, 2);
    assert!(!before.is_empty() && listen(&harness) == before);
}

#[test]
fn a_gap_is_closed_by_comparing() {
    let mut harness = two_tenants();
    harness.put("objects/a/Backend/default/b", Some(&backend("127.0.0.1:1")));
    harness.put("objects/b/Gateway/default/g", Some(&gateway()));
    let before = harness.world();

    // What the store holds after changes that nobody was told of: a's Backend and tenant b are gone, c is new.
    let entries = |gateway_revision| {
        vec![
            entry("tenants/a", 1, &json!({})),
            entry("tenants/c", 7, &json!({})),
            entry("objects/a/Gateway/default/g", gateway_revision, &gateway()),
            entry("objects/c/Gateway/default/g", 7, &gateway()),
            entry("desired/default", 8, &json!({})),
        ]
    };
    harness.revision = 8;
    assert_eq!(harness.builder.reconcile(entries(1)), 5);
    assert_eq!(harness.compile(), ["a", "c"]);
    let after = harness.world();
    assert_eq!(after.tenants.keys().map(TenantId::as_str).collect::<Vec<_>>(), ["a", "c"]);
    let snapshot = |world: &World| world.tenants["a"].snapshot.clone().unwrap();
    assert!(Arc::ptr_eq(&snapshot(&before), &snapshot(&after)), "what is as it was stays");
    assert!(after.hosts.index.owner("c.localhost").is_some());
    assert!(after.hosts.index.owner("b.localhost").is_none());

    assert_eq!(harness.builder.reconcile(entries(1)), 0);
    assert!(harness.compile().is_empty());
    assert_eq!(harness.builder.reconcile(entries(9)), 1);
    assert_eq!(harness.compile(), ["a"]);
}

#[test]
fn ticket_keys_are_those_of_the_store_that_open_also_after_a_gap() {
    let mut harness = two_tenants();
    let sealed = |harness: &Harness, number: u8| {
        let keys = api::tickets::TicketKeys::first(7, &mut || ([number; 16], [number; 32]));
        let plain = prost::Message::encode_to_vec(&api::feed::TicketKeys::from(&keys));
        harness.builder.sealer.seal(&TenantId::platform(), keys::TICKET_KEYS, &plain).unwrap()
    };
    let stored = |revision, value| Entry { value, ..entry(keys::TICKET_KEYS, revision, &json!({})) };
    let name = |harness: &Harness| harness.world().ticket_keys.map(|state| state.wire.keys[0].name[0]);
    let event = |entry| vec![Event { key: keys::TICKET_KEYS.into(), entry: Some(entry) }];
    assert_eq!(name(&harness), None);
    let first = stored(2, sealed(&harness, 1));
    assert!(harness.builder.apply(event(first)));
    assert!(harness.compile().is_empty(), "no tenant is concerned");
    assert_eq!(name(&harness), Some(1));
    assert!(!harness.builder.apply(event(stored(3, "rotten".into()))), "the last good ones stay");
    assert_eq!(name(&harness), Some(1));

    let all = |keys| {
        vec![
            entry("tenants/a", 1, &json!({})),
            entry("tenants/b", 1, &json!({})),
            entry("objects/a/Gateway/default/g", 1, &gateway()),
            keys,
        ]
    };
    let second = stored(4, sealed(&harness, 2));
    assert_eq!(harness.builder.reconcile(all(second.clone())), 1);
    assert_eq!(name(&harness), Some(2));
    assert_eq!(harness.builder.reconcile(all(second)), 0);
}

fn pool(max_workers: u32, port: u16) -> serde_json::Value {
    let listen = json!([{"port": port, "bind": "127.0.0.1:8080"}]);
    json!({
        "apiVersion": "weir.dev/v1", "kind": "Pool", "metadata": {"name": "default"},
        "spec": {"maxWorkers": max_workers, "listen": listen},
    })
}

const POOL: &str = "objects/platform/Pool/default/default";

impl Harness {
    /// The pool's largest number of workers, for those that have the newest and for those that wait for it.
    fn max_workers(&self) -> (u32, Option<u32>) {
        use crate::world::View;
        let (world, pool) = (self.world(), "default".parse().unwrap());
        let of = |view| world.pool(&pool, view).map(|state| state.spec.max_workers);
        (of(View::Newest).unwrap(), of(View::Before))
    }
}

#[test]
fn a_change_of_the_pools_keeps_what_was_before_until_all_have_it() {
    let mut harness = two_tenants();
    harness.put(POOL, Some(&pool(2, 80)));
    assert_eq!(harness.max_workers(), (2, None), "what was before this process, nobody knows");
    assert!(!harness.builder.rolled_out(1) && harness.builder.rolled_out(2));

    // Listeners do not care how many workers there are.
    assert!(harness.put(POOL, Some(&pool(3, 80))).is_empty());
    assert_eq!((harness.max_workers(), harness.world().platform), ((3, Some(2)), 3));
    // One at a time: the next waits for the end of this one.
    harness.put(POOL, Some(&pool(4, 80)));
    assert_eq!(harness.max_workers(), (3, Some(2)));
    assert!(!harness.builder.rolled_out(2), "an older one");
    assert!(harness.builder.rolled_out(3));
    assert_eq!((harness.max_workers(), harness.world().platform), ((4, Some(3)), 4));

    // In place of one that is held, and what was good stays what it was.
    assert!(!harness.builder.held_up(4, true));
    harness.put(POOL, Some(&pool(5, 80)));
    assert_eq!((harness.max_workers(), harness.world().platform), ((5, Some(3)), 5));
    assert!(harness.builder.rolled_out(5) && harness.world().pending.is_none());
}

#[test]
fn tenants_that_a_pool_changes_are_kept_too_but_not_from_their_own_changes() {
    let mut harness = two_tenants();
    harness.put("objects/b/Gateway/default/g", Some(&gateway()));
    harness.builder.rolled_out(1);
    let good = harness.hash("a");
    // Port 80 is gone: both tenants' listeners fall out of their snapshots.
    assert_eq!(harness.put(POOL, Some(&pool(2, 81))), ["a", "b"]);
    let pending = harness.world().pending.clone().unwrap();
    assert!(harness.hash("a") != good && pending.tenants["a"].as_ref().unwrap().hash == good);
    assert_eq!(pending.tenants.len(), 2);

    harness.put("objects/a/Gateway/default/g", None);
    let pending = harness.world().pending.clone().unwrap();
    assert_eq!(pending.tenants.keys().map(TenantId::as_str).collect::<Vec<_>>(), ["b"]);
}

#[test]
fn the_default_certificate_names_tenants_and_is_renewed_at_half_its_life() {
    use std::time::{Duration, UNIX_EPOCH};
    let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let ca = api::pki::Ca::create("i", now).unwrap();
    let tenants: Vec<TenantId> = vec!["a".parse().unwrap()];
    let names = certificate::names("localhost", tenants.iter());
    assert_eq!(names, ["localhost", "*.localhost", "a.localhost", "*.a.localhost"]);
    let certificate = DefaultCertificate::issue(&ca, names.clone(), now).unwrap();
    let day = Duration::from_secs(24 * 3600);
    assert!(certificate.fits(&names, now + 44 * day) && !certificate.fits(&names, now + 46 * day));
    assert!(!certificate.fits(&names[..2], now), "a tenant more or less");
}

#[test]
fn a_world_knows_which_tenants_differ_from_a_few_steps_before() {
    let mut harness = two_tenants();
    let mut worlds = vec![];
    step(&mut harness, &mut worlds);
    harness.put("objects/b/Gateway/default/g", Some(&gateway()));
    step(&mut harness, &mut worlds);
    step(&mut harness, &mut worlds);
    harness.put("tenants/a", None);
    step(&mut harness, &mut worlds);
    let changed = |from: usize, to: usize| {
        let changed = worlds[to - 1].changed_since(&worlds[from - 1]);
        changed.map(|tenants| tenants.into_iter().map(TenantId::as_str).collect::<Vec<_>>().join(" "))
    };
    assert_eq!(changed(1, 2).unwrap(), "b");
    assert_eq!(changed(2, 3).unwrap(), "");
    assert_eq!(changed(3, 4).unwrap(), "a", "it is gone");
    assert_eq!(changed(1, 4).unwrap(), "a b");
    assert_eq!(changed(4, 1), None, "that is no way forward");
    for _ in 0..STEPS {
        step(&mut harness, &mut worlds);
    }
    let newest = worlds.last().unwrap();
    assert!(newest.changed_since(&worlds[2]).is_none() && newest.changed_since(&worlds[3]).is_some());
}

/// The next world.
fn step(harness: &mut Harness, worlds: &mut Vec<World>) {
    harness.builder.end_step();
    let step = worlds.len() as u64 + 1;
    worlds.push(harness.builder.world(step, Epoch::default(), Revision(step), Instant::now()));
}

#[test]
fn objects_that_did_not_change_are_not_read_again() {
    let mut harness = two_tenants();
    let (backend_key, secret_key) = ("objects/a/Backend/default/b", "objects/a/Secret/default/s");
    harness.put(backend_key, Some(&backend("127.0.0.1:1")));
    let known = |harness: &Harness, key: &str| harness.builder.objects["a"][key].object.clone();
    let gateway = known(&harness, "objects/a/Gateway/default/g").unwrap();
    let old = known(&harness, backend_key).unwrap();
    harness.put(backend_key, Some(&backend("127.0.0.1:2")));
    assert!(Arc::ptr_eq(&gateway, &known(&harness, "objects/a/Gateway/default/g").unwrap()));
    assert!(!Arc::ptr_eq(&old, &known(&harness, backend_key).unwrap()), "what changed is");
    assert_eq!(harness.builder.kept, 2);

    // What is sealed is not kept open.
    let now = std::time::SystemTime::now();
    let ca = api::pki::Ca::create("users", now).unwrap();
    let pair =
        ca.issue_serving(&["a.localhost".to_owned()], std::time::Duration::from_secs(3600), now).unwrap();
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "type": "kubernetes.io/tls",
        "stringData": {"tls.crt": pair.cert_pem, "tls.key": pair.key_pem},
    });
    harness.put(secret_key, Some(&secret));
    assert!(harness.world().tenants["a"].held.is_empty(), "{:?}", harness.world().tenants["a"].held);
    assert!(known(&harness, secret_key).is_none());
    harness.put(backend_key, None);
    assert_eq!(harness.builder.kept, 1);
}
