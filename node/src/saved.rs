//! What the agent keeps for the next one: the plans, the workers, the slot numbers. Written whole and atomically, so
//! that a reader sees one state or another.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::mpsc,
    thread::{self, JoinHandle},
};

use api::agent::Listen;
use model::{PoolName, WorkerId};
use serde::{Deserialize, Serialize};
use tracing::error;

use crate::plan::Plan;

/// Far above what the largest node writes; a file beyond it is not ours.
const MAX_FILE: u64 = 16 * 1024 * 1024;

/// All pools of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Saved {
    /// Where the servers said that they are.
    #[serde(default)]
    pub(crate) servers: Vec<String>,
    pub(crate) pools: Vec<SavedPool>,
}

/// One pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedPool {
    pub(crate) pool: PoolName,
    pub(crate) plan: Option<Plan>,
    pub(crate) workers: Vec<SavedWorker>,
    pub(crate) next_slots: Vec<SavedNext>,
}

/// One worker's process, named for ever by id and birth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedWorker {
    pub(crate) worker: WorkerId,
    pub(crate) pid: u32,
    pub(crate) birth: u64,
}

/// The first slot number of an address that was never used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedNext {
    pub(crate) listen: Listen,
    pub(crate) next: u32,
}

impl Saved {
    /// What an earlier agent saved; nothing if there is no such file or it cannot be read.
    pub(crate) fn load(path: &Path) -> Self {
        match read(path) {
            Ok(saved) => saved,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::default(),
            Err(error) => {
                // Without it the agent still works: the servers send the plan, and workers say who they are.
                error!(path = %path.display(), %error, "the record of an earlier agent cannot be read");
                Self::default()
            }
        }
    }

    /// Replaces what is saved.
    fn store(&self, path: &Path) -> io::Result<()> {
        let bytes = serde_json::to_vec_pretty(self)?;
        write_atomically(path, &bytes)
    }
}

/// Saves on a thread of its own what has changed: a disk takes its time, and connections that workers hand over wait for the agent.
/// Dropping it waits until the last is written.
#[derive(Debug)]
pub(crate) struct Writer {
    queue: Option<mpsc::Sender<Saved>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(crate) fn new(path: PathBuf) -> Self {
        let (queue, changes) = mpsc::channel::<Saved>();
        let write = move || {
            while let Ok(next) = changes.recv() {
                // Whatever came meanwhile says all that this one says.
                let saved = changes.try_iter().last().unwrap_or(next);
                if let Err(error) = saved.store(&path) {
                    error!(path = %path.display(), %error, "the record for the next agent cannot be written");
                }
            }
        };
        Self { queue: Some(queue), thread: Some(thread::spawn(write)) }
    }

    /// Replaces what is saved, soon.
    pub(crate) fn write(&self, saved: Saved) {
        // The thread ends when the queue does.
        let _queued = self.queue.as_ref().map(|queue| queue.send(saved));
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.queue.take());
        // It has reported what went wrong.
        let _ended = self.thread.take().map(JoinHandle::join);
    }
}

fn read(path: &Path) -> io::Result<Saved> {
    if fs::metadata(path)?.len() > MAX_FILE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is too large"));
    }
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// Makes a directory and its parents that only we can read.
pub(crate) fn make_private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// The key in the file, 32 bytes in hex; made at first.
pub(crate) fn load_or_make_key(path: &Path) -> io::Result<String> {
    let is_key = |text: &str| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    match fs::read_to_string(path) {
        Ok(text) if is_key(text.trim()) => return Ok(text.trim().to_owned()),
        // What it encrypted can be fetched again: a broken key is replaced.
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let key: String = rand::random::<[u8; 32]>().iter().map(|byte| format!("{byte:02x}")).collect();
    write_atomically(path, key.as_bytes())?;
    Ok(key)
}

fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_saved_is_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.json");
        assert_eq!(Saved::load(&path), Saved::default());
        let worker = SavedWorker { worker: "w-1".parse().unwrap(), pid: 7, birth: 8 };
        let pool = SavedPool {
            pool: "default".parse().unwrap(),
            plan: None,
            workers: vec![worker],
            next_slots: Vec::new(),
        };
        let saved = Saved { servers: vec!["a:1".into()], pools: vec![pool] };
        saved.store(&path).unwrap();
        assert_eq!(Saved::load(&path), saved);
        fs::write(&path, "{").unwrap();
        assert_eq!(Saved::load(&path), Saved::default());
    }

    #[test]
    fn the_last_change_is_saved_when_the_writer_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.json");
        let saved = |number: usize| Saved { servers: vec![number.to_string()], pools: Vec::new() };
        let writer = Writer::new(path.clone());
        (0..=1000).for_each(|number| writer.write(saved(number)));
        drop(writer);
        assert_eq!(Saved::load(&path), saved(1000));
    }

    #[test]
    fn a_key_is_made_once_and_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cache.key");
        let key = load_or_make_key(&path).unwrap();
        assert_eq!(key.len(), 64);
        assert_eq!(load_or_make_key(&path).unwrap(), key);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
