//! The worker's end of the feed: deltas in, acknowledgements out, one server at a time, whether it leads or not.
//!
//! A worker needs no server: it serves what it has, and tries the servers in turn until one answers.

use std::time::Duration;

use api::{
    agent::{Credentials, Welcome},
    client::{self, Route},
    feed::{
        Ack, Delta, EdgeMessage, Nack, Recall, Recalled, ServerMessage, TenantSnapshot,
        edge_message::Message as FromEdge, feed_client::FeedClient, server_message::Message as FromServer,
    },
    limits::HEARTBEAT_INTERVAL,
    pki::Identity,
    process::contained,
};
use model::{PoolName, WorkerId};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};
use tracing::{debug, info, warn};

use super::{
    assemble::{Assembler, Unusable},
    cache::Cache,
    keep::{self, Keeper},
};
use crate::shared::{Control, Stale};

/// The first pause between two attempts, doubled each time, with jitter: a thousand workers must not come back
/// in one millisecond.
const BACKOFF: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A server that says nothing for three heartbeats is gone.
const SILENCE: Duration = Duration::from_secs(3 * HEARTBEAT_INTERVAL.as_secs());
/// Messages of ours that wait for the network: a delta makes a handful, and none is sent before the last was.
const OUTBOX: usize = 64;

