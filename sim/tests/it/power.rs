//! Power cuts under a real store on a real file system: an ext4 in a file is shut down as it writes
//! (`EXT4_IOC_SHUTDOWN`: what is not on the disk is lost), mounted anew, and the store opened again. Nothing that was
//! acknowledged may be lost, doubled or changed, and it must always open.
//!
//! The writer is this test binary once more, running [`writer`] only. It says on its standard output what was
//! acknowledged; what reached the pipe counts.

mod promises;
mod volume;

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, Write as _},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use sim::harness::tell;
use store::{Config, Store, Txn, files::FileSystem};

use super::e2e::{long, one_at_a_time};
use promises::Promises;
use volume::Volume;

/// Where the child finds its data; without it, it is not a child.
const DIRECTORY: &str = "WEIR_POWER_DIRECTORY";
/// What the child does.
const LIFE: &str = "WEIR_POWER_LIFE";
/// The child does not sync: the tests must see that.
const UNSYNCED: &str = "WEIR_POWER_UNSYNCED";
/// Another number of cuts.
const CUTS: &str = "WEIR_CUTS";
/// A run's seed, to choose the same moments again.
const SEED: &str = "WEIR_SEED";

const WRITERS: usize = 8;
/// Cuts that one data directory lives through.
const ANEW: u64 = 12;
/// A child ends by itself when its disk fails; one that does not in this time hangs.
const ENDING: Duration = Duration::from_secs(20);

/// What the child is doing when the power goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    /// Writing: batches, new segments, snapshots, compactions.
    Writing,
    /// Stopping and starting: sled's flush, the marker of a clean end, replay.
    Restarting,
    /// Making data directories.
    Making,
    /// Recovering from the cut before.
    Recovering,
}

impl Life {
    const ALL: [Self; 4] = [Self::Writing, Self::Restarting, Self::Making, Self::Recovering];

    fn name(self) -> &'static str {
        match self {
            Self::Writing => "writing",
            Self::Restarting => "restarting",
            Self::Making => "making",
            Self::Recovering => "recovering",
        }
    }
}

/// Everything that happens seldom happens often: segments, snapshots, compactions.
fn config(dir: &Path) -> Config {
    let mut config = Config::new(dir);
    // Or a directory that was cut before it had an owner would be another's each time that it is opened.
    config.cluster_id = Some("power".into());
    config.tick = Duration::from_millis(10);
    config.segment = 16 << 10;
    config.snapshot_entries = 40;
    config.keep_revisions = 50;
    config
}

/// The transaction that writes `key`: made again by whoever knows the key, request id and all.
fn put(key: &str) -> Txn {
    // Sizes differ, so that cuts meet batches of one sector and of many blocks.
    let size = key.bytes().fold(7, |sum: usize, byte| (sum * 31 + usize::from(byte)) % 3000);
    let value = format!("{key} {}", "x".repeat(size));
    Txn { request_id: key.into(), ..Txn::new("power").put(key, value).put("newest", key.to_owned()) }
}

/// What a server that forgets to sync would do.
#[derive(Debug)]
struct Forgetful;

impl FileSystem for Forgetful {
    fn sync(&self, _: &File) -> io::Result<()> {
        Ok(())
    }
}

/// The child: lives until its disk fails.
#[test]
#[ignore = "a child process of power_cuts_lose_nothing_that_was_acknowledged"]
fn writer() {
    let (Ok(dir), Ok(life)) = (std::env::var(DIRECTORY), std::env::var(LIFE)) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let dir = Path::new(&dir);
    runtime.block_on(async {
        for run in 0.. {
            let making = life == Life::Making.name();
            let name = if making { format!("made-{}-{run}", std::process::id()) } else { "store".into() };
            let mut config = config(&dir.join(&name));
            if std::env::var_os(UNSYNCED).is_some() {
                config.files = Arc::new(Forgetful);
            }
            let store = Store::open(config).await.unwrap();
            let term = store.status().leadership.term;
            say(&format!("open {}", store.status().revision));
            let write = |writer: usize| {
                let (store, name) = (store.clone(), name.clone());
                let writes = if making || life == Life::Restarting.name() { 3 } else { u64::MAX };
                async move {
                    for n in 0..writes {
                        let key = format!("k/{term}/{writer}/{n}");
                        let committed = store.txn(put(&key)).await.unwrap();
                        say(&format!("ack {name} {key} {}", committed.revision));
                    }
                }
            };
            let writers: Vec<_> = (0..WRITERS).map(|writer| tokio::spawn(write(writer))).collect();
            for writer in writers {
                writer.await.unwrap();
            }
            store.shutdown().await;
        }
    });
}

/// One line, in one write.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n{line}\n").as_bytes()).and_then(|()| out.flush()).expect("the parent reads");
}

/// The writer and what it says, read by a thread: a pipe that is full would hold the writer up.
struct Victim {
    child: Child,
    lines: mpsc::Receiver<String>,
    /// Its standard error.
    said: File,
}

