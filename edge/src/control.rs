//! The worker's other half: where its configuration and its sockets come from, and where its load goes.
//!
//! Nothing here is on the request path. A worker serves what it has with every server and its agent gone.

mod assemble;
mod cache;
mod feed;
mod keep;
mod link;
mod mirror;
mod report;

use std::{os::fd::OwnedFd, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use api::{
    agent::{Credentials, Slots, ToAgent, ToWorker, Welcome},
    quic::QuicSecret,
};
use model::{PoolName, WorkerId};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep, timeout},
};
use tracing::{debug, error, info, warn};

use crate::{
    accesslog::{AccessLog, LAST_LINES, Sink},
    config::PoolSettings,
    confine::confine_worker,
    exit::{self, Leaving},
    limits::Limits,
    shared::{Control, Phase},
    tls,
    trace::TraceArgs,
    worker::{Worker, WorkerSettings},
};
use feed::Feed;
use link::{Link, LinkError};
use report::Reporter;

/// How a worker finds its agent, as the agent wrote it on the command line.
#[derive(Debug, Clone)]
pub struct WorkerArgs {
    /// The agent's socket.
    pub agent_socket: PathBuf,
    /// Who this worker is.
    pub worker: WorkerId,
    /// Whose addresses it serves.
    pub pool: PoolName,
    /// Where the access log goes. Workers that share a file append whole lines to it.
    pub access_log: Sink,
    /// Whether and how requests are traced.
    pub tracing: Option<TraceArgs>,
}

/// A worker that was started by nobody's agent ends: nothing would ever lend it a socket.
const FIRST_WELCOME: Duration = Duration::from_secs(10);
/// Several times a second: a new agent waits some seconds for the workers of the one before it.
const RECONNECT: Duration = Duration::from_millis(100);
/// A worker with a last-known-good file waits this long for a server before it serves without one.
const SERVER_GRACE: Duration = Duration::from_millis(500);
/// How long a drained worker tries to tell its agent.
const FAREWELL: Duration = Duration::from_secs(1);

/// Runs one worker to the end of its drain, on this thread and those that it starts.
///
/// # Errors
/// When no agent answers, a thread cannot be started, or TLS cannot be prepared.
pub fn run_worker(args: WorkerArgs) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let shutdown = api::process::shutdown_signal().context("install signal handlers")?;
        api::process::ignore_hangup().context("install signal handlers")?;
        let (session, welcome) = welcome(&args).await?;
        let pool = PoolSettings {
            drain_deadline: Duration::from_millis(welcome.drain_deadline_ms),
            ..PoolSettings::new(args.pool.clone())
        };
        let threads = usize::try_from(welcome.threads)?;
        // Before there is another thread.
        confine_worker(&[], &[&welcome.cache_dir], &args.access_log, false).context("confine the worker")?;
        let log = AccessLog::start(&args.access_log, args.worker.as_str())
            .with_context(|| format!("open the access log {}", args.access_log))?;
        // An agent of an earlier version gives none; then it lends no UDP slots either.
        let quic = QuicSecret::from_hex(&welcome.quic_secret);
        let quic = quic.unwrap_or_else(|| QuicSecret::new(rand::random()));
        let (tracing, export) = args.tracing.clone().map(TraceArgs::open).unzip();
        let settings = WorkerSettings { pool, threads, limits: Limits::default(), quic, tracing };
        let worker =
            Worker::start_logging(&settings, &|| log.logger()).context("start the request threads")?;
        drop(settings);
        let exporting = export.map(|export| export.start(args.worker.as_str(), &worker.control()));
        tls::warm_up().context("warm up TLS")?;
        run(session, welcome, worker.control(), shutdown).await?;
        worker.join();
        if !log.close(LAST_LINES) {
            warn!("the access log did not take its last lines");
        }
        if let Some(exporting) = exporting {
            exporting.end().await;
        }
        Ok(())
    })
}

/// Asks the agent who this worker is.
///
/// # Errors
/// When no agent answers in time or it answers something else.
async fn welcome(args: &WorkerArgs) -> Result<(Session, Welcome)> {
    let hello = async {
        let link = Link::connect(&args.agent_socket)?;
        let servers = watch::Sender::default();
        let session = Session::begin(link, args.clone(), servers, Phase::Starting, false).await?;
        loop {
            if let (ToWorker::Welcome(welcome), _) = session.link.recv().await? {
                session.servers.send_replace(Credentials::from(&*welcome));
                return Ok::<_, LinkError>((session, *welcome));
            }
        }
    };
    timeout(FIRST_WELCOME, hello)
        .await
        .context("the agent did not answer")?
        .with_context(|| format!("ask the agent at {}", args.agent_socket.display()))
}

