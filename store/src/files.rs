//! The data directory.
//!
//! ```text
//! LOCK                   held by the process that has the directory
//! identity               whose it is: one line of JSON
//! wal/<number>.wal       the write-ahead log: votes and entries
//! snapshots/<index>-<term>.snap
//! state/db               sled's: the materialised state   (rebuildable)
//! state/CLEAN            the marker of a clean shutdown
//! ```

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    Damaged, NodeId, OpenError,
    disk::{Batch, Disk, DiskError, Recovered, Snapshot, Snapshots},
};

pub mod snapshots;
pub mod wal;

use snapshots::SnapshotDir;
use wal::Wal;

/// What the directory's layout and every format in it is called.
const FORMAT: u32 = 1;

/// How a file is made durable; the tests' disks fail here.
pub type SyncFn = fn(&File) -> io::Result<()>;

/// `fdatasync`: the data and what is needed to read it back.
///
/// # Errors
///
/// The kernel's. There is no second try.
pub fn fdatasync(file: &File) -> io::Result<()> {
    file.sync_data()
}

/// Write-ahead log and snapshots in a directory.
#[derive(Debug)]
pub struct FileDisk {
    wal: Wal,
    snapshots: Arc<SnapshotDir>,
    _lock: Lock,
}

/// How a directory is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// The server.
    pub node: NodeId,
    /// The installation; `None`: whichever the directory has, or a new one.
    pub cluster_id: Option<String>,
    /// A segment's size, bytes.
    pub segment: u64,
    /// How files are made durable.
    pub sync: SyncFn,
}

/// An opened directory.
#[derive(Debug)]
pub struct Opened {
    /// Its disk.
    pub disk: FileDisk,
    /// What was found.
    pub recovered: Recovered,
    /// Whose it is.
    pub cluster_id: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Identity {
    format: u32,
    cluster_id: String,
    node_id: NodeId,
}

impl FileDisk {
    /// Opens a directory, or makes it with the snapshot that `genesis` gives for its cluster id. Everything is
    /// synced before it is read: what a killed process wrote may be in the kernel's memory only.
    ///
    /// # Errors
    ///
    /// If it is in use, another server's, or damaged.
    pub fn open(
        dir: &Path,
        options: &Options,
        genesis: impl FnOnce(&str) -> io::Result<Snapshot>,
    ) -> Result<Opened, OpenError> {
        let at = |what: &str, path: &Path| OpenError::io(format!("{what} {}", path.display()));
        create_dir(dir).map_err(at("create", dir))?;
        let lock = lock(dir)?;
        let (wal_dir, snapshot_dir) = (dir.join("wal"), dir.join("snapshots"));
        for part in [&wal_dir, &snapshot_dir] {
            fs::create_dir_all(part).map_err(at("create", part))?;
        }
        let identity = identity(dir, options, is_empty(&wal_dir)? && is_empty(&snapshot_dir)?)?;
        sync_dir(dir).map_err(at("sync", dir))?;

        let snapshots =
            Arc::new(SnapshotDir::open(snapshot_dir.clone(), identity.cluster_id.clone(), options.sync)?);
        let no_snapshots = is_empty(&snapshot_dir)?;
        if is_empty(&wal_dir)? && !no_snapshots {
            return Err(gone(wal_dir, "the write-ahead log is gone").into());
        }
        let owner = wal::Owner { cluster_id: identity.cluster_id.clone(), node: options.node };
        let (mut wal, log) = Wal::open(wal_dir, owner, options.segment, options.sync)?;
        if no_snapshots {
            // Either a new directory, or one whose making was interrupted here.
            if !log.is_fresh() {
                return Err(gone(snapshot_dir, "the snapshots are gone").into());
            }
            let snapshot = genesis(&identity.cluster_id).map_err(OpenError::io("make the first snapshot"))?;
            snapshots.save(&snapshot).map_err(|error| OpenError::io(error.doing)(error.source))?;
        }
        let snapshot = snapshots.newest_readable()?;
        let begins = log.begins_after();
        if begins.is_some_and(|index| index > snapshot.meta.at.index) {
            let problem = format!(
                "the newest snapshot that reads ends at entry {}, but the log begins after {}",
                snapshot.meta.at.index,
                begins.unwrap_or_default()
            );
            return Err(Damaged { file: snapshot_dir, offset: 0, problem }.into());
        }
        let replaced = !log.log.follows(snapshot.meta.at);
        let recovered = log.log.after(snapshot);
        if replaced {
            // The server ended before the log said so. It has to, before it goes on: what is appended behind the
            // snapshot would not follow the entries that are still in the log.
            let (snapshot, hard_state) = (Some(recovered.snapshot.clone()), Some(recovered.hard_state));
            let batch = Batch { snapshot, hard_state, ..Batch::default() };
            wal.append(&batch).map_err(|error| OpenError::io(error.doing)(error.source))?;
        }
        let disk = Self { wal, snapshots, _lock: lock };
        Ok(Opened { disk, recovered, cluster_id: identity.cluster_id })
    }
}

impl Disk for FileDisk {
    fn append(&mut self, batch: &Batch) -> Result<(), DiskError> {
        if let Some(snapshot) = &batch.snapshot {
            // Before the log says that it follows this snapshot.
            self.snapshots.save(snapshot)?;
        }
        self.wal.append(batch)
    }

