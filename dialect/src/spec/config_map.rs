//! `v1` ConfigMap with the certificates of authorities, and lists of those that they have revoked.

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, pem::PemObject};
use x509_parser::{prelude::FromDer, revocation_list::CertificateRevocationList};

use super::secret::MAX_PEM_BYTES;
use crate::read::{Fields, Node};

/// Certificates of authorities that vouch for upstreams or clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigMapSpec {
    /// PEM, at least one certificate; then lists of revoked ones.
    pub ca_pem: String,
}

impl ConfigMapSpec {
    pub(super) fn read(fields: &mut Fields<'_>) -> Option<Self> {
        fields.ignore(&["immutable"]);
        let data = fields.required("data")?;
        let mut data = data.fields()?;
        let pem = data.required("ca.crt");
        let revoked = data.optional("ca.crl");
        data.finish();
        let node = pem?;
        let text = node.text_of(1..=MAX_PEM_BYTES)?;
        let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
        let mut roots = rustls::RootCertStore::empty();
        let certificates = parsed.unwrap_or_default();
        let unfit = certificates.iter().filter(|each| roots.add((*each).clone()).is_err()).count();
        if certificates.is_empty() || unfit > 0 {
            let problem = match unfit {
                0 => "there is no certificate in it".to_owned(),
                unfit => format!("{unfit} of its certificates cannot be read"),
            };
            node.wrong(problem, "put the authorities' certificates there in PEM");
            return None;
        }
        let mut ca_pem = text.to_owned();
        if let Some(node) = revoked {
            ca_pem.push('\n');
            ca_pem.push_str(read_revoked(&node)?);
        }
        Some(Self { ca_pem })
    }
}

/// Lists of revoked certificates, PEM.
fn read_revoked<'a>(node: &Node<'a>) -> Option<&'a str> {
    let text = node.text_of(1..=MAX_PEM_BYTES)?;
    let parsed: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(text.as_bytes()).collect();
    let lists = parsed.unwrap_or_default();
    let fits = |list: &CertificateRevocationListDer<'_>| CertificateRevocationList::from_der(list).is_ok();
    if lists.is_empty() || !lists.iter().all(fits) {
        node.wrong(
            "there is no list of revoked certificates in it, or one that cannot be read",
            "put the authorities' lists there in PEM (X509 CRL)",
        );
        return None;
    }
    Some(text)
}
