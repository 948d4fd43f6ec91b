//! `weir.admin.v1.Secrets`: the rotation of the key-encryption key and of the keys of session tickets.

use api::admin::{self as wire, secrets_server};
use model::TenantId;
use store::{Read, seal::KeyId};
use tonic::{Request, Response, Status};
use tracing::info;

use super::{
    Admin,
    apply::{commit, guards},
    status,
};
use crate::{
    auth::Principal,
    keys,
    sealing::{self, Chosen},
    tickets::{self, Rotation, TicketKeysError},
};

/// Values that one call seals anew, and their bytes: one transaction, and an answer within a second.
const BATCH: usize = 100;
const BATCH_BYTES: usize = 2 << 20;
/// Attempts before a change gives up to others that come between.
const ATTEMPTS: usize = 5;
/// Values that do not open that one answer lists.
const LISTED: usize = 20;

#[tonic::async_trait]
impl secrets_server::Secrets for Admin {
    async fn sealing_status(
        &self,
        request: Request<wire::SealingStatusRequest>,
    ) -> Result<Response<wire::SealingStatusResponse>, Status> {
        Principal::of(&request)?.is_platform_admin()?;
        self.sealer.reload().map_err(|e| Status::failed_precondition(e.to_string()))?;
        sealing::publish(&self.store, &self.sealer).await;
        let uses = sealing::uses(&self.store).await.map_err(status::of_read)?;
        sealing::choose(&self.store, &self.sealer).await.map_err(status::of_read)?;
        let current = self.sealer.sealing_key();
        let mut ids: Vec<_> = uses.keys().copied().chain(self.sealer.keys()).chain([current]).collect();
        ids.sort_unstable();
        ids.dedup();
        let keys = ids.into_iter().map(|id| {
            let (values, past_values) = uses.get(&id).copied().unwrap_or_default();
            wire::SealingKey { id: id.to_string(), values, past_values }
        });
        Ok(Response::new(wire::SealingStatusResponse {
            current: current.to_string(),
            keys: keys.collect(),
            servers: self.key_files().await?,
        }))
    }

    async fn reseal(
        &self,
        request: Request<wire::ResealRequest>,
    ) -> Result<Response<wire::ResealResponse>, Status> {
        let principal = Principal::of(&request)?;
        principal.is_platform_admin()?;
        let key = parse(&request.into_inner().key)?;
        self.choose_key(&principal, key).await?;
        self.reseal_some(&principal, key).await.map(Response::new)
    }

    async fn retire_key(
        &self,
        request: Request<wire::RetireKeyRequest>,
    ) -> Result<Response<wire::RetireKeyResponse>, Status> {
        let principal = Principal::of(&request)?;
        principal.is_platform_admin()?;
        let wire::RetireKeyRequest { key, forget_history } = request.into_inner();
        self.retire(&principal, parse(&key)?, forget_history).await.map(Response::new)
    }

    async fn rotate_ticket_keys(
        &self,
        request: Request<wire::RotateTicketKeysRequest>,
    ) -> Result<Response<wire::RotateTicketKeysResponse>, Status> {
        let principal = Principal::of(&request)?;
        principal.is_platform_admin()?;
        let rotation = if request.into_inner().revoke { Rotation::Revoke } else { Rotation::Now };
        // What is here is as new as the call.
        self.store.get(keys::TICKET_KEYS, Read::Linearizable).await.map_err(status::of_read)?;
        let rotated = tickets::rotate(&self.store, &self.sealer, || principal.txn(), rotation).await;
        let revision = rotated.map_err(|error| match error {
            TicketKeysError::Read(error) => status::of_read(error),
            TicketKeysError::Store(error) => status::of_txn(error),
            TicketKeysError::Contended => Status::aborted(error.to_string()),
            TicketKeysError::Seal(_) | TicketKeysError::Format(_) | TicketKeysError::Invalid(_) => {
                Status::failed_precondition(format!(
                    "the ticket keys that there are cannot be read ({error}): --revoke puts new ones in their place"
                ))
            }
        })?;
        let revision = revision.unwrap_or_default().0;
        info!(
            actor = principal.actor,
            ?rotation,
            revision,
            "the keys of session tickets were rotated on request"
        );
        Ok(Response::new(wire::RotateTicketKeysResponse { revision }))
    }
}

fn parse(key: &str) -> Result<KeyId, Status> {
    key.parse().map_err(|e: store::seal::BadKeyId| Status::invalid_argument(format!("key {key:?}: {e}")))
}

impl Admin {
    /// What each server has said of its key file.
    async fn key_files(&self) -> Result<Vec<wire::SealingServer>, Status> {
        let own = self.store.status().node;
        let said = sealing::servers(&self.store).await.map_err(status::of_read)?;
        let servers = said.into_iter().map(|(id, keys)| {
            // Of itself it knows better, and one that never had two keys has said nothing.
            let held = || self.sealer.keys().iter().map(ToString::to_string).collect();
            wire::SealingServer { id, keys: if id == own { held() } else { keys } }
        });
        Ok(servers.collect())
    }

