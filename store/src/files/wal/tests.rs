use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::*;
use crate::{
    disk::{EntryKind, LogEntry, Snapshot, SnapshotMeta},
    files::{Os, tests::Unsynced},
};

const SEGMENT: u64 = 2048;

fn owner() -> Owner {
    Owner { cluster_id: "c".into(), node: 1 }
}

fn open(dir: &Path) -> Result<(Wal, Found), OpenError> {
    Wal::open(dir.to_owned(), owner(), SEGMENT, Arc::new(Unsynced))
}

fn entry(index: u64, term: u64) -> LogEntry {
    let payload = Bytes::from(format!("payload {index}.{term}"));
    LogEntry { kind: EntryKind::Normal, at: Position { index, term }, payload }
}

fn batch(range: std::ops::RangeInclusive<u64>, term: u64) -> Batch {
    let commit = range.start() - 1;
    let entries = range.map(|index| entry(index, term)).collect();
    Batch { snapshot: None, entries, hard_state: Some(HardState { term, vote: 1, commit }) }
}

fn places(found: &Found) -> Vec<(u64, u64)> {
    found.log.entries.iter().map(|entry| (entry.at.index, entry.at.term)).collect()
}

fn problem(result: Result<(Wal, Found), OpenError>) -> String {
    match result {
        Err(OpenError::Damaged(damaged)) => {
            let text = damaged.to_string();
            assert!(text.contains("restore a backup"), "says what to do: {text}");
            damaged.problem
        }
        Err(other) => panic!("{other:?}"),
        Ok((_, found)) => panic!("opened: {found:?}"),
    }
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[test]
fn what_was_appended_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let (mut wal, found) = open(dir.path()).unwrap();
    assert!(found.is_fresh());
    wal.append(&batch(2..=4, 1)).unwrap();
    let last = Batch { hard_state: Some(HardState { term: 7, vote: 3, commit: 4 }), ..Batch::default() };
    wal.append(&last).unwrap();
    drop(wal);
    let (mut wal, found) = open(dir.path()).unwrap();
    assert_eq!(found.log.entries, (2..=4).map(|index| entry(index, 1)).collect::<Vec<_>>());
    assert_eq!(Some(found.log.hard_state), last.hard_state);
    assert_eq!(found.begins_after(), Some(1));
    wal.append(&batch(5..=5, 7)).unwrap();
    drop(wal);
    assert_eq!(places(&open(dir.path()).unwrap().1), [(2, 1), (3, 1), (4, 1), (5, 7)]);
}

#[test]
fn later_entries_replace_the_logs_end() {
    let dir = tempfile::tempdir().unwrap();
    let (mut wal, _) = open(dir.path()).unwrap();
    wal.append(&batch(2..=6, 1)).unwrap();
    wal.append(&batch(4..=5, 2)).unwrap();
    drop(wal);
    assert_eq!(places(&open(dir.path()).unwrap().1), [(2, 1), (3, 1), (4, 2), (5, 2)]);
}

#[test]
fn a_snapshot_of_the_leaders_begins_the_log_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (mut wal, _) = open(dir.path()).unwrap();
    wal.append(&batch(2..=6, 1)).unwrap();
    let meta = SnapshotMeta { at: Position { index: 20, term: 3 }, ..SnapshotMeta::default() };
    let snapshot = Some(Snapshot { meta, body: Bytes::new() });
    wal.append(&Batch { snapshot, ..Batch::default() }).unwrap();
    drop(wal);
    let (mut wal, found) = open(dir.path()).unwrap();
    assert_eq!((places(&found), found.begins_after()), (vec![], Some(20)));
    wal.append(&batch(21..=22, 3)).unwrap();
    drop(wal);
    assert_eq!(places(&open(dir.path()).unwrap().1), [(21, 3), (22, 3)]);
}

#[test]
fn segments_follow_each_other_and_go_when_they_are_released() {
    let dir = tempfile::tempdir().unwrap();
    let (mut wal, _) = open(dir.path()).unwrap();
    for index in 2..=100 {
        wal.append(&batch(index..=index, 1)).unwrap();
    }
    let before = segments(dir.path()).len();
    assert!(before > 4, "{before}");
    wal.release(50).unwrap();
    drop(wal);
    let after = segments(dir.path());
    assert!(after.len() < before && after.len() > 1);
    let (mut wal, found) = open(dir.path()).unwrap();
    let places = places(&found);
    assert!(places[0].0 <= 51 && places[0].0 > 20, "{places:?}");
    assert_eq!(places.last(), Some(&(100, 1)));
    assert_eq!(found.log.hard_state, HardState { term: 1, vote: 1, commit: 99 });
    wal.release(u64::MAX).unwrap();
    drop(wal);
    assert_eq!(segments(dir.path()).len(), 1, "the current one stays");
    assert_eq!(open(dir.path()).unwrap().1.log.hard_state.term, 1, "with the promises");
    fs::remove_file(&after[after.len() - 1]).unwrap();
}

