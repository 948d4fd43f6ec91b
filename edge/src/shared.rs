//! What all threads of a worker share, and the handle by which the control side steers it.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use api::{
    agent::{IdleConnection, Slots, Transport},
    quic::QuicSecret,
};
use arc_swap::ArcSwap;
use futures_util::future::join_all;
use model::{Epoch, Revision, TenantId};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{sleep, timeout},
};

use crate::{
    config::{Config, PoolSettings},
    exit::Exit,
    journal::RequestId,
    limits::RECALL,
    listen::{ClientCounts, Listening, TakeError},
    metrics::{Counters, HistogramSample},
    upstream::{check::Vitals, resolve::Resolved},
};

/// Where a worker is in its life. It only moves forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// No configuration yet, or TLS not warm.
    Starting,
    /// Can serve.
    Ready,
    /// Finishes what it has.
    Draining,
    /// The last connection is gone.
    Drained,
}

/// What the threads of a worker share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Arc<ArcSwap<Config>>,
    pub(crate) tls: Arc<crate::tls::Acceptor>,
    pub(crate) phase: watch::Sender<Phase>,
    /// Sent to when a configuration was activated.
    pub(crate) activated: watch::Sender<()>,
    pub(crate) threads: Vec<Seat>,
    pub(crate) listening: Mutex<Listening>,
    pub(crate) clients: ClientCounts,
    /// What QUIC's keys are made from.
    pub(crate) quic: QuicSecret,
    /// Addresses that serve HTTP/3.
    quic_addresses: ArcSwap<Vec<SocketAddr>>,
    pub(crate) resolved: ArcSwap<Resolved>,
    /// By which idle connections leave a worker that drains.
    pub(crate) exit: Exit,
    /// Whether any upstream is told who its clients are, and what they connected to.
    pub(crate) sends_proxy: AtomicBool,
    pub(crate) vitals: Vitals,
    /// What the helper thread counts, and the tickets of all threads.
    pub(crate) helper: Arc<Counters>,
    pub(crate) started: Instant,
    /// Request threads that have not drained yet.
    pub(crate) undrained: AtomicUsize,
    /// Serialises activations, so that an older configuration can never overtake a newer one.
    activation: Mutex<()>,
}

/// One request thread, as others see it.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) counters: Arc<Counters>,
}

impl Seat {
    /// Gives an order and waits until it was carried out. `None` if the thread has ended.
    async fn order<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (done, answer) = oneshot::channel();
        self.commands.send(command(done)).await.ok()?;
        tokio::select! {
            biased;
            answer = answer => answer.ok(),
            // An order that comes while the thread ends can lie in the channel for ever, and `done` with it.
            () = self.commands.closed() => None,
        }
    }
}

/// What a request thread is told.
#[derive(Debug)]
pub(crate) enum Command {
    /// Accept from these as well.
    Take { slots: Slots, sockets: Vec<OwnedFd>, done: oneshot::Sender<io::Result<()>> },
    /// Stop accepting from these and close them; `empty` accepts what is queued first.
    Drop { slots: Slots, empty: bool, done: oneshot::Sender<()> },
    /// Serve these, which another worker has handed over.
    Adopt(Vec<(IdleConnection, OwnedFd)>),
    /// Look at the configuration: the pool's settings may have changed.
    Configured,
    /// Finish what you have.
    Drain { deadline: Duration, begun: oneshot::Sender<()> },
    /// Tell of a request: of that tenant's, or of whoever's it is.
    Recall { id: RequestId, tenant: Option<TenantId>, done: oneshot::Sender<Option<api::request::Request>> },
    /// Retire connections above this many.
    RetireAbove(usize),
}

