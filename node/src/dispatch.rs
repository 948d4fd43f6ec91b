//! Events to the pools they concern, and the pools' actions to sockets, processes and connections.

use std::{
    collections::{BTreeMap, VecDeque},
    os::fd::OwnedFd,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use api::{
    agent::{Credentials, IdleConnection, ToAgent, ToWorker, Welcome},
    node::{NodePlan, NodeStatus},
    quic::QuicSecret,
};
use model::{PoolName, WorkerId};
use sys::{process::Signal, steer::CidKey};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, info, warn};

use crate::{
    Identity, NodeConfig,
    agent::Event,
    link::{Hello, Link},
    metrics,
    plan::Plan,
    pool::{Action, DEFAULT_DRAIN_DEADLINE, Input, Known, Pool},
    processes::Processes,
    running::Running,
    saved::{Saved, SavedPool, Writer, make_private_dir},
    scrape::{Answers, Scrape},
};

/// All that the agent knows and has.
pub(crate) struct Agent {
    config: Arc<NodeConfig>,
    cache_key: String,
    /// What QUIC's keys are made from, in hex.
    quic_secret: String,
    cid_key: CidKey,
    /// Part of the names of all workers that this agent starts.
    boot: String,
    pools: BTreeMap<PoolName, Running>,
    links: BTreeMap<WorkerId, Link>,
    /// The pool of each worker that lives or is connected.
    pool_of: BTreeMap<WorkerId, PoolName>,
    processes: Processes,
    events: mpsc::Sender<Event>,
    statuses: watch::Sender<NodeStatus>,
    saved: Saved,
    record: Writer,
    /// The scrape that waits for its workers, and how many there were.
    scrape: Option<Scrape>,
    scrapes: u64,
    /// Messages of connections that were passed on.
    handovers: usize,
    /// Where the servers are: as they said last, then as the agent was told at its start.
    servers: Vec<String>,
    pub(crate) stopping: bool,
}

impl Agent {
    pub(crate) fn new(
        config: Arc<NodeConfig>,
        cache_key: String,
        quic_secret: String,
        statuses: watch::Sender<NodeStatus>,
        events: mpsc::Sender<Event>,
    ) -> Self {
        let quic = QuicSecret::from_hex(&quic_secret).unwrap_or_else(|| QuicSecret::new(rand::random()));
        Self {
            servers: config.servers.clone(),
            record: Writer::new(record(&config)),
            config,
            cache_key,
            quic_secret,
            cid_key: CidKey::new(quic.cid_key()),
            boot: format!("{:08x}", rand::random::<u32>()),
            pools: BTreeMap::new(),
            links: BTreeMap::new(),
            pool_of: BTreeMap::new(),
            processes: Processes::new(events.clone()),
            events,
            statuses,
            saved: Saved::default(),
            scrape: None,
            scrapes: 0,
            handovers: 0,
            stopping: false,
        }
    }

    /// Finds what an agent before this one left.
    pub(crate) fn take_over(&mut self) {
        let saved = Saved::load(&record(&self.config));
        let told = self.config.servers.iter().filter(|server| !saved.servers.contains(server));
        self.servers = saved.servers.iter().chain(told).cloned().collect();
        for SavedPool { pool, plan, workers, next_slots } in saved.pools {
            let mut known = Vec::new();
            for found in &workers {
                match self.processes.find(found) {
                    Ok(()) => {
                        self.pool_of.insert(found.worker.clone(), pool.clone());
                        known.push(Known { worker: found.worker.clone(), pid: found.pid });
                    }
                    Err(error) => info!(worker = %found.worker, %error, "worker of an earlier agent is gone"),
                }
            }
            info!(%pool, workers = known.len(), "taking over from an earlier agent");
            let next_slots = next_slots.into_iter().map(|saved| (saved.listen, saved.next));
            self.running(&pool).pool.take_over(known, next_slots, Instant::now());
            if let Some(plan) = plan {
                self.handle(&pool, Input::Plan(plan));
            }
        }
    }

    /// Where the servers are.
    pub(crate) fn servers(&self) -> &[String] {
        &self.servers
    }

    /// Gives all workers the newest certificate and the servers' addresses.
    pub(crate) fn renew(&mut self) {
        let message = ToWorker::Renewed(Box::new(self.credentials()));
        for (worker, link) in self.links.iter().filter(|(_, link)| link.renews) {
            if !link.send(&message, Vec::new()) {
                // It gets them when it connects again.
                warn!(%worker, "a worker did not take its new certificate");
            }
        }
    }

    pub(crate) fn is_scraped(&self) -> bool {
        self.scrape.is_some()
    }

