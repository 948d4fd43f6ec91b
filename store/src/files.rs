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
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    Damaged, NodeId, OpenError,
    disk::{Batch, Disk, DiskError, Recovered, Snapshot, Snapshots},
};

pub mod snapshots;
mod system;
pub mod wal;

pub use system::{FileSystem, Os};

use snapshots::SnapshotDir;
use wal::Wal;

/// What the directory's layout and every format in it is called.
const FORMAT: u32 = 2;

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
    /// There must be data.
    pub existing: bool,
    /// A segment's size, bytes.
    pub segment: u64,
    /// What keeps the files.
    pub files: Arc<dyn FileSystem>,
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
        let files = &options.files;
        create_dir(dir, &**files).map_err(at("create", dir))?;
        let lock = lock(dir)?;
        let (wal_dir, snapshot_dir) = (dir.join("wal"), dir.join("snapshots"));
        for part in [&wal_dir, &snapshot_dir] {
            files.create_dir(part).map_err(at("create", part))?;
        }
        let identity = identity(dir, options, is_empty(&wal_dir)? && is_empty(&snapshot_dir)?)?;
        files.sync_dir(dir).map_err(at("sync", dir))?;

        let snapshots =
            Arc::new(SnapshotDir::open(snapshot_dir.clone(), identity.cluster_id.clone(), files.clone())?);
        let no_snapshots = is_empty(&snapshot_dir)?;
        if is_empty(&wal_dir)? && !no_snapshots {
            return Err(gone(wal_dir, "the write-ahead log is gone").into());
        }
        let owner = wal::Owner { cluster_id: identity.cluster_id.clone(), node: options.node };
        let (mut wal, log) = Wal::open(wal_dir, owner, options.segment, files.clone())?;
        if no_snapshots {
            // Either a new directory, or one whose making was interrupted here.
            if !log.is_fresh() {
                return Err(gone(snapshot_dir, "the snapshots are gone").into());
            }
            let snapshot = genesis(&identity.cluster_id).map_err(OpenError::io("make the first snapshot"))?;
            snapshots.save(&snapshot).map_err(|error| OpenError::io(error.doing)(error.source))?;
        }
        let snapshot = snapshots.check()?;
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

/// Makes a directory and those above it, each durably: a power cut must not lose the data with its directory. Until the
/// directory has an owner, all names above it are synced again: who made them may have been killed before it did so.
fn create_dir(dir: &Path, files: &dyn FileSystem) -> io::Result<()> {
    if dir.join(IDENTITY).exists() {
        return Ok(());
    }
    let above: Vec<&Path> = dir.ancestors().filter(|path| !path.as_os_str().is_empty()).collect();
    for path in above.iter().rev() {
        if !path.is_dir() {
            files.create_dir(path)?;
        }
        match files.sync_dir(path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))) {
            // A directory that cannot be read was not made by us, and was there before.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            synced => synced?,
        }
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
    let path = dir.join(IDENTITY);
    let text = match options.files.read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if !new {
                return Err(gone(path, "the identity file is gone, but there is data").into());
            }
            if options.existing {
                return Err(OpenError::Gone { dir: dir.to_owned(), node: options.node });
            }
            let cluster_id = options.cluster_id.clone().unwrap_or_else(crate::request_id);
            let identity = Identity { format: FORMAT, cluster_id, node_id: options.node };
            let text = serde_json::to_vec(&identity)
                .map_err(|error| OpenError::io(format!("write {}", path.display()))(error.into()))?;
            write_whole(&path, &[&text, b"\n"], &*options.files)
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

const IDENTITY: &str = "identity";

/// Writes a file so that it is there whole and durable, or not at all.
pub(crate) fn write_whole(path: &Path, parts: &[&[u8]], files: &dyn FileSystem) -> io::Result<()> {
    let draft = path.with_extension(DRAFT);
    let file = files.create(&draft)?;
    let mut offset = 0;
    for part in parts {
        files.write(&file, part, offset)?;
        offset += part.len() as u64;
    }
    files.sync(&file)?;
    files.rename(&draft, path)?;
    files.sync_dir(path.parent().unwrap_or(Path::new(".")))
}

#[cfg(test)]
mod tests;
