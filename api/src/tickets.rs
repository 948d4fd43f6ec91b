//! The keys of TLS session tickets, and when which of them seals.
//!
//! All workers have the same keys, so that a session resumes on any of them. A key is handed out a whole [`PERIOD`] before
//! it seals: no worker meets a ticket of a key that it does not have yet. When one begins to seal, the one before it still
//! opens, for as long as its last ticket may live.
//!
//! ```text
//! key 1   |--- seals ---|--- opens ---|
//! key 2   |--- known ---|--- seals ---|--- opens ---|
//! key 3                 |--- known ---|--- seals ---| ...
//! ```
//!
//! Pure: time and randomness come from outside.

use std::{fmt, time::Duration};

use crate::feed as wire;

/// How long a key seals. Twelve hours: whoever learns a key can read what was resumed with it (TLS 1.2) for two of them.
pub const PERIOD: Duration = Duration::from_secs(12 * 3600);

/// How long a ticket may be used. No longer than a key opens after it has sealed its last one.
pub const LIFETIME: Duration = PERIOD;

/// How long a new key is known before it seals, where the one before it is overdue: several times what it takes to tell
/// every worker that can be told.
const NOTICE: Duration = Duration::from_secs(300);

/// Keys in one set: the one before, the one that seals, the next.
pub const MAX_KEYS: usize = 3;

/// A key.
#[derive(Clone, PartialEq, Eq)]
pub struct TicketKey {
    /// What its tickets begin with. Random, and no secret.
    pub name: [u8; 16],
    /// What they are sealed with.
    pub secret: [u8; 32],
    /// When it begins to seal, seconds since 1970.
    pub from_s: u64,
}

impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKey").field("from_s", &self.from_s).finish_non_exhaustive()
    }
}

impl fmt::Debug for wire::TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKey").field("from_s", &self.from_s).finish_non_exhaustive()
    }
}

/// What a new key is made of: random bytes for its name and its secret.
pub type Fresh = ([u8; 16], [u8; 32]);

/// The keys that there are, in the order in which they seal. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TicketKeys(Vec<TicketKey>);

/// Why a message is no set of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTicketKeys {
    /// None, or more than [`MAX_KEYS`].
    #[error("{0} ticket keys: there are 1 to {MAX_KEYS}")]
    Count(usize),
    /// A name or secret of another length.
    #[error("a ticket key's name has 16 bytes and its secret 32")]
    Length,
    /// Not in the order in which they seal.
    #[error("ticket keys are in the order in which they seal")]
    Order,
}

impl TicketKeys {
    /// A first key, which seals from `now_s` on, and the next one.
    #[must_use]
    pub fn first(now_s: u64, fresh: &mut impl FnMut() -> Fresh) -> Self {
        Self(vec![key(fresh(), now_s), key(fresh(), now_s.saturating_add(PERIOD.as_secs()))])
    }

    /// The keys in their order.
    #[must_use]
    pub fn keys(&self) -> &[TicketKey] {
        &self.0
    }

    /// Which of them seals at `now_s`: the last that has begun. The first one where a clock is behind.
    #[must_use]
    pub fn current(&self, now_s: u64) -> usize {
        self.0.iter().rposition(|key| key.from_s <= now_s).unwrap_or(0)
    }

    /// When [`rotated`](Self::rotated) has something to do, seconds since 1970.
    #[must_use]
    pub fn due_s(&self) -> u64 {
        self.0.last().map_or(0, |last| last.from_s)
    }

    /// The keys from now on, once the last one has begun to seal: it gets a successor, and what came before the one before
    /// it goes. `None` until then.
    #[must_use]
    pub fn rotated(&self, now_s: u64, fresh: &mut impl FnMut() -> Fresh) -> Option<Self> {
        if now_s < self.due_s() {
            return None;
        }
        let regular = self.due_s().saturating_add(PERIOD.as_secs());
        // Overdue when nobody was there to rotate for a whole period.
        let from_s = if regular > now_s { regular } else { now_s.saturating_add(NOTICE.as_secs()) };
        Some(self.followed_by(key(fresh(), from_s)))
    }

    /// The keys after a rotation before its time: the next key seals at once. All workers have it, and tickets of the key
    /// that sealed until now are good until the rotation after this one.
    #[must_use]
    pub fn advanced(&self, now_s: u64, fresh: &mut impl FnMut() -> Fresh) -> Self {
        let mut keys = self.clone();
        for key in &mut keys.0 {
            key.from_s = key.from_s.min(now_s);
        }
        keys.followed_by(key(fresh(), now_s.saturating_add(PERIOD.as_secs())))
    }

    fn followed_by(&self, next: TicketKey) -> Self {
        let kept = self.0.len().saturating_sub(MAX_KEYS - 1);
        Self(self.0[kept..].iter().cloned().chain([next]).collect())
    }
}

fn key((name, secret): Fresh, from_s: u64) -> TicketKey {
    TicketKey { name, secret, from_s }
}

impl From<&TicketKeys> for wire::TicketKeys {
    fn from(keys: &TicketKeys) -> Self {
        let keys = keys.0.iter().map(|key| wire::TicketKey {
            name: key.name.to_vec(),
            secret: key.secret.to_vec(),
            from_s: key.from_s,
        });
        Self { keys: keys.collect() }
    }
}

