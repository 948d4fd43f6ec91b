use std::{num::NonZeroU32, time::Duration};

use model::{
    AccessLog, Action, AffinityCookie, Backend, BackendId, Balancing, Certificate, CertificateDetail,
    CertificateId, CheckKind, ClientCertificateMode, ClientCertificates, ConnectTarget, Endpoint,
    EndpointAddress, Filter, HashKey, HeaderEdit, HealthCheck, HedgeDelay, HostPattern, Listener, ListenerId,
    ListenerPolicy, ListenerProtocol, LogFact, LogField, LogFilter, LogValue, Match, Origin,
    OutlierDetection, PathMatch, PathModifier, PoolPolicy, ProxyTrust, ProxyVersion, Rank, Redirect, Respond,
    Rewrite, Route, RouteId, Rule, SessionCarrier, SessionPersistence, SessionPolicy, StreamRoute, TenantId,
    Timeouts, TrafficPolicy, TrafficQuota, UpstreamProtocol, UpstreamRoots, UpstreamTls, ValueMatch,
    ValueMatcher, WeightedBackend,
};
use proptest::{
    collection::{btree_set, vec},
    option,
    prelude::*,
    sample::select,
};

use super::*;

fn text() -> impl Strategy<Value = String> {
    "[ -~äß]{0,12}"
}

fn origin() -> impl Strategy<Value = Origin> {
    (text(), text(), text(), text()).prop_map(|(kind, namespace, name, field)| Origin {
        kind,
        namespace,
        name,
        field,
    })
}

fn label() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9]{0,8}"
}

fn host() -> impl Strategy<Value = HostPattern> {
    (label(), label(), any::<bool>()).prop_map(|(a, b, wildcard)| match wildcard {
        true => HostPattern::Wildcard(format!("{a}.{b}")),
        false => HostPattern::Exact(format!("{a}.{b}")),
    })
}

fn millis() -> impl Strategy<Value = Duration> {
    any::<u32>().prop_map(|ms| Duration::from_millis(ms.into()))
}

fn value_match() -> impl Strategy<Value = ValueMatch> {
    let matcher = prop_oneof![text().prop_map(ValueMatcher::Exact), text().prop_map(ValueMatcher::Regex)];
    (text(), matcher).prop_map(|(name, matcher)| ValueMatch { name, matcher })
}

fn path_match() -> impl Strategy<Value = PathMatch> {
    prop_oneof![
        text().prop_map(PathMatch::Exact),
        text().prop_map(PathMatch::PrefixSegment),
        text().prop_map(PathMatch::PrefixString),
        (text(), any::<bool>(), any::<bool>()).prop_map(|(pattern, anchor, icase)| PathMatch::Regex {
            pattern,
            anchor,
            icase
        }),
    ]
}

fn request_match() -> impl Strategy<Value = Match> {
    (any::<u32>(), path_match(), option::of(text()), vec(value_match(), 0..3), vec(value_match(), 0..3))
        .prop_map(|(rank, path, method, headers, query)| Match {
            rank: Rank(rank),
            path,
            method,
            headers,
            query,
        })
}

fn path_modifier() -> impl Strategy<Value = PathModifier> {
    prop_oneof![text().prop_map(PathModifier::ReplaceFull), text().prop_map(PathModifier::ReplacePrefix)]
}

fn filter() -> impl Strategy<Value = Filter> {
    let pairs = || vec((text(), text()), 0..3);
    let edit = || {
        (pairs(), pairs(), vec(text(), 0..3)).prop_map(|(set, add, remove)| HeaderEdit { set, add, remove })
    };
    prop_oneof![
        edit().prop_map(Filter::RequestHeaders),
        edit().prop_map(Filter::ResponseHeaders),
        (option::of(text()), option::of(path_modifier()))
            .prop_map(|(hostname, path)| Filter::Rewrite(Rewrite { hostname, path })),
    ]
}

fn weighted() -> impl Strategy<Value = WeightedBackend> {
    (option::of(text()), any::<u32>(), vec(filter(), 0..2)).prop_map(|(backend, weight, filters)| {
        WeightedBackend { backend: backend.map(BackendId), weight, filters }
    })
}

