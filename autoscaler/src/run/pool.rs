//! One pool in the loop: what is stored of it, and what is decided about it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use model::{Generation, PoolName, WorkerId};
use tokio::time::timeout;
use tracing::{info, warn};

use crate::{
    PoolPolicy, Time,
    events::EventKind,
    execute::{Desired, DesiredError, Stored},
    metric,
    plan::{DesiredPool, Shape},
    reason::Reason,
    scaler::{Outcome, Scaler},
    state::Shared,
};

/// A store that takes longer is asked again in the next round.
const STORE_TIMEOUT: Duration = Duration::from_secs(5);

/// Two holds of one pool are recorded at least this far apart.
const HOLD_PAUSE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Pool {
    name: PoolName,
    scaler: Scaler,
    /// What the store holds; `None`: it must be asked.
    known: Option<Option<Stored>>,
    /// The newest plan that is known to be stored.
    plan: Option<DesiredPool>,
    /// The reason of the last hold that was recorded, and when.
    held: Option<(&'static str, Time)>,
    /// The store failed the last time; it was said.
    ailing: bool,
}

impl Pool {
    pub(super) fn new(name: PoolName) -> Self {
        Self { name, scaler: Scaler::default(), known: None, plan: None, held: None, ailing: false }
    }

    /// The newest plan that is known to be stored.
    pub(super) fn plan(&self) -> Option<&DesiredPool> {
        self.plan.as_ref()
    }

    /// Who leads changed: what was learned about demand is old, what is stored may be another's.
    pub(super) fn begin_term(&mut self) {
        (self.scaler, self.known, self.held) = (Scaler::default(), None, None);
    }

    pub(super) fn evict(&mut self, workers: &BTreeSet<WorkerId>, shared: &Shared) {
        if workers.is_empty() {
            return;
        }
        let fleet = shared.fleet();
        let own = fleet.members(Some(&self.name)).filter(|(id, _)| workers.contains(*id));
        own.for_each(|(id, _)| self.scaler.evict(id.clone()));
    }

    /// Learns what is stored.
    pub(super) async fn follow(&mut self, desired: &dyn Desired) {
        self.known = None;
        self.load(desired).await;
    }

    /// Decides, and stores the plan if it is a new one. Without a policy the pool was deleted.
    pub(super) async fn lead(
        &mut self,
        policy: Option<&PoolPolicy>,
        term: u64,
        shared: &Shared,
        desired: &dyn Desired,
    ) {
        let fresh = self.known.is_none();
        self.load(desired).await;
        let Some(stored) = &self.known else { return };
        let current = stored.as_ref().map(|s| &s.desired);
        if fresh && let Some(current) = current {
            let now = shared.clock.now();
            current.split.keys().for_each(|node| shared.fleet().expect_node(node, now));
        }
        let (plan, before, reason) = match policy {
            Some(policy) => {
                let now = shared.clock.now();
                let pool = (&self.name, policy);
                let outcome = self.scaler.tick(pool, &shared.fleet(), current, term, now);
                self.measure(&outcome);
                self.record_hold(&outcome, shared, now);
                (outcome.plan, outcome.crew.target, outcome.decision.reason)
            }
            None => {
                let before = current.map_or(0, |current| current.workers);
                (current.and_then(|current| retired(current, term)), before, Reason::Removed)
            }
        };
        if let Some(plan) = plan {
            self.store(plan, (before, reason), shared, desired).await;
        }
    }

    async fn load(&mut self, desired: &dyn Desired) {
        if self.known.is_some() {
            return;
        }
        match timeout(STORE_TIMEOUT, desired.load(&self.name)).await {
            Ok(Ok(stored)) => {
                self.ailing = false;
                // A server that is behind takes nobody back.
                let newer = |s: &&Stored| {
                    let version = |d: &DesiredPool| (d.term, d.generation);
                    self.plan.as_ref().is_none_or(|plan| version(plan) < version(&s.desired))
                };
                if let Some(stored) = stored.as_ref().filter(newer) {
                    self.plan = Some(stored.desired.clone());
                }
                self.known = Some(stored);
            }
            Ok(Err(error)) => self.ail(&error),
            Err(_) => self.ail(&"no answer in time"),
        }
    }

    async fn store(
        &mut self,
        plan: DesiredPool,
        (before, reason): (u32, Reason),
        shared: &Shared,
        desired: &dyn Desired,
    ) {
        let stored = self.known.take().flatten();
        let refused = |why: &'static str| {
            metrics::counter!(metric::PLANS_REFUSED, "pool" => self.name.to_string(), "why" => why)
                .increment(1);
        };
        match timeout(STORE_TIMEOUT, desired.store(&plan, stored.as_ref().map(|s| s.version))).await {
            Ok(Ok(version)) => {
                self.ailing = false;
                metrics::counter!(metric::PLANS, "pool" => self.name.to_string()).increment(1);
                let after = plan.workers;
                let (term, generation) = (plan.term, plan.generation);
                info!(pool = %self.name, term, %generation, workers = after, split = ?plan.split, "plan stored");
                let kind = if after > before { EventKind::ScaleOut } else { EventKind::ScaleIn };
                if after != before {
                    self.held = None;
                    shared.record(&self.name, kind, reason.to_string(), (before, after));
                }
                self.plan = Some(plan.clone());
                self.known = Some(Some(Stored { desired: plan, version }));
            }
            Ok(Err(error @ DesiredError::Conflict { .. })) => {
                refused("conflict");
                shared.record(&self.name, EventKind::PlanRefused, error.to_string(), (before, plan.workers));
                shared.wake.notify_one();
            }
            Ok(Err(error @ DesiredError::Unavailable { .. })) => {
                refused("unavailable");
                self.ail(&error);
            }
            Err(_) => {
                refused("unavailable");
                self.ail(&"no answer in time");
            }
        }
    }

    /// Said once until it is well again: the next round comes in a second.
    fn ail(&mut self, problem: &dyn std::fmt::Display) {
        if !std::mem::replace(&mut self.ailing, true) {
            warn!(pool = %self.name, %problem, "the store of plans does not answer; trying on");
        }
    }

    fn record_hold(&mut self, outcome: &Outcome, shared: &Shared, now: Time) {
        let (name, target) = (outcome.decision.reason.name(), outcome.decision.target);
        let due = self.held.is_none_or(|(last, at)| last != name && now.since(at) >= HOLD_PAUSE);
        if outcome.decision.hold && due {
            self.held = Some((name, now));
            shared.record(&self.name, EventKind::Hold, outcome.decision.reason.to_string(), (target, target));
        }
    }

    fn measure(&self, outcome: &Outcome) {
        let Outcome { crew, demand, decision, .. } = outcome;
        let pool = self.name.to_string();
        let gauge = |name: &'static str, value: f64| metrics::gauge!(name, "pool" => pool.clone()).set(value);
        gauge(metric::DESIRED, decision.target.into());
        gauge(metric::DEMAND, demand.work);
        gauge(metric::EXPECTED, demand.expected());
        gauge(metric::UTILIZATION, demand.work / f64::from(crew.ready.max(1)));
        let states = [
            ("ready", crew.ready),
            ("starting", crew.starting),
            ("leaving", crew.leaving),
            ("missing", crew.missing),
        ];
        for (state, workers) in states {
            metrics::gauge!(metric::WORKERS, "pool" => pool.clone(), "state" => state).set(workers);
        }
        let reason = decision.reason.name();
        metrics::counter!(metric::DECISIONS, "pool" => pool.clone(), "reason" => reason).increment(1);
    }
}

/// The plan of a deleted pool: nobody runs, nobody listens.
fn retired(current: &DesiredPool, term: u64) -> Option<DesiredPool> {
    let shape = Shape { listen: Vec::new(), ..current.shape.clone() };
    let done = current.workers == 0 && current.shape == shape && current.split.is_empty();
    (!done).then(|| DesiredPool {
        term,
        generation: Generation(current.generation.0 + 1),
        workers: 0,
        split: BTreeMap::new(),
        surge: BTreeMap::new(),
        drain: Vec::new(),
        shape,
        pool: current.pool.clone(),
    })
}
