//! `weir.admin.v1.Cluster`: the store's servers, and who may join them.

use std::pin::Pin;

use api::{
    admin::{self as wire, cluster_server},
    pki,
};
use bytes::Bytes;
use futures_util::{Stream, stream};
use store::{Addresses, Op, Read};
use tonic::{Request, Response, Status};
use tracing::info;

use super::{Admin, apply::commit, status, tenants::now_ms};
use crate::{
    auth::Principal,
    joins::{JoinRecord, JoinRole, JoinToken},
    keys, leader,
};

/// An hour: long enough to walk to the other machine, too short to lie around.
const TTL_S: u64 = 3600;
const MAX_TTL_S: u64 = 7 * 24 * 3600;
/// Join tokens that are kept, used ones and expired ones of the last day among them.
const MAX_TOKENS: usize = 1000;
/// For so long a token that is over is still told from one that never was.
const KEPT_MS: i64 = 24 * 3600 * 1000;
/// A backup travels in pieces of this size.
const PIECE: usize = 256 << 10;

#[tonic::async_trait]
impl cluster_server::Cluster for Admin {
    type BackupStream = Pin<Box<dyn Stream<Item = Result<wire::BackupPiece, Status>> + Send>>;

    async fn status(
        &self,
        request: Request<wire::StatusRequest>,
    ) -> Result<Response<wire::StatusResponse>, Status> {
        Principal::of(&request)?.is_platform_admin()?;
        let status = self.store.status();
        let members = self.store.members().into_iter().map(|member| wire::Member {
            id: member.id,
            address: member.addresses.peers,
            voter: member.voter,
            admin: member.addresses.admin,
        });
        let mut nodes: Vec<_> = self.fleet.workers(None).into_iter().map(|worker| worker.node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        Ok(Response::new(wire::StatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            members: members.collect(),
            leader: status.leader.unwrap_or_default(),
            term: status.leadership.term,
            applied_index: status.applied_index,
            commit_index: status.commit_index,
            revision: status.revision.0,
            epoch_counter: status.epoch.counter,
            epoch_id: status.epoch.id,
            state_bytes: status.bytes,
            wal_bytes: status.wal_bytes,
            nodes,
            server: status.node,
        }))
    }

    async fn promote(
        &self,
        request: Request<wire::PromoteRequest>,
    ) -> Result<Response<wire::PromoteResponse>, Status> {
        let principal = Principal::of(&request)?;
        principal.is_platform_admin()?;
        let id = request.into_inner().id;
        self.store.promote(id).await.map_err(|error| leader::of_member(&self.store, error))?;
        info!(server = id, actor = principal.actor, "promoted");
        Ok(Response::new(wire::PromoteResponse {}))
    }

    async fn remove(
        &self,
        request: Request<wire::RemoveRequest>,
    ) -> Result<Response<wire::RemoveResponse>, Status> {
        let principal = Principal::of(&request)?;
        principal.is_platform_admin()?;
        let id = request.into_inner().id;
        self.store.remove(id).await.map_err(|error| leader::of_member(&self.store, error))?;
        info!(server = id, actor = principal.actor, "removed");
        Ok(Response::new(wire::RemoveResponse {}))
    }

    async fn set_addresses(
        &self,
        request: Request<wire::SetAddressesRequest>,
    ) -> Result<Response<wire::SetAddressesResponse>, Status> {
        let principal = Principal::of(&request)?;
        principal.is_platform_admin()?;
        let wire::SetAddressesRequest { id, address, admin } = request.into_inner();
        let addresses = Addresses { peers: address, admin };
        let set = self.store.set_addresses(id, addresses).await;
        set.map_err(|error| leader::of_member(&self.store, error))?;
        info!(server = id, actor = principal.actor, "addresses changed");
        Ok(Response::new(wire::SetAddressesResponse {}))
    }

