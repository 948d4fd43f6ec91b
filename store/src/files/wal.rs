//! The write-ahead log: what this server has promised.
//!
//! Segments are files of one size, filled with zeros before they are used, so that a write changes no metadata and
//! `fdatasync` is one flush. A [`Batch`] is written by one call and synced by one call, never across two segments.
//!
//! A crash can leave any part of the last batch, and only of the last one: the next batch is written after its sync.
//! So a batch that is not whole is cut off if nothing follows it; if any record of a later batch does, what was
//! durable has changed, and the log is refused.
//!
//! A bit that rots within the very last batch must not pass for a crash: the batch may have been acknowledged. Disks
//! write sectors, and a sector that a crash kept from the disk is still zeros, since the segment was. So the last
//! batch is cut only if it lacks a sector; one that is there and does not read is refused (`recover::tear`).

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use super::{DRAFT, FileSystem, is_draft};
use crate::{
    Damaged, NodeId, OpenError,
    disk::{Batch, DiskError, HardState, Log},
    machine::Position,
    metric,
};

mod record;
mod recover;

use record::{Kind, Record};

/// Whose log it is; said at the beginning of each segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The installation.
    pub cluster_id: String,
    /// The server.
    pub node: NodeId,
}

impl Owner {
    fn encode(&self) -> Vec<u8> {
        [&self.node.to_le_bytes()[..], self.cluster_id.as_bytes()].concat()
    }
}

/// What a log held when it was opened.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    pub(crate) log: Log,
    /// The last snapshot of the leader's that replaced the log.
    replaced_at: Option<Position>,
}

impl Found {
    /// Whether nothing was ever written to it.
    pub(crate) fn is_fresh(&self) -> bool {
        *self == Self::default()
    }

    /// The entry that it continues, if it says that.
    pub(crate) fn begins_after(&self) -> Option<u64> {
        let first = self.log.entries.first().map(|entry| entry.at.index - 1);
        first.or(self.replaced_at.map(|at| at.index))
    }
}

/// A write-ahead log.
#[derive(Debug)]
pub struct Wal {
    dir: PathBuf,
    owner: Owner,
    segment_size: u64,
    files: Arc<dyn FileSystem>,
    /// Those before the current one, oldest first.
    old: Vec<Segment>,
    current: Segment,
    file: File,
    /// Where the next batch goes, and the current file's size.
    offset: u64,
    size: u64,
    /// The next batch's number.
    batch: u64,
    /// Repeated at the beginning of each segment, so that old ones can go.
    hard_state: HardState,
    buffer: Vec<u8>,
}

/// What is known of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    number: u32,
    /// The highest index in it; 0 if there is none.
    highest: u64,
    /// The file's size, bytes.
    size: u64,
}

impl Wal {
    /// Opens the log in a directory, or makes it.
    ///
    /// # Errors
    ///
    /// [`OpenError::Damaged`] if anything but the end of the last segment is not as it was written.
    pub fn open(
        dir: PathBuf,
        owner: Owner,
        segment_size: u64,
        files: Arc<dyn FileSystem>,
    ) -> Result<(Self, Found), OpenError> {
        let failed = |doing: &str| OpenError::io(format!("{doing} {}", dir.display()));
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&dir).map_err(failed("read"))? {
            let path = entry.map_err(failed("read"))?.path();
            if is_draft(&path) {
                files.remove(&path).map_err(failed("clean"))?;
            } else if let Some(number) = number_of(&path) {
                numbers.push(number);
            }
        }
        files.sync_dir(&dir).map_err(failed("sync"))?;
        numbers.sort_unstable();
        let mut recovery = recover::Recovery::new(dir.clone(), &owner, files.clone());
        for (position, number) in numbers.iter().enumerate() {
            recovery.segment(*number, position + 1 == numbers.len())?;
        }
        let recovered = recovery.finish();
        let (segments, end) = (recovered.segments, recovered.end);
        let hard_state = recovered.found.log.hard_state;
        let Some((current, old)) = segments.split_last() else {
            let plan = Plan { number: 1, batch: 1, size: segment_size, room: 0 };
            let (file, size, offset) = create(&dir, &owner, hard_state, plan, &*files)
                .map_err(failed("create the first segment in"))?;
            let current = Segment { number: 1, highest: 0, size };
            let (old, buffer, batch) = (Vec::new(), Vec::new(), 2);
            let wal = Self {
                dir,
                owner,
                segment_size,
                files,
                old,
                current,
                file,
                offset,
                size,
                batch,
                hard_state,
                buffer,
            };
            return Ok((wal, recovered.found));
        };
        let path = path(&dir, current.number);
        let file = File::options().write(true).open(&path);
        let file = file.map_err(OpenError::io(format!("open {}", path.display())))?;
        let size = file.metadata().map_err(failed("read"))?.len();
        if recovered.torn {
            tracing::warn!(
                file = %path.display(), offset = end,
                "cut the write-ahead log's last batch, which was being written when the server ended"
            );
            wipe(&file, end, size, &*files).map_err(failed("cut"))?;
        }
        let wal = Self {
            dir,
            owner,
            segment_size,
            files,
            old: old.to_vec(),
            current: *current,
            file,
            offset: end,
            size,
            batch: recovered.batch + 1,
            hard_state,
            buffer: Vec::new(),
        };
        Ok((wal, recovered.found))
    }

    /// Returns when the batch is durable. (Its snapshot has to be, before.)
    ///
    /// # Errors
    ///
    /// Nothing is known then about what is on the disk.
    pub fn append(&mut self, batch: &Batch) -> Result<(), DiskError> {
        let started = Instant::now();
        self.write(batch).map_err(|source| DiskError {
            doing: format!("write {}", path(&self.dir, self.current.number).display()),
            source,
        })?;
        metrics::histogram!(metric::SYNC_SECONDS).record(started.elapsed());
        #[expect(clippy::cast_precision_loss, reason = "a metric")]
        metrics::histogram!(metric::BATCH_ENTRIES).record(batch.entries.len() as f64);
        Ok(())
    }

    fn write(&mut self, batch: &Batch) -> io::Result<()> {
        let records = records(batch);
        let length: u64 = records.iter().map(Record::size).sum();
        if length == 0 {
            return Ok(());
        }
        self.hard_state = batch.hard_state.unwrap_or(self.hard_state);
        if self.offset + length > self.size {
            self.rotate(length)?;
        }
        self.buffer.clear();
        record::encode_batch(&records, self.current.number, self.batch, &mut self.buffer);
        self.files.write(&self.file, &self.buffer, self.offset)?;
        self.files.sync(&self.file)?;
        self.offset += length;
        self.batch += 1;
        let highest = records.iter().filter(|r| r.kind != Kind::HardState).map(|r| r.at.index).max();
        self.current.highest = self.current.highest.max(highest.unwrap_or(0));
        Ok(())
    }

    /// Goes on in a new segment, which has room for `length` bytes.
    fn rotate(&mut self, length: u64) -> io::Result<()> {
        let number = self.current.number.checked_add(1).ok_or(io::ErrorKind::FileTooLarge)?;
        let plan = Plan { number, batch: self.batch, size: self.segment_size, room: length };
        let (file, size, offset) = create(&self.dir, &self.owner, self.hard_state, plan, &*self.files)?;
        (self.file, self.size, self.offset) = (file, size, offset);
        self.batch += 1;
        self.old.push(std::mem::replace(&mut self.current, Segment { number, highest: 0, size }));
        Ok(())
    }

    /// What its files take on the disk, bytes; a segment is written in full when it is made.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.old.iter().chain([&self.current]).map(|segment| segment.size).sum()
    }

    /// Removes the oldest segments as long as all that they hold is in a snapshot that ends at `index`.
    ///
    /// # Errors
    ///
    /// If a file cannot be removed.
    pub fn release(&mut self, index: u64) -> Result<(), DiskError> {
        let gone = self.old.iter().take_while(|segment| segment.highest <= index).count();
        for segment in self.old.drain(..gone) {
            let path = path(&self.dir, segment.number);
            // Oldest first, each durably: a log with a hole in it would be refused.
            let removed = self.files.remove(&path).and_then(|()| self.files.sync_dir(&self.dir));
            removed.map_err(|source| DiskError { doing: format!("remove {}", path.display()), source })?;
        }
        Ok(())
    }
}

