//! `cargo bench -p model`: one lookup in tables of 10, 1,000 and 100,000 routes.

use std::{borrow::Cow, hint::black_box, time::Duration};

use criterion::{BenchmarkId, Criterion};
use model::{
    Action, Backend, BackendId, CompileLimits, Endpoint, EndpointAddress, HostPattern, Listener, ListenerId,
    ListenerPolicy, ListenerProtocol, Match, Origin, PathMatch, Rank, Request, Route, RouteId, RouteTable,
    Rule, TenantConfig, Timeouts, TrafficPolicy, TrafficQuota, UpstreamProtocol, WeightedBackend,
};

struct Get {
    host: String,
    path: String,
}

impl Request for Get {
    fn port(&self) -> u16 {
        80
    }

    fn host(&self) -> &str {
        &self.host
    }

    fn path(&self) -> &str {
        &self.path
    }

    fn query(&self) -> Option<&str> {
        None
    }

    fn method(&self) -> &str {
        "GET"
    }

    fn header(&self, _: &str) -> Option<Cow<'_, [u8]>> {
        None
    }
}

/// Compiled to see how much memory one takes.
const TABLES: u32 = 4;

fn origin(kind: &str, name: &str, field: &str) -> Origin {
    Origin { kind: kind.into(), namespace: "default".into(), name: name.into(), field: field.into() }
}

/// Routes like `/api/v1/service-4711` on `hosts` hostnames.
fn config(routes: u32, hosts: u32) -> TenantConfig {
    let backend = BackendId("default/b".into());
    let route = |i: u32| {
        let name = format!("route-{i}");
        Route {
            id: RouteId(format!("default/{name}")),
            origin: origin("HTTPRoute", &name, ""),
            listeners: vec![ListenerId("default/gw/http".into())],
            hostnames: vec![HostPattern::Exact(format!("host-{}.acme.localhost", i % hosts))],
            rules: vec![Rule {
                origin: origin("HTTPRoute", &name, "spec.rules[0]"),
                matches: vec![Match {
                    rank: Rank(i),
                    path: PathMatch::PrefixSegment(format!("/api/v1/service-{i}")),
                    method: None,
                    headers: vec![],
                    query: vec![],
                }],
                filters: vec![],
                action: Action::Forward(vec![WeightedBackend {
                    backend: Some(backend.clone()),
                    weight: 1,
                    filters: vec![],
                }]),
                timeouts: Timeouts::default(),
                persistence: None,
            }],
        }
    };
    TenantConfig {
        tenant: "acme".parse().expect("a label"),
        listeners: vec![Listener {
            id: ListenerId("default/gw/http".into()),
            origin: origin("Gateway", "gw", "spec.listeners[0]"),
            pool: "default".parse().expect("a label"),
            port: 80,
            protocol: ListenerProtocol::Http,
            hostname: None,
            certificates: vec![],
            client_certificates: None,
            policy: ListenerPolicy::default(),
        }],
        routes: (0..routes).map(route).collect(),
        streams: vec![],
        backends: vec![Backend {
            id: backend.clone(),
            origin: origin("Backend", "b", ""),
            endpoints: vec![Endpoint { address: EndpointAddress::Ip(([127, 0, 0, 1], 1).into()), weight: 1 }],
            connect_timeout: Duration::from_secs(5),
            protocol: UpstreamProtocol::Negotiated,
            tls: None,
            send_proxy: None,
            traffic: TrafficPolicy::default(),
        }],
        certificates: vec![],
        quota: TrafficQuota::default(),
    }
}

/// Kilobytes that this process holds, where the system tells.
fn resident_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[expect(clippy::print_stderr, reason = "a benchmark reports to people")]
fn find(c: &mut Criterion) {
    let mut group = c.benchmark_group("find");
    for (routes, hosts) in [(10, 1), (1_000, 1), (100_000, 1), (100_000, 10_000)] {
        let config = config(routes, hosts);
        // Several tables, so that what the compiler itself needed and freed counts little.
        let before = resident_kib();
        let compile =
            || RouteTable::compile(&config, &CompileLimits::default()).expect("a valid configuration");
        let tables: Vec<RouteTable> = (0..TABLES).map(|_| compile()).collect();
        if let (Some(before), Some(after)) = (before, resident_kib()) {
            let bytes = after.saturating_sub(before) * 1024 / u64::from(routes * TABLES);
            eprintln!("{routes} routes on {hosts} hosts: about {bytes} bytes resident for each");
        }
        let table = &tables[0];
        // All over the table, so that it is not the cache that is measured.
        let requests: Vec<Get> = (0..4_096)
            .map(|i| {
                let at = (i * 7_919) % routes;
                Get {
                    host: format!("host-{}.acme.localhost", at % hosts),
                    path: format!("/api/v1/service-{at}/orders/17"),
                }
            })
            .collect();
        let mut next = 0;
        group.bench_function(BenchmarkId::from_parameter(format!("{routes} routes, {hosts} hosts")), |b| {
            b.iter(|| {
                next = (next + 1) % requests.len();
                black_box(table.find(&requests[next])).is_ok()
            });
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    find(&mut criterion);
    criterion.final_summary();
}
