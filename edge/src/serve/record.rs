//! What is remembered of a request until it is over, and counted then.

use std::{
    cell::RefCell,
    collections::HashMap,
    error::Error,
    hash::{BuildHasherDefault, Hasher},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use model::{CompiledRule, Found, Listener, TenantId};

use super::refusal::Refusal;
use crate::{
    accesslog::{Entry, Policy},
    config::Config,
    downstream::Client,
    h1::{Fields, Name, RequestHead},
    journal::{BackendName, Facts, Gathered, OUTRUN, Place, RequestId, TryPlace, brief_micros},
    metrics::{Outcome, RouteCounters, RouteKey},
    share::Share,
    trace::{Trace, Traced},
    worker::{Thread, micros},
};

/// What is known of the rules of one configuration, found by their addresses.
#[derive(Default)]
pub(crate) struct RouteSeries {
    known: RefCell<Known>,
}

#[derive(Default)]
struct Known {
    /// Keeps the rules alive, so that their addresses stay theirs.
    config: Option<Arc<Config>>,
    rules: HashMap<(*const CompiledRule, *const Listener), Series, BuildHasherDefault<Addresses>>,
}

/// Hashes addresses. Nobody outside chooses them, so it need not withstand anybody.
#[derive(Default)]
struct Addresses(u64);

impl Hasher for Addresses {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_usize(usize::from(*byte)));
    }

    fn write_usize(&mut self, address: usize) {
        // 2^64 divided by the golden ratio, odd (Knuth, The Art of Computer Programming, section 6.4).
        self.0 = (self.0.rotate_left(5) ^ address as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        // The product's low bits say little of what was multiplied.
        self.0.rotate_left(26)
    }
}

/// Where a request is counted and remembered.
#[derive(Clone)]
struct Series {
    /// The route's.
    counters: Arc<RouteCounters>,
    place: Rc<Place>,
}

impl RouteSeries {
    fn of(&self, thread: &Thread, config: &Arc<Config>, tenant: &TenantId, found: &Found<'_>) -> Series {
        let mut known = self.known.borrow_mut();
        if !known.config.as_ref().is_some_and(|c| Arc::ptr_eq(c, config)) {
            known.rules.clear();
            known.config = Some(Arc::clone(config));
        }
        let series = known.rules.entry((std::ptr::from_ref(found.rule), std::ptr::from_ref(found.listener)));
        let make = || Series {
            counters: thread.counters.route(&RouteKey::new(Some(tenant), found.route_id())),
            place: Rc::new(Place {
                tenant: tenant.clone(),
                listener: found.listener.id.to_string().into(),
                route: found.route_id().into(),
                rule: found.rule_number(),
                log: found.listener.policy.access_log.as_deref().map(Policy::new),
                sampled_ppm: thread.tracer.sampled_ppm(found.listener.policy.trace_sampled_ppm),
            }),
        };
        series.or_insert_with(make).clone()
    }
}

/// One request, from the end of its head until it is dropped: then it is counted, remembered and logged.
pub(crate) struct Record {
    thread: Rc<Thread>,
    began: Instant,
    route: Option<Arc<RouteCounters>>,
    /// Whose share it takes of.
    share: Option<Rc<Share>>,
    keeps_connection: bool,
    /// Handed on when it is dropped.
    gathered: Option<Box<Gathered>>,
    /// If it is part of a trace that is this worker's business.
    trace: Option<Box<Trace>>,
}

impl Record {
    pub(crate) fn begin(thread: &Rc<Thread>, client: &Client, head: &RequestHead) -> Self {
        thread.counters.in_flight.add(1);
        let began = Instant::now();
        let mut facts = Facts::new(thread.request_id(), thread.clock.wall(began));
        thread.turns.look(thread, began);
        facts.queue_delay = thread.turns.delay();
        let mut gathered = thread.journal.begin(facts, client, Some(head));
        if thread.logger.is_on() {
            gathered.line.asks(head);
            gathered.line.credentials.clone_from(&client.credentials);
        }
        Self {
            gathered: Some(gathered),
            thread: Rc::clone(thread),
            began,
            route: None,
            share: None,
            keeps_connection: true,
            trace: None,
        }
    }

    fn facts(&self) -> &Facts {
        &self.gathered.as_ref().expect("handed on when it is dropped").trail.facts
    }

    fn facts_mut(&mut self) -> &mut Facts {
        &mut self.gathered.as_mut().expect("handed on when it is dropped").trail.facts
    }

