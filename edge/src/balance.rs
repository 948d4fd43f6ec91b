//! Which endpoint answers. Pure: the caller draws the numbers.

/// An endpoint as the choice sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Its share, at least 1.
    pub(crate) weight: u32,
    /// Requests that run on it from this thread.
    pub(crate) in_flight: u32,
    /// It failed a moment ago.
    pub(crate) resting: bool,
}

/// The index of the better of two that are drawn by weight. Resting ones take part only if all rest: a wrong guess
/// about health must not make an outage. `None` without candidates.
///
/// P2C, not least-loaded: each thread sees only its own requests, and all threads choosing the least-loaded by
/// stale or partial counts would herd on one endpoint. `draw` gives a number below its argument.
pub(crate) fn choose(candidates: &[Candidate], mut draw: impl FnMut(u64) -> u64) -> Option<usize> {
    if let [_] = candidates {
        return Some(0);
    }
    let all_rest = candidates.iter().all(|c| c.resting);
    let share = |c: &Candidate| if c.resting && !all_rest { 0 } else { u64::from(c.weight) };
    let total: u64 = candidates.iter().map(share).sum();
    if total == 0 {
        return None;
    }
    let mut pick = || {
        let mut point = draw(total);
        candidates.iter().position(|c| {
            let inside = point < share(c);
            point = point.saturating_sub(share(c));
            inside
        })
    };
    let (first, second) = (pick()?, pick()?);
    // Load per weight, compared without dividing.
    let cost = |at: usize, other: usize| {
        (u64::from(candidates[at].in_flight) + 1) * u64::from(candidates[other].weight)
    };
    Some(if cost(second, first) < cost(first, second) { second } else { first })
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Candidate = Candidate { weight: 1, in_flight: 0, resting: false };

    /// How often each is chosen when every pair of draws occurs once.
    fn shares(candidates: &[Candidate]) -> Vec<u32> {
        let total: u64 = candidates.iter().map(|c| u64::from(c.weight)).sum();
        let mut counts = vec![0; candidates.len()];
        for first in 0..total {
            for second in 0..total {
                let mut draws = [first, second].into_iter();
                let chosen = choose(candidates, |bound| draws.next().expect("two draws").min(bound - 1));
                counts[chosen.expect("candidates")] += 1;
            }
        }
        counts
    }

    #[test]
    fn idle_endpoints_share_by_weight() {
        assert_eq!(shares(&[IDLE, IDLE]), [2, 2]);
        let heavy = Candidate { weight: 3, ..IDLE };
        let shares = shares(&[IDLE, heavy]);
        assert!(shares[1] > 2 * shares[0], "{shares:?}");
    }

    #[test]
    fn the_busier_of_two_is_passed_over() {
        let busy = Candidate { in_flight: 5, ..IDLE };
        assert_eq!(shares(&[busy, IDLE]), [1, 3], "chosen only when drawn twice");
    }

    #[test]
    fn resting_endpoints_are_used_only_when_all_rest() {
        let resting = Candidate { resting: true, ..IDLE };
        for draw in 0..2 {
            assert_eq!(choose(&[resting, IDLE], |bound| draw.min(bound - 1)), Some(1));
            assert!(choose(&[resting, resting], |bound| draw.min(bound - 1)).is_some());
        }
        assert_eq!(choose(&[resting], |_| 0), Some(0), "the only one there is");
        assert_eq!(choose(&[], |_| 0), None);
    }
}
