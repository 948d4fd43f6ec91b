//! What can be asked of the state.

use super::*;

impl Machine {
    /// The life of the store.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The last revision.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// History up to and including this revision is forgotten.
    #[must_use]
    pub fn compacted(&self) -> Revision {
        self.compacted
    }

    /// The last entry applied.
    #[must_use]
    pub fn applied(&self) -> Position {
        self.applied
    }

    /// Who votes.
    #[must_use]
    pub fn members(&self) -> &wire::Members {
        &self.members
    }

    /// The hash of everything.
    #[must_use]
    pub fn hash(&self) -> StateHash {
        self.sum.hash()
    }

    /// Bytes of everything.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.sum.bytes()
    }

    /// How many keys are live.
    #[must_use]
    pub fn live_keys(&self) -> u64 {
        self.live
    }

    /// How many revisions of history are kept.
    #[must_use]
    pub fn history(&self) -> u64 {
        self.records.len() as u64
    }

    /// The revision that changed a key last; 0 if it is not there.
    #[must_use]
    pub fn mod_revision(&self, key: &str) -> Revision {
        self.get(key).map_or(Revision(0), |entry| entry.mod_revision)
    }

    /// A key as it is.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Entry> {
        let (key, versions) = self.keys.get(key)?;
        entry_at(key, versions, self.revision)
    }

    /// A key as it was.
    ///
    /// # Errors
    ///
    /// If that revision is compacted.
    pub fn get_at(&self, key: &str, at: Revision) -> Result<Option<Entry>, Compacted> {
        self.check_history(at)?;
        Ok(self.keys.get(key).and_then(|(key, versions)| entry_at(key, versions, at)))
    }

    /// The live keys that begin with `prefix`, in the order of their bytes.
    #[must_use]
    pub fn list(&self, prefix: &str) -> Vec<Entry> {
        self.range(prefix).filter_map(|(key, versions)| entry_at(key, versions, self.revision)).collect()
    }

    /// The keys that began with `prefix` at a revision.
    ///
    /// # Errors
    ///
    /// If that revision is compacted.
    pub fn list_at(&self, prefix: &str, at: Revision) -> Result<Vec<Entry>, Compacted> {
        self.check_history(at)?;
        Ok(self.range(prefix).filter_map(|(key, versions)| entry_at(key, versions, at)).collect())
    }

    /// The events of the first revision from `from` on, among the next `scan` ones, that changed a key under
    /// `prefix`. If there is none, a bookmark at the last revision that was looked at; `None` if `from` is still
    /// to come.
    ///
    /// # Errors
    ///
    /// If history does not reach back to `from`.
    pub fn events(&self, prefix: &str, from: Revision, scan: usize) -> Result<Option<WatchBatch>, Compacted> {
        let mut last = None;
        for record in self.records_from(from)?.take(scan) {
            let events: Vec<Event> = record
                .keys
                .iter()
                .filter(|key| key.starts_with(prefix))
                .map(|key| Event { key: key.clone(), entry: self.entry_of(key, record.revision) })
                .filter(|event| event.entry.is_some() || !planted!(DeletionsUntold))
                .collect();
            last = Some(WatchBatch { revision: record.revision, events });
            if last.as_ref().is_some_and(|batch| !batch.is_bookmark()) {
                break;
            }
        }
        Ok(last)
    }

    /// The audit from a revision on, oldest first.
    ///
    /// # Errors
    ///
    /// If history does not reach back to `from`.
    pub fn records_from(&self, from: Revision) -> Result<impl Iterator<Item = &Record>, Compacted> {
        let skip = from
            .0
            .checked_sub(self.compacted.0 + 1)
            .or(planted!(CompactedNotTold).then_some(0))
            .ok_or(Compacted { compacted: self.compacted })?;
        let skip = usize::try_from(skip).unwrap_or(usize::MAX).min(self.records.len());
        Ok(self.records.range(skip..).map(|record| &**record))
    }

    /// The newest `limit` revisions before `before` that changed a key under `prefix`, newest first, with what they changed
    /// there, among the next `scan`; and before which to look on. `None`: there is no older history.
    #[must_use]
    pub fn changes_before(&self, prefix: &str, before: Revision, limit: usize, scan: usize) -> History {
        let older = before.0.saturating_sub(self.compacted.0 + 1).min(self.records.len() as u64);
        let older = usize::try_from(older).unwrap_or(self.records.len());
        let mut found = History { changes: Vec::new(), next: None };
        for (scanned, record) in self.records.range(..older).rev().enumerate() {
            if scanned == scan || found.changes.len() == limit {
                found.next = Some(Revision(record.revision.0 + 1));
                break;
            }
            let keys = record.keys.iter().filter(|key| key.starts_with(prefix));
            let events: Vec<Event> = keys
                .map(|key| Event { key: key.clone(), entry: self.entry_of(key, record.revision) })
                .collect();
            if !events.is_empty() {
                found.changes.push(((**record).clone(), events));
            }
        }
        found
    }

    fn entry_of(&self, key: &Key, at: Revision) -> Option<Entry> {
        self.keys.get(key).and_then(|(key, versions)| entry_at(key, versions, at))
    }

    fn check_history(&self, at: Revision) -> Result<(), Compacted> {
        if at < self.compacted && !planted!(HistoryUnchecked) {
            Err(Compacted { compacted: self.compacted })
        } else {
            Ok(())
        }
    }

    pub(super) fn range<'m>(&'m self, prefix: &'m str) -> impl Iterator<Item = (&'m Key, &'m Vec<Version>)> {
        self.keys.range(prefix).take_while(move |(key, _)| key.starts_with(prefix))
    }
}

fn entry_at(key: &Key, versions: &[Version], at: Revision) -> Option<Entry> {
    let seen = versions.partition_point(|version| version.revision <= at);
    let version = versions[..seen].last()?;
    Some(Entry {
        key: key.clone(),
        value: version.value.clone()?,
        create_revision: version.create_revision,
        mod_revision: version.revision,
        version: version.version,
    })
}
