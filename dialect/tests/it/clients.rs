//! Certificates of clients: what a Gateway and its listeners' policies amount to, and what is wrong with others.

use dialect::{Compiled, Scope};
use model::{CertificateDetail, ClientCertificateMode, ClientCertificates, Feature, ListenerProtocol};

use crate::{
    set::{compile, condition, file},
    upstream_tls::CA,
};

/// A Gateway with listeners of HTTP, of HTTPS on two ports, and one of TLS, on which TLS ends.
fn gateway(frontend: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: web}}\n\
         spec:\n  gatewayClassName: weir\n  tls: {{frontend: {{{frontend}}}}}\n  listeners:\n  \
         - {{name: http, port: 80, protocol: HTTP}}\n  - {{name: a, port: 443, protocol: HTTPS}}\n  \
         - {{name: b, port: 8443, protocol: HTTPS}}\n  \
         - {{name: raw, port: 9443, protocol: TLS, tls: {{mode: Terminate}}}}\n"
    )
}

fn policy(section: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: weir.dev/v1\nkind: ListenerPolicy\nmetadata: {{name: p-{section}}}\nspec: {{targetRefs: \
         [{{group: gateway.networking.k8s.io, kind: Gateway, name: web, sectionName: {section}}}], \
         clientCertificates: {{{spec}}}}}\n"
    )
}

const REF: &str = "caCertificateRefs: [{group: \"\", kind: ConfigMap, name: ca}]";

fn set(objects: &str) -> Compiled {
    let pool = crate::set::objects(
        "apiVersion: weir.dev/v1\nkind: Pool\nmetadata: {name: default}\nspec:\n  listen:\n  \
         - {port: 80, bind: \"127.0.0.1:1\"}\n  - {port: 443, bind: \"127.0.0.1:2\", protocol: HTTPS}\n  \
         - {port: 8443, bind: \"127.0.0.1:3\", protocol: HTTPS}\n  \
         - {port: 9443, bind: \"127.0.0.1:4\", protocol: TLS}\n",
    );
    let [dialect::Object { spec: dialect::Spec::Pool(pool), .. }] = &pool[..] else { panic!("a pool") };
    let mut environment = crate::set::demo();
    environment.pools.insert(environment.default_pool.clone(), pool.clone());
    dialect::compile(&crate::set::objects(objects), &environment)
}

fn asked<'c>(compiled: &'c Compiled, listener: &str) -> Option<&'c ClientCertificates> {
    let id = format!("default/web/{listener}");
    let found = compiled.config.listeners.iter().find(|each| each.id.0 == id).expect("it is served");
    found.client_certificates.as_deref()
}

fn said(compiled: &Compiled, listener: &str, kind: &str) -> String {
    condition(compiled, "Gateway default/web", &Scope::Listener(listener.into()), kind)
}

#[test]
fn a_gateway_says_it_for_its_listeners_of_https_by_port() {
    let frontend = format!(
        "default: {{validation: {{{REF}}}}}, \
         perPort: [{{port: 8443, tls: {{validation: {{{REF}, mode: AllowInsecureFallback}}}}}}]"
    );
    let compiled = set(&(gateway(&frontend) + CA));
    assert_eq!(compiled.warnings, []);
    let (a, b) = (asked(&compiled, "a").unwrap(), asked(&compiled, "b").unwrap());
    assert_eq!(a.mode, ClientCertificateMode::Required);
    assert_eq!(b.mode, ClientCertificateMode::InsecureFallback);
    assert!(a.authorities_pem.contains("BEGIN CERTIFICATE") && a.forward.is_none());
    assert_eq!(a.origin.field, "spec.tls.frontend.default.validation");
    assert_eq!(b.origin.field, "spec.tls.frontend.perPort[0].tls.validation");
    assert!(asked(&compiled, "http").is_none() && asked(&compiled, "raw").is_none());
    assert!(compiled.config.features().contains(&Feature::ClientCertificates));
    let insecure = |compiled: &Compiled| {
        let [gateway] = &compiled.statuses[..1] else { panic!("{:?}", compiled.statuses) };
        gateway.conditions.iter().any(|c| {
            (c.kind.as_str(), c.status, c.reason.as_str())
                == ("InsecureFrontendValidationMode", true, "ConfigurationChanged")
        })
    };
    assert!(insecure(&compiled));

    let frontend = format!("default: {{validation: {{{REF}}}}}, perPort: [{{port: 8443, tls: {{}}}}]");
    let compiled = set(&(gateway(&frontend) + CA));
    assert!(asked(&compiled, "a").is_some() && asked(&compiled, "b").is_none() && !insecure(&compiled));
}

