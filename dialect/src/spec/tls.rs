//! TLS to upstreams: `gateway.networking.k8s.io/v1` BackendTLSPolicy, and the `tls` of a Backend.

use super::{
    gateway::{CertificateRef, read_certificate},
    precise_hostname,
};
use crate::{
    Kind, name,
    read::{Fields, Node},
};

/// Gateway API's bounds.
const MAX_TARGETS: usize = 16;
const MAX_AUTHORITIES: usize = 8;

/// How upstreams prove who they are, and who we say we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendTlsSpec {
    /// Sent as SNI; the upstream's certificate must name it.
    pub hostname: String,
    /// Who may have signed the upstream's certificate.
    pub roots: RootsRef,
    /// The Secret with the certificate that we show.
    pub client_certificate: Option<CertificateRef>,
}

/// Who is trusted to vouch for an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootsRef {
    /// Whoever the machine trusts.
    System,
    /// The authorities in ConfigMaps of the object's namespace; never empty.
    ConfigMaps(Vec<String>),
}

/// TLS for some Backends of its namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendTlsPolicySpec {
    /// The names of Backends.
    pub targets: Vec<String>,
    /// How they are spoken to.
    pub tls: BackendTlsSpec,
}

impl BackendTlsPolicySpec {
    pub(super) fn read(node: &Node<'_>) -> Option<Self> {
        let mut fields = node.fields()?;
        let targets = fields.required("targetRefs").map(|node| {
            if node.raw().as_array().is_some_and(Vec::is_empty) {
                node.wrong("it applies to nothing", "name a Backend of group weir.dev");
            }
            node.items(MAX_TARGETS).iter().map(read_target).collect::<Option<Vec<_>>>()
        });
        let tls = fields.required("validation").and_then(|node| {
            let mut fields = node.fields()?;
            let tls = read_validation(&mut fields);
            fields.unsupported(&["subjectAltNames"]);
            fields.finish();
            tls
        });
        fields.unsupported(&["options"]);
        fields.finish();
        Some(Self { targets: targets??, tls: tls? })
    }
}

fn read_target(node: &Node<'_>) -> Option<String> {
    let mut fields = node.fields()?;
    let group = fields
        .required("group")
        .and_then(|node| node.choice("a group of backends", &[(Kind::Backend.group(), ())]));
    let kind = fields
        .required("kind")
        .and_then(|node| node.choice("a kind of backends", &[(Kind::Backend.as_str(), ())]));
    let name = fields.required("name").and_then(|node| name::name(&node));
    // A Backend's endpoints have their own ports, so there are no sections to choose among.
    fields.unsupported(&["sectionName"]);
    fields.finish();
    group?;
    kind?;
    name
}

impl BackendTlsSpec {
    /// The `tls` of a Backend.
    pub(super) fn read(node: &Node<'_>) -> Option<Self> {
        let mut fields = node.fields()?;
        let tls = read_validation(&mut fields);
        let client = match fields.optional("clientCertificateRef") {
            Some(node) => read_certificate(&node).map(Some),
            None => Some(None),
        };
        fields.finish();
        Some(Self { client_certificate: client?, ..tls? })
    }
}

/// Gateway API's `validation`: a hostname, and either authorities or the machine's.
fn read_validation(fields: &mut Fields<'_>) -> Option<BackendTlsSpec> {
    let hostname = fields.required("hostname").and_then(|node| precise_hostname(&node));
    let system = fields.optional("wellKnownCACertificates");
    let references = fields.optional("caCertificateRefs");
    let roots = match (system, references) {
        (Some(node), None) => {
            node.choice("a set of authorities", &[("System", ())]).map(|()| RootsRef::System)
        }
        (None, Some(node)) => {
            let items = node.items(MAX_AUTHORITIES);
            if items.is_empty() {
                node.wrong("nobody could vouch for the upstream", "name a ConfigMap with ca.crt");
            }
            items.iter().map(read_authority).collect::<Option<Vec<_>>>().map(RootsRef::ConfigMaps)
        }
        _ => {
            fields.node.wrong(
                "who vouches for the upstream is said once",
                "write either caCertificateRefs or wellKnownCACertificates: System",
            );
            None
        }
    };
    Some(BackendTlsSpec { hostname: hostname?, roots: roots?, client_certificate: None })
}

fn read_authority(node: &Node<'_>) -> Option<String> {
    let mut fields = node.fields()?;
    let group = fields.required("group").and_then(|node| node.choice("the group of ConfigMaps", &[("", ())]));
    let kind = fields
        .required("kind")
        .and_then(|node| node.choice("a kind of authorities", &[(Kind::ConfigMap.as_str(), ())]));
    let name = fields.required("name").and_then(|node| name::name(&node));
    fields.finish();
    group?;
    kind?;
    name
}
