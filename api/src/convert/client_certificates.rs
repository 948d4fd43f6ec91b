//! What listeners ask of clients' certificates, in both directions.

use model::{CertificateDetail, ClientCertificateMode, ClientCertificates, Origin};

use super::to_wire::origin;
use crate::snapshot as wire;

/// Something that this version does not know, or that is not what it says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Invalid {
    #[error("the mode of client certificates {0} is unknown")]
    Mode(i32),
    #[error("the detail of client certificates {0} is unknown")]
    Detail(i32),
    #[error("a SHA-256 has 32 bytes, not {0}")]
    Hash(usize),
}

pub(super) fn to_wire(asked: &ClientCertificates) -> wire::ClientCertificates {
    let mode = match asked.mode {
        ClientCertificateMode::Required => wire::ClientCertificateMode::Required,
        ClientCertificateMode::Optional => wire::ClientCertificateMode::Optional,
        ClientCertificateMode::InsecureFallback => wire::ClientCertificateMode::InsecureFallback,
    };
    let detail = |detail: &CertificateDetail| match detail {
        CertificateDetail::Subject => wire::CertificateDetail::Subject.into(),
        CertificateDetail::Uri => wire::CertificateDetail::Uri.into(),
        CertificateDetail::Dns => wire::CertificateDetail::Dns.into(),
        CertificateDetail::Certificate => wire::CertificateDetail::Certificate.into(),
        CertificateDetail::Chain => wire::CertificateDetail::Chain.into(),
    };
    let hashes = |hashes: &[[u8; 32]]| hashes.iter().map(|hash| hash.to_vec()).collect();
    wire::ClientCertificates {
        origin: origin(&asked.origin),
        mode: mode.into(),
        authorities_pem: asked.authorities_pem.clone(),
        names: asked.names.clone(),
        certificates: hashes(&asked.certificates),
        public_keys: hashes(&asked.public_keys),
        forward: asked
            .forward
            .as_ref()
            .map(|details| wire::ForwardedCertificate { details: details.iter().map(detail).collect() }),
    }
}

pub(super) fn read(asked: wire::ClientCertificates) -> Result<ClientCertificates, Invalid> {
    let mode = match asked.mode() {
        wire::ClientCertificateMode::Required => ClientCertificateMode::Required,
        wire::ClientCertificateMode::Optional => ClientCertificateMode::Optional,
        wire::ClientCertificateMode::InsecureFallback => ClientCertificateMode::InsecureFallback,
        wire::ClientCertificateMode::Unspecified => return Err(Invalid::Mode(asked.mode)),
    };
    let hashes = |hashes: Vec<Vec<u8>>| -> Result<Vec<[u8; 32]>, Invalid> {
        let hash = |hash: Vec<u8>| hash.try_into().map_err(|hash: Vec<u8>| Invalid::Hash(hash.len()));
        hashes.into_iter().map(hash).collect()
    };
    let forward = |forward: wire::ForwardedCertificate| -> Result<Vec<_>, Invalid> {
        forward.details.into_iter().map(read_detail).collect()
    };
    let wire::Origin { kind, namespace, name, field } = asked.origin.unwrap_or_default();
    Ok(ClientCertificates {
        origin: Origin { kind, namespace, name, field },
        mode,
        authorities_pem: asked.authorities_pem,
        names: asked.names,
        certificates: hashes(asked.certificates)?,
        public_keys: hashes(asked.public_keys)?,
        forward: asked.forward.map(forward).transpose()?,
    })
}

fn read_detail(detail: i32) -> Result<CertificateDetail, Invalid> {
    match wire::CertificateDetail::try_from(detail) {
        Ok(wire::CertificateDetail::Subject) => Ok(CertificateDetail::Subject),
        Ok(wire::CertificateDetail::Uri) => Ok(CertificateDetail::Uri),
        Ok(wire::CertificateDetail::Dns) => Ok(CertificateDetail::Dns),
        Ok(wire::CertificateDetail::Certificate) => Ok(CertificateDetail::Certificate),
        Ok(wire::CertificateDetail::Chain) => Ok(CertificateDetail::Chain),
        Ok(wire::CertificateDetail::Unspecified) | Err(_) => Err(Invalid::Detail(detail)),
    }
}
