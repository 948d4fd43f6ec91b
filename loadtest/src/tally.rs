//! PURE. What a run counts: totals, histograms and one row per second.

use std::{
    collections::{BTreeMap, VecDeque},
    mem,
    time::Duration,
};

use hdrhistogram::Histogram;

use crate::FailureKind;

/// The most values of `x-weir-worker` that are told apart; a target that answers with more is no Weir.
const MAX_WORKERS: usize = 1024;
/// The longest time that a histogram tells apart from longer ones.
const MAX_US: u64 = 3_600_000_000;

/// An empty histogram of microseconds up to an hour, in three significant digits.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MAX_US, 3).expect("the bounds are constants that fit three digits")
}

/// Two digits: a row of the timeline is sent between threads every second.
fn coarse() -> Histogram<u32> {
    Histogram::new_with_bounds(1, MAX_US, 2).expect("the bounds are constants that fit two digits")
}

/// Whole microseconds, rounded down.
pub(crate) fn us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Why a request failed, with an example's wording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    pub(crate) detail: String,
}

impl Failure {
    pub(crate) fn new(kind: FailureKind, detail: impl ToString) -> Self {
        Self { kind, detail: detail.to_string() }
    }
}

/// A complete response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The value of `x-weir-worker`.
    pub(crate) worker: Option<String>,
    pub(crate) body_bytes: u64,
}

/// The times of one finished request, from the start of the run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) due: Duration,
    pub(crate) sent: Duration,
    pub(crate) ended: Duration,
}

/// What one generator thread counts, or all of them together.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) planned: u64,
    pub(crate) ok: u64,
    pub(crate) failed: BTreeMap<FailureKind, u64>,
    /// Dropped because too many waited, given up after waiting too long, or cut off by an early stop.
    pub(crate) not_sent: u64,
    pub(crate) reconnects: u64,
    pub(crate) retried_safe: u64,
    pub(crate) body_bytes: u64,
    /// Of requests that were answered well: from due to the last byte.
    pub(crate) latency: Histogram<u64>,
    /// Of the same requests: from sent to the last byte.
    pub(crate) service: Histogram<u64>,
    /// Of every request that was sent: how late by the generator's own fault.
    pub(crate) lag: Histogram<u64>,
    /// Of every connection: TCP and TLS handshakes.
    pub(crate) connect: Histogram<u64>,
    pub(crate) workers: BTreeMap<String, u64>,
    /// One failure of each kind in words.
    pub(crate) examples: BTreeMap<FailureKind, String>,
    /// When the last counted request ended.
    pub(crate) last_end: Duration,
    current: SecondTally,
    closed: VecDeque<SecondTally>,
}

/// What happened in one second; requests of the warm-up are in it too.
#[derive(Debug, Clone)]
pub(crate) struct SecondTally {
    /// Seconds from the start of the run.
    pub(crate) second: u64,
    pub(crate) planned: u64,
    pub(crate) sent: u64,
    pub(crate) ok: u64,
    pub(crate) not_sent: u64,
    pub(crate) failed: BTreeMap<FailureKind, u64>,
    pub(crate) latency: Histogram<u32>,
}

impl SecondTally {
    pub(crate) fn new(second: u64) -> Self {
        Self { second, planned: 0, sent: 0, ok: 0, not_sent: 0, failed: BTreeMap::new(), latency: coarse() }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.planned += other.planned;
        self.sent += other.sent;
        self.ok += other.ok;
        self.not_sent += other.not_sent;
        add_counts(&mut self.failed, &other.failed);
        add_histogram(&mut self.latency, &other.latency);
    }
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self {
            planned: 0,
            ok: 0,
            failed: BTreeMap::new(),
            not_sent: 0,
            reconnects: 0,
            retried_safe: 0,
            body_bytes: 0,
            latency: histogram(),
            service: histogram(),
            lag: histogram(),
            connect: histogram(),
            workers: BTreeMap::new(),
            examples: BTreeMap::new(),
            last_end: Duration::ZERO,
            current: SecondTally::new(0),
            closed: VecDeque::new(),
        }
    }

    /// A request fell due.
    pub(crate) fn planned(&mut self, now: Duration, counted: bool) {
        self.planned += u64::from(counted);
        self.at(now).planned += 1;
    }

    /// A request will not be sent.
    pub(crate) fn not_sent(&mut self, now: Duration, counted: bool) {
        self.not_sent += u64::from(counted);
        self.at(now).not_sent += 1;
    }

    /// A connection took a request up.
    pub(crate) fn sent(&mut self, now: Duration, lag: Duration, counted: bool) {
        if counted {
            self.lag.saturating_record(us(lag));
        }
        self.at(now).sent += 1;
    }

    /// A request ended.
    pub(crate) fn ended(&mut self, times: Times, result: &Result<Answer, Failure>, counted: bool) {
        let latency = us(times.ended.saturating_sub(times.due));
        let failure = verdict(result);
        let second = self.at(times.ended);
        match failure {
            None => {
                second.ok += 1;
                second.latency.saturating_record(latency);
            }
            Some((kind, _)) => *second.failed.entry(kind).or_default() += 1,
        }
        if !counted {
            return;
        }
        self.last_end = self.last_end.max(times.ended);
        if let Ok(answer) = result {
            self.body_bytes += answer.body_bytes;
            if let Some(worker) = &answer.worker {
                self.worker(worker);
            }
        }
        match failure {
            None => {
                self.ok += 1;
                self.latency.saturating_record(latency);
                self.service.saturating_record(us(times.ended.saturating_sub(times.sent)));
            }
            Some((kind, detail)) => {
                *self.failed.entry(kind).or_default() += 1;
                self.examples.entry(kind).or_insert_with(|| detail.to_owned());
            }
        }
    }

    fn worker(&mut self, worker: &str) {
        if let Some(count) = self.workers.get_mut(worker) {
            *count += 1;
        } else if self.workers.len() < MAX_WORKERS {
            self.workers.insert(worker.to_owned(), 1);
        }
    }

    fn at(&mut self, now: Duration) -> &mut SecondTally {
        self.roll(now);
        &mut self.current
    }

    /// Closes the seconds before `now`.
    pub(crate) fn roll(&mut self, now: Duration) {
        while self.current.second < now.as_secs() {
            let next = SecondTally::new(self.current.second + 1);
            self.closed.push_back(mem::replace(&mut self.current, next));
        }
    }

    /// The oldest closed second that was not taken yet: they come in order and without gaps.
    pub(crate) fn pop_closed(&mut self) -> Option<SecondTally> {
        self.closed.pop_front()
    }

    /// The second that is still open.
    pub(crate) fn open(&self) -> &SecondTally {
        &self.current
    }

    /// Adds another thread's totals; the rows of its timeline travel on their own.
    pub(crate) fn add(&mut self, other: &Self) {
        self.planned += other.planned;
        self.ok += other.ok;
        self.not_sent += other.not_sent;
        self.reconnects += other.reconnects;
        self.retried_safe += other.retried_safe;
        self.body_bytes += other.body_bytes;
        self.last_end = self.last_end.max(other.last_end);
        add_counts(&mut self.failed, &other.failed);
        add_counts(&mut self.workers, &other.workers);
        for (kind, detail) in &other.examples {
            self.examples.entry(*kind).or_insert_with(|| detail.clone());
        }
        add_histogram(&mut self.latency, &other.latency);
        add_histogram(&mut self.service, &other.service);
        add_histogram(&mut self.lag, &other.lag);
        add_histogram(&mut self.connect, &other.connect);
    }
}