fn stream() -> impl Strategy<Value = StreamRoute> {
    (text(), origin(), vec(text(), 0..3), vec(host(), 0..3), vec(weighted(), 0..3)).prop_map(
        |(id, origin, listeners, hostnames, backends)| StreamRoute {
            id: RouteId(id),
            origin,
            listeners: listeners.into_iter().map(ListenerId).collect(),
            hostnames,
            backends,
        },
    )
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        vec(weighted(), 0..3).prop_map(Action::Forward),
        (
            option::of(text()),
            option::of(text()),
            option::of(path_modifier()),
            option::of(any::<u16>()),
            any::<u16>()
        )
            .prop_map(|(scheme, hostname, path, port, status)| Action::Redirect(Redirect {
                scheme,
                hostname,
                path,
                port,
                status
            })),
        (any::<u16>(), text()).prop_map(|(status, body)| Action::Respond(Respond { status, body })),
    ]
}

fn persistence() -> impl Strategy<Value = SessionPersistence> {
    let carrier = prop_oneof![
        Just(SessionCarrier::Header),
        (any::<bool>(), text()).prop_map(|(permanent, path)| SessionCarrier::Cookie { permanent, path }),
    ];
    (text(), carrier, option::of(millis()), option::of(millis()))
        .prop_map(|(name, carrier, absolute, idle)| SessionPersistence { name, carrier, absolute, idle })
}

fn rule() -> impl Strategy<Value = Rule> {
    (
        origin(),
        vec(request_match(), 0..3),
        vec(filter(), 0..3),
        action(),
        option::of(millis()),
        option::of(millis()),
        option::of(persistence()),
    )
        .prop_map(|(origin, matches, filters, action, request, backend_request, persistence)| Rule {
            origin,
            matches,
            filters,
            action,
            timeouts: Timeouts { request, backend_request },
            persistence,
        })
}

fn route() -> impl Strategy<Value = Route> {
    let rules = vec((rule(), any::<bool>()), 0..3);
    (text(), origin(), vec(text(), 0..3), vec(host(), 0..3), rules).prop_map(
        |(id, origin, listeners, hostnames, rules)| {
            // Of the route's object, as they are. One of no object at all is not.
            let own = |(mut rule, own): (Rule, bool)| {
                if own || rule.origin.is_of(&Origin::default()) {
                    rule.origin = Origin { field: rule.origin.field, ..origin.clone() };
                }
                rule
            };
            Route {
                id: RouteId(id),
                listeners: listeners.into_iter().map(ListenerId).collect(),
                hostnames,
                rules: rules.into_iter().map(own).collect(),
                origin,
            }
        },
    )
}

fn access_log() -> impl Strategy<Value = AccessLog> {
    let value = prop_oneof![
        text().prop_map(LogValue::Constant),
        text().prop_map(LogValue::RequestHeader),
        text().prop_map(LogValue::ResponseHeader),
        (0..LogFact::ALL.len()).prop_map(|n| LogValue::Fact(LogFact::ALL[n].1)),
    ];
    let field = (text(), value).prop_map(|(name, value)| LogField { name, value });
    let leaf = prop_oneof![
        btree_set(1..=5_u8, 0..5).prop_map(|classes| LogFilter::StatusClasses(classes.into_iter().collect())),
        any::<u32>().prop_map(|us| LogFilter::MinDuration(Duration::from_micros(us.into()))),
        any::<u32>().prop_map(LogFilter::SampledPpm),
        Just(LogFilter::Failed),
        (text(), option::of(text())).prop_map(|(name, value)| LogFilter::RequestHeader { name, value }),
    ];
    let filter = leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(LogFilter::All),
            vec(inner.clone(), 0..3).prop_map(LogFilter::Any),
            inner.prop_map(|part| LogFilter::Not(Box::new(part))),
        ]
    });
    (vec(field, 0..3), option::of(filter)).prop_map(|(fields, filter)| AccessLog { fields, filter })
}

fn client_certificates() -> impl Strategy<Value = ClientCertificates> {
    let mode = select(ClientCertificateMode::ALL.map(|(_, mode)| mode).to_vec());
    let hashes = || vec(any::<[u8; 32]>(), 0..3);
    let detail = select(CertificateDetail::ALL.map(|(_, detail)| detail).to_vec());
    let forward = option::of(vec(detail, 0..3));
    (origin(), mode, text(), vec(text(), 0..3), hashes(), hashes(), forward).prop_map(
        |(origin, mode, authorities_pem, names, certificates, public_keys, forward)| ClientCertificates {
            origin,
            mode,
            authorities_pem,
            names,
            certificates,
            public_keys,
            forward,
        },
    )
}

