use super::*;
use crate::{
    Epoch, Txn,
    disk::{Disk, MemDisk, Snapshots},
    machine::Position,
};

pub(super) fn config() -> NodeConfig {
    NodeConfig {
        id: 1,
        cluster_id: "c".into(),
        origin: 7,
        keep_revisions: 1000,
        keep_bytes: 1 << 20,
        snapshot_entries: 1000,
        snapshot_bytes: 10_000,
        trailing_entries: 100,
        election_ticks: None,
    }
}

pub(super) fn genesis(voters: Vec<NodeId>) -> MemDisk {
    let members = wire::Members { voters, ..wire::Members::default() };
    let machine = Machine::genesis(Epoch { counter: 1, id: 1 }, Position { index: 1, term: 1 }, members);
    MemDisk::new(image::encode(&machine, "c").unwrap())
}

fn start(disk: &MemDisk) -> Node {
    let recovered = disk.recover();
    Node::new(config(), &recovered, image::decode(&recovered.snapshot).unwrap()).unwrap()
}

/// Runs the node; its answers and how many snapshots it took.
fn run(node: &mut Node, disk: &mut MemDisk) -> (Vec<Outcome>, usize) {
    let (mut answers, mut snapshots) = (Vec::new(), 0);
    while let Some(turn) = node.turn() {
        disk.append(turn.batch()).unwrap();
        let effects = turn.persisted().unwrap();
        answers.extend(effects.answers.into_iter().map(|(_, outcome)| outcome));
        if let Some(machine) = effects.snapshot {
            let snapshot = image::encode(&machine, "c").unwrap();
            disk.save(&snapshot).unwrap();
            node.snapshot_saved(snapshot.meta.at.index);
            disk.release().unwrap();
            snapshots += 1;
        }
    }
    (answers, snapshots)
}

fn put(size: usize) -> Command {
    Command::Txn { txn: Txn::new("a").put("k", vec![7; size]), time_ms: 1 }
}

#[test]
fn a_server_that_is_alone_leads_when_it_stands() {
    let mut disk = genesis(vec![1]);
    let mut node = start(&disk);
    assert!(node.is_alone());
    assert_eq!(node.propose(&put(1)), Err(NotProposed::NoLeader));
    node.campaign().unwrap();
    run(&mut node, &mut disk);
    assert!(node.leadership().leader);
    node.propose(&put(1)).unwrap();
    assert_eq!(run(&mut node, &mut disk).0, [Outcome::Committed(Revision(1))]);
}

#[test]
fn nothing_is_answered_before_it_is_durable() {
    let mut disk = genesis(vec![1]);
    let mut node = start(&disk);
    node.campaign().unwrap();
    run(&mut node, &mut disk);
    node.propose(&put(1)).unwrap();
    let turn = node.turn().unwrap();
    assert_eq!(turn.batch().entries.len(), 1);
    // The server ends here: the write was never answered, and never was.
    drop(node);
    let mut node = start(&disk);
    node.campaign().unwrap();
    assert_eq!(run(&mut node, &mut disk).0, []);
    assert_eq!(node.read_machine(Machine::revision), Revision(0));
}

#[test]
fn an_acknowledged_write_is_there_after_a_restart() {
    let mut disk = genesis(vec![1]);
    for restart in 0..30 {
        let mut node = start(&disk);
        node.campaign().unwrap();
        run(&mut node, &mut disk);
        assert_eq!(node.read_machine(Machine::revision), Revision(restart));
        node.propose(&put(900)).unwrap();
        assert_eq!(run(&mut node, &mut disk).0, [Outcome::Committed(Revision(restart + 1))]);
    }
}

#[test]
fn snapshots_are_taken_by_the_bytes_applied_since_the_last_one() {
    let mut disk = genesis(vec![1]);
    let mut node = start(&disk);
    node.campaign().unwrap();
    let mut snapshots = 0;
    for _ in 0..100 {
        node.propose(&put(1000)).unwrap();
        snapshots += run(&mut node, &mut disk).1;
    }
    // Some 1,100 bytes each; what trails a snapshot does not count again.
    assert!((8..=12).contains(&snapshots), "{snapshots}");
}

#[test]
fn a_snapshot_that_the_log_does_not_continue_is_replaced() {
    let mut disk = genesis(vec![1]);
    let first = Snapshots::newest(&disk).unwrap();
    let mut node = start(&disk);
    node.campaign().unwrap();
    let mut snapshots = 0;
    while snapshots < 2 {
        node.propose(&put(1000)).unwrap();
        snapshots += run(&mut node, &mut disk).1;
    }
    // The newer ones do not read: a server that is behind must not be sent this one again and again.
    let members = node.read_machine(|machine| machine.members().clone());
    node.offer_snapshot(&first, &members);
    node.propose(&put(1)).unwrap();
    assert_eq!(run(&mut node, &mut disk).1, 1);
}

#[test]
fn a_log_shorter_than_the_state_is_refused() {
    let disk = genesis(vec![1]);
    let recovered = disk.recover();
    let mut machine = image::decode(&recovered.snapshot).unwrap();
    machine.skip(Position { index: 9, term: 1 }, &mut Delta::default());
    let error = Node::new(config(), &recovered, machine).unwrap_err().to_string();
    assert!(error.contains("the log ends at 1"), "{error}");
}

#[test]
fn messages_of_strangers_are_dropped() {
    let disk = genesis(vec![1, 2]);
    let mut node = start(&disk);
    let message = |change: fn(&mut PeerMessage)| {
        let kind = u32::try_from(protobuf::ProtobufEnum::value(&eraftpb::MessageType::MsgHeartbeatResponse));
        let cluster_id = "c".to_owned();
        let mut message =
            PeerMessage { kind: kind.unwrap(), to: 1, from: 2, cluster_id, ..PeerMessage::default() };
        change(&mut message);
        message
    };
    let mut problem = |change| node.step(message(change)).err().map(|error| error.problem);
    assert_eq!(problem(|_| ()), None);
    assert_eq!(problem(|m| m.cluster_id = "d".into()), Some("another cluster's"));
    assert_eq!(problem(|m| m.to = 2), Some("another server's"));
    assert_eq!(problem(|m| m.from = 3), Some("not from a member"));
    assert_eq!(problem(|m| m.kind = 0), Some("of a kind that no server sends"));
    let broken = wire::SnapshotMeta {
        cluster_id: "c".into(),
        state_hash: vec![0; 32].into(),
        ..wire::SnapshotMeta::default()
    };
    let snapshot = wire::Snapshot { meta: Some(broken), body: vec![1, 2, 3].into() };
    let mut with_snapshot = message(|_| ());
    with_snapshot.snapshot = Some(snapshot);
    assert_eq!(node.step(with_snapshot).unwrap_err().problem, "snapshot that does not read");
}
