//! Watch: a tenant's changes as they are committed.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};

use api::{admin as wire, process};
use futures_util::{Stream, StreamExt as _, stream};
use model::TenantId;
use store::{WatchBatch, WatchError};
use tonic::Status;

use super::{
    Admin,
    read::{object, prefix},
    resync::{self, Begin},
    status, wire_key,
};
use crate::{
    auth::{Principal, Role},
    keys,
    objects::Stored,
    others::Elsewhere,
};

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

/// What a watch tells, as a service answers it.
pub(crate) type Served<E> = Pin<Box<dyn Stream<Item = Result<E, Status>> + Send>>;

/// A watch's events until their first error, the caller's token is revoked, or the server stops. Nothing is taken before
/// the caller has room for it: the store's history holds the rest.
pub(crate) fn serve<E: Send + 'static>(
    admin: &Admin,
    principal: Principal,
    open: Open,
    events: impl Stream<Item = Result<E, Status>> + Send + 'static,
) -> Served<E> {
    let (store, mut shutdown) = (admin.store.clone(), admin.shutdown.clone());
    let ended = async move {
        tokio::select! {
            () = principal.revoked(&store) => Status::unauthenticated("the token was revoked, or its tenant deleted"),
            () = process::shut_down(&mut shutdown) => status::of_watch(WatchError::Stopped),
        }
    };
    let serving = (open, Box::pin(ended), Box::pin(events));
    Box::pin(stream::unfold(Some(serving), |serving| async move {
        let (open, mut ended, mut events) = serving?;
        let next = tokio::select! {
            // Looked at first: what came after the token was revoked is not for its holder.
            biased;
            status = &mut ended => Err(status),
            Some(event) = events.next() => event,
            else => return None,
        };
        let rest = next.is_ok().then_some((open, ended, events));
        Some((next, rest))
    }))
}

pub(super) async fn watch(
    admin: &Admin,
    principal: Principal,
    request: wire::WatchRequest,
) -> Result<Served<wire::WatchEvent>, Status> {
    let prefix = prefix(&principal, &request.tenant, &request.kind)?;
    let Begin { from, resync } = resync::begin(admin, &prefix, &request).await?;
    let open = admin.watches.open(&principal.role)?;
    let changes = admin.store.watch(prefix, from);
    let events = stream::unfold((admin.clone(), resync, changes), |(admin, mut resync, mut changes)| async {
        // What differed at the watch's begin, then each revision.
        let event = match resync.as_mut().and_then(|resync| resync.next(&admin)) {
            Some(part) => part,
            None => changes.next().await.map_err(status::of_watch).and_then(|batch| event(&admin, batch)),
        };
        Some((event, (admin, resync, changes)))
    });
    Ok(serve(admin, principal, open, events))
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
