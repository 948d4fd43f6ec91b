//! The certificate that pools serve where no tenant's own fits.

use std::time::{Duration, SystemTime};

use api::pki::{Ca, Identity, PkiError};
use model::TenantId;
use tracing::warn;

/// Ninety days, renewed at half of it.
const LIFETIME: Duration = Duration::from_secs(90 * 24 * 3600);

/// Names in one certificate. A handshake carries them all: 400 are some 12 KiB.
const MAX_NAMES: usize = 400;

/// A serving certificate of the installation's own CA and what it was made for.
pub(super) struct DefaultCertificate {
    names: Vec<String>,
    issued: SystemTime,
    identity: Identity,
}

impl DefaultCertificate {
    pub(super) fn issue(ca: &Ca, names: Vec<String>, now: SystemTime) -> Result<Self, PkiError> {
        let identity = ca.issue_serving(&names, LIFETIME, now)?;
        Ok(Self { names, issued: now, identity })
    }

    /// Whether it names all these and has half its life before it.
    pub(super) fn fits(&self, names: &[String], now: SystemTime) -> bool {
        let age = now.duration_since(self.issued).unwrap_or_default();
        self.names == names && age < LIFETIME / 2
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }
}

/// What the certificate names: the domain, what is one label below it, and each tenant's own names.
///
/// A wildcard covers one label, and TLS libraries refuse one below a single label (`*.localhost`), so tenants are named
/// one by one; those beyond [`MAX_NAMES`] rely on the wildcard or bring a certificate.
pub(super) fn names<'t>(domain: &str, tenants: impl Iterator<Item = &'t TenantId>) -> Vec<String> {
    let own = tenants.flat_map(|tenant| [format!("{tenant}.{domain}"), format!("*.{tenant}.{domain}")]);
    let mut names: Vec<_> = [domain.to_owned(), format!("*.{domain}")].into_iter().chain(own).collect();
    if names.len() > MAX_NAMES {
        warn!(names = names.len(), "the default certificate has no room for all tenants");
        names.truncate(MAX_NAMES);
    }
    names
}
