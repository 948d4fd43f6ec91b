//! What a request costs.

use std::time::Duration;

/// Before anything is known: between HAProxy's 33 and Envoy's 133 µs for a small request through one core.
const PRIOR: Duration = Duration::from_micros(100);

/// The prior counts as that many requests.
const PRIOR_REQUESTS: f64 = 500.0;

/// The estimate forgets by requests, not by time: this many weigh as much as all that came before them. An idle
/// hour with its background work thus teaches nothing, and a busy second does.
const MEMORY_REQUESTS: f64 = 5_000.0;

/// Below this share of one core a worker's housekeeping (health checks, reports) is as large as its requests.
const MIN_USE: f64 = 0.05;

/// The CPU time of one request of a pool, as a running mean over requests.
///
/// It belongs to the pool, so it outlives every worker, and a new worker's first costly second (cold caches, TLS
/// handshakes) weighs by its requests only.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    cpu_s: f64,
    requests: f64,
}

impl Default for Cost {
    fn default() -> Self {
        Self { cpu_s: PRIOR.as_secs_f64() * PRIOR_REQUESTS, requests: PRIOR_REQUESTS }
    }
}

impl Cost {
    /// Learns from `requests` that took `cpu` together, within `span`.
    pub fn learn(&mut self, requests: u64, cpu: Duration, span: Duration) {
        if requests == 0 || cpu.as_secs_f64() < span.as_secs_f64() * MIN_USE {
            return;
        }
        let new = requests as f64;
        let kept = (-new / MEMORY_REQUESTS).exp();
        self.cpu_s = self.cpu_s * kept + cpu.as_secs_f64();
        self.requests = self.requests * kept + new;
    }

    /// Seconds of CPU time per request.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.cpu_s / self.requests
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(cost: &Cost, expect_us: f64, within: f64) {
        let us = cost.seconds() * 1e6;
        assert!((us - expect_us).abs() <= expect_us * within, "{us} µs, expected {expect_us}");
    }

    fn learn(cost: &mut Cost, seconds: usize, requests: u64, cpu_ms: u64) {
        for _ in 0..seconds {
            cost.learn(requests, Duration::from_millis(cpu_ms), Duration::from_secs(1));
        }
    }

    #[test]
    fn it_begins_at_the_prior_and_learns_from_requests() {
        let mut cost = Cost::default();
        check(&cost, 100.0, 0.001);
        learn(&mut cost, 20, 2_000, 80);
        check(&cost, 40.0, 0.05);
    }

    #[test]
    fn background_work_of_an_idle_pool_teaches_nothing() {
        let mut cost = Cost::default();
        learn(&mut cost, 20, 2_000, 80);
        let before = cost;
        // An hour of one request a second beside 20 ms of housekeeping would make 20 ms a request.
        learn(&mut cost, 3_600, 1, 20);
        learn(&mut cost, 10, 0, 900);
        assert_eq!(cost, before);
    }

    #[test]
    fn a_restart_hardly_moves_it() {
        let mut cost = Cost::default();
        learn(&mut cost, 20, 2_000, 80);
        // A cold worker: 200 requests at ten times the price.
        learn(&mut cost, 1, 200, 80);
        check(&cost, 52.0, 0.05);
        learn(&mut cost, 10, 2_000, 80);
        check(&cost, 40.0, 0.05);
    }
}
