use api::{
    feed::WorkerPhase,
    node::{PoolStatus, WorkerState},
};

use super::*;
use crate::{PoolPolicy, plan::DesiredPool, plan::Shape};

fn pool() -> PoolName {
    "default".parse().unwrap()
}

fn at(secs: u64) -> Time {
    Time::from_secs(secs)
}

fn worker(id: &str, state: WorkerState) -> WorkerStatus {
    WorkerStatus { worker: id.to_owned(), state: state.into(), ..WorkerStatus::default() }
}

fn status(node: &str, workers: &[WorkerStatus]) -> NodeStatus {
    let pool = PoolStatus { pool: "default".to_owned(), workers: workers.to_vec(), ..PoolStatus::default() };
    NodeStatus { node: node.to_owned(), cpus: 4, pools: vec![pool] }
}

fn report(worker: &str, sequence: u64) -> LoadReport {
    LoadReport {
        worker: worker.to_owned(),
        pool: "default".to_owned(),
        sequence,
        window_us: 1_000_000,
        requests: 1_000,
        cpu_us: 200_000,
        threads: 1,
        phase: WorkerPhase::Ready.into(),
        ..LoadReport::default()
    }
}

fn desired(workers: u32, node: &str) -> DesiredPool {
    DesiredPool {
        pool: pool(),
        term: 3,
        generation: model::Generation(7),
        workers,
        split: BTreeMap::from([(node.to_owned(), workers)]),
        surge: BTreeMap::new(),
        drain: vec![],
        shape: Shape::from(&PoolPolicy::default()),
    }
}

fn crew(fleet: &Fleet, desired: &DesiredPool, now: Time) -> Crew {
    fleet.crew(&PoolPolicy::default(), &pool(), Some(desired), Time::ZERO, now)
}

fn kinds(changes: &[Change]) -> Vec<(&str, &ChangeKind)> {
    changes.iter().map(|change| (change.worker.as_str(), &change.kind)).collect()
}

#[test]
fn a_worker_lives_once() {
    let mut fleet = Fleet::default();
    let mut said = |state| fleet.status(&status("a", &[worker("w1", state)]), at(1)).unwrap();
    assert_eq!(kinds(&said(WorkerState::Starting)), [("w1", &ChangeKind::Started)]);
    assert_eq!(kinds(&said(WorkerState::Starting)), []);
    assert_eq!(kinds(&said(WorkerState::Ready)), [("w1", &ChangeKind::Ready)]);
    assert_eq!(kinds(&said(WorkerState::Draining)), [("w1", &ChangeKind::Draining)]);
    // States go forward only.
    assert_eq!(kinds(&said(WorkerState::Ready)), []);
    assert_eq!(kinds(&said(WorkerState::Ended)), [("w1", &ChangeKind::Ended(String::new()))]);
    assert_eq!(kinds(&said(WorkerState::Ended)), []);
    assert_eq!(fleet.report(&report("w1", 9), at(2)), Err(Refused::Ended("w1".parse().unwrap())));
    assert_eq!(fleet.members(None).count(), 0);
}

#[test]
fn a_worker_that_its_node_knows_no_more_has_ended() {
    let mut fleet = Fleet::default();
    let (w1, w2) = (worker("w1", WorkerState::Ready), worker("w2", WorkerState::Ready));
    fleet.status(&status("a", &[w1, w2.clone()]), at(1)).unwrap();
    let changes = fleet.status(&status("a", &[w2]), at(2)).unwrap();
    assert_eq!(kinds(&changes), [("w1", &ChangeKind::Ended("its node knows it no more".to_owned()))]);
}

#[test]
fn a_silent_worker_is_missing_not_gone() {
    let mut fleet = Fleet::default();
    let ready = status("a", &[worker("w1", WorkerState::Ready), worker("w2", WorkerState::Ready)]);
    let desired = desired(2, "a");
    for now in 1..20 {
        fleet.status(&ready, at(now)).unwrap();
        fleet.report(&report("w1", now), at(now)).unwrap();
        if now < 10 {
            fleet.report(&report("w2", now), at(now)).unwrap();
        }
        assert_eq!(kinds(&fleet.expire(at(now))), []);
        let crew = crew(&fleet, &desired, at(now));
        assert_eq!((crew.ready, crew.missing), (2, u32::from(now >= 12)), "at {now}");
        let load = fleet.load(&PoolPolicy::default(), &pool(), Some(&desired), at(now));
        assert_eq!(load.complete, now < 12, "at {now}");
    }
}