impl Victim {
    fn start(dir: &Path, life: Life, more: &[(&str, &str)]) -> Result<Self> {
        let said = tempfile::tempfile()?;
        let mut child = Command::new(std::env::current_exe()?)
            .envs(more.iter().copied())
            .args(["power::writer", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
            .env(DIRECTORY, dir)
            .env(LIFE, life.name())
            // Not one of the child's threads may outlive its disk's end for the sake of a core file.
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::from(said.try_clone()?))
            .spawn()?;
        let out = child.stdout.take().context("the child's output")?;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || read_lines(out, &sender));
        Ok(Self { child, lines, said })
    }

    /// Waits for the first `open`.
    fn opened(&mut self) -> Result<()> {
        loop {
            match self.lines.recv_timeout(Duration::from_secs(60)) {
                Ok(line) if line.starts_with("open ") => return Ok(()),
                Ok(_) => {}
                Err(error) => {
                    let mut said = String::new();
                    self.said.rewind()?;
                    self.said.read_to_string(&mut said)?;
                    anyhow::bail!("the store did not open: {error}: {said}");
                }
            }
        }
    }

    /// Waits for its end, and returns what it had acknowledged: store, key and revision.
    fn ended(mut self) -> Result<Vec<(String, String, u64)>> {
        let until = Instant::now() + ENDING;
        let mut acknowledged = vec![];
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => acknowledged.extend(acknowledgement(&line)),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    self.child.kill()?;
                    self.child.wait()?;
                    anyhow::bail!("the server goes on although its disk has failed");
                }
            }
        }
        ensure!(!self.child.wait()?.success(), "the child ended well");
        Ok(acknowledged)
    }
}

fn read_lines(out: ChildStdout, lines: &mpsc::Sender<String>) {
    for line in BufReader::new(out).lines() {
        let Ok(line) = line else { return };
        if lines.send(line).is_err() {
            return;
        }
    }
}

fn acknowledgement(line: &str) -> Option<(String, String, u64)> {
    let mut words = line.strip_prefix("ack ")?.split(' ');
    Some((words.next()?.into(), words.next()?.into(), words.next()?.parse().ok()?))
}

#[test]
fn power_cuts_lose_nothing_that_was_acknowledged() -> Result<()> {
    let _turn = one_at_a_time();
    let Some(mut volume) = Volume::new("power_cuts_lose_nothing_that_was_acknowledged")? else {
        return Ok(());
    };
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let cuts = number(CUTS).unwrap_or(if long() { 100 } else { 8 });
    let seed = number(SEED).unwrap_or_else(rand::random);
    tell(&format!("{SEED}={seed}"));
    let mut random = StdRng::seed_from_u64(seed);
    let mut promises = Promises::default();
    for (cut, life) in (0..cuts).zip(Life::ALL.into_iter().cycle()) {
        if cut % ANEW == 0 {
            promises.forget(volume.root())?;
        }
        let mut victim = Victim::start(volume.root(), life, &[])?;
        if life != Life::Recovering {
            victim.opened().with_context(|| format!("cut {cut}, {}", life.name()))?;
        }
        let until = Instant::now() + Duration::from_micros(random.random_range(0..300_000));
        wait_until(until);
        volume.cut()?;
        promises.note(victim.ended()?);
        volume.mount_again()?;
        promises
            .check(volume.root())
            .with_context(|| format!("cut {cut}, {}, {SEED}={seed}", life.name()))?;
    }
    tell(&format!("{cuts} power cuts on ext4: {}, 0 lost, always opened", promises.figures()));
    ensure!(promises.kept() as u64 > cuts, "only {} writes were acknowledged", promises.kept());
    Ok(())
}

/// The harness has teeth: acknowledgements without a sync do not survive.
#[test]
fn power_cuts_find_a_server_that_does_not_sync() -> Result<()> {
    let _turn = one_at_a_time();
    let Some(mut volume) = Volume::new("power_cuts_find_a_server_that_does_not_sync")? else { return Ok(()) };
    let mut promises = Promises::default();
    for cut in 0..=20 {
        // The first one makes the directory as it should.
        let more = if cut == 0 { [].as_slice() } else { &[(UNSYNCED, "1")] };
        let mut victim = Victim::start(volume.root(), Life::Writing, more)?;
        victim.opened()?;
        volume.cut()?;
        promises.note(victim.ended()?);
        volume.mount_again()?;
        if let Err(error) = promises.check(volume.root()) {
            tell(&format!("found at cut {cut}: {error:#}"));
            return Ok(());
        }
    }
    anyhow::bail!("20 cuts did not find it")
}

/// The moment is the test's input, not a wait for something.
#[expect(clippy::disallowed_methods, reason = "the moment of the cut is chosen, nothing is waited for")]
fn wait_until(moment: Instant) {
    std::thread::sleep(moment.saturating_duration_since(Instant::now()));
}
