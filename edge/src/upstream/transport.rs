//! How the endpoints of a backend are spoken to: in TLS or not, and in which protocols. Made when a configuration is
//! compiled; keys and roots are never parsed while a request waits.

use std::sync::{Arc, OnceLock};

use model::{Backend, Certificate, ProxyVersion, UpstreamProtocol, UpstreamRoots, UpstreamTls};
use rustls::{
    ClientConfig, RootCertStore,
    client::{Resumption, WebPkiServerVerifier},
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use sha2::{Digest, Sha256};

use crate::limits::UPSTREAM_SESSIONS;

/// TLS towards the endpoints of a backend.
#[derive(Debug)]
pub struct ClientTls {
    pub(super) server_name: ServerName<'static>,
    /// Offers all that the backend may speak.
    pub(super) any: Arc<ClientConfig>,
    /// Offers HTTP/1.1 only: for a request that wants to change protocols.
    pub(super) http1: Arc<ClientConfig>,
    /// Offers nothing: for bytes that are not HTTP.
    pub(super) raw: Arc<ClientConfig>,
    identity: [u8; 32],
}

impl ClientTls {
    /// Loads roots, and the certificate that we show.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub(crate) fn load(
        tls: &UpstreamTls,
        protocol: UpstreamProtocol,
        certificates: &[Certificate],
    ) -> Result<Self, String> {
        let server_name = ServerName::try_from(tls.server_name.clone())
            .map_err(|_| format!("{:?} is no name that a certificate can have", tls.server_name))?;
        let (roots, revoked) = match &tls.roots {
            UpstreamRoots::System => (system_roots()?, vec![]),
            UpstreamRoots::Pem(pem) => (Arc::new(read_roots(pem.as_bytes())?), read_revoked(pem.as_bytes())?),
        };
        let verifier =
            WebPkiServerVerifier::builder_with_provider(roots, Arc::new(aws_lc_rs::default_provider()))
                .with_crls(revoked)
                // An authority without a list revokes nothing.
                .allow_unknown_revocation_status()
                .build()
                .map_err(|error| format!("the upstream's certificates cannot be verified: {error}"))?;
        let client = match &tls.client_certificate {
            None => None,
            Some(id) => {
                let found = certificates.iter().find(|certificate| certificate.id == *id);
                Some(found.ok_or_else(|| format!("there is no certificate {id}"))?)
            }
        };
        let build = |alpn: &[&[u8]]| client_config(Arc::clone(&verifier), client, alpn).map(Arc::new);
        let any = build(offers(protocol))?;
        let http1 = build(&[HTTP1])?;
        let raw = build(&[])?;
        Ok(Self { server_name, any, http1, raw, identity: identity(tls, client) })
    }
}

const HTTP1: &[u8] = b"http/1.1";
const HTTP2: &[u8] = b"h2";

fn offers(protocol: UpstreamProtocol) -> &'static [&'static [u8]] {
    match protocol {
        UpstreamProtocol::Negotiated => &[HTTP2, HTTP1],
        UpstreamProtocol::Http1 => &[HTTP1],
        UpstreamProtocol::Http2 => &[HTTP2],
    }
}

fn client_config(
    verifier: Arc<WebPkiServerVerifier>,
    client: Option<&Certificate>,
    alpn: &[&[u8]],
) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| error.to_string())?
        .with_webpki_verifier(verifier);
    let mut config = match client {
        None => builder.with_no_client_auth(),
        Some(Certificate { chain_pem, key_pem, .. }) => {
            let chain = CertificateDer::pem_slice_iter(chain_pem.as_bytes()).collect::<Result<Vec<_>, _>>();
            let chain = chain.map_err(|error| format!("the client certificate is not PEM: {error}"))?;
            let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
                .map_err(|error| format!("the client certificate's key is not PEM: {error}"))?;
            let built = builder.with_client_auth_cert(chain, key);
            built.map_err(|error| format!("the client certificate cannot be used: {error}"))?
        }
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.resumption = Resumption::in_memory_sessions(UPSTREAM_SESSIONS);
    Ok(config)
}

/// Two backends with the same identity may use each other's connections: same name, same trust, same face.
fn identity(tls: &UpstreamTls, client: Option<&Certificate>) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut add = |part: &str| {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    };
    add(&tls.server_name);
    match &tls.roots {
        UpstreamRoots::System => add("system"),
        UpstreamRoots::Pem(pem) => {
            add("pem");
            add(pem);
        }
    }
    if let Some(client) = client {
        add(&client.chain_pem);
        add(&client.key_pem);
    }
    hash.finalize().into()
}

fn read_roots(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| format!("the authorities are not PEM: {error}"))?;
        roots.add(certificate).map_err(|error| format!("an authority's certificate is unfit: {error}"))?;
    }
    if roots.is_empty() {
        return Err("there is no authority that could vouch for the upstream".to_owned());
    }
    Ok(roots)
}

fn read_revoked(pem: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let lists = CertificateRevocationListDer::pem_slice_iter(pem).collect::<Result<_, _>>();
    lists.map_err(|error| format!("a list of revoked certificates is not PEM: {error}"))
}

/// Where systems keep the authorities that they trust: Debian and Alpine, Fedora, openSUSE, BSD.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The authorities that the machine trusts, read once. `SSL_CERT_FILE` names another file, as for OpenSSL.
pub(crate) fn system_roots() -> Result<Arc<RootCertStore>, String> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    if let Some(known) = ROOTS.get() {
        return Ok(Arc::clone(known));
    }
    let named = std::env::var("SSL_CERT_FILE").ok();
    let mut places = named.iter().map(String::as_str).chain(SYSTEM_ROOTS);
    let Some(pem) = places.find_map(|place| std::fs::read(place).ok()) else {
        return Err(format!(
            "this machine has no file of trusted authorities; install ca-certificates (looked for {})",
            SYSTEM_ROOTS.join(", ")
        ));
    };
    let mut roots = RootCertStore::empty();
    // The machine's list may hold some that we cannot use; they vouch for nobody then.
    let (_usable, _unusable) =
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok));
    Ok(Arc::clone(ROOTS.get_or_init(|| Arc::new(roots))))
}

/// How an endpoint is spoken to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Transport {
    pub(super) protocol: UpstreamProtocol,
    pub(super) tls: Option<Arc<ClientTls>>,
    /// The header that says whose each connection is.
    pub(super) proxy: Option<ProxyVersion>,
}

/// What two transports must have in common for their connections to serve for each other.
pub(crate) type TransportKey = (UpstreamProtocol, Option<ProxyVersion>, Option<[u8; 32]>);

impl Transport {
    pub(crate) fn new(backend: &Backend, tls: Option<Arc<ClientTls>>) -> Self {
        Self { protocol: backend.protocol, tls, proxy: backend.send_proxy }
    }

    pub(super) fn key(&self) -> TransportKey {
        (self.protocol, self.proxy, self.tls.as_ref().map(|tls| tls.identity))
    }
}