    /// Asks all workers for their metrics.
    pub(crate) fn scrape(&mut self, asked: oneshot::Sender<Answers>) {
        self.scrapes += 1;
        let message = ToWorker::Measure { question: self.scrapes };
        let asks = |link: &Link| link.measures && link.send(&message, Vec::new());
        let workers = self.links.iter().filter(|(_, link)| asks(link)).map(|(worker, _)| worker.clone());
        self.scrape = Some(Scrape::new(self.scrapes, workers.collect(), asked, Instant::now()));
    }

    fn measured(&mut self, worker: WorkerId, question: u64, mut sockets: Vec<OwnedFd>) {
        let scrape = self.scrape.as_mut().filter(|scrape| scrape.number == question);
        if let (Some(scrape), Some(file), Some(pool)) = (scrape, sockets.pop(), self.pool_of.get(&worker)) {
            scrape.take(pool.clone(), worker, file);
        }
    }

    /// Passes a worker's idle connections on to another one, each message to the next: whoever drains has many.
    fn hand_over(
        &mut self,
        pool: &PoolName,
        worker: &WorkerId,
        connections: Vec<IdleConnection>,
        sockets: Vec<OwnedFd>,
    ) {
        let whole = connections.len() == sockets.len();
        let heirs = self.pools.get(pool).filter(|_| whole).map(|running| running.pool.eligible());
        let adopts = |heir: &WorkerId| heir != worker && self.links.get(heir).is_some_and(|link| link.adopts);
        let heirs: Vec<_> = heirs.unwrap_or_default().into_iter().filter(adopts).collect();
        self.handovers = self.handovers.wrapping_add(1);
        let heir = heirs.get(self.handovers % heirs.len().max(1)).and_then(|heir| self.links.get(heir));
        let sockets = sockets.into_iter().map(Arc::new).collect();
        let taken = heir.is_some_and(|heir| heir.send(&ToWorker::Adopt(connections), sockets));
        if let Some(link) = self.links.get(worker) {
            // Who cannot be told has lost its connection, and takes them for gone.
            link.send(&ToWorker::HandedOver { taken }, Vec::new());
        }
    }

    fn credentials(&self) -> Credentials {
        let Identity { ca_pem, cert_pem, key_pem } = self.config.identities.borrow().worker.clone();
        Credentials { servers: self.servers.clone(), ca_pem, cert_pem, key_pem }
    }

    fn running(&mut self, pool: &PoolName) -> &mut Running {
        let new = || Running::new(Pool::new(pool.clone(), &self.boot, self.config.timing));
        self.pools.entry(pool.clone()).or_insert_with(new)
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.stopping && self.pools.values().all(|running| running.pool.is_gone())
    }

    pub(crate) fn stop(&mut self) {
        info!("stopping: draining all workers");
        self.stopping = true;
        self.for_all(|| Input::Stop);
    }

    pub(crate) fn tick(&mut self) {
        let now = Instant::now();
        self.for_all(|| Input::Tick);
        let patience = self.config.timing.stuck;
        let standing: Vec<_> =
            self.pools.iter_mut().map(|(pool, r)| (pool.clone(), r.standing(patience, now))).collect();
        for (pool, slots) in standing {
            for (listen, slot) in slots {
                self.handle(&pool, Input::Standing { listen, slot });
            }
        }
    }

    fn for_all(&mut self, input: impl Fn() -> Input) {
        let pools: Vec<_> = self.pools.keys().cloned().collect();
        for pool in pools {
            self.handle(&pool, input());
        }
    }

    pub(crate) fn on(&mut self, event: Event) {
        match event {
            Event::Hello(hello) => self.hello(*hello),
            Event::Said { worker, serial, message, sockets } => {
                // What an earlier connection still had to say counts no more.
                if self.links.get(&worker).is_some_and(|link| link.serial == serial) {
                    self.said(worker, message, sockets);
                }
            }
            Event::Unlinked { worker, serial } => {
                if self.links.get(&worker).is_some_and(|link| link.serial == serial) {
                    self.links.remove(&worker);
                    self.scrape.iter_mut().for_each(|scrape| scrape.forget(&worker));
                    self.handle_worker(&worker, Input::Unlinked);
                }
            }
            Event::Ended { worker, how } => {
                info!(%worker, %how, "worker ended");
                self.processes.forget(&worker);
                self.links.remove(&worker);
                self.scrape.iter_mut().for_each(|scrape| scrape.forget(&worker));
                self.handle_worker(&worker, |worker| Input::Ended { worker, how });
                self.pool_of.remove(&worker);
            }
            Event::Waiting(pool) => {
                info!(%pool, "a connection wakes the pool");
                self.handle(&pool, Input::Waiting);
            }
            Event::Plan(plan) => self.plan(plan),
            Event::Servers(servers) => {
                info!(?servers, "the servers are elsewhere now");
                self.config.learned.send_replace(servers.clone());
                self.servers = servers;
                self.renew();
            }
            Event::Disconnected => ::metrics::gauge!(metrics::CONNECTED).set(0),
        }
    }

