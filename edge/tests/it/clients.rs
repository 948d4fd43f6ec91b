//! Certificates of clients: who comes in, what upstreams and logs hear of it, and connections that ask elsewhere.

use std::{
    net::SocketAddr,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod,
    KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use rustls::{
    ClientConfig, HandshakeKind,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    version::{TLS12, TLS13},
};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use x509_parser::time::ASN1Time;

use crate::{
    h2, h3,
    support::{Edge, PATIENCE, Upstream, has, pause},
    tls::{Secured, secured},
};

const HOST: &str = "a.test";

/// An authority.
struct Authority {
    name: &'static str,
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate of a client, with its key.
#[derive(Clone)]
struct Certified {
    pem: String,
    key_pem: String,
}

impl Certified {
    fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()
    }

    /// In hexadecimal.
    fn fingerprint(&self) -> String {
        Sha256::digest(self.der()).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl Authority {
    fn new(name: &'static str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { name, issuer: Issuer::new(params, key), pem }
    }

    fn signs_with(&self, change: impl FnOnce(&mut CertificateParams)) -> Certified {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Acme");
        params.distinguished_name.push(DnType::CommonName, "client");
        params.subject_alt_names = vec![
            SanType::URI("spiffe://acme/client".try_into().unwrap()),
            SanType::DnsName("client.acme.test".try_into().unwrap()),
        ];
        params.serial_number = Some(SerialNumber::from(vec![0x0a, 0xbc]));
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let made = params.signed_by(&key, &self.issuer).unwrap();
        Certified { pem: made.pem(), key_pem: key.serialize_pem() }
    }

    fn signs(&self) -> Certified {
        self.signs_with(|_| {})
    }

    /// A list with that serial number.
    fn revokes(&self, serial: &[u8]) -> String {
        let now = ASN1Time::now().to_datetime();
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(serial.to_vec()),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: now,
            next_update: now + Duration::from_secs(3600),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    fn config_map(&self, revoked: Option<&str>) -> String {
        let indent = |pem: &str| pem.lines().map(|line| format!("    {line}\n")).collect::<String>();
        let mut text = format!(
            "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {}}}\ndata:\n  ca.crt: |\n{}",
            self.name,
            indent(&self.pem)
        );
        if let Some(revoked) = revoked {
            text += &format!("  ca.crl: |\n{}", indent(revoked));
        }
        text
    }
}

/// The Gateway asks clients of its ports for certificates of that authority.
fn asking(secured: &Secured, authority: &Authority, mode: &str) -> String {
    let validation = format!(
        "gatewayClassName: weir\n  tls: {{frontend: {{default: {{validation: {{mode: {mode}, \
         caCertificateRefs: [{{group: \"\", kind: ConfigMap, name: {}}}]}}}}}}}}\n",
        authority.name
    );
    secured.yaml.replacen("gatewayClassName: weir\n", &validation, 1) + &authority.config_map(None)
}

/// A ListenerPolicy for a listener of the Gateway.
fn policy(section: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: weir.dev/v1\nkind: ListenerPolicy\nmetadata: {{name: policy-{section}}}\nspec: {{targetRefs: \
         [{{group: gateway.networking.k8s.io, kind: Gateway, name: gateway, sectionName: {section}}}], {spec}}}\n"
    )
}

const FORWARD: &str = "clientCertificates: {forward: {}}";

fn client(secured: &Secured, shown: Option<&Certified>, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    client_of(secured, shown, alpn, &[&TLS13, &TLS12])
}

fn client_of(
    secured: &Secured,
    shown: Option<&Certified>,
    alpn: &[&[u8]],
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let mut store = rustls::RootCertStore::empty();
    secured.roots.iter().for_each(|root| store.add(root.clone()).unwrap());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let builder = builder.with_root_certificates(store);
    let mut config = match shown {
        None => builder.with_no_client_auth(),
        Some(shown) => {
            let key = PrivateKeyDer::from_pem_slice(shown.key_pem.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![shown.der()], key).unwrap()
        }
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}

type Stream = tokio_rustls::client::TlsStream<TcpStream>;

async fn dial(address: SocketAddr, config: &Arc<ClientConfig>, name: &str) -> std::io::Result<Stream> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::clone(config)).connect(name, stream).await
}

/// One response on a connection that goes on.
async fn ask(stream: &mut Stream, host: &str) -> std::io::Result<String> {
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-Client-Cert: Hash=00;URI=spiffe://acme/admin\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut response = Vec::new();
    // The upstream says one byte, and the edge as many as it likes.
    while !response.windows(4).any(|end| end == b"\r\n\r\n") || response.ends_with(b"\r\n\r\n") {
        let mut part = [0; 4096];
        match timeout(PATIENCE, stream.read(&mut part)).await.unwrap()? {
            0 => break,
            count => response.extend_from_slice(&part[..count]),
        }
    }
    Ok(String::from_utf8(response).unwrap())
}

/// The status that a client is answered with on a connection of its own; `None`: it does not come in. With TLS 1.3 it hears of
/// that after its own handshake.
fn status(edge: &Edge, config: &Arc<ClientConfig>) -> Option<(String, HandshakeKind)> {
    edge.runtime.block_on(async {
        let mut stream = dial(edge.at(443), config, HOST).await.ok()?;
        let response = ask(&mut stream, HOST).await.ok().filter(|response| !response.is_empty())?;
        Some((response[9..12].to_owned(), stream.get_ref().1.handshake_kind()?))
    })
}

fn comes_in(edge: &Edge, config: &Arc<ClientConfig>) -> bool {
    match status(edge, config) {
        None => false,
        Some((status, _)) => {
            assert_eq!(status, "200");
            true
        }
    }
}

fn upstream() -> Upstream {
    Upstream::saying("x")
}

#[test]
fn who_comes_in_is_the_modes_to_say() {
    let (upstream, ca, other) = (upstream(), Authority::new("ca"), Authority::new("other"));
    let secured = secured(&upstream, &[HOST]);
    let now = ASN1Time::now().to_datetime();
    let (good, foreign) = (ca.signs(), other.signs());
    let over = ca.signs_with(|params| params.not_after = now - Duration::from_secs(60));
    let early = ca.signs_with(|params| params.not_before = now + Duration::from_secs(3600));
    // Certificates of a namesake: the same subject, another key.
    let namesake = Authority::new("ca").signs();
    for (mode, lets_in) in [
        ("AllowValidOnly", [true, false, false]),
        ("Optional", [true, true, false]),
        ("AllowInsecureFallback", [true, true, true]),
    ] {
        let yaml = match mode {
            "Optional" => {
                asking(&secured, &ca, "AllowValidOnly")
                    + &policy("l0", "clientCertificates: {mode: Optional, forward: {}}")
            }
            mode => asking(&secured, &ca, mode) + &policy("l0", FORWARD),
        };
        let edge = Edge::start(&yaml);
        for version in [&TLS13, &TLS12] {
            let said = |shown: Option<&Certified>| {
                let came = comes_in(&edge, &client_of(&secured, shown, &[], &[version]));
                came.then(|| upstream.last().header("x-forwarded-client-cert").map(str::to_owned))
            };
            let expect = format!(
                "Hash={};Subject=\"CN=client,O=Acme\";URI=spiffe://acme/client;DNS=client.acme.test",
                good.fingerprint()
            );
            assert_eq!(said(Some(&good)), lets_in[0].then_some(Some(expect)), "{mode} {version:?}");
            assert_eq!(said(None), lets_in[1].then_some(None), "{mode} {version:?}");
            for (what, bad) in
                [("foreign", &foreign), ("over", &over), ("early", &early), ("namesake", &namesake)]
            {
                // What is not verified is told to nobody.
                assert_eq!(said(Some(bad)), lets_in[2].then_some(None), "{mode} {what} {version:?}");
            }
        }
    }
}

#[test]
fn nothing_is_told_unless_it_is_asked_for() {
    let (upstream, ca) = (upstream(), Authority::new("ca"));
    let secured = secured(&upstream, &[HOST]);
    let good = ca.signs();
    let mut edge = Edge::start(&secured.yaml);
    let told = |edge: &Edge| {
        assert!(comes_in(edge, &client(&secured, Some(&good), &[])));
        upstream.last().header("x-forwarded-client-cert").map(str::to_owned)
    };
    assert_eq!(told(&edge), None, "what a client says of itself is not passed on");
    edge.activate(&asking(&secured, &ca, "AllowValidOnly"));
    assert_eq!(told(&edge), None);
    let policy = policy("l0", "clientCertificates: {forward: {details: [Certificate, Chain]}}");
    edge.activate(&(asking(&secured, &ca, "AllowValidOnly") + &policy));
    let said = told(&edge).unwrap();
    let (hash, rest) = said.split_once(";Cert=\"").unwrap();
    let (certificate, chain) = rest.split_once("\";Chain=\"").unwrap();
    assert_eq!(hash, format!("Hash={}", good.fingerprint()));
    assert_eq!(chain, format!("{certificate}\""), "it has shown one certificate");
    let plain = percent_encoding::percent_decode_str(certificate).decode_utf8().unwrap();
    assert_eq!(CertificateDer::from_pem_slice(plain.as_bytes()).unwrap(), good.der());
}

#[test]
fn what_was_revoked_does_not_come_in() {
    let (upstream, ca) = (upstream(), Authority::new("ca"));
    let secured = secured(&upstream, &[HOST]);
    let mut edge = Edge::start(&asking(&secured, &ca, "AllowValidOnly"));
    let [revoked, good] = [7, 8].map(|serial| {
        ca.signs_with(|params| {
            params.serial_number = Some(SerialNumber::from(vec![serial]));
        })
    });
    let [revoked, good] = [revoked, good].map(|shown| client(&secured, Some(&shown), &[b"http/1.1"]));
    assert!(comes_in(&edge, &revoked) && comes_in(&edge, &good));
    assert_eq!(status(&edge, &revoked).unwrap().1, HandshakeKind::Resumed);
    let mut alive = edge.runtime.block_on(dial(edge.at(443), &revoked, HOST)).unwrap();
    let listed = ca.config_map(Some(&ca.revokes(&[7])));
    edge.activate(&asking(&secured, &ca, "AllowValidOnly").replace(&ca.config_map(None), &listed));
    assert!(!comes_in(&edge, &revoked), "with a session of before, too");
    assert!(comes_in(&edge, &good));
    let response = edge.runtime.block_on(ask(&mut alive, HOST)).unwrap();
    assert!(response.starts_with("HTTP/1.1 421"), "a connection of before: {response}");
    assert!(response.to_ascii_lowercase().contains("connection: close"), "{response}");
}

#[test]
fn a_client_is_one_of_those_that_are_named() {
    let (upstream, ca) = (upstream(), Authority::new("ca"));
    let secured = secured(&upstream, &[HOST]);
    let (one, two) = (
        ca.signs(),
        ca.signs_with(|params| {
            params.subject_alt_names = vec![SanType::URI("spiffe://acme/two".try_into().unwrap())];
        }),
    );
    let key_hash = |certified: &Certified| {
        use base64::Engine as _;
        let key = KeyPair::from_pem(&certified.key_pem).unwrap();
        let der = rcgen::PublicKeyData::subject_public_key_info(&key);
        base64::engine::general_purpose::STANDARD.encode(Sha256::digest(der))
    };
    let colons = |hash: &str| {
        hash.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap()).collect::<Vec<_>>().join(":")
    };
    let mut edge = Edge::start(&secured.yaml);
    for (spec, expect) in [
        ("subjectAltNames: [spiffe://acme/two, x]".to_owned(), [false, true]),
        ("subjectAltNames: [client.acme.test]".to_owned(), [true, false]),
        ("subjectAltNames: [acme.test]".to_owned(), [false, false]),
        (format!("certificateHashes: [\"{}\"]", colons(&one.fingerprint())), [true, false]),
        (format!("publicKeyHashes: [\"{}\"]", key_hash(&two)), [false, true]),
        (
            format!(
                "certificateHashes: [\"{}\"], publicKeyHashes: [\"{}\"]",
                one.fingerprint(),
                key_hash(&two)
            ),
            [true, true],
        ),
        (
            format!("certificateHashes: [\"{}\"], subjectAltNames: [spiffe://acme/two]", one.fingerprint()),
            [false, false],
        ),
    ] {
        let policy = policy("l0", &format!("clientCertificates: {{{spec}}}"));
        edge.activate(&(asking(&secured, &ca, "AllowValidOnly") + &policy));
        let came = [&one, &two].map(|shown| comes_in(&edge, &client(&secured, Some(shown), &[])));
        assert_eq!(came, expect, "{spec}");
    }
}

#[test]
fn a_session_is_resumed_under_the_policy_that_it_was_begun_with_and_no_other() {
    let (upstream, ca, other) = (upstream(), Authority::new("ca"), Authority::new("other"));
    let secured = secured(&upstream, &[HOST]);
    let mut edge = Edge::start(&secured.yaml);
    for version in [&TLS13, &TLS12] {
        let open = || asking(&secured, &ca, "AllowInsecureFallback");
        edge.activate(&secured.yaml);
        let nobody = client_of(&secured, None, &[], &[version]);
        let kind = |edge: &Edge| status(edge, &nobody).map(|(_, kind)| kind);
        assert_eq!((kind(&edge), kind(&edge)), (Some(HandshakeKind::Full), Some(HandshakeKind::Resumed)));
        edge.activate(&open());
        assert_eq!((kind(&edge), kind(&edge)), (Some(HandshakeKind::Full), Some(HandshakeKind::Resumed)));
        edge.activate(&asking(&secured, &ca, "AllowValidOnly"));
        assert_eq!(kind(&edge), None, "no session lets it in: {version:?}");

        let somebody = client_of(&secured, Some(&ca.signs()), &[], &[version]);
        let kind = |edge: &Edge| status(edge, &somebody).map(|(_, kind)| kind);
        assert_eq!((kind(&edge), kind(&edge)), (Some(HandshakeKind::Full), Some(HandshakeKind::Resumed)));
        // Nothing else of the configuration matters.
        edge.activate(&(asking(&secured, &ca, "AllowValidOnly") + &policy("l0", FORWARD)));
        assert_eq!(kind(&edge), Some(HandshakeKind::Resumed));
        assert!(upstream.last().header("x-forwarded-client-cert").is_some(), "known from the session");
        edge.activate(&asking(&secured, &other, "AllowValidOnly"));
        assert_eq!(kind(&edge), None, "the authority of before: {version:?}");
    }
}

#[test]
fn a_session_does_not_outlive_its_clients_certificate() {
    let (upstream, ca) = (upstream(), Authority::new("ca"));
    let secured = secured(&upstream, &[HOST]);
    let edge = Edge::start(&asking(&secured, &ca, "AllowValidOnly"));
    let ends = ASN1Time::now().to_datetime() + Duration::from_secs(3);
    let brief = client(&secured, Some(&ca.signs_with(|params| params.not_after = ends)), &[]);
    assert!(comes_in(&edge, &brief));
    assert_eq!(status(&edge, &brief).unwrap().1, HandshakeKind::Resumed);
    while ASN1Time::now().to_datetime() < ends + Duration::from_secs(1) {
        pause(Duration::from_millis(100));
    }
    assert!(!comes_in(&edge, &brief));
}

#[test]
fn a_connection_asks_only_where_its_certificate_was_asked_for() {
    let (upstream, ca, other) = (upstream(), Authority::new("ca"), Authority::new("other"));
    // Of four listeners, one asks nobody, two ask for the same, and one for something else.
    let secured = secured(&upstream, &["free.test", "one.test", "two.test", "other.test"]);
    let asks = |listener: &str, authority: &Authority| {
        let spec = format!(
            "clientCertificates: {{caCertificateRefs: [{{group: \"\", kind: ConfigMap, name: {}}}]}}",
            authority.name
        );
        policy(listener, &spec)
    };
    let yaml = secured.yaml.clone()
        + &(asks("l1", &ca) + &asks("l2", &ca) + &asks("l3", &other))
        + &(ca.config_map(None) + &other.config_map(None));
    let edge = Edge::start(&yaml);
    let good = ca.signs();
    let table = [
        ("free.test", [200, 421, 421, 421]),
        ("one.test", [200, 200, 200, 421]),
        ("two.test", [200, 200, 200, 421]),
    ];
    let hosts = ["free.test", "one.test", "two.test", "other.test"];
    edge.runtime.block_on(async {
        for (name, expect) in table {
            for (host, expect) in hosts.into_iter().zip(expect) {
                let config = client(&secured, Some(&good), &[b"http/1.1"]);
                let mut stream = dial(edge.at(443), &config, name).await.unwrap();
                let response = ask(&mut stream, host).await.unwrap();
                assert!(response.starts_with(&format!("HTTP/1.1 {expect}")), "h1 {name} {host}: {response}");
            }
            let stream = dial(edge.at(443), &client(&secured, Some(&good), &[b"h2"]), name).await.unwrap();
            let mut sender = h2::over(stream).await;
            for (host, expect) in hosts.into_iter().zip(expect) {
                let request = hyper::Request::get(format!("https://{host}/")).body(h2::empty()).unwrap();
                assert_eq!(h2::ask(&mut sender, request).await.status(), expect, "h2 {name} {host}");
            }
            let mut endpoint = h3::client_endpoint(&secured);
            let tls = client(&secured, Some(&good), &[b"h3"]);
            let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
            endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
            let connecting = endpoint.connect(edge.udp_at(443), name).unwrap();
            let connection = timeout(PATIENCE, connecting).await.unwrap().unwrap();
            let mut sender = h3::speak(connection).await;
            for (host, expect) in hosts.into_iter().zip(expect) {
                let request = http::Request::get(format!("https://{host}/")).body(()).unwrap();
                let (status, _) = timeout(PATIENCE, h3::ask(&mut sender, request)).await.unwrap();
                assert_eq!(status, expect, "h3 {name} {host}");
            }
        }
    });
}

#[test]
fn http_3_asks_as_well() {
    let (upstream, ca, other) = (upstream(), Authority::new("ca"), Authority::new("other"));
    let secured = secured(&upstream, &[HOST]);
    let edge = Edge::start(&(asking(&secured, &ca, "AllowValidOnly") + &policy("l0", FORWARD)));
    let good = ca.signs();
    let visit = |shown: Option<&Certified>| {
        let tls = client(&secured, shown, &[b"h3"]);
        edge.runtime.block_on(async {
            let mut endpoint = h3::client_endpoint(&secured);
            let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
            endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
            let connecting = endpoint.connect(edge.udp_at(443), HOST).unwrap();
            let Ok(connection) = timeout(PATIENCE, connecting).await.unwrap() else { return false };
            // A client whose own handshake is over hears of the server's verdict next.
            let (mut driver, mut sender) =
                match ::h3::client::new(h3_quinn::Connection::new(connection)).await {
                    Ok(both) => both,
                    Err(_) => return false,
                };
            tokio::spawn(async move { drop(std::future::poll_fn(|cx| driver.poll_close(cx)).await) });
            let request = http::Request::get(format!("https://{HOST}/")).body(()).unwrap();
            let Ok(mut stream) = sender.send_request(request).await else { return false };
            let _refused = stream.finish().await;
            timeout(PATIENCE, stream.recv_response()).await.unwrap().is_ok_and(|head| head.status() == 200)
        })
    };
    assert!(visit(Some(&good)));
    let told = upstream.last();
    let told = told.header("x-forwarded-client-cert").unwrap();
    assert!(told.starts_with(&format!("Hash={};", good.fingerprint())), "{told}");
    assert!(!visit(None) && !visit(Some(&other.signs())));
}

#[test]
fn tls_that_ends_here_and_is_passed_on_asks_as_well() {
    let ca = Authority::new("ca");
    let echo = Upstream::raw(|exchange| {
        while let Some(bytes) = exchange.some() {
            exchange.send(bytes);
        }
    });
    let made = rcgen::generate_simple_self_signed([HOST.to_owned()]).unwrap();
    let yaml = format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: gateway}}
