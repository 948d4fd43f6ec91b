//! The thread that owns a server: it feeds the node, makes its batches durable and does what it says then.
//!
//! One thread, because the order of these steps is the whole of the promise. All writes that wait when a turn begins
//! share its one fdatasync.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, PoisonError},
    thread,
    time::{Duration, Instant},
};

use api::store::{Member, Members};
use model::{Epoch, Revision};
use sha2::{Digest, Sha256};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    time::MissedTickBehavior,
};

use crate::{
    Config, Handle, Leadership, NodeId, OpenError, Outcome, ReadError, Start, TxnError, background,
    disk::{Disk, DiskError, Snapshot, Snapshots},
    fatal::Fatal,
    files::{FileDisk, Opened, Options},
    handle::{Ask, LogFigures, Shared, Standing},
    image,
    machine::{Machine, Position},
    members::{Addresses, MemberError},
    metric,
    node::{Effects, Node, NodeConfig, NodeError, NotProposed, ReadId},
    peer::{Network, Report, Reports},
    state::State,
};

/// Asks taken in one turn: its writes share one sync, and a tick is not late because of them.
const ASKS: usize = 256;

/// Entries that stay in memory behind the newest snapshot, for servers that are nearly up to date.
const TRAILING: u64 = 1000;

/// Entries that a learner may lack when it is promoted: what is on its way at a high rate of writes.
const CAUGHT_UP: u64 = 128;

/// How long a leader that stops waits for another to take over. An election would take longer.
const TRANSFER: Duration = Duration::from_secs(1);

/// Opens the store on a thread of its own.
pub(crate) async fn start(config: Config, network: Box<dyn Network>) -> Result<Handle, OpenError> {
    let (ready, opened) = oneshot::channel();
    let body = move || match Driver::open(&config, network) {
        Err(error) => drop(ready.send(Err(error))),
        Ok((driver, handle)) => {
            if ready.send(Ok(handle)).is_ok() {
                driver.run(&config);
            }
        }
    };
    thread::Builder::new()
        .name("store".into())
        .spawn(body)
        .map_err(OpenError::io("start the store's thread"))?;
    opened
        .await
        .unwrap_or_else(|_| Err(OpenError::Config("the store's thread panicked while it opened".into())))
}

struct Driver {
    node: Node,
    disk: FileDisk,
    state: State,
    network: Box<dyn Network>,
    asks: mpsc::Receiver<Ask>,
    /// What background threads have done.
    done: mpsc::UnboundedReceiver<Done>,
    background: mpsc::UnboundedSender<Done>,
    /// Those that may still run. They write where the next one to open this directory cleans up.
    threads: Vec<thread::JoinHandle<()>>,
    cluster_id: String,
    origin: u64,
    write_timeout: Duration,
    read_timeout: Duration,
    max_reads: usize,
    /// By the ticket's number; deadlines rise with it.
    writes: BTreeMap<u64, Write>,
    reads: BTreeMap<ReadId, Reader>,
    applied: watch::Sender<Revision>,
    leadership: watch::Sender<Leadership>,
    leader: watch::Sender<Option<NodeId>>,
    log: watch::Sender<LogFigures>,
    standing: watch::Sender<Standing>,
    id: NodeId,
}

/// A writer that waits.
struct Write {
    reply: oneshot::Sender<Result<Outcome, TxnError>>,
    deadline: Instant,
    /// Given back when it is answered.
    _size: OwnedSemaphorePermit,
}

/// A reader that waits.
struct Reader {
    reply: oneshot::Sender<Result<(), ReadError>>,
    deadline: Instant,
}

/// What a background thread has done. At most one of each is under way: the channel needs no bound.
enum Done {
    Saved(Result<Position, Fatal>),
    Loaded(Result<(Snapshot, Members), Fatal>),
}

/// Why the loop ended in good order.
enum End {
    /// Somebody asked, and waits.
    Asked(oneshot::Sender<()>),
    /// Every handle is gone.
    Unused,
}