    /// The request's name.
    pub(crate) fn id(&self) -> RequestId {
        self.facts().id
    }

    /// Tells whoever reads these fields what the request is called.
    pub(crate) fn name(&self, fields: &mut Fields) {
        // Hexadecimal digits are a valid value.
        let _valid = fields.set_known(Name::XRequestId, self.id().as_bytes());
    }

    /// When its head had come.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// It is served, out of `share`.
    pub(crate) fn takes_of(&mut self, share: &Rc<Share>) {
        share.counters.requests.add(1);
        self.share = Some(Rc::clone(share));
    }

    /// It is not served after all.
    pub(crate) fn left_out(&mut self) {
        if let Some(share) = self.share.take() {
            share.counters.requests.sub(1);
        }
    }

    /// Whose share it takes of, if it is served.
    pub(crate) fn share(&self) -> Option<&Rc<Share>> {
        self.share.as_ref()
    }

    /// It waited so long for its turn.
    pub(crate) fn waited(&mut self, time: Duration) {
        self.facts_mut().queue_delay += time;
    }

    /// Its host is that tenant's.
    pub(crate) fn of(&mut self, tenant: &TenantId) {
        self.facts_mut().tenant = Some(tenant.clone());
    }

    /// A route answers it; `fields` are as the client sent them.
    pub(crate) fn found(
        &mut self,
        config: &Arc<Config>,
        tenant: &TenantId,
        found: &Found<'_>,
        fields: &Fields,
    ) {
        let Series { counters, place } = self.thread.series.of(&self.thread, config, tenant, found);
        self.route = Some(counters);
        if let (Some(policy), true, Some(gathered)) =
            (&place.log, self.thread.logger.is_on(), &mut self.gathered)
        {
            policy.request(&mut gathered.line, fields);
        }
        if let Some(ppm) = place.sampled_ppm {
            self.trace = Trace::begin(fields, ppm, &self.thread).map(Box::new);
        }
        let trace = self.trace.as_ref().filter(|trace| trace.sampled).map(|trace| trace.id);
        let facts = self.facts_mut();
        facts.place = Some(place);
        facts.trace = trace;
    }

    /// Makes the fields of a try name the request's trace.
    pub(crate) fn propagate(&self, place: TryPlace, fields: &mut Fields) {
        if let Some(trace) = &self.trace {
            trace.propagate(place, fields);
        }
    }

    /// The client gets these fields.
    pub(crate) fn replies(&mut self, fields: &Fields) {
        let Some(Gathered { trail, line }) = self.gathered.as_deref_mut() else { return };
        let policy = trail.facts.place.as_ref().and_then(|place| place.log.as_ref());
        if let Some(policy) = policy.filter(|policy| policy.looks_at_response)
            && self.thread.logger.is_on()
        {
            policy.response(line, fields);
        }
    }

    /// It is forwarded.
    pub(crate) fn forwards(&mut self, backend: &BackendName) {
        self.facts_mut().backend = Some(Rc::clone(backend));
    }

    /// An endpoint is tried.
    pub(crate) fn tries(&mut self, endpoint: SocketAddr) -> TryPlace {
        // To find the first one takes microseconds, less than is worth a look at the clock.
        let began = if self.retries() == 0 { Duration::ZERO } else { self.began.elapsed() };
        let place = self.facts_mut().tries(endpoint, began);
        if let Some(trace) = &mut self.trace {
            trace.tries(place, &self.thread);
        }
        place
    }

    /// There is a connection to it: one that was there already, or a new one.
    pub(crate) fn connected(&mut self, place: TryPlace, reused: bool) {
        let elapsed = (!reused).then(|| brief_micros(self.began.elapsed()));
        if let Some(current) = self.facts_mut().try_at(place) {
            current.reused = reused;
            current.connected_us = Some(elapsed.unwrap_or(current.began_us));
        }
    }

    /// The endpoint's response has begun.
    pub(crate) fn upstream_answered(&mut self, place: TryPlace, status: u16) {
        let answered = brief_micros(self.began.elapsed());
        if let Some(current) = self.facts_mut().try_at(place) {
            current.answered_us = Some(answered);
            current.status = status;
        }
    }

    /// The try came to nothing.
    pub(crate) fn failed(&mut self, place: TryPlace, refusal: &Refusal) {
        if let Some(failed) = self.facts_mut().try_at(place) {
            failed.failure = Some(refusal.kind());
        }
    }

    /// Another try was faster.
    pub(crate) fn outrun(&mut self, place: TryPlace) {
        if let Some(late) = self.facts_mut().try_at(place) {
            late.failure = Some(OUTRUN);
        }
    }

