//! Everyone in turn.

use super::{Shares, index};

/// Smooth weighted round robin, as nginx has it: in as many turns as the weights' sum each has its weight's, and they are
/// spread, not in a row.
#[derive(Debug)]
pub(crate) struct RoundRobin {
    /// By position in the shares: what each is owed.
    owed: Vec<i64>,
    /// Of even shares: whose turn it is.
    turn: usize,
}

impl RoundRobin {
    /// Begins anywhere: many threads that all began with the first would be a burst on it.
    pub(crate) fn new(shares: &Shares, mut draw: impl FnMut(u64) -> u64) -> Self {
        let count = shares.places.len();
        Self { owed: vec![0; count], turn: index(draw(count.max(1) as u64)) }
    }

    /// The next one's place. `None` if there is nobody.
    pub(crate) fn next(&mut self, shares: &Shares) -> Option<usize> {
        if shares.ends.is_empty() {
            let place = *shares.places.get(self.turn)?;
            self.turn = (self.turn + 1) % shares.places.len();
            return Some(place);
        }
        let mut best = 0;
        for at in 0..self.owed.len() {
            self.owed[at] += signed(shares.weights[at]);
            if self.owed[at] > self.owed[best] {
                best = at;
            }
        }
        self.owed[best] -= signed(shares.ends.last().copied().unwrap_or(0));
        Some(shares.places[best])
    }
}

/// Weights are far below: a million times the thousandths of a warm-up, for each endpoint.
fn signed(weight: u64) -> i64 {
    i64::try_from(weight).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_as_the_weights_say_and_spread() {
        let shares = Shares::new([(0, 5), (1, 1), (2, 1)]);
        let mut turns = RoundRobin::new(&shares, |_| 0);
        let order: Vec<_> = (0..7).filter_map(|_| turns.next(&shares)).collect();
        assert_eq!(order, [0, 0, 1, 0, 2, 0, 0], "nginx's own example");
        let mut counts = [0; 3];
        (0..7_000).for_each(|_| counts[turns.next(&shares).expect("somebody")] += 1);
        assert_eq!(counts, [5_000, 1_000, 1_000]);
    }

    #[test]
    fn even_shares_begin_anywhere() {
        let shares = Shares::new([(3, 2), (5, 2), (9, 2)]);
        let mut turns = RoundRobin::new(&shares, |_| 1);
        let order: Vec<_> = (0..4).filter_map(|_| turns.next(&shares)).collect();
        assert_eq!(order, [5, 9, 3, 5]);
        assert_eq!(RoundRobin::new(&Shares::default(), |_| 0).next(&Shares::default()), None);
    }
}
