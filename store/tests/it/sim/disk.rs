//! A disk with a synced and an unsynced part, which loses, tears and rots as real ones do.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use store::{
    disk::{Batch, EntryKind, HardState, Log, LogEntry, Recovered, Snapshot},
    machine::Position,
};

use super::rng::Rng;

/// As many snapshots as [`store::files`] keeps.
const KEPT: usize = 2;

/// One server's disk.
pub(super) struct SimDisk {
    /// Oldest first.
    snapshots: Vec<Kept>,
    /// Synced, but for what the last crash left of its last batch.
    log: Vec<Stored>,
    /// What the part of the log that is gone had promised.
    head: HardState,
    /// Written and not synced.
    pending: Option<Batch>,
    durable: Durable,
    /// The furthest that its synced log ever was.
    reached: u64,
}

/// What a server may promise to others.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Durable {
    pub(super) hard_state: HardState,
    /// The last entry.
    pub(super) last: u64,
}

struct Kept {
    snapshot: Snapshot,
    rotten: bool,
}

/// A batch on the disk.
struct Stored {
    /// The leader's snapshot that it begins with.
    snapshot: Option<Position>,
    entries: Vec<LogEntry>,
    hard_state: Option<HardState>,
    sum: u64,
}

/// What was durable does not read: the server must not start.
#[derive(Debug)]
pub(super) struct Damaged;

/// What a crash leaves of a batch that was not synced.
#[derive(Debug, Clone, Copy)]
pub(super) enum Left {
    Nothing,
    /// The leader's snapshot in it, which is a file of its own; of the log's batch a part.
    Torn,
    /// All of it had reached the disk, and nobody knew.
    Whole,
}

impl SimDisk {
    pub(super) fn new(genesis: Snapshot) -> Self {
        let snapshots = vec![Kept { snapshot: genesis, rotten: false }];
        let (head, durable) = (HardState::default(), Durable::default());
        Self { snapshots, log: Vec::new(), head, pending: None, durable, reached: 0 }
    }

    /// Writes a batch. It is durable when it is synced.
    pub(super) fn write(&mut self, batch: &Batch) {
        assert!(self.pending.is_none(), "a batch is written before the last one is durable");
        self.pending = Some(batch.clone());
    }

    pub(super) fn sync(&mut self) {
        if let Some(batch) = self.pending.take() {
            if let Some(snapshot) = &batch.snapshot {
                self.save(snapshot);
            }
            let stored = Stored::new(&batch);
            let last = stored.entries.last().map(|entry| entry.at.index);
            self.durable.last = last.or(stored.snapshot.map(|at| at.index)).unwrap_or(self.durable.last);
            self.reached = self.reached.max(self.durable.last);
            self.durable.hard_state = stored.hard_state.unwrap_or(self.durable.hard_state);
            self.log.push(stored);
        }
    }

    /// The power goes; whether there was something that was not synced.
    pub(super) fn crash(&mut self, left: Left) -> bool {
        let Some(batch) = self.pending.take() else { return false };
        if matches!(left, Left::Nothing) {
            return true;
        }
        if let Some(snapshot) = &batch.snapshot {
            self.save(snapshot);
        }
        let mut stored = Stored::new(&batch);
        stored.sum ^= u64::from(matches!(left, Left::Torn));
        self.log.push(stored);
        true
    }

    /// A bit of a synced batch changes, one that others follow; `false`: there is none.
    pub(super) fn rot_log(&mut self, rng: &mut Rng) -> bool {
        let followed = self.log.len().saturating_sub(1);
        if followed == 0 {
            return false;
        }
        self.log[rng.index(followed)].sum ^= 1 << rng.below(64);
        true
    }

    /// A bit of the newest of two snapshots changes; `false`: there are not two that read, or the log does not continue
    /// the older one (which a leader's snapshot replaced).
    pub(super) fn rot_snapshot(&mut self) -> bool {
        let readable = self.snapshots.iter().filter(|kept| !kept.rotten).count();
        let begins = self.begins();
        let [older, newest] = &mut self.snapshots[..] else { return false };
        let rots = readable == KEPT && begins.is_none_or(|index| index <= older.snapshot.meta.at.index);
        newest.rotten |= rots;
        rots
    }

    /// The entry before the log's first one.
    fn begins(&self) -> Option<u64> {
        let (log, replaced_at) = self.read();
        log.entries.first().map(|entry| entry.at.index - 1).or(replaced_at.map(|at| at.index))
    }

    /// Saves a snapshot, durably.
    pub(super) fn save(&mut self, snapshot: &Snapshot) {
        let place = |snapshot: &Snapshot| (snapshot.meta.at.index, snapshot.meta.at.term);
        self.snapshots.retain(|kept| place(&kept.snapshot) != place(snapshot));
        self.snapshots.push(Kept { snapshot: snapshot.clone(), rotten: false });
        self.snapshots.sort_by_key(|kept| place(&kept.snapshot));
        let old = self.snapshots.len().saturating_sub(KEPT);
        self.snapshots.drain(..old);
    }

    /// The newest snapshot that reads.
    pub(super) fn newest(&self) -> &Snapshot {
        let readable = self.snapshots.iter().rev().find(|kept| !kept.rotten);
        &readable.expect("one of two is never made to rot").snapshot
    }

