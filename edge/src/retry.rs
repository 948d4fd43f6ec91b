//! When a failed try may be repeated, and how often in all. Pure.

use crate::limits::{RETRY_PERCENT, RETRY_RESERVE};

/// What is known about a try that failed before any part of its response reached the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failed {
    /// Not a byte of the request was written: the upstream cannot have seen it.
    pub(crate) unsent: bool,
    /// The request's method may be done twice (RFC 9110 section 9.2.2).
    pub(crate) idempotent: bool,
    /// Something of the request's body was taken from the client: it cannot be sent again.
    pub(crate) body_used: bool,
    /// It ran into its time limit: another try would double the client's wait.
    pub(crate) timed_out: bool,
    /// Tries so far.
    pub(crate) tries: u32,
}

/// Tries of one request, with the first.
const MOST_TRIES: u32 = 2;

/// Whether another try is safe, the budget apart.
pub(crate) fn is_safe(failed: Failed) -> bool {
    failed.tries < MOST_TRIES
        && !failed.body_used
        && !failed.timed_out
        && (failed.unsent || failed.idempotent)
}

/// Bounds retries to a share of the requests: what protects an upstream that is down from twice its load.
#[derive(Debug)]
pub(crate) struct RetryBudget {
    /// In hundredths of a retry.
    saved: u32,
}

const RETRY_COST: u32 = 100;
const MOST_SAVED: u32 = RETRY_RESERVE * RETRY_COST;

impl Default for RetryBudget {
    fn default() -> Self {
        Self { saved: MOST_SAVED }
    }
}

impl RetryBudget {
    /// A request earns its share of a retry.
    pub(crate) fn earn(&mut self) {
        self.saved = (self.saved + RETRY_PERCENT).min(MOST_SAVED);
    }

    /// Takes one retry, if there is one.
    pub(crate) fn spend(&mut self) -> bool {
        let enough = self.saved >= RETRY_COST;
        if enough {
            self.saved -= RETRY_COST;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILED: Failed =
        Failed { unsent: false, idempotent: true, body_used: false, timed_out: false, tries: 1 };

    #[test]
    fn only_what_cannot_be_done_twice_is_repeated() {
        for (name, failed, expect) in [
            ("idempotent", FAILED, true),
            ("a POST that was sent", Failed { idempotent: false, ..FAILED }, false),
            ("a POST that was not", Failed { idempotent: false, unsent: true, ..FAILED }, true),
            ("the body is gone", Failed { body_used: true, unsent: true, ..FAILED }, false),
            ("out of time", Failed { timed_out: true, ..FAILED }, false),
            ("the second try", Failed { tries: 2, unsent: true, ..FAILED }, false),
        ] {
            assert_eq!(is_safe(failed), expect, "{name}");
        }
    }

    #[test]
    fn a_fifth_of_the_requests_may_be_repeated() {
        let mut budget = RetryBudget::default();
        assert_eq!((0..100).filter(|_| budget.spend()).count(), 10, "the reserve");
        (0..25).for_each(|_| budget.earn());
        assert_eq!((0..100).filter(|_| budget.spend()).count(), 5);
        (0..100_000).for_each(|_| budget.earn());
        assert_eq!((0..100).filter(|_| budget.spend()).count(), 10, "never more than the reserve");
    }
}
