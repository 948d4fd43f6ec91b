//! A machine with an agent, and a server that plans for it.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use api::{
    node::{NodePlan, PoolListen, PoolPlan, PoolStatus, WorkerState},
    pki::{Ca, Request, RoleKind},
};
use node::{Identities, Identity, NodeConfig, NodeError, Timing};
use sys::{
    polled::{Interest, Polled},
    process::{Process, Signal},
    seqpacket::Stream,
};
use tempfile::TempDir;
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::timeout,
};

use crate::server::Planner;

/// The status of the only pool, its ended workers apart.
pub(crate) type Pool = PoolStatus;

const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Host {
    pub(crate) address: SocketAddr,
    directory: TempDir,
    mode: &'static str,
    planner: Option<Planner>,
    statuses: watch::Receiver<api::node::NodeStatus>,
    server: SocketAddr,
    identities: watch::Receiver<Identities>,
    generation: u64,
    /// Each agent is a node of another name, so that a status of the one before is not taken for its own.
    agents: u32,
    agent: Option<Agent>,
    /// Of the agent that was started last.
    pub(crate) scraper: Option<node::Scraper>,
    /// Process ids of all workers seen, so that a test that fails leaves none.
    pids: BTreeSet<u32>,
}

/// A running agent, and what asks it to end.
type Agent = (JoinHandle<Result<(), NodeError>>, oneshot::Sender<()>);

impl Host {
    /// A host whose workers behave as `mode` says.
    pub(crate) async fn start(mode: &'static str) -> Self {
        let now = SystemTime::now();
        let ca = Ca::create("test", now).unwrap();
        let issue = |kind, name: &str| {
            let lifetime = Duration::from_secs(3600);
            let request = Request { kind, name: name.to_owned(), dns: vec![], ips: vec![], lifetime };
            ca.issue(&request, now).unwrap()
        };
        let planner = Planner::start(ca.cert_pem(), issue(RoleKind::Server, "server-1")).await;
        let identity = |kind, name| {
            let issued = issue(kind, name);
            Identity { ca_pem: ca.cert_pem().to_owned(), cert_pem: issued.cert_pem, key_pem: issued.key_pem }
        };
        let identities =
            Identities { node: identity(RoleKind::Node, "node-1"), worker: identity(RoleKind::Edge, "edge") };
        // Free at this moment; the agent must bind it by its number.
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut host = Self {
            address,
            directory: tempfile::tempdir().unwrap(),
            mode,
            statuses: planner.statuses.clone(),
            server: planner.address,
            planner: Some(planner),
            identities: watch::channel(identities).1,
            generation: 0,
            agents: 0,
            agent: None,
            scraper: None,
            pids: BTreeSet::new(),
        };
        host.restart();
        host
    }

    pub(crate) fn config(&self) -> NodeConfig {
        let program = std::env::current_exe().unwrap();
        // This binary's only entry is its test runner: the worker is a test of it, and gets its arguments by the
        // environment.
        let script = "FAKE_WORKER_MODE=\"$1\" FAKE_WORKER_SOCKET=\"$3\" FAKE_WORKER_ID=\"$5\" FAKE_WORKER_POOL=\"$7\" \
             exec \"$0\" --exact worker::run_as_process --ignored --nocapture >/dev/null";
        let command = ["sh", "-c", script, program.to_str().unwrap(), self.mode];
        NodeConfig {
            node: self.node(),
            data_dir: self.data_dir(),
            agent_socket: self.socket(),
            servers: vec![self.server.to_string()],
            learned: watch::Sender::default(),
            identities: self.identities.clone(),
            edge_command: command.map(str::to_owned).to_vec(),
            cpus: 2,
            timing: Timing {
                settled: Duration::from_millis(50),
                backoff: Duration::from_millis(10),
                stuck: Duration::from_millis(300),
                ..Timing::default()
            },
        }
    }

    fn node(&self) -> String {
        format!("node-{}", self.agents)
    }

    fn data_dir(&self) -> PathBuf {
        self.directory.path().join("node")
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("agent.sock")
    }

    /// Starts an agent where none runs.
    pub(crate) fn restart(&mut self) {
        assert!(self.agent.is_none());
        self.agents += 1;
        let (shutdown, asked) = oneshot::channel();
        let config = self.config();
        let (scraper, scrapes) = node::scrapes();
        self.scraper = Some(scraper);
        let agent = tokio::spawn(node::run(config, scrapes, async move {
            let _sent_or_dropped = asked.await;
        }));
        self.agent = Some((agent, shutdown));
    }

