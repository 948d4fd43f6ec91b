//! The agent's metrics.

/// Workers of a pool by state (gauge; labels `pool`, `state`).
pub const WORKERS: &str = "weir_node_workers";
/// Listening sockets that are held for a pool (gauge; label `pool`).
pub const SLOTS: &str = "weir_node_slots";
/// Workers that ended unasked (counter; label `pool`).
pub const CRASHES: &str = "weir_node_worker_crashes_total";
/// Workers started (counter; label `pool`).
pub const STARTS: &str = "weir_node_worker_starts_total";
/// Seconds from a worker's spawn to its readiness (histogram; label `pool`).
pub const START_SECONDS: &str = "weir_node_worker_start_seconds";
/// Workers that were relieved of their slots because a queue stood (counter; label `pool`).
pub const STUCK: &str = "weir_node_stuck_workers_total";
/// Whether a server is connected: 0 or 1 (gauge).
pub const CONNECTED: &str = "weir_node_server_connected";