    /// Another try is made.
    pub(crate) fn retried(&mut self) {
        self.facts_mut().retries += 1;
    }

    /// Another try would be made, if there were not too many already.
    pub(crate) fn denied_retry(&mut self) {
        self.facts_mut().retry_denied = true;
    }

    pub(crate) fn retries(&self) -> u32 {
        self.facts().retries
    }

    /// There is a response.
    pub(crate) fn answered(&mut self, status: u16) {
        self.facts_mut().status = status;
    }

    /// There is a refusal.
    pub(crate) fn refused(&mut self, refusal: &Refusal) {
        self.keeps_connection = refusal.keeps_connection();
        let facts = self.facts_mut();
        facts.status = refusal.status();
        facts.refusal = Some(refusal.kind());
        // Of what is nobody's there may be any amount.
        facts.detail = facts.tenant().is_some().then(|| in_words(refusal));
    }

    /// Whether the client's connection can serve another request after this one.
    pub(crate) fn keeps_connection(&self) -> bool {
        self.keeps_connection
    }

    /// So much of the bodies was passed on.
    pub(crate) fn moved(&mut self, received: u64, sent: u64) {
        let facts = self.facts_mut();
        facts.bytes_in = received;
        facts.bytes_out = sent;
    }

    /// The reply is on its way to its last byte.
    pub(crate) fn finished(&mut self, outcome: Outcome) {
        let facts = self.facts_mut();
        facts.outcome = if facts.refusal.is_some() { Outcome::Refused } else { outcome };
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let Some(mut gathered) = self.gathered.take() else { return };
        let (thread, facts) = (&self.thread, &mut gathered.trail.facts);
        facts.duration = self.began.elapsed();
        let counters = &thread.counters;
        let latency_us = micros(facts.duration);
        counters.in_flight.sub(1);
        if let Some(share) = &self.share {
            share.counters.requests.sub(1);
        }
        counters.requests.add(1);
        if facts.status >= 500 || facts.outcome == Outcome::Truncated {
            counters.errors.add(1);
        }
        counters.latency.record(latency_us);
        // Requests without a route share one series; its map is looked up only for them.
        match &self.route {
            Some(route) => route.finished(facts.outcome, facts.status, latency_us),
            None => counters.route(&RouteKey::default()).finished(facts.outcome, facts.status, latency_us),
        }
        if thread.logger.is_on() && is_logged(thread, &gathered) {
            thread.logger.log(&Entry::of(&gathered));
        }
        gathered.line.credentials = None;
        if let Some(trace) = self.trace.take().filter(|trace| trace.sampled) {
            let dropped = thread.tracer.push(Traced { trace: *trace, request: gathered.trail.tell() });
            thread.counters.spans_dropped.add(dropped);
        }
        thread.journal.end(gathered);
    }
}

/// Whether its listener's policy wants a line of it.
fn is_logged(thread: &Thread, Gathered { trail, line }: &Gathered) -> bool {
    let place = trail.facts.place.as_ref();
    let policy = place.and_then(|place| place.log.as_ref());
    policy.is_none_or(|policy| policy.wants(line, &trail.facts, |below| thread.random_below(below)))
}

/// Bytes of a refusal in words.
const WORDS: usize = 200;

/// A refusal and what is behind it.
fn in_words(refusal: &Refusal) -> Box<str> {
    let mut words = refusal.to_string();
    let mut source = refusal.source();
    while let Some(error) = source {
        words += &format!(": {error}");
        source = error.source();
    }
    words.truncate(words.floor_char_boundary(WORDS));
    words.into()
}

/// Counts, remembers and logs what could not be read as a request; its name.
pub(crate) fn unread(thread: &Thread, client: &Client, refusal: &Refusal) -> RequestId {
    thread.counters.requests.add(1);
    let series = thread.counters.route(&RouteKey::default());
    series.finished(Outcome::Refused, refusal.status(), 0);
    let id = thread.request_id();
    let facts = Facts {
        status: refusal.status(),
        outcome: Outcome::Refused,
        refusal: Some(refusal.kind()),
        queue_delay: thread.turns.delay(),
        ..Facts::new(id, thread.clock.wall(Instant::now()))
    };
    let mut gathered = thread.journal.begin(facts, client, None);
    if thread.logger.is_on() {
        gathered.line.asks_nothing();
        thread.logger.log(&Entry::of(&gathered));
    }
    thread.journal.end(gathered);
    id
}