    /// Ends the agent as SIGKILL would.
    pub(crate) async fn crash(&mut self) {
        let (agent, _shutdown) = self.agent.take().unwrap();
        agent.abort();
        assert!(agent.await.unwrap_err().is_cancelled());
        // Its tasks end with it, but each on its own thread: a process that was killed listens no more, these may still, and
        // the next agent would find its socket in use.
        let silent = async {
            while Stream::connect(&self.socket()).is_ok() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, silent).await.expect("an agent that is gone still listens");
    }

    /// Ends the agent as SIGTERM would, and checks that nothing is left.
    pub(crate) async fn stop(mut self) {
        let (agent, shutdown) = self.agent.take().unwrap();
        shutdown.send(()).unwrap();
        timeout(PATIENCE, agent).await.expect("the agent does not end").unwrap().unwrap();
        assert!(!self.socket().exists());
        for pid in std::mem::take(&mut self.pids) {
            // Only those of this test's workers; a process that has their id by now is not one of them.
            assert!(!is_worker(pid), "worker {pid} is left");
        }
        let record = std::fs::read_to_string(self.data_dir().join("agent.json")).unwrap();
        assert!(!record.contains("\"pid\""), "{record}");
        // Not at once: while another test forks, its child has copies of all our descriptors until it execs.
        let free = async {
            while sys::reuseport::probe_tcp(self.address).is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, free).await.expect("somebody still listens");
    }

    pub(crate) fn lose_server(&mut self) {
        self.planner = None;
    }

    pub(crate) fn plan(&mut self, workers: u32) {
        self.plan_with(workers, vec![]);
    }

    /// Plans so many workers, and names the one to drain first.
    pub(crate) fn plan_without(&mut self, workers: u32, drain: &str) {
        self.plan_with(workers, vec![drain.to_owned()]);
    }

    fn plan_with(&mut self, workers: u32, drain: Vec<String>) {
        self.generation += 1;
        let plan = PoolPlan {
            pool: "web".to_owned(),
            term: 1,
            generation: self.generation,
            workers,
            drain,
            listen: vec![PoolListen { bind: self.address.to_string(), port: 80, ..PoolListen::default() }],
            max_workers: 4,
            threads_per_worker: 1,
            drain_deadline_ms: 10_000,
        };
        self.planner
            .as_ref()
            .unwrap()
            .plans
            .send_replace(NodePlan { pools: vec![plan], servers: Vec::new() });
    }

    /// Waits until the pool, acting on the last plan, is so; ended workers are left out.
    pub(crate) async fn until(&mut self, what: &str, holds: impl Fn(&Pool) -> bool) -> Pool {
        let found = async {
            loop {
                let status = self.statuses.borrow_and_update().clone();
                let pool = status.pools.into_iter().next().unwrap_or_default();
                self.pids
                    .extend(pool.workers.iter().filter(|w| w.state() != WorkerState::Ended).map(|w| w.pid));
                let workers =
                    pool.workers.iter().filter(|w| w.state() != WorkerState::Ended).cloned().collect();
                let living = Pool { workers, ..pool };
                if status.node == self.node() && living.generation == self.generation && holds(&living) {
                    return living;
                }
                self.statuses.changed().await.unwrap();
            }
        };
        match timeout(PATIENCE, found).await {
            Ok(pool) => pool,
            Err(_) => panic!("not so in time: {what}: {:?}", *self.statuses.borrow()),
        }
    }

    /// How the worker ended.
    pub(crate) fn ended(&self, worker: &str) -> String {
        let statuses = self.statuses.borrow();
        let workers = statuses.pools.iter().flat_map(|pool| &pool.workers);
        let ended = workers.clone().find(|w| w.worker == worker && w.state() == WorkerState::Ended);
        ended
            .unwrap_or_else(|| panic!("{worker} has not ended: {:?}", workers.collect::<Vec<_>>()))
            .end
            .clone()
    }

    /// Kills the worker and waits until its sockets are closed.
    pub(crate) async fn kill(&self, worker: &str) {
        let process = self.process(worker);
        process.signal(Signal::KILL).unwrap();
        let ended = Polled::new(process, Interest::READABLE).unwrap();
        drop(timeout(PATIENCE, ended.readable()).await.expect("it does not end").unwrap());
    }

    pub(crate) fn terminate(&self, worker: &str) {
        self.process(worker).signal(Signal::TERM).unwrap();
    }

    fn process(&self, worker: &str) -> Process {
        let statuses = self.statuses.borrow();
        let mut workers = statuses.pools.iter().flat_map(|pool| &pool.workers);
        let pid = workers.find(|w| w.worker == worker).expect("an unknown worker").pid;
        Process::open(pid).unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for pid in self.pids.iter().filter(|pid| is_worker(**pid)) {
            if let Ok(process) = Process::open(*pid) {
                process.signal(Signal::KILL).ok();
            }
        }
    }
}

fn is_worker(pid: u32) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).contains("worker::run_as_process")
}
