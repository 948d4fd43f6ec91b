//! What one pool does on this node.
//!
//! Pure: [`Pool::handle`] takes an input and the time, and returns the actions that bring the pool nearer to its
//! plan. After each input the whole pool is compared with the plan again, so a lost or late input delays and never
//! misleads.
//!
//! # Workers
//!
//! `Starting -> Ready -> Draining -> ended`, or ended from anywhere. A worker leaves because there are too many, or
//! unasked (SIGTERM). A leaver first hands over its slots, then gets `Drain`. Whoever is late is killed.
//!
//! # What is never done
//!
//! A plan below the last one is never acted on. Without a server the last plan holds: the dead are replaced, and a
//! waiting connection takes a sleeping pool from none to one; nothing more.

mod intake;
mod reconcile;
mod worker;

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use api::{
    agent::{Listen, ToAgent, ToWorker},
    node::{PoolStatus, WorkerStatus},
};
use model::{PoolName, WorkerId};

use self::worker::Worker;
use crate::{
    Timing,
    plan::Plan,
    slots::{Group, Steering},
};

/// How long connections may outlast the beginning of a drain where no plan says so.
pub const DEFAULT_DRAIN_DEADLINE: Duration = Duration::from_secs(30);

/// What happens to a pool.
#[derive(Debug, Clone)]
pub enum Input {
    /// A server's plan, or the one that an agent before this kept.
    Plan(Plan),
    /// The worker was started.
    Started {
        /// Which.
        worker: WorkerId,
        /// Its process.
        pid: u32,
    },
    /// The worker said this.
    Said {
        /// Which.
        worker: WorkerId,
        /// What. Sockets beside it have been kept already.
        message: ToAgent,
    },
    /// The connection to the worker ended.
    Unlinked(WorkerId),
    /// The worker's process is gone, or could not be started.
    Ended {
        /// Which.
        worker: WorkerId,
        /// How, for people.
        how: String,
    },
    /// Sockets were bound.
    Bound {
        /// The address.
        listen: Listen,
        /// Their numbers.
        slots: Vec<u32>,
        /// Why they are fewer than was asked for, for people.
        problem: Option<String>,
    },
    /// A connection waits and nobody listens.
    Waiting,
    /// The slot's queue stands.
    Standing {
        /// The address.
        listen: Listen,
        /// The slot.
        slot: u32,
    },
    /// Drain all workers and close all sockets.
    Stop,
    /// Time passed.
    Tick,
}

/// What to do for a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Start a worker; answered with [`Input::Started`] or [`Input::Ended`].
    Start(WorkerId),
    /// Tell it who it is.
    Welcome(WorkerId),
    /// Tell it that; sockets go with a `Lend`.
    Send(WorkerId, ToWorker),
    /// SIGTERM: it drains by itself.
    Terminate(WorkerId),
    /// SIGKILL.
    Kill(WorkerId),
    /// Tell the kernel how to spread a UDP address's datagrams.
    Steer(Listen, Steering),
    /// Bind sockets of these numbers; answered with [`Input::Bound`].
    Bind(Listen, Vec<u32>),
    /// Close our copies of the address's sockets.
    Close(Listen),
}

/// A worker that a new agent expects from the one before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Which.
    pub worker: WorkerId,
    /// Its process, which lives.
    pub pid: u32,
}

/// One pool's workers and sockets.
#[derive(Debug)]
pub struct Pool {
    name: PoolName,
    timing: Timing,
    names: Names,
    plan: Option<Plan>,
    addresses: BTreeMap<Listen, Address>,
    /// Slot numbers of addresses that are not listened on now, or not yet again.
    next_slots: BTreeMap<Listen, u32>,
    workers: BTreeMap<WorkerId, Worker>,
    ended: VecDeque<WorkerStatus>,
    /// While a worker of the last agent has not answered, until then at most.
    recovery: Option<Instant>,
    failures: u32,
    next_start: Option<Instant>,
    failed_at: Option<Instant>,
    last_failure: String,
    refused: String,
    woken: bool,
    stopping: bool,
    crashes: u64,
    relieved: u64,
}

#[derive(Debug)]
struct Address {
    group: Group,
    binding: Binding,
    /// No longer planned; gone when no worker has any of it.
    closing: bool,
}

#[derive(Debug)]
enum Binding {
    Idle,
    Asked,
    Failed { why: String, again: Instant },
}

/// Names for workers, unique as long as the prefix is.
#[derive(Debug)]
struct Names {
    prefix: String,
    next: u64,
}

impl Pool {
    /// A pool without a plan. `boot` is unique to this agent's life, of a-z and 0-9, short.
    #[must_use]
    pub fn new(name: PoolName, boot: &str, timing: Timing) -> Self {
        // A worker's name is a label of at most 63 bytes.
        let short: String = name.as_str().chars().take(30).collect();
        let names = Names { prefix: format!("{short}-{boot}"), next: 1 };
        Self {
            name,
            timing,
            names,
            plan: None,
            addresses: BTreeMap::new(),
            next_slots: BTreeMap::new(),
            workers: BTreeMap::new(),
            ended: VecDeque::new(),
            recovery: None,
            failures: 0,
            next_start: None,
            failed_at: None,
            last_failure: String::new(),
            refused: String::new(),
            woken: false,
            stopping: false,
            crashes: 0,
            relieved: 0,
        }
    }

