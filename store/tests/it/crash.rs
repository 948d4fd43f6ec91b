//! A real process that is killed, again and again, at random moments: in the middle of writes, of snapshots, of new
//! segments, of its own recovery. Nothing that it acknowledged may be lost, doubled or changed.
//!
//! The process is this test binary once more, running [`writer`] only: it writes with several writers at a time and
//! says on its standard output what was acknowledged. What reached the pipe counts, also what the parent reads after
//! the kill. (SIGKILL leaves the kernel's memory alone: that what is acknowledged was synced is for [`crate::failure`]
//! and the log's own tests to say.)

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use store::{Config, Handle, Read, Revision, Store, Txn};

/// Where the child finds its data directory; without it, it is not a child.
const DIRECTORY: &str = "WEIR_STORE_CRASH_DIRECTORY";
/// Another number of kills than the one that every build can afford.
const KILLS: &str = "WEIR_STORE_CRASH_KILLS";
/// A run's seed, to choose the same moments again.
const SEED: &str = "WEIR_STORE_CRASH_SEED";

const WRITERS: usize = 8;

/// Everything that happens seldom happens often: segments, snapshots, compactions.
fn config(dir: &Path) -> Config {
    let mut config = crate::config(dir);
    config.segment = 16 << 10;
    config.snapshot_entries = 40;
    config.keep_revisions = 50;
    config
}

/// The transaction that writes `key`: made again by whoever knows the key, request id and all.
fn put(key: &str) -> Txn {
    // Sizes differ, so that kills meet batches of one record and of many blocks.
    let size = key.bytes().fold(7, |sum: usize, byte| (sum * 31 + usize::from(byte)) % 3000);
    let value = format!("{key} {}", "x".repeat(size));
    Txn { request_id: key.into(), ..Txn::new("crash").put(key, value).put("newest", key.to_owned()) }
}

/// The child: writes until it is killed.
#[test]
#[ignore = "a child process of a_killed_server_loses_nothing_that_it_acknowledged"]
fn writer() {
    let Ok(dir) = std::env::var(DIRECTORY) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Store::open(config(Path::new(&dir))).await.unwrap();
        let run = store.status().leadership.term;
        say(&format!("open {}", store.status().revision));
        let write = |writer: usize| {
            let store = store.clone();
            async move {
                for n in 0.. {
                    let key = format!("k/{run}/{writer}/{n}");
                    let committed = store.txn(put(&key)).await.unwrap();
                    say(&format!("ack {key} {}", committed.revision));
                }
            }
        };
        futures_util::future::join_all((0..WRITERS).map(write)).await;
    });
}

/// One line, in one write: a kill cuts no line in two that was said whole.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n{line}\n").as_bytes()).and_then(|()| out.flush()).unwrap();
}

struct Victim {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Victim {
    fn start(dir: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["crash::writer", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
            .env(DIRECTORY, dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// Reads up to and with the `open` line.
    fn opened(&mut self) -> Revision {
        let mut line = String::new();
        while self.lines.read_line(&mut line).unwrap() > 0 {
            if let Some(revision) = line.trim().strip_prefix("open ") {
                return Revision(revision.parse().unwrap());
            }
            line.clear();
        }
        panic!("the child ended before its store was open: its messages are above");
    }

    /// SIGKILL; returns what it acknowledged.
    fn kill(mut self) -> Vec<(String, Revision)> {
        self.child.kill().unwrap();
        let mut acknowledged = vec![];
        for line in self.lines.lines() {
            let line = line.unwrap();
            if let Some((key, revision)) = line.strip_prefix("ack ").and_then(|ack| ack.split_once(' ')) {
                acknowledged.push((key.to_owned(), Revision(revision.parse().unwrap())));
            }
        }
        let status = self.child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "it ended by itself");
        acknowledged
    }
}

/// All that any run acknowledged.
#[derive(Default)]
struct Promises {
    kept: BTreeMap<String, Revision>,
    newest: Revision,
}

impl Promises {
    fn note(&mut self, acknowledged: Vec<(String, Revision)>) {
        for (key, revision) in acknowledged {
            self.newest = self.newest.max(revision);
            assert_eq!(self.kept.insert(key.clone(), revision), None, "{key} is acknowledged twice");
        }
    }

    async fn check(&self, store: &Handle) {
        let (entries, revision) = store.list("k/", Read::Linearizable).await.unwrap();
        assert!(revision >= self.newest, "the store is at {revision}, behind {}", self.newest);
        let entries: BTreeMap<_, _> = entries.iter().map(|entry| (&*entry.key, entry)).collect();
        for (key, revision) in &self.kept {
            let entry = entries.get(key.as_str()).unwrap_or_else(|| panic!("{key} of {revision} is lost"));
            assert_eq!((entry.mod_revision, entry.version), (*revision, 1), "{key}");
            assert_eq!(
                store::Op::Put { key: key.as_str().into(), value: entry.value.clone() },
                put(key).ops[0]
            );
        }
        // A revision was given to one write each; what was applied and not acknowledged has its own.
        let mut revisions: Vec<_> = entries.values().map(|entry| entry.mod_revision).collect();
        revisions.sort_unstable();
        revisions.dedup();
        assert_eq!(revisions.len(), entries.len(), "two writes share a revision");
        let newest = store.get("newest", Read::Local).await.unwrap();
        assert_eq!(newest.map(|entry| entry.mod_revision), revisions.last().copied(), "half a transaction");
        // A retry of what was acknowledged before the kill is told so, not done again.
        if let Some((key, revision)) = self.kept.iter().max_by_key(|(_, revision)| **revision) {
            let again = store.txn(put(key)).await.unwrap();
            assert_eq!((again.revision, again.duplicate), (*revision, true), "{key}");
        }
    }
}

#[tokio::test]
async fn a_killed_server_loses_nothing_that_it_acknowledged() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let kills = number(KILLS).unwrap_or(24);
    let seed = number(SEED).unwrap_or_else(rand::random);
    println!("{SEED}={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let directory = tempfile::tempdir().unwrap();
    let dir: PathBuf = directory.path().join("store");
    let mut promises = Promises::default();
    for kill in 0..kills {
        let mut victim = Victim::start(&dir);
        // Some are killed while they start or recover, most while they write.
        if kill % 6 != 5 {
            let revision = victim.opened();
            assert!(revision >= promises.newest, "opened at {revision}, behind {}", promises.newest);
        }
        let until = Instant::now() + Duration::from_micros(random.random_range(0..120_000));
        // The moment is the test's input, not a wait for something.
        tokio::time::sleep_until(until.into()).await;
        promises.note(victim.kill());
        // Some crashes are recovered from by a server that ends well, the others by the next victim.
        if kill % 4 == 3 {
            let store = Store::open(config(&dir)).await.unwrap();
            promises.check(&store).await;
            let before = store.status();
            store.shutdown().await;
            let store = Store::open(config(&dir)).await.unwrap();
            let after = store.status();
            assert_eq!((after.epoch, after.revision), (before.epoch, before.revision));
            promises.check(&store).await;
            store.shutdown().await;
        }
    }
    assert!(promises.kept.len() as u64 > kills, "only {} writes were acknowledged", promises.kept.len());
    println!("{kills} kills, {} acknowledged writes", promises.kept.len());
}
