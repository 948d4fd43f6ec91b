//! Bounds on what processes of an installation say to each other.

use std::time::Duration;

/// The largest gRPC message by default, bytes (tonic's own default for decoding; gRPC's everywhere).
pub const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// The largest apply, bytes: what fits into one transaction of the store.
pub const MAX_APPLY: usize = 8 * 1024 * 1024;

/// The largest feed delta, bytes: one tenant's snapshot is never split. See [`MAX_SNAPSHOT`].
pub const MAX_DELTA: usize = MAX_SNAPSHOT + 4 * 1024 * 1024;

/// The largest encoded snapshot of one tenant, bytes. 100,000 routes of one tenant are some 30 MiB.
pub const MAX_SNAPSHOT: usize = 64 * 1024 * 1024;

/// A delta is closed once its tenants' snapshots reach this, bytes: no message blocks a stream for long.
pub const DELTA_TARGET: usize = 1024 * 1024;

/// TCP and TLS handshake.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection is pinged this often, also when idle, so that a dead peer is known in
/// `KEEPALIVE_INTERVAL + KEEPALIVE_TIMEOUT`.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// A ping that is not answered for this long ends the connection.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// One unary call from its start to its answer; a stream to its response's head.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a feed says that it is alive when nothing changes.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);
