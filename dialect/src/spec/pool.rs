//! `weir.dev/v1` Pool.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ipnet::IpNet;
use model::{ListenerProtocol, ProxyTrust, TenantId};

use super::gateway::PROTOCOLS;
use crate::{name, read::Node};

/// Workers that serve the same addresses, and how many there may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolSpec {
    /// Where its workers listen. Empty: the object does not say; see [`PoolSpec::or_listen`].
    pub listen: Vec<Listen>,
    /// Workers that are always there. Zero: the pool sleeps when nobody calls.
    pub min_workers: u32,
    /// Workers that there are at most.
    pub max_workers: u32,
    /// What one worker is declared to serve; `None`: its CPU cost per request is learned.
    pub requests_per_second_per_worker: Option<u32>,
    /// How much of a worker's capacity is used before another is added.
    pub target_utilization_permille: u32,
    /// How long demand must be low before a worker is removed.
    pub scale_in_delay: Duration,
    /// The age at which a connection is retired, so that new workers get load.
    pub max_connection_age: Duration,
    /// How long a leaving worker waits for its connections.
    pub drain_deadline: Duration,
    /// Threads of one worker.
    pub threads_per_worker: u32,
    /// Whether ports that speak HTTPS speak HTTP/3, too.
    pub http3: Http3,
}

/// HTTP/3 by UDP beside HTTPS by TCP, on the same port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Http3 {
    /// Served, and clients are told.
    #[default]
    On,
    /// Served to those who know.
    Unadvertised,
    /// Not served.
    Off,
}

impl Default for PoolSpec {
    fn default() -> Self {
        Self {
            // Unprivileged, and reachable from this machine only until somebody says otherwise.
            listen: vec![
                Listen::new(80, ([127, 0, 0, 1], 8080).into(), ListenerProtocol::Http),
                Listen::new(443, ([127, 0, 0, 1], 8443).into(), ListenerProtocol::Https),
            ],
            // A first request that waits for no start.
            min_workers: 1,
            // A machine's cores, roughly; sockets for four times as many are cheap.
            max_workers: 16,
            requests_per_second_per_worker: None,
            // Room for a burst of 40 % while another worker starts.
            target_utilization_permille: 700,
            // Several times a start; short dips remove nobody.
            scale_in_delay: Duration::from_secs(60),
            // Load levels within minutes; rare enough that handshakes do not matter.
            max_connection_age: Duration::from_secs(600),
            // What Kubernetes gives a pod.
            drain_deadline: Duration::from_secs(30),
            // More load is more workers.
            threads_per_worker: 1,
            // As safe as HTTPS by TCP, and better for who is on the move.
            http3: Http3::On,
        }
    }
}

/// One port of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// The port as Gateways say it.
    pub port: u16,
    /// Where the workers listen for it.
    pub bind: SocketAddr,
    /// What is spoken on it.
    pub protocol: ListenerProtocol,
    /// Whose PROXY protocol headers are believed. `None`: nobody's.
    pub proxy: Option<ProxyTrust>,
    /// Whose it is alone, where clients cannot say which host they mean (TCP, UDP).
    pub tenant: Option<TenantId>,
}

impl Listen {
    /// A port on which every client is who he seems to be.
    #[must_use]
    pub fn new(port: u16, bind: SocketAddr, protocol: ListenerProtocol) -> Self {
        Self { port, bind, protocol, proxy: None, tenant: None }
    }
}

/// Networks that one port trusts: a load balancer has a few.
const MAX_TRUSTED: usize = 64;

/// A machine's file descriptors hold sockets for four times as many.
const MAX_WORKERS: u32 = 1_024;

impl PoolSpec {
    pub(super) fn read(node: &Node<'_>) -> Option<Self> {
        let default = Self::default();
        let mut fields = node.fields()?;
        let listen = fields.optional("listen").map_or(Some(vec![]), |node| read_listen(&node));
        let min_workers =
            read_or(fields.optional("minWorkers"), default.min_workers, |n| n.number(0..=MAX_WORKERS));
        let max_workers =
            read_or(fields.optional("maxWorkers"), default.max_workers, |n| n.number(1..=MAX_WORKERS));
        if let (Some(min), Some(max)) = (min_workers, max_workers)
            && min > max
        {
            fields.node.wrong(
                format!("minWorkers is {min}, more than maxWorkers, which is {max}"),
                "raise maxWorkers or lower minWorkers",
            );
        }
        let capacity = match fields.optional("capacityPerWorker") {
            Some(node) => read_capacity(&node).map(Some),
            None => Some(None),
        };
        let target =
            read_or(fields.optional("targetUtilization"), default.target_utilization_permille, |node| {
                node.number(1..=100).map(|percent: u32| percent * 10)
            });
        let mut time = |name, default| read_or(fields.optional(name), default, name::positive_duration);
        let scale_in_delay = time("scaleInDelay", default.scale_in_delay);
        let max_connection_age = time("maxConnectionAge", default.max_connection_age);
        let drain_deadline = time("drainDeadline", default.drain_deadline);
        let threads =
            read_or(fields.optional("threadsPerWorker"), default.threads_per_worker, |n| n.number(1..=256));
        let http3 = read_or(fields.optional("http3"), default.http3, |node| {
            node.choice(
                "a choice",
                &[("on", Http3::On), ("unadvertised", Http3::Unadvertised), ("off", Http3::Off)],
            )
        });
        if let (Some(listen), Some(Http3::On | Http3::Unadvertised)) = (&listen, http3) {
            check_http3(&fields.node, listen);
        }
        fields.finish();
        Some(Self {
            listen: listen?,
            min_workers: min_workers?,
            max_workers: max_workers?,
            requests_per_second_per_worker: capacity?,
            target_utilization_permille: target?,
            scale_in_delay: scale_in_delay?,
            max_connection_age: max_connection_age?,
            drain_deadline: drain_deadline?,
            threads_per_worker: threads?,
            http3: http3?,
        })
    }

