mod random;

use api::{
    agent::{Slots, Transport},
    node::{PoolListen, PoolPlan, WorkerState},
};

use super::*;

pub(super) fn wire_plan(generation: u64, workers: u32) -> PoolPlan {
    PoolPlan {
        pool: "web".to_owned(),
        term: 1,
        generation,
        workers,
        max_workers: 2,
        listen: vec![PoolListen { bind: "127.0.0.1:8080".to_owned(), port: 80, ..PoolListen::default() }],
        threads_per_worker: 1,
        drain_deadline_ms: 1000,
        ..PoolPlan::default()
    }
}

pub(super) fn plan(generation: u64, workers: u32) -> Plan {
    Plan::try_from(wire_plan(generation, workers)).unwrap()
}

fn listen() -> Listen {
    plan(1, 1).listen.first().unwrap().clone()
}

pub(super) fn hello(worker: &WorkerId, ready: bool, draining: bool, welcomed: bool) -> Input {
    let message = ToAgent::Hello {
        renews: false,
        keeps: true,
        measures: false,
        adopts: false,
        worker: worker.clone(),
        pool: "web".parse().unwrap(),
        pid: 7,
        welcomed,
        ready,
        draining,
    };
    Input::Said { worker: worker.clone(), message }
}

fn said(worker: &WorkerId, message: ToAgent) -> Input {
    Input::Said { worker: worker.clone(), message }
}

/// A pool on its own clock, whose workers answer at once where they are told to.
struct Script {
    pool: Pool,
    now: Instant,
}

impl Script {
    fn new() -> Self {
        Self { pool: Pool::new("web".parse().unwrap(), "boot", Timing::default()), now: Instant::now() }
    }

    fn give(&mut self, input: Input) -> Vec<Action> {
        let mut actions = self.pool.handle(input, self.now);
        // Binding works in these tests unless they say otherwise.
        while let Some(at) = actions.iter().position(|action| matches!(action, Action::Bind(..))) {
            let Action::Bind(listen, slots) = actions.remove(at) else { unreachable!("just found") };
            actions.extend(self.pool.handle(Input::Bound { listen, slots, problem: None }, self.now));
        }
        actions
    }

    fn after(&mut self, time: Duration) -> Vec<Action> {
        self.now += time;
        self.give(Input::Tick)
    }

    /// Starts a pool of `workers`, all ready and settled in.
    fn serving(workers: u32) -> (Self, Vec<WorkerId>) {
        let mut script = Self::new();
        let started = started(&script.give(Input::Plan(plan(1, workers))));
        assert_eq!(started.len(), workers as usize);
        for worker in &started {
            script.give(hello(worker, false, false, false));
            let actions = script.give(said(worker, ToAgent::Ready { start_us: 1 }));
            script.answer(actions);
        }
        (script, started)
    }

    /// Says Taken and Returned to whatever is lent and asked back, until nothing is.
    fn answer(&mut self, actions: Vec<Action>) -> Vec<Action> {
        let mut queue = VecDeque::from(actions);
        let mut rest = Vec::new();
        while let Some(action) = queue.pop_front() {
            match action {
                Action::Send(worker, ToWorker::Lend(slots)) => {
                    queue.extend(self.give(said(&worker, ToAgent::Taken(slots))));
                }
                Action::Send(worker, ToWorker::Return(slots)) => {
                    queue.extend(self.give(said(&worker, ToAgent::Returned(slots))));
                }
                // Not answered.
                Action::Send(_, ToWorker::Keep(_)) | Action::Steer(..) => {}
                action => rest.push(action),
            }
        }
        rest
    }

    fn states(&self) -> Vec<(String, WorkerState, u32)> {
        let workers = self.pool.status().workers.into_iter();
        workers.map(|w| (w.worker.clone(), w.state(), w.slots)).collect()
    }
}

fn started(actions: &[Action]) -> Vec<WorkerId> {
    let start = |action: &Action| if let Action::Start(id) = action { Some(id.clone()) } else { None };
    actions.iter().filter_map(start).collect()
}

