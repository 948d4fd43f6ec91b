//! `weir.admin.v1.Tenants`.

use std::time::{SystemTime, UNIX_EPOCH};

use api::admin::{self as wire, tenants_server};
use model::{HostIndex, Revision, TenantId};
use store::{Op, Read};
use tonic::{Request, Response, Status};
use tracing::info;

use super::{
    Admin,
    apply::{Guard, commit, guards, stored},
    parse_tenant, status,
};
use crate::{
    auth::{Principal, Role, Token, TokenRecord},
    keys,
    platform::Platform,
    quotas,
};

/// Attempts before a change gives up to others that come between.
const ATTEMPTS: usize = 5;

/// Tokens that a tenant can have: each is a key that `DeleteTenant` has to find.
const MAX_TOKENS: usize = 100;

/// Objects that go with their tenant in one transaction, beside tokens, grants and guards.
const MAX_LAST: usize = store::MAX_OPS - MAX_TOKENS - 10;

#[tonic::async_trait]
impl tenants_server::Tenants for Admin {
    async fn create_tenant(
        &self,
        request: Request<wire::CreateTenantRequest>,
    ) -> Result<Response<wire::CreateTenantResponse>, Status> {
        let principal = Principal::of(&request)?;
        principal.is_platform_admin()?;
        let name = parse_tenant(&request.into_inner().name)?;
        self.create(&principal, name).await.map(Response::new)
    }

    async fn list_tenants(
        &self,
        request: Request<wire::ListTenantsRequest>,
    ) -> Result<Response<wire::ListTenantsResponse>, Status> {
        Principal::of(&request)?.is_platform_admin()?;
        let (entries, _) =
            self.store.list(keys::TENANTS, Read::Linearizable).await.map_err(status::of_read)?;
        let tenants = entries
            .iter()
            .filter_map(|entry| Some((keys::parse_tenant(&entry.key)?, entry)))
            .filter(|(tenant, _)| !tenant.is_platform())
            .map(|(tenant, entry)| {
                let created_at_ms = Guard::read(entry)?.created_at_ms;
                Ok(self.wire_tenant(&tenant, entry.create_revision, created_at_ms))
            })
            .collect::<Result<_, Status>>()?;
        Ok(Response::new(wire::ListTenantsResponse { tenants }))
    }

    async fn delete_tenant(
        &self,
        request: Request<wire::DeleteTenantRequest>,
    ) -> Result<Response<wire::DeleteTenantResponse>, Status> {
        let principal = Principal::of(&request)?;
        principal.is_platform_admin()?;
        let name = parse_tenant(&request.into_inner().name)?;
        self.delete(&principal, &name).await.map(Response::new)
    }

    async fn create_token(
        &self,
        request: Request<wire::CreateTokenRequest>,
    ) -> Result<Response<wire::CreateTokenResponse>, Status> {
        let principal = Principal::of(&request)?;
        let request = request.into_inner();
        let tenant = parse_tenant(&request.tenant)?;
        principal.may_write(&tenant)?;
        let role = match (tenant.is_platform(), request.role.as_str()) {
            (true, "admin") => Role::PlatformAdmin,
            (true, _) => return Err(Status::invalid_argument("the platform's role is \"admin\"")),
            (false, "admin") => Role::TenantAdmin(tenant.clone()),
            (false, "viewer") => Role::TenantViewer(tenant.clone()),
            (false, _) => return Err(Status::invalid_argument("role is \"admin\" or \"viewer\"")),
        };
        let mut txn = principal.txn().note(format!("create a token: {role}"));
        if !tenant.is_platform() {
            // The tenant must not be deleted in between: its tokens would outlive it.
            let guard = self.existing(&tenant, Read::Linearizable).await?;
            txn = txn.compare(keys::tenant(&tenant), guard.mod_revision);
        }
        if self.tokens_of(&tenant).await?.len() >= MAX_TOKENS {
            return Err(Status::resource_exhausted(format!(
                "a tenant has at most {MAX_TOKENS} tokens: revoke some"
            )));
        }
        let token = token()?;
        let txn = txn.put(keys::token(&token.hash()), record(&token, role)?);
        match commit(self, txn).await? {
            Some(_) => Ok(Response::new(wire::CreateTokenResponse { token: token.reveal().to_owned() })),
            None => Err(Status::aborted("the tenant changed meanwhile: try again")),
        }
    }

