//! What a run found, for machines (serde) and people (`Display`).

mod table;
mod validity;

use std::{collections::BTreeMap, fmt, time::Duration};

use hdrhistogram::{Counter, Histogram};
use serde::{Deserialize, Serialize};

use crate::{
    Arrivals, Plan, Protocol, Step,
    plan::seconds,
    tally::{SecondTally, Tally},
};

pub use validity::Validity;

/// Why a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// No TCP connection.
    Connect,
    /// No TLS session, or one without the protocol that was asked for.
    Tls,
    /// No complete answer in time.
    Timeout,
    /// The connection or stream ended after the request was written and before its answer was complete.
    Reset,
    /// The answer was not HTTP.
    Protocol,
    /// Answered with 400 to 499.
    #[serde(rename = "status_4xx")]
    Status4xx,
    /// Answered with 500 or above.
    #[serde(rename = "status_5xx")]
    Status5xx,
}

impl FailureKind {
    /// The kind as reports spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::Protocol => "protocol",
            Self::Status4xx => "status_4xx",
            Self::Status5xx => "status_5xx",
        }
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A distribution of times, microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Percentiles {
    /// How many were measured.
    pub count: u64,
    /// Of those measured, to a nanosecond: a short number is the same one when JSON was in between.
    pub mean: f64,
    /// Half are at most this.
    pub p50: Option<u64>,
    /// 90 %.
    pub p90: Option<u64>,
    /// 99 %.
    pub p99: Option<u64>,
    /// 99.9 %.
    pub p999: Option<u64>,
    /// The longest of those measured.
    pub max: u64,
}

impl Percentiles {
    /// Of what was measured, where another `missing` never ended well and rank above all that did. A percentile
    /// that falls among the missing is `None`: dropping failures would make a failing target look fast.
    pub(crate) fn of<T: Counter>(measured: &Histogram<T>, missing: u64) -> Self {
        let at = |quantile| value_at(measured, missing, quantile);
        Self {
            count: measured.len(),
            mean: if measured.is_empty() { 0.0 } else { (measured.mean() * 1e3).round() / 1e3 },
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: measured.max(),
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts below 2^53, ranks between 1 and the count"
)]
fn value_at<T: Counter>(measured: &Histogram<T>, missing: u64, quantile: f64) -> Option<u64> {
    let total = measured.len() + missing;
    let rank = ((quantile * total as f64).ceil() as u64).max(1);
    (rank <= measured.len()).then(|| measured.value_at_quantile(rank as f64 / measured.len() as f64))
}

/// One row of the timeline. Requests of the warm-up are in it; counts go to the second in which a thing happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Second {
    /// Seconds since the start, warm-up included.
    pub second: u64,
    /// Whether the warm-up lasted until after this second.
    pub warmup: bool,
    /// Fell due.
    pub planned: u64,
    /// Taken up by a connection.
    pub sent: u64,
    /// Answered well.
    pub ok: u64,
    /// Given up without sending.
    pub not_sent: u64,
    /// Failed, by kind.
    pub failed: BTreeMap<FailureKind, u64>,
    /// Median latency of what was answered well in this second, microseconds; two digits are significant.
    pub p50_us: u64,
    /// 99th percentile of the same.
    pub p99_us: u64,
    /// The longest of the same.
    pub max_us: u64,
}

impl Second {
    pub(crate) fn of(tally: &SecondTally, warmup: Duration) -> Self {
        Self {
            second: tally.second,
            warmup: Duration::from_secs(tally.second + 1) <= warmup,
            planned: tally.planned,
            sent: tally.sent,
            ok: tally.ok,
            not_sent: tally.not_sent,
            failed: tally.failed.clone(),
            p50_us: tally.latency.value_at_quantile(0.5),
            p99_us: tally.latency.value_at_quantile(0.99),
            max_us: tally.latency.max(),
        }
    }

    /// All failures of this second.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }
}

