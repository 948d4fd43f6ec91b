//! Three servers without I/O on a network that loses, repeats and reorders, with partitions and with crashes that
//! lose what was not synced. A run is given by its seed; `WEIR_SEEDS=5000 cargo test -p store sim` runs more of them.
//!
//! What is checked:
//!  - one leader a term; equal state hashes wherever two servers have applied the same index;
//!  - a request is applied once: one revision a request and one request a revision;
//!  - what was acknowledged stays;
//!  - linearizable: a write that began after another was answered has a later revision, a read sees every write that
//!    was answered before it began, and each compare held at its transaction's revision (replayed against a map);
//!  - when the network heals, the servers agree and take writes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::PoisonError,
};

use store::{
    Key, NodeId, Op, Outcome, Revision, Txn,
    disk::{Disk, MemDisk, Snapshot, Snapshots},
    image,
    machine::{Machine, Position},
    node::{Effects, Node, NodeConfig, ReadId},
    peer::PeerMessage,
    txn::{Command, Ticket},
};

const SERVERS: usize = 3;
const STEPS: u64 = 1500;
const KEYS: u64 = 5;

/// splitmix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, chance: u64) -> bool {
        self.below(chance) == 0
    }

    fn server(&mut self) -> usize {
        usize::try_from(self.below(SERVERS as u64)).unwrap()
    }
}

struct Server {
    node: Option<Node>,
    disk: MemDisk,
    origin: u64,
}

/// A request as its client saw it.
#[derive(Clone)]
struct Asked {
    txn: Txn,
    /// Steps.
    began: u64,
    answered: Option<(u64, Revision)>,
}

struct World {
    rng: Rng,
    step: u64,
    origins: u64,
    servers: Vec<Server>,
    network: Vec<PeerMessage>,
    /// Pairs that do not hear each other.
    cut: BTreeSet<(NodeId, NodeId)>,
    calm: bool,
    asked: Vec<Asked>,
    tickets: BTreeMap<Ticket, usize>,
    /// The highest revision answered before the read began.
    reads: BTreeMap<(u64, ReadId), Revision>,
    leaders: BTreeMap<u64, usize>,
    hashes: BTreeMap<u64, (usize, store::StateHash)>,
    counts: Counts,
}

/// That a run means something.
#[derive(Debug, Default)]
struct Counts {
    committed: u64,
    conflicts: u64,
    duplicates: u64,
    reads: u64,
    crashes: u64,
    installed: u64,
    snapshots: u64,
}

fn genesis() -> Snapshot {
    let epoch = store::Epoch { counter: 1, id: 1 };
    let members = api::store::Members { voters: vec![1, 2, 3], ..Default::default() };
    image::encode(&Machine::genesis(epoch, Position { index: 1, term: 1 }, members), "sim").unwrap()
}

impl World {
    fn new(seed: u64) -> Self {
        let server = |_| Server { node: None, disk: MemDisk::new(genesis()), origin: 0 };
        let mut world = Self {
            rng: Rng(seed),
            step: 0,
            origins: 0,
            servers: (0..SERVERS).map(server).collect(),
            network: Vec::new(),
            cut: BTreeSet::new(),
            calm: false,
            asked: Vec::new(),
            tickets: BTreeMap::new(),
            reads: BTreeMap::new(),
            leaders: BTreeMap::new(),
            hashes: BTreeMap::new(),
            counts: Counts::default(),
        };
        (0..SERVERS).for_each(|server| world.start(server));
        world
    }

    fn start(&mut self, server: usize) {
        self.origins += 1;
        let id = server as u64 + 1;
        let config = NodeConfig {
            id,
            cluster_id: "sim".into(),
            origin: self.origins,
            keep_revisions: 1_000_000,
            keep_bytes: u64::MAX,
            snapshot_entries: 25,
            snapshot_bytes: 1 << 20,
            trailing_entries: 5,
            // Different on each, so that they do not vote for ever at once.
            election_ticks: Some(usize::try_from(10 + 3 * id + self.rng.below(3)).unwrap()),
        };
        let this = &mut self.servers[server];
        let recovered = this.disk.recover();
        let machine = image::decode(&recovered.snapshot).unwrap();
        this.node = Some(Node::new(config, &recovered, machine).unwrap());
        this.origin = self.origins;
    }

