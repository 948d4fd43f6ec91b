//! What a worker serves, compiled and ready: one [`Config`] is swapped in as a whole, and a request sees one.

mod tenants;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use model::{
    Backend, BackendId, CompileError, CompileLimits, EndpointAddress, Epoch, HostIndex, HostPattern,
    Listener, ListenerPolicy, Origin, PoolName, ProxyTrust, Revision, RouteTable, SessionPolicy,
    TenantConfig, TenantId, TrafficQuota,
};
use rustls::sign::CertifiedKey;

use crate::{
    drain::{OpenedBy, TunnelRoute},
    tls::{
        certificates::{TenantCertificates, certified_key},
        tickets::Keyring,
    },
    upstream::transport::ClientTls,
};

pub use tenants::Tenants;

/// All that a worker serves at one revision.
#[derive(Debug)]
pub struct Config {
    /// The life of the store that it came from.
    pub epoch: Epoch,
    /// The store's revision; (epoch, revision) never falls on a worker.
    pub revision: Revision,
    /// Which tenant's table a host is looked up in.
    pub hosts: Arc<HostIndex>,
    /// The tenants' tables. One that did not change is the same `Arc` as before.
    pub tenants: Tenants,
    /// What the pool says about its workers.
    pub pool: PoolSettings,
    /// Shown in TLS where no tenant's certificate fits.
    pub default_certificate: Option<Arc<CertifiedKey>>,
    /// The keys of session tickets, the same on all workers. `None`: the worker's own.
    pub ticket_keys: Option<Arc<Keyring>>,
}

impl Config {
    /// Serves nothing: every request is answered with 404.
    #[must_use]
    pub fn empty(pool: PoolSettings) -> Self {
        Self {
            epoch: Epoch::default(),
            revision: Revision::default(),
            hosts: Arc::default(),
            tenants: Tenants::default(),
            pool,
            default_certificate: None,
            ticket_keys: None,
        }
    }
}

impl Config {
    /// Whether a connection of whose host nothing is known may speak HTTP/2: some listener on its port does, or none is
    /// there to forbid it.
    pub(crate) fn speaks_http2(&self, port: u16) -> bool {
        let mut known = self.tenants.iter().filter_map(|(_, table)| table.speaks_http2(port)).peekable();
        known.peek().is_none() || known.any(|speaks| speaks)
    }

    /// Whether the listener that serves `host` on that port speaks HTTP/2.
    pub(crate) fn speaks_http2_for(&self, port: u16, host: &str) -> bool {
        let table = self.hosts.owner(host).and_then(|tenant| self.tenants.get(tenant.as_str()));
        table.and_then(|table| table.policy(port, host)).is_none_or(|policy| policy.http2)
    }
}

/// The routes of a configuration, found by name.
pub(crate) struct RouteSet<'c> {
    config: &'c Config,
    /// Of the tenants that were asked for.
    routes: HashMap<&'c TenantId, HashSet<&'c str>>,
}

impl<'c> RouteSet<'c> {
    pub(crate) fn of(config: &'c Config) -> Self {
        Self { config, routes: HashMap::new() }
    }

    /// Whether the tenant still has the host, and what opened the tunnel.
    pub(crate) fn has(&mut self, tunnel: &TunnelRoute) -> bool {
        let Some(table) = self.config.tenants.get(tunnel.tenant.as_str()) else { return false };
        let tenant = &table.tenant;
        self.config.hosts.owner(&tunnel.host) == Some(tenant)
            && match &tunnel.opened_by {
                OpenedBy::Route(route) => {
                    let ids = || table.routes.route_ids().collect();
                    self.routes.entry(tenant).or_insert_with(ids).contains(route.0.as_str())
                }
                OpenedBy::Connect { listener_port, host, port } => table
                    .policy(*listener_port, &tunnel.host)
                    .is_some_and(|policy| policy.allows_connect(host, *port)),
            }
    }
}

/// What the pool says about its workers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolSettings {
    /// The pool.
    pub name: PoolName,
    /// How long a drain may take before what is left is cut off.
    pub drain_deadline: Duration,
    /// Connections are retired at this age, give or take a tenth; `None` is never.
    pub max_connection_age: Option<Duration>,
    /// Whether responses by TLS say that HTTP/3 is served (`Alt-Svc`), where it is.
    pub advertise_h3: bool,
    /// Whether CONNECT may lead to addresses that are not the public internet's: where all configuration is its owner's.
    pub connect_private: bool,
    /// Ports of which something is to be known, by their number as Gateways name it.
    pub ports: Vec<PortSettings>,
}

