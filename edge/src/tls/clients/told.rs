//! What a client's certificate says, and how upstreams are told of it.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use model::CertificateDetail;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use x509_parser::{
    certificate::X509Certificate,
    extensions::GeneralName,
    objects::{oid_registry, oid2abbrev},
    prelude::FromDer as _,
    x509::{AttributeTypeAndValue, X509Name},
};

/// What a certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    /// SHA-256 of the certificate, and of its public key.
    pub(crate) fingerprint: [u8; 32],
    pub(crate) public_key: [u8; 32],
    /// As RFC 2253 writes it, in ASCII.
    pub(crate) subject: String,
    pub(crate) issuer: String,
    /// Hexadecimal.
    pub(crate) serial: String,
    /// Names that are printable ASCII without quotes and backslashes, which neither URIs nor hosts have; others are nobody's.
    pub(crate) uris: Vec<String>,
    pub(crate) dns: Vec<String>,
    emails: Vec<String>,
}

impl Told {
    /// `None`: it cannot be read.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let (mut uris, mut dns, mut emails) = (vec![], vec![], vec![]);
        let names = parsed.subject_alternative_name().ok()?;
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            let (kind, name) = match name {
                GeneralName::URI(name) => (&mut uris, *name),
                GeneralName::DNSName(name) => (&mut dns, *name),
                GeneralName::RFC822Name(name) => (&mut emails, *name),
                _ => continue,
            };
            if name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\') {
                kind.push(name.to_owned());
            }
        }
        Some(Self {
            fingerprint: Sha256::digest(certificate).into(),
            public_key: Sha256::digest(parsed.public_key().raw).into(),
            subject: distinguished(parsed.subject()),
            issuer: distinguished(parsed.issuer()),
            serial: hexadecimal(parsed.raw_serial()),
            uris,
            dns,
            emails,
        })
    }

    /// Whether one of its names (DNS, URI, email) is that.
    pub(super) fn has_name(&self, name: &str) -> bool {
        [&self.uris, &self.dns, &self.emails].into_iter().flatten().any(|own| own == name)
    }
}

pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a String cannot fail.
        let _infallible = write!(text, "{byte:02x}");
    }
    text
}

/// A name as RFC 2253 writes it: the last part first.
fn distinguished(name: &X509Name<'_>) -> String {
    let parts: Vec<_> = name.iter_rdn().collect();
    let mut text = String::new();
    for part in parts.into_iter().rev() {
        if !text.is_empty() {
            text.push(',');
        }
        for (number, attribute) in part.iter().enumerate() {
            if number > 0 {
                text.push('+');
            }
            push_attribute(&mut text, attribute);
        }
    }
    text
}

fn push_attribute(text: &mut String, attribute: &AttributeTypeAndValue<'_>) {
    match oid2abbrev(attribute.attr_type(), oid_registry()) {
        Ok(known) => text.push_str(known),
        Err(_) => text.push_str(&attribute.attr_type().to_id_string()),
    }
    text.push('=');
    let Ok(value) = attribute.as_str() else {
        text.push('#');
        return text.push_str(&hexadecimal(attribute.as_slice()));
    };
    let last = value.len().saturating_sub(1);
    for (place, byte) in value.bytes().enumerate() {
        match byte {
            b',' | b'+' | b'<' | b'>' | b';' | b'=' => {
                text.push('\\');
                text.push(char::from(byte));
            }
            b' ' if place == 0 || place == last => text.push_str("\\ "),
            b'#' if place == 0 => text.push_str("\\#"),
            b' ' => text.push(' '),
            // Readers of quoted text do not agree on what a backslash before a quote or a backslash means.
            byte if byte.is_ascii_graphic() && byte != b'"' && byte != b'\\' => text.push(char::from(byte)),
            // Nor may it end a line, or not be ASCII.
            byte => {
                let _infallible = write!(text, "\\{byte:02X}");
            }
        }
    }
}

/// What PEM has that the header's syntax has, too.
const PEM: &AsciiSet = &CONTROLS.add(b' ').add(b'+').add(b'/').add(b'=');

