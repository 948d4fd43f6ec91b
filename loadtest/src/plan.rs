//! What to send: the target, the rates and the limits of one run.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Uri};

/// The most arrivals per second that a plan may ask for: one generator cannot send more and stay honest.
const MAX_RATE: f64 = 1_000_000.0;
/// The longest run: a forgotten load test ends on the day that it began.
const MAX_DURATION: Duration = Duration::from_secs(24 * 3600);
/// The most connections: one client address has about 64k ports towards one server address.
const MAX_CONNECTIONS: usize = 60_000;
/// The most generator threads.
const MAX_THREADS: usize = 64;
/// The largest request body, which is held in memory once.
const MAX_BODY: usize = 64 * 1024 * 1024;

/// The version of HTTP that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1, one request at a time on a connection.
    H1,
    /// HTTP/2; by ALPN on `https`, with prior knowledge on `http`.
    H2,
}

/// How arrivals are spread over a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arrivals {
    /// Evenly: one every `1 / rate`.
    Constant,
    /// As independent users send: exponential gaps, the same for the same seed.
    Poisson {
        /// Draws the gaps.
        seed: u64,
    },
}

/// Which server certificates are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Those that chain to one of these certificates, PEM.
    Ca(Vec<u8>),
    /// Any. Allowed towards loopback addresses only.
    Insecure,
}

/// A rate that holds for some time.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Step {
    /// Requests per second; zero is a pause.
    pub rate: f64,
    /// For how long.
    #[serde(rename = "duration_s", with = "seconds")]
    pub duration: Duration,
}

/// One run. Begin with [`Plan::new`] and change what differs.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where to send: scheme, authority, path and query.
    pub url: Uri,
    /// Connect here instead of to the URL's host, as `curl --connect-to` does; Host and SNI stay the URL's.
    pub connect_to: Option<SocketAddr>,
    /// The rates, one after the other.
    pub steps: Vec<Step>,
    /// Sent at the first step's rate before the steps begin, and left out of every figure.
    pub warmup: Duration,
    /// Even or random gaps.
    pub arrivals: Arrivals,
    /// HTTP/1.1 or HTTP/2.
    pub protocol: Protocol,
    /// How many connections are used. With [`Plan::connect_per_request`]: how many at the same time.
    pub connections: usize,
    /// HTTP/2 only: the most requests at a time on one connection. The server's own limit also holds.
    pub streams: usize,
    /// Open a connection for every request, and count that in its latency.
    pub connect_per_request: bool,
    /// Resume TLS sessions where the server offers it.
    pub tls_resumption: bool,
    /// Which certificates are believed on `https`.
    pub trust: Trust,
    /// The request's method.
    pub method: Method,
    /// Sent with every request; `host` replaces the URL's authority.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Sent with every request; empty for none.
    pub body: Bytes,
    /// A request without a complete answer this long after it was sent has failed; one that could not be sent for
    /// this long is given up.
    pub timeout: Duration,
    /// The most requests that may wait for a free connection, all threads together; more are dropped, not sent.
    pub max_waiting: usize,
    /// Generator threads; each has its own runtime and its own share of the connections.
    pub threads: usize,
    /// Allow targets that are not loopback addresses. Only load what is yours.
    pub allow_remote: bool,
}

impl Plan {
    /// A constant rate of GET requests over 64 HTTP/1.1 connections.
    #[must_use]
    pub fn new(url: Uri, rate: f64, duration: Duration) -> Self {
        Self {
            url,
            connect_to: None,
            steps: vec![Step { rate, duration }],
            warmup: Duration::ZERO,
            arrivals: Arrivals::Constant,
            protocol: Protocol::H1,
            connections: 64,
            streams: 32,
            connect_per_request: false,
            tls_resumption: true,
            trust: Trust::Insecure,
            method: Method::GET,
            headers: Vec::new(),
            body: Bytes::new(),
            timeout: Duration::from_secs(10),
            max_waiting: 100_000,
            threads: 1,
            allow_remote: false,
        }
    }

    /// How long arrivals last, without the warm-up.
    #[must_use]
    pub fn duration(&self) -> Duration {
        self.steps.iter().map(|s| s.duration).sum()
    }

    /// All that is wrong with the numbers, as sentences; the target is checked where it is resolved.
    #[must_use]
    pub fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        let mut check = |ok: bool, problem: String| {
            if !ok {
                mistakes.push(problem);
            }
        };
        check(!self.steps.is_empty(), "no rate is given: use a rate and a duration, or steps".into());
        for step in &self.steps {
            let rate = step.rate;
            check(
                rate.is_finite() && (0.0..=MAX_RATE).contains(&rate),
                format!("the rate {rate} is not between 0 and {MAX_RATE} requests per second"),
            );
            check(!step.duration.is_zero(), format!("the step at {rate} requests per second lasts no time"));
        }
        let total = self.duration().saturating_add(self.warmup);
        check(total <= MAX_DURATION, format!("the run would last {total:?}; the most is {MAX_DURATION:?}"));
        check(
            (1..=MAX_CONNECTIONS).contains(&self.connections),
            format!("{} connections are not between 1 and {MAX_CONNECTIONS}", self.connections),
        );
        check(
            (1..=MAX_THREADS).contains(&self.threads) && self.threads <= self.connections,
            format!(
                "{} threads: use 1 to {MAX_THREADS}, and no more than there are connections ({})",
                self.threads, self.connections
            ),
        );
        check(
            (1..=1000).contains(&self.streams),
            format!("{} streams are not between 1 and 1000", self.streams),
        );
        check(
            self.timeout >= Duration::from_millis(1) && self.timeout <= Duration::from_secs(600),
            format!("a timeout of {:?} is not between 1 ms and 10 min", self.timeout),
        );
        check(self.max_waiting > 0, "at least one request must be allowed to wait".into());
        check(
            self.body.len() <= MAX_BODY,
            format!("the body has {} bytes; the most is {MAX_BODY}", self.body.len()),
        );
        mistakes
    }
}

/// Durations as seconds in reports.
pub(crate) mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(value.as_secs_f64())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        Duration::try_from_secs_f64(seconds).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan::new(Uri::from_static("http://127.0.0.1:8080/"), 100.0, Duration::from_secs(1))
    }

    #[test]
    fn a_new_plan_has_no_mistakes() {
        assert_eq!(plan().mistakes(), Vec::<String>::new());
    }

    #[test]
    fn all_mistakes_are_reported_together() {
        let plan = Plan {
            steps: vec![
                Step { rate: f64::NAN, duration: Duration::from_secs(1) },
                Step { rate: 1.0, duration: Duration::ZERO },
            ],
            connections: 0,
            timeout: Duration::ZERO,
            ..plan()
        };
        // The rate, the empty step, the connections, the threads (more than connections) and the timeout.
        assert_eq!(plan.mistakes().len(), 5, "{:?}", plan.mistakes());
    }
}
