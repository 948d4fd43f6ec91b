//! What does not compile, and what is said of it.

use std::time::Duration;

use model::{
    Action, BackendId, CertificateId, CompileLimits, Filter, HeaderEdit, HostPattern, ListenerId,
    ListenerProtocol, PathMatch, PathModifier, Redirect, Respond, Rewrite, RouteTable, TenantConfig,
    ValueMatch, ValueMatcher,
};

use crate::ask::{config, exact, listener, path, prefix, route};

fn good() -> TenantConfig {
    config(
        vec![listener("l", 80, Some("*.acme.com"))],
        vec![route("r", &["l"], &["a.acme.com"], vec![prefix("/a", 0), exact("/b", 1)])],
    )
}

/// What the change makes of a good configuration.
fn errors(change: impl FnOnce(&mut TenantConfig)) -> Vec<String> {
    let mut config = good();
    change(&mut config);
    let errors = RouteTable::compile(&config, &CompileLimits::default()).expect_err("a mistake");
    errors.iter().map(ToString::to_string).collect()
}

#[track_caller]
fn check(change: impl FnOnce(&mut TenantConfig), expect: &str) {
    let errors = errors(change);
    assert!(errors.iter().any(|e| e.contains(expect)), "{expect:?} not in {errors:#?}");
}

fn set_path(config: &mut TenantConfig, to: PathMatch) {
    config.routes[0].rules[1].matches[0].path = to;
}

fn edit(names: &[(&str, &str)]) -> Vec<Filter> {
    let set = names.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
    vec![Filter::RequestHeaders(HeaderEdit { set, ..HeaderEdit::default() })]
}

#[test]
fn a_good_configuration_compiles() {
    assert!(RouteTable::compile(&good(), &CompileLimits::default()).is_ok());
}

#[test]
fn listeners_are_checked() {
    check(
        |c| c.listeners.push(c.listeners[0].clone()),
        "Gateway default/gw spec.listeners[l]: listener l is there twice",
    );
    check(|c| c.listeners[0].port = 0, "port: it must be at least 1");
    check(|c| c.listeners[0].hostname = Some(HostPattern::Exact("A.com".into())), "must be written as a.com");
    check(|c| c.listeners[0].hostname = Some(HostPattern::Exact("*".into())), "is not a hostname");
    check(|c| c.listeners[0].certificates.push(CertificateId("x".into())), "there is no certificate x");
    check(
        |c| {
            c.listeners.push(listener("m", 80, None));
            c.listeners[1].protocol = ListenerProtocol::Https;
        },
        "port 80 speaks another protocol on listener l",
    );
}

#[test]
fn backends_are_checked() {
    check(|c| c.backends.push(c.backends[0].clone()), "Backend default/b: backend b is there twice");
    check(|c| c.backends[0].endpoints.clear(), "endpoints: a backend needs at least one endpoint");
    check(|c| c.backends[0].endpoints[0].weight = 0, "endpoints[0].weight: it must be at least 1");
    check(|c| c.backends[0].connect_timeout = Duration::ZERO, "connectTimeout");
    check(
        |c| {
            c.backends[0].protocol = model::UpstreamProtocol::Http2;
            c.backends[0].send_proxy = Some(model::ProxyVersion::V2);
        },
        "proxyProtocol: the PROXY protocol names one client",
    );
}

#[test]
fn routes_are_checked() {
    check(|c| c.routes.push(c.routes[0].clone()), "HTTPRoute default/r: route r is there twice");
    check(|c| c.routes[0].id.0 = "r".repeat(2_000), "an id of 2000 bytes is longer than 1024");
    check(|c| c.routes[0].listeners[0] = ListenerId("x".into()), "there is no listener x");
    check(|c| c.routes[0].hostnames[0] = HostPattern::Wildcard(String::new()), "hostnames: ");
    check(|c| c.routes[0].rules[0].matches.clear(), "spec.rules[0].matches: a rule needs at least one match");
    check(
        |c| c.routes[0].rules[1].matches[0].rank = c.routes[0].rules[0].matches[0].rank,
        "spec.rules[1]: rank 0 is that of a match of HTTPRoute default/r spec.rules[0] too",
    );
    check(|c| c.routes[0].rules[0].timeouts.request = Some(Duration::ZERO), "timeouts");
}

#[test]
fn paths_are_checked() {
    let field = "spec.rules[1].matches[0].path: ";
    for (path, expect) in [
        (PathMatch::Exact("a".into()), "does not begin with '/'"),
        (PathMatch::Exact("/a/../b".into()), "write \"/b\""),
        (PathMatch::PrefixSegment("/a//b".into()), "write \"/a/b\""),
        (PathMatch::PrefixString("/%2f".into()), "encoded slash"),
        (PathMatch::PrefixSegment("/a?b".into()), "'?'"),
        (PathMatch::Exact(format!("/{}", "a".repeat(2_000))), "longer than 1024"),
        (PathMatch::Regex { pattern: "(".into(), anchor: true, icase: false }, "unclosed group"),
    ] {
        let errors = errors(|c| set_path(c, path));
        assert!(errors.iter().any(|e| e.contains(field) && e.contains(expect)), "{errors:?}");
    }
}

#[test]
fn values_are_checked() {
    let header = |name: &str| ValueMatch { name: name.into(), matcher: ValueMatcher::Exact(String::new()) };
    check(
        |c| c.routes[0].rules[0].matches[0].headers = vec![header("X-A")],
        "is not a header's name in lowercase",
    );
    check(|c| c.routes[0].rules[0].matches[0].query = vec![header("")], "a parameter needs a name");
    check(|c| c.routes[0].rules[0].matches[0].method = Some("G T".into()), "is not a method");
    let regex = ValueMatch { name: "x".into(), matcher: ValueMatcher::Regex("[".into()) };
    check(|c| c.routes[0].rules[0].matches[0].query = vec![regex], "matches[0].queryParams: \"[\" is not");
}

