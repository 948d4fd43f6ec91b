//! Session tickets: resumed by another worker and another thread, by TLS 1.2, TLS 1.3 and QUIC, and by nobody else.

use std::{
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use api::tickets::TicketKeys;
use dialect::{Environment, SourceFile};
use edge::{Config, Keyring, Limits, TenantTable};
use model::{CompileLimits, HostIndex, HostPattern, Revision, TenantId};
use rustls::{
    ClientConfig, DigitallySignedStruct, HandshakeKind, SignatureScheme, SupportedProtocolVersion,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::{
    h3::{ask, client_endpoint, speak},
    support::{Edge, PATIENCE, Upstream, compile},
    tls::{Secured, client_config, secured},
};

const HOST: &str = "a.test";

fn keys(number: u8) -> Arc<Keyring> {
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut next = number;
    let keys = TicketKeys::first(now_s, &mut || {
        next += 1;
        ([next; 16], [next; 32])
    });
    Arc::new(Keyring::new(keys))
}

/// A worker that serves `yaml` with these keys, or its own.
fn worker(yaml: &str, ticket_keys: Option<Arc<Keyring>>) -> Edge {
    let edge = Edge::start(yaml);
    edge.control.activate(Config { ticket_keys, ..compile(yaml, 2).config }).unwrap();
    edge
}

fn client(secured: &Secured, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
    let mut store = rustls::RootCertStore::empty();
    secured.roots.iter().for_each(|root| store.add(root.clone()).unwrap());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    Arc::new(config.with_root_certificates(store).with_no_client_auth())
}

/// One request on a connection of its own; how its handshake went.
fn visit(edge: &Edge, address: std::net::SocketAddr, config: &Arc<ClientConfig>) -> HandshakeKind {
    edge.runtime.block_on(async {
        let visiting = async {
            let stream = TcpStream::connect(address).await.unwrap();
            let name = ServerName::try_from(HOST).unwrap();
            let mut stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await.unwrap();
            let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut response = String::new();
            stream.read_to_string(&mut response).await.unwrap();
            assert!(response.starts_with("HTTP/1.1 200"), "{response}");
            stream.get_ref().1.handshake_kind().unwrap()
        };
        timeout(PATIENCE, visiting).await.unwrap()
    })
}

/// Tickets issued, accepted, unknown and refused.
fn counts(edge: &Edge) -> [u64; 4] {
    let metrics = edge.control.metrics();
    ["issued", "accepted", "unknown", "refused"].map(|what| {
        let name = format!("weir_edge_tls_tickets_{what}_total ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&name)).unwrap();
        line.parse().unwrap()
    })
}

#[test]
fn a_session_of_one_worker_resumes_on_another_that_has_the_same_keys() {
    let upstream = Upstream::saying("x");
    let secured = secured(&upstream, &[HOST]);
    for version in [&TLS13, &TLS12] {
        let [one, two] = [keys(0), keys(0)].map(|keys| worker(&secured.yaml, Some(keys)));
        let stranger = worker(&secured.yaml, None);
        let config = client(&secured, &[version]);
        let at = |edge: &Edge| visit(edge, edge.at(443), &config);
        assert_eq!(at(&one), HandshakeKind::Full);
        assert_eq!(at(&two), HandshakeKind::Resumed, "{version:?}");
        assert_eq!(at(&one), HandshakeKind::Resumed, "{version:?}");
        assert_eq!((counts(&one), counts(&two)), ([2, 1, 0, 0], [1, 1, 0, 0]), "{version:?}");
        assert_eq!(at(&stranger), HandshakeKind::Full, "other keys");
        assert_eq!(counts(&stranger), [1, 0, 1, 0]);
    }
}

#[test]
fn threads_share_a_workers_own_keys_through_a_reload() {
    let upstream = Upstream::saying("x");
    let secured = secured(&upstream, &[HOST]);
    let mut edge = Edge::start_on(&secured.yaml, Limits::default(), &["127.0.0.1:0", "127.0.0.1:0"]);
    let config = client(&secured, &[&TLS13]);
    let [first, second] = edge.bound[..2] else { panic!("two addresses, a thread each") };
    assert_eq!(visit(&edge, first, &config), HandshakeKind::Full);
    assert_eq!(visit(&edge, second, &config), HandshakeKind::Resumed);
    edge.activate(&secured.yaml);
    assert_eq!(visit(&edge, first, &config), HandshakeKind::Resumed);
}

#[test]
fn a_host_that_becomes_another_tenants_takes_no_session_along() {
    let upstream = Upstream::saying("x");
    let secured = secured(&upstream, &[HOST]);
    let edge = worker(&secured.yaml, Some(keys(0)));
    let owned_by = |name: &str, revision| {
        let tenant: TenantId = name.parse().unwrap();
        let file = SourceFile { name: "test.yaml".to_owned(), content: secured.yaml.clone() };
        let objects = dialect::parse(&[file]).unwrap();
        // The same listener, route and certificate.
        let compiled = dialect::compile(&objects, &Environment::standalone(tenant.clone()));
        let table = TenantTable::compile(&compiled.config, &CompileLimits::default()).unwrap();
        let config = Config {
            hosts: Arc::new(HostIndex::new([(HostPattern::parse(HOST).unwrap(), tenant.clone())]).unwrap()),
            tenants: [(tenant, Arc::new(table))].into_iter().collect(),
            revision: Revision(revision),
            ticket_keys: Some(keys(0)),
            ..compile(&secured.yaml, 1).config
        };
        edge.control.activate(config).unwrap();
    };
    for (number, version) in [(0, &TLS13), (1, &TLS12)] {
        let config = client(&secured, &[version]);
        let visit = || visit(&edge, edge.at(443), &config);
        owned_by("acme", 10 + 10 * number);
        assert_eq!((visit(), visit()), (HandshakeKind::Full, HandshakeKind::Resumed), "{version:?}");
        owned_by("globex", 11 + 10 * number);
        assert_eq!((visit(), visit()), (HandshakeKind::Full, HandshakeKind::Resumed), "{version:?}");
        assert_eq!(counts(&edge)[2..], [0, 1 + number], "refused, not unknown");
    }
}

#[test]
fn a_session_does_not_outlive_the_certificate_that_it_was_begun_with() {
    let upstream = Upstream::saying("x");
    let (before, after) = (secured(&upstream, &[HOST]), secured(&upstream, &[HOST]));
    let mut edge = Edge::start(&before.yaml);
    let both = Secured { yaml: String::new(), roots: [&before.roots[..], &after.roots].concat() };
    let config = client(&both, &[&TLS13]);
    let visit = |edge: &Edge| visit(edge, edge.at(443), &config);
    assert_eq!((visit(&edge), visit(&edge)), (HandshakeKind::Full, HandshakeKind::Resumed));
    edge.activate(&after.yaml);
    assert_eq!((visit(&edge), visit(&edge)), (HandshakeKind::Full, HandshakeKind::Resumed));
}

/// Counts how often a server has to prove who it is: never, where a session resumes.
#[derive(Debug)]
struct Counting {
    inner: Arc<WebPkiServerVerifier>,
    proofs: AtomicUsize,
}

impl ServerCertVerifier for Counting {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.proofs.fetch_add(1, Ordering::SeqCst);
        self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[test]
fn a_quic_session_resumes_on_another_worker_and_brings_no_early_data() {
    let upstream = Upstream::saying("x");
    let secured = secured(&upstream, &[HOST]);
    let [one, two] = [keys(0), keys(0)].map(|keys| worker(&secured.yaml, Some(keys)));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut store = rustls::RootCertStore::empty();
    secured.roots.iter().for_each(|root| store.add(root.clone()).unwrap());
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider).build().unwrap();
    let verifier = Arc::new(Counting { inner, proofs: AtomicUsize::new(0) });
    let mut tls = ClientConfig::clone(&client_config(&secured.roots, &[b"h3"]));
    tls.dangerous().set_certificate_verifier(Arc::clone(&verifier) as Arc<dyn ServerCertVerifier>);
    tls.enable_early_data = true;
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let quic = quinn::ClientConfig::new(Arc::new(crypto));
    for (edge, proofs) in [(&one, 1), (&two, 1), (&one, 1)] {
        edge.runtime.block_on(async {
            let mut endpoint = client_endpoint(&secured);
            endpoint.set_default_client_config(quic.clone());
            let connecting = endpoint.connect(edge.udp_at(443), HOST).unwrap();
            // 0-RTT is what a ticket would have to allow.
            let connecting = connecting.into_0rtt().map(drop).expect_err("no early data");
            let connection = timeout(PATIENCE, connecting).await.unwrap().unwrap();
            let mut sender = speak(connection.clone()).await;
            let request = http::Request::get(format!("https://{HOST}/")).body(()).unwrap();
            assert_eq!(timeout(PATIENCE, ask(&mut sender, request)).await.unwrap().0, 200);
        });
        assert_eq!(verifier.proofs.load(Ordering::SeqCst), proofs);
    }
    assert_eq!((counts(&one), counts(&two)), ([2, 1, 0, 0], [1, 1, 0, 0]));
}

/// OpenSSL keeps a session in a file and shows it to another worker.
#[test]
fn openssl_resumes_on_another_worker() {
    let upstream = Upstream::saying("x");
    let secured = secured(&upstream, &[HOST]);
    let directory = tempfile::tempdir().unwrap();
    let session = directory.path().join("session").display().to_string();
    let ask = |edge: &Edge, version: &str, with: &str| -> Option<String> {
        let mut child = Command::new("openssl")
            .args(["s_client", "-connect", &edge.at(443).to_string(), "-servername", HOST, version])
            .args([with, &session, "-ign_eof"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        use std::io::Write as _;
        let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
        child.stdin.take().unwrap().write_all(request.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    for version in ["-tls1_3", "-tls1_2"] {
        let [one, two] = [keys(0), keys(0)].map(|keys| worker(&secured.yaml, Some(keys)));
        let Some(first) = ask(&one, version, "-sess_out") else {
            return println!("skipped: there is no openssl");
        };
        assert!(first.contains("New, TLS") && first.contains("HTTP/1.1 200"), "{first}");
        let second = ask(&two, version, "-sess_in").unwrap();
        assert!(second.contains("Reused, TLS") && second.contains("HTTP/1.1 200"), "{second}");
    }
}
