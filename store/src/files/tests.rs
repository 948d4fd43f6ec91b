use super::*;
use crate::{
    disk::{EntryKind, HardState, LogEntry, SnapshotMeta},
    image,
    machine::{Position, tests::busy_machine},
};

/// For tests that open thousands of directories.
#[derive(Debug)]
pub(super) struct Unsynced;

impl FileSystem for Unsynced {
    fn sync(&self, _: &File) -> io::Result<()> {
        Ok(())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
}

fn options() -> Options {
    Options { node: 1, cluster_id: None, existing: false, segment: 4096, files: Arc::new(Unsynced) }
}

fn open(dir: &Path) -> Result<Opened, OpenError> {
    FileDisk::open(dir, &options(), |cluster_id| image::encode(&busy_machine(3), cluster_id))
}

fn snapshot(opened: &Opened, index: u64) -> Snapshot {
    let at = Position { index, term: 1 };
    let meta = SnapshotMeta { at, cluster_id: opened.cluster_id.clone(), ..SnapshotMeta::default() };
    Snapshot { meta, body: format!("body {index}").into() }
}

fn batch(index: u64) -> Batch {
    let at = Position { index, term: 1 };
    let entries = vec![LogEntry { kind: EntryKind::Normal, at, payload: vec![1; 200].into() }];
    Batch { entries, hard_state: Some(HardState { term: 1, vote: 1, commit: 0 }), ..Batch::default() }
}

#[test]
fn a_new_directory_begins_with_the_genesis() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path()).unwrap();
    let genesis = first.recovered.snapshot.clone();
    assert_eq!(genesis, image::encode(&busy_machine(3), &first.cluster_id).unwrap());
    assert_eq!(first.recovered.entries, []);
    let cluster = first.cluster_id.clone();
    drop(first);
    let again = open(dir.path()).unwrap();
    assert_eq!((again.recovered.snapshot, again.cluster_id), (genesis, cluster));
}

#[test]
fn a_lock_ends_with_its_holder_also_if_a_child_has_a_copy() {
    let dir = tempfile::tempdir().unwrap();
    let first = lock(dir.path()).unwrap();
    // Shares the lock, as a copy in a forked process does.
    let _copy = first.0.try_clone().unwrap();
    assert!(matches!(lock(dir.path()), Err(OpenError::InUse { .. })));
    drop(first);
    lock(dir.path()).unwrap();
}

#[test]
fn a_directory_has_one_process_and_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path()).unwrap();
    assert!(matches!(open(dir.path()), Err(OpenError::InUse { .. })));
    drop(first);
    let with = |options: Options| FileDisk::open(dir.path(), &options, |_| unreachable!());
    let other_node = with(Options { node: 2, ..options() });
    assert!(matches!(other_node, Err(OpenError::WrongNode { found: 1, wanted: 2, .. })), "{other_node:?}");
    let other_cluster = with(Options { cluster_id: Some("other".into()), ..options() });
    assert!(matches!(other_cluster, Err(OpenError::WrongCluster { .. })), "{other_cluster:?}");
    let path = dir.path().join("identity");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"format\":2", "\"format\":9")).unwrap();
    assert!(matches!(open(dir.path()), Err(OpenError::Format { found: 9, .. })));
    fs::write(&path, "{").unwrap();
    assert!(matches!(open(dir.path()), Err(OpenError::Damaged(_))));
}

#[test]
fn parts_that_are_gone_are_missed() {
    for part in ["identity", "wal", "snapshots"] {
        let dir = tempfile::tempdir().unwrap();
        let mut opened = open(dir.path()).unwrap();
        opened.disk.append(&batch(opened.recovered.snapshot.meta.at.index + 1)).unwrap();
        drop(opened);
        let path = dir.path().join(part);
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap()
        } else {
            fs::remove_file(path).unwrap()
        }
        let error = open(dir.path()).unwrap_err();
        assert!(matches!(&error, OpenError::Damaged(damaged) if damaged.problem.contains("gone")), "{error}");
    }
}

#[test]
fn a_directory_whose_making_was_interrupted_is_made() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).unwrap());
    fs::remove_dir_all(dir.path().join("snapshots")).unwrap();
    assert!(open(dir.path()).is_ok(), "before its first snapshot");
    fs::remove_dir_all(dir.path().join("snapshots")).unwrap();
    fs::remove_dir_all(dir.path().join("wal")).unwrap();
    assert!(open(dir.path()).is_ok(), "before its log");
}

