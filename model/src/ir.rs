//! The intermediate representation: what every dialect compiles to, and what an edge is sent.
//!
//! Dialect differences are data here, not branches in the edge. Every node that a user can get wrong keeps its
//! [`Origin`], so that an error names the object and the field that caused it.

use std::{collections::BTreeSet, fmt, net::SocketAddr, num::NonZeroU32, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    AccessLog, ClientCertificates, PoolName, ProxyVersion, SessionPersistence, TenantId, TrafficPolicy,
};

/// Where a node of the IR came from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Origin {
    /// The object's kind, `HTTPRoute`.
    pub kind: String,
    /// The object's namespace.
    pub namespace: String,
    /// The object's name.
    pub name: String,
    /// The field, `spec.rules[0].matches[1].path`; empty for the object itself.
    pub field: String,
}

impl Origin {
    /// Whether both are of one object.
    #[must_use]
    pub fn is_of(&self, other: &Self) -> bool {
        (&self.kind, &self.namespace, &self.name) == (&other.kind, &other.namespace, &other.name)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)?;
        if !self.field.is_empty() {
            write!(f, " {}", self.field)?;
        }
        Ok(())
    }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id! {
    /// `namespace/gateway/listener`, unique in its tenant.
    ListenerId
}
text_id! {
    /// `namespace/name` of the route object, unique in its tenant and kind.
    RouteId
}
text_id! {
    /// `namespace/name` of the backend, stable over config changes: endpoint state is keyed by it.
    BackendId
}
text_id! {
    /// `namespace/name` of the certificate.
    CertificateId
}

/// Something that an edge must understand to serve a configuration safely.
///
/// A snapshot lists the features it needs; an edge that lacks one refuses the whole snapshot, because protobuf
/// drops unknown fields silently and an old edge must never serve a route without its new filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Feature {
    /// Host, path, method, header and query matches; weights; header filters; timeouts.
    HttpRouting,
    /// Redirect, rewrite and direct response.
    HttpRewriting,
    /// TLS ended at the edge with certificates chosen by SNI.
    TlsTermination,
    /// TLS to upstreams, verified.
    UpstreamTls,
    /// HTTP/2 to upstreams in cleartext.
    UpstreamHttp2,
    /// The PROXY protocol to upstreams.
    UpstreamProxy,
    /// TLS and TCP that are passed on as they are.
    Streams,
    /// UDP that is passed on.
    Datagrams,
    /// What listeners allow: HTTP/2 switched off, CONNECT.
    ListenerPolicies,
    /// Requests that are spread in another way than by default.
    TrafficPolicy,
    /// Clients that have to show certificates.
    ClientCertificates,
    /// Clients that stay with an endpoint by what they carry.
    SessionPersistence,
    /// Requests that are sent to a second endpoint when the first is late.
    Hedging,
}

impl Feature {
    /// Every feature that this version serves.
    pub const ALL: [Self; 13] = [
        Self::HttpRouting,
        Self::HttpRewriting,
        Self::TlsTermination,
        Self::UpstreamTls,
        Self::UpstreamHttp2,
        Self::UpstreamProxy,
        Self::Streams,
        Self::Datagrams,
        Self::ListenerPolicies,
        Self::TrafficPolicy,
        Self::ClientCertificates,
        Self::SessionPersistence,
        Self::Hedging,
    ];

    /// The feature's name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HttpRouting => "http-routing",
            Self::HttpRewriting => "http-rewriting",
            Self::TlsTermination => "tls-termination",
            Self::UpstreamTls => "upstream-tls",
            Self::UpstreamHttp2 => "upstream-http2",
            Self::UpstreamProxy => "upstream-proxy",
            Self::Streams => "streams",
            Self::Datagrams => "datagrams",
            Self::ListenerPolicies => "listener-policies",
            Self::TrafficPolicy => "traffic-policy",
            Self::ClientCertificates => "client-certificates",
            Self::SessionPersistence => "session-persistence",
            Self::Hedging => "hedging",
        }
    }

    /// The feature of that name, if this version knows it.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|f| f.as_str() == name)
    }
}

