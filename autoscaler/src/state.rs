//! What the loop, the intake and the provider share.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use api::{admin, feed::LoadReport};
use model::{PoolName, WorkerId};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use crate::{
    DesiredPool, PoolPolicy, Time,
    events::{Event, EventKind, Events},
    fleet::{Change, ChangeKind, Fleet, Member},
    intake::Intake,
    provider::process::Nodes,
    traffic::Traffic,
    window::SHORT,
};

/// The policies of all pools. Empty: not known yet (there is always a default pool).
pub type Policies = BTreeMap<PoolName, PoolPolicy>;

/// The plans of all pools.
pub type Plans = BTreeMap<PoolName, DesiredPool>;

/// Workers that may wait to be replaced at a person's wish.
const MAX_EVICTIONS: usize = 256;

/// Whether this server may act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Leadership {
    /// It leads, and has applied all that was decided before.
    pub leader: bool,
    /// The current term.
    pub term: u64,
}

/// Why a worker is not being replaced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DrainError {
    /// There is no such worker.
    #[error("no worker {0}")]
    Unknown(WorkerId),
    /// Another server decides.
    #[error("this server does not lead")]
    NotLeading,
    /// Too many were asked for at once.
    #[error("{MAX_EVICTIONS} workers are being replaced already")]
    Busy,
}

/// The autoscaler. Clones are handles of one; [`crate::run()`] makes it act.
#[derive(Debug, Clone)]
pub struct Autoscaler {
    pub(crate) shared: Arc<Shared>,
}

impl Autoscaler {
    /// One that knows nothing yet. It plans for the pools in `policies` while `leadership` says that it may.
    #[must_use]
    pub fn new(policies: watch::Receiver<Policies>, leadership: watch::Receiver<Leadership>) -> Self {
        let shared = Shared {
            clock: Clock::default(),
            fleet: Mutex::default(),
            plans: watch::Sender::default(),
            servers: watch::Sender::default(),
            wake: Notify::new(),
            events: Events::default(),
            evictions: Mutex::default(),
            sessions: Mutex::default(),
            traffic: Mutex::default(),
            policies,
            leadership,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Where load reports go.
    #[must_use]
    pub fn intake(&self) -> Intake {
        Intake::new(Arc::clone(&self.shared))
    }

    /// The service that node agents connect to.
    #[must_use]
    pub fn nodes(&self) -> Nodes {
        Nodes::new(Arc::clone(&self.shared))
    }

    /// Where agents and workers reach the servers now, `host:port` each; nodes are told when it changes.
    pub fn reached_at(&self, servers: Vec<String>) {
        self.shared.servers.send_if_modified(|last| {
            let differs = *last != servers;
            *last = servers;
            differs
        });
    }

    /// What happened.
    #[must_use]
    pub fn events(&self) -> Events {
        self.shared.events.clone()
    }

    /// The plans that are stored, as far as this server knows.
    #[must_use]
    pub fn plans(&self) -> watch::Receiver<Arc<Plans>> {
        self.shared.plans.subscribe()
    }

    /// The workers of a pool or all, by name; `revision` and `nacks` are the feed's to fill in.
    #[must_use]
    pub fn workers(&self, pool: Option<&PoolName>) -> Vec<admin::Worker> {
        let now = self.shared.clock.now();
        self.shared.fleet().members(pool).map(|(id, member)| worker(id, member, now)).collect()
    }

    /// Replaces a worker: another one is started, then this one is drained.
    ///
    /// # Errors
    ///
    /// There is no such worker, or this server cannot do it now.
    pub fn drain(&self, worker: WorkerId) -> Result<(), DrainError> {
        if !self.shared.leadership.borrow().leader {
            return Err(DrainError::NotLeading);
        }
        if !self.shared.fleet().members(None).any(|(id, _)| *id == worker) {
            return Err(DrainError::Unknown(worker));
        }
        let mut evictions = lock(&self.shared.evictions);
        if evictions.len() >= MAX_EVICTIONS {
            return Err(DrainError::Busy);
        }
        evictions.insert(worker);
        self.shared.wake.notify_one();
        Ok(())
    }
}

/// Behind every handle. Locks are held for one pure step, never across a wait.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) clock: Clock,
    fleet: Mutex<Fleet>,
    /// What nodes are told.
    pub(crate) plans: watch::Sender<Arc<Plans>>,
    /// Where nodes reach the servers.
    pub(crate) servers: watch::Sender<Vec<String>>,
    /// Something that cannot wait for the next tick.
    pub(crate) wake: Notify,
    pub(crate) events: Events,
    evictions: Mutex<BTreeSet<WorkerId>>,
    sessions: Mutex<Sessions>,
    traffic: Mutex<Traffic>,
    pub(crate) policies: watch::Receiver<Policies>,
    pub(crate) leadership: watch::Receiver<Leadership>,
}

/// The newest stream of each connected node. A node that connects anew may do so before its old stream ends.
#[derive(Debug, Default)]
struct Sessions {
    last: u64,
    of_node: BTreeMap<String, u64>,
}

impl Shared {
    /// A node's stream begins; it is the node's newest.
    pub(crate) fn begin_session(&self, node: &str) -> u64 {
        let mut sessions = lock(&self.sessions);
        sessions.last += 1;
        let session = sessions.last;
        sessions.of_node.insert(node.to_owned(), session);
        session
    }