    async fn create_join_token(
        &self,
        request: Request<wire::CreateJoinTokenRequest>,
    ) -> Result<Response<wire::CreateJoinTokenResponse>, Status> {
        let principal = Principal::of(&request)?;
        principal.is_platform_admin()?;
        let request = request.into_inner();
        let role: JoinRole = request.role.parse().map_err(Status::invalid_argument)?;
        let ttl_s = match request.ttl_s {
            0 => TTL_S,
            ttl if ttl <= MAX_TTL_S => ttl,
            _ => return Err(Status::invalid_argument(format!("a token lives {MAX_TTL_S} s at most"))),
        };
        let internal = |problem: String| Status::internal(problem);
        let hash = pki::fingerprint(self.ca.cert_pem()).map_err(|e| internal(e.to_string()))?;
        let token = JoinToken::generate(&hash).map_err(|e| internal(e.to_string()))?;
        let now_ms = now_ms();
        let ttl_ms = i64::try_from(ttl_s * 1000).unwrap_or(i64::MAX);
        let record = JoinRecord::new(&token, role, &principal.actor, now_ms, ttl_ms);
        let value = serde_json::to_vec(&record).map_err(|e| internal(e.to_string()))?;
        let mut txn =
            principal.txn().note(format!("create a join token: {role}")).put(keys::join(&token.id), value);
        let tokens = self.join_tokens(Read::Linearizable).await?;
        let (over, kept): (Vec<_>, Vec<_>) =
            tokens.into_iter().partition(|(_, record)| record.expires_at_ms + KEPT_MS < now_ms);
        if kept.len() >= MAX_TOKENS {
            let text = format!("there are {MAX_TOKENS} join tokens: revoke some (`weir cluster token list`)");
            return Err(Status::resource_exhausted(text));
        }
        txn.ops.extend(over.into_iter().map(|(id, _)| Op::Delete { key: keys::join(&id).into() }));
        commit(self, txn).await?;
        info!(%role, id = token.id, actor = principal.actor, "join token created");
        Ok(Response::new(wire::CreateJoinTokenResponse {
            token: token.reveal(),
            info: Some(shown(token.id, record)),
            admins: leader::admins(&self.store),
        }))
    }

    async fn list_join_tokens(
        &self,
        request: Request<wire::ListJoinTokensRequest>,
    ) -> Result<Response<wire::ListJoinTokensResponse>, Status> {
        Principal::of(&request)?.is_platform_admin()?;
        let tokens = self.join_tokens(Read::Linearizable).await?;
        let tokens = tokens.into_iter().map(|(id, record)| shown(id, record)).collect();
        Ok(Response::new(wire::ListJoinTokensResponse { tokens }))
    }

    async fn revoke_join_token(
        &self,
        request: Request<wire::RevokeJoinTokenRequest>,
    ) -> Result<Response<wire::RevokeJoinTokenResponse>, Status> {
        let principal = Principal::of(&request)?;
        principal.is_platform_admin()?;
        let id = request.into_inner().id;
        let key = keys::join(&id);
        if self.store.get(&key, Read::Linearizable).await.map_err(status::of_read)?.is_none() {
            return Err(Status::not_found(format!("there is no join token {id}")));
        }
        let txn = principal.txn().note("revoke a join token").delete(key);
        commit(self, txn).await?;
        info!(id, actor = principal.actor, "join token revoked");
        Ok(Response::new(wire::RevokeJoinTokenResponse {}))
    }

    async fn backup(
        &self,
        request: Request<wire::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        let principal = Principal::of(&request)?;
        principal.is_platform_admin()?;
        let image = self.store.backup().await.map_err(|error| Status::unavailable(error.to_string()))?;
        info!(bytes = image.len(), actor = principal.actor, "backup");
        Ok(Response::new(Box::pin(stream::iter(pieces(image)))))
    }
}

impl Admin {
    async fn join_tokens(&self, read: Read) -> Result<Vec<(String, JoinRecord)>, Status> {
        let (entries, _) = self.store.list(keys::JOINS, read).await.map_err(status::of_read)?;
        let record = |entry: &store::Entry| {
            let id = entry.key.strip_prefix(keys::JOINS)?.to_owned();
            Some((id, serde_json::from_slice(&entry.value).ok()?))
        };
        Ok(entries.iter().filter_map(record).collect())
    }
}

fn pieces(image: Bytes) -> impl Iterator<Item = Result<wire::BackupPiece, Status>> {
    (0..image.len()).step_by(PIECE).map(move |begin| {
        let bytes = image.slice(begin..image.len().min(begin + PIECE)).to_vec();
        Ok(wire::BackupPiece { bytes })
    })
}

fn shown(id: String, record: JoinRecord) -> wire::JoinToken {
    wire::JoinToken {
        id,
        role: record.role.to_string(),
        created_by: record.created_by,
        created_at_ms: record.created_at_ms,
        expires_at_ms: record.expires_at_ms,
        used_by: record.used.map(|used| used.name).unwrap_or_default(),
    }
}
