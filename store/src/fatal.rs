//! What a server does that can no longer keep its promises.
//!
//! After an fsync that failed the kernel may have dropped the dirty pages: to try again would report success for
//! data that is gone. After a panic in the driver nobody knows what was promised. So the process aborts; its
//! sockets are another process's, and the next start trusts only what it has synced itself.

use std::{fmt, sync::Arc};

/// Called once, on the driver's thread, with what failed. If it returns (as it does in tests), the driver stops at
/// once: nothing more is written, acknowledged or sent.
#[derive(Clone)]
pub struct OnFatal(pub Arc<dyn Fn(&Fatal) + Send + Sync>);

/// Why a server stops.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// The write-ahead log or a snapshot could not be written or synced.
    #[error("disk: {0}")]
    Disk(#[from] crate::disk::DiskError),
    /// Raft or the state machine met what must not be.
    #[error("node: {0}")]
    Node(#[from] crate::node::NodeError),
    /// The driver panicked; the panic's own message has been printed.
    #[error("the store's driver panicked")]
    Panic,
}

impl Default for OnFatal {
    fn default() -> Self {
        Self(Arc::new(|_| std::process::abort()))
    }
}

impl fmt::Debug for OnFatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnFatal")
    }
}
