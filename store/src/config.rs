//! What a store is opened with.

use std::{path::PathBuf, sync::Arc, time::Duration};

use crate::{
    NodeId, OpenError,
    fatal::OnFatal,
    files::{FileSystem, Os},
    members::Addresses,
};

/// What an empty data directory means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Start {
    /// A new cluster of the configured voters.
    #[default]
    Found,
    /// A new server of a cluster that there is: it begins with nothing and waits for the leader.
    Join,
    /// That the data is lost: this server had some. It must not come back under its id, for it forgot whom it voted
    /// for and what it promised to keep.
    Existing,
}

/// What a store is opened with. Every default says why it is that number.
#[derive(Debug, Clone)]
pub struct Config {
    /// The data directory. Created if it is missing; one process at a time has it.
    pub dir: PathBuf,
    /// This server. The data directory is bound to it when it is created.
    pub node: NodeId,
    /// The installation. `None`: whichever the directory has; a new directory draws one.
    pub cluster_id: Option<String>,
    /// The voters that a new cluster begins with; the same on each of them, as is `cluster_id`. Default: this server.
    /// Says nothing once the directory exists.
    pub voters: Vec<NodeId>,
    /// What an empty directory means. Default: a new cluster.
    pub start: Start,
    /// Where the only server of a new cluster is reached. Default: unknown.
    pub addresses: Addresses,
    /// A write that is not applied by then is answered [`Unknown`](crate::TxnError::Unknown). Default 10 s: several
    /// elections.
    pub write_timeout: Duration,
    /// A read that has to wait (for a leader, for a revision) waits no longer. Default 5 s.
    pub read_timeout: Duration,
    /// Raft's clock: a leader says each tick that it lives, and is missed after ten to twenty. Default 50 ms: another
    /// one leads within a second, and a disk that stands for less than half a second costs no election.
    pub tick: Duration,
    /// Commands that wait for the driver. Default 1,024: some four turns of it.
    pub queue: usize,
    /// Bytes of the writes that wait for an answer. Default 64 MiB: eight of the largest.
    pub queue_bytes: usize,
    /// Linearizable reads that wait; further ones are answered [`Busy`](crate::ReadError::Busy). Default 16,384: one
    /// round to a quorum answers all of them, but without a leader they wait for the whole of `read_timeout`.
    pub max_reads: usize,
    /// Revisions of history that stay when the leader compacts. Default 10,000: a watch may be ten seconds late at
    /// 1,000 writes a second, and hours at the usual rate.
    pub keep_revisions: u64,
    /// Bytes of the whole state beyond which the leader forgets the older half of history, however short it is.
    /// Default 256 MiB: a quarter of the quota, so that large values that change often never fill it with history.
    pub keep_bytes: u64,
    /// A segment of the write-ahead log, bytes. Default 64 MiB: created once in many thousand writes.
    pub segment: u64,
    /// Entries after which a snapshot is taken, if they are not little beside the state. Default 10,000: replayed in
    /// well under a second.
    pub snapshot_entries: u64,
    /// Bytes of entries after which a snapshot is taken. Default 64 MiB; the log of that span is in memory.
    pub snapshot_bytes: u64,
    /// What happens when the disk or the state machine fails. Default: log and abort the process.
    pub on_fatal: OnFatal,
    /// What keeps the files. Default: the operating system. Tests fail it.
    pub files: Arc<dyn FileSystem>,
}

impl Config {
    /// Server 1, with the defaults, on this directory.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            node: 1,
            cluster_id: None,
            voters: vec![1],
            start: Start::default(),
            addresses: Addresses::default(),
            write_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(5),
            tick: Duration::from_millis(50),
            queue: 1024,
            queue_bytes: 64 << 20,
            max_reads: 16 * 1024,
            keep_revisions: 10_000,
            keep_bytes: 256 << 20,
            segment: 64 << 20,
            snapshot_entries: 10_000,
            snapshot_bytes: 64 << 20,
            on_fatal: OnFatal::default(),
            files: Arc::new(Os),
        }
    }

    /// Whether the numbers can be.
    pub(crate) fn check(&self) -> Result<(), OpenError> {
        let problem = if self.node == 0 {
            "node must not be 0"
        } else if self.start == Start::Found && !self.voters.contains(&self.node) {
            "voters must name this server"
        } else if self.queue == 0 || self.queue_bytes < crate::MAX_TXN {
            "queue must be at least 1, and queue_bytes at least the size of the largest transaction"
        } else if self.segment < 4096 {
            "segment must be at least 4096 bytes"
        } else if self.snapshot_entries == 0 || self.snapshot_bytes == 0 {
            "snapshot_entries and snapshot_bytes must be at least 1"
        } else if self.tick.is_zero() {
            "tick must not be zero"
        } else {
            return Ok(());
        };
        Err(OpenError::Config(problem.into()))
    }
}
