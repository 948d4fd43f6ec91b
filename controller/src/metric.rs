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
/// Tenants that were compiled. One for each change of a tenant; all of them at a start, or when pools open other ports.
pub const TENANTS_COMPILED: &str = "weir_controller_tenants_compiled_total";
/// Times that history was compacted past what the feed had read: everything was compared, what differed compiled.
pub const GAPS: &str = "weir_controller_feed_gaps_total";
/// Deltas that were encoded. All workers that are sent the same share one.
pub const DELTAS_ENCODED: &str = "weir_controller_deltas_encoded_total";
/// Deltas that were sent to workers.
pub const DELTAS_SENT: &str = "weir_controller_deltas_sent_total";
/// Bytes of the deltas that were sent to workers.
pub const DELTA_BYTES: &str = "weir_controller_delta_bytes_total";
