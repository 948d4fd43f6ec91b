//! `weir.dev/v1` Tenant.

use model::HostPattern;

use super::hostname;
use crate::read::Node;

/// What a tenant is granted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TenantSpec {
    /// Hosts besides `<tenant>.<domain>` and those below it.
    pub hostnames: Vec<HostPattern>,
    /// How much it may store.
    pub quotas: TenantQuotas,
}

/// How much a tenant may store; `None`: what every tenant may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TenantQuotas {
    /// Objects.
    pub objects: Option<u64>,
    /// Bytes of them, names included.
    pub bytes: Option<u64>,
}

/// Ten times what every tenant may have.
const MAX_OBJECTS: u64 = 1_000_000;
/// What workers take as the snapshot of one tenant.
const MAX_BYTES: u64 = 64 << 20;

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
        fields.finish();
        Some(Self { objects, bytes })
    }
}
