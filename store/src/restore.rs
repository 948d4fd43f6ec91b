//! The way back after a disaster: a backup begins a new cluster of one server, or what one server has left does.
//!
//! Either begins a new life of the store: an [`Epoch`] that is above every earlier one, so that whoever follows it
//! learns that revisions after the backup's are gone, and a cluster id of its own, so that servers of the old cluster
//! that come back are strangers to it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use model::{Epoch, Revision};

use crate::{
    NodeId, OpenError,
    disk::EntryKind,
    files::{FileDisk, FileSystem, Opened, Options, Os, snapshots},
    image,
    machine::{Delta, Machine},
    members::{Addresses, MemberChange},
    peer::{change_from_raft, change_of},
    txn::Command,
};

/// What the new cluster's only server is.
#[derive(Debug, Clone)]
pub struct Restore {
    /// Its data directory; of a restore it must be empty or not there.
    pub dir: PathBuf,
    /// Its id.
    pub node: NodeId,
    /// Where it is reached.
    pub addresses: Addresses,
    /// A segment of its write-ahead log, bytes.
    pub segment: u64,
    /// What keeps its files.
    pub files: Arc<dyn FileSystem>,
}

impl Restore {
    /// With the store's defaults.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, node: NodeId, addresses: Addresses) -> Self {
        let segment = crate::Config::new("").segment;
        Self { dir: dir.into(), node, addresses, segment, files: Arc::new(Os) }
    }
}

/// What a new life began with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The cluster that the state is of.
    pub cluster_id: String,
    /// The life that it was in.
    pub epoch: Epoch,
    /// The last revision in it.
    pub revision: Revision,
    /// How many keys are live.
    pub keys: u64,
}

/// What `force_new` found and what may be lost with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forced {
    /// What the new life begins with.
    pub origin: Origin,
    /// Entries that were in the log and not known to be committed: they are kept, as their writers may have been
    /// answered.
    pub uncommitted: u64,
    /// Where the old data directory is now.
    pub aside: PathBuf,
}

