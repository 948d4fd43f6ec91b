//! Clients of the store over the admin ports of several servers, which write down what they did and saw
//! ([`history`](crate::history)). They go on through whatever becomes of the servers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use api::{
    client::Admin,
    kv::{GetRequest, Put, TxnRequest, WatchRequest, kv_client::KvClient},
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tonic::Code;

use crate::history::{Answer, Did, Log, Op};

/// Keys that the clients share: few, so that they meet.
const KEYS: u64 = 40;
/// Where they are.
const PREFIX: &str = "kv/history/";
/// A call that is not answered by then goes to another server: a server that stands still says nothing.
const CALL: Duration = Duration::from_millis(800);
/// A write that nobody answers by then is given up as unknown.
const GIVE_UP: Duration = Duration::from_secs(10);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(10);
/// One in so many operations goes to another server than the one before.
const HOP: u32 = 40;
/// What one client waits between its operations: the load is bounded by it.
const THINK: Duration = Duration::from_millis(2);

/// Where the servers' admin ports are, and how to come in.
#[derive(Debug, Clone)]
pub struct Entrance {
    /// `host:port` each.
    pub admin: Vec<String>,
    /// PEM.
    pub ca_pem: String,
    /// A platform administrator's.
    pub token: String,
}

/// What the clients of one run share.
#[derive(Debug)]
struct Shared {
    entrance: Entrance,
    begun: Instant,
    /// The highest revision that any of them was answered with.
    seen: AtomicU64,
    drawn: AtomicU64,
}

/// Clients at work.
#[derive(Debug)]
pub struct Clients {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    working: JoinSet<Vec<Op>>,
    watching: tokio::task::JoinHandle<Result<Log>>,
}

/// What they did, and in which order it happened.
#[derive(Debug)]
pub struct Recorded {
    /// All operations.
    pub ops: Vec<Op>,
    /// All revisions.
    pub log: Log,
}

type Kv = KvClient<api::client::Authorized>;

impl Clients {
    /// Starts so many clients; half of what they do is writing, half linearizable reading.
    #[must_use]
    pub fn start(entrance: Entrance, count: usize) -> Self {
        let shared = Arc::new(Shared {
            entrance,
            begun: Instant::now(),
            seen: AtomicU64::new(0),
            drawn: AtomicU64::new(0),
        });
        let (stop, stopped) = watch::channel(false);
        let mut working = JoinSet::new();
        for number in 0..count {
            working.spawn(Client::new(shared.clone(), number).work(stopped.clone()));
        }
        let watching = tokio::spawn(follow(shared.clone(), stopped));
        Self { shared, stop, working, watching }
    }

    /// How long they have been at it: what the operations' times count from.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.shared.begun.elapsed()
    }

    /// How many operations were begun.
    #[must_use]
    pub fn begun(&self) -> u64 {
        self.shared.drawn.load(Ordering::Relaxed)
    }

    /// Ends them; returns when each has its last answer, and the watch has seen all of them.
    ///
    /// # Errors
    ///
    /// If the watch breaks one of its promises, or does not come to the end.
    pub async fn finish(self) -> Result<Recorded> {
        self.stop.send_replace(true);
        let ops: Vec<Op> = self.working.join_all().await.into_iter().flatten().collect();
        let log = timeout(Duration::from_secs(60), self.watching).await???;
        Ok(Recorded { ops, log })
    }
}

struct Client {
    shared: Arc<Shared>,
    at: usize,
    /// One for each server.
    connections: Vec<Kv>,
}

impl Client {
    fn new(shared: Arc<Shared>, number: usize) -> Self {
        let connections = (0..shared.entrance.admin.len()).map(|at| connect(&shared.entrance, at)).collect();
        Self { shared, at: number, connections }
    }

    fn kv(&mut self) -> &mut Kv {
        let at = self.at % self.connections.len();
        &mut self.connections[at]
    }

