//! The crate at its boundary: agents and workers over gRPC on loopback, the loop, a store in memory.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use api::{
    feed::{LoadReport, WorkerPhase},
    node::{
        NodePlan, NodeStatus, PoolPlan, PoolStatus, WorkerState, WorkerStatus, nodes_client::NodesClient,
        nodes_server::NodesServer,
    },
    pki::{Role, RoleKind},
};
use autoscaler::{Autoscaler, Capacity, EventKind, InMemory, Leadership, Listen, Policies, PoolPolicy, run};
use futures_util::StreamExt as _;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{
    Code, Request, Status, Streaming,
    transport::{Channel, Server},
};

const DEADLINE: Duration = Duration::from_secs(10);

/// A server with an autoscaler that leads; callers are who they say in `x-role` (instead of a certificate).
struct Cluster {
    autoscaler: Autoscaler,
    policies: watch::Sender<Policies>,
    _leadership: watch::Sender<Leadership>,
    _shutdown: watch::Sender<bool>,
    channel: Channel,
}

impl Cluster {
    async fn begin(policy: PoolPolicy) -> Self {
        let policies = watch::Sender::new(BTreeMap::from([("default".parse().unwrap(), policy)]));
        let leadership = watch::Sender::new(Leadership { leader: true, term: 4 });
        let shutdown = watch::Sender::new(false);
        let autoscaler = Autoscaler::new(policies.subscribe(), leadership.subscribe());
        let nodes = Arc::new(autoscaler.nodes());
        tokio::spawn(run(autoscaler.clone(), Arc::new(InMemory::default()), nodes, shutdown.subscribe()));

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = NodesServer::with_interceptor(autoscaler.nodes(), |mut request: Request<()>| {
            let role =
                request.metadata().get("x-role").and_then(|role| role.to_str().ok()?.parse::<Role>().ok());
            if let Some(role) = role {
                request.extensions_mut().insert(role);
            }
            Ok::<_, Status>(request)
        });
        tokio::spawn(
            Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)),
        );
        let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        Self { autoscaler, policies, _leadership: leadership, _shutdown: shutdown, channel }
    }

    /// An agent that says `first`, with the plans that it is sent.
    async fn agent(&self, role: Option<Role>, first: NodeStatus) -> Result<Agent, Status> {
        let (statuses, outbox) = mpsc::channel(4);
        statuses.send(first).await.unwrap();
        let mut request = Request::new(ReceiverStream::new(outbox));
        if let Some(role) = role {
            request.metadata_mut().insert("x-role", role.to_string().parse().unwrap());
        }
        let plans = NodesClient::new(self.channel.clone()).reconcile(request).await?.into_inner();
        Ok(Agent { statuses, plans })
    }

    async fn event(&self, kind: EventKind) -> String {
        let (past, mut live) = self.autoscaler.events().follow(None, 100);
        if let Some(event) = past.into_iter().find(|event| event.kind == kind) {
            return event.reason;
        }
        let wait = async {
            loop {
                let event = live.recv().await.unwrap();
                if event.kind == kind {
                    return event.reason;
                }
            }
        };
        timeout(DEADLINE, wait).await.unwrap()
    }
}

struct Agent {
    statuses: mpsc::Sender<NodeStatus>,
    plans: Streaming<NodePlan>,
}

impl Agent {
    /// The next plan of the pool `default`.
    async fn plan(&mut self) -> PoolPlan {
        let plan = timeout(DEADLINE, self.plans.message()).await.unwrap().unwrap().unwrap();
        plan.pools.into_iter().find(|plan| plan.pool == "default").unwrap()
    }
}

fn node(name: &str) -> Option<Role> {
    Some(Role { installation: "test".to_owned(), kind: RoleKind::Node, name: name.to_owned() })
}

fn status(node: &str, workers: &[(&str, WorkerState)]) -> NodeStatus {
    let worker = |(id, state): &(&str, WorkerState)| WorkerStatus {
        worker: (*id).to_owned(),
        pid: 4711,
        state: (*state).into(),
        start_ms: 300,
        ..WorkerStatus::default()
    };
    let workers = workers.iter().map(worker).collect();
    let pool = PoolStatus { pool: "default".to_owned(), workers, ..PoolStatus::default() };
    NodeStatus { node: node.to_owned(), cpus: 4, pools: vec![pool] }
}

fn report(worker: &str, sequence: u64, requests: u64) -> LoadReport {
    LoadReport {
        worker: worker.to_owned(),
        pool: "default".to_owned(),
        sequence,
        window_us: 1_000_000,
        requests,
        errors: requests / 10,
        cpu_us: 100_000,
        connections: 12,
        threads: 1,
        phase: WorkerPhase::Ready.into(),
        ..LoadReport::default()
    }
}