/// Why there is no new life.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// It is no backup, or was changed.
    #[error("not a backup that this version reads: {0}")]
    NoBackup(String),
    /// There is data.
    #[error("{} is not empty: restore into a new directory, or move it away first", dir.display())]
    NotEmpty {
        /// The data directory.
        dir: PathBuf,
    },
    /// What the server has left does not read.
    #[error("what is left in {} does not make a state: {problem}", dir.display())]
    Unreadable {
        /// The data directory.
        dir: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The directory.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// A state as the bytes of a backup's file.
pub(crate) fn backup(machine: &Machine, cluster_id: &str) -> io::Result<Bytes> {
    snapshots::file(&image::encode(machine, cluster_id)?)
}

/// What is in a backup, without restoring it.
///
/// # Errors
///
/// If it is none, or was changed.
pub fn inspect(backup: &Bytes) -> Result<Origin, RestoreError> {
    read(backup).map(|(origin, _)| origin)
}

/// Makes a data directory of a backup: the only server of a new cluster.
///
/// # Errors
///
/// If the backup does not read, or the directory has data.
pub fn restore(backup: &Bytes, how: &Restore) -> Result<Origin, RestoreError> {
    let (origin, machine) = read(backup)?;
    found(machine, how)?;
    Ok(origin)
}

/// Makes a new cluster of what one server has left, when the majority of its cluster is gone for ever. The server must
/// not run. What the others acknowledged and this one does not have is lost; its old directory is kept beside the new.
///
/// # Errors
///
/// If the server runs, or its data does not read.
pub fn force_new(how: &Restore) -> Result<Forced, RestoreError> {
    let unreadable = |problem: String| RestoreError::Unreadable { dir: how.dir.clone(), problem };
    let options = options(how, None, true);
    let opened = FileDisk::open(&how.dir, &options, |_| Err(io::Error::other("there is no state")))?;
    let Opened { disk, recovered, cluster_id } = opened;
    let mut machine = image::decode(&recovered.snapshot).map_err(|error| unreadable(error.to_string()))?;
    let known = recovered.hard_state.commit;
    let mut delta = Delta::default();
    for entry in &recovered.entries {
        if entry.kind == EntryKind::Normal && !entry.payload.is_empty() {
            let (ticket, command) =
                Command::decode(&entry.payload).map_err(|error| unreadable(error.to_string()))?;
            machine.apply(entry.at, ticket, command, &mut delta);
        } else {
            // Members are all replaced below. Ids that were given are not given again.
            let change = change_of(entry).map_err(|error| unreadable(error.to_string()))?;
            match change_from_raft(&change) {
                Some((_, MemberChange::AddLearner { id, .. })) => machine.spend_id(entry.at, id, &mut delta),
                _ => machine.skip(entry.at, &mut delta),
            }
        }
    }
    let uncommitted = machine.applied().index.saturating_sub(known);
    let origin = origin(&machine, cluster_id);
    drop(disk);
    // Beside the old one until it is whole: whoever is interrupted begins again.
    let draft = how.dir.with_added_extension("new");
    remove(&draft)?;
    found(machine, &Restore { dir: draft.clone(), ..how.clone() })?;
    let aside = swap(&draft, how)?;
    Ok(Forced { origin, uncommitted, aside })
}

fn read(backup: &Bytes) -> Result<(Origin, Machine), RestoreError> {
    let snapshot = snapshots::parse(backup).map_err(|problem| RestoreError::NoBackup(problem.to_owned()))?;
    let machine = image::decode(&snapshot).map_err(|error| RestoreError::NoBackup(error.to_string()))?;
    Ok((origin(&machine, snapshot.meta.cluster_id), machine))
}

fn origin(machine: &Machine, cluster_id: String) -> Origin {
    let (epoch, revision, keys) = (machine.epoch(), machine.revision(), machine.live_keys());
    Origin { cluster_id, epoch, revision, keys }
}

fn found(machine: Machine, how: &Restore) -> Result<(), RestoreError> {
    if fs::read_dir(&how.dir).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(RestoreError::NotEmpty { dir: how.dir.clone() });
    }
    let epoch = next_epoch(machine.epoch());
    let machine = machine.reborn(epoch, how.node, &how.addresses);
    let cluster_id = crate::request_id();
    let options = options(how, Some(cluster_id), false);
    FileDisk::open(&how.dir, &options, |cluster_id| image::encode(&machine, cluster_id))?;
    Ok(())
}

/// Above every earlier one, also when one backup is restored twice: its counter is the time, which is not read when
/// commands are applied but here, by hand of an operator.
fn next_epoch(epoch: Epoch) -> Epoch {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Epoch { counter: now.max(epoch.counter + 1), id: rand::random() }
}

fn options(how: &Restore, cluster_id: Option<String>, existing: bool) -> Options {
    Options { node: how.node, cluster_id, existing, segment: how.segment, files: how.files.clone() }
}

/// Puts a new directory in the place of the old one; returns where that is now.
fn swap(draft: &Path, how: &Restore) -> Result<PathBuf, OpenError> {
    let numbered = (1_u32..).map(|number| how.dir.with_added_extension(format!("before-{number}")));
    let aside = numbered.into_iter().find(|path| !path.exists());
    let aside = aside.ok_or_else(|| OpenError::Config("no name is left for the old data".into()))?;
    let failed = OpenError::io(format!("put {} in the place of {}", draft.display(), how.dir.display()));
    let parent = how.dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    let moved = how.files.rename(&how.dir, &aside);
    let moved = moved.and_then(|()| how.files.rename(draft, &how.dir));
    moved.and_then(|()| how.files.sync_dir(parent.unwrap_or(Path::new(".")))).map_err(failed)?;
    Ok(aside)
}

fn remove(draft: &Path) -> Result<(), OpenError> {
    match fs::remove_dir_all(draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(OpenError::io(format!("remove {}", draft.display()))(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
