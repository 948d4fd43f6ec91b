//! One worker's stream, from its hello to its end.

use std::{
    collections::{BTreeMap, VecDeque},
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use api::{
    convert::Hash,
    feed::{Ack, EdgeMessage, Heartbeat, Hello, Nack, ServerMessage, edge_message, server_message::Message},
    limits::HEARTBEAT_INTERVAL,
    process,
};
use bytes::Bytes;
use model::{Epoch, Revision, TenantId, WorkerId};
use prost::Message as _;
use tokio::{
    sync::{mpsc, watch},
    time::{Sleep, sleep},
};
use tonic::{Status, Streaming};
use tracing::{debug, info, warn};

use super::delta::{Basis, Encoded, Said, Takes};
use crate::{
    World,
    acks::{self, Acks, Cause},
    metric,
    recalls::Recalls,
    world::View,
};

type Outbox = mpsc::Sender<Result<Bytes, Status>>;

/// How long a worker waits here for a server that is behind it, before it is sent to another one.
const BEHIND_TIMEOUT: Duration = Duration::from_secs(10);

/// One worker's stream.
pub(super) struct Subscription {
    worker: WorkerId,
    stream: u64,
    basis: Basis,
    /// Made and not sent yet: at most the chunks of one change.
    waiting: VecDeque<Encoded>,
    /// The world may have more for the worker than it was sent.
    stale: bool,
    /// Since when this server is behind the worker.
    behind: Option<Instant>,
    world: watch::Receiver<Arc<World>>,
    admissions: watch::Receiver<()>,
    acks: Arc<Acks>,
    recalls: Arc<Recalls>,
    /// To the worker, if it answers any.
    questions: Option<mpsc::Receiver<Bytes>>,
    /// Looked up once: there are 200 messages for each change.
    counters: Counters,
}

struct Counters {
    sent: metrics::Counter,
    bytes: metrics::Counter,
    commit_to_ack: metrics::Histogram,
}

impl Counters {
    fn new() -> Self {
        Self {
            sent: metrics::counter!(metric::DELTAS_SENT),
            bytes: metrics::counter!(metric::DELTA_BYTES),
            commit_to_ack: metrics::histogram!(metric::COMMIT_TO_ACK_SECONDS),
        }
    }
}

impl Subscription {
    /// Of the worker that says hello.
    pub(super) fn open(
        hello: Hello,
        world: watch::Receiver<Arc<World>>,
        acks: Arc<Acks>,
        recalls: Arc<Recalls>,
    ) -> Result<Self, Status> {
        let invalid = |e: model::InvalidName| Status::invalid_argument(e.to_string());
        let worker: WorkerId = hello.worker.parse().map_err(invalid)?;
        let pool: model::PoolName = hello.pool.parse().map_err(invalid)?;
        if world.borrow().epoch == Epoch::default() {
            // A server that joins has no state before the leader's: a worker would take that for all there is.
            return Err(Status::unavailable("this server has no configuration yet: ask another one"));
        }
        if !world.borrow().pools.contains_key(&pool) {
            return Err(Status::failed_precondition(format!("there is no pool {pool}")));
        }
        let have = hello
            .have
            .into_iter()
            .map(|version| {
                let tenant: TenantId = version.tenant.parse().map_err(invalid)?;
                Ok((tenant, hash(&version.hash)?))
            })
            .collect::<Result<BTreeMap<_, _>, Status>>()?;
        let epoch = hello.epoch.map(|e| Epoch { counter: e.counter, id: e.id }).unwrap_or_default();
        let revision = Revision(hello.revision);
        info!(%worker, %pool, %revision, version = hello.version, "worker subscribed");
        let stream = acks.connect(worker.clone(), pool.clone(), revision, have.clone());
        let questions = hello.recalls.then(|| recalls.join(&worker, stream));
        let some = |bytes: &[u8]| (!bytes.is_empty()).then(|| hash(bytes)).transpose();
        let said = Said {
            epoch,
            revision,
            tenants: have,
            hosts: some(&hello.hosts_hash)?,
            pool: some(&hello.pool_hash)?,
            ticket_keys: some(&hello.ticket_keys_hash)?,
        };
        let basis = Basis::new(pool, Takes::new(&hello.encodings), said);
        let admissions = acks.admissions();
        let (waiting, counters) = (VecDeque::new(), Counters::new());
        Ok(Self {
            worker,
            stream,
            basis,
            waiting,
            stale: true,
            behind: None,
            world,
            admissions,
            acks,
            recalls,
            questions,
            counters,
        })
    }

    /// Serves the worker until either side ends the stream.
    pub(super) async fn run(
        mut self,
        mut answers: Streaming<EdgeMessage>,
        outbox: Outbox,
        mut shutdown: watch::Receiver<bool>,
    ) {
        let end = tokio::select! {
            end = self.serve(&mut answers, &outbox) => end,
            () = process::shut_down(&mut shutdown) => Err(Status::unavailable("the server is shutting down")),
        };
        self.acks.disconnect(&self.worker, self.stream);
        self.recalls.leave(&self.worker, self.stream);
        match end {
            Ok(()) => debug!(worker = %self.worker, "worker left"),
            Err(status) => {
                debug!(worker = %self.worker, code = ?status.code(), reason = status.message(), "feed ended");
                // The worker is told if it can be; a full outbox or a lost connection tells it as well.
                outbox.try_send(Err(status)).ok();
            }
        }
    }

    async fn serve(&mut self, answers: &mut Streaming<EdgeMessage>, outbox: &Outbox) -> Result<(), Status> {
        let mut quiet = Quiet::new();
        loop {
            self.refill()?;
            let may_send = !self.waiting.is_empty() && self.has_room()?;
            tokio::select! {
                permit = outbox.reserve(), if may_send => {
                    let Ok(permit) = permit else { return Ok(()) };
                    let Some(Encoded { message, sent }) = self.waiting.pop_front() else { continue };
                    self.note(|ledger| ledger.sent(sent))?;
                    self.counters.sent.increment(1);
                    self.counters.bytes.increment(message.len() as u64);
                    permit.send(Ok(message));
                    quiet.broken();
                }
                // Waits for its turn like a delta; there are few.
                Some(question) = next_question(&mut self.questions) => {
                    let Ok(permit) = outbox.reserve().await else { return Ok(()) };
                    permit.send(Ok(question));
                    quiet.broken();
                }
                // Looked at only when nothing waits: what changes meanwhile is merged into the next delta.
                changed = self.world.changed(), if self.waiting.is_empty() => {
                    changed.map_err(|_| Status::unavailable("the server is shutting down"))?;
                    self.stale = true;
                }
                // The sender lives in `acks`, which we hold.
                _ = self.admissions.changed(), if self.waiting.is_empty() => self.stale = true,
                answer = answers.message() => match answer? {
                    Some(EdgeMessage { message: Some(message) }) => self.answer(message)?,
                    Some(EdgeMessage { message: None }) => {}
                    None => return Ok(()),
                },
                () = quiet.long() => {
                    quiet.broken();
                    if self.behind.is_some_and(|since| since.elapsed() > BEHIND_TIMEOUT) {
                        return Err(Status::unavailable("this server is behind the worker: ask another one"));
                    }
                    let revision = self.world.borrow().revision.0;
                    let message = ServerMessage { message: Some(Message::Heartbeat(Heartbeat { revision })) };
                    // A full outbox means that the worker has something to read already.
                    if let Err(mpsc::error::TrySendError::Closed(_)) =
                        outbox.try_send(Ok(message.encode_to_vec().into()))
                    {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Makes the next deltas, if the worker lacks something.
    fn refill(&mut self) -> Result<(), Status> {
        if !self.waiting.is_empty() || !self.stale {
            return Ok(());
        }
        self.stale = false;
        let world = self.world.borrow_and_update().clone();
        if self.basis.is_ahead_of(&world) {
            let (_, have) = self.basis.version();
            debug!(worker = %self.worker, %have, here = %world.revision, "behind this worker");
            self.behind.get_or_insert_with(Instant::now);
            return Ok(());
        }
        self.behind = None;
        // After the world: who is admitted to a change has it in this world or a later one.
        self.admissions.mark_unchanged();
        let view = match &world.pending {
            Some(pending) if !self.acks.admits(&self.worker, pending.number) => View::Before,
            _ => View::Newest,
        };
        let deltas = self.basis.advance(&world, view);
        self.waiting.extend(deltas.iter().cloned());
        if deltas.is_empty() && view == View::Newest {
            self.note(|ledger| ledger.spared(world.platform))?;
        }
        Ok(())
    }

    fn has_room(&self) -> Result<bool, Status> {
        self.note(|ledger| ledger.has_room())
    }

    fn answer(&self, message: edge_message::Message) -> Result<(), Status> {
        match message {
            edge_message::Message::Ack(ack) => self.ack(&ack),
            edge_message::Message::Nack(nack) => self.nack(&nack),
            edge_message::Message::Recalled(answer) => {
                self.recalls.answer(&self.worker, answer);
                Ok(())
            }
            edge_message::Message::Hello(_) => Err(Status::invalid_argument("said hello twice")),
        }
    }

    fn ack(&self, ack: &Ack) -> Result<(), Status> {
        let epoch = ack.epoch.map(|e| Epoch { counter: e.counter, id: e.id }).unwrap_or_default();
        if epoch != self.basis.version().0 {
            // Of a life of the store that is over; what was sent since is acknowledged by itself.
            return Ok(());
        }
        let settled = self.note(|ledger| ledger.ack(Revision(ack.revision)))?;
        let now = Instant::now();
        for delta in settled {
            let took = now.saturating_duration_since(delta.seen_at);
            self.counters.commit_to_ack.record(took.as_secs_f64());
        }
        Ok(())
    }

    fn nack(&self, nack: &Nack) -> Result<(), Status> {
        let cause = Cause::new(&nack.object, &nack.reason);
        let known = if nack.tenant.is_empty() {
            self.note(|ledger| ledger.refuse_pool(Revision(nack.revision), cause))?
        } else {
            let invalid = |e: model::InvalidName| Status::invalid_argument(e.to_string());
            let tenant: TenantId = nack.tenant.parse().map_err(invalid)?;
            self.note(|ledger| ledger.refuse(&tenant, cause))?
        };
        if known {
            metrics::counter!(metric::NACKS).increment(1);
            let (worker, object, reason) = (&self.worker, &nack.object, &nack.reason);
            let tenant = &nack.tenant;
            warn!(%worker, tenant, revision = nack.revision, object, reason, "worker refused a configuration");
        }
        Ok(())
    }

    fn note<T>(&self, change: impl FnOnce(&mut acks::Ledger) -> T) -> Result<T, Status> {
        self.acks
            .with(&self.worker, self.stream, change)
            .ok_or_else(|| Status::aborted("a newer stream of this worker took over"))
    }
}

/// How long the worker was told nothing.
struct Quiet {
    since: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Quiet {
    fn new() -> Self {
        Self { since: Instant::now(), timer: Box::pin(sleep(HEARTBEAT_INTERVAL)) }
    }

    /// It was told something. The timer stays: to move it for each message costs more than to wake for nothing once.
    fn broken(&mut self) {
        self.since = Instant::now();
    }

    /// Waits until the next heartbeat is due. Cancel-safe.
    async fn long(&mut self) {
        loop {
            self.timer.as_mut().await;
            let due = self.since + HEARTBEAT_INTERVAL;
            self.timer.as_mut().reset(due.into());
            if due <= Instant::now() {
                return;
            }
        }
    }
}

/// The next question to the worker; none ever where it answers none.
async fn next_question(questions: &mut Option<mpsc::Receiver<Bytes>>) -> Option<Bytes> {
    match questions {
        Some(questions) => questions.recv().await,
        None => std::future::pending().await,
    }
}

fn hash(bytes: &[u8]) -> Result<Hash, Status> {
    bytes.try_into().map_err(|_| Status::invalid_argument("a hash has 32 bytes"))
}