#[test]
fn a_worker_is_started_welcomed_and_given_slots_when_ready() {
    let mut script = Script::new();
    let workers = started(&script.give(Input::Plan(plan(1, 1))));
    assert_eq!(workers, ["web-boot-1".parse().unwrap()]);
    assert_eq!(script.give(hello(&workers[0], false, false, false)), [Action::Welcome(workers[0].clone())]);
    let actions = script.give(said(&workers[0], ToAgent::Ready { start_us: 5 }));
    let slots = Slots { listen: listen(), slots: (0..8).collect() };
    assert_eq!(actions, [Action::Send(workers[0].clone(), ToWorker::Lend(slots))]);
    assert_eq!(script.states(), [("web-boot-1".to_owned(), WorkerState::Ready, 8)]);
    assert_eq!(script.pool.status().problem, "");
}

#[test]
fn scale_in_hands_over_then_drains_then_waits_for_the_exit() {
    let (mut script, workers) = Script::serving(2);
    let second = Plan { drain: vec![workers[0].clone()], ..plan(2, 1) };
    let actions = script.give(Input::Plan(second));
    let [Action::Send(survivor, ToWorker::Lend(slots))] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!((survivor, slots.slots.len()), (&workers[1], 4));
    let rest = script.answer(actions);
    assert_eq!(rest, [Action::Send(workers[0].clone(), ToWorker::Drain { deadline_ms: 1000 })]);
    script.give(said(&workers[0], ToAgent::Draining));
    assert_eq!(script.after(Duration::from_millis(5999)), []);
    assert_eq!(script.after(Duration::from_millis(1)), [Action::Kill(workers[0].clone())]);
    let end = Input::Ended { worker: workers[0].clone(), how: "signal: 9".to_owned() };
    assert_eq!(script.give(end), []);
    assert_eq!(script.pool.crashes(), 0);
    assert_eq!(script.states()[1], (workers[0].to_string(), WorkerState::Ended, 0));
}

#[test]
fn a_stale_plan_is_refused_and_reported() {
    let (mut script, _) = Script::serving(1);
    script.give(Input::Plan(plan(5, 1)));
    assert_eq!(script.give(Input::Plan(plan(4, 2))), []);
    let older_term = PoolPlan { term: 0, ..wire_plan(9, 2) };
    assert_eq!(script.give(Input::Plan(Plan::try_from(older_term).unwrap())), []);
    assert_eq!(script.pool.status().generation, 5);
    assert_eq!(script.pool.status().problem, "refused stale plan 0.9, at 1.5");
}

#[test]
fn crash_loops_slow_down_and_are_reported() {
    let mut script = Script::new();
    let mut workers = started(&script.give(Input::Plan(plan(1, 2))));
    let mut pauses = Vec::new();
    for worker in workers.split_off(1) {
        script.give(Input::Ended { worker, how: "exit status: 3".to_owned() });
    }
    // One is still starting: after a failure one is tried before all are.
    assert_eq!(script.after(Duration::from_secs(1)), []);
    let mut last = workers.remove(0);
    for _ in 0..9 {
        let how = "exit status: 3".to_owned();
        assert_eq!(script.give(Input::Ended { worker: last, how }), []);
        let mut pause = Duration::ZERO;
        last = loop {
            let next = started(&script.after(Duration::from_millis(100)));
            pause += Duration::from_millis(100);
            if let [worker] = &next[..] {
                break worker.clone();
            }
        };
        pauses.push(pause.as_millis());
    }
    assert_eq!(pauses, [400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]);
    let problem = script.pool.status().problem;
    assert!(problem.starts_with("10 workers in a row failed: web-boot-"), "{problem}");
    assert!(problem.ends_with("exit status: 3"), "{problem}");
}

#[test]
fn a_settled_worker_that_dies_is_replaced_at_once() {
    let (mut script, workers) = Script::serving(1);
    script.after(Duration::from_secs(10));
    let end = Input::Ended { worker: workers[0].clone(), how: "signal: 9".to_owned() };
    assert_eq!(started(&script.give(end)).len(), 1);
    assert_eq!(script.pool.crashes(), 1);
}

#[test]
fn failures_are_forgiven_when_a_later_worker_settles() {
    let (mut script, workers) = Script::serving(1);
    script.give(Input::Ended { worker: workers[0].clone(), how: "signal: 9".to_owned() });
    let next = started(&script.after(Duration::from_secs(1)));
    script.give(hello(&next[0], false, false, false));
    script.give(said(&next[0], ToAgent::Ready { start_us: 1 }));
    assert_ne!(script.pool.status().problem, "");
    script.after(Duration::from_secs(10));
    assert_eq!(script.pool.status().problem, "");
}

