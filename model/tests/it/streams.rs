//! Streams: which route takes which, and what does not compile.

use model::{
    BackendId, CompileLimits, Feature, Filter, HeaderEdit, ListenerProtocol, RouteId, RouteTable,
    StreamRoute, TenantConfig, WeightedBackend,
};

use crate::ask::{config, hosts, listener, origin, prefix, route};

fn stream(name: &str, listeners: &[&str], hostnames: &[&str]) -> StreamRoute {
    StreamRoute {
        id: RouteId(name.into()),
        origin: origin("TLSRoute", name, ""),
        listeners: listeners.iter().map(|id| model::ListenerId((*id).into())).collect(),
        hostnames: hosts(hostnames),
        backends: vec![WeightedBackend { backend: Some(BackendId("b".into())), weight: 1, filters: vec![] }],
    }
}

/// Port 443 passes TLS on for all and ends it for `*.end.com`, and UDP beside it; 5432 is TCP, 80 HTTP.
fn good() -> TenantConfig {
    let with =
        |name, port, hostname, protocol| model::Listener { protocol, ..listener(name, port, hostname) };
    let listeners = vec![
        with("pass", 443, None, ListenerProtocol::TlsPassthrough),
        with("end", 443, Some("*.end.com"), ListenerProtocol::Tls),
        with("tcp", 5432, None, ListenerProtocol::Tcp),
        listener("http", 80, None),
        with("udp", 443, None, ListenerProtocol::Udp),
    ];
    let mut config = config(listeners, vec![route("r", &["http"], &[], vec![prefix("/", 0)])]);
    config.streams = vec![
        stream("exact", &["pass"], &["a.acme.com"]),
        stream("wild", &["pass"], &["*.acme.com", "other.com"]),
        stream("end", &["end"], &[]),
        stream("db", &["tcp"], &[]),
        stream("vpn", &["udp"], &[]),
    ];
    config
}

#[test]
fn the_most_specific_host_of_the_port_has_it() {
    let table = RouteTable::compile(&good(), &CompileLimits::default()).unwrap();
    for (port, host, expect) in [
        (443, "a.acme.com", Some(("exact", ListenerProtocol::TlsPassthrough))),
        (443, "b.acme.com", Some(("wild", ListenerProtocol::TlsPassthrough))),
        (443, "x.a.acme.com", Some(("wild", ListenerProtocol::TlsPassthrough))),
        (443, "other.com", Some(("wild", ListenerProtocol::TlsPassthrough))),
        (443, "x.end.com", Some(("end", ListenerProtocol::Tls))),
        (443, "end.com", None),
        (443, "acme.com", None),
        (443, "", None),
        (5432, "", Some(("db", ListenerProtocol::Tcp))),
        (5433, "", None),
        (80, "a.acme.com", None),
    ] {
        let found = table.streams().find(port, host);
        assert_eq!(found.map(|f| (f.route.id.0.as_str(), f.protocol)), expect, "{port} {host}");
    }
}

#[test]
fn ports_of_udp_are_apart() {
    let table = RouteTable::compile(&good(), &CompileLimits::default()).unwrap();
    let found = |port| table.streams().find_udp(port).map(|route| route.id.0.as_str());
    assert_eq!((found(443), found(5432), found(53)), (Some("vpn"), None, None));
    assert!(good().features().contains(&Feature::Datagrams));
}

#[test]
fn another_pool_has_its_own_ports() {
    let mut config = good();
    config.listeners[2].pool = "other".parse().unwrap();
    for (pool, expect) in [("default", false), ("other", true)] {
        let pool = pool.parse().unwrap();
        let table = RouteTable::compile_for_pool(&config, &pool, &CompileLimits::default()).unwrap();
        assert_eq!(table.streams().find(5432, "").is_some(), expect, "{pool}");
        assert_eq!(table.streams().find(443, "x.end.com").is_some(), !expect, "{pool}");
    }
}

#[test]
fn what_does_not_compile_is_said() {
    let check = |change: &dyn Fn(&mut TenantConfig), expect: &str| {
        let mut config = good();
        change(&mut config);
        let errors = RouteTable::compile(&config, &CompileLimits::default()).expect_err(expect);
        let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert!(errors.iter().any(|error| error.contains(expect)), "{expect:?} not in {errors:#?}");
    };
    check(&|c| c.streams.push(stream("db", &[], &[])), "route db is there twice");
    check(&|c| c.streams[3].listeners[0].0 = "x".into(), "parentRefs: there is no listener x");
    check(&|c| c.streams.push(stream("h", &["http"], &[])), "listener http speaks HTTP");
    check(&|c| c.streams[3].hostnames = hosts(&["a.com"]), "clients of listener tcp do not say which host");
    check(&|c| c.streams.push(stream("db2", &["tcp"], &[])), "another route has port 5432 and any host");
    check(
        &|c| c.streams.push(stream("again", &["pass"], &["*.acme.com"])),
        "TLSRoute default/again parentRefs: another route has port 443 and *.acme.com",
    );
    check(&|c| c.streams.push(stream("v", &["udp"], &[])), "another route has port 443 and any host");
    check(&|c| c.streams[4].hostnames = hosts(&["a.com"]), "clients of listener udp do not say which host");
    check(&|c| c.streams[0].backends[0].backend = Some(BackendId("x".into())), "there is no backend x");
    check(&|c| c.streams[0].backends[0].weight = 1_000_001, "backendRefs[0].weight: 1000001");
    check(&|c| c.backends[0].send_proxy = Some(model::ProxyVersion::V2), "which datagrams have not");
    let filter = Filter::RequestHeaders(HeaderEdit::default());
    check(&|c| c.streams[0].backends[0].filters = vec![filter.clone()], "backendRefs[0].filters: 1 filters");
    check(&|c| c.listeners[2].hostname = hosts(&["a.com"]).pop(), "clients of TCP and UDP do not say which");
    check(&|c| c.listeners[0].certificates = vec![model::CertificateId("c".into())], "has no certificates");
    check(&|c| c.listeners[1].protocol = ListenerProtocol::Https, "port 443 speaks another protocol");
}
