//! PURE. When each request is meant to leave.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};

use crate::{Arrivals, Plan, Step};

/// One request that is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrival {
    /// When it is meant to leave, from the start of the run.
    pub(crate) at: Duration,
    /// Whether it counts; those of the warm-up do not.
    pub(crate) counted: bool,
}

/// The arrivals of one generator thread, in order. All threads walk the same schedule and each keeps every n-th
/// arrival, so that together they send exactly what one thread would.
#[derive(Debug)]
pub(crate) struct Schedule {
    steps: Vec<Phase>,
    /// The current step.
    step: usize,
    /// Arrivals made in it.
    made: u64,
    /// Random arrivals: seconds into the step of the last one.
    elapsed: f64,
    random: Option<Xoshiro256PlusPlus>,
    /// Arrivals made in all.
    serial: u64,
    share: Share,
}

/// Which part of the arrivals a thread sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) index: usize,
    pub(crate) of: usize,
}

#[derive(Debug)]
struct Phase {
    start: Duration,
    step: Step,
    counted: bool,
}

impl Schedule {
    pub(crate) fn new(plan: &Plan, share: Share) -> Self {
        let mut start = Duration::ZERO;
        let first = plan.steps.first().map_or(0.0, |s| s.rate);
        let warmup = Step { rate: first, duration: plan.warmup };
        let steps = std::iter::once((warmup, false)).chain(plan.steps.iter().map(|s| (*s, true)));
        let steps = steps.map(|(step, counted)| {
            let phase = Phase { start, step, counted };
            start += step.duration;
            phase
        });
        let random = match plan.arrivals {
            Arrivals::Constant => None,
            Arrivals::Poisson { seed } => Some(Xoshiro256PlusPlus::seed_from_u64(seed)),
        };
        Self { steps: steps.collect(), step: 0, made: 0, elapsed: 0.0, random, serial: 0, share }
    }

    /// The next arrival of all threads together.
    fn any(&mut self) -> Option<Arrival> {
        loop {
            let phase = self.steps.get(self.step)?;
            let Step { rate, duration } = phase.step;
            let length = duration.as_secs_f64();
            let into = match &mut self.random {
                #[expect(
                    clippy::cast_precision_loss,
                    reason = "below 2^53: a day at the highest rate is 10^11"
                )]
                None => self.made as f64 / rate,
                // A process without memory may begin anew at each step.
                Some(random) => {
                    self.elapsed -= (1.0 - random.random::<f64>()).ln() / rate;
                    self.elapsed
                }
            };
            // Not `into >= length`: a rate of zero makes it NaN or infinite. The margin keeps the rounding of
            // `made / rate` from adding one arrival at the border.
            if into < length - 1e-9 {
                self.made += 1;
                let at = phase.start + Duration::from_secs_f64(into);
                return Some(Arrival { at, counted: phase.counted });
            }
            self.step += 1;
            self.made = 0;
            self.elapsed = 0.0;
        }
    }
}

impl Iterator for Schedule {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        loop {
            let arrival = self.any()?;
            let serial = self.serial;
            self.serial += 1;
            if serial % self.share.of as u64 == self.share.index as u64 {
                return Some(arrival);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Uri;

    use super::*;

    const ALL: Share = Share { index: 0, of: 1 };

    fn plan(steps: &[(f64, u64)]) -> Plan {
        let mut plan = Plan::new(Uri::from_static("http://127.0.0.1/"), 1.0, Duration::from_secs(1));
        plan.steps = steps.iter().map(|&(rate, s)| Step { rate, duration: Duration::from_secs(s) }).collect();
        plan
    }

    #[test]
    fn constant_arrivals_are_evenly_spaced_and_exact_in_number() {
        for rate in [1.0, 3.0, 7.0, 100.0, 333.0, 12_345.0] {
            let arrivals: Vec<_> = Schedule::new(&plan(&[(rate, 3)]), ALL).collect();
            assert_eq!(arrivals.len() as f64, rate * 3.0, "{rate}");
            let gap = (arrivals[1].at - arrivals[0].at).as_secs_f64();
            assert!((gap - 1.0 / rate).abs() < 1e-8, "{rate}: {gap}");
        }
    }

    #[test]
    fn steps_follow_one_another_and_a_zero_rate_is_a_pause() {
        let arrivals: Vec<_> = Schedule::new(&plan(&[(2.0, 1), (0.0, 1), (1.0, 2)]), ALL).collect();
        let at: Vec<_> = arrivals.iter().map(|a| a.at.as_millis()).collect();
        assert_eq!(at, [0, 500, 2000, 3000]);
    }

    #[test]
    fn the_warm_up_comes_first_and_does_not_count() {
        let mut plan = plan(&[(2.0, 1)]);
        plan.warmup = Duration::from_secs(1);
        let arrivals: Vec<_> = Schedule::new(&plan, ALL).map(|a| (a.at.as_millis(), a.counted)).collect();
        assert_eq!(arrivals, [(0, false), (500, false), (1000, true), (1500, true)]);
    }

    #[test]
    fn threads_together_send_what_one_would() {
        let mut plan = plan(&[(50.0, 2), (500.0, 1)]);
        for arrivals in [Arrivals::Constant, Arrivals::Poisson { seed: 7 }] {
            plan.arrivals = arrivals;
            let whole: Vec<_> = Schedule::new(&plan, ALL).map(|a| a.at).collect();
            let shares = (0..3).flat_map(|index| Schedule::new(&plan, Share { index, of: 3 }));
            let mut parts: Vec<_> = shares.map(|a| a.at).collect();
            parts.sort();
            assert_eq!(parts, whole);
        }
    }

    #[test]
    fn random_arrivals_keep_the_rate_and_vary_as_exponential_gaps_do() {
        let mut plan = plan(&[(1000.0, 20)]);
        plan.arrivals = Arrivals::Poisson { seed: 1 };
        let at: Vec<_> = Schedule::new(&plan, ALL).map(|a| a.at.as_secs_f64()).collect();
        let n = at.len() as f64;
        assert!((n - 20_000.0).abs() < 5.0 * 20_000f64.sqrt(), "{n}");
        let gaps: Vec<_> = at.windows(2).map(|w| w[1] - w[0]).collect();
        let mean = gaps.iter().sum::<f64>() / n;
        let variance = gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / n;
        // The standard deviation of an exponential variable equals its mean.
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.05, "{} {mean}", variance.sqrt());
    }
}
