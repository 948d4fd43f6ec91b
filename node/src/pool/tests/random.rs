//! Random histories: plans, messages that travel slowly, deaths, broken connections and time, in any order.

use std::collections::{BTreeMap, BTreeSet};

use api::agent::Slots;
use proptest::{collection, prelude::*};

use super::*;

/// A worker as it really is, which the pool knows only by messages.
#[derive(Default)]
struct Sim {
    linked: bool,
    welcomed: bool,
    ready: bool,
    draining: bool,
    /// Where it listens.
    holds: BTreeSet<(Listen, u32)>,
    /// UDP slots that it only has.
    keeps: BTreeSet<(Listen, u32)>,
    /// On their way to it and from it.
    inbox: VecDeque<ToWorker>,
    outbox: VecDeque<ToAgent>,
}

impl Sim {
    fn hear(&mut self, message: ToWorker) {
        let numbered = |slots: &Slots| -> Vec<(Listen, u32)> {
            slots.slots.iter().map(|slot| (slots.listen.clone(), *slot)).collect()
        };
        match message {
            // A pool asks for no metrics, and moves no connections.
            ToWorker::Welcome(_)
            | ToWorker::Renewed(_)
            | ToWorker::Measure { .. }
            | ToWorker::PassesOn
            | ToWorker::HandedOver { .. }
            | ToWorker::Adopt(_) => {}
            ToWorker::Recover => {
                let mut by_address = BTreeMap::<Listen, Vec<u32>>::new();
                for (listen, slot) in &self.holds {
                    by_address.entry(listen.clone()).or_default().push(*slot);
                }
                for (listen, slots) in by_address {
                    self.outbox.push_back(ToAgent::Recovered(Slots { listen, slots }));
                }
                for (listen, slot) in &self.keeps {
                    let slots = Slots { listen: listen.clone(), slots: vec![*slot] };
                    self.outbox.push_back(ToAgent::Kept(slots));
                }
                self.outbox.push_back(ToAgent::RecoveredAll);
            }
            ToWorker::Keep(slots) => self.keeps.extend(numbered(&slots)),
            ToWorker::Lend(slots) => {
                self.holds.extend(numbered(&slots));
                self.outbox.push_back(ToAgent::Taken(slots));
            }
            ToWorker::Return(slots) => {
                for slot in numbered(&slots) {
                    self.holds.remove(&slot);
                    self.keeps.remove(&slot);
                }
                self.outbox.push_back(ToAgent::Returned(slots));
            }
            ToWorker::Drain { .. } => {
                self.draining = true;
                self.outbox.push_back(ToAgent::Draining);
                self.outbox.push_back(ToAgent::Drained);
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Op {
    /// A new plan for so many workers, with so many slots, on UDP as well or not, naming a worker to drain.
    Plan {
        workers: u32,
        max: u32,
        udp: bool,
        drain: usize,
    },
    /// A plan from the past.
    Stale {
        workers: u32,
    },
    /// A new worker connects and says hello, an old one connects again.
    Link(usize),
    /// One message to the worker arrives, or one from it.
    Hear(usize),
    Tell(usize),
    Ready(usize),
    Kill(usize),
    Unlink(usize),
    Sigterm(usize),
    Standing {
        slot: u32,
    },
    Waiting,
    /// A new agent takes over from this one, which is gone without a word.
    Crash,
    Pass {
        ms: u64,
    },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let worker = 0..6_usize;
    let op = prop_oneof![
        2 => (0..5_u32, 1..5_u32, any::<bool>(), 0..6_usize)
            .prop_map(|(workers, max, udp, drain)| Op::Plan { workers, max, udp, drain }),
        1 => (0..5_u32).prop_map(|workers| Op::Stale { workers }),
        8 => worker.clone().prop_map(Op::Link),
        16 => worker.clone().prop_map(Op::Hear),
        16 => worker.clone().prop_map(Op::Tell),
        8 => worker.clone().prop_map(Op::Ready),
        1 => worker.clone().prop_map(Op::Kill),
        1 => worker.clone().prop_map(Op::Unlink),
        1 => worker.prop_map(Op::Sigterm),
        1 => (0..20_u32).prop_map(|slot| Op::Standing { slot }),
        1 => Just(Op::Waiting),
        1 => Just(Op::Crash),
        3 => (0..3000_u64).prop_map(|ms| Op::Pass { ms }),
    ];
    collection::vec(op, 1..150)
}

struct World {
    pool: Pool,
    now: Instant,
    sims: BTreeMap<WorkerId, Sim>,
    generation: u64,
    plan: Option<Plan>,
    crashes: u32,
}

impl World {
    fn new() -> Self {
        let pool = Pool::new("web".parse().unwrap(), "boot", Timing::default());
        Self { pool, now: Instant::now(), sims: BTreeMap::new(), generation: 1, plan: None, crashes: 0 }
    }

    fn nth(&self, n: usize) -> Option<WorkerId> {
        self.sims.keys().nth(n).cloned()
    }

    fn give(&mut self, input: Input) {
        let before = self.pool.status();
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            for action in self.pool.handle(input, self.now) {
                inputs.extend(self.act(action));
            }
        }
        let after = self.pool.status();
        assert!((after.term, after.generation) >= (before.term, before.generation), "the plan went back");
        self.check_udp();
        self.check_covered();
    }

    fn act(&mut self, action: Action) -> Option<Input> {
        match action {
            Action::Start(worker) => {
                self.sims.insert(worker.clone(), Sim::default());
                Some(Input::Started { worker, pid: 7 })
            }
            Action::Welcome(worker) => {
                let sim = self.sims.get_mut(&worker).expect("only the living are welcomed");
                assert!(!std::mem::replace(&mut sim.welcomed, true), "{worker} was welcomed twice");
                None
            }
            Action::Send(worker, message) => {
                if let ToWorker::Return(slots) = &message {
                    self.check_return(&worker, slots);
                }
                let sim = self.sims.get_mut(&worker).expect("only the living are sent to");
                assert!(sim.linked, "{worker} is sent {message:?} without a connection");
                sim.inbox.push_back(message);
                None
            }
            Action::Terminate(worker) => {
                if let Some(sim) = self.sims.get_mut(&worker) {
                    sim.draining = true;
                }
                None
            }
            Action::Kill(worker) => self.kill(&worker),
            Action::Bind(listen, slots) => {
                for slot in slots.iter().map(|slot| (listen.clone(), *slot)) {
                    assert!(self.sims.values().all(|sim| !sim.holds.contains(&slot)), "{slot:?} is in use");
                }
                Some(Input::Bound { listen, slots, problem: None })
            }
            Action::Steer(..) | Action::Close(_) => None,
        }
    }

    fn kill(&mut self, worker: &WorkerId) -> Option<Input> {
        self.sims.remove(worker)?;
        Some(Input::Ended { worker: worker.clone(), how: "signal: 9".to_owned() })
    }

    fn run(&mut self, op: &Op) {
        match op {
            Op::Plan { workers, max, udp, drain } => {
                self.generation += 1;
                let wire = PoolPlan { max_workers: *max, ..wire_plan(self.generation, *workers) };
                let mut plan = Plan::try_from(wire).unwrap();
                plan.drain.extend(self.nth(*drain));
                if *udp {
                    let mut listen = plan.listen.first().unwrap().clone();
                    listen.transport = Transport::Udp;
                    plan.listen.insert(listen);
                }
                self.plan = Some(plan.clone());
                self.give(Input::Plan(plan));
            }
            Op::Stale { .. } if self.plan.is_none() => {}
            Op::Stale { workers } => self.give(Input::Plan(plan(self.generation - 1, *workers))),
            Op::Link(n) => self.link(*n),
            Op::Hear(n) => {
                let Some(id) = self.nth(*n) else { return };
                let sim = self.sims.get_mut(&id).unwrap();
                if let Some(message) = sim.inbox.pop_front() {
                    sim.hear(message);
                }
                self.check_udp();
            }
            Op::Tell(n) => {
                let Some(id) = self.nth(*n) else { return };
                let Some(message) = self.sims.get_mut(&id).unwrap().outbox.pop_front() else { return };
                let drained = message == ToAgent::Drained;
                self.give(said(&id, message));
                if drained {
                    let end = self.kill(&id);
                    self.give(end.unwrap());
                }
            }
            Op::Ready(n) => {
                let Some(id) = self.nth(*n) else { return };
                let sim = self.sims.get_mut(&id).unwrap();
                if sim.welcomed && sim.linked && !sim.ready {
                    sim.ready = true;
                    sim.outbox.push_back(ToAgent::Ready { start_us: 1 });
                }
            }
            Op::Kill(n) => {
                let Some(id) = self.nth(*n) else { return };
                let end = self.kill(&id);
                self.give(end.unwrap());
            }
            Op::Unlink(n) => {
                let Some(id) = self.nth(*n) else { return };
                let sim = self.sims.get_mut(&id).unwrap();
                if std::mem::replace(&mut sim.linked, false) {
                    sim.inbox.clear();
                    sim.outbox.clear();
                    self.give(Input::Unlinked(id));
                }
            }
            Op::Sigterm(n) => {
                let Some(id) = self.nth(*n) else { return };
                let sim = self.sims.get_mut(&id).unwrap();
                if sim.welcomed && !std::mem::replace(&mut sim.draining, true) && sim.linked {
                    sim.outbox.push_back(ToAgent::Draining);
                }
            }
            Op::Standing { slot } => self.give(Input::Standing { listen: listen(), slot: *slot }),
            Op::Waiting => self.give(Input::Waiting),
            Op::Crash => self.crash(),
            Op::Pass { ms } => {
                self.now += Duration::from_millis(*ms);
                self.give(Input::Tick);
            }
        }
    }

    fn crash(&mut self) {
        self.crashes += 1;
        let boot = format!("boot{}", self.crashes);
        let new = Pool::new("web".parse().unwrap(), &boot, Timing::default());
        let old = std::mem::replace(&mut self.pool, new);
        for sim in self.sims.values_mut() {
            sim.linked = false;
            sim.inbox.clear();
            sim.outbox.clear();
        }
        let known = self.sims.keys().map(|worker| Known { worker: worker.clone(), pid: 7 }).collect();
        let next_slots: Vec<_> = old.next_slots().map(|(listen, next)| (listen.clone(), next)).collect();
        self.pool.take_over(known, next_slots, self.now);
        if let Some(plan) = old.plan {
            self.give(Input::Plan(plan));
        }
    }

    fn link(&mut self, n: usize) {
        let Some(id) = self.nth(n) else { return };
        let sim = self.sims.get_mut(&id).unwrap();
        if std::mem::replace(&mut sim.linked, true) {
            return;
        }
        // A worker that says it is not draining although it was asked to would be asked again; ours remembers.
        let (ready, draining, welcomed) = (sim.ready, sim.draining, sim.welcomed);
        if draining {
            sim.outbox.push_back(ToAgent::Drained);
        }
        self.give(hello(&id, ready, draining, welcomed));
    }

    /// Lets everything arrive and much time pass, until nothing moves.
    fn come_to_rest(&mut self) {
        for _ in 0..60 {
            for _ in 0..200 {
                for n in 0..self.sims.len() {
                    for op in [Op::Link(n), Op::Ready(n), Op::Hear(n), Op::Tell(n)] {
                        self.run(&op);
                    }
                }
                if self.sims.values().all(|s| s.inbox.is_empty() && s.outbox.is_empty()) {
                    break;
                }
            }
            self.run(&Op::Pass { ms: 2000 });
        }
    }

    /// Whether the pool takes this worker as one that serves.
    fn serves(&self, id: &WorkerId) -> bool {
        self.pool.workers.get(id).is_some_and(|worker| worker.state == worker::State::Ready && worker.is_up())
    }

    /// No UDP slot ever has two readers, counting the sockets that are on their way.
    fn check_udp(&self) {
        let mut readers = BTreeMap::<u32, &WorkerId>::new();
        for (id, sim) in &self.sims {
            let held = sim.holds.iter().filter(|(l, _)| l.transport == Transport::Udp).map(|(_, slot)| *slot);
            let coming = sim.inbox.iter().filter_map(|message| match message {
                ToWorker::Lend(slots) if slots.listen.transport == Transport::Udp => {
                    Some(slots.slots.clone())
                }
                _ => None,
            });
            let all: BTreeSet<u32> = held.chain(coming.flatten()).collect();
            for slot in all {
                let other = readers.insert(slot, id);
                assert!(other.is_none(), "UDP slot {slot} is read by {other:?} and {id}");
            }
        }
    }

    /// A slot is asked back only if another worker that serves listens on it, unless nobody is to.
    fn check_return(&self, worker: &WorkerId, slots: &Slots) {
        // An address that was planned anew before it had gone goes first, and then comes anew.
        let closing = self.pool.addresses.get(&slots.listen).is_some_and(|address| address.closing);
        let planned = !closing && self.plan.as_ref().is_some_and(|plan| plan.listen.contains(&slots.listen));
        let udp = slots.listen.transport == Transport::Udp;
        assert!(!(udp && planned && !self.pool.stopping), "a UDP slot is asked back");
        if !planned || self.pool.target() == 0 {
            return;
        }
        for slot in &slots.slots {
            let slot = (slots.listen.clone(), *slot);
            let covered =
                |(id, sim): (&WorkerId, &Sim)| id != worker && self.serves(id) && sim.holds.contains(&slot);
            assert!(self.sims.iter().any(covered), "{worker} is asked for {slot:?}, which nobody else has");
        }
    }

    /// Every slot is held by a worker that serves, or on its way to one, or on its way back from the only one.
    fn check_covered(&self) {
        if self.pool.recovery.is_some() || !self.sims.keys().any(|id| self.serves(id)) {
            return;
        }
        for (listen, address) in self.pool.addresses.iter().filter(|(l, _)| l.transport == Transport::Tcp) {
            if address.closing {
                continue;
            }
            for number in address.group.numbers() {
                let slot = (listen.clone(), number);
                let names = |slots: &Slots| slots.listen == *listen && slots.slots.contains(&number);
                let covers = |sim: &Sim| {
                    sim.holds.contains(&slot)
                        || sim.inbox.iter().any(|m| matches!(m, ToWorker::Lend(s) if names(s)))
                        || sim.outbox.iter().any(|m| matches!(m, ToAgent::Returned(s) if names(s)))
                };
                let covered = self.sims.iter().any(|(id, sim)| self.serves(id) && covers(sim));
                assert!(covered, "nobody has {slot:?}");
            }
        }
    }

    /// As planned, evenly, each slot with one worker, and no slot with one that is gone.
    fn check_rest(&self) {
        let target = self.pool.target() as usize;
        let serving: Vec<_> = self.sims.keys().filter(|id| self.serves(id)).collect();
        assert_eq!((serving.len(), self.sims.len()), (target, target), "{:?}", self.pool.status());
        for (listen, address) in self.pool.addresses.iter().filter(|(l, _)| l.transport == Transport::Tcp) {
            let shares: Vec<_> = serving
                .iter()
                .map(|id| self.sims[*id].holds.iter().filter(|(l, _)| l == listen).count())
                .collect();
            if let (Some(most), Some(least)) = (shares.iter().max(), shares.iter().min()) {
                assert!(most - least <= 1, "{listen:?} is shared unevenly: {shares:?}");
                assert_eq!(shares.iter().sum::<usize>(), address.group.len(), "a slot has not one holder");
            }
        }
        for (id, sim) in &self.sims {
            let known: usize = self.pool.addresses.values().map(|a| a.group.held_by(id)).sum();
            assert_eq!(sim.holds.len(), known, "what {id} holds is not what the pool thinks");
        }
    }
}

proptest! {


    #[test]
    fn whatever_happens_no_slot_is_orphaned_and_all_comes_to_rest(ops in ops()) {
        let mut world = World::new();
        for op in &ops {
            world.run(op);
        }
        world.come_to_rest();
        world.check_rest();
    }

    #[test]
    fn whatever_happens_a_stop_ends_with_nothing_left(ops in ops()) {
        let mut world = World::new();
        for op in &ops {
            world.run(op);
        }
        world.give(Input::Stop);
        world.come_to_rest();
        assert!(world.pool.is_gone() && world.sims.is_empty(), "{:?}", world.pool.status());
        assert_eq!(world.pool.status().slots, 0);
    }
}