#[tokio::test]
async fn an_agent_is_told_its_plan_at_once_and_on_change() {
    let listen = Listen {
        port: 80,
        bind: "127.0.0.1:8080".parse().unwrap(),
        tls: false,
        http3: false,
        raw: false,
        udp: false,
    };
    let policy = PoolPolicy {
        listen: vec![listen],
        capacity: Capacity::Declared { requests_per_second: 100.0 },
        ..PoolPolicy::default()
    };
    let cluster = Cluster::begin(policy.clone()).await;
    let mut agent = cluster.agent(node("a"), status("a", &[])).await.unwrap();
    let plan = agent.plan().await;
    assert_eq!((plan.workers, plan.term, plan.generation, plan.max_workers), (1, 4, 1, 16));
    assert_eq!(plan.listen[0].bind, "127.0.0.1:8080");

    agent.statuses.send(status("a", &[("w1", WorkerState::Starting)])).await.unwrap();
    agent.statuses.send(status("a", &[("w1", WorkerState::Ready)])).await.unwrap();
    assert_eq!(cluster.event(EventKind::WorkerReady).await, "w1");

    // 250 requests a second, at 100 a worker and 70 %.
    let replies: Vec<_> = {
        let reports = futures_util::stream::iter([Ok(report("w1", 1, 250)), Ok(report("w1", 2, 250))]);
        cluster.autoscaler.intake().serve(reports).collect().await
    };
    assert!(replies.iter().all(|reply| reply.as_ref().unwrap().retire_above_connections == 0), "{replies:?}");
    let plan = agent.plan().await;
    // On a machine that stalled between two ticks the step may look like a ramp, which at most doubles demand.
    assert!((4..=8).contains(&plan.workers) && plan.generation == 2, "{plan:?}");

    let workers = cluster.autoscaler.workers(None);
    assert_eq!((workers[0].worker.as_str(), workers[0].node.as_str(), workers[0].pid), ("w1", "a", 4711));
    assert_eq!((workers[0].connections, workers[0].state.as_str()), (12, "ready"));
    assert!((workers[0].requests_per_second - 250.0).abs() < 1.0, "{workers:?}");
    assert!((workers[0].error_ratio - 0.1).abs() < 0.01, "{workers:?}");

    // A change of how workers run is a new generation too.
    cluster.policies.send_modify(|policies| {
        let changed = PoolPolicy { threads_per_worker: 2, ..policy.clone() };
        policies.insert("default".parse().unwrap(), changed);
    });
    let plan = agent.plan().await;
    assert_eq!((plan.threads_per_worker, plan.generation), (2, 3));
}

#[tokio::test]
async fn an_agent_that_connects_anew_is_told_the_plan_again_and_its_old_stream_harms_nothing() {
    let cluster = Cluster::begin(PoolPolicy::default()).await;
    let mut old = cluster.agent(node("a"), status("a", &[])).await.unwrap();
    let first = old.plan().await;
    let ready = status("a", &[("w1", WorkerState::Ready)]);
    let mut new = cluster.agent(node("a"), ready).await.unwrap();
    assert_eq!(new.plan().await, first);
    drop(old);
    // The new stream still counts: what it says is heard.
    new.statuses.send(status("a", &[])).await.unwrap();
    assert_eq!(cluster.event(EventKind::WorkerEnded).await, "w1: its node knows it no more");
}

#[tokio::test]
async fn nobody_speaks_for_another_node() {
    let cluster = Cluster::begin(PoolPolicy::default()).await;
    let code = async |role| match cluster.agent(role, status("a", &[])).await {
        Err(status) => status.code(),
        Ok(_) => Code::Ok,
    };
    assert_eq!(code(None).await, Code::Unauthenticated);
    assert_eq!(code(node("b")).await, Code::PermissionDenied);
    let edge = Role { installation: "test".to_owned(), kind: RoleKind::Edge, name: "a".to_owned() };
    assert_eq!(code(Some(edge)).await, Code::PermissionDenied);
    assert_eq!(code(node("a")).await, Code::Ok);
    // Nor does an agent change its name once it is in.
    let mut agent = cluster.agent(node("a"), status("a", &[])).await.unwrap();
    agent.statuses.send(status("b", &[("w1", WorkerState::Ready)])).await.unwrap();
    let ended = async { while agent.plans.message().await.unwrap().is_some() {} };
    timeout(DEADLINE, ended).await.unwrap();
    assert!(cluster.autoscaler.workers(None).is_empty());
}

#[tokio::test]
async fn a_report_that_is_none_ends_its_stream() {
    let cluster = Cluster::begin(PoolPolicy::default()).await;
    let bad = LoadReport { worker: "No Such Name".to_owned(), ..report("w1", 1, 1) };
    let mut replies = Box::pin(
        cluster.autoscaler.intake().serve(futures_util::stream::iter([Ok(report("w1", 1, 1)), Ok(bad)])),
    );
    assert!(replies.next().await.unwrap().is_ok());
    assert_eq!(replies.next().await.unwrap().unwrap_err().code(), Code::InvalidArgument);
}
