//! What a thread counts by route.
//!
//! A series has a number, which stays its own for the life of the thread: a request finds its counters by it, without a
//! lock, a reference count or a hash. Where there are many routes each counter that a request touches is in no cache, so
//! what a request touches that goes as it should is one line of 64 bytes, and those lines are neighbours.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use model::TenantId;
use sys::prefetch;

use super::{Counter, Outcome};
use crate::limits::ROUTE_SERIES;

/// Labels of a route's series. Empty where no route was found.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct RouteKey {
    /// The tenant, or empty.
    pub tenant: String,
    /// The route object, or empty.
    pub route: String,
}

impl RouteKey {
    /// The series of one tenant's route.
    #[must_use]
    pub fn new(tenant: &TenantId, route: &str) -> Self {
        Self { tenant: tenant.as_str().to_owned(), route: route.to_owned() }
    }

    /// Where requests are counted once there are too many series.
    fn other(tenant: &str) -> Self {
        Self { tenant: tenant.to_owned(), route: "other".to_owned() }
    }
}

/// The number of a series in its thread's counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Series(u32);

impl Series {
    /// Of requests that no route answers.
    pub const NONE: Self = Self(0);

    /// The series of a number.
    pub(crate) fn of(number: u32) -> Self {
        Self(number)
    }

    /// Its number: from 0, without gaps.
    pub(crate) fn number(self) -> u32 {
        self.0
    }
}

/// The classes of status codes, `1xx` to `5xx`.
pub(super) const CLASSES: usize = 5;

/// Bounds of the durations, microseconds: 0.5 ms to 33 s.
pub(super) const BOUNDS_US: [u64; 9] =
    [1 << 9, 1 << 11, 1 << 13, 1 << 15, 1 << 17, 1 << 19, 1 << 21, 1 << 23, 1 << 25];

/// Each bound has what is below it and not below the one before; then there is what is below none.
pub(super) const DURATIONS: usize = BOUNDS_US.len() + 1;

/// The durations that are ordinary, up to half a second.
const QUICK: usize = 6;

/// What a request touches that is forwarded, succeeds and takes no longer than half a second.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Usual {
    sum_us: Counter,
    /// Forwarded, with a status of 2xx.
    succeeded: Counter,
    durations: [Counter; QUICK],
}

/// All else.
#[derive(Debug, Default)]
struct Unusual {
    durations: [Counter; DURATIONS - QUICK],
    /// What succeeded is not in it.
    ended: [[Counter; CLASSES]; Outcome::ALL.len()],
}

/// The counters of a series.
#[derive(Debug, Clone, Copy)]
pub(super) struct RouteCounters<'c> {
    usual: &'c Usual,
    unusual: &'c Unusual,
}

impl<'c> RouteCounters<'c> {
    /// Requests that ended like that, by class of status from 0.
    pub(super) fn ended(self, outcome: Outcome, class: usize) -> &'c Counter {
        match (outcome, class) {
            (Outcome::Forwarded, 1) => &self.usual.succeeded,
            _ => &self.unusual.ended[outcome as usize][class],
        }
    }

    /// Requests that took so long, by the number of the bound that they are below.
    pub(super) fn took(self, duration: usize) -> &'c Counter {
        match duration.checked_sub(QUICK) {
            None => &self.usual.durations[duration],
            Some(slow) => &self.unusual.durations[slow],
        }
    }

    /// The sum of all durations, microseconds.
    pub(super) fn sum_us(self) -> &'c Counter {
        &self.usual.sum_us
    }

    /// Counts a finished request; only its owner may.
    fn finished(self, outcome: Outcome, status: u16, latency_us: u64) {
        let class = usize::from(status / 100).clamp(1, CLASSES) - 1;
        self.ended(outcome, class).add(1);
        self.took(duration(latency_us)).add(1);
        self.sum_us().add(latency_us);
    }

    fn total(self) -> u64 {
        (0..DURATIONS).map(|duration| self.took(duration).value()).sum()
    }
}