/// All that the edges serve for one tenant: the unit that is hashed, sent, compiled and rejected as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantConfig {
    /// Whose configuration this is.
    pub tenant: TenantId,
    /// Where requests enter.
    pub listeners: Vec<Listener>,
    /// How requests are answered.
    pub routes: Vec<Route>,
    /// Where connections go that are passed on as they are.
    pub streams: Vec<StreamRoute>,
    /// Where requests are forwarded to.
    pub backends: Vec<Backend>,
    /// Certificates that listeners name, with their private keys.
    pub certificates: Vec<Certificate>,
    /// How much of a worker it may take.
    #[serde(default, skip_serializing_if = "TrafficQuota::is_default")]
    pub quota: TrafficQuota,
}

/// How much of a worker one tenant may take. Each bound holds for each request thread of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficQuota {
    /// Client connections; `None`: as many as there is room for.
    pub connections: Option<u64>,
    /// Requests that are being served, and streams.
    pub requests: Option<u64>,
    /// Bytes that are buffered for its requests.
    pub buffered_bytes: Option<u64>,
    /// Its part of a worker that has too much to do, beside those of the other tenants.
    pub weight: NonZeroU32,
}

impl TrafficQuota {
    /// The weight of a tenant of which nothing is said.
    pub const WEIGHT: NonZeroU32 = NonZeroU32::new(100).unwrap();

    /// Whether it is what every tenant has of which nothing is said.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for TrafficQuota {
    fn default() -> Self {
        Self { connections: None, requests: None, buffered_bytes: None, weight: Self::WEIGHT }
    }
}

impl TenantConfig {
    /// A tenant that serves nothing.
    #[must_use]
    pub fn empty(tenant: TenantId) -> Self {
        Self {
            tenant,
            listeners: vec![],
            routes: vec![],
            streams: vec![],
            backends: vec![],
            certificates: vec![],
            quota: TrafficQuota::default(),
        }
    }

    /// What an edge must understand to serve this.
    #[must_use]
    pub fn features(&self) -> BTreeSet<Feature> {
        let mut needed = BTreeSet::new();
        if !self.routes.is_empty() {
            needed.insert(Feature::HttpRouting);
        }
        let rules = || self.routes.iter().flat_map(|r| &r.rules);
        if rules().any(|r| {
            !matches!(r.action, Action::Forward(_))
                || r.filters.iter().any(|f| matches!(f, Filter::Rewrite(_)))
        }) {
            needed.insert(Feature::HttpRewriting);
        }
        if self.listeners.iter().any(|l| l.protocol == ListenerProtocol::Https) {
            needed.insert(Feature::TlsTermination);
        }
        if self.backends.iter().any(|b| b.tls.is_some()) {
            needed.insert(Feature::UpstreamTls);
        }
        if self.backends.iter().any(|b| b.protocol == UpstreamProtocol::Http2) {
            needed.insert(Feature::UpstreamHttp2);
        }
        if self.backends.iter().any(|b| b.send_proxy.is_some()) {
            needed.insert(Feature::UpstreamProxy);
        }
        if !self.streams.is_empty() || self.listeners.iter().any(|l| !l.protocol.is_http()) {
            needed.insert(Feature::Streams);
        }
        if self.listeners.iter().any(|l| l.protocol.is_udp()) {
            needed.insert(Feature::Datagrams);
        }
        if self.listeners.iter().any(|l| !l.policy.is_default()) {
            needed.insert(Feature::ListenerPolicies);
        }
        if self.backends.iter().any(|b| b.traffic != TrafficPolicy::default()) {
            needed.insert(Feature::TrafficPolicy);
        }
        if self.listeners.iter().any(|l| l.client_certificates.is_some()) {
            needed.insert(Feature::ClientCertificates);
        }
        if rules().any(|rule| rule.persistence.is_some()) {
            needed.insert(Feature::SessionPersistence);
        }
        if self.backends.iter().any(|b| b.traffic.hedging.is_some()) {
            needed.insert(Feature::Hedging);
        }
        needed
    }
}

/// One port and hostname of a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Unique in the tenant.
    pub id: ListenerId,
    /// The Gateway and its listener.
    pub origin: Origin,
    /// The pool whose workers listen.
    pub pool: PoolName,
    /// The port as the Gateway says it (80, 443); the pool maps it to a socket address.
    pub port: u16,
    /// What is spoken on it.
    pub protocol: ListenerProtocol,
    /// Requests for other hosts are not this listener's. `None` is every host that the tenant owns.
    pub hostname: Option<HostPattern>,
    /// Where TLS ends here; the first is the default. Empty there means the pool's own certificate.
    pub certificates: Vec<CertificateId>,
    /// What it allows beside ordinary requests.
    #[serde(default, skip_serializing_if = "ListenerPolicy::is_default")]
    pub policy: ListenerPolicy,
    /// Where TLS ends here: what is asked of clients' certificates. `None`: nobody is asked for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificates: Option<Box<ClientCertificates>>,
}

