//! `gateway.networking.k8s.io/v1` Gateway.

use std::collections::HashSet;

use model::{HostPattern, ListenerProtocol, PoolName};

use super::hostname;
use crate::{
    Kind, name,
    read::{Fields, Node},
};

/// The only class that is served.
const CLASS: &str = "weir";
/// Gateway API's bound.
const MAX_LISTENERS: usize = 64;

/// Where requests enter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewaySpec {
    /// The pool that it names; `None` is the default pool.
    pub pool: Option<PoolName>,
    /// In the order of the object.
    pub listeners: Vec<GatewayListener>,
}

/// One port and hostname.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayListener {
    /// Unique in the Gateway.
    pub name: String,
    /// `None` is every host that the tenant owns.
    pub hostname: Option<HostPattern>,
    /// As the pool knows it.
    pub port: u16,
    /// What is spoken.
    pub protocol: ListenerProtocol,
    /// Secrets, for HTTPS. Empty is the pool's own certificate.
    pub certificates: Vec<CertificateRef>,
    /// The namespaces whose routes may attach.
    pub routes_from: RoutesFrom,
    /// The kinds of routes that may attach.
    pub allowed_kinds: Vec<Kind>,
}

/// A Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateRef {
    /// `None` is the Gateway's own.
    pub namespace: Option<String>,
    /// The Secret's name.
    pub name: String,
}

/// Namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoutesFrom {
    /// The Gateway's own.
    Same,
    /// All of the tenant's.
    All,
    /// No namespace.
    None,
}

impl GatewaySpec {
    pub(super) fn read(node: &Node<'_>) -> Option<Self> {
        let mut fields = node.fields()?;
        if let Some(node) = fields.required("gatewayClassName")
            && node.text().is_some_and(|text| text != CLASS)
        {
            node.wrong("there is no such class", format!("write {CLASS:?}"));
        }
        let pool = match fields.optional("infrastructure") {
            Some(node) => read_infrastructure(&node)?,
            None => None,
        };
        let items = fields.required("listeners").map(|node| {
            if node.raw().as_array().is_some_and(Vec::is_empty) {
                node.wrong("a Gateway needs at least one listener", "add one");
            }
            node.items(MAX_LISTENERS)
        });
        fields.unsupported(&["addresses", "allowedListeners", "backendTLS", "tls"]);
        fields.finish();

        let mut listeners: Vec<GatewayListener> = vec![];
        let mut names = HashSet::new();
        for item in items.unwrap_or_default() {
            let Some(listener) = read_listener(&item) else { continue };
            if !names.insert(listener.name.clone()) {
                item.wrong(
                    format!("the name {:?} is taken by a listener before it", listener.name),
                    "use another",
                );
            }
            let same =
                |other: &&GatewayListener| other.port == listener.port && other.hostname == listener.hostname;
            if let Some(other) = listeners.iter().find(same) {
                let problem = format!("it has the port and hostname of listener {:?}", other.name);
                item.wrong(problem, "change either, or remove one of the two");
            }
            listeners.push(listener);
        }
        Some(Self { pool, listeners })
    }
}

/// The pool. `None` where something is wrong.
fn read_infrastructure(node: &Node<'_>) -> Option<Option<PoolName>> {
    let mut fields = node.fields()?;
    fields.ignore(&["labels", "annotations"]);
    let parameters = fields.optional("parametersRef");
    fields.finish();
    let Some(node) = parameters else { return Some(None) };
    let mut fields = node.fields()?;
    let group =
        fields.required("group").and_then(|node| node.choice("a group of pools", &[("weir.dev", ())]));
    let kind = fields.required("kind").and_then(|node| node.choice("a kind of pools", &[("Pool", ())]));
    let name = fields.required("name").and_then(|node| node.parsed(str::parse::<PoolName>, "name a Pool"));
    fields.finish();
    group?;
    kind?;
    name.map(Some)
}