/// What a pool says of one of its ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSettings {
    /// As Gateways name it.
    pub port: u16,
    /// Whether it is a port of UDP; those of TCP are apart.
    pub udp: bool,
    /// Whose PROXY protocol headers are believed. `None`: nobody's.
    pub proxy: Option<ProxyTrust>,
    /// Whose the port is, where nothing that clients say can tell.
    pub tenant: Option<TenantId>,
}

impl PoolSettings {
    /// The default drain deadline: longer than almost every request, short enough for a rolling restart.
    pub const DRAIN_DEADLINE: Duration = Duration::from_secs(30);

    /// A pool with the default deadline and no maximum age.
    #[must_use]
    pub fn new(name: PoolName) -> Self {
        Self {
            name,
            drain_deadline: Self::DRAIN_DEADLINE,
            max_connection_age: None,
            advertise_h3: true,
            connect_private: false,
            ports: vec![],
        }
    }

    /// Whether `peer` passes on the connections of others on that port, and then whether it must say whose.
    #[must_use]
    pub fn introduces(&self, port: u16, peer: IpAddr) -> Option<bool> {
        let proxy = self.port(port, false)?.proxy.as_ref()?;
        proxy.trusts(peer).then_some(proxy.required)
    }

    /// Whose a port (of TCP, or of UDP) is on which nothing that clients say can tell.
    #[must_use]
    pub fn tenant_of(&self, port: u16, udp: bool) -> Option<&TenantId> {
        self.port(port, udp)?.tenant.as_ref()
    }

    fn port(&self, port: u16, udp: bool) -> Option<&PortSettings> {
        self.ports.iter().find(|settings| (settings.port, settings.udp) == (port, udp))
    }
}

/// One tenant's configuration, compiled.
#[derive(Debug)]
pub struct TenantTable {
    /// Whose it is.
    pub tenant: TenantId,
    /// Which rule answers a request.
    pub routes: RouteTable,
    /// Where its rules forward to; the same `Arc`s as in `routes`.
    pub backends: HashMap<BackendId, Arc<Backend>>,
    /// Which certificate answers a handshake.
    pub certificates: TenantCertificates,
    /// TLS towards those backends that ask for it.
    pub upstream_tls: HashMap<BackendId, Arc<ClientTls>>,
    /// How much of a thread it may take.
    pub quota: TrafficQuota,
    /// Whether a backend is told who its clients are.
    pub sends_proxy: bool,
    /// Some listener has a policy of its own.
    has_policies: bool,
    /// Endpoints that are names, to be resolved.
    pub(crate) names: Box<[Box<str>]>,
}

/// Why a tenant's configuration is not served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {problem}")]
pub struct Rejected {
    /// The object that caused it.
    pub origin: Origin,
    /// What is wrong with it.
    pub problem: String,
}

impl TenantTable {
    /// Compiles the routes of all listeners, of whatever pool, and loads certificates and keys. Slow: milliseconds
    /// to seconds, never on a request thread.
    ///
    /// # Errors
    /// Every object that cannot be served, each with its reason.
    pub fn compile(config: &TenantConfig, limits: &CompileLimits) -> Result<Self, Vec<Rejected>> {
        Self::with_routes(config, None, RouteTable::compile(config, limits))
    }

    /// As [`compile`](Self::compile), for the listeners of one pool: two pools may serve the same port differently.
    ///
    /// # Errors
    /// As [`compile`](Self::compile).
    pub fn compile_for_pool(
        config: &TenantConfig,
        pool: &PoolName,
        limits: &CompileLimits,
    ) -> Result<Self, Vec<Rejected>> {
        Self::with_routes(config, Some(pool), RouteTable::compile_for_pool(config, pool, limits))
    }

