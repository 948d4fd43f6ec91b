//! `weir.feed.v1.Feed`: snapshots to workers, their acknowledgements back, and the way in for load reports.

mod delta;
mod service;
mod subscription;

#[cfg(test)]
mod tests;

use std::{pin::Pin, sync::Arc};

use api::{
    feed::{EdgeMessage, LoadReport, ReportReply, ServerMessage, edge_message::Message, feed_server},
    limits::CONNECT_TIMEOUT,
    pki, process,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::{Intake, World, acks::Acks, handles::ReplyStream, recalls::Recalls};

use subscription::Subscription;

pub(crate) use delta::Deltas;
pub(crate) use service::Server;

/// Encoded `ServerMessage`s.
type Messages = ReceiverStream<Result<Bytes, Status>>;

/// Messages that wait for a worker's connection; a delta is made only when there is room for it.
const OUTBOX: usize = 1;

/// The feed's server.
#[derive(Clone)]
pub(crate) struct Feed {
    world: watch::Receiver<Arc<World>>,
    acks: Arc<Acks>,
    recalls: Arc<Recalls>,
    intake: Arc<dyn Intake>,
    shutdown: watch::Receiver<bool>,
}

impl Feed {
    pub(crate) fn new(
        world: watch::Receiver<Arc<World>>,
        acks: Arc<Acks>,
        recalls: Arc<Recalls>,
        intake: Arc<dyn Intake>,
        shutdown: watch::Receiver<bool>,
    ) -> Self {
        Self { world, acks, recalls, intake, shutdown }
    }

    /// Opens a worker's stream.
    async fn open(&self, request: Request<Streaming<EdgeMessage>>) -> Result<Response<Messages>, Status> {
        let mut answers = request.into_inner();
        // A worker says hello at once; one that does not is no worker.
        let first = timeout(CONNECT_TIMEOUT, answers.message())
            .await
            .map_err(|_| Status::deadline_exceeded("say hello first"))??;
        let Some(Message::Hello(hello)) = first.and_then(|m| m.message) else {
            return Err(Status::invalid_argument("say hello first"));
        };
        let subscription =
            Subscription::open(hello, self.world.clone(), self.acks.clone(), self.recalls.clone())?;
        let (outbox, messages) = mpsc::channel(OUTBOX);
        tokio::spawn(subscription.run(answers, outbox, self.shutdown.clone()));
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}

#[tonic::async_trait]
impl feed_server::Feed for Feed {
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<ServerMessage, Status>> + Send>>;
    type ReportStream = ReplyStream;

    /// Answered by [`Server`] itself.
    async fn subscribe(
        &self,
        _request: Request<Streaming<EdgeMessage>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        Err(Status::internal("the feed's messages are encoded before they come here"))
    }

    async fn report(
        &self,
        request: Request<Streaming<LoadReport>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let role = request
            .extensions()
            .get::<pki::Role>()
            .cloned()
            .ok_or_else(|| Status::unauthenticated("the certificate names no role"))?;
        let reports: Pin<Box<dyn Stream<Item = Result<LoadReport, Status>> + Send>> =
            Box::pin(request.into_inner());
        let replies: Pin<Box<dyn Stream<Item = Result<ReportReply, Status>> + Send>> =
            self.intake.report(role, reports);
        let mut shutdown = self.shutdown.clone();
        let down = async move { process::shut_down(&mut shutdown).await };
        Ok(Response::new(Box::pin(replies.take_until(down))))
    }
}
