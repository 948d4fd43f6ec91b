//! A lock file that one process holds for life, so that a second one on the same data refuses to start.

use std::{
    fs::{File, OpenOptions},
    io,
    io::{Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rustix::fs::FlockOperation;

/// Held until dropped, or until the process ends in whatever way. The file stays: removing it would let two
/// processes lock two files of one name.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("{} is locked by {}", path.display(), holder(*.pid))]
    Held {
        /// The lock file.
        path: PathBuf,
        /// The holder, if it has written itself in.
        pid: Option<u32>,
    },
    /// The file cannot be used.
    #[error("lock {}", path.display())]
    File {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

impl Lock {
    /// Takes the lock at `path` (mode 0600, made if missing) and writes our process id into it. Does not wait.
    ///
    /// # Errors
    ///
    /// See [`LockError`].
    pub fn take(path: &Path) -> Result<Self, LockError> {
        let fail = |source| LockError::File { path: path.to_owned(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(fail)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(LockError::Held { path: path.to_owned(), pid: read_pid(&mut file) });
            }
            Err(error) => return Err(fail(error.into())),
        }
        write_pid(&mut file).map_err(fail)?;
        Ok(Self { file })
    }
}

/// Closing alone would not do: a child forked by another thread holds a copy of the descriptor until it executes, and
/// the lock lives as long as the last copy (`flock(2)`).
impl Drop for Lock {
    fn drop(&mut self) {
        let unlocked = rustix::fs::flock(&self.file, FlockOperation::Unlock);
        debug_assert!(unlocked.is_ok(), "a descriptor of ours: {unlocked:?}");
    }
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_refused_and_told_who_has_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let lock = Lock::take(&path).unwrap();
        let error = Lock::take(&path).unwrap_err();
        assert!(matches!(error, LockError::Held { pid: Some(pid), .. } if pid == std::process::id()));
        assert_eq!(
            error.to_string(),
            format!("{} is locked by process {}", path.display(), std::process::id())
        );
        drop(lock);
        Lock::take(&path).unwrap();
    }

    #[test]
    fn a_missing_directory_is_named() {
        let error = Lock::take(Path::new("/nonexistent/lock")).unwrap_err();
        assert_eq!(error.to_string(), "lock /nonexistent/lock");
    }
}
