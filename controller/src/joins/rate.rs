//! PURE. At most so many a second, some more after a pause.

use std::{sync::Mutex, time::Instant};

/// A bucket of tokens that fills by `per_second` up to `burst`.
#[derive(Debug)]
pub(crate) struct Rate {
    per_second: f64,
    burst: f64,
    level: Mutex<Option<(f64, Instant)>>,
}

impl Rate {
    pub(crate) fn new(per_second: f64, burst: f64) -> Self {
        Self { per_second, burst, level: Mutex::default() }
    }

    /// Whether one more may pass at `now`.
    pub(crate) fn pass(&self, now: Instant) -> bool {
        let mut state = self.level.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let filled = match *state {
            Some((level, since)) => {
                let more = now.saturating_duration_since(since).as_secs_f64() * self.per_second;
                (level + more).min(self.burst)
            }
            None => self.burst,
        };
        let passes = filled >= 1.0;
        *state = Some((if passes { filled - 1.0 } else { filled }, now));
        passes
    }
}
