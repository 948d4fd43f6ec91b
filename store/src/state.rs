//! The state on disk, in sled: written behind, so that a start after a clean shutdown need not replay the log.
//!
//! It is never the truth. Under power cuts sled lost what it had called flushed (its `flush` is `sync_file_range` on
//! Linux) and kept large values in files that it never syncs. So: values in chunks; no flushing by itself; `fdatasync`
//! after the last flush; then a marker with the state's hash and the sum of each of sled's files. Without the marker,
//! if a file has another sum (sled never sees it: some damage makes it panic), or if what is read has another hash, it is
//! put aside and made anew from snapshot and log.
//!
//! So nobody needs it before the end: changes are gathered, and written by a thread of its own ([`writer`]).

mod writer;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use api::process::contained;
use serde::{Deserialize, Serialize};

use crate::{
    OpenError,
    files::{FileSystem, write_whole},
    machine::{Delta, Machine, Position, items::Item},
};

use writer::Writer;

/// Values above some 30 KB would go to files that sled does not sync.
const CHUNK: usize = 16 * 1024;
/// sled's cache: everything is in our own memory already.
const CACHE: u64 = 16 << 20;
/// sled's threads end within milliseconds; one that does not in this time hangs.
const CLOSING: Duration = Duration::from_secs(5);
const CLOSING_POLL: Duration = Duration::from_millis(1);
/// Databases put aside that are kept for who wants to look.
const QUARANTINED: usize = 2;

/// The state on disk.
#[derive(Debug)]
pub struct State {
    dir: PathBuf,
    files: Arc<dyn FileSystem>,
    writer: Writer,
}

/// What the marker says.
#[derive(Debug, Serialize, Deserialize)]
struct Clean {
    index: u64,
    term: u64,
    hash: String,
    files: BTreeMap<String, Sum>,
}

/// What a file was when it was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Sum {
    bytes: u64,
    crc32c: u32,
}

