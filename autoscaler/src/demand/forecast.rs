//! Where a series goes, and how wrong that was before.

use std::{collections::VecDeque, time::Duration};

use crate::Time;

/// The trend is the slope over this long: shorter follows noise, longer misses a ramp's beginning.
const TREND_SPAN: Duration = Duration::from_secs(15);

/// A slope takes this many points.
const TREND_POINTS: usize = 3;

/// Points closer than this are one, with the later value: what wakes the loop between ticks is no trend, and three
/// looks within a few milliseconds would make a step look like a ramp.
const MIN_STEP: Duration = Duration::from_millis(500);

/// Forecasts whose errors are remembered: two minutes of one a second.
const MAX_ERRORS: usize = 120;

/// Forecasts that wait for the truth; more than the longest horizon has seconds.
const MAX_PENDING: usize = 128;

/// The trend never more than doubles demand: a step is not the beginning of a ramp.
const MAX_GROWTH: f64 = 2.0;

/// Errors in a hundredth of a worker are no errors.
const NEGLIGIBLE: f64 = 0.01;

/// The error of all but one forecast in twenty is kept as headroom, up to doubling it. Of twenty in two minutes, that
/// is: what is not known yet counts as right, so that one step of demand makes no headroom.
const HEADROOM_PERCENTILE: usize = 95;
const MAX_HEADROOM: f64 = 1.0;

/// Looks ahead on one series of non-negative values.
#[derive(Debug, Clone, Default)]
pub struct Forecast {
    points: VecDeque<(Time, f64)>,
    pending: VecDeque<(Time, f64)>,
    errors: VecDeque<f64>,
}

impl Forecast {
    /// Takes the value of `now` and returns what is expected `horizon` later, never less than it is now: scale-in
    /// waits for facts.
    pub fn observe(&mut self, value: f64, horizon: Duration, now: Time) -> f64 {
        self.check_pending(value, now);
        while self.points.front().is_some_and(|(at, _)| now.since(*at) > TREND_SPAN) {
            self.points.pop_front();
        }
        match self.points.back_mut() {
            Some((at, last)) if now.since(*at) < MIN_STEP => *last = value,
            _ => self.points.push_back((now, value)),
        }
        let rise = slope(&self.points, now).max(0.0) * horizon.as_secs_f64();
        let expected = (value + rise).min(value * MAX_GROWTH);
        if self.pending.len() == MAX_PENDING {
            self.pending.pop_front();
        }
        self.pending.push_back((now + horizon, expected));
        expected
    }

    /// By how much forecasts were too low, as a share of them: the 95th percentile of the last two minutes.
    #[must_use]
    pub fn headroom(&self) -> f64 {
        let mut errors: Vec<f64> = self.errors.iter().copied().collect();
        errors.resize(MAX_ERRORS, 0.0);
        errors.sort_by(f64::total_cmp);
        errors[MAX_ERRORS * HEADROOM_PERCENTILE / 100].min(MAX_HEADROOM)
    }

    /// Remembers how wrong the newest forecast was whose time has come.
    fn check_pending(&mut self, value: f64, now: Time) {
        let mut due = None;
        while self.pending.front().is_some_and(|(at, _)| *at <= now) {
            due = self.pending.pop_front();
        }
        let Some((_, expected)) = due else { return };
        if self.errors.len() == MAX_ERRORS {
            self.errors.pop_front();
        }
        let missed = value - expected;
        self.errors.push_back(if missed > NEGLIGIBLE { missed / expected.max(NEGLIGIBLE) } else { 0.0 });
    }
}

/// The least-squares slope, per second.
fn slope(points: &VecDeque<(Time, f64)>, now: Time) -> f64 {
    if points.len() < TREND_POINTS {
        return 0.0;
    }
    let count = points.len() as f64;
    // Times before now, so that the sums stay small whatever the clock's origin.
    let xy = || points.iter().map(|(at, value)| (-now.since(*at).as_secs_f64(), *value));
    let (mean_x, mean_y) = xy().fold((0.0, 0.0), |(sx, sy), (x, y)| (sx + x / count, sy + y / count));
    let (covariance, variance) = xy().fold((0.0, 0.0), |(c, v), (x, y)| {
        (c + (x - mean_x) * (y - mean_y), v + (x - mean_x) * (x - mean_x))
    });
    if variance > 0.0 { covariance / variance } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HORIZON: Duration = Duration::from_secs(4);

    fn run(values: impl IntoIterator<Item = f64>) -> (Forecast, f64) {
        let (mut forecast, mut last) = (Forecast::default(), 0.0);
        for (at, value) in values.into_iter().enumerate() {
            last = forecast.observe(value, HORIZON, Time::from_secs(at as u64));
        }
        (forecast, last)
    }

    #[test]
    fn a_steady_series_is_expected_to_stay_with_no_headroom() {
        let (forecast, next) = run([3.0; 60]);
        assert!((next - 3.0).abs() < 1e-9 && forecast.headroom() == 0.0);
    }

    #[test]
    fn a_ramp_is_seen_ahead() {
        let (forecast, next) = run((0..60).map(|t| 2.0 + f64::from(t) * 0.1));
        assert!((next - (2.0 + 5.9 + 0.4)).abs() < 1e-6, "{next}");
        assert!(forecast.headroom() < 0.01);
    }

    #[test]
    fn a_fall_is_not_believed_before_it_is_there() {
        let (_, next) = run((0..20).map(|t| 20.0 - f64::from(t)));
        assert!((next - 1.0).abs() < 1e-9, "{next}");
    }

    #[test]
    fn a_step_at_most_doubles() {
        let (_, next) = run((0..20).map(|t| if t < 19 { 1.0 } else { 10.0 }));
        assert!((10.0..=20.0).contains(&next), "{next}");
    }

    #[test]
    fn looks_within_one_step_are_no_trend() {
        let mut forecast = Forecast::default();
        let values = [0.0, 0.0, 0.0, 2.5, 2.5];
        let last = values.iter().zip(0_u64..).map(|(value, at)| {
            forecast.observe(*value, HORIZON, Time::from_secs(1) + Duration::from_millis(at * 5))
        });
        assert!((last.last().unwrap() - 2.5).abs() < 1e-9);
    }

    #[test]
    fn repeated_surprises_make_headroom() {
        let (forecast, _) = run((0..120).map(|t| if t % 20 < 15 { 2.0 } else { 3.0 }));
        assert!(forecast.headroom() > 0.2, "{}", forecast.headroom());
        assert!(forecast.headroom() <= MAX_HEADROOM);
    }

    #[test]
    fn one_surprise_does_not() {
        let (forecast, _) = run((0..120).map(|t| if t < 60 { 2.0 } else { 4.0 }));
        assert!(forecast.headroom() < 0.05, "{}", forecast.headroom());
    }
}
