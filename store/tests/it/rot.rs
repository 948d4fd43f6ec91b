//! Bits that rot, in each file of a data directory: found, and never served. What cannot be mended from something else
//! is refused, with what to do.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use store::{Config, Entry, OpenError, Read, Record, Revision, Store, Txn, fatal::OnFatal};

/// Bytes of a file that are flipped one by one: files up to this size wholly, of others a sample. Five times as many in
/// the long form. (The log's own tests flip each byte of a small one.)
const FLIPS: usize = 80;
/// Of sled's files, which are copied for each flip.
const STATE_FLIPS: usize = 10;

fn config(dir: &Path) -> Config {
    let mut config = crate::config(dir);
    config.segment = 4096;
    config.snapshot_entries = 12;
    config.files = Arc::new(crate::Unsynced);
    config.on_fatal = OnFatal(Arc::new(|error| panic!("{error}")));
    config
}

/// What a store serves.
#[derive(Debug, PartialEq)]
struct Served {
    entries: Vec<Entry>,
    revision: Revision,
    audit: Vec<Record>,
}

/// Opens it, and looks at all that it has.
async fn serve(dir: &Path) -> Result<Served, OpenError> {
    let store = Store::open(config(dir)).await?;
    let (entries, revision) = store.list("", Read::Linearizable).await.unwrap();
    let audit = store.audit(Revision(1), usize::MAX).unwrap();
    store.shutdown().await;
    Ok(Served { entries, revision, audit })
}

/// Two directories with the same content: one that was closed in good order, and one whose server was killed.
async fn directories(root: &Path) -> [PathBuf; 2] {
    let [live, clean, killed] = ["live", "clean", "killed"].map(|name| root.join(name));
    let store = Store::open(config(&live)).await.unwrap();
    for n in 0..40 {
        store.txn(Txn::new("rot").put(format!("k/{}", n % 13), "v".repeat(n * 9)).note("why")).await.unwrap();
    }
    copy_at_rest(&live, &killed).await;
    store.shutdown().await;
    copy(&live, &clean, &|_| true).unwrap();
    [clean, killed]
}

/// A copy of what a running store has on its disk, whose threads may still have something to write: made anew until
/// nothing changed while it was made.
async fn copy_at_rest(from: &Path, to: &Path) {
    for _ in 0..1000 {
        let before = stamps(from);
        if before.is_ok() && copy(from, to, &|_| true).is_ok() && stamps(from).ok() == before.ok() {
            return;
        }
        fs::remove_dir_all(to).unwrap_or_default();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{} does not come to rest", from.display());
}

/// Each file's size and the time when it was last written.
fn stamps(dir: &Path) -> io::Result<Vec<(PathBuf, u64, SystemTime)>> {
    let mut stamps = vec![];
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let metadata = fs::metadata(&path)?;
        if metadata.is_dir() {
            stamps.extend(self::stamps(&path)?);
        } else {
            stamps.push((path, metadata.len(), metadata.modified()?));
        }
    }
    stamps.sort();
    Ok(stamps)
}

fn copy(from: &Path, to: &Path, wanted: &dyn Fn(&Path) -> bool) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let to = to.join(path.file_name().unwrap());
        if !wanted(&path) {
        } else if path.is_dir() {
            copy(&path, &to, wanted)?;
        } else {
            fs::copy(&path, to)?;
        }
    }
    Ok(())
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files = vec![];
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(self::files(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

/// Whether the damage was noticed by a server that serves all the same.
fn is_told(dir: &Path, file: &Path) -> bool {
    match file.components().next().and_then(|part| part.as_os_str().to_str()) {
        Some("snapshots") => dir.join(file).with_extension("damaged").exists(),
        Some("state") => dir.join("state/quarantined-1").exists(),
        // Where nothing was written: it is zeros again.
        Some("wal") => true,
        _ => false,
    }
}

#[tokio::test]
async fn a_flipped_bit_in_any_file_is_found_and_never_served() {
    let seed =
        std::env::var("WEIR_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("WEIR_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let long = std::env::var_os("WEIR_LONG").is_some();
    let root = tempfile::tempdir().unwrap();
    let (mut refused, mut mended) = (0, 0);
    for from in directories(root.path()).await {
        let reference = root.path().join("reference");
        copy(&from, &reference, &|_| true).unwrap();
        let expected = serve(&reference).await.unwrap();
        fs::remove_dir_all(&reference).unwrap();
        assert_eq!((expected.audit.len(), expected.revision), (40, Revision(40)));
        for path in files(&from) {
            let file = path.strip_prefix(&from).unwrap();
            let bytes = fs::read(&path).unwrap();
            let is_state = file.starts_with("state");
            let limit = match (long, is_state) {
                (true, false) => 5 * FLIPS,
                (true, true) => 5 * STATE_FLIPS,
                (false, false) => FLIPS,
                (false, true) => STATE_FLIPS,
            };
            let exhaustive = bytes.len() <= limit;
            for flip in 0..bytes.len().min(limit) {
                let byte = if exhaustive { flip } else { random.random_range(0..bytes.len()) };
                let bit = random.random_range(0..8);
                let dir = root.path().join("flipped");
                // sled's files are large, and nothing to the others.
                copy(&from, &dir, &|path| is_state || !path.ends_with("state")).unwrap();
                let mut changed = bytes.clone();
                changed[byte] ^= 1 << bit;
                fs::write(dir.join(file), changed).unwrap();
                let at = format!("WEIR_SEED={seed}: {} byte {byte} bit {bit}", file.display());
                match serve(&dir).await {
                    Ok(served) => {
                        assert!(served == expected, "{at}: served {served:?}");
                        // A state without its marker is put aside whatever is in it.
                        assert!(is_told(&dir, file), "{at}: not noticed");
                        mended += 1;
                    }
                    Err(error) => {
                        let told = [
                            "Do not start this server on it",
                            "use that server's own data directory",
                            "use the version of Weir that wrote it",
                        ];
                        let error = error.to_string();
                        assert!(told.iter().any(|told| error.contains(told)), "{at}: {error}");
                        assert!(!is_state, "{at}: {error}");
                        refused += 1;
                    }
                }
                fs::remove_dir_all(&dir).unwrap();
            }
        }
    }
    println!("{} flipped bits: {refused} refused, {mended} mended, 0 served", refused + mended);
    assert!(refused > 100 && mended > 100);
}
