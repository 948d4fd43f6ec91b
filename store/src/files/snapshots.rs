//! Snapshot files: written aside, synced, renamed; the two newest are kept. Both are read when the directory is opened,
//! and one that is damaged is put aside: it is no spare.
//!
//! ```text
//! "WEIRSNP1" | length of meta(4, little-endian) | meta (store.proto, SnapshotMeta) | body | SHA-256 of all before
//! ```

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use api::store as wire;
use bytes::Bytes;
use prost::Message;
use sha2::{Digest, Sha256};

use super::{FileSystem, is_draft, write_whole};
use crate::{
    Damaged, OpenError,
    disk::{DiskError, Snapshot, Snapshots},
    machine::Position,
    peer::{snapshot_from_wire, snapshot_to_wire},
};

const MAGIC: &[u8; 8] = b"WEIRSNP1";
const KEPT: usize = 2;
const SUM: usize = 32;
/// The extension of one that was put aside.
const DAMAGED: &str = "damaged";

/// The snapshots of one server.
#[derive(Debug)]
pub struct SnapshotDir {
    dir: PathBuf,
    cluster_id: String,
    system: Arc<dyn FileSystem>,
}

impl SnapshotDir {
    pub(super) fn open(
        dir: PathBuf,
        cluster_id: String,
        system: Arc<dyn FileSystem>,
    ) -> Result<Self, OpenError> {
        let failed = |doing: &str| OpenError::io(format!("{doing} {}", dir.display()));
        for entry in fs::read_dir(&dir).map_err(failed("read"))? {
            let path = entry.map_err(failed("read"))?.path();
            if is_draft(&path) {
                system.remove(&path).map_err(failed("clean"))?;
            }
        }
        // A rename that a killed process made may not be durable yet.
        system.sync_dir(&dir).map_err(failed("sync"))?;
        let snapshots = Self { dir, cluster_id, system };
        for (path, _) in snapshots.files()? {
            let file = fs::File::open(&path).map_err(OpenError::io(format!("open {}", path.display())))?;
            snapshots.system.sync(&file).map_err(OpenError::io(format!("sync {}", path.display())))?;
        }
        Ok(snapshots)
    }

    /// Reads every snapshot; returns the newest. Those that do not read are put aside, unless none does.
    pub(super) fn check(&self) -> Result<Snapshot, OpenError> {
        let (mut newest, mut bad) = (None, Vec::new());
        for (path, at) in self.files()?.into_iter().rev() {
            match self.read(&path, at) {
                Ok(snapshot) => newest = newest.or(Some(snapshot)),
                Err(damaged) => bad.push((path, damaged)),
            }
        }
        let Some(newest) = newest else {
            let none = || Damaged { file: self.dir.clone(), offset: 0, problem: "no snapshot".into() };
            return Err(bad.into_iter().next().map_or_else(none, |(_, damaged)| damaged).into());
        };
        for (path, Damaged { problem, .. }) in bad {
            self.forget_damaged()?;
            let aside = path.with_extension(DAMAGED);
            self.system
                .rename(&path, &aside)
                .and_then(|()| self.system.sync_dir(&self.dir))
                .map_err(OpenError::io(format!("put aside {}", path.display())))?;
            tracing::warn!(
                problem, aside = %aside.display(),
                "a snapshot is damaged: going on with the other one and the log"
            );
        }
        Ok(newest)
    }

    /// Of those that were put aside, the last one stays for who wants to look.
    fn forget_damaged(&self) -> Result<(), OpenError> {
        let failed = || OpenError::io(format!("clean {}", self.dir.display()));
        for entry in fs::read_dir(&self.dir).map_err(failed())? {
            let path = entry.map_err(failed())?.path();
            if path.extension().is_some_and(|extension| extension == DAMAGED) {
                self.system.remove(&path).map_err(failed())?;
            }
        }
        Ok(())
    }

    fn newest_readable(&self) -> Result<Snapshot, OpenError> {
        let newest = self.files()?.into_iter().next_back();
        let none = || Damaged { file: self.dir.clone(), offset: 0, problem: "no snapshot".into() };
        let (path, at) = newest.ok_or_else(none)?;
        Ok(self.read(&path, at)?)
    }

