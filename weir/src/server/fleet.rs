//! Puts controller, autoscaler and store together: each knows the others only by a trait or a channel.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use api::{admin, node::nodes_server::NodesServer, pki::Role};
use autoscaler::{Autoscaler, Capacity, DrainError, Policies, PoolPolicy, Stored, Version};
use controller::{EventStream, FleetError, PoolState, ReplyStream, ReportStream, World};
use dialect::PoolSpec;
use futures_util::{StreamExt as _, future::BoxFuture, stream};
use model::{ListenerProtocol, PoolName, Revision, WorkerId};
use store::{Handle, Read};
use tokio::sync::{broadcast::error::RecvError, watch};
use tonic::service::Routes;

/// The autoscaler as the controller sees it.
pub(crate) struct Fleet {
    autoscaler: Autoscaler,
    policies: watch::Sender<Policies>,
    store: Handle,
}

/// Who belongs to the cluster changes by hand.
const LOOK: Duration = Duration::from_secs(1);

/// Tells nodes where the servers are.
async fn follow_members(fleet: Weak<Fleet>) {
    while let Some(fleet) = fleet.upgrade() {
        fleet.autoscaler.reached_at(controller::servers(&fleet.store));
        drop(fleet);
        tokio::time::sleep(LOOK).await;
    }
}

impl Fleet {
    /// Starts the autoscaler's loop; it decides nothing before [`Fleet::follow`] tells it of pools.
    pub(crate) fn start(store: Handle, shutdown: watch::Receiver<bool>) -> Arc<Self> {
        let (policies, follower) = watch::channel(Policies::new());
        let autoscaler = Autoscaler::new(follower, leadership(store.leadership()));
        let plans = Arc::new(Plans(controller::Desired::new(store.clone())));
        let nodes = Arc::new(autoscaler.nodes());
        tokio::spawn(autoscaler::run(autoscaler.clone(), plans, nodes, shutdown));
        let fleet = Arc::new(Self { autoscaler, policies, store: store.clone() });
        tokio::spawn(follow_members(Arc::downgrade(&fleet)));
        fleet
    }

    /// Follows the pools of the controller's world.
    pub(crate) fn follow(self: &Arc<Self>, mut world: watch::Receiver<Arc<World>>) {
        let fleet = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                let policies: Policies = {
                    let world = world.borrow_and_update();
                    world.pools.iter().map(|(name, pool)| (name.clone(), policy(pool))).collect()
                };
                fleet.policies.send_if_modified(|last| {
                    let differs = *last != policies;
                    *last = policies;
                    differs
                });
                if world.changed().await.is_err() {
                    return;
                }
            }
        });
    }

    /// What host agents call, on the feed's port.
    pub(crate) fn services(&self) -> Routes {
        Routes::new(NodesServer::new(self.autoscaler.nodes()))
    }
}

impl controller::Fleet for Fleet {
    fn workers(&self, pool: Option<&PoolName>) -> Vec<admin::Worker> {
        self.autoscaler.workers(pool)
    }

    fn drain(&self, worker: WorkerId) -> BoxFuture<'_, Result<(), FleetError>> {
        let drained = self.autoscaler.drain(worker).map_err(|error| match error {
            DrainError::Unknown(worker) => FleetError::Unknown(worker),
            DrainError::NotLeading | DrainError::Busy => FleetError::Unavailable(error.to_string()),
        });
        Box::pin(std::future::ready(drained))
    }

    fn events(&self, pool: Option<PoolName>, limit: usize, follow: bool) -> EventStream {
        let events = self.autoscaler.events();
        if !follow {
            let past = events.recent(pool.as_ref(), limit);
            return Box::pin(stream::iter(past.into_iter().map(|event| admin::Event::from(&event))));
        }
        let (past, live) = events.follow(pool.as_ref(), limit);
        let past = stream::iter(past.into_iter().rev());
        let live = stream::unfold(live, |mut live| async move {
            loop {
                match live.recv().await {
                    Ok(event) => return Some((event, live)),
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return None,
                }
            }
        });
        let wanted = move |event: &autoscaler::Event| {
            std::future::ready(pool.as_ref().is_none_or(|pool| event.pool == *pool))
        };
        Box::pin(past.chain(live).filter(wanted).map(|event| admin::Event::from(&event)))
    }
}