/// What a run found. `planned = ok + failed + not_sent`; the warm-up is in the timeline only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The target.
    pub url: String,
    /// The request's method.
    pub method: String,
    /// The version of HTTP.
    pub protocol: Protocol,
    /// Even or random gaps.
    pub arrivals: Arrivals,
    /// Connections in use.
    pub connections: usize,
    /// Whether each request had a connection of its own.
    pub connect_per_request: bool,
    /// Generator threads.
    pub threads: usize,
    /// The rates that were asked for.
    pub steps: Vec<Step>,
    /// How long the measured part lasted, to the last answer if that came later than the last step's end.
    #[serde(rename = "duration_s", with = "seconds")]
    pub duration: Duration,
    /// Requests that fell due.
    pub planned: u64,
    /// Requests that a connection took up: `ok + failed`.
    pub sent: u64,
    /// Answered completely with a status below 400.
    pub ok: u64,
    /// Failed, by kind.
    pub failed: BTreeMap<FailureKind, u64>,
    /// Given up before they were sent: too many waited, one waited longer than the timeout, or the run was stopped.
    pub not_sent: u64,
    /// Good answers per second.
    pub throughput: f64,
    /// Bytes of response bodies.
    pub body_bytes: u64,
    /// Connections that the server had closed between two requests and that were opened again. No request was lost.
    pub reconnects: u64,
    /// HTTP/2 requests that the server refused unprocessed (RFC 9113 section 8.7) and that were sent once more.
    pub retried_safe: u64,
    /// From the intended time to the last byte, over all planned requests; `null` where the percentile falls among
    /// those that failed or were not sent. Waiting for a free connection counts: nothing is coordinated away.
    pub latency_us: Percentiles,
    /// From the actual send to the last byte, of good answers only.
    pub service_us: Percentiles,
    /// TCP and TLS handshakes.
    pub connect_us: Percentiles,
    /// How late requests were by the generator's own fault.
    pub lag_us: Percentiles,
    /// CPU time of the busiest generator thread per second of the run, in permille.
    pub cpu_permille: u64,
    /// Whether the figures are the target's, and not the generator's.
    pub validity: Validity,
    /// Whether the run was stopped before its end.
    pub interrupted: bool,
    /// Answers by the value of `x-weir-worker`.
    pub workers: BTreeMap<String, u64>,
    /// One failure of each kind in words.
    pub examples: BTreeMap<FailureKind, String>,
    /// Second by second.
    pub timeline: Vec<Second>,
}

/// What is known of a run beside its counts.
pub(crate) struct Facts {
    pub(crate) cpu_permille: u64,
    pub(crate) interrupted: bool,
    pub(crate) timeline: Vec<Second>,
}

impl Report {
    pub(crate) fn of(plan: &Plan, tally: &Tally, facts: Facts) -> Self {
        let failures: u64 = tally.failed.values().sum();
        let latency_us = Percentiles::of(&tally.latency, failures + tally.not_sent);
        let lag_us = Percentiles::of(&tally.lag, 0);
        let duration = plan.duration().max(tally.last_end.saturating_sub(plan.warmup));
        #[expect(clippy::cast_precision_loss, reason = "a count below 2^53")]
        let throughput = tally.ok as f64 / duration.as_secs_f64();
        Self {
            url: plan.url.to_string(),
            method: plan.method.to_string(),
            protocol: plan.protocol,
            arrivals: plan.arrivals,
            connections: plan.connections,
            connect_per_request: plan.connect_per_request,
            threads: plan.threads,
            steps: plan.steps.clone(),
            duration,
            planned: tally.planned,
            sent: tally.ok + failures,
            ok: tally.ok,
            failed: tally.failed.clone(),
            not_sent: tally.not_sent,
            throughput,
            body_bytes: tally.body_bytes,
            reconnects: tally.reconnects,
            retried_safe: tally.retried_safe,
            validity: Validity::judge(&latency_us, &lag_us, facts.cpu_permille),
            latency_us,
            service_us: Percentiles::of(&tally.service, 0),
            connect_us: Percentiles::of(&tally.connect, 0),
            lag_us,
            cpu_permille: facts.cpu_permille,
            interrupted: facts.interrupted,
            workers: tally.workers.clone(),
            examples: tally.examples.clone(),
            timeline: facts.timeline,
        }
    }

    /// All failures.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::histogram;

    #[test]
    fn what_failed_ranks_above_all_answers() {
        let mut measured = histogram();
        for value in 1..=95 {
            measured.record(value).unwrap();
        }
        let whole = Percentiles::of(&measured, 0);
        assert_eq!((whole.p50, whole.p99, whole.max), (Some(48), Some(95), 95));
        let with_failures = Percentiles::of(&measured, 5);
        assert_eq!((with_failures.p50, with_failures.p90), (Some(50), Some(90)));
        assert_eq!((with_failures.p99, with_failures.p999), (None, None));
        assert_eq!(Percentiles::of(&histogram(), 3).p50, None);
    }

    #[test]
    fn nothing_measured_has_no_percentiles() {
        let none = Percentiles::of(&histogram(), 0);
        assert_eq!((none.count, none.p50, none.max), (0, None, 0));
        assert!(none.mean.abs() < f64::EPSILON);
    }
}