/// What a listener allows beside ordinary requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerPolicy {
    /// HTTP/2, by ALPN and by prior knowledge.
    pub http2: bool,
    /// Where CONNECT may lead; empty: CONNECT is off.
    pub connect: Vec<ConnectTarget>,
    /// What the access log tells; `None`: the ordinary fields, of all requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_log: Option<Box<AccessLog>>,
    /// How many of a million of the traces that begin on it are sampled; `None`: as the worker says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_sampled_ppm: Option<u32>,
    /// When sessions of UDP end.
    #[serde(default, skip_serializing_if = "SessionPolicy::is_default")]
    pub udp: SessionPolicy,
}

impl Default for ListenerPolicy {
    fn default() -> Self {
        Self {
            http2: true,
            connect: vec![],
            access_log: None,
            trace_sampled_ppm: None,
            udp: SessionPolicy::default(),
        }
    }
}

/// When a session of UDP ends: what a client says by one address and port, and what it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionPolicy {
    /// No datagram in either direction for so long.
    pub idle: Duration,
    /// So many datagrams were sent to the client. `None`: however many. 1 suits protocols in which a request has one
    /// answer, and clients ask each from another port (DNS).
    pub responses: Option<NonZeroU32>,
}

impl Default for SessionPolicy {
    fn default() -> Self {
        // What Envoy has.
        Self { idle: Duration::from_secs(60), responses: None }
    }
}

impl SessionPolicy {
    /// Whether it is every listener's that has no policy of its own.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl ListenerPolicy {
    /// Whether it is every listener's that has no policy of its own.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether CONNECT may lead to `host` (lowercase, no port) and `port`.
    #[must_use]
    pub fn allows_connect(&self, host: &str, port: u16) -> bool {
        self.connect.iter().any(|target| target.host.matches(host) && target.ports.contains(&port))
    }
}

/// Destinations of CONNECT.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectTarget {
    /// Their names; addresses are no destinations.
    pub host: HostPattern,
    /// Their ports; never empty.
    pub ports: Vec<u16>,
}

/// What a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ListenerProtocol {
    /// Cleartext HTTP/1.1 and HTTP/2 with prior knowledge.
    Http,
    /// TLS, then HTTP/2 or HTTP/1.1 by ALPN.
    Https,
    /// TLS that ends here, then bytes that are passed on.
    Tls,
    /// TLS that is passed on by the host that the client asks for.
    TlsPassthrough,
    /// Connections that are passed on.
    Tcp,
    /// Datagrams that are passed on.
    Udp,
}

impl ListenerProtocol {
    /// Whether requests are read, rather than bytes passed on.
    #[must_use]
    pub const fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Https)
    }

    /// Whether clients speak TLS.
    #[must_use]
    pub const fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Tls | Self::TlsPassthrough)
    }

    /// Whether TLS ends here, with a certificate of the listener's.
    #[must_use]
    pub const fn ends_tls(self) -> bool {
        matches!(self, Self::Https | Self::Tls)
    }

    /// Whether clients say which host they mean. Otherwise a port is one tenant's alone.
    #[must_use]
    pub const fn names_hosts(self) -> bool {
        !matches!(self, Self::Tcp | Self::Udp)
    }

    /// Whether it comes by UDP, whose ports are apart from those of TCP. HTTP/3 does not count: it is HTTPS, which comes by
    /// both.
    #[must_use]
    pub const fn is_udp(self) -> bool {
        matches!(self, Self::Udp)
    }

    /// As a pool says it of a port: what becomes of TLS is the listener's to say.
    #[must_use]
    pub const fn on_port(self) -> Self {
        match self {
            Self::TlsPassthrough => Self::Tls,
            other => other,
        }
    }
}

/// A hostname, or `*.` and a suffix that stands for one or more labels. Always lowercase, without a port or a
/// trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum HostPattern {
    /// `a.example.com`
    Exact(String),
    /// `*.example.com`, kept as `example.com`.
    Wildcard(String),
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::Wildcard(suffix) => write!(f, "*.{suffix}"),
        }
    }
}

