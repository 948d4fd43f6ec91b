//! Keeps what a worker holds in the last-known-good files, behind its back.
//!
//! The workers of a pool on one machine hold the same and share the files: one of them writes, whichever has the lock. When
//! it ends, the next one does.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{Instant, sleep},
};
use tracing::warn;

use super::{
    assemble::{Assembler, Keepsake},
    cache::{Cache, CacheError},
};

/// The files are written at most this often: an fsync for each of 50 changes a second helps nobody.
const INTERVAL: Duration = Duration::from_secs(1);

/// Where writing takes long it may take this part of the time.
const SHARE: u32 = 20;

/// Told of every change.
#[derive(Debug)]
pub(super) struct Keeper(watch::Sender<Option<Arc<Mutex<Keepsake>>>>);

impl Keeper {
    pub(super) fn changed(&self, assembler: &Assembler) {
        self.0.send_replace(Some(assembler.kept()));
    }
}

/// Writes the newest that it is told of, until the keeper is dropped.
pub(super) fn start(cache: Option<Cache>) -> Keeper {
    let (sender, mut newest) = watch::channel(None);
    let Some(mut cache) = cache else { return Keeper(sender) };
    tokio::spawn(async move {
        while newest.changed().await.is_ok() {
            let Some(kept) = newest.borrow_and_update().clone() else { continue };
            let began = Instant::now();
            let written = spawn_blocking(move || {
                let result = write(&mut cache, &kept);
                (cache, result)
            });
            let Ok((returned, result)) = written.await else { return };
            cache = returned;
            if let Err(error) = result {
                warn!(error = &error as &dyn std::error::Error, "the last-known-good file was not written");
            }
            sleep(INTERVAL.max(began.elapsed() * SHARE)).await;
        }
    });
    Keeper(sender)
}

fn write(cache: &mut Cache, kept: &Mutex<Keepsake>) -> Result<(), CacheError> {
    let lock = || kept.lock().unwrap_or_else(PoisonError::into_inner);
    // Packed without the lock: the next delta is not kept waiting.
    let unpacked = lock().mirror.unpacked();
    for (tenant, held) in unpacked {
        if let Some(packed) = held.packed() {
            lock().mirror.take_packed(&tenant, packed);
        }
    }
    if !cache.is_ours()? {
        return Ok(());
    }
    let kept = lock().clone();
    cache.store(&kept.complete())
}