    /// A pool that the plan does not name stays as it is: capacity is removed only by who says so.
    fn plan(&mut self, plan: NodePlan) {
        ::metrics::gauge!(metrics::CONNECTED).set(1);
        for plan in plan.pools {
            match Plan::try_from(plan) {
                Ok(plan) => {
                    let pool = plan.pool.clone();
                    let running = self.running(&pool);
                    if running.pool.current_plan().is_none_or(|last| *last != plan) {
                        let version = plan.version;
                        info!(%pool, workers = plan.workers, version.term, version.generation, "new plan");
                    }
                    self.handle(&pool, Input::Plan(plan));
                }
                Err(error) => error!(%error, "a plan makes no sense and is not acted on"),
            }
        }
    }

    fn hello(&mut self, hello: Hello) {
        let Hello { worker, pool, pid, message, link } = hello;
        if self.pool_of.get(&worker).is_some_and(|known| *known != pool) {
            return warn!(%worker, %pool, "a worker says to be of another pool than it was started for");
        }
        match self.processes.pid(&worker) {
            Some(known) if known != pid => {
                return warn!(%worker, pid, known, "a process says to be a worker that another process is");
            }
            Some(_) => {}
            None => {
                if let Err(error) = self.processes.find_unsaved(&worker, pid) {
                    return warn!(%worker, %error, "a worker connected and is gone");
                }
            }
        }
        self.pool_of.insert(worker.clone(), pool.clone());
        let stopping = self.stopping;
        let is_new = !self.pools.contains_key(&pool);
        self.running(&pool);
        if stopping && is_new {
            self.handle(&pool, Input::Stop);
        }
        let is_old = matches!(&message, ToAgent::Hello { welcomed: true, renews: true, .. });
        self.links.insert(worker.clone(), link);
        self.handle(&pool, Input::Said { worker: worker.clone(), message });
        if let Some(link) = self.links.get(&worker).filter(|link| link.adopts) {
            link.send(&ToWorker::PassesOn, Vec::new());
        }
        if is_old && let Some(link) = self.links.get(&worker) {
            // What its last agent gave it may be over.
            link.send(&ToWorker::Renewed(Box::new(self.credentials())), Vec::new());
        }
    }

    fn said(&mut self, worker: WorkerId, message: ToAgent, sockets: Vec<OwnedFd>) {
        let Some(pool) = self.pool_of.get(&worker).cloned() else { return };
        let message = match message {
            ToAgent::Measured { question } => return self.measured(worker, question, sockets),
            ToAgent::HandOver(connections) => return self.hand_over(&pool, &worker, connections, sockets),
            ToAgent::Recovered(slots) => match self.running(&pool).sockets.keep(slots, sockets) {
                Ok(kept) => ToAgent::Recovered(kept),
                Err(error) => return warn!(%worker, %error, "sockets that a worker sent are not used"),
            },
            ToAgent::Kept(slots) => match self.running(&pool).sockets.keep(slots, sockets) {
                Ok(kept) => ToAgent::Kept(kept),
                Err(error) => return warn!(%worker, %error, "sockets that a worker sent are not used"),
            },
            ToAgent::Ready { start_us } => {
                info!(%worker, start_us, "worker is ready");
                let seconds = Duration::from_micros(start_us).as_secs_f64();
                ::metrics::histogram!(metrics::START_SECONDS, "pool" => pool.to_string()).record(seconds);
                message
            }
            message => message,
        };
        self.handle(&pool, Input::Said { worker, message });
    }

    fn handle_worker(&mut self, worker: &WorkerId, input: impl FnOnce(WorkerId) -> Input) {
        if let Some(pool) = self.pool_of.get(worker).cloned() {
            self.handle(&pool, input(worker.clone()));
        }
    }

