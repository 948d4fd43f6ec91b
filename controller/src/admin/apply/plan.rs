//! What an apply would do, and whether it may: everything is compiled as it would be afterwards.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use dialect::{Environment, Mistake, Object, ObjectKey};
use model::{CompileLimits, RouteTable, TenantId};
use store::{Op, Read, seal::Sealer};
use tonic::Status;

use super::stored;
use crate::{
    admin::{Admin, apart, status},
    keys,
    objects::{self, Outcome, Stored},
    platform::Platform,
};

/// Mistakes that one answer lists: gRPC carries them in a header of 16 KiB or so.
const LISTED: usize = 50;

/// What a change would do.
pub(super) struct Plan {
    /// In the order of the files; what is deleted last.
    pub(super) outcomes: Vec<(ObjectKey, Outcome)>,
    pub(super) ops: Vec<Op>,
    pub(super) warnings: Vec<String>,
    /// As it would be, of a change of the platform's objects.
    pub(super) platform: Option<Platform>,
}

/// One line a mistake.
pub(super) fn lines(mistakes: &[Mistake]) -> String {
    let mut lines: Vec<_> = mistakes.iter().take(LISTED).map(ToString::to_string).collect();
    if mistakes.len() > LISTED {
        lines.push(format!("and {} more", mistakes.len() - LISTED));
    }
    lines.join("\n")
}

impl Plan {
    /// Of `objects` applied over what is `stored`, and `deleted` gone; or every mistake.
    pub(super) async fn make(
        admin: &Admin,
        tenant: &TenantId,
        objects: Arc<Vec<Object>>,
        deleted: BTreeSet<ObjectKey>,
        stored: Vec<Stored>,
    ) -> Result<Self, Status> {
        let surroundings = surroundings(admin, tenant).await?;
        let (sealer, tenant) = (admin.sealer.clone(), tenant.clone());
        // Large configurations take seconds: not on the threads that answer others.
        let draft = Draft { tenant, objects, deleted, stored, sealer };
        apart("compiling the objects", move || draft.check(&surroundings)).await?
    }
}

/// What the objects are checked against.
pub(super) enum Surroundings {
    /// Of a tenant.
    Tenant(Box<Environment>),
    /// The installation itself: its domain, its tenants, and the default pool.
    Platform { domain: String, tenants: BTreeSet<TenantId>, default_pool: dialect::PoolSpec },
}

pub(super) async fn surroundings(admin: &Admin, tenant: &TenantId) -> Result<Surroundings, Status> {
    let (entries, _) = admin.store.list(keys::TENANTS, Read::Local).await.map_err(status::of_read)?;
    let tenants: BTreeSet<_> = entries.iter().filter_map(|entry| keys::parse_tenant(&entry.key)).collect();
    let (domain, default_pool) = (admin.domain.clone(), admin.default_pool.clone());
    if tenant.is_platform() {
        return Ok(Surroundings::Platform { domain, tenants, default_pool });
    }
    let objects = stored(admin, &TenantId::platform()).await?;
    let objects: Vec<_> = objects.iter().filter_map(|o| o.object(&admin.sealer).ok()).collect();
    let platform = Platform::new(tenants, &objects, &default_pool);
    Ok(Surroundings::Tenant(Box::new(platform.environment(tenant, &domain))))
}

struct Draft {
    tenant: TenantId,
    objects: Arc<Vec<Object>>,
    deleted: BTreeSet<ObjectKey>,
    stored: Vec<Stored>,
    sealer: Arc<Sealer>,
}

impl Draft {
    fn check(self, surroundings: &Surroundings) -> Result<Plan, Status> {
        let mut mistakes = self.wrong_place();
        let (found, warnings, platform) = match surroundings {
            Surroundings::Tenant(environment) => {
                let (mistakes, warnings) = self.compiled(environment);
                (mistakes, warnings, None)
            }
            Surroundings::Platform { domain, tenants, default_pool } => {
                let merged = self.merged();
                let platform = Platform::new(tenants.iter().cloned(), &merged, default_pool);
                (platform.mistakes(&merged, domain), vec![], Some(platform))
            }
        };
        mistakes.extend(found);
        if !mistakes.is_empty() {
            return Err(Status::invalid_argument(lines(&mistakes)));
        }
        self.writes(warnings, platform)
    }