fn listener() -> impl Strategy<Value = Listener> {
    let protocol = prop_oneof![
        Just(ListenerProtocol::Http),
        Just(ListenerProtocol::Https),
        Just(ListenerProtocol::Tls),
        Just(ListenerProtocol::TlsPassthrough),
        Just(ListenerProtocol::Tcp),
        Just(ListenerProtocol::Udp),
    ];
    let target = (host(), vec(any::<u16>(), 1..3)).prop_map(|(host, ports)| ConnectTarget { host, ports });
    let session = (0..u64::from(u32::MAX), any::<u32>()).prop_map(|(idle_ms, responses)| SessionPolicy {
        idle: Duration::from_millis(idle_ms),
        responses: NonZeroU32::new(responses),
    });
    let policy =
        (any::<bool>(), vec(target, 0..3), option::of(access_log()), option::of(any::<u32>()), session)
            .prop_map(|(http2, connect, access_log, trace_sampled_ppm, udp)| ListenerPolicy {
                http2,
                connect,
                access_log: access_log.map(Box::new),
                trace_sampled_ppm,
                udp,
            });
    let hosts = (option::of(host()), vec(text(), 0..3));
    let clients = option::of(client_certificates());
    (text(), origin(), label(), any::<u16>(), protocol, hosts, policy, clients).prop_map(
        |(id, origin, pool, port, protocol, (hostname, certificates), policy, clients)| Listener {
            id: ListenerId(id),
            origin,
            pool: pool.parse().unwrap(),
            port,
            protocol,
            hostname,
            certificates: certificates.into_iter().map(CertificateId).collect(),
            policy,
            client_certificates: clients.map(Box::new),
        },
    )
}

fn backend() -> impl Strategy<Value = Backend> {
    let address = prop_oneof![
        (any::<std::net::IpAddr>(), any::<u16>())
            .prop_map(|(ip, port)| EndpointAddress::Ip(std::net::SocketAddr::new(ip, port))),
        (label(), any::<u16>()).prop_map(|(host, port)| EndpointAddress::Dns { host, port }),
    ];
    let endpoint = (address, any::<u32>()).prop_map(|(address, weight)| Endpoint { address, weight });
    let protocol = prop_oneof![
        Just(UpstreamProtocol::Negotiated),
        Just(UpstreamProtocol::Http1),
        Just(UpstreamProtocol::Http2),
    ];
    let send_proxy = option::of(prop_oneof![Just(ProxyVersion::V1), Just(ProxyVersion::V2)]);
    let endpoints = vec(endpoint, 0..3);
    (text(), origin(), endpoints, millis(), protocol, option::of(upstream_tls()), send_proxy, traffic())
        .prop_map(|(id, origin, endpoints, connect_timeout, protocol, tls, send_proxy, traffic)| Backend {
            id: BackendId(id),
            origin,
            endpoints,
            connect_timeout,
            protocol,
            tls,
            send_proxy,
            traffic,
        })
}

fn traffic() -> impl Strategy<Value = TrafficPolicy> {
    let cookie = (text(), option::of(millis()), text());
    let key = prop_oneof![
        Just(HashKey::SourceIp),
        text().prop_map(HashKey::Header),
        text().prop_map(HashKey::Query),
        cookie.prop_map(|(name, issue, path)| HashKey::Cookie(AffinityCookie { name, issue, path })),
    ];
    let balancing = prop_oneof![
        Just(Balancing::PowerOfTwo),
        Just(Balancing::LeastRequest),
        Just(Balancing::RoundRobin),
        key.clone().prop_map(Balancing::RingHash),
        key.prop_map(Balancing::Maglev),
    ];
    let pool = (option::of(any::<u32>()), millis(), millis())
        .prop_map(|(max_requests, idle, max_age)| PoolPolicy { max_requests, idle, max_age });
    let health = (option::of(outliers()), option::of(check()), any::<u8>());
    let hedging = prop_oneof![
        millis().prop_map(HedgeDelay::Fixed),
        (1..=u8::MAX, millis()).prop_map(|(percent, at_least)| HedgeDelay::Percentile { percent, at_least }),
    ];
    (balancing, health, option::of(millis()), pool, option::of(hedging)).prop_map(
        |(balancing, health, slow_start, pool, hedging)| {
            let (outliers, health_check, panic_percent) = health;
            TrafficPolicy { balancing, outliers, health_check, panic_percent, slow_start, pool, hedging }
        },
    )
}

