//! `weir.admin.v1.Cluster`.

use api::admin::{self as wire, cluster_server};
use tonic::{Request, Response, Status};

use super::Admin;
use crate::auth::Principal;

#[tonic::async_trait]
impl cluster_server::Cluster for Admin {
    async fn status(
        &self,
        request: Request<wire::StatusRequest>,
    ) -> Result<Response<wire::StatusResponse>, Status> {
        Principal::of(&request)?.is_platform_admin()?;
        let status = self.store.status();
        let members =
            status.voters.iter().map(|id| wire::Member { id: *id, address: String::new(), voter: true });
        let mut nodes: Vec<_> = self.fleet.workers(None).into_iter().map(|worker| worker.node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        Ok(Response::new(wire::StatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            members: members.collect(),
            leader: status.leader.unwrap_or_default(),
            term: status.leadership.term,
            applied_index: status.applied_index,
            commit_index: status.commit_index,
            revision: status.revision.0,
            epoch_counter: status.epoch.counter,
            epoch_id: status.epoch.id,
            state_bytes: status.bytes,
            wal_bytes: status.wal_bytes,
            nodes,
        }))
    }
}
