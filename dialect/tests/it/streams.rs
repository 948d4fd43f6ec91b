//! TLSRoutes and TCPRoutes: what they amount to, and what is wrong with others.

use dialect::{Compiled, Environment, Object, Scope};
use model::{ListenerProtocol, Revision};

use crate::set::{BACKEND, TO_SITE, condition, demo, file, gateway, objects};

const PASS: &str = "{name: tls, port: 443, protocol: TLS, tls: {mode: Passthrough}}";
const TCP: &str = "{name: tcp, port: 5432, protocol: TCP}";

/// A pool with a port for TLS, and one for TCP that is `tenant`'s.
fn environment(tenant: &str) -> Environment {
    let pool = format!(
        "apiVersion: weir.dev/v1\nkind: Pool\nmetadata: {{name: default}}\nspec:\n  listen:\n  \
         - {{port: 443, bind: \"127.0.0.1:1\", protocol: TLS}}\n  \
         - {{port: 5432, bind: \"127.0.0.1:2\", protocol: TCP, tenant: {tenant}}}\n  \
         - {{port: 80, bind: \"127.0.0.1:3\"}}\n"
    );
    let [Object { spec: dialect::Spec::Pool(pool), .. }] = &objects(&pool)[..] else { panic!("a pool") };
    let mut environment = demo();
    environment.pools.insert(environment.default_pool.clone(), pool.clone());
    environment
}

fn route(kind: &str, name: &str, rest: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1alpha2\nkind: {kind}\nmetadata: {{name: {name}}}\n\
         spec: {{parentRefs: [{{name: web}}], {rest}}}\n"
    )
}

fn tls(name: &str, hostnames: &str) -> String {
    route("TLSRoute", name, &format!("hostnames: [{hostnames}], rules: [{{{TO_SITE}}}]"))
}

fn tcp(name: &str) -> String {
    route("TCPRoute", name, &format!("rules: [{{{TO_SITE}}}]"))
}

fn compile(documents: &[&str]) -> Compiled {
    dialect::compile(&objects(&documents.concat()), &environment("demo"))
}

#[track_caller]
fn check(compiled: &Compiled, object: &str, accepted: &str) {
    let scope = Scope::Parent("default/web".into());
    assert_eq!(condition(compiled, object, &scope, "Accepted"), accepted, "{:#?}", compiled.warnings);
}

#[test]
fn routes_attach_to_listeners_of_their_protocol() {
    let listeners = format!("{PASS}, {TCP}, {{name: http, port: 80, protocol: HTTP}}");
    let compiled = compile(&[&gateway(&listeners), &tls("t", "demo.localhost"), &tcp("c"), BACKEND]);
    assert_eq!((&compiled.warnings[..], &compiled.mistakes[..]), (&[][..], &[][..]));
    check(&compiled, "TLSRoute default/t", "true Accepted");
    check(&compiled, "TCPRoute default/c", "true Accepted");
    let streams: Vec<_> =
        compiled.config.streams.iter().map(|s| (s.id.0.as_str(), &s.listeners[..])).collect();
    let id = |name: &str| [model::ListenerId(format!("default/web/{name}"))];
    assert_eq!(streams, [("TLSRoute/default/t", &id("tls")[..]), ("TCPRoute/default/c", &id("tcp")[..])]);
    assert_eq!(compiled.config.listeners[0].protocol, ListenerProtocol::TlsPassthrough);
    assert!(compiled.config.features().contains(&model::Feature::Streams));
    assert!(model::RouteTable::compile(&compiled.config, &model::CompileLimits::default()).is_ok());
}

#[test]
fn tls_that_ends_here_is_for_both_kinds() {
    let end = "{name: tls, port: 443, protocol: TLS, tls: {mode: Terminate}, hostname: demo.localhost}";
    for (kind, object) in [(tcp("r"), "TCPRoute default/r"), (tls("r", ""), "TLSRoute default/r")] {
        let compiled = compile(&[&gateway(end), &kind, BACKEND]);
        check(&compiled, object, "true Accepted");
        assert_eq!(compiled.config.listeners[0].protocol, ListenerProtocol::Tls);
    }
}

#[test]
fn a_listener_for_tcp_takes_no_tls_route() {
    let compiled = compile(&[&gateway(TCP), &tls("t", ""), BACKEND]);
    check(&compiled, "TLSRoute default/t", "false NotAllowedByListeners");
    let compiled = compile(&[&gateway(PASS), &tcp("c"), BACKEND]);
    check(&compiled, "TCPRoute default/c", "false NotAllowedByListeners");
    assert!(compiled.config.streams.is_empty());
}