fn outliers() -> impl Strategy<Value = OutlierDetection> {
    let count = || option::of(any::<u32>());
    let counts = (count(), count(), count(), option::of(any::<u8>()), any::<u32>());
    (counts, millis(), millis(), millis(), any::<u8>()).prop_map(
        |(counts, window, base_ejection, max_ejection, max_ejected_percent)| OutlierDetection {
            consecutive_5xx: counts.0,
            consecutive_gateway_errors: counts.1,
            consecutive_connect_failures: counts.2,
            error_percent: counts.3,
            minimum_requests: counts.4,
            window,
            base_ejection,
            max_ejection,
            max_ejected_percent,
        },
    )
}

fn check() -> impl Strategy<Value = HealthCheck> {
    let kind = prop_oneof![
        Just(CheckKind::Tcp),
        (text(), option::of(text()), vec(any::<(u16, u16)>(), 0..3))
            .prop_map(|(path, host, expected)| CheckKind::Http { path, host, expected }),
        text().prop_map(|service| CheckKind::Grpc { service }),
    ];
    (kind, millis(), millis(), any::<u32>(), any::<u32>()).prop_map(
        |(kind, interval, timeout, healthy_threshold, unhealthy_threshold)| HealthCheck {
            kind,
            interval,
            timeout,
            healthy_threshold,
            unhealthy_threshold,
        },
    )
}

fn upstream_tls() -> impl Strategy<Value = UpstreamTls> {
    let roots = prop_oneof![Just(UpstreamRoots::System), text().prop_map(UpstreamRoots::Pem)];
    (origin(), text(), roots, option::of(label())).prop_map(|(origin, server_name, roots, client)| {
        UpstreamTls { origin, server_name, roots, client_certificate: client.map(CertificateId) }
    })
}

fn certificate() -> impl Strategy<Value = Certificate> {
    (text(), origin(), vec(host(), 0..3), text(), text()).prop_map(
        |(id, origin, hosts, chain_pem, key_pem)| Certificate {
            id: CertificateId(id),
            origin,
            hosts,
            chain_pem,
            key_pem,
        },
    )
}

fn quota() -> impl Strategy<Value = TrafficQuota> {
    (option::of(any::<u64>()), option::of(any::<u64>()), option::of(any::<u64>()), 1..=u32::MAX).prop_map(
        |(connections, requests, buffered_bytes, weight)| TrafficQuota {
            connections,
            requests,
            buffered_bytes,
            weight: weight.try_into().unwrap(),
        },
    )
}

