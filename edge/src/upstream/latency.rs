//! How long an endpoint takes to answer, as one thread sees it.

use crate::metrics::histogram::{BUCKETS, bucket, upper_us};

/// Below this nothing can be said of a tail.
const LEAST: u32 = 30;

/// Above this the older half counts half, so that what is known follows what happens: every tick at most.
const MOST: u32 = 2000;

/// The latencies of the last requests.
#[derive(Debug)]
pub(super) struct Latency {
    counts: [u32; BUCKETS],
    total: u32,
}

impl Default for Latency {
    fn default() -> Self {
        Self { counts: [0; BUCKETS], total: 0 }
    }
}

impl Latency {
    pub(super) fn record(&mut self, us: u64) {
        if let Some(count) = self.counts.get_mut(bucket(us)) {
            *count = count.saturating_add(1);
            self.total = self.total.saturating_add(1);
        }
    }

    /// The time within which so many of a hundred requests had an answer; `None`: too few are known.
    pub(super) fn percentile_us(&self, percent: u8) -> Option<u64> {
        if self.total < LEAST {
            return None;
        }
        let wanted = (u64::from(self.total) * u64::from(percent)).div_ceil(100);
        let mut sum = 0;
        let found = self.counts.iter().position(|count| {
            sum += u64::from(*count);
            sum >= wanted
        });
        found.map(upper_us)
    }

    /// Forgets a part, if there is much.
    pub(super) fn age(&mut self) {
        if self.total > MOST {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.total = self.counts.iter().sum();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_known_when_there_is_enough_and_follows() {
        let mut latency = Latency::default();
        (1..30).for_each(|_| latency.record(1000));
        assert_eq!(latency.percentile_us(95), None);
        (30..=90).for_each(|_| latency.record(1000));
        (0..10).for_each(|_| latency.record(100_000));
        let about = |percent, us: u64| {
            let found = latency.percentile_us(percent).unwrap();
            assert!((us..=us * 5 / 4 + 1).contains(&found), "{percent}: {found}");
        };
        about(50, 1000);
        about(90, 1000);
        about(91, 100_000);
        about(99, 100_000);
        for _ in 0..20 {
            (0..1000).for_each(|_| latency.record(10));
            latency.age();
        }
        assert!(latency.percentile_us(99).unwrap() <= 13 && latency.total <= MOST + 1000);
    }
}
