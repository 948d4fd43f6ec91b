//! What was acknowledged, and whether it is kept.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use sim::harness::tell;
use store::{Handle, Read, Revision, Store, fatal::OnFatal};

use super::put;

/// All that any run acknowledged, by store.
#[derive(Default)]
pub(super) struct Promises {
    stores: BTreeMap<String, BTreeMap<String, u64>>,
    acknowledged: usize,
    directories: usize,
    taken: usize,
}

impl Promises {
    pub(super) fn note(&mut self, acknowledged: Vec<(String, String, u64)>) {
        for (store, key, revision) in acknowledged {
            let before = self.stores.entry(store).or_default().insert(key.clone(), revision);
            assert_eq!(before, None, "{key} is acknowledged twice");
            self.acknowledged += 1;
        }
    }

    /// Begins anew, so that the volume is never full.
    pub(super) fn forget(&mut self, root: &Path) -> Result<()> {
        self.stores.clear();
        let store = root.join("store");
        if store.exists() {
            fs::remove_dir_all(store)?;
        }
        Ok(rustix::fs::syncfs(fs::File::open(root)?)?)
    }

    pub(super) fn kept(&self) -> usize {
        self.acknowledged
    }

    pub(super) fn figures(&self) -> String {
        format!(
            "{} acknowledged writes; {} directories opened, with the state of a clean end {} times",
            self.acknowledged, self.directories, self.taken
        )
    }

    /// Opens every data directory that there is, also those in which nothing was acknowledged yet.
    pub(super) fn check(&mut self, root: &Path) -> Result<()> {
        let mut found = vec![];
        for entry in fs::read_dir(root)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name == "store" || name.starts_with("made-") {
                found.push(name);
            }
        }
        for name in self.stores.keys() {
            ensure!(found.contains(name), "the data directory {name} is lost");
        }
        for name in found {
            let directory = root.join(&name);
            let kept = self.stores.entry(name.clone()).or_default();
            self.directories += 1;
            self.taken += usize::from(directory.join("state/CLEAN").exists());
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            runtime.block_on(check(&directory, kept)).with_context(|| name.clone())?;
            if name != "store" {
                // Checked once: the next cut has new ones.
                fs::remove_dir_all(&directory)?;
                self.stores.remove(&name);
            }
        }
        // Or the next cut takes half of the removal back.
        rustix::fs::syncfs(fs::File::open(root)?)?;
        Ok(())
    }
}

/// The test goes on where a server would end, and says why.
fn config(directory: &Path) -> store::Config {
    let on_fatal = OnFatal(Arc::new(|error| tell(&format!("the store ends: {error}"))));
    store::Config { on_fatal, ..super::config(directory) }
}

async fn check(directory: &Path, kept: &BTreeMap<String, u64>) -> Result<()> {
    // The same log, and no state: what is read from sled is what the log says.
    let replayed = Copy::without_state(directory)?;
    let by_log = Store::open(config(&replayed.0)).await.context("open from the log alone")?;
    let store = Store::open(config(directory)).await.context("open")?;
    let (one, other) = (store.status(), by_log.status());
    ensure!(
        (one.hash, one.revision, one.applied_index, one.epoch)
            == (other.hash, other.revision, other.applied_index, other.epoch),
        "the state is not what the log says: {one:?} and {other:?}"
    );
    by_log.shutdown().await;
    drop(replayed);
    is_kept(&store, kept).await?;
    is_whole(&store).await?;
    store.shutdown().await;
    Ok(())
}

async fn is_kept(store: &Handle, kept: &BTreeMap<String, u64>) -> Result<()> {
    let (entries, _) = store.list("k/", Read::Linearizable).await?;
    let entries: BTreeMap<_, _> = entries.iter().map(|entry| (&*entry.key, entry)).collect();
    for (key, revision) in kept {
        let entry = entries.get(key.as_str()).with_context(|| format!("{key} of {revision} is lost"))?;
        ensure!((entry.mod_revision.0, entry.version) == (*revision, 1), "{key} of {revision}: {entry:?}");
        let written = store::Op::Put { key: key.as_str().into(), value: entry.value.clone() };
        ensure!(written == put(key).ops[0], "{key} is changed");
    }
    // A revision was given to one write each; what was applied and not acknowledged has its own.
    let mut revisions: Vec<_> = entries.values().map(|entry| entry.mod_revision).collect();
    revisions.sort_unstable();
    revisions.dedup();
    ensure!(revisions.len() == entries.len(), "two writes share a revision");
    let newest = store.get("newest", Read::Local).await?.map(|entry| entry.mod_revision);
    ensure!(newest == revisions.last().copied(), "half a transaction");
    // A retry of what was acknowledged before the cut is told so, not done again.
    if let Some((key, revision)) = kept.iter().max_by_key(|(_, revision)| **revision) {
        let again = store.txn(put(key)).await?;
        ensure!((again.revision.0, again.duplicate) == (*revision, true), "{key} was written twice");
    }
    Ok(())
}

/// History and audit have every revision that is not compacted, once.
async fn is_whole(store: &Handle) -> Result<()> {
    let status = store.status();
    let first = status.compacted.0 + 1;
    let audit = store.audit(Revision(first), usize::MAX)?;
    let said: Vec<u64> = audit.iter().map(|record| record.revision.0).collect();
    ensure!(said == (first..=status.revision.0).collect::<Vec<_>>(), "the audit has a gap: {said:?}");
    let mut watch = store.watch("", Revision(first));
    let mut seen = vec![];
    while seen.last().is_none_or(|last| *last < status.revision.0) && first <= status.revision.0 {
        let batch = watch.next().await?;
        if !batch.events.is_empty() {
            seen.push(batch.revision.0);
        }
    }
    ensure!(seen == said, "the history has a gap: {seen:?}");
    Ok(())
}

/// A copy of a data directory, on another file system; removed when it is dropped.
struct Copy(PathBuf, #[expect(dead_code, reason = "removed when it is dropped")] tempfile::TempDir);

impl Copy {
    fn without_state(directory: &Path) -> Result<Self> {
        let copy = tempfile::tempdir()?;
        let to = copy.path().join("store");
        copy_dir(directory, &to)?;
        Ok(Self(to, copy))
    }
}

fn copy_dir(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), to)?;
        } else if entry.file_name() != "state" {
            copy_dir(&entry.path(), &to)?;
        }
    }
    Ok(())
}
