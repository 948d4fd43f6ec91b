//! Certificates by request: whoever asks keeps its key, and the authority alone says who it is.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, KeyPair, PublicKeyData as _,
};
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::parse_x509_certificate;

use super::{Ca, PkiError, Request, der_of, failed};

/// The longest request that is read, bytes: an RSA key of 8,192 bits fits.
const MAX_REQUEST: usize = 8 * 1024;

/// A new private key, PEM.
///
/// # Errors
///
/// There is no randomness.
pub fn new_key() -> Result<String, PkiError> {
    Ok(KeyPair::generate().map_err(failed("make a key"))?.serialize_pem())
}

/// A request for a certificate of this key (PKCS#10, PEM). It names nobody: the authority says who its holder is.
///
/// # Errors
///
/// It is no private key.
pub fn request(key_pem: &str) -> Result<String, PkiError> {
    const WHAT: &str = "make a certificate request";
    let key = KeyPair::from_pem(key_pem).map_err(failed(WHAT))?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serialize_request(&key).map_err(failed(WHAT))?.pem().map_err(failed(WHAT))
}

/// The hash of the key that a request is for: the same for every request of one key.
///
/// # Errors
///
/// It is no request.
pub fn requested_key(request_pem: &str) -> Result<String, PkiError> {
    Ok(hex(&Sha256::digest(read(request_pem)?.public_key.der_bytes())))
}

/// SHA-256 of a certificate (DER), in hex: what a join token pins.
///
/// # Errors
///
/// There is no certificate in the text.
pub fn fingerprint(cert_pem: &str) -> Result<String, PkiError> {
    Ok(fingerprint_of(&der_of(cert_pem)?))
}

/// SHA-256 of a certificate (DER), in hex.
#[must_use]
pub fn fingerprint_of(certificate_der: &[u8]) -> String {
    hex(&Sha256::digest(certificate_der))
}

/// A certificate (DER) as PEM.
#[must_use]
pub fn to_pem(certificate_der: &[u8]) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(certificate_der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap_or_default()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// From when until when a certificate is valid.
///
/// # Errors
///
/// There is no certificate in the text.
pub fn validity(cert_pem: &str) -> Result<(SystemTime, SystemTime), PkiError> {
    const WHAT: &str = "read a certificate";
    let der = der_of(cert_pem)?;
    let (_, certificate) = parse_x509_certificate(&der).map_err(failed(WHAT))?;
    let at = |time: x509_parser::time::ASN1Time| {
        UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or_default())
    };
    Ok((at(certificate.validity().not_before), at(certificate.validity().not_after)))
}

/// When a certificate should be renewed: when two thirds of its life are over.
///
/// # Errors
///
/// There is no certificate in the text.
pub fn renew_at(cert_pem: &str) -> Result<SystemTime, PkiError> {
    let (from, until) = validity(cert_pem)?;
    // It was made an hour later than it is valid from (see `CLOCK_SKEW`).
    let made = from + super::CLOCK_SKEW;
    let life = until.duration_since(made).unwrap_or_default();
    Ok(made + life * 2 / 3)
}

impl Ca {
    /// A certificate for the key of a request, good as client and as server; the leaf alone, PEM. Nothing else that
    /// the request says counts.
    ///
    /// # Errors
    ///
    /// It is no request, its signature is not its key's, or as [`Ca::issue`].
    pub fn sign(&self, request_pem: &str, whom: &Request, now: SystemTime) -> Result<String, PkiError> {
        let params = self.params_for(whom, now)?;
        let key = read(request_pem)?.public_key;
        Ok(params.signed_by(&key, &self.issuer).map_err(failed("sign a certificate request"))?.pem())
    }

    /// The authority's private key, PEM, to be sealed.
    #[must_use]
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }
}

/// Reads a request; its signature proves that whoever made it has the key.
fn read(request_pem: &str) -> Result<CertificateSigningRequestParams, PkiError> {
    const WHAT: &str = "read a certificate request";
    if request_pem.len() > MAX_REQUEST {
        return Err(failed(WHAT)(format!("it has more than {MAX_REQUEST} bytes")));
    }
    CertificateSigningRequestParams::from_pem(request_pem).map_err(failed(WHAT))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut hex, byte| {
        // Writing to a String cannot fail.
        write!(hex, "{byte:02x}").ok();
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{RoleKind, role_of};

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn whom(kind: RoleKind, name: &str) -> Request {
        Request { kind, name: name.into(), dns: vec![], ips: vec![], lifetime: DAY }
    }

    #[test]
    fn a_request_gets_the_role_that_the_authority_says() {
        let ca = Ca::create("i", now()).unwrap();
        let key = new_key().unwrap();
        let csr = request(&key).unwrap();
        let cert = ca.sign(&csr, &whom(RoleKind::Node, "n-1"), now()).unwrap();
        let role = role_of(&der_of(&cert).unwrap()).unwrap();
        assert_eq!((role.kind, role.name.as_str()), (RoleKind::Node, "n-1"));
        assert_eq!(requested_key(&csr).unwrap(), requested_key(&request(&key).unwrap()).unwrap());
        assert_ne!(
            requested_key(&csr).unwrap(),
            requested_key(&request(&new_key().unwrap()).unwrap()).unwrap()
        );
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let ca = Ca::create("i", now()).unwrap();
        let good = request(&new_key().unwrap()).unwrap();
        let mut forged: Vec<char> = good.chars().collect();
        let middle = forged.len() - 60;
        forged[middle] = if forged[middle] == 'A' { 'B' } else { 'A' };
        for bad in [String::new(), ca.cert_pem().to_owned(), forged.iter().collect(), "x".repeat(9000)] {
            assert!(ca.sign(&bad, &whom(RoleKind::Node, "n"), now()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_certificate_is_renewed_at_two_thirds_of_its_life() {
        let ca = Ca::create("i", now()).unwrap();
        let cert =
            ca.sign(&request(&new_key().unwrap()).unwrap(), &whom(RoleKind::Edge, "e"), now()).unwrap();
        assert_eq!(renew_at(&cert).unwrap(), now() + DAY * 2 / 3);
        assert_eq!(validity(&cert).unwrap().1, now() + DAY);
    }

    #[test]
    fn pem_and_der_are_one_certificate() {
        let ca = Ca::create("i", now()).unwrap();
        let der = der_of(ca.cert_pem()).unwrap();
        assert_eq!(der_of(&to_pem(&der)).unwrap(), der);
        assert_eq!(fingerprint(ca.cert_pem()).unwrap(), fingerprint_of(&der));
        assert_eq!(fingerprint_of(&der).len(), 64);
    }
}