    /// The last entry in the oldest snapshot that is kept.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.files().ok()?.first().map(|(_, at)| at.index)
    }

    /// Oldest first.
    fn files(&self) -> Result<Vec<(PathBuf, Position)>, OpenError> {
        let failed = || OpenError::io(format!("read {}", self.dir.display()));
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(failed())? {
            let path = entry.map_err(failed())?.path();
            if let Some(at) = position_of(&path) {
                files.push((path, at));
            }
        }
        files.sort_by_key(|(_, at)| (at.index, at.term));
        Ok(files)
    }

    fn path(&self, at: Position) -> PathBuf {
        self.dir.join(format!("{:016x}-{:016x}.snap", at.index, at.term))
    }

    fn read(&self, path: &Path, at: Position) -> Result<Snapshot, Damaged> {
        let damaged = |problem: String| Damaged { file: path.to_owned(), offset: 0, problem };
        let bytes = Bytes::from(self.system.read(path).map_err(|error| damaged(error.to_string()))?);
        let snapshot = parse(&bytes).map_err(|problem| damaged(problem.to_owned()))?;
        if snapshot.meta.at != at || snapshot.meta.cluster_id != self.cluster_id {
            return Err(damaged("it is of another place or cluster".into()));
        }
        Ok(snapshot)
    }

    fn write(&self, snapshot: &Snapshot) -> io::Result<()> {
        let (head, sum) = frame(snapshot)?;
        write_whole(&self.path(snapshot.meta.at), &[&head, &snapshot.body, &sum], &*self.system)?;
        let files = self.files().map_err(io::Error::other)?;
        for (path, _) in files.iter().rev().skip(KEPT) {
            match self.system.remove(path) {
                // A leader's snapshot and one of our own are saved by two threads: the other one has removed it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed?,
            }
        }
        Ok(())
    }
}

impl Snapshots for SnapshotDir {
    fn save(&self, snapshot: &Snapshot) -> Result<(), DiskError> {
        self.write(snapshot).map_err(|source| DiskError {
            doing: format!("write {}", self.path(snapshot.meta.at).display()),
            source,
        })
    }

    fn newest(&self) -> Result<Snapshot, DiskError> {
        self.newest_readable().map_err(|error| DiskError {
            doing: format!("read the newest snapshot in {}", self.dir.display()),
            source: io::Error::other(error),
        })
    }
}

fn position_of(path: &Path) -> Option<Position> {
    let (index, term) = path.file_name()?.to_str()?.strip_suffix(".snap")?.split_once('-')?;
    Some(Position { index: u64::from_str_radix(index, 16).ok()?, term: u64::from_str_radix(term, 16).ok()? })
}

/// What stands in a file before a snapshot's body, and after it.
fn frame(snapshot: &Snapshot) -> io::Result<(Vec<u8>, [u8; SUM])> {
    let meta = snapshot_to_wire(snapshot, &wire::Members::default()).meta.unwrap_or_default().encode_to_vec();
    let length = u32::try_from(meta.len()).map_err(io::Error::other)?.to_le_bytes();
    let head = [&MAGIC[..], &length, &meta].concat();
    let mut sum = Sha256::new();
    sum.update(&head);
    sum.update(&snapshot.body);
    Ok((head, sum.finalize().into()))
}

/// A snapshot as the bytes of one file.
pub(crate) fn file(snapshot: &Snapshot) -> io::Result<Bytes> {
    let (head, sum) = frame(snapshot)?;
    Ok([&head[..], &snapshot.body, &sum].concat().into())
}

/// A snapshot from the bytes of its file, or what is wrong with them.
pub(crate) fn parse(bytes: &Bytes) -> Result<Snapshot, &'static str> {
    let body = bytes.len().checked_sub(SUM).ok_or("it is cut")?;
    if Sha256::digest(&bytes[..body])[..] != bytes[body..] {
        return Err("its checksum does not fit");
    }
    let rest = bytes.slice(..body);
    let length = rest.get(8..12).and_then(|length| length.try_into().ok()).ok_or("it is cut")?;
    let end = usize::try_from(u32::from_le_bytes(length)).ok().and_then(|length| length.checked_add(12));
    let end = end.filter(|end| *end <= rest.len()).ok_or("it is cut")?;
    if !rest.starts_with(MAGIC) {
        return Err("it is no snapshot that this version reads");
    }
    let meta = wire::SnapshotMeta::decode(&rest[12..end]).map_err(|_| "its head does not read")?;
    snapshot_from_wire(wire::Snapshot { meta: Some(meta), body: rest.slice(end..) })
        .ok_or("its head is wrong")
}