/// Why a request counts as failed, if it does. An answer of 400 or above is a failure.
fn verdict(result: &Result<Answer, Failure>) -> Option<(FailureKind, &str)> {
    match result {
        Err(failure) => Some((failure.kind, &failure.detail)),
        Ok(Answer { status: 400..500, .. }) => {
            Some((FailureKind::Status4xx, "answered with a status of 4xx"))
        }
        Ok(Answer { status: 500.., .. }) => Some((FailureKind::Status5xx, "answered with a status of 5xx")),
        Ok(_) => None,
    }
}

fn add_counts<K: Ord + Clone>(into: &mut BTreeMap<K, u64>, from: &BTreeMap<K, u64>) {
    for (key, count) in from {
        *into.entry(key.clone()).or_default() += count;
    }
}

fn add_histogram<T: hdrhistogram::Counter>(into: &mut Histogram<T>, from: &Histogram<T>) {
    into.add(from).expect("both histograms were made with the same bounds");
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn answer(status: u16) -> Result<Answer, Failure> {
        Ok(Answer { status, worker: Some("w-1".into()), body_bytes: 10 })
    }

    const TIMES: Times = Times { due: ms(100), sent: ms(300), ended: ms(350) };

    #[test]
    fn latency_counts_from_the_due_time_and_service_from_the_send() {
        let mut tally = Tally::new();
        tally.ended(TIMES, &answer(200), true);
        assert!(tally.latency.equivalent(tally.latency.max(), 250_000));
        assert!(tally.service.equivalent(tally.service.max(), 50_000));
        assert_eq!((tally.ok, tally.body_bytes, tally.workers["w-1"]), (1, 10, 1));
    }

    #[test]
    fn an_error_status_is_a_failure_of_its_class() {
        let mut tally = Tally::new();
        for status in [200, 304, 404, 429, 503] {
            tally.ended(TIMES, &answer(status), true);
        }
        assert_eq!(tally.ok, 2);
        assert_eq!(tally.failed[&FailureKind::Status4xx], 2);
        assert_eq!(tally.failed[&FailureKind::Status5xx], 1);
        assert_eq!(tally.latency.len(), 2, "failures are in no latency");
    }

    #[test]
    fn the_warm_up_is_in_the_timeline_only() {
        let mut tally = Tally::new();
        tally.planned(ms(0), false);
        tally.sent(ms(0), ms(0), false);
        tally.ended(TIMES, &answer(200), false);
        assert_eq!((tally.planned, tally.ok, tally.lag.len()), (0, 0, 0));
        assert_eq!((tally.open().planned, tally.open().sent, tally.open().ok), (1, 1, 1));
    }

    #[test]
    fn seconds_close_in_order_without_gaps() {
        let mut tally = Tally::new();
        tally.planned(ms(500), true);
        tally.planned(ms(3200), true);
        let closed: Vec<_> =
            std::iter::from_fn(|| tally.pop_closed()).map(|s| (s.second, s.planned)).collect();
        assert_eq!(closed, [(0, 1), (1, 0), (2, 0)]);
        assert_eq!((tally.open().second, tally.open().planned), (3, 1));
    }

    #[test]
    fn totals_of_threads_add_up() {
        let (mut a, mut b) = (Tally::new(), Tally::new());
        a.ended(TIMES, &answer(200), true);
        b.ended(TIMES, &answer(200), true);
        b.ended(TIMES, &Err(Failure::new(FailureKind::Reset, "gone")), true);
        a.add(&b);
        assert_eq!((a.ok, a.latency.len(), a.workers["w-1"]), (2, 2, 2));
        assert_eq!(a.failed[&FailureKind::Reset], 1);
        assert_eq!(a.examples[&FailureKind::Reset], "gone");
    }
}