    fn with_routes(
        config: &TenantConfig,
        pool: Option<&PoolName>,
        routes: Result<RouteTable, Vec<CompileError>>,
    ) -> Result<Self, Vec<Rejected>> {
        let sends_proxy = config.backends.iter().any(|b| b.send_proxy.is_some());
        match (routes, TenantCertificates::load(config, pool), upstream_tls(config)) {
            (Ok(routes), Ok(certificates), Ok(upstream_tls)) => Ok(Self {
                tenant: config.tenant.clone(),
                quota: config.quota,
                backends: backends(config, &routes),
                has_policies: routes.listeners().iter().any(|l| !l.policy.is_default()),
                names: names(config),
                routes,
                certificates,
                upstream_tls,
                sends_proxy,
            }),
            (routes, certificates, upstream_tls) => {
                let mut rejected = certificates.err().unwrap_or_default();
                rejected.extend(upstream_tls.err().unwrap_or_default());
                let errors = routes.err().unwrap_or_default();
                rejected
                    .extend(errors.into_iter().map(|e| Rejected { origin: e.origin, problem: e.problem }));
                Err(rejected)
            }
        }
    }
}

/// The backends by their id: where routes have them, the same.
fn backends(config: &TenantConfig, routes: &RouteTable) -> HashMap<BackendId, Arc<Backend>> {
    let mut known: HashMap<_, _> = routes.backends().map(|b| (b.id.clone(), Arc::clone(b))).collect();
    for backend in &config.backends {
        known.entry(backend.id.clone()).or_insert_with(|| Arc::new(backend.clone()));
    }
    known
}

impl TenantTable {
    /// What the listener allows that serves `host` (lowercase, no port) on a Gateway's port.
    pub(crate) fn policy(&self, port: u16, host: &str) -> Option<&ListenerPolicy> {
        if !self.has_policies {
            return None;
        }
        let fitting = self
            .of_http(port)
            .filter_map(|l| HostPattern::specificity(l.hostname.as_ref(), host).map(|s| (s, l)));
        fitting.max_by_key(|(specificity, _)| *specificity).map(|(_, listener)| &listener.policy)
    }

    /// Whether some listener on the port speaks HTTP/2; `None` if it has none there.
    fn speaks_http2(&self, port: u16) -> Option<bool> {
        let mut on_port = self.of_http(port).peekable();
        on_port.peek()?;
        Some(on_port.any(|listener| listener.policy.http2))
    }

    fn of_http(&self, port: u16) -> impl Iterator<Item = &Listener> {
        let listeners = self.routes.listeners().iter();
        listeners.filter(move |listener| listener.port == port && listener.protocol.is_http())
    }

    /// When sessions of a port of UDP end.
    pub(crate) fn sessions(&self, port: u16) -> SessionPolicy {
        let mut listeners = self.routes.listeners().iter();
        let listener = listeners.find(|listener| listener.port == port && listener.protocol.is_udp());
        listener.map(|listener| listener.policy.udp).unwrap_or_default()
    }
}

/// The endpoints that are names.
fn names(config: &TenantConfig) -> Box<[Box<str>]> {
    let endpoints = config.backends.iter().flat_map(|backend| &backend.endpoints);
    let names = endpoints.filter_map(|endpoint| match &endpoint.address {
        EndpointAddress::Dns { host, .. } => Some(host.as_str()),
        EndpointAddress::Ip(_) => None,
    });
    names.collect::<BTreeSet<_>>().into_iter().map(Into::into).collect()
}

/// TLS towards the backends that ask for it.
fn upstream_tls(config: &TenantConfig) -> Result<HashMap<BackendId, Arc<ClientTls>>, Vec<Rejected>> {
    let (mut loaded, mut rejected) = (HashMap::new(), Vec::new());
    for backend in &config.backends {
        let Some(tls) = &backend.tls else { continue };
        match ClientTls::load(tls, backend.protocol, &config.certificates) {
            Ok(tls) => {
                loaded.insert(backend.id.clone(), Arc::new(tls));
            }
            Err(problem) => rejected.push(Rejected { origin: tls.origin.clone(), problem }),
        }
    }
    if rejected.is_empty() { Ok(loaded) } else { Err(rejected) }
}

/// A certificate chain and its key, PEM, ready to sign: for [`Config::default_certificate`].
///
/// # Errors
/// What is wrong with the chain or the key, for people.
pub fn load_certificate(chain_pem: &str, key_pem: &str) -> Result<Arc<CertifiedKey>, String> {
    certified_key(chain_pem, key_pem)
}