/// Why what is on disk is not taken.
#[derive(Debug, thiserror::Error)]
enum Untrusted {
    #[error("the last shutdown was not clean")]
    NoMarker,
    #[error("its marker does not read")]
    BadMarker,
    #[error("its files are not as they were left")]
    Files,
    #[error("its files do not read: {0}")]
    Unreadable(#[from] io::Error),
    #[error("sled: {0}")]
    Sled(#[from] sled::Error),
    #[error("sled panicked")]
    Panic,
    #[error("a value's chunks do not fit together")]
    Chunks,
    #[error(transparent)]
    Item(#[from] crate::machine::BadItem),
    #[error("its hash is not the one it was left with")]
    Hash,
}

impl State {
    /// Opens what is in `dir`, and returns the state in it if it can be trusted. If not, it is put aside and the new
    /// one is empty: [`State::rebuild`] fills it.
    ///
    /// # Errors
    ///
    /// Only if the directory itself fails.
    pub fn open(dir: PathBuf, files: Arc<dyn FileSystem>) -> Result<(Self, Option<Machine>), OpenError> {
        let failed = |doing: &str| OpenError::io(format!("{doing} {}", dir.display()));
        files.create_dir(&dir).map_err(failed("create"))?;
        let marker = take_marker(&dir, &*files).map_err(failed("take the marker in"))?;
        let path = dir.join("db");
        let existed = path.exists();
        // The directory is ours alone: who still has it is an earlier store of this process.
        if existed && let Err(error) = wait_until_closed(&path) {
            tracing::warn!(%error, "the materialised state is not closed");
        }
        let loaded = marker.and_then(|clean| load(&path, &clean, &*files));
        let (db, machine) = match loaded {
            Ok((db, machine)) => (Some(db), Some(machine)),
            Err(reason) => {
                if existed {
                    let aside = quarantine(&dir).map_err(failed("put aside the state in"))?;
                    tracing::warn!(
                        %reason, aside = %aside.display(),
                        "the materialised state is not trusted: made anew from snapshot and log"
                    );
                }
                (open_empty(&path), None)
            }
        };
        let writer = Writer::start(db).map_err(failed("start the thread that writes"))?;
        Ok((Self { dir, files, writer }, machine))
    }

    /// Follows a change of the state, later.
    pub fn write(&mut self, delta: Delta) {
        self.writer.write(delta);
    }

    /// Replaces everything by this state, later.
    pub fn rebuild(&mut self, machine: &Machine) {
        self.writer.rebuild(machine.clone());
    }

    /// Makes it durable and leaves the marker: `machine` is the state that was written.
    pub fn close(mut self, machine: &Machine) {
        // What sled still writes then is synced below.
        if !self.writer.finish() {
            return;
        }
        if let Err(error) = wait_until_closed(&self.dir.join("db")) {
            tracing::warn!(%error, "the state is not marked as clean: sled does not end");
            return;
        }
        let hash = machine.hash().to_string();
        let Position { index, term } = machine.applied();
        if let Err(error) = self.mark(index, term, hash) {
            tracing::warn!(%error, "the state is not marked as clean: the next start makes it anew");
        }
    }

    fn mark(&self, index: u64, term: u64, hash: String) -> io::Result<()> {
        let path = self.dir.join("db");
        for name in names(&path)? {
            self.files.sync(&File::open(path.join(name))?)?;
        }
        self.files.sync_dir(&path)?;
        self.files.sync_dir(&self.dir)?;
        let clean = Clean { index, term, hash, files: sums(&path, &*self.files)? };
        write_whole(&marker_path(&self.dir), &[&serde_json::to_vec(&clean)?], &*self.files)
    }
}

fn marker_path(dir: &Path) -> PathBuf {
    dir.join("CLEAN")
}

/// Reads the marker and removes it, durably: from here on the state is not clean.
fn take_marker(dir: &Path, files: &dyn FileSystem) -> io::Result<Result<Clean, Untrusted>> {
    let path = marker_path(dir);
    let text = match files.read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Err(Untrusted::NoMarker)),
        read => read?,
    };
    files.remove(&path)?;
    files.sync_dir(dir)?;
    Ok(serde_json::from_slice(&text).map_err(|_| Untrusted::BadMarker))
}

fn load(path: &Path, clean: &Clean, files: &dyn FileSystem) -> Result<(sled::Db, Machine), Untrusted> {
    if sums(path, files)? != clean.files {
        return Err(Untrusted::Files);
    }
    // sled panics on some damage.
    contained(|| {
        let db = open_sled(path)?;
        let machine = read_all(&db)?;
        let at = Position { index: clean.index, term: clean.term };
        if machine.hash().to_string() != clean.hash || machine.applied() != at {
            return Err(Untrusted::Hash);
        }
        Ok((db, machine))
    })
    .unwrap_or(Err(Untrusted::Panic))
}

/// sled's files. What is in directories below (values too large for a page, of which there are none) is not needed.
fn names(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

fn sums(path: &Path, files: &dyn FileSystem) -> io::Result<BTreeMap<String, Sum>> {
    let sum = |name: String| {
        let content = files.read(&path.join(&name))?;
        Ok((name, Sum { bytes: content.len() as u64, crc32c: crc32c::crc32c(&content) }))
    };
    names(path)?.into_iter().map(sum).collect()
}

/// Waits until sled has let go of its files: its own threads end a little later than the database is dropped, and
/// until then they may write.
#[expect(clippy::disallowed_methods, reason = "a condition with a deadline, on the store's own thread")]
fn wait_until_closed(path: &Path) -> io::Result<()> {
    let until = Instant::now() + CLOSING;
    loop {
        let locked = match File::open(path.join("db")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            file => rustix::fs::flock(&file?, rustix::fs::FlockOperation::NonBlockingLockExclusive),
        };
        match locked {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < until => thread::sleep(CLOSING_POLL),
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn open_empty(path: &Path) -> Option<sled::Db> {
    match contained(|| open_sled(path)) {
        Ok(Ok(db)) => return Some(db),
        Ok(Err(error)) => tracing::warn!(%error, "no materialised state: starts will replay the log"),
        Err(_) => tracing::warn!("no materialised state: sled panicked"),
    }
    None
}

fn open_sled(path: &Path) -> sled::Result<sled::Db> {
    sled::Config::new().path(path).flush_every_ms(None).cache_capacity(CACHE).open()
}

/// Renames the database out of the way; the oldest of those put aside before go.
fn quarantine(dir: &Path) -> io::Result<PathBuf> {
    let mut aside = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some(number) = name.and_then(|name| name.strip_prefix("quarantined-")?.parse::<u64>().ok()) {
            aside.push((number, path));
        }
    }
    aside.sort();
    let next = aside.last().map_or(1, |(number, _)| number + 1);
    let gone = (aside.len() + 1).saturating_sub(QUARANTINED);
    for (_, path) in aside.drain(..gone.min(aside.len())) {
        fs::remove_dir_all(path)?;
    }
    let to = dir.join(format!("quarantined-{next}"));
    fs::rename(dir.join("db"), &to)?;
    Ok(to)
}

fn chunks(length: usize) -> u16 {
    // The length stands before the first chunk.
    u16::try_from((length + 4).div_ceil(CHUNK)).expect("an item is bounded by MAX_VALUE and MAX_OPS")
}

fn chunk_key(key: &[u8], chunk: u16) -> Vec<u8> {
    [key, &chunk.to_be_bytes()].concat()
}

fn insert(batch: &mut sled::Batch, key: &[u8], value: &[u8]) {
    let length = u32::try_from(value.len()).expect("an item is bounded by MAX_VALUE and MAX_OPS");
    let bytes = [&length.to_be_bytes(), value].concat();
    for (chunk, bytes) in (0..).zip(bytes.chunks(CHUNK)) {
        batch.insert(chunk_key(key, chunk), bytes);
    }
}

fn read_all(db: &sled::Db) -> Result<Machine, Untrusted> {
    let mut rows = db.iter();
    let mut failed = None;
    let items = std::iter::from_fn(|| match read_item(&mut rows) {
        Ok(item) => item,
        Err(error) => {
            failed = Some(error);
            None
        }
    });
    let machine = Machine::from_items(items);
    failed.map_or(Ok(machine?), Err)
}

fn read_item(rows: &mut sled::Iter) -> Result<Option<Item>, Untrusted> {
    let Some(first) = rows.next() else { return Ok(None) };
    let (first_key, first) = first?;
    let (key, chunk) = first_key.split_last_chunk::<2>().ok_or(Untrusted::Chunks)?;
    let (length, start) = first.split_first_chunk::<4>().ok_or(Untrusted::Chunks)?;
    let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| Untrusted::Chunks)?;
    if u16::from_be_bytes(*chunk) != 0 {
        return Err(Untrusted::Chunks);
    }
    let mut value = start.to_vec();
    let mut next = 1;
    while value.len() < length {
        let (more_key, more) = rows.next().ok_or(Untrusted::Chunks)??;
        if *more_key != chunk_key(key, next)[..] {
            return Err(Untrusted::Chunks);
        }
        value.extend_from_slice(&more);
        next = next.checked_add(1).ok_or(Untrusted::Chunks)?;
    }
    if value.len() != length {
        return Err(Untrusted::Chunks);
    }
    Ok(Some(Item { key: key.to_vec(), value }))
}

#[cfg(test)]
mod tests;
