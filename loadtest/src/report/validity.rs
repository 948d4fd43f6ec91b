//! PURE. Whether a run measured its target or the generator.

use serde::{Deserialize, Serialize};

use crate::Percentiles;

/// p99 of the lag above this spoils any run: people notice what a generator adds then.
const LAG_LIMIT_US: u64 = 10_000;
/// Lag below this is the scheduler's granularity (about 0.1 ms with a timerfd, more where the target shares the CPU)
/// and never spoils a run.
const GRANULARITY_US: u64 = 1_000;
/// Lag may be at most this part of the latency that is reported.
const LAG_SHARE: u64 = 10;
/// A generator thread that is busier than this queues work itself.
const CPU_LIMIT_PERMILLE: u64 = 900;

/// Whether a run's figures can be trusted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Validity {
    /// No reason against it was found.
    pub valid: bool,
    /// Why not, each with what to do about it.
    pub reasons: Vec<String>,
}

impl Validity {
    /// Invalid when the generator was late: its p99 lag is over 10 ms, or over 1 ms and more than a tenth of the p99
    /// latency; or when one of its threads was over 90 % busy.
    pub(crate) fn judge(latency: &Percentiles, lag: &Percentiles, cpu_permille: u64) -> Self {
        let mut reasons = Vec::new();
        let late = lag.p99.unwrap_or(0);
        if late > LAG_LIMIT_US {
            reasons.push(format!(
                "the generator was late: 1 % of requests left more than {late} us after they could have (limit {LAG_LIMIT_US}); \
                 lower the rate, add --threads or free the CPU"
            ));
        } else if let Some(p99) = latency.p99
            && late > GRANULARITY_US
            && late > p99 / LAG_SHARE
        {
            reasons.push(format!(
                "the generator's own lag (p99 {late} us) is more than a tenth of the latency it reports (p99 {p99} us); \
                 give it a CPU of its own"
            ));
        }
        if cpu_permille > CPU_LIMIT_PERMILLE {
            reasons.push(format!(
                "a generator thread was busy {} % of the time: answers waited to be read; add --threads or lower the rate",
                cpu_permille / 10
            ));
        }
        Self { valid: reasons.is_empty(), reasons }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p99(us: u64) -> Percentiles {
        let at = Some(us);
        Percentiles { count: 1000, mean: 0.0, p50: at, p90: at, p99: at, p999: at, max: us }
    }

    fn check(latency: u64, lag: u64, cpu: u64, expect: &[&str]) {
        let judged = Validity::judge(&p99(latency), &p99(lag), cpu);
        assert_eq!(judged.valid, expect.is_empty());
        assert_eq!(judged.reasons.len(), expect.len(), "{judged:?}");
        for (reason, part) in judged.reasons.iter().zip(expect) {
            assert!(reason.contains(part), "{reason}");
        }
    }

    #[test]
    fn a_late_or_busy_generator_spoils_the_run() {
        check(2_000, 100, 300, &[]);
        check(500, 900, 300, &[]);
        check(100_000, 9_000, 300, &[]);
        check(50_000, 9_000, 300, &["more than a tenth"]);
        check(5_000, 1_500, 300, &["more than a tenth"]);
        check(1_000_000, 10_001, 300, &["was late"]);
        check(2_000, 100, 950, &["busy 95 %"]);
        check(2_000, 20_000, 1000, &["was late", "busy"]);
    }
}