fn records(batch: &Batch) -> Vec<Record<'_>> {
    let snapshot = batch.snapshot.iter().map(|snapshot| Record::snapshot(snapshot.meta.at));
    let entries = batch.entries.iter().map(Record::entry);
    let hard_state = batch.hard_state.iter().map(Record::hard_state);
    snapshot.chain(entries).chain(hard_state).collect()
}

/// A segment to be made.
#[derive(Debug, Clone, Copy)]
struct Plan {
    number: u32,
    /// The number of its first batch.
    batch: u64,
    size: u64,
    /// What there has to be room for after its first batch, whatever its size.
    room: u64,
}

/// Makes a segment that is whole when its name appears: full size, zeros, its first records, all durable.
/// Returns the file, its size and where the next batch goes.
fn create(
    dir: &Path,
    owner: &Owner,
    hard_state: HardState,
    plan: Plan,
    files: &dyn FileSystem,
) -> io::Result<(File, u64, u64)> {
    let path = path(dir, plan.number);
    let draft = path.with_extension(DRAFT);
    let file = files.create(&draft)?;
    let owner = owner.encode();
    let records = [Record::segment(&owner), Record::hard_state(&hard_state)];
    let mut head = Vec::new();
    record::encode_batch(&records, plan.number, plan.batch, &mut head);
    files.write(&file, &head, 0)?;
    let offset = head.len() as u64;
    let size = plan.size.max(offset + plan.room);
    fill(&file, offset, size, files)?;
    files.sync(&file)?;
    files.rename(&draft, &path)?;
    files.sync_dir(dir)?;
    Ok((file, size, offset))
}

const ZEROS: &[u8] = &[0; 1 << 16];

/// Writes zeros: blocks that are only allocated would have to be marked as written in the file's metadata later,
/// at each sync.
fn fill(file: &File, from: u64, to: u64, files: &dyn FileSystem) -> io::Result<()> {
    let mut at = from;
    while at < to {
        let length = (to - at).min(ZEROS.len() as u64);
        files.write(file, &ZEROS[..usize::try_from(length).unwrap_or(ZEROS.len())], at)?;
        at += length;
    }
    Ok(())
}

/// Removes what a crash left of the last batch, so that it can never be read together with what comes after.
fn wipe(file: &File, from: u64, to: u64, files: &dyn FileSystem) -> io::Result<()> {
    fill(file, from, to, files)?;
    files.sync(file)
}

fn path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("{number:08x}.wal"))
}

fn number_of(path: &Path) -> Option<u32> {
    u32::from_str_radix(path.file_name()?.to_str()?.strip_suffix(".wal")?, 16).ok()
}

fn damaged(file: PathBuf, offset: u64, problem: impl Into<String>) -> OpenError {
    Damaged { file, offset, problem: problem.into() }.into()
}

#[cfg(test)]
mod tests;