impl Driver {
    fn open(config: &Config, network: Box<dyn Network>) -> Result<(Self, Handle), OpenError> {
        let options = Options {
            node: config.node,
            cluster_id: config.cluster_id.clone(),
            existing: matches!(config.start, Start::Existing),
            segment: config.segment,
            files: config.files.clone(),
        };
        let genesis = |cluster_id: &str| genesis(cluster_id, config);
        let Opened { disk, recovered, cluster_id } = FileDisk::open(&config.dir, &options, genesis)?;
        let (state, trusted) = State::open(config.dir.join("state"), config.files.clone())?;
        let damaged = |problem: String| crate::Damaged { file: config.dir.clone(), offset: 0, problem };
        let at = recovered.snapshot.meta.at;
        // A state that is behind the snapshot is whole, but of no use.
        let trusted = trusted.filter(|machine| machine.applied().index >= at.index);
        let is_trusted = trusted.is_some();
        let machine = match trusted {
            Some(machine) => machine,
            None => image::decode(&recovered.snapshot).map_err(|error| damaged(error.to_string()))?,
        };
        let origin = rand::random();
        let node_config = NodeConfig {
            id: config.node,
            cluster_id: cluster_id.clone(),
            origin,
            keep_revisions: config.keep_revisions,
            keep_bytes: config.keep_bytes,
            snapshot_entries: config.snapshot_entries,
            snapshot_bytes: config.snapshot_bytes,
            trailing_entries: TRAILING,
            caught_up_entries: CAUGHT_UP,
            election_ticks: None,
        };
        let node = Node::new(node_config, &recovered, machine).map_err(|error| damaged(error.to_string()))?;

        let machine = node.machine();
        let revision = machine.read().unwrap_or_else(PoisonError::into_inner).revision();
        let (asks, asked) = mpsc::channel(config.queue);
        let (applied, applied_seen) = watch::channel(revision);
        let (leadership, leadership_seen) = watch::channel(Leadership::default());
        let (leader, leader_seen) = watch::channel(None);
        let (log, log_seen) = watch::channel(LogFigures::default());
        let (standing, standing_seen) = watch::channel(Standing::default());
        let (background, done) = mpsc::unbounded_channel();
        let mut driver = Self {
            node,
            disk,
            state,
            network,
            asks: asked,
            done,
            background,
            threads: Vec::new(),
            cluster_id: cluster_id.clone(),
            origin,
            write_timeout: config.write_timeout,
            read_timeout: config.read_timeout,
            max_reads: config.max_reads,
            writes: BTreeMap::new(),
            reads: BTreeMap::new(),
            applied,
            leadership,
            leader,
            log,
            standing,
            id: config.node,
        };
        driver.network.attach(Reports::new(&asks));
        driver.publish_members();
        driver.publish_log();
        if !is_trusted {
            driver.rebuild_state();
        }
        driver.begin(config)?;
        let shared = Shared {
            node: config.node,
            cluster_id,
            machine,
            applied: applied_seen,
            leadership: leadership_seen,
            leader: leader_seen,
            log: log_seen,
            standing: standing_seen,
        };
        let handle = Handle {
            asks,
            bytes: Arc::new(Semaphore::new(config.queue_bytes)),
            shared: Arc::new(shared),
            read_timeout: config.read_timeout,
        };
        Ok((driver, handle))
    }

    /// A server that is alone need not wait for anybody: it leads, and has applied its log, when it is open.
    fn begin(&mut self, config: &Config) -> Result<(), OpenError> {
        if !self.node.is_alone() {
            return Ok(());
        }
        let begun = self.node.campaign().map_err(Fatal::from).and_then(|()| self.turns());
        begun.map_err(|fatal| {
            fail(config, &fatal);
            OpenError::io("replay the log")(std::io::Error::other(fatal))
        })
    }

