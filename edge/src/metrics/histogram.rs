//! A latency histogram that one thread writes and others read.

use super::Counter;

/// Buckets per power of two: neighbours differ by a quarter, so a quantile is within 12 %.
const STEPS: u32 = 4;
const STEP_BITS: u32 = STEPS.trailing_zeros();
/// 2^36 us is 19 hours.
const POWERS: u32 = 36;
/// Buckets of a histogram.
pub const BUCKETS: usize = (POWERS * STEPS) as usize;

/// Counts of microseconds in buckets of a quarter power of two.
#[derive(Debug)]
pub struct Histogram {
    buckets: [Counter; BUCKETS],
    sum_us: Counter,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| Counter::default()), sum_us: Counter::default() }
    }
}

/// The bucket of a value.
pub(crate) fn bucket(us: u64) -> usize {
    if us < u64::from(STEPS) {
        return usize::try_from(us).unwrap_or(0);
    }
    let power = us.ilog2();
    let step = (us >> (power - STEP_BITS)) & u64::from(STEPS - 1);
    let index = (power - STEP_BITS + 1) * STEPS + u32::try_from(step).unwrap_or(0);
    (index as usize).min(BUCKETS - 1)
}

/// The first value above a bucket.
pub(crate) fn upper_us(bucket: usize) -> u64 {
    let bucket = u32::try_from(bucket + 1).unwrap_or(u32::MAX);
    if bucket <= STEPS {
        return u64::from(bucket);
    }
    let (group, step) = (bucket / STEPS, bucket % STEPS);
    u64::from(STEPS + step) << (group - 1)
}

impl Histogram {
    /// Counts one value; only its owner may.
    pub fn record(&self, us: u64) {
        self.buckets[bucket(us)].add(1);
        self.sum_us.add(us);
    }

    /// Adds what was counted so far to `into`.
    pub fn sample(&self, into: &mut HistogramSample) {
        for (sum, counter) in into.buckets.iter_mut().zip(&self.buckets) {
            *sum += counter.value();
        }
        into.sum_us += self.sum_us.value();
    }
}

/// A histogram's counts at one moment, of all threads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistogramSample {
    /// Count per bucket.
    pub buckets: Vec<u64>,
    /// The sum of all values.
    pub sum_us: u64,
}

impl Default for HistogramSample {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS], sum_us: 0 }
    }
}

impl HistogramSample {
    /// How many values were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// What was counted since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let buckets = self.buckets.iter().zip(&earlier.buckets).map(|(now, then)| now.saturating_sub(*then));
        Self { buckets: buckets.collect(), sum_us: self.sum_us.saturating_sub(earlier.sum_us) }
    }

    /// The value that `permille` of all values are below, from above and within 25 %; zero without values.
    #[must_use]
    pub fn quantile_us(&self, permille: u64) -> u64 {
        let rank = (self.count() * permille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper_us(index);
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_below_its_buckets_bound_and_not_below_the_one_before() {
        for us in (0..10_000).chain([1 << 20, (1 << 30) + 12_345, 1 << 35]) {
            let index = bucket(us);
            assert!(us < upper_us(index), "{us} in {index}, below {}", upper_us(index));
            assert!(index == 0 || us >= upper_us(index - 1), "{us} in {index}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_and_differences() {
        let histogram = Histogram::default();
        let mut first = HistogramSample::default();
        assert_eq!(first.quantile_us(990), 0);
        (0..100).for_each(|_| histogram.record(1_000));
        histogram.sample(&mut first);
        histogram.record(1_000_000);
        let mut second = HistogramSample::default();
        histogram.sample(&mut second);
        assert_eq!(first.quantile_us(990), 1_024);
        assert_eq!(second.quantile_us(1_000), 1 << 20);
        let difference = second.since(&first);
        assert_eq!((difference.count(), difference.sum_us), (1, 1_000_000));
    }
}
