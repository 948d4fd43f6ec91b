//! `weir.admin.v1.Workers`: what the fleet knows, with what the feed knows.

use std::{collections::BTreeMap, pin::Pin};

use api::admin::{self as wire, workers_server};
use futures_util::{Stream, StreamExt as _};
use model::PoolName;
use tonic::{Code, Request, Response, Status};

use super::Admin;
use crate::{FleetError, auth::Principal, leader};

/// Past events that a call gets if it does not say how many, and at most.
const EVENTS: usize = 100;
const MAX_EVENTS: usize = 10_000;

#[tonic::async_trait]
impl workers_server::Workers for Admin {
    type EventsStream = Pin<Box<dyn Stream<Item = Result<wire::Event, Status>> + Send>>;

    async fn list_workers(
        &self,
        request: Request<wire::ListWorkersRequest>,
    ) -> Result<Response<wire::ListWorkersResponse>, Status> {
        Principal::of(&request)?.is_platform_admin()?;
        leader::lead(&self.store, Code::FailedPrecondition, "the leader knows the workers")?;
        let pool = parse_pool(&request.into_inner().pool)?;
        let mut workers = self.fleet.workers(pool.as_ref());
        let elsewhere = match &self.others {
            Some(others) => others.workers().await,
            None => BTreeMap::new(),
        };
        for worker in &mut workers {
            let heard = self.acks.of(&worker.worker).or_else(|| elsewhere.get(&worker.worker).cloned());
            if let Some((revision, nacks)) = heard {
                worker.revision = revision.0;
                worker.nacks = nacks;
            }
        }
        Ok(Response::new(wire::ListWorkersResponse { workers }))
    }

    async fn drain_worker(
        &self,
        request: Request<wire::DrainWorkerRequest>,
    ) -> Result<Response<wire::DrainWorkerResponse>, Status> {
        Principal::of(&request)?.is_platform_admin()?;
        leader::lead(&self.store, Code::FailedPrecondition, "the leader drains workers")?;
        let worker = request.into_inner().worker;
        let worker =
            worker.parse().map_err(|e: model::InvalidName| Status::invalid_argument(e.to_string()))?;
        self.fleet.drain(worker).await.map_err(|error| match error {
            FleetError::Unknown(_) => Status::not_found(error.to_string()),
            FleetError::Unavailable(_) => Status::unavailable(error.to_string()),
        })?;
        Ok(Response::new(wire::DrainWorkerResponse {}))
    }

    async fn events(
        &self,
        request: Request<wire::EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        let principal = Principal::of(&request)?;
        principal.is_platform_admin()?;
        leader::lead(&self.store, Code::FailedPrecondition, "the leader knows what happened")?;
        let request = request.into_inner();
        let pool = parse_pool(&request.pool)?;
        let limit = match usize::try_from(request.limit) {
            Ok(0) => EVENTS,
            limit => limit.unwrap_or(MAX_EVENTS).min(MAX_EVENTS),
        };
        let (mut shutdown, store) = (self.shutdown.clone(), self.store.clone());
        let over = async move {
            tokio::select! {
                () = api::process::shut_down(&mut shutdown) => {}
                () = principal.revoked(&store) => {}
            }
        };
        let events = self.fleet.events(pool, limit, request.follow).map(Ok).take_until(over);
        Ok(Response::new(Box::pin(events)))
    }
}

fn parse_pool(name: &str) -> Result<Option<PoolName>, Status> {
    match name {
        "" => Ok(None),
        name => {
            name.parse().map(Some).map_err(|e: model::InvalidName| Status::invalid_argument(e.to_string()))
        }
    }
}