    fn crash(&mut self, server: usize) {
        if self.servers[server].node.take().is_some() {
            self.counts.crashes += 1;
        }
    }

    /// A crash at one of the moments that matter; never when the network is calm.
    fn crashes_now(&mut self) -> bool {
        !self.calm && self.rng.one_in(1200)
    }

    /// Runs a server until it has nothing to do, or crashes.
    fn run(&mut self, server: usize) {
        while let Some(mut node) = self.servers[server].node.take() {
            let Some(mut turn) = node.turn() else {
                self.servers[server].node = Some(node);
                break;
            };
            self.network.extend(turn.messages());
            if self.crashes_now() {
                self.counts.crashes += 1;
                return;
            }
            self.counts.installed += u64::from(turn.batch().snapshot.is_some());
            self.servers[server].disk.append(turn.batch()).unwrap();
            if self.crashes_now() {
                self.counts.crashes += 1;
                return;
            }
            let effects = turn.persisted().unwrap();
            self.check_state(server, &node);
            self.carry_out(server, &mut node, effects);
            self.servers[server].node = Some(node);
        }
    }

    fn carry_out(&mut self, server: usize, node: &mut Node, effects: Effects) {
        self.network.extend(effects.messages);
        let origin = self.servers[server].origin;
        for (ticket, outcome) in effects.answers {
            if ticket.origin == origin
                && let Some(asked) = self.tickets.remove(&ticket)
            {
                self.answered(asked, &outcome);
            }
        }
        for id in effects.reads {
            let least = self.reads.remove(&(origin, id)).expect("asked");
            let have = read(node, Machine::revision);
            assert!(have >= least, "a read saw {have}, though {least} was answered before it began");
            self.counts.reads += 1;
        }
        let disk = &mut self.servers[server].disk;
        if let Some(machine) = effects.snapshot {
            let snapshot = image::encode(&machine, "sim").unwrap();
            disk.snapshots().save(&snapshot).unwrap();
            node.snapshot_saved(snapshot.meta.at.index);
            disk.release().unwrap();
            self.counts.snapshots += 1;
        }
        if effects.snapshot_wanted {
            let snapshot = disk.newest().unwrap();
            let members = image::decode(&snapshot).unwrap().members().clone();
            node.offer_snapshot(&snapshot, &members);
        }
    }

    fn answered(&mut self, asked: usize, outcome: &Outcome) {
        match outcome {
            Outcome::Committed(revision) | Outcome::Duplicate(revision) => {
                let asked = &mut self.asked[asked];
                if let Some((_, before)) = asked.answered {
                    assert_eq!(before, *revision, "one revision a request");
                } else {
                    asked.answered = Some((self.step, *revision));
                }
                self.counts.committed += u64::from(matches!(outcome, Outcome::Committed(_)));
                self.counts.duplicates += u64::from(matches!(outcome, Outcome::Duplicate(_)));
            }
            Outcome::Conflict { .. } => self.counts.conflicts += 1,
            other => panic!("{other:?}"),
        }
    }

    fn check_state(&mut self, server: usize, node: &Node) {
        let leadership = node.leadership();
        if leadership.leader {
            let leader = *self.leaders.entry(leadership.term).or_insert(server);
            assert_eq!(leader, server, "two leaders in term {}", leadership.term);
        }
        let (applied, hash) = read(node, |machine| (machine.applied().index, machine.hash()));
        let (other, expected) = *self.hashes.entry(applied).or_insert((server, hash));
        assert_eq!(hash, expected, "servers {server} and {other} differ at entry {applied}");
    }

    fn act(&mut self) {
        self.step += 1;
        let server = self.rng.server();
        match self.rng.below(100) {
            0..30 => (0..SERVERS).for_each(|server| self.with(server, Node::tick)),
            30..75 => (0..6).for_each(|_| self.deliver()),
            75..88 => self.write(server),
            88..93 => self.read(server),
            93..96 if !self.calm => self.repartition(),
            96..97 if !self.calm && self.rng.one_in(3) => self.crash(server),
            _ if self.servers[server].node.is_none() && self.rng.one_in(3) => self.start(server),
            _ => self.with(server, Node::tick),
        }
        (0..SERVERS).for_each(|server| self.run(server));
    }