#[test]
fn the_older_of_two_routes_for_one_place_has_it() {
    let documents = [gateway(&format!("{PASS}, {TCP}")), tcp("a"), tcp("b"), BACKEND.to_owned()].concat();
    for (a, b, holds, loses) in [(1, 2, "a", "b"), (2, 1, "b", "a")] {
        let mut all = objects(&documents);
        for object in &mut all {
            object.created = match object.key.name.as_str() {
                "a" => Some(Revision(a)),
                "b" => Some(Revision(b)),
                _ => None,
            };
        }
        let compiled = dialect::compile(&all, &environment("demo"));
        check(&compiled, &format!("TCPRoute default/{holds}"), "true Accepted");
        check(&compiled, &format!("TCPRoute default/{loses}"), "false Conflicted");
        let text = compiled.warnings[0].to_string();
        assert!(text.contains(&format!("route TCPRoute/default/{holds} has port 5432")), "{text}");
        assert_eq!(compiled.config.streams.len(), 1);
    }
    let both =
        compile(&[&gateway(PASS), &tls("a", "x.demo.localhost"), &tls("b", "\"*.demo.localhost\""), BACKEND]);
    check(&both, "TLSRoute default/b", "true Accepted");
    let same = compile(&[
        &gateway(PASS),
        &tls("a", "x.demo.localhost"),
        &tls("b", "y.demo.localhost, x.demo.localhost"),
        BACKEND,
    ]);
    check(&same, "TLSRoute default/b", "false Conflicted");
}

#[test]
fn a_port_without_names_is_one_tenants() {
    let all = objects(&[gateway(TCP), tcp("c"), BACKEND.to_owned()].concat());
    let compiled = dialect::compile(&all, &environment("acme"));
    let scope = Scope::Listener("tcp".into());
    assert_eq!(condition(&compiled, "Gateway default/web", &scope, "Accepted"), "false PortUnavailable");
    let text: Vec<_> = compiled.warnings.iter().map(ToString::to_string).collect();
    assert!(
        text[0].contains("is not given to tenant demo; ask the platform admin to write tenant: demo"),
        "{text:?}"
    );
    assert!(compiled.config.listeners.is_empty() && compiled.config.streams.is_empty());
}

#[test]
fn hosts_of_others_and_missing_backends() {
    let compiled = compile(&[&gateway(PASS), &tls("t", "other.localhost"), BACKEND]);
    assert!(compiled.mistakes[0].to_string().contains("other.localhost does not belong to tenant demo"));
    assert!(compiled.config.streams.is_empty(), "least of all one for every host");
    let compiled = compile(&[&gateway(PASS), &tls("t", "")]);
    let scope = Scope::Parent("default/web".into());
    let resolved = condition(&compiled, "TLSRoute default/t", &scope, "ResolvedRefs");
    assert_eq!(resolved, "false BackendNotFound");
    assert_eq!(compiled.config.streams[0].backends[0].backend, None);
}

#[test]
fn mistakes_are_told() {
    for (document, expect) in [
        (
            gateway("{name: a, port: 443, protocol: TLS}"),
            "it does not say what becomes of TLS; add tls with mode",
        ),
        (
            gateway("{name: a, port: 443, protocol: HTTPS, tls: {mode: Passthrough}}"),
            "tls.mode: HTTPS is read here, so its TLS ends here; use Terminate, or set protocol to TLS",
        ),
        (
            gateway(
                "{name: a, port: 443, protocol: TLS, tls: {mode: Passthrough, certificateRefs: [{name: c}]}}",
            ),
            "certificateRefs[0]: TLS that is passed on shows the backend's certificate",
        ),
        (gateway("{name: a, port: 1, protocol: TCP, tls: {}}"), "a listener that speaks TCP has no tls"),
        (gateway("{name: a, port: 1, protocol: TCP, hostname: a.b}"), "clients of TCP do not say which host"),
        (
            gateway("{name: a, port: 1, protocol: UDP}"),
            "UDP is not supported yet; use HTTP, HTTPS, TLS or TCP",
        ),
        (route("TCPRoute", "r", "rules: []"), "spec: it has no rules"),
        (route("TCPRoute", "r", "rules: [{}]"), "spec.rules[0]: it has no backendRefs"),
        (route("TCPRoute", "r", &format!("rules: [{{{TO_SITE}}}, {{}}]")), "rules[1]: it is never reached"),
        (
            route("TCPRoute", "r", &format!("hostnames: [a.b], rules: [{{{TO_SITE}}}]")),
            "spec.hostnames: there is no such field",
        ),
        (
            route("TLSRoute", "r", &format!("rules: [{{matches: [], {TO_SITE}}}]")),
            "rules[0].matches: there is no such field",
        ),
        (
            "apiVersion: weir.dev/v1\nkind: Pool\nmetadata: {name: p}\n\
             spec: {listen: [{port: 443, bind: \"127.0.0.1:1\", protocol: TLS, tenant: acme}]}\n"
                .to_owned(),
            "spec.listen[0].tenant: its clients say which host they mean",
        ),
        (
            "apiVersion: weir.dev/v1\nkind: Pool\nmetadata: {name: p}\n\
             spec: {listen: [{port: 443, bind: \"127.0.0.1:1\", protocol: TCP, tenant: No One}]}\n"
                .to_owned(),
            "spec.listen[0].tenant: tenant \"No One\" is not valid",
        ),
    ] {
        let mistakes = dialect::parse(&[file(&document)]).map(|_| ()).expect_err(&document);
        let text: String = mistakes.iter().map(|mistake| format!("{mistake}\n")).collect();
        assert!(text.contains(expect), "{document}\n{text}");
    }
}
