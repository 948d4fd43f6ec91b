//! Active health checks: one task for each endpoint of a backend that asks for them, on the helper thread, whatever the
//! number of request threads and connections. What they find, request threads read once a tick.

mod probe;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use model::{BackendId, EndpointAddress, HealthCheck, TenantId};
use tokio::{sync::Semaphore, task::AbortHandle};
use tracing::{debug, info, warn};

use super::transport::Transport;
use crate::{
    limits::{CHECKED_ENDPOINTS, CHECKS_AT_ONCE},
    shared::{Phase, Shared},
};

/// Whose endpoint, and where.
type Key = (TenantId, BackendId, SocketAddr);

/// What the checks of an endpoint have found.
#[derive(Debug, Default)]
pub(crate) struct Vital(AtomicU8);

const UNKNOWN: u8 = 0;
const UP: u8 = 1;
const DOWN: u8 = 2;

impl Vital {
    /// Whether checks have failed. One that was not checked yet is taken to be up: a worker that starts must not refuse
    /// what its checks have not come to.
    pub(crate) fn is_down(&self) -> bool {
        self.0.load(Ordering::Relaxed) == DOWN
    }
}

/// What is known of all endpoints that are checked; shared by the threads of a worker.
#[derive(Debug, Default)]
pub(crate) struct Vitals(Mutex<HashMap<Key, Arc<Vital>>>);

impl Vitals {
    /// Of one endpoint. Takes a lock: threads keep what they get for as long as they have the endpoint.
    pub(crate) fn of(&self, tenant: &TenantId, backend: &BackendId, address: SocketAddr) -> Arc<Vital> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry((tenant.clone(), backend.clone(), address)).or_default())
    }

    /// Forgets those that nobody holds.
    fn prune(&self) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, vital| Arc::strong_count(vital) > 1);
    }
}

/// What a task checks, and how.
#[derive(Debug, Clone)]
struct Target {
    key: Key,
    check: HealthCheck,
    transport: Transport,
}

impl PartialEq for Target {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key && self.check == other.check && self.transport.key() == other.transport.key()
    }
}

/// A task that runs until it is dropped.
struct Running {
    target: Target,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How often new addresses of names are looked for.
const LOOK: Duration = Duration::from_secs(1);

/// Runs the checks of the active configuration until the worker is drained. A check that stays as it is goes on when the
/// configuration changes.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut phase = shared.phase.subscribe();
    let mut activated = shared.activated.subscribe();
    let places = Arc::new(Semaphore::new(CHECKS_AT_ONCE));
    let mut running: HashMap<Key, Running> = HashMap::new();
    let (mut names, mut is_due) = (0, true);
    loop {
        let resolved = shared.resolved.load().version;
        if is_due || resolved != names {
            names = resolved;
            let wanted = wanted(&shared);
            running.retain(|key, running| wanted.get(key) == Some(&running.target));
            for (key, target) in wanted {
                running.entry(key).or_insert_with(|| {
                    let task = watch(Arc::clone(&shared), target.clone(), Arc::clone(&places));
                    Running { target, task: tokio::spawn(task).abort_handle() }
                });
            }
            shared.vitals.prune();
        }
        is_due = tokio::select! {
            _ = phase.wait_for(|phase| *phase == Phase::Drained) => return,
            _ = activated.changed() => true,
            () = tokio::time::sleep(LOOK) => false,
        };
    }
}

