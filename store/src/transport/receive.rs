//! What other servers say, checked before the store hears it.

use std::{pin::Pin, sync::Arc, time::Duration};

use api::{
    pki::{self, RoleKind},
    store::{
        PeerBatch, SnapshotPart, SnapshotTaken,
        peers_server::{Peers, PeersServer},
        snapshot_part::Part,
    },
};
use futures_util::{Stream, StreamExt as _, future::ready, stream};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tonic::{Request, Response, Status, Streaming};

use super::{ADDRESS, MAX_BATCH, MAX_SNAPSHOT, node_of, role_name};
use crate::{Handle, NodeId, handle::Ask, peer::PeerMessage};

/// The longest address that is heard: a DNS name and a port.
const MAX_ADDRESS: usize = 260;
/// A snapshot that has not come by then is dropped; its sender gives up earlier.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(600);

/// How a refusal of a server ends that was removed.
pub(super) const REMOVED: &str = "was removed from this cluster";

/// The service that takes the messages of other servers for a store; to be served with mTLS
/// ([`Required`](api::server::ClientAuth::Required)). It checks its callers by itself. Its streams end when the store
/// does.
///
/// Every server of the installation may speak but those that were removed: one that was away must hear a leader that
/// joined meanwhile, and only from it can it learn that it did.
#[must_use]
pub fn service(store: Handle) -> PeersServer<Receiver> {
    let receiver = Receiver { store, snapshots: Arc::new(Semaphore::new(1)) };
    PeersServer::new(receiver).max_decoding_message_size(MAX_BATCH)
}

/// Takes other servers' messages for a store.
#[derive(Debug, Clone)]
pub struct Receiver {
    store: Handle,
    /// One snapshot is in memory at a time.
    snapshots: Arc<Semaphore>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Peers for Receiver {
    type SendStream = Answers<PeerBatch>;
    type SendSnapshotStream = Answers<SnapshotTaken>;

    async fn send(
        &self,
        request: Request<Streaming<PeerBatch>>,
    ) -> Result<Response<Self::SendStream>, Status> {
        let caller = self.caller(&request)?;
        let address = request.metadata().get(ADDRESS).and_then(|address| address.to_str().ok());
        if let Some(peers) = address.filter(|address| address.len() <= MAX_ADDRESS) {
            // Full: it says so again with the next stream.
            self.store.asks.try_send(Ask::Heard { node: caller, peers: peers.to_owned() }).ok();
        }
        let reading = self.clone().read(request.into_inner(), caller);
        let answers = stream::once(reading).filter_map(|end| ready(end.err().map(Err)));
        Ok(Response::new(Box::pin(answers)))
    }

    async fn send_snapshot(
        &self,
        request: Request<Streaming<SnapshotPart>>,
    ) -> Result<Response<Self::SendSnapshotStream>, Status> {
        let caller = self.caller(&request)?;
        let permit = self.snapshots.clone().try_acquire_owned();
        let permit = permit.map_err(|_| Status::resource_exhausted("another snapshot is on its way"))?;
        let taking = self.clone().take_snapshot(request.into_inner(), caller, permit);
        let late = |_| Err(Status::deadline_exceeded("the snapshot took too long"));
        let taking = async move { timeout(SNAPSHOT_TIMEOUT, taking).await.unwrap_or_else(late) };
        Ok(Response::new(Box::pin(stream::once(taking))))
    }
}

impl Receiver {
    /// The server that calls.
    fn caller<T>(&self, request: &Request<T>) -> Result<NodeId, Status> {
        let certificates = request.peer_certs();
        let leaf = certificates.as_ref().and_then(|certificates| certificates.first());
        let role = leaf
            .and_then(|leaf| pki::role_of(leaf))
            .ok_or_else(|| Status::unauthenticated("the certificate names no role in this installation"))?;
        if role.kind != RoleKind::Server {
            return Err(Status::permission_denied(format!("a {} is no server", role.kind)));
        }
        let node = node_of(&role.name);
        let node = node.ok_or_else(|| {
            Status::permission_denied(format!("{} is no server of this cluster", role.name))
        })?;
        self.check_standing(node)?;
        Ok(node)
    }

    /// Whether a server may still speak.
    fn check_standing(&self, caller: NodeId) -> Result<(), Status> {
        match self.store.shared.machine().is_retired(caller) {
            true => Err(Status::permission_denied(format!("{} {REMOVED}", role_name(caller)))),
            false => Ok(()),
        }
    }

    async fn read(self, mut batches: Streaming<PeerBatch>, caller: NodeId) -> Result<(), Status> {
        loop {
            let batch = tokio::select! {
                () = self.store.asks.closed() => return Err(stopped()),
                batch = batches.message() => batch?,
            };
            let Some(PeerBatch { messages }) = batch else { return Ok(()) };
            self.check_standing(caller)?;
            for message in messages {
                self.check(&message, caller)?;
                self.store.deliver(message);
            }
        }
    }

    async fn take_snapshot(
        self,
        mut parts: Streaming<SnapshotPart>,
        caller: NodeId,
        _permit: OwnedSemaphorePermit,
    ) -> Result<SnapshotTaken, Status> {
        let malformed = || Status::invalid_argument("first a message with a snapshot, then pieces of it");
        let Some(Part::Message(mut message)) = parts.message().await?.and_then(|first| first.part) else {
            return Err(malformed());
        };
        self.check(&message, caller)?;
        let snapshot = message.snapshot.as_mut().filter(|snapshot| snapshot.body.is_empty());
        let snapshot = snapshot.ok_or_else(malformed)?;
        let mut body = Vec::new();
        while let Some(next) = parts.message().await? {
            let Some(Part::Piece(piece)) = next.part else { return Err(malformed()) };
            if (body.len() + piece.len()) as u64 > MAX_SNAPSHOT {
                return Err(Status::resource_exhausted("the snapshot is larger than any state"));
            }
            body.extend(piece);
        }
        snapshot.body = body.into();
        if self.store.try_deliver(message) { Ok(SnapshotTaken {}) } else { Err(stopped()) }
    }

    /// Whether a message is the caller's and for this server.
    fn check(&self, message: &PeerMessage, caller: NodeId) -> Result<(), Status> {
        let PeerMessage { from, to, cluster_id, .. } = message;
        let shared = &self.store.shared;
        if *from != caller {
            let problem = format!("{} does not speak for server {from}", role_name(caller));
            tracing::warn!(caller, from, "refused a message: it names another server as its sender");
            return Err(Status::permission_denied(problem));
        }
        if *to != shared.node {
            return Err(Status::failed_precondition(format!("this is server {}, not {to}", shared.node)));
        }
        if *cluster_id != shared.cluster_id {
            return Err(Status::failed_precondition("this server is one of another cluster"));
        }
        Ok(())
    }
}

fn stopped() -> Status {
    Status::unavailable("the store has stopped, or too much waits for it")
}
