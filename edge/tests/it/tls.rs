//! TLS: certificates by SNI, ALPN, and hosts that belong to somebody else.

use std::sync::Arc;

use edge::{Config, PoolSettings, TenantTable};
use model::{HostIndex, HostPattern, Revision, TenantId};
use rustls::{
    CipherSuite, ProtocolVersion, SupportedProtocolVersion,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::support::{Edge, Upstream, backend, secret};

/// Certificates for these hosts, each with its CA of its own, and a gateway that serves them.
pub(crate) struct Secured {
    pub(crate) yaml: String,
    pub(crate) roots: Vec<CertificateDer<'static>>,
}

pub(crate) fn secured(upstream: &Upstream, hosts: &[&str]) -> Secured {
    let mut roots = Vec::new();
    let (mut listeners, mut secrets) = (String::new(), String::new());
    for (number, host) in hosts.iter().enumerate() {
        let made = rcgen::generate_simple_self_signed([(*host).to_owned()]).unwrap();
        roots.push(made.cert.der().clone());
        secrets += &secret(&format!("cert{number}"), &made.cert.pem(), &made.signing_key.serialize_pem());
        listeners += &format!(
            "  - {{name: l{number}, port: 443, protocol: HTTPS, hostname: {host}, \
             tls: {{certificateRefs: [{{name: cert{number}}}]}}}}\n"
        );
    }
    let yaml = format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: gateway}}
spec:
  gatewayClassName: weir
  listeners:
{listeners}---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: all}}
spec:
  parentRefs: [{{name: gateway}}]
  rules:
  - backendRefs: [{{group: weir.dev, kind: Backend, name: up}}]
{}{secrets}",
        backend("up", upstream.address)
    );
    Secured { yaml, roots }
}

pub(crate) fn client_config(roots: &[CertificateDer<'static>], alpn: &[&[u8]]) -> Arc<rustls::ClientConfig> {
    client_of(rustls::DEFAULT_VERSIONS, roots, alpn)
}

fn client_of(
    versions: &[&'static SupportedProtocolVersion],
    roots: &[CertificateDer<'static>],
    alpn: &[&[u8]],
) -> Arc<rustls::ClientConfig> {
    let mut store = rustls::RootCertStore::empty();
    roots.iter().for_each(|root| store.add(root.clone()).unwrap());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(store)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    Arc::new(config)
}

pub(crate) async fn connect(
    edge: &Edge,
    config: &Arc<rustls::ClientConfig>,
    host: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(edge.at(443)).await?;
    TlsConnector::from(Arc::clone(config))
        .connect(ServerName::try_from(host.to_owned()).unwrap(), stream)
        .await
}

async fn ask(stream: &mut TlsStream<TcpStream>, host: &str) -> String {
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    response
}

#[test]
fn the_certificate_is_the_hosts() {
    let upstream = Upstream::saying("secret");
    let secured = secured(&upstream, &["a.test", "b.test"]);
    let edge = Edge::start(&secured.yaml);
    edge.runtime.block_on(async {
        for (host, root) in [("a.test", 0), ("b.test", 1)] {
            let config = client_config(&secured.roots[root..=root], &[b"http/1.1"]);
            let mut stream = connect(&edge, &config, host).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
            let response = ask(&mut stream, host).await;
            assert!(response.starts_with("HTTP/1.1 200") && response.ends_with("secret"), "{response}");
            let wrong = client_config(&secured.roots[1 - root..2 - root], &[]);
            assert!(connect(&edge, &wrong, host).await.is_err(), "the other host's certificate is not shown");
        }
    });
    assert_eq!(upstream.last().header("x-forwarded-proto"), Some("https"));
    let metrics = edge.control.metrics();
    assert!(metrics.contains("weir_edge_tls_handshakes_total "), "{metrics}");
}

#[test]
fn a_connection_lives_through_much_data_and_new_keys() {
    // Each body goes there and back.
    let upstream = Upstream::start(|exchange, request| {
        let body = String::from_utf8(request.body.clone()).unwrap();
        exchange.reply(&body);
    });
    let secured = secured(&upstream, &["a.test"]);
    let edge = Edge::start(&secured.yaml);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = client_of(&[version], &secured.roots, &[b"http/1.1"]);
        edge.runtime.block_on(async {
            let mut stream = connect(&edge, &config, "a.test").await.unwrap();
            for size in [1, 400_000, 5, 16_384, 70_000] {
                if version.version == ProtocolVersion::TLSv1_3 {
                    stream.get_mut().1.refresh_traffic_keys().unwrap();
                }
                let body: String = ('a'..='w').cycle().take(size).collect();
                let head = format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {size}\r\n\r\n");
                let (mut reading, mut writing) = tokio::io::split(&mut stream);
                let asking = async {
                    writing.write_all(head.as_bytes()).await.unwrap();
                    writing.write_all(body.as_bytes()).await.unwrap();
                    writing.flush().await.unwrap();
                };
                let answered = async {
                    let mut answer = Vec::new();
                    while !answer.ends_with(b"\r\n\r\n") {
                        answer.push(reading.read_u8().await.unwrap());
                    }
                    let mut echo = vec![0; size];
                    reading.read_exact(&mut echo).await.unwrap();
                    echo
                };
                let ((), echo) = tokio::join!(asking, answered);
                assert!(echo == body.as_bytes(), "{size} bytes by {version:?}");
            }
            let response = ask(&mut stream, "a.test").await;
            assert!(response.starts_with("HTTP/1.1 200"), "{response}");
        });
    }
}

#[test]
fn of_the_ciphers_that_a_client_offers_the_cheapest_safe_one_is_taken() {
    let upstream = Upstream::saying("x");
    let secured = secured(&upstream, &["a.test"]);
    let edge = Edge::start(&secured.yaml);
    let every = rustls::crypto::aws_lc_rs::default_provider().cipher_suites;
    let only =
        |wanted: CipherSuite| every.iter().copied().filter(|s| s.suite() == wanted).collect::<Vec<_>>();
    let aes_256 = only(CipherSuite::TLS13_AES_256_GCM_SHA384);
    edge.runtime.block_on(async {
        for (cipher_suites, taken) in [
            // In an order of the client's own, which begins with AES-256.
            (every.clone(), CipherSuite::TLS13_AES_128_GCM_SHA256),
            (aes_256, CipherSuite::TLS13_AES_256_GCM_SHA384),
        ] {
            let mut store = rustls::RootCertStore::empty();
            store.add(secured.roots[0].clone()).unwrap();
            let provider = CryptoProvider { cipher_suites, ..rustls::crypto::aws_lc_rs::default_provider() };
            let config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .unwrap()
                .with_root_certificates(store)
                .with_no_client_auth();
            let stream = connect(&edge, &Arc::new(config), "a.test").await.unwrap();
            assert_eq!(stream.get_ref().1.negotiated_cipher_suite().map(|suite| suite.suite()), Some(taken));
        }
    });
}

#[test]
fn alpn_prefers_http_2() {
    let upstream = Upstream::saying("x");
    let secured = secured(&upstream, &["a.test"]);
    let edge = Edge::start(&secured.yaml);
    edge.runtime.block_on(async {
        for (offer, agreed) in [
            (&[&b"http/1.1"[..], b"h2"][..], Some(&b"h2"[..])),
            (&[b"http/1.1"], Some(b"http/1.1")),
            (&[], None),
        ] {
            let config = client_config(&secured.roots, offer);
            let stream = connect(&edge, &config, "a.test").await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), agreed);
        }
    });
}

