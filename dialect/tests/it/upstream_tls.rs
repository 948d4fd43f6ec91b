//! TLS to upstreams: what a Backend or a BackendTLSPolicy amounts to, and what is wrong with others.

use dialect::{Compiled, Scope};
use model::{Feature, UpstreamProtocol, UpstreamRoots};

use crate::set::{HTTP, TO_SITE, compile, condition, file, gateway, route};

pub(crate) const CA: &str = "
---
apiVersion: v1
kind: ConfigMap
metadata: {name: ca}
data:
  ca.crt: |
    -----BEGIN CERTIFICATE-----
    MIIBiTCCAS+gAwIBAgIUI3YsXu4kEGngJWeLTJNVjzx+yOMwCgYIKoZIzj0EAwIw
    GTEXMBUGA1UEAwwOVGVzdCBhdXRob3JpdHkwIBcNMjYxMTI1MDg1NjM1WhgPMjEy
    NjExMDEwODU2MzVaMBkxFzAVBgNVBAMMDlRlc3QgYXV0aG9yaXR5MFkwEwYHKoZI
    zj0CAQYIKoZIzj0DAQcDQgAEzHb/3bLqVuAD2J4fYafwn3u4cdI2GJcpxnnrkTIV
    h9PHKcuRMrzl3b3GN23yCON5GTq3Bz3EMuhl8hL2NrGLNKNTMFEwHQYDVR0OBBYE
    FFOahAr08sbiG7nMCLX42tFrdH6IMB8GA1UdIwQYMBaAFFOahAr08sbiG7nMCLX4
    2tFrdH6IMA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDSAAwRQIhAMyOqLXe
    zX/iUFOLvLCU75OdZ5iRbq7aXRyDHy3Zcm4AAiBuam5h992xYO1wFS+11+U+//4M
    dajpFZQzx3NzfCDJeA==
    -----END CERTIFICATE-----
";

fn backend(spec: &str) -> String {
    format!(
        "---\napiVersion: weir.dev/v1\nkind: Backend\nmetadata: {{name: site}}\n\
         spec: {{endpoints: [{{address: \"127.0.0.1:1\"}}], {spec}}}\n"
    )
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: {name}}}\n\
         spec: {{targetRefs: [{{group: weir.dev, kind: Backend, name: site}}], validation: {{{spec}}}}}\n"
    )
}

const BY_CA: &str = "hostname: up.test, caCertificateRefs: [{group: \"\", kind: ConfigMap, name: ca}]";
const BY_SYSTEM: &str = "hostname: up.test, wellKnownCACertificates: System";

/// A route to the Backend `site`, and these objects.
fn set(objects: &str) -> Compiled {
    let to_site = route(&format!("parentRefs: [{{name: web}}], rules: [{{{TO_SITE}}}]"));
    compile(&format!("{}{to_site}{objects}", gateway(HTTP)))
}

fn route_resolves(compiled: &Compiled) -> String {
    condition(compiled, "HTTPRoute default/site", &Scope::Parent("default/web".into()), "ResolvedRefs")
}

#[test]
fn a_backend_asks_for_tls_by_itself_or_by_a_policy() {
    for objects in [backend(&format!("tls: {{{BY_CA}}}")), backend("") + &policy("p", BY_CA)] {
        let compiled = set(&(objects + CA));
        let backend = &compiled.config.backends[0];
        let tls = backend.tls.as_ref().unwrap();
        assert_eq!(tls.server_name, "up.test");
        assert!(matches!(&tls.roots, UpstreamRoots::Pem(pem) if pem.contains("BEGIN CERTIFICATE")));
        assert!(compiled.config.features().contains(&Feature::UpstreamTls));
        assert_eq!(compiled.warnings, []);
    }
    let compiled = set(&(backend("") + &policy("p", BY_SYSTEM)));
    assert_eq!(compiled.config.backends[0].tls.as_ref().unwrap().roots, UpstreamRoots::System);
}

