//! Which certificate answers a handshake. Keys are parsed when a configuration is activated, never in a
//! handshake.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use model::{CertificateId, HostPattern, Listener, PoolName, TenantConfig, TenantId};
use rustls::{
    ServerConfig, SignatureScheme,
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};

use super::{Offer, clients::ClientPolicy, tickets::Scope};
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

/// The certificates that one listener shows, each with the hosts that it names.
#[derive(Debug, Default)]
pub(crate) struct Shown(Vec<(Arc<CertifiedKey>, Vec<HostPattern>)>);

impl Shown {
    /// The certificate for `host` (empty without SNI): one that names it and that the client can verify, else the first
    /// that it can verify, else the first.
    pub(crate) fn find(&self, host: &str, schemes: &[SignatureScheme]) -> Option<&Arc<CertifiedKey>> {
        let verifiable = |key: &CertifiedKey| key.key.choose_scheme(schemes).is_some();
        let mut named = self.0.iter().filter(|(_, hosts)| hosts.iter().any(|h| h.matches(host)));
        named
            .find(|(key, _)| verifiable(key))
            .or_else(|| self.0.iter().find(|(key, _)| verifiable(key)))
            .or_else(|| self.0.first())
            .map(|(key, _)| key)
    }
}

/// A listener that ends TLS.
#[derive(Debug)]
pub(crate) struct TlsListener {
    port: u16,
    hostname: Option<HostPattern>,
    pub(crate) shown: Arc<Shown>,
    /// What it asks of its clients' certificates, if anything.
    pub(crate) clients: Option<Arc<ClientPolicy>>,
    /// Where the tickets that it gives are good.
    pub(crate) scope: Scope,
    /// What rustls is told, made when it is first asked for: by the number of what is offered. Of one worker.
    servers: [OnceLock<Arc<ServerConfig>>; Offer::COUNT],
}

impl TlsListener {
    fn new(tenant: &TenantId, listener: &Listener, shown: Shown, clients: Option<Arc<ClientPolicy>>) -> Self {
        let (port, hostname) = (listener.port, listener.hostname.clone());
        let chains = shown.0.iter().map(|(key, _)| key.cert.as_slice());
        let scope = Scope::listener(tenant, port, hostname.as_ref(), chains, clients.as_deref());
        Self { port, hostname, shown: Arc::new(shown), clients, scope, servers: Default::default() }
    }

    /// What rustls is told where that is offered.
    pub(crate) fn server(&self, offer: Offer, make: impl FnOnce() -> ServerConfig) -> Arc<ServerConfig> {
        Arc::clone(self.servers[offer as usize].get_or_init(|| Arc::new(make())))
    }
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
        let mut listeners = Vec::new();
        for listener in served.filter(|l| l.protocol.ends_tls()) {
            let shown = listener.certificates.iter().filter_map(|id| loaded.get(id).cloned()).collect();
            let clients = match listener.client_certificates.as_deref() {
                None => None,
                Some(asked) => match ClientPolicy::load(asked) {
                    Ok(policy) => Some(Arc::new(policy)),
                    Err(problem) => {
                        rejected.push(Rejected { origin: asked.origin.clone(), problem });
                        continue;
                    }
                },
            };
            listeners.push(TlsListener::new(&config.tenant, listener, Shown(shown), clients));
        }
        if rejected.is_empty() { Ok(Self { listeners }) } else { Err(rejected) }
    }

    /// The listener that ends TLS for `host` (empty without SNI) on a Gateway port: the most specific one.
    pub(crate) fn listener(&self, port: u16, host: &str) -> Option<&TlsListener> {
        let on_port = self.listeners.iter().filter(|l| l.port == port);
        let fitting =
            on_port.filter_map(|l| HostPattern::specificity(l.hostname.as_ref(), host).map(|s| (s, l)));
        fitting.max_by_key(|(specificity, _)| *specificity).map(|(_, listener)| listener)
    }
}
