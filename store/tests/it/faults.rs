//! Power cuts and failing calls without a real disk: a file system that writes down what is done to it
//! ([`journal`]), and what a cut at any call leaves of it ([`cut`]).
//!
//! Each call that a short life makes is a cut point and a point of failure: creation, segments, batches, snapshots,
//! the marker of a clean end, recovery.

mod cut;
mod journal;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use store::{Config, Handle, OpenError, Read, Revision, Store, Txn, TxnError, fatal::OnFatal};

use cut::Disk;
use journal::{Done, Fault, Journal, Lie};

/// A run's seed.
const SEED: &str = "WEIR_SEED";

/// Everything that happens seldom happens often.
fn config(dir: &Path) -> Config {
    let mut config = crate::config(dir);
    config.cluster_id = Some("faults".into());
    config.segment = 4096;
    config.snapshot_entries = 9;
    config.keep_revisions = 12;
    // Said, and the test fails where it matters: an abort would take the others' words with it.
    config.on_fatal = OnFatal(Arc::new(crate::last_words));
    config
}

/// The transaction that writes `key`.
fn put(key: &str) -> Txn {
    let size = key.bytes().fold(7, |sum: usize, byte| (sum * 31 + usize::from(byte)) % 1500);
    let value = format!("{key} {}", "x".repeat(size));
    Txn { request_id: key.into(), ..Txn::new("faults").put(key, value).put("newest", key.to_owned()) }
}

/// Opens, writes and stops in good order, twice. `life` makes its keys its own.
async fn live(config: &Config, journal: &Journal, life: &str) -> Result<(), String> {
    for run in 0..2 {
        let store = Store::open(config.clone()).await.map_err(|error| said(&error))?;
        for round in 0..6 {
            let write = |writer: usize| {
                let store = store.clone();
                async move {
                    let key = format!("k/{life}/{run}/{round}/{writer}");
                    let written = store.txn(put(&key)).await;
                    if let Ok(committed) = &written {
                        journal.acknowledge(&key, committed.revision.0);
                    }
                    written.map(drop)
                }
            };
            // One alone, then three that may share a batch.
            let writers = if round % 2 == 0 { 0..1 } else { 0..3 };
            let written = futures_util::future::join_all(writers.map(write)).await;
            if let Some(Err(error)) = written.into_iter().find(Result::is_err) {
                return ended(&store, error).await;
            }
        }
        store.shutdown().await;
    }
    Ok(())
}

/// A server that could not write: it has ended, and acknowledges nothing more.
async fn ended(store: &Handle, error: TxnError) -> Result<(), String> {
    let after = store.txn(Txn::new("faults").put("after", "the end")).await;
    assert!(after.is_err(), "it acknowledged a write after its end");
    store.shutdown().await;
    Err(error.to_string())
}

fn said(error: &OpenError) -> String {
    let source = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    format!("{error}: {source}")
}

fn acknowledged(done: &[Done]) -> BTreeMap<String, u64> {
    let told = done.iter().filter_map(|done| match done {
        Done::Acknowledged { key, revision } => Some((key.clone(), *revision)),
        _ => None,
    });
    told.collect()
}

/// Whatever the cut left: the store opens, with all that was acknowledged, and is what its log says.
async fn check(dir: &Path, kept: &BTreeMap<String, u64>, at: &str) {
    let mut config = config(dir);
    config.files = Arc::new(crate::Unsynced);
    config.on_fatal = OnFatal(Arc::new(|error| panic!("{error}")));
    let store = Store::open(config.clone()).await.unwrap_or_else(|e| panic!("{at}: {}", said(&e)));
    let (entries, revision) = store.list("k/", Read::Linearizable).await.unwrap();
    let entries: BTreeMap<_, _> = entries.iter().map(|entry| (&*entry.key, entry)).collect();
    for (key, revision) in kept {
        let entry = entries.get(key.as_str()).unwrap_or_else(|| panic!("{at}: {key} of {revision} is lost"));
        assert_eq!((entry.mod_revision.0, entry.version), (*revision, 1), "{at}: {key}");
        let written = store::Op::Put { key: key.as_str().into(), value: entry.value.clone() };
        assert_eq!(written, put(key).ops[0], "{at}");
    }
    let first = store.status().compacted.0 + 1;
    let audit = store.audit(Revision(first), usize::MAX).unwrap();
    let said: Vec<_> = audit.iter().map(|record| record.revision.0).collect();
    assert_eq!(said, (first..=revision.0).collect::<Vec<_>>(), "{at}: the history has a gap");
    let status = store.status();
    store.shutdown().await;

    // Once more, from the log alone: one more term, and nothing else.
    fs::remove_dir_all(dir.join("state")).unwrap();
    let store = Store::open(config).await.unwrap();
    assert_eq!(store.status().revision, status.revision, "{at}");
    let (replayed, _) = store.list("k/", Read::Local).await.unwrap();
    assert!(replayed.iter().eq(entries.values().copied()), "{at}: the log says something else");
    store.shutdown().await;
}