/// All that is to be checked.
fn wanted(shared: &Shared) -> HashMap<Key, Target> {
    let (config, names) = (shared.config.load(), shared.resolved.load());
    let mut wanted = HashMap::new();
    for (_, table) in config.tenants.iter() {
        for backend in table.backends.values() {
            let Some(check) = &backend.traffic.health_check else { continue };
            let tls = table.upstream_tls.get(&backend.id).cloned();
            if tls.is_some() != backend.tls.is_some() {
                continue;
            }
            let transport = Transport::new(backend, tls);
            let addresses = backend.endpoints.iter().flat_map(|endpoint| match &endpoint.address {
                EndpointAddress::Ip(address) => vec![*address],
                EndpointAddress::Dns { host, port } => {
                    names.addresses(host).iter().map(|ip| SocketAddr::new(*ip, *port)).collect()
                }
            });
            for address in addresses.filter(|address| !model::is_denied(address.ip())) {
                if wanted.len() >= CHECKED_ENDPOINTS {
                    warn!(
                        most = CHECKED_ENDPOINTS,
                        "too many endpoints to check; the others are taken to be up"
                    );
                    return wanted;
                }
                let key = (table.tenant.clone(), backend.id.clone(), address);
                let target = Target { key: key.clone(), check: check.clone(), transport: transport.clone() };
                wanted.insert(key, target);
            }
        }
    }
    wanted
}

/// Checks one endpoint for ever.
async fn watch(shared: Arc<Shared>, target: Target, places: Arc<Semaphore>) {
    let (tenant, backend, address) = &target.key;
    let vital = shared.vitals.of(tenant, backend, *address);
    let mut streak = Streak::default();
    loop {
        // The semaphore is never closed.
        let place = places.acquire().await;
        let result = match tokio::time::timeout(target.check.timeout, probe::probe(&target)).await {
            Ok(result) => result,
            Err(_) => Err("it did not answer in time".to_owned()),
        };
        drop(place);
        shared.helper.health_checks.add(1);
        shared.helper.health_check_failures.add(u64::from(result.is_err()));
        if let Err(problem) = &result {
            debug!(%tenant, %backend, %address, problem, "a health check failed");
        }
        let before = vital.0.load(Ordering::Relaxed);
        let after = streak.next(before, result.is_ok(), &target.check);
        if after != before {
            vital.0.store(after, Ordering::Relaxed);
            match result {
                Err(problem) => warn!(%tenant, %backend, %address, problem, "an endpoint is down"),
                Ok(()) if before == DOWN => info!(%tenant, %backend, %address, "an endpoint is up again"),
                Ok(()) => debug!(%tenant, %backend, %address, "an endpoint is up"),
            }
        }
        tokio::time::sleep(jittered(target.check.interval, rand::random())).await;
    }
}

/// Checks in a row that say the opposite of what is known.
#[derive(Debug, Default)]
struct Streak(u32);

impl Streak {
    /// What is known after another check. The first one decides by itself.
    fn next(&mut self, known: u8, passed: bool, check: &HealthCheck) -> u8 {
        let says = if passed { UP } else { DOWN };
        if says == known {
            self.0 = 0;
            return known;
        }
        self.0 += 1;
        let enough = match (known, passed) {
            (UNKNOWN, _) => 1,
            (_, true) => check.healthy_threshold,
            (_, false) => check.unhealthy_threshold,
        };
        if self.0 < enough {
            return known;
        }
        self.0 = 0;
        says
    }
}

/// The interval, a tenth more or less: checks of many workers must not come together.
fn jittered(interval: Duration, random: u32) -> Duration {
    interval.mul_f64(0.9 + 0.2 * f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use model::CheckKind;

    use super::*;

    #[test]
    fn thresholds_are_reached_in_a_row() {
        let check = HealthCheck {
            kind: CheckKind::Tcp,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            healthy_threshold: 2,
            unhealthy_threshold: 3,
        };
        let run = |results: &str| {
            let (mut streak, mut known) = (Streak::default(), UNKNOWN);
            let each = |result: char| {
                known = streak.next(known, result == '+', &check);
                ['?', 'u', 'd'][usize::from(known)]
            };
            results.chars().map(each).collect::<String>()
        };
        assert_eq!(run("+--+---+-++"), "uuuuuuddddu");
        assert_eq!(run("-+-++"), "ddddu", "the first check decides by itself");
    }

    #[test]
    fn an_interval_varies_by_a_tenth() {
        let interval = Duration::from_secs(10);
        assert_eq!(jittered(interval, 0), Duration::from_secs(9));
        assert_eq!(jittered(interval, u32::MAX), Duration::from_secs(11));
    }
}