    fn run(mut self, config: &Config) {
        let body = AssertUnwindSafe(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
            let runtime = runtime.map_err(|source| DiskError { doing: "start the clock".into(), source })?;
            let end = runtime.block_on(self.serve(config.tick))?;
            self.stop()?;
            Ok(end)
        });
        let end = catch_unwind(body).unwrap_or(Err(Fatal::Panic));
        // Who acts as the leader's part stops before another leads.
        self.leadership.send_modify(|leadership| leadership.leader = false);
        match end {
            Ok(end) => {
                self.close();
                if let End::Asked(reply) = end {
                    // An error: nobody waits any more.
                    reply.send(()).ok();
                }
            }
            Err(fatal) => fail(config, &fatal),
        }
    }

    async fn serve(&mut self, tick: Duration) -> Result<End, Fatal> {
        let mut clock = tokio::time::interval(tick);
        // After a disk that stood still: no burst of ticks, which would be an election.
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut asks = Vec::with_capacity(ASKS);
        let mut leaving: Option<(End, Instant)> = None;
        let mut used = true;
        loop {
            tokio::select! {
                _ = clock.tick() => self.tick(),
                Some(done) = self.done.recv() => self.take_done(done)?,
                // While it leaves as well: other servers' messages come this way.
                taken = self.asks.recv_many(&mut asks, ASKS), if used => {
                    used = taken > 0;
                    if !used && leaving.is_none() {
                        leaving = Some((End::Unused, self.hand_over()));
                    }
                    for ask in asks.drain(..) {
                        if let Some(reply) = self.take(ask) {
                            leaving = Some((End::Asked(reply), self.hand_over()));
                        }
                    }
                }
            }
            self.turns()?;
            if leaving.as_ref().is_some_and(|(_, until)| self.may_leave(*until))
                && let Some((end, _)) = leaving.take()
            {
                return Ok(end);
            }
        }
    }

    /// Gives leadership away, if there is somebody to take it; returns until when to wait for that.
    fn hand_over(&mut self) -> Instant {
        let now = Instant::now();
        if self.node.transfer().is_some() { now + TRANSFER } else { now }
    }

    fn may_leave(&self, until: Instant) -> bool {
        !self.node.leadership().leader || Instant::now() >= until
    }

    /// Takes one ask; returns who asked to stop.
    fn take(&mut self, ask: Ask) -> Option<oneshot::Sender<()>> {
        // A reply's error: whoever asked waits no longer.
        match ask {
            Ask::Propose { command, size, reply } => {
                let deadline = Instant::now() + self.write_timeout;
                match self.node.propose(&command) {
                    Ok(ticket) => {
                        self.writes.insert(ticket.number, Write { reply, deadline, _size: size });
                    }
                    Err(NotProposed::NoLeader) => drop(reply.send(Err(TxnError::NoLeader))),
                    Err(NotProposed::Busy) => drop(reply.send(Err(TxnError::Busy))),
                }
            }
            Ask::Change { change, refused, reply, size } => {
                let deadline = Instant::now() + self.write_timeout;
                match self.node.change_members(&change) {
                    Ok(ticket) => {
                        self.writes.insert(ticket.number, Write { reply, deadline, _size: size });
                    }
                    Err(reason) => drop(refused.send(reason)),
                }
            }
            Ask::Barrier { reply } if self.reads.len() >= self.max_reads => {
                drop(reply.send(Err(ReadError::Busy)))
            }
            Ask::Barrier { reply } => {
                let deadline = Instant::now() + self.read_timeout;
                self.reads.insert(self.node.read(), Reader { reply, deadline });
            }
            Ask::Step(message) => {
                if let Err(error) = self.node.step(*message) {
                    tracing::warn!(%error, "dropped a message");
                }
            }
            Ask::Heard { node, peers } => self.network.heard(node, &peers),
            Ask::Report(Report::Expelled { by }) => self.expelled(by),
            Ask::Report(Report::Unreachable(node)) => self.node.unreachable(node),
            Ask::Report(Report::Snapshot { to, taken }) => self.node.snapshot_sent(to, taken),
            Ask::Transfer => drop(self.node.transfer()),
            Ask::Shutdown { reply } => return Some(reply),
        }
        None
    }

    /// Another server refuses ours for it was removed: that this one did not see its own removal is the rule, for
    /// nobody sends it anything from then on.
    fn expelled(&self, by: NodeId) {
        if replace(&self.standing, Standing::Removed) {
            tracing::error!(
                by,
                "this server was removed from the cluster: it takes part in nothing any more"
            );
        }
    }

    fn tick(&mut self) {
        self.node.tick();
        let now = Instant::now();
        while let Some(write) = self.writes.first_entry().filter(|write| write.get().deadline <= now) {
            self.node.forget_write(*write.key());
            drop(write.remove().reply.send(Err(TxnError::Unknown)));
        }
        while let Some(read) = self.reads.first_entry().filter(|read| read.get().deadline <= now) {
            self.node.forget_read(*read.key());
            drop(read.remove().reply.send(Err(ReadError::NoLeader)));
        }
    }

    /// Does all that there is to do now.
    fn turns(&mut self) -> Result<(), Fatal> {
        while let Some(mut turn) = self.node.turn() {
            turn.messages().into_iter().for_each(|message| self.network.send(message));
            if !turn.batch().is_empty() {
                self.disk.append(turn.batch())?;
            }
            let effects = turn.persisted()?;
            self.carry_out(effects);
        }
        Ok(())
    }

    fn carry_out(&mut self, effects: Effects) {
        if effects.members {
            // Before the messages: the first may be for the one that joins.
            self.publish_members();
        }
        // A leader's say only that the others may apply what it answers below; a leader waits for the others'.
        let mut messages = effects.messages;
        if !self.node.is_leader() {
            messages.drain(..).for_each(|message| self.network.send(message));
        }
        self.publish();
        for (ticket, outcome) in effects.answers {
            metrics::counter!(metric::PROPOSALS, "outcome" => label(&outcome)).increment(1);
            if ticket.origin == self.origin
                && let Some(write) = self.writes.remove(&ticket.number)
            {
                drop(write.reply.send(Ok(outcome)));
            }
        }
        for id in effects.reads {
            if let Some(read) = self.reads.remove(&id) {
                drop(read.reply.send(Ok(())));
            }
        }
        messages.into_iter().for_each(|message| self.network.send(message));
        if effects.replaced {
            self.rebuild_state();
        } else {
            // After the answers: the log has it all.
            self.state.write(effects.delta);
        }
        let snapshots = self.disk.snapshots();
        if let Some(machine) = effects.snapshot {
            let cluster_id = self.cluster_id.clone();
            self.in_background(move || Done::Saved(save(&machine, &cluster_id, &*snapshots)));
        } else if effects.snapshot_wanted {
            self.in_background(move || Done::Loaded(load(&*snapshots)));
        }
    }

    fn publish(&self) {
        let machine = self.node.machine();
        let machine = machine.read().unwrap_or_else(PoisonError::into_inner);
        let (revision, bytes) = (machine.revision(), machine.bytes());
        drop(machine);
        if replace(&self.applied, revision) {
            #[expect(clippy::cast_precision_loss, reason = "metrics")]
            {
                metrics::gauge!(metric::REVISION).set(revision.0 as f64);
                metrics::gauge!(metric::STATE_BYTES).set(bytes as f64);
            }
        }
        replace(&self.leader, self.node.leader());
        self.publish_log();
        let leadership = self.node.leadership();
        if replace(&self.leadership, leadership) {
            metrics::gauge!(metric::LEADER).set(u8::from(leadership.leader));
            tracing::info!(leader = leadership.leader, term = leadership.term, "leadership changed");
        }
    }

    fn publish_members(&mut self) {
        let machine = self.node.machine();
        let machine = machine.read().unwrap_or_else(PoisonError::into_inner);
        let (roster, retired) = (machine.roster(), machine.is_retired(self.id));
        drop(machine);
        self.network.members(&roster);
        let standing = match roster.iter().any(|member| member.id == self.id) {
            true => Standing::Member,
            false if retired => Standing::Removed,
            false => Standing::Joining,
        };
        if replace(&self.standing, standing) {
            tracing::info!(?standing, servers = roster.len(), "standing in the cluster");
        }
    }

    fn publish_log(&self) {
        let figures = LogFigures { commit_index: self.node.commit_index(), bytes: self.disk.log_bytes() };
        if replace(&self.log, figures) {
            #[expect(clippy::cast_precision_loss, reason = "a metric")]
            metrics::gauge!(metric::WAL_BYTES).set(figures.bytes as f64);
        }
    }

    fn in_background(&mut self, work: impl FnOnce() -> Done + Send + 'static) {
        let done = self.background.clone();
        let body = move || {
            let result = catch_unwind(AssertUnwindSafe(work)).unwrap_or(Done::Saved(Err(Fatal::Panic)));
            // An error: the driver has ended.
            drop(done.send(result));
        };
        self.threads.retain(|thread| !thread.is_finished());
        match background::spawn("store-snapshot", body) {
            Ok(thread) => self.threads.push(thread),
            Err(source) => {
                let doing = "start a thread for a snapshot".into();
                drop(self.background.send(Done::Saved(Err(DiskError { doing, source }.into()))));
            }
        }
    }

    fn take_done(&mut self, done: Done) -> Result<(), Fatal> {
        match done {
            Done::Saved(saved) => {
                let at = saved?;
                self.node.snapshot_saved(at.index);
                self.disk.release()?;
                self.publish_log();
                metrics::counter!(metric::SNAPSHOTS).increment(1);
                tracing::debug!(index = at.index, "snapshot saved");
            }
            Done::Loaded(loaded) => {
                let (snapshot, members) = loaded?;
                self.node.offer_snapshot(&snapshot, &members);
            }
        }
        Ok(())
    }

    fn rebuild_state(&mut self) {
        let machine = self.node.machine();
        let machine = machine.read().unwrap_or_else(PoisonError::into_inner);
        self.state.rebuild(&machine);
    }

    /// Answers who waits, and writes down what was not worth a sync yet.
    fn stop(&mut self) -> Result<(), Fatal> {
        let batch = self.node.last_batch();
        if !batch.is_empty() {
            self.disk.append(&batch)?;
        }
        self.asks.close();
        while let Ok(ask) = self.asks.try_recv() {
            match ask {
                Ask::Propose { reply, .. } => drop(reply.send(Err(TxnError::Stopped))),
                Ask::Barrier { reply } => drop(reply.send(Err(ReadError::Stopped))),
                Ask::Change { refused, .. } => drop(refused.send(MemberError::Stopped)),
                Ask::Step(_) | Ask::Report(_) | Ask::Heard { .. } | Ask::Transfer => {}
                Ask::Shutdown { reply } => {
                    reply.send(()).ok();
                }
            }
        }
        Ok(())
    }

    /// Marks the state as clean and lets the directory go, before anybody hears of the end.
    fn close(self) {
        let Self { node, disk, state, asks, threads, .. } = self;
        // A panic was told through `done`; what was saved meanwhile is found when the directory is opened.
        threads.into_iter().for_each(|thread| drop(thread.join()));
        state.close(&node.machine().read().unwrap_or_else(PoisonError::into_inner));
        drop(disk);
        drop(asks);
    }
}

