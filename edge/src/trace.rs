//! Distributed tracing: which trace a request is part of (W3C Trace Context), and spans of it for a collector (OTLP).
//!
//! Nothing is done for requests while no collector is named: `traceparent` and `tracestate` pass as they came. With one,
//! a request whose caller has decided is traced or not as the caller says; all others begin a trace, of which a share is
//! sampled. A thread gathers the spans of sampled requests in a buffer of its own and hands it over when it is full or a
//! tick has passed; when nobody takes it, spans are dropped and counted.

mod context;
mod export;
mod otlp;
mod spans;

use std::{cell::RefCell, sync::Arc, time::Duration};

use tokio::{sync::mpsc, task::JoinHandle, time::timeout};
use tracing::warn;

pub(crate) use context::SpanId;
pub use context::TraceId;
use context::{Parent, TRACEPARENT, TRACESTATE, is_valid_state, traceparent};
pub use export::{Collector, InvalidCollector};

use crate::{h1::Fields, journal::TryPlace, shared::Control, worker::Thread};

/// Traced requests that a thread hands over together: the exporter is woken once for as many.
const HAND_OVER: usize = 64;
/// Traced requests that a thread keeps while nobody takes them.
const MOST: usize = 512;
/// Buffers that wait for the exporter: some thousand requests.
const QUEUE: usize = 64;

/// How long a worker that ends lets the collector take its last spans.
const LAST_SPANS: Duration = Duration::from_secs(2);

/// All of a million.
pub(crate) const MILLION: u64 = 1_000_000;

/// How requests are traced.
#[derive(Debug, Clone)]
pub struct Tracing {
    queue: mpsc::Sender<Vec<Traced>>,
    /// The share of the traces that begin here, where no policy says otherwise.
    sampled_ppm: u32,
}

/// What a worker is told of tracing.
#[derive(Debug, Clone)]
pub struct TraceArgs {
    /// Where spans are sent.
    pub collector: Collector,
    /// How many of a million of the traces that begin here are sampled, where no policy says otherwise.
    pub sampled_ppm: u32,
}

impl TraceArgs {
    /// The requests' side of the tracing, and what [`export`](Export::start)s the spans.
    #[must_use]
    pub fn open(self) -> (Tracing, Export) {
        let (queue, inbox) = mpsc::channel(QUEUE);
        (Tracing { queue, sampled_ppm: self.sampled_ppm }, Export { collector: self.collector, inbox })
    }
}

/// Spans that wait to be exported.
#[derive(Debug)]
pub struct Export {
    collector: Collector,
    inbox: mpsc::Receiver<Vec<Traced>>,
}

impl Export {
    /// Exports from now on, on this runtime; `worker` is the instance that the spans are of.
    #[must_use]
    pub fn start(self, worker: &str, control: &Control) -> Exporting {
        let counters = Arc::clone(&control.shared.helper);
        Exporting(tokio::spawn(export::run(self.collector, worker.to_owned(), self.inbox, counters)))
    }
}

/// A running export. It ends when everybody has let go of its [`Tracing`].
#[derive(Debug)]
pub struct Exporting(JoinHandle<()>);

impl Exporting {
    /// Waits until the last spans are gone, for a while.
    pub async fn end(mut self) {
        if timeout(LAST_SPANS, &mut self.0).await.is_err() {
            warn!("the collector did not take the last spans");
            self.0.abort();
        }
    }
}

/// A request that was traced.
#[derive(Debug)]
pub struct Traced {
    pub(crate) trace: Trace,
    pub(crate) request: api::request::Request,
}

/// A request's place in a trace.
#[derive(Debug, Clone)]
pub(crate) struct Trace {
    pub(crate) id: TraceId,
    /// The caller's span.
    pub(crate) parent: Option<SpanId>,
    /// Of the request as a whole.
    pub(crate) span: SpanId,
    pub(crate) sampled: bool,
    /// Of the first and of the last try.
    pub(crate) first_try: Option<SpanId>,
    pub(crate) last_try: Option<SpanId>,
    /// What the caller's other systems say of the trace cannot be passed on.
    forget_state: bool,
}

