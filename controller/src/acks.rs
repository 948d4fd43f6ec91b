//! What each worker serves, as far as it has said so. In memory only: acknowledgements are facts about connections,
//! and a server that starts again learns them from the workers' `Hello`.

mod ledger;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use api::convert::Hash;
use model::{PoolName, Revision, TenantId, WorkerId};
use tokio::sync::watch;

pub(crate) use ledger::{Cause, Ledger, Nacked, Sent};

use crate::{
    metric,
    rollout::{Rollout, Stage, Standing},
};

/// The ledgers of all workers that have a stream to this server, and the change for all of them that is on its way.
#[derive(Debug)]
pub(crate) struct Acks {
    inner: Mutex<Inner>,
    /// Follows the change that is on its way.
    progress: watch::Sender<Progress>,
    /// Sent to when a worker was admitted to it.
    admitted: watch::Sender<()>,
}

impl Default for Acks {
    fn default() -> Self {
        let progress = watch::Sender::new(Progress { number: 0, stage: Stage::Done, deadline: None });
        Self { inner: Mutex::default(), progress, admitted: watch::Sender::new(()) }
    }
}

#[derive(Debug, Default)]
struct Inner {
    workers: BTreeMap<WorkerId, Subscriber>,
    /// Tells streams of one worker apart: the newer one counts.
    streams: u64,
    /// `None`: everybody may have everything.
    rollout: Option<Rollout>,
}

/// How far a change for all workers has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Which change.
    pub(crate) number: u64,
    /// What has become of it.
    pub(crate) stage: Stage,
    /// When to [`Acks::judge`] although nothing happened.
    pub(crate) deadline: Option<Instant>,
}

#[derive(Debug)]
struct Subscriber {
    stream: u64,
    pool: PoolName,
    ledger: Ledger,
}

/// How far a tenant's current snapshot has come.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Propagation {
    /// Workers that should serve it.
    pub(crate) wanted: usize,
    /// Of them, those that do.
    pub(crate) active: usize,
    /// Of them, those that refused it.
    pub(crate) refused: Vec<(WorkerId, Nacked)>,
}

impl Acks {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change is whole before anything can panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a worker that came with these snapshots. An older stream of the same worker no longer counts.
    pub(crate) fn connect(
        &self,
        worker: WorkerId,
        pool: PoolName,
        revision: Revision,
        active: BTreeMap<TenantId, Hash>,
    ) -> u64 {
        let mut inner = self.lock();
        inner.streams += 1;
        let stream = inner.streams;
        inner.workers.insert(worker, Subscriber { stream, pool, ledger: Ledger::new(revision, active) });
        metrics::gauge!(metric::SUBSCRIBERS).set(count(inner.workers.len()));
        self.judge_rollout(&mut inner, Instant::now());
        stream
    }

    /// A change for all workers goes out, in waves: from now on [`Acks::admits`] says who may have it.
    pub(crate) fn begin(&self, number: u64, ends_alone: bool, now: Instant) {
        let mut inner = self.lock();
        inner.rollout = Some(Rollout::new(number, ends_alone, inner.rollout.as_ref()));
        self.judge_rollout(&mut inner, now);
    }

    /// Looks at the change on its way again.
    pub(crate) fn judge(&self, now: Instant) {
        self.judge_rollout(&mut self.lock(), now);
    }

    /// Whether the worker may have the change of this number.
    pub(crate) fn admits(&self, worker: &WorkerId, number: u64) -> bool {
        let inner = self.lock();
        // Another one: this one is over.
        let Some(rollout) = inner.rollout.as_ref().filter(|r| r.number == number) else { return true };
        inner.workers.get(worker).is_some_and(|s| rollout.admits(&s.pool, worker))
    }

    /// Follows the change on its way.
    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Changes when a worker was admitted to the change on its way.
    pub(crate) fn admissions(&self) -> watch::Receiver<()> {
        self.admitted.subscribe()
    }

