//! What one worker said lately.

use std::{collections::VecDeque, time::Duration};

use api::feed::LoadReport;

use crate::Time;

/// What demand is taken from: three reports, so that one odd second is not the whole truth.
pub const SHORT: Duration = Duration::from_secs(3);

/// What is shown to people, and what a window keeps.
pub const LONG: Duration = Duration::from_secs(60);

/// A worker that said nothing for this long is missing: three reports in a row were lost.
pub const FRESH: Duration = Duration::from_secs(3);

/// A minute of reports, and as many again that events caused.
const MAX_SAMPLES: usize = 128;

/// A rate is never taken over less than this: one request in a report of 5 ms is not 200 a second.
const MIN_SPAN: Duration = Duration::from_millis(500);

/// A report over less than this says nothing about how busy its worker is.
const MIN_BUSY_SPAN: Duration = Duration::from_millis(200);

/// A worker's own word about its window is believed up to here.
const MAX_SPAN: Duration = Duration::from_secs(60);

/// From this share of its CPU on, a worker is full.
const FULL: f64 = 0.95;

/// Below this share of its CPU, a late event loop is not the load's doing (a stalled disk, a stopped process), and
/// more workers would be late as well.
const BUSY: f64 = 0.5;

/// A worse queue than this is a broken worker, not a longer queue.
const MAX_BACKLOG: Duration = Duration::from_secs(5);

/// One report, with the time at which it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sample {
    at: Time,
    span: Duration,
    requests: u64,
    errors: u64,
    shed: u64,
    cpu: Duration,
    queue_delay: Duration,
    in_flight: u64,
    connections: u64,
    memory_bytes: u64,
    latency_p50_us: u64,
    latency_p99_us: u64,
    threads: u32,
}

/// A worker's load over some time. Rates are per second of *reported* time: lost reports lower no rate.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Load {
    /// Requests finished per second.
    pub requests_per_second: f64,
    /// Failed requests per second.
    pub errors_per_second: f64,
    /// Requests shed per second.
    pub shed_per_second: f64,
    /// Cores in use.
    pub cpu_cores: f64,
    /// Now.
    pub in_flight: u64,
    /// Now.
    pub connections: u64,
    /// Now.
    pub memory_bytes: u64,
    /// Of the newest report.
    pub latency_p50_us: u64,
    /// Of the newest report.
    pub latency_p99_us: u64,
}

/// How a report fits those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// The next one.
    Next,
    /// So many before it were lost.
    AfterGap(u64),
    /// Not newer than the last; it was not taken.
    Stale,
}

/// How full a worker is, by its newest report.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Pressure {
    /// Its CPU is used up, or it is busy and its event loop late.
    pub saturated: bool,
    /// Work that waits in front of a newcomer, in seconds of one worker.
    pub backlog: Duration,
}

/// The last reports of one worker, oldest first.
#[derive(Debug, Clone, Default)]
pub struct Window {
    samples: VecDeque<Sample>,
    last_sequence: Option<u64>,
    lost: u64,
}

impl Window {
    /// Takes a report that came `now`, if it is newer than the last.
    pub fn push(&mut self, report: &LoadReport, now: Time) -> Arrival {
        let arrival = match self.last_sequence {
            Some(last) if report.sequence <= last => return Arrival::Stale,
            Some(last) if report.sequence - last > 1 => Arrival::AfterGap(report.sequence - last - 1),
            _ => Arrival::Next,
        };
        if let Arrival::AfterGap(lost) = arrival {
            self.lost = self.lost.saturating_add(lost);
        }
        self.last_sequence = Some(report.sequence);
        if self.samples.len() == MAX_SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample::new(report, now));
        while self.samples.front().is_some_and(|s| now.since(s.at) > LONG) {
            self.samples.pop_front();
        }
        arrival
    }

    /// The load of the reports that came within the last `span`; `None` if none did.
    #[must_use]
    pub fn over(&self, span: Duration, now: Time) -> Option<Load> {
        let newest = self.samples.back().filter(|s| now.since(s.at) < span)?;
        let recent = || self.samples.iter().filter(|s| now.since(s.at) < span);
        let reported = recent().map(|s| s.span).sum::<Duration>().max(MIN_SPAN).as_secs_f64();
        let per_second =
            |count: fn(&Sample) -> u64| recent().map(|s| count(s) as f64).sum::<f64>() / reported;
        Some(Load {
            requests_per_second: per_second(|s| s.requests),
            errors_per_second: per_second(|s| s.errors),
            shed_per_second: per_second(|s| s.shed),
            cpu_cores: recent().map(|s| s.cpu.as_secs_f64()).sum::<f64>() / reported,
            in_flight: newest.in_flight,
            connections: newest.connections,
            memory_bytes: newest.memory_bytes,
            latency_p50_us: newest.latency_p50_us,
            latency_p99_us: newest.latency_p99_us,
        })
    }

    /// How full the worker is, by the newest report of the last [`FRESH`] that says so.
    #[must_use]
    pub fn pressure(&self, saturation_delay: Duration, now: Time) -> Pressure {
        let telling = |s: &&Sample| s.span >= MIN_BUSY_SPAN && now.since(s.at) < FRESH;
        let Some(newest) = self.samples.iter().rev().find(telling) else { return Pressure::default() };
        let threads = newest.threads.max(1);
        let used = newest.cpu.as_secs_f64() / (newest.span.as_secs_f64() * f64::from(threads));
        let late = newest.queue_delay >= saturation_delay;
        Pressure {
            saturated: used >= FULL || (used >= BUSY && late),
            backlog: if used >= BUSY { newest.queue_delay.min(MAX_BACKLOG) } else { Duration::ZERO },
        }
    }

    /// How many connections the worker has, if it said so within the last [`FRESH`].
    #[must_use]
    pub fn connections(&self, now: Time) -> Option<u64> {
        self.samples.back().filter(|s| now.since(s.at) < FRESH).map(|s| s.connections)
    }

    /// When the last report came.
    #[must_use]
    pub fn last_at(&self) -> Option<Time> {
        self.samples.back().map(|s| s.at)
    }

    /// Whether a report came within the last [`FRESH`].
    #[must_use]
    pub fn is_fresh(&self, now: Time) -> bool {
        self.last_at().is_some_and(|at| now.since(at) < FRESH)
    }

    /// How many reports of this worker never came, as later ones showed.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }
}