#[test]
fn a_policy_goes_over_what_the_gateway_says() {
    let frontend = format!("default: {{validation: {{{REF}, mode: AllowInsecureFallback}}}}");
    let objects = gateway(&frontend)
        + CA
        + &policy("a", "mode: Optional, subjectAltNames: [\"spiffe://x\"], forward: {details: [URI, Chain]}")
        + &policy("b", "forward: {}")
        + &policy("raw", REF);
    let compiled = set(&objects);
    assert_eq!(compiled.warnings, []);
    let (a, b) = (asked(&compiled, "a").unwrap(), asked(&compiled, "b").unwrap());
    assert_eq!((a.mode, &a.names[..]), (ClientCertificateMode::Optional, &["spiffe://x".to_owned()][..]));
    assert_eq!(a.forward.as_deref(), Some(&[CertificateDetail::Uri, CertificateDetail::Chain][..]));
    assert_eq!(b.mode, ClientCertificateMode::InsecureFallback, "as the Gateway says");
    assert_eq!(b.forward.as_ref().map(Vec::len), Some(3));
    let raw = asked(&compiled, "raw").unwrap();
    assert_eq!((raw.mode, raw.origin.kind.as_str()), (ClientCertificateMode::Required, "ListenerPolicy"));
}

#[test]
fn where_nobody_vouches_for_clients_nobody_is_served() {
    let two = "caCertificateRefs: [{group: \"\", kind: ConfigMap, name: none}, {group: \"\", kind: ConfigMap, name: ca}]";
    for (frontend, policies, accepted, resolved) in [
        (format!("default: {{validation: {{{REF}}}}}"), String::new(), "false NoValidCACertificate", "false InvalidCACertificateRef"),
        (
            "default: {validation: {caCertificateRefs: [{group: \"\", kind: ConfigMap, name: ca, namespace: x}]}}".to_owned(),
            CA.replace("{name: ca}", "{name: ca, namespace: x}"),
            "false NoValidCACertificate",
            "false RefNotPermitted",
        ),
        ("default: {}".to_owned(), policy("a", "mode: Required"), "false NoValidCACertificate", "true ResolvedRefs"),
        ("default: {}".to_owned(), policy("a", "subjectAltNames: [x]"), "false NoValidCACertificate", "true ResolvedRefs"),
        ("default: {}".to_owned(), policy("a", "forward: {}"), "true Accepted", "true ResolvedRefs"),
        // One authority of two is enough.
        (format!("default: {{validation: {{{two}}}}}"), CA.to_owned(), "true Accepted", "false InvalidCACertificateRef"),
    ] {
        let compiled = set(&(gateway(&frontend) + &policies));
        assert_eq!((said(&compiled, "a", "Accepted").as_str(), said(&compiled, "a", "ResolvedRefs").as_str()), (accepted, resolved), "{frontend}");
        let served = compiled.config.listeners.iter().any(|each| each.id.0 == "default/web/a");
        assert_eq!(served, accepted == "true Accepted", "{frontend}");
        assert!(compiled.config.listeners.iter().any(|each| each.protocol == ListenerProtocol::Http));
    }
    let grant = "---\napiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\n\
                 metadata: {name: g, namespace: x}\nspec:\n  \
                 from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: default}]\n  \
                 to: [{group: \"\", kind: ConfigMap}]\n";
    let frontend = "default: {validation: {caCertificateRefs: [{group: \"\", kind: ConfigMap, name: ca, namespace: x}]}}";
    let compiled = set(&(gateway(frontend) + &CA.replace("{name: ca}", "{name: ca, namespace: x}") + grant));
    assert!(asked(&compiled, "a").is_some());
}

