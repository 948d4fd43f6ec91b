//! How new workers relieve old ones: connections stay where they are, so the fuller workers retire some.

use std::time::Duration;

use crate::{Time, number::whole_up};

/// A worker may have this many times the mean before it is told to retire connections.
const TOLERANCE: f64 = 1.1;

/// Whatever is not level by then (tunnels) is left to the connections' maximum age.
const PATIENCE: Duration = Duration::from_secs(60);

/// Within this time the newcomer may not have said yet how few connections it has.
const HEARING: Duration = Duration::from_secs(3);

/// A pool whose newest worker is to get its share of the connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Levelling {
    since: Time,
}

impl Levelling {
    /// A worker became ready beside others.
    #[must_use]
    pub fn begin(now: Time) -> Self {
        Self { since: now }
    }

    /// Above how many connections a worker should retire some, given those of all ready workers: the mean and a
    /// tenth. `None`: it is level, or has been tried for long enough.
    #[must_use]
    pub fn retire_above(self, connections: impl Iterator<Item = u64>, now: Time) -> Option<u64> {
        let connections: Vec<u64> = connections.collect();
        let mean = connections.iter().map(|c| *c as f64).sum::<f64>() / connections.len().max(1) as f64;
        let above = u64::from(whole_up(mean * TOLERANCE)).max(1);
        let age = now.since(self.since);
        let uneven = connections.iter().any(|c| *c > above);
        (age < HEARING || uneven && age < PATIENCE).then_some(above)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(connections: &[u64], after_s: u64, expect: Option<u64>) {
        let now = Time::from_secs(100) + Duration::from_secs(after_s);
        let above = Levelling::begin(Time::from_secs(100)).retire_above(connections.iter().copied(), now);
        assert_eq!(above, expect, "{connections:?} after {after_s} s");
    }

    #[test]
    fn the_mean_and_a_tenth_until_it_is_level_or_late() {
        check(&[300, 0], 1, Some(165));
        check(&[165, 135], 5, None);
        check(&[100, 100, 0], 5, Some(74));
        check(&[300, 0], 60, None);
        check(&[3, 0], 5, Some(2));
        check(&[1, 0], 5, None);
        check(&[0, 0], 5, None);
        // The newcomer has not spoken yet.
        check(&[100, 100], 1, Some(110));
        check(&[100, 100], 3, None);
        check(&[], 60, None);
    }
}
