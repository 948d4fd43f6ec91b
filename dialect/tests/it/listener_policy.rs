//! ListenerPolicy: what listeners allow.

use std::time::Duration;

use dialect::Scope;
use model::{Feature, LogFact, LogFilter, LogValue};

use crate::set::{compile, condition, gateway};

const TWO: &str =
    "{name: a, port: 80, protocol: HTTP}, {name: b, port: 80, protocol: HTTP, hostname: b.demo.localhost}";

fn policy(name: &str, section: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: weir.dev/v1\nkind: ListenerPolicy\nmetadata: {{name: {name}}}\n\
         spec: {{targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: web{section}}}], {spec}}}\n"
    )
}

fn accepted(objects: &str, name: &str) -> String {
    condition(&compile(objects), &format!("ListenerPolicy default/{name}"), &Scope::Object, "Accepted")
}

#[test]
fn a_listeners_own_policy_goes_before_its_gateways() {
    let objects = gateway(TWO)
        + &policy("all", "", "http2: off")
        + &policy(
            "one",
            ", sectionName: b",
            "connect: {allow: [{host: \"*.example.com\", ports: [443, 8443]}]}",
        );
    let compiled = compile(&objects);
    let [a, b] = &compiled.config.listeners[..] else { panic!("{:?}", compiled.config.listeners) };
    assert!(!a.policy.http2 && a.policy.connect.is_empty());
    assert!(b.policy.http2, "what it does not say is the default, not its Gateway's");
    for (host, port, allowed) in [
        ("www.example.com", 443, true),
        ("a.b.example.com", 8443, true),
        ("example.com", 443, false),
        ("www.example.com", 80, false),
    ] {
        assert_eq!(b.policy.allows_connect(host, port), allowed, "{host}:{port}");
        assert!(!a.policy.allows_connect(host, port));
    }
    assert!(compiled.config.features().contains(&Feature::ListenerPolicies));
    assert_eq!(compiled.warnings, []);
    assert!(!compile(&gateway(TWO)).config.features().contains(&Feature::ListenerPolicies));
}

#[test]
fn a_policy_says_what_became_of_it() {
    let web = gateway(TWO);
    assert_eq!(accepted(&(web.clone() + &policy("p", "", "http2: on")), "p"), "true Accepted");
    assert_eq!(accepted(&policy("p", "", "http2: on"), "p"), "false TargetNotFound");
    let nowhere = web.clone() + &policy("p", ", sectionName: c", "http2: on");
    assert_eq!(accepted(&nowhere, "p"), "false TargetNotFound");
    let two = web + &policy("p", "", "http2: off") + &policy("q", "", "http2: on");
    assert_eq!(accepted(&two, "p"), "true Accepted", "of two that are equally old the first by name holds");
    assert_eq!(accepted(&two, "q"), "false Conflicted");
}

#[test]
fn a_policy_that_means_nothing_to_its_listeners_says_so() {
    let pool = crate::set::objects(
        "apiVersion: weir.dev/v1\nkind: Pool\nmetadata: {name: default}\nspec:\n  listen:\n  \
         - {port: 80, bind: \"127.0.0.1:1\"}\n  \
         - {port: 443, bind: \"127.0.0.1:2\", protocol: TLS}\n  \
         - {port: 1, bind: \"127.0.0.1:3\", protocol: TCP, tenant: demo}\n  \
         - {port: 1, bind: \"127.0.0.1:3\", protocol: UDP, tenant: demo}\n",
    );
    let [dialect::Object { spec: dialect::Spec::Pool(pool), .. }] = &pool[..] else { panic!("a pool") };
    let mut environment = crate::set::demo();
    environment.pools.insert(environment.default_pool.clone(), pool.clone());
    let web = gateway(
        "{name: http, port: 80, protocol: HTTP}, {name: tcp, port: 1, protocol: TCP}, \
         {name: tls, port: 443, protocol: TLS, tls: {mode: Passthrough}}, {name: udp, port: 1, protocol: UDP}",
    );
    let connect = "connect: {allow: [{host: a.test, ports: [443]}]}";
    for (section, spec, expect) in [
        ("", "http2: off", "true Accepted"),
        ("", "udp: {idleTimeout: 5s}", "true Accepted"),
        ("", "http2: off, udp: {responses: 1}", "true Accepted"),
        (", sectionName: udp", "udp: {responses: 1}", "true Accepted"),
        (", sectionName: http", connect, "true Accepted"),
        (", sectionName: http", "udp: {responses: 1}", "false Invalid"),
        (", sectionName: tcp", "http2: off", "false Invalid"),
        (", sectionName: tls", connect, "false Invalid"),
        (", sectionName: udp", "http2: off", "false Invalid"),
        (", sectionName: udp", "http2: on, udp: {responses: 1}", "false Invalid"),
    ] {
        let all = crate::set::objects(&(web.clone() + &policy("p", section, spec)));
        let compiled = dialect::compile(&all, &environment);
        let said = condition(&compiled, "ListenerPolicy default/p", &Scope::Object, "Accepted");
        assert_eq!(said, expect, "{section} {spec}");
        let told = compiled.warnings.iter().any(|warning| warning.to_string().contains("means nothing to"));
        assert_eq!(told, expect == "false Invalid", "{:?}", compiled.warnings);
        // Whatever it says, each listener has only what is for it.
        for listener in &compiled.config.listeners {
            let policy = &listener.policy;
            assert!(listener.protocol.is_http() || (policy.http2 && policy.connect.is_empty()));
            assert!(listener.protocol.is_udp() || policy.udp.is_default());
        }
    }
    let all = crate::set::objects(&(web + &policy("p", "", "udp: {idleTimeout: 5s, responses: 2}")));
    let compiled = dialect::compile(&all, &environment);
    let udp =
        compiled.config.listeners.iter().find(|listener| listener.protocol.is_udp()).unwrap().policy.udp;
    assert_eq!((udp.idle.as_secs(), udp.responses.map(u32::from)), (5, Some(2)));
}