impl Sample {
    fn new(report: &LoadReport, now: Time) -> Self {
        let threads = report.threads.clamp(1, 1024);
        let span = Duration::from_micros(report.window_us).min(MAX_SPAN);
        Self {
            at: now,
            span,
            requests: report.requests,
            errors: report.errors,
            shed: report.shed,
            // No thread works more than all the time.
            cpu: Duration::from_micros(report.cpu_us).min(span.saturating_mul(threads)),
            queue_delay: Duration::from_micros(report.queue_delay_us),
            in_flight: report.in_flight,
            connections: report.connections,
            memory_bytes: report.memory_bytes,
            latency_p50_us: report.latency_p50_us,
            latency_p99_us: report.latency_p99_us,
            threads,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(sequence: u64, requests: u64, cpu_us: u64) -> LoadReport {
        LoadReport { sequence, window_us: 1_000_000, requests, cpu_us, threads: 1, ..LoadReport::default() }
    }

    fn window(reports: impl IntoIterator<Item = (u64, LoadReport)>) -> Window {
        let mut window = Window::default();
        for (at, report) in reports {
            window.push(&report, Time::from_secs(at));
        }
        window
    }

    #[test]
    fn gaps_and_repetitions_are_known() {
        let mut window = Window::default();
        let arrivals = [1, 2, 2, 5, 4, 6]
            .map(|sequence| window.push(&report(sequence, 0, 0), Time::from_secs(sequence)));
        let expect = [
            Arrival::Next,
            Arrival::Next,
            Arrival::Stale,
            Arrival::AfterGap(2),
            Arrival::Stale,
            Arrival::Next,
        ];
        assert_eq!(arrivals, expect);
        assert_eq!(window.lost(), 2);
    }

    #[test]
    fn a_lost_report_lowers_no_rate() {
        let window = window([(1, report(1, 100, 0)), (3, report(3, 100, 0))]);
        let load = window.over(SHORT, Time::from_secs(3)).unwrap();
        assert!((load.requests_per_second - 100.0).abs() < 1e-9, "{load:?}");
    }

    #[test]
    fn short_and_long_windows_differ() {
        let window = window((1..=20).map(|at| (at, report(at, if at <= 10 { 1000 } else { 10 }, 0))));
        let now = Time::from_secs(20);
        assert!((window.over(SHORT, now).unwrap().requests_per_second - 10.0).abs() < 1e-9);
        assert!((window.over(LONG, now).unwrap().requests_per_second - 505.0).abs() < 1e-9);
    }

    #[test]
    fn a_silent_worker_is_not_idle_but_unknown() {
        let window = window([(1, report(1, 100, 0))]);
        assert!(window.is_fresh(Time::from_ms(3_999)));
        assert!(!window.is_fresh(Time::from_secs(4)));
        assert_eq!(window.over(SHORT, Time::from_secs(4)), None);
    }

    #[test]
    fn a_tiny_report_makes_no_huge_rate() {
        let tiny = LoadReport { window_us: 1, requests: 1, ..report(1, 0, 0) };
        let load = window([(1, tiny)]).over(SHORT, Time::from_secs(1)).unwrap();
        assert!(load.requests_per_second <= 2.0, "{load:?}");
    }

    #[test]
    fn a_window_is_bounded() {
        let window = window((1..=10_000).map(|sequence| (1, report(sequence, 1, 1))));
        assert_eq!(window.samples.len(), MAX_SAMPLES);
    }

    #[test]
    fn absurd_figures_do_no_harm() {
        let absurd = LoadReport {
            sequence: u64::MAX,
            window_us: u64::MAX,
            requests: u64::MAX,
            cpu_us: u64::MAX,
            queue_delay_us: u64::MAX,
            threads: u32::MAX,
            ..LoadReport::default()
        };
        let window = window([(1, absurd.clone()), (2, absurd)]);
        let now = Time::from_secs(2);
        assert!(window.over(SHORT, now).unwrap().requests_per_second.is_finite());
        assert_eq!(window.pressure(Duration::from_millis(100), now).backlog, MAX_BACKLOG);
    }

    #[test]
    fn pressure_takes_both_a_late_loop_and_a_busy_cpu() {
        let check = |cpu_us, queue_delay_us, saturated| {
            let late = LoadReport { queue_delay_us, ..report(1, 0, cpu_us) };
            let pressure = window([(1, late)]).pressure(Duration::from_millis(100), Time::from_secs(1));
            assert_eq!(pressure.saturated, saturated, "cpu {cpu_us}, delay {queue_delay_us}");
        };
        check(400_000, 0, false);
        check(960_000, 0, true);
        check(600_000, 150_000, true);
        // Late though idle: a stalled machine, not load.
        check(100_000, 900_000, false);
        check(600_000, 50_000, false);
    }
}