    /// Makes `key` the one that seals, on all servers at once.
    async fn choose_key(&self, principal: &Principal, key: KeyId) -> Result<(), Status> {
        self.sealer.reload().map_err(|e| Status::failed_precondition(e.to_string()))?;
        let name = key.to_string();
        let servers = self.key_files().await?;
        let lacking: Vec<_> =
            servers.iter().filter(|s| !s.keys.contains(&name)).map(|s| s.id.to_string()).collect();
        if !lacking.is_empty() {
            return Err(Status::failed_precondition(format!(
                "the key files of these servers do not have key {name}, or they have not said so yet: {}",
                lacking.join(", ")
            )));
        }
        for _ in 0..ATTEMPTS {
            // Whoever seals for a change that is under way has read these guards: it fails, and seals anew.
            let guards = guards(self, &TenantId::platform()).await?;
            let (chosen, revision) = sealing::chosen(&self.store).await.map_err(status::of_read)?;
            if chosen == Some(key) {
                return Ok(());
            }
            let before = self.sealer.sealing_key();
            let note = format!("seal secrets with key {name}, before with {before}");
            let value = serde_json::to_vec(&Chosen { key: name.clone() });
            let value = value.map_err(|e| Status::internal(e.to_string()))?;
            let txn = principal.txn().note(note).compare(keys::SEALING_KEY, revision);
            let txn = guards.guard(txn.put(keys::SEALING_KEY, value), None)?;
            if commit(self, txn).await?.is_some() {
                self.sealer.use_key(key);
                info!(actor = principal.actor, %key, %before, "secrets are sealed with another key");
                return Ok(());
            }
        }
        Err(Status::aborted("others keep changing the platform: try again"))
    }

    /// Seals a batch of values anew, in one transaction.
    async fn reseal_some(&self, principal: &Principal, key: KeyId) -> Result<wire::ResealResponse, Status> {
        for _ in 0..ATTEMPTS {
            let values = sealing::sealed(&self.store, Read::Linearizable).await.map_err(status::of_read)?;
            let others: Vec<_> = values.into_iter().filter(|value| value.key != Some(key)).collect();
            let mut txn = principal.txn();
            let (mut resealed, mut bytes, mut failed) = (0, 0, vec![]);
            for value in &others {
                if resealed >= BATCH || bytes >= BATCH_BYTES {
                    break;
                }
                match value.reseal(&self.sealer) {
                    Ok(Some(anew)) => {
                        let entry = &value.entry;
                        bytes += entry.key.len() + anew.len();
                        resealed += 1;
                        txn = txn.compare(entry.key.clone(), entry.mod_revision).put(entry.key.clone(), anew);
                    }
                    Ok(None) => {}
                    Err(error) => failed.push(error.to_string()),
                }
            }
            let remaining = (others.len() - resealed) as u64;
            failed.truncate(LISTED);
            let answer = wire::ResealResponse {
                resealed: u32::try_from(resealed).unwrap_or(u32::MAX),
                remaining,
                failed,
            };
            // One that was changed meanwhile fails all: they are read again.
            let txn = txn.note(format!("seal {resealed} values with key {key}"));
            if resealed == 0 || commit(self, txn).await?.is_some() {
                return Ok(answer);
            }
        }
        Err(Status::aborted("others keep changing these secrets: try again"))
    }

    /// Checks that nothing needs `key`, and that nothing will.
    async fn retire(
        &self,
        principal: &Principal,
        key: KeyId,
        forget_history: bool,
    ) -> Result<wire::RetireKeyResponse, Status> {
        for _ in 0..ATTEMPTS {
            let guards = guards(self, &TenantId::platform()).await?;
            let (chosen, revision) = sealing::chosen(&self.store).await.map_err(status::of_read)?;
            if self.sealer.sealing_key() == key {
                return Err(Status::failed_precondition(format!("key {key} seals: choose another first")));
            }
            let uses = sealing::uses(&self.store).await.map_err(status::of_read)?;
            let (values, past) = uses.get(&key).copied().unwrap_or_default();
            if values > 0 {
                return Err(Status::failed_precondition(format!(
                    "values sealed with key {key}: {values}. Seal them anew first (`weir secrets rotate-key`)"
                )));
            }
            if past > 0 && !forget_history {
                let compacted = self.store.status().compacted;
                return Err(Status::failed_precondition(format!(
                    "values of history since revision {compacted} that are sealed with it: {past}. They go as history \
                     moves on; --forget-history forgets it now (no read, watch or rollback to before)"
                )));
            }
            if past > 0 {
                let now = self.store.status().revision;
                info!(actor = principal.actor, revision = %now, "history is forgotten for a key");
                self.store.compact(now).await.map_err(status::of_txn)?;
                continue;
            }
            let chosen = chosen.unwrap_or(self.sealer.sealing_key());
            let value = serde_json::to_vec(&Chosen { key: chosen.to_string() });
            let value = value.map_err(|e| Status::internal(e.to_string()))?;
            let txn = principal.txn().note(format!("retire key {key}"));
            let txn = txn.compare(keys::SEALING_KEY, revision).put(keys::SEALING_KEY, value);
            if commit(self, guards.guard(txn, None)?).await?.is_some() {
                info!(actor = principal.actor, %key, "a key was retired");
                let name = key.to_string();
                let servers = self.key_files().await?.into_iter().filter(|s| s.keys.contains(&name));
                return Ok(wire::RetireKeyResponse { servers: servers.map(|s| s.id).collect() });
            }
        }
        Err(Status::aborted("others keep changing the platform: try again"))
    }
}