#[test]
fn a_worker_that_just_became_ready_may_be_silent_for_a_moment() {
    let mut fleet = Fleet::default();
    fleet.status(&status("a", &[worker("w1", WorkerState::Ready)]), at(10)).unwrap();
    let load = fleet.load(&PoolPolicy::default(), &pool(), None, at(12));
    assert!(load.complete && !load.all_reported);
    assert_eq!(crew(&fleet, &desired(1, "a"), at(13)).missing, 1);
}

#[test]
fn a_lost_node_counts_as_lost_then_is_forgotten_with_its_workers() {
    let mut fleet = Fleet::default();
    fleet.status(&status("a", &[worker("w1", WorkerState::Ready)]), at(0)).unwrap();
    fleet.report(&report("w1", 1), at(0)).unwrap();
    let desired = desired(1, "a");
    fleet.node_lost("a", at(1));
    assert_eq!(crew(&fleet, &desired, at(1)).lost_nodes, 1);
    // Its workers still report: only the agent is away.
    for now in 1..100 {
        fleet.report(&report("w1", now + 1), at(now)).unwrap();
        assert_eq!(fleet.expire(at(now)), []);
    }
    assert_eq!(fleet.roster(&pool(), at(99)).nodes.len(), 1);
    // They too fall silent.
    assert_eq!(fleet.expire(at(103)), []);
    assert!(fleet.roster(&pool(), at(103)).nodes.is_empty());
    assert_eq!(fleet.expire(at(110)).len(), 1);
    assert_eq!(
        crew(&fleet, &desired, at(110)),
        Crew { starting: 0, ..Crew { target: 1, ..Crew::default() } }
    );
}

#[test]
fn a_silent_node_is_lost_and_a_stored_one_is_expected() {
    let mut fleet = Fleet::default();
    fleet.status(&status("a", &[]), at(0)).unwrap();
    fleet.expect_node("b", at(0));
    assert_eq!(fleet.connected_nodes(), 1);
    assert_eq!(crew(&fleet, &desired(1, "b"), at(1)).lost_nodes, 1);
    fleet.expire(at(11));
    assert_eq!(fleet.connected_nodes(), 0);
    fleet.status(&status("b", &[]), at(12)).unwrap();
    assert_eq!(crew(&fleet, &desired(1, "b"), at(12)).lost_nodes, 0);
}

#[test]
fn coming_and_going_are_under_way_for_a_while_only() {
    let mut fleet = Fleet::default();
    let workers = [worker("w1", WorkerState::Starting), worker("w2", WorkerState::Draining)];
    fleet.status(&status("a", &workers), at(100)).unwrap();
    let desired = desired(3, "a");
    let crew = |fleet: &Fleet, changed: u64, now: u64| {
        let crew = fleet.crew(&PoolPolicy::default(), &pool(), Some(&desired), at(changed), at(now));
        (crew.starting, crew.leaving)
    };
    // One that starts, two that are planned and not seen yet.
    assert_eq!(crew(&fleet, 100, 101), (3, 1));
    assert_eq!(crew(&fleet, 30, 101), (1, 1));
    assert_eq!(crew(&fleet, 30, 131), (1, 0));
    assert_eq!(crew(&fleet, 30, 161), (0, 0));
    // One too many, whom the node has not asked to go yet.
    let ready = ["w3", "w4", "w5", "w6"].map(|id| worker(id, WorkerState::Ready));
    fleet.status(&status("a", &ready), at(200)).unwrap();
    let leaving = |now| fleet.crew(&PoolPolicy::default(), &pool(), Some(&desired), at(200), at(now)).leaving;
    assert_eq!((leaving(201), leaving(261)), (1, 0));
}

