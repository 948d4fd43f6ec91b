//! What is remembered of a request until it is over, and counted then.

use std::{
    error::Error,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use model::{Found, TenantId};

use super::{places::Answering, refusal::Refusal};
use crate::{
    accesslog::Entry,
    config::TenantTable,
    downstream::Client,
    h1::{Fields, Name, RequestHead},
    journal::{BackendName, Counted, Facts, Gathered, OUTRUN, Place, RequestId, TryPlace, brief_micros},
    metrics::{Outcome, Series},
    share::Share,
    trace::{Trace, Traced},
    worker::{Thread, micros},
};

/// One request, from the end of its head until it is dropped: then it is counted, remembered and logged.
pub(crate) struct Record {
    thread: Rc<Thread>,
    began: Instant,
    /// Whose share it takes of.
    share: Option<Rc<Share>>,
    keeps_connection: bool,
    /// Handed on when it is dropped.
    gathered: Option<Box<Gathered>>,
    /// If it is part of a trace that is this worker's business.
    trace: Option<Box<Trace>>,
    /// What answers it, until it is known where that is counted.
    answering: Option<Answering>,
}

impl Record {
    pub(crate) fn begin(thread: &Rc<Thread>, client: &Client, head: &RequestHead) -> Self {
        thread.counters.in_flight.add(1);
        let began = Instant::now();
        let mut facts = Facts::new(thread.request_id(), thread.clock.wall(began));
        thread.turns.look(thread, began);
        facts.queue_delay_us = brief_micros(thread.turns.delay());
        let mut gathered = thread.journal.begin(facts, client, Some(head));
        if thread.logger.is_on() {
            gathered.line.asks(head);
            gathered.line.credentials.clone_from(&client.credentials);
        }
        Self {
            gathered: Some(gathered),
            thread: Rc::clone(thread),
            began,
            share: None,
            keeps_connection: true,
            trace: None,
            answering: None,
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
        let facts = self.facts_mut();
        facts.queue_delay_us = facts.queue_delay_us.saturating_add(brief_micros(time));
    }

    /// Its host is that tenant's.
    pub(crate) fn of(&mut self, tenant: &TenantId) {
        self.facts_mut().tenant = Some(tenant.clone());
    }

    /// A route answers it; `fields` are as the client sent them.
    pub(crate) fn found(&mut self, table: &Arc<TenantTable>, found: &Found<'_>, fields: &Fields) {
        let (entrance, answering) = self.thread.places.of(&self.thread, table, found);
        self.answering = Some(answering);
        if let (Some(policy), true, Some(gathered)) =
            (&entrance.log, self.thread.logger.is_on(), &mut self.gathered)
        {
            policy.request(&mut gathered.line, fields);
        }
        if let Some(ppm) = entrance.sampled_ppm {
            self.trace = Trace::begin(fields, ppm, &self.thread).map(Box::new);
        }
        let trace = self.trace.as_ref().filter(|trace| trace.sampled).map(|trace| trace.id);
        let facts = self.facts_mut();
        facts.place = Some(Place { entrance, counted: Counted::default() });
        facts.trace = trace;
    }

    /// Finds where it is counted: as late as there is something else to do, for the memory that says so is on its way.
    fn count_by_route(&mut self) {
        if let Some(answering) = self.answering.take() {
            let counted = answering.counted(&self.thread);
            if let Some(place) = &mut self.facts_mut().place {
                place.counted = counted;
            }
        }
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
        let policy = trail.facts.place.as_ref().and_then(|place| place.entrance.log.as_ref());
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
        self.count_by_route();
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
        // It was a while ago that it was asked for.
        if let Some(place) = &self.facts().place {
            self.thread.counters.expect(place.counted.series);
        }
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
        self.count_by_route();
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
        let series = facts.place.as_ref().map_or(Series::NONE, |place| place.counted.series);
        counters.finished(series, facts.outcome, facts.status, latency_us);
        if thread.logger.is_on() && is_logged(thread, &gathered) {
            thread.logger.log(&Entry::of(&gathered, counters));
        }
        gathered.line.credentials = None;
        if let Some(trace) = self.trace.take().filter(|trace| trace.sampled) {
            let request = gathered.trail.tell(counters);
            let dropped = thread.tracer.push(Traced { trace: *trace, request });
            thread.counters.spans_dropped.add(dropped);
        }
        thread.journal.end(gathered);
    }
}

/// Whether its listener's policy wants a line of it.
fn is_logged(thread: &Thread, Gathered { trail, line }: &Gathered) -> bool {
    let place = trail.facts.place.as_ref();
    let policy = place.and_then(|place| place.entrance.log.as_ref());
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
    thread.counters.finished(Series::NONE, Outcome::Refused, refusal.status(), 0);
    let id = thread.request_id();
    let facts = Facts {
        status: refusal.status(),
        outcome: Outcome::Refused,
        refusal: Some(refusal.kind()),
        queue_delay_us: brief_micros(thread.turns.delay()),
        ..Facts::new(id, thread.clock.wall(Instant::now()))
    };
    let mut gathered = thread.journal.begin(facts, client, None);
    if thread.logger.is_on() {
        gathered.line.asks_nothing();
        thread.logger.log(&Entry::of(&gathered, &thread.counters));
    }
    thread.journal.end(gathered);
    id
}
