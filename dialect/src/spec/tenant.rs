//! `weir.dev/v1` Tenant.

use std::num::NonZeroU32;

use model::{HostPattern, TrafficQuota};

use super::hostname;
use crate::read::Node;

/// What a tenant is granted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TenantSpec {
    /// Hosts besides `<tenant>.<domain>` and those below it.
    pub hostnames: Vec<HostPattern>,
    /// How much it may store, and how much of each worker it may take.
    pub quotas: TenantQuotas,
}

/// How much a tenant may have; `None`: what every tenant may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TenantQuotas {
    /// Objects.
    pub objects: Option<u64>,
    /// Bytes of them, names included.
    pub bytes: Option<u64>,
    /// Of each request thread of a worker.
    pub traffic: TrafficQuota,
}

/// Ten times what every tenant may have.
const MAX_OBJECTS: u64 = 1_000_000;
/// What workers take as the snapshot of one tenant.
const MAX_BYTES: u64 = 64 << 20;

/// A hundred times what one address takes: to say more is to say nothing.
const MAX_AT_ONCE: u64 = 1_000_000;
/// Below what one connection may buffer in both directions there is no request that can be served.
const MIN_BUFFERED: u64 = 128 << 10;
const MAX_BUFFERED: u64 = 1 << 40;
/// A hundred times what a tenant has of which nothing is said.
const MAX_WEIGHT: u32 = 10_000;

impl TenantSpec {
    pub(super) fn read(node: &Node<'_>) -> Option<Self> {
        let mut fields = node.fields()?;
        let hostnames = fields.list("hostnames", 1_000).iter().filter_map(hostname).collect();
        let quotas = fields.optional("quotas").and_then(|node| TenantQuotas::read(&node)).unwrap_or_default();
        fields.finish();
        Some(Self { hostnames, quotas })
    }
}

impl TenantQuotas {
    fn read(node: &Node<'_>) -> Option<Self> {
        let mut fields = node.fields()?;
        let objects = fields.optional("objects").and_then(|node| node.number(0..=MAX_OBJECTS));
        let bytes = fields.optional("bytes").and_then(|node| node.number(0..=MAX_BYTES));
        let mut at_once = |name| fields.optional(name).and_then(|node| node.number(1..=MAX_AT_ONCE));
        let (connections, requests) = (at_once("connections"), at_once("requestsInFlight"));
        let buffered =
            fields.optional("bufferedBytes").and_then(|node| node.number(MIN_BUFFERED..=MAX_BUFFERED));
        let weight = fields.optional("weight").and_then(|node| node.number(1..=MAX_WEIGHT));
        fields.finish();
        let weight = weight.and_then(NonZeroU32::new).unwrap_or(TrafficQuota::WEIGHT);
        let traffic = TrafficQuota { connections, requests, buffered_bytes: buffered, weight };
        Some(Self { objects, bytes, traffic })
    }
}
