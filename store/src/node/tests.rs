use super::*;
use crate::{
    Epoch, Txn,
    disk::{Disk, MemDisk, Snapshots},
    machine::Position,
    members::MemberChange,
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
        caught_up_entries: 128,
        election_ticks: None,
    }
}

pub(super) fn genesis(voters: Vec<NodeId>) -> MemDisk {
    let members = wire::Members { voters, ..wire::Members::default() };
    let machine = Machine::genesis(Epoch { counter: 1, id: 1 }, Position { index: 1, term: 1 }, members);
    MemDisk::new(image::encode(&machine, "c").unwrap())
}

fn start(disk: &MemDisk) -> Node {
    start_as(1, disk)
}

fn start_as(id: NodeId, disk: &MemDisk) -> Node {
    let recovered = disk.recover();
    let config = NodeConfig { id, origin: 6 + id, ..config() };
    Node::new(config, &recovered, image::decode(&recovered.snapshot).unwrap()).unwrap()
}

/// Three servers, of which the first leads.
fn trio() -> Vec<(Node, MemDisk)> {
    let disks = (1..=3).map(|id| (id, genesis(vec![1, 2, 3])));
    let mut servers: Vec<_> = disks.map(|(id, disk)| (start_as(id, &disk), disk)).collect();
    servers[0].0.campaign().unwrap();
    exchange(&mut servers, &[]);
    assert!(servers[0].0.leadership().leader);
    servers
}

/// Carries messages between servers until nobody has any; `down` says and hears nothing.
fn exchange(servers: &mut [(Node, MemDisk)], down: &[NodeId]) {
    exchange_while(servers, down, |_| ());
}

fn exchange_while(
    servers: &mut [(Node, MemDisk)],
    down: &[NodeId],
    mut meanwhile: impl FnMut(&mut [(Node, MemDisk)]),
) {
    loop {
        meanwhile(servers);
        let mut messages = Vec::new();
        for (node, disk) in servers.iter_mut() {
            while let Some(mut turn) = node.turn() {
                messages.extend(turn.messages());
                disk.append(turn.batch()).unwrap();
                messages.extend(turn.persisted().unwrap().messages);
            }
        }
        messages.retain(|message| !down.contains(&message.from) && !down.contains(&message.to));
        if messages.is_empty() {
            return;
        }
        for message in messages {
            let to = usize::try_from(message.to - 1).unwrap();
            // Of one that is no member any more.
            servers[to].0.step(message).ok();
        }
    }
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

#[test]
fn a_leader_that_is_removed_leads_no_more() {
    let mut servers = trio();
    // As a leader before it proposed it, which it found in its log.
    let removal = peer::change_to_raft(&MemberChange::Remove { id: 1 }, Ticket { origin: 99, number: 0 });
    servers[0].0.raw.propose_conf_change(Vec::new(), removal).unwrap();
    exchange_while(&mut servers, &[], |servers| {
        // Its own writes are under way all the time.
        servers[0].0.propose(&put(1)).ok();
    });
    assert!(!servers[0].0.read_machine(|machine| machine.is_member(1)));
    assert!(!servers[0].0.is_leader());
    // The others hear nothing of it any more, and elect one of them.
    for (node, _) in &mut servers[1..] {
        let term = node.raw.raft.term;
        node.raw.raft.become_follower(term, raft::INVALID_ID);
    }
    servers[1].0.campaign().unwrap();
    exchange(&mut servers, &[1]);
    assert!(servers[1].0.leadership().leader);
}

#[test]
fn leadership_is_not_handed_to_who_is_silent() {
    let mut servers = trio();
    for _ in 0..8 {
        servers.iter_mut().for_each(|(node, _)| node.tick());
        exchange(&mut servers, &[3]);
    }
    // It has all of the log, as the other one has.
    assert_eq!(servers[0].0.transfer(), Some(2));
}

#[test]
fn a_change_of_members_is_known_after_a_crash() {
    let mut servers = trio();
    servers[0].0.change_members(&MemberChange::Remove { id: 3 }).unwrap();
    exchange(&mut servers, &[]);
    for (node, disk) in &servers[..2] {
        assert!(!node.read_machine(|machine| machine.is_member(3)));
        // Or it would wait for the vote of the one that has gone.
        let applied = node.read_machine(|machine| machine.applied().index);
        assert_eq!(start_as(node.config.id, disk).commit_index(), applied);
    }
}
