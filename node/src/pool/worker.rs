//! One worker, as the agent sees it.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use api::{
    agent::Listen,
    node::{WorkerState, WorkerStatus},
};
use model::WorkerId;

#[derive(Debug)]
pub(super) struct Worker {
    pub(super) state: State,
    pub(super) link: Link,
    pub(super) pid: Option<u32>,
    /// When it was started or found.
    pub(super) born: Instant,
    ready_at: Option<Instant>,
    /// Whether it knows that it is to drain.
    pub(super) asked: bool,
    /// Does not take its connections; relieved of its slots until it has returned them all.
    pub(super) stuck: bool,
    /// Serves UDP.
    pub(super) keeps: bool,
    /// How many slots of each UDP address it was given to keep.
    pub(super) kept: BTreeMap<Listen, usize>,
    /// Killed then.
    pub(super) end_by: Option<Instant>,
    start: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    Starting,
    Ready,
    Draining,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    /// No connection; there should be one by then.
    Awaited { until: Instant },
    /// Telling which slots it holds; should be done by then.
    Recovering { until: Instant },
    /// In order.
    Up,
    /// Told to end by signal, because it cannot be spoken to.
    GivenUp,
}

impl Worker {
    /// One that is being started.
    pub(super) fn starting(now: Instant) -> Self {
        Self {
            state: State::Starting,
            // How long the first connection takes is bounded by the time to get ready.
            link: Link::Awaited { until: now },
            pid: None,
            born: now,
            ready_at: None,
            asked: false,
            stuck: false,
            keeps: false,
            kept: BTreeMap::new(),
            end_by: None,
            start: None,
        }
    }

    /// One that an earlier agent started. It counts as ready until it says otherwise: nothing is started in its
    /// place while it may be serving.
    pub(super) fn expected(pid: u32, until: Instant, now: Instant) -> Self {
        let link = Link::Awaited { until };
        Self { state: State::Ready, link, pid: Some(pid), ready_at: Some(now), ..Self::starting(now) }
    }

    /// It connected, and says of itself what it is.
    pub(super) fn linked(&mut self, link: Link, ready: bool, draining: bool, now: Instant) {
        self.link = link;
        self.stuck = false;
        self.kept.clear();
        if draining {
            self.drain();
            self.asked = true;
        } else if self.state == State::Draining {
            self.asked = false;
        } else if ready {
            self.state = State::Ready;
            self.ready_at.get_or_insert(now);
        } else {
            self.state = State::Starting;
            self.ready_at = None;
        }
    }

    pub(super) fn ready(&mut self, now: Instant) {
        if self.state == State::Starting {
            self.state = State::Ready;
            self.ready_at = Some(now);
            self.start = Some(now.saturating_duration_since(self.born));
        }
    }

    /// It takes no new connections from now on.
    pub(super) fn drain(&mut self) {
        self.state = State::Draining;
    }

    /// Makes the time of its killing no later than that.
    pub(super) fn end_within(&mut self, time: Duration, now: Instant) {
        let end = now + time;
        self.end_by = Some(self.end_by.map_or(end, |earlier| earlier.min(end)));
    }

    /// Whether it counts towards the plan.
    pub(super) fn is_active(&self) -> bool {
        self.state != State::Draining
    }

    pub(super) fn is_linked(&self) -> bool {
        matches!(self.link, Link::Recovering { .. } | Link::Up)
    }

    /// Whether it had its time to connect or to recover.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        matches!(self.link, Link::Awaited { until } | Link::Recovering { until } if now >= until)
    }

    pub(super) fn is_up(&self) -> bool {
        self.link == Link::Up
    }

    /// Whether it was ready for so long that its end says nothing about its start.
    pub(super) fn is_settled(&self, time: Duration, now: Instant) -> bool {
        self.ready_at.is_some_and(|ready| now.saturating_duration_since(ready) >= time)
    }

    pub(super) fn status(&self, id: &WorkerId, slots: u32) -> WorkerStatus {
        let state = match self.state {
            State::Starting => WorkerState::Starting,
            State::Ready => WorkerState::Ready,
            State::Draining => WorkerState::Draining,
        };
        let start_ms = self.start.map_or(0, |start| u64::try_from(start.as_millis()).unwrap_or(u64::MAX));
        WorkerStatus {
            worker: id.to_string(),
            pid: self.pid.unwrap_or(0),
            state: state.into(),
            slots,
            start_ms,
            end: String::new(),
        }
    }
}