fn read_listener(node: &Node<'_>) -> Option<GatewayListener> {
    let mut fields = node.fields()?;
    let name = fields.required("name").and_then(|node| name::name(&node));
    let hostname = match fields.optional("hostname") {
        Some(node) => hostname(&node).map(Some),
        None => Some(None),
    };
    let port = fields.required("port").and_then(|node| node.number(1..=u16::MAX));
    let protocol = fields.required("protocol").and_then(|node| read_protocol(&node));
    let tls = fields.optional("tls");
    if let Some(node) = &tls
        && protocol == Some(ListenerProtocol::Http)
    {
        node.wrong("a listener that speaks HTTP has no tls", "remove it, or set protocol to HTTPS");
    }
    let certificates = tls.map_or(Some(vec![]), |node| read_tls(&node));
    let allowed = fields.optional("allowedRoutes");
    let allowed =
        allowed.map_or(Some((RoutesFrom::Same, ROUTES.to_vec())), |node| read_allowed_routes(&node));
    fields.finish();
    let (routes_from, allowed_kinds) = allowed?;
    Some(GatewayListener {
        name: name?,
        hostname: hostname?,
        port: port?,
        protocol: protocol?,
        certificates: certificates?,
        routes_from,
        allowed_kinds,
    })
}

fn read_protocol(node: &Node<'_>) -> Option<ListenerProtocol> {
    if let Some(text @ ("TLS" | "TCP" | "UDP")) = node.raw().as_str() {
        node.wrong(format!("{text} is not supported yet"), "use HTTP or HTTPS");
        return None;
    }
    node.choice("a protocol", &[("HTTP", ListenerProtocol::Http), ("HTTPS", ListenerProtocol::Https)])
}

fn read_tls(node: &Node<'_>) -> Option<Vec<CertificateRef>> {
    let mut fields = node.fields()?;
    if let Some(node) = fields.optional("mode") {
        if node.raw().as_str() == Some("Passthrough") {
            node.wrong("Passthrough is not supported yet", "use Terminate");
        } else {
            node.choice("a TLS mode", &[("Terminate", ())])?;
        }
    }
    let certificates = fields.list("certificateRefs", 64).iter().map(read_certificate).collect();
    fields.unsupported(&["frontendValidation", "options"]);
    fields.finish();
    certificates
}

pub(super) fn read_certificate(node: &Node<'_>) -> Option<CertificateRef> {
    let mut fields = node.fields()?;
    if let Some(node) = fields.optional("group") {
        node.choice("the group of Secrets", &[("", ())])?;
    }
    if let Some(node) = fields.optional("kind") {
        node.choice("a kind of certificates", &[(Kind::Secret.as_str(), ())])?;
    }
    let (namespace, name) = read_reference(&mut fields);
    fields.finish();
    Some(CertificateRef { namespace: namespace?, name: name? })
}

/// `namespace` (optional) and `name` of a reference.
pub(super) fn read_reference(fields: &mut Fields<'_>) -> (Option<Option<String>>, Option<String>) {
    let namespace = match fields.optional("namespace") {
        Some(node) => name::namespace(&node).map(Some),
        None => Some(None),
    };
    (namespace, fields.required("name").and_then(|node| name::name(&node)))
}

/// What may attach to a listener of HTTP.
const ROUTES: [Kind; 2] = [Kind::HttpRoute, Kind::GrpcRoute];

/// From which namespaces, and of which kinds.
fn read_allowed_routes(node: &Node<'_>) -> Option<(RoutesFrom, Vec<Kind>)> {
    let mut fields = node.fields()?;
    let from = fields.optional("namespaces").map_or(Some(RoutesFrom::Same), |node| read_namespaces(&node));
    let kinds = fields.optional("kinds").map(|node| node.items(8)).unwrap_or_default();
    fields.finish();
    if kinds.is_empty() {
        return Some((from?, ROUTES.to_vec()));
    }
    let mut allowed = vec![];
    for kind in &kinds {
        let kind = read_route_kind(kind)?;
        allowed.extend(ROUTES.into_iter().filter(|route| route.as_str() == kind));
    }
    Some((from?, allowed))
}

fn read_namespaces(node: &Node<'_>) -> Option<RoutesFrom> {
    let mut fields = node.fields()?;
    fields.unsupported(&["selector"]);
    let from = fields.optional("from").map_or(Some(RoutesFrom::Same), |node| {
        if node.raw().as_str() == Some("Selector") {
            node.wrong("Selector is not supported yet", "use Same or All");
            return None;
        }
        let options = [("Same", RoutesFrom::Same), ("All", RoutesFrom::All), ("None", RoutesFrom::None)];
        node.choice("a choice of namespaces", &options)
    });
    fields.finish();
    from
}

fn read_route_kind(node: &Node<'_>) -> Option<String> {
    let mut fields = node.fields()?;
    if let Some(node) = fields.optional("group") {
        node.text()?;
    }
    let kind = fields.required("kind").and_then(|node| node.text_of(1..=63));
    fields.finish();
    kind.map(str::to_owned)
}
