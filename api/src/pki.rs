//! The installation's own certificate authority, and who a certificate says its holder is.
//!
//! A role is a SAN URI, `weir://<installation>/<server|node|edge>/<name>`, in a certificate that the CA signed.
//! Whoever connects to a server checks for [`SERVER_NAME`], which only server certificates carry: what is
//! authenticated is the role, not the address, and a node's or an edge's stolen key cannot pose as a server.

mod files;
mod live;
mod request;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use model::HostPattern;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, string::Ia5String,
};
use x509_parser::{extensions::GeneralName, prelude::parse_x509_certificate};

pub use files::{load, store};
pub use live::Live;
pub use request::{fingerprint, fingerprint_of, new_key, renew_at, request, requested_key, to_pem, validity};

/// The DNS name in every server's certificate and in no other.
pub const SERVER_NAME: &str = "server.weir.internal";

/// Ten years: the CA is replaced by hand.
const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Clocks of machines differ; a certificate is valid from a little before it was made.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);

/// Why a certificate was not made or read.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The certificate or key could not be made or understood.
    #[error("{what}: {problem}")]
    Certificate {
        /// What was being done.
        what: &'static str,
        /// What went wrong.
        problem: String,
    },
    /// A file could not be read or written.
    #[error("{path}", path = path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: std::io::Error,
    },
}

fn failed<E: fmt::Display>(what: &'static str) -> impl FnOnce(E) -> PkiError {
    move |e| PkiError::Certificate { what, problem: e.to_string() }
}

/// What a process of the installation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RoleKind {
    /// Store, controller and autoscaler.
    Server,
    /// A host agent.
    Node,
    /// A worker.
    Edge,
}

impl RoleKind {
    const ALL: [Self; 3] = [Self::Server, Self::Node, Self::Edge];

    /// As the SAN URI spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Node => "node",
            Self::Edge => "edge",
        }
    }
}

