//! `weir.dev/v1` Backend.

use std::{net::SocketAddr, time::Duration};

use model::{
    Balancing, CompileLimits, Endpoint, EndpointAddress, PoolPolicy, ProxyVersion, TrafficPolicy,
    UpstreamProtocol,
};

use super::{health::Health, precise_hostname, tls::BackendTlsSpec, traffic};
use crate::{name, read::Node};

/// To the end of the TCP and TLS handshakes: three lost packets of a near network, and a user still waits.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Endpoints that answer the same requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendSpec {
    /// Never empty.
    pub endpoints: Vec<Endpoint>,
    /// To the end of the TCP handshake, and of the TLS handshake where there is one.
    pub connect_timeout: Duration,
    /// What is spoken to the endpoints.
    pub protocol: UpstreamProtocol,
    /// `None` is cleartext, unless a BackendTLSPolicy says otherwise.
    pub tls: Option<BackendTlsSpec>,
    /// The header that each connection begins with.
    pub send_proxy: Option<ProxyVersion>,
    /// How requests are spread over the endpoints. Boxed: it is larger than all other objects' specs.
    pub traffic: Box<TrafficPolicy>,
}

impl BackendSpec {
    pub(super) fn read(node: &Node<'_>) -> Option<Self> {
        let mut fields = node.fields()?;
        let endpoints = fields.required("endpoints").map(|node| {
            let items = node.items(CompileLimits::default().max_endpoints);
            if node.raw().as_array().is_some_and(Vec::is_empty) {
                node.wrong(
                    "a backend needs at least one endpoint",
                    "add one, like - address: \"127.0.0.1:9000\"",
                );
            }
            items.iter().filter_map(read_endpoint).collect()
        });
        let connect_timeout = match fields.optional("connectTimeout") {
            Some(node) => name::positive_duration(&node),
            None => Some(CONNECT_TIMEOUT),
        };
        let balancing = match fields.optional("loadBalancer") {
            Some(node) => traffic::read_balancer(&node),
            None => Some((Balancing::default(), None)),
        };
        let pool = match fields.optional("connectionPool") {
            Some(node) => traffic::read_pool(&node),
            None => Some(PoolPolicy::default()),
        };
        let health = match fields.optional("healthCheck") {
            Some(node) => Health::read(&node),
            None => Some(Health::default()),
        };
        let hedging = match fields.optional("hedging") {
            Some(node) => traffic::read_hedging(&node).map(Some),
            None => Some(None),
        };
        let tls_node = fields.optional("tls");
        let protocol_node = fields.optional("appProtocol");
        let proxy_node = fields.optional("proxyProtocol");
        fields.finish();
        let has_tls = tls_node.is_some();
        let tls = match tls_node {
            Some(node) => BackendTlsSpec::read(&node).map(Some),
            None => Some(None),
        };
        let protocol = match protocol_node {
            Some(node) => read_protocol(&node, has_tls),
            None => Some(UpstreamProtocol::Negotiated),
        };
        let send_proxy = match &proxy_node {
            Some(node) => {
                let versions = [("v1", ProxyVersion::V1), ("v2", ProxyVersion::V2)];
                node.choice("a version of the PROXY protocol", &versions).map(Some)
            }
            None => Some(None),
        };
        if let (Some(node), Some(UpstreamProtocol::Http2)) = (&proxy_node, protocol) {
            node.wrong(
                "it names one client for a connection, and HTTP/2 shares connections among clients",
                "remove it, or set appProtocol: http",
            );
        }
        let (health, (balancing, slow_start)) = (health?, balancing?);
        Some(Self {
            endpoints: endpoints?,
            connect_timeout: connect_timeout?,
            protocol: protocol?,
            tls: tls?,
            send_proxy: send_proxy?,
            traffic: Box::new(TrafficPolicy {
                balancing,
                outliers: health.outliers,
                health_check: health.check,
                panic_percent: health.panic_percent,
                slow_start,
                pool: pool?,
                hedging: hedging?,
            }),
        })
    }
}

fn read_protocol(node: &Node<'_>, has_tls: bool) -> Option<UpstreamProtocol> {
    // `ws` is HTTP/1.1 that is upgraded.
    let options = [
        ("http", UpstreamProtocol::Http1),
        ("kubernetes.io/ws", UpstreamProtocol::Http1),
        ("kubernetes.io/h2c", UpstreamProtocol::Http2),
        ("h2", UpstreamProtocol::Http2),
    ];
    let protocol = node.choice("a protocol of upstreams", &options)?;
    match (node.raw().as_str(), has_tls) {
        (Some("kubernetes.io/h2c"), true) => {
            node.wrong("h2c is HTTP/2 without TLS, and there is tls", "write h2, or leave it to ALPN");
            None
        }
        (Some("h2"), false) => {
            node.wrong("h2 is HTTP/2 in TLS, and there is no tls", "write kubernetes.io/h2c, or add tls");
            None
        }
        _ => Some(protocol),
    }
}

fn read_endpoint(node: &Node<'_>) -> Option<Endpoint> {
    let mut fields = node.fields()?;
    let address = fields.optional("address");
    let host = fields.optional("host");
    let port = fields.optional("port");
    let weight = match fields.optional("weight") {
        Some(node) => node.number(1..=1_000_000),
        None => Some(1),
    };
    fields.finish();
    let address = match (address, host, port) {
        (Some(address), None, None) => read_address(&address),
        (None, Some(host), Some(port)) => read_name(&host, &port),
        _ => {
            node.wrong(
                "an endpoint is an address, or a host and a port",
                "write address: \"127.0.0.1:9000\", or host: api.internal and port: 9000",
            );
            None
        }
    };
    Some(Endpoint { address: address?, weight: weight? })
}

fn read_address(node: &Node<'_>) -> Option<EndpointAddress> {
    let text = node.text()?;
    match text.parse::<SocketAddr>() {
        Ok(address) if model::is_denied(address.ip()) => {
            node.wrong(
                format!("{} is a cloud's metadata service, which no gateway may reach", address.ip()),
                "name the address of a backend",
            );
            None
        }
        Ok(address) if address.port() != 0 => Some(EndpointAddress::Ip(address)),
        _ => {
            let fix = match text.rsplit_once(':') {
                Some((host, port)) if model::HostPattern::parse(host).is_ok() => {
                    format!("a name is written as host: {host} and port: {port}")
                }
                _ => "write an IP address and a port, like 127.0.0.1:9000 or [::1]:9000".to_owned(),
            };
            node.wrong(format!("{text:?} is not an address"), fix);
            None
        }
    }
}

fn read_name(host: &Node<'_>, port: &Node<'_>) -> Option<EndpointAddress> {
    let port = port.number(1..=u16::MAX);
    let host = precise_hostname(host);
    Some(EndpointAddress::Dns { host: host?, port: port? })
}