    fn with(&mut self, server: usize, act: impl FnOnce(&mut Node)) {
        if let Some(node) = &mut self.servers[server].node {
            act(node);
        }
    }

    fn deliver(&mut self) {
        if self.network.is_empty() {
            return;
        }
        // Mostly in order: with everything shuffled, little is ever agreed on.
        let shuffled = self.rng.one_in(8) && !self.calm;
        let at = if shuffled { self.rng.below(self.network.len() as u64) } else { 0 };
        let message = self.network.remove(usize::try_from(at).unwrap());
        let pair = (message.from.min(message.to), message.from.max(message.to));
        if self.cut.contains(&pair) || (!self.calm && self.rng.one_in(25)) {
            return;
        }
        if !self.calm && self.rng.one_in(40) {
            self.network.push(message.clone());
        }
        let to = usize::try_from(message.to).unwrap() - 1;
        if let Some(node) = &mut self.servers[to].node {
            node.step(message).expect("members of one cluster");
        }
    }

    fn write(&mut self, server: usize) {
        let again = !self.asked.is_empty() && self.rng.one_in(5);
        let asked = if again {
            let back = self.rng.below(self.asked.len().min(10) as u64);
            self.asked.len() - 1 - usize::try_from(back).unwrap()
        } else {
            let txn = self.draw(server);
            self.asked.push(Asked { txn, began: self.step, answered: None });
            self.asked.len() - 1
        };
        let command = Command::Txn { txn: self.asked[asked].txn.clone(), time_ms: 0 };
        if let Some(node) = &mut self.servers[server].node
            && let Ok(ticket) = node.propose(&command)
        {
            self.tickets.insert(ticket, asked);
        }
    }

    /// A transaction on two keys, sometimes with a compare that held a moment ago on this server.
    fn draw(&mut self, server: usize) -> Txn {
        let id = format!("r{}", self.asked.len());
        let key = |n: u64| Key::from(format!("k{n}"));
        let (one, two) = (self.rng.below(KEYS), self.rng.below(KEYS - 1));
        let two = if two >= one { two + 1 } else { two };
        let txn = Txn { request_id: id.clone(), ..Txn::new("sim") };
        let txn = txn.put(key(one), id.clone());
        let txn = if self.rng.one_in(3) { txn.delete(key(two)) } else { txn.put(key(two), id) };
        match &self.servers[server].node {
            Some(node) if self.rng.one_in(3) => {
                let revision = read(node, |machine| machine.mod_revision(&key(one)));
                txn.compare(key(one), revision)
            }
            _ => txn,
        }
    }

    fn read(&mut self, server: usize) {
        let answered = self.asked.iter().filter_map(|asked| asked.answered).map(|(_, revision)| revision);
        let least = answered.max().unwrap_or_default();
        let Server { node, origin, .. } = &mut self.servers[server];
        if let Some(node) = node {
            self.reads.insert((*origin, node.read()), least);
        }
    }

    fn repartition(&mut self) {
        self.cut.clear();
        match self.rng.below(4) {
            0 | 1 => {}
            2 => {
                let alone = self.rng.below(3) + 1;
                self.cut.extend((1..=3).filter(|id| *id != alone).map(|id| (id.min(alone), id.max(alone))));
            }
            _ => drop(self.cut.insert([(1, 2), (1, 3), (2, 3)][self.rng.server()])),
        }
    }

    /// The network is well: everybody agrees, and writes are taken.
    fn heal(&mut self) {
        self.calm = true;
        self.cut.clear();
        for server in 0..SERVERS {
            if self.servers[server].node.is_none() {
                self.start(server);
            }
        }
        let writes = self.counts.committed;
        for _ in 0..5000 {
            self.act();
            if self.counts.committed > writes + 3 {
                break;
            }
        }
        assert!(self.counts.committed > writes + 3, "no writes after the network healed");
        for _ in 0..2000 {
            self.step += 1;
            (0..SERVERS).for_each(|server| self.with(server, Node::tick));
            (0..20).for_each(|_| self.deliver());
            (0..SERVERS).for_each(|server| self.run(server));
            let applied: BTreeSet<u64> = self
                .servers
                .iter()
                .map(|server| read(server.node.as_ref().unwrap(), |m| m.applied().index))
                .collect();
            if applied.len() == 1 {
                return;
            }
        }
        panic!("the servers did not catch up");
    }

