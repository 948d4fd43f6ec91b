//! `gateway.networking.k8s.io/v1` Gateway.

use std::collections::HashSet;

use model::{HostPattern, ListenerProtocol, PoolName};

use super::{
    client_certificates::{self, FrontendTls},
    hostname,
};
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
    /// What clients of its listeners of HTTPS are to show.
    pub frontend: FrontendTls,
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
    /// Secrets, where TLS ends. Empty is the pool's own certificate.
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
        let frontend = match fields.optional("tls") {
            Some(node) => client_certificates::read_gateway(&node),
            None => Some(FrontendTls::default()),
        };
        fields.unsupported(&["addresses", "allowedListeners", "backendTLS"]);
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
            let same = |other: &&GatewayListener| {
                (other.port, other.protocol.is_udp(), &other.hostname)
                    == (listener.port, listener.protocol.is_udp(), &listener.hostname)
            };
            if let Some(other) = listeners.iter().find(same) {
                let problem = format!("it has the port and hostname of listener {:?}", other.name);
                item.wrong(problem, "change either, or remove one of the two");
            }
            listeners.push(listener);
        }
        Some(Self { pool, listeners, frontend: frontend? })
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
    let protocol = fields.required("protocol").and_then(|node| node.choice("a protocol", &PROTOCOLS));
    let tls = fields.optional("tls");
    check_tls(&fields.node, tls.as_ref(), protocol);
    if let (Some(Some(_)), Some(false)) = (&hostname, protocol.map(ListenerProtocol::names_hosts)) {
        let problem = "clients of TCP and UDP do not say which host they mean";
        fields.node.wrong(problem, "remove hostname, or set protocol to TLS");
    }
    let tls = tls.map_or(Some(Tls::default()), |node| read_tls(&node, protocol));
    let Tls { passthrough, certificates } = tls?;
    let protocol = if passthrough { Some(ListenerProtocol::TlsPassthrough) } else { protocol };
    let allowed = fields.optional("allowedRoutes");
    let routes = attachable(protocol?);
    let allowed =
        allowed.map_or(Some((RoutesFrom::Same, routes.to_vec())), |node| read_allowed_routes(&node, routes));
    fields.finish();
    let (routes_from, allowed_kinds) = allowed?;
    Some(GatewayListener {
        name: name?,
        hostname: hostname?,
        port: port?,
        protocol: protocol?,
        certificates,
        routes_from,
        allowed_kinds,
    })
}

/// What ports speak; what becomes of TLS is said apart.
pub(super) const PROTOCOLS: [(&str, ListenerProtocol); 5] = [
    ("HTTP", ListenerProtocol::Http),
    ("HTTPS", ListenerProtocol::Https),
    ("TLS", ListenerProtocol::Tls),
    ("TCP", ListenerProtocol::Tcp),
    ("UDP", ListenerProtocol::Udp),
];

/// Whether there is a `tls` where one belongs.
fn check_tls(listener: &Node<'_>, tls: Option<&Node<'_>>, protocol: Option<ListenerProtocol>) {
    match (tls, protocol) {
        (Some(node), Some(ListenerProtocol::Http)) => {
            node.wrong("a listener that speaks HTTP has no tls", "remove it, or set protocol to HTTPS");
        }
        (Some(node), Some(ListenerProtocol::Tcp)) => {
            node.wrong("a listener that speaks TCP has no tls", "remove it, or set protocol to TLS");
        }
        (Some(node), Some(ListenerProtocol::Udp)) => {
            node.wrong("a listener that speaks UDP has no tls", "remove it");
        }
        (None, Some(ListenerProtocol::Tls)) => {
            let fix = "add tls with mode Passthrough, or Terminate and certificateRefs";
            listener.wrong("it does not say what becomes of TLS", fix);
        }
        _ => {}
    }
}

/// What becomes of TLS.
#[derive(Default)]
struct Tls {
    passthrough: bool,
    certificates: Vec<CertificateRef>,
}

fn read_tls(node: &Node<'_>, protocol: Option<ListenerProtocol>) -> Option<Tls> {
    let mut fields = node.fields()?;
    let mode = fields.optional("mode");
    let passthrough = match &mode {
        Some(node) => node.choice("a TLS mode", &[("Terminate", false), ("Passthrough", true)]),
        None => Some(false),
    };
    if let (Some(node), Some(true), Some(ListenerProtocol::Https)) = (&mode, passthrough, protocol) {
        node.wrong("HTTPS is read here, so its TLS ends here", "use Terminate, or set protocol to TLS");
    }
    let references = fields.list("certificateRefs", 64);
    if passthrough == Some(true)
        && let Some(first) = references.first()
    {
        first.wrong("TLS that is passed on shows the backend's certificate", "remove certificateRefs");
    }
    let certificates = references.iter().map(read_certificate).collect::<Option<_>>();
    if let Some(node) = fields.optional("frontendValidation") {
        node.wrong("a Gateway says it for its ports", "write it as spec.tls.frontend.default.validation");
    }
    fields.unsupported(&["options"]);
    fields.finish();
    Some(Tls { passthrough: passthrough?, certificates: certificates? })
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

/// What may attach to a listener.
fn attachable(protocol: ListenerProtocol) -> &'static [Kind] {
    match protocol {
        ListenerProtocol::Http | ListenerProtocol::Https => &[Kind::HttpRoute, Kind::GrpcRoute],
        ListenerProtocol::TlsPassthrough => &[Kind::TlsRoute],
        ListenerProtocol::Tls => &[Kind::TlsRoute, Kind::TcpRoute],
        ListenerProtocol::Tcp => &[Kind::TcpRoute],
        ListenerProtocol::Udp => &[Kind::UdpRoute],
    }
}

/// From which namespaces, and of which kinds.
fn read_allowed_routes(node: &Node<'_>, routes: &[Kind]) -> Option<(RoutesFrom, Vec<Kind>)> {
    let mut fields = node.fields()?;
    let from = fields.optional("namespaces").map_or(Some(RoutesFrom::Same), |node| read_namespaces(&node));
    let kinds = fields.optional("kinds").map(|node| node.items(8)).unwrap_or_default();
    fields.finish();
    if kinds.is_empty() {
        return Some((from?, routes.to_vec()));
    }
    let mut allowed = vec![];
    for kind in &kinds {
        let kind = read_route_kind(kind)?;
        allowed.extend(routes.iter().filter(|route| route.as_str() == kind));
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