    async fn revoke_tokens(
        &self,
        request: Request<wire::RevokeTokensRequest>,
    ) -> Result<Response<wire::RevokeTokensResponse>, Status> {
        let principal = Principal::of(&request)?;
        let tenant = parse_tenant(&request.into_inner().tenant)?;
        principal.may_write(&tenant)?;
        if tenant.is_platform() {
            return Err(Status::invalid_argument("the platform's tokens are not revoked all at once"));
        }
        self.existing(&tenant, Read::Linearizable).await?;
        let tokens = self.tokens_of(&tenant).await?;
        let revoked = u32::try_from(tokens.len()).unwrap_or(u32::MAX);
        if !tokens.is_empty() {
            let mut txn = principal.txn().note(format!("revoke {revoked} tokens of {tenant}"));
            txn.ops.extend(tokens.into_iter().map(|key| Op::Delete { key }));
            commit(self, txn).await?;
            info!(%tenant, actor = principal.actor, revoked, "tokens revoked");
        }
        Ok(Response::new(wire::RevokeTokensResponse { revoked }))
    }
}

impl Admin {
    fn wire_tenant(&self, tenant: &TenantId, created: Revision, created_at_ms: i64) -> wire::Tenant {
        let (usage, quota) = self.store.usage(&keys::objects_of(tenant));
        let quota = quota.unwrap_or(quotas::DEFAULT);
        wire::Tenant {
            name: tenant.to_string(),
            hostname: format!("{tenant}.{}", self.domain),
            created_revision: created.0,
            created_at: created_at_ms / 1000,
            objects: u32::try_from(usage.keys).unwrap_or(u32::MAX),
            bytes: usage.bytes,
            max_objects: quota.max_keys,
            max_bytes: quota.max_bytes,
        }
    }

    async fn create(
        &self,
        principal: &Principal,
        name: TenantId,
    ) -> Result<wire::CreateTenantResponse, Status> {
        if name.is_platform() {
            return Err(Status::invalid_argument(format!("{name} is reserved: choose another name")));
        }
        for _ in 0..ATTEMPTS {
            // The platform's key is rewritten: who owns which host changes with a tenant's name.
            let platform = guards(self, &TenantId::platform()).await?;
            let key = keys::tenant(&name);
            if self.store.get(&key, Read::Local).await.map_err(status::of_read)?.is_some() {
                return Err(Status::already_exists(format!("tenant {name} exists")));
            }
            let quota = quotas::of(&self.check_hosts(&name).await?, &name);
            let (token, created_at_ms) = (token()?, now_ms());
            let guard = Guard { created_at_ms, requests: vec![] };
            let txn = principal
                .txn()
                .note(format!("create tenant {name}"))
                .compare(key.as_str(), Revision(0))
                .put(key.as_str(), guard.to_value()?)
                .put(keys::token(&token.hash()), record(&token, Role::TenantAdmin(name.clone()))?)
                .quota(&keys::objects_of(&name), Some(quota));
            let Some(revision) = commit(self, platform.guard(txn, None)?).await? else { continue };
            info!(tenant = %name, actor = principal.actor, %revision, "tenant created");
            return Ok(wire::CreateTenantResponse {
                tenant: Some(self.wire_tenant(&name, revision, created_at_ms)),
                token: token.reveal().to_owned(),
                revision: revision.0,
            });
        }
        Err(Status::aborted("others keep changing the platform: try again"))
    }

    /// That what the tenant would own by its name is nobody else's: the platform as it would be.
    async fn check_hosts(&self, name: &TenantId) -> Result<Platform, Status> {
        let (entries, _) = self.store.list(keys::TENANTS, Read::Local).await.map_err(status::of_read)?;
        let tenants = entries.iter().filter_map(|entry| keys::parse_tenant(&entry.key));
        let objects = stored(self, &TenantId::platform()).await?;
        let objects: Vec<_> = objects.iter().filter_map(|o| o.object(&self.sealer).ok()).collect();
        let platform = Platform::new(tenants.chain([name.clone()]), &objects, &self.default_pool);
        match HostIndex::new(platform.owners(&self.domain)) {
            Ok(_) => Ok(platform),
            Err(conflict) => Err(Status::failed_precondition(format!("{conflict}: choose another name"))),
        }
    }

