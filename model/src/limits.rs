//! What one tenant's configuration may cost.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bounds on what [`RouteTable::compile`](crate::RouteTable::compile) accepts, so that no tenant's configuration
/// can take the memory or time of the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompileLimits {
    /// Listeners in a tenant.
    pub max_listeners: usize,
    /// Route objects in a tenant.
    pub max_routes: usize,
    /// Matches of all its rules together.
    pub max_matches: usize,
    /// Matches of all virtual hosts together: a route with ten hostnames counts ten times. Four segments of a
    /// prefix count as much as another match.
    pub max_placements: usize,
    /// Matches with the same path on the same host: they are tried one after another.
    pub max_matches_per_path: usize,
    /// Different regular expressions, of paths, headers and parameters together.
    pub max_regexes: usize,
    /// A regular expression as written, in bytes.
    pub regex_pattern_bytes: usize,
    /// A regular expression compiled, in bytes; its lazily built automaton has the same bound.
    pub regex_compiled_bytes: usize,
    /// A path in a match, in bytes.
    pub path_bytes: usize,
    /// Backends in a tenant.
    pub max_backends: usize,
    /// Endpoints in a backend.
    pub max_endpoints: usize,
    /// Backends that one rule spreads its requests over.
    pub max_backends_per_rule: usize,
    /// Filters of one rule, or of one backend in it.
    pub max_filters: usize,
    /// Header edits, header matches or parameter matches in one place.
    pub max_fields: usize,
    /// The body of a fixed reply, in bytes.
    pub respond_body_bytes: usize,
    /// Certificates in a tenant.
    pub max_certificates: usize,
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self {
            // Sixteen Gateways of 64 listeners each, Gateway API's maximum.
            max_listeners: 1_024,
            // What the platform promises for one tenant; about 100 MiB compiled.
            max_routes: 100_000,
            max_matches: 250_000,
            // Some 300 bytes each at worst.
            max_placements: 1_000_000,
            // At some 50 ns each, the slowest lookup stays under 0.1 ms.
            max_matches_per_path: 1_024,
            // At the compiled bound, 256 MiB; a usual expression takes some KiB.
            max_regexes: 256,
            regex_pattern_bytes: 1 << 10,
            regex_compiled_bytes: 1 << 20,
            // Gateway API's own bound.
            path_bytes: 1_024,
            max_backends: 10_000,
            max_endpoints: 1_000,
            // 64 weights of at most 1,000,000 fit into a u32 sum with room.
            max_backends_per_rule: 64,
            max_filters: 16,
            // Gateway API has 16 everywhere; other dialects have no bound of their own.
            max_fields: 64,
            // It is kept in memory by every worker; larger replies belong to a backend.
            respond_body_bytes: 16 << 10,
            max_certificates: 10_000,
        }
    }
}

/// Whether no configuration may ever reach this address: the clouds' metadata services hand credentials to whoever
/// asks from inside. Edges check what names resolve to as well.
#[must_use]
pub fn is_denied(ip: IpAddr) -> bool {
    const METADATA_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
    const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    let ip = ip.to_canonical();
    ip == METADATA_V4 || ip == METADATA_V6
}

/// Whether an address is one of the public internet's: where a client that chooses destinations itself may be led without
/// reaching what only this machine or its network is to reach (IANA's special-purpose registries).
#[must_use]
pub fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let special = match ip.octets() {
        [0 | 10 | 127 | 240.., ..] => true,
        [100, second, ..] => (64..128).contains(&second),
        [192, 0, 0 | 2, _] => true,
        [192, 88, 99, _] => true,
        [198, 18 | 19, ..] => true,
        [198, 51, 100, _] | [203, 0, 113, _] => true,
        _ => ip.is_private() || ip.is_link_local() || ip.is_multicast(),
    };
    !special
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let embedded = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match ip.segments() {
        // Translated to IPv4 on the way: NAT64 and 6to4.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => embedded(high, low),
        // Protocol assignments, Teredo among them, and documentation.
        [0x2001, 0..0x200, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..0x1000, ..] => false,
        // Global unicast is all that is assigned.
        [0x2000..0x4000, ..] => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_public_is_not_reached() {
        for private in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "192.0.0.8",
            "::",
            "::1",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "2002:7f00:1::",
            "2001:db8::1",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
        for public in ["1.1.1.1", "100.63.0.1", "172.15.0.1", "2606:4700::1111", "64:ff9b::101:101"] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
    }
}