/// The number of the bound that it is below.
fn duration(us: u64) -> usize {
    // A bound is four times the one before.
    let Some(above) = us.checked_ilog2().and_then(|power| power.checked_sub(BOUNDS_US[0].ilog2())) else {
        return 0;
    };
    (above as usize / 2 + 1).min(BOUNDS_US.len())
}

/// Series of the first chunk; each further one has twice as many as the one before.
const FIRST: u32 = 16;

/// More than there are numbers for.
const CHUNKS: usize = 28;

/// Neighbouring series. Those that a request looks at lie together, so that they are few pages.
#[derive(Debug)]
struct Chunk {
    usual: Box<[Usual]>,
    unusual: Box<[Unusual]>,
    keys: Box<[OnceLock<Arc<RouteKey>>]>,
}

impl Chunk {
    fn new(len: usize) -> Self {
        let (mut usual, mut unusual, mut keys) = (Vec::new(), Vec::new(), Vec::new());
        usual.resize_with(len, Usual::default);
        unusual.resize_with(len, Unusual::default);
        keys.resize_with(len, OnceLock::new);
        Self { usual: usual.into(), unusual: unusual.into(), keys: keys.into() }
    }
}

/// The series of a thread; there are only ever more of them.
#[derive(Debug)]
pub(super) struct Routes {
    /// Made when the first of their series is.
    chunks: [OnceLock<Chunk>; CHUNKS],
    /// How many series there are; those below it are there whole.
    len: AtomicU32,
    numbers: Mutex<HashMap<Arc<RouteKey>, Series>>,
}

impl Default for Routes {
    fn default() -> Self {
        let routes = Self {
            chunks: [const { OnceLock::new() }; CHUNKS],
            len: AtomicU32::new(0),
            numbers: Mutex::default(),
        };
        // The first number is `Series::NONE`.
        routes.of(&RouteKey::default());
        routes
    }
}

impl Routes {
    /// The series of a route, which is made if it is not there yet. Takes a lock: the request threads keep what they get.
    pub(super) fn of(&self, key: &RouteKey) -> Series {
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = numbers.get(key) {
            return *known;
        }
        // One `other` for each tenant that comes too late: bounded by the tenants. `NONE` is not one of a route.
        let key = if numbers.len() <= ROUTE_SERIES { key.clone() } else { RouteKey::other(&key.tenant) };
        if let Some(known) = numbers.get(&key) {
            return *known;
        }
        let key = Arc::new(key);
        let series = Series(self.len.load(Ordering::Relaxed));
        let (chunk, place) = series.place();
        let chunk = self.chunks[chunk].get_or_init(|| Chunk::new((FIRST as usize) << chunk));
        // Nobody else adds, so that the place is free.
        let _free = chunk.keys[place].set(Arc::clone(&key));
        self.len.store(series.0 + 1, Ordering::Release);
        numbers.insert(key, series);
        series
    }

    /// One of its requests will be finished soon.
    pub(super) fn expect(&self, series: Series) {
        if let Some(counters) = self.counters(series) {
            prefetch::line(counters.usual);
        }
    }

    /// Counts a finished request; only their owner may.
    pub(super) fn finished(&self, series: Series, outcome: Outcome, status: u16, latency_us: u64) {
        if let Some(counters) = self.counters(series) {
            counters.finished(outcome, status, latency_us);
        }
    }

    /// The labels of a series; nothing for a number of another thread's.
    pub(super) fn key(&self, series: Series) -> Option<&RouteKey> {
        let (chunk, place) = series.place();
        self.chunks[chunk].get()?.keys[place].get().map(|key| &**key)
    }

