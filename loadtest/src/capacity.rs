//! PURE. How many workers a rate needs, and how sure that is.

use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};
use serde::{Deserialize, Serialize};

/// Resamples of the bootstrap: enough that the ends of a 95 % interval are stable to a worker.
const RESAMPLES: usize = 10_000;
/// Fewer measurements than this give an interval that means nothing.
const MIN_SAMPLES: usize = 3;

/// "N requests per second need n workers."
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Capacity {
    /// The rate that was asked about, requests per second.
    pub rate: f64,
    /// How much of its capacity a worker is to be used, permille.
    pub utilization_permille: u32,
    /// What one worker does, requests per second: the mean of the measurements.
    pub per_worker: f64,
    /// Workers needed if that mean is right.
    pub workers: u64,
    /// Workers needed at the upper end of the 95 % interval of the mean.
    pub workers_low: u64,
    /// Workers needed at its lower end. Plan with this one.
    pub workers_high: u64,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CapacityError {
    /// Too little was measured.
    #[error("{given} measurements are too few: give at least {MIN_SAMPLES}")]
    Samples {
        /// How many there were.
        given: usize,
    },
    /// A number that makes no sense.
    #[error("{what} is {value}: it must be above 0")]
    Number {
        /// Which.
        what: &'static str,
        /// What was given.
        value: f64,
    },
}

/// How many workers `rate` needs, when one worker did `per_worker` requests per second in each of several
/// measurements and is to be used to `utilization_permille` of that.
///
/// The interval is a percentile bootstrap of the mean (Efron and Tibshirani 1993, chapter 13), the same for the same
/// `seed`. It covers chance between measurements only, and somewhat less than 95 % of it when they are few: it cannot
/// know that production's requests cost more than the test's.
///
/// # Errors
///
/// Fewer than three measurements, or numbers that are not above zero.
pub fn capacity(
    rate: f64,
    per_worker: &[f64],
    utilization_permille: u32,
    seed: u64,
) -> Result<Capacity, CapacityError> {
    if per_worker.len() < MIN_SAMPLES {
        return Err(CapacityError::Samples { given: per_worker.len() });
    }
    let named = [("the rate", rate), ("the utilization", f64::from(utilization_permille))];
    let measured = per_worker.iter().map(|&value| ("a measurement", value));
    if let Some((what, value)) = named.into_iter().chain(measured).find(|(_, v)| !(v.is_finite() && *v > 0.0))
    {
        return Err(CapacityError::Number { what, value });
    }
    let (low, high) = interval(per_worker, seed);
    let workers = |capacity: f64| whole(rate / (capacity * f64::from(utilization_permille) / 1000.0));
    let mean = mean(per_worker.iter().copied());
    Ok(Capacity {
        rate,
        utilization_permille,
        per_worker: mean,
        workers: workers(mean),
        workers_low: workers(high),
        workers_high: workers(low),
    })
}

/// The 2.5th and 97.5th percentile of the means of resamples.
fn interval(samples: &[f64], seed: u64) -> (f64, f64) {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut resample = || mean(samples.iter().map(|_| samples[random.random_range(0..samples.len())]));
    let mut means: Vec<_> = (0..RESAMPLES).map(|_| resample()).collect();
    means.sort_by(f64::total_cmp);
    (means[RESAMPLES / 40], means[RESAMPLES - 1 - RESAMPLES / 40])
}

#[expect(clippy::cast_precision_loss, reason = "a handful of measurements")]
fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.sum::<f64>() / count
}

/// Workers are whole. The small margin keeps `3.0000000001` from needing a fourth.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and saturates")]
fn whole(workers: f64) -> u64 {
    ((workers - 1e-9).ceil() as u64).max(1)
}

impl std::fmt::Display for Capacity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} requests/s need {} workers [{}, {}] at {} % of {:.0} requests/s each",
            self.rate,
            self.workers,
            self.workers_low,
            self.workers_high,
            self.utilization_permille / 10,
            self.per_worker
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_measurements_leave_no_doubt() {
        let need = capacity(10_000.0, &[1000.0; 5], 1000, 1).unwrap();
        assert_eq!((need.workers_low, need.workers, need.workers_high), (10, 10, 10));
        assert_eq!(capacity(10_001.0, &[1000.0; 5], 1000, 1).unwrap().workers, 11);
        assert_eq!(capacity(10_000.0, &[1000.0; 5], 500, 1).unwrap().workers, 20, "used to a half");
        assert_eq!(capacity(1.0, &[1000.0; 5], 700, 1).unwrap().workers, 1, "one at least");
    }

    #[test]
    fn scattered_measurements_widen_the_interval_around_the_mean() {
        let need = capacity(100_000.0, &[900.0, 1100.0, 1000.0, 950.0, 1050.0], 1000, 1).unwrap();
        assert_eq!(need.workers, 100);
        assert!((91..100).contains(&need.workers_low), "{need}");
        assert!((101..=112).contains(&need.workers_high), "{need}");
        assert_eq!(need, capacity(100_000.0, &[900.0, 1100.0, 1000.0, 950.0, 1050.0], 1000, 1).unwrap());
    }

    /// The interval's promise, checked: of many experiments with ten normal measurements, nearly all contain the truth.
    #[test]
    fn the_interval_covers_the_truth_about_as_often_as_it_says() {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(5);
        let mut covered = 0;
        for seed in 0..100 {
            // The sum of twelve uniform variables less six is close to normal.
            let mut normal = || (0..12).map(|_| random.random::<f64>()).sum::<f64>() - 6.0;
            let samples: Vec<_> = (0..10).map(|_| 1000.0 + 50.0 * normal()).collect();
            let (low, high) = interval(&samples, seed);
            covered += usize::from(low <= 1000.0 && 1000.0 <= high);
        }
        assert!((82..=99).contains(&covered), "{covered} of 100");
    }

    #[test]
    fn too_little_or_senseless_input_is_refused() {
        assert_eq!(capacity(1.0, &[1.0; 2], 700, 1), Err(CapacityError::Samples { given: 2 }));
        for (rate, sample, utilization) in
            [(0.0, 1.0, 700), (1.0, f64::NAN, 700), (1.0, 1.0, 0), (1.0, -1.0, 700)]
        {
            assert!(capacity(rate, &[sample; 3], utilization, 1).is_err());
        }
    }
}