/// The value of `X-Forwarded-Client-Cert` (Envoy's syntax): one client, parts joined by `;`.
pub(super) fn forwarded(chain: &[CertificateDer<'_>], told: &Told, details: &[CertificateDetail]) -> String {
    let mut text = format!("Hash={}", hexadecimal(&told.fingerprint));
    for detail in details {
        match detail {
            CertificateDetail::Subject => push_quoted(&mut text, "Subject", &told.subject),
            CertificateDetail::Uri => told.uris.iter().for_each(|uri| push(&mut text, "URI", uri)),
            CertificateDetail::Dns => told.dns.iter().for_each(|dns| push(&mut text, "DNS", dns)),
            CertificateDetail::Certificate => {
                push_quoted(&mut text, "Cert", &pem(&chain[..chain.len().min(1)]))
            }
            CertificateDetail::Chain => push_quoted(&mut text, "Chain", &pem(chain)),
        }
    }
    text
}

fn push(text: &mut String, key: &str, value: &str) {
    if value.bytes().any(|byte| matches!(byte, b',' | b';' | b'=')) {
        return push_quoted(text, key, value);
    }
    let _infallible = write!(text, ";{key}={value}");
}

fn push_quoted(text: &mut String, key: &str, value: &str) {
    let _infallible = write!(text, ";{key}=\"{value}\"");
}

fn pem(chain: &[CertificateDer<'_>]) -> String {
    const COLUMNS: usize = 64;
    let mut text = String::new();
    for certificate in chain {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let encoded = STANDARD.encode(certificate);
        let mut rest = encoded.as_str();
        while !rest.is_empty() {
            let (line, others) = rest.split_at(rest.len().min(COLUMNS));
            text.push_str(line);
            text.push('\n');
            rest = others;
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    utf8_percent_encode(&text, PEM).to_string()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn certificate(change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        change(&mut params);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn a_name_is_written_as_rfc_2253_says_and_cannot_end_a_line() {
        let certificate = certificate(|params| {
            params.distinguished_name.push(DnType::CountryName, "DE");
            params.distinguished_name.push(DnType::OrganizationName, "A, \"B\"\r\nX: 1");
            params.distinguished_name.push(DnType::CommonName, " ü=1 ");
        });
        let told = Told::of(&certificate).unwrap();
        assert_eq!(told.subject, "CN=\\ \\C3\\BC\\=1\\ ,O=A\\, \\22B\\22\\0D\\0AX: 1,C=DE");
        assert_eq!(told.issuer, told.subject);
    }

    #[test]
    fn the_header_has_what_was_asked_for_and_quotes_what_its_syntax_has() {
        let uri = |uri: &str| SanType::URI(uri.try_into().unwrap());
        let certificate = certificate(|params| {
            params.distinguished_name.push(DnType::CommonName, "a \"b\"");
            let dns = SanType::DnsName("a.test".try_into().unwrap());
            params.subject_alt_names = vec![uri("spiffe://a/b"), uri("x:;Hash=0"), uri("x:\"y"), dns];
        });
        let told = Told::of(&certificate).unwrap();
        let chain = [certificate];
        let hash = hexadecimal(&told.fingerprint);
        assert_eq!(forwarded(&chain, &told, &[]), format!("Hash={hash}"));
        let details = [CertificateDetail::Subject, CertificateDetail::Uri, CertificateDetail::Dns];
        let expect =
            format!("Hash={hash};Subject=\"CN=a \\22b\\22\";URI=spiffe://a/b;URI=\"x:;Hash=0\";DNS=a.test");
        assert_eq!(forwarded(&chain, &told, &details), expect);
        let text = forwarded(&chain, &told, &[CertificateDetail::Certificate]);
        let (_, cert) = text.split_once(";Cert=\"-----BEGIN%20CERTIFICATE-----%0A").unwrap();
        assert!(cert.ends_with("-----END%20CERTIFICATE-----%0A\"") && !cert.contains('='), "{text}");
    }
}
