//! What a power cut leaves of a directory: all that was synced, and of the rest any part. Sectors are written whole;
//! a name is in its directory or not.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use rand::{RngExt as _, rngs::StdRng};

use super::journal::{Done, FileId};

const SECTOR: usize = 512;

/// What the disk and the kernel's memory hold.
#[derive(Debug, Default)]
pub(super) struct Disk {
    files: BTreeMap<FileId, Content>,
    /// On the disk.
    names: BTreeMap<PathBuf, FileId>,
    dirs: BTreeSet<PathBuf>,
    /// As the kernel has it.
    seen: BTreeMap<PathBuf, FileId>,
    /// Changes of names that the disk need not have, in their order.
    pending: Vec<Change>,
    /// sled's files as they were synced last.
    foreign: BTreeMap<PathBuf, Vec<u8>>,
}

#[derive(Debug, Default)]
struct Content {
    synced: Vec<u8>,
    written: Vec<u8>,
    dirty: BTreeSet<usize>,
}

#[derive(Debug, Clone)]
enum Change {
    Name { path: PathBuf, file: FileId },
    Renamed { from: PathBuf, to: PathBuf, file: FileId },
    Gone { path: PathBuf },
    Dir { path: PathBuf },
}

impl Change {
    /// The directory that it is in; the store renames within one only.
    fn place(&self) -> Option<&Path> {
        match self {
            Self::Name { path, .. } | Self::Gone { path } | Self::Dir { path } => path.parent(),
            Self::Renamed { to, .. } => to.parent(),
        }
    }
}

impl Disk {
    /// With what a directory held when the journal began.
    pub(super) fn add(&mut self, path: &Path, file: FileId, bytes: Vec<u8>) {
        self.files.insert(file, Content { written: bytes.clone(), synced: bytes, dirty: BTreeSet::new() });
        self.names.insert(path.into(), file);
        self.seen.insert(path.into(), file);
    }

    pub(super) fn add_dir(&mut self, path: &Path) {
        self.dirs.insert(path.into());
    }

    /// Follows the journal.
    pub(super) fn apply(&mut self, done: &Done) {
        match done {
            Done::Create { path, file } => {
                self.files.insert(*file, Content::default());
                self.seen.insert(path.clone(), *file);
                self.pending.push(Change::Name { path: path.clone(), file: *file });
            }
            Done::Write { file, offset, bytes } => {
                let content = self.files.entry(*file).or_default();
                let offset = usize::try_from(*offset).unwrap();
                let end = offset + bytes.len();
                if bytes.is_empty() {
                    return;
                }
                if content.written.len() < end {
                    content.written.resize(end, 0);
                }
                content.written[offset..end].copy_from_slice(bytes);
                content.dirty.extend(offset / SECTOR..=(end - 1) / SECTOR);
            }
            Done::Sync { file } => {
                let content = self.files.entry(*file).or_default();
                content.synced.clone_from(&content.written);
                content.dirty.clear();
            }
            Done::Rename { from, to } => {
                let file = self.seen.remove(from).expect("a name that is there");
                self.seen.insert(to.clone(), file);
                self.pending.push(Change::Renamed { from: from.clone(), to: to.clone(), file });
            }
            Done::Remove { path } => {
                self.seen.remove(path);
                self.pending.push(Change::Gone { path: path.clone() });
            }
            Done::CreateDir { path } => {
                if !self.dirs.contains(path) {
                    self.pending.push(Change::Dir { path: path.clone() });
                }
            }
            Done::SyncDir { path } => {
                let (here, elsewhere) =
                    self.pending.drain(..).partition(|change| change.place() == Some(path.as_path()));
                self.pending = elsewhere;
                Vec::into_iter(here).for_each(|change| change.happen(&mut self.names, &mut self.dirs));
            }
            Done::SyncForeign { path, bytes } => {
                self.foreign.insert(path.clone(), bytes.clone());
            }
            Done::Read | Done::Acknowledged { .. } => {}
        }
    }

    /// Writes what a cut leaves of `root` into the empty directory `to`.
    pub(super) fn cut(&self, root: &Path, to: &Path, random: &mut StdRng) {
        let (mut names, mut dirs) = (self.names.clone(), self.dirs.clone());
        let kept = match random.random_range(0..4) {
            0 => vec![],
            1 => self.pending.clone(),
            // A journal keeps their order.
            2 => self.pending[..random.random_range(0..=self.pending.len())].to_vec(),
            _ => self.pending.iter().filter(|_| random.random()).cloned().collect(),
        };
        kept.into_iter().for_each(|change| change.happen(&mut names, &mut dirs));
        let there = |path: &Path| {
            path.ancestors().skip(1).take_while(|above| *above != root).all(|above| dirs.contains(above))
        };
        let moved = |path: &Path| to.join(path.strip_prefix(root).unwrap());
        for dir in dirs.iter().filter(|dir| dir.starts_with(root) && *dir != root && there(dir)) {
            fs::create_dir_all(moved(dir)).unwrap();
        }
        for (path, file) in names.iter().filter(|(path, _)| there(path)) {
            fs::write(moved(path), self.files[file].cut(random)).unwrap();
        }
        // sled writes when it likes: what it had synced, with damage, or not at all.
        let damage = random.random_range(0..4);
        for (path, bytes) in self.foreign.iter().filter(|_| damage != 0) {
            let mut bytes = bytes.clone();
            if damage == 1 {
                bytes
                    .chunks_mut(SECTOR)
                    .filter(|_| random.random_ratio(1, 20))
                    .for_each(|sector| sector.fill(0));
            }
            fs::create_dir_all(moved(path.parent().unwrap())).unwrap();
            fs::write(moved(path), bytes).unwrap();
        }
    }
}

impl Change {
    fn happen(self, names: &mut BTreeMap<PathBuf, FileId>, dirs: &mut BTreeSet<PathBuf>) {
        match self {
            Self::Name { path, file } => drop(names.insert(path, file)),
            Self::Renamed { from, to, file } => {
                names.remove(&from);
                names.insert(to, file);
            }
            Self::Gone { path } => drop(names.remove(&path)),
            Self::Dir { path } => drop(dirs.insert(path)),
        }
    }
}

impl Content {
    fn cut(&self, random: &mut StdRng) -> Vec<u8> {
        let length = if random.random() { self.synced.len() } else { self.written.len() };
        let mut bytes = self.synced.clone();
        bytes.resize(length, 0);
        // All, none, or any of what was not synced.
        let odds = [0.0, 0.5, 1.0][random.random_range(0..3)];
        for sector in self.dirty.iter().filter(|_| random.random_bool(odds)) {
            let begin = sector * SECTOR;
            let end = length.min(begin + SECTOR).min(self.written.len());
            if begin < end {
                bytes[begin..end].copy_from_slice(&self.written[begin..end]);
            }
        }
        bytes
    }
}
