//! `weir loadtest` and `weir plan` on the command line.

mod parse;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};
use http::{HeaderName, HeaderValue, Method, Uri};

use crate::{Arrivals, Plan, Pool, Protocol, Range, Slo, Step, Trust};

/// The largest CA file that is read.
const MAX_CA: u64 = 1 << 20;

/// Generate load at a fixed rate, open loop, and measure latency from the intended time.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(flatten)]
    target: Target,
    /// Requests per second.
    #[arg(long, default_value_t = 100.0)]
    rate: f64,
    /// For how long.
    #[arg(long, default_value = "10s", value_parser = parse::duration)]
    duration: Duration,
    /// Rates one after the other, RATExDURATION: 100x10s,500x20s. Replaces --rate and --duration.
    #[arg(long, value_delimiter = ',', value_parser = parse::step, conflicts_with_all = ["rate", "duration"])]
    steps: Vec<Step>,
    /// Search the highest rate whose p99 latency stays within this, with nothing failed; starts at --rate.
    #[arg(long, value_name = "TIME", value_parser = parse::duration, conflicts_with = "steps")]
    slo_p99: Option<Duration>,
    /// Print the report as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Say how many workers a rate needs, from what was measured or from measuring now; or what the autoscaler would do
/// with a trace.
#[derive(Debug, Clone, clap::Args)]
pub struct PlanArgs {
    /// The rate to plan for, requests per second.
    #[arg(
        long,
        required_unless_present = "trace",
        conflicts_with = "trace",
        default_value_t = 0.0,
        hide_default_value = true
    )]
    pub(crate) rate: f64,
    /// Play this load to the autoscaler instead: a line a second, RATE or RATE,UPSTREAM_MS.
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,
    /// For --trace: workers that are always there.
    #[arg(long, default_value_t = 1)]
    min_workers: u32,
    /// For --trace: workers that there are at most.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    max_workers: u32,
    /// For --trace: from a worker's start to its readiness.
    #[arg(long, default_value = "1s", value_name = "TIME", value_parser = parse::duration)]
    start: Duration,
    /// How much of its capacity a worker is to be used, percent.
    #[arg(long, default_value_t = 70, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) utilization: u32,
    /// What one worker did in each of several measurements, requests per second: 1180,1210,1195.
    #[arg(long, value_delimiter = ',', conflicts_with = "url", required_unless_present = "url")]
    pub(crate) per_worker: Vec<f64>,
    /// Measure: the longest p99 latency allowed.
    #[arg(long, default_value = "50ms", value_name = "TIME", value_parser = parse::duration, requires = "url")]
    slo_p99: Duration,
    /// Measure: how many searches.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(3..=100))]
    pub(crate) runs: u32,
    /// Measure: how many workers answer at the URL.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) workers: u32,
    #[command(flatten)]
    target: Option<Target>,
    /// Print the answer as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What to send and where.
#[derive(Debug, Clone, clap::Args)]
struct Target {
    /// http:// or https://; loopback addresses and *.localhost only, unless --allow-remote.
    #[arg(value_parser = parse::url, required = true)]
    url: Uri,
    /// Connections, or requests at the same time with --new-connections.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// The version of HTTP.
    #[arg(long, default_value = "h1", value_parser = parse::protocol, value_name = "h1|h2")]
    protocol: Protocol,
    /// The most requests at a time on an HTTP/2 connection.
    #[arg(long, default_value_t = 32)]
    streams: usize,
    /// Open a connection for every request.
    #[arg(long)]
    new_connections: bool,
    /// Make a full TLS handshake on every connection.
    #[arg(long)]
    no_resumption: bool,
    /// A request without an answer for this long has failed.
    #[arg(long, default_value = "10s", value_parser = parse::duration)]
    timeout: Duration,
    /// Do not count what is sent in this time at the beginning.
    #[arg(long, default_value = "0s", value_parser = parse::duration)]
    warmup: Duration,
    /// Send at random intervals with the rate as their mean, as independent users do.
    #[arg(long)]
    poisson: bool,
    /// For --poisson: the same seed gives the same intervals.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Believe any certificate; loopback only.
    #[arg(long, conflicts_with = "cacert")]
    insecure: bool,
    /// Believe certificates of this CA, PEM.
    #[arg(long, value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// A header, 'name: value'; may be given several times.
    #[arg(long = "header", short = 'H', value_parser = parse::header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// The request's method.
    #[arg(long, default_value = "GET")]
    method: Method,
    /// Send a body of this many bytes.
    #[arg(long, default_value_t = 0)]
    body_bytes: u32,
    /// Connect to this address instead of the URL's host.
    #[arg(long, value_name = "IP:PORT")]
    connect_to: Option<SocketAddr>,
    /// Generator threads.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Allow targets that are not on this machine. Only load what is yours.
    #[arg(long)]
    allow_remote: bool,
}

impl Args {
    /// The run that is asked for.
    ///
    /// # Errors
    ///
    /// The CA file cannot be read, or https without a word on whom to trust.
    pub fn plan(&self) -> Result<Plan> {
        let mut plan = self.target.plan(self.rate, self.duration)?;
        if !self.steps.is_empty() {
            plan.steps.clone_from(&self.steps);
        }
        Ok(plan)
    }

    /// The objective to search for, if a search is asked for.
    #[must_use]
    pub fn search(&self) -> Option<(Slo, Range)> {
        let p99 = self.slo_p99?;
        Some((Slo { p99 }, Range { start: self.rate, trial: self.duration, ..Range::default() }))
    }
}