#[test]
fn a_policy_for_listeners_without_tls_says_so() {
    let compiled = set(&(gateway("default: {}") + CA + &policy("http", REF)));
    let accepted = condition(&compiled, "ListenerPolicy default/p-http", &Scope::Object, "Accepted");
    assert_eq!(accepted, "false Invalid");
    assert!(
        compiled.warnings[0].to_string().contains("clientCertificates means nothing to"),
        "{:?}",
        compiled.warnings
    );
}

#[test]
fn gateways_that_share_a_port_and_hostname_ask_for_the_same() {
    let frontend = format!("default: {{validation: {{{REF}}}}}");
    let two = gateway(&frontend) + &gateway("default: {}").replace("{name: web}", "{name: web2}") + CA;
    let config = set(&two).config;
    let errors = model::RouteTable::compile(&config, &model::CompileLimits::default()).map(drop).unwrap_err();
    let text = format!("{errors:?}");
    assert!(text.contains("asks clients of the same port and hostname for other certificates"), "{text}");
    let alike = gateway(&frontend) + &gateway(&frontend).replace("{name: web}", "{name: web2}") + CA;
    assert!(model::RouteTable::compile(&set(&alike).config, &model::CompileLimits::default()).is_ok());
}

#[test]
fn mistakes_are_told() {
    let many = |port: &str| {
        format!("default: {{}}, perPort: [{{port: 443, tls: {{}}}}, {{port: {port}, tls: {{}}}}]")
    };
    for (objects, expect) in [
        (gateway("perPort: []"), "spec.tls.frontend.default: it is missing"),
        (gateway(&many("443")), "spec.tls.frontend.perPort[1]: port 443 is named twice; remove either"),
        (gateway(&many("0")), "spec.tls.frontend.perPort[1].port"),
        (
            gateway("default: {validation: {caCertificateRefs: []}}"),
            "caCertificateRefs: nobody could vouch for clients; name a ConfigMap with ca.crt",
        ),
        (
            gateway("default: {validation: {mode: AllowValidOnly}}"),
            "validation.caCertificateRefs: it is missing",
        ),
        (
            gateway(&format!("default: {{validation: {{{REF}, mode: Required}}}}")),
            "\"Required\" is not a way to validate clients; use AllowValidOnly or AllowInsecureFallback",
        ),
        (
            gateway("default: {validation: {caCertificateRefs: [{group: \"\", kind: Secret, name: ca}]}}"),
            "\"Secret\" is not a kind of authorities",
        ),
        (policy("a", "mode: Strict"), "\"Strict\" is not a way to validate clients"),
        (policy("a", "certificateHashes: [abc]"), "certificateHashes[0]: it is no SHA-256"),
        (policy("a", "publicKeyHashes: [\"AAAA\"]"), "publicKeyHashes[0]: it is no SHA-256"),
        (policy("a", "forward: {details: [Hash]}"), "\"Hash\" is not a detail of certificates"),
        (policy("a", "subjectAltNames: [\"\"]"), "subjectAltNames[0]"),
        (
            gateway("default: {}").replace("{mode: Terminate}", "{mode: Terminate, frontendValidation: {}}"),
            "a Gateway says it for its ports; write it as spec.tls.frontend.default.validation",
        ),
        (
            CA.replace("data:\n", "data:\n  ca.crl: nothing\n"),
            "data.ca.crl: there is no list of revoked certificates in it",
        ),
    ] {
        let mistakes = dialect::parse(&[file(&objects)]).map(|_| ()).expect_err(expect);
        let text: String = mistakes.iter().map(|mistake| format!("{mistake}\n")).collect();
        assert!(text.contains(expect), "{expect}: {text}");
    }
    let _whole = compile(CA);
}
