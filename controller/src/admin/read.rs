//! Get and list: what readers may see, with conditions as of now.

use api::{admin as wire, limits::MAX_SNAPSHOT};
use model::{Revision, TenantId};
use prost::Message as _;
use tonic::Status;

use super::{Admin, conditions::conditions, freshness, parse_key, parse_tenant, status, wire_key};
use crate::{World, auth::Principal, keys, objects::Stored, others::Elsewhere};

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
    let entry = admin.store.get(&name, freshness(request.at_least)).await.map_err(status::of_read)?;
    let entry = entry.ok_or_else(|| Status::not_found(format!("tenant {tenant} has no {key}")))?;
    let stored = Stored::read(&entry).map_err(|e| Status::data_loss(e.to_string()))?;
    let world = admin.world_at(stored.revision.max(Revision(request.at_least))).await;
    let elsewhere = admin.elsewhere(&world, [&tenant].into()).await;
    Ok(wire::GetResponse { object: Some(object(admin, &world, &elsewhere, &stored)?) })
}

pub(super) async fn list(
    admin: &Admin,
    principal: &Principal,
    request: wire::ListRequest,
) -> Result<wire::ListResponse, Status> {
    let prefix = prefix(principal, &request.tenant, &request.kind)?;
    let (entries, revision) =
        admin.store.list(&prefix, freshness(request.at_least)).await.map_err(status::of_read)?;
    let world = admin.world_at(revision).await;
    // One unreadable object must not hide the others; the feed reports it.
    let stored = entries.iter().filter_map(|entry| Stored::read(entry).ok());
    let wanted = |stored: &Stored| request.namespace.is_empty() || stored.key.namespace == request.namespace;
    let stored: Vec<Stored> = stored.filter(wanted).collect();
    let elsewhere = admin.elsewhere(&world, stored.iter().map(|stored| &stored.tenant).collect()).await;
    let (mut objects, mut bytes) = (vec![], 0);
    for stored in stored {
        let object = object(admin, &world, &elsewhere, &stored)?;
        bytes += object.encoded_len();
        if bytes > MAX_LIST {
            return Err(Status::resource_exhausted(format!(
                "the list has more than {MAX_LIST} bytes: ask for one tenant or kind"
            )));
        }
        objects.push(object);
    }
    Ok(wire::ListResponse { objects, revision: revision.0 })
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

/// An object as readers see it.
pub(super) fn object(
    admin: &Admin,
    world: &World,
    elsewhere: &Elsewhere,
    stored: &Stored,
) -> Result<wire::Object, Status> {
    Ok(wire::Object {
        key: Some(wire_key(&stored.tenant, &stored.key)),
        json: serde_json::to_string(&stored.json).map_err(|e| Status::internal(e.to_string()))?,
        generation: stored.generation.0,
        revision: stored.revision.0,
        created_revision: stored.created.0,
        conditions: conditions(world, &admin.acks, elsewhere, stored),
    })
}
