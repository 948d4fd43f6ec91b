//! Operators, who add servers and remove them, at any time and in each other's way. A server that was lost they
//! replace by a new one, which has another id.

use api::store::Members;
use store::{
    Addresses, Epoch, MemberError, NodeId,
    disk::Snapshot,
    image,
    machine::{Machine, Position},
    members::MemberChange,
};

use super::{
    faults::Kind,
    roll::Config,
    server::{Input, Server},
    world::{Event, World},
};

/// Who has heard nothing for so long, milliseconds, gives up: the change may still be made.
const PATIENCE: u64 = 5000;
/// More voters than that are not wanted.
const MOST: usize = 5;

#[derive(Default)]
pub(super) struct Operator {
    /// What it waits for, and until when.
    asked: Option<(MemberChange, u64)>,
    /// How often it has asked.
    number: u64,
}

impl Operator {
    pub(super) fn waits(&self) -> bool {
        self.asked.is_some()
    }
}

impl World {
    /// An operator looks, and asks for what seems right.
    pub(super) fn operate(&mut self, operator: usize) {
        let pause = if self.calm { 1000 } else { self.plan.operate_ms };
        let pause = self.rng.between(pause / 2, pause);
        self.after(pause, Event::Operate(operator));
        if self.operators[operator].asked.as_ref().is_some_and(|(_, until)| *until > self.now) {
            return;
        }
        self.operators[operator].asked = None;
        let Some(change) = self.choose_change() else { return };
        let leads = |server: &Server| server.node.as_ref().is_some_and(|node| node.leadership().leader);
        let leader = self.servers.iter().position(leads);
        let any = self.any_server();
        let server = leader.filter(|_| !self.rng.one_in(12)).unwrap_or(any);
        // Another leader, perhaps the one that is to go, finds the change under way.
        if self.is_on(Kind::Transfer) && self.rng.one_in(4) {
            let run = self.servers[server].run;
            let delay = self.rng.between(3, 12);
            self.after(delay, Event::Input { server, run, input: Input::Transfer });
        }
        let this = &mut self.operators[operator];
        this.number += 1;
        this.asked = Some((change, self.now + PATIENCE));
        let number = this.number;
        self.after(2, Event::Demand { operator, number, server });
    }

    /// An operator's wish reaches a server.
    pub(super) fn demand(&mut self, operator: usize, number: u64, server: usize) {
        let run = self.servers[server].run;
        if !self.servers[server].runs() {
            return self.tell(operator, number, Err(MemberError::Stopped));
        }
        let this = &mut self.operators[operator];
        if let Some((MemberChange::AddLearner { id, addresses }, _)) = &mut this.asked
            && *id == 0
        {
            // As `Handle::add_learner` does.
            *id = self.servers[server].read(Machine::next_id);
            addresses.peers = address(*id);
        }
        self.give(server, run, Input::Change { operator, number });
    }

    /// A server's driver takes a change up.
    pub(super) fn take_change(&mut self, server: usize, operator: usize, number: u64) {
        let this = &self.operators[operator];
        let Some((change, _)) = this.asked.clone().filter(|_| this.number == number) else { return };
        if self.would_regret(server, &change) {
            return self.tell(operator, number, Err(MemberError::Busy));
        }
        let this = &mut self.servers[server];
        let Some(node) = &mut this.node else { return };
        let result = node.change_members(&change);
        self.judge_change(server, &change, &result);
        match result {
            Ok(ticket) => {
                self.servers[server].waiting.changes.insert(ticket.number, (operator, number));
            }
            Err(reason) => self.tell(operator, number, Err(reason)),
        }
    }

    pub(super) fn tell(&mut self, operator: usize, number: u64, answer: Result<(), MemberError>) {
        let delay = self.rng.between(1, 5);
        self.after(delay, Event::Told { operator, number, answer });
    }

