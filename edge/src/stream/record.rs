//! What is remembered of a stream, or of a session of UDP, until it is over, and counted and logged then.

use std::{
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant, SystemTime},
};

use model::{RouteId, TenantId};

use super::splice::{Ended, Moved};
use crate::{accesslog::Entry, metrics::Outcome, worker::Thread};

/// What carries a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carried {
    Tcp,
    Tls,
    Udp,
}

impl Carried {
    /// As the access log has it.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::Udp => "UDP",
        }
    }
}

/// One stream, from its first byte until it is dropped.
pub(crate) struct Record {
    thread: Rc<Thread>,
    carried: Carried,
    began: Instant,
    outcome: Outcome,
    /// Only when there is an access log.
    line: Option<Box<Line>>,
}

/// What only the access log wants to know.
struct Line {
    time: SystemTime,
    client: SocketAddr,
    host: String,
    tenant: Option<TenantId>,
    route: Option<RouteId>,
    upstream: Option<SocketAddr>,
    tried: Instant,
    upstream_time: Option<Duration>,
    retries: u32,
    refusal: Option<&'static str>,
    moved: (u64, u64),
}

impl Record {
    pub(crate) fn begin(thread: &Rc<Thread>, client: SocketAddr, carried: Carried) -> Self {
        // A pool with streams is not idle, whatever is said on them.
        thread.counters.in_flight.add(1);
        let began = Instant::now();
        let line = || {
            Box::new(Line {
                time: thread.clock.wall(began),
                client,
                host: String::new(),
                tenant: None,
                route: None,
                upstream: None,
                tried: began,
                upstream_time: None,
                retries: 0,
                refusal: None,
                moved: (0, 0),
            })
        };
        Self {
            thread: Rc::clone(thread),
            carried,
            began,
            outcome: Outcome::Abandoned,
            line: thread.logger.is_on().then(line),
        }
    }

    fn note(&mut self, change: impl FnOnce(&mut Line)) {
        if let Some(line) = &mut self.line {
            change(line);
        }
    }

    /// It asks for a host.
    pub(crate) fn asked(&mut self, host: &str) {
        self.note(|line| line.host = host.to_owned());
    }

    /// It is a tenant's.
    pub(crate) fn of(&mut self, tenant: &TenantId) {
        self.note(|line| line.tenant = Some(tenant.clone()));
    }

    /// A route takes it.
    pub(crate) fn found(&mut self, route: &RouteId) {
        self.note(|line| line.route = Some(route.clone()));
    }

    /// An endpoint is tried.
    pub(crate) fn tries(&mut self, endpoint: SocketAddr) {
        self.note(|line| {
            line.upstream = Some(endpoint);
            line.tried = Instant::now();
        });
    }

    /// Another is to be tried.
    pub(crate) fn retried(&mut self) {
        self.note(|line| line.retries += 1);
    }

    /// The endpoint is connected to.
    pub(crate) fn opened(&mut self) {
        let counters = &self.thread.counters;
        match self.carried {
            Carried::Tcp | Carried::Tls => counters.streams.add(1),
            Carried::Udp => counters.udp_sessions_opened.add(1),
        }
        self.note(|line| line.upstream_time = Some(line.tried.elapsed()));
    }

    /// It was not passed on.
    pub(crate) fn refused(&mut self, kind: &'static str) {
        self.thread.counters.streams_refused.add(1);
        self.outcome = Outcome::Refused;
        self.note(|line| line.refusal = Some(kind));
    }

    /// A stream is over.
    pub(super) fn ended(&mut self, moved: Moved) {
        let (outcome, why) = match moved.ended {
            Ended::Whole => (Outcome::Forwarded, None),
            Ended::Broken => (Outcome::Truncated, None),
            Ended::Idle => (Outcome::Truncated, Some("idle")),
            Ended::Drained => (Outcome::Truncated, Some("drained")),
        };
        self.closed(outcome, why, moved.received, moved.sent);
    }

    /// It is over, for that reason where there is something to say, after so many bytes from and to the client.
    pub(crate) fn closed(&mut self, outcome: Outcome, why: Option<&'static str>, received: u64, sent: u64) {
        self.outcome = outcome;
        self.note(|line| {
            line.moved = (received, sent);
            line.refusal = why;
        });
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.thread.counters.in_flight.sub(1);
        let Some(line) = self.line.take() else { return };
        self.thread.logger.log(&Entry {
            client: Some(line.client.ip()),
            host: &line.host,
            tenant: line.tenant.as_ref().map(|tenant| tenant.as_str()),
            route: line.route.as_ref().map(|route| route.0.as_str()),
            upstream: line.upstream,
            upstream_time: line.upstream_time,
            retries: line.retries,
            refusal: line.refusal,
            bytes_in: line.moved.0,
            bytes_out: line.moved.1,
            outcome: self.outcome.as_str(),
            duration: self.began.elapsed(),
            ..Entry::of_stream(self.carried.as_str(), line.time)
        });
    }
}
