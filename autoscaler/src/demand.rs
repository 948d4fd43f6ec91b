//! How much work a pool is asked to do, in workers: 2.5 is what two and a half workers do at full use.
//!
//! Work is arrival rate x cost, never requests in flight: those are arrival rate x *upstream* latency, and a slow
//! upstream must not add workers. Queues count only where the CPU is busy, for the same reason.

mod cost;
mod forecast;
mod peak;

#[cfg(test)]
mod tests;

use std::time::Duration;

pub use cost::Cost;
pub use forecast::Forecast;
pub use peak::Peak;

use crate::{
    Time,
    policy::{Capacity, PoolPolicy},
};

/// An estimate that was not fed for this long says nothing about the time between.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// See [`work`].
const MAX_SMOOTHING: f64 = 1.5;

/// What a pool's workers reported together.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PoolLoad {
    /// Requests finished per second.
    pub requests_per_second: f64,
    /// Requests shed per second.
    pub shed_per_second: f64,
    /// Cores in use.
    pub cpu_cores: f64,
    /// Work that waits in front of newcomers, in seconds of one worker.
    pub backlog_seconds: f64,
    /// Workers that are saturated.
    pub saturated: u32,
    /// Now.
    pub in_flight: u64,
    /// Learned CPU seconds per request.
    pub cost_seconds: f64,
    /// Whether all who should have reported did: none is missing.
    pub complete: bool,
    /// Whether really all have a recent report, those included that just became ready.
    pub all_reported: bool,
}

/// What is asked of a pool, in workers at full use unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Demand {
    /// Now.
    pub work: f64,
    /// When a worker that is started now is ready: at least `work`.
    pub forecast: f64,
    /// When that is.
    pub horizon: Duration,
    /// What it takes to work off the backlog in the time allowed for it. That may be done at full use, so this is
    /// less by the target utilisation.
    pub backlog: f64,
    /// The share by which forecasts prove too low.
    pub headroom: f64,
    /// The highest `forecast + backlog` of the scale-in delay.
    pub peak: f64,
    /// For how long all that should have been known was, without a break.
    pub covered: Duration,
    /// For how long there has been nothing to do; zero if it is not known.
    pub idle: Duration,
    /// Workers that are saturated: what they are asked for is more than what they do.
    pub saturated: u32,
}

impl Demand {
    /// What is to be planned for: the forecast, and the backlog's share.
    #[must_use]
    pub fn expected(&self) -> f64 {
        self.forecast + self.backlog
    }
}

/// Turns one pool's load into its demand, tick by tick.
#[derive(Debug, Clone, Default)]
pub struct Estimator {
    forecast: Forecast,
    peak: Peak,
    complete_since: Option<Time>,
    idle_since: Option<Time>,
    last: Option<Time>,
}

impl Estimator {
    /// The demand that `load` makes; `horizon` is how long a worker takes to be of use.
    pub fn observe(&mut self, policy: &PoolPolicy, load: &PoolLoad, horizon: Duration, now: Time) -> Demand {
        let unbroken = load.complete && self.last.is_some_and(|last| now.since(last) <= MAX_PAUSE);
        let since = |since: Option<Time>, holds: bool| match since.filter(|_| unbroken) {
            Some(since) if holds => Some(since),
            _ => (load.complete && holds).then_some(now),
        };
        let idle = load.in_flight == 0 && load.requests_per_second + load.shed_per_second <= 0.0;
        self.complete_since = since(self.complete_since, true);
        self.idle_since = since(self.idle_since, idle);
        self.last = Some(now);

        // A worker's own housekeeping is nobody's demand.
        let work = if idle { 0.0 } else { work(policy, load) };
        // A sum that lacks somebody, or that full workers cap, is no point of a trend and proves no forecast wrong.
        let telling = load.all_reported && load.saturated == 0;
        let forecast = if telling { self.forecast.observe(work, horizon, now) } else { work };
        let drain = policy.backlog_drain.max(Duration::from_millis(100)).as_secs_f64();
        let backlog = load.backlog_seconds / drain * policy.target_utilization();
        let peak = self.peak.observe(forecast + backlog, policy.scale_in_delay, now);
        let lasted = |since: Option<Time>| since.map_or(Duration::ZERO, |since| now.since(since));
        Demand {
            work,
            forecast,
            horizon,
            backlog,
            headroom: self.forecast.headroom(),
            peak,
            covered: lasted(self.complete_since),
            idle: lasted(self.idle_since),
            saturated: load.saturated,
        }
    }
}

/// Arrivals x cost, or the CPU that is really used if that is more: a declared capacity never hides a full CPU, nor
/// does a learned cost hide tunnels, which finish no requests.
#[must_use]
pub fn work(policy: &PoolPolicy, load: &PoolLoad) -> f64 {
    let threads = f64::from(policy.threads());
    // Requests shed by workers with CPU to spare were not shed for want of workers.
    let shed = if load.saturated > 0 { load.shed_per_second } else { 0.0 };
    let asked = match policy.capacity {
        Capacity::Declared { requests_per_second } => {
            (load.requests_per_second + shed) / requests_per_second.max(0.001)
        }
        Capacity::Learned => {
            // What was served has been paid for: the learned cost smooths that figure, and never doubles it (a pool
            // of busy tunnels learns an absurd cost per request).
            let served = (load.requests_per_second * load.cost_seconds).min(load.cpu_cores * MAX_SMOOTHING);
            (served + shed * load.cost_seconds) / threads
        }
    };
    asked.max(load.cpu_cores / threads)
}