/// Serves until the drain is over: follows the feed, reports load, takes and returns sockets.
///
/// `shutdown` is the wish of whoever signals the process; the agent's `Drain` is the same.
async fn run(
    session: Session,
    welcome: Welcome,
    control: Control,
    mut shutdown: watch::Receiver<bool>,
) -> Result<()> {
    let args = session.args.clone();
    let reporter = Reporter::new(args.worker.clone(), args.pool.clone(), control.clone());
    let servers = session.servers.subscribe();
    let (feed, started) =
        Feed::open((args.worker.clone(), args.pool.clone()), &welcome, servers.clone(), control.clone())
            .await;
    if started {
        // A server that answers has something newer, and a worker that is ready too soon refuses a new tenant.
        let control = control.clone();
        tokio::spawn(async move {
            sleep(SERVER_GRACE).await;
            control.ready();
        });
    }
    let feed = tokio::spawn(feed.follow());
    let reports = tokio::spawn(reporter.follow(servers));
    let agent = tokio::spawn(follow_agent(session, control.clone()));
    let deadline = Duration::from_millis(welcome.drain_deadline_ms);
    tokio::select! {
        () = control.drained() => {}
        () = api::process::shut_down(&mut shutdown) => {
            info!("asked to end, draining");
            control.drain(deadline).await;
            control.drained().await;
        }
    }
    // The agent's task ends once it has said Drained; where no agent is, nobody needs to hear it.
    let farewell = timeout(FAREWELL, agent).await;
    feed.abort();
    reports.abort();
    match farewell {
        Ok(joined) => joined.context("the agent's task panicked"),
        Err(_) => Ok(()),
    }
}

/// One connection to the agent.
#[derive(Debug)]
struct Session {
    link: Link,
    args: WorkerArgs,
    /// The phase that the agent knows of.
    told: Phase,
    /// How the servers are reached, as an agent said last.
    servers: watch::Sender<Credentials>,
    /// Connections that wait to hear whether another worker has them.
    handing: Vec<oneshot::Sender<bool>>,
}

impl Session {
    async fn begin(
        link: Link,
        args: WorkerArgs,
        servers: watch::Sender<Credentials>,
        phase: Phase,
        welcomed: bool,
    ) -> Result<Self, LinkError> {
        let hello = ToAgent::Hello {
            worker: args.worker.clone(),
            pool: args.pool.clone(),
            pid: std::process::id(),
            welcomed,
            ready: phase >= Phase::Ready,
            draining: phase >= Phase::Draining,
            renews: true,
            keeps: true,
            measures: true,
            adopts: true,
        };
        link.send(&hello, &[]).await?;
        Ok(Self { link, args, told: phase, servers, handing: Vec::new() })
    }