#[test]
fn two_snapshots_are_kept_and_the_log_behind_the_older() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open(dir.path()).unwrap();
    let genesis = opened.recovered.snapshot.meta.at.index;
    for index in genesis + 1..genesis + 100 {
        opened.disk.append(&batch(index)).unwrap();
        if [40, 60, 80].contains(&(index - genesis)) {
            opened.disk.snapshots.save(&snapshot(&opened, index)).unwrap();
            opened.disk.release().unwrap();
        }
    }
    let (newest, older) = (snapshot(&opened, genesis + 80), snapshot(&opened, genesis + 60));
    drop(opened);
    let path = |snapshot: &Snapshot| {
        let at = snapshot.meta.at;
        dir.path().join(format!("snapshots/{:016x}-{:016x}.snap", at.index, at.term))
    };
    assert_eq!(fs::read_dir(dir.path().join("snapshots")).unwrap().count(), 2);
    let recovered = open(dir.path()).unwrap().recovered;
    assert_eq!((recovered.snapshot, recovered.entries.len()), (newest.clone(), 19));

    let mut bytes = fs::read(path(&newest)).unwrap();
    bytes[50] ^= 1;
    fs::write(path(&newest), &bytes).unwrap();
    let recovered = open(dir.path()).unwrap().recovered;
    assert_eq!((recovered.snapshot, recovered.entries.len()), (older.clone(), 39), "the older one continues");
    assert!(!path(&newest).exists(), "what is damaged counts as a spare no more");
    assert!(path(&newest).with_extension("damaged").exists());

    fs::write(path(&older), b"").unwrap();
    assert!(matches!(open(dir.path()), Err(OpenError::Damaged(_))), "none reads");
}

#[test]
fn any_changed_byte_of_a_snapshot_is_found() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).unwrap());
    let [path] = &fs::read_dir(dir.path().join("snapshots")).unwrap().collect::<Vec<_>>()[..] else {
        panic!()
    };
    let path = path.as_ref().unwrap().path();
    let bytes = fs::read(&path).unwrap();
    for byte in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[byte] ^= 4;
        fs::write(&path, &changed).unwrap();
        assert!(matches!(open(dir.path()), Err(OpenError::Damaged(_))), "byte {byte}");
    }
}

#[test]
fn a_log_that_does_not_reach_back_to_its_snapshot_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open(dir.path()).unwrap();
    let genesis = opened.recovered.snapshot.meta.at.index;
    let mut install = batch(genesis + 51);
    install.snapshot = Some(snapshot(&opened, genesis + 50));
    opened.disk.append(&install).unwrap();
    let newest = opened.disk.snapshots.newest().unwrap();
    assert_eq!(newest, snapshot(&opened, genesis + 50));
    drop(opened);
    let recovered = open(dir.path()).unwrap().recovered;
    assert_eq!((recovered.snapshot.meta.at.index, recovered.entries.len()), (genesis + 50, 1));
    let name = format!("snapshots/{:016x}-{:016x}.snap", genesis + 50, 1);
    fs::remove_file(dir.path().join(name)).unwrap();
    let error = open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("the log begins after"), "{error}");
}

/// The server ends after a leader's snapshot is durable and before the log says that it follows it.
#[test]
fn a_log_that_a_snapshot_replaced_halfway_goes_on_behind_the_snapshot() {
    // The snapshot is ahead of the log, or of another history than the log's entries there.
    for at in [Position { index: 40, term: 2 }, Position { index: 5, term: 2 }] {
        let dir = tempfile::tempdir().unwrap();
        let mut opened = open(dir.path()).unwrap();
        let first = opened.recovered.snapshot.meta.at.index + 1;
        for index in first..first + 6 {
            opened.disk.append(&batch(index)).unwrap();
        }
        let at = Position { index: at.index.max(first + 2), ..at };
        let meta = SnapshotMeta { at, ..snapshot(&opened, at.index).meta };
        opened.disk.snapshots().save(&Snapshot { meta, ..snapshot(&opened, at.index) }).unwrap();
        drop(opened);

        let mut opened = open(dir.path()).unwrap();
        assert_eq!((opened.recovered.snapshot.meta.at, opened.recovered.entries.len()), (at, 0));
        let next = LogEntry {
            kind: EntryKind::Normal,
            at: Position { index: at.index + 1, term: 2 },
            payload: vec![2; 20].into(),
        };
        let hard_state = Some(HardState { term: 2, vote: 0, commit: at.index });
        opened.disk.append(&Batch { entries: vec![next.clone()], hard_state, ..Batch::default() }).unwrap();
        drop(opened);

        let opened = open(dir.path()).unwrap();
        assert_eq!(opened.recovered.entries, [next], "what was acknowledged behind the snapshot at {at:?}");
        assert_eq!(opened.recovered.hard_state.term, 2);
    }
}

#[test]
fn two_threads_can_save_snapshots_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(dir.path()).unwrap();
    let snapshots =
        SnapshotDir::open(dir.path().join("snapshots"), opened.cluster_id.clone(), Arc::new(Unsynced))
            .unwrap();
    let save = |first: u64| {
        let (snapshots, opened) = (&snapshots, &opened);
        move || (first..600).step_by(2).try_for_each(|index| snapshots.save(&snapshot(opened, 100 + index)))
    };
    std::thread::scope(|scope| {
        let (one, two) = (scope.spawn(save(0)), scope.spawn(save(1)));
        one.join().unwrap().unwrap();
        two.join().unwrap().unwrap();
    });
    assert_eq!(snapshots.newest().unwrap(), snapshot(&opened, 699));
}
