//! The servers, their network, their users and their misfortunes on one virtual clock.

use std::{
    cmp::Ordering,
    collections::{BTreeSet, BinaryHeap},
};

use store::{
    MemberError, NodeId,
    disk::Snapshot,
    image,
    machine::{Machine, Position},
    peer::PeerMessage,
};

use super::{
    clients::{Answer, Call, Client},
    counts::Counts,
    faults::{Kind, Plan, Undo},
    ledger::Ledger,
    network::Links,
    operators::{Operator, address},
    promises::Promises,
    rng::Rng,
    roll::Roll,
    server::{Input, Server},
    watchers::Watcher,
};

/// Milliseconds from one tick of a right clock to the next.
pub(super) const TICK: u64 = 100;

/// Virtual milliseconds that a healed cluster has to come to rest.
const HEALING: u64 = 180_000;

pub(super) struct World {
    /// Virtual milliseconds since the beginning.
    pub(super) now: u64,
    pub(super) rng: Rng,
    pub(super) plan: Plan,
    /// Nothing more goes wrong.
    pub(super) calm: bool,
    agenda: BinaryHeap<Scheduled>,
    scheduled: u64,
    pub(super) servers: Vec<Server>,
    /// Runs of servers so far: each draws its origin here.
    pub(super) runs: u64,
    pub(super) links: Links,
    pub(super) clients: Vec<Client>,
    pub(super) calls: Vec<Call>,
    pub(super) watchers: Vec<Watcher>,
    pub(super) operators: Vec<Operator>,
    /// Servers that were added and are about to start.
    pub(super) joining: BTreeSet<NodeId>,
    pub(super) roll: Roll,
    pub(super) ledger: Ledger,
    pub(super) promises: Promises,
    pub(super) counts: Counts,
}

/// What happens at a moment. What belongs to one run of a server is void when that run has ended.
pub(super) enum Event {
    Tick {
        server: usize,
        run: u64,
    },
    Arrive(Box<PeerMessage>),
    Input {
        server: usize,
        run: u64,
        input: Input,
    },
    /// A batch is durable.
    Synced {
        server: usize,
        run: u64,
    },
    /// A snapshot is written.
    Saved {
        server: usize,
        run: u64,
        snapshot: Snapshot,
    },
    /// A snapshot is to be read for another server.
    Load {
        server: usize,
        run: u64,
    },
    /// A server that was asked to stop goes.
    Leave {
        server: usize,
        run: u64,
    },
    Start(usize),
    Resume(usize),
    /// A client thinks of something.
    Think(usize),
    /// A client's request reaches its server.
    Ask {
        call: usize,
        attempt: u32,
        server: usize,
    },
    Reply {
        call: usize,
        attempt: u32,
        answer: Answer,
    },
    /// A client has waited long enough.
    Patience {
        call: usize,
        attempt: u32,
    },
    /// A watch's reader looks.
    Look(usize),
    /// An operator looks.
    Operate(usize),
    /// An operator's wish reaches a server.
    Demand {
        operator: usize,
        number: u64,
        server: usize,
    },
    Told {
        operator: usize,
        number: u64,
        answer: Result<(), MemberError>,
    },
    /// A server that was added starts.
    Join(NodeId),
    /// A server that was removed ends.
    Retire {
        server: usize,
        run: u64,
    },
    /// A server hears that it was removed.
    Expel(usize),
    /// The power of a server goes again.
    Flicker(usize),
    Fault,
    Undo(Undo),
}

