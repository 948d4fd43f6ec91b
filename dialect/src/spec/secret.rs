//! `v1` Secret of type `kubernetes.io/tls`.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use model::HostPattern;
use rustls::{
    Error, InconsistentKeys,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use x509_parser::{extensions::GeneralName, prelude::FromDer};

use crate::read::{Fields, Node};

/// Chains are some KiB; this is what Kubernetes would take at most for the whole Secret.
pub(super) const MAX_PEM_BYTES: usize = 1 << 20;

/// A certificate chain and its key, known to belong together.
#[derive(Clone, PartialEq, Eq)]
pub struct TlsSecretSpec {
    /// PEM, leaf first.
    pub chain_pem: String,
    /// PEM. Secret: never logged.
    pub key_pem: String,
    /// The hosts that the leaf names.
    pub hosts: Vec<HostPattern>,
}

impl fmt::Debug for TlsSecretSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSecretSpec").field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

impl TlsSecretSpec {
    pub(super) fn read(fields: &mut Fields<'_>) -> Option<Self> {
        if let Some(node) = fields.required("type")
            && node.text().is_some_and(|text| text != "kubernetes.io/tls")
        {
            node.wrong("only Secrets with certificates have a use here", "write kubernetes.io/tls");
        }
        fields.ignore(&["immutable"]);
        let data = fields.optional("data");
        let plain = fields.optional("stringData");
        if data.is_none() && plain.is_none() {
            fields.node.wrong("it has no data", "add stringData with tls.crt and tls.key in PEM");
            return None;
        }
        let mut chain = None;
        let mut key = None;
        // As in Kubernetes, stringData goes before data.
        for (node, is_base64) in plain.map(|n| (n, false)).into_iter().chain(data.map(|n| (n, true))) {
            let mut fields = node.fields()?;
            for (name, slot) in [("tls.crt", &mut chain), ("tls.key", &mut key)] {
                if let Some(node) = fields.optional(name)
                    && slot.is_none()
                {
                    *slot = Some((read_pem(&node, is_base64)?, node));
                }
            }
            fields.ignore(&["ca.crt"]);
            fields.finish();
        }
        for (name, slot) in [("tls.crt", &chain), ("tls.key", &key)] {
            if slot.is_none() {
                fields.node.wrong(format!("it has no {name}"), format!("add {name} in PEM to stringData"));
            }
        }
        let ((chain_pem, chain_node), (key_pem, key_node)) = (chain?, key?);
        let hosts = check(&chain_pem, &chain_node, &key_pem, &key_node)?;
        Some(Self { chain_pem, key_pem, hosts })
    }
}

fn read_pem(node: &Node<'_>, is_base64: bool) -> Option<String> {
    let text = node.text_of(1..=MAX_PEM_BYTES)?;
    if !is_base64 {
        return Some(text.to_owned());
    }
    // Kubernetes writes one line; people paste what `base64` wrapped.
    let joined: String = text.split_ascii_whitespace().collect();
    let decoded = STANDARD.decode(joined).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    if decoded.is_none() {
        node.wrong(
            "it is not text in base64",
            "encode the PEM file with base64, or put it under stringData as it is",
        );
    }
    decoded
}

/// The hosts of the leaf, if chain and key parse and belong together.
fn check(chain: &str, chain_node: &Node<'_>, key: &str, key_node: &Node<'_>) -> Option<Vec<HostPattern>> {
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain.as_bytes()).collect();
    let certificates = parsed.ok().filter(|list| !list.is_empty());
    if certificates.is_none() {
        chain_node
            .wrong("there is no certificate in it", "put the chain there in PEM, beginning with the leaf");
    }
    let private = PrivateKeyDer::from_pem_slice(key.as_bytes()).ok();
    if private.is_none() {
        key_node.wrong("there is no private key in it", "put the key there in PEM, without a passphrase");
    }
    let (certificates, private) = (certificates?, private?);
    let hosts = leaf_hosts(certificates.first()?);
    if hosts.is_none() {
        chain_node.wrong(
            "its first certificate cannot be read",
            "put the chain there in PEM, beginning with the leaf",
        );
    }
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    match CertifiedKey::from_der(certificates, private, &provider) {
        Ok(_) => hosts,
        Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            key_node.wrong(
                "the key is not that of the first certificate",
                "use the leaf's key, and put the leaf first",
            );
            None
        }
        Err(error) => {
            key_node.wrong(format!("the key cannot be used: {error}"), "use an RSA, ECDSA or Ed25519 key");
            None
        }
    }
}

/// The DNS names of a certificate.
fn leaf_hosts(leaf: &CertificateDer<'_>) -> Option<Vec<HostPattern>> {
    let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(leaf).ok()?;
    let Some(names) = parsed.subject_alternative_name().ok()? else { return Some(vec![]) };
    let dns = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(host) => HostPattern::parse(host).ok(),
        _ => None,
    });
    Some(dns.collect())
}
