//! One server's line to another: a stream for as long as both live, and snapshots beside it.

use std::{iter, sync::Arc, time::Duration};

use api::{
    client::{self, ClientError},
    store::{PeerBatch, SnapshotPart, peers_client::PeersClient, snapshot_part::Part},
};
use bytes::Bytes;
use futures_util::stream;
use tokio::{
    sync::mpsc,
    time::{Instant, error::Elapsed, sleep, timeout},
};
use tonic::{Code, Request, Status, metadata::AsciiMetadataValue, transport::Channel};

use super::{ADDRESS, LinksConfig, Outbox, PIECE, receive::REMOVED};
use crate::{
    NodeId,
    peer::{PeerMessage, Reports},
};

/// Why a stream or a snapshot ended.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Its source says more than it does, of connections that fail.
    #[error("{}: {}", .0.code(), root_cause(.0))]
    Status(#[from] Status),
    #[error("the other server ended the stream")]
    Ended,
    #[error("not taken in time")]
    Late(#[from] Elapsed),
}

impl Broken {
    /// Whether the other server knows that this one was removed.
    fn is_expulsion(&self) -> bool {
        matches!(self, Self::Status(status)
            if status.code() == Code::PermissionDenied && status.message().ends_with(REMOVED))
    }
}

fn root_cause(status: &Status) -> String {
    let mut cause: &dyn std::error::Error = status;
    while let Some(next) = cause.source() {
        cause = next;
    }
    if cause.is::<Status>() { status.message().to_owned() } else { cause.to_string() }
}

#[derive(Debug, Clone)]
pub(super) struct Link {
    peer: NodeId,
    address: String,
    config: Arc<LinksConfig>,
    outbox: Arc<Outbox>,
    reports: Reports,
}

impl Link {
    pub(super) fn new(
        peer: NodeId,
        address: String,
        config: Arc<LinksConfig>,
        outbox: Arc<Outbox>,
        reports: Reports,
    ) -> Self {
        Self { peer, address, config, outbox, reports }
    }

    /// Sends what the outbox has, and begins again when that fails. Never ends.
    pub(super) async fn keep_up(self) {
        let mut backoff = Backoff::new(&self.config);
        let mut told = false;
        loop {
            let begun = Instant::now();
            let Err(error) = self.stream(&mut told).await;
            self.outbox.set_connected(false);
            // What waits is stale when there is a stream again.
            self.outbox.clear();
            self.reports.unreachable(self.peer);
            if error.is_expulsion() {
                self.reports.expelled(self.peer);
            }
            if told {
                tracing::debug!(peer = self.peer, %error, "another server still cannot be reached");
            } else {
                tracing::warn!(peer = self.peer, %error, "another server cannot be reached");
                told = true;
            }
            if begun.elapsed() > self.config.max_backoff {
                backoff = Backoff::new(&self.config);
            }
            sleep(backoff.pause()).await;
        }
    }

    async fn stream(&self, told: &mut bool) -> Result<std::convert::Infallible, Broken> {
        let batches = stream::unfold(self.outbox.clone(), async |outbox| {
            let messages = outbox.batch().await;
            Some((PeerBatch { messages }, outbox))
        });
        let mut request = Request::new(batches);
        if let Ok(address) = self.config.address.parse::<AsciiMetadataValue>()
            && !self.config.address.is_empty()
        {
            request.metadata_mut().insert(ADDRESS, address);
        }
        let mut answers = self.client()?.send(request).await?.into_inner();
        self.outbox.set_connected(true);
        *told = false;
        tracing::info!(peer = self.peer, "connected with another server");
        while answers.message().await?.is_some() {}
        Err(Broken::Ended)
    }

    /// Sends the snapshots that are asked for, one at a time.
    pub(super) async fn send_snapshots(self, mut asked: mpsc::Receiver<PeerMessage>) {
        let mut backoff = Backoff::new(&self.config);
        while let Some(message) = asked.recv().await {
            let sent = timeout(self.config.snapshot_timeout, self.transfer(message)).await;
            match sent.map_err(Broken::from).flatten() {
                Ok(()) => {
                    backoff = Backoff::new(&self.config);
                    // What raft asked for meanwhile is the same again.
                    while asked.try_recv().is_ok() {}
                    self.outbox.count_snapshot();
                    self.reports.snapshot(self.peer, true);
                }
                Err(error) => {
                    tracing::warn!(peer = self.peer, %error, "another server did not take a snapshot");
                    // Before raft hears of it, for it asks again at once.
                    sleep(backoff.pause()).await;
                    while asked.try_recv().is_ok() {}
                    self.reports.snapshot(self.peer, false);
                }
            }
        }
    }

    async fn transfer(&self, message: PeerMessage) -> Result<(), Broken> {
        let mut answers = self.client()?.send_snapshot(stream::iter(parts(message))).await?.into_inner();
        answers.message().await?.map(drop).ok_or(Broken::Ended)
    }

    /// Over a connection of its own.
    fn client(&self) -> Result<PeersClient<Channel>, Broken> {
        let LinksConfig { identity, ca_pem, .. } = &*self.config;
        Ok(client::peers(&self.address, ca_pem, &identity.borrow())?)
    }
}

/// The message without its snapshot's body, then the body; nothing is copied.
fn parts(mut message: PeerMessage) -> impl Iterator<Item = SnapshotPart> {
    let body = message.snapshot.as_mut().map(|snapshot| std::mem::take(&mut snapshot.body));
    let body = body.unwrap_or_default();
    let pieces = (0..body.len()).step_by(PIECE).map(move |begin| {
        let piece: Bytes = body.slice(begin..body.len().min(begin + PIECE));
        Part::Piece(piece)
    });
    iter::once(Part::Message(message)).chain(pieces).map(|part| SnapshotPart { part: Some(part) })
}

/// Pauses between attempts.
#[derive(Debug)]
struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    fn new(config: &LinksConfig) -> Self {
        Self { next: config.backoff.min(config.max_backoff), max: config.max_backoff }
    }

    /// Half of it random: servers that lost the same one do not come in step.
    fn pause(&mut self) -> Duration {
        let pause = self.next.mul_f64(0.5 + 0.5 * rand::random::<f64>());
        self.next = (self.next * 2).min(self.max);
        pause
    }
}

