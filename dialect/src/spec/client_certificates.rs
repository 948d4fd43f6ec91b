//! What listeners ask of clients' certificates: a Gateway's `tls.frontend` (GEP-91), and the `clientCertificates` of a
//! ListenerPolicy.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use model::{CertificateDetail, ClientCertificateMode};

use super::gateway::read_reference;
use crate::{
    Kind,
    read::{Fields, Node},
};

/// Gateway API's bounds.
const MAX_AUTHORITIES: usize = 8;
const MAX_PORTS: usize = 64;
/// Each is compared with the names of each client that comes in.
const MAX_NAMES: usize = 64;
const NAME_BYTES: usize = 2048;
const MAX_PINS: usize = 64;
/// Bytes of a hash in base64 or hexadecimal, with colons.
const PIN_BYTES: usize = 95;

/// A ConfigMap with certificates of authorities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorityRef {
    /// `None` is the object's own.
    pub namespace: Option<String>,
    /// The ConfigMap's name.
    pub name: String,
}

/// How a Gateway says that clients are to show certificates, on listeners of HTTPS.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FrontendTls {
    /// On ports that are not named. `None`: clients are not asked.
    pub default: Option<FrontendValidation>,
    /// By port.
    pub per_port: BTreeMap<u16, Option<FrontendValidation>>,
}

impl FrontendTls {
    /// What is asked on a port, and by which field.
    #[must_use]
    pub fn on_port(&self, port: u16) -> Option<(&FrontendValidation, String)> {
        let field = |of: String| format!("spec.tls.frontend.{of}");
        match self.per_port.get(&port) {
            Some(own) => {
                let place = self.per_port.keys().position(|each| *each == port).unwrap_or_default();
                own.as_ref().map(|own| (own, field(format!("perPort[{place}].tls.validation"))))
            }
            None => self.default.as_ref().map(|all| (all, field("default.validation".to_owned()))),
        }
    }

    /// Whether clients without a certificate that is verified are let in somewhere.
    #[must_use]
    pub fn has_fallback(&self) -> bool {
        let all = self.default.iter().chain(self.per_port.values().flatten());
        all.into_iter().any(|validation| validation.mode == ClientCertificateMode::InsecureFallback)
    }
}

/// Gateway API's `FrontendTLSValidation`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrontendValidation {
    /// Who vouches for clients; never empty.
    pub authorities: Vec<AuthorityRef>,
    /// Who is let in.
    pub mode: ClientCertificateMode,
}

/// A ListenerPolicy's `clientCertificates`: over what the Gateway says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificatesSpec {
    /// `None`: as the Gateway says, or `Required`.
    pub mode: Option<ClientCertificateMode>,
    /// Empty: as the Gateway says.
    pub authorities: Vec<AuthorityRef>,
    /// As the model has it.
    pub names: Vec<String>,
    /// Likewise.
    pub certificates: Vec<[u8; 32]>,
    /// Likewise.
    pub public_keys: Vec<[u8; 32]>,
    /// Likewise.
    pub forward: Option<Vec<CertificateDetail>>,
}

/// A Gateway's `tls`.
pub(super) fn read_gateway(node: &Node<'_>) -> Option<FrontendTls> {
    let mut fields = node.fields()?;
    let frontend = fields.optional("frontend");
    fields.unsupported(&["backend"]);
    fields.finish();
    let Some(node) = frontend else { return Some(FrontendTls::default()) };
    let mut fields = node.fields()?;
    let default = fields.required("default").and_then(|node| read_config(&node));
    let ports = fields.list("perPort", MAX_PORTS);
    fields.finish();
    let mut per_port = BTreeMap::new();
    for item in &ports {
        let (port, validation) = read_port(item)?;
        if per_port.insert(port, validation).is_some() {
            item.wrong(format!("port {port} is named twice"), "remove either");
            return None;
        }
    }
    Some(FrontendTls { default: default?, per_port })
}

fn read_port(node: &Node<'_>) -> Option<(u16, Option<FrontendValidation>)> {
    let mut fields = node.fields()?;
    let port = fields.required("port").and_then(|node| node.number(1..=u16::MAX));
    let tls = fields.required("tls").and_then(|node| read_config(&node));
    fields.finish();
    Some((port?, tls?))
}

