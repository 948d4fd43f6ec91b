//! What is remembered of a stream until it is over, and counted and logged then.

use std::{
    net::SocketAddr,
    rc::Rc,
    time::{Instant, SystemTime},
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

struct Line {
    entry: Entry,
    tried: Instant,
}

impl Record {
    pub(super) fn begin(thread: &Rc<Thread>, client: SocketAddr, tls: bool) -> Self {
        // A pool with streams is not idle, whatever is said on them.
        thread.counters.in_flight.add(1);
        let began = Instant::now();
        let line = || {
            let mut entry = Entry::of_stream(if tls { "TLS" } else { "TCP" }, SystemTime::now());
            entry.client = Some(client.ip());
            Box::new(Line { entry, tried: began })
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
        self.note(|line| line.entry.host = host.to_owned());
    }

    /// It is a tenant's.
    pub(super) fn of(&mut self, tenant: &TenantId) {
        self.note(|line| line.entry.tenant = Some(tenant.clone()));
    }

    /// A route takes it.
    pub(super) fn found(&mut self, route: &RouteId) {
        self.note(|line| line.entry.route = Some(route.0.clone()));
    }

    /// An endpoint is tried.
    pub(super) fn tries(&mut self, endpoint: SocketAddr) {
        self.note(|line| {
            line.entry.upstream = Some(endpoint);
            line.tried = Instant::now();
        });
    }

    /// Another is to be tried.
    pub(super) fn retried(&mut self) {
        self.note(|line| line.entry.retries += 1);
    }

    /// The endpoint is connected to.
    pub(super) fn opened(&mut self) {
        self.thread.counters.streams.add(1);
        self.note(|line| line.entry.upstream_time = Some(line.tried.elapsed()));
    }

    /// It was not passed on.
    pub(super) fn refused(&mut self, kind: &'static str) {
        self.thread.counters.streams_refused.add(1);
        self.outcome = Outcome::Refused;
        self.note(|line| line.entry.refusal = Some(kind));
    }

    /// It is over.
    pub(super) fn ended(&mut self, moved: Moved) {
        self.outcome = match moved.ended {
            Ended::Whole => Outcome::Forwarded,
            Ended::Broken | Ended::Idle | Ended::Drained => Outcome::Truncated,
        };
        self.note(|line| {
            line.entry.bytes_in = moved.received;
            line.entry.bytes_out = moved.sent;
            line.entry.refusal = match moved.ended {
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
        if let Some(mut line) = self.line.take() {
            line.entry.outcome = self.outcome.as_str();
            line.entry.duration = self.began.elapsed();
            self.thread.logger.log(&line.entry);
        }
    }
}