struct Scheduled {
    at: u64,
    number: u64,
    event: Event,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let plan = Plan::draw(&mut rng);
        let genesis = genesis(plan.voters);
        let mut world = Self {
            now: 0,
            rng,
            calm: false,
            agenda: BinaryHeap::new(),
            scheduled: 0,
            servers: (1..=plan.voters).map(|id| Server::new(id, genesis.clone())).collect(),
            runs: 0,
            links: Links::default(),
            clients: (0..plan.clients).map(|_| Client::default()).collect(),
            calls: Vec::new(),
            watchers: Vec::new(),
            operators: (0..2).map(|_| Operator::default()).collect(),
            joining: BTreeSet::new(),
            roll: Roll::new(plan.voters),
            ledger: Ledger::new(),
            promises: Promises::default(),
            counts: Counts::default(),
            plan,
        };
        (0..world.servers.len()).for_each(|server| world.start(server));
        (0..world.clients.len()).for_each(|client| world.after(200, Event::Think(client)));
        (0..world.plan.watchers).for_each(|_| world.begin_watch());
        (0..world.operators.len()).for_each(|operator| world.after(2000, Event::Operate(operator)));
        world.after(1500, Event::Fault);
        world
    }

    /// Something happens after so many milliseconds.
    pub(super) fn after(&mut self, delay: u64, event: Event) {
        self.scheduled += 1;
        self.agenda.push(Scheduled { at: self.now + delay, number: self.scheduled, event });
    }

    /// One whole run: misfortunes, then peace, then the reckoning.
    pub(super) fn run(&mut self) {
        while self.now < self.plan.duration {
            self.step();
        }
        self.heal();
        self.reckon();
    }

    fn step(&mut self) {
        let Scheduled { at, event, .. } = self.agenda.pop().expect("servers tick for ever");
        self.now = at;
        match event {
            Event::Tick { server, run } => self.tick(server, run),
            Event::Arrive(message) => self.arrive(*message),
            Event::Input { server, run, input } => self.give(server, run, input),
            Event::Synced { server, run } => self.synced(server, run),
            Event::Saved { server, run, snapshot } => self.saved(server, run, snapshot),
            Event::Load { server, run } => self.load(server, run),
            Event::Leave { server, run } => self.leave(server, run),
            Event::Start(server) => self.start(server),
            Event::Resume(server) => self.resume(server),
            Event::Think(client) => self.think(client),
            Event::Ask { call, attempt, server } => self.ask(call, attempt, server),
            Event::Reply { call, attempt, answer } => self.reply(call, attempt, &answer),
            Event::Patience { call, attempt } => self.lose_patience(call, attempt),
            Event::Look(watcher) => self.look(watcher),
            Event::Operate(operator) => self.operate(operator),
            Event::Demand { operator, number, server } => self.demand(operator, number, server),
            Event::Told { operator, number, answer } => self.told(operator, number, answer),
            Event::Join(id) => self.join(id),
            Event::Retire { server, run } => self.retired(server, run),
            Event::Expel(server) => self.expelled(server),
            Event::Flicker(server) => self.flicker(server),
            Event::Fault => self.fault(),
            Event::Undo(undo) => self.undo(undo),
        }
    }

    /// From here on nothing goes wrong: writes are taken again, everybody catches up, nobody waits for ever.
    fn heal(&mut self) {
        self.calm = true;
        self.links = Links::default();
        // What has rotted by now is found when it is read.
        let rots = self.plan.kinds.contains(&Kind::RottenSnapshot) && !self.rng.one_in(4);
        for server in 0..self.servers.len() {
            if rots {
                self.counts.rotten_snapshots += u64::from(self.servers[server].disk.rot_snapshot());
            }
            self.mend(server);
        }
        self.reconnect();
        let healed = self.now;
        let writes: Vec<u64> = self.clients.iter().map(|client| client.writes).collect();
        let at_work =
            |world: &Self| world.clients.iter().zip(&writes).any(|(client, then)| client.writes < then + 2);
        self.run_while(healed, "a client's writes are not taken", at_work);
        self.clients.iter_mut().for_each(|client| client.ends = true);
        self.run_while(healed, "a client waits", |world| {
            world.clients.iter().any(|client| client.call.is_some())
        });
        self.run_while(healed, "members are not as they should be", |world| !world.is_whole());
        // At one moment: a proposal that was late may still come.
        self.run_while(healed, "servers or watches do not catch up", |world| {
            let newest = world.ledger.newest();
            !world.is_settled() || world.watchers.iter().any(|watcher| watcher.position() <= newest)
        });
    }

    fn run_while(&mut self, healed: u64, problem: &str, goes_on: impl Fn(&Self) -> bool) {
        while goes_on(self) {
            assert!(self.now < healed + HEALING, "{problem}, long after all was well: {}", self.describe());
            self.step();
        }
    }

    /// Where everybody is.
    fn describe(&self) -> String {
        let applied: Vec<_> = self.servers.iter().map(|server| (server.id, server.applied())).collect();
        let watches: Vec<_> = self.watchers.iter().map(|watcher| watcher.position().0).collect();
        let members = self.roll.newest();
        format!("{members:?}, servers {applied:?}, watches {watches:?}, newest {}", self.ledger.newest())
    }

    /// Nobody learns any more, waits for a change, or is lost and not replaced; who was removed knows it.
    fn is_whole(&self) -> bool {
        let config = self.roll.newest();
        let is_done = self.joining.is_empty() && !self.operators.iter().any(Operator::waits);
        let all_there = config.learners.is_empty() && !config.voters.iter().any(|id| self.is_dead(*id));
        let all_known = self.servers.iter().all(|server| !server.runs() || config.contains(server.id));
        is_done && all_there && all_known
    }

    fn members(&self) -> impl Iterator<Item = &Server> {
        self.servers.iter().filter(|server| self.roll.newest().contains(server.id))
    }

    fn is_settled(&self) -> bool {
        let mut applied = self.members().map(Server::applied);
        let first = applied.next();
        first.flatten().is_some() && applied.all(|applied| Some(applied) == first)
    }

    /// Everybody has everything: is it what it should be?
    fn reckon(&mut self) {
        assert!(self.is_whole(), "members changed though nobody asked: {}", self.describe());
        let first = self.plan.voters;
        for server in self.members() {
            server.read(|machine| {
                self.roll.compare(server.id, machine);
                for member in machine.roster().iter().filter(|member| member.id > first) {
                    assert_eq!(member.addresses.peers, address(member.id), "an address is lost");
                }
                self.ledger.compare(machine);
                let again = image::decode(&image::encode(machine, "sim").unwrap()).expect("a snapshot reads");
                assert_eq!(again.hash(), machine.hash());
            });
        }
        assert!(self.ledger.newest() >= self.ledger.acknowledged());
        self.counts.changes += self.roll.changes();
        self.counts.elections += self.promises.elections();
    }

    /// A server that is not gone for ever.
    pub(super) fn any_server(&mut self) -> usize {
        let is_there = |at: &usize| !self.servers[*at].gone && !self.servers[*at].lost;
        let there: Vec<usize> = (0..self.servers.len()).filter(is_there).collect();
        *self.rng.pick(&there)
    }

    pub(super) fn is_on(&self, kind: Kind) -> bool {
        !self.calm && self.plan.kinds.contains(&kind)
    }
}

pub(super) fn genesis(voters: u64) -> Snapshot {
    let epoch = store::Epoch { counter: 1, id: 1 };
    let voters: Vec<NodeId> = (1..=voters).collect();
    let next_id = voters.len() as u64 + 1;
    let members = api::store::Members { voters, next_id, ..Default::default() };
    image::encode(&Machine::genesis(epoch, Position { index: 1, term: 1 }, members), "sim").unwrap()
}

impl Ord for Scheduled {
    /// The earliest is the greatest: what a heap gives first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Scheduled {}
