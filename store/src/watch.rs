//! Watches: a cursor into the history, pulled by its reader.
//!
//! There is no queue to fill and none to lose: a watch reads the records after its cursor from the state itself,
//! so it is ordered, unique, whole and resumable by construction, costs the writer nothing, and its memory is
//! bounded by the history that is kept anyway. A reader that is slower than compaction is told so.

use std::{sync::Arc, time::Duration};

use model::Revision;
use tokio::time::{Instant, sleep_until};

use crate::{Compacted, Key, WatchBatch, WatchError, handle::Shared, machine::Machine};

/// Records looked at while the state is locked.
const SCAN: usize = 512;

/// How often a watch with nothing to report says how far it has come. Often enough that a resumed watch has little
/// to skip, seldom enough that other prefixes' writes cost its reader nothing.
const BOOKMARK: Duration = Duration::from_secs(1);

/// How far a reader of the changes under a prefix is. Without a clock and without waiting: [`Watch`] adds both.
#[derive(Debug, Clone)]
pub struct Cursor {
    prefix: Key,
    /// The next revision to look at.
    next: Revision,
    /// The next revision that the reader does not know yet.
    told: Revision,
}

/// What a look at the state gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// The reader is to be told this.
    Tell(WatchBatch),
    /// Nothing for the reader so far: look again.
    Again,
    /// Nothing before the next revision, or before it is time for a bookmark.
    Wait,
}

impl Cursor {
    /// At the first revision that the reader does not know.
    #[must_use]
    pub fn new(prefix: Key, from: Revision) -> Self {
        Self { prefix, next: from, told: from }
    }

    /// The first revision that has not been reported: where a new cursor resumes.
    #[must_use]
    pub fn position(&self) -> Revision {
        Revision(self.told.0 - u64::from(planted!(WatchRepeats) && self.told.0 > 1))
    }

    /// Whether there is something that a bookmark would say.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.told < self.next
    }

    /// Looks at the next `scan` revisions; `bookmark` says whether it is time for one.
    ///
    /// # Errors
    ///
    /// If history does not reach back to where it is.
    pub fn look(&mut self, machine: &Machine, scan: usize, bookmark: bool) -> Result<Look, Compacted> {
        let Some(mut batch) = machine.events(&self.prefix, self.next, scan)? else {
            let last = WatchBatch { revision: Revision(self.next.0 - 1), events: Vec::new() };
            return Ok(if bookmark && self.is_behind() { self.tell(last) } else { Look::Wait });
        };
        planted!(RevisionHalved, batch.events.truncate(1));
        if planted!(BookmarkTooFar) && batch.is_bookmark() {
            batch.revision = machine.revision();
        }
        self.next = Revision(batch.revision.0 + 1 + u64::from(planted!(WatchSkipsOne)));
        Ok(if bookmark || !batch.is_bookmark() { self.tell(batch) } else { Look::Again })
    }

    fn tell(&mut self, batch: WatchBatch) -> Look {
        self.told = Revision(batch.revision.0 + 1);
        Look::Tell(batch)
    }
}

/// The changes of the keys under a prefix; from [`Handle::watch`](crate::Handle::watch).
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    applied: tokio::sync::watch::Receiver<Revision>,
    cursor: Cursor,
    bookmark_at: Instant,
}

impl Watch {
    pub(crate) fn new(shared: Arc<Shared>, prefix: Key, from: Revision) -> Self {
        let next = if from.0 == 0 { Revision(shared.machine().revision().0 + 1) } else { from };
        let applied = shared.applied.clone();
        Self { shared, applied, cursor: Cursor::new(prefix, next), bookmark_at: Instant::now() + BOOKMARK }
    }

    /// The first revision that has not been reported: where a new watch resumes.
    #[must_use]
    pub fn position(&self) -> Revision {
        self.cursor.position()
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
            let is_due = Instant::now() >= self.bookmark_at;
            let look = self.cursor.look(&self.shared.machine(), SCAN, is_due)?;
            match look {
                Look::Tell(batch) => {
                    self.bookmark_at = Instant::now() + BOOKMARK;
                    return Ok(batch);
                }
                Look::Again => {}
                Look::Wait => tokio::select! {
                    changed = self.applied.changed() => changed.map_err(|_| WatchError::Stopped)?,
                    () = sleep_until(self.bookmark_at), if self.cursor.is_behind() => {}
                },
            }
        }
    }
}
