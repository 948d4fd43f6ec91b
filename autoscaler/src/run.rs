//! The loop: once a second, and at once when something cannot wait.

mod pool;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use model::PoolName;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tracing::info;

use self::pool::Pool;
use crate::{
    execute::Desired,
    metric,
    provider::Provider,
    state::{Autoscaler, Leadership, Plans, Policies, Shared},
};

/// Reports come once a second; looking more often sees the same.
const TICK: Duration = Duration::from_secs(1);

/// Events make rounds at most this often, however many there are.
const MIN_PAUSE: Duration = Duration::from_millis(100);

/// Runs until `shutdown` is `true` or its sender is gone. While this server leads it decides and stores plans; while
/// it does not, it follows what is stored, and knows it at once when it leads; nodes are told where the leader is.
///
/// May be dropped at any time: a plan is stored whole or not at all, and known to nobody before it is.
pub async fn run(
    autoscaler: Autoscaler,
    desired: Arc<dyn Desired>,
    provider: Arc<dyn Provider>,
    mut shutdown: watch::Receiver<bool>,
) {
    let shared = autoscaler.shared;
    let mut policies = shared.policies.clone();
    let mut leadership = shared.leadership.clone();
    let mut rounds = Rounds {
        shared: Arc::clone(&shared),
        desired,
        provider,
        pools: BTreeMap::new(),
        leadership: Leadership::default(),
        reports_lost: 0,
    };
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stop = async { drop(shutdown.wait_for(|down| *down).await) };
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => return,
            _ = ticks.tick() => {}
            () = shared.wake.notified() => {}
            Ok(()) = policies.changed() => {}
            Ok(()) = leadership.changed() => {}
        }
        let began = Instant::now();
        tokio::select! {
            () = &mut stop => return,
            () = rounds.round() => {}
        }
        tokio::select! {
            () = &mut stop => return,
            () = sleep_until(began + MIN_PAUSE) => {}
        }
    }
}

/// What the loop remembers from round to round.
struct Rounds {
    shared: Arc<Shared>,
    desired: Arc<dyn Desired>,
    provider: Arc<dyn Provider>,
    pools: BTreeMap<PoolName, Pool>,
    leadership: Leadership,
    reports_lost: u64,
}

impl Rounds {
    async fn round(&mut self) {
        let shared = Arc::clone(&self.shared);
        let leadership = *shared.leadership.borrow();
        if leadership != self.leadership {
            info!(leadership.leader, leadership.term, "leadership changed");
            self.leadership = leadership;
            self.pools.values_mut().for_each(Pool::begin_term);
        }
        let expired = shared.fleet().expire(shared.clock.now());
        shared.record_changes(&expired);
        let policies: Policies = shared.policies.borrow().clone();
        if policies.is_empty() {
            return;
        }
        self.meet(&policies);
        let evictions = shared.take_evictions();
        for (name, pool) in &mut self.pools {
            if leadership.leader {
                pool.evict(&evictions, &shared);
                let policy = policies.get(name);
                pool.lead(policy, leadership.term, &shared, &*self.desired).await;
            } else {
                pool.follow(&*self.desired).await;
            }
        }
        let plans: Plans =
            self.pools.values().filter_map(Pool::plan).map(|p| (p.pool.clone(), p.clone())).collect();
        self.provider.provide(&Arc::new(plans));
        self.measure();
    }

    /// Pools are those with a policy, and those that were deleted and still have workers or a plan.
    fn meet(&mut self, policies: &Policies) {
        let mut names: BTreeSet<PoolName> = self.shared.fleet().pools();
        names.extend(policies.keys().cloned());
        self.pools.retain(|name, pool| names.contains(name) || pool.plan().is_some());
        for name in names {
            self.pools.entry(name).or_insert_with_key(|name| Pool::new(name.clone()));
        }
    }

    fn measure(&mut self) {
        let (nodes, lost) = {
            let fleet = self.shared.fleet();
            (fleet.connected_nodes(), fleet.reports_lost())
        };
        metrics::gauge!(metric::NODES).set(nodes as f64);
        metrics::counter!(metric::REPORTS_LOST).increment(lost - self.reports_lost);
        self.reports_lost = lost;
    }
}
