//! Who is there, from what nodes and workers say.
//!
//! ```text
//! nodes:    connected -> lost -> forgotten (after NODE_GRACE, unless its workers still report); back any time
//! workers:  starting -> ready -> draining -> ended (a node said so, or nothing says otherwise any more)
//! ```
//!
//! Silence is never taken for an end while a node says that the worker lives: such a worker is *missing*, and while
//! one is, nobody is removed.

mod crew;
mod member;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use api::{
    feed::LoadReport,
    node::{NodeStatus, WorkerStatus},
};
use model::{PoolName, WorkerId};

pub use crew::{Crew, Roster, RosterNode, RosterWorker};
pub use member::{Member, State};

use crate::{
    Time,
    demand::Cost,
    level::Levelling,
    window::{Arrival, Pressure},
};

/// A node that says nothing for this long is lost: its stream ended, or hangs.
const NODE_FRESH: Duration = Duration::from_secs(10);

/// A lost node's share is planned elsewhere after this long: a restart of its agent takes less.
pub const NODE_GRACE: Duration = Duration::from_secs(30);

/// A worker that no connected node vouches for is forgotten after this long without a report.
const ORPHAN_GRACE: Duration = Duration::from_secs(10);

/// Bounds on what is remembered; beyond them newcomers are not known.
const MAX_NODES: usize = 1024;
const MAX_WORKERS: usize = 8192;
const MAX_ENDED: usize = 1024;
const MAX_STARTS: usize = 64;

/// Levelling is worked out anew this often.
const WISH_LASTS: Duration = Duration::from_millis(500);

/// A start takes this long until one was measured.
const DEFAULT_START: Duration = Duration::from_secs(2);

/// Starts are measured within these bounds.
const START_BOUNDS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(60));

/// All nodes and workers.
#[derive(Debug, Default)]
pub struct Fleet {
    nodes: BTreeMap<String, Node>,
    members: BTreeMap<WorkerId, Member>,
    facts: BTreeMap<PoolName, Facts>,
    /// Workers that ended: what they said last may come late.
    ended: VecDeque<WorkerId>,
    reports_lost: u64,
}

/// A machine with an agent.
#[derive(Debug)]
struct Node {
    cpus: u32,
    seen: Time,
    lost_since: Option<Time>,
    /// The plan (term, generation) that it last acted on, per pool.
    acted: BTreeMap<PoolName, (u64, u64)>,
}

/// What is learned of a pool and outlives its workers.
#[derive(Debug, Default)]
struct Facts {
    cost: Cost,
    starts: VecDeque<Duration>,
    levelling: Option<Levelling>,
    /// What levelling wished last, and when: it looks at all workers of the pool.
    wish: Option<(Time, u64)>,
}

/// What happened to a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its pool.
    pub pool: PoolName,
    /// Which.
    pub worker: WorkerId,
    /// What.
    pub kind: ChangeKind,
}

/// What can happen to a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeKind {
    /// It was started.
    Started,
    /// It takes connections.
    Ready,
    /// It takes no new ones.
    Draining,
    /// It is gone; how, for people.
    Ended(String),
}

/// What a report amounted to.
#[derive(Debug, Clone, PartialEq)]
pub struct Heard {
    /// The worker's pool.
    pub pool: PoolName,
    /// How it fits those before it.
    pub arrival: Arrival,
    /// What it changed.
    pub change: Option<Change>,
    /// Above so many connections the worker should retire some; 0: no wish.
    pub retire_above: u64,
}