#[cfg(test)]
mod tests {
    use api::store::Snapshot;

    use super::*;

    #[test]
    fn a_snapshot_is_cut_into_pieces_and_none_is_lost() {
        for length in [0, 1, PIECE - 1, PIECE, 2 * PIECE + 1] {
            let body = Bytes::from((0..length).map(|byte| byte.to_le_bytes()[1]).collect::<Vec<_>>());
            let snapshot = Some(Snapshot { body: body.clone(), ..Snapshot::default() });
            let mut parts = parts(PeerMessage { index: 4, snapshot, ..PeerMessage::default() });
            let Some(Part::Message(head)) = parts.next().unwrap().part else { panic!("the message first") };
            assert_eq!((head.index, head.snapshot), (4, Some(Snapshot::default())));
            let mut whole = Vec::new();
            for part in parts {
                let Some(Part::Piece(piece)) = part.part else { panic!("then pieces") };
                assert!((1..=PIECE).contains(&piece.len()));
                whole.extend(piece);
            }
            assert_eq!(whole, body);
        }
    }

    #[test]
    fn pauses_grow_to_their_bound() {
        let mut backoff = Backoff { next: Duration::from_millis(50), max: Duration::from_millis(300) };
        for bound in [50, 100, 200, 300, 300] {
            let pause = backoff.pause();
            assert!(pause >= Duration::from_millis(bound / 2) && pause <= Duration::from_millis(bound));
        }
    }
}