#[test]
fn sessions_resume() {
    let upstream = Upstream::saying("x");
    let secured = secured(&upstream, &["a.test"]);
    let edge = Edge::start(&secured.yaml);
    let config = client_config(&secured.roots, &[b"http/1.1"]);
    edge.runtime.block_on(async {
        for expect in [rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed] {
            let mut stream = connect(&edge, &config, "a.test").await.unwrap();
            assert!(ask(&mut stream, "a.test").await.ends_with('x'));
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(expect));
        }
    });
}

#[test]
fn a_session_cannot_ask_for_another_tenants_host() {
    let upstream = Upstream::saying("x");
    let secured = secured(&upstream, &["a.test"]);
    let edge = Edge::start(&secured.yaml);
    // The same table for two tenants, of which each owns one host.
    let tenant = |name: &str| -> TenantId { name.parse().unwrap() };
    let table = compile_table(&secured.yaml, "static");
    let hosts = [("a.test", "acme"), ("c.test", "acme"), ("b.test", "globex")]
        .map(|(host, owner)| (HostPattern::parse(host).unwrap(), tenant(owner)));
    let config = Config {
        hosts: Arc::new(HostIndex::new(hosts).unwrap()),
        tenants: [(tenant("acme"), Arc::clone(&table)), (tenant("globex"), table)].into_iter().collect(),
        revision: Revision(5),
        ..Config::empty(PoolSettings::new("default".parse().unwrap()))
    };
    edge.control.activate(config).unwrap();
    let client = client_config(&secured.roots, &[b"http/1.1"]);
    edge.runtime.block_on(async {
        for (host, status) in [("a.test", "200"), ("b.test", "421"), ("c.test", "404"), ("d.test", "404")] {
            let mut stream = connect(&edge, &client, "a.test").await.unwrap();
            let response = ask(&mut stream, host).await;
            assert!(response.starts_with(&format!("HTTP/1.1 {status}")), "{host}: {response}");
        }
    });
    let stale = Config::empty(PoolSettings::new("default".parse().unwrap()));
    assert!(edge.control.activate(stale).is_err(), "an older revision is never served again");
}

fn compile_table(yaml: &str, tenant: &str) -> Arc<TenantTable> {
    let file = dialect::SourceFile { name: "test.yaml".to_owned(), content: yaml.to_owned() };
    let loaded = edge::static_config::compile(file, Revision(1)).unwrap();
    Arc::clone(&loaded.config.tenants[tenant])
}

#[test]
fn what_is_no_certificate_is_refused() {
    let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
    assert!(CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).is_ok());
    for (chain, key, problem) in [
        (made.cert.pem(), made.signing_key.serialize_pem(), None),
        (made.cert.pem(), other.signing_key.serialize_pem(), Some("not the certificate's")),
        (String::new(), made.signing_key.serialize_pem(), Some("no certificate")),
        (made.cert.pem(), "hello".to_owned(), Some("not PEM")),
    ] {
        let loaded = edge::config::load_certificate(&chain, &key);
        match (loaded, problem) {
            (Ok(_), None) => {}
            (Err(error), Some(problem)) => assert!(error.contains(problem), "{error}"),
            (loaded, problem) => panic!("{problem:?}: {loaded:?}"),
        }
    }
}
