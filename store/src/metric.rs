//! The names of this crate's metrics.

/// Counter: transactions and compactions answered, by `outcome`.
pub(crate) const PROPOSALS: &str = "weir_store_proposals_total";
/// Histogram: from the first write of a batch to its fdatasync's return.
pub(crate) const SYNC_SECONDS: &str = "weir_store_sync_seconds";
/// Histogram: entries that shared one fdatasync.
pub(crate) const BATCH_ENTRIES: &str = "weir_store_batch_entries";
/// Gauge: the last revision applied.
pub(crate) const REVISION: &str = "weir_store_revision";
/// Gauge: bytes of the whole state.
pub(crate) const STATE_BYTES: &str = "weir_store_state_bytes";
/// Gauge: bytes of the write-ahead log's files.
pub(crate) const WAL_BYTES: &str = "weir_store_wal_bytes";
/// Gauge: 1 on the leader, else 0.
pub(crate) const LEADER: &str = "weir_store_leader";
/// Counter: snapshots written.
pub(crate) const SNAPSHOTS: &str = "weir_store_snapshots_total";
/// Counter: messages of other servers dropped because too many waited.
pub(crate) const PEER_DROPPED: &str = "weir_store_peer_messages_dropped_total";
/// Counter: messages to another server given up (too many waited, or it could not be reached), by `peer`.
pub(crate) const PEER_LOST: &str = "weir_store_peer_messages_lost_total";
/// Gauge: 1 while the stream to another server is open, else 0, by `peer`.
pub(crate) const PEER_CONNECTED: &str = "weir_store_peer_connected";
