//! Which endpoint answers. Pure: the caller draws the numbers and knows the loads.
//!
//! A *place* is an endpoint's index in its backend's list.

pub(crate) mod hash;
mod round_robin;

pub(crate) use round_robin::RoundRobin;

/// Who may be chosen, with what share. Made anew when health or weights change, never for a request.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    places: Vec<usize>,
    /// Of each of them, at least 1.
    weights: Vec<u64>,
    /// Where each one's part of the sum of all weights ends; empty if all weights are equal.
    ends: Vec<u64>,
}

impl Shares {
    /// Of these places, in rising order, each with its weight.
    pub(crate) fn new(members: impl IntoIterator<Item = (usize, u64)>) -> Self {
        let (places, weights): (Vec<_>, Vec<_>) =
            members.into_iter().map(|(place, weight)| (place, weight.max(1))).unzip();
        let is_even = weights.windows(2).all(|pair| pair[0] == pair[1]);
        let ends = if is_even { Vec::new() } else { running_sum(&weights) };
        Self { places, weights, ends }
    }

    /// The less loaded of two that are drawn by weight. `None` if there is nobody.
    ///
    /// Power of two choices, not least-loaded: a thread sees only its own requests, and all threads that choose the
    /// least-loaded by partial counts would herd on one endpoint. `draw` gives a number below its argument.
    pub(crate) fn power_of_two(
        &self,
        load: impl Fn(usize) -> u32,
        mut draw: impl FnMut(u64) -> u64,
    ) -> Option<usize> {
        let count = self.places.len() as u64;
        if count < 2 {
            return self.places.first().copied();
        }
        let (first, second) = if self.ends.is_empty() {
            // Two that differ.
            let first = draw(count);
            let second = draw(count - 1);
            (index(first), index(second + u64::from(second >= first)))
        } else {
            (self.by_weight(&mut draw), self.by_weight(&mut draw))
        };
        let chosen = if self.is_lighter(second, first, &load) { second } else { first };
        Some(self.places[chosen])
    }

    /// The least loaded for its weight, of all but `avoided`; of several one by weight. `None` if there is no other.
    pub(crate) fn least_loaded(
        &self,
        avoided: Option<usize>,
        load: impl Fn(usize) -> u32,
        mut draw: impl FnMut(u64) -> u64,
    ) -> Option<usize> {
        let (mut best, mut equals) = (None, 0);
        for at in (0..self.places.len()).filter(|at| Some(self.places[*at]) != avoided) {
            let is_better = match best {
                Some(known) if self.is_lighter(known, at, &load) => continue,
                Some(known) => self.is_lighter(at, known, &load),
                None => true,
            };
            equals = if is_better { 0 } else { equals } + self.weights[at];
            // Each of those that are equal so far is kept with the probability of its weight.
            if is_better || draw(equals) < self.weights[at] {
                best = Some(at);
            }
        }
        best.map(|at| self.places[at])
    }

    /// Those that may be chosen.
    pub(crate) fn places(&self) -> impl Iterator<Item = usize> {
        self.places.iter().copied()
    }

    /// Whether that place may be chosen.
    pub(crate) fn contains(&self, place: usize) -> bool {
        self.places.binary_search(&place).is_ok()
    }

    fn by_weight(&self, draw: &mut impl FnMut(u64) -> u64) -> usize {
        let total = self.ends.last().copied().unwrap_or(1);
        let point = draw(total);
        self.ends.partition_point(|end| *end <= point)
    }

    /// Whether one has less load for its weight than another; compared without dividing.
    fn is_lighter(&self, one: usize, other: usize, load: &impl Fn(usize) -> u32) -> bool {
        // Not load + 1: that counts the weight, by which they were drawn, twice.
        let cost = |at: usize, against: usize| u64::from(load(self.places[at])) * self.weights[against];
        cost(one, other) < cost(other, one)
    }
}

fn running_sum(weights: &[u64]) -> Vec<u64> {
    let mut sum = 0;
    let add = |weight: &u64| {
        sum += weight;
        sum
    };
    weights.iter().map(add).collect()
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
