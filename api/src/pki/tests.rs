use std::{os::unix::fs::PermissionsExt as _, sync::Arc};

use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier as _},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
};

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn ca() -> Ca {
    Ca::create("test-installation", now()).unwrap()
}

fn request(kind: RoleKind, name: &str) -> Request {
    Request { kind, name: name.to_owned(), dns: vec![], ips: vec![], lifetime: DAY }
}

/// Whether a TLS client that pins `ca` takes `cert_pem` for `host` at `at`.
fn trusts(ca: &Ca, cert_pem: &str, host: &str, at: SystemTime) -> bool {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.cert_pem().as_bytes()).unwrap()).unwrap();
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
    let leaf = CertificateDer::from_pem_slice(cert_pem.as_bytes()).unwrap();
    let at = UnixTime::since_unix_epoch(at.duration_since(UNIX_EPOCH).unwrap());
    let name = ServerName::try_from(host.to_owned()).unwrap();
    verifier.verify_server_cert(&leaf, &[], &name, &[], at).is_ok()
}

#[test]
fn an_issued_certificate_says_its_role() {
    let ca = ca();
    for kind in RoleKind::ALL {
        let identity = ca.issue(&request(kind, "w-1"), now()).unwrap();
        let role = role_of(&der_of(&identity.cert_pem).unwrap()).unwrap();
        assert_eq!(role, Role { installation: "test-installation".into(), kind, name: "w-1".into() });
    }
}

#[test]
fn only_servers_carry_the_servers_name() {
    let ca = ca();
    let server = ca.issue(&request(RoleKind::Server, "1"), now()).unwrap();
    assert!(trusts(&ca, &server.cert_pem, SERVER_NAME, now()));
    let node = ca.issue(&request(RoleKind::Node, "n"), now()).unwrap();
    assert!(!trusts(&ca, &node.cert_pem, SERVER_NAME, now()));
    for dns in ["Server.weir.internal", "*.weir.internal"] {
        let greedy = Request { dns: vec![dns.into()], ..request(RoleKind::Edge, "e") };
        assert!(ca.issue(&greedy, now()).is_err(), "{dns}");
    }
}

#[test]
fn a_certificate_ends_with_its_lifetime_and_its_ca() {
    let ca = ca();
    let server = ca.issue(&request(RoleKind::Server, "1"), now()).unwrap();
    assert!(!trusts(&ca, &server.cert_pem, SERVER_NAME, now() + DAY + DAY));
    let other = Ca::create("test-installation", now()).unwrap();
    assert!(!trusts(&other, &server.cert_pem, SERVER_NAME, now()));
}

#[test]
fn addresses_and_names_are_in_the_certificate() {
    let ca = ca();
    let identity = ca
        .issue(
            &Request {
                dns: vec!["a.example.com".into()],
                ips: vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()],
                ..request(RoleKind::Server, "1")
            },
            now(),
        )
        .unwrap();
    for host in ["a.example.com", "127.0.0.1", "::1"] {
        assert!(trusts(&ca, &identity.cert_pem, host, now()), "{host}");
    }
    assert!(!trusts(&ca, &identity.cert_pem, "b.example.com", now()));
}

#[test]
fn a_serving_certificate_has_hosts_and_no_role() {
    let ca = ca();
    let hosts: Vec<_> =
        ["localhost", "acme.localhost", "*.acme.localhost"].into_iter().map(str::to_owned).collect();
    let identity = ca.issue_serving(&hosts, DAY, now()).unwrap();
    assert_eq!(role_of(&der_of(&identity.cert_pem).unwrap()), None);
    for host in ["localhost", "acme.localhost", "shop.acme.localhost"] {
        assert!(trusts(&ca, &identity.cert_pem, host, now()), "{host}");
    }
    for host in ["beta.localhost", "a.b.acme.localhost", SERVER_NAME] {
        assert!(!trusts(&ca, &identity.cert_pem, host, now()), "{host}");
    }
}

#[test]
fn the_ca_is_the_same_after_it_was_stored() {
    let directory = tempfile::tempdir().unwrap();
    let ca = ca();
    ca.store(directory.path()).unwrap();
    let loaded = Ca::load(directory.path()).unwrap();
    assert_eq!(loaded.installation(), "test-installation");
    let identity = loaded.issue(&request(RoleKind::Server, "1"), now()).unwrap();
    assert!(trusts(&ca, &identity.cert_pem, SERVER_NAME, now()));
    let mode = std::fs::metadata(directory.path().join("ca.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // Again over the old files.
    ca.store(directory.path()).unwrap();
}

#[test]
fn a_key_of_another_ca_is_refused() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    ca().store(one.path()).unwrap();
    ca().store(two.path()).unwrap();
    let (a, b) = (load(one.path(), "ca").unwrap(), load(two.path(), "ca").unwrap());
    assert!(Ca::from_pem(&a.cert_pem, &b.key_pem).is_err());
}

#[test]
fn texts_that_are_no_roles_are_refused() {
    for bad in [
        "weir://i/server",
        "weir://i/server/a/b",
        "weir://i/admin/a",
        "weir:///server/a",
        "weir://i/edge/",
        "weir://i/edge/A b",
        "https://i/edge/a",
    ] {
        assert_eq!(bad.parse::<Role>(), Err(InvalidRole), "{bad}");
    }
    assert_eq!(role_of(b"not a certificate"), None);
}

#[test]
fn a_serving_certificate_never_poses_as_a_server() {
    let ca = Ca::create("i", SystemTime::now()).unwrap();
    let issue = |host: &str| {
        let hosts = ["shop.example.com".to_owned(), host.to_owned()];
        ca.issue_serving(&hosts, Duration::from_secs(3600), SystemTime::now())
    };
    for host in [SERVER_NAME, "*.weir.internal", "SERVER.weir.internal", "*.internal"] {
        assert!(issue(host).unwrap_err().to_string().contains("only a server"), "{host}");
    }
    for host in ["weir.internal", "a.weir.internal", "*.localhost"] {
        issue(host).unwrap();
    }
}
