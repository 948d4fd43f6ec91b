//! https.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
};

use loadtest::{Plan, Protocol, RunError, Trust};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio_rustls::TlsAcceptor;

use crate::{ms, plan, quiet, run, server};

/// An https server for test.localhost, and the certificate to trust.
async fn serve(alpn: &[&str]) -> (SocketAddr, Vec<u8>) {
    let certified = rcgen::generate_simple_self_signed(vec!["test.localhost".into()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|a| a.as_bytes().to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let count = Arc::new(AtomicU64::new(0));
    let address = server::accept(move |_, stream| {
        let (acceptor, count) = (acceptor.clone(), count.clone());
        async move {
            if let Ok(tls) = acceptor.accept(stream).await {
                let h2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
                let protocol = if h2 { Protocol::H2 } else { Protocol::H1 };
                server::serve_stream(protocol, tls, count, |_, _| async { server::ok() }).await;
            }
        }
    })
    .await;
    (address, certified.cert.pem().into_bytes())
}

fn https(address: SocketAddr, trust: Trust) -> Plan {
    let mut plan = plan(address, 100.0, ms(400));
    plan.url = format!("https://test.localhost:{}/", address.port()).parse().unwrap();
    plan.trust = trust;
    plan
}

#[tokio::test]
async fn both_protocols_are_spoken_over_tls() {
    let (address, ca) = serve(&["h2", "http/1.1"]).await;
    for protocol in [Protocol::H1, Protocol::H2] {
        let mut plan = https(address, Trust::Ca(ca.clone()));
        plan.protocol = protocol;
        let report = run(plan).await;
        assert_eq!((report.ok, report.connect_us.count, report.reconnects), (40, 4, 0), "{report}");
    }
}

#[tokio::test]
async fn each_request_may_have_its_own_handshake() {
    let (address, _) = serve(&["h2", "http/1.1"]).await;
    for (protocol, resumption) in [(Protocol::H1, true), (Protocol::H1, false), (Protocol::H2, false)] {
        let mut plan = https(address, Trust::Insecure);
        plan.protocol = protocol;
        plan.connect_per_request = true;
        plan.tls_resumption = resumption;
        let report = run(plan).await;
        assert_eq!((report.ok, report.connect_us.count), (40, 40), "{report}");
    }
}

#[tokio::test]
async fn a_certificate_of_someone_else_is_refused() {
    let (address, _) = serve(&["http/1.1"]).await;
    let (_, other) = serve(&["http/1.1"]).await;
    let error = loadtest::run(https(address, Trust::Ca(other)), quiet).await.unwrap_err();
    assert!(matches!(error, RunError::NoConnection { .. }), "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");
}

#[tokio::test]
async fn a_server_without_h2_is_refused_for_h2() {
    let (address, _) = serve(&[]).await;
    let mut plan = https(address, Trust::Insecure);
    plan.protocol = Protocol::H2;
    let error = loadtest::run(plan, quiet).await.unwrap_err();
    assert!(error.to_string().contains("h2"), "{error}");
}