#[test]
fn a_worker_that_never_gets_ready_is_killed_once() {
    let mut script = Script::new();
    let workers = started(&script.give(Input::Plan(plan(1, 1))));
    assert_eq!(script.after(Duration::from_secs(60)), [Action::Kill(workers[0].clone())]);
    assert_eq!(script.after(Duration::from_secs(1)), []);
}

#[test]
fn sigterm_to_a_worker_replaces_it_before_it_hands_over() {
    let (mut script, workers) = Script::serving(1);
    script.after(Duration::from_secs(10));
    let actions = script.give(said(&workers[0], ToAgent::Draining));
    let next = started(&actions);
    assert_eq!(actions.len(), 1, "nothing is asked back while nobody else listens: {actions:?}");
    script.give(hello(&next[0], false, false, false));
    let actions = script.give(said(&next[0], ToAgent::Ready { start_us: 1 }));
    assert_eq!(script.answer(actions), []);
    assert_eq!(script.states()[0], (workers[0].to_string(), WorkerState::Draining, 0));
    assert_eq!(script.states()[1], (next[0].to_string(), WorkerState::Ready, 8));
}

#[test]
fn a_sleeping_pool_is_woken_to_one_until_a_later_plan() {
    let mut script = Script::new();
    assert_eq!(script.give(Input::Plan(plan(1, 0))), []);
    assert!(script.pool.asleep());
    let workers = started(&script.give(Input::Waiting));
    assert_eq!(workers.len(), 1);
    assert!(!script.pool.asleep());
    assert_eq!(script.give(Input::Waiting), []);
    assert_eq!(script.pool.status().problem, "woken by a connection");
    script.give(hello(&workers[0], false, false, false));
    let actions = script.give(said(&workers[0], ToAgent::Ready { start_us: 1 }));
    script.answer(actions);
    // The same plan again is no decision.
    assert_eq!(script.give(Input::Plan(plan(1, 0))), []);
    let actions = script.give(Input::Plan(plan(2, 0)));
    let rest = script.answer(actions);
    assert_eq!(rest, [Action::Send(workers[0].clone(), ToWorker::Drain { deadline_ms: 1000 })]);
    assert!(script.pool.asleep());
}

#[test]
fn a_new_agent_recovers_before_it_binds_or_starts() {
    let mut script = Script::new();
    let workers: Vec<WorkerId> = vec!["web-old-1".parse().unwrap(), "web-old-2".parse().unwrap()];
    let known = workers.iter().map(|worker| Known { worker: worker.clone(), pid: 7 }).collect();
    script.pool.take_over(known, [(listen(), 8)], script.now);
    assert_eq!(script.give(Input::Plan(plan(3, 2))), []);
    for (worker, slots) in workers.iter().zip([[0, 1, 2], [4, 5, 6]]) {
        let actions = script.give(hello(worker, true, false, true));
        assert_eq!(actions, [Action::Send(worker.clone(), ToWorker::Recover)]);
        let recovered = Slots { listen: listen(), slots: slots.to_vec() };
        assert_eq!(script.give(said(worker, ToAgent::Recovered(recovered))), []);
    }
    assert_eq!(script.give(said(&workers[0], ToAgent::RecoveredAll)), []);
    let actions = script.give(said(&workers[1], ToAgent::RecoveredAll));
    // Two more slots to eight, with new numbers: a lost 3 or 7 may still be held by somebody.
    let lends: Vec<_> = actions.iter().collect();
    let [Action::Send(_, ToWorker::Lend(one)), Action::Send(_, ToWorker::Lend(two))] = &lends[..] else {
        panic!("{lends:?}")
    };
    assert_eq!([&one.slots[..], &two.slots[..]], [[8], [9]]);
    assert_eq!(script.answer(actions), []);
    assert!(script.states().iter().all(|(_, state, slots)| (*state, *slots) == (WorkerState::Ready, 4)));
}

