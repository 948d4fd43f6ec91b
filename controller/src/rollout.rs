//! How a change that concerns all workers (a pool's settings and what they do to every tenant) goes out: to one worker
//! of each pool, then to a tenth, then to all. Pure.
//!
//! ```text
//! one worker -> a tenth -> all -> done      each step when all that have it acknowledged it
//!       \___________\_______\
//!                            held           one refused it, left without a word twice, or is late
//! ```
//!
//! A held change goes on by itself when what held it is gone (the late worker acknowledges after all); else it waits for
//! the next change. The waves are this server's own: each server begins with one of the workers that it feeds.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use model::{PoolName, WorkerId};

/// How long a wave may take to acknowledge. A worker that compiles every tenant anew needs a second or two; one that
/// hangs is known to be lost by its connection in about as long as this.
pub(crate) const WAVE_TIMEOUT: Duration = Duration::from_secs(15);

/// Workers of a wave that may leave without a word, beside a tenth of it: the autoscaler takes workers away too.
const LOSSES: usize = 1;

/// The last wave: all workers.
const LAST: u8 = 2;

/// How far one worker is with the change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It has not answered, or was not sent it.
    Waiting,
    /// It serves it.
    Active,
    /// It refused it, and why.
    Refused(String),
}

/// What has become of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stage {
    /// On its way.
    Running,
    /// No further worker gets it, and why.
    Held(String),
    /// All workers have it.
    Done,
}

/// One change on its way.
#[derive(Debug)]
pub(crate) struct Rollout {
    /// Which change it is.
    pub(crate) number: u64,
    /// Whether it ends where there are no workers. After a start it does not: they are about to come.
    pub(crate) ends_alone: bool,
    pools: BTreeMap<PoolName, Waves>,
    /// Served the change before: they go first again, so that a second mistake hits nobody new.
    first: BTreeSet<WorkerId>,
}

#[derive(Debug)]
struct Waves {
    wave: u8,
    opened: Instant,
    admitted: BTreeSet<WorkerId>,
    lost: usize,
    stage: Stage,
}

impl Rollout {
    /// The change with this number, in place of `before` if that is still on its way.
    pub(crate) fn new(number: u64, ends_alone: bool, before: Option<&Self>) -> Self {
        let first = before.iter().flat_map(|b| b.pools.values()).flat_map(|w| w.admitted.clone()).collect();
        Self { number, ends_alone, pools: BTreeMap::new(), first }
    }

    /// Whether the worker may have the change.
    pub(crate) fn admits(&self, pool: &PoolName, worker: &WorkerId) -> bool {
        self.pools.get(pool).is_some_and(|waves| waves.admitted.contains(worker))
    }

    /// When something is to be judged again although nothing happened.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let running = self.pools.values().filter(|w| w.stage == Stage::Running);
        running.map(|waves| waves.opened + WAVE_TIMEOUT).min()
    }

    /// Looks at the workers that there are and admits more where it may. Returns what has become of the change, and
    /// whether any worker was admitted.
    pub(crate) fn judge<'w>(
        &mut self,
        workers: impl Iterator<Item = (&'w PoolName, &'w WorkerId, Standing)>,
        now: Instant,
    ) -> (Stage, bool) {
        let mut by_pool: BTreeMap<&PoolName, BTreeMap<&WorkerId, Standing>> = BTreeMap::new();
        for (pool, worker, standing) in workers {
            by_pool.entry(pool).or_default().insert(worker, standing);
        }
        if by_pool.is_empty() && !self.ends_alone {
            return (Stage::Running, false);
        }
        self.pools.retain(|pool, _| by_pool.contains_key(pool));
        let mut admitted = false;
        for (pool, workers) in &by_pool {
            let waves = self.pools.entry((*pool).clone()).or_insert_with(|| Waves::new(now));
            admitted |= waves.judge(workers, &self.first, now);
        }
        (self.stage(), admitted)
    }

    /// What has become of the change.
    pub(crate) fn stage(&self) -> Stage {
        let stages = || self.pools.values().map(|waves| &waves.stage);
        match stages().find(|stage| matches!(stage, Stage::Held(_))) {
            Some(held) => held.clone(),
            None if stages().all(|stage| *stage == Stage::Done) => Stage::Done,
            None => Stage::Running,
        }
    }
}

impl Waves {
    fn new(now: Instant) -> Self {
        Self { wave: 0, opened: now, admitted: BTreeSet::new(), lost: 0, stage: Stage::Running }
    }

    fn judge(
        &mut self,
        workers: &BTreeMap<&WorkerId, Standing>,
        first: &BTreeSet<WorkerId>,
        now: Instant,
    ) -> bool {
        let before = self.admitted.len();
        self.admitted.retain(|worker| workers.contains_key(worker));
        // One that left after it had answered counts as well: that it was well afterwards, nobody knows.
        self.lost += before - self.admitted.len();
        let mut admitted = false;
        loop {
            let wanted = size(self.wave, workers.len());
            if let Some(why) = self.hindrance(workers, wanted, now) {
                self.stage = Stage::Held(why);
                return admitted;
            }
            self.stage = Stage::Running;
            // Those of the change before first, then by name: all servers of one order.
            let mut next: Vec<_> = workers.keys().filter(|w| !self.admitted.contains(**w)).collect();
            next.sort_by_key(|worker| !first.contains(**worker));
            for worker in next.into_iter().take(wanted.saturating_sub(self.admitted.len())) {
                admitted |= self.admitted.insert((*worker).clone());
            }
            if !self.admitted.iter().all(|worker| workers[worker] == Standing::Active) {
                return admitted;
            }
            if self.wave == LAST {
                self.stage = Stage::Done;
                return admitted;
            }
            self.wave += 1;
            self.opened = now;
            self.lost = 0;
        }
    }

    /// Why no further worker may have it.
    fn hindrance(
        &self,
        workers: &BTreeMap<&WorkerId, Standing>,
        wanted: usize,
        now: Instant,
    ) -> Option<String> {
        let standing = |wanted: fn(&Standing) -> bool| {
            self.admitted.iter().filter(move |worker| wanted(&workers[*worker]))
        };
        let refused = standing(|s| matches!(s, Standing::Refused(_))).next();
        if let Some((worker, Standing::Refused(why))) = refused.map(|worker| (worker, &workers[worker])) {
            return Some(format!("worker {worker} refused it: {why}"));
        }
        if self.lost > LOSSES + wanted / 10 {
            return Some(format!("{} workers left after they had been sent it", self.lost));
        }
        let late = standing(|s| *s == Standing::Waiting).next()?;
        (now.saturating_duration_since(self.opened) >= WAVE_TIMEOUT)
            .then(|| format!("worker {late} has not acknowledged it within {} s", WAVE_TIMEOUT.as_secs()))
    }
}

/// Workers of `all` that a wave has.
fn size(wave: u8, all: usize) -> usize {
    match wave {
        0 => all.min(1),
        1 => all.div_ceil(10),
        _ => all,
    }
}
