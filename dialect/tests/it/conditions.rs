//! What becomes of objects that are right by themselves.

use dialect::{Compiled, Environment, Scope};
use model::{Action, CompileLimits, HostPattern, PathMatch, RouteTable};

use crate::set::{BACKEND, HTTP, TO_SITE, compile, condition, demo, gateway, objects, route};

const ROUTE: &str = "HTTPRoute default/site";
const GATEWAY: &str = "Gateway default/web";

fn to_web(rest: &str) -> String {
    route(&format!("parentRefs: [{{name: web}}], {rest}"))
}

fn rules() -> String {
    format!("rules: [{{{TO_SITE}}}]")
}

#[track_caller]
fn check_route(compiled: &Compiled, parent: &str, accepted: &str, resolved: &str) {
    let scope = Scope::Parent(parent.into());
    assert_eq!(condition(compiled, ROUTE, &scope, "Accepted"), accepted);
    assert_eq!(condition(compiled, ROUTE, &scope, "ResolvedRefs"), resolved);
}

#[track_caller]
fn check_listener(compiled: &Compiled, listener: &str, accepted: &str, resolved: &str) {
    let scope = Scope::Listener(listener.into());
    assert_eq!(condition(compiled, GATEWAY, &scope, "Accepted"), accepted);
    assert_eq!(condition(compiled, GATEWAY, &scope, "ResolvedRefs"), resolved);
}

#[test]
fn all_is_well() {
    let compiled = compile(&format!("{}{}{BACKEND}", gateway(HTTP), to_web(&rules())));
    check_route(&compiled, "default/web", "true Accepted", "true ResolvedRefs");
    check_listener(&compiled, "http", "true Accepted", "true ResolvedRefs");
    assert_eq!(condition(&compiled, GATEWAY, &Scope::Object, "Accepted"), "true Accepted");
    assert!(compiled.warnings.is_empty() && compiled.mistakes.is_empty());
    assert_eq!(compiled.config.routes[0].listeners[0].0, "default/web/http");
}

#[test]
fn parents_that_do_not_fit() {
    let cases = [
        (
            route(&format!("parentRefs: [{{name: wob}}], {}", rules())),
            "default/wob",
            "false NoMatchingParent",
        ),
        (
            route(&format!("parentRefs: [{{name: web, sectionName: x}}], {}", rules())),
            "default/web/x",
            "false NoMatchingParent",
        ),
        (
            route(&format!("parentRefs: [{{name: web, port: 81}}], {}", rules())),
            "default/web:81",
            "false NoMatchingParent",
        ),
        (
            to_web(&format!("hostnames: [b.demo.localhost], {}", rules())),
            "default/web",
            "false NoMatchingListenerHostname",
        ),
    ];
    for (route, parent, accepted) in cases {
        let listener = "{name: http, port: 80, protocol: HTTP, hostname: a.demo.localhost}";
        let compiled = compile(&format!("{}{route}{BACKEND}", gateway(listener)));
        check_route(&compiled, parent, accepted, "true ResolvedRefs");
        assert!(compiled.config.routes.is_empty() && compiled.warnings.len() == 1, "{compiled:?}");
    }
}

#[test]
fn routes_of_other_namespaces_need_to_be_allowed() {
    let route = route(&format!("parentRefs: [{{name: web, namespace: default}}], {}", rules()))
        .replace("name: site}", "name: site, namespace: other}");
    let status = |allowed: &str| {
        let listener = format!("{{name: http, port: 80, protocol: HTTP{allowed}}}");
        let compiled = compile(&format!("{}{route}{BACKEND}", gateway(&listener)));
        condition(&compiled, "HTTPRoute other/site", &Scope::Parent("default/web".into()), "Accepted")
    };
    assert_eq!(status(""), "false NotAllowedByListeners");
    assert_eq!(status(", allowedRoutes: {namespaces: {from: None}}"), "false NotAllowedByListeners");
    assert_eq!(status(", allowedRoutes: {namespaces: {from: All}}"), "true Accepted");
    let kinds = ", allowedRoutes: {namespaces: {from: All}, kinds: [{kind: GRPCRoute}]}";
    assert_eq!(status(kinds), "false NotAllowedByListeners");
}