#[test]
fn without_its_authority_a_backend_is_not_used_at_all() {
    for objects in [backend(&format!("tls: {{{BY_CA}}}")), backend("") + &policy("p", BY_CA)] {
        let compiled = set(&objects);
        assert!(compiled.config.backends.is_empty(), "least of all in cleartext");
        assert_eq!(route_resolves(&compiled), "false InvalidCACertificateRef");
    }
    let shown = backend(&format!("tls: {{{BY_SYSTEM}, clientCertificateRef: {{name: us}}}}"));
    let compiled = set(&shown);
    assert!(compiled.config.backends.is_empty());
    assert_eq!(route_resolves(&compiled), "false InvalidClientCertificateRef");
    let foreign = backend(&format!("tls: {{{BY_SYSTEM}, clientCertificateRef: {{name: us, namespace: x}}}}"));
    assert_eq!(route_resolves(&set(&foreign)), "false RefNotPermitted");
}

#[test]
fn one_policy_holds() {
    let both = backend("") + &policy("a", BY_CA) + &policy("b", BY_SYSTEM) + CA;
    let compiled = set(&both);
    let accepted = |name: &str| {
        condition(&compiled, &format!("BackendTLSPolicy default/{name}"), &Scope::Object, "Accepted")
    };
    assert_eq!((accepted("a").as_str(), accepted("b").as_str()), ("true Accepted", "false Conflicted"));
    assert!(matches!(compiled.config.backends[0].tls.as_ref().unwrap().roots, UpstreamRoots::Pem(_)));

    let compiled = set(&policy("a", BY_SYSTEM));
    let status = |kind| condition(&compiled, "BackendTLSPolicy default/a", &Scope::Object, kind);
    assert_eq!(status("Accepted"), "false TargetNotFound");
    assert_eq!(status("ResolvedRefs"), "true ResolvedRefs");
}

#[test]
fn protocols_are_named_as_in_kubernetes() {
    for (spec, expect) in [
        ("".to_owned(), UpstreamProtocol::Negotiated),
        ("appProtocol: http".to_owned(), UpstreamProtocol::Http1),
        ("appProtocol: kubernetes.io/h2c".to_owned(), UpstreamProtocol::Http2),
        (format!("appProtocol: h2, tls: {{{BY_SYSTEM}}}"), UpstreamProtocol::Http2),
    ] {
        assert_eq!(set(&backend(&spec)).config.backends[0].protocol, expect, "{spec}");
    }
    let needed = set(&backend("appProtocol: kubernetes.io/h2c")).config.features();
    assert!(needed.contains(&Feature::UpstreamHttp2) && !needed.contains(&Feature::UpstreamTls));
}

#[test]
fn mistakes_are_told() {
    for (spec, expect) in [
        ("appProtocol: h2", "spec.appProtocol: h2 is HTTP/2 in TLS, and there is no tls"),
        (
            "appProtocol: kubernetes.io/h2c, tls: {hostname: a.b, wellKnownCACertificates: System}",
            "spec.appProtocol: h2c is HTTP/2 without TLS, and there is tls; write h2",
        ),
        ("appProtocol: h2d", "\"h2d\" is not a protocol of upstreams; did you mean h2?"),
        ("tls: {hostname: a.b}", "spec.tls: who vouches for the upstream is said once"),
        ("tls: {wellKnownCACertificates: System}", "spec.tls.hostname: it is missing"),
        ("tls: {hostname: \"*.b\", wellKnownCACertificates: System}", "stands for many hosts"),
        ("tls: {hostname: a.b, caCertificateRefs: []}", "nobody could vouch for the upstream"),
    ] {
        let mistakes = dialect::parse(&[file(&backend(spec))]).map(|_| ()).expect_err(spec);
        let text: String = mistakes.iter().map(|mistake| format!("{mistake}\n")).collect();
        assert!(text.contains(expect), "{spec}: {text}");
    }
    let empty = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: ca}\ndata: {ca.crt: nothing}\n";
    let mistakes = dialect::parse(&[file(empty)]).map(|_| ()).expect_err("no certificate");
    assert!(mistakes[0].to_string().contains("data.ca.crt: there is no certificate in it"), "{mistakes:?}");
}
