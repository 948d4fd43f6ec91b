use bytes::Bytes;
use model::Revision;

use super::*;
use crate::{
    Txn,
    files::Os,
    machine::tests::busy_machine,
    txn::{Command, Ticket},
};

fn open(dir: &Path) -> (State, Option<Machine>) {
    State::open(dir.to_owned(), Arc::new(Os)).unwrap()
}

fn apply(machine: &mut Machine, state: &mut State, command: Command) {
    let mut delta = Delta::default();
    let at = Position { index: machine.applied().index + 1, term: 1 };
    machine.apply(at, Ticket { origin: 1, number: at.index }, command, &mut delta);
    state.write(delta);
}

fn put(key: &str, size: usize) -> Command {
    let value: Vec<u8> = (0..=250).cycle().take(size).collect();
    Command::Txn { txn: Txn::new("a").put(key, Bytes::from(value)), time_ms: 1 }
}

/// A directory that was closed in good order, with values of all sizes, and what it holds.
fn closed() -> (tempfile::TempDir, Machine) {
    let dir = tempfile::tempdir().unwrap();
    let (mut state, found) = open(dir.path());
    assert!(found.is_none());
    let mut machine = busy_machine(40);
    state.rebuild(&machine);
    for size in [0, 1, CHUNK - 30, CHUNK, CHUNK + 1, 5 * CHUNK, 1_000_000] {
        apply(&mut machine, &mut state, put("large", size));
        apply(&mut machine, &mut state, put(&format!("k{size}"), size));
    }
    let revision = Revision(machine.revision().0 - 5);
    apply(&mut machine, &mut state, Command::Compact { revision });
    state.close(&machine);
    (dir, machine)
}

#[test]
fn what_was_closed_in_good_order_is_taken() {
    let (dir, machine) = closed();
    let (mut state, found) = open(dir.path());
    let mut found = found.unwrap();
    assert!(found.items().eq(machine.items()));
    apply(&mut found, &mut state, put("more", 40_000));
    state.close(&found);
    assert_eq!(open(dir.path()).1.unwrap().hash(), found.hash());
}

#[test]
fn without_the_marker_it_is_put_aside() {
    let (dir, machine) = closed();
    drop(open(dir.path()));
    assert!(!dir.path().join("CLEAN").exists(), "opening takes the marker");
    let (mut state, found) = open(dir.path());
    assert!(found.is_none());
    assert!(dir.path().join("quarantined-1").exists());
    state.rebuild(&machine);
    state.close(&machine);
    assert!(open(dir.path()).1.is_some(), "made anew");
}

#[test]
fn no_more_than_two_are_kept_aside() {
    let (dir, _) = closed();
    (0..5).for_each(|_| drop(open(dir.path())));
    let mut names: Vec<_> =
        fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["db", "quarantined-3", "quarantined-4"]);
}

#[test]
fn another_hash_is_not_believed() {
    let (dir, _) = closed();
    {
        let db = open_sled(&dir.path().join("db")).unwrap();
        let (key, value) = db.iter().next_back().unwrap().unwrap();
        let mut value = value.to_vec();
        *value.last_mut().unwrap() ^= 1;
        db.insert(key, value).unwrap();
        db.flush().unwrap();
    }
    assert!(open(dir.path()).1.is_none());
    assert!(dir.path().join("quarantined-1").exists());
}

#[test]
fn damage_of_any_file_is_found() {
    let (dir, _) = closed();
    let path = dir.path().join("db/db");
    let (bytes, marker) = (fs::read(&path).unwrap(), fs::read(marker_path(dir.path())).unwrap());
    for part in 0..16 {
        let mut changed = bytes.clone();
        let from = changed.len() / 16 * part;
        for byte in (from..from + changed.len() / 16).step_by(997) {
            changed[byte] ^= 0x55;
        }
        fs::remove_dir_all(dir.path()).unwrap();
        fs::create_dir_all(dir.path().join("db")).unwrap();
        fs::write(&path, &changed).unwrap();
        fs::write(marker_path(dir.path()), &marker).unwrap();
        assert!(open(dir.path()).1.is_none(), "part {part}");
    }
}

#[test]
fn a_marker_that_does_not_read_is_none() {
    let (dir, _) = closed();
    fs::write(marker_path(dir.path()), b"{").unwrap();
    assert!(open(dir.path()).1.is_none());
}