/// `None` where something is wrong.
fn read_config(node: &Node<'_>) -> Option<Option<FrontendValidation>> {
    let mut fields = node.fields()?;
    let validation = fields.optional("validation");
    fields.finish();
    let Some(node) = validation else { return Some(None) };
    let mut fields = node.fields()?;
    let authorities = fields.required("caCertificateRefs").and_then(|node| read_authorities(&node));
    let modes = [
        ("AllowValidOnly", ClientCertificateMode::Required),
        ("AllowInsecureFallback", ClientCertificateMode::InsecureFallback),
    ];
    let mode = match fields.optional("mode") {
        Some(node) => node.choice("a way to validate clients", &modes),
        None => Some(ClientCertificateMode::Required),
    };
    fields.finish();
    Some(Some(FrontendValidation { authorities: authorities?, mode: mode? }))
}

fn read_authorities(node: &Node<'_>) -> Option<Vec<AuthorityRef>> {
    let items = node.items(MAX_AUTHORITIES);
    if items.is_empty() {
        node.wrong("nobody could vouch for clients", "name a ConfigMap with ca.crt");
        return None;
    }
    items.iter().map(read_authority).collect()
}

fn read_authority(node: &Node<'_>) -> Option<AuthorityRef> {
    let mut fields = node.fields()?;
    let group = fields.required("group").and_then(|node| node.choice("the group of ConfigMaps", &[("", ())]));
    let kind = fields
        .required("kind")
        .and_then(|node| node.choice("a kind of authorities", &[(Kind::ConfigMap.as_str(), ())]));
    let (namespace, name) = read_reference(&mut fields);
    fields.finish();
    group?;
    kind?;
    Some(AuthorityRef { namespace: namespace?, name: name? })
}

impl ClientCertificatesSpec {
    /// Whether it says who may come in, and not only what upstreams hear.
    #[must_use]
    pub fn asks(&self) -> bool {
        let Self { mode, names, certificates, public_keys, .. } = self;
        mode.is_some() || !(names.is_empty() && certificates.is_empty() && public_keys.is_empty())
    }

    pub(super) fn read(node: &Node<'_>) -> Option<Self> {
        let mut fields = node.fields()?;
        let mode = match fields.optional("mode") {
            Some(node) => node.choice("a way to validate clients", &ClientCertificateMode::ALL).map(Some),
            None => Some(None),
        };
        let authorities = match fields.optional("caCertificateRefs") {
            Some(node) => read_authorities(&node),
            None => Some(vec![]),
        };
        let names = fields.list("subjectAltNames", MAX_NAMES);
        let names: Option<Vec<_>> =
            names.iter().map(|node| node.text_of(1..=NAME_BYTES).map(str::to_owned)).collect();
        let certificates = read_pins(&mut fields, "certificateHashes");
        let public_keys = read_pins(&mut fields, "publicKeyHashes");
        let forward = match fields.optional("forward") {
            Some(node) => read_forward(&node).map(Some),
            None => Some(None),
        };
        fields.finish();
        Some(Self {
            mode: mode?,
            authorities: authorities?,
            names: names?,
            certificates: certificates?,
            public_keys: public_keys?,
            forward: forward?,
        })
    }
}

fn read_pins(fields: &mut Fields<'_>, name: &'static str) -> Option<Vec<[u8; 32]>> {
    let items = fields.list(name, MAX_PINS);
    items.iter().map(read_pin).collect()
}

/// A SHA-256: hexadecimal, with or without colons (openssl), or base64 (RFC 7469).
fn read_pin(node: &Node<'_>) -> Option<[u8; 32]> {
    let text = node.text_of(1..=PIN_BYTES)?;
    let digits: String = text.chars().filter(|sign| *sign != ':').collect();
    let pin = read_hexadecimal(&digits).or_else(|| STANDARD.decode(text).ok()?.try_into().ok());
    if pin.is_none() {
        node.wrong("it is no SHA-256", "write its 64 hexadecimal digits, or its 32 bytes in base64");
    }
    pin
}

fn read_hexadecimal(digits: &str) -> Option<[u8; 32]> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let bytes: Option<Vec<u8>> = digits
        .as_bytes()
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        })
        .collect();
    bytes?.try_into().ok()
}

fn read_forward(node: &Node<'_>) -> Option<Vec<CertificateDetail>> {
    let mut fields = node.fields()?;
    let details = match fields.optional("details") {
        Some(node) => {
            let items = node.items(CertificateDetail::ALL.len());
            items
                .iter()
                .map(|item| item.choice("a detail of certificates", &CertificateDetail::ALL))
                .collect()
        }
        None => Some(vec![CertificateDetail::Subject, CertificateDetail::Uri, CertificateDetail::Dns]),
    };
    fields.finish();
    details
}