#[test]
fn a_worker_that_does_not_come_back_is_waited_for_then_told_to_end() {
    let mut script = Script::new();
    let worker: WorkerId = "web-old-1".parse().unwrap();
    script.pool.take_over(vec![Known { worker: worker.clone(), pid: 7 }], [], script.now);
    assert_eq!(script.give(Input::Plan(plan(3, 1))), []);
    // Sockets are bound after the recovery's time; the worker still counts as one.
    assert_eq!(script.after(Duration::from_secs(3)), []);
    assert_eq!(script.pool.status().slots, 8);
    let actions = script.after(Duration::from_secs(7));
    assert_eq!(actions, [Action::Terminate(worker.clone())]);
    assert_eq!(started(&script.after(Duration::from_secs(1))).len(), 1);
    // The deadline of a drain, and the time to exit.
    assert!(script.after(Duration::from_secs(6)).contains(&Action::Kill(worker)));
}

#[test]
fn a_worker_that_does_not_recover_in_time_is_told_to_end() {
    let (mut script, workers) = Script::serving(1);
    script.give(Input::Unlinked(workers[0].clone()));
    script.give(hello(&workers[0], true, false, true));
    assert_eq!(script.after(Duration::from_secs(9)), []);
    let actions = script.after(Duration::from_secs(1));
    assert_eq!(actions[0], Action::Terminate(workers[0].clone()));
}

#[test]
fn sockets_that_are_recovered_of_a_closed_address_are_closed_again() {
    let (mut script, workers) = Script::serving(1);
    script.give(Input::Stop);
    script.give(Input::Unlinked(workers[0].clone()));
    script.give(hello(&workers[0], true, false, true));
    let slots = Slots { listen: listen(), slots: vec![3] };
    let actions = script.give(said(&workers[0], ToAgent::Recovered(slots.clone())));
    assert!(actions.contains(&Action::Close(listen())), "{actions:?}");
    assert!(actions.contains(&Action::Send(workers[0].clone(), ToWorker::Return(slots))), "{actions:?}");
}

#[test]
fn a_stuck_worker_is_relieved_and_comes_back_when_it_has_returned_everything() {
    let (mut script, workers) = Script::serving(2);
    let slot =
        (0..8).find(|slot| script.pool.addresses[&listen()].group.listeners(*slot) == workers[..1]).unwrap();
    let standing = || Input::Standing { listen: listen(), slot };
    let actions = script.give(standing());
    let [Action::Send(healthy, ToWorker::Lend(lent))] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!((healthy, lent.slots.len()), (&workers[1], 4));
    assert_eq!(script.give(standing()), []);
    assert_eq!(script.pool.relieved(), 1);
    assert_eq!(script.answer(actions), []);
    assert_eq!(script.pool.status().problem, "");
    assert!(script.states().iter().all(|(_, _, slots)| *slots == 4));
    // The last healthy one is never relieved.
    script.give(Input::Ended { worker: workers[1].clone(), how: String::new() });
    script.give(standing());
    assert_eq!(script.pool.relieved(), 1);
}