    /// An operator is answered. One that has given up does nothing with it: a server that it added is run by nobody.
    pub(super) fn told(&mut self, operator: usize, number: u64, answer: Result<(), MemberError>) {
        let this = &mut self.operators[operator];
        if this.number != number {
            return;
        }
        let Some((change, _)) = this.asked.take() else { return };
        let config = self.roll.newest();
        match (&change, answer) {
            (MemberChange::AddLearner { id, .. }, Ok(())) => {
                assert!(*id < config.next_id, "{change:?} is answered, and not made");
                assert!(self.server_of(*id).is_none(), "the id {id} is given a second time");
                self.counts.joins += 1;
                self.joining.insert(*id);
                let delay = self.rng.below(2000);
                self.after(delay, Event::Join(*id));
            }
            (MemberChange::Promote { id }, Ok(())) => assert!(*id < config.next_id),
            (MemberChange::Remove { id }, Ok(())) => {
                assert!(!config.contains(*id), "{change:?} is answered, and not made");
                self.counts.removals += 1;
                if self.rng.one_in(2) {
                    self.retire(*id);
                }
            }
            (_, Err(MemberError::HandingOver { .. })) => self.counts.removed_leaders += 1,
            // Where it was refused it was judged.
            (
                _,
                Err(
                    MemberError::Stopped
                    | MemberError::NotLeader { .. }
                    | MemberError::Busy
                    | MemberError::Unknown { .. }
                    | MemberError::Retired { .. }
                    | MemberError::Voter { .. }
                    | MemberError::Quorum { .. }
                    | MemberError::Behind { .. },
                ),
            ) => {}
            (_, Err(other)) => panic!("{change:?} is answered: {other}"),
        }
    }

    /// A new server starts, with nothing but its id.
    pub(super) fn join(&mut self, id: NodeId) {
        self.joining.remove(&id);
        self.servers.push(Server::new(id, nothing()));
        self.start(self.servers.len() - 1);
    }

    /// A server that was removed is ended for ever.
    pub(super) fn retire(&mut self, id: NodeId) {
        let Some(server) = self.server_of(id) else { return };
        let (run, delay) = (self.servers[server].run, self.rng.between(50, 2000));
        self.after(delay, Event::Retire { server, run });
    }

    pub(super) fn retired(&mut self, server: usize, run: u64) {
        if self.servers[server].run == run {
            self.servers[server].gone = true;
            self.crash(server, 1);
        }
    }

    /// Another server refuses what this one says, for it was removed.
    pub(super) fn expelled(&mut self, server: usize) {
        let this = &mut self.servers[server];
        if this.runs() && !this.expelled {
            this.expelled = true;
            self.counts.expelled += 1;
            let id = self.servers[server].id;
            self.retire(id);
        }
    }

    /// Servers connect to each other anew, and are asked who they are.
    pub(super) fn reconnect(&mut self) {
        let running: Vec<usize> = (0..self.servers.len()).filter(|at| self.servers[*at].runs()).collect();
        for caller in &running {
            let id = self.servers[*caller].id;
            let refuses = |callee: &&usize| {
                let callee = &self.servers[**callee];
                !self.links.is_cut(id, callee.id) && callee.read(|machine| machine.is_retired(id))
            };
            if running.iter().any(|callee| refuses(&callee)) {
                self.expelled(*caller);
            }
        }
    }

    /// What an operator does who knows who is there: the lost first.
    fn choose_change(&mut self) -> Option<MemberChange> {
        let config = self.roll.newest().clone();
        let is_lost = |id: &NodeId| !self.joining.contains(id) && self.is_dead(*id);
        let lost = config.members().find(is_lost);
        if let Some(id) = lost {
            let alive = config.members().filter(|id| !is_lost(id)).count() as u64;
            let learns = config.learners.iter().any(|id| !is_lost(id));
            return match config.voters.contains(&id) && config.voters.len() < MOST {
                true if learns => None,
                true if alive < self.plan.voters => Some(add(0)),
                _ => Some(MemberChange::Remove { id }),
            };
        }
        if !self.is_on(Kind::Members) {
            return None;
        }
        self.draw_change(&config)
    }

    fn draw_change(&mut self, config: &Config) -> Option<MemberChange> {
        let voters: Vec<NodeId> = config.voters.iter().copied().collect();
        let learners: Vec<NodeId> = config.learners.iter().copied().collect();
        match self.rng.below(10) {
            0..3 if voters.len() + learners.len() <= MOST && learners.len() < 2 => Some(add(0)),
            3..5 => Some(MemberChange::Remove { id: *self.rng.pick(&voters) }),
            5 if !learners.is_empty() => Some(MemberChange::Remove { id: *self.rng.pick(&learners) }),
            6 if !learners.is_empty() => Some(MemberChange::Promote { id: *self.rng.pick(&learners) }),
            7 => Some(add(self.rng.between(1, config.next_id))),
            8 => Some(MemberChange::Remove { id: *self.rng.pick(&voters) }),
            _ => None,
        }
    }
}

/// A new server; 0: with the next id.
fn add(id: NodeId) -> MemberChange {
    MemberChange::AddLearner { id, addresses: Addresses { peers: address(id), admin: String::new() } }
}

pub(super) fn address(id: NodeId) -> String {
    format!("server-{id}")
}

/// What a server that joins begins with.
fn nothing() -> Snapshot {
    let machine = Machine::genesis(Epoch::default(), Position::default(), Members::default());
    image::encode(&machine, "sim").expect("zstd has memory")
}
