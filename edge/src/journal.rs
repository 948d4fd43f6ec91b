//! The journal: what became of the last requests, for whoever asks about one by its id.
//!
//! Each request thread keeps its own and is the only one to touch it: questions come to it as commands. So a request
//! pays for no lock and no allocation. Its facts are gathered in a box, which another request used before, and
//! copied into a ring when it is over. Requests that failed or took long have a ring of their own, which a flood of
//! others cannot push them out of.
//!
//! Deliberately absent: requests that are still running, headers, queries, bodies.

mod ring;
mod tell;
mod trail;

use std::{cell::RefCell, fmt, rc::Rc, str::FromStr, time::Duration};

use model::TenantId;

pub(crate) use trail::{Counted, Entrance, Facts, OUTRUN, Place, Trail, TryPlace, brief_micros};

use crate::{accesslog::Line, downstream::Client, h1::RequestHead, limits::FREE_TRAILS, metrics::Counters};
use ring::Ring;

/// A request's name: 128 random bits in hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct RequestId([u8; Self::DIGITS]);

impl RequestId {
    const DIGITS: usize = 32;

    /// The name that these bits make.
    pub(crate) fn new(high: u64, low: u64) -> Self {
        let bits = u128::from(high) << 64 | u128::from(low);
        let mut text = [0; Self::DIGITS];
        for (digits, byte) in text.chunks_exact_mut(2).zip(bits.to_be_bytes()) {
            digits[0] = HEX[usize::from(byte >> 4)];
            digits[1] = HEX[usize::from(byte & 0xf)];
        }
        Self(text)
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Not a request's id.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a request's id has {} hexadecimal digits", RequestId::DIGITS)]
pub(crate) struct InvalidId;

impl FromStr for RequestId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let digits = text.as_bytes().try_into().map_err(|_| InvalidId)?;
        let hexadecimal = text.bytes().all(|digit| digit.is_ascii_hexdigit());
        hexadecimal.then_some(Self(digits)).ok_or(InvalidId)
    }
}

/// Requests remembered that went as they should: 100 requests per second are remembered for 20 s.
const ORDINARY: usize = 2048;

/// Requests remembered that failed, were tried again or took long.
const NOTABLE: usize = 1024;

/// Long enough that somebody may ask why.
const LONG: Duration = Duration::from_millis(500);

/// What is gathered of a request while it is served.
#[derive(Debug)]
pub(crate) struct Gathered {
    pub(crate) trail: Trail,
    /// For the access log alone; nothing where there is none.
    pub(crate) line: Line,
}

/// What one thread remembers: 1.5 MiB at most, taken as requests come.
#[derive(Debug)]
pub(crate) struct Journal {
    /// Of requests that are over, the last one used on top.
    #[expect(clippy::vec_box, reason = "the boxes are handed out")]
    free: RefCell<Vec<Box<Gathered>>>,
    ordinary: RefCell<Ring>,
    notable: RefCell<Ring>,
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            free: RefCell::default(),
            ordinary: RefCell::new(Ring::new(ORDINARY)),
            notable: RefCell::new(Ring::new(NOTABLE)),
        }
    }
}

impl Journal {
    /// For a request that begins; without a head, one that could not be read.
    pub(crate) fn begin(&self, facts: Facts, client: &Client, head: Option<&RequestHead>) -> Box<Gathered> {
        let mut gathered = match self.free.borrow_mut().pop() {
            Some(mut used) => {
                used.trail.facts = facts;
                used
            }
            None => Box::new(Gathered { trail: Trail::new(facts), line: Line::default() }),
        };
        gathered.trail.is_of(client);
        match head {
            Some(head) => gathered.trail.asks(head),
            None => gathered.trail.asks_nothing(),
        }
        gathered
    }

    /// The request is over.
    pub(crate) fn end(&self, mut gathered: Box<Gathered>) {
        let ring = if is_notable(&gathered.trail.facts) { &self.notable } else { &self.ordinary };
        ring.borrow_mut().push(&mut gathered.trail);
        let mut free = self.free.borrow_mut();
        if free.len() < FREE_TRAILS {
            free.push(gathered);
        }
    }

