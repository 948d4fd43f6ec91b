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