    async fn work(mut self, stopped: watch::Receiver<bool>) -> Vec<Op> {
        let mut ops = Vec::new();
        while !*stopped.borrow() {
            if rand::random::<u32>().is_multiple_of(HOP) {
                // Also to one that stands still, and may answer when it goes on.
                self.elsewhere().await;
            }
            let number = self.shared.drawn.fetch_add(1, Ordering::Relaxed);
            let key = format!("{PREFIX}{}", rand::random::<u64>() % KEYS);
            let began = self.shared.begun.elapsed();
            let done = match rand::random::<bool>() {
                true => Some((began, self.put(&key, number).await)),
                false => self.get(&key).await,
            };
            let ended = self.shared.begun.elapsed();
            ops.extend(done.map(|(began, did)| Op { began, ended, key, did }));
            sleep(THINK).await;
        }
        ops
    }

    /// The same request, until somebody answers it.
    async fn put(&mut self, key: &str, number: u64) -> Did {
        let value = format!("v{number}");
        let put = Put { key: key.to_owned(), value: value.clone().into() };
        let request = TxnRequest {
            request_id: store::request_id(),
            puts: vec![put],
            // From before the first try: a try that comes too late to be told from a new one is not applied.
            seen_revision: self.shared.seen.load(Ordering::SeqCst),
            ..TxnRequest::default()
        };
        let give_up = Instant::now() + GIVE_UP;
        while Instant::now() < give_up {
            if let Ok(Ok(answer)) = timeout(CALL, self.kv().txn(request.clone())).await {
                let revision = answer.into_inner().revision;
                self.shared.seen.fetch_max(revision, Ordering::SeqCst);
                return Did::Put { value, answer: Answer::Revision(revision) };
            }
            self.elsewhere().await;
        }
        Did::Put { value, answer: Answer::Unknown }
    }

    /// What was seen, and when the try began that saw it. `None`: nobody answered, which says nothing.
    async fn get(&mut self, key: &str) -> Option<(Duration, Did)> {
        let give_up = Instant::now() + GIVE_UP;
        while Instant::now() < give_up {
            let began = self.shared.begun.elapsed();
            let request = GetRequest { key: key.to_owned(), freshness: None };
            if let Ok(Ok(answer)) = timeout(CALL, self.kv().get(request)).await {
                let answer = answer.into_inner();
                self.shared.seen.fetch_max(answer.revision, Ordering::SeqCst);
                let found = answer.entry.map(|entry| (text(&entry.value), entry.mod_revision));
                return Some((began, Did::Get { found, revision: answer.revision }));
            }
            self.elsewhere().await;
        }
        None
    }

    async fn elsewhere(&mut self) {
        sleep(PAUSE).await;
        self.at += 1;
    }
}

fn connect(entrance: &Entrance, number: usize) -> Kv {
    let address = &entrance.admin[number % entrance.admin.len()];
    Admin::new(address, &entrance.ca_pem, &entrance.token)
        .expect("the address is checked by who starts it")
        .kv
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

/// Watches all that the clients write, on one server after the other, and resumes where it was. Ends when it has seen
/// everything that was answered.
async fn follow(shared: Arc<Shared>, stopped: watch::Receiver<bool>) -> Result<Log> {
    let mut log = Log::new();
    let mut next = 1;
    for number in 0.. {
        let mut kv = connect(&shared.entrance, number);
        let request = WatchRequest { prefix: PREFIX.into(), from_revision: next };
        let Ok(Ok(events)) = timeout(CALL, kv.watch(request)).await else {
            sleep(PAUSE).await;
            continue;
        };
        let mut events = events.into_inner();
        loop {
            let through = next > shared.seen.load(Ordering::SeqCst);
            if *stopped.borrow() && through && Arc::strong_count(&shared) <= 2 {
                return Ok(log);
            }
            // Bookmarks come each second while others write; silence may be a server that stands still.
            let event = match timeout(2 * CALL, events.message()).await {
                Ok(Ok(Some(event))) => event,
                Ok(Err(status)) if status.code() == Code::OutOfRange => {
                    anyhow::bail!("the watch fell behind: {status}")
                }
                _ => break,
            };
            ensure!(event.revision >= next, "revision {} came after {next}: not in order", event.revision);
            next = event.revision + 1;
            for change in event.events {
                let value = change.entry.map(|entry| text(&entry.value)).unwrap_or_default();
                let twice = log.insert(event.revision, (change.key, value));
                ensure!(
                    twice.is_none(),
                    "revision {} has two changes of clients that make one each",
                    event.revision
                );
            }
        }
    }
    Ok(log)
}