    /// A node's stream ends. Returns whether it was the node's newest.
    pub(crate) fn end_session(&self, node: &str, session: u64) -> bool {
        let mut sessions = lock(&self.sessions);
        let newest = sessions.of_node.get(node) == Some(&session);
        if newest {
            sessions.of_node.remove(node);
        }
        newest
    }

    pub(crate) fn fleet(&self) -> MutexGuard<'_, Fleet> {
        lock(&self.fleet)
    }

    pub(crate) fn traffic(&self) -> MutexGuard<'_, Traffic> {
        lock(&self.traffic)
    }

    /// The workers that people asked to leave since the last call.
    pub(crate) fn take_evictions(&self) -> BTreeSet<WorkerId> {
        std::mem::take(&mut *lock(&self.evictions))
    }

    pub(crate) fn is_saturated(&self, fleet: &Fleet, report: &LoadReport, now: Time) -> bool {
        let policies = self.policies.borrow();
        let (Some(policy), Ok(worker)) = (policies.get(report.pool.as_str()), report.worker.parse()) else {
            return false;
        };
        fleet.pressure(&worker, policy.saturation_delay, now).saturated
    }

    pub(crate) fn record_changes<'c>(&self, changes: impl IntoIterator<Item = &'c Change>) {
        for change in changes {
            let (kind, reason) = match &change.kind {
                ChangeKind::Started => (EventKind::WorkerStarted, change.worker.to_string()),
                ChangeKind::Ready => (EventKind::WorkerReady, change.worker.to_string()),
                ChangeKind::Ended(how) => (EventKind::WorkerEnded, format!("{}: {how}", change.worker)),
                // The scale-in that caused it is an event already.
                ChangeKind::Draining => continue,
            };
            let planned = self.plans.borrow().get(&change.pool).map_or(0, |plan| plan.workers);
            self.record(&change.pool, kind, reason, (planned, planned));
        }
    }

    pub(crate) fn record(
        &self,
        pool: &PoolName,
        kind: EventKind,
        reason: String,
        (before, after): (u32, u32),
    ) {
        let at_ms = self.clock.unix_ms();
        self.events.record(Event { at_ms, pool: pool.clone(), kind, reason, before, after });
    }
}

/// The process's clock: monotonic, with the wall clock's time of its start.
#[derive(Debug)]
pub(crate) struct Clock {
    origin: Instant,
    origin_unix: Duration,
}

impl Default for Clock {
    fn default() -> Self {
        let origin_unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { origin: Instant::now(), origin_unix }
    }
}

impl Clock {
    pub(crate) fn now(&self) -> Time {
        Time::ZERO + self.origin.elapsed()
    }

    fn unix_ms(&self) -> i64 {
        i64::try_from((self.origin_unix + self.origin.elapsed()).as_millis()).unwrap_or(i64::MAX)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves figures that the next report corrects.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn worker(id: &WorkerId, member: &Member, now: Time) -> admin::Worker {
    let load = member.window.over(SHORT, now).unwrap_or_default();
    let finished = load.requests_per_second.max(f64::MIN_POSITIVE);
    admin::Worker {
        worker: id.to_string(),
        pool: member.pool.to_string(),
        node: member.node.clone().unwrap_or_default(),
        pid: member.pid,
        state: member.state.as_str().to_owned(),
        slots: member.slots,
        requests_per_second: load.requests_per_second,
        cpu: load.cpu_cores,
        connections: load.connections,
        in_flight: load.in_flight,
        memory_bytes: load.memory_bytes,
        latency_p50_us: load.latency_p50_us,
        latency_p99_us: load.latency_p99_us,
        error_ratio: (load.errors_per_second / finished).min(1.0),
        ..admin::Worker::default()
    }
}