/// A set of rules for some hostnames on some listeners.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Unique in the tenant; the `route` label of metrics and logs.
    pub id: RouteId,
    /// The route object.
    pub origin: Origin,
    /// The listeners that it is attached to, in the order of its parents.
    pub listeners: Vec<ListenerId>,
    /// Empty: every host of its listeners. The compiler intersects these with each listener's hostname.
    pub hostnames: Vec<HostPattern>,
    /// In the order of the object.
    pub rules: Vec<Rule>,
}

/// Connections or datagrams of some listeners, and of some hosts where clients of TLS say which, to backends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamRoute {
    /// Unique in the tenant; the `route` label of logs.
    pub id: RouteId,
    /// The route object.
    pub origin: Origin,
    /// The listeners that it is attached to. On one port (of TCP, or of UDP) and hostname there is one route.
    pub listeners: Vec<ListenerId>,
    /// Empty: every host of its listeners. Always empty for listeners of TCP and UDP.
    pub hostnames: Vec<HostPattern>,
    /// One of these by weight, for each connection, and for each client of UDP. Without filters.
    pub backends: Vec<WeightedBackend>,
}

/// What is done with the requests that one of the matches holds for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// The rule in its route object.
    pub origin: Origin,
    /// Never empty; a rule without matches has one that matches everything.
    pub matches: Vec<Match>,
    /// In the order in which they apply.
    pub filters: Vec<Filter>,
    /// How the request is answered.
    pub action: Action,
    /// Bounds on the answer.
    pub timeouts: Timeouts,
    /// How clients stay with an endpoint. `None`: each request is for itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistence: Option<SessionPersistence>,
}

/// The place of a match in its tenant's total order: of all that hold for a request, on the most specific
/// hostname, the lowest rank wins. The dialect assigns ranks, unique in the tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rank(pub u32);

/// Holds when every part of it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Match {
    /// Its place in the tenant's order.
    pub rank: Rank,
    /// The path, without the query.
    pub path: PathMatch,
    /// `None` is any method. Compared to the letter (RFC 9110 section 9.1).
    pub method: Option<String>,
    /// Names in lowercase. Several fields of one name are joined by `,` before they are compared.
    pub headers: Vec<ValueMatch>,
    /// The first parameter of that name counts (Gateway API). Percent-decoded before it is compared.
    pub query: Vec<ValueMatch>,
}

/// How a path is compared. Patterns and paths are in canonical form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PathMatch {
    /// The whole path.
    Exact(String),
    /// Whole segments: `/a` holds for `/a` and `/a/b`, not for `/ab`. `/` holds for every path.
    PrefixSegment(String),
    /// A plain string prefix: `/a` holds for `/ab` as well (Istio, nginx).
    PrefixString(String),
    /// A regular expression in the syntax of the `regex` crate (linear time).
    Regex {
        /// The pattern as written.
        pattern: String,
        /// Whether it must hold for the whole path (Gateway API, Istio) or anywhere in it (nginx).
        anchor: bool,
        /// Whether letter case is ignored.
        icase: bool,
    },
}

/// A named value (header or query parameter) and what it must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValueMatch {
    /// The header's name in lowercase, or the parameter's name.
    pub name: String,
    /// What is asked of the value.
    pub matcher: ValueMatcher,
}

/// What is asked of a value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ValueMatcher {
    /// Equal to the letter.
    Exact(String),
    /// The whole value matches (linear time).
    Regex(String),
}

/// A change to the request or its response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Filter {
    /// Edits the request's headers before it is forwarded.
    RequestHeaders(HeaderEdit),
    /// Edits the response's headers, also those of local replies.
    ResponseHeaders(HeaderEdit),
    /// Changes the host or path that the upstream sees.
    Rewrite(Rewrite),
}

/// Set, then add, then remove (Gateway API `HTTPHeaderFilter`). Names in lowercase.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HeaderEdit {
    /// Replaces all fields of that name.
    pub set: Vec<(String, String)>,
    /// Appends a field.
    pub add: Vec<(String, String)>,
    /// Removes all fields of that name.
    pub remove: Vec<String>,
}

/// A URL rewrite.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Rewrite {
    /// The new `Host`.
    pub hostname: Option<String>,
    /// The new path; the query stays.
    pub path: Option<PathModifier>,
}