    fn judge_rollout(&self, inner: &mut Inner, now: Instant) {
        let Some(rollout) = &mut inner.rollout else { return };
        let number = rollout.number;
        let workers = inner.workers.iter().map(|(w, s)| (&s.pool, w, s.ledger.standing(number)));
        let (stage, admitted) = rollout.judge(workers, now);
        let deadline = rollout.deadline();
        if stage == Stage::Done {
            inner.rollout = None;
        }
        self.progress.send_if_modified(|progress| {
            let next = Progress { number, stage, deadline };
            let changed = *progress != next;
            *progress = next;
            changed
        });
        if admitted || inner.rollout.is_none() {
            self.admitted.send_replace(());
        }
    }

    /// The stream has ended.
    pub(crate) fn disconnect(&self, worker: &WorkerId, stream: u64) {
        let mut inner = self.lock();
        if inner.workers.get(worker).is_some_and(|s| s.stream == stream) {
            inner.workers.remove(worker);
            self.judge_rollout(&mut inner, Instant::now());
        }
        metrics::gauge!(metric::SUBSCRIBERS).set(count(inner.workers.len()));
    }

    /// Changes a worker's ledger, if the stream is still the worker's.
    pub(crate) fn with<T>(
        &self,
        worker: &WorkerId,
        stream: u64,
        change: impl FnOnce(&mut Ledger) -> T,
    ) -> Option<T> {
        let mut inner = self.lock();
        let subscriber = inner.workers.get_mut(worker).filter(|s| s.stream == stream)?;
        let answer = change(&mut subscriber.ledger);
        if inner.rollout.is_some() {
            self.judge_rollout(&mut inner, Instant::now());
        }
        Some(answer)
    }

    /// How far `hash` of a tenant has come on the workers of the pools that `serves` holds for. Those that are still
    /// starting do not count: scaling out does not make an object less programmed.
    pub(crate) fn propagation(
        &self,
        tenant: &TenantId,
        hash: &Hash,
        serves: impl Fn(&PoolName) -> bool,
    ) -> Propagation {
        let inner = self.lock();
        let mut propagation = Propagation::default();
        let joined = |s: &Subscriber| serves(&s.pool) && s.ledger.has_joined();
        for (worker, subscriber) in inner.workers.iter().filter(|(_, s)| joined(s)) {
            propagation.wanted += 1;
            if subscriber.ledger.serves(tenant, hash) {
                propagation.active += 1;
            } else if let Some(nack) = subscriber.ledger.nack(tenant).filter(|n| n.hash == *hash) {
                propagation.refused.push((worker.clone(), nack.clone()));
            }
        }
        propagation
    }

    /// How far a change for all workers has come in a pool. What is refused is in [`Acks::progress`].
    pub(crate) fn platform(&self, pool: &PoolName, number: u64) -> Propagation {
        let inner = self.lock();
        let workers = inner.workers.values().filter(|s| s.pool == *pool && s.ledger.has_joined());
        let standings = workers.map(|s| s.ledger.standing(number));
        standings.fold(Propagation::default(), |mut propagation, standing| {
            propagation.wanted += 1;
            propagation.active += usize::from(standing == Standing::Active);
            propagation
        })
    }

    /// All workers' acknowledged revisions and what they refuse.
    pub(crate) fn all(&self) -> Vec<(WorkerId, (Revision, Vec<String>))> {
        let workers: Vec<WorkerId> = self.lock().workers.keys().cloned().collect();
        workers.into_iter().filter_map(|worker| Some((worker.clone(), self.of(worker.as_str())?))).collect()
    }

    /// A worker's acknowledged revision and what it refuses, one line each.
    pub(crate) fn of(&self, worker: &str) -> Option<(Revision, Vec<String>)> {
        let inner = self.lock();
        let ledger = &inner.workers.get(worker)?.ledger;
        let nacks = ledger.nacks().map(|(t, n)| format!("{t}: {n}"));
        let pool = ledger.refused().map(|cause| format!("pool: {cause}"));
        Some((ledger.revision(), nacks.chain(pool).collect()))
    }
}

fn count(n: usize) -> f64 {
    u32::try_from(n).map_or(f64::INFINITY, f64::from)
}