impl Shared {
    pub(crate) fn new(pool: PoolSettings, threads: Vec<Seat>, quic: QuicSecret) -> Arc<Self> {
        let undrained = AtomicUsize::new(threads.len());
        let config = Arc::new(ArcSwap::from_pointee(Config::empty(pool)));
        let helper: Arc<Counters> = Arc::default();
        Arc::new(Self {
            tls: Arc::new(crate::tls::Acceptor::new(Arc::clone(&config), Arc::clone(&helper))),
            config,
            phase: watch::Sender::new(Phase::Starting),
            activated: watch::Sender::new(()),
            threads,
            listening: Mutex::default(),
            clients: ClientCounts::default(),
            quic,
            quic_addresses: ArcSwap::default(),
            resolved: ArcSwap::default(),
            exit: Exit::default(),
            sends_proxy: AtomicBool::default(),
            vitals: Vitals::default(),
            helper,
            started: Instant::now(),
            undrained,
            activation: Mutex::default(),
        })
    }

    /// Whether clients of that TCP address should know that it serves HTTP/3.
    pub(crate) fn advertises_h3(&self, bind: SocketAddr) -> bool {
        self.config.load().pool.advertise_h3 && self.quic_addresses.load().contains(&bind)
    }

    /// Moves on to `phase`, never back.
    pub(crate) fn advance(&self, phase: Phase) {
        self.phase.send_if_modified(|now| {
            let forward = *now < phase;
            *now = (*now).max(phase);
            forward
        });
    }
}

/// Why a configuration was not activated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("revision {offered} of epoch {epoch} is older than what is served, {active}")]
pub struct Stale {
    /// The offered epoch.
    pub epoch: Epoch,
    /// The offered revision.
    pub offered: Revision,
    /// What is served.
    pub active: Revision,
}

/// What a worker did so far; a report is the difference of two samples.
#[derive(Debug, Clone)]
pub struct LoadSample {
    /// When it was taken.
    pub at: Instant,
    /// Finished requests.
    pub requests: u64,
    /// Of these, those that failed by our or the upstream's fault.
    pub errors: u64,
    /// Requests refused for lack of capacity.
    pub shed: u64,
    /// CPU time of the request threads.
    pub cpu_us: u64,
    /// How late the event loop ran at worst since the last sample.
    pub queue_delay_us: u64,
    /// Requests being served now.
    pub in_flight: u64,
    /// Client connections open now.
    pub connections: u64,
    /// Resident memory of the process.
    pub memory_bytes: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
    /// Request latencies.
    pub latency: HistogramSample,
    /// Finished requests per tenant.
    pub tenant_requests: HashMap<String, u64>,
}

/// Steers a worker. Cheap to clone; any thread may hold one.
#[derive(Debug, Clone)]
pub struct Control {
    pub(crate) shared: Arc<Shared>,
}