#[test]
fn only_a_worker_that_a_node_started_after_the_last_plan_wakes_a_pool() {
    let mut fleet = Fleet::default();
    let asleep = DesiredPool { split: BTreeMap::new(), ..desired(0, "a") };
    let mut woken = |term, generation, state| {
        let mut status = status("a", &[worker("w1", state)]);
        (status.pools[0].term, status.pools[0].generation) = (term, generation);
        fleet.status(&status, at(1)).unwrap();
        crew(&fleet, &asleep, at(1)).woken
    };
    assert!(!woken(3, 6, WorkerState::Starting), "of the plan before");
    assert!(woken(3, 7, WorkerState::Starting));
    assert!(woken(4, 1, WorkerState::Ready));
    assert!(!woken(3, 7, WorkerState::Draining));
}

#[test]
fn the_node_says_who_is_ready() {
    let mut fleet = Fleet::default();
    // Without a node a worker's own word must do.
    fleet.report(&report("k8s", 1), at(1)).unwrap();
    fleet.status(&status("a", &[worker("w1", WorkerState::Starting)]), at(1)).unwrap();
    fleet.report(&report("w1", 1), at(1)).unwrap();
    let state = |fleet: &Fleet, id: &str| fleet.members[id].state;
    assert_eq!((state(&fleet, "k8s"), state(&fleet, "w1")), (State::Ready, State::Starting));
    // That it drains is its own decision (SIGTERM).
    let draining = LoadReport { phase: WorkerPhase::Draining.into(), ..report("w1", 2) };
    fleet.report(&draining, at(2)).unwrap();
    assert_eq!(state(&fleet, "w1"), State::Draining);
}

#[test]
fn start_times_are_measured_once_each() {
    let mut fleet = Fleet::default();
    assert_eq!(fleet.start_p95(&pool()), DEFAULT_START);
    for id in 0..100_u64 {
        let id = format!("w{id}");
        let start_ms = if id.ends_with('7') { 5_000 } else { 300 };
        let ready = WorkerStatus { start_ms, ..worker(&id, WorkerState::Ready) };
        (0..5).for_each(|_| drop(fleet.status(&status("a", std::slice::from_ref(&ready)), at(1))));
    }
    assert_eq!(fleet.start_p95(&pool()), Duration::from_secs(5));
    assert_eq!(fleet.facts[&pool()].starts.len(), MAX_STARTS);
}

#[test]
fn after_a_scale_out_full_workers_are_told_to_retire_connections() {
    let mut fleet = Fleet::default();
    let connections = |id, sequence, connections| LoadReport { connections, ..report(id, sequence) };
    let mut ready = vec![worker("old", WorkerState::Ready)];
    fleet.status(&status("a", &ready), at(0)).unwrap();
    let told = |fleet: &mut Fleet, id, at_s, n| {
        fleet.report(&connections(id, at_s, n), at(at_s)).unwrap().retire_above
    };
    assert_eq!(told(&mut fleet, "old", 1, 300), 0);
    ready.push(worker("new", WorkerState::Ready));
    fleet.status(&status("a", &ready), at(2)).unwrap();
    assert_eq!(told(&mut fleet, "new", 2, 0), 0);
    assert_eq!(told(&mut fleet, "old", 3, 300), 165);
    assert_eq!(told(&mut fleet, "new", 4, 120), 0);
    assert_eq!(told(&mut fleet, "old", 5, 200), 176);
    // Level: it is over, and stays over.
    assert_eq!(told(&mut fleet, "new", 6, 155), 0);
    assert_eq!(told(&mut fleet, "old", 7, 165), 0);
    assert_eq!(told(&mut fleet, "old", 8, 400), 0);
}

#[test]
fn what_cannot_be_is_refused_or_left_out() {
    let mut fleet = Fleet::default();
    assert!(matches!(fleet.report(&report("No Name", 1), at(1)), Err(Refused::Name(_))));
    fleet.status(&status("a", &[worker("../..", WorkerState::Ready)]), at(1)).unwrap();
    assert_eq!(fleet.members(None).count(), 0);
    for node in 0..2_000 {
        let refused = fleet.status(&status(&format!("n{node}"), &[]), at(1)).is_err();
        assert_eq!(refused, node >= MAX_NODES - 1);
    }
    for worker in 0..9_000 {
        let starting = LoadReport { phase: WorkerPhase::Starting.into(), ..report(&format!("w{worker}"), 1) };
        let refused = fleet.report(&starting, at(1)).is_err();
        assert_eq!(refused, worker >= MAX_WORKERS);
    }
}