    /// Gives the pool an input and does what it says, and what it says to what came of that.
    fn handle(&mut self, pool: &PoolName, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let Some(running) = self.pools.get_mut(pool) else { return };
            for action in running.pool.handle(input, Instant::now()) {
                inputs.extend(self.act(pool, action));
            }
        }
    }

    fn act(&mut self, pool: &PoolName, action: Action) -> Option<Input> {
        match action {
            Action::Start(worker) => return Some(self.start(pool, worker)),
            Action::Welcome(worker) => {
                let welcome = self.welcome(pool);
                return self.send(pool, worker, &ToWorker::Welcome(Box::new(welcome)));
            }
            Action::Send(worker, message) => return self.send(pool, worker, &message),
            Action::Terminate(worker) => self.processes.signal(&worker, Signal::TERM),
            Action::Kill(worker) => {
                warn!(%worker, "killing a worker that is late");
                self.processes.signal(&worker, Signal::KILL);
            }
            Action::Steer(listen, steering) => {
                let steered = self.pools.get(pool)?.sockets.steer(&listen, &steering, self.cid_key);
                match steered {
                    Ok(()) => {}
                    Err(error) if listen.raw => {
                        // The kernel's own hash knows all sockets, and most are nobody's.
                        error!(%pool, bind = %listen.bind, %error, "datagrams are not led to workers: most are lost");
                    }
                    Err(error) => {
                        // New connections still come, by the kernel's own hash; those that move are lost.
                        warn!(%pool, bind = %listen.bind, %error, "QUIC's datagrams are not led to their workers");
                    }
                }
            }
            Action::Bind(listen, slots) => {
                let (slots, problem) = self.pools.get_mut(pool)?.sockets.bind(&listen, &slots);
                match &problem {
                    Some(problem) => warn!(%pool, %problem, "cannot listen"),
                    None => info!(%pool, bind = %listen.bind, slots = slots.len(), "listening"),
                }
                return Some(Input::Bound { listen, slots, problem });
            }
            Action::Close(listen) => {
                info!(%pool, bind = %listen.bind, "no longer listening");
                self.pools.get_mut(pool)?.sockets.close(&listen);
            }
        }
        None
    }

    fn start(&mut self, pool: &PoolName, worker: WorkerId) -> Input {
        ::metrics::counter!(metrics::STARTS, "pool" => pool.to_string()).increment(1);
        self.pool_of.insert(worker.clone(), pool.clone());
        let config = &self.config;
        match self.processes.start(&config.edge_command, &config.agent_socket, pool, &worker) {
            Ok(pid) => {
                info!(%worker, pid, "worker started");
                Input::Started { worker, pid }
            }
            Err(error) => {
                warn!(%worker, %error, "worker not started");
                self.pool_of.remove(&worker);
                Input::Ended { worker, how: error.to_string() }
            }
        }
    }

    fn welcome(&self, pool: &PoolName) -> Welcome {
        let Credentials { servers, ca_pem, cert_pem, key_pem } = self.credentials();
        let cache_dir = self.config.data_dir.join("cache").join(pool.as_str());
        if let Err(error) = make_private_dir(&cache_dir) {
            // It can serve without, from the servers.
            warn!(path = %cache_dir.display(), %error, "no directory for a worker's cache");
        }
        let plan = self.pools.get(pool).and_then(|running| running.pool.current_plan());
        let drain_deadline = plan.map_or(DEFAULT_DRAIN_DEADLINE, Plan::drain_deadline);
        Welcome {
            servers,
            ca_pem,
            cert_pem,
            key_pem,
            cache_dir,
            cache_key: self.cache_key.clone(),
            threads: plan.map_or(1, |plan| plan.threads),
            drain_deadline_ms: u64::try_from(drain_deadline.as_millis()).unwrap_or(u64::MAX),
            quic_secret: self.quic_secret.clone(),
        }
    }

    /// A worker that cannot be sent to has lost its connection, whatever the connection thinks.
    fn send(&mut self, pool: &PoolName, worker: WorkerId, message: &ToWorker) -> Option<Input> {
        let sockets = match message {
            ToWorker::Lend(slots) | ToWorker::Keep(slots) => self.pools.get(pool)?.sockets.of(slots),
            _ => Some(Vec::new()),
        };
        let sent = match (self.links.get(&worker), sockets) {
            (Some(link), Some(sockets)) => link.send(message, sockets),
            _ => false,
        };
        if sent {
            return None;
        }
        warn!(%worker, "a worker cannot be reached");
        self.links.remove(&worker);
        Some(Input::Unlinked(worker))
    }

    /// Tells the servers, the disk and the metrics what has changed.
    pub(crate) fn publish(&mut self) {
        if let Some(scrape) = self.scrape.take_if(|scrape| scrape.is_over(Instant::now())) {
            scrape.finish();
        }
        let pools: Vec<_> = self.pools.values().map(|running| running.pool.status()).collect();
        self.statuses.send_if_modified(|status| {
            let changed = status.pools != pools;
            status.pools = pools;
            changed
        });
        for (pool, running) in &mut self.pools {
            running.watch_sleep(pool, &self.events);
            running.export(pool);
        }
        let pools = self.pools.iter().map(|(pool, running)| running.saved(pool, &self.processes)).collect();
        let saved = Saved { servers: self.servers.clone(), pools };
        if saved != self.saved {
            self.record.write(saved.clone());
            self.saved = saved;
        }
    }
}

/// Where the agent keeps what the next one is to know.
fn record(config: &NodeConfig) -> PathBuf {
    config.data_dir.join("agent.json")
}