#[test]
fn backends_that_do_not_resolve_answer_500() {
    for (reference, reason) in [
        ("{group: weir.dev, kind: Backend, name: nope}", "false BackendNotFound"),
        ("{name: site, port: 80}", "false InvalidKind"),
        ("{group: weir.dev, kind: Backend, name: site, namespace: other}", "false RefNotPermitted"),
    ] {
        let route = to_web(&format!("rules: [{{backendRefs: [{reference}]}}]"));
        let compiled = compile(&format!("{}{route}{BACKEND}", gateway(HTTP)));
        check_route(&compiled, "default/web", "true Accepted", reason);
        let Action::Forward(backends) = &compiled.config.routes[0].rules[0].action else {
            panic!("a forward")
        };
        assert!(backends[0].backend.is_none() && backends[0].weight == 1);
        assert_eq!(compiled.warnings.len(), 1, "{:?}", compiled.warnings);
        assert!(compiled.mistakes.is_empty());
    }
}

#[test]
fn a_grant_opens_another_namespace() {
    let grant = |to: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\n\
             metadata: {{name: g, namespace: other}}\n\
             spec: {{from: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}}], to: [{to}]}}\n"
        )
    };
    let backend = BACKEND.replace("name: site}", "name: site, namespace: other}");
    let reference = "{group: weir.dev, kind: Backend, name: site, namespace: other}";
    let route = to_web(&format!("rules: [{{backendRefs: [{reference}]}}]"));
    for (to, resolved) in [
        ("{group: weir.dev, kind: Backend}", "true ResolvedRefs"),
        ("{group: weir.dev, kind: Backend, name: site}", "true ResolvedRefs"),
        ("{group: weir.dev, kind: Backend, name: x}", "false RefNotPermitted"),
        ("{group: \"\", kind: Secret}", "false RefNotPermitted"),
    ] {
        let compiled = compile(&format!("{}{route}{backend}{}", gateway(HTTP), grant(to)));
        check_route(&compiled, "default/web", "true Accepted", resolved);
    }
}

#[test]
fn listeners_that_the_pool_cannot_serve() {
    let listeners = "{name: a, port: 81, protocol: HTTP}, {name: b, port: 443, protocol: HTTP}, {name: c, port: 443, \
                     protocol: HTTPS, tls: {certificateRefs: [{name: x}]}}";
    let compiled = compile(&gateway(listeners).replace(
        "{name: b, port: 443, protocol: HTTP}",
        "{name: b, port: 443, hostname: b.demo.localhost, protocol: HTTP}",
    ));
    check_listener(&compiled, "a", "false PortUnavailable", "true ResolvedRefs");
    check_listener(&compiled, "b", "false UnsupportedProtocol", "true ResolvedRefs");
    check_listener(&compiled, "c", "true Accepted", "false InvalidCertificateRef");
    assert_eq!(condition(&compiled, GATEWAY, &Scope::Object, "Accepted"), "true ListenersNotValid");
    // Not with the pool's certificate either: that is not what was asked for.
    assert!(compiled.config.listeners.is_empty());
    assert_eq!(compiled.warnings.len(), 3);
}

#[test]
fn a_gateway_of_an_unknown_pool_is_not_served() {
    let pool =
        "gatewayClassName: weir, infrastructure: {parametersRef: {group: weir.dev, kind: Pool, name: gold}}";
    let text = gateway(HTTP).replace("gatewayClassName: weir", pool);
    let compiled = compile(&text);
    check_listener(&compiled, "http", "false InvalidParameters", "true ResolvedRefs");
    assert!(compiled.config.listeners.is_empty());
    assert!(compiled.warnings[0].to_string().contains("there is no pool gold"), "{:?}", compiled.warnings);

    let own = format!("{text}---\napiVersion: weir.dev/v1\nkind: Pool\nmetadata: {{name: gold}}\n");
    let compiled = dialect::compile(&objects(&own), &Environment::standalone("demo".parse().unwrap()));
    assert_eq!(compiled.config.listeners[0].pool.as_str(), "gold");
}

#[test]
fn ranks_follow_gateway_api() {
    let matches = [
        "{path: {value: /a}}",
        "{path: {value: /a}, headers: [{name: x, value: y}]}",
        "{path: {value: /a}, method: GET}",
        "{path: {type: Exact, value: /a}}",
        "{path: {value: /a/b}}",
        "{path: {type: RegularExpression, value: \"/a.*\"}}",
        "{path: {value: /a}, queryParams: [{name: x, value: y}]}",
        "{path: {value: /a}}",
        "{method: GET}",
    ];
    let rules: Vec<String> = matches.iter().map(|each| format!("{{matches: [{each}], {TO_SITE}}}")).collect();
    let text = to_web(&format!("rules: [{}]", rules.join(", ")));
    let compiled = compile(&format!("{}{text}{BACKEND}", gateway(HTTP)));
    let ranks: Vec<u32> = compiled.config.routes[0].rules.iter().map(|rule| rule.matches[0].rank.0).collect();
    assert_eq!(ranks, [5, 3, 2, 0, 1, 7, 4, 6, 8]);
}

