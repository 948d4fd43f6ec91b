//! Apply and delete: read, check, propose with a compare on what was read; again if something came between.
//!
//! Every change of a tenant's objects rewrites the tenant's own key, and compares it: two changes of one tenant never
//! pass each other, however many objects each has read. The platform's key guards who owns which hosts in the same way.

mod guard;
mod plan;
pub(super) mod rollback;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use api::admin as wire;
use dialect::{Object, SourceFile};
use model::{Revision, TenantId};
use store::{Op, Read, Txn, TxnError};
use tonic::Status;
use tracing::info;

use super::{Admin, apart, parse_key, parse_tenant, status, wire_key};
use crate::{
    auth::Principal,
    keys,
    objects::{Outcome, Stored},
    platform::Platform,
    quotas,
};

pub(super) use guard::{Guard, Guards, guards};

use guard::RequestName;

use plan::{Plan, lines};

/// Attempts before a change gives up to others that come between.
const ATTEMPTS: usize = 5;

/// Files of one apply, beside the message's bytes.
const MAX_FILES: usize = 1_000;

/// Objects that one call names, to be deleted or as expectations: what fits into a transaction beside its guards.
const MAX_KEYS: usize = store::MAX_OPS - 2;

pub(super) async fn apply(
    admin: &Admin,
    principal: &Principal,
    request: wire::ApplyRequest,
) -> Result<wire::ApplyResponse, Status> {
    let tenant = parse_tenant(&request.tenant)?;
    principal.may_write(&tenant)?;
    admin.same_epoch(request.epoch.as_ref())?;
    if request.files.len() > MAX_FILES {
        return Err(Status::invalid_argument(format!("an apply has at most {MAX_FILES} files: split it")));
    }
    few("expect", request.expect.len())?;
    let name = RequestName::of(&request.request_id, &request)?;
    let expects = expectations(&tenant, &request.expect)?;
    let files: Vec<_> =
        request.files.into_iter().map(|file| SourceFile { name: file.name, content: file.content }).collect();
    let objects = apart("reading the files", move || dialect::parse(&files))
        .await?
        .map_err(|mistakes| Status::invalid_argument(lines(&mistakes)))?;
    let objects = Arc::new(objects);
    let change = Change { tenant, principal, name, dry_run: request.dry_run };
    for _ in 0..ATTEMPTS {
        match change.attempt(admin, objects.clone(), &expects).await? {
            Some(response) => return Ok(response),
            None => continue,
        }
    }
    Err(Status::aborted("others keep changing this tenant: try again"))
}

/// What the caller expects: the store's key and its revision.
fn expectations(tenant: &TenantId, expects: &[wire::Expect]) -> Result<Vec<(String, Revision)>, Status> {
    expects
        .iter()
        .map(|expect| {
            let (of, key) = parse_key(expect.key.clone())?;
            if of != *tenant {
                return Err(Status::permission_denied("expect names an object of another tenant"));
            }
            Ok((keys::object(&of, &key), Revision(expect.revision)))
        })
        .collect()
}

struct Change<'c> {
    tenant: TenantId,
    principal: &'c Principal,
    name: Option<RequestName>,
    dry_run: bool,
}

impl Change<'_> {
    /// `None`: somebody came between.
    async fn attempt(
        &self,
        admin: &Admin,
        objects: Arc<Vec<Object>>,
        expects: &[(String, Revision)],
    ) -> Result<Option<wire::ApplyResponse>, Status> {
        let guards = guards(admin, &self.tenant).await?;
        let seen = guards.has_seen(self.name.as_ref())?;
        let stored = stored(admin, &self.tenant).await?;
        let revision = admin.store.status().revision;
        let revisions: BTreeMap<_, _> = match expects {
            [] => BTreeMap::new(),
            _ => stored.iter().map(|s| (keys::object(&s.tenant, &s.key), s.revision)).collect(),
        };
        for (key, expected) in expects {
            let actual = revisions.get(key).copied().unwrap_or(Revision(0));
            // A retried request has changed what it expected.
            if actual != *expected && !seen {
                return Err(Status::aborted(format!(
                    "{key} is at revision {actual}, not {expected}: read it again (0: it does not exist)"
                )));
            }
        }
        let mut plan = Plan::make(admin, &self.tenant, objects, BTreeSet::new(), stored).await?;
        let applied =
            plan.outcomes.iter().map(|(key, outcome)| applied(&self.tenant, key, *outcome)).collect();
        let warnings = std::mem::take(&mut plan.warnings);
        let epoch = admin.epoch();
        let answer =
            |revision: Revision| wire::ApplyResponse { revision: revision.0, applied, warnings, epoch };
        // A request that was applied before is answered as it was, not applied over what came after it.
        if plan.ops.is_empty() || seen {
            return Ok(Some(answer(revision)));
        }
        let changed = plan.ops.len();
        let txn = self.principal.txn().note(format!("apply {changed} objects to {}", self.tenant));
        let txn = plan.transaction(admin, guards.guard(txn, self.name.as_ref())?);
        if self.dry_run {
            would_fit(admin, &txn)?;
            return Ok(Some(answer(revision)));
        }
        let committed = commit(admin, txn).await?;
        if let Some(revision) = committed {
            info!(tenant = %self.tenant, actor = self.principal.actor, %revision, changed, "objects applied");
        }
        Ok(committed.map(answer))
    }
}

