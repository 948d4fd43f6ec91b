//! The highest value of the last while.

use std::{collections::VecDeque, time::Duration};

use crate::Time;

/// Values that are still the highest of what came after them: at most one for each observation in the span, usually
/// a handful.
const MAX_KEPT: usize = 4096;

/// A running maximum over a span of time, in amortised constant time.
#[derive(Debug, Clone, Default)]
pub struct Peak {
    /// Falling values, oldest first.
    falling: VecDeque<(Time, f64)>,
}

impl Peak {
    /// Adds `value` and returns the highest of the last `span`, `value` included.
    pub fn observe(&mut self, value: f64, span: Duration, now: Time) -> f64 {
        while self.falling.back().is_some_and(|(_, last)| *last <= value) {
            self.falling.pop_back();
        }
        if self.falling.len() == MAX_KEPT {
            // The lowest but one lives on as if it were the newest: too high for a while, never too low.
            self.falling.pop_back();
        }
        self.falling.push_back((now, value));
        while self.falling.len() > 1 && self.falling.front().is_some_and(|(at, _)| now.since(*at) > span) {
            self.falling.pop_front();
        }
        self.falling.front().map_or(value, |(_, highest)| *highest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_equals_the_naive_maximum(values in prop::collection::vec(0.0..100.0, 1..200), span in 1_usize..50) {
            let mut peak = Peak::default();
            for (at, value) in values.iter().enumerate() {
                let now = Time::from_secs(at as u64);
                let highest = peak.observe(*value, Duration::from_secs(span as u64), now);
                let from = at.saturating_sub(span);
                let naive = values[from..=at].iter().copied().fold(0.0, f64::max);
                prop_assert_eq!(highest, naive);
            }
        }
    }
}