impl PlanArgs {
    /// The pool that a trace is played to, when one worker does `per_worker` requests per second.
    pub(crate) fn pool(&self, per_worker: f64) -> Pool {
        Pool {
            per_worker,
            utilization_permille: self.utilization * 10,
            min_workers: self.min_workers.min(self.max_workers),
            max_workers: self.max_workers,
            start: self.start,
        }
    }

    /// The measurement that is asked for, if one is.
    pub(crate) fn measurement(&self) -> Result<Option<(Plan, Slo, Range)>> {
        let Some(target) = &self.target else { return Ok(None) };
        let range = Range::default();
        Ok(Some((target.plan(range.start, range.trial)?, Slo { p99: self.slo_p99 }, range)))
    }
}

impl Target {
    fn plan(&self, rate: f64, duration: Duration) -> Result<Plan> {
        let mut plan = Plan::new(self.url.clone(), rate, duration);
        plan.trust = self.trust()?;
        plan.connect_to = self.connect_to;
        plan.warmup = self.warmup;
        plan.protocol = self.protocol;
        plan.connections = self.connections;
        plan.streams = self.streams;
        plan.connect_per_request = self.new_connections;
        plan.tls_resumption = !self.no_resumption;
        plan.method = self.method.clone();
        plan.headers.clone_from(&self.headers);
        plan.body = vec![b'x'; usize::try_from(self.body_bytes)?].into();
        plan.timeout = self.timeout;
        plan.threads = self.threads;
        plan.allow_remote = self.allow_remote;
        if self.poisson {
            plan.arrivals = Arrivals::Poisson { seed: self.seed };
        }
        Ok(plan)
    }

    fn trust(&self) -> Result<Trust> {
        let Some(file) = &self.cacert else {
            if self.url.scheme_str() == Some("https") && !self.insecure {
                bail!("say whom to trust: --cacert FILE, or --insecure for a server on this machine");
            }
            return Ok(Trust::Insecure);
        };
        let size = std::fs::metadata(file).with_context(|| format!("read {}", file.display()))?.len();
        if size > MAX_CA {
            bail!("{} has {size} bytes: that is no CA file", file.display());
        }
        Ok(Trust::Ca(std::fs::read(file).with_context(|| format!("read {}", file.display()))?))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    enum Cli {
        Loadtest(Box<Args>),
        Plan(Box<PlanArgs>),
    }

    fn loadtest(arguments: &str) -> Result<Plan> {
        match Cli::try_parse_from(format!("weir loadtest {arguments}").split(' '))? {
            Cli::Loadtest(args) => args.plan(),
            Cli::Plan(_) => unreachable!("loadtest was asked for"),
        }
    }

    #[test]
    fn the_command_line_makes_a_plan() {
        let plan = loadtest(
            "http://a.localhost:8080/ --steps 100x10s,500x500ms --connections 8 --protocol h2 --new-connections \
             --timeout 2s --header x:1 --method POST --body-bytes 3 --poisson --warmup 1m",
        )
        .unwrap();
        assert_eq!(plan.steps[1], Step { rate: 500.0, duration: Duration::from_millis(500) });
        assert_eq!((plan.steps.len(), plan.connections, plan.protocol), (2, 8, Protocol::H2));
        assert_eq!((plan.body.len(), plan.method.as_str(), plan.headers.len()), (3, "POST", 1));
        assert_eq!((plan.arrivals, plan.warmup), (Arrivals::Poisson { seed: 1 }, Duration::from_secs(60)));
        assert!(plan.connect_per_request && !plan.allow_remote);
    }

    #[test]
    fn https_needs_a_word_on_whom_to_trust() {
        assert!(loadtest("https://a.localhost/").unwrap_err().to_string().contains("--cacert"));
        assert_eq!(loadtest("https://a.localhost/ --insecure").unwrap().trust, Trust::Insecure);
        assert!(loadtest("https://a.localhost/ --cacert /nonexistent").is_err());
    }

    #[test]
    fn wrong_usage_is_said() {
        for (arguments, part) in [
            ("not-a-url", "http://"),
            ("http://a/ --duration 10", "10s"),
            ("http://a/ --steps 100", "RATExDURATION"),
            ("http://a/ --steps 100x1s --rate 5", "cannot be used with"),
            ("http://a/ --header x", "name: value"),
            ("http://a/ --protocol h3", "h1 or h2"),
        ] {
            let error = loadtest(arguments).unwrap_err().to_string();
            assert!(error.contains(part), "{arguments}: {error}");
        }
    }

    #[test]
    fn a_capacity_plan_measures_or_is_told() {
        let parse = |arguments: &str| match Cli::try_parse_from(format!("weir plan {arguments}").split(' ')) {
            Ok(Cli::Plan(args)) => Ok(args),
            Ok(Cli::Loadtest(_)) => unreachable!("plan was asked for"),
            Err(error) => Err(error),
        };
        let told = parse("--rate 50000 --per-worker 1000,1100,1050").unwrap();
        assert!(told.measurement().unwrap().is_none() && told.per_worker.len() == 3);
        let measured = parse("--rate 50000 http://a.localhost/ --slo-p99 20ms").unwrap();
        assert_eq!(measured.measurement().unwrap().unwrap().1, Slo { p99: Duration::from_millis(20) });
        assert!(parse("--rate 50000").is_err() && parse("--per-worker 1,2,3").is_err());
        let played = parse("--trace day.csv --per-worker 1000,1100,900 --max-workers 4").unwrap();
        assert_eq!((played.pool(1000.0).max_workers, played.trace.is_some()), (4, true));
        assert!(parse("--trace day.csv --rate 5 --per-worker 1,2,3").is_err());
    }
}
