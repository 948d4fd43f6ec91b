//! From a number of workers to who runs how many, and who goes first.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use api::node::{PoolListen, PoolPlan};
use model::{Generation, PoolName, WorkerId};
use serde::{Deserialize, Serialize};

use crate::{
    fleet::{Roster, RosterNode, RosterWorker},
    policy::{Listen, PoolPolicy},
};

/// The desired state of a pool, as it is stored. Fenced: (term, generation) rises with every change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredPool {
    /// The pool.
    pub pool: PoolName,
    /// The term of the leader that made it.
    pub term: u64,
    /// Rises by one with every change of the pool's desired state.
    pub generation: Generation,
    /// Workers in all that should take connections.
    pub workers: u32,
    /// How many of them each node runs. While no node is known they are nowhere.
    pub split: BTreeMap<String, u32>,
    /// How many more a node runs until a replacement for somebody is ready.
    #[serde(default)]
    pub surge: BTreeMap<String, u32>,
    /// Who goes first where there are too many, cheapest first.
    pub drain: Vec<WorkerId>,
    /// How they run.
    pub shape: Shape,
}

/// How the workers of a pool run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Where they listen.
    pub listen: Vec<Listen>,
    /// The most that there can be.
    pub max_workers: u32,
    /// Request threads of each.
    pub threads_per_worker: u32,
    /// What a leaver has, milliseconds.
    pub drain_deadline_ms: u64,
}

impl DesiredPool {
    /// How many workers one node runs.
    #[must_use]
    pub fn share(&self, node: &str) -> u32 {
        let of = |shares: &BTreeMap<String, u32>| shares.get(node).copied().unwrap_or(0);
        of(&self.split).saturating_add(of(&self.surge))
    }

    /// What one node is told of this pool; a node without a share is told to run none, so that leftovers go.
    #[must_use]
    pub fn for_node(&self, node: &str) -> PoolPlan {
        let listen = |l: &Listen| PoolListen {
            bind: l.bind.to_string(),
            port: l.port.into(),
            tls: l.tls,
            http3: l.http3,
            raw: l.raw,
            udp: l.udp,
        };
        PoolPlan {
            pool: self.pool.to_string(),
            term: self.term,
            generation: self.generation.0,
            workers: self.share(node),
            drain: self.drain.iter().map(ToString::to_string).collect(),
            listen: self.shape.listen.iter().map(listen).collect(),
            max_workers: self.shape.max_workers,
            threads_per_worker: self.shape.threads_per_worker,
            drain_deadline_ms: self.shape.drain_deadline_ms,
        }
    }
}

