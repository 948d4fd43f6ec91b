//! Changes of the state, gathered until they are worth a write, and the thread that writes them to sled.
//!
//! sled takes longer than the write-ahead log, and what is in it counts only after a clean shutdown. Gathering spares
//! most of the work: a request's item, say, is removed 10,000 requests later, and need never be written.

use std::{
    collections::{HashMap, hash_map},
    io,
    sync::mpsc::{self, SyncSender, TrySendError},
    thread::JoinHandle,
};

use api::process::contained;

use super::{chunk_key, chunks, insert};
use crate::{
    background,
    machine::{
        Change, Delta, Machine,
        items::{self, Item},
    },
};

/// Bytes of changes that are worth a write: what is left of them at a shutdown is written in well under a second.
const WORTH: usize = 16 << 20;
/// Bytes of changes beyond which the store waits for sled.
const MOST: usize = 3 * WORTH;
/// What a change takes beside its bytes, about.
const OVERHEAD: usize = 64;
/// Items that a rebuild writes in one batch.
const REBUILD: usize = 256;

type Changes = HashMap<Vec<u8>, Change>;

/// What the thread is to do.
enum Job {
    /// Write these, atomically.
    Write(Changes),
    /// Replace everything by this state.
    Rebuild(Box<Machine>),
}

#[derive(Debug)]
pub(super) struct Writer {
    gathered: Gathered,
    /// `None`: it was told to end.
    jobs: Option<SyncSender<Job>>,
    /// Returns sled as long as it did not fail.
    thread: Option<JoinHandle<Option<sled::Db>>>,
}

impl Writer {
    /// Without sled, it forgets what it is told.
    pub(super) fn start(db: Option<sled::Db>) -> io::Result<Self> {
        // One waits while one is written.
        let (jobs, todo) = mpsc::sync_channel(1);
        let body = move || {
            let mut db = db;
            for job in todo {
                db = db.and_then(|db| attempt(&db, |db| work(db, job)).then_some(db));
            }
            db
        };
        let thread = background::spawn("store-state", body)?;
        Ok(Self { gathered: Gathered::default(), jobs: Some(jobs), thread: Some(thread) })
    }

    pub(super) fn write(&mut self, delta: Delta) {
        delta.changes.into_iter().for_each(|(key, change)| self.gathered.add(key, change));
        if self.gathered.bytes < WORTH {
            return;
        }
        let Some(jobs) = &self.jobs else { return };
        let Gathered { changes, bytes } = std::mem::take(&mut self.gathered);
        match jobs.try_send(Job::Write(changes)) {
            Err(TrySendError::Full(Job::Write(changes))) if bytes < MOST => {
                self.gathered = Gathered { changes, bytes };
            }
            Err(TrySendError::Full(job)) => self.tell(job),
            // Its end was told where it was met.
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
        }
    }

    pub(super) fn rebuild(&mut self, machine: Machine) {
        self.gathered = Gathered::default();
        self.tell(Job::Rebuild(Box::new(machine)));
    }

    /// Has sled write everything, and ends it; whether it did.
    pub(super) fn finish(&mut self) -> bool {
        let rest = std::mem::take(&mut self.gathered);
        self.tell(Job::Write(rest.changes));
        let db = self.end();
        db.is_some_and(|db| attempt(&db, |db| db.flush().map(drop)))
    }

    fn tell(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // An error: as above.
            jobs.send(job).ok();
        }
    }

    fn end(&mut self) -> Option<sled::Db> {
        self.jobs = None;
        self.thread.take()?.join().ok().flatten()
    }
}

impl Drop for Writer {
    /// Who opens the directory next finds nobody in it.
    fn drop(&mut self) {
        drop(self.end());
    }
}

/// The last change of each item.
#[derive(Debug, Default)]
struct Gathered {
    changes: Changes,
    bytes: usize,
}

impl Gathered {
    fn add(&mut self, key: Vec<u8>, change: Change) {
        let added = key.len() + size(&change);
        match self.changes.entry(key) {
            // Written nowhere yet: there is nothing to remove.
            hash_map::Entry::Occupied(entry)
                if matches!(change, Change::Remove(_)) && items::is_put_once(entry.key()) =>
            {
                let (key, old) = entry.remove_entry();
                self.bytes -= key.len() + size(&old);
            }
            hash_map::Entry::Occupied(mut entry) => {
                self.bytes += added;
                self.bytes -= entry.key().len() + size(&entry.insert(change));
            }
            hash_map::Entry::Vacant(entry) => {
                self.bytes += added;
                entry.insert(change);
            }
        }
    }
}

fn size(change: &Change) -> usize {
    match change {
        Change::Put(value) => value.len() + OVERHEAD,
        Change::Remove(_) => OVERHEAD,
    }
}

/// Does something with sled; whether it did.
fn attempt(db: &sled::Db, act: impl FnOnce(&sled::Db) -> sled::Result<()>) -> bool {
    let error = match contained(|| act(db)) {
        Ok(Ok(())) => return true,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "panic".into(),
    };
    tracing::warn!(error, "the materialised state failed: it is made anew at the next start");
    false
}

fn work(db: &sled::Db, job: Job) -> sled::Result<()> {
    match job {
        Job::Write(changes) => {
            let mut batch = sled::Batch::default();
            for (key, change) in changes {
                match change {
                    Change::Put(value) => insert(&mut batch, &key, &value),
                    Change::Remove(length) => {
                        (0..chunks(length)).for_each(|chunk| batch.remove(chunk_key(&key, chunk)));
                    }
                }
            }
            db.apply_batch(batch)
        }
        Job::Rebuild(machine) => {
            db.clear()?;
            let mut items = machine.items().peekable();
            while items.peek().is_some() {
                let mut batch = sled::Batch::default();
                items.by_ref().take(REBUILD).for_each(|Item { key, value }| insert(&mut batch, &key, &value));
                db.apply_batch(batch)?;
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(bytes: usize) -> Change {
        Change::Put(vec![7; bytes])
    }

    #[test]
    fn what_is_removed_before_it_was_written_leaves_nothing() {
        let mut gathered = Gathered::default();
        gathered.add(b"q1".into(), put(100));
        gathered.add(b"m".into(), put(10));
        gathered.add(b"m".into(), put(20));
        gathered.add(b"q1".into(), Change::Remove(100));
        gathered.add(b"q0".into(), Change::Remove(30));
        let expect = Changes::from([(b"m".into(), put(20)), (b"q0".into(), Change::Remove(30))]);
        assert_eq!(gathered.changes, expect);
        assert_eq!(gathered.bytes, 1 + 20 + OVERHEAD + 2 + OVERHEAD);
    }
}
