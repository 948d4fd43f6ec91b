//! The config store: a revisioned key-value store (etcd's model) on servers that replicate it by Raft. It knows
//! nothing of gateways.
//!
//! ```text
//! handle (async) -> driver (one thread) -> node (sans-IO: raft + machine)
//!     ^                 |                     command, machine, image: PURE
//!     |                 +-> disk: wal, snapshot files      (the truth)
//!     +-- reads from    +-> state: sled                    (a materialisation, rebuildable)
//!         the machine   +-> peers: messages of other servers   (transport: mTLS)
//! ```
//!
//! # Why the whole state is in memory
//!
//! Configuration is some 100 MB at most ([`QUOTA`] bounds it), and every server reads all of it anyway. From a
//! `BTreeMap` a read costs no I/O and cannot fail, a watch is a cursor over the history, and a snapshot is a clone
//! that shares the values. sled is written behind, in atomic batches, so that a start after a clean shutdown need
//! not replay; it is never the only copy of anything and may be deleted.
//!
//! # Deliberately absent
//!
//! Leases and time to live (they would put a clock into `apply`), lease reads (they trust clocks), range deletes and
//! nested transactions (nothing here needs them), any knowledge of what the keys mean.
#![forbid(unsafe_code)]

mod background;
// First: the others use its macro.
#[macro_use]
#[cfg(feature = "planted")]
pub mod planted;
#[macro_use]
#[cfg(not(feature = "planted"))]
mod planted;

mod config;
pub mod disk;
mod driver;
mod error;
pub mod fatal;
pub mod files;
mod handle;
pub mod image;
pub mod machine;
pub mod members;
mod metric;
pub mod node;
pub mod peer;
pub mod quota;
mod restore;
pub mod seal;
pub mod state;
pub mod transport;
pub mod txn;
mod types;
pub mod watch;

pub use config::{Config, Start};
pub use error::{BackupError, Compacted, Damaged, OpenError, ReadError, TxnError, WatchError};
pub use handle::{Handle, Standing};
pub use machine::{Outcome, QUOTA, REQUESTS_KEPT};
pub use members::{Addresses, Member, MemberError};
pub use model::{Epoch, Revision};
pub use quota::{Quota, QuotaExceeded, Usage};
pub use restore::{Forced, Origin, Restore, RestoreError, force_new, inspect, restore};
pub use txn::{Compare, InvalidTxn, MAX_KEY, MAX_OPS, MAX_TXN, MAX_VALUE, Op, Txn, request_id};
pub use types::{
    Committed, Entry, Event, History, Key, Leadership, NodeId, Read, Record, StateHash, Status, WatchBatch,
};
pub use watch::Watch;

/// Opens stores.
#[derive(Debug)]
pub struct Store;

impl Store {
    /// Opens a data directory, or makes it. On a server that is alone, returns when it leads and has applied all
    /// that it had acknowledged.
    ///
    /// # Errors
    ///
    /// [`OpenError`] says what is wrong with the directory and what to do.
    pub async fn open(config: Config) -> Result<Handle, OpenError> {
        Self::open_with(config, Box::new(peer::Alone)).await
    }

    /// Opens a data directory of a server that has others. Returns when it can take their messages
    /// ([`Handle::deliver`]); [`Handle::leadership`] says when there is a leader.
    ///
    /// # Errors
    ///
    /// As [`Store::open`].
    pub async fn open_with(config: Config, network: Box<dyn peer::Network>) -> Result<Handle, OpenError> {
        config.check()?;
        driver::start(config, network).await
    }
}