impl Control {
    /// What is served now.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        self.shared.config.load_full()
    }

    /// Serves `config` from the next request on. Requests that run keep the configuration that they began with.
    ///
    /// # Errors
    /// [`Stale`] when it is older than what is served.
    pub fn activate(&self, config: Config) -> Result<(), Stale> {
        let _one_at_a_time = self.shared.activation.lock().unwrap_or_else(PoisonError::into_inner);
        let active = self.shared.config.load();
        if (config.epoch, config.revision) < (active.epoch, active.revision) {
            return Err(Stale { epoch: config.epoch, offered: config.revision, active: active.revision });
        }
        let sends_proxy = config.tenants.iter().any(|(_, table)| table.sends_proxy);
        self.shared.sends_proxy.store(sends_proxy, Ordering::Relaxed);
        self.shared.config.store(Arc::new(config));
        self.shared.activated.send_replace(());
        for thread in &self.shared.threads {
            // A full queue means that the thread will look at the configuration soon anyway.
            let _full = thread.commands.try_send(Command::Configured);
        }
        Ok(())
    }

    /// The worker can serve: its configuration is loaded and TLS is warm.
    pub fn ready(&self) {
        self.shared.advance(Phase::Ready);
    }

    /// Where the worker is in its life.
    #[must_use]
    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.shared.phase.subscribe()
    }

    /// Listens on these as well; returns when all of them are being accepted from. Each socket is put on one
    /// thread; of a UDP address at most one on each, for the thread's life.
    ///
    /// # Errors
    /// [`TakeError`]; then none of these slots is listened on and all of these sockets are closed.
    pub async fn listen(&self, slots: Slots, sockets: Vec<OwnedFd>) -> Result<(), TakeError> {
        if slots.slots.len() != sockets.len() {
            return Err(TakeError::Count { slots: slots.slots.len(), sockets: sockets.len() });
        }
        if slots.listen.transport == Transport::Udp && !slots.listen.tls && !slots.listen.raw {
            return Err(TakeError::Cleartext);
        }
        let placed = self.listening().place(&slots, &sockets, self.shared.threads.len())?;
        let mut shares: Vec<(Vec<u32>, Vec<OwnedFd>)> = Vec::new();
        shares.resize_with(self.shared.threads.len(), Default::default);
        for ((slot, socket), thread) in slots.slots.iter().zip(sockets).zip(placed) {
            shares[thread].0.push(*slot);
            shares[thread].1.push(socket);
        }
        for (thread, (share, sockets)) in shares.into_iter().enumerate().filter(|(_, s)| !s.0.is_empty()) {
            let share = Slots { listen: slots.listen.clone(), slots: share };
            let take = |done| Command::Take { slots: share, sockets, done };
            let failed = match self.shared.threads[thread].order(take).await {
                Some(Ok(())) => continue,
                Some(Err(error)) => TakeError::Register(error),
                None => TakeError::Ended,
            };
            self.unlisten(&slots).await;
            return Err(failed);
        }
        self.note_quic();
        Ok(())
    }

    fn note_quic(&self) {
        let addresses = self.listening().quic_addresses();
        self.shared.quic_addresses.store(Arc::new(addresses));
    }

    /// Stops listening on these: they leave epoll first, then they are closed. Returns when that is done; slots
    /// that are not held are ignored. Connections that are queued on them are left to whoever else holds them. UDP slots
    /// are closed when their connections are finished, which this does not wait for.
    pub async fn unlisten(&self, slots: &Slots) {
        self.drop_slots(slots, false).await;
    }

    /// Stops listening where nobody else holds the sockets: accepts what is queued first, and waits for those who have connected
    /// and said nothing yet, a second or so. What UDP has begun goes on to the
    /// end of the drain: by HTTP/3, where clients hear of it, with new requests, and otherwise without new sessions.
    pub async fn stop_listening(&self) {
        let silent = self.listening().accept_silent();
        sleep(silent).await;
        let held = self.listening().held();
        for slots in
            held.into_iter().filter(|slots| slots.listen.transport == Transport::Tcp || slots.listen.raw)
        {
            self.drop_slots(&slots, true).await;
        }
    }

    async fn drop_slots(&self, slots: &Slots, empty: bool) {
        self.listening().forget(slots);
        self.note_quic();
        for thread in &self.shared.threads {
            // None: the thread has ended, and its sockets with it.
            let _ended = thread.order(|done| Command::Drop { slots: slots.clone(), empty, done }).await;
        }
    }

    /// Holds UDP sockets of other slots without reading them: the kernel counts the sockets of a group, and one that
    /// closed, because its agent died, would shift the others.
    pub fn keep(&self, slots: Slots, sockets: Vec<OwnedFd>) {
        self.listening().keep(slots, sockets);
    }

    /// Duplicates of what is kept with [`keep`](Self::keep).
    ///
    /// # Errors
    /// When a descriptor cannot be duplicated.
    pub fn kept_slots(&self) -> io::Result<Vec<(Slots, Vec<OwnedFd>)>> {
        self.listening().kept()
    }

    /// Duplicates of all sockets that are listened on, for an agent that lost its own.
    ///
    /// # Errors
    /// When a descriptor cannot be duplicated.
    pub fn held_slots(&self) -> io::Result<Vec<(Slots, Vec<OwnedFd>)>> {
        self.listening().duplicates()
    }

    /// Finishes what runs, refuses nothing that comes, and cuts off what is left at the deadline. Returns when the
    /// drain has begun. A second call can only shorten it. The listening sockets stay until
    /// [`unlisten`](Self::unlisten).
    pub async fn drain(&self, deadline: Duration) {
        self.shared.advance(Phase::Draining);
        for thread in &self.shared.threads {
            // None: the thread has ended, so it is drained.
            let _ended = thread.order(|begun| Command::Drain { deadline, begun }).await;
        }
    }

    /// Returns when the drain has begun and the last connection is gone.
    pub async fn drained(&self) {
        let mut phase = self.phase();
        // The sender lives in `shared`, which we hold.
        let _closed = phase.wait_for(|phase| *phase == Phase::Drained).await;
    }

    /// Serves idle connections of another worker, each on one of the threads.
    pub(crate) async fn adopt(&self, connections: Vec<IdleConnection>, sockets: Vec<OwnedFd>) {
        let mut shares: Vec<Vec<_>> = Vec::new();
        shares.resize_with(self.threads(), Vec::new);
        for (n, adopted) in connections.into_iter().zip(sockets).enumerate() {
            shares[n % self.threads()].push(adopted);
        }
        for (thread, share) in self.shared.threads.iter().zip(shares).filter(|(_, share)| !share.is_empty()) {
            // A thread that has ended closes them, as its worker would have done.
            let _ended = thread.commands.send(Command::Adopt(share)).await;
        }
    }

    /// Retires the oldest connections above this many, a part of them at each call.
    pub fn retire_above(&self, connections: u64) {
        let threads = self.shared.threads.len().max(1);
        let each = usize::try_from(connections).unwrap_or(usize::MAX).div_ceil(threads);
        for thread in &self.shared.threads {
            // A full queue means an overloaded thread; the server asks again in a second.
            let _full = thread.commands.try_send(Command::RetireAbove(each));
        }
    }

    /// What is known of a request that was answered lately, by its id: of one of `tenant`'s, or of whoever's it is. A
    /// thread that does not answer in time, because it is busy, is left out.
    pub async fn recall(&self, id: &str, tenant: Option<&TenantId>) -> Option<api::request::Request> {
        let id: RequestId = id.parse().ok()?;
        let asked = self.shared.threads.iter().map(|thread| {
            timeout(RECALL, thread.order(|done| Command::Recall { id, tenant: tenant.cloned(), done }))
        });
        join_all(asked).await.into_iter().find_map(|answer| answer.ok()??)
    }

    /// What the worker did so far. Resets the worst queue delay: one caller at a time should take samples.
    #[must_use]
    pub fn load(&self) -> LoadSample {
        let mut sample = LoadSample {
            at: Instant::now(),
            requests: 0,
            errors: 0,
            shed: 0,
            cpu_us: 0,
            queue_delay_us: 0,
            in_flight: 0,
            connections: 0,
            memory_bytes: resident_bytes(),
            bytes_in: 0,
            bytes_out: 0,
            latency: HistogramSample::default(),
            tenant_requests: HashMap::new(),
        };
        for Seat { counters, .. } in &self.shared.threads {
            sample.requests += counters.requests.value();
            sample.errors += counters.errors.value();
            sample.shed += counters.shed.value();
            sample.cpu_us += counters.cpu_us.value();
            sample.queue_delay_us = sample.queue_delay_us.max(counters.queue_delay_us.take());
            sample.in_flight += counters.in_flight.value();
            sample.connections += counters.connections.value();
            sample.bytes_in += counters.bytes_in.value();
            sample.bytes_out += counters.bytes_out.value();
            counters.latency.sample(&mut sample.latency);
            counters.tenant_requests(&mut sample.tenant_requests);
        }
        sample
    }

    /// Request threads.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.shared.threads.len()
    }

    /// When the worker was started.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.shared.started
    }

    /// All metrics as Prometheus text.
    #[must_use]
    pub fn metrics(&self) -> String {
        let threads = self.shared.threads.iter().map(|thread| &thread.counters);
        let threads: Vec<_> = threads.chain([&self.shared.helper]).map(Arc::clone).collect();
        crate::metrics::render(&threads)
    }

    fn listening(&self) -> std::sync::MutexGuard<'_, Listening> {
        self.shared.listening.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Resident memory of this process; zero where the kernel does not say.
pub(crate) fn resident_bytes() -> u64 {
    // The short file: it is read several times a second by threads that have requests to serve.
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let resident = pages.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    resident.unwrap_or(0) * rustix::param::page_size() as u64
}
