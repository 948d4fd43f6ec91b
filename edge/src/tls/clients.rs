//! Certificates of clients: who is asked for one, and who is believed.
//!
//! A listener's policy is applied in the handshake, and again wherever that does not suffice: rustls verifies nothing when a
//! session resumes, a connection may ask for hosts of other listeners, and it may outlive the policy that let it in.

mod told;

use std::{
    cell::{Cell, OnceCell},
    fmt,
    sync::Arc,
};

use model::{CertificateDetail, ClientCertificateMode, ClientCertificates};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime, pem::PemObject},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use sha2::{Digest as _, Sha256};

pub(crate) use told::{Told, hexadecimal};

/// What a listener asks of its clients' certificates, ready to be applied.
#[derive(Debug)]
pub(crate) struct ClientPolicy {
    verifier: Arc<Verifier>,
    /// Names all that decides who may come in.
    digest: [u8; 32],
    forward: Option<Box<[CertificateDetail]>>,
}

impl ClientPolicy {
    /// # Errors
    /// What is wrong, for people.
    pub(crate) fn load(asked: &ClientCertificates) -> Result<Self, String> {
        let pem = asked.authorities_pem.as_bytes();
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|e| format!("the authorities are not PEM: {e}"))?;
            roots.add(certificate).map_err(|e| format!("an authority's certificate is unfit: {e}"))?;
        }
        let revoked = CertificateRevocationListDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
        let revoked = revoked.map_err(|e| format!("a list of revoked certificates is not PEM: {e}"))?;
        let webpki =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(super::provider()))
                .with_crls(revoked)
                // An authority without a list revokes nothing.
                .allow_unknown_revocation_status()
                .build()
                .map_err(|e| format!("clients' certificates cannot be verified: {e}"))?;
        let verifier = Verifier {
            webpki,
            mode: asked.mode,
            names: asked.names.clone(),
            certificates: asked.certificates.clone(),
            public_keys: asked.public_keys.clone(),
        };
        Ok(Self {
            verifier: Arc::new(verifier),
            digest: digest(asked),
            forward: asked.forward.as_deref().map(Into::into),
        })
    }

    /// Names all that decides who may come in.
    pub(crate) fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// What rustls is to ask.
    pub(super) fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::clone(&self.verifier) as _
    }

    /// What it thinks of a client that has shown these, the leaf first, or nothing.
    fn judge(&self, chain: &[CertificateDer<'_>]) -> Standing {
        let Verifier { mode, .. } = *self.verifier;
        match chain.split_first() {
            None if mode == ClientCertificateMode::Required => Standing::Refused,
            None => Standing::Nobody,
            Some((leaf, others)) => match self.verifier.check(leaf, others, UnixTime::now()) {
                Ok(()) => Standing::Verified,
                Err(_) if mode == ClientCertificateMode::InsecureFallback => Standing::Nobody,
                Err(_) => Standing::Refused,
            },
        }
    }

    /// The value of `X-Forwarded-Client-Cert` for a client that it thinks so of.
    pub(crate) fn forwarded(&self, credentials: Option<&Credentials>, standing: Standing) -> Option<String> {
        let details = self.forward.as_deref().filter(|_| standing == Standing::Verified)?;
        let credentials = credentials?;
        Some(told::forwarded(&credentials.chain, credentials.told()?, details))
    }
}

/// What a policy thinks of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is who its certificate says.
    Verified,
    /// It has none, or none that can be verified, and may come in nevertheless.
    Nobody,
    /// It may not come in.
    Refused,
}

/// All that decides who may come in, hashed.
fn digest(asked: &ClientCertificates) -> [u8; 32] {
    let mut hash = Sha256::new_with_prefix("weir client certificates");
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    part(&[asked.mode as u8]);
    part(asked.authorities_pem.as_bytes());
    part(&(asked.names.len() as u64).to_be_bytes());
    asked.names.iter().for_each(|name| part(name.as_bytes()));
    part(asked.certificates.as_flattened());
    part(asked.public_keys.as_flattened());
    hash.finalize().into()
}