/// Why a message was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A name is not valid.
    #[error(transparent)]
    Name(#[from] model::InvalidName),
    /// The worker has ended.
    #[error("worker {0} has ended")]
    Ended(WorkerId),
    /// There are too many.
    #[error("{0} are known already; no more are")]
    Full(&'static str),
}

impl Fleet {
    /// Takes a node's status and returns what changed.
    ///
    /// # Errors
    ///
    /// There are too many nodes. Workers whose names are not valid are left out.
    pub fn status(&mut self, status: &NodeStatus, now: Time) -> Result<Vec<Change>, Refused> {
        if !self.nodes.contains_key(&status.node) && self.nodes.len() == MAX_NODES {
            return Err(Refused::Full("1024 nodes"));
        }
        let node = self.nodes.entry(status.node.clone()).or_insert_with(|| Node::new(now));
        (node.cpus, node.seen, node.lost_since) = (status.cpus, now, None);
        let mut changes = Vec::new();
        let mut living = BTreeSet::new();
        for pool_status in &status.pools {
            let Ok(pool) = pool_status.pool.parse::<PoolName>() else { continue };
            if let Some(node) = self.nodes.get_mut(&status.node) {
                node.acted.insert(pool.clone(), (pool_status.term, pool_status.generation));
            }
            for worker in &pool_status.workers {
                if let Ok(id) = worker.worker.parse::<WorkerId>() {
                    changes.extend(self.worker_status((&status.node, &pool), &id, worker, now));
                    living.insert(id);
                }
            }
        }
        let unnamed = |(id, member): (&WorkerId, &Member)| {
            (member.node.as_deref() == Some(&status.node) && !living.contains(id)).then(|| id.clone())
        };
        for id in self.members.iter().filter_map(unnamed).collect::<Vec<_>>() {
            changes.extend(self.end(&id, "its node knows it no more"));
        }
        Ok(changes)
    }

    fn worker_status(
        &mut self,
        (node, pool): (&str, &PoolName),
        id: &WorkerId,
        status: &WorkerStatus,
        now: Time,
    ) -> Vec<Change> {
        let Some(state) = State::of_status(status.state()) else {
            return self.end(id, &status.end).into_iter().collect();
        };
        let Ok((member, started)) = self.member(pool, id, now) else { return Vec::new() };
        member.node = Some(node.to_owned());
        (member.pid, member.slots) = (status.pid, status.slots);
        let change = member.advance(state, now);
        let start = Duration::from_millis(status.start_ms);
        let first_start = member.start.is_none() && !start.is_zero();
        if first_start {
            member.start = Some(start);
            self.facts.entry(pool.clone()).or_default().started_in(start);
        }
        let change = change.map(|kind| self.changed(pool, id, kind, now));
        started.into_iter().chain(change).collect()
    }

    /// Takes a worker's report.
    ///
    /// # Errors
    ///
    /// It is of a worker that ended, that has no valid name, or that is one too many.
    pub fn report(&mut self, report: &LoadReport, now: Time) -> Result<Heard, Refused> {
        let (pool, id) = (report.pool.parse::<PoolName>()?, report.worker.parse::<WorkerId>()?);
        let (member, mut change) = self.member(&pool, &id, now)?;
        let pool = member.pool.clone();
        let arrival = member.window.push(report, now);
        let phase = State::of_phase(report.phase());
        // A node's word on readiness counts, if there is one: it gives the slots.
        let advanced = phase.filter(|_| arrival != Arrival::Stale).and_then(|state| member.said(state, now));
        let ready = member.state == State::Ready;
        let facts = self.facts.entry(pool.clone()).or_default();
        if ready && arrival != Arrival::Stale {
            let micros = Duration::from_micros;
            facts.cost.learn(report.requests, micros(report.cpu_us), micros(report.window_us));
        }
        if let Arrival::AfterGap(lost) = arrival {
            self.reports_lost = self.reports_lost.saturating_add(lost);
        }
        if let Some(kind) = advanced {
            change = Some(self.changed(&pool, &id, kind, now));
        }
        let retire_above = self.retire_above(&pool, &id, now);
        Ok(Heard { pool, arrival, change, retire_above })
    }

    /// A node's stream ended.
    pub fn node_lost(&mut self, node: &str, now: Time) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.lost_since.get_or_insert(now);
        }
    }

    /// A node that a stored plan names and that may be about to connect.
    pub fn expect_node(&mut self, node: &str, now: Time) {
        if self.nodes.len() < MAX_NODES {
            let absent = || Node { lost_since: Some(now), ..Node::new(now) };
            self.nodes.entry(node.to_owned()).or_insert_with(absent);
        }
    }

    /// Lets time pass: silent nodes are lost, lost ones forgotten, and workers that nothing vouches for any more.
    pub fn expire(&mut self, now: Time) -> Vec<Change> {
        for node in self.nodes.values_mut().filter(|node| now.since(node.seen) > NODE_FRESH) {
            node.lost_since.get_or_insert(now);
        }
        let reporting: BTreeSet<String> =
            self.members.values().filter(|m| m.window.is_fresh(now)).filter_map(|m| m.node.clone()).collect();
        self.nodes.retain(|name, node| {
            reporting.contains(name) || node.lost_since.is_none_or(|lost| now.since(lost) < NODE_GRACE)
        });
        let vouched = |m: &Member| m.node.as_ref().is_some_and(|node| self.nodes.contains_key(node));
        let orphan =
            |m: &Member| !vouched(m) && now.since(m.window.last_at().unwrap_or(m.since)) > ORPHAN_GRACE;
        let orphans: Vec<_> =
            self.members.iter().filter(|(_, m)| orphan(m)).map(|(id, _)| id.clone()).collect();
        orphans
            .iter()
            .filter_map(|id| self.end(id, "neither it nor its node was heard of any more"))
            .collect()
    }

    /// All workers, or those of one pool.
    pub fn members<'f>(
        &'f self,
        pool: Option<&'f PoolName>,
    ) -> impl Iterator<Item = (&'f WorkerId, &'f Member)> {
        self.members.iter().filter(move |(_, member)| pool.is_none_or(|pool| member.pool == *pool))
    }

    /// The pools that have workers.
    #[must_use]
    pub fn pools(&self) -> BTreeSet<PoolName> {
        self.members.values().map(|member| member.pool.clone()).collect()
    }

    /// How many nodes are connected.
    #[must_use]
    pub fn connected_nodes(&self) -> usize {
        self.nodes.values().filter(|node| node.is_connected()).count()
    }

    /// How long a worker takes from its start to its readiness, at the 95th percentile of the last starts.
    #[must_use]
    pub fn start_p95(&self, pool: &PoolName) -> Duration {
        let mut starts: Vec<_> =
            self.facts.get(pool).into_iter().flat_map(|f| f.starts.iter().copied()).collect();
        starts.sort_unstable();
        let place = (starts.len() * 95).div_ceil(100).max(1);
        starts.get(place - 1).copied().unwrap_or(DEFAULT_START)
    }

    /// How many reports never came, as later ones showed.
    #[must_use]
    pub fn reports_lost(&self) -> u64 {
        self.reports_lost
    }

    /// How full a worker is.
    #[must_use]
    pub fn pressure(&self, worker: &WorkerId, saturation_delay: Duration, now: Time) -> Pressure {
        self.members.get(worker).map(|m| m.window.pressure(saturation_delay, now)).unwrap_or_default()
    }

    /// Levels a pool's connections, because somebody has too many.
    pub fn level(&mut self, pool: &PoolName, now: Time) {
        if let Some(facts) = self.facts.get_mut(pool) {
            facts.levelling.get_or_insert_with(|| Levelling::begin(now));
        }
    }

    fn retire_above(&mut self, pool: &PoolName, id: &WorkerId, now: Time) -> u64 {
        let Some(facts) = self.facts.get_mut(pool) else { return 0 };
        let Some(levelling) = facts.levelling else { return 0 };
        let connections = |m: &Member| m.window.connections(now).filter(|_| m.state == State::Ready);
        if facts.wish.is_none_or(|(at, _)| now.since(at) >= WISH_LASTS) {
            let ready = self.members.values().filter(|m| m.pool == *pool);
            facts.wish = levelling.retire_above(ready.filter_map(connections), now).map(|above| (now, above));
            if facts.wish.is_none() {
                facts.levelling = None;
            }
        }
        let own = self.members.get(id).and_then(connections);
        facts.wish.map(|(_, above)| above).filter(|above| own.is_some_and(|own| own > *above)).unwrap_or(0)
    }

    /// The worker, which is new if there is a change.
    fn member(
        &mut self,
        pool: &PoolName,
        id: &WorkerId,
        now: Time,
    ) -> Result<(&mut Member, Option<Change>), Refused> {
        let known = self.members.contains_key(id);
        if !known && self.ended.contains(id) {
            return Err(Refused::Ended(id.clone()));
        }
        if !known && self.members.len() == MAX_WORKERS {
            return Err(Refused::Full("8192 workers"));
        }
        let change = || Change { pool: pool.clone(), worker: id.clone(), kind: ChangeKind::Started };
        let change = (!known).then(change);
        Ok((self.members.entry(id.clone()).or_insert_with(|| Member::new(pool.clone(), now)), change))
    }

    /// A worker's new state; that it is starting was said when it became known.
    fn changed(&mut self, pool: &PoolName, id: &WorkerId, kind: ChangeKind, now: Time) -> Change {
        if kind == ChangeKind::Ready
            && self.members(Some(pool)).filter(|(_, m)| m.state == State::Ready).count() > 1
        {
            let facts = self.facts.entry(pool.clone()).or_default();
            (facts.levelling, facts.wish) = (Some(Levelling::begin(now)), None);
        }
        Change { pool: pool.clone(), worker: id.clone(), kind }
    }

    fn end(&mut self, id: &WorkerId, how: &str) -> Option<Change> {
        let known = self.members.remove(id);
        if known.is_none() && self.ended.contains(id) {
            return None;
        }
        if self.ended.len() == MAX_ENDED {
            self.ended.pop_front();
        }
        self.ended.push_back(id.clone());
        let kind = ChangeKind::Ended(how.to_owned());
        known.map(|member| Change { pool: member.pool, worker: id.clone(), kind })
    }
}

impl Node {
    fn new(now: Time) -> Self {
        Self { cpus: 0, seen: now, lost_since: None, acted: BTreeMap::new() }
    }

    fn is_connected(&self) -> bool {
        self.lost_since.is_none()
    }
}

impl Facts {
    fn started_in(&mut self, start: Duration) {
        if self.starts.len() == MAX_STARTS {
            self.starts.pop_front();
        }
        self.starts.push_back(start.clamp(START_BOUNDS.0, START_BOUNDS.1));
    }
}