    /// The same, listening as `other` does where nothing is said about it.
    #[must_use]
    pub fn or_listen(mut self, other: &Self) -> Self {
        if self.listen.is_empty() {
            self.listen.clone_from(&other.listen);
        }
        self
    }

    /// How the pool listens for a Gateway's port: of UDP if that is what the listener speaks, else of TCP.
    #[must_use]
    pub fn listen_for(&self, port: u16, protocol: ListenerProtocol) -> Option<&Listen> {
        self.listen.iter().find(|listen| (listen.port, listen.protocol.is_udp()) == (port, protocol.is_udp()))
    }
}

/// The default where there is nothing; `None` where something is wrong.
fn read_or<T>(node: Option<Node<'_>>, default: T, read: impl FnOnce(&Node<'_>) -> Option<T>) -> Option<T> {
    match node {
        Some(node) => read(&node),
        None => Some(default),
    }
}

fn read_capacity(node: &Node<'_>) -> Option<u32> {
    let mut fields = node.fields()?;
    let rate = fields.required("requestsPerSecond").and_then(|node| node.number(1..=10_000_000));
    fields.finish();
    rate
}

fn read_listen(node: &Node<'_>) -> Option<Vec<Listen>> {
    let items = node.items(64);
    let mut listen: Vec<Listen> = vec![];
    for item in &items {
        let one = read_one_listen(item)?;
        // Ports of UDP are apart from those of TCP.
        let like = |other: &&Listen| other.protocol.is_udp() == one.protocol.is_udp();
        if listen.iter().filter(like).any(|other| other.port == one.port || other.bind == one.bind) {
            item.wrong("its port or its bind is taken by an item before it", "use another");
        }
        listen.push(one);
    }
    if listen.is_empty() {
        node.wrong("a pool needs at least one port", "add one, like - {port: 80, bind: \"127.0.0.1:8080\"}");
    }
    Some(listen)
}

/// HTTP/3 is UDP on the address of its HTTPS.
fn check_http3(pool: &Node<'_>, listen: &[Listen]) {
    for https in listen.iter().filter(|one| one.protocol == ListenerProtocol::Https) {
        if listen.iter().any(|one| one.protocol.is_udp() && one.bind == https.bind) {
            let problem = format!(
                "HTTP/3 of port {} and a port of protocol UDP have the same address, {}",
                https.port, https.bind
            );
            pool.wrong(problem, "give the UDP port another bind, or write http3: off");
        }
    }
}

fn read_one_listen(node: &Node<'_>) -> Option<Listen> {
    let mut fields = node.fields()?;
    let port = fields.required("port").and_then(|node| node.number(1..=u16::MAX));
    let bind = fields.required("bind").and_then(|node| {
        node.parsed(
            str::parse::<SocketAddr>,
            "write an IP address and a port, like 127.0.0.1:8080 or [::]:8080",
        )
    });
    let protocol = read_or(fields.optional("protocol"), ListenerProtocol::Http, |node| {
        node.choice("a protocol", &PROTOCOLS)
    });
    let proxy = match fields.optional("proxyProtocol") {
        Some(node) => {
            if protocol.is_some_and(ListenerProtocol::is_udp) {
                node.wrong("datagrams have no PROXY protocol header", "remove it");
            }
            read_proxy(&node).map(Some)
        }
        None => Some(None),
    };
    let tenant = match fields.optional("tenant") {
        Some(node) => {
            if protocol.is_some_and(ListenerProtocol::names_hosts) {
                node.wrong("its clients say which host they mean, so it is for all tenants", "remove it");
            }
            node.parsed(str::parse::<TenantId>, "name a tenant").map(Some)
        }
        None => Some(None),
    };
    fields.finish();
    Some(Listen { port: port?, bind: bind?, protocol: protocol?, proxy: proxy?, tenant: tenant? })
}

fn read_proxy(node: &Node<'_>) -> Option<ProxyTrust> {
    let mut fields = node.fields()?;
    let required = read_or(fields.optional("mode"), true, |node| {
        node.choice("a mode of the PROXY protocol", &[("Required", true), ("Optional", false)])
    });
    let trusted = fields.required("trusted").and_then(|node| {
        let items = node.items(MAX_TRUSTED);
        if node.raw().as_array().is_some_and(Vec::is_empty) {
            node.wrong("nobody is trusted", "add the load balancer's network, like 10.0.0.0/8");
        }
        items.iter().map(read_network).collect::<Option<Vec<_>>>()
    });
    fields.finish();
    Some(ProxyTrust { trusted: trusted?, required: required? })
}

/// A network, or one address.
fn read_network(node: &Node<'_>) -> Option<IpNet> {
    let text = node.text()?;
    let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    let Ok(network) = network else {
        node.wrong(
            format!("{text:?} is not a network"),
            "write it like 10.0.0.0/8, 2001:db8::/32 or 10.0.0.1",
        );
        return None;
    };
    if network != network.trunc() {
        let problem = format!("{network} has bits set that are not of the network");
        node.wrong(problem, format!("write {} or {}", network.trunc(), network.addr()));
        return None;
    }
    Some(network)
}
