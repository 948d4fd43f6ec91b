//! PURE. Finding the border between rates that pass and rates that fail.

/// A search that doubles until a rate fails (or halves until one passes) and then bisects.
///
/// `Doubling -> Bisecting -> done`, or `Halving -> Bisecting -> done`; `Doubling -> done` at the highest rate and
/// `Halving -> done` at the lowest.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Bracket {
    start: f64,
    lowest: f64,
    highest: f64,
    precision: f64,
    /// The highest rate that passed.
    passed: Option<f64>,
    /// The lowest rate that failed.
    failed: Option<f64>,
}

impl Bracket {
    /// Looks between `lowest` and `highest`, `start` first, until the border is known to `precision` (0.05 is 5 %).
    pub(crate) fn new(start: f64, lowest: f64, highest: f64, precision: f64) -> Self {
        Self { start: start.clamp(lowest, highest), lowest, highest, precision, passed: None, failed: None }
    }

    /// The rate to try next; none when the border is known.
    pub(crate) fn next(&self) -> Option<f64> {
        match (self.passed, self.failed) {
            (None, None) => Some(self.start),
            (Some(passed), None) => (passed < self.highest).then(|| (passed * 2.0).min(self.highest)),
            (None, Some(failed)) => (failed > self.lowest).then(|| (failed / 2.0).max(self.lowest)),
            (Some(passed), Some(failed)) => {
                (failed - passed > passed * self.precision).then(|| f64::midpoint(passed, failed))
            }
        }
    }

    pub(crate) fn record(&mut self, rate: f64, passed: bool) {
        if passed {
            self.passed = Some(self.passed.map_or(rate, |p| p.max(rate)));
        } else {
            self.failed = Some(self.failed.map_or(rate, |f| f.min(rate)));
        }
    }

    /// The highest rate that passed.
    pub(crate) fn best(&self) -> Option<f64> {
        self.passed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the search finds, and after how many trials, where rates up to `capacity` pass.
    fn search(start: f64, capacity: f64) -> (Option<f64>, usize) {
        let mut bracket = Bracket::new(start, 1.0, 100_000.0, 0.05);
        let mut trials = 0;
        while let Some(rate) = bracket.next() {
            bracket.record(rate, rate <= capacity);
            trials += 1;
            assert!(trials < 40, "the search ends");
        }
        (bracket.best(), trials)
    }

    #[test]
    fn the_border_is_found_from_below_and_from_above() {
        for start in [1.0, 100.0, 1000.0, 50_000.0] {
            let (best, trials) = search(start, 7_300.0);
            let best = best.unwrap();
            assert!((7_300.0 / 1.051..=7_300.0).contains(&best), "from {start}: {best}");
            assert!(trials <= 25, "from {start}: {trials}");
        }
    }

    #[test]
    fn the_ends_of_the_range_are_answers_too() {
        assert_eq!(search(100.0, f64::INFINITY).0, Some(100_000.0));
        assert_eq!(search(100.0, 0.5).0, None);
        assert_eq!(search(100.0, 1.0).0, Some(1.0));
    }
}
