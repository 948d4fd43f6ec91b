//! `weir.admin.v1`: what users and operators ask.

mod apply;
mod audit;
mod cluster;
mod conditions;
mod explain;
mod history;
mod objects;
mod read;
pub(crate) mod recall;
mod resync;
mod secrets;
pub(crate) mod status;
pub(crate) mod tenants;
pub(crate) mod watch;
mod workers;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use api::{admin as wire, pki::Ca, process};
use dialect::{Kind, ObjectKey, PoolSpec};
use model::{Epoch, Revision, TenantId};
use store::{Entry, Handle, Read, seal::Sealer};
use tokio::{sync::watch as channel, task::spawn_blocking, time::timeout};
use tonic::Status;

use crate::{Fleet, Others, World, acks::Acks, auth::Principal, keys, others::Elsewhere, recalls::Recalls};

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
    pub(crate) recalls: Arc<Recalls>,
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

    /// The life of the store, as it is told.
    fn epoch(&self) -> Option<wire::Epoch> {
        let Epoch { counter, id } = self.store.epoch();
        Some(wire::Epoch { counter, id })
    }

    /// That revisions of a caller's epoch mean here what the caller means by them.
    fn same_epoch(&self, callers: Option<&wire::Epoch>) -> Result<(), Status> {
        let now = self.store.epoch();
        match callers {
            None | Some(wire::Epoch { counter: 0, id: 0 }) => Ok(()),
            Some(wire::Epoch { counter, id }) if (*counter, *id) == (now.counter, now.id) => Ok(()),
            Some(wire::Epoch { counter, id }) => Err(Status::failed_precondition(format!(
                "the store was restored: epoch {} has ended, and {now} gives revisions anew; list again",
                Epoch { counter: *counter, id: *id }
            ))),
        }
    }

    /// That the revision was given already, on whatever server.
    async fn reached(&self, revision: Revision) -> Result<(), Status> {
        if revision <= self.store.status().revision {
            return Ok(());
        }
        let (_, last) =
            self.store.get_with_revision(keys::CA, Read::Linearizable).await.map_err(status::of_read)?;
        match revision <= last {
            true => Ok(()),
            false => {
                Err(Status::out_of_range(format!("revision {revision} is still to come; the last is {last}")))
            }
        }
    }

    /// When the tenant was made, which is never for the platform: what is older is of another tenant of that name.
    async fn created(&self, tenant: &TenantId) -> Result<Revision, Status> {
        if tenant.is_platform() {
            return Ok(Revision(0));
        }
        Ok(self.existing(tenant, Read::Linearizable).await?.create_revision)
    }

    /// How fresh a read has to be: as it was at `revision`, or not older than `at_least`, or linearizable.
    async fn freshness(
        &self,
        tenant: Option<&TenantId>,
        at_least: u64,
        revision: u64,
        epoch: Option<&wire::Epoch>,
    ) -> Result<Read, Status> {
        self.same_epoch(epoch)?;
        match (at_least, Revision(revision)) {
            (0, Revision(0)) => Ok(Read::Linearizable),
            (at_least, Revision(0)) => Ok(Read::AtLeast(Revision(at_least))),
            (0, revision) => {
                self.reached(revision).await?;
                let created = match tenant {
                    Some(tenant) => self.created(tenant).await?,
                    None => Revision(0),
                };
                match revision < created {
                    true => {
                        Err(Status::out_of_range(format!("the tenant was created at revision {created}")))
                    }
                    false => Ok(Read::At(revision)),
                }
            }
            _ => Err(Status::invalid_argument("say at_least or revision, not both")),
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

/// Whose objects a call is about, which the caller may read. `None`: everybody's, where the call names no tenant and the
/// caller is the platform's administrator.
fn asked_tenant(principal: &Principal, name: &str) -> Result<Option<TenantId>, Status> {
    if name.is_empty() {
        principal.is_platform_admin()?;
        return Ok(None);
    }
    let tenant = parse_tenant(name)?;
    principal.may_read(&tenant)?;
    Ok(Some(tenant))
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