#[test]
fn what_is_wrong_is_said() {
    for (spec, expect) in [
        ("http2: maybe", "spec.http2: \"maybe\" is not a choice; use on or off"),
        (
            "connect: {allow: []}",
            "spec.connect.allow: CONNECT could lead nowhere; name a destination, or remove connect",
        ),
        (
            "connect: {allow: [{host: a.test, ports: []}]}",
            "spec.connect.allow[0].ports: no port is allowed; name one, like 443",
        ),
        (
            "connect: {allow: [{host: a.test, ports: [0]}]}",
            "spec.connect.allow[0].ports[0]: 0 is not allowed; use a whole number from 1 to 65535",
        ),
        (
            "connect: {allow: [{host: \"10.0.0.1\", ports: [1]}]}",
            "spec.connect.allow[0].host: \"10.0.0.1\" is not a hostname: IP addresses are not hostnames; write it like shop.example.com or *.example.com",
        ),
        (
            "connect: {allow: [{host: \"*\", ports: [1]}]}",
            "spec.connect.allow[0].host: \"*\" is not a hostname",
        ),
        (
            "udp: {idleTimeout: 2h}",
            "spec.udp.idleTimeout: a session would be kept for too long; use at most 1h",
        ),
        ("udp: {idleTimeout: 0s}", "spec.udp.idleTimeout: it must be longer than zero"),
        ("udp: {responses: 0}", "spec.udp.responses: 0 is not allowed"),
    ] {
        let mistakes = dialect::parse(&[crate::set::file(&policy("p", "", spec))]).unwrap_err();
        let said = mistakes[0].to_string();
        assert!(said.contains(expect), "{said}");
    }
}

#[test]
fn what_the_access_log_tells_is_read() {
    let spec = "accessLog: {fields: [{name: agent, requestHeader: User-Agent}, {name: env, value: \"\"}, \
                {name: late, fact: queueDelay}], filter: {all: [{minDuration: 250ms}, {sampledPercent: 0.5}, \
                {not: {any: [{failed: true}, {requestHeader: {name: X-Debug, value: \"1\"}}]}}]}}";
    let compiled = compile(&(gateway(TWO) + &policy("p", "", spec)));
    let log = compiled.config.listeners[0].policy.access_log.as_deref().unwrap();
    let values: Vec<_> = log.fields.iter().map(|field| (field.name.as_str(), field.value.clone())).collect();
    assert_eq!(
        values,
        [
            ("agent", LogValue::RequestHeader("user-agent".to_owned())),
            ("env", LogValue::Constant(String::new())),
            ("late", LogValue::Fact(LogFact::QueueDelay)),
        ]
    );
    let debug = LogFilter::RequestHeader { name: "x-debug".to_owned(), value: Some("1".to_owned()) };
    let expect = LogFilter::All(vec![
        LogFilter::MinDuration(Duration::from_millis(250)),
        LogFilter::SampledPpm(5_000),
        LogFilter::Not(Box::new(LogFilter::Any(vec![LogFilter::Failed, debug]))),
    ]);
    assert_eq!(log.filter, Some(expect));
}

#[test]
fn what_does_not_belong_into_a_log_is_refused() {
    let deep = format!("filter: {}{{failed: true}}{}", "{not: ".repeat(8), "}".repeat(8));
    let wide = format!("filter: {{any: [{}]}}", ["{failed: true}"; 32].join(", "));
    for (spec, expect) in [
        ("fields: [{name: a, requestHeader: Authorization}]", "authorization holds credentials"),
        ("fields: [{name: a, requestHeader: cookie}]", "cookie holds credentials"),
        ("fields: [{name: a, responseHeader: Set-Cookie}]", "set-cookie holds credentials"),
        ("fields: [{name: status, value: x}]", "every line has a field status already"),
        ("fields: [{name: \"a b\", value: x}]", "\"a b\" is not a field's name; use a-z, 0-9 and '_'"),
        (
            "fields: [{name: a, value: x}, {name: a, value: y}]",
            "there are two fields a; rename or remove one",
        ),
        ("fields: [{name: a}]", "write one of value, requestHeader, responseHeader or fact"),
        ("fields: [{name: a, value: x, fact: rule}]", "it tells one thing"),
        ("fields: [{name: a, fact: rules}]", "\"rules\" is not a fact; did you mean rule?"),
        ("fields: [{name: a, requestHeader: \"a b\"}]", "\"a b\" is not a header's name"),
        ("filter: {}", "a filter asks one thing; write one of all, any, not"),
        ("filter: {failed: true, sampledPercent: 1}", "a filter asks one thing"),
        ("filter: {failed: false}", "it can only be true"),
        ("filter: {any: []}", "it has no filters"),
        ("filter: {statusClasses: [6xx]}", "\"6xx\" is not a class of status"),
        ("filter: {sampledPercent: 101}", "it is no part of a hundred; use a number from 0 to 100, like 0.5"),
        (&deep, "filters are more than 8 deep"),
        (&wide, "33 filters in one are more than 32"),
    ] {
        let spec = format!("accessLog: {{{spec}}}");
        let mistakes = dialect::parse(&[crate::set::file(&policy("p", "", &spec))]).unwrap_err();
        let said = mistakes[0].to_string();
        assert!(said.contains(expect) && said.contains("spec.accessLog."), "{said}");
    }
}
