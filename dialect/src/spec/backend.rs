//! `weir.dev/v1` Backend.

use std::{net::SocketAddr, time::Duration};

use model::{CompileLimits, Endpoint, EndpointAddress};

use super::precise_hostname;
use crate::{name, read::Node};

/// To the end of the TCP handshake: three lost packets of a near network, and a user still waits.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Endpoints that answer the same requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendSpec {
    /// Never empty.
    pub endpoints: Vec<Endpoint>,
    /// To the end of the TCP handshake.
    pub connect_timeout: Duration,
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
        fields.finish();
        Some(Self { endpoints: endpoints?, connect_timeout: connect_timeout? })
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
