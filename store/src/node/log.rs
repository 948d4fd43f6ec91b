//! The part of the log that is in memory, as raft asks for it: everything after the newest snapshot, and a little
//! before it for servers that are nearly up to date.

use std::{cell::RefCell, collections::VecDeque};

use api::store as wire;
use raft::{
    Error, GetEntriesContext, RaftState, Storage, StorageError,
    eraftpb::{Entry, HardState, Snapshot},
    util::limit_size,
};

use crate::{
    disk,
    machine::Position,
    peer::{entry_to_raft, members_to_raft},
};

#[derive(Debug)]
pub(super) struct Log {
    /// The place before the first entry.
    base: Position,
    entries: VecDeque<Entry>,
    bytes: u64,
    /// As raft starts with them.
    start: RaftState,
    sending: RefCell<Sending>,
}

/// A server far behind needs a snapshot, which is on the disk: asked for, then offered.
#[derive(Debug, Default)]
struct Sending {
    offered: Option<Snapshot>,
    wanted: bool,
}

impl Log {
    pub(super) fn new(
        recovered: &disk::Recovered,
        hard_state: disk::HardState,
        members: &wire::Members,
    ) -> Self {
        let mut state = HardState::default();
        (state.term, state.vote, state.commit) = (hard_state.term, hard_state.vote, hard_state.commit);
        let mut log = Self {
            base: recovered.snapshot.meta.at,
            entries: VecDeque::new(),
            bytes: 0,
            start: RaftState::new(state, members_to_raft(members)),
            sending: RefCell::default(),
        };
        log.append(recovered.entries.iter().cloned().map(entry_to_raft).collect());
        log
    }

    /// Takes over entries that are durable; they replace what was there from their first index on.
    pub(super) fn append(&mut self, entries: Vec<Entry>) {
        if let Some(first) = entries.first() {
            let keep = first.index.saturating_sub(self.base.index + 1);
            while self.entries.len() as u64 > keep && !planted!(TailKept) {
                self.bytes -= self.entries.pop_back().map_or(0, |entry| size(&entry));
            }
        }
        self.bytes += entries.iter().map(size).sum::<u64>();
        self.entries.extend(entries);
    }

    /// Begins anew after a snapshot of the leader's.
    pub(super) fn reset(&mut self, at: Position) {
        planted!(LogNotReset, return);
        self.entries.clear();
        self.bytes = 0;
        self.base = at;
        *self.sending.get_mut() = Sending::default();
    }

    /// A snapshot at this index is durable: drops what is before it, but for so many entries, as long as the log
    /// is not larger than so many bytes.
    pub(super) fn compact(&mut self, snapshot: u64, trailing: u64, max_bytes: u64) {
        while let Some(entry) = self.entries.front() {
            let last = if self.bytes > max_bytes { snapshot } else { snapshot.saturating_sub(trailing) };
            if entry.index > last {
                break;
            }
            self.base = Position { index: entry.index, term: entry.term };
            self.bytes -= size(entry);
            self.entries.pop_front();
        }
        // A newer snapshot is there to be sent.
        *self.sending.get_mut() = Sending::default();
    }

    pub(super) fn last(&self) -> u64 {
        self.base.index + self.entries.len() as u64
    }

    /// Whether a snapshot has been asked for and is not there; asked once.
    pub(super) fn take_wanted(&mut self) -> bool {
        std::mem::take(&mut self.sending.get_mut().wanted)
    }

    /// Whether it has all that follows a snapshot.
    pub(super) fn continues(&self, snapshot: u64) -> bool {
        self.base.index <= snapshot
    }

    pub(super) fn offer(&mut self, snapshot: Snapshot) {
        self.sending.get_mut().offered = Some(snapshot);
    }

    /// What was offered is not to be sent any more: who joined since is not in it.
    pub(super) fn withdraw(&mut self) {
        *self.sending.get_mut() = Sending::default();
    }

    fn offset(&self, index: u64) -> Result<usize, Error> {
        let offset = index.checked_sub(self.base.index + 1).ok_or(StorageError::Compacted)?;
        usize::try_from(offset).map_err(|_| StorageError::Unavailable.into())
    }
}

fn size(entry: &Entry) -> u64 {
    entry.data.len() as u64 + 64
}

impl Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(self.start.clone())
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let (low, high) = (self.offset(low)?, self.offset(high)?);
        if high > self.entries.len() || low > high {
            return Err(StorageError::Unavailable.into());
        }
        // Not more than is asked for is cloned: a server that is behind asks for the whole log, a piece a time.
        let max = max_size.into().unwrap_or(u64::MAX);
        let mut bytes = 0;
        let mut entries: Vec<Entry> = self
            .entries
            .range(low..high)
            .take_while(|entry| {
                let fits = bytes <= max;
                bytes += size(entry);
                fits
            })
            .cloned()
            .collect();
        limit_size(&mut entries, Some(max));
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.base.index {
            return Ok(self.base.term);
        }
        let entry = self.entries.get(self.offset(index)?).ok_or(StorageError::Unavailable)?;
        Ok(entry.term)
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        let mut sending = self.sending.borrow_mut();
        match &sending.offered {
            Some(snapshot) if snapshot.get_metadata().index >= request_index => Ok(snapshot.clone()),
            _ => {
                sending.wanted = true;
                Err(StorageError::SnapshotTemporarilyUnavailable.into())
            }
        }
    }
}
