//! A report for people.

use std::{fmt, time::Duration};

use super::{Percentiles, Report, Second};

/// The most workers that the table lists.
const WORKERS_SHOWN: usize = 32;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            crate::Protocol::H1 => "HTTP/1.1",
            crate::Protocol::H2 => "HTTP/2",
        };
        let reuse = if self.connect_per_request { ", a new one for each request" } else { "" };
        writeln!(f, "{} {} by {protocol}, {} connections{reuse}", self.method, self.url, self.connections)?;
        for step in &self.steps {
            writeln!(f, "  {} requests/s for {}", step.rate, time(step.duration))?;
        }
        writeln!(f)?;
        writeln!(
            f,
            "planned {}  ok {}  failed {}  not sent {}  in {}: {:.1} good answers/s",
            self.planned,
            self.ok,
            self.failures(),
            self.not_sent,
            time(self.duration),
            self.throughput
        )?;
        for (kind, count) in &self.failed {
            let example = self.examples.get(kind).map_or("", String::as_str);
            writeln!(f, "  {kind}: {count} ({example})")?;
        }
        if self.reconnects + self.retried_safe > 0 {
            writeln!(
                f,
                "reconnects {} (closed by the server between requests), safe retries {} (refused unprocessed)",
                self.reconnects, self.retried_safe
            )?;
        }
        writeln!(f)?;
        writeln!(
            f,
            "{:<9}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}",
            "", "mean", "p50", "p90", "p99", "p99.9", "max"
        )?;
        row(f, "latency", &self.latency_us)?;
        row(f, "service", &self.service_us)?;
        row(f, "connect", &self.connect_us)?;
        row(f, "lag", &self.lag_us)?;
        if !self.workers.is_empty() {
            writeln!(f, "\n{} workers answered:", self.workers.len())?;
            for (worker, count) in self.workers.iter().take(WORKERS_SHOWN) {
                writeln!(f, "  {worker}: {count}")?;
            }
        }
        writeln!(f)?;
        if self.interrupted {
            writeln!(f, "INTERRUPTED: stopped before its end")?;
        }
        if self.validity.valid {
            return writeln!(f, "valid: the generator was on time and {} % busy", self.cpu_permille / 10);
        }
        for reason in &self.validity.reasons {
            writeln!(f, "INVALID: {reason}")?;
        }
        Ok(())
    }
}

/// One line for a terminal that shows the run as it goes.
impl fmt::Display for Second {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>5} s  {:>7}/s sent  {:>7} ok  {:>5} failed  {:>5} not sent  p50 {:>8}  p99 {:>8}",
            self.second + 1,
            self.sent,
            self.ok,
            self.failures(),
            self.not_sent,
            us(self.p50_us),
            us(self.p99_us),
        )?;
        if self.warmup { f.write_str("  warm-up") } else { Ok(()) }
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, times: &Percentiles) -> fmt::Result {
    if times.count == 0 {
        return Ok(());
    }
    // A percentile among the requests that failed has no value.
    let cell = |value: Option<u64>| value.map_or_else(|| "failed".to_owned(), us);
    writeln!(
        f,
        "{name:<9}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}",
        time(Duration::from_secs_f64(times.mean / 1e6)),
        cell(times.p50),
        cell(times.p90),
        cell(times.p99),
        cell(times.p999),
        us(times.max),
    )
}

fn us(us: u64) -> String {
    time(Duration::from_micros(us))
}

/// Three digits and a unit.
fn time(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    let (value, unit) = match seconds {
        s if s >= 1.0 => (s, "s"),
        s if s >= 1e-3 => (s * 1e3, "ms"),
        s => (s * 1e6, "us"),
    };
    let digits = match value {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::us;

    #[test]
    fn times_have_three_digits_and_a_unit() {
        for (number, text) in
            [(0, "0.00 us"), (950, "950 us"), (1_234, "1.23 ms"), (12_345, "12.3 ms"), (61_000_000, "61.0 s")]
        {
            assert_eq!(us(number), text);
        }
    }
}