/// A delta that brings nothing but snapshots of so many bytes together is compiled on the spot, within a millisecond or
/// two: to wake another thread and be woken by it costs, and each thread keeps memory that it once needed.
const SMALL: u64 = 64 << 10;

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum FeedError {
    #[error("the feed cannot be reached")]
    Client(#[from] client::ClientError),
    #[error("{}: {}", .0.code(), .0.message())]
    Status(#[from] Status),
    #[error("the server ended the stream")]
    Ended,
    #[error("nothing was heard for {} s", SILENCE.as_secs())]
    Silent,
    #[error(transparent)]
    Unusable(#[from] Unusable),
    #[error(transparent)]
    Stale(#[from] Stale),
}

/// One worker's side of the feed.
#[derive(Debug)]
pub(super) struct Feed {
    worker: WorkerId,
    pool: PoolName,
    servers: watch::Receiver<Credentials>,
    control: Control,
    /// Lent to a blocking thread while it compiles.
    assembler: Option<Assembler>,
    keeper: Keeper,
    /// There was a last-known-good file.
    started: bool,
}

impl Feed {
    /// A feed that has started from the last-known-good file, if there was one. Returns whether there was.
    pub(super) async fn open(
        (worker, pool): (WorkerId, PoolName),
        welcome: &Welcome,
        servers: watch::Receiver<Credentials>,
        control: Control,
    ) -> (Self, bool) {
        let mut assembler = Assembler::default();
        let mut cache = match Cache::open(&welcome.cache_dir, &welcome.cache_key) {
            Ok(cache) => Some(cache),
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "no last-known-good file will be kept");
                None
            }
        };
        let mut started = false;
        if let Some(cache) = cache.as_mut() {
            let began = Instant::now();
            let (delta, errors) = cache.load();
            for error in &errors {
                warn!(error = error as &dyn std::error::Error, "a last-known-good file is not used");
            }
            match delta.map(|delta| assembler.take(delta)).transpose() {
                Ok(Some((config, _))) => {
                    let (revision, tenants) = (config.revision, config.tenants.len());
                    let took_ms = began.elapsed().as_millis();
                    info!(%revision, tenants, took_ms, "starting from the last-known-good file");
                    started = control.activate(config).is_ok();
                }
                Ok(None) => {}
                Err(error) => {
                    warn!(error = &error as &dyn std::error::Error, "the last-known-good file is not used");
                    assembler = Assembler::default();
                }
            }
        }
        let feed = Self {
            worker,
            pool,
            servers,
            control,
            assembler: Some(assembler),
            keeper: keep::start(cache),
            started,
        };
        (feed, started)
    }

    /// Follows the feed for ever. To be dropped when the worker ends.
    pub(super) async fn follow(mut self) {
        let (mut backoff, mut route) = (BACKOFF, Route::default());
        let mut failed = 0;
        loop {
            route.learn(&self.servers.borrow().servers);
            let Some(server) = route.choose() else { return };
            let began = Instant::now();
            let Err(error) = self.stream(&server).await;
            warn!(%server, error = &error as &dyn std::error::Error, "feed lost, serving on with what is here");
            failed += 1;
            if self.started && failed >= self.servers.borrow().servers.len() {
                // None of them answers, so nothing newer is about to come.
                self.control.ready();
            }
            if began.elapsed() > BACKOFF_MAX {
                backoff = BACKOFF;
            }
            sleep(backoff.mul_f64(rand::random_range(0.5..1.0))).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    /// One stream to one server, to its end.
    async fn stream(&mut self, server: &str) -> Result<std::convert::Infallible, FeedError> {
        let mut client = connect(&self.servers.borrow(), server)?;
        let (sender, outbox) = mpsc::channel(OUTBOX);
        let hello = self.assembler.get_or_insert_default().hello(&self.worker, &self.pool);
        post(&sender, FromEdge::Hello(hello)).await?;
        let mut inbox = client.subscribe(ReceiverStream::new(outbox)).await?.into_inner();
        debug!(%server, "feed open");
        loop {
            match next(&mut inbox).await? {
                FromServer::Delta(delta) => self.take(delta, &sender).await?,
                FromServer::Recall(recall) => {
                    let answer = self.recall(&recall).await;
                    post(&sender, FromEdge::Recalled(answer)).await?;
                }
                FromServer::Heartbeat(_) => {}
            }
        }
    }

    /// What this worker knows of a request.
    async fn recall(&self, recall: &Recall) -> Recalled {
        let request = match recall.tenant.as_str() {
            "" => self.control.recall(&recall.request, None).await,
            // A tenant whose name means nothing here has no requests here.
            name => match name.parse() {
                Ok(tenant) => self.control.recall(&recall.request, Some(&tenant)).await,
                Err(_) => None,
            },
        };
        Recalled { question: recall.question, request }
    }

    /// Compiles and activates a delta, then answers it.
    async fn take(&mut self, delta: Delta, answers: &mpsc::Sender<EdgeMessage>) -> Result<(), FeedError> {
        let mut assembler = self.assembler.take().unwrap_or_default();
        let current = !delta.more;
        let small = is_small(&delta);
        let compile = move || {
            let result = assembler.take(delta);
            (assembler, result)
        };
        let compiled =
            if small { contained(compile).ok() } else { tokio::task::spawn_blocking(compile).await.ok() };
        let Some((assembler, result)) = compiled else {
            // It panicked: the state is lost, so the next stream begins from nothing.
            return Err(FeedError::Ended);
        };
        let assembler = self.assembler.insert(assembler);
        let (config, refused) = result?;
        let ack = Ack {
            epoch: Some(api::feed::Epoch { counter: config.epoch.counter, id: config.epoch.id }),
            revision: config.revision.0,
        };
        self.control.activate(config)?;
        debug!(revision = ack.revision, current, "configuration active");
        if current {
            self.control.ready();
            self.keeper.changed(assembler);
        }
        for Nack { tenant, object, reason, .. } in &refused {
            warn!(tenant, object, reason, "configuration refused, the tenant is held at its last good one");
        }
        for nack in refused {
            post(answers, FromEdge::Nack(nack)).await?;
        }
        post(answers, FromEdge::Ack(ack)).await
    }
}

/// Whether a delta is compiled on the spot.
fn is_small(delta: &Delta) -> bool {
    let bytes = |tenant: &TenantSnapshot| tenant.length.saturating_add(tenant.config.len() as u64);
    let bytes = delta.tenants.iter().map(bytes).fold(0, u64::saturating_add);
    delta.hosts.is_none() && delta.hosts_patch.is_none() && delta.pool.is_none() && bytes <= SMALL
}

/// A client of a server, as the worker is known to it now.
pub(super) fn connect(
    credentials: &Credentials,
    server: &str,
) -> Result<FeedClient<Channel>, client::ClientError> {
    let Credentials { ca_pem, cert_pem, key_pem, .. } = credentials;
    let identity = Identity { cert_pem: cert_pem.clone(), key_pem: key_pem.clone() };
    client::feed(server, ca_pem, &identity)
}

async fn post(to: &mpsc::Sender<EdgeMessage>, message: FromEdge) -> Result<(), FeedError> {
    to.send(EdgeMessage { message: Some(message) }).await.map_err(|_| FeedError::Ended)
}

async fn next(inbox: &mut Streaming<ServerMessage>) -> Result<FromServer, FeedError> {
    loop {
        let message = timeout(SILENCE, inbox.message()).await.map_err(|_| FeedError::Silent)??;
        // A message of a kind that this version does not know is a newer server's, and not for us.
        if let Some(message) = message.ok_or(FeedError::Ended)?.message {
            return Ok(message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_long_is_compiled_apart() {
        let tenant = |length| TenantSnapshot { length, ..TenantSnapshot::default() };
        let delta = |lengths: &[u64]| Delta {
            tenants: lengths.iter().copied().map(tenant).collect(),
            ..Delta::default()
        };
        assert!(is_small(&delta(&[])) && is_small(&delta(&[SMALL / 2, SMALL / 2])));
        assert!(!is_small(&delta(&[SMALL, 1])) && !is_small(&delta(&[u64::MAX, u64::MAX])));
        assert!(!is_small(&Delta { hosts: Some(Default::default()), ..delta(&[]) }));
        assert!(!is_small(&Delta { pool: Some(Default::default()), ..delta(&[]) }));
    }
}
