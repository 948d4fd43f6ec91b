//! Workers as processes of node agents: the server's side of `weir.node.v1.Nodes`.

use std::{collections::BTreeMap, pin::Pin, sync::Arc, time::Duration};

use api::{
    node::{NodePlan, NodeStatus, PoolPlan, nodes_server},
    pki::{Role, RoleKind},
};
use futures_util::{Stream, StreamExt as _};
use model::PoolName;
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{info, warn};

use super::Provider;
use crate::{
    events::EventKind,
    state::{Plans, Shared},
};

/// Plans that wait for the network. The newest replaces what is not yet sent, so more would only be older.
const OUTBOX: usize = 1;

/// An agent says something every second; one that is silent for this long hangs.
const SILENCE: Duration = Duration::from_secs(10);

/// The service that node agents connect to. Their statuses feed the fleet; each is told its part of the plans at
/// once and on every change.
#[derive(Debug, Clone)]
pub struct Nodes {
    shared: Arc<Shared>,
}

type Outbox = mpsc::Sender<Result<NodePlan, Status>>;

impl Nodes {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Serves one agent while this server leads. Its node is lost when this ends, unless it has connected anew meanwhile.
    async fn serve<S>(self, node: String, first: NodeStatus, mut statuses: S, outbox: Outbox)
    where
        S: Stream<Item = Result<NodeStatus, Status>> + Unpin,
    {
        info!(node, "node connected");
        let session = self.shared.begin_session(&node);
        let mut plans = self.shared.plans.subscribe();
        plans.mark_changed();
        let mut servers = self.shared.servers.subscribe();
        servers.mark_changed();
        let mut leadership = self.shared.leadership.clone();
        let mut sent = BTreeMap::new();
        let mut problems = Problems::default();
        let mut next = Some(first);
        loop {
            if let Some(status) = next.take()
                && let Err(refused) = self.heard(&status, &mut problems)
            {
                warn!(node, %refused, "node refused");
                // The stream may be full or gone; its end says the same.
                drop(outbox.try_send(Err(refused)));
                break;
            }
            tokio::select! {
                status = timeout(SILENCE, statuses.next()) => match status {
                    Ok(Some(Ok(status))) if status.node == node => next = Some(status),
                    Ok(Some(Ok(status))) => {
                        warn!(node, said = status.node, "an agent changed its name in the middle of a stream");
                        break;
                    }
                    Ok(Some(Err(_)) | None) | Err(_) => break,
                },
                // The place comes first: then the plan that is sent is the newest.
                place = change(&mut plans, &mut servers, &outbox) => {
                    let Some(place) = place else { break };
                    let mut update = update(&node, &plans.borrow_and_update(), &mut sent);
                    if servers.has_changed().unwrap_or(false) {
                        update.servers.clone_from(&servers.borrow_and_update());
                    }
                    if update != NodePlan::default() {
                        place.send(Ok(update));
                    }
                }
                // Plans are made of what all nodes say, and they say it to the leader.
                _ = leadership.wait_for(|leadership| !leadership.leader) => {
                    let moved = Status::unavailable("this server does not lead any more: ask another");
                    drop(outbox.try_send(Err(moved)));
                    break;
                }
            }
        }
        if self.shared.end_session(&node, session) {
            info!(node, "node lost");
            self.shared.fleet().node_lost(&node, self.shared.clock.now());
            self.shared.wake.notify_one();
        }
    }

    fn heard(&self, status: &NodeStatus, problems: &mut Problems) -> Result<(), Status> {
        let changes = self.shared.fleet().status(status, self.shared.clock.now())?;
        for (pool, what) in problems.changed(status) {
            let planned = self.shared.plans.borrow().get(&pool).map_or(0, |plan| plan.workers);
            let reason = format!("node {}: {what}", status.node);
            self.shared.record(&pool, EventKind::NodeProblem, reason, (planned, planned));
        }
        if !changes.is_empty() {
            self.shared.record_changes(&changes);
            self.shared.wake.notify_one();
        }
        Ok(())
    }
}

/// What a node last said about each pool that is not as planned.
#[derive(Debug, Default)]
struct Problems(BTreeMap<PoolName, String>);

