//! The modelled workers: a node agent that obeys at once, and workers that serve as fluid.

use std::time::Duration;

use api::{
    feed::{LoadReport, WorkerPhase},
    node::{NodeStatus, PoolStatus, WorkerState, WorkerStatus},
};

use model::PoolName;

use super::{Scenario, Second};
use crate::{
    Time,
    fleet::{Fleet, State},
    number::whole,
    plan::DesiredPool,
};

/// The one node's name.
const NODE: &str = "node";

/// Clients wait that long and go: a queue never holds more.
const PATIENCE_SECONDS: f64 = 30.0;

/// What a worker uses when it has nothing to do, seconds of CPU a second.
const HOUSEKEEPING: f64 = 0.002;

#[derive(Debug)]
pub(super) struct ModelPool {
    name: String,
    workers: Vec<Worker>,
    started: u32,
    start: Duration,
    cost: f64,
    threads: u32,
    cpus: u32,
    /// Requests that came while nobody was there; they wait in the sockets.
    waiting: f64,
    /// The plan that was acted on.
    acted: (u64, u64),
    worker_seconds: f64,
}

#[derive(Debug)]
struct Worker {
    id: String,
    state: State,
    ready_at: Time,
    sequence: u64,
    /// Seconds of CPU that wait.
    queue: f64,
    /// Seconds of CPU that were used in this second.
    used: f64,
    in_flight: f64,
    queue_seconds: f64,
}

/// What the workers did in a second.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Served {
    pub(super) requests: f64,
    pub(super) queue_seconds: f64,
    pub(super) ready: u32,
    pub(super) utilization: f64,
}

impl ModelPool {
    pub(super) fn new(name: &PoolName, scenario: &Scenario) -> Self {
        let mut pool = Self {
            name: name.to_string(),
            workers: Vec::new(),
            started: 0,
            start: scenario.start,
            cost: scenario.cost_seconds.max(1e-9),
            threads: scenario.policy.threads(),
            cpus: scenario.cpus.max(1),
            waiting: 0.0,
            acted: (0, 0),
            worker_seconds: 0.0,
        };
        for _ in 0..scenario.workers {
            pool.start_worker(Time::ZERO);
        }
        pool.workers.iter_mut().for_each(|w| (w.state, w.ready_at) = (State::Ready, Time::ZERO));
        pool
    }

    pub(super) fn worker_seconds(&self) -> f64 {
        self.worker_seconds
    }

    /// One second: obey the plan, take the arrivals, serve.
    pub(super) fn step(&mut self, input: &Second, desired: Option<&DesiredPool>, now: Time) -> Served {
        self.workers.retain(|w| w.state != State::Draining || w.queue > 0.0);
        if let Some(desired) = desired {
            self.obey(desired, now);
        }
        self.waiting += input.arrivals;
        if self.workers.iter().all(|w| w.state == State::Draining) && self.waiting > 0.0 && desired.is_some()
        {
            // A connection wakes a sleeping pool.
            self.start_worker(now);
        }
        for worker in self.workers.iter_mut().filter(|w| w.state == State::Starting && now >= w.ready_at) {
            worker.state = State::Ready;
        }
        self.worker_seconds += self.workers.len() as f64;
        self.serve(input)
    }

    fn serve(&mut self, input: &Second) -> Served {
        let ready = self.workers.iter().filter(|w| w.state == State::Ready).count();
        let arrived = if ready > 0 { std::mem::take(&mut self.waiting) } else { 0.0 };
        let working = self.workers.iter().filter(|w| w.state != State::Starting).count().max(1);
        let wanted = working as f64 * f64::from(self.threads);
        let capacity = f64::from(self.threads) * (f64::from(self.cpus) / wanted).min(1.0);
        let mut served = Served { ready: u32::try_from(ready).unwrap_or(u32::MAX), ..Served::default() };
        let mut used = 0.0;
        for worker in self.workers.iter_mut().filter(|w| w.state != State::Starting) {
            let own = if worker.state == State::Ready { arrived / ready as f64 } else { 0.0 };
            worker.queue = (worker.queue + own * self.cost).min(capacity * PATIENCE_SECONDS);
            worker.used = worker.queue.min(capacity);
            worker.queue -= worker.used;
            worker.queue_seconds = worker.queue / capacity;
            worker.in_flight = own * input.upstream_ms / 1000.0 + worker.queue / self.cost;
            served.requests += worker.used / self.cost;
            served.queue_seconds = served.queue_seconds.max(worker.queue_seconds);
            used += worker.used;
        }
        if ready == 0 && self.waiting > 0.0 {
            served.queue_seconds = served.queue_seconds.max(1.0);
        }
        served.utilization = used / (working as f64 * capacity);
        served
    }

