//! The controller's metrics. Labels are bounded: methods and codes of the API only.

/// Calls answered, by `method` and `code`.
pub const RPCS: &str = "weir_controller_rpcs_total";
/// From a call's first byte to its response's head, by `method`.
pub const RPC_SECONDS: &str = "weir_controller_rpc_seconds";
/// Workers that have a feed stream open.
pub const SUBSCRIBERS: &str = "weir_controller_feed_subscribers";
/// Bytes of all tenants' current snapshots.
pub const SNAPSHOT_BYTES: &str = "weir_controller_snapshot_bytes";
/// Tenants that are held at their last good snapshot.
pub const TENANTS_HELD: &str = "weir_controller_tenants_held";
/// From the moment a commit is seen to a worker's acknowledgement of it.
pub const COMMIT_TO_ACK_SECONDS: &str = "weir_controller_commit_to_ack_seconds";
/// Tenants that workers refused, by no label: the reason is on the object.
pub const NACKS: &str = "weir_controller_nacks_total";
/// From a change to its snapshot, all changed tenants together.
pub const COMPILE_SECONDS: &str = "weir_controller_compile_seconds";