pub(super) async fn delete(
    admin: &Admin,
    principal: &Principal,
    request: wire::DeleteRequest,
) -> Result<wire::DeleteResponse, Status> {
    few("keys", request.keys.len())?;
    let name = RequestName::of(&request.request_id, &request)?;
    let keys: Vec<_> = request.keys.into_iter().map(|key| parse_key(Some(key))).collect::<Result<_, _>>()?;
    let Some((tenant, _)) = keys.first().cloned() else {
        return Err(Status::invalid_argument("name at least one object"));
    };
    for (of, _) in &keys {
        principal.may_write(of)?;
        if *of != tenant {
            return Err(Status::invalid_argument("delete objects of one tenant at a time"));
        }
    }
    for _ in 0..ATTEMPTS {
        let guards = guards(admin, &tenant).await?;
        let revision = admin.store.status().revision;
        if guards.has_seen(name.as_ref())? {
            return Ok(wire::DeleteResponse { revision: revision.0, epoch: admin.epoch() });
        }
        let mut deletes = BTreeSet::new();
        for (_, key) in &keys {
            let name = keys::object(&tenant, key);
            if admin.store.get(&name, Read::Local).await.map_err(status::of_read)?.is_none() {
                return Err(Status::not_found(format!("tenant {tenant} has no {key}")));
            }
            deletes.insert(name);
        }
        if request.dry_run {
            return Ok(wire::DeleteResponse { revision: revision.0, epoch: admin.epoch() });
        }
        let txn = principal.txn().note(format!("delete {} objects of {tenant}", deletes.len()));
        let mut txn = guards.guard(txn, name.as_ref())?;
        txn.ops.extend(deletes.iter().map(|key| Op::Delete { key: key.as_str().into() }));
        if tenant.is_platform() {
            txn.ops.extend(shares_without(admin, &deletes).await?);
        }
        if let Some(revision) = commit(admin, txn).await? {
            info!(%tenant, actor = principal.actor, %revision, "objects deleted");
            return Ok(wire::DeleteResponse { revision: revision.0, epoch: admin.epoch() });
        }
    }
    Err(Status::aborted("others keep changing this tenant: try again"))
}

/// The tenants' shares of the store when these objects of the platform are gone.
async fn shares_without(admin: &Admin, deletes: &BTreeSet<String>) -> Result<Vec<Op>, Status> {
    let (entries, _) = admin.store.list(keys::TENANTS, Read::Local).await.map_err(status::of_read)?;
    let tenants = entries.iter().filter_map(|entry| keys::parse_tenant(&entry.key));
    let mut objects = stored(admin, &TenantId::platform()).await?;
    objects.retain(|object| !deletes.contains(&keys::object(&object.tenant, &object.key)));
    let objects: Vec<_> = objects.iter().filter_map(|o| o.object(&admin.sealer).ok()).collect();
    Ok(quotas::ops(&admin.store, &Platform::new(tenants, &objects, &admin.default_pool)))
}

/// That a transaction which is not made would not exceed a quota.
fn would_fit(admin: &Admin, txn: &Txn) -> Result<(), Status> {
    admin.store.check_quotas(&txn.ops).map_err(|exceeded| status::of_quota(&exceeded))
}

fn applied(tenant: &TenantId, key: &dialect::ObjectKey, outcome: Outcome) -> wire::Applied {
    wire::Applied { key: Some(wire_key(tenant, key)), outcome: outcome.as_str().to_owned() }
}

fn few(field: &str, count: usize) -> Result<(), Status> {
    match count <= MAX_KEYS {
        true => Ok(()),
        false => {
            Err(Status::invalid_argument(format!("{field} has at most {MAX_KEYS} objects: split the call")))
        }
    }
}

/// The tenant's objects, as fresh as the guards that were read before them.
pub(super) async fn stored(admin: &Admin, tenant: &TenantId) -> Result<Vec<Stored>, Status> {
    let (entries, _) =
        admin.store.list(&keys::objects_of(tenant), Read::Local).await.map_err(status::of_read)?;
    // What another version wrote and this one cannot read is held by the feed and can be overwritten.
    Ok(entries.iter().filter_map(|entry| Stored::read(entry).ok()).collect())
}

/// Commits; `None`: a compare failed. What was not answered in time is tried again under the same request id.
pub(super) async fn commit(admin: &Admin, txn: Txn) -> Result<Option<Revision>, Status> {
    let mut result = admin.store.txn(txn.clone()).await;
    if matches!(result, Err(TxnError::Unknown)) {
        result = admin.store.txn(txn).await;
    }
    match result {
        Ok(committed) => Ok(Some(committed.revision)),
        Err(TxnError::Conflict { .. }) => Ok(None),
        Err(error) => Err(status::of_txn(error)),
    }
}

impl Plan {
    /// The transaction that does it.
    fn transaction(self, admin: &Admin, mut txn: Txn) -> Txn {
        let shares = self.platform.map(|platform| quotas::ops(&admin.store, &platform));
        txn.ops.extend(self.ops);
        txn.ops.extend(shares.into_iter().flatten());
        txn
    }
}

impl Outcome {
    fn is_change(self) -> bool {
        self != Self::Unchanged
    }
}
