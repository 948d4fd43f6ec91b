//! What a server keeps for ever, behind a trait: the real body is [`FileDisk`](crate::files::FileDisk) (write-ahead
//! log and snapshot files), the other [`MemDisk`], for tests and the simulation.

use std::{
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

use crate::{NodeId, StateHash, machine::Position};

/// Raft's promises: the term, the vote in it, and what is known to be committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HardState {
    /// The current term.
    pub term: u64,
    /// Who has this server's vote in it; 0: nobody.
    pub vote: NodeId,
    /// The last entry known to be committed. A hint: losing it costs nothing.
    pub commit: u64,
}

/// What an entry of the log is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A [`Command`](crate::txn::Command), or nothing (a new leader's first).
    Normal,
    /// A change of one member.
    Member,
    /// A change of several members.
    Members,
}

/// An entry of the Raft log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// What it is for.
    pub kind: EntryKind,
    /// Where it is.
    pub at: Position,
    /// What it says.
    pub payload: Bytes,
}

/// What a snapshot is of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SnapshotMeta {
    /// The last entry in it.
    pub at: Position,
    /// Whose it is.
    pub cluster_id: String,
    /// The hash of the state in it.
    pub hash: StateHash,
}

/// The whole state at one entry.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// What it is of.
    pub meta: SnapshotMeta,
    /// The [image](crate::image).
    pub body: Bytes,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("meta", &self.meta).field("bytes", &self.body.len()).finish()
    }
}

/// What has to be durable before anything that depends on it is said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// A snapshot of the leader's: it replaces the whole log, and comes before the entries.
    pub snapshot: Option<Snapshot>,
    /// They follow the log, or replace its end from the first one's index on.
    pub entries: Vec<LogEntry>,
    /// The newest promises.
    pub hard_state: Option<HardState>,
}

impl Batch {
    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What was found at the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The newest snapshot. There is always one: a directory begins with the genesis.
    pub snapshot: Snapshot,
    /// The entries after it, without a gap.
    pub entries: Vec<LogEntry>,
    /// The promises.
    pub hard_state: HardState,
}

/// The disk failed: what it said it would keep may be lost. There is no second try (see [`fatal`](crate::fatal)).
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {source}")]
pub struct DiskError {
    /// What was being done, with the path.
    pub doing: String,
    /// Why not.
    #[source]
    pub source: io::Error,
}

/// Durable storage of one server.
pub trait Disk: Send {
    /// Returns when all of the batch is durable.
    ///
    /// # Errors
    ///
    /// Nothing is known then about what is on the disk: the server has to end.
    fn append(&mut self, batch: &Batch) -> Result<(), DiskError>;

    /// What the log takes, bytes.
    fn log_bytes(&self) -> u64;

    /// Where snapshots go; it works from another thread while this one appends.
    fn snapshots(&self) -> Arc<dyn Snapshots>;

    /// Forgets the part of the log that the kept snapshots make needless.
    ///
    /// # Errors
    ///
    /// If files cannot be removed.
    fn release(&mut self) -> Result<(), DiskError>;
}

/// The snapshots of one server; the two newest are kept.
pub trait Snapshots: Send + Sync {
    /// Returns when the snapshot is durable.
    ///
    /// # Errors
    ///
    /// As [`Disk::append`].
    fn save(&self, snapshot: &Snapshot) -> Result<(), DiskError>;

    /// The newest one.
    ///
    /// # Errors
    ///
    /// If it does not read.
    fn newest(&self) -> Result<Snapshot, DiskError>;
}

/// A disk in memory. What was appended survives the "crash" that drops the server; what was not, does not.
#[derive(Debug, Clone)]
pub struct MemDisk {
    kept: Arc<Mutex<Kept>>,
}

#[derive(Debug)]
struct Kept {
    snapshots: Vec<Snapshot>,
    entries: Vec<LogEntry>,
    hard_state: HardState,
}

impl MemDisk {
    /// A disk that holds the genesis only.
    #[must_use]
    pub fn new(genesis: Snapshot) -> Self {
        let kept = Kept { snapshots: vec![genesis], entries: Vec::new(), hard_state: HardState::default() };
        Self { kept: Arc::new(Mutex::new(kept)) }
    }