/// A directory with what a journal's first calls left of it, and the files that it has for another life.
struct Image {
    directory: tempfile::TempDir,
}

impl Image {
    fn of(disk: &Disk, root: &Path, random: &mut StdRng) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("store")).unwrap();
        disk.cut(root, &directory.path().join("store"), random);
        Self { directory }
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    /// A journal of another life in it, and the disk that it begins with.
    fn another_life(&self) -> (Arc<Journal>, Disk) {
        let (journal, mut disk) = (Journal::new(&self.root()), Disk::default());
        let mut dirs = vec![self.root()];
        while let Some(dir) = dirs.pop() {
            disk.add_dir(&dir);
            for entry in fs::read_dir(&dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    dirs.push(path);
                } else if path.starts_with(self.root().join("state/db")) {
                    disk.apply(&Done::SyncForeign { bytes: fs::read(&path).unwrap(), path });
                } else {
                    disk.add(&path, journal.known(&path), fs::read(&path).unwrap());
                }
            }
        }
        (Arc::new(journal), disk)
    }
}

/// Number of the environment.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn long() -> bool {
    std::env::var_os("WEIR_LONG").is_some()
}

#[tokio::test]
async fn a_power_cut_at_any_call_loses_nothing_that_was_acknowledged() {
    let seed = number(SEED).unwrap_or_else(rand::random);
    println!("{SEED}={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let images = if long() { 10 } else { 1 };
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let journal = Arc::new(Journal::new(&root));
    let config = Config { files: journal.clone(), ..config(&root) };
    live(&config, &journal, "first").await.unwrap();

    let done = journal.done();
    let (mut disk, mut cuts, mut second) = (Disk::default(), 0, 0);
    for at in 0..=done.len() {
        for _ in 0..images {
            let image = Image::of(&disk, &root, &mut random);
            let kept = acknowledged(&done[..at]);
            // One in ten lives on, and is cut again: in its recovery, too.
            if random.random_ratio(1, 10) {
                second += cut_again(&image, &kept, &format!("call {at}"), &mut random).await;
            }
            check(&image.root(), &kept, &format!("{SEED}={seed}: cut before call {at}")).await;
            cuts += 1;
        }
        if let Some(call) = done.get(at) {
            disk.apply(call);
        }
    }
    println!(
        "{cuts} power cuts at {} calls, {second} more in the life after; {} acknowledged writes, 0 lost",
        done.len() + 1,
        acknowledged(&done).len()
    );
}

/// Lives on in a copy of the image, and cuts it at a few calls; returns at how many.
async fn cut_again(image: &Image, kept: &BTreeMap<String, u64>, at: &str, random: &mut StdRng) -> usize {
    let (_, disk) = image.another_life();
    // A copy, made by a cut that has nothing to lose.
    let image = Image::of(&disk, &image.root(), random);
    let (journal, mut disk) = image.another_life();
    let config = Config { files: journal.clone(), ..config(&image.root()) };
    live(&config, &journal, at).await.unwrap();
    let done = journal.done();
    let recovery = done.iter().position(|done| matches!(done, Done::Acknowledged { .. })).unwrap();
    let mut cuts = [0, 0, 0, 0].map(|_| random.random_range(0..=recovery)).to_vec();
    cuts.extend([0, 0].map(|_| random.random_range(0..=done.len())));
    cuts.sort_unstable();
    let mut applied = 0;
    for cut in &cuts {
        done[applied..*cut].iter().for_each(|done| disk.apply(done));
        applied = *cut;
        let left = Image::of(&disk, &image.root(), random);
        let mut kept = kept.clone();
        kept.extend(acknowledged(&done[..*cut]));
        check(&left.root(), &kept, &format!("{at}, then before call {cut}")).await;
    }
    cuts.len()
}

/// The test has teeth: a store that believes a disk that does not sync is found.
#[tokio::test]
async fn cuts_find_a_disk_that_does_not_sync() {
    for lie in [Lie::Files, Lie::Names] {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("store");
        let journal = Arc::new(Journal::lying(&root, lie));
        let config = Config { files: journal.clone(), ..config(&root) };
        live(&config, &journal, "first").await.unwrap();
        let (mut disk, mut random, mut found) = (Disk::default(), StdRng::seed_from_u64(1), 0);
        let done = journal.done();
        for (at, call) in done.iter().enumerate() {
            disk.apply(call);
            if at % 8 == 0 {
                let image = Image::of(&disk, &root, &mut random);
                let kept = acknowledged(&done[..at]);
                // It panics, and its task with it.
                let checked = tokio::spawn(async move { check(&image.root(), &kept, "a lie").await });
                found += usize::from(checked.await.is_err());
            }
        }
        assert!(found > 3, "{lie:?}: {found}");
    }
}

#[tokio::test]
async fn a_call_that_fails_ends_the_server_or_is_refused_and_nothing_is_lost() {
    let seed = number(SEED).unwrap_or_else(rand::random);
    println!("{SEED}={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    // Each call in the long form, each fifth in the short one.
    let (step, offset) = if long() { (1, 0) } else { (5, random.random_range(0..5)) };
    let (mut refused, mut ended) = (0, 0);
    for fault in [Fault::Broken, Fault::Full] {
        for call in (offset..).step_by(step) {
            let directory = tempfile::tempdir().unwrap();
            let root = directory.path().join("store");
            let journal = Arc::new(Journal::failing(&root, call, fault));
            let fatal = Arc::new(Mutex::new(Vec::new()));
            let seen = fatal.clone();
            let on_fatal = OnFatal(Arc::new(move |error| seen.lock().unwrap().push(error.to_string())));
            let config = Config { files: journal.clone(), on_fatal, ..config(&root) };
            let lived = live(&config, &journal, "first").await;
            let at = format!("{SEED}={seed}: {fault:?} from call {call} on: {lived:?}");
            let fatal = fatal.lock().unwrap().clone();
            match lived {
                // Beyond its last call.
                Ok(()) => break,
                Err(said) if fatal.is_empty() => {
                    let says_why = said.contains(&*root.to_string_lossy()) && said.contains("os error");
                    assert!(says_why, "{at}");
                    refused += 1;
                }
                Err(_) => {
                    assert!(fatal.len() == 1 && fatal[0].contains("os error"), "{at}: {fatal:?}");
                    ended += 1;
                }
            }
            let done = journal.done();
            // As it is, and with all that was not synced lost.
            let mut disk = Disk::default();
            done.iter().for_each(|done| disk.apply(done));
            let image = Image::of(&disk, &root, &mut random);
            let kept = acknowledged(&done);
            check(&image.root(), &kept, &at).await;
            check(&root, &kept, &at).await;
        }
    }
    println!("{refused} openings refused and {ended} servers ended by a call that failed, 0 lost");
    assert!(refused > 5 && ended > 20);
}

#[tokio::test]
async fn a_batch_is_one_write_and_one_sync() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let journal = Arc::new(Journal::new(&root));
    let config = Config { files: journal.clone(), ..crate::config(&root) };
    let store = Store::open(config).await.unwrap();
    let begin = journal.done().len();
    for n in 0..20 {
        store.txn(put(&format!("alone/{n}"))).await.unwrap();
    }
    let alone = journal.done().len();
    let write = |n| store.txn(put(&format!("together/{n}"))).into_future();
    let mut written = vec![];
    for n in 0..256 {
        written.push(write(n));
    }
    for written in futures_util::future::join_all(written).await {
        written.unwrap();
    }
    let done = journal.done();
    store.shutdown().await;
    for (calls, least, most) in [(&done[begin..alone], 20, 21), (&done[alone..], 1, 100)] {
        let mut appends = 0;
        let mut calls = calls.iter();
        while let Some(call) = calls.next() {
            match call {
                Done::Write { file, .. } => {
                    let synced = calls.next();
                    assert_eq!(synced, Some(&Done::Sync { file: *file }), "a batch is written by one call");
                    appends += 1;
                }
                // Another segment, up to where it has its name for good.
                Done::Create { .. } => {
                    let made = calls.by_ref().take_while(|call| !matches!(call, Done::SyncDir { .. }));
                    assert_eq!(made.filter(|call| matches!(call, Done::Sync { .. })).count(), 1);
                }
                other => panic!("{other:?}"),
            }
        }
        assert!((least..=most).contains(&appends), "{appends} batches");
    }
}
