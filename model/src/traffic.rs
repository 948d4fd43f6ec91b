//! How requests are spread over a backend's endpoints, and which of these are left out.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How a backend's requests are spread over its endpoints, and which of these are left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficPolicy {
    /// Which endpoint answers.
    pub balancing: Balancing,
    /// Which endpoints are left out because of how they answer. `None`: none is.
    pub outliers: Option<OutlierDetection>,
    /// How the edge asks endpoints whether they are well. `None`: it does not.
    pub health_check: Option<HealthCheck>,
    /// When fewer endpoints than this are well, per hundred, all are used: more likely the checks are wrong, and the few
    /// could not bear the load of all. 0 is never.
    pub panic_percent: u8,
    /// An endpoint that is new or well again gets its share little by little in this time. `None`: at once.
    pub slow_start: Option<Duration>,
    /// Bounds on connections.
    pub pool: PoolPolicy,
    /// When a request that has no answer yet is sent to a second endpoint. `None`: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hedging: Option<HedgeDelay>,
}

/// When a request is sent to a second endpoint, whichever answers first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HedgeDelay {
    /// After so long.
    Fixed(Duration),
    /// When so many per hundred of the backend's requests had an answer by then.
    Percentile {
        /// 50 to 99.
        percent: u8,
        /// Not before.
        at_least: Duration,
    },
}

/// Bounds on the connections to each endpoint, on each request thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolPolicy {
    /// Requests at once; more are refused with 503 when no other endpoint has room. `None`: what a thread may serve.
    pub max_requests: Option<u32>,
    /// How long a connection may be idle.
    pub idle: Duration,
    /// How old it may become.
    pub max_age: Duration,
}

impl Default for PoolPolicy {
    fn default() -> Self {
        Self {
            max_requests: None,
            // Most servers close theirs at 60 s or more (nginx 75 s), and who closes first must be us, or requests meet
            // the close.
            idle: Duration::from_secs(50),
            // So that changes of DNS and balancing take effect.
            max_age: Duration::from_secs(600),
        }
    }
}

impl TrafficPolicy {
    /// What Envoy has.
    pub const PANIC_PERCENT: u8 = 50;
}

impl Default for TrafficPolicy {
    fn default() -> Self {
        Self {
            balancing: Balancing::default(),
            outliers: None,
            health_check: None,
            panic_percent: Self::PANIC_PERCENT,
            slow_start: None,
            pool: PoolPolicy::default(),
            hedging: None,
        }
    }
}

/// When an endpoint is left out for a time because of how it answers. What is `None` ejects nobody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutlierDetection {
    /// Statuses of 500 and more, and all that follows, in a row.
    pub consecutive_5xx: Option<u32>,
    /// Statuses 502, 503 and 504, answers that did not come in time or cannot be read, and all that follows, in a row.
    pub consecutive_gateway_errors: Option<u32>,
    /// Failures to connect, in a row.
    pub consecutive_connect_failures: Option<u32>,
    /// All of these errors per hundred requests of a window, at least 1.
    pub error_percent: Option<u8>,
    /// Requests in a window before their errors count.
    pub minimum_requests: u32,
    /// How long a window is.
    pub window: Duration,
    /// How long an endpoint is left out; twice as long when it comes again soon, and so on.
    pub base_ejection: Duration,
    /// The longest of these times.
    pub max_ejection: Duration,
    /// Ejected endpoints per hundred of the backend's; one always may be.
    pub max_ejected_percent: u8,
}

/// How the edge asks an endpoint whether it is well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// What is asked.
    pub kind: CheckKind,
    /// Between two checks, a tenth more or less.
    pub interval: Duration,
    /// For one check, from connect to answer.
    pub timeout: Duration,
    /// Checks in a row that bring an endpoint back, at least 1.
    pub healthy_threshold: u32,
    /// Checks in a row that take it away, at least 1. The first check of all decides alone.
    pub unhealthy_threshold: u32,
}

/// What an endpoint is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CheckKind {
    /// To take a connection, with TLS if the backend has that.
    Tcp,
    /// To answer a GET, in the backend's protocol.
    Http {
        /// With its query.
        path: String,
        /// `None`: the name in its certificate, or its address.
        host: Option<String>,
        /// First and last of the statuses that are well.
        expected: Vec<(u16, u16)>,
    },
    /// `grpc.health.v1.Health/Check`, by HTTP/2.
    Grpc {
        /// Empty is the server as a whole.
        service: String,
    },
}

/// Which endpoint answers a request.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Balancing {
    /// Of two that are drawn by weight the one with fewer requests for its weight.
    #[default]
    PowerOfTwo,
    /// Of all the one with the fewest requests for its weight.
    LeastRequest,
    /// Each in turn, as often as its weight says.
    RoundRobin,
    /// The one that the request's key falls on, on a ring. A request without a key: as `PowerOfTwo`.
    RingHash(HashKey),
    /// The one that the request's key falls on, in a table. A request without a key: as `PowerOfTwo`.
    Maglev(HashKey),
}

impl Balancing {
    /// What of a request decides; `None` where it is not the request.
    #[must_use]
    pub fn key(&self) -> Option<&HashKey> {
        match self {
            Self::RingHash(key) | Self::Maglev(key) => Some(key),
            Self::PowerOfTwo | Self::LeastRequest | Self::RoundRobin => None,
        }
    }
}

/// What of a request decides which endpoint answers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HashKey {
    /// The client's address.
    SourceIp,
    /// The value of a header, whose name is in lowercase.
    Header(String),
    /// The first query parameter of that name, as it is written.
    Query(String),
    /// A cookie.
    Cookie(AffinityCookie),
}

/// A cookie by which a client stays with an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AffinityCookie {
    /// Its name.
    pub name: String,
    /// How long one that is given to clients without it lives; zero is until the browser is closed. `None`: none is given.
    pub issue: Option<Duration>,
    /// The path of one that is given.
    pub path: String,
}