impl fmt::Display for RoleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who a process is: `weir://<installation>/<kind>/<name>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Role {
    /// The installation that the process belongs to.
    pub installation: String,
    /// What it is.
    pub kind: RoleKind,
    /// Its name, unique in its kind.
    pub name: String,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "weir://{}/{}/{}", self.installation, self.kind, self.name)
    }
}

/// The text is no role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not of the form weir://<installation>/<server|node|edge>/<name> with names of a-z, 0-9, '-' and '.'"
)]
pub struct InvalidRole;

impl FromStr for Role {
    type Err = InvalidRole;

    fn from_str(uri: &str) -> Result<Self, InvalidRole> {
        let mut parts = uri.strip_prefix("weir://").ok_or(InvalidRole)?.split('/');
        let (Some(installation), Some(kind), Some(name), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(InvalidRole);
        };
        let kind = RoleKind::ALL.into_iter().find(|k| k.as_str() == kind).ok_or(InvalidRole)?;
        if !is_name(installation) || !is_name(name) {
            return Err(InvalidRole);
        }
        Ok(Self { installation: installation.to_owned(), kind, name: name.to_owned() })
    }
}

fn is_name(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
}

/// The role in a peer's leaf certificate (DER). The TLS layer has checked that our CA signed it.
///
/// `None` where there is no role, or more than one: a certificate that says two things says nothing.
#[must_use]
pub fn role_of(certificate_der: &[u8]) -> Option<Role> {
    let (_, certificate) = parse_x509_certificate(certificate_der).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    let mut roles = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) if uri.starts_with("weir://") => Some(uri.parse::<Role>().ok()),
        _ => None,
    });
    match (roles.next(), roles.next()) {
        (Some(role), None) => role,
        _ => None,
    }
}

/// A certificate chain and its key, PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// Leaf first.
    pub cert_pem: String,
    /// PKCS#8. Secret.
    pub key_pem: String,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

/// What a certificate is asked to say.
#[derive(Debug, Clone)]
pub struct Request {
    /// Who its holder is.
    pub kind: RoleKind,
    /// Its holder's name: `a-z`, `0-9`, `-`, `.`.
    pub name: String,
    /// DNS names beside the role. A server gets [`SERVER_NAME`] by itself.
    pub dns: Vec<String>,
    /// Addresses that its holder answers on.
    pub ips: Vec<IpAddr>,
    /// How long it is valid.
    pub lifetime: Duration,
}

/// The installation's certificate authority.
pub struct Ca {
    installation: String,
    cert_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca").field("installation", &self.installation).finish_non_exhaustive()
    }
}

impl Ca {
    /// A new authority for `installation`, valid from `now` for ten years.
    ///
    /// # Errors
    ///
    /// The name is not of `a-z`, `0-9`, `-` and `.`, or no key could be made.
    pub fn create(installation: &str, now: SystemTime) -> Result<Self, PkiError> {
        const WHAT: &str = "make the certificate authority";
        if !is_name(installation) {
            return Err(failed(WHAT)(InvalidRole));
        }
        let key = KeyPair::generate().map_err(failed(WHAT))?;
        let mut params = params(&format!("Weir CA {installation}"), now, CA_LIFETIME);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![SanType::URI(ia5(WHAT, &format!("weir://{installation}"))?)];
        let cert_pem = params.self_signed(&key).map_err(failed(WHAT))?.pem();
        Self::from_pem(&cert_pem, &key.serialize_pem())
    }

    /// The authority whose certificate and key these are.
    ///
    /// # Errors
    ///
    /// They are not PEM, do not belong together, or are no CA that [`Ca::create`] made.
    pub fn from_pem(cert_pem: &str, key_pem: &str) -> Result<Self, PkiError> {
        const WHAT: &str = "read the certificate authority";
        let key = KeyPair::from_pem(key_pem).map_err(failed(WHAT))?;
        let der = der_of(cert_pem)?;
        let (_, certificate) = parse_x509_certificate(&der).map_err(failed(WHAT))?;
        if certificate.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(failed(WHAT)("the key does not belong to the certificate"));
        }
        if !certificate.is_ca() {
            return Err(failed(WHAT)("the certificate is not a CA's"));
        }
        let installation = certificate
            .subject_alternative_name()
            .ok()
            .flatten()
            .and_then(|names| {
                names.value.general_names.iter().find_map(|name| match name {
                    GeneralName::URI(uri) => uri.strip_prefix("weir://").map(str::to_owned),
                    _ => None,
                })
            })
            .ok_or_else(|| failed(WHAT)("the certificate names no installation"))?;
        let issuer = Issuer::from_ca_cert_pem(cert_pem, key).map_err(failed(WHAT))?;
        Ok(Self { installation, cert_pem: cert_pem.to_owned(), issuer })
    }

    /// The authority in `ca.pem` and `ca.key` of `directory`.
    ///
    /// # Errors
    ///
    /// As [`Ca::from_pem`], or the files cannot be read.
    pub fn load(directory: &Path) -> Result<Self, PkiError> {
        let identity = load(directory, "ca")?;
        Self::from_pem(&identity.cert_pem, &identity.key_pem)
    }

    /// Writes `ca.pem` and `ca.key` (0600) to `directory`.
    ///
    /// # Errors
    ///
    /// The files cannot be written.
    pub fn store(&self, directory: &Path) -> Result<(), PkiError> {
        let identity =
            Identity { cert_pem: self.cert_pem.clone(), key_pem: self.issuer.key().serialize_pem() };
        store(directory, "ca", &identity)
    }

    /// The installation that this authority speaks for.
    #[must_use]
    pub fn installation(&self) -> &str {
        &self.installation
    }

    /// What everyone else pins.
    #[must_use]
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// A certificate and a new key for a process of the installation, good as client and as server.
    ///
    /// # Errors
    ///
    /// A name is not valid, or a node or edge asks for [`SERVER_NAME`].
    pub fn issue(&self, request: &Request, now: SystemTime) -> Result<Identity, PkiError> {
        self.issue_with(self.params_for(request, now)?, "issue a certificate")
    }

    /// What a certificate for a process of the installation says.
    fn params_for(&self, request: &Request, now: SystemTime) -> Result<CertificateParams, PkiError> {
        const WHAT: &str = "issue a certificate";
        let role = format!("weir://{}/{}/{}", self.installation, request.kind, request.name);
        let role: Role = role.parse().map_err(failed(WHAT))?;
        let mut params = params(&request.name, now, request.lifetime);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names.push(SanType::URI(ia5(WHAT, &role.to_string())?));
        if request.kind == RoleKind::Server {
            params.subject_alt_names.push(SanType::DnsName(ia5(WHAT, SERVER_NAME)?));
        }
        for dns in &request.dns {
            if request.kind != RoleKind::Server && poses(dns) {
                return Err(failed(WHAT)("only a server may carry the servers' name"));
            }
            params.subject_alt_names.push(SanType::DnsName(ia5(WHAT, dns)?));
        }
        params.subject_alt_names.extend(request.ips.iter().copied().map(SanType::IpAddress));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }

    /// A certificate and a new key for users' traffic: it names `hosts` and no role.
    ///
    /// A wildcard covers one label only, and TLS libraries refuse one under a single label (`*.localhost`):
    /// list such hosts one by one.
    ///
    /// # Errors
    ///
    /// A host is not ASCII or covers [`SERVER_NAME`], or there is none.
    pub fn issue_serving(
        &self,
        hosts: &[String],
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Identity, PkiError> {
        const WHAT: &str = "issue a serving certificate";
        // Workers hold this key.
        if hosts.iter().any(|host| poses(host)) {
            return Err(failed(WHAT)("only a server may carry the servers' name"));
        }
        let first = hosts.first().ok_or_else(|| failed(WHAT)("there is no host to name"))?;
        let mut params = params(first, now, lifetime);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names =
            hosts.iter().map(|h| Ok(SanType::DnsName(ia5(WHAT, h)?))).collect::<Result<_, PkiError>>()?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        self.issue_with(params, WHAT)
    }

    /// A certificate with a new key.
    fn issue_with(&self, params: CertificateParams, what: &'static str) -> Result<Identity, PkiError> {
        let key = KeyPair::generate().map_err(failed(what))?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed(what))?;
        Ok(Identity { cert_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }
}

/// Whether a certificate that names `host` is good for [`SERVER_NAME`], which is all that clients of a server look for.
fn poses(host: &str) -> bool {
    HostPattern::parse(host).is_ok_and(|host| host.matches(SERVER_NAME))
}

fn params(common_name: &str, now: SystemTime, lifetime: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    // X.520 allows 64 characters.
    params.distinguished_name.push(DnType::CommonName, common_name.chars().take(64).collect::<String>());
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    params.not_before = epoch + now.saturating_sub(CLOCK_SKEW);
    params.not_after = epoch + now + lifetime;
    params
}

fn ia5(what: &'static str, text: &str) -> Result<Ia5String, PkiError> {
    Ia5String::try_from(text).map_err(|e| failed(what)(format!("{text:?}: {e}")))
}

/// The first certificate of a PEM text, as DER.
///
/// # Errors
///
/// There is no certificate in it.
pub fn der_of(cert_pem: &str) -> Result<Vec<u8>, PkiError> {
    const WHAT: &str = "read a certificate";
    let (_, pem) = x509_parser::pem::parse_x509_pem(cert_pem.as_bytes()).map_err(failed(WHAT))?;
    if pem.label != "CERTIFICATE" {
        return Err(failed(WHAT)(format!("expected CERTIFICATE, found {}", pem.label)));
    }
    Ok(pem.contents)
}