impl TryFrom<&wire::TicketKeys> for TicketKeys {
    type Error = InvalidTicketKeys;

    fn try_from(wire: &wire::TicketKeys) -> Result<Self, InvalidTicketKeys> {
        if !(1..=MAX_KEYS).contains(&wire.keys.len()) {
            return Err(InvalidTicketKeys::Count(wire.keys.len()));
        }
        let fixed = |key: &wire::TicketKey| {
            let name = key.name.as_slice().try_into().map_err(|_| InvalidTicketKeys::Length)?;
            let secret = key.secret.as_slice().try_into().map_err(|_| InvalidTicketKeys::Length)?;
            Ok(TicketKey { name, secret, from_s: key.from_s })
        };
        let keys = wire.keys.iter().map(fixed).collect::<Result<Vec<_>, _>>()?;
        if !keys.is_sorted_by_key(|key| key.from_s) {
            return Err(InvalidTicketKeys::Order);
        }
        Ok(Self(keys))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;

    /// Keys that are told apart by their number.
    fn numbered() -> impl FnMut() -> Fresh {
        let mut number = 0;
        move || {
            number += 1;
            ([number; 16], [number; 32])
        }
    }

    fn names(keys: &TicketKeys) -> Vec<u8> {
        keys.keys().iter().map(|key| key.name[0]).collect()
    }

    #[test]
    fn a_key_is_known_a_period_before_it_seals_and_opens_a_period_after() {
        let mut fresh = numbered();
        let begin = 1_000_000;
        let mut keys = TicketKeys::first(begin, &mut fresh);
        // Looked at each hour, as whoever rotates does it, at whatever minute.
        for hour in 0..100 {
            let now = begin + hour * HOUR + 17;
            if let Some(rotated) = keys.rotated(now, &mut fresh) {
                keys = rotated;
            }
            let current = keys.current(now);
            let sealing = &keys.keys()[current];
            assert_eq!(u64::from(sealing.name[0]), hour / 12 + 1, "hour {hour}");
            let next = &keys.keys()[current + 1];
            assert!(next.from_s > now && next.from_s <= now + PERIOD.as_secs());
            if hour >= 12 {
                assert_eq!(keys.keys()[current - 1].name[0] + 1, sealing.name[0], "the one before opens");
            }
            assert!(keys.keys().len() <= MAX_KEYS);
            assert_eq!(keys.rotated(now, &mut fresh), None, "nothing is due twice");
        }
    }

    #[test]
    fn who_was_away_for_long_gives_notice_of_the_next_key() {
        let mut fresh = numbered();
        let keys = TicketKeys::first(0, &mut fresh);
        let now = 30 * 24 * HOUR;
        let keys = keys.rotated(now, &mut fresh).unwrap();
        assert_eq!((names(&keys), keys.current(now)), (vec![1, 2, 3], 1));
        assert_eq!(keys.due_s(), now + NOTICE.as_secs());
        let later = keys.due_s();
        assert_eq!(names(&keys.rotated(later, &mut fresh).unwrap()), [2, 3, 4]);
    }

    #[test]
    fn a_rotation_before_its_time_seals_with_what_all_know_and_the_second_one_forgets() {
        let mut fresh = numbered();
        let keys = TicketKeys::first(100, &mut fresh);
        let once = keys.advanced(200, &mut fresh);
        assert_eq!((names(&once), once.current(200)), (vec![1, 2, 3], 1));
        assert_eq!(once.due_s(), 200 + PERIOD.as_secs());
        let twice = once.advanced(200, &mut fresh);
        assert_eq!((names(&twice), twice.current(200)), (vec![2, 3, 4], 1));
    }

    #[test]
    fn a_clock_that_is_behind_seals_with_the_first() {
        let keys = TicketKeys::first(1000, &mut numbered());
        assert_eq!(keys.current(10), 0);
    }

    #[test]
    fn the_wire_is_checked_and_debug_shows_no_secret() {
        let keys = TicketKeys::first(7, &mut numbered());
        let wire = wire::TicketKeys::from(&keys);
        assert_eq!(TicketKeys::try_from(&wire), Ok(keys.clone()));
        let with = |change: &dyn Fn(&mut Vec<wire::TicketKey>)| {
            let mut wire = wire.clone();
            change(&mut wire.keys);
            TicketKeys::try_from(&wire)
        };
        assert_eq!(with(&|keys| keys.clear()), Err(InvalidTicketKeys::Count(0)));
        assert_eq!(with(&|keys| keys.extend(keys.clone())), Err(InvalidTicketKeys::Count(4)));
        assert_eq!(with(&|keys| keys[0].name.truncate(15)), Err(InvalidTicketKeys::Length));
        assert_eq!(with(&|keys| keys[1].secret.push(0)), Err(InvalidTicketKeys::Length));
        assert_eq!(with(&|keys| keys.reverse()), Err(InvalidTicketKeys::Order));
        for shown in [format!("{keys:?}"), format!("{wire:?}")] {
            assert!(shown.contains("from_s") && !shown.contains("1, 1"), "{shown}");
        }
    }
}
