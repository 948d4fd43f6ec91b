//! What if: the same scaling as in production, against a modelled pool, on a virtual clock.
//!
//! The model is a fluid one, a second a step: arrivals spread evenly over the ready workers; each works off what its
//! CPU pays for and queues the rest; a started worker is ready after its start time, a leaver ends once it has
//! drained. What the workers would report goes through the same messages, windows and decisions as real reports.
//! Deterministic: equal scenarios give equal timelines.

mod model_pool;

#[cfg(test)]
mod tests;

use std::time::Duration;

use model::PoolName;

use self::model_pool::ModelPool;
use crate::{
    PoolPolicy, Time,
    fleet::Fleet,
    plan::DesiredPool,
    scaler::{Outcome, Scaler},
};

/// A scenario's longest run: a week.
const MAX_SECONDS: usize = 7 * 24 * 3600;

/// What one second brings.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Second {
    /// Requests that arrive.
    pub arrivals: f64,
    /// How long upstreams take to answer, milliseconds: it keeps requests in flight and costs nothing else.
    #[serde(default)]
    pub upstream_ms: f64,
    /// Whether the workers' reports of this second are lost.
    #[serde(default)]
    pub reports_lost: bool,
}

impl Second {
    /// So many arrivals, a quick upstream, nothing lost.
    #[must_use]
    pub fn of(arrivals: f64) -> Self {
        Self { arrivals, upstream_ms: 10.0, reports_lost: false }
    }
}

/// A pool and what comes to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// How it is scaled.
    pub policy: PoolPolicy,
    /// Workers that are ready when it begins.
    pub workers: u32,
    /// From a worker's start to its readiness.
    pub start: Duration,
    /// What a request costs, CPU seconds.
    pub cost_seconds: f64,
    /// CPUs of the one node that there is.
    pub cpus: u32,
    /// Second by second; what is beyond a week is not run.
    pub trace: Vec<Second>,
}

/// One second of a run.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Point {
    /// Since the beginning.
    pub second: u64,
    /// Requests that arrived.
    pub arrivals: f64,
    /// Requests that were served.
    pub served: f64,
    /// How long a newcomer waits in the queue, seconds.
    pub queue_seconds: f64,
    /// Workers that take connections.
    pub ready: u32,
    /// Workers that there should be.
    pub target: u32,
    /// Demand, in workers at full use.
    pub demand: f64,
    /// The share of the ready workers' CPU that was used.
    pub utilization: f64,
    /// Why the target is what it is.
    pub reason: String,
    /// Whether another target would be better.
    pub hold: bool,
}

/// What a run came to.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Timeline {
    /// Second by second.
    pub points: Vec<Point>,
    /// How often the target changed.
    pub changes: u32,
    /// Seconds of workers that were started, ready or draining.
    pub worker_seconds: f64,
    /// The longest queue, seconds.
    pub worst_queue_seconds: f64,
    /// Seconds in which a newcomer waited for longer than the policy's saturation delay.
    pub seconds_saturated: u64,
}

impl Timeline {
    /// How long after `from` there was capacity for good: from then on the workers' CPU was never all used. `None`:
    /// not until the end. (What queued up until then may take longer.)
    #[must_use]
    pub fn time_to_capacity(&self, from: u64) -> Option<Duration> {
        let full = |point: &&Point| point.second >= from && point.utilization >= 0.99;
        match self.points.iter().rfind(full) {
            None => Some(Duration::ZERO),
            Some(last) if last.second + 1 < self.points.len() as u64 => {
                Some(Duration::from_secs(last.second + 1 - from))
            }
            Some(_) => None,
        }
    }
}

/// Runs a scenario of the pool `name`.
#[must_use]
pub fn run(name: &PoolName, scenario: &Scenario) -> Timeline {
    let policy = &scenario.policy;
    let (mut fleet, mut scaler) = (Fleet::default(), Scaler::default());
    let mut pool = ModelPool::new(name, scenario);
    let mut desired: Option<DesiredPool> = None;
    let mut points = Vec::new();
    for (second, input) in scenario.trace.iter().take(MAX_SECONDS).enumerate() {
        let now = Time::from_secs(second as u64);
        let served = pool.step(input, desired.as_ref(), now);
        pool.tell(&mut fleet, input, now);
        fleet.expire(now);
        let outcome = scaler.tick((name, policy), &fleet, desired.as_ref(), 1, now);
        points.push(point(second as u64, input, &served, &outcome));
        if let Some(plan) = outcome.plan {
            desired = Some(plan);
        }
    }
    summarise(points, pool.worker_seconds(), policy)
}

fn point(second: u64, input: &Second, served: &model_pool::Served, outcome: &Outcome) -> Point {
    Point {
        second,
        arrivals: input.arrivals,
        served: served.requests,
        queue_seconds: served.queue_seconds,
        ready: served.ready,
        target: outcome.decision.target,
        demand: outcome.demand.work,
        utilization: served.utilization,
        reason: outcome.decision.reason.to_string(),
        hold: outcome.decision.hold,
    }
}

fn summarise(points: Vec<Point>, worker_seconds: f64, policy: &PoolPolicy) -> Timeline {
    let changes = points.windows(2).filter(|pair| pair[0].target != pair[1].target).count();
    let late = |point: &&Point| point.queue_seconds > policy.saturation_delay.as_secs_f64();
    Timeline {
        changes: u32::try_from(changes).unwrap_or(u32::MAX),
        worker_seconds,
        worst_queue_seconds: points.iter().map(|p| p.queue_seconds).fold(0.0, f64::max),
        seconds_saturated: points.iter().filter(late).count() as u64,
        points,
    }
}
