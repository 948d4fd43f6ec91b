//! The installation's CA, of which only the hash is known.
//!
//! Servers show the CA's certificate behind their own. It is taken only if it has the hash, and the server's own must
//! verify against it and name a server: nothing is believed before that.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use crate::{
    limits::CONNECT_TIMEOUT,
    pki::{self, SERVER_NAME},
};

/// Why the CA was not had.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// Nobody answers there.
    #[error("{address} cannot be reached")]
    Unreachable {
        /// The address.
        address: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Another installation answers, or somebody in between.
    #[error(
        "{address} is no server of the installation that the token is of ({problem}): check the address and the token"
    )]
    Other {
        /// The address.
        address: String,
        /// What the handshake said.
        problem: String,
    },
}

/// The CA (PEM) whose certificate has this hash (SHA-256 in hex), from a server of its installation at `address`.
///
/// # Errors
///
/// Nobody answers there, or whoever does cannot show that CA and a server's certificate of it.
pub async fn authority(address: &str, hash: &str) -> Result<String, PinError> {
    let unreachable = |source| PinError::Unreachable { address: address.to_owned(), source };
    let other = |problem: String| PinError::Other { address: address.to_owned(), problem };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let pinned =
        Arc::new(Pinned { hash: hash.to_owned(), provider: provider.clone(), seen: Mutex::default() });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| other(e.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(pinned.clone())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from(SERVER_NAME).map_err(|e| other(e.to_string()))?;
    let handshake = async {
        let stream = TcpStream::connect(address).await.map_err(unreachable)?;
        let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        connected.map_err(|e| other(e.to_string()))
    };
    let late = |_| unreachable(std::io::ErrorKind::TimedOut.into());
    timeout(CONNECT_TIMEOUT, handshake).await.map_err(late)??;
    let seen = pinned.seen.lock().unwrap_or_else(PoisonError::into_inner).take();
    seen.map(|der| pki::to_pem(&der)).ok_or_else(|| other("it showed no certificate".into()))
}

/// Takes a server whose chain has the certificate of that hash behind its own.
#[derive(Debug)]
struct Pinned {
    hash: String,
    provider: Arc<CryptoProvider>,
    seen: Mutex<Option<Vec<u8>>>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let ca = intermediates
            .iter()
            .find(|certificate| pki::fingerprint_of(certificate) == self.hash)
            .ok_or_else(|| Error::General("its CA has another hash".into()))?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|e| Error::General(e.to_string()))?;
        let verified = verifier.verify_server_cert(end_entity, &[], name, ocsp, now)?;
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(ca.to_vec());
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::Ipv4Addr,
        time::{Duration, SystemTime},
    };

    use futures_util::StreamExt as _;
    use tokio::net::TcpListener;

    use super::*;
    use crate::{
        pki::{Ca, Identity, Request, RoleKind},
        server::{Bounded, ClientAuth, secure},
    };

    fn issue(ca: &Ca, kind: RoleKind) -> Identity {
        let lifetime = Duration::from_secs(3600);
        let whom = Request { kind, name: "a".into(), dns: vec![], ips: vec![], lifetime };
        ca.issue(&whom, SystemTime::now()).unwrap()
    }

    /// A listener that shows this identity and CA.
    async fn listener(identity: Identity, ca_pem: &str) -> String {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let listener = Bounded::new(listener, 8);
        let incoming = secure(listener, identity.into(), ca_pem, ClientAuth::Optional).unwrap();
        tokio::spawn(async move {
            let mut incoming = std::pin::pin!(incoming);
            while incoming.next().await.is_some() {}
        });
        address
    }

    #[tokio::test]
    async fn the_ca_is_taken_by_its_hash_and_from_its_servers_only() {
        let ca = Ca::create("i", SystemTime::now()).unwrap();
        let other = Ca::create("i", SystemTime::now()).unwrap();
        let hash = pki::fingerprint(ca.cert_pem()).unwrap();
        let good = listener(issue(&ca, RoleKind::Server), ca.cert_pem()).await;
        let pem = authority(&good, &hash).await.unwrap();
        assert_eq!(pki::fingerprint(&pem).unwrap(), hash);
        // Another installation; a node that shows the right CA; a server of another CA that shows the right one.
        let (foreign, node) = (issue(&other, RoleKind::Server), issue(&ca, RoleKind::Node));
        for (identity, shown) in [(foreign.clone(), &other), (node, &ca), (foreign, &ca)] {
            let address = listener(identity, shown.cert_pem()).await;
            let refused = authority(&address, &hash).await;
            assert!(matches!(refused, Err(PinError::Other { .. })), "{refused:?}");
        }
    }

    #[tokio::test]
    async fn nobody_at_an_address_is_told_as_such() {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
        let refused = authority(&free.to_string(), "00").await;
        assert!(matches!(refused, Err(PinError::Unreachable { .. })), "{refused:?}");
    }
}
