//! What an operator wants of a pool, with nothing optional left to interpret.

use std::{net::SocketAddr, time::Duration};

/// How a pool is scaled and how its workers run.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolPolicy {
    /// Where its workers listen.
    pub listen: Vec<Listen>,
    /// Workers that are always there. Zero: the pool sleeps when nobody calls.
    pub min_workers: u32,
    /// Workers that there are at most.
    pub max_workers: u32,
    /// What one worker does.
    pub capacity: Capacity,
    /// How much of the workers' capacity is used before another one is added, 1 to 1000.
    pub target_utilization_permille: u32,
    /// Workers go only when the highest demand of this long needs fewer.
    pub scale_in_delay: Duration,
    /// A pool with `min_workers` 0 sleeps after this long without a request.
    pub idle_delay: Duration,
    /// The share of the workers that one step of scale-in removes at most; at least one worker always.
    pub scale_in_step_permille: u32,
    /// Steps of scale-in are at least this far apart.
    pub scale_in_pause: Duration,
    /// A busy worker whose event loop runs this late is saturated.
    pub saturation_delay: Duration,
    /// The time allowed to work off what has queued up.
    pub backlog_drain: Duration,
    /// Request threads of each worker; one thread is one core of capacity.
    pub threads_per_worker: u32,
    /// A leaving worker closes what is left of its connections after this long.
    pub drain_deadline: Duration,
}

/// What one worker does at full use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Capacity {
    /// As many requests a second as the operator says. A full CPU counts all the same.
    Declared {
        /// More than zero.
        requests_per_second: f64,
    },
    /// As many as its threads' CPU time pays for, at the cost per request that is learned from reports.
    Learned,
}

/// One address of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Listen {
    /// The port as Gateways name it.
    pub port: u16,
    /// Where workers listen for it.
    pub bind: SocketAddr,
    /// Whether TLS is spoken from the first byte.
    pub tls: bool,
    /// Whether HTTP/3 is served beside it.
    #[serde(default)]
    pub http3: bool,
    /// Whether bytes are passed on as they are, rather than requests read.
    #[serde(default)]
    pub raw: bool,
    /// Whether it is a port of UDP, whose datagrams are passed on.
    #[serde(default)]
    pub udp: bool,
}

impl Default for PoolPolicy {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            // A first request that waits for no start.
            min_workers: 1,
            max_workers: 16,
            capacity: Capacity::Learned,
            // Room for a burst of 40 % while another worker starts; Knative's default as well.
            target_utilization_permille: 700,
            // Several times a start: short dips remove nobody.
            scale_in_delay: Duration::from_secs(60),
            // A person who reads a page and clicks again finds the pool awake.
            idle_delay: Duration::from_secs(60),
            // Four steps take two thirds away; each is seen in reports before the next.
            scale_in_step_permille: 250,
            // Ten reports of the survivors under the leavers' load.
            scale_in_pause: Duration::from_secs(10),
            // Ten times what a busy event loop shows; clients notice from here on.
            saturation_delay: Duration::from_millis(100),
            // Less than what clients wait before they try again.
            backlog_drain: Duration::from_secs(2),
            threads_per_worker: 1,
            // What Kubernetes gives a pod.
            drain_deadline: Duration::from_secs(30),
        }
    }
}

impl PoolPolicy {
    /// The fewest and the most workers; the fewest is never above the most, the most never zero.
    #[must_use]
    pub fn bounds(&self) -> (u32, u32) {
        let max = self.max_workers.max(1);
        (self.min_workers.min(max), max)
    }

    /// The target utilisation as a ratio between 0.05 and 1.
    #[must_use]
    pub fn target_utilization(&self) -> f64 {
        (f64::from(self.target_utilization_permille) / 1000.0).clamp(0.05, 1.0)
    }

    /// Threads of each worker, at least one.
    #[must_use]
    pub fn threads(&self) -> u32 {
        self.threads_per_worker.max(1)
    }

    /// How many of `workers` one step of scale-in removes: at least one.
    #[must_use]
    pub fn scale_in_step(&self, workers: u32) -> u32 {
        let permille = u64::from(self.scale_in_step_permille.min(1000));
        u32::try_from(u64::from(workers) * permille / 1000).unwrap_or(u32::MAX).max(1)
    }
}