    /// Says what the node and the workers would say.
    pub(super) fn tell(&mut self, fleet: &mut Fleet, input: &Second, now: Time) {
        let status = self.status();
        // One node and its workers are within every bound.
        drop(fleet.status(&status, now));
        for worker in &mut self.workers {
            worker.sequence += 1;
            if !input.reports_lost {
                let report = worker.report(&self.name, self.cost, self.threads);
                drop(fleet.report(&report, now));
            }
        }
    }

    fn obey(&mut self, desired: &DesiredPool, now: Time) {
        let plan = desired.for_node(NODE);
        self.acted = (plan.term, plan.generation);
        let active = self.workers.iter().filter(|w| w.state != State::Draining).count();
        for _ in active..plan.workers as usize {
            self.start_worker(now);
        }
        let surplus = active.saturating_sub(plan.workers as usize);
        let named = |w: &Worker| plan.drain.iter().position(|id| *id == w.id).unwrap_or(usize::MAX);
        let mut leavers: Vec<&mut Worker> =
            self.workers.iter_mut().filter(|w| w.state != State::Draining).collect();
        leavers.sort_by_key(|w| named(w));
        leavers.into_iter().take(surplus).for_each(|w| w.state = State::Draining);
    }

    fn start_worker(&mut self, now: Time) {
        self.started += 1;
        self.workers.push(Worker {
            id: format!("w{}", self.started),
            state: State::Starting,
            ready_at: now + self.start,
            sequence: 0,
            queue: 0.0,
            used: 0.0,
            in_flight: 0.0,
            queue_seconds: 0.0,
        });
    }

    fn status(&self) -> NodeStatus {
        let start_ms = u64::try_from(self.start.as_millis()).unwrap_or(u64::MAX);
        let workers = self.workers.iter().map(|w| {
            let (state, start_ms) = match w.state {
                State::Starting => (WorkerState::Starting, 0),
                State::Ready => (WorkerState::Ready, start_ms),
                State::Draining => (WorkerState::Draining, start_ms),
            };
            WorkerStatus { worker: w.id.clone(), state: state.into(), start_ms, ..WorkerStatus::default() }
        });
        let (term, generation) = self.acted;
        let workers = workers.collect();
        let pool = PoolStatus { pool: self.name.clone(), term, generation, workers, ..PoolStatus::default() };
        NodeStatus { node: NODE.to_owned(), cpus: self.cpus, pools: vec![pool] }
    }
}

impl Worker {
    fn report(&self, pool: &str, cost: f64, threads: u32) -> LoadReport {
        let phase = match self.state {
            State::Starting => WorkerPhase::Starting,
            State::Ready => WorkerPhase::Ready,
            State::Draining => WorkerPhase::Draining,
        };
        let count = |value: f64| u64::from(whole(value.round()));
        LoadReport {
            worker: self.id.clone(),
            pool: pool.to_owned(),
            sequence: self.sequence,
            window_us: 1_000_000,
            requests: count(self.used / cost),
            cpu_us: count((self.used + HOUSEKEEPING) * 1e6),
            queue_delay_us: count(self.queue_seconds * 1e6),
            in_flight: count(self.in_flight),
            connections: count(self.in_flight + 1.0),
            phase: phase.into(),
            threads,
            ..LoadReport::default()
        }
    }
}
