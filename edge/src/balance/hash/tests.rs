use super::*;
use crate::balance::tests::chi_square;

const KEYS: u64 = 50_000;

fn members(weights: &[u64]) -> Vec<(SocketAddr, u64)> {
    let address = |host: u8| SocketAddr::from(([10, 0, 0, host], 8080));
    (1..).map(address).zip(weights.iter().copied()).collect()
}

fn tables(members: &[(SocketAddr, u64)]) -> [(&'static str, Table); 2] {
    [("ring", Table::Ring(Ring::new(members))), ("maglev", Table::Maglev(Maglev::new(members)))]
}

fn key(number: u64) -> u64 {
    hash(format!("user-{number}").as_bytes())
}

#[test]
fn keys_are_spread_as_the_weights_say() {
    for weights in [vec![1; 10], vec![1, 2, 3, 4, 10], vec![1, 1_000]] {
        for (name, table) in tables(&members(&weights)) {
            let mut counts = vec![0_u64; weights.len()];
            (0..KEYS).for_each(|n| counts[table.find(key(n), |_| true).unwrap()] += 1);
            let due = |weight: u64| KEYS as f64 * weight as f64 / weights.iter().sum::<u64>() as f64;
            // A ring's shares are even to one over the square root of its points; Maglev's to a slot.
            let most = if name == "ring" { 0.25 } else { 0.05 };
            for (count, weight) in counts.iter().zip(&weights) {
                let off = (*count as f64 / due(*weight) - 1.0).abs();
                // Few keys of a light endpoint scatter by chance alone.
                let chance = 4.0 / due(*weight).sqrt();
                assert!(off < most + chance, "{name} {weights:?}: {counts:?}, {off}");
            }
            if name == "maglev" && weights.len() == 10 {
                let statistic = chi_square(&counts, &weights);
                assert!(
                    statistic < 33.7,
                    "once in 10,000 runs, nine degrees of freedom: {statistic} {counts:?}"
                );
            }
        }
    }
}

#[test]
fn when_an_endpoint_goes_few_other_keys_move() {
    let all = members(&[1; 10]);
    for gone in 0..all.len() {
        let mut rest = all.clone();
        rest.remove(gone);
        for ((name, before), (_, after)) in tables(&all).into_iter().zip(tables(&rest)) {
            let place = |at: usize| if at < gone { at } else { at + 1 };
            let moved = (0..KEYS)
                .map(|n| {
                    (before.find(key(n), |_| true).unwrap(), place(after.find(key(n), |_| true).unwrap()))
                })
                .filter(|(old, new)| old != new && *old != gone)
                .count();
            let most = if name == "ring" { 0.0 } else { 0.03 };
            assert!(moved as f64 <= KEYS as f64 * most, "{name}: {moved} of the others' keys moved");
        }
    }
}

#[test]
fn an_endpoint_that_is_left_out_for_a_while_moves_only_its_own_keys() {
    for (name, table) in tables(&members(&[1; 10])) {
        let mut moved = [0_u64; 10];
        for n in 0..KEYS {
            let (before, after) = (table.find(key(n), |_| true), table.find(key(n), |place| place != 3));
            if before == Some(3) {
                moved[after.unwrap()] += 1;
            } else {
                assert_eq!(before, after, "{name}");
            }
        }
        assert_eq!(moved[3], 0);
        assert!(
            moved.iter().filter(|count| **count > 0).count() == 9,
            "{name}: all others share them: {moved:?}"
        );
        assert_eq!(table.find(key(1), |place| place == 7), Some(7), "{name}: the only one");
        assert_eq!(table.find(key(1), |_| false), None, "{name}");
    }
    for (name, table) in tables(&[]) {
        assert_eq!(table.find(1, |_| true), None, "{name}");
    }
}