    /// What a restarted server finds.
    #[must_use]
    pub fn recover(&self) -> Recovered {
        let kept = self.kept();
        let snapshot = kept.snapshots.last().cloned().unwrap_or_default();
        let log = Log { entries: kept.entries.clone(), hard_state: kept.hard_state };
        log.after(snapshot)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk for MemDisk {
    fn append(&mut self, batch: &Batch) -> Result<(), DiskError> {
        if let Some(snapshot) = &batch.snapshot {
            Snapshots::save(self, snapshot)?;
        }
        let mut kept = self.kept();
        if batch.snapshot.is_some() {
            kept.entries.clear();
        }
        if let Some(first) = batch.entries.first() {
            kept.entries.retain(|entry| entry.at.index < first.at.index);
            kept.entries.extend_from_slice(&batch.entries);
        }
        if let Some(hard_state) = batch.hard_state {
            kept.hard_state = hard_state;
        }
        Ok(())
    }

    fn log_bytes(&self) -> u64 {
        self.kept().entries.iter().map(|entry| entry.payload.len() as u64).sum()
    }

    fn snapshots(&self) -> Arc<dyn Snapshots> {
        Arc::new(self.clone())
    }

    fn release(&mut self) -> Result<(), DiskError> {
        let mut kept = self.kept();
        let oldest = kept.snapshots.first().map_or(0, |snapshot| snapshot.meta.at.index);
        kept.entries.retain(|entry| entry.at.index > oldest);
        Ok(())
    }
}

impl Snapshots for MemDisk {
    fn save(&self, snapshot: &Snapshot) -> Result<(), DiskError> {
        let mut kept = self.kept();
        kept.snapshots.push(snapshot.clone());
        let old = kept.snapshots.len().saturating_sub(2);
        kept.snapshots.drain(..old);
        Ok(())
    }

    fn newest(&self) -> Result<Snapshot, DiskError> {
        Ok(self.kept().snapshots.last().cloned().unwrap_or_default())
    }
}

/// The log as it is found, before it is known which snapshot it follows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Log {
    /// Without a gap.
    pub entries: Vec<LogEntry>,
    /// The newest promises.
    pub hard_state: HardState,
}

impl Log {
    /// The log after a snapshot. A snapshot of the leader's may be on the disk while the log that it replaces still
    /// is as well (the server ended in between): the log then does not contain the snapshot's last entry, and goes.
    #[must_use]
    pub fn after(mut self, snapshot: Snapshot) -> Recovered {
        let at = snapshot.meta.at;
        if self.follows(at) || planted!(ReplacedLogKept) {
            self.entries.retain(|entry| entry.at.index > at.index);
        } else {
            self.entries.clear();
        }
        let mut hard_state = self.hard_state;
        if hard_state.term < at.term {
            hard_state = HardState { term: at.term, vote: 0, commit: at.index };
        }
        let last = self.entries.last().map_or(at.index, |entry| entry.at.index);
        // What is in a snapshot is committed; what is not in the log cannot be known to be.
        hard_state.commit = hard_state.commit.clamp(at.index, last);
        Recovered { snapshot, entries: self.entries, hard_state }
    }

    /// Whether the log continues a snapshot that ends at `at`.
    #[must_use]
    pub fn follows(&self, at: Position) -> bool {
        self.entries.first().is_none_or(|entry| entry.at.index == at.index + 1)
            || self.entries.iter().any(|entry| entry.at == at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(range: std::ops::Range<u64>, term: u64) -> Vec<LogEntry> {
        let entry =
            |index| LogEntry { kind: EntryKind::Normal, at: Position { index, term }, payload: Bytes::new() };
        range.map(entry).collect()
    }

    fn snapshot(index: u64, term: u64) -> Snapshot {
        let meta = SnapshotMeta { at: Position { index, term }, ..SnapshotMeta::default() };
        Snapshot { meta, body: Bytes::new() }
    }

    fn indices(recovered: &Recovered) -> Vec<u64> {
        recovered.entries.iter().map(|entry| entry.at.index).collect()
    }

    #[test]
    fn the_log_continues_its_snapshot() {
        let hard_state = HardState { term: 3, vote: 1, commit: 4 };
        let log = Log { entries: entries(2..6, 3), hard_state };
        for (at, expect) in
            [(snapshot(1, 1), vec![2, 3, 4, 5]), (snapshot(4, 3), vec![5]), (snapshot(5, 3), vec![])]
        {
            let recovered = log.clone().after(at.clone());
            assert_eq!(indices(&recovered), expect, "{at:?}");
            assert_eq!(recovered.hard_state.commit, at.meta.at.index.max(4));
        }
    }

    #[test]
    fn a_log_that_a_snapshot_replaces_goes() {
        let log = Log { entries: entries(2..6, 3), hard_state: HardState { term: 3, vote: 1, commit: 4 } };
        for at in [snapshot(9, 4), snapshot(4, 2), snapshot(4, 5)] {
            assert_eq!(indices(&log.clone().after(at)), Vec::<u64>::new());
        }
        let recovered = log.after(snapshot(9, 4));
        assert_eq!(recovered.hard_state, HardState { term: 4, vote: 0, commit: 9 });
    }
}
