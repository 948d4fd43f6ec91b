//! When what was active where.

use std::{collections::BTreeMap, fmt};

/// Nanoseconds of the clock that all processes of the machine share.
pub(crate) fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// For each revision: how many have it or a later one, and when the last of them did.
#[derive(Debug, Default)]
pub(crate) struct Reached(BTreeMap<u64, (usize, u64)>);

impl Reached {
    /// Somebody went from one revision to another one now.
    pub(crate) fn step(&mut self, from: u64, to: u64, at: u64) {
        for revision in from + 1..=to {
            let (count, last) = self.0.entry(revision).or_default();
            *count += 1;
            *last = (*last).max(at);
        }
    }

    pub(crate) fn add(&mut self, other: Self) {
        for (revision, (count, last)) in other.0 {
            let sum = self.0.entry(revision).or_default();
            *sum = (sum.0 + count, sum.1.max(last));
        }
    }

    /// As `revision count nanoseconds` lines.
    pub(crate) fn lines(&self) -> String {
        self.0.iter().map(|(revision, (count, last))| format!("{revision} {count} {last}\n")).collect()
    }

    pub(crate) fn read(lines: &str) -> Self {
        let number = |text: Option<&str>| text.and_then(|text| text.parse().ok());
        let entries = lines.lines().filter_map(|line| {
            let mut words = line.split(' ');
            let (revision, count, last) =
                (number(words.next())?, number(words.next())?, number(words.next())?);
            Some((revision, (usize::try_from(count).ok()?, last)))
        });
        Self(entries.collect())
    }
}

/// A change: its revision, when it was given to the store and when the store answered.
pub(crate) struct Written {
    pub(crate) revision: u64,
    pub(crate) began: u64,
    pub(crate) committed: u64,
}

pub(crate) struct Figures {
    /// Milliseconds, sorted.
    all: Vec<f64>,
    commits: Vec<f64>,
    /// Changes that did not come to everybody.
    pub(crate) missing: usize,
    everybody: usize,
}

impl Figures {
    pub(crate) fn new(written: &[Written], reached: &Reached, everybody: usize) -> Self {
        let mut figures = Self { all: vec![], commits: vec![], missing: 0, everybody };
        for change in written {
            figures.commits.push(millis(change.committed - change.began));
            match reached.0.get(&change.revision) {
                Some((count, last)) if *count == everybody => {
                    figures.all.push(millis(last.saturating_sub(change.began)));
                }
                _ => figures.missing += 1,
            }
        }
        figures.all.sort_by(f64::total_cmp);
        figures.commits.sort_by(f64::total_cmp);
        figures
    }
}

fn millis(nanoseconds: u64) -> f64 {
    u32::try_from(nanoseconds / 1000).map_or(f64::INFINITY, f64::from) / 1000.0
}

pub(crate) fn quantile(sorted: &[f64], permille: usize) -> f64 {
    let at = (sorted.len() * permille / 1000).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (all, commits) = (&self.all, &self.commits);
        write!(
            f,
            "commit -> active on all {}: p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms, most {:.1} ms ({} changes; of it the \
             commit: p50 {:.1} ms, p99 {:.1} ms)",
            self.everybody,
            quantile(all, 500),
            quantile(all, 900),
            quantile(all, 990),
            quantile(all, 1000),
            all.len(),
            quantile(commits, 500),
            quantile(commits, 990),
        )
    }
}