impl Problems {
    /// The pools whose problem is another than before, and the problem; pools with names that are not valid are left
    /// out.
    fn changed(&mut self, status: &NodeStatus) -> Vec<(PoolName, String)> {
        let mut changed = vec![];
        for said in &status.pools {
            let Ok(pool) = said.pool.parse::<PoolName>() else { continue };
            if self.0.get(&pool).map_or("", String::as_str) == said.problem {
                continue;
            }
            let what =
                if said.problem.is_empty() { "as planned again".to_owned() } else { said.problem.clone() };
            changed.push((pool.clone(), what));
            self.0.insert(pool, said.problem.clone());
        }
        changed
    }
}

impl Provider for Nodes {
    fn provide(&self, plans: &Arc<Plans>) {
        self.shared.plans.send_if_modified(|last| {
            let differs = **last != **plans;
            if differs {
                *last = Arc::clone(plans);
            }
            differs
        });
    }
}

#[tonic::async_trait]
impl nodes_server::Nodes for Nodes {
    type ReconcileStream = Pin<Box<dyn Stream<Item = Result<NodePlan, Status>> + Send>>;

    async fn reconcile(
        &self,
        request: Request<Streaming<NodeStatus>>,
    ) -> Result<Response<Self::ReconcileStream>, Status> {
        // Put there by whoever checked the certificate; without it, nobody did.
        let role = request.extensions().get::<Role>().cloned();
        let role = role.ok_or_else(|| Status::unauthenticated("the caller's role is not known"))?;
        let mut statuses = request.into_inner();
        let first = timeout(SILENCE, statuses.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no status came"))??;
        let first =
            first.ok_or_else(|| Status::invalid_argument("the first message is the node's status"))?;
        if role.kind != RoleKind::Node || role.name != first.node {
            let problem = format!("{role} may not speak for node {:?}", first.node);
            return Err(Status::permission_denied(problem));
        }
        let (outbox, plans) = mpsc::channel(OUTBOX);
        // Ends with the agent's stream, and at the latest after `SILENCE`.
        tokio::spawn(self.clone().serve(first.node.clone(), first, statuses, outbox));
        Ok(Response::new(Box::pin(ReceiverStream::new(plans))))
    }
}

/// A place in the outbox once the plans or the servers have changed; `None` if either end is gone.
async fn change<'o>(
    plans: &mut watch::Receiver<Arc<Plans>>,
    servers: &mut watch::Receiver<Vec<String>>,
    outbox: &'o Outbox,
) -> Option<mpsc::Permit<'o, Result<NodePlan, Status>>> {
    tokio::select! {
        changed = plans.changed() => changed.ok()?,
        changed = servers.changed() => {
            changed.ok()?;
            servers.mark_changed();
        }
        () = outbox.closed() => return None,
    }
    // `reserve` may be dropped half way (a status came): the change must be seen again then.
    plans.mark_changed();
    outbox.reserve().await.ok()
}

/// What is new for a node since what it was `sent` last.
fn update(node: &str, plans: &Plans, sent: &mut BTreeMap<String, PoolPlan>) -> NodePlan {
    let plans = plans.values().map(|desired| desired.for_node(node));
    let pools: Vec<PoolPlan> = plans.filter(|plan| sent.get(&plan.pool) != Some(plan)).collect();
    for plan in &pools {
        sent.insert(plan.pool.clone(), plan.clone());
    }
    NodePlan { pools, servers: Vec::new() }
}

#[cfg(test)]
mod tests {
    use api::node::PoolStatus;

    use super::*;

    #[test]
    fn a_problem_is_told_once_and_so_is_its_end() {
        let status = |problem: &str| NodeStatus {
            node: "n".into(),
            pools: vec![PoolStatus { pool: "default".into(), problem: problem.into(), ..Default::default() }],
            ..Default::default()
        };
        let mut problems = Problems::default();
        let mut told = |problem: &str| -> Vec<String> {
            problems.changed(&status(problem)).into_iter().map(|(_, what)| what).collect()
        };
        assert!(told("").is_empty());
        assert_eq!(told("cannot listen"), ["cannot listen"]);
        assert!(told("cannot listen").is_empty());
        assert_eq!(told(""), ["as planned again"]);
        assert!(told("").is_empty());
    }
}