/// What a policy has rustls ask.
struct Verifier {
    webpki: Arc<dyn ClientCertVerifier>,
    mode: ClientCertificateMode,
    names: Vec<String>,
    certificates: Vec<[u8; 32]>,
    public_keys: Vec<[u8; 32]>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl Verifier {
    /// Whether the leaf is signed by somebody who may, is not revoked or over, and one of those that are wanted.
    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        self.webpki.verify_client_cert(leaf, others, now)?;
        let is_pinned = !(self.certificates.is_empty() && self.public_keys.is_empty());
        if self.names.is_empty() && !is_pinned {
            return Ok(());
        }
        let told = Told::of(leaf).ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let named = self.names.is_empty() || self.names.iter().any(|name| told.has_name(name));
        let pinned = !is_pinned
            || self.certificates.contains(&told.fingerprint)
            || self.public_keys.contains(&told.public_key);
        if named && pinned {
            return Ok(());
        }
        Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
    }
}

impl ClientCertVerifier for Verifier {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        self.mode == ClientCertificateMode::Required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.webpki.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if self.mode != ClientCertificateMode::InsecureFallback {
            self.check(leaf, others, now)?;
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// What a client has shown when it was asked: for the life of its connection.
#[derive(Debug)]
pub(crate) struct Credentials {
    /// The policy that asked, by its digest.
    asked_by: [u8; 32],
    /// The leaf first; empty: nothing. That it has the leaf's key the handshake has proved.
    chain: Vec<CertificateDer<'static>>,
    pub(crate) standing: Standing,
    /// What another policy thinks of it, by its digest.
    elsewhere: Cell<Option<([u8; 32], Standing)>>,
    told: OnceCell<Option<Box<Told>>>,
}

impl Credentials {
    /// Of a handshake that `policy` was applied in. `None`: it may not come in, which no handshake has found where a session
    /// was resumed.
    pub(crate) fn new(policy: &ClientPolicy, chain: Option<&[CertificateDer<'static>]>) -> Option<Self> {
        let chain = chain.unwrap_or_default().to_vec();
        let standing = policy.judge(&chain);
        (standing != Standing::Refused).then(|| Self {
            asked_by: policy.digest,
            chain,
            standing,
            elsewhere: Cell::new(None),
            told: OnceCell::new(),
        })
    }

    /// Whether that policy asked.
    pub(crate) fn are_for(&self, policy: &ClientPolicy) -> bool {
        self.asked_by == policy.digest
    }

    /// What a policy thinks of them.
    pub(crate) fn stand_with(&self, policy: &ClientPolicy) -> Standing {
        if self.are_for(policy) {
            return self.standing;
        }
        match self.elsewhere.get() {
            Some((digest, standing)) if digest == policy.digest => standing,
            _ => {
                let standing = policy.judge(&self.chain);
                self.elsewhere.set(Some((policy.digest, standing)));
                standing
            }
        }
    }

    /// What the certificate says. `None`: there is none, or it cannot be read.
    pub(crate) fn told(&self) -> Option<&Told> {
        let read = || self.chain.first().and_then(Told::of).map(Box::new);
        self.told.get_or_init(read).as_deref()
    }

    /// What the handshake's policy thinks of a certificate, as nginx's `$ssl_client_verify` says it.
    pub(crate) fn verify(&self) -> &'static str {
        if self.standing == Standing::Verified { "SUCCESS" } else { "FAILED" }
    }

    /// Whether the client has shown anything.
    pub(crate) fn are_some(&self) -> bool {
        !self.chain.is_empty()
    }
}

/// What a policy thinks of a client that was not asked.
pub(crate) fn standing_of_unasked(policy: &ClientPolicy) -> Standing {
    policy.judge(&[])
}