    /// What is known of a request: of `tenant`'s, or of whoever's it is. `counters` are those of the journal's thread.
    pub(crate) fn recall(
        &self,
        id: RequestId,
        tenant: Option<&TenantId>,
        counters: &Counters,
    ) -> Option<api::request::Request> {
        let find = |ring: &RefCell<Ring>| {
            ring.borrow().find(id).map(|trail| (trail.tenant().cloned(), trail.tell(counters)))
        };
        let (owner, told) = find(&self.notable).or_else(|| find(&self.ordinary))?;
        (tenant.is_none() || tenant == owner.as_ref()).then_some(told)
    }
}

/// Whether it is kept among the few. What belongs to no tenant is not: anybody can send any amount of that.
fn is_notable(facts: &Facts) -> bool {
    (facts.failed() || facts.retries > 0 || facts.duration >= LONG) && facts.tenant().is_some()
}

/// The name under which many facts know a backend.
pub(crate) type BackendName = Rc<str>;

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::metrics::Outcome;

    fn facts(number: u64) -> Facts {
        let mut facts = Facts::new(RequestId::new(0, number), UNIX_EPOCH);
        facts.tenant = Some("acme".parse().unwrap());
        facts.status = 200;
        facts.outcome = Outcome::Forwarded;
        facts
    }

    fn pass(journal: &Journal, facts: Facts) {
        journal.end(Box::new(Gathered { trail: Trail::new(facts), line: Line::default() }));
    }

    fn recall(journal: &Journal, number: u64, tenant: Option<&TenantId>) -> Option<api::request::Request> {
        journal.recall(RequestId::new(0, number), tenant, &Counters::default())
    }

    #[test]
    fn an_id_is_32_digits_and_read_back() {
        let id = RequestId::new(0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210);
        assert_eq!(id.as_str(), "0123456789abcdeffedcba9876543210");
        assert_eq!(id.as_str().parse(), Ok(id));
        for bad in ["", "0123", "g123456789abcdeffedcba9876543210", "0123456789abcdeffedcba98765432100"] {
            assert_eq!(bad.parse::<RequestId>(), Err(InvalidId), "{bad}");
        }
    }

    #[test]
    fn the_last_requests_are_known_and_older_ones_are_not() {
        let journal = Journal::default();
        (0..3000).for_each(|number| pass(&journal, facts(number)));
        let knows = |number| recall(&journal, number, None).is_some();
        assert!(knows(2999) && knows(3000 - 2048));
        assert!(!knows(3000 - 2048 - 1) && !knows(3000));
    }

    #[test]
    fn what_failed_or_took_long_outlasts_what_did_not() {
        let journal = Journal::default();
        pass(&journal, Facts { status: 502, ..facts(1) });
        pass(&journal, Facts { refusal: Some("no_route"), status: 404, ..facts(2) });
        pass(&journal, Facts { duration: LONG, ..facts(3) });
        pass(&journal, Facts { retries: 1, ..facts(4) });
        pass(&journal, Facts { outcome: Outcome::Abandoned, ..facts(5) });
        pass(&journal, facts(6));
        // Whoever asks for hosts that nobody has must not push out what tenants ask about.
        (100..5000).for_each(|number| {
            pass(&journal, Facts { tenant: None, refusal: Some("unknown_host"), ..facts(number) });
        });
        let knows = |number| recall(&journal, number, None).is_some();
        assert!((1..=5).all(knows));
        assert!(!knows(6));
    }

    #[test]
    fn a_tenant_is_told_of_its_own_requests_only() {
        let journal = Journal::default();
        pass(&journal, facts(1));
        pass(&journal, Facts { tenant: None, ..facts(2) });
        let knows = |number, tenant: &str| recall(&journal, number, Some(&tenant.parse().unwrap())).is_some();
        assert!(knows(1, "acme") && !knows(1, "globex"));
        assert!(!knows(2, "acme"));
        assert!(recall(&journal, 2, None).is_some(), "whoever asks for all");
    }

    #[test]
    fn memory_is_bounded() {
        assert!((ORDINARY + NOTABLE) * size_of::<Trail>() <= 3 << 19, "{} bytes each", size_of::<Trail>());
    }
}