    /// Forgets the log behind the oldest snapshot.
    pub(super) fn release(&mut self) {
        let oldest = self.snapshots[0].snapshot.meta.at.index;
        let gone = self.log.iter().take_while(|stored| stored.highest() <= oldest).count();
        // The last batch stays, as the current segment does.
        for stored in self.log.drain(..gone.min(self.log.len().saturating_sub(1))) {
            self.head = stored.hard_state.unwrap_or(self.head);
        }
    }

    /// What a server that starts finds. Cuts a torn batch.
    pub(super) fn recover(&mut self) -> Result<Recovered, Damaged> {
        assert!(self.pending.is_none(), "a server starts on the disk of one that runs");
        self.log.pop_if(|stored| !stored.reads());
        if !self.log.iter().all(Stored::reads) {
            return Err(Damaged);
        }
        let (log, _) = self.read();
        let snapshot = self.newest().clone();
        let begins = self.begins();
        let at = snapshot.meta.at;
        if begins.is_some_and(|index| index > at.index) {
            assert!(
                self.snapshots.iter().any(|kept| kept.rotten),
                "no snapshot reaches the log, which begins after {begins:?}"
            );
            return Err(Damaged);
        }
        let replaced = !log.follows(at);
        let recovered = log.after(snapshot);
        if replaced {
            let (snapshot, hard_state) = (Some(recovered.snapshot.clone()), Some(recovered.hard_state));
            self.log.push(Stored::new(&Batch { snapshot, hard_state, ..Batch::default() }));
        }
        let last = recovered.entries.last().map_or(at.index, |entry| entry.at.index);
        let is_ordered = recovered.entries.iter().map(|entry| entry.at.term).is_sorted();
        let first = recovered.entries.first().map_or(at.term, |entry| entry.at.term);
        assert!(is_ordered && first >= at.term, "terms fall in the log behind the snapshot at {at:?}");
        self.durable = Durable { hard_state: recovered.hard_state, last };
        self.reached = self.reached.max(last);
        Ok(recovered)
    }

    pub(super) fn durable(&self) -> Durable {
        self.durable
    }

    pub(super) fn reached(&self) -> u64 {
        self.reached
    }

    /// The term of an entry that is written here.
    pub(super) fn term_of(&self, index: u64) -> Option<u64> {
        let pending = self.pending.iter().map(|batch| &batch.entries);
        let synced = self.log.iter().rev().map(|stored| &stored.entries);
        let batch = pending.chain(synced).find(|batch| batch.first().is_some_and(|e| e.at.index <= index))?;
        batch.iter().find(|entry| entry.at.index == index).map(|entry| entry.at.term)
    }

    /// Whether it is known here for ever that an entry is committed.
    pub(super) fn knows(&self, index: u64) -> bool {
        self.durable.hard_state.commit >= index || self.newest().meta.at.index >= index
    }

    /// Whether a committed entry is synced here, or in a snapshot.
    pub(super) fn holds(&self, at: Position) -> bool {
        if self.snapshots.iter().any(|kept| kept.snapshot.meta.at.index >= at.index) {
            return true;
        }
        // What a crash tore is at the end.
        let torn = self.log.last().is_some_and(|stored| !stored.reads());
        let synced = self.log.iter().rev().skip(usize::from(torn)).map(|stored| &stored.entries);
        let mut holding = synced.filter(|batch| batch.first().is_some_and(|e| e.at.index <= at.index));
        holding.next().is_some_and(|batch| batch.iter().any(|entry| entry.at == at))
    }

    /// How many changes of membership its log has between two entries.
    pub(super) fn changes_between(&self, after: u64, before: u64) -> usize {
        let pending = self.pending.iter().flat_map(|batch| &batch.entries);
        let (log, _) = self.read();
        let all = log.entries.iter().chain(pending).filter(|entry| entry.kind != EntryKind::Normal);
        all.filter(|entry| entry.at.index > after && entry.at.index < before).count()
    }

    fn read(&self) -> (Log, Option<Position>) {
        let mut log = Log { entries: Vec::new(), hard_state: self.head };
        let mut replaced_at = None;
        for stored in &self.log {
            if let Some(at) = stored.snapshot {
                log.entries.clear();
                replaced_at = Some(at);
            }
            if let Some(first) = stored.entries.first() {
                log.entries.retain(|entry| entry.at.index < first.at.index);
                log.entries.extend_from_slice(&stored.entries);
            }
            log.hard_state = stored.hard_state.unwrap_or(log.hard_state);
        }
        (log, replaced_at)
    }
}

impl Stored {
    fn new(batch: &Batch) -> Self {
        let snapshot = batch.snapshot.as_ref().map(|snapshot| snapshot.meta.at);
        let (entries, hard_state) = (batch.entries.clone(), batch.hard_state);
        let mut stored = Self { snapshot, entries, hard_state, sum: 0 };
        stored.sum = stored.sum_now();
        stored
    }

    fn reads(&self) -> bool {
        self.sum == self.sum_now()
    }

    fn sum_now(&self) -> u64 {
        let mut hash = DefaultHasher::new();
        for entry in &self.entries {
            (entry.at.index, entry.at.term, &entry.payload).hash(&mut hash);
        }
        let hard_state = self.hard_state.unwrap_or_default();
        (hard_state.term, hard_state.vote, hard_state.commit).hash(&mut hash);
        hash.finish()
    }

    fn highest(&self) -> u64 {
        let last = self.entries.iter().map(|entry| entry.at.index).max();
        last.max(self.snapshot.map(|at| at.index)).unwrap_or(0)
    }
}
