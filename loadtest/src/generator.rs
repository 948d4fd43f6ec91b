//! One generator thread: a clock that lets requests fall due, and connections that take them.

use std::{
    cell::RefCell,
    io, iter,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};
use tokio::{
    sync::{Notify, Semaphore, mpsc, watch},
    task::JoinSet,
    time::timeout,
};

use crate::{
    FailureKind, Plan, Protocol,
    alarm::Alarm,
    backlog::{Admission, Backlog, Job},
    connect::Connector,
    h1, h2,
    request::Request,
    schedule::{Schedule, Share},
    tally::{Answer, Failure, SecondTally, Tally, Times},
    target::Target,
    wire::Wire,
};

/// Connections that are opened at the same time before the start: more would overflow a listen queue.
const OPENING: usize = 64;

/// What all threads are given.
pub(crate) struct Order {
    pub(crate) plan: Plan,
    pub(crate) target: Target,
    pub(crate) connector: Connector,
}

/// What the threads are told. The end of the channel means: stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Open connections and wait.
    Prepare,
    /// Time zero.
    Start(Instant),
}

/// What a thread says.
#[derive(Debug)]
pub(crate) enum Event {
    /// Its connections are open.
    Ready,
    /// A second of its timeline, in order, without gaps.
    Second(SecondTally),
    /// Its last word.
    Done(Result<Box<Outcome>, Broken>),
}

/// What one thread found.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) tally: Tally,
    pub(crate) cpu_permille: u64,
}

/// Why a thread could not do its work.
#[derive(Debug)]
pub(crate) enum Broken {
    /// No connection could be opened.
    NoConnection(Failure),
    /// No runtime, no timer.
    Io(io::Error),
}

/// Runs a thread's share of the order to its end.
pub(crate) async fn run(
    order: Arc<Order>,
    request: Request,
    share: Share,
    mut signal: watch::Receiver<Signal>,
    events: mpsc::Sender<(usize, Event)>,
) -> Result<Box<Outcome>, Broken> {
    let wire = Rc::new(Wire {
        connector: order.connector.clone(),
        request,
        connect_per_request: order.plan.connect_per_request,
        tally: RefCell::new(Tally::new()),
    });
    let clients = clients(&order.plan, share, &wire);
    let clients =
        if order.plan.connect_per_request { clients } else { open(clients, order.plan.timeout).await? };
    if events.send((share.index, Event::Ready)).await.is_err() {
        return Ok(Box::new(Outcome { tally: Tally::new(), cpu_permille: 0 }));
    }
    let Ok(Signal::Start(start)) = signal.wait_for(|s| *s != Signal::Prepare).await.map(|s| *s) else {
        return Ok(Box::new(Outcome { tally: Tally::new(), cpu_permille: 0 }));
    };
    let cpu = Cpu::begin();
    let bound = order.plan.max_waiting.div_ceil(share.of);
    let generator = Rc::new(Generator {
        start,
        timeout: order.plan.timeout,
        backlog: RefCell::new(Backlog::new(Schedule::new(&order.plan, share), bound)),
        wire,
        wake: Notify::new(),
    });
    let mut senders = JoinSet::new();
    for client in clients {
        senders.spawn_local(generator.clone().send(client));
    }
    let telling = tokio::task::spawn_local(generator.clone().tell(share.index, events.clone()));
    generator.clock(&mut signal).await.map_err(Broken::Io)?;
    while senders.join_next().await.is_some() {}
    telling.abort();
    let cpu_permille = cpu.permille();
    let mut tally = generator.wire.tally.replace(Tally::new());
    tally.roll(generator.now());
    let last = tally.open().clone();
    let mut rest: Vec<_> = iter::from_fn(|| tally.pop_closed()).collect();
    rest.push(last);
    for second in rest {
        // The receiver gone means that nobody wants the report; the thread ends either way.
        if events.send((share.index, Event::Second(second))).await.is_err() {
            break;
        }
    }
    Ok(Box::new(Outcome { tally, cpu_permille }))
}

/// One sender's way to the target.
enum Client {
    H1(h1::Client),
    H2(Rc<h2::Link>),
}

impl Client {
    async fn open(&mut self) -> Result<(), Failure> {
        match self {
            Self::H1(client) => client.open().await,
            Self::H2(link) => link.open().await,
        }
    }

    async fn exchange(&mut self) -> Result<Answer, Failure> {
        match self {
            Self::H1(client) => client.exchange().await,
            Self::H2(link) => link.exchange().await,
        }
    }
}

/// This thread's clients. Those of HTTP/2 come one of each connection first, so that light load uses all connections.
fn clients(plan: &Plan, share: Share, wire: &Rc<Wire>) -> Vec<Client> {
    let connections = (plan.connections + share.of - 1 - share.index) / share.of;
    match plan.protocol {
        Protocol::H1 => (0..connections).map(|_| Client::H1(h1::Client::new(wire.clone()))).collect(),
        Protocol::H2 => {
            let links: Vec<_> = (0..connections).map(|_| h2::Link::new(wire.clone())).collect();
            let streams = if plan.connect_per_request { 1 } else { plan.streams };
            (0..streams).flat_map(|_| links.iter().cloned().map(Client::H2)).collect()
        }
    }
}

