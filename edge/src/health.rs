//! Which endpoints are left out because of how they answered: outlier detection. Pure: the caller knows the time.

use std::time::Duration;

use model::OutlierDetection;

/// How a try ended, as it speaks for or against its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It answered, with whatever is not a server's error.
    Success,
    /// It answered with a status of 500 or more that is none of a gateway.
    ServerError,
    /// It answered with 502, 503 or 504, did not answer in time, or broke off.
    GatewayError,
    /// It could not be connected to.
    Unreachable,
}

impl Verdict {
    /// What a status says.
    pub(crate) fn of_status(status: u16) -> Self {
        match status {
            502..=504 => Self::GatewayError,
            500.. => Self::ServerError,
            _ => Self::Success,
        }
    }
}

/// What is held against an endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Record {
    server_errors: u32,
    gateway_errors: u32,
    unreachable: u32,
    window_ends_ms: u64,
    requests: u32,
    failures: u32,
    /// Zero if it is not ejected.
    ejected_until_ms: u64,
    /// Ejections that are not forgotten.
    ejections: u32,
    /// When one more is forgotten.
    forgets_ms: u64,
}

impl Record {
    pub(crate) fn is_ejected(&self) -> bool {
        self.ejected_until_ms != 0
    }

    /// Takes note of how a try ended. Whether the endpoint has earned its ejection.
    pub(crate) fn note(&mut self, policy: &OutlierDetection, verdict: Verdict, now_ms: u64) -> bool {
        let (server, gateway, unreachable) = match verdict {
            Verdict::Success => (0, 0, 0),
            Verdict::ServerError => (self.server_errors + 1, 0, 0),
            Verdict::GatewayError => (self.server_errors + 1, self.gateway_errors + 1, 0),
            Verdict::Unreachable => (self.server_errors + 1, self.gateway_errors + 1, self.unreachable + 1),
        };
        (self.server_errors, self.gateway_errors, self.unreachable) = (server, gateway, unreachable);
        let reached = |count: u32, bound: Option<u32>| bound.is_some_and(|bound| count >= bound);
        self.exceeds_ratio(policy, verdict, now_ms)
            || reached(server, policy.consecutive_5xx)
            || reached(gateway, policy.consecutive_gateway_errors)
            || reached(unreachable, policy.consecutive_connect_failures)
    }

    fn exceeds_ratio(&mut self, policy: &OutlierDetection, verdict: Verdict, now_ms: u64) -> bool {
        let Some(most) = policy.error_percent else { return false };
        if now_ms >= self.window_ends_ms {
            (self.requests, self.failures) = (0, 0);
            self.window_ends_ms = now_ms.saturating_add(millis(policy.window));
        }
        self.requests = self.requests.saturating_add(1);
        self.failures = self.failures.saturating_add(u32::from(verdict != Verdict::Success));
        self.requests >= policy.minimum_requests
            && u64::from(self.failures) * 100 >= u64::from(most) * u64::from(self.requests)
    }

    /// Leaves the endpoint out: for the policy's time, twice that when it comes again, and so on to the longest.
    pub(crate) fn eject(&mut self, policy: &OutlierDetection, now_ms: u64) {
        let doubled = policy.base_ejection.saturating_mul(1 << self.ejections.min(MOST_DOUBLINGS));
        let time = doubled.min(policy.max_ejection).max(policy.base_ejection);
        let until = now_ms.saturating_add(millis(time)).max(1);
        *self =
            Self { ejected_until_ms: until, ejections: self.ejections.saturating_add(1), ..Self::default() };
    }

    /// Ends an ejection whose time is over, and forgets one for each base time that went well. Whether the endpoint came
    /// back.
    pub(crate) fn sweep(&mut self, policy: &OutlierDetection, now_ms: u64) -> bool {
        if self.is_ejected() {
            if now_ms < self.ejected_until_ms {
                return false;
            }
            self.ejected_until_ms = 0;
            self.forgets_ms = now_ms.saturating_add(millis(policy.base_ejection));
            return true;
        }
        if self.ejections > 0 && now_ms >= self.forgets_ms {
            self.ejections -= 1;
            self.forgets_ms = now_ms.saturating_add(millis(policy.base_ejection));
        }
        false
    }
}

