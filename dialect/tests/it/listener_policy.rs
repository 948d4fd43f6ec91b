//! ListenerPolicy: what listeners allow.

use dialect::Scope;
use model::Feature;

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
    ] {
        let mistakes = dialect::parse(&[crate::set::file(&policy("p", "", spec))]).unwrap_err();
        let said = mistakes[0].to_string();
        assert!(said.contains(expect), "{said}");
    }
}
