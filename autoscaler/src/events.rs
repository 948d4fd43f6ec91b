//! What happened, for people: a bounded past and a live view.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use api::admin;
use model::PoolName;
use tokio::sync::broadcast;

/// The past that is kept: some hours of a busy pool.
const MAX_PAST: usize = 1_000;

/// A reader that is further behind misses events.
const MAX_BEHIND: usize = 256;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// More workers were planned.
    ScaleOut,
    /// Fewer workers were planned.
    ScaleIn,
    /// The plan stays, though another would be better.
    Hold,
    /// A worker process was started.
    WorkerStarted,
    /// A worker takes connections.
    WorkerReady,
    /// A worker is gone.
    WorkerEnded,
    /// The store did not take a plan: another one is there.
    PlanRefused,
    /// A node cannot run the pool as planned, or can again.
    NodeProblem,
}

impl EventKind {
    /// As people and the admin API spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ScaleOut => "scale-out",
            Self::ScaleIn => "scale-in",
            Self::Hold => "hold",
            Self::WorkerStarted => "worker-started",
            Self::WorkerReady => "worker-ready",
            Self::WorkerEnded => "worker-ended",
            Self::PlanRefused => "plan-refused",
            Self::NodeProblem => "node-problem",
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One thing that happened to a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// The pool.
    pub pool: PoolName,
    /// What.
    pub kind: EventKind,
    /// Why, with the figures that decided it.
    pub reason: String,
    /// Workers planned before.
    pub before: u32,
    /// Workers planned after.
    pub after: u32,
}

impl From<&Event> for admin::Event {
    fn from(event: &Event) -> Self {
        Self {
            at_ms: event.at_ms,
            pool: event.pool.to_string(),
            kind: event.kind.as_str().to_owned(),
            reason: event.reason.clone(),
            workers_before: event.before,
            workers_after: event.after,
        }
    }
}

/// The last events of all pools. Clones share them.
#[derive(Debug, Clone)]
pub struct Events {
    past: Arc<Mutex<VecDeque<Event>>>,
    live: broadcast::Sender<Event>,
}

impl Default for Events {
    fn default() -> Self {
        Self { past: Arc::default(), live: broadcast::Sender::new(MAX_BEHIND) }
    }
}

impl Events {
    /// Adds an event; the oldest goes when there are too many.
    pub fn record(&self, event: Event) {
        tracing::info!(
            pool = %event.pool, kind = %event.kind, before = event.before, after = event.after, "{}", event.reason
        );
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        if past.len() == MAX_PAST {
            past.pop_front();
        }
        past.push_back(event.clone());
        // Under the lock, so that a subscriber sees each event once: in the past, or live. Nobody has to listen.
        drop(self.live.send(event));
    }

    /// The newest `limit` events of a pool or of all, newest first.
    #[must_use]
    pub fn recent(&self, pool: Option<&PoolName>, limit: usize) -> Vec<Event> {
        newest(&self.past.lock().unwrap_or_else(PoisonError::into_inner), pool, limit)
    }

    /// The same, and all events (of every pool) from then on, without a gap. A receiver that is too slow is told how
    /// many it missed.
    #[must_use]
    pub fn follow(&self, pool: Option<&PoolName>, limit: usize) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        (newest(&past, pool, limit), self.live.subscribe())
    }
}

fn newest(past: &VecDeque<Event>, pool: Option<&PoolName>, limit: usize) -> Vec<Event> {
    past.iter()
        .rev()
        .filter(|event| pool.is_none_or(|pool| event.pool == *pool))
        .take(limit)
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(pool: &str, at_ms: i64) -> Event {
        let pool = pool.parse().unwrap();
        Event { at_ms, pool, kind: EventKind::Hold, reason: String::new(), before: 1, after: 1 }
    }

    #[test]
    fn the_past_is_bounded_and_newest_first() {
        let events = Events::default();
        (0..2_000).for_each(|at| events.record(event(if at % 2 == 0 { "a" } else { "b" }, at)));
        assert_eq!(events.recent(None, usize::MAX).len(), MAX_PAST);
        let of_a: Vec<_> = events.recent(Some(&"a".parse().unwrap()), 2).iter().map(|e| e.at_ms).collect();
        assert_eq!(of_a, [1_998, 1_996]);
    }

    #[tokio::test]
    async fn a_follower_misses_nothing_between_past_and_present() {
        let events = Events::default();
        events.record(event("a", 1));
        let (past, mut live) = events.follow(None, 10);
        events.record(event("a", 2));
        assert_eq!(past.iter().map(|e| e.at_ms).collect::<Vec<_>>(), [1]);
        assert_eq!(live.recv().await.unwrap().at_ms, 2);
    }
}