fn config() -> impl Strategy<Value = TenantConfig> {
    let routes = (vec(route(), 0..3), vec(stream(), 0..3));
    let owned = (vec(certificate(), 0..2), quota());
    (label(), vec(listener(), 0..3), routes, vec(backend(), 0..3), owned).prop_map(
        |(tenant, listeners, (routes, streams), backends, (certificates, quota))| TenantConfig {
            tenant: tenant.parse().unwrap(),
            listeners,
            routes,
            streams,
            backends,
            certificates,
            quota,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn what_is_encoded_is_decoded(config in config()) {
        let (bytes, hash) = encode(&config);
        prop_assert_eq!(&decode(&bytes).unwrap(), &config);
        // Equal configurations have equal bytes.
        prop_assert_eq!(encode(&config.clone()), (bytes, hash));
    }

    #[test]
    fn bytes_of_any_kind_do_not_panic(bytes in vec(any::<u8>(), 0..200)) {
        drop(decode(&bytes));
    }

    #[test]
    fn a_damaged_snapshot_does_not_panic(config in config(), at in any::<prop::sample::Index>(), byte: u8) {
        let mut bytes = encode(&config).0.to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        drop(decode(&bytes));
    }
}

fn tenant() -> TenantId {
    "acme".parse().unwrap()
}

#[test]
fn an_unknown_feature_is_named() {
    let mut wire = snapshot::TenantConfig::from(&TenantConfig::empty(tenant()));
    wire.features = vec!["http-routing".into(), "jwt".into()];
    let error = TenantConfig::try_from(wire).unwrap_err();
    assert_eq!(error, ConvertError::UnknownFeature { tenant: "acme".into(), feature: "jwt".into() });
}

#[test]
fn an_error_names_the_tenant_the_object_and_the_field() {
    let wire = snapshot::TenantConfig {
        tenant: "acme".into(),
        listeners: vec![snapshot::Listener {
            origin: Some(snapshot::Origin {
                kind: "Gateway".into(),
                namespace: "ns".into(),
                name: "web".into(),
                field: "spec.listeners[0]".into(),
            }),
            pool: "default".into(),
            port: 70_000,
            protocol: snapshot::ListenerProtocol::Http.into(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let error = TenantConfig::try_from(wire).unwrap_err();
    assert_eq!(error.origin(), "Gateway ns/web spec.listeners[0]");
    assert_eq!(
        error.to_string(),
        "tenant acme: Gateway ns/web spec.listeners[0]: port 70000 is out of range"
    );
}

#[test]
fn a_missing_action_is_an_error() {
    let wire = snapshot::TenantConfig {
        tenant: "acme".into(),
        routes: vec![snapshot::Route { rules: vec![snapshot::Rule::default()], ..Default::default() }],
        ..Default::default()
    };
    assert!(TenantConfig::try_from(wire).unwrap_err().to_string().contains("action is missing"));
}

#[test]
fn a_timeout_that_is_not_zero_stays_so() {
    assert_eq!(to_wire::millis(Duration::from_nanos(1)), 1);
    assert_eq!(to_wire::millis(Duration::ZERO), 0);
    assert_eq!(to_wire::millis(Duration::MAX), u64::MAX);
}

#[test]
fn the_host_index_is_refused_as_a_whole() {
    let owners = vec![("a.localhost", "a"), ("*.a.localhost", "a")]
        .into_iter()
        .map(|(host, tenant)| (HostPattern::parse(host).unwrap(), tenant.parse::<TenantId>().unwrap()));
    let owners: Vec<_> = owners.collect();
    let mut wire = host_index(owners.iter().map(|(h, t)| (h, t)));
    assert_eq!(host_owners(&wire).unwrap(), owners);
    wire.owners[1].tenant = "Not A Tenant".into();
    assert!(host_owners(&wire).is_err());
}

#[test]
fn a_pool_comes_back_as_it_was() {
    let networks = ["10.0.0.0/8", "2001:db8::/32"];
    let trusted = networks.iter().map(|net| net.parse().unwrap()).collect();
    let trust = ProxyTrust { trusted, required: true };
    let pool = Pool {
        name: "default".parse().unwrap(),
        ports: vec![
            PoolPort {
                port: 80,
                bind: "127.0.0.1:8080".parse().unwrap(),
                tls: false,
                udp: false,
                proxy: Some(trust),
                tenant: None,
            },
            PoolPort {
                port: 443,
                bind: "[::1]:8443".parse().unwrap(),
                tls: true,
                udp: false,
                proxy: None,
                tenant: Some("acme".parse().unwrap()),
            },
            PoolPort {
                port: 443,
                bind: "[::1]:8443".parse().unwrap(),
                tls: false,
                udp: true,
                proxy: None,
                tenant: None,
            },
        ],
        default_certificate: Some(("chain".into(), "key".into())),
        max_connection_age: Some(Duration::from_secs(60)),
        advertise_h3: false,
        drain_deadline: Duration::from_secs(30),
    };
    let wire = crate::feed::Pool::from(&pool);
    assert_eq!(Pool::try_from(wire.clone()).unwrap(), pool);
    let bad = crate::feed::Pool {
        ports: vec![crate::feed::PoolPort { port: 80, bind: "localhost".into(), ..Default::default() }],
        ..wire
    };
    assert!(Pool::try_from(bad).unwrap_err().to_string().contains("\"localhost\""));
}
