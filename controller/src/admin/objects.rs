//! `weir.admin.v1.Objects`: each call to its module.

use api::admin::{self as wire, objects_server};
use tonic::{Request, Response, Status};

use super::{Admin, apply, explain, history, read, recall, watch};
use crate::auth::Principal;

#[tonic::async_trait]
impl objects_server::Objects for Admin {
    type WatchStream = watch::Served<wire::WatchEvent>;

    async fn apply(
        &self,
        request: Request<wire::ApplyRequest>,
    ) -> Result<Response<wire::ApplyResponse>, Status> {
        let principal = Principal::of(&request)?;
        apply::apply(self, &principal, request.into_inner()).await.map(Response::new)
    }

    async fn get(&self, request: Request<wire::GetRequest>) -> Result<Response<wire::GetResponse>, Status> {
        let principal = Principal::of(&request)?;
        read::get(self, &principal, request.into_inner()).await.map(Response::new)
    }

    async fn list(
        &self,
        request: Request<wire::ListRequest>,
    ) -> Result<Response<wire::ListResponse>, Status> {
        let principal = Principal::of(&request)?;
        read::list(self, &principal, request.into_inner()).await.map(Response::new)
    }

    async fn delete(
        &self,
        request: Request<wire::DeleteRequest>,
    ) -> Result<Response<wire::DeleteResponse>, Status> {
        let principal = Principal::of(&request)?;
        apply::delete(self, &principal, request.into_inner()).await.map(Response::new)
    }

    async fn watch(
        &self,
        request: Request<wire::WatchRequest>,
    ) -> Result<Response<watch::Served<wire::WatchEvent>>, Status> {
        let principal = Principal::of(&request)?;
        watch::watch(self, principal, request.into_inner()).await.map(Response::new)
    }

    async fn history(
        &self,
        request: Request<wire::HistoryRequest>,
    ) -> Result<Response<wire::HistoryResponse>, Status> {
        let principal = Principal::of(&request)?;
        history::history(self, &principal, request.into_inner()).await.map(Response::new)
    }

    async fn rollback(
        &self,
        request: Request<wire::RollbackRequest>,
    ) -> Result<Response<wire::RollbackResponse>, Status> {
        let principal = Principal::of(&request)?;
        apply::rollback::rollback(self, &principal, request.into_inner()).await.map(Response::new)
    }

    async fn explain(
        &self,
        request: Request<wire::ExplainRequest>,
    ) -> Result<Response<wire::ExplainResponse>, Status> {
        let principal = Principal::of(&request)?;
        explain::explain(self, &principal, request.into_inner()).await.map(Response::new)
    }

    async fn recall(
        &self,
        request: Request<wire::RecallRequest>,
    ) -> Result<Response<wire::RecallResponse>, Status> {
        let principal = Principal::of(&request)?;
        recall::recall(self, &principal, request.into_inner()).await.map(Response::new)
    }
}
