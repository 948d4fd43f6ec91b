//! Watches: a cursor into the history, pulled by its reader.
//!
//! There is no queue to fill and none to lose: a watch reads the records after its cursor from the state itself,
//! so it is ordered, unique, whole and resumable by construction, costs the writer nothing, and its memory is
//! bounded by the history that is kept anyway. A reader that is slower than compaction is told so.

use std::{sync::Arc, time::Duration};

use model::Revision;
use tokio::time::{Instant, sleep_until};

use crate::{Key, WatchBatch, WatchError, handle::Shared};

/// Records looked at while the state is locked.
const SCAN: usize = 512;

/// How often a watch with nothing to report says how far it has come. Often enough that a resumed watch has little
/// to skip, seldom enough that other prefixes' writes cost its reader nothing.
const BOOKMARK: Duration = Duration::from_secs(1);

/// The changes of the keys under a prefix; from [`Handle::watch`](crate::Handle::watch).
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    applied: tokio::sync::watch::Receiver<Revision>,
    prefix: Key,
    /// The next revision to look at.
    next: Revision,
    /// The next revision that the reader does not know yet.
    told: Revision,
    bookmark_at: Instant,
}

impl Watch {
    pub(crate) fn new(shared: Arc<Shared>, prefix: Key, from: Revision) -> Self {
        let next = if from.0 == 0 { Revision(shared.machine().revision().0 + 1) } else { from };
        let applied = shared.applied.clone();
        Self { shared, applied, prefix, next, told: next, bookmark_at: Instant::now() + BOOKMARK }
    }

    /// The first revision that has not been reported: where a new watch resumes.
    #[must_use]
    pub fn position(&self) -> Revision {
        self.told
    }

    /// The next revision that changed a key under the prefix, or a bookmark, about once a second while other keys
    /// change. Cancel-safe.
    ///
    /// # Errors
    ///
    /// [`WatchError::Compacted`] for a reader that fell behind: list again. After [`WatchError::Stopped`] nothing
    /// more comes.
    pub async fn next(&mut self) -> Result<WatchBatch, WatchError> {
        loop {
            // Seen before the state is read: what is applied in between wakes the wait below.
            self.applied.mark_unchanged();
            let found = self.shared.machine().events(&self.prefix, self.next, SCAN)?;
            match found {
                Some(batch) => {
                    self.next = Revision(batch.revision.0 + 1);
                    if !batch.is_bookmark() || Instant::now() >= self.bookmark_at {
                        return Ok(self.tell(batch));
                    }
                }
                None => {
                    let behind = self.told < self.next;
                    tokio::select! {
                        changed = self.applied.changed() => changed.map_err(|_| WatchError::Stopped)?,
                        () = sleep_until(self.bookmark_at), if behind => {
                            let revision = Revision(self.next.0 - 1);
                            return Ok(self.tell(WatchBatch { revision, events: Vec::new() }));
                        }
                    }
                }
            }
        }
    }

    fn tell(&mut self, batch: WatchBatch) -> WatchBatch {
        self.told = Revision(batch.revision.0 + 1);
        self.bookmark_at = Instant::now() + BOOKMARK;
        batch
    }
}
