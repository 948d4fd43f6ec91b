//! Watch: a tenant's changes as they are committed.

use std::{
    collections::BTreeMap,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
};

use api::{admin as wire, process};
use futures_util::Stream;
use model::TenantId;
use store::{Watch, WatchBatch, WatchError};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{
    Admin,
    read::{object, prefix},
    resync::{self, Begin, Resync},
    status, wire_key,
};
use crate::{
    auth::{Principal, Role},
    keys,
    objects::Stored,
    others::Elsewhere,
};

/// Events that wait for a slow reader; the store's history holds the rest.
const OUTBOX: usize = 16;

/// Watches that callers of one tenant may have open: a dashboard for each of its people. The platform's own may have
/// as many more as there is no tenant to be unfair to.
const MAX_WATCHES: usize = 100;
const MAX_PLATFORM_WATCHES: usize = 1000;

/// The watches that are open, by the tenant that their callers are confined to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watches(Arc<Mutex<BTreeMap<Option<TenantId>, usize>>>);

/// One open watch.
pub(crate) struct Open {
    watches: Watches,
    of: Option<TenantId>,
}

impl Watches {
    pub(crate) fn open(&self, role: &Role) -> Result<Open, Status> {
        let of = role.tenant().cloned();
        let most = if of.is_some() { MAX_WATCHES } else { MAX_PLATFORM_WATCHES };
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(of.clone()).or_default();
        if *count >= most {
            return Err(Status::resource_exhausted(format!("{most} watches are open already: end some")));
        }
        *count += 1;
        Ok(Open { watches: self.clone(), of })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut counts = self.watches.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.of);
            }
        }
    }
}

pub(super) type Events = Pin<Box<dyn Stream<Item = Result<wire::WatchEvent, Status>> + Send>>;

pub(super) async fn watch(
    admin: &Admin,
    principal: &Principal,
    request: wire::WatchRequest,
) -> Result<Events, Status> {
    let prefix = prefix(principal, &request.tenant, &request.kind)?;
    let Begin { from, mut resync } = resync::begin(admin, &prefix, &request).await?;
    drop(request);
    let open = admin.watches.open(&principal.role)?;
    let mut changes = admin.store.watch(prefix, from);
    let (sender, events) = mpsc::channel(OUTBOX);
    let (admin, principal, mut shutdown) = (admin.clone(), principal.clone(), admin.shutdown.clone());
    tokio::spawn(async move {
        let _open = open;
        let mut revoked = pin!(principal.revoked(&admin.store));
        loop {
            let next = tokio::select! {
                // Looked at first: what came after the token was revoked is not for its holder.
                biased;
                () = &mut revoked => {
                    let ended = Status::unauthenticated("the token was revoked, or its tenant deleted");
                    // An error: the caller has left.
                    sender.send(Err(ended)).await.ok();
                    return;
                }
                () = sender.closed() => return,
                () = process::shut_down(&mut shutdown) => Err(WatchError::Stopped),
                next = next(&admin, &mut resync, &mut changes) => next,
            };
            let (event, last) = match next {
                Ok(Next::Part(part)) => {
                    let failed = part.is_err();
                    (part, failed)
                }
                Ok(Next::Batch(batch)) => (event(&admin, batch), false),
                Err(error) => (Err(status::of_watch(error)), true),
            };
            if sender.send(event).await.is_err() || last {
                return;
            }
        }
    });
    Ok(Box::pin(ReceiverStream::new(events)))
}

/// What a watch tells next.
enum Next {
    /// Of what differed at its begin.
    Part(Result<wire::WatchEvent, Status>),
    /// A revision's changes.
    Batch(WatchBatch),
}

/// Cancel-safe: a part is taken without waiting.
async fn next(admin: &Admin, resync: &mut Option<Resync>, changes: &mut Watch) -> Result<Next, WatchError> {
    match resync.as_mut().and_then(|resync| resync.next(admin)) {
        Some(part) => Ok(Next::Part(part)),
        None => changes.next().await.map(Next::Batch),
    }
}

fn event(admin: &Admin, batch: WatchBatch) -> Result<wire::WatchEvent, Status> {
    let world = admin.world.borrow().clone();
    let mut changes = vec![];
    for event in batch.events {
        let Some((tenant, key)) = keys::parse_object(&event.key) else { continue };
        let object = match &event.entry {
            Some(entry) => {
                let stored = Stored::read(entry).map_err(|e| Status::data_loss(e.to_string()))?;
                // At the change itself no worker can have it yet: what is here will do.
                Some(object(admin, Some((&world, &Elsewhere::default())), entry, &stored)?)
            }
            None => None,
        };
        changes.push(wire::ObjectChange { key: Some(wire_key(&tenant, &key)), object });
    }
    let (revision, epoch) = (batch.revision.0, admin.epoch());
    Ok(wire::WatchEvent { revision, changes, resync: false, more: false, epoch })
}