#[test]
fn a_batch_larger_than_a_segment_has_a_segment_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let (mut wal, _) = open(dir.path()).unwrap();
    let mut large = batch(2..=2, 1);
    large.entries[0].payload = Bytes::from(vec![7; 10_000]);
    wal.append(&large).unwrap();
    wal.append(&batch(3..=3, 1)).unwrap();
    drop(wal);
    let found = open(dir.path()).unwrap().1;
    assert_eq!(found.log.entries[0].payload.len(), 10_000);
    assert_eq!(places(&found), [(2, 1), (3, 1)]);
}

/// A log of one segment with three batches, the last of which takes several sectors, and where each begins.
fn three_batches(dir: &Path) -> (PathBuf, Vec<u8>, [usize; 4]) {
    let (mut wal, _) = open(dir).unwrap();
    let mut at = |range, size| {
        let begin = usize::try_from(wal.offset).unwrap();
        let mut batch = batch(range, 1);
        batch.entries[0].payload = vec![b'x'; size].into();
        wal.append(&batch).unwrap();
        begin
    };
    let starts = [at(2..=3, 9), at(4..=4, 9), at(5..=6, 900)];
    let end = usize::try_from(wal.offset).unwrap();
    let [path] = &segments(dir)[..] else { panic!("one segment") };
    (path.clone(), fs::read(path).unwrap(), [starts[0], starts[1], starts[2], end])
}

#[test]
fn a_crash_that_loses_any_sectors_of_the_last_batch_costs_only_that_batch() {
    // The last batch begins anywhere in its first sector: what is before it is padded by 8 bytes at a time.
    for shift in 0..64 {
        let dir = tempfile::tempdir().unwrap();
        let (mut wal, _) = open(dir.path()).unwrap();
        let mut first = batch(2..=4, 1);
        first.entries[0].payload = vec![b'x'; 8 * shift + 1].into();
        wal.append(&first).unwrap();
        let last = usize::try_from(wal.offset).unwrap();
        let mut torn_one = batch(5..=7, 1);
        torn_one.entries[1].payload = vec![b'y'; 900].into();
        wal.append(&torn_one).unwrap();
        let end = usize::try_from(wal.offset).unwrap();
        drop(wal);
        let [path] = &segments(dir.path())[..] else { panic!("one segment") };
        let bytes = fs::read(path).unwrap();
        let sectors: Vec<_> = (last / 512..=(end - 1) / 512)
            .map(|sector| (sector * 512).max(last)..sector * 512 + 512)
            .collect();
        for lost in 1..1 << sectors.len() {
            let mut torn = bytes.clone();
            for (bit, sector) in sectors.iter().enumerate() {
                if lost & 1 << bit != 0 {
                    torn[sector.clone()].fill(0);
                }
            }
            if torn == bytes {
                continue;
            }
            fs::write(path, &torn).unwrap();
            let (mut wal, found) = open(dir.path()).unwrap();
            assert_eq!(places(&found).len(), 3, "shift {shift}, lost {lost:b}");
            wal.append(&batch(5..=5, 2)).unwrap();
            drop(wal);
            let goes_on = places(&open(dir.path()).unwrap().1);
            assert_eq!(goes_on.last(), Some(&(5, 2)), "shift {shift}, lost {lost:b}");
        }
    }
}

/// As a process that is killed in a write may leave it.
#[test]
fn a_write_that_ends_at_any_byte_of_the_last_batch_costs_only_that_batch() {
    let dir = tempfile::tempdir().unwrap();
    let (path, bytes, [_, _, last, end]) = three_batches(dir.path());
    for cut in last..end {
        let mut torn = bytes.clone();
        torn[cut..].fill(0);
        fs::write(&path, &torn).unwrap();
        let (mut wal, found) = open(dir.path()).unwrap();
        assert_eq!(places(&found).len(), 3, "byte {cut}");
        wal.append(&batch(5..=5, 2)).unwrap();
        drop(wal);
        assert_eq!(places(&open(dir.path()).unwrap().1).last(), Some(&(5, 2)), "it goes on: byte {cut}");
    }
}

