//! What the workers serve that other servers feed: each server hears its own, and asks the others when it is asked.
//!
//! Asked for, not told: acknowledgements come by the thousand after each change, and few of them are ever looked at.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use api::{
    acks::{self as wire, acks_client::AcksClient, acks_server},
    client, convert,
    pki::Live,
};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use model::{PoolName, Revision, TenantId};
use store::Handle;
use tokio::time::timeout;
use tonic::{Code, Request, Response, Status, transport::Channel};
use tracing::debug;

use crate::{
    World,
    acks::{Acks, Cause, Nacked, Propagation},
    admin::{Admin, recall::told},
    recalls::{self, Recalls},
};

/// A server that does not answer by then is left out of the count: a read is not to wait for the dead.
const PATIENCE: Duration = Duration::from_millis(500);
/// For so long one that did not answer is not asked again.
const REST: Duration = Duration::from_secs(5);
/// Snapshots in one question: a list of more tenants is told what this server knows.
const MAX_SNAPSHOTS: usize = 1000;

/// The installation's other servers.
#[derive(Clone)]
pub struct Others {
    shared: Arc<Shared>,
}

struct Shared {
    store: Handle,
    identity: Live,
    ca_pem: String,
    known: Mutex<BTreeMap<String, Known>>,
}

/// One of them.
#[derive(Clone)]
struct Known {
    channel: Channel,
    rests_until: Option<Instant>,
}

/// What they have heard about tenants' current snapshots.
#[derive(Debug, Default)]
pub(crate) struct Elsewhere(BTreeMap<TenantId, Propagation>);

impl Elsewhere {
    /// What was heard here, and there.
    pub(crate) fn with(&self, tenant: &TenantId, here: Propagation) -> Propagation {
        match self.0.get(tenant) {
            Some(there) => Propagation {
                wanted: here.wanted + there.wanted,
                active: here.active + there.active,
                refused: [here.refused, there.refused.clone()].concat(),
            },
            None => here,
        }
    }
}

impl Others {
    /// Those that the store's state names, asked with this server's certificate.
    #[must_use]
    pub fn new(store: Handle, identity: Live, ca_pem: &str) -> Self {
        let ca_pem = ca_pem.to_owned();
        Self { shared: Arc::new(Shared { store, identity, ca_pem, known: Mutex::default() }) }
    }

    /// How far the current snapshots of these tenants have come on the workers that others feed.
    pub(crate) async fn propagation(&self, world: &World, tenants: BTreeSet<&TenantId>) -> Elsewhere {
        let current =
            |tenant: &TenantId| Some((tenant.clone(), world.tenants.get(tenant)?.snapshot.clone()?));
        let asked: Vec<_> = tenants.into_iter().filter_map(current).take(MAX_SNAPSHOTS).collect();
        if asked.is_empty() {
            return Elsewhere::default();
        }
        let snapshots = asked.iter().map(|(tenant, snapshot)| wire::Snapshot {
            tenant: tenant.to_string(),
            hash: snapshot.hash.to_vec(),
            pools: snapshot.pools.iter().map(ToString::to_string).collect(),
        });
        let request = wire::HeardRequest { snapshots: snapshots.collect(), workers: false };
        let mut sum: BTreeMap<TenantId, Propagation> = BTreeMap::new();
        for heard in self.heard(request).await {
            for ((tenant, snapshot), told) in asked.iter().zip(heard.snapshots) {
                let sum = sum.entry(tenant.clone()).or_default();
                sum.wanted += usize::try_from(told.wanted).unwrap_or_default();
                sum.active += usize::try_from(told.active).unwrap_or_default();
                let refusal = |refusal: wire::Refusal| {
                    let causes = refusal.causes.iter().map(|cause| Cause::new(&cause.origin, &cause.reason));
                    let nacked = Nacked::told(snapshot.hash, Revision(refusal.revision), causes.collect());
                    Some((refusal.worker.parse().ok()?, nacked))
                };
                sum.refused.extend(told.refused.into_iter().filter_map(refusal));
            }
        }
        Elsewhere(sum)
    }

    /// What each worker serves that others feed: its revision and what it refuses.
    pub(crate) async fn workers(&self) -> BTreeMap<String, (Revision, Vec<String>)> {
        let heard = self.heard(wire::HeardRequest { snapshots: vec![], workers: true }).await;
        let workers = heard.into_iter().flat_map(|heard| heard.workers);
        workers.map(|worker| (worker.worker, (Revision(worker.revision), worker.nacks))).collect()
    }

    /// What the workers that others feed say about a request.
    pub(crate) async fn recall(&self, id: &str, tenant: Option<&TenantId>) -> Vec<wire::RecallResponse> {
        let tenant = tenant.map(ToString::to_string).unwrap_or_default();
        let request = wire::RecallRequest { request: id.to_owned(), tenant };
        let recall = |mut server: AcksClient<Channel>| {
            let request = request.clone();
            async move { server.recall(request).await }
        };
        self.ask(PATIENCE + recalls::PATIENCE, recall).await
    }

    async fn heard(&self, request: wire::HeardRequest) -> Vec<wire::HeardResponse> {
        let heard = |mut server: AcksClient<Channel>| {
            let request = request.clone();
            async move { server.heard(request).await }
        };
        self.ask(PATIENCE, heard).await
    }

