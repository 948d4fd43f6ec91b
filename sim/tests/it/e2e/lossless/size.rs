//! How much of it: with every change, or as the proof.

use std::time::Duration;

use super::super::long;

/// The dimensions of a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    /// At least so many events, in whole rounds.
    pub(super) events: u32,
    /// At most this between two, in milliseconds.
    pub(super) gap_ms: u64,
    /// At least so many requests, or the proof is none.
    pub(super) requests: u64,
    /// After so many failures nothing more is to be learned.
    pub(super) enough: u64,
    /// Requests per second of each generator.
    pub(super) rates: [u32; 6],
    /// Clients of each of the other kinds.
    pub(super) clients: u32,
    /// Their pause between two requests, on average.
    pub(super) pause: Duration,
    /// The most messages of a gRPC stream, and the pause between two on average: together well within a drain.
    pub(super) messages: u64,
    pub(super) message_pause: Duration,
    /// The pool's, in seconds.
    pub(super) drain_deadline: u32,
    /// The most workers.
    pub(super) workers: usize,
    /// Connections that are queued at each event.
    pub(super) queued: usize,
    /// Says each event.
    pub(super) speaks: bool,
}

impl Size {
    /// The proof with `WEIR_LONG`, of so many events as `WEIR_EVENTS` says; else the short form.
    pub(super) fn asked_for() -> Self {
        let events = std::env::var("WEIR_EVENTS").ok().and_then(|events| events.parse().ok());
        match (long(), events) {
            (false, _) => Self::SHORT,
            (true, None) => Self::LONG,
            // Not the whole proof, whatever it finds.
            (true, Some(events)) => Self { events, requests: 0, ..Self::LONG },
        }
    }

    const SHORT: Self = Self {
        events: 7,
        gap_ms: 700,
        requests: 1_000,
        enough: 0,
        rates: [80, 40, 40, 15, 60, 60],
        clients: 2,
        pause: Duration::from_millis(80),
        messages: 4,
        message_pause: Duration::from_millis(80),
        drain_deadline: 3,
        workers: 2,
        queued: 12,
        speaks: false,
    };

    const LONG: Self = Self {
        events: 210,
        gap_ms: 5_500,
        requests: 1_000_000,
        enough: 50,
        rates: [420, 150, 260, 60, 320, 220],
        clients: 4,
        pause: Duration::from_millis(50),
        messages: 20,
        message_pause: Duration::from_millis(150),
        drain_deadline: 10,
        workers: 4,
        queued: 48,
        speaks: true,
    };
}
