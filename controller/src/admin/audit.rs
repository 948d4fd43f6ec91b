//! `weir.admin.v1.Audit`: who changed what, when, from where and why.

use api::admin::{self as wire, audit_server};
use model::{Revision, TenantId};
use store::{Event, Read, Record};
use tonic::{Request, Response, Status};

use super::{
    Admin, asked_tenant,
    history::{Pages, fresh},
};
use crate::{
    auth::{Principal, TokenRecord},
    keys,
};

/// What is shown of a token's hash: as much as an actor says of it.
const TOKEN_SHOWN: usize = 12;

#[tonic::async_trait]
impl audit_server::Audit for Admin {
    async fn list_records(
        &self,
        request: Request<wire::ListRecordsRequest>,
    ) -> Result<Response<wire::ListRecordsResponse>, Status> {
        let principal = Principal::of(&request)?;
        let request = request.into_inner();
        let tenant = asked_tenant(&principal, &request.tenant)?;
        fresh(self).await?;
        let created = match &tenant {
            Some(tenant) => self.created(tenant).await?,
            None => Revision(0),
        };
        let audited = Audited { admin: self, tenant };
        let until_ms = if request.until_ms == 0 { i64::MAX } else { request.until_ms };
        let mut pages = Pages::new(request.before, request.limit);
        let mut records = vec![];
        while let Some((record, events)) = pages.next(self, "") {
            if record.revision < created {
                pages.end();
                break;
            }
            // Each server has its clock: the times are not in the order of the revisions.
            let wanted = (request.since_ms..until_ms).contains(&record.time_ms)
                && record.actor.contains(&request.actor);
            if !wanted {
                continue;
            }
            let Some(keys) = audited.keys(&record, &events).await else { continue };
            pages.took(&record, keys.len());
            records.push(wire::AuditRecord {
                revision: record.revision.0,
                time_ms: record.time_ms,
                actor: record.actor.to_string(),
                origin: record.origin.to_string(),
                note: record.note.to_string(),
                keys,
            });
        }
        let compacted = self.store.status().compacted.0;
        let (next, epoch) = (pages.rest(), self.epoch());
        Ok(Response::new(wire::ListRecordsResponse { records, next, compacted, epoch }))
    }
}

/// Whose audit it is.
struct Audited<'a> {
    admin: &'a Admin,
    /// `None`: everybody's.
    tenant: Option<TenantId>,
}

impl Audited<'_> {
    /// What of a revision is told; `None`: it is not this tenant's.
    async fn keys(&self, record: &Record, events: &[Event]) -> Option<Vec<wire::AuditedKey>> {
        let mut keys = vec![];
        for event in events {
            let operation = match &event.entry {
                None => "deleted",
                Some(entry) if entry.create_revision == record.revision => "created",
                Some(_) => "changed",
            };
            // Rewritten by every change of the tenant's objects: says nothing.
            let guard = event.key.starts_with(keys::TENANTS) && operation == "changed";
            if !guard && self.concerns(record, event).await {
                keys.push(wire::AuditedKey { key: shown(&event.key), operation: operation.to_owned() });
            }
        }
        (self.tenant.is_none() || !keys.is_empty()).then_some(keys)
    }

    async fn concerns(&self, record: &Record, event: &Event) -> bool {
        let Some(tenant) = &self.tenant else { return true };
        if event.key.starts_with(keys::TOKENS) {
            return self.is_token_of(tenant, record, event).await;
        }
        event.key.starts_with(&keys::objects_of(tenant))
            || *event.key == *keys::tenant(tenant)
            || event.key == crate::quotas::key(tenant)
    }

    async fn is_token_of(&self, tenant: &TenantId, record: &Record, event: &Event) -> bool {
        let entry = match &event.entry {
            Some(entry) => Some(entry.clone()),
            // Whose it was, the revision before still says, unless that is forgotten.
            None => {
                let before = Read::At(Revision(record.revision.0 - 1));
                self.admin.store.get(&event.key, before).await.ok().flatten()
            }
        };
        let token = entry.and_then(|entry| serde_json::from_slice::<TokenRecord>(&entry.value).ok());
        token.is_some_and(|token| match token.role.tenant() {
            Some(of) => of == tenant,
            None => tenant.is_platform(),
        })
    }
}

/// A key as it is told: of a token too little to find it by.
fn shown(key: &str) -> String {
    match key.strip_prefix(keys::TOKENS) {
        Some(hash) => format!("{}{}", keys::TOKENS, hash.get(..TOKEN_SHOWN).unwrap_or_default()),
        None => key.to_owned(),
    }
}