spec:
  gatewayClassName: weir
  listeners: [{{name: l0, port: 443, protocol: TLS, tls: {{mode: Terminate, certificateRefs: [{{name: cert}}]}}}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {{name: all}}
spec:
  parentRefs: [{{name: gateway}}]
  hostnames: [{HOST}]
  rules:
  - backendRefs: [{{group: weir.dev, kind: Backend, name: up}}]
---
apiVersion: weir.dev/v1
kind: Pool
metadata: {{name: default}}
spec: {{listen: [{{port: 443, bind: \"127.0.0.1:1\", protocol: TLS}}]}}
{}{}{}{}",
        crate::support::backend("up", echo.address),
        crate::support::secret("cert", &made.cert.pem(), &made.signing_key.serialize_pem()),
        ca.config_map(None),
        policy("l0", "clientCertificates: {caCertificateRefs: [{group: \"\", kind: ConfigMap, name: ca}]}"),
    );
    let secured = Secured { yaml: yaml.clone(), roots: vec![made.cert.der().clone()] };
    let edge = Edge::start(&yaml);
    let echoed = |shown: Option<&Certified>| {
        let config = client(&secured, shown, &[]);
        edge.runtime.block_on(async {
            let mut stream = dial(edge.at(443), &config, HOST).await.ok()?;
            stream.write_all(b"ping").await.ok()?;
            let mut answer = [0; 4];
            timeout(PATIENCE, stream.read_exact(&mut answer)).await.unwrap().ok()?;
            Some(answer)
        })
    };
    assert_eq!(echoed(Some(&ca.signs())), Some(*b"ping"));
    assert_eq!(echoed(None), None);
    assert_eq!(echoed(Some(&Authority::new("ca").signs())), None);
}

#[test]
fn the_access_log_says_who_came() {
    let (upstream, ca) = (upstream(), Authority::new("ca"));
    let secured = secured(&upstream, &[HOST]);
    let facts = [
        "clientVerify",
        "clientSubject",
        "clientIssuer",
        "clientSerial",
        "clientFingerprint",
        "clientUris",
        "clientDnsNames",
    ];
    let fields: Vec<_> =
        facts.iter().map(|fact| format!("{{name: {}, fact: {fact}}}", fact.to_ascii_lowercase())).collect();
    let policy = policy("l0", &format!("accessLog: {{fields: [{}]}}", fields.join(", ")));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("log");
    let (edge, log) = Edge::start_logging(&(asking(&secured, &ca, "AllowInsecureFallback") + &policy), &file);
    let (good, foreign) = (ca.signs(), Authority::new("other").signs());
    for shown in [Some(&good), Some(&foreign), None] {
        assert!(comes_in(&edge, &client(&secured, shown, &[])));
    }
    edge.drain(Duration::from_secs(1));
    assert!(log.close(PATIENCE));
    let text = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [verified, failed, none] = &lines[..] else { panic!("{text}") };
    for (name, expect) in [
        ("clientverify", "SUCCESS"),
        ("clientsubject", "CN=client,O=Acme"),
        ("clientserial", "0abc"),
        ("clientfingerprint", &good.fingerprint()),
        ("clienturis", "spiffe://acme/client"),
        ("clientdnsnames", "client.acme.test"),
    ] {
        assert_eq!(verified[name], expect);
    }
    assert!(verified["clientissuer"].as_str().unwrap().contains("CN=ca"), "{verified}");
    assert_eq!(
        (failed["clientverify"].as_str(), failed["clientfingerprint"].as_str()),
        (Some("FAILED"), Some(foreign.fingerprint().as_str()))
    );
    assert!(none.get("clientverify").is_none() && none.get("clientsubject").is_none(), "{none}");
}

/// OpenSSL and curl, which know nothing of this.
#[test]
fn openssl_and_curl_come_in_with_a_certificate() {
    if !has("curl") || !has("openssl") {
        return;
    }
    let (upstream, ca) = (upstream(), Authority::new("ca"));
    let secured = secured(&upstream, &[HOST]);
    let edge = Edge::start(&asking(&secured, &ca, "AllowValidOnly"));
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (good, bad) = (ca.signs(), Authority::new("other").signs());
    let files = [("good", &good), ("bad", &bad)].map(|(name, shown)| {
        [write(&format!("{name}.pem"), &shown.pem), write(&format!("{name}.key"), &shown.key_pem)]
    });
    let run = |program: &str, arguments: &[&str]| {
        use std::io::Write as _;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
        // It may have gone already.
        drop(child.stdin.take().unwrap().write_all(request.as_bytes()));
        let output = child.wait_with_output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let (at, port) = (edge.at(443).to_string(), edge.at(443).port());
    let (resolve, url) = (format!("{HOST}:{port}:127.0.0.1"), format!("https://{HOST}:{port}/"));
    for (shown, expect) in [(Some(&files[0]), true), (Some(&files[1]), false), (None, false)] {
        for version in ["-tls1_3", "-tls1_2"] {
            let mut arguments = vec!["s_client", "-connect", &at, "-servername", HOST, version, "-quiet"];
            if let Some([certificate, key]) = shown {
                arguments.extend(["-cert", certificate, "-key", key]);
            }
            let said = run("openssl", &arguments);
            assert_eq!(said.contains("HTTP/1.1 200"), expect, "{version} {shown:?}: {said}");
        }
        let mut arguments =
            vec!["-sk", "--max-time", "10", "--resolve", &resolve, "-w", "%{http_code}", &url];
        if let Some([certificate, key]) = shown {
            arguments.extend(["--cert", certificate, "--key", key]);
        }
        let said = run("curl", &arguments);
        assert_eq!(said, if expect { "x200" } else { "000" }, "{shown:?}");
    }
}