    /// Objects that do not belong where they are applied to.
    fn wrong_place(&self) -> Vec<Mistake> {
        if self.tenant.is_platform() {
            return vec![];
        }
        let platforms = self.objects.iter().filter(|o| o.key.kind.is_platform());
        platforms
            .map(|o| {
                Mistake::at(&o.source, &o.key, "kind").because(
                    format!("a {} is the platform's, not a tenant's", o.key.kind),
                    format!("ask the platform's administrator to apply it to tenant {}", TenantId::PLATFORM),
                )
            })
            .collect()
    }

    /// What is stored with what is applied over it. Stored objects that this version cannot read are left out: the
    /// feed holds the tenant until they are mended.
    fn merged(&self) -> Vec<Object> {
        let applied: BTreeSet<_> = self.objects.iter().map(|o| &o.key).collect();
        let created: BTreeMap<_, _> = self.stored.iter().map(|s| (&s.key, s.created)).collect();
        let kept = self.stored.iter().filter(|s| !applied.contains(&s.key) && !self.deleted.contains(&s.key));
        let kept = kept.filter_map(|s| s.object(&self.sealer).ok());
        let new = self.objects.iter().map(|object| {
            let mut object = object.clone();
            object.created = created.get(&object.key).copied();
            object
        });
        kept.chain(new).collect()
    }

    /// What is wrong with the tenant's objects as they would be, but for what was wrong before and is not touched.
    fn compiled(&self, environment: &Environment) -> (Vec<Mistake>, Vec<String>) {
        let compiled = dialect::compile(&self.merged(), environment);
        let mut mistakes = compiled.mistakes;
        if let Err(errors) = RouteTable::compile(&compiled.config, &CompileLimits::default()) {
            mistakes.extend(errors.into_iter().map(Mistake::from));
        }
        if !mistakes.is_empty() {
            let applied: BTreeSet<_> = self.objects.iter().map(|o| o.key.to_string()).collect();
            let before: Vec<_> = self.stored.iter().filter_map(|s| s.object(&self.sealer).ok()).collect();
            let before = dialect::compile(&before, environment).mistakes;
            mistakes.retain(|m| applied.contains(&m.object) || !before.contains(m));
        }
        (mistakes, compiled.warnings.iter().map(ToString::to_string).collect())
    }

    fn writes(self, warnings: Vec<String>, platform: Option<Platform>) -> Result<Plan, Status> {
        let old: BTreeMap<_, _> = self.stored.iter().map(|s| (&s.key, s)).collect();
        let mut plan = Plan { outcomes: vec![], ops: vec![], warnings, platform };
        for object in self.objects.iter() {
            let key = &object.key;
            let name = keys::object(&self.tenant, key);
            if keys::parse_object(&name).is_none_or(|(_, parsed)| parsed != *key) {
                return Err(Status::invalid_argument(format!("{key}: a name has no '/' and is not empty")));
            }
            let (outcome, value) =
                objects::write(&self.tenant, key, &object.json, old.get(key).copied(), &self.sealer)
                    .map_err(|e| Status::internal(e.to_string()))?;
            plan.outcomes.push((key.clone(), outcome));
            if let Some(value) = value.filter(|_| outcome.is_change()) {
                plan.ops.push(Op::Put { key: name.into(), value: value.into() });
            }
        }
        for key in self.deleted {
            plan.ops.push(Op::Delete { key: keys::object(&self.tenant, &key).into() });
            plan.outcomes.push((key, Outcome::Deleted));
        }
        Ok(plan)
    }
}