fn fail(config: &Config, fatal: &Fatal) {
    tracing::error!(error = %fatal, "the store cannot keep its promises: the process ends");
    (config.on_fatal.0)(fatal);
}

/// Sets a watched value; whether it changed.
fn replace<T: PartialEq>(sender: &watch::Sender<T>, value: T) -> bool {
    sender.send_if_modified(|old| {
        let changed = *old != value;
        *old = value;
        changed
    })
}

fn save(machine: &Machine, cluster_id: &str, snapshots: &dyn Snapshots) -> Result<Position, Fatal> {
    let encoded = image::encode(machine, cluster_id);
    let snapshot = encoded.map_err(|source| DiskError { doing: "encode a snapshot".into(), source })?;
    snapshots.save(&snapshot)?;
    Ok(snapshot.meta.at)
}

fn load(snapshots: &dyn Snapshots) -> Result<(Snapshot, Members), Fatal> {
    let snapshot = snapshots.newest()?;
    let machine = image::decode(&snapshot).map_err(NodeError::from)?;
    Ok((snapshot, machine.members().clone()))
}

/// The state that every server of a new cluster begins with. Its epoch comes from the cluster's id, which was drawn
/// at random, so that servers that are made at once agree.
///
/// One that joins begins with nothing: it belongs to nobody, and votes for nobody, until a leader sends it a snapshot.
fn genesis(cluster_id: &str, config: &Config) -> std::io::Result<Snapshot> {
    if matches!(config.start, Start::Join) {
        let nothing = Machine::genesis(Epoch::default(), Position::default(), Members::default());
        return image::encode(&nothing, cluster_id);
    }
    let digest = Sha256::digest(cluster_id.as_bytes());
    let epoch = Epoch { counter: 1, id: u64::from_be_bytes(std::array::from_fn(|byte| digest[byte])) };
    let voters = config.voters.clone();
    let next_id = voters.iter().max().map_or(1, |last| last + 1);
    let mut registry = Vec::new();
    if let ([alone], Addresses { peers, admin }) = (&voters[..], &config.addresses)
        && !(peers.is_empty() && admin.is_empty())
    {
        registry.push(Member { id: *alone, peers: peers.clone(), admin: admin.clone() });
    }
    let members = Members { voters, registry, next_id, ..Members::default() };
    image::encode(&Machine::genesis(epoch, Position { index: 1, term: 1 }, members), cluster_id)
}

fn label(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Committed(_) => "committed",
        Outcome::Duplicate(_) => "duplicate",
        Outcome::Conflict { .. } => "conflict",
        Outcome::RequestIdReused => "request_id_reused",
        Outcome::Invalid(_) => "invalid",
        Outcome::Expired => "expired",
        Outcome::Quota(_) => "quota",
        Outcome::Full => "full",
        Outcome::Compacted(_) => "compacted",
        Outcome::Members => "members",
        Outcome::NoMember(_) => "no_member",
    }
}
