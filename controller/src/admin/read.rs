//! Get and list: what readers may see, with conditions as of now.

use api::{admin as wire, limits::MAX_SNAPSHOT};
use model::{Revision, TenantId};
use prost::Message as _;
use store::{Entry, Read};
use tonic::Status;

use super::{Admin, conditions::conditions, parse_key, parse_tenant, status, wire_key};
use crate::{
    World,
    auth::Principal,
    keys,
    objects::{self, Stored},
    others::Elsewhere,
};

/// The largest list, bytes: a little less than what clients take.
const MAX_LIST: usize = MAX_SNAPSHOT - 1024 * 1024;

pub(super) async fn get(
    admin: &Admin,
    principal: &Principal,
    request: wire::GetRequest,
) -> Result<wire::GetResponse, Status> {
    let (tenant, key) = parse_key(request.key)?;
    principal.may_read(&tenant)?;
    let name = keys::object(&tenant, &key);
    let wire::GetRequest { at_least, revision, epoch, .. } = request;
    let read = admin.freshness(Some(&tenant), at_least, revision, epoch.as_ref()).await?;
    let (entry, revision) = admin.store.get_with_revision(&name, read).await.map_err(status::of_read)?;
    let entry = entry.ok_or_else(|| match read {
        Read::At(at) => Status::not_found(format!("tenant {tenant} had no {key} at revision {at}")),
        _ => Status::not_found(format!("tenant {tenant} has no {key}")),
    })?;
    let stored = Stored::read(&entry).map_err(|e| Status::data_loss(e.to_string()))?;
    let object = match read {
        Read::At(_) => object(admin, None, &entry, &stored)?,
        _ => {
            let world = admin.world_at(stored.revision.max(Revision(at_least))).await;
            let elsewhere = admin.elsewhere(&world, [&tenant].into()).await;
            object(admin, Some((&world, &elsewhere)), &entry, &stored)?
        }
    };
    Ok(wire::GetResponse { object: Some(object), revision: revision.0, epoch: admin.epoch() })
}

pub(super) async fn list(
    admin: &Admin,
    principal: &Principal,
    request: wire::ListRequest,
) -> Result<wire::ListResponse, Status> {
    let prefix = prefix(principal, &request.tenant, &request.kind)?;
    let tenant = (!request.tenant.is_empty()).then(|| parse_tenant(&request.tenant)).transpose()?;
    let wire::ListRequest { at_least, revision, epoch, .. } = request;
    let read = admin.freshness(tenant.as_ref(), at_least, revision, epoch.as_ref()).await?;
    let (entries, revision) = admin.store.list(&prefix, read).await.map_err(status::of_read)?;
    // One unreadable object must not hide the others; the feed reports it.
    let stored = entries.iter().filter_map(|entry| Some((entry, Stored::read(entry).ok()?)));
    let wanted =
        |(_, stored): &(_, Stored)| request.namespace.is_empty() || stored.key.namespace == request.namespace;
    let stored: Vec<_> = stored.filter(wanted).collect();
    let seen = match read {
        Read::At(_) => None,
        _ => {
            let world = admin.world_at(revision).await;
            let tenants = stored.iter().map(|(_, stored)| &stored.tenant).collect();
            let elsewhere = admin.elsewhere(&world, tenants).await;
            Some((world, elsewhere))
        }
    };
    let (mut objects, mut bytes) = (vec![], 0);
    for (entry, stored) in &stored {
        let seen = seen.as_ref().map(|(world, elsewhere)| (&**world, elsewhere));
        let object = object(admin, seen, entry, stored)?;
        bytes += object.encoded_len();
        if bytes > MAX_LIST {
            return Err(Status::resource_exhausted(format!(
                "the list has more than {MAX_LIST} bytes: ask for one tenant or kind"
            )));
        }
        objects.push(object);
    }
    Ok(wire::ListResponse { objects, revision: revision.0, epoch: admin.epoch() })
}

/// The prefix of what a list or watch asks for. An empty tenant is every tenant, for the platform's administrator.
pub(super) fn prefix(principal: &Principal, tenant: &str, kind: &str) -> Result<String, Status> {
    if tenant.is_empty() {
        principal.is_platform_admin()?;
        return match kind {
            "" => Ok(keys::OBJECTS.to_owned()),
            _ => Err(Status::invalid_argument("name a tenant to ask for one kind")),
        };
    }
    let tenant: TenantId = parse_tenant(tenant)?;
    principal.may_read(&tenant)?;
    match kind {
        "" => Ok(keys::objects_of(&tenant)),
        kind => match dialect::Kind::parse(kind) {
            Some(kind) => Ok(format!("{}{kind}/", keys::objects_of(&tenant))),
            None => Err(Status::invalid_argument(format!("there is no kind {kind:?}"))),
        },
    }
}

/// An object as readers see it: with conditions as of the world and what other servers have heard, if that is told.
pub(super) fn object(
    admin: &Admin,
    seen: Option<(&World, &Elsewhere)>,
    entry: &Entry,
    stored: &Stored,
) -> Result<wire::Object, Status> {
    Ok(wire::Object {
        key: Some(wire_key(&stored.tenant, &stored.key)),
        json: serde_json::to_string(&stored.json).map_err(|e| Status::internal(e.to_string()))?,
        generation: stored.generation.0,
        revision: stored.revision.0,
        created_revision: stored.created.0,
        conditions: seen
            .map(|(world, elsewhere)| conditions(world, &admin.acks, elsewhere, stored))
            .unwrap_or_default(),
        digest: objects::digest(entry),
    })
}
