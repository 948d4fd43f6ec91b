//! One pool's scaling, tick by tick: load -> demand -> decision -> plan. Pure; `run` and the simulator both drive it.

use std::collections::BTreeSet;

use model::{PoolName, WorkerId};

use crate::{
    Time,
    decide::{Decision, decide},
    demand::{Demand, Estimator},
    fleet::{Crew, Fleet},
    plan::{Basis, DesiredPool, Shape, plan},
    policy::PoolPolicy,
};

/// A worker helps this much later than it is ready: it reports once a second.
const REPORT_INTERVAL: std::time::Duration = std::time::Duration::from_secs(1);

/// What one pool's scaling remembers between ticks.
#[derive(Debug, Clone, Default)]
pub struct Scaler {
    estimator: Estimator,
    evicted: BTreeSet<WorkerId>,
    /// The target that was seen last, and since when.
    target: Option<(u32, Time)>,
}

/// What a tick came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Who is there.
    pub crew: Crew,
    /// What is asked of them.
    pub demand: Demand,
    /// How many there should be.
    pub decision: Decision,
    /// What to store, if it differs from what is stored.
    pub plan: Option<DesiredPool>,
}

impl Scaler {
    /// One tick of one pool. `current` is the plan that is stored.
    pub fn tick(
        &mut self,
        (pool, policy): (&PoolName, &PoolPolicy),
        fleet: &Fleet,
        current: Option<&DesiredPool>,
        term: u64,
        now: Time,
    ) -> Outcome {
        let target = current.map_or(0, |c| c.workers);
        let changed_at = match self.target {
            Some((last, since)) if last == target => since,
            _ => now,
        };
        self.target = Some((target, changed_at));
        let horizon = fleet.start_p95(pool) + REPORT_INTERVAL;
        let crew = fleet.crew(policy, pool, current, changed_at, now);
        let load = fleet.load(policy, pool, current, now);
        let demand = self.estimator.observe(policy, &load, horizon, now);
        let decision = decide(policy, &crew, &demand, now);
        let roster = fleet.roster(pool, now);
        self.evicted.retain(|id| roster.nodes.iter().any(|n| n.workers.iter().any(|w| w.id == *id)));
        let (shape, evicted) = (&Shape::from(policy), &self.evicted);
        let plan = plan(decision.target, Basis { pool, shape, roster: &roster, current, evicted, term });
        Outcome { crew, demand, decision, plan }
    }

    /// Replaces a worker: another one is started, then this one drained. Bounded by the fleet: a worker that is not
    /// there is forgotten at the next tick.
    pub fn evict(&mut self, worker: WorkerId) {
        self.evicted.insert(worker);
    }
}