    /// Takes over from an agent that is gone: its living workers are waited for, for a short time, before anything is
    /// bound or started. `next_slots` are its slot numbers.
    pub fn take_over(
        &mut self,
        known: Vec<Known>,
        next_slots: impl IntoIterator<Item = (Listen, u32)>,
        now: Instant,
    ) {
        self.next_slots.extend(next_slots);
        self.recovery = Some(now + self.timing.recovery);
        let until = now + self.timing.relink;
        for Known { worker, pid } in known {
            self.workers.insert(worker, Worker::expected(pid, until, now));
        }
    }

    /// Takes an input in, and returns what to do, in this order.
    pub fn handle(&mut self, input: Input, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        match input {
            Input::Plan(plan) => self.plan(plan),
            Input::Started { worker, pid } => self.on(&worker, |w| w.pid = Some(pid)),
            Input::Said { worker, message } => self.said(&worker, message, now, &mut actions),
            Input::Unlinked(worker) => self.unlinked(&worker, now),
            Input::Ended { worker, how } => self.ended(&worker, &how, now),
            Input::Bound { listen, slots, problem } => self.bound(&listen, &slots, problem, now),
            Input::Waiting => self.woken |= self.asleep(),
            Input::Standing { listen, slot } => self.standing(&listen, slot),
            Input::Stop => {
                self.stopping = true;
                self.recovery = None;
            }
            Input::Tick => {}
        }
        self.reconcile(now, &mut actions);
        actions
    }

    /// Whether connections should wake the pool: none are planned, and nobody listens.
    #[must_use]
    pub fn asleep(&self) -> bool {
        self.plan.is_some()
            && self.target() == 0
            && !self.stopping
            && self.recovery.is_none()
            && self.addresses.values().all(|a| !a.group.is_held())
    }

    /// Whether it was told to stop and nothing is left of it.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.stopping && self.workers.is_empty()
    }

    /// The plan that it acts on.
    #[must_use]
    pub fn current_plan(&self) -> Option<&Plan> {
        self.plan.as_ref()
    }

    /// The workers that are not known to have ended.
    pub fn workers(&self) -> impl Iterator<Item = &WorkerId> {
        self.workers.keys()
    }

    /// The next free slot number of each address, to be kept for the next agent: a worker that it finds late may
    /// bring slots of lower numbers.
    pub fn next_slots(&self) -> impl Iterator<Item = (&Listen, u32)> {
        let closed = self.next_slots.iter().filter(|(listen, _)| !self.addresses.contains_key(listen));
        let open = self.addresses.iter().map(|(listen, address)| (listen, address.group.next()));
        open.chain(closed.map(|(listen, next)| (listen, *next)))
    }

    /// Workers that ended unasked, in the agent's life.
    #[must_use]
    pub fn crashes(&self) -> u64 {
        self.crashes
    }

    /// Workers that were relieved of their slots because a queue stood, in the agent's life.
    #[must_use]
    pub fn relieved(&self) -> u64 {
        self.relieved
    }

    /// What the servers are told.
    #[must_use]
    pub fn status(&self) -> PoolStatus {
        let version = self.plan.as_ref().map(|plan| plan.version).unwrap_or_default();
        let living = self.workers.iter().map(|(id, worker)| {
            let slots = self.addresses.values().map(|a| a.group.held_by(id)).sum::<usize>();
            worker.status(id, u32::try_from(slots).unwrap_or(u32::MAX))
        });
        let slots = self.addresses.values().map(|a| a.group.len()).sum::<usize>();
        PoolStatus {
            pool: self.name.to_string(),
            term: version.term,
            generation: version.generation,
            workers: living.chain(self.ended.iter().cloned()).collect(),
            problem: self.problem(),
            slots: u32::try_from(slots).unwrap_or(u32::MAX),
        }
    }

    fn problem(&self) -> String {
        let mut problems = Vec::new();
        if self.recovery.is_some() {
            problems.push("waiting for the workers of an earlier agent".to_owned());
        }
        for address in self.addresses.values() {
            if let Binding::Failed { why, .. } = &address.binding {
                problems.push(why.clone());
            }
        }
        if self.failures > 0 {
            problems.push(format!("{} workers in a row failed: {}", self.failures, self.last_failure));
        }
        if self.woken {
            problems.push("woken by a connection".to_owned());
        }
        if !self.refused.is_empty() {
            problems.push(self.refused.clone());
        }
        for (id, _) in self.workers.iter().filter(|(_, worker)| worker.stuck) {
            problems.push(format!("worker {id} does not take its connections"));
        }
        problems.join("; ")
    }
}

impl Address {
    fn new(listen: &Listen, next_slots: &mut BTreeMap<Listen, u32>) -> Self {
        let next = next_slots.remove(listen).unwrap_or(0);
        Self { group: Group::new(listen, next), binding: Binding::Idle, closing: false }
    }
}

impl Binding {
    fn may_begin(&self, now: Instant) -> bool {
        match self {
            Self::Idle => true,
            Self::Asked => false,
            Self::Failed { again, .. } => now >= *again,
        }
    }
}

impl Names {
    fn next(&mut self) -> WorkerId {
        let name = format!("{}-{}", self.prefix, self.next);
        self.next += 1;
        name.parse().expect("a pool's name, alphanumerics and a number make a label of at most 63 bytes")
    }
}

#[cfg(test)]
mod tests;