impl controller::Intake for Fleet {
    fn report(&self, _role: Role, reports: ReportStream) -> ReplyStream {
        let store = self.store.clone();
        let lost = async move { controller::leadership_lost(&store).await };
        // Its worker reports to the next leader.
        Box::pin(self.autoscaler.intake().serve(reports).take_until(lost))
    }
}

/// The store's leadership in the autoscaler's words.
fn leadership(mut of_store: watch::Receiver<store::Leadership>) -> watch::Receiver<autoscaler::Leadership> {
    let translate = |l: store::Leadership| autoscaler::Leadership { leader: l.leader, term: l.term };
    let (sender, receiver) = watch::channel(translate(*of_store.borrow()));
    tokio::spawn(async move {
        while of_store.changed().await.is_ok() {
            sender.send_replace(translate(*of_store.borrow_and_update()));
        }
        // The store has stopped: nobody may act any more.
        sender.send_replace(autoscaler::Leadership::default());
    });
    receiver
}

/// What the Pool object asks of the autoscaler.
fn policy(pool: &Arc<PoolState>) -> PoolPolicy {
    let spec: &PoolSpec = &pool.spec;
    let listen = |l: &dialect::Listen| autoscaler::Listen {
        port: l.port,
        bind: l.bind,
        tls: l.protocol.is_tls(),
        raw: !l.protocol.is_http(),
        udp: l.protocol.is_udp(),
        http3: l.protocol == ListenerProtocol::Https && spec.http3 != dialect::Http3::Off,
    };
    PoolPolicy {
        listen: spec.listen.iter().map(listen).collect(),
        min_workers: spec.min_workers,
        max_workers: spec.max_workers,
        capacity: match spec.requests_per_second_per_worker {
            Some(declared) => Capacity::Declared { requests_per_second: f64::from(declared) },
            None => Capacity::Learned,
        },
        target_utilization_permille: spec.target_utilization_permille,
        scale_in_delay: spec.scale_in_delay,
        threads_per_worker: spec.threads_per_worker,
        drain_deadline: spec.drain_deadline,
        ..PoolPolicy::default()
    }
}

/// The autoscaler's plans in the store.
struct Plans(controller::Desired);

impl autoscaler::Desired for Plans {
    fn load<'a>(
        &'a self,
        pool: &'a PoolName,
    ) -> BoxFuture<'a, Result<Option<Stored>, autoscaler::DesiredError>> {
        Box::pin(async move {
            let plan = self.0.get(pool, Read::Local).await.map_err(|error| unavailable(pool, error))?;
            let Some(plan) = plan else { return Ok(None) };
            let desired = serde_json::from_slice(&plan.body).map_err(|error| unavailable(pool, error))?;
            Ok(Some(Stored { desired, version: Version(plan.revision.0) }))
        })
    }

    fn store<'a>(
        &'a self,
        desired: &'a autoscaler::DesiredPool,
        expected: Option<Version>,
    ) -> BoxFuture<'a, Result<Version, autoscaler::DesiredError>> {
        Box::pin(async move {
            let pool = &desired.pool;
            let body = serde_json::to_vec(desired).map_err(|error| unavailable(pool, error))?;
            let expected = Revision(expected.map_or(0, |version| version.0));
            let written = self.0.put_if(pool, (desired.term, desired.generation), &body, expected).await;
            match written {
                Ok(revision) => Ok(Version(revision.0)),
                Err(controller::DesiredError::Stale { .. }) => {
                    Err(autoscaler::DesiredError::Conflict { pool: pool.clone() })
                }
                Err(error) => Err(unavailable(pool, error)),
            }
        })
    }
}

fn unavailable(
    pool: &PoolName,
    error: impl std::error::Error + Send + Sync + 'static,
) -> autoscaler::DesiredError {
    autoscaler::DesiredError::Unavailable { pool: pool.clone(), source: Box::new(error) }
}
