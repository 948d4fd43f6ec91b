//! PURE. What the autoscaler would have done with a load: its own decisions on a virtual clock, on a modelled pool.

use std::{fmt, time::Duration};

use autoscaler::{Capacity, PoolPolicy, sim};
use model::PoolName;
use serde::Serialize;

/// The longest trace, seconds: a week, which is what the simulator runs.
const MAX_SECONDS: usize = 7 * 24 * 3600;
/// The longest line of a trace.
const MAX_LINE: usize = 200;

/// Why a trace cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    /// A line that is not a rate.
    #[error(
        "line {line}: {text:?} is not RATE or RATE,UPSTREAM_MS: requests in that second, and what upstreams take"
    )]
    Line {
        /// From one.
        line: usize,
        /// Its beginning.
        text: String,
    },
    /// No line at all.
    #[error("the trace is empty: give one line a second, RATE or RATE,UPSTREAM_MS")]
    Empty,
    /// More than a week.
    #[error("the trace has more than {MAX_SECONDS} seconds")]
    TooLong,
}

/// Reads a trace: a line a second, `RATE` or `RATE,UPSTREAM_MS`; empty lines and those that begin with `#` are skipped.
///
/// # Errors
///
/// The first line that is neither, or no seconds, or more than a week of them.
pub fn parse_trace(text: &str) -> Result<Vec<sim::Second>, TraceError> {
    let mut trace = Vec::new();
    for (index, line) in text.lines().enumerate().map(|(index, line)| (index, line.trim())) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = || TraceError::Line { line: index + 1, text: line.chars().take(MAX_LINE).collect() };
        if trace.len() == MAX_SECONDS {
            return Err(TraceError::TooLong);
        }
        trace.push(second(line).ok_or_else(wrong)?);
    }
    if trace.is_empty() { Err(TraceError::Empty) } else { Ok(trace) }
}

fn second(line: &str) -> Option<sim::Second> {
    let number = |text: &str| text.trim().parse().ok().filter(|n: &f64| n.is_finite() && *n >= 0.0);
    let (rate, upstream) = line.split_once(',').map_or((line, None), |(rate, ms)| (rate, Some(ms)));
    let mut second = sim::Second::of(number(rate)?);
    if let Some(upstream) = upstream {
        second.upstream_ms = number(upstream)?;
    }
    Some(second)
}

/// The pool that a trace is played to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pool {
    /// What one worker does at full use, requests per second; above zero.
    pub per_worker: f64,
    /// How much of that is used before another worker is added, permille.
    pub utilization_permille: u32,
    /// Workers that are always there.
    pub min_workers: u32,
    /// Workers that there are at most.
    pub max_workers: u32,
    /// From a worker's start to its readiness.
    pub start: Duration,
}

/// What the autoscaler would have done.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WhatIf {
    /// The most workers that were ready at once.
    pub most_workers: u32,
    /// Workers that were ready, on average.
    pub mean_workers: f64,
    /// Second by second, with the reason of each decision.
    pub timeline: sim::Timeline,
}

/// Plays a trace to a pool, with the decisions of production.
#[must_use]
pub fn what_if(trace: Vec<sim::Second>, pool: &Pool) -> WhatIf {
    let policy = PoolPolicy {
        min_workers: pool.min_workers,
        max_workers: pool.max_workers,
        capacity: Capacity::Declared { requests_per_second: pool.per_worker },
        target_utilization_permille: pool.utilization_permille,
        ..PoolPolicy::default()
    };
    let scenario = sim::Scenario {
        cpus: pool.max_workers.saturating_mul(policy.threads_per_worker),
        policy,
        workers: pool.min_workers,
        start: pool.start,
        cost_seconds: 1.0 / pool.per_worker,
        trace,
    };
    let timeline = sim::run(&name(), &scenario);
    let ready = || timeline.points.iter().map(|p| p.ready);
    #[expect(clippy::cast_precision_loss, reason = "at most a week of seconds")]
    let seconds = timeline.points.len().max(1) as f64;
    WhatIf {
        most_workers: ready().max().unwrap_or(0),
        mean_workers: ready().map(f64::from).sum::<f64>() / seconds,
        timeline,
    }
}

fn name() -> PoolName {
    "default".parse().expect("a DNS label")
}

impl fmt::Display for WhatIf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = None;
        for point in &self.timeline.points {
            if before.replace(point.target) != Some(point.target) {
                writeln!(
                    f,
                    "{:>6} s  {:>10.1} requests/s  {:>3} ready -> {:>3}  {}",
                    point.second, point.arrivals, point.ready, point.target, point.reason
                )?;
            }
        }
        write!(
            f,
            "{} s: at most {} workers, {:.1} on average; {} changes; the longest queue was {:.2} s, {} s were saturated",
            self.timeline.points.len(),
            self.most_workers,
            self.mean_workers,
            self.timeline.changes,
            self.timeline.worst_queue_seconds,
            self.timeline.seconds_saturated
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL: Pool = Pool {
        per_worker: 100.0,
        utilization_permille: 700,
        min_workers: 1,
        max_workers: 10,
        start: Duration::from_secs(2),
    };

    #[test]
    fn a_trace_is_a_line_a_second() {
        let trace = parse_trace("# from the access log\n100\n\n 200.5 , 35\n").unwrap();
        assert_eq!(trace.len(), 2);
        assert!((trace[1].arrivals - 200.5).abs() < 1e-9 && (trace[1].upstream_ms - 35.0).abs() < 1e-9);
    }

    #[test]
    fn what_is_no_trace_is_refused_by_its_line() {
        for (text, line) in [("1\nx\n", 2), ("-1", 1), ("1,2,3", 1), ("NaN", 1), ("1,", 1)] {
            let error = parse_trace(text).unwrap_err();
            assert!(matches!(error, TraceError::Line { line: l, .. } if l == line), "{text:?}: {error}");
        }
        assert_eq!(parse_trace("# nothing\n"), Err(TraceError::Empty));
        assert_eq!(parse_trace(&"1\n".repeat(MAX_SECONDS + 1)), Err(TraceError::TooLong));
    }

    #[test]
    fn a_step_adds_workers_and_its_end_takes_them_away() {
        let trace = [
            vec![sim::Second::of(30.0); 60],
            vec![sim::Second::of(400.0); 120],
            vec![sim::Second::of(30.0); 900],
        ];
        let played = what_if(trace.concat(), &POOL);
        // 400 at 70 % of 100 each need six; headroom may ask for more.
        assert!((6..=10).contains(&played.most_workers), "{played}");
        assert_eq!(played.timeline.points.last().map(|p| p.ready), Some(1), "{played}");
        assert!(played.mean_workers < f64::from(played.most_workers));
        assert!(played.to_string().contains("at most"), "{played}");
    }

    #[test]
    fn more_than_the_pool_may_do_is_seen_as_a_queue() {
        let played = what_if(vec![sim::Second::of(2000.0); 120], &POOL);
        assert_eq!(played.most_workers, 10, "{played}");
        assert!(
            played.timeline.worst_queue_seconds > 10.0 && played.timeline.seconds_saturated > 60,
            "{played}"
        );
    }
}
