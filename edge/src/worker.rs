//! A worker: request threads, each a runtime of its own on which its connections stay from accept to close.

use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use api::quic::QuicSecret;
use arc_swap::{ArcSwap, Cache};
use tokio::{sync::mpsc, task::LocalSet, time::MissedTickBehavior};
use tracing::{debug, info, warn};

use crate::{
    accesslog::Logger,
    admit::Door,
    clock::Clock,
    config::{Config, PoolSettings, RouteSet},
    drain::{Registry, TunnelRoute},
    journal::{Journal, RequestId},
    limits::{COMMANDS, Limits, TICK},
    listen::Acceptors,
    metrics::Counters,
    serve::places::Places,
    share::Shares,
    shared::{Command, Control, Phase, Seat, Shared, resident_bytes},
    trace::{Tracer, Tracing},
    turns::Turns,
    upstream::{Upstreams, check, resolve},
};

/// What a worker is started with.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// Its pool, until a configuration says more.
    pub pool: PoolSettings,
    /// Request threads; one is enough for most, more load is for more workers.
    pub threads: usize,
    /// Bounds on what clients may do.
    pub limits: Limits,
    /// What QUIC's keys are made from; shared by the workers that share addresses.
    pub quic: QuicSecret,
    /// How requests are traced, if they are.
    pub tracing: Option<Tracing>,
}

/// Has the kernel give this process its memory in pages of the ordinary size.
///
/// A huge one is cleared when it is touched first, for longer than an ordinary request takes, and a burst of new connections touches
/// many: everybody else waits meanwhile (Redis does without them for the same reason).
fn spare_huge_pages() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        warn!(%error, "the kernel may give huge pages, which make a burst of connections slow for others");
    }
}

/// The running threads.
#[derive(Debug)]
pub struct Worker {
    control: Control,
    threads: Vec<JoinHandle<()>>,
    helper: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts the threads. They serve nothing until a configuration is activated and sockets are given to them. The process gets
    /// no huge pages from now on.
    ///
    /// # Errors
    /// When a thread or its runtime cannot be made.
    pub fn start(settings: &WorkerSettings) -> io::Result<Self> {
        Self::start_logging(settings, &Logger::off)
    }

    /// As [`start`](Self::start), with an access log: `logger` gives each thread its own end of it.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_logging(settings: &WorkerSettings, logger: &dyn Fn() -> Logger) -> io::Result<Self> {
        spare_huge_pages();
        let (seats, inboxes): (Vec<_>, Vec<_>) = (0..settings.threads.max(1))
            .map(|_| {
                let (commands, inbox) = mpsc::channel(COMMANDS);
                (Seat { commands, counters: Arc::default() }, inbox)
            })
            .unzip();
        let shared = Shared::new(settings.pool.clone(), seats, settings.quic.clone());
        let mut threads = Vec::new();
        for (index, inbox) in inboxes.into_iter().enumerate() {
            let (shared, limits, logger) = (Arc::clone(&shared), settings.limits, logger());
            let tracing = settings.tracing.clone();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let run = move || {
                LocalSet::new().block_on(&runtime, async {
                    let thread = Thread::new(shared, index, limits, logger, Tracer::new(tracing));
                    run(thread, inbox).await;
                });
            };
            threads.push(std::thread::Builder::new().name(format!("request-{index}")).spawn(run)?);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let helping = Arc::clone(&shared);
        let helper = std::thread::Builder::new()
            .name("helper".to_owned())
            .spawn(move || runtime.block_on(help(helping)))?;
        Ok(Self { control: Control { shared }, threads, helper: Some(helper) })
    }

    /// The handle that steers it.
    #[must_use]
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Waits until the worker is drained and its threads have ended.
    pub fn join(mut self) {
        for thread in self.threads.drain(..).chain(self.helper.take()) {
            if thread.join().is_err() {
                tracing::error!("a thread of the worker panicked");
            }
        }
    }
}

/// What the connections of one thread share.
pub(crate) struct Thread {
    pub(crate) shared: Arc<Shared>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) limits: Limits,
    pub(crate) logger: Logger,
    pub(crate) tracer: Tracer,
    pub(crate) clock: Rc<Clock>,
    pub(crate) registry: Rc<Registry>,
    pub(crate) upstreams: Upstreams,
    pub(crate) places: Places,
    pub(crate) journal: Journal,
    /// QUIC handshakes whose clients' addresses are not proved.
    pub(crate) unproved: Cell<usize>,
    /// Names of CONNECT that are being resolved.
    pub(crate) lookups: Rc<Cell<usize>>,
    /// Whether requests are let in.
    pub(crate) door: RefCell<Door>,
    /// What each tenant has of it.
    pub(crate) shares: Shares,
    /// Who waits for whom.
    pub(crate) turns: Turns,
    config: RefCell<Cache<Arc<ArcSwap<Config>>, Arc<Config>>>,
    random: Cell<u64>,
}