    /// Answers the agent and tells it of every change of phase, until the connection ends or the worker is drained.
    async fn follow(
        &mut self,
        control: &Control,
        leaving: &mut mpsc::Receiver<Leaving>,
    ) -> Result<(), LinkError> {
        let mut phase = control.phase();
        // A phase that came since Hello has not been told.
        phase.mark_changed();
        loop {
            tokio::select! {
                biased;
                message = self.link.recv() => {
                    let (message, sockets) = message?;
                    self.answer(message, sockets, control).await?;
                }
                Some(first) = leaving.recv(), if self.handing.is_empty() => {
                    self.hand_over(exit::batch(first, leaving)).await?;
                }
                changed = phase.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let now = *phase.borrow_and_update();
                    for step in steps(self.told, now, control) {
                        self.link.send(&step, &[]).await?;
                    }
                    self.told = now;
                    if now == Phase::Drained {
                        return Ok(());
                    }
                }
            }
        }
    }

    async fn answer(
        &mut self,
        message: ToWorker,
        sockets: Vec<OwnedFd>,
        control: &Control,
    ) -> Result<(), LinkError> {
        match message {
            // Only a new worker is welcomed, and this one was.
            ToWorker::Welcome(_) => {}
            ToWorker::Renewed(credentials) => {
                info!(servers = ?credentials.servers, "new credentials");
                self.servers.send_replace(*credentials);
            }
            ToWorker::Recover => {
                for (slots, sockets) in control.held_slots()? {
                    self.link.send(&ToAgent::Recovered(slots), &sockets).await?;
                }
                for (slots, sockets) in control.kept_slots()? {
                    self.link.send(&ToAgent::Kept(slots), &sockets).await?;
                }
                self.link.send(&ToAgent::RecoveredAll, &[]).await?;
            }
            ToWorker::Lend(slots) => match control.listen(slots.clone(), sockets).await {
                Ok(()) => {
                    debug!(slots = ?slots.slots, bind = %slots.listen.bind, "listening");
                    self.link.send(&ToAgent::Taken(slots), &[]).await?;
                }
                // Not answered: the agent lends the slots to others, and says what this worker lacks.
                Err(error) => {
                    error!(bind = %slots.listen.bind, error = &error as &dyn std::error::Error, "cannot listen")
                }
            },
            ToWorker::Keep(slots) => control.keep(slots, sockets),
            ToWorker::PassesOn => control.shared.exit.set_open(true),
            ToWorker::HandedOver { taken } => self.handed_over(taken),
            ToWorker::Adopt(connections) => {
                debug!(connections = connections.len(), "another worker's connections go on here");
                control.adopt(connections, sockets).await;
            }
            ToWorker::Return(slots) => {
                self.give_back(slots, control).await?;
            }
            ToWorker::Measure { question } => match sys::handover::put(control.metrics().as_bytes()) {
                Ok(file) => self.link.send(&ToAgent::Measured { question }, &[file]).await?,
                // Not answered: the agent says what it has of the others.
                Err(error) => warn!(%error, "the metrics cannot be handed over"),
            },
            ToWorker::Drain { deadline_ms } => {
                info!(deadline_ms, "the agent asks to drain");
                control.drain(Duration::from_millis(deadline_ms)).await;
            }
        }
        Ok(())
    }

    /// Asks for another worker to take connections. Theirs to read is whose they are said to be, so they wait for the answer.
    async fn hand_over(&mut self, leaving: Vec<Leaving>) -> Result<(), LinkError> {
        let (mut connections, mut sockets) = (Vec::new(), Vec::new());
        for Leaving { connection, socket, taken } in leaving {
            connections.push(connection);
            sockets.push(socket);
            self.handing.push(taken);
        }
        let sent = self.link.send(&ToAgent::HandOver(connections), &sockets).await;
        if sent.is_err() {
            self.handed_over(false);
        }
        sent
    }

    fn handed_over(&mut self, taken: bool) {
        for waiting in self.handing.drain(..) {
            // Its connection's time may be over.
            let _gone = waiting.send(taken);
        }
    }

    async fn give_back(&self, slots: Slots, control: &Control) -> Result<(), LinkError> {
        control.unlisten(&slots).await;
        debug!(slots = ?slots.slots, bind = %slots.listen.bind, "no longer listening");
        self.link.send(&ToAgent::Returned(slots), &[]).await
    }
}

/// What to tell the agent when the phase went from `from` to `to`.
fn steps(from: Phase, to: Phase, control: &Control) -> Vec<ToAgent> {
    let passed = |phase: Phase| from < phase && phase <= to;
    let mut steps = vec![];
    // A worker that drains before it was ready never says that it is.
    if passed(Phase::Ready) && to == Phase::Ready {
        let start = control.started().elapsed().as_micros();
        steps.push(ToAgent::Ready { start_us: u64::try_from(start).unwrap_or(u64::MAX) });
    }
    if passed(Phase::Draining) {
        steps.push(ToAgent::Draining);
    }
    if passed(Phase::Drained) {
        steps.push(ToAgent::Drained);
    }
    steps
}

/// Follows the agent, and the next one when it is gone, until the worker is drained.
async fn follow_agent(mut session: Session, control: Control) {
    // Whoever follows an agent first is the only one.
    let Some(mut leaving) = control.shared.exit.leaving() else { return };
    while let Err(error) = session.follow(&control, &mut leaving).await {
        control.shared.exit.set_open(false);
        // Another worker may have them: only that they are not read twice is certain.
        session.handed_over(true);
        warn!(
            error = &error as &dyn std::error::Error,
            "agent lost, serving on with the sockets that are here"
        );
        let lost_at = Instant::now();
        session = tokio::select! {
            session = reconnect(session.args, session.servers, &control) => session,
            never = exit::refuse(&mut leaving) => match never {},
        };
        info!(after_ms = lost_at.elapsed().as_millis(), "agent found again");
    }
}

async fn reconnect(args: WorkerArgs, servers: watch::Sender<Credentials>, control: &Control) -> Session {
    loop {
        sleep(RECONNECT).await;
        let Ok(link) = Link::connect(&args.agent_socket) else { continue };
        let phase = *control.phase().borrow();
        if let Ok(session) = Session::begin(link, args.clone(), servers.clone(), phase, true).await {
            return session;
        }
    }
}