    /// The answers of those that answer in time.
    async fn ask<T, A>(&self, patience: Duration, ask: impl Fn(AcksClient<Channel>) -> A) -> Vec<T>
    where
        T: std::fmt::Debug,
        A: Future<Output = Result<Response<T>, Status>>,
    {
        let own = self.shared.store.status().node;
        let members = self.shared.store.members().into_iter();
        let others = members.filter(|member| member.id != own).map(|member| member.addresses.peers);
        let asked = others.filter_map(|address| self.shared.channel(address)).map(|(address, channel)| {
            let asked = ask(AcksClient::new(channel));
            async move { (timeout(patience, asked).await, address) }
        });
        let mut asked: FuturesUnordered<_> = asked.collect();
        let mut heard = vec![];
        while let Some((answer, address)) = asked.next().await {
            match answer {
                Ok(Ok(answer)) => heard.push(answer.into_inner()),
                // It is well, and has enough to do.
                Ok(Err(status)) if status.code() == Code::ResourceExhausted => {}
                answer => {
                    debug!(%address, ?answer, "another server does not say what its workers serve");
                    self.shared.rest(&address);
                }
            }
        }
        heard
    }
}

impl Shared {
    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        // Every change is whole before anything can panic.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A channel to the server at this address, unless it rests.
    fn channel(&self, address: String) -> Option<(String, Channel)> {
        let mut known = self.known();
        if let Some(Known { channel, rests_until }) = known.get(&address) {
            let rests = rests_until.is_some_and(|until| Instant::now() < until);
            return (!rests).then(|| (address.clone(), channel.clone()));
        }
        let channel = client::channel(&address, &self.ca_pem, Some(&self.identity.now())).ok()?;
        known.insert(address.clone(), Known { channel: channel.clone(), rests_until: None });
        Some((address, channel))
    }

    /// The next question goes over a new connection, with the certificate of then.
    fn rest(&self, address: &str) {
        let Ok(channel) = client::channel(address, &self.ca_pem, Some(&self.identity.now())) else { return };
        let rests_until = Some(Instant::now() + REST);
        self.known().insert(address.to_owned(), Known { channel, rests_until });
    }
}

/// Answers other servers.
pub(crate) struct Heard {
    acks: Arc<Acks>,
    recalls: Arc<Recalls>,
}

impl Heard {
    pub(crate) fn new(admin: &Admin) -> Self {
        Self { acks: admin.acks.clone(), recalls: admin.recalls.clone() }
    }
}

#[tonic::async_trait]
impl acks_server::Acks for Heard {
    async fn heard(
        &self,
        request: Request<wire::HeardRequest>,
    ) -> Result<Response<wire::HeardResponse>, Status> {
        let wire::HeardRequest { snapshots, workers } = request.into_inner();
        if snapshots.len() > MAX_SNAPSHOTS {
            return Err(Status::invalid_argument(format!(
                "at most {MAX_SNAPSHOTS} snapshots in one question"
            )));
        }
        let snapshots = snapshots.iter().map(|asked| self.propagation(asked)).collect::<Result<_, _>>()?;
        let workers = if workers { self.acks.all() } else { vec![] };
        let workers = workers.into_iter().map(|(worker, (revision, nacks))| wire::Worker {
            worker: worker.to_string(),
            revision: revision.0,
            nacks,
        });
        Ok(Response::new(wire::HeardResponse { snapshots, workers: workers.collect() }))
    }

    async fn recall(
        &self,
        request: Request<wire::RecallRequest>,
    ) -> Result<Response<wire::RecallResponse>, Status> {
        let wire::RecallRequest { request, tenant } = request.into_inner();
        let tenant = match tenant.as_str() {
            "" => None,
            name => {
                Some(name.parse().map_err(|e: model::InvalidName| Status::invalid_argument(e.to_string()))?)
            }
        };
        let heard = self.recalls.place(tenant.as_ref())?.ask(&request).await;
        Ok(Response::new(told(heard)))
    }
}

impl Heard {
    fn propagation(&self, asked: &wire::Snapshot) -> Result<wire::Propagation, Status> {
        let invalid = |e: model::InvalidName| Status::invalid_argument(e.to_string());
        let tenant: TenantId = asked.tenant.parse().map_err(invalid)?;
        let hash: convert::Hash =
            asked.hash.as_slice().try_into().map_err(|_| Status::invalid_argument("a hash has 32 bytes"))?;
        let pools: BTreeSet<PoolName> =
            asked.pools.iter().map(|pool| pool.parse().map_err(invalid)).collect::<Result<_, _>>()?;
        let Propagation { wanted, active, refused } =
            self.acks.propagation(&tenant, &hash, |pool| pools.contains(pool));
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let refused = refused.into_iter().map(|(worker, nacked)| wire::Refusal {
            worker: worker.to_string(),
            revision: nacked.revision.0,
            causes: nacked
                .causes
                .into_iter()
                .map(|Cause { origin, reason }| wire::Cause { origin, reason })
                .collect(),
        });
        Ok(wire::Propagation { wanted: count(wanted), active: count(active), refused: refused.collect() })
    }
}
