//! A file system that writes down what is done to it, and that fails where it is told.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use store::files::{FileSystem, Os};

/// One file, whatever its name.
pub(super) type FileId = usize;

/// What was done, in the order in which it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Done {
    Create {
        path: PathBuf,
        file: FileId,
    },
    Write {
        file: FileId,
        offset: u64,
        bytes: Vec<u8>,
    },
    Sync {
        file: FileId,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Remove {
        path: PathBuf,
    },
    CreateDir {
        path: PathBuf,
    },
    SyncDir {
        path: PathBuf,
    },
    /// A file that sled wrote, as it is on the disk from now on.
    SyncForeign {
        path: PathBuf,
        bytes: Vec<u8>,
    },
    Read,
    /// Somebody was told that this key is written, at this revision.
    Acknowledged {
        key: String,
        revision: u64,
    },
}

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// `EIO`.
    Broken,
    /// `ENOSPC`; of a write, half was done.
    Full,
}

impl Fault {
    fn error(self) -> io::Error {
        io::Error::from_raw_os_error(match self {
            Self::Broken => 5,
            Self::Full => 28,
        })
    }
}

/// What is said to be durable, and is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lie {
    Files,
    Names,
}

/// Records all that is done below `root`, which begins with the files that are there.
#[derive(Debug)]
pub(super) struct Journal {
    root: PathBuf,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    done: Vec<Done>,
    /// By the kernel's number, which it gives to another file when this one is gone.
    files: BTreeMap<u64, FileId>,
    next: FileId,
    /// This call fails, and each after it: a disk that is broken stays so.
    fails: Option<(usize, Fault)>,
    lie: Option<Lie>,
}

impl Journal {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), kept: Mutex::default() }
    }

    /// The call with this number, and each after it, fails.
    pub(super) fn failing(root: &Path, call: usize, fault: Fault) -> Self {
        let journal = Self::new(root);
        journal.kept().fails = Some((call, fault));
        journal
    }

    /// It says that it syncs.
    pub(super) fn lying(root: &Path, lie: Lie) -> Self {
        let journal = Self::new(root);
        journal.kept().lie = Some(lie);
        journal
    }

    /// A file that was there before: as durable as can be.
    pub(super) fn known(&self, path: &Path) -> FileId {
        let number = fs::metadata(path).unwrap().ino();
        let mut kept = self.kept();
        let file = kept.next;
        kept.next += 1;
        kept.files.insert(number, file);
        file
    }

    pub(super) fn done(&self) -> Vec<Done> {
        self.kept().done.clone()
    }

    pub(super) fn acknowledge(&self, key: &str, revision: u64) {
        self.kept().done.push(Done::Acknowledged { key: key.into(), revision });
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_ours(&self, path: &Path) -> bool {
        path.starts_with(&self.root)
    }
}

impl Kept {
    /// Whether this call may be made.
    fn begin(&self) -> Result<(), Fault> {
        match self.fails {
            Some((call, fault)) if self.done.len() >= call => Err(fault),
            _ => Ok(()),
        }
    }

    fn file(&self, file: &File) -> Option<FileId> {
        self.files.get(&file.metadata().ok()?.ino()).copied()
    }
}

/// Calls are made one after another: their order is what the journal says.
impl FileSystem for Journal {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut kept = self.kept();
        kept.begin().map_err(Fault::error)?;
        kept.done.push(Done::Read);
        Os.read(path)
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        let mut kept = self.kept();
        kept.begin().map_err(Fault::error)?;
        let file = Os.create(path)?;
        let id = kept.next;
        kept.next += 1;
        kept.files.insert(file.metadata()?.ino(), id);
        kept.done.push(Done::Create { path: path.into(), file: id });
        Ok(file)
    }

    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut kept = self.kept();
        let id = kept.file(file).expect("a file that was created here, or known");
        let failed = kept.begin();
        let part = match failed {
            Ok(()) => bytes,
            Err(Fault::Full) => &bytes[..bytes.len() / 2],
            Err(Fault::Broken) => &[],
        };
        Os.write(file, part, offset)?;
        kept.done.push(Done::Write { file: id, offset, bytes: part.to_vec() });
        failed.map_err(Fault::error)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        let mut kept = self.kept();
        kept.begin().map_err(Fault::error)?;
        if kept.lie == Some(Lie::Files) {
            return Ok(());
        }
        let done = match kept.file(file) {
            Some(file) => Done::Sync { file },
            None => {
                let path = fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file)))?;
                let bytes = fs::read(&path)?;
                Done::SyncForeign { path, bytes }
            }
        };
        kept.done.push(done);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut kept = self.kept();
        kept.begin().map_err(Fault::error)?;
        Os.rename(from, to)?;
        kept.done.push(Done::Rename { from: from.into(), to: to.into() });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut kept = self.kept();
        kept.begin().map_err(Fault::error)?;
        Os.remove(path)?;
        kept.done.push(Done::Remove { path: path.into() });
        Ok(())
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut kept = self.kept();
        kept.begin().map_err(Fault::error)?;
        Os.create_dir(path)?;
        kept.done.push(Done::CreateDir { path: path.into() });
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut kept = self.kept();
        kept.begin().map_err(Fault::error)?;
        if self.is_ours(dir) && kept.lie != Some(Lie::Names) {
            kept.done.push(Done::SyncDir { path: dir.into() });
        }
        Ok(())
    }
}
