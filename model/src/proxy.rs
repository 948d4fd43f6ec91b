//! The PROXY protocol: how a load balancer tells who its client is.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A form of the PROXY protocol's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// From whom a header is believed on a port. Anybody else is served as who he is, and a header of his is not one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyTrust {
    /// Peers in these networks say who their client is.
    pub trusted: Vec<IpNet>,
    /// Their connections begin with a header, or are closed. Otherwise one may be missing.
    pub required: bool,
}

impl ProxyTrust {
    /// Whether `peer` is believed. An IPv4 peer on a dual-stack socket is the same peer.
    #[must_use]
    pub fn trusts(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.trusted.iter().any(|net| net.contains(&peer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_in_a_network_is_trusted_whatever_the_notation() {
        let nets = ["10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32"];
        let trusted = nets.iter().map(|net| net.parse().unwrap()).collect();
        let trust = ProxyTrust { trusted, required: true };
        for (peer, trusted) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("2001:db8::1", true),
            ("2001:db9::1", false),
            ("127.0.0.1", false),
        ] {
            assert_eq!(trust.trusts(peer.parse().unwrap()), trusted, "{peer}");
        }
    }
}
