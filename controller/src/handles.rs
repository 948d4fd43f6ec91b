//! What the controller asks of the autoscaler, which it does not know: the `weir` binary puts them together, tests
//! put in their own.

use std::pin::Pin;

use api::{admin, feed, pki::Role};
use futures_util::{Stream, future::BoxFuture};
use model::{PoolName, WorkerId};
use tonic::Status;

/// Why the fleet did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FleetError {
    /// There is no such worker.
    #[error("no worker {0}")]
    Unknown(WorkerId),
    /// This server cannot do it now: it does not lead, or the worker's node is not connected.
    #[error("{0}")]
    Unavailable(String),
}

/// Events as they happen.
pub type EventStream = Pin<Box<dyn Stream<Item = admin::Event> + Send>>;

/// The workers there are and what happened to them.
pub trait Fleet: Send + Sync + 'static {
    /// The workers of a pool, or all, from nodes' status and load reports. The controller adds what the feed knows
    /// (`revision`, `nacks`).
    fn workers(&self, pool: Option<&PoolName>) -> Vec<admin::Worker>;

    /// Drains a worker; the autoscaler replaces it if it is needed.
    ///
    /// # Errors
    ///
    /// There is no such worker, or it cannot be asked now.
    fn drain(&self, worker: WorkerId) -> BoxFuture<'_, Result<(), FleetError>>;

    /// At most `limit` past events of a pool, or all, newest first; then, with `follow`, new ones as they come. A
    /// slow reader may miss events.
    fn events(&self, pool: Option<PoolName>, limit: usize, follow: bool) -> EventStream;
}

/// Load reports as they come.
pub type ReportStream = Pin<Box<dyn Stream<Item = Result<feed::LoadReport, Status>> + Send>>;

/// Answers to load reports.
pub type ReplyStream = Pin<Box<dyn Stream<Item = Result<feed::ReportReply, Status>> + Send>>;

/// Takes load reports: `Feed.Report`.
pub trait Intake: Send + Sync + 'static {
    /// Takes a stream of reports of the process that `role` names; the answer's end ends the call.
    fn report(&self, role: Role, reports: ReportStream) -> ReplyStream;
}
