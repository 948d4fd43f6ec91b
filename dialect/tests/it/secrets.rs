//! Certificates.

use dialect::{Object, Spec};
use model::{CertificateId, CompileLimits, RouteTable};

use crate::set::{compile, file, gateway, objects};

struct Pair {
    chain: String,
    key: String,
}

fn pair(hosts: &[&str]) -> Pair {
    let made = rcgen::generate_simple_self_signed(hosts.iter().map(ToString::to_string).collect::<Vec<_>>())
        .unwrap();
    Pair { chain: made.cert.pem(), key: made.signing_key.serialize_pem() }
}

/// A Secret as text; JSON is YAML, and keeps line breaks.
fn secret(chain: &str, key: &str) -> String {
    let json = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "tls"},
        "type": "kubernetes.io/tls",
        "stringData": {"tls.crt": chain, "tls.key": key},
    });
    format!("\n---\n{json}\n")
}

fn hosts(object: &Object) -> Vec<String> {
    let Spec::TlsSecret(spec) = &object.spec else { panic!("a secret") };
    spec.hosts.iter().map(ToString::to_string).collect()
}

#[track_caller]
fn check(content: &str, expect: &[&str]) {
    let mistakes = dialect::parse(&[file(content)]).map(|_| ()).unwrap_err();
    let text: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
    assert!(
        text.iter().any(|line| expect.iter().all(|part| line.contains(part))),
        "{expect:?} not in {text:#?}"
    );
}

#[test]
fn a_certificate_serves_its_listener() {
    let pair = pair(&["demo.localhost", "*.demo.localhost", "127.0.0.1"]);
    let text = secret(&pair.chain, &pair.key);
    assert_eq!(hosts(&objects(&text)[0]), ["demo.localhost", "*.demo.localhost"]);

    let listener = "{name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: tls}]}}";
    let compiled = compile(&format!("{text}{}", gateway(listener)));
    assert!(compiled.warnings.is_empty(), "{:?}", compiled.warnings);
    assert_eq!(compiled.config.listeners[0].certificates, [CertificateId("default/tls".into())]);
    assert_eq!(compiled.config.certificates[0].key_pem, pair.key);
    assert!(RouteTable::compile(&compiled.config, &CompileLimits::default()).is_ok());
}

#[test]
fn base64_is_read_also_when_it_is_wrapped() {
    let pair = pair(&["a.com"]);
    let encode = |text: &str| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text);
    let chain = encode(&pair.chain);
    let (one, two) = chain.split_at(76);
    let text = secret(&format!("{one}\n{two}\n"), &encode(&pair.key)).replace("stringData", "data");
    assert_eq!(hosts(&objects(&text)[0]), ["a.com"]);
}

#[test]
fn what_is_wrong_with_a_secret_is_told() {
    let (one, two) = (pair(&["a.com"]), pair(&["b.com"]));
    check(
        &secret(&one.chain, &two.key),
        &["Secret default/tls stringData.tls.key: the key is not that of the first"],
    );
    check(&secret("x", &one.key), &["stringData.tls.crt: there is no certificate in it"]);
    check(&secret(&one.chain, "x"), &["stringData.tls.key: there is no private key in it", "passphrase"]);
    check(
        &secret(&one.chain, &one.key).replace("stringData", "data"),
        &["data.tls.crt: it is not text in base64"],
    );
    check(&secret(&one.chain, &one.key).replace("stringData", "x"), &["it has no data; add stringData"]);
    check(&secret(&one.chain, &one.key).replace("tls.key", "key"), &["it has no tls.key"]);
    check(
        &secret(&one.chain, &one.key).replace("kubernetes.io/tls", "Opaque"),
        &["type:", "write kubernetes.io/tls"],
    );
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    check(&secret(garbage, &one.key), &["stringData.tls.crt: its first certificate cannot be read"]);
}

#[test]
fn a_key_is_never_printed() {
    let pair = pair(&["a.com"]);
    let secret_line = pair.key.lines().nth(1).unwrap().to_owned();
    let objects = objects(&secret(&pair.chain, &pair.key));
    assert!(!format!("{objects:?}").contains(&secret_line));
    let mistakes = dialect::parse(&[file(&secret(&pair.key, &pair.key))]).map(|_| ()).unwrap_err();
    assert!(!format!("{mistakes:?}").contains(&secret_line), "{mistakes:?}");
    let shifted = secret(&pair.chain, &pair.key).replace("\"stringData\":{", "\"stringData\":7,\"x\":{");
    let mistakes = dialect::parse(&[file(&shifted)]).map(|_| ()).unwrap_err();
    assert!(!format!("{mistakes:?}").contains(&secret_line), "{mistakes:?}");
}