impl From<&PoolPolicy> for Shape {
    fn from(policy: &PoolPolicy) -> Self {
        Self {
            listen: policy.listen.clone(),
            max_workers: policy.bounds().1,
            threads_per_worker: policy.threads(),
            drain_deadline_ms: u64::try_from(policy.drain_deadline.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// What a plan is made from.
#[derive(Debug, Clone, Copy)]
pub struct Basis<'b> {
    /// The pool.
    pub pool: &'b PoolName,
    /// How its workers run.
    pub shape: &'b Shape,
    /// Who could run them, and who is there.
    pub roster: &'b Roster,
    /// The plan that holds.
    pub current: Option<&'b DesiredPool>,
    /// Workers that people asked to leave; each is replaced before it goes.
    pub evicted: &'b BTreeSet<WorkerId>,
    /// The leader's term.
    pub term: u64,
}

/// The plan for `target` workers, if it differs from the one that holds. There is no first plan before there is a
/// node: the workers that it brings are to be counted first.
#[must_use]
pub fn plan(target: u32, basis: Basis<'_>) -> Option<DesiredPool> {
    let Basis { pool, shape, roster, current, evicted, term } = basis;
    let split = spread(target, roster, current);
    let surge = surge(&split, roster, evicted);
    let same =
        |c: &DesiredPool| c.workers == target && c.split == split && c.surge == surge && c.shape == *shape;
    if current.is_some_and(same) || (current.is_none() && roster.nodes.is_empty()) {
        return None;
    }
    let mut plan = DesiredPool {
        pool: pool.clone(),
        term,
        generation: Generation(current.map_or(0, |c| c.generation.0) + 1),
        workers: target,
        split,
        surge,
        drain: Vec::new(),
        shape: shape.clone(),
    };
    plan.drain = leavers(&plan, roster, evicted);
    Some(plan)
}

/// Shares of the nodes: as they were, with the difference put where there is most room for it and taken where there
/// is least. Shares of nodes that are not connected stay.
fn spread(target: u32, roster: &Roster, current: Option<&DesiredPool>) -> BTreeMap<String, u32> {
    let share = |node: &RosterNode| match current {
        Some(current) => current.split.get(&node.name).copied().unwrap_or(0),
        None => count(node.workers.iter()),
    };
    let mut shares: Vec<(&RosterNode, u32)> = roster.nodes.iter().map(|node| (node, share(node))).collect();
    loop {
        let placed = shares.iter().map(|(_, share)| *share).fold(0, u32::saturating_add);
        let able = shares.iter_mut().filter(|(node, _)| node.connected);
        // Ratios as cross-multiplied integers would need pairs; a per-mille ratio orders alike for any real node.
        let load = |node: &RosterNode, share: u32| u64::from(share) * 1000 / u64::from(node.cpus.max(1));
        if placed < target {
            // The name breaks ties, so that every leader plans the same.
            let Some(place) = able.min_by_key(|(node, share)| (load(node, share + 1), node.name.as_str()))
            else {
                break;
            };
            place.1 += 1;
        } else if placed > target {
            let fullest = able.filter(|(_, share)| *share > 0).max_by_key(|(node, share)| {
                let price = std::cmp::Reverse(cheapest(node).map(price));
                (load(node, *share), price, node.name.as_str())
            });
            let Some(place) = fullest else { break };
            place.1 -= 1;
        } else {
            break;
        }
    }
    shares
        .into_iter()
        .filter(|(_, share)| *share > 0)
        .map(|(node, share)| (node.name.clone(), share))
        .collect()
}

/// A node runs one more for each worker that was asked to leave, until the replacement is ready.
fn surge(
    split: &BTreeMap<String, u32>,
    roster: &Roster,
    evicted: &BTreeSet<WorkerId>,
) -> BTreeMap<String, u32> {
    let of_node = |node: &RosterNode| {
        let share = *split.get(&node.name)?;
        let going = count(node.workers.iter().filter(|w| evicted.contains(&w.id)));
        let ready = count(node.workers.iter().filter(|w| w.ready));
        (going > 0 && ready < share.saturating_add(going)).then(|| (node.name.clone(), going))
    };
    roster.nodes.iter().filter_map(of_node).collect()
}

/// Those that are too many on their nodes, the evicted first, then the cheapest.
fn leavers(plan: &DesiredPool, roster: &Roster, evicted: &BTreeSet<WorkerId>) -> Vec<WorkerId> {
    let mut leavers = Vec::new();
    for node in &roster.nodes {
        let surplus = count(node.workers.iter()).saturating_sub(plan.share(&node.name));
        let mut workers: Vec<_> = node.workers.iter().collect();
        workers.sort_by_key(|worker| (!evicted.contains(&worker.id), price(worker)));
        leavers.extend(workers.into_iter().take(surplus as usize));
    }
    leavers.sort_by_key(|worker| (!evicted.contains(&worker.id), price(worker)));
    leavers.into_iter().map(|worker| worker.id.clone()).collect()
}

fn cheapest(node: &RosterNode) -> Option<&RosterWorker> {
    node.workers.iter().min_by_key(|worker| price(worker))
}

/// What it costs that a worker leaves: its connections, then its requests. One that starts costs nothing.
fn price(worker: &RosterWorker) -> (bool, u64, u64, &WorkerId) {
    (worker.ready, worker.connections, worker.in_flight, &worker.id)
}

fn count<T>(items: impl Iterator<Item = T>) -> u32 {
    u32::try_from(items.count()).unwrap_or(u32::MAX)
}
