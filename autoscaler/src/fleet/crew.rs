//! Views of the fleet: what `decide` and `plan` look at.

use std::time::Duration;

use model::{PoolName, WorkerId};

use super::{Fleet, Member, State};
use crate::{
    Time,
    demand::PoolLoad,
    plan::DesiredPool,
    policy::{Capacity, PoolPolicy},
    window::{FRESH, SHORT},
};

/// A start or a placement that takes longer failed, or will: scale-in waits for it no more.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// For this long after a worker began to drain, the others are still being seen to bear its load. What drains longer
/// holds tunnels, which may take hours.
const DRAIN_SETTLE: Duration = Duration::from_secs(30);

/// Beyond two threads a CPU, workers only take turns.
const THREADS_PER_CPU: u32 = 2;

/// A pool's workers, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Crew {
    /// As many as should be, by the plan that holds.
    pub target: u32,
    /// When that plan was made.
    pub changed_at: Time,
    /// Taking connections.
    pub ready: u32,
    /// Planned or started lately and not ready yet.
    pub starting: u32,
    /// Lately asked to go, or lately too many by the plan.
    pub leaving: u32,
    /// Should have reported and did not.
    pub missing: u32,
    /// Nodes with a share of the plan that are not connected.
    pub lost_nodes: u32,
    /// Workers live though none are planned: a connection woke the pool.
    pub woken: bool,
    /// As many as the nodes' CPUs are good for; `None`: that does not limit the pool.
    pub room: Option<u32>,
}

/// A pool's workers, by node, as far as they count towards a plan.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Roster {
    /// Nodes that are connected or may come back soon, by name.
    pub nodes: Vec<RosterNode>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RosterNode {
    /// Its name.
    pub name: String,
    /// CPUs for workers; at least 1.
    pub cpus: u32,
    /// Whether its share can be changed now.
    pub connected: bool,
    /// Its workers of the pool that are starting or ready.
    pub workers: Vec<RosterWorker>,
}

/// One worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RosterWorker {
    /// Which.
    pub id: WorkerId,
    /// Whether it takes connections.
    pub ready: bool,
    /// Now; of a worker that says nothing, as many as can be.
    pub connections: u64,
    /// Now.
    pub in_flight: u64,
}

impl Fleet {
    /// Counts a pool's workers against the plan that holds since `changed_at`.
    #[must_use]
    pub fn crew(
        &self,
        policy: &PoolPolicy,
        pool: &PoolName,
        current: Option<&DesiredPool>,
        changed_at: Time,
        now: Time,
    ) -> Crew {
        let count =
            |holds: &dyn Fn(&Member) -> bool| count(self.members(Some(pool)).filter(|(_, m)| holds(m)));
        // Workers that are there before any plan are kept: nobody decided that they are too many.
        let target =
            current.map_or_else(|| count(&|m| m.state != State::Draining), |desired| desired.workers);
        let ready = count(&|m| m.state == State::Ready);
        let starting = count(&|m| m.state == State::Starting && now.since(m.since) < START_PATIENCE);
        // What the plan changed and no node has acted on yet.
        let recent = now.since(changed_at) < START_PATIENCE;
        let (unseen, overdue) = if recent {
            (target.saturating_sub(ready + starting), ready.saturating_sub(target))
        } else {
            (0, 0)
        };
        Crew {
            target,
            changed_at,
            ready,
            starting: starting + unseen,
            leaving: overdue + count(&|m| m.state == State::Draining && now.since(m.since) < DRAIN_SETTLE),
            missing: count(&|m| is_missing(m, now)),
            lost_nodes: self.lost_nodes(current),
            woken: target == 0 && current.is_some_and(|desired| self.is_woken(pool, desired)),
            room: self.room(policy),
        }
    }