    async fn delete(
        &self,
        principal: &Principal,
        name: &TenantId,
    ) -> Result<wire::DeleteTenantResponse, Status> {
        if name.is_platform() {
            return Err(Status::invalid_argument("the platform itself is not deleted"));
        }
        let first = self.delete_most(principal, name).await?;
        for _ in 0..ATTEMPTS {
            let platform = guards(self, &TenantId::platform()).await?;
            let entry = self.existing(name, Read::Local).await?;
            let objects = self.keys_below(&keys::objects_of(name)).await?;
            let granted = keys::object(&TenantId::platform(), &Platform::tenant_key(name));
            let granted = self.keys_below(&granted).await?.into_iter().filter(|key| **key == *granted);
            let tokens = self.tokens_of(name).await?;
            let count = first.saturating_add(u32::try_from(objects.len()).unwrap_or(u32::MAX));
            let txn = principal
                .txn()
                .note(format!("delete tenant {name} with {count} objects"))
                .compare(keys::tenant(name), entry.mod_revision)
                .delete(keys::tenant(name))
                .delete(quotas::key(name));
            let mut txn = platform.guard(txn, None)?;
            let doomed = objects.into_iter().chain(granted).chain(tokens);
            txn.ops.extend(doomed.map(|key| Op::Delete { key }));
            let Some(revision) = commit(self, txn).await? else { continue };
            info!(tenant = %name, actor = principal.actor, %revision, objects = count, "tenant deleted");
            return Ok(wire::DeleteTenantResponse { revision: revision.0, objects: count });
        }
        Err(Status::aborted("others keep changing this tenant: try again"))
    }

    /// Deletes the objects that have no room in the transaction that deletes their tenant, and says how many.
    async fn delete_most(&self, principal: &Principal, name: &TenantId) -> Result<u32, Status> {
        let mut deleted = 0_u32;
        let mut attempts = 0;
        while attempts < ATTEMPTS {
            let guard = guards(self, name).await?;
            let objects = self.keys_below(&keys::objects_of(name)).await?;
            let Some(excess) = objects.len().checked_sub(MAX_LAST).filter(|excess| *excess > 0) else {
                return Ok(deleted);
            };
            let part = excess.min(MAX_LAST);
            let txn = principal.txn().note(format!("delete tenant {name}: its first {part} objects"));
            let mut txn = guard.guard(txn, None)?;
            txn.ops.extend(objects.into_iter().take(part).map(|key| Op::Delete { key }));
            match commit(self, txn).await? {
                Some(_) => deleted = deleted.saturating_add(u32::try_from(part).unwrap_or(u32::MAX)),
                None => attempts += 1,
            }
        }
        Err(Status::aborted("others keep changing this tenant: try again"))
    }

    async fn keys_below(&self, prefix: &str) -> Result<Vec<store::Key>, Status> {
        let (entries, _) = self.store.list(prefix, Read::Local).await.map_err(status::of_read)?;
        Ok(entries.into_iter().map(|entry| entry.key).collect())
    }

    /// The keys of a tenant's tokens.
    async fn tokens_of(&self, tenant: &TenantId) -> Result<Vec<store::Key>, Status> {
        let (entries, _) = self.store.list(keys::TOKENS, Read::Local).await.map_err(status::of_read)?;
        let of_tenant = |entry: &store::Entry| {
            let record: Option<TokenRecord> = serde_json::from_slice(&entry.value).ok();
            record.is_some_and(|r| {
                r.role.tenant() == Some(tenant) || r.role.tenant().is_none() && tenant.is_platform()
            })
        };
        Ok(entries.into_iter().filter(of_tenant).map(|entry| entry.key).collect())
    }
}

fn token() -> Result<Token, Status> {
    Token::generate().map_err(|e| Status::internal(e.to_string()))
}

fn record(token: &Token, role: Role) -> Result<Vec<u8>, Status> {
    let record = TokenRecord { hash: token.hash(), role, created_at_ms: now_ms() };
    serde_json::to_vec(&record).map_err(|e| Status::internal(e.to_string()))
}

pub(crate) fn now_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}
