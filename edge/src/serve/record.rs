//! What is remembered of a request until it is over, and counted then.

use std::{
    cell::RefCell,
    collections::HashMap,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Instant, SystemTime},
};

use model::{CompiledRoute, Found, TenantId};

use super::refusal::Refusal;
use crate::{
    accesslog::Entry,
    config::Config,
    downstream::Client,
    h1::{Name, RequestHead},
    metrics::{Outcome, RouteCounters, RouteKey},
    worker::{Thread, micros},
};

/// The counters of the routes of one configuration, found by the address of the compiled route.
#[derive(Default)]
pub(crate) struct RouteSeries {
    known: RefCell<Known>,
}

#[derive(Default)]
struct Known {
    /// Keeps the routes alive, so that their addresses stay theirs.
    config: Option<Arc<Config>>,
    routes: HashMap<*const CompiledRoute, Arc<RouteCounters>>,
}

impl RouteSeries {
    fn of(
        &self,
        thread: &Thread,
        config: &Arc<Config>,
        tenant: &TenantId,
        found: &Found<'_>,
    ) -> Arc<RouteCounters> {
        let mut known = self.known.borrow_mut();
        if !known.config.as_ref().is_some_and(|c| Arc::ptr_eq(c, config)) {
            known.routes.clear();
            known.config = Some(Arc::clone(config));
        }
        let counters = known.routes.entry(std::ptr::from_ref(found.route));
        let make = || thread.counters.route(&RouteKey::new(Some(tenant), found.route_id()));
        Arc::clone(counters.or_insert_with(make))
    }
}

/// One request, from the end of its head until it is dropped: then it is counted and logged.
pub(crate) struct Record {
    thread: Rc<Thread>,
    began: Instant,
    route: Option<Arc<RouteCounters>>,
    status: u16,
    outcome: Outcome,
    /// The label of a refusal.
    refused: Option<&'static str>,
    keeps_connection: bool,
    retries: u32,
    /// Only when there is an access log.
    line: Option<Box<Line>>,
}

/// What only the access log wants to know.
struct Line {
    entry: Entry,
    tried: Instant,
}

impl Record {
    pub(crate) fn begin(thread: &Rc<Thread>, client: &Client, head: &RequestHead) -> Self {
        thread.counters.in_flight.add(1);
        let began = Instant::now();
        let line = || {
            let mut entry = Entry::of(head, SystemTime::now());
            entry.client = Some(client.peer.ip());
            entry.tls = client.tls_version;
            Box::new(Line { entry, tried: began })
        };
        Self {
            thread: Rc::clone(thread),
            began,
            route: None,
            status: 0,
            outcome: Outcome::Abandoned,
            refused: None,
            keeps_connection: true,
            retries: 0,
            line: thread.logger.is_on().then(line),
        }
    }

    /// A route answers it.
    pub(crate) fn found(&mut self, config: &Arc<Config>, tenant: &TenantId, found: &Found<'_>) {
        self.route = Some(self.thread.series.of(&self.thread, config, tenant, found));
        if let Some(line) = &mut self.line {
            line.entry.tenant = Some(tenant.clone());
            line.entry.route = Some(found.route_id().to_owned());
        }
    }

    /// It got its id.
    pub(crate) fn identified(&mut self, head: &RequestHead) {
        if let Some(line) = &mut self.line {
            let id = head.fields.known(Name::XRequestId);
            line.entry.request_id = id.map(|id| String::from_utf8_lossy(id).into_owned());
        }
    }

    /// An endpoint is tried.
    pub(crate) fn tries(&mut self, endpoint: SocketAddr) {
        if let Some(line) = &mut self.line {
            line.entry.upstream = Some(endpoint);
            line.tried = Instant::now();
        }
    }

    /// The endpoint's response has begun.
    pub(crate) fn upstream_answered(&mut self) {
        if let Some(line) = &mut self.line {
            line.entry.upstream_time = Some(line.tried.elapsed());
        }
    }

    /// Another try was made.
    pub(crate) fn retried(&mut self) {
        self.retries += 1;
    }

    /// Tries after the first.
    pub(crate) fn retries(&self) -> u32 {
        self.retries
    }

    /// There is a response.
    pub(crate) fn answered(&mut self, status: u16) {
        self.status = status;
    }

    /// There is a refusal.
    pub(crate) fn refused(&mut self, refusal: &Refusal) {
        self.status = refusal.status();
        self.refused = Some(refusal.kind());
        self.keeps_connection = refusal.keeps_connection();
    }

    /// Whether the client's connection can serve another request after this one.
    pub(crate) fn keeps_connection(&self) -> bool {
        self.keeps_connection
    }

    /// So much of the bodies was passed on.
    pub(crate) fn moved(&mut self, received: u64, sent: u64) {
        if let Some(line) = &mut self.line {
            line.entry.bytes_in = received;
            line.entry.bytes_out = sent;
        }
    }

    /// The reply is on its way to its last byte.
    pub(crate) fn finished(&mut self, outcome: Outcome) {
        self.outcome = if self.refused.is_some() { Outcome::Refused } else { outcome };
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let counters = &self.thread.counters;
        let duration = self.began.elapsed();
        let latency_us = micros(duration);
        counters.in_flight.sub(1);
        counters.requests.add(1);
        if self.status >= 500 || self.outcome == Outcome::Truncated {
            counters.errors.add(1);
        }
        counters.latency.record(latency_us);
        // Requests without a route share one series; its map is looked up only for them.
        match &self.route {
            Some(route) => route.finished(self.outcome, self.status, latency_us),
            None => counters.route(&RouteKey::default()).finished(self.outcome, self.status, latency_us),
        }
        if let Some(mut line) = self.line.take() {
            line.entry.status = self.status;
            line.entry.outcome = self.outcome.as_str();
            line.entry.refusal = self.refused;
            line.entry.duration = duration;
            line.entry.retries = self.retries;
            self.thread.logger.log(&line.entry);
        }
    }
}

/// Counts and logs what could not be read as a request.
pub(crate) fn unread(thread: &Thread, client: &Client, refusal: &Refusal) {
    thread.counters.requests.add(1);
    let series = thread.counters.route(&RouteKey::default());
    series.finished(Outcome::Refused, refusal.status(), 0);
    if thread.logger.is_on() {
        let mut entry = Entry::unread(SystemTime::now());
        entry.client = Some(client.peer.ip());
        entry.tls = client.tls_version;
        entry.status = refusal.status();
        entry.outcome = Outcome::Refused.as_str();
        entry.refusal = Some(refusal.kind());
        thread.logger.log(&entry);
    }
}
