//! `weir.admin.v1`: what users and operators ask.

mod apply;
mod cluster;
mod conditions;
mod explain;
mod objects;
mod read;
mod secrets;
pub(crate) mod status;
pub(crate) mod tenants;
pub(crate) mod watch;
mod workers;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use api::{admin as wire, pki::Ca, process};
use dialect::{Kind, ObjectKey, PoolSpec};
use model::{Revision, TenantId};
use store::{Entry, Handle, Read, seal::Sealer};
use tokio::{sync::watch as channel, task::spawn_blocking, time::timeout};
use tonic::Status;

use crate::{Fleet, Others, World, acks::Acks, keys, others::Elsewhere};

/// How long a read waits for its revision to be compiled before it answers without conditions.
const WORLD_TIMEOUT: Duration = Duration::from_secs(5);

/// The admin services. Clones share everything.
#[derive(Clone)]
pub(crate) struct Admin {
    pub(crate) store: Handle,
    pub(crate) sealer: Arc<Sealer>,
    pub(crate) ca: Arc<Ca>,
    pub(crate) domain: String,
    pub(crate) default_pool: PoolSpec,
    pub(crate) world: channel::Receiver<Arc<World>>,
    pub(crate) seen: channel::Receiver<Revision>,
    pub(crate) acks: Arc<Acks>,
    pub(crate) others: Option<Others>,
    pub(crate) fleet: Arc<dyn Fleet>,
    pub(crate) watches: watch::Watches,
    pub(crate) shutdown: channel::Receiver<bool>,
}

impl Admin {
    /// The current world, once it includes `revision`, or whatever there is when that takes too long.
    async fn world_at(&self, revision: Revision) -> Arc<World> {
        let mut seen = self.seen.clone();
        // Late conditions say so themselves (`Unknown`): that is no reason to fail a read.
        timeout(WORLD_TIMEOUT, seen.wait_for(|seen| *seen >= revision)).await.map(drop).ok();
        self.world.borrow().clone()
    }

    /// What other servers have heard of these tenants' current snapshots.
    async fn elsewhere(&self, world: &World, tenants: BTreeSet<&TenantId>) -> Elsewhere {
        match &self.others {
            Some(others) => others.propagation(world, tenants).await,
            None => Elsewhere::default(),
        }
    }

    /// That the tenant exists: its entry.
    async fn existing(&self, tenant: &TenantId, read: Read) -> Result<Entry, Status> {
        let entry = self.store.get(&keys::tenant(tenant), read).await.map_err(status::of_read)?;
        entry.ok_or_else(|| no_tenant(tenant))
    }
}

/// Does work that takes long where it holds nobody up. Should it panic, that is one caller's misfortune.
async fn apart<T: Send + 'static>(
    doing: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Status> {
    match spawn_blocking(move || process::contained(work)).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(_)) | Err(_) => Err(Status::internal(format!("{doing} failed; please report it"))),
    }
}

fn no_tenant(tenant: &TenantId) -> Status {
    Status::not_found(format!("there is no tenant {tenant}"))
}

fn parse_tenant(name: &str) -> Result<TenantId, Status> {
    name.parse().map_err(|e: model::InvalidName| Status::invalid_argument(e.to_string()))
}

fn freshness(at_least: u64) -> Read {
    match at_least {
        0 => Read::Linearizable,
        revision => Read::AtLeast(Revision(revision)),
    }
}

/// The tenant and object that a message's key names.
fn parse_key(key: Option<wire::ObjectKey>) -> Result<(TenantId, ObjectKey), Status> {
    let key = key.ok_or_else(|| Status::invalid_argument("key is missing"))?;
    let tenant = parse_tenant(&key.tenant)?;
    let kind = Kind::parse(&key.kind).ok_or_else(|| {
        let known = Kind::ALL.map(Kind::as_str).join(", ");
        Status::invalid_argument(format!("there is no kind {:?}; use one of {known}", key.kind))
    })?;
    let namespace = match key.namespace.as_str() {
        "" => dialect::DEFAULT_NAMESPACE.to_owned(),
        namespace => namespace.to_owned(),
    };
    let object = ObjectKey { namespace, kind, name: key.name };
    // Whatever would be read back as another key is none.
    match keys::parse_object(&keys::object(&tenant, &object)) {
        Some((t, o)) if t == tenant && o == object => Ok((tenant, object)),
        _ => Err(Status::invalid_argument(format!("{object} is not the name of an object"))),
    }
}

fn wire_key(tenant: &TenantId, key: &ObjectKey) -> wire::ObjectKey {
    wire::ObjectKey {
        tenant: tenant.to_string(),
        namespace: key.namespace.clone(),
        kind: key.kind.to_string(),
        name: key.name.clone(),
    }
}
