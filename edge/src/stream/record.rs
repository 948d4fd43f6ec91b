//! What is remembered of a stream, or of a session of UDP, until it is over, and counted and logged then.

use std::{
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant, SystemTime},
};

use model::{RouteId, TenantId};

use super::splice::{Ended, Moved};
use crate::{
    accesslog::Entry,
    downstream::address_text,
    journal::TryPlace,
    metrics::Outcome,
    trace::{Trace, Traced},
    worker::{Thread, micros},
};

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
    /// Only when there is an access log, or it is traced.
    line: Option<Box<Line>>,
}

/// What only the access log and traces want to know.
struct Line {
    trace: Option<Trace>,
    time: SystemTime,
    client: SocketAddr,
    host: String,
    tenant: Option<TenantId>,
    route: Option<RouteId>,
    upstream: Option<SocketAddr>,
    tried: Instant,
    /// Since the begin.
    tried_after_us: u64,
    upstream_time: Option<Duration>,
    retries: u32,
    refusal: Option<&'static str>,
    moved: (u64, u64),
}

impl Line {
    /// As spans are made of it.
    fn tell(&self, carried: Carried, outcome: Outcome, duration: Duration) -> api::request::Request {
        let began = self.time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let tried = |endpoint: SocketAddr| api::request::Try {
            endpoint: endpoint.to_string(),
            began_us: self.tried_after_us,
            connected_us: self.upstream_time.map(|time| self.tried_after_us + micros(time)),
            failure: if self.upstream_time.is_none() { "connect" } else { "" }.to_owned(),
            ..api::request::Try::default()
        };
        api::request::Request {
            began_at_us: micros(began),
            tenant: self.tenant.as_ref().map(ToString::to_string).unwrap_or_default(),
            route: self.route.as_ref().map(ToString::to_string).unwrap_or_default(),
            host: self.host.clone(),
            protocol: carried.as_str().to_owned(),
            client: address_text(self.client),
            outcome: outcome.as_str().to_owned(),
            refusal: self.refusal.unwrap_or_default().to_owned(),
            duration_us: micros(duration),
            tries: self.upstream.map(tried).into_iter().collect(),
            retries: self.retries,
            bytes_in: self.moved.0,
            bytes_out: self.moved.1,
            ..api::request::Request::default()
        }
    }
}

impl Record {
    pub(crate) fn begin(thread: &Rc<Thread>, client: SocketAddr, carried: Carried) -> Self {
        // A pool with streams is not idle, whatever is said on them.
        thread.counters.in_flight.add(1);
        let began = Instant::now();
        let trace = Trace::of_stream(thread);
        let wanted = thread.logger.is_on() || trace.is_some();
        let line = || {
            Box::new(Line {
                trace,
                time: thread.clock.wall(began),
                client,
                host: String::new(),
                tenant: None,
                route: None,
                upstream: None,
                tried: began,
                tried_after_us: 0,
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
            line: wanted.then(line),
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
        let Self { thread, began, line: Some(line), .. } = self else { return };
        line.upstream = Some(endpoint);
        line.tried = Instant::now();
        line.tried_after_us = micros(line.tried.duration_since(*began));
        if let Some(trace) = &mut line.trace {
            trace.tries(TryPlace::First, thread);
        }
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
        let Some(mut line) = self.line.take() else { return };
        let duration = self.began.elapsed();
        if let Some(trace) = line.trace.take() {
            let request = line.tell(self.carried, self.outcome, duration);
            let dropped = self.thread.tracer.push(Traced { trace, request });
            self.thread.counters.spans_dropped.add(dropped);
        }
        if !self.thread.logger.is_on() {
            return;
        }
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
            duration,
            ..Entry::of_stream(self.carried.as_str(), line.time)
        });
    }
}
