//! Rollback: a tenant's objects as they were, by one new transaction. History is read, never rewritten.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use api::admin as wire;
use dialect::{Object, ObjectKey};
use model::{Revision, TenantId};
use store::{Read, ReadError};
use tonic::Status;
use tracing::info;

use super::{ATTEMPTS, Guards, Plan, RequestName, applied, commit, guards, stored, would_fit};
use crate::{
    admin::{Admin, parse_tenant, status},
    auth::Principal,
    keys,
    objects::{Outcome, Stored},
};

pub(in crate::admin) async fn rollback(
    admin: &Admin,
    principal: &Principal,
    request: wire::RollbackRequest,
) -> Result<wire::RollbackResponse, Status> {
    let tenant = parse_tenant(&request.tenant)?;
    principal.may_write(&tenant)?;
    admin.same_epoch(request.epoch.as_ref())?;
    if request.revision == 0 {
        return Err(Status::invalid_argument("revision is missing: say which one to go back to"));
    }
    let name = RequestName::of(&request.request_id, &request)?;
    for _ in 0..ATTEMPTS {
        let guards = guards(admin, &tenant).await?;
        let unchanged_since = Revision(request.unchanged_since);
        let seen = guards.has_seen(name.as_ref())?;
        // A retried request has changed the tenant itself.
        if unchanged_since.0 > 0 && guards.revision() > unchanged_since && !seen {
            return Err(Status::aborted(format!(
                "tenant {tenant} was changed at revision {}, after {unchanged_since}: look at it again",
                guards.revision()
            )));
        }
        let back = Back { admin, tenant: &tenant, to: Revision(request.revision) };
        let made = back.plan().await?;
        let revision = admin.store.status().revision;
        let answer = |revision: Revision, plan: &Plan, unchanged: &[ObjectKey]| {
            let changed = plan.outcomes.iter().map(|(key, outcome)| applied(&tenant, key, *outcome));
            let unchanged = unchanged.iter().map(|key| applied(&tenant, key, Outcome::Unchanged));
            wire::RollbackResponse {
                revision: revision.0,
                applied: changed.chain(unchanged).collect(),
                warnings: plan.warnings.clone(),
                epoch: admin.epoch(),
            }
        };
        let (plan, unchanged) = made;
        if plan.ops.is_empty() || seen {
            return Ok(answer(revision, &plan, &unchanged));
        }
        let mut response = answer(revision, &plan, &unchanged);
        let txn = back.transaction(principal, plan, &guards, name.as_ref())?;
        if request.dry_run {
            would_fit(admin, &txn)?;
            return Ok(response);
        }
        if let Some(revision) = commit(admin, txn).await? {
            info!(%tenant, actor = principal.actor, %revision, to = request.revision, "rolled back");
            response.revision = revision.0;
            return Ok(response);
        }
    }
    Err(Status::aborted("others keep changing this tenant: try again"))
}

/// The way back to a revision.
struct Back<'b> {
    admin: &'b Admin,
    tenant: &'b TenantId,
    to: Revision,
}

impl Back<'_> {
    /// What has to be done, and what is as it was.
    async fn plan(&self) -> Result<(Plan, Vec<ObjectKey>), Status> {
        let then = self.then().await?;
        let now = stored(self.admin, self.tenant).await?;
        let mut present: BTreeMap<_, _> = now.iter().map(|object| (&object.key, object)).collect();
        let (mut objects, mut unchanged, mut unreadable) = (vec![], vec![], vec![]);
        for old in &then {
            let current = present.remove(&old.key);
            match (old.unsealed(&self.admin.sealer), old.object(&self.admin.sealer)) {
                (Ok(json), Ok(_)) if current.is_some_and(|c| self.is(c, &json)) => {
                    unchanged.push(old.key.clone())
                }
                (Ok(_), Ok(object)) => objects.push(Object { created: None, ..object }),
                (Err(problem), _) => unreadable.push(problem.to_string()),
                (_, Err(problems)) => unreadable.push(format!("{}: {}", old.key, problems.join("; "))),
            }
        }
        if !unreadable.is_empty() {
            return Err(Status::failed_precondition(format!(
                "revision {} has objects that this version or this key file cannot read:\n{}",
                self.to,
                unreadable.join("\n")
            )));
        }
        let deleted: BTreeSet<_> = present.into_keys().cloned().collect();
        let plan = Plan::make(self.admin, self.tenant, Arc::new(objects), deleted, now).await?;
        Ok((plan, unchanged))
    }

    fn is(&self, current: &Stored, json: &serde_json::Value) -> bool {
        current.unsealed(&self.admin.sealer).is_ok_and(|now| now == *json)
    }

    /// The tenant's objects at the revision.
    async fn then(&self) -> Result<Vec<Stored>, Status> {
        let Self { admin, tenant, to } = self;
        admin.reached(*to).await?;
        let status = admin.store.status();
        let created = admin.created(tenant).await?;
        let oldest = created.max(status.compacted);
        let unreachable = |why: String| {
            Status::failed_precondition(format!(
                "{why}: revisions from {oldest} to {} can be gone back to",
                status.revision
            ))
        };
        if *to < created {
            return Err(unreachable(format!("tenant {tenant} was created at revision {created}")));
        }
        match admin.store.list(&keys::objects_of(tenant), Read::At(*to)).await {
            Ok((entries, _)) => entries
                .iter()
                .map(|entry| Stored::read(entry).map_err(|e| Status::failed_precondition(e.to_string())))
                .collect(),
            Err(ReadError::Compacted(_)) => Err(unreachable(format!("revision {to} is forgotten"))),
            Err(error) => Err(status::of_read(error)),
        }
    }

    fn transaction(
        &self,
        principal: &Principal,
        plan: Plan,
        guards: &Guards,
        name: Option<&RequestName>,
    ) -> Result<store::Txn, Status> {
        let changed = plan.ops.len();
        let note = format!("roll {} back to revision {}: {changed} objects", self.tenant, self.to);
        Ok(plan.transaction(self.admin, guards.guard(principal.txn().note(note), name)?))
    }
}