    fn check_history(&self) {
        let node = self.servers[0].node.as_ref().unwrap();
        let by_id: BTreeMap<&str, &Asked> =
            self.asked.iter().map(|asked| (asked.txn.request_id.as_str(), asked)).collect();
        read(node, |machine| {
            let mut keys: BTreeMap<Key, Revision> = BTreeMap::new();
            let mut applied = BTreeMap::new();
            for record in machine.records_from(Revision(1)).unwrap() {
                let asked = by_id[&*record.request_id];
                let before = applied.insert(asked.txn.request_id.as_str(), record.revision);
                assert_eq!(before, None, "{} was applied twice", record.request_id);
                for compare in &asked.txn.compares {
                    let have = keys.get(&compare.key).copied().unwrap_or_default();
                    assert_eq!(have, compare.mod_revision, "a compare that did not hold was committed");
                }
                for op in &asked.txn.ops {
                    match op {
                        Op::Put { key, .. } => drop(keys.insert(key.clone(), record.revision)),
                        Op::Delete { key } => drop(keys.remove(key)),
                    }
                }
            }
            let listed: BTreeMap<Key, Revision> =
                machine.list("").into_iter().map(|entry| (entry.key, entry.mod_revision)).collect();
            assert_eq!(listed, keys);
            let mut answered: Vec<(u64, u64, Revision)> = Vec::new();
            for asked in &self.asked {
                if let Some((at, revision)) = asked.answered {
                    assert_eq!(
                        applied.get(asked.txn.request_id.as_str()),
                        Some(&revision),
                        "acknowledged and lost"
                    );
                    answered.push((asked.began, at, revision));
                }
            }
            for (_, end, revision) in &answered {
                let later = answered.iter().filter(|(began, ..)| began > end);
                later.for_each(|(.., other)| assert!(other > revision, "real time is not kept"));
            }
        });
    }
}

fn read<T>(node: &Node, read: impl FnOnce(&Machine) -> T) -> T {
    read(&node.machine().read().unwrap_or_else(PoisonError::into_inner))
}

fn simulate(seed: u64) -> Counts {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.act();
    }
    world.heal();
    world.check_history();
    world.counts
}

#[test]
fn sim_three_servers_stay_linearizable_through_anything() {
    let seeds = std::env::var("WEIR_SEEDS").ok().map_or(200, |seeds| seeds.parse().expect("a number"));
    let mut total = Counts::default();
    for seed in 0..seeds {
        let run = std::panic::catch_unwind(|| simulate(seed));
        let counts = run.unwrap_or_else(|_| panic!("seed {seed} failed: run it alone"));
        total.committed += counts.committed;
        total.conflicts += counts.conflicts;
        total.duplicates += counts.duplicates;
        total.reads += counts.reads;
        total.crashes += counts.crashes;
        total.installed += counts.installed;
        total.snapshots += counts.snapshots;
    }
    println!("{seeds} seeds: {total:?}");
    let Counts { committed, conflicts, duplicates, reads, crashes, installed, snapshots } = total;
    for (what, count) in [
        ("committed", committed / 20),
        ("conflicts", conflicts),
        ("duplicates", duplicates),
        ("reads", reads / 5),
        ("crashes", crashes),
        ("installed", installed),
        ("snapshots", snapshots),
    ] {
        assert!(count >= seeds / 4, "too few {what} to mean anything");
    }
}

/// raft waits for news of a snapshot that it sent; the message had been lost.
#[test]
fn sim_a_lost_snapshot_is_sent_again() {
    simulate(30);
}

#[test]
fn sim_a_run_is_given_by_its_seed() {
    assert_eq!(format!("{:?}", simulate(7)), format!("{:?}", simulate(7)));
}
