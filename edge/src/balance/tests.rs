use super::*;

/// A sequence of numbers that is the same in every run (xorshift64*).
pub(super) fn numbers(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |below| {
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        u64::try_from((u128::from(x.wrapping_mul(0x2545_f491_4f6c_dd1d)) * u128::from(below)) >> 64).unwrap()
    }
}

/// Pearson's statistic of what was counted against what the weights promise.
pub(super) fn chi_square(counts: &[u64], weights: &[u64]) -> f64 {
    let (sum, total) = (counts.iter().sum::<u64>() as f64, weights.iter().sum::<u64>() as f64);
    let part = |(count, weight): (&u64, &u64)| {
        let expected = sum * *weight as f64 / total;
        (*count as f64 - expected).powi(2) / expected
    };
    counts.iter().zip(weights).map(part).sum()
}

/// What the statistic exceeds once in 10,000 runs, for four degrees of freedom.
const UNLIKELY: f64 = 23.5;

type Choose = fn(&Shares, &mut dyn FnMut(u64) -> u64) -> Option<usize>;
const POLICIES: [(&str, Choose); 2] = [
    ("power of two", |shares, draw| shares.power_of_two(|_| 0, draw)),
    ("least loaded", |shares, draw| shares.least_loaded(None, |_| 0, draw)),
];

#[test]
fn idle_endpoints_share_by_weight() {
    for (name, choose) in POLICIES {
        for weights in [[1, 1, 1, 1, 1], [1, 2, 3, 4, 5], [1, 1, 1, 1, 1_000]] {
            let shares = Shares::new(weights.into_iter().enumerate());
            let (mut counts, mut draw) = ([0; 5], numbers(7));
            (0..100_000).for_each(|_| counts[choose(&shares, &mut draw).unwrap()] += 1);
            let statistic = chi_square(&counts, &weights);
            assert!(statistic < UNLIKELY, "{name} {weights:?}: {counts:?}, {statistic}");
        }
    }
}

#[test]
fn load_follows_weight() {
    // Requests that end at random: what runs on each must be as the weights are.
    for (name, least) in [("power of two", false), ("least loaded", true)] {
        let weights = [1, 2, 3, 4, 5];
        let shares = Shares::new(weights.into_iter().enumerate());
        let (mut running, mut loads, mut sums, mut draw) = (Vec::new(), [0_u32; 5], [0_u64; 5], numbers(3));
        for _ in 0..100_000 {
            if running.len() == 60 {
                let ended: usize = running.swap_remove(index(draw(60)));
                loads[ended] -= 1;
            }
            let load = |place: usize| loads[place];
            let chosen = if least {
                shares.least_loaded(None, load, &mut draw)
            } else {
                shares.power_of_two(load, &mut draw)
            };
            let chosen = chosen.unwrap();
            loads[chosen] += 1;
            running.push(chosen);
            (0..5).for_each(|at| sums[at] += u64::from(loads[at]));
        }
        let whole = sums.iter().sum::<u64>() as f64;
        for (sum, weight) in sums.iter().zip(weights) {
            let (share, due) = (*sum as f64 / whole, weight as f64 / 15.0);
            assert!((share / due - 1.0).abs() < 0.1, "{name}: {share} for {due}, {sums:?}");
        }
    }
}

#[test]
fn the_busier_of_two_is_passed_over() {
    let shares = Shares::new([(0, 1), (1, 1)]);
    let mut draw = numbers(1);
    for _ in 0..100 {
        assert_eq!(shares.power_of_two(|place| [5, 0][place], &mut draw), Some(1));
    }
}

#[test]
fn one_can_be_avoided_if_there_are_others() {
    let mut draw = numbers(1);
    let shares = Shares::new([(3, 1), (7, 1)]);
    assert_eq!(shares.least_loaded(Some(3), |_| 0, &mut draw), Some(7));
    assert_eq!(Shares::new([(3, 1)]).least_loaded(Some(3), |_| 0, &mut draw), None);
    assert_eq!(Shares::default().power_of_two(|_| 0, &mut draw), None);
    assert_eq!(Shares::new([(3, 1)]).power_of_two(|_| 0, &mut draw), Some(3));
}
