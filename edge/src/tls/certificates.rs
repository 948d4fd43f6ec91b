//! Which certificate answers a handshake. Keys are parsed when a configuration is activated, never in a
//! handshake.

use std::{collections::HashMap, sync::Arc};

use model::{CertificateId, HostPattern, PoolName, TenantConfig};
use rustls::{
    SignatureScheme,
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};

use crate::config::Rejected;

/// Loads a chain and its key.
pub(crate) fn certified_key(chain_pem: &str, key_pem: &str) -> Result<Arc<CertifiedKey>, String> {
    let chain = CertificateDer::pem_slice_iter(chain_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| format!("the certificate chain is not PEM: {e}"))?;
    if chain.is_empty() {
        return Err("the certificate chain has no certificate in it".to_owned());
    }
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
        .map_err(|e| format!("the private key is not PEM: {e}"))?;
    let key = any_supported_type(&key).map_err(|e| format!("the private key cannot be used: {e}"))?;
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match().map_err(|e| format!("the private key is not the certificate's: {e}"))?;
    Ok(Arc::new(certified))
}

#[derive(Debug)]
struct TlsListener {
    port: u16,
    hostname: Option<HostPattern>,
    certificates: Vec<(Arc<CertifiedKey>, Vec<HostPattern>)>,
}

/// The certificates of one tenant's listeners that end TLS.
#[derive(Debug, Default)]
pub struct TenantCertificates {
    listeners: Vec<TlsListener>,
}

impl TenantCertificates {
    pub(crate) fn load(config: &TenantConfig, pool: Option<&PoolName>) -> Result<Self, Vec<Rejected>> {
        let mut rejected = Vec::new();
        let mut loaded: HashMap<&CertificateId, (Arc<CertifiedKey>, Vec<HostPattern>)> = HashMap::new();
        for certificate in &config.certificates {
            match certified_key(&certificate.chain_pem, &certificate.key_pem) {
                Ok(key) => {
                    loaded.insert(&certificate.id, (key, certificate.hosts.clone()));
                }
                Err(problem) => rejected.push(Rejected { origin: certificate.origin.clone(), problem }),
            }
        }
        if !rejected.is_empty() {
            return Err(rejected);
        }
        let served = config.listeners.iter().filter(|l| pool.is_none_or(|pool| l.pool == *pool));
        let https = served.filter(|l| l.protocol.ends_tls());
        let listeners = https
            .map(|listener| TlsListener {
                port: listener.port,
                hostname: listener.hostname.clone(),
                certificates: listener.certificates.iter().filter_map(|id| loaded.get(id).cloned()).collect(),
            })
            .collect();
        Ok(Self { listeners })
    }

    /// The certificate for `host` (empty without SNI) on a Gateway port: of the most specific listener, one that
    /// names the host and that the client can verify, else its first.
    pub(crate) fn find(
        &self,
        port: u16,
        host: &str,
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        let listener = self
            .listeners
            .iter()
            .filter(|l| l.port == port)
            .filter_map(|l| HostPattern::specificity(l.hostname.as_ref(), host).map(|s| (s, l)))
            .max_by_key(|(s, _)| *s)?
            .1;
        let named =
            || listener.certificates.iter().filter(|(_, hosts)| hosts.iter().any(|h| h.matches(host)));
        named()
            .find(|(key, _)| key.key.choose_scheme(schemes).is_some())
            .or_else(|| {
                listener.certificates.iter().find(|(key, _)| key.key.choose_scheme(schemes).is_some())
            })
            .or_else(|| listener.certificates.first())
            .map(|(key, _)| Arc::clone(key))
    }
}
