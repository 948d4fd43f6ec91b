//! One error type a boundary.

use std::{io, path::PathBuf};

use model::Revision;

use crate::{Key, NodeId, quota::QuotaExceeded, txn::InvalidTxn};

/// Why a transaction has no revision.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TxnError {
    /// A compare does not hold: read again.
    #[error("{key} was changed by revision {actual}, not {expected}: read it again (0: it does not exist)")]
    Conflict {
        /// The first key whose compare failed.
        key: Key,
        /// What the transaction expected.
        expected: Revision,
        /// What the store has.
        actual: Revision,
    },
    /// The transaction itself is wrong; nothing was proposed.
    #[error(transparent)]
    Invalid(#[from] InvalidTxn),
    /// Another transaction had this request id.
    #[error("request id {0:?} was used by another transaction: draw a new one")]
    RequestIdReused(String),
    /// The keys under a prefix would take more than their quota, and more than they do; nothing was changed.
    #[error(transparent)]
    Quota(#[from] QuotaExceeded),
    /// The state has reached its quota; deletions are still taken.
    #[error("the store is full ({bytes} bytes): delete or compact")]
    Full {
        /// What it holds.
        bytes: u64,
    },
    /// Too much is waiting already; nothing was proposed: try again later.
    #[error("the store is busy: try again")]
    Busy,
    /// No server leads; nothing was proposed: try again.
    #[error("no leader: try again")]
    NoLeader,
    /// It was proposed and not answered in time: it may still be applied. Try again *with the same request id*.
    #[error("not answered in time: may still be applied; try again with the same request id")]
    Unknown,
    /// The store is shut down. What was proposed may still be applied when it starts again.
    #[error("the store is shut down")]
    Stopped,
}

/// Why a read has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The revision's history is gone.
    #[error(transparent)]
    Compacted(#[from] Compacted),
    /// This server did not apply the revision in time.
    #[error("revision {wanted} was not applied in time; this server has {have}")]
    Behind {
        /// What the read asked for.
        wanted: Revision,
        /// What was there at the deadline.
        have: Revision,
    },
    /// No leader confirmed in time.
    #[error("no leader confirmed the read in time: try again")]
    NoLeader,
    /// Too many reads wait already.
    #[error("the store is busy: try again")]
    Busy,
    /// The store is shut down.
    #[error("the store is shut down")]
    Stopped,
}

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// This server cannot say what is committed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The state could not be encoded.
    #[error("encode the state")]
    Encode(#[from] io::Error),
}

/// History is gone: list again, then watch from the revision after the list's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("history up to revision {compacted} is compacted: list again")]
pub struct Compacted {
    /// History up to and including this one is forgotten.
    pub compacted: Revision,
}

/// Why a watch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// The watch fell behind what history is kept.
    #[error(transparent)]
    Compacted(#[from] Compacted),
    /// The store is shut down.
    #[error("the store is shut down")]
    Stopped,
}

/// Why a store does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{} is in use by another process: stop that one, or use another data directory", dir.display())]
    InUse {
        /// The data directory.
        dir: PathBuf,
    },
    /// It is another server's.
    #[error(
        "{} belongs to server {found} of cluster {cluster}, not to server {wanted}: use that server's own \
         data directory", dir.display()
    )]
    WrongNode {
        /// The data directory.
        dir: PathBuf,
        /// Whose it is.
        found: NodeId,
        /// Of which cluster.
        cluster: String,
        /// Who asked.
        wanted: NodeId,
    },
    /// It is another installation's.
    #[error("{} belongs to cluster {found}, not {wanted}: use another data directory", dir.display())]
    WrongCluster {
        /// The data directory.
        dir: PathBuf,
        /// Whose it is.
        found: String,
        /// Who asked.
        wanted: String,
    },
    /// The data is gone that was there.
    #[error(
        "the data of server {node} in {} is gone, and it must not come back under its id, for it forgot what it \
         promised: remove it from the cluster (`weir cluster remove {node}`) and join again; alone: restore a backup",
        dir.display()
    )]
    Gone {
        /// The data directory.
        dir: PathBuf,
        /// Whose it was.
        node: NodeId,
    },
    /// It was written by another version.
    #[error("{} has format {found}; this version reads {known}: use the version of Weir that wrote it", dir.display())]
    Format {
        /// The data directory.
        dir: PathBuf,
        /// What it has.
        found: u32,
        /// What is read.
        known: u32,
    },
    /// What was durable is damaged.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// The configuration cannot be.
    #[error("store configuration: {0}")]
    Config(String),
    /// The disk.
    #[error("{doing}")]
    Io {
        /// What was being done, with the path.
        doing: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Data that was durable once does not read as it was written. Never repaired in silence: it may hold votes and
/// acknowledged writes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} is damaged at byte {offset}: {problem}. Do not start this server on it. With other servers: \
     remove this one from the cluster (`weir cluster remove`), move its data directory away and join again under a new id; \
     alone: restore a backup (`weir restore`; moving the damaged file away loses what it holds)", file.display()
)]
pub struct Damaged {
    /// The file.
    pub file: PathBuf,
    /// Where in it.
    pub offset: u64,
    /// What does not fit.
    pub problem: String,
}

impl OpenError {
    /// For `map_err`: an I/O error with what was being done.
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }
}
