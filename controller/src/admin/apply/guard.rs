//! What serialises the changes of a tenant: its own key and the platform's.

use api::convert;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use model::{Revision, TenantId};
use serde::{Deserialize, Serialize};
use store::{Entry, Op, Read, Txn};
use tonic::Status;

use crate::{
    admin::{Admin, no_tenant, status},
    keys, quotas, sealing,
};

/// Request ids that are remembered for each tenant: a client retries within seconds.
const REQUESTS: usize = 32;

/// The longest request id, bytes.
const REQUEST_ID: usize = 128;

/// What a tenant's key holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::admin) struct Guard {
    /// Milliseconds since the Unix epoch; 0 for the reserved tenant.
    pub(in crate::admin) created_at_ms: i64,
    /// Changes that were made under a request id of the client's, oldest first.
    #[serde(default)]
    pub(in crate::admin) requests: Vec<RequestName>,
}

/// What a client calls a request, and what the request was: a retry is told from a reused id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::admin) struct RequestName {
    id: String,
    fingerprint: String,
}

impl RequestName {
    /// The name of a request, `None` if its client gave it none.
    pub(in crate::admin) fn of(id: &str, request: &impl prost::Message) -> Result<Option<Self>, Status> {
        if id.len() > REQUEST_ID {
            return Err(Status::invalid_argument(format!("a request id has at most {REQUEST_ID} bytes")));
        }
        let fingerprint = || BASE64.encode(&convert::hash(&request.encode_to_vec())[..12]);
        Ok((!id.is_empty()).then(|| Self { id: id.to_owned(), fingerprint: fingerprint() }))
    }
}

impl Guard {
    pub(in crate::admin) fn read(entry: &Entry) -> Result<Self, Status> {
        serde_json::from_slice(&entry.value)
            .map_err(|e| Status::data_loss(format!("{} is not readable: {e}", entry.key)))
    }

    pub(in crate::admin) fn to_value(&self) -> Result<Vec<u8>, Status> {
        serde_json::to_vec(self).map_err(|e| Status::internal(e.to_string()))
    }
}

/// The guards as they were read.
pub(in crate::admin) struct Guards {
    key: String,
    guard: Guard,
    revision: Revision,
    /// Of the platform, for a change of another tenant: read, not written.
    platform: Option<Revision>,
    /// The tenant has no share of the store yet.
    share: Option<Op>,
}

/// Reads the guards of a change to `tenant`. What is read after this is at least as fresh.
pub(in crate::admin) async fn guards(admin: &Admin, tenant: &TenantId) -> Result<Guards, Status> {
    let platform = keys::tenant(&TenantId::platform());
    let platform = admin.store.get(&platform, Read::Linearizable).await.map_err(status::of_read)?;
    // What is sealed for this change is sealed as its guards say: a key that was retired since fails the compare.
    sealing::choose(&admin.store, &admin.sealer).await.map_err(status::of_read)?;
    let revision = |entry: &Option<Entry>| entry.as_ref().map_or(Revision(0), |e| e.mod_revision);
    let key = keys::tenant(tenant);
    if tenant.is_platform() {
        let guard = platform.as_ref().map(Guard::read).transpose()?.unwrap_or_default();
        return Ok(Guards { key, guard, revision: revision(&platform), platform: None, share: None });
    }
    let entry = admin.store.get(&key, Read::Local).await.map_err(status::of_read)?;
    let entry = entry.ok_or_else(|| no_tenant(tenant))?;
    Ok(Guards {
        key,
        guard: Guard::read(&entry)?,
        revision: entry.mod_revision,
        platform: Some(revision(&platform)),
        share: quotas::missing(&admin.store, tenant),
    })
}

impl Guards {
    /// The last change of the tenant.
    pub(in crate::admin) fn revision(&self) -> Revision {
        self.revision
    }

    /// Whether this very request was made before.
    pub(in crate::admin) fn has_seen(&self, name: Option<&RequestName>) -> Result<bool, Status> {
        let Some(name) = name else { return Ok(false) };
        match self.guard.requests.iter().find(|seen| seen.id == name.id) {
            None => Ok(false),
            Some(seen) if seen == name => Ok(true),
            Some(_) => Err(Status::invalid_argument(format!(
                "request id {:?} was used by another request: draw a new one",
                name.id
            ))),
        }
    }

    /// The transaction with the guards in it: it fails if anything that it was made from has changed.
    pub(in crate::admin) fn guard(&self, txn: Txn, name: Option<&RequestName>) -> Result<Txn, Status> {
        let mut guard = self.guard.clone();
        if let Some(name) = name {
            guard.requests.push(name.clone());
            let excess = guard.requests.len().saturating_sub(REQUESTS);
            guard.requests.drain(..excess);
        }
        let mut txn = txn.compare(self.key.as_str(), self.revision).put(self.key.as_str(), guard.to_value()?);
        txn.ops.extend(self.share.clone());
        if let Some(platform) = self.platform {
            txn = txn.compare(keys::tenant(&TenantId::platform()), platform);
        }
        Ok(txn)
    }
}