/// More than these do not fit into any ejection time.
const MOST_DOUBLINGS: u32 = 16;

/// Whether one more of `all` endpoints may be ejected when some are. One always may, as with Envoy.
pub(crate) fn may_eject(policy: &OutlierDetection, ejected: usize, all: usize) -> bool {
    ejected == 0 || (ejected + 1) * 100 <= usize::from(policy.max_ejected_percent) * all
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use Verdict::{GatewayError, ServerError, Success, Unreachable};

    use super::*;

    fn policy() -> OutlierDetection {
        OutlierDetection {
            consecutive_5xx: Some(5),
            consecutive_gateway_errors: Some(3),
            consecutive_connect_failures: Some(2),
            error_percent: None,
            minimum_requests: 10,
            window: Duration::from_secs(10),
            base_ejection: Duration::from_secs(30),
            max_ejection: Duration::from_secs(100),
            max_ejected_percent: 50,
        }
    }

    /// How many of these verdicts it takes.
    fn taken(policy: &OutlierDetection, verdicts: &[Verdict]) -> Option<usize> {
        let mut record = Record::default();
        verdicts.iter().position(|verdict| record.note(policy, *verdict, 1)).map(|at| at + 1)
    }

    #[test]
    fn errors_in_a_row_eject() {
        for (verdicts, expect) in [
            (&[ServerError; 9][..], Some(5)),
            (&[GatewayError; 9], Some(3)),
            (&[Unreachable; 9], Some(2)),
            (&[GatewayError, GatewayError, Success, GatewayError, GatewayError], None),
            (&[GatewayError, GatewayError, ServerError, GatewayError, GatewayError], Some(5)),
            (&[Unreachable, GatewayError, Unreachable], Some(3)),
            (&[Success; 100], None),
        ] {
            assert_eq!(taken(&policy(), verdicts), expect, "{verdicts:?}");
        }
    }

    #[test]
    fn a_share_of_errors_in_a_window_ejects() {
        let policy = OutlierDetection {
            consecutive_5xx: None,
            consecutive_gateway_errors: None,
            consecutive_connect_failures: None,
            error_percent: Some(40),
            ..policy()
        };
        let mixed: Vec<_> = [Success, Success, Success, ServerError, Unreachable].repeat(4);
        assert_eq!(taken(&policy, &mixed), Some(10), "not before there are enough requests");
        let well: Vec<_> = [Success, Success, ServerError].repeat(10);
        assert_eq!(taken(&policy, &well), None);
        let mut record = Record::default();
        for second in 0..9 {
            assert!(!record.note(&policy, ServerError, second * 1000 + 1), "too few");
        }
        assert!(!record.note(&policy, ServerError, 10_001), "a window of its own");
    }

    #[test]
    fn ejections_grow_and_are_forgotten() {
        let (policy, mut record, mut now) = (policy(), Record::default(), 1_000);
        for expect_s in [30, 60, 100, 100] {
            record.eject(&policy, now);
            assert!(record.is_ejected());
            assert!(!record.sweep(&policy, now + expect_s * 1000 - 1), "{expect_s}");
            now += expect_s * 1000;
            assert!(record.sweep(&policy, now), "{expect_s}");
            assert!(!record.is_ejected());
        }
        for _ in 0..3 {
            now += 30_000;
            assert!(!record.sweep(&policy, now));
        }
        record.eject(&policy, now);
        assert!(record.sweep(&policy, now + 60_000), "three of the four are forgotten");
    }

    #[test]
    fn only_a_part_is_ejected() {
        let policy = policy();
        let most = |all| (0..=all).take_while(|ejected| may_eject(&policy, *ejected, all)).count();
        assert_eq!([1, 2, 3, 4, 10].map(most), [1, 1, 1, 2, 5]);
    }
}