/// How a path is changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathModifier {
    /// The whole path is replaced.
    ReplaceFull(String),
    /// The part that a `PrefixSegment` match covered is replaced.
    ReplacePrefix(String),
}

/// How a request is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Forwarded to one of these by weight. Empty, or all of weight 0: 500 (Gateway API).
    Forward(Vec<WeightedBackend>),
    /// Answered with a redirect.
    Redirect(Redirect),
    /// Answered as it says.
    Respond(Respond),
}

/// A backend and its share of the rule's requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightedBackend {
    /// `None` where the reference does not resolve: its share is answered with 500 (Gateway API).
    pub backend: Option<BackendId>,
    /// Relative to the sum of the rule's weights, at most 1,000,000.
    pub weight: u32,
    /// Only for requests that go to this backend.
    pub filters: Vec<Filter>,
}

/// A redirect; what is `None` stays as the request had it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// The host of `Location`.
    pub hostname: Option<String>,
    /// The path of `Location`.
    pub path: Option<PathModifier>,
    /// The port of `Location`; the scheme's own port is left out.
    pub port: Option<u16>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// A fixed reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Respond {
    /// The status code.
    pub status: u16,
    /// Sent as `text/plain; charset=utf-8`.
    pub body: String,
}

/// Bounds on one request. `None` where the route says nothing: then only the idle limits hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Timeouts {
    /// From the end of the request's head to the end of the response; zero in the dialect is `None` here.
    pub request: Option<Duration>,
    /// One try at a backend, to the end of the response's head.
    pub backend_request: Option<Duration>,
}

/// A group of endpoints that answer the same requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// Unique in the tenant.
    pub id: BackendId,
    /// The Backend object.
    pub origin: Origin,
    /// Never empty after validation.
    pub endpoints: Vec<Endpoint>,
    /// To the end of the TCP handshake, and of the TLS handshake where there is one.
    pub connect_timeout: Duration,
    /// What is spoken to the endpoints.
    pub protocol: UpstreamProtocol,
    /// `None` is cleartext.
    pub tls: Option<UpstreamTls>,
    /// Each connection begins with this header, which says who the client is; then it is that client's only, and
    /// HTTP/2, whose connections are shared, is not spoken.
    pub send_proxy: Option<ProxyVersion>,
    /// How requests are spread over the endpoints.
    pub traffic: TrafficPolicy,
}

/// What is spoken to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub enum UpstreamProtocol {
    /// HTTP/1.1 in cleartext; in TLS whichever of HTTP/2 and HTTP/1.1 the endpoint chooses (ALPN).
    #[default]
    Negotiated,
    /// HTTP/1.1 only.
    Http1,
    /// HTTP/2 only: with prior knowledge in cleartext, by ALPN in TLS.
    Http2,
}

/// How the endpoints of a backend prove who they are, and who we say we are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamTls {
    /// The object and field that asks for it.
    pub origin: Origin,
    /// Sent as SNI; the endpoint's certificate must name it.
    pub server_name: String,
    /// Who may have signed the endpoint's certificate.
    pub roots: UpstreamRoots,
    /// Shown to endpoints that ask for a certificate: one of the tenant's.
    pub client_certificate: Option<CertificateId>,
}

/// Who is trusted to vouch for an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpstreamRoots {
    /// Whoever the machine trusts.
    System,
    /// These certificates only, PEM.
    Pem(String),
}

/// One place that answers requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Where it is.
    pub address: EndpointAddress,
    /// Relative to the backend's other endpoints, at least 1.
    pub weight: u32,
}

/// Where an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum EndpointAddress {
    /// An address.
    Ip(SocketAddr),
    /// A name that the edge resolves, and again when its time to live ends; every address is an endpoint.
    Dns {
        /// The hostname.
        host: String,
        /// The port.
        port: u16,
    },
}

impl fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => write!(f, "{address}"),
            Self::Dns { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// A certificate chain and its key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Unique in the tenant.
    pub id: CertificateId,
    /// The object that holds it.
    pub origin: Origin,
    /// The hosts that the leaf names, for SNI.
    pub hosts: Vec<HostPattern>,
    /// PEM, leaf first.
    pub chain_pem: String,
    /// PEM, PKCS#8, PKCS#1 or SEC1. Secret: never logged.
    pub key_pem: String,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("id", &self.id)
            .field("hosts", &self.hosts)
            .finish_non_exhaustive()
    }
}