#[test]
fn a_flipped_bit_anywhere_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let (path, bytes, [_, _, last, end]) = three_batches(dir.path());
    for byte in 0..bytes.len() {
        for bit in [0, 3, 7] {
            let mut changed = bytes.clone();
            changed[byte] ^= 1 << bit;
            fs::write(&path, &changed).unwrap();
            if byte < end {
                let problem = problem(open(dir.path()));
                assert!(problem.contains("not read"), "byte {byte}: {problem}");
                assert_eq!(problem.contains("in full"), byte >= last, "byte {byte}: {problem}");
            } else if let Ok((_, found)) = open(dir.path()) {
                // Where nothing was written, nothing is lost.
                assert_eq!(places(&found).len(), 5, "byte {byte}");
                assert!(fs::read(&path).unwrap()[end..].iter().all(|byte| *byte == 0), "and wiped");
            }
        }
    }
}

#[test]
fn damage_before_the_last_segment_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (mut wal, _) = open(dir.path()).unwrap();
    for index in 2..=40 {
        wal.append(&batch(index..=index, 1)).unwrap();
    }
    drop(wal);
    let paths = segments(dir.path());
    let bytes = fs::read(&paths[0]).unwrap();
    let data = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    let mut changed = bytes.clone();
    changed[data] ^= 1;
    fs::write(&paths[0], &changed).unwrap();
    assert!(problem(open(dir.path())).contains("another segment follows"));
    fs::write(&paths[0], &bytes[..data - 60]).unwrap();
    problem(open(dir.path()));
    fs::write(&paths[0], &bytes).unwrap();
    fs::rename(&paths[1], dir.path().join("aside")).unwrap();
    assert!(problem(open(dir.path())).contains("is missing"));
    fs::copy(&paths[0], &paths[1]).unwrap();
    problem(open(dir.path()));
    fs::write(&paths[1], []).unwrap();
    assert!(problem(open(dir.path())).contains("first records"));
}

#[test]
fn another_servers_log_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).unwrap());
    for other in [Owner { node: 2, ..owner() }, Owner { cluster_id: "d".into(), ..owner() }] {
        let opened = Wal::open(dir.path().to_owned(), other, SEGMENT, Arc::new(Os));
        assert!(problem(opened).contains("another server's"));
    }
}

#[test]
fn a_segment_that_was_being_made_is_no_segment() {
    let dir = tempfile::tempdir().unwrap();
    let (mut wal, _) = open(dir.path()).unwrap();
    wal.append(&batch(2..=2, 1)).unwrap();
    drop(wal);
    let draft = dir.path().join("00000002.draft");
    fs::write(&draft, b"half").unwrap();
    assert_eq!(places(&open(dir.path()).unwrap().1), [(2, 1)]);
    assert!(!draft.exists());
}

#[test]
fn any_bytes_are_refused_or_cut_and_never_believed() {
    let dir = tempfile::tempdir().unwrap();
    let (path, bytes, _) = three_batches(dir.path());
    let all = open(dir.path()).unwrap().1.log.entries;
    let junk = proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300);
    let few = proptest::test_runner::Config::with_cases(64);
    proptest::proptest!(few, |(junk in junk, at in 0usize..600)| {
        let mut changed = bytes.clone();
        changed[at..at + junk.len()].copy_from_slice(&junk);
        fs::write(&path, &changed).unwrap();
        if let Ok((_, found)) = open(dir.path()) {
            proptest::prop_assert!(all.starts_with(&found.log.entries));
        }
    });
}

#[derive(Debug, Default)]
struct Breaks(AtomicBool);

impl FileSystem for Breaks {
    fn sync(&self, file: &File) -> io::Result<()> {
        if self.0.load(Ordering::SeqCst) { Err(io::Error::other("EIO")) } else { Os.sync(file) }
    }
}

#[test]
fn a_sync_that_fails_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let files = Arc::new(Breaks::default());
    let (mut wal, _) = Wal::open(dir.path().to_owned(), owner(), SEGMENT, files.clone()).unwrap();
    wal.append(&batch(2..=2, 1)).unwrap();
    files.0.store(true, Ordering::SeqCst);
    let error = wal.append(&batch(3..=3, 1)).unwrap_err().to_string();
    assert!(error.contains("00000001.wal") && error.contains("EIO"), "{error}");
    assert!(Wal::open(dir.path().to_owned(), owner(), SEGMENT, files).is_err(), "nor is it trusted unsynced");
}