    fn log_bytes(&self) -> u64 {
        self.wal.bytes()
    }

    fn snapshots(&self) -> Arc<dyn Snapshots> {
        self.snapshots.clone()
    }

    fn release(&mut self) -> Result<(), DiskError> {
        // Behind the older one: should the newer one not read, the log still continues the older.
        match self.snapshots.oldest() {
            Some(index) => self.wal.release(index),
            None => Ok(()),
        }
    }
}

/// Makes a directory and those above it, each durably: a power cut must not lose the data with its directory.
fn create_dir(dir: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = dir.ancestors().take_while(|path| !path.exists()).collect();
    fs::create_dir_all(dir)?;
    for path in missing {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        sync_dir(parent.unwrap_or(Path::new(".")))?;
    }
    Ok(())
}

/// A data directory's lock, until it is dropped.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    /// Not by closing the file alone: a process that is being started at this moment has a copy of it until it executes
    /// its program, and the lock would live on with that.
    fn drop(&mut self) {
        if let Err(errno) = rustix::fs::flock(&self.0, rustix::fs::FlockOperation::Unlock) {
            tracing::warn!(%errno, "a data directory is still locked");
        }
    }
}

fn lock(dir: &Path) -> Result<Lock, OpenError> {
    let path = dir.join("LOCK");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(OpenError::io(format!("open {}", path.display())))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Lock(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::InUse { dir: dir.to_owned() }),
        Err(errno) => Err(OpenError::io(format!("lock {}", path.display()))(errno.into())),
    }
}

/// Reads whose directory it is, or takes it if there is nothing in it.
fn identity(dir: &Path, options: &Options, new: bool) -> Result<Identity, OpenError> {
    let path = dir.join("identity");
    let text = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if !new {
                return Err(gone(path, "the identity file is gone, but there is data").into());
            }
            let cluster_id = options.cluster_id.clone().unwrap_or_else(crate::request_id);
            let identity = Identity { format: FORMAT, cluster_id, node_id: options.node };
            let text = serde_json::to_vec(&identity)
                .map_err(|error| OpenError::io(format!("write {}", path.display()))(error.into()))?;
            write_whole(&path, &[&text, b"\n"], options.sync)
                .map_err(OpenError::io(format!("write {}", path.display())))?;
            return Ok(identity);
        }
        read => read.map_err(OpenError::io(format!("read {}", path.display())))?,
    };
    let found: Identity = serde_json::from_slice(&text).map_err(|error| Damaged {
        file: path,
        offset: error.column() as u64,
        problem: error.to_string(),
    })?;
    let dir = dir.to_owned();
    if found.format != FORMAT {
        return Err(OpenError::Format { dir, found: found.format, known: FORMAT });
    }
    if let Some(wanted) = options.cluster_id.clone().filter(|wanted| *wanted != found.cluster_id) {
        return Err(OpenError::WrongCluster { dir, found: found.cluster_id, wanted });
    }
    if found.node_id != options.node {
        let (cluster, wanted) = (found.cluster_id, options.node);
        return Err(OpenError::WrongNode { dir, found: found.node_id, cluster, wanted });
    }
    Ok(found)
}

fn gone(file: PathBuf, problem: &str) -> Damaged {
    Damaged { file, offset: 0, problem: problem.to_owned() }
}

fn is_empty(dir: &Path) -> Result<bool, OpenError> {
    let mut names = fs::read_dir(dir).map_err(OpenError::io(format!("read {}", dir.display())))?;
    // What an interrupted write left behind does not count.
    Ok(names.all(|entry| entry.is_ok_and(|entry| is_draft(&entry.path()))))
}

fn is_draft(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == DRAFT)
}

/// The extension of a file that is not whole yet.
const DRAFT: &str = "draft";

/// Writes a file so that it is there whole and durable, or not at all.
pub(crate) fn write_whole(path: &Path, parts: &[&[u8]], sync: SyncFn) -> io::Result<()> {
    let draft = path.with_extension(DRAFT);
    let mut file = File::create(&draft)?;
    for part in parts {
        file.write_all(part)?;
    }
    sync(&file)?;
    fs::rename(&draft, path)?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests;
