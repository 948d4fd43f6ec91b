//! Connections after their TLS handshake, with an identity that may be renewed meanwhile.

use std::{io, sync::Arc};

use futures_util::{Stream, StreamExt as _, future::ready};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::{debug, error};

use super::{Bounded, ClientAuth, Counted};
use crate::{
    limits::CONNECT_TIMEOUT,
    pki::{Identity, Live, PkiError},
};

/// Handshakes at a time on one listener. More wait: a thousand workers that come at once are served in order.
const MAX_HANDSHAKES: usize = 256;

/// The connections of a listener, each when its handshake is done. A connection shows the certificate that was the
/// newest when it was accepted; those that are open stay when that is renewed.
///
/// Callers see the CA's certificate behind the server's own: who has only its hash (a join token has) can check both.
///
/// # Errors
///
/// The certificate, key or CA cannot be used.
pub fn secure(
    listener: Bounded,
    mut identity: Live,
    ca_pem: &str,
    clients: ClientAuth,
) -> Result<impl Stream<Item = io::Result<TlsStream<Counted>>> + use<>, PkiError> {
    let (ca_pem, first) = (ca_pem.to_owned(), identity.now());
    let mut acceptor = TlsAcceptor::from(Arc::new(config(&first, &ca_pem, clients)?));
    let handshakes =
        listener.into_stream().filter_map(|accepted| ready(accepted.ok())).map(move |connection| {
            if let Some(renewed) = identity.news() {
                match config(&renewed, &ca_pem, clients) {
                    Ok(config) => acceptor = TlsAcceptor::from(Arc::new(config)),
                    Err(error) => error!(%error, "a renewed certificate cannot be used; the last one stays"),
                }
            }
            let handshake = timeout(CONNECT_TIMEOUT, acceptor.accept(connection));
            tokio::spawn(async move { handshake.await.unwrap_or_else(|late| Err(late.into())) })
        });
    Ok(handshakes.buffer_unordered(MAX_HANDSHAKES).filter_map(|done| {
        // A task that panicked or was aborted is a connection that failed.
        ready(match done.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(connection) => Some(Ok(connection)),
            Err(error) => {
                debug!(%error, "a TLS handshake failed");
                None
            }
        })
    }))
}

fn config(identity: &Identity, ca_pem: &str, clients: ClientAuth) -> Result<ServerConfig, PkiError> {
    let failed = |problem: String| PkiError::Certificate { what: "use a certificate for TLS", problem };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let ca = CertificateDer::from_pem_slice(ca_pem.as_bytes()).map_err(|e| failed(e.to_string()))?;
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone()).map_err(|e| failed(e.to_string()))?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let verifier = match clients {
        ClientAuth::Required => verifier,
        ClientAuth::Optional => verifier.allow_unauthenticated(),
    };
    let verifier = verifier.build().map_err(|e| failed(e.to_string()))?;
    let mut chain = CertificateDer::pem_slice_iter(identity.cert_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| failed(e.to_string()))?;
    chain.push(ca);
    let key =
        PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).map_err(|e| failed(e.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| failed(e.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|e| failed(e.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}
