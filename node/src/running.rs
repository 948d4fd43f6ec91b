//! A pool with its sockets and what watches them.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use api::{agent::Listen, node::WorkerState};
use model::PoolName;
use tokio::sync::mpsc;
use tracing::warn;

use crate::{
    agent::Event,
    doorbell::Doorbell,
    metrics,
    pool::Pool,
    processes::Processes,
    saved::{SavedNext, SavedPool},
    sockets::Sockets,
    standing::Queues,
};

#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) pool: Pool,
    pub(crate) sockets: Sockets,
    queues: BTreeMap<Listen, Queues>,
    doorbell: Option<Doorbell>,
}

impl Running {
    pub(crate) fn new(pool: Pool) -> Self {
        Self { pool, sockets: Sockets::default(), queues: BTreeMap::new(), doorbell: None }
    }

    /// The slots whose queues stand although other workers are idle.
    pub(crate) fn standing(&mut self, patience: Duration, now: Instant) -> Vec<(Listen, u32)> {
        let lengths: Vec<_> =
            self.sockets.queues().map(|(listen, lengths)| (listen.clone(), lengths)).collect();
        self.queues.retain(|listen, _| lengths.iter().any(|(open, _)| open == listen));
        let mut standing = Vec::new();
        for (listen, lengths) in lengths {
            let queues = self.queues.entry(listen.clone()).or_default();
            let slots = queues.standing(&lengths, patience, now);
            standing.extend(slots.into_iter().map(|slot| (listen.clone(), slot)));
        }
        standing
    }

    /// Hangs the doorbell when the pool falls asleep, and takes it down when it wakes.
    pub(crate) fn watch_sleep(&mut self, pool: &PoolName, events: &mpsc::Sender<Event>) {
        let count = self.sockets.waking().count();
        if !self.pool.asleep() || count == 0 {
            if self.doorbell.take().is_some() {
                self.sockets.defer(false);
            }
            return;
        }
        if self.doorbell.as_ref().is_some_and(|doorbell| doorbell.hangs(count)) {
            return;
        }
        self.sockets.defer(true);
        let (events, pool) = (events.clone(), pool.clone());
        let ring = async move {
            // The receiver is gone only if the agent is.
            let _gone = events.send(Event::Waiting(pool)).await;
        };
        match Doorbell::hang(self.sockets.waking().cloned().collect(), ring) {
            Ok(doorbell) => self.doorbell = Some(doorbell),
            Err(error) => warn!(%error, "a sleeping pool cannot be woken by connections"),
        }
    }

    pub(crate) fn export(&self, pool: &PoolName) {
        let status = self.pool.status();
        let pool = pool.to_string();
        for state in [WorkerState::Starting, WorkerState::Ready, WorkerState::Draining] {
            let count = status.workers.iter().filter(|w| w.state() == state).count();
            let state = match state {
                WorkerState::Starting => "starting",
                WorkerState::Ready => "ready",
                _ => "draining",
            };
            ::metrics::gauge!(metrics::WORKERS, "pool" => pool.clone(), "state" => state).set(count as f64);
        }
        ::metrics::gauge!(metrics::SLOTS, "pool" => pool.clone()).set(f64::from(status.slots));
        ::metrics::counter!(metrics::STUCK, "pool" => pool.clone()).absolute(self.pool.relieved());
        ::metrics::counter!(metrics::CRASHES, "pool" => pool).absolute(self.pool.crashes());
    }

    pub(crate) fn saved(&self, pool: &PoolName, processes: &Processes) -> SavedPool {
        SavedPool {
            pool: pool.clone(),
            plan: self.pool.current_plan().cloned(),
            workers: self.pool.workers().filter_map(|worker| processes.saved(worker)).collect(),
            next_slots: self
                .pool
                .next_slots()
                .map(|(listen, next)| SavedNext { listen: listen.clone(), next })
                .collect(),
        }
    }
}
