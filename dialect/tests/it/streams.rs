//! TLSRoutes, TCPRoutes and UDPRoutes: what they amount to, and what is wrong with others.

use dialect::{Compiled, Environment, Object, Scope};
use model::{ListenerProtocol, Revision};

use crate::set::{BACKEND, TO_SITE, condition, demo, file, gateway, objects};

const PASS: &str = "{name: tls, port: 443, protocol: TLS, tls: {mode: Passthrough}}";
const TCP: &str = "{name: tcp, port: 5432, protocol: TCP}";
const UDP: &str = "{name: udp, port: 5432, protocol: UDP}";

/// A pool with a port for TLS, and one each for TCP and UDP that are `tenant`'s.
fn environment(tenant: &str) -> Environment {
    let pool = format!(
        "apiVersion: weir.dev/v1\nkind: Pool\nmetadata: {{name: default}}\nspec:\n  listen:\n  \
         - {{port: 443, bind: \"127.0.0.1:1\", protocol: TLS}}\n  \
         - {{port: 5432, bind: \"127.0.0.1:2\", protocol: TCP, tenant: {tenant}}}\n  \
         - {{port: 5432, bind: \"127.0.0.1:2\", protocol: UDP, tenant: {tenant}}}\n  \
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

fn pool(listen: &str) -> String {
    format!("apiVersion: weir.dev/v1\nkind: Pool\nmetadata: {{name: p}}\nspec: {{listen: [{listen}]}}\n")
}

fn udp(name: &str) -> String {
    route("UDPRoute", name, &format!("rules: [{{{TO_SITE}}}]"))
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
fn datagrams_have_a_port_beside_that_of_tcp() {
    let compiled = compile(&[&gateway(&format!("{TCP}, {UDP}")), &tcp("c"), &udp("u"), BACKEND]);
    assert_eq!((&compiled.warnings[..], &compiled.mistakes[..]), (&[][..], &[][..]));
    check(&compiled, "UDPRoute default/u", "true Accepted");
    let streams: Vec<_> =
        compiled.config.streams.iter().map(|s| (s.id.0.as_str(), &s.listeners[..])).collect();
    let id = |name: &str| [model::ListenerId(format!("default/web/{name}"))];
    assert_eq!(streams, [("TCPRoute/default/c", &id("tcp")[..]), ("UDPRoute/default/u", &id("udp")[..])]);
    assert!(compiled.config.features().contains(&model::Feature::Datagrams));
    let table = model::RouteTable::compile(&compiled.config, &model::CompileLimits::default()).unwrap();
    let found = |route: Option<&model::CompiledStream>| route.map(|route| route.id.0.clone());
    assert_eq!(found(table.streams().find_udp(5432)).unwrap(), "UDPRoute/default/u");
    assert_eq!(found(table.streams().find(5432, "").map(|f| f.route)).unwrap(), "TCPRoute/default/c");

    let only_tcp = compile(&[&gateway(TCP), &udp("u"), BACKEND]);
    check(&only_tcp, "UDPRoute default/u", "false NotAllowedByListeners");
    let twice = compile(&[&gateway(UDP), &udp("a"), &udp("b"), BACKEND]);
    check(&twice, "UDPRoute default/b", "false Conflicted");
    let text = twice.warnings[0].to_string();
    assert!(text.contains("route UDPRoute/default/a has port 5432 of UDP already"), "{text}");
    let elsewhere = compile(&[&gateway("{name: udp, port: 80, protocol: UDP}"), &udp("u"), BACKEND]);
    let text = elsewhere.warnings[0].to_string();
    assert!(text.contains("the pool does not listen for port 80 of UDP; use 5432, or ask"), "{text}");
}

#[test]
fn datagrams_have_no_tls_and_no_proxy_protocol() {
    let scope = Scope::Parent("default/web".into());
    let with = |more: &str| BACKEND.replace("spec: {", &format!("spec: {{{more}, "));
    let policy = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {name: p}\n\
                  spec: {targetRefs: [{group: weir.dev, kind: Backend, name: site}], \
                  validation: {hostname: a.test, wellKnownCACertificates: System}}\n";
    for backend in [
        with("proxyProtocol: v2"),
        with("tls: {hostname: a.test, wellKnownCACertificates: System}"),
        BACKEND.to_owned() + policy,
    ] {
        let compiled = compile(&[&gateway(&format!("{TCP}, {UDP}")), &udp("u"), &tcp("c"), &backend]);
        let resolved = |object| condition(&compiled, object, &scope, "ResolvedRefs");
        assert_eq!(resolved("UDPRoute default/u"), "false UnsupportedProtocol", "{backend}");
        assert_eq!(resolved("TCPRoute default/c"), "true ResolvedRefs", "{backend}");
        assert!(model::RouteTable::compile(&compiled.config, &model::CompileLimits::default()).is_ok());
    }
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
    let all = objects(&[gateway(&format!("{TCP}, {UDP}")), tcp("c"), BACKEND.to_owned()].concat());
    let compiled = dialect::compile(&all, &environment("acme"));
    for listener in ["tcp", "udp"] {
        let scope = Scope::Listener(listener.into());
        assert_eq!(condition(&compiled, "Gateway default/web", &scope, "Accepted"), "false PortUnavailable");
    }
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
fn http_3_that_is_off_leaves_its_address_to_others() {
    let both = "{port: 443, bind: \"127.0.0.1:1\", protocol: HTTPS}, {port: 53, bind: \"127.0.0.1:1\", protocol: UDP}";
    let off = pool(both).replace("spec: {", "spec: {http3: \"off\", ");
    assert!(dialect::parse(&[file(&off)]).is_ok());
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
        (
            gateway("{name: a, port: 1, protocol: TCP, hostname: a.b}"),
            "clients of TCP and UDP do not say which",
        ),
        (
            gateway("{name: a, port: 1, protocol: UDP, hostname: a.b}"),
            "clients of TCP and UDP do not say which",
        ),
        (gateway("{name: a, port: 1, protocol: UDP, tls: {}}"), "a listener that speaks UDP has no tls"),
        (
            gateway("{name: a, port: 1, protocol: UDP}, {name: b, port: 1, protocol: UDP}"),
            "it has the port and hostname of listener \"a\"",
        ),
        (
            pool("{port: 1, bind: \"127.0.0.1:1\", protocol: UDP, proxyProtocol: {trusted: [10.0.0.0/8]}}"),
            "datagrams have no PROXY protocol header",
        ),
        (
            pool(
                "{port: 1, bind: \"127.0.0.1:1\", protocol: UDP}, {port: 2, bind: \"127.0.0.1:1\", protocol: UDP}",
            ),
            "spec.listen[1]: its port or its bind is taken",
        ),
        (
            pool(
                "{port: 443, bind: \"127.0.0.1:1\", protocol: HTTPS}, {port: 53, bind: \"127.0.0.1:1\", protocol: UDP}",
            ),
            "spec: HTTP/3 of port 443 and a port of protocol UDP have the same address, 127.0.0.1:1; give the UDP port another bind, or write http3: off",
        ),
        (route("UDPRoute", "r", "rules: []"), "spec: it has no rules"),
        (
            route("UDPRoute", "r", &format!("hostnames: [a.b], rules: [{{{TO_SITE}}}]")),
            "spec.hostnames: there is no such field",
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
