//! One worker.

use std::time::Duration;

use api::{feed::WorkerPhase, node::WorkerState};
use model::PoolName;

use super::ChangeKind;
use crate::{Time, window::Window};

/// Where a worker is in its life. It only goes forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Not yet taking connections.
    Starting,
    /// Taking connections.
    Ready,
    /// Taking no new ones.
    Draining,
}

impl State {
    /// `None`: it has ended.
    pub(super) fn of_status(state: WorkerState) -> Option<Self> {
        match state {
            WorkerState::Unspecified | WorkerState::Starting => Some(Self::Starting),
            WorkerState::Ready => Some(Self::Ready),
            WorkerState::Draining => Some(Self::Draining),
            WorkerState::Ended => None,
        }
    }

    pub(super) fn of_phase(phase: WorkerPhase) -> Option<Self> {
        match phase {
            WorkerPhase::Unspecified => None,
            WorkerPhase::Starting => Some(Self::Starting),
            WorkerPhase::Ready => Some(Self::Ready),
            WorkerPhase::Draining => Some(Self::Draining),
        }
    }

    /// As people are told.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
        }
    }
}

/// One worker, from what it and its node say.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its pool.
    pub pool: PoolName,
    /// Its node, once that has named it.
    pub node: Option<String>,
    /// Its process; 0 until it is known.
    pub pid: u32,
    /// Listening sockets that it holds.
    pub slots: u32,
    /// Where it is in its life.
    pub state: State,
    /// Since when.
    pub since: Time,
    /// From its start to its readiness, once that is known.
    pub start: Option<Duration>,
    /// What it reported.
    pub window: Window,
}

impl Member {
    pub(super) fn new(pool: PoolName, now: Time) -> Self {
        Self {
            pool,
            node: None,
            pid: 0,
            slots: 0,
            state: State::Starting,
            since: now,
            start: None,
            window: Window::default(),
        }
    }

    /// Its node says this of it.
    pub(super) fn advance(&mut self, state: State, now: Time) -> Option<ChangeKind> {
        if state <= self.state {
            return None;
        }
        (self.state, self.since) = (state, now);
        Some(if state == State::Ready { ChangeKind::Ready } else { ChangeKind::Draining })
    }

    /// It says this of itself. Where there is a node, that one says who is ready: it gives the slots.
    pub(super) fn said(&mut self, state: State, now: Time) -> Option<ChangeKind> {
        if self.node.is_some() && state == State::Ready { None } else { self.advance(state, now) }
    }
}
