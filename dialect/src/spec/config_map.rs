//! `v1` ConfigMap with the certificates of authorities.

use rustls::pki_types::{CertificateDer, pem::PemObject};

use super::secret::MAX_PEM_BYTES;
use crate::read::Fields;

/// Certificates of authorities that vouch for upstreams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigMapSpec {
    /// PEM, at least one certificate.
    pub ca_pem: String,
}

impl ConfigMapSpec {
    pub(super) fn read(fields: &mut Fields<'_>) -> Option<Self> {
        fields.ignore(&["immutable"]);
        let data = fields.required("data")?;
        let mut data = data.fields()?;
        let pem = data.required("ca.crt");
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
        Some(Self { ca_pem: text.to_owned() })
    }
}