#[test]
fn an_address_that_cannot_be_bound_is_reported_and_tried_again() {
    let mut script = Script::new();
    let actions = script.pool.handle(Input::Plan(plan(1, 0)), script.now);
    let [Action::Bind(listen, slots)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(slots.len(), 8);
    let failed =
        Input::Bound { listen: listen.clone(), slots: vec![], problem: Some("listen: in use".to_owned()) };
    assert_eq!(script.pool.handle(failed, script.now), []);
    assert_eq!(script.pool.status().problem, "listen: in use");
    script.after(Duration::from_secs(1));
    assert_eq!(script.pool.status().problem, "");
    assert_eq!(script.pool.status().slots, 8);
}

#[test]
fn an_address_that_is_no_longer_planned_is_closed_here_first() {
    let (mut script, workers) = Script::serving(1);
    let moved = PoolPlan {
        listen: vec![PoolListen { bind: "127.0.0.1:9090".to_owned(), port: 80, ..PoolListen::default() }],
        ..wire_plan(2, 1)
    };
    let actions = script.give(Input::Plan(Plan::try_from(moved).unwrap()));
    let old = Slots { listen: listen(), slots: (0..8).collect() };
    assert_eq!(actions[0], Action::Close(listen()));
    assert!(actions.contains(&Action::Send(workers[0].clone(), ToWorker::Return(old))));
    script.answer(actions);
    assert_eq!(script.pool.status().slots, 8);
    // Back again: the numbers go on.
    let actions = script.give(Input::Plan(plan(3, 1)));
    let lent = |action: &Action| matches!(action, Action::Send(_, ToWorker::Lend(s)) if s.slots[0] == 8);
    assert!(actions.iter().any(lent), "{actions:?}");
}

#[test]
fn stopping_closes_returns_drains_and_is_gone() {
    let (mut script, workers) = Script::serving(2);
    let actions = script.give(Input::Stop);
    assert_eq!(actions[0], Action::Close(listen()));
    let drains = script.answer(actions);
    for worker in &workers {
        assert!(drains.contains(&Action::Send(worker.clone(), ToWorker::Drain { deadline_ms: 1000 })));
    }
    for worker in &workers {
        assert!(!script.pool.is_gone());
        script.give(said(worker, ToAgent::Drained));
        script.give(Input::Ended { worker: worker.clone(), how: "exit status: 0".to_owned() });
    }
    assert!(script.pool.is_gone());
    assert_eq!(script.pool.crashes(), 0);
}

#[test]
fn a_leaver_that_never_returns_its_slots_is_killed() {
    let (mut script, workers) = Script::serving(1);
    let actions = script.give(Input::Stop);
    assert!(matches!(&actions[..], [Action::Close(_), Action::Send(_, ToWorker::Return(_))]), "{actions:?}");
    assert_eq!(script.after(Duration::from_millis(5999)), []);
    assert_eq!(script.after(Duration::from_millis(1)), [Action::Kill(workers[0].clone())]);
}

#[test]
fn udp_slots_are_lent_one_a_thread_and_left_alone_by_drains() {
    let mut script = Script::new();
    let udp = Listen { transport: Transport::Udp, ..listen() };
    let with_udp = |generation, workers| {
        let mut plan = Plan { threads: 2, ..plan(generation, workers) };
        plan.listen.insert(udp.clone());
        plan
    };
    let workers = started(&script.give(Input::Plan(with_udp(1, 1))));
    script.give(hello(&workers[0], false, false, false));
    let actions = script.give(said(&workers[0], ToAgent::Ready { start_us: 1 }));
    let lend = ToWorker::Lend(Slots { listen: udp.clone(), slots: vec![0, 1] });
    assert!(actions.contains(&Action::Send(workers[0].clone(), lend)), "{actions:?}");
    script.answer(actions);
    let actions = script.give(Input::Plan(with_udp(2, 0)));
    let rest = script.answer(actions);
    assert_eq!(rest, [Action::Send(workers[0].clone(), ToWorker::Drain { deadline_ms: 1000 })]);
    assert_eq!(script.states()[0].2, 2, "the two UDP slots stay");
}

#[test]
fn new_quic_connections_avoid_a_leaver_before_it_hears_of_its_drain() {
    let mut script = Script::new();
    let udp = Listen { transport: Transport::Udp, ..listen() };
    let with_udp = |generation, workers| {
        let mut plan = plan(generation, workers);
        plan.listen.insert(udp.clone());
        plan
    };
    let workers = started(&script.give(Input::Plan(with_udp(1, 2))));
    let steered = |actions: &[Action]| -> Vec<Vec<u32>> {
        let active = |action: &Action| match action {
            Action::Steer(_, steering) => Some(steering.active.clone()),
            _ => None,
        };
        actions.iter().filter_map(active).collect()
    };
    for worker in &workers {
        script.give(hello(worker, false, false, false));
        let actions = script.give(said(worker, ToAgent::Ready { start_us: 1 }));
        let keep = |action: &&Action| matches!(action, Action::Send(_, ToWorker::Keep(_)));
        assert_eq!(actions.iter().filter(keep).count(), 1, "each worker keeps all sockets");
        script.answer(actions);
    }
    let actions = script.give(Input::Plan(with_udp(2, 1)));
    let steer = actions.iter().position(|action| matches!(action, Action::Steer(..))).unwrap();
    assert_eq!(steered(&actions), [vec![1]], "one of two that are as young goes");
    assert!(!actions[..steer].iter().any(|action| matches!(action, Action::Send(_, ToWorker::Drain { .. }))));
}