    fn counters(&self, series: Series) -> Option<RouteCounters<'_>> {
        let (chunk, place) = series.place();
        let chunk = self.chunks[chunk].get()?;
        Some(RouteCounters { usual: &chunk.usual[place], unusual: &chunk.unusual[place] })
    }

    /// All series that have counted something.
    pub(super) fn each(&self) -> impl Iterator<Item = (&RouteKey, RouteCounters<'_>)> {
        let all = (0..self.len.load(Ordering::Acquire)).map(Series);
        all.filter_map(|series| Some((self.key(series)?, self.counters(series)?)))
            .filter(|(_, counters)| counters.total() > 0)
    }

    /// Adds the requests finished so far to those of their tenants.
    pub(super) fn of_tenants(&self, into: &mut HashMap<String, u64>) {
        for (key, counters) in self.each().filter(|(key, _)| !key.tenant.is_empty()) {
            match into.get_mut(&key.tenant) {
                Some(sum) => *sum += counters.total(),
                None => {
                    into.insert(key.tenant.clone(), counters.total());
                }
            }
        }
    }
}

impl Series {
    /// Its chunk, and its place in it.
    fn place(self) -> (usize, usize) {
        let at = u64::from(self.0) + u64::from(FIRST);
        let chunk = at.ilog2() - FIRST.ilog2();
        let place = at - (u64::from(FIRST) << chunk);
        (chunk as usize, usize::try_from(place).expect("below 2^32"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> RouteKey {
        RouteKey::new(&format!("t{}", number % 3).parse().unwrap(), &format!("default/{number}"))
    }

    #[test]
    fn durations_are_below_their_bound_and_not_below_the_one_before() {
        for us in (0..10_000).chain(BOUNDS_US.iter().flat_map(|bound| [bound - 1, *bound])).chain([u64::MAX])
        {
            let number = duration(us);
            assert!(BOUNDS_US.get(number).is_none_or(|bound| us < *bound), "{us} in {number}");
            assert!(number == 0 || us >= BOUNDS_US[number - 1], "{us} in {number}");
        }
    }

    #[test]
    fn what_a_request_touches_is_one_line() {
        assert_eq!((size_of::<Usual>(), align_of::<Usual>()), (64, 64));
    }

    #[test]
    fn a_series_is_found_again_and_counts_its_own() {
        let routes = Routes::default();
        let numbers: Vec<_> = (0..1_000).map(|number| routes.of(&key(number))).collect();
        for (number, series) in numbers.iter().enumerate() {
            assert_eq!((routes.of(&key(number)), routes.key(*series)), (*series, Some(&key(number))));
            routes.finished(*series, Outcome::Forwarded, 200, number as u64);
            routes.finished(*series, Outcome::Refused, 502, 1 << 30);
        }
        routes.finished(Series::NONE, Outcome::Refused, 404, 0);
        assert_eq!(routes.each().count(), 1_001);
        for (number, (found, counters)) in routes.each().skip(1).enumerate() {
            assert_eq!((found, counters.sum_us().value()), (&key(number), (1 << 30) + number as u64));
            let ended = [(Outcome::Forwarded, 1), (Outcome::Refused, 4), (Outcome::Refused, 3)];
            assert_eq!(ended.map(|(outcome, class)| counters.ended(outcome, class).value()), [1, 1, 0]);
            assert_eq!(counters.took(DURATIONS - 1).value(), 1);
        }
        let mut tenants = HashMap::from([("t0".to_owned(), 1)]);
        routes.of_tenants(&mut tenants);
        assert_eq!(
            tenants,
            HashMap::from([("t0", 669), ("t1", 666), ("t2", 666)].map(|(t, n)| (t.to_owned(), n)))
        );
    }

    #[test]
    fn routes_beyond_the_bound_share_their_tenants_last_series() {
        let routes = Routes::default();
        let own: Vec<_> = (0..ROUTE_SERIES).map(|number| routes.of(&key(number))).collect();
        assert!(own.iter().enumerate().all(|(number, series)| routes.key(*series) == Some(&key(number))));
        for late in ROUTE_SERIES..ROUTE_SERIES + 9 {
            let labels = routes.key(routes.of(&key(late))).unwrap();
            assert_eq!((labels.tenant.as_str(), labels.route.as_str()), (key(late).tenant.as_str(), "other"));
        }
        assert_eq!(routes.numbers.lock().unwrap().len(), 1 + ROUTE_SERIES + 3);
        assert_eq!(routes.of(&key(0)), own[0], "who came in time keeps its own");
    }
}