    /// What a pool's workers report together.
    #[must_use]
    pub fn load(
        &self,
        policy: &PoolPolicy,
        pool: &PoolName,
        current: Option<&DesiredPool>,
        now: Time,
    ) -> PoolLoad {
        let mut total = PoolLoad {
            cost_seconds: self.facts.get(pool).map(|f| f.cost).unwrap_or_default().seconds(),
            complete: self.lost_nodes(current) == 0,
            all_reported: true,
            ..PoolLoad::default()
        };
        // Leavers too: what they do, others will have to do.
        for (_, member) in self.members(Some(pool)) {
            total.complete &= !is_missing(member, now);
            total.all_reported &= member.state != State::Ready || member.window.is_fresh(now);
            let Some(load) = member.window.over(SHORT, now) else { continue };
            total.requests_per_second += load.requests_per_second;
            total.shed_per_second += load.shed_per_second;
            total.cpu_cores += load.cpu_cores;
            total.in_flight = total.in_flight.saturating_add(load.in_flight);
            if member.state == State::Ready {
                let pressure = member.window.pressure(policy.saturation_delay, now);
                total.saturated += u32::from(pressure.saturated);
                total.backlog_seconds += pressure.backlog.as_secs_f64();
            }
        }
        total
    }

    /// Who could be given a worker, and who has which.
    #[must_use]
    pub fn roster(&self, pool: &PoolName, now: Time) -> Roster {
        let nodes = self.nodes.iter().map(|(name, node)| {
            let own = self.members(Some(pool)).filter(|(_, m)| m.node.as_ref() == Some(name));
            let active = own.filter(|(_, m)| m.state != State::Draining);
            let workers = active.map(|(id, m)| roster_worker(id, m, now)).collect();
            RosterNode { name: name.clone(), cpus: node.cpus.max(1), connected: node.is_connected(), workers }
        });
        Roster { nodes: nodes.collect() }
    }

    fn lost_nodes(&self, current: Option<&DesiredPool>) -> u32 {
        let Some(current) = current else { return 0 };
        let lost = |name: &str| self.nodes.get(name).is_some_and(|node| !node.is_connected());
        count(current.split.iter().filter(|(name, share)| **share > 0 && lost(name)))
    }

    fn is_woken(&self, pool: &PoolName, desired: &DesiredPool) -> bool {
        // A node that has not acted on the plan yet has workers of the one before it.
        let acted = |name: &String| {
            let acted = self.nodes.get(name).and_then(|node| node.acted.get(pool));
            acted.is_some_and(|version| *version >= (desired.term, desired.generation.0))
        };
        let active = |m: &Member| m.state != State::Draining;
        self.members(Some(pool)).any(|(_, m)| active(m) && m.node.as_ref().is_some_and(acted))
    }

    /// An operator who declares a capacity knows what the machines bear.
    fn room(&self, policy: &PoolPolicy) -> Option<u32> {
        let cpus: u32 = self.nodes.values().map(|node| node.cpus).fold(0, u32::saturating_add);
        let limited = policy.capacity == Capacity::Learned && cpus > 0;
        limited.then(|| (cpus.saturating_mul(THREADS_PER_CPU) / policy.threads()).max(1))
    }
}

/// Ready for so long that it should have reported, and silent for as long.
fn is_missing(member: &Member, now: Time) -> bool {
    member.state == State::Ready && now.since(member.since) >= FRESH && !member.window.is_fresh(now)
}

fn roster_worker(id: &WorkerId, member: &Member, now: Time) -> RosterWorker {
    let load = member.window.over(FRESH, now);
    let starting = member.state == State::Starting;
    let unknown = if starting { 0 } else { u64::MAX };
    RosterWorker {
        id: id.clone(),
        ready: !starting,
        connections: load.map_or(unknown, |l| l.connections),
        in_flight: load.map_or(unknown, |l| l.in_flight),
    }
}

fn count<T>(items: impl Iterator<Item = T>) -> u32 {
    u32::try_from(items.count()).unwrap_or(u32::MAX)
}
