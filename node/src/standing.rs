//! Finds accept queues that stand: somebody waits, and nobody has been taken for a while.
//!
//! Pure. The kernel tells only the length of a queue, so progress is a queue that became shorter. Under overload all
//! queues stay long; that is no worker's fault, so a queue counts as standing only while another one is empty.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// What is known of the queues of one address.
#[derive(Debug, Default)]
pub struct Queues {
    seen: BTreeMap<u32, Seen>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    len: u32,
    /// Of the last progress.
    since: Instant,
}

impl Queues {
    /// The slots whose queues have stood for `patience`, given all lengths as they are now.
    pub fn standing(&mut self, lengths: &BTreeMap<u32, u32>, patience: Duration, now: Instant) -> Vec<u32> {
        self.seen.retain(|slot, _| lengths.contains_key(slot));
        for (&slot, &len) in lengths {
            let seen = self.seen.entry(slot).or_insert(Seen { len, since: now });
            if seen.len == 0 || len < seen.len {
                seen.since = now;
            }
            seen.len = len;
        }
        if !lengths.values().any(|len| *len == 0) {
            return Vec::new();
        }
        let stands = |seen: &Seen| seen.len > 0 && now.saturating_duration_since(seen.since) >= patience;
        self.seen.iter().filter(|(_, seen)| stands(seen)).map(|(slot, _)| *slot).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(3);

    /// Feeds lengths of slots 0, 1, .. one second apart; returns what stands at the end.
    fn check(rounds: &[&[u32]], expect: &[u32]) {
        let start = Instant::now();
        let mut queues = Queues::default();
        let mut standing = Vec::new();
        for (second, lengths) in (0..).zip(rounds) {
            let now = start + Duration::from_secs(second);
            standing = queues.standing(&(0..).zip(lengths.iter().copied()).collect(), PATIENCE, now);
        }
        assert_eq!(standing, expect);
    }

    #[test]
    fn a_queue_that_never_shrinks_stands() {
        check(&[&[1, 0], &[1, 0], &[2, 0], &[5, 0]], &[0]);
    }

    #[test]
    fn a_queue_that_shrinks_does_not() {
        check(&[&[5, 0], &[6, 0], &[4, 0], &[7, 0]], &[]);
    }

    #[test]
    fn a_short_wait_is_no_standing() {
        check(&[&[0, 0], &[1, 0], &[1, 0], &[1, 0]], &[]);
    }

    #[test]
    fn under_overload_nobody_is_to_blame() {
        check(&[&[9, 9], &[9, 9], &[9, 9], &[9, 9]], &[]);
    }
}