/// Opens all connections. Some may fail: their first request will try again, and fail if that fails.
async fn open(clients: Vec<Client>, limit: Duration) -> Result<Vec<Client>, Broken> {
    let turns = Rc::new(Semaphore::new(OPENING));
    let mut opening = JoinSet::new();
    for mut client in clients {
        let turns = turns.clone();
        opening.spawn_local(async move {
            let _turn = turns.acquire().await;
            let opened = timeout(limit, client.open()).await.unwrap_or_else(|_| Err(late(limit)));
            (client, opened)
        });
    }
    let (mut opened, mut failure) = (Vec::with_capacity(opening.len()), None);
    let mut any = false;
    while let Some(joined) = opening.join_next().await {
        let (client, result) = joined.map_err(|error| Broken::Io(io::Error::other(error)))?;
        opened.push(client);
        match result {
            Ok(()) => any = true,
            Err(error) => {
                failure.get_or_insert(error);
            }
        }
    }
    match failure {
        Some(failure) if !any => Err(Broken::NoConnection(failure)),
        _ => Ok(opened),
    }
}

fn late(limit: Duration) -> Failure {
    Failure::new(FailureKind::Timeout, format!("no complete answer within {limit:?}"))
}

struct Generator {
    start: Instant,
    timeout: Duration,
    backlog: RefCell<Backlog>,
    wire: Rc<Wire>,
    /// Idle senders wait here, first come, first served: all connections stay in use.
    wake: Notify,
}

impl Generator {
    fn now(&self) -> Duration {
        Instant::now().saturating_duration_since(self.start)
    }

    /// Lets requests fall due on time until the schedule or the run ends.
    async fn clock(&self, signal: &mut watch::Receiver<Signal>) -> io::Result<()> {
        let alarm = Alarm::new()?;
        loop {
            // Not in the `while let` head: the borrow would live through the await.
            let next = self.backlog.borrow_mut().next_due();
            let Some(due) = next else { break };
            tokio::select! {
                rung = alarm.until(self.start + due) => rung?,
                changed = signal.changed() => if changed.is_err() {
                    self.stop();
                    break;
                },
            }
            self.advance(self.now());
            self.wake.notify_one();
        }
        self.wake.notify_waiters();
        Ok(())
    }

    fn advance(&self, now: Duration) {
        let mut tally = self.wire.tally.borrow_mut();
        self.backlog.borrow_mut().advance(now, |arrival, admission| {
            tally.planned(now, arrival.counted);
            if admission == Admission::Dropped {
                tally.not_sent(now, arrival.counted);
            }
        });
    }

    fn stop(&self) {
        let now = self.now();
        for job in self.backlog.borrow_mut().stop() {
            self.wire.tally.borrow_mut().not_sent(now, job.arrival.counted);
        }
    }

    /// Takes requests one after the other until there are no more.
    async fn send(self: Rc<Self>, mut client: Client) {
        let mut free_since = Duration::ZERO;
        while let Some(job) = self.job().await {
            let sent = self.now();
            self.wire.tally.borrow_mut().sent(sent, job.lag(free_since, sent), job.arrival.counted);
            let result = timeout(self.timeout, client.exchange()).await;
            let result = result.unwrap_or_else(|_| Err(late(self.timeout)));
            let ended = self.now();
            let times = Times { due: job.arrival.at, sent, ended };
            self.wire.tally.borrow_mut().ended(times, &result, job.arrival.counted);
            free_since = ended;
        }
    }

    /// The next request to send. One that has waited longer than the timeout is given up.
    async fn job(&self) -> Option<Job> {
        loop {
            let now = self.now();
            // The senders look at the clock too: under load the timer's task comes late.
            self.advance(now);
            let job = self.backlog.borrow_mut().take();
            match job {
                Some(job) if now.saturating_sub(job.arrival.at) > self.timeout => {
                    self.wire.tally.borrow_mut().not_sent(now, job.arrival.counted);
                }
                Some(job) => {
                    if self.backlog.borrow().is_waiting() {
                        self.wake.notify_one();
                    }
                    return Some(job);
                }
                None if self.backlog.borrow_mut().is_finished() => return None,
                None => self.wake.notified().await,
            }
        }
    }

    /// Sends each second of the timeline when it is over.
    async fn tell(self: Rc<Self>, index: usize, events: mpsc::Sender<(usize, Event)>) {
        let mut ticks =
            tokio::time::interval_at((self.start + Duration::from_secs(1)).into(), Duration::from_secs(1));
        loop {
            ticks.tick().await;
            let now = self.now();
            self.wire.tally.borrow_mut().roll(now);
            // One at a time: a second that is taken out and not yet sent when this task ends would be lost.
            loop {
                let Ok(permit) = events.reserve().await else { return };
                let Some(second) = self.wire.tally.borrow_mut().pop_closed() else { break };
                permit.send((index, Event::Second(second)));
            }
        }
    }
}

/// The CPU time of this thread.
struct Cpu {
    used: Duration,
    begun: Instant,
}

impl Cpu {
    fn begin() -> Self {
        Self { used: Self::used(), begun: Instant::now() }
    }

    fn used() -> Duration {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
    }

    fn permille(&self) -> u64 {
        let used = Self::used().saturating_sub(self.used).as_micros();
        let passed = self.begun.elapsed().as_micros().max(1);
        u64::try_from(used * 1000 / passed).unwrap_or(1000)
    }
}
