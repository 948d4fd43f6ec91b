//! What each method needs. A method that is not here is denied to everybody, and a test fails.

use api::pki::RoleKind;

/// What a method needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing.
    Public,
    /// Any valid token.
    Authenticated,
    /// A role that can read in the tenant that the message names.
    TenantRead,
    /// A role that can write in the tenant that the message names.
    TenantWrite,
    /// The platform's administrator.
    PlatformAdmin,
    /// A client certificate with one of these roles; on the peers' port only.
    Certificate(&'static [RoleKind]),
}

/// Every method, by its path.
pub const RPCS: &[(&str, Need)] = &[
    ("/weir.admin.v1.Tenants/CreateTenant", Need::PlatformAdmin),
    ("/weir.admin.v1.Tenants/ListTenants", Need::PlatformAdmin),
    ("/weir.admin.v1.Tenants/DeleteTenant", Need::PlatformAdmin),
    ("/weir.admin.v1.Tenants/CreateToken", Need::TenantWrite),
    ("/weir.admin.v1.Tenants/RevokeTokens", Need::TenantWrite),
    ("/weir.admin.v1.Objects/Apply", Need::TenantWrite),
    ("/weir.admin.v1.Objects/Get", Need::TenantRead),
    ("/weir.admin.v1.Objects/List", Need::TenantRead),
    ("/weir.admin.v1.Objects/Delete", Need::TenantWrite),
    ("/weir.admin.v1.Objects/Watch", Need::TenantRead),
    ("/weir.admin.v1.Objects/History", Need::TenantRead),
    ("/weir.admin.v1.Objects/Rollback", Need::TenantWrite),
    ("/weir.admin.v1.Objects/Explain", Need::TenantRead),
    ("/weir.admin.v1.Objects/Recall", Need::TenantRead),
    ("/weir.admin.v1.Audit/ListRecords", Need::TenantRead),
    // Workers serve all tenants: who sees them sees the platform.
    ("/weir.admin.v1.Workers/ListWorkers", Need::PlatformAdmin),
    ("/weir.admin.v1.Workers/DrainWorker", Need::PlatformAdmin),
    ("/weir.admin.v1.Workers/Events", Need::PlatformAdmin),
    ("/weir.admin.v1.Cluster/Status", Need::PlatformAdmin),
    ("/weir.kv.v1.Kv/Txn", Need::PlatformAdmin),
    ("/weir.kv.v1.Kv/Get", Need::PlatformAdmin),
    ("/weir.kv.v1.Kv/List", Need::PlatformAdmin),
    ("/weir.kv.v1.Kv/Watch", Need::PlatformAdmin),
    ("/weir.admin.v1.Cluster/Promote", Need::PlatformAdmin),
    ("/weir.admin.v1.Cluster/Remove", Need::PlatformAdmin),
    ("/weir.admin.v1.Cluster/SetAddresses", Need::PlatformAdmin),
    ("/weir.admin.v1.Cluster/CreateJoinToken", Need::PlatformAdmin),
    ("/weir.admin.v1.Cluster/ListJoinTokens", Need::PlatformAdmin),
    ("/weir.admin.v1.Cluster/RevokeJoinToken", Need::PlatformAdmin),
    ("/weir.admin.v1.Cluster/Backup", Need::PlatformAdmin),
    ("/weir.admin.v1.Secrets/SealingStatus", Need::PlatformAdmin),
    ("/weir.admin.v1.Secrets/Reseal", Need::PlatformAdmin),
    ("/weir.admin.v1.Secrets/RetireKey", Need::PlatformAdmin),
    ("/weir.admin.v1.Secrets/RotateTicketKeys", Need::PlatformAdmin),
    // The join token says who may.
    ("/weir.join.v1.Join/Join", Need::Public),
    ("/weir.join.v1.Certificates/Renew", Need::Certificate(&[RoleKind::Node])),
    ("/grpc.health.v1.Health/Check", Need::Public),
    ("/grpc.health.v1.Health/Watch", Need::Public),
    ("/grpc.health.v1.Health/List", Need::Public),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Need::Authenticated),
    ("/weir.feed.v1.Feed/Subscribe", Need::Certificate(&[RoleKind::Edge, RoleKind::Node])),
    ("/weir.feed.v1.Feed/Report", Need::Certificate(&[RoleKind::Edge, RoleKind::Node])),
    ("/weir.node.v1.Nodes/Reconcile", Need::Certificate(&[RoleKind::Node])),
    ("/weir.acks.v1.Acks/Heard", Need::Certificate(&[RoleKind::Server])),
    ("/weir.acks.v1.Acks/Recall", Need::Certificate(&[RoleKind::Server])),
    // Which server it is, the store checks for each message.
    ("/weir.store.v1.Peers/Send", Need::Certificate(&[RoleKind::Server])),
    ("/weir.store.v1.Peers/SendSnapshot", Need::Certificate(&[RoleKind::Server])),
];

/// What the method at `path` needs; `None`: nobody may call it.
#[must_use]
pub fn need_of(path: &str) -> Option<Need> {
    RPCS.iter().find(|(known, _)| *known == path).map(|(_, need)| *need)
}