impl Trace {
    /// Of a request with these fields, if it is this worker's business: what a caller has decided against passes as it
    /// came. `ppm` is the share of the traces that begin here to be sampled.
    pub(crate) fn begin(fields: &Fields, ppm: u32, thread: &Thread) -> Option<Self> {
        let parent = Parent::of(fields);
        let (id, sampled) = match parent {
            Some(parent) if parent.sampled => (parent.trace, true),
            Some(_) => return None,
            None => (
                TraceId::new(thread.random(), thread.random()),
                thread.random_below(MILLION) < u64::from(ppm),
            ),
        };
        Some(Self {
            id,
            parent: parent.map(|parent| parent.span),
            span: SpanId::new(thread.random()),
            sampled,
            first_try: None,
            last_try: None,
            // A state without its parent means nothing (section 3.3).
            forget_state: parent.is_none() || !is_valid_state(fields),
        })
    }

    /// Of a connection on which nobody says what it is part of, if it is to be sampled.
    pub(crate) fn of_stream(thread: &Thread) -> Option<Self> {
        let ppm = thread.tracer.sampled_ppm(None)?;
        (thread.random_below(MILLION) < u64::from(ppm)).then(|| Self {
            id: TraceId::new(thread.random(), thread.random()),
            parent: None,
            span: SpanId::new(thread.random()),
            sampled: true,
            first_try: None,
            last_try: None,
            forget_state: true,
        })
    }

    /// The request is tried once more.
    pub(crate) fn tries(&mut self, place: TryPlace, thread: &Thread) {
        if self.sampled {
            let span = match place {
                TryPlace::First => &mut self.first_try,
                TryPlace::Last => &mut self.last_try,
            };
            *span = Some(SpanId::new(thread.random()));
        }
    }

    /// Makes the fields of a try name this trace.
    pub(crate) fn propagate(&self, place: TryPlace, fields: &mut Fields) {
        let span = match place {
            TryPlace::First => self.first_try,
            TryPlace::Last => self.last_try,
        };
        let span = span.unwrap_or(self.span);
        // Digits and hyphens are a valid value.
        let _valid = fields.set(TRACEPARENT, &traceparent(self.id, span, self.sampled));
        if self.forget_state {
            fields.remove(TRACESTATE);
        }
    }
}

/// A thread's end of the tracing.
#[derive(Debug, Default)]
pub(crate) struct Tracer(Option<On>);

#[derive(Debug)]
struct On {
    tracing: Tracing,
    buffer: RefCell<Vec<Traced>>,
}

impl Tracer {
    pub(crate) fn new(tracing: Option<Tracing>) -> Self {
        Self(tracing.map(|tracing| On { tracing, buffer: RefCell::default() }))
    }

    /// The share of traces to be sampled, if there is a collector: as the listener's policy says, or all listeners'.
    pub(crate) fn sampled_ppm(&self, policy: Option<u32>) -> Option<u32> {
        self.0.as_ref().map(|on| policy.unwrap_or(on.tracing.sampled_ppm))
    }

    /// A sampled request is over. Never waits; how many were dropped.
    #[must_use]
    pub(crate) fn push(&self, traced: Traced) -> u64 {
        let Some(on) = &self.0 else { return 0 };
        let mut buffer = on.buffer.borrow_mut();
        if buffer.len() >= MOST {
            return 1;
        }
        buffer.push(traced);
        if buffer.len().is_multiple_of(HAND_OVER) {
            on.hand_over(&mut buffer);
        }
        0
    }

    /// Hands over what there is; to be called every tick.
    pub(crate) fn flush(&self) {
        if let Some(on) = &self.0 {
            on.hand_over(&mut on.buffer.borrow_mut());
        }
    }
}

impl On {
    fn hand_over(&self, buffer: &mut Vec<Traced>) {
        if buffer.is_empty() {
            return;
        }
        if let Ok(place) = self.tracing.queue.try_reserve() {
            place.send(std::mem::take(buffer));
        }
    }
}

impl Drop for On {
    fn drop(&mut self) {
        let buffer = std::mem::take(self.buffer.get_mut());
        self.hand_over(&mut { buffer });
    }
}
