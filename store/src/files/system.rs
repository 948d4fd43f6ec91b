//! What the store does to its files. All of it goes through here, so that tests can count it, fail it, and lose what
//! was not synced.

use std::{
    fmt,
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::Path,
};

/// A file system. What the methods do by themselves is the operating system's; tests replace some.
///
/// The rules that a power cut knows: what is written to a file is kept by [`sync`](Self::sync) of that file, a name that
/// is made, changed or removed by [`sync_dir`](Self::sync_dir) of its directory.
pub trait FileSystem: fmt::Debug + Send + Sync {
    /// All of a file.
    ///
    /// # Errors
    ///
    /// The system's, as everywhere here.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    /// An empty file, also if there was one.
    ///
    /// # Errors
    ///
    /// The system's.
    fn create(&self, path: &Path) -> io::Result<File> {
        File::create(path)
    }

    /// Writes all of it at this place.
    ///
    /// # Errors
    ///
    /// The system's.
    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    /// `fdatasync`: the data and what is needed to read it back. There is no second try.
    ///
    /// # Errors
    ///
    /// The system's.
    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    /// Gives a file its name, in place of the one that has it.
    ///
    /// # Errors
    ///
    /// The system's.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    /// Removes a file.
    ///
    /// # Errors
    ///
    /// The system's.
    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    /// Makes a directory, if it is not there; the one above it is.
    ///
    /// # Errors
    ///
    /// The system's.
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        match fs::create_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            made => made,
        }
    }

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    ///
    /// The system's.
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

/// The operating system's.
#[derive(Debug, Clone, Copy, Default)]
pub struct Os;

impl FileSystem for Os {}
