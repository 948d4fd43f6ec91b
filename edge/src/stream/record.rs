//! What is remembered of a stream until it is over, and counted and logged then.

use std::{
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant, SystemTime},
};

use model::{RouteId, TenantId};

use super::splice::{Ended, Moved};
use crate::{accesslog::Entry, metrics::Outcome, worker::Thread};

/// One stream, from its first byte until it is dropped.
pub(super) struct Record {
    thread: Rc<Thread>,
    began: Instant,
    outcome: Outcome,
    /// Only when there is an access log.
    line: Option<Box<Line>>,
}

/// What only the access log wants to know.
struct Line {
    time: SystemTime,
    client: SocketAddr,
    tls: bool,
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
    pub(super) fn begin(thread: &Rc<Thread>, client: SocketAddr, tls: bool) -> Self {
        // A pool with streams is not idle, whatever is said on them.
        thread.counters.in_flight.add(1);
        let began = Instant::now();
        let line = || {
            Box::new(Line {
                time: thread.clock.wall(began),
                client,
                tls,
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
    pub(super) fn asked(&mut self, host: &str) {
        self.note(|line| line.host = host.to_owned());
    }

    /// It is a tenant's.
    pub(super) fn of(&mut self, tenant: &TenantId) {
        self.note(|line| line.tenant = Some(tenant.clone()));
    }

    /// A route takes it.
    pub(super) fn found(&mut self, route: &RouteId) {
        self.note(|line| line.route = Some(route.clone()));
    }

    /// An endpoint is tried.
    pub(super) fn tries(&mut self, endpoint: SocketAddr) {
        self.note(|line| {
            line.upstream = Some(endpoint);
            line.tried = Instant::now();
        });
    }

    /// Another is to be tried.
    pub(super) fn retried(&mut self) {
        self.note(|line| line.retries += 1);
    }

    /// The endpoint is connected to.
    pub(super) fn opened(&mut self) {
        self.thread.counters.streams.add(1);
        self.note(|line| line.upstream_time = Some(line.tried.elapsed()));
    }

    /// It was not passed on.
    pub(super) fn refused(&mut self, kind: &'static str) {
        self.thread.counters.streams_refused.add(1);
        self.outcome = Outcome::Refused;
        self.note(|line| line.refusal = Some(kind));
    }

    /// It is over.
    pub(super) fn ended(&mut self, moved: Moved) {
        self.outcome = match moved.ended {
            Ended::Whole => Outcome::Forwarded,
            Ended::Broken | Ended::Idle | Ended::Drained => Outcome::Truncated,
        };
        self.note(|line| {
            line.moved = (moved.received, moved.sent);
            line.refusal = match moved.ended {
                Ended::Whole | Ended::Broken => None,
                Ended::Idle => Some("idle"),
                Ended::Drained => Some("drained"),
            };
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
            ..Entry::of_stream(if line.tls { "TLS" } else { "TCP" }, line.time)
        });
    }
}