#[test]
fn filters_are_checked() {
    check(
        |c| c.routes[0].rules[0].filters = edit(&[("host", "x")]),
        "filters[0]: the header host is the gateway's own",
    );
    check(|c| c.routes[0].rules[0].filters = edit(&[("x", "a\r\nb")]), "control character");
    check(|c| c.routes[0].rules[0].filters = edit(&[("x", "1"), ("x", "2")]), "edited twice");
    let rewrite = |path| vec![Filter::Rewrite(Rewrite { hostname: None, path: Some(path) })];
    check(
        |c| c.routes[0].rules[1].filters = rewrite(PathModifier::ReplacePrefix("/x".into())),
        "only be replaced where every match is by prefix",
    );
    check(
        |c| c.routes[0].rules[0].filters = rewrite(PathModifier::ReplaceFull("x".into())),
        "begin with '/'",
    );
    check(
        |c| c.routes[0].rules[0].filters = rewrite(PathModifier::ReplaceFull("/a b".into())),
        "percent-encoded",
    );
}

#[test]
fn actions_are_checked() {
    let forward = |c: &mut TenantConfig, weight, backend: &str| {
        let Action::Forward(backends) = &mut c.routes[0].rules[0].action else { panic!("a forward") };
        backends[0].weight = weight;
        backends[0].backend = Some(BackendId(backend.into()));
    };
    check(|c| forward(c, 1_000_001, "b"), "backendRefs[0].weight: 1000001 is more than 1000000");
    check(|c| forward(c, 1, "x"), "backendRefs[0]: there is no backend x");
    let redirect = Redirect { scheme: None, hostname: None, path: None, port: None, status: 302 };
    for (bad, expect) in [
        (Redirect { status: 200, ..redirect.clone() }, "200 is no redirect's status"),
        (Redirect { scheme: Some("ftp".into()), ..redirect.clone() }, "neither http nor https"),
        (Redirect { hostname: Some("*.a".into()), ..redirect.clone() }, "not the name of one host"),
        (Redirect { port: Some(0), ..redirect }, "port must be at least 1"),
    ] {
        check(|c| c.routes[0].rules[0].action = Action::Redirect(bad), expect);
    }
    let respond = |status, body: &str| Action::Respond(Respond { status, body: body.into() });
    check(|c| c.routes[0].rules[0].action = respond(100, ""), "100 is not the status of a final response");
    check(|c| c.routes[0].rules[0].action = respond(200, &"x".repeat(20_000)), "a body of 20000 bytes");
}

#[test]
fn all_that_is_wrong_is_reported_together() {
    let errors = errors(|c| {
        c.listeners[0].port = 0;
        c.backends[0].endpoints.clear();
        c.routes[0].hostnames[0] = HostPattern::Exact("_".into());
        set_path(c, PathMatch::Exact("a".into()));
    });
    assert_eq!(errors.len(), 4, "{errors:#?}");
}

#[test]
fn limits_hold() {
    let limited = |limits: CompileLimits| {
        let table = RouteTable::compile(&good(), &limits);
        table.expect_err("over a limit").iter().map(ToString::to_string).collect::<String>()
    };
    let limits = CompileLimits::default;
    assert!(
        limited(CompileLimits { max_routes: 0, ..limits() })
            .contains("1 routes are more than the limit of 0")
    );
    assert!(limited(CompileLimits { max_matches: 1, ..limits() }).contains("2 matches"));
    assert!(limited(CompileLimits { max_listeners: 0, ..limits() }).contains("1 listeners"));
    assert!(limited(CompileLimits { max_backends: 0, ..limits() }).contains("1 backends"));
    assert!(limited(CompileLimits { max_placements: 1, ..limits() }).contains("more than 1 matches"));
    assert!(limited(CompileLimits { max_matches_per_path: 0, ..limits() }).contains("share this path"));
    assert!(limited(CompileLimits { max_endpoints: 0, ..limits() }).contains("1 endpoints"));
    assert!(limited(CompileLimits { max_backends_per_rule: 0, ..limits() }).contains("backendRefs"));
}

#[test]
fn weights_share_the_requests() {
    let mut config = good();
    let Action::Forward(backends) = &mut config.routes[0].rules[0].action else { panic!("a forward") };
    backends.push(backends[0].clone());
    backends.push(backends[0].clone());
    (backends[0].weight, backends[1].weight, backends[2].weight) = (3, 0, 1);
    backends[2].backend = None;
    let table = RouteTable::compile(&config, &CompileLimits::default()).unwrap();
    let found = table.find(&crate::ask::Ask::get("a.acme.com/a")).unwrap();
    let model::CompiledAction::Forward(forward) = &found.rule.action else { panic!("a forward") };
    assert_eq!((forward.total_weight(), forward.variants().len()), (4, 2));
    let resolved = |point| forward.pick(point).map(|variant| variant.backend.is_some());
    assert_eq!([0, 2, 3, 4].map(resolved), [Some(true), Some(true), Some(false), None]);
}

#[test]
fn an_unanchored_expression_of_the_same_text_is_another() {
    let mut config = good();
    let regex = |anchor| PathMatch::Regex { pattern: "b".into(), anchor, icase: false };
    config.routes[0].rules[0].matches[0] = path(regex(true), 0);
    config.routes[0].rules[1].matches[0] = path(regex(false), 1);
    let table = RouteTable::compile(&config, &CompileLimits::default()).unwrap();
    assert_eq!(table.find(&crate::ask::Ask::get("a.acme.com/abc")).unwrap().matched.rank.0, 1);
}
