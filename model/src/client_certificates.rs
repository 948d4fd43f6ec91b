//! What a listener asks of its clients' certificates.

use serde::{Deserialize, Serialize};

use crate::Origin;

/// What a listener that ends TLS asks of its clients' certificates, and what upstreams hear of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientCertificates {
    /// The object and field that asks.
    pub origin: Origin,
    /// Who may come in.
    pub mode: ClientCertificateMode,
    /// Who may have signed them: certificates, PEM, at least one; and lists of revoked certificates (`X509 CRL`), each of
    /// which holds for what its issuer has signed.
    pub authorities_pem: String,
    /// One of these has to be among the certificate's names (DNS, URI, email), to the letter. Empty: any.
    pub names: Vec<String>,
    /// SHA-256 of certificates (DER) of which it has to be one. Empty, and `public_keys`, too: any.
    pub certificates: Vec<[u8; 32]>,
    /// SHA-256 of public keys (DER `SubjectPublicKeyInfo`) of which it may have one instead.
    pub public_keys: Vec<[u8; 32]>,
    /// What upstreams are told of a certificate that was verified, in `X-Forwarded-Client-Cert`. `None`: nothing.
    pub forward: Option<Vec<CertificateDetail>>,
}

/// Which clients may come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientCertificateMode {
    /// Those with a certificate that is verified (Istio's `MUTUAL`, Gateway API's `AllowValidOnly`).
    Required,
    /// Those without one, too (Istio's `OPTIONAL_MUTUAL`).
    Optional,
    /// All: what cannot be verified counts for nothing (Gateway API's `AllowInsecureFallback`).
    InsecureFallback,
}

impl ClientCertificateMode {
    /// All of them, by the names that users write.
    pub const ALL: [(&str, Self); 3] = [
        ("Required", Self::Required),
        ("Optional", Self::Optional),
        ("InsecureFallback", Self::InsecureFallback),
    ];
}

/// A part of `X-Forwarded-Client-Cert` beside the hash, which is always there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CertificateDetail {
    /// The subject, as RFC 2253 writes it.
    Subject,
    /// Names that are URIs, like SPIFFE's.
    Uri,
    /// Names of hosts.
    Dns,
    /// The certificate, PEM, percent-encoded.
    Certificate,
    /// The certificate and those that came with it, likewise.
    Chain,
}

impl CertificateDetail {
    /// All of them, by the names that users write.
    pub const ALL: [(&str, Self); 5] = [
        ("Subject", Self::Subject),
        ("URI", Self::Uri),
        ("DNS", Self::Dns),
        ("Certificate", Self::Certificate),
        ("Chain", Self::Chain),
    ];
}