impl Thread {
    fn new(shared: Arc<Shared>, index: usize, limits: Limits, logger: Logger, tracer: Tracer) -> Rc<Self> {
        let clock = Clock::new(Instant::now());
        Rc::new(Self {
            counters: Arc::clone(&shared.threads[index].counters),
            limits,
            logger,
            tracer,
            registry: Registry::new(Rc::clone(&clock)),
            upstreams: Upstreams::default(),
            door: RefCell::default(),
            shares: Shares::default(),
            turns: Turns::default(),
            unproved: Cell::default(),
            lookups: Rc::default(),
            places: Places::default(),
            journal: Journal::default(),
            config: RefCell::new(Cache::new(Arc::clone(&shared.config))),
            random: Cell::new(rand::random::<u64>() | 1),
            clock,
            shared,
        })
    }

    /// The configuration that is active now; whoever holds it goes on seeing that one.
    pub(crate) fn config(&self) -> Arc<Config> {
        Arc::clone(self.config.borrow_mut().load())
    }

    /// A number that is random enough for balancing, jitter and request ids, not for secrets (xorshift64*).
    pub(crate) fn random(&self) -> u64 {
        let mut x = self.random.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.random.set(x);
        x.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A name for a request.
    pub(crate) fn request_id(&self) -> RequestId {
        RequestId::new(self.random(), self.random())
    }

    /// A number below `bound`, which is not zero.
    pub(crate) fn random_below(&self, bound: u64) -> u64 {
        // Multiply and shift (Lemire): the bias of 2^-64 x bound is nothing here.
        let wide = u128::from(self.random()) * u128::from(bound);
        u64::try_from(wide >> 64).unwrap_or(0)
    }
}

/// What is done for all request threads, until the worker is drained.
async fn help(shared: Arc<Shared>) {
    let (resolving, checking) = (Arc::clone(&shared), shared);
    tokio::join!(resolve::run(resolving), check::run(checking));
}

async fn run(thread: Rc<Thread>, mut inbox: mpsc::Receiver<Command>) {
    let mut acceptors = Acceptors::default();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut drain_ends = None;
    loop {
        tokio::select! {
            biased;
            due = tick.tick() => on_tick(&thread, due.into_std()),
            Some(command) = inbox.recv() => match command {
                Command::Take { slots, sockets, done } => {
                    // Whoever asked may be gone; then the slots are dropped by whoever follows.
                    let _gone = done.send(acceptors.take(&thread, &slots, sockets));
                }
                Command::Drop { slots, empty, done } => {
                    let deadline = thread.config().pool.drain_deadline;
                    acceptors.drop_slots(&slots, empty, deadline).await;
                    let _gone = done.send(());
                }
                Command::Adopt(connections) => acceptors.adopt(&thread, connections),
                Command::Configured => {
                    let config = thread.config();
                    thread.registry.limit_age(config.pool.max_connection_age);
                    let mut routes = RouteSet::of(&config);
                    let is_gone = |route: &TunnelRoute| !routes.has(route);
                    thread.registry.drain_tunnels(config.pool.drain_deadline, is_gone);
                }
                Command::Drain { deadline, begun } => {
                    let ends = Instant::now() + deadline;
                    drain_ends = Some(drain_ends.map_or(ends, |earlier: Instant| earlier.min(ends)));
                    thread.registry.drain(deadline);
                    let _gone = begun.send(());
                }
                Command::Recall { id, tenant, done } => {
                    let _gone = done.send(thread.journal.recall(id, tenant.as_ref(), &thread.counters));
                }
                Command::RetireAbove(connections) => thread.registry.retire_above(connections),
            },
            () = thread.registry.empty(), if drain_ends.is_some() && acceptors.is_empty() => break,
        }
        // The agent may be gone and never ask for its sockets: the deadline holds for listening, too.
        if drain_ends.is_some_and(|ends| Instant::now() > ends + TICK * 4) {
            info!(connections = thread.registry.len(), "drain deadline passed");
            break;
        }
    }
    acceptors.end_quic().await;
    debug!("request thread drained");
    if thread.shared.undrained.fetch_sub(1, Ordering::AcqRel) == 1 {
        thread.shared.advance(Phase::Drained);
    }
}

fn on_tick(thread: &Thread, due: Instant) {
    let now = Instant::now();
    let late = now.saturating_duration_since(due);
    thread.counters.queue_delay_us.raise(micros(late));
    thread.door.borrow_mut().observe(resident_bytes());
    thread.shares.sweep();
    thread.turns.sweep(now);
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let cpu = Duration::new(u64::try_from(cpu.tv_sec).unwrap_or(0), u32::try_from(cpu.tv_nsec).unwrap_or(0));
    thread.counters.cpu_us.set(micros(cpu));
    thread.clock.sweep(now);
    thread.registry.sweep();
    thread.logger.flush();
    thread.tracer.flush();
    // First: a table that is forgotten lets go of its backends.
    thread.places.sweep(&thread.config());
    thread.upstreams.sweep(thread);
}

/// Whole microseconds.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
