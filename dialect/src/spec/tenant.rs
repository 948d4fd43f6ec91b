//! `weir.dev/v1` Tenant.

use model::HostPattern;

use super::hostname;
use crate::read::Node;

/// What a tenant is granted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TenantSpec {
    /// Hosts besides `<tenant>.<domain>` and those below it.
    pub hostnames: Vec<HostPattern>,
}

impl TenantSpec {
    pub(super) fn read(node: &Node<'_>) -> Option<Self> {
        let mut fields = node.fields()?;
        let hostnames = fields.list("hostnames", 1_000).iter().filter_map(hostname).collect();
        fields.finish();
        Some(Self { hostnames })
    }
}
