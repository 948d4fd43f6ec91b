//! The highest rate that keeps a service level objective.

use std::{ops::ControlFlow, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{Plan, Report, RunError, Step, bracket::Bracket, plan::seconds, run};

/// How often a rate may fail before it counts as failed: one bad second of the machine must not end a search.
const ATTEMPTS: usize = 2;

/// What a rate must keep: 99 % of requests answered within this time, and none failed or left unsent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Slo {
    /// The longest p99 latency allowed.
    #[serde(rename = "p99_s", with = "seconds")]
    pub p99: Duration,
}

/// Where and how finely to look.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range {
    /// The first rate tried, requests per second.
    pub start: f64,
    /// The highest rate of interest.
    pub highest: f64,
    /// How long each rate is tried.
    pub trial: Duration,
    /// Stop when the answer is known to this part of itself.
    pub precision: f64,
}

impl Default for Range {
    fn default() -> Self {
        // Five seconds: long enough for a p99 of hundreds of requests, short enough that twenty trials take two minutes.
        Self { start: 100.0, highest: 1_000_000.0, trial: Duration::from_secs(5), precision: 0.05 }
    }
}

/// Why a search ended where it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// The next higher rate broke the objective: the answer is the target's.
    Objective,
    /// At the next higher rate the generator was late: the target may do more than the answer.
    Generator,
    /// The highest rate of interest passed.
    Range,
    /// The search was stopped.
    Stopped,
}

/// One rate tried once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Requests per second.
    pub rate: f64,
    /// Whether the objective was kept.
    pub passed: bool,
    /// Whether the generator was in the way.
    pub valid: bool,
    /// p99 latency, microseconds; none where more than 1 % failed.
    pub p99_us: Option<u64>,
    /// Failed or not sent.
    pub lost: u64,
}

/// What a search found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Search {
    /// The objective.
    pub slo: Slo,
    /// The highest rate that kept it; none if not even one request per second did.
    pub best: Option<f64>,
    /// Why it is not higher.
    pub limit: Limit,
    /// All that was tried, in order.
    pub trials: Vec<Trial>,
}

/// Searches the highest rate at which `plan` keeps `slo`: doubling, then bisecting. The plan's own steps are not used.
/// `progress` is given each trial and may end the search.
///
/// A rate that failed is tried again before that is believed. Latency includes the generator's own lag, so a rate that
/// passed did pass even if the generator was late.
///
/// # Errors
///
/// As [`run`].
pub async fn search(
    plan: &Plan,
    slo: Slo,
    range: Range,
    mut progress: impl FnMut(&Trial) -> ControlFlow<()>,
) -> Result<Search, RunError> {
    let positive = |value: f64| value.is_finite() && value > 0.0;
    if ![range.start, range.highest, range.precision].into_iter().all(positive) || range.highest < 1.0 {
        let mistake = "a search needs a first rate and a precision above 0, and a highest rate of 1 or more";
        return Err(RunError::Plan(vec![mistake.into()]));
    }
    let mut bracket = Bracket::new(range.start, 1.0, range.highest, range.precision);
    let mut trials: Vec<Trial> = Vec::new();
    while let Some(rate) = bracket.next() {
        let mut passed = false;
        for _ in 0..ATTEMPTS {
            let mut plan = plan.clone();
            plan.steps = vec![Step { rate, duration: range.trial }];
            let trial = Trial::judge(rate, slo, &run(plan, |_| ControlFlow::Continue(())).await?);
            let stop = progress(&trial).is_break();
            passed = trial.passed;
            trials.push(trial);
            if stop {
                return Ok(Search { slo, best: bracket.best(), limit: Limit::Stopped, trials });
            }
            if passed {
                break;
            }
        }
        bracket.record(rate, passed);
    }
    let limit = limit(bracket.best(), &trials);
    Ok(Search { slo, best: bracket.best(), limit, trials })
}

impl Trial {
    fn judge(rate: f64, slo: Slo, report: &Report) -> Self {
        let lost = report.failures() + report.not_sent;
        let p99_us = report.latency_us.p99;
        let kept = p99_us.is_some_and(|p99| Duration::from_micros(p99) <= slo.p99);
        Self { rate, passed: lost == 0 && kept, valid: report.validity.valid, p99_us, lost }
    }
}

/// The lowest rate that failed tells: if each of its trials was spoilt by the generator, the target was not reached.
fn limit(best: Option<f64>, trials: &[Trial]) -> Limit {
    let above = |t: &&Trial| !t.passed && best.is_none_or(|best| t.rate > best);
    let Some(lowest) = trials.iter().filter(above).map(|t| t.rate).min_by(f64::total_cmp) else {
        return Limit::Range;
    };
    let mut at_the_border = trials.iter().filter(|t| !t.passed && t.rate <= lowest && above(t));
    if at_the_border.all(|t| !t.valid) { Limit::Generator } else { Limit::Objective }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(rate: f64, passed: bool, valid: bool) -> Trial {
        Trial { rate, passed, valid, p99_us: Some(1), lost: 0 }
    }

    #[test]
    fn the_border_says_what_the_limit_is() {
        let passed = trial(100.0, true, true);
        let check = |failed: &[Trial], expect| {
            let trials: Vec<_> = std::iter::once(passed.clone()).chain(failed.iter().cloned()).collect();
            assert_eq!(limit(Some(100.0), &trials), expect, "{trials:?}");
        };
        check(&[], Limit::Range);
        check(&[trial(200.0, false, true)], Limit::Objective);
        check(&[trial(200.0, false, false)], Limit::Generator);
        check(&[trial(200.0, false, false), trial(150.0, false, true)], Limit::Objective);
        check(&[trial(200.0, false, true), trial(150.0, false, false)], Limit::Generator);
        check(&[trial(50.0, false, false), trial(200.0, false, true)], Limit::Objective);
    }
}
