//! What the kernel says of a process, and what is to be made of several rounds.

use std::{fmt, fs};

use anyhow::{Context, Result};

/// CPU time of all threads of a process so far, in seconds, user and system.
pub(crate) fn cpu(process: u32) -> Result<f64> {
    let mut nanoseconds = 0;
    for thread in threads(process)? {
        let text = fs::read_to_string(format!("{thread}/schedstat"))?;
        nanoseconds += text.split(' ').next().context("schedstat")?.parse::<u64>()?;
    }
    Ok(float(nanoseconds) / 1e9)
}

/// Context switches of all threads so far, voluntary and not.
pub(crate) fn switches(process: u32) -> Result<u64> {
    let mut sum = 0;
    for thread in threads(process)? {
        sum += fields(&format!("{thread}/status"), "ctxt_switches:")?.iter().sum::<u64>();
    }
    Ok(sum)
}

/// Resident memory in bytes, what is shared divided among those who share it.
pub(crate) fn memory(process: u32) -> Result<u64> {
    let path = format!("/proc/{process}/smaps_rollup");
    Ok(fields(&path, "Pss:")?.first().context("no Pss")? * 1024)
}

fn threads(process: u32) -> Result<Vec<String>> {
    let tasks = format!("/proc/{process}/task");
    fs::read_dir(&tasks)
        .with_context(|| format!("process {process} has ended"))?
        .map(|entry| Ok(format!("{tasks}/{}", entry?.file_name().display())))
        .collect()
}

/// The first numbers of the lines whose first word ends so.
fn fields(path: &str, name: &str) -> Result<Vec<u64>> {
    let text = fs::read_to_string(path)?;
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        words.next().filter(|first| first.ends_with(name)).and(words.next())
    });
    lines.map(|number| Ok(number.parse()?)).collect()
}

#[expect(clippy::cast_precision_loss, reason = "counts below 2^53")]
pub(crate) fn float(number: u64) -> f64 {
    number as f64
}

/// A figure of several rounds: the median, and the lowest and the highest.
#[derive(Debug, Clone, Default)]
pub(crate) struct Spread(Vec<f64>);

impl Spread {
    pub(crate) fn of(figures: impl Iterator<Item = f64>) -> Self {
        let mut figures: Vec<f64> = figures.collect();
        figures.sort_by(f64::total_cmp);
        Self(figures)
    }

    pub(crate) fn median(&self) -> f64 {
        let half = self.0.len() / 2;
        match (self.0.get(half), self.0.get(half.wrapping_sub(1))) {
            (Some(above), Some(below)) if self.0.len().is_multiple_of(2) => f64::midpoint(*above, *below),
            (middle, _) => middle.copied().unwrap_or(f64::NAN),
        }
    }

    /// Holds the median of all rounds that could be with at least 95 %, whatever their distribution: between two of
    /// the ordered figures, by the binomial distribution. None for fewer than six rounds.
    pub(crate) fn interval(&self) -> Option<(f64, f64)> {
        let rounds = self.0.len();
        // P(at most `cut` of all rounds are below their median), summed as `cut` grows.
        let (mut term, mut below, mut cut) = (0.5_f64.powi(i32::try_from(rounds).ok()?), 0.0, 0);
        loop {
            below += term;
            if 2.0 * below > 0.05 {
                break;
            }
            term *= float((rounds - cut) as u64) / float((cut + 1) as u64);
            cut += 1;
        }
        let low = cut.checked_sub(1)?;
        Some((*self.0.get(low)?, *self.0.get(rounds - 1 - low)?))
    }
}

/// `median (min..max)`.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(1);
        let ends = (self.0.first().unwrap_or(&f64::NAN), self.0.last().unwrap_or(&f64::NAN));
        write!(f, "{:.digits$} ({:.digits$}..{:.digits$})", self.median(), ends.0, ends.1)
    }
}

/// `ratio [low, high]`: the ratio of two figures of the same rounds, with its interval.
pub(crate) fn ratio(ours: &[f64], theirs: &[f64]) -> String {
    let ratio = Spread::of(ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs));
    match ratio.interval() {
        Some((low, high)) => format!("{:.3} [{low:.3}, {high:.3}]", ratio.median()),
        None => format!("{ratio:.3}"),
    }
}
