//! The autoscaler's metrics.

/// Workers that should take connections (gauge; label `pool`).
pub const DESIRED: &str = "weir_autoscaler_desired_workers";
/// Workers by state: starting, ready, leaving, missing (gauge; labels `pool`, `state`).
pub const WORKERS: &str = "weir_autoscaler_workers";
/// Demand now, in workers at full use (gauge; label `pool`).
pub const DEMAND: &str = "weir_autoscaler_demand_workers";
/// Demand when a new worker would be ready, with the backlog's share (gauge; label `pool`).
pub const EXPECTED: &str = "weir_autoscaler_expected_workers";
/// Demand per ready worker, as a ratio (gauge; label `pool`).
pub const UTILIZATION: &str = "weir_autoscaler_utilization_ratio";
/// Decisions (counter; labels `pool`, `reason`).
pub const DECISIONS: &str = "weir_autoscaler_decisions_total";
/// Plans that were stored (counter; label `pool`).
pub const PLANS: &str = "weir_autoscaler_plans_total";
/// Plans that the store did not take (counter; labels `pool`, `why`: conflict or unavailable).
pub const PLANS_REFUSED: &str = "weir_autoscaler_plans_refused_total";
/// Load reports that came (counter).
pub const REPORTS: &str = "weir_autoscaler_reports_total";
/// Load reports that never came, as later ones showed (counter).
pub const REPORTS_LOST: &str = "weir_autoscaler_reports_lost_total";
/// Requests that workers finished (counter; label `pool`). The fleet's sum, from load reports.
pub const POOL_REQUESTS: &str = "weir_pool_requests_total";
/// Of them, those that failed (counter; label `pool`).
pub const POOL_ERRORS: &str = "weir_pool_errors_total";
/// Requests that workers shed (counter; label `pool`).
pub const POOL_SHED: &str = "weir_pool_shed_total";
/// Bytes that clients sent (counter; label `pool`).
pub const POOL_BYTES_IN: &str = "weir_pool_bytes_in_total";
/// Bytes that clients were sent (counter; label `pool`).
pub const POOL_BYTES_OUT: &str = "weir_pool_bytes_out_total";
/// Requests that workers finished (counter; label `tenant`, `_other` for those beyond the first thousand).
pub const TENANT_REQUESTS: &str = "weir_tenant_requests_total";
/// Nodes that are connected to this server (gauge).
pub const NODES: &str = "weir_autoscaler_connected_nodes";