#[test]
fn of_equal_routes_the_older_one_wins_then_the_name() {
    let other = to_web(&rules()).replace("metadata: {name: site}", "metadata: {name: another}");
    let mut objects = objects(&format!("{}{}{other}{BACKEND}", gateway(HTTP), to_web(&rules())));
    let first = |objects: &[dialect::Object]| {
        let compiled = dialect::compile(objects, &demo());
        let route = compiled.config.routes.iter().find(|r| r.rules[0].matches[0].rank.0 == 0);
        route.expect("a route").id.0.clone()
    };
    assert_eq!(first(&objects), "default/another");
    for object in &mut objects {
        object.created = Some(model::Revision(if object.key.name == "another" { 9 } else { 3 }));
    }
    assert_eq!(first(&objects), "default/site");
}

#[test]
fn the_order_of_objects_means_nothing() {
    let text = format!("{}{}{BACKEND}", gateway(HTTP), to_web(&rules()));
    let mut objects = objects(&text);
    let forward = dialect::compile(&objects, &demo());
    objects.reverse();
    let backward = dialect::compile(&objects, &demo());
    assert_eq!(forward.config, backward.config);
    assert_eq!(forward.statuses, backward.statuses);
}

#[test]
fn two_gateways_share_a_port() {
    let other = gateway(HTTP).replace("name: web}", "name: web2}");
    let to_other = to_web(&rules())
        .replace("metadata: {name: site}", "metadata: {name: other}")
        .replace("[{name: web}]", "[{name: web2}]");
    let compiled = compile(&format!("{}{other}{}{to_other}{BACKEND}", gateway(HTTP), to_web(&rules())));
    assert!(compiled.warnings.is_empty());
    assert!(RouteTable::compile(&compiled.config, &CompileLimits::default()).is_ok());
}

#[test]
fn paths_are_kept_in_canonical_form() {
    let path = |kind: &str, value: &str| {
        let text = to_web(&format!(
            "rules: [{{matches: [{{path: {{type: {kind}, value: \"{value}\"}}}}], {TO_SITE}}}]"
        ));
        let compiled = compile(&format!("{}{text}{BACKEND}", gateway(HTTP)));
        assert!(RouteTable::compile(&compiled.config, &CompileLimits::default()).is_ok());
        compiled.config.routes[0].rules[0].matches[0].path.clone()
    };
    assert_eq!(path("PathPrefix", "/a/"), PathMatch::PrefixSegment("/a".into()));
    assert_eq!(path("PathPrefix", "/"), PathMatch::PrefixSegment("/".into()));
    assert_eq!(path("Exact", "/a/"), PathMatch::Exact("/a/".into()));
    assert_eq!(path("Exact", "/%7eä"), PathMatch::Exact("/~%C3%A4".into()));
}

#[test]
fn a_tenant_owns_its_name_below_the_domain_and_what_it_is_granted() {
    let environment = demo();
    let owns = |host: &str| environment.owns(&HostPattern::parse(host).unwrap());
    for host in ["demo.localhost", "a.demo.localhost", "*.demo.localhost", "eu.shop.example.com"] {
        assert!(owns(host), "{host}");
    }
    for host in ["localhost", "*.localhost", "demo2.localhost", "shop.example.com", "*.example.com"] {
        assert!(!owns(host), "{host}");
    }
}

#[test]
fn kubernetes_noise_is_accepted() {
    let noisy = BACKEND.replace(
        "metadata: {name: site}",
        "metadata: {name: site, uid: x, resourceVersion: \"7\", generation: 2, creationTimestamp: null, \
         managedFields: [], labels: {a: b}, annotations: {c: d}}\nstatus: {conditions: []}",
    );
    assert_eq!(objects(&noisy).len(), 1);
    let list = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: weir.dev/v1, kind: Backend, metadata: {name: a}, \
                spec: {endpoints: [{host: a.com, port: 80}]}}\n";
    assert_eq!(objects(list)[0].key.to_string(), "Backend default/a");
}
