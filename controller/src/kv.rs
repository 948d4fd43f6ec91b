//! `weir.kv.v1`: a small replicated key-value store for the platform's own tools.
//!
//! All keys are under `kv/`, so that no raw write goes around validation and no raw read sees a token or a secret.

use api::kv::{self as wire, freshness::Freshness, kv_server};
use futures_util::stream;
use model::{Epoch, Revision};
use store::{Op, Read, Txn, TxnError, WatchBatch};
use tonic::{Request, Response, Status};

use crate::{
    admin::{Admin, status, watch},
    auth::Principal,
    keys,
};

/// Entries of a list that asks for no fewer, and the most that any gets.
const MAX_LIST: usize = 10_000;
/// Bytes of a list's entries, about; one entry at least.
const MAX_LIST_BYTES: usize = 4 << 20;
/// The service.
#[derive(Clone)]
pub(crate) struct Kv {
    admin: Admin,
}

impl Kv {
    pub(crate) fn new(admin: &Admin) -> Self {
        Self { admin: admin.clone() }
    }

    fn epoch(&self) -> Option<wire::Epoch> {
        let Epoch { counter, id } = self.admin.store.epoch();
        Some(wire::Epoch { counter, id })
    }
}

#[tonic::async_trait]
impl kv_server::Kv for Kv {
    type WatchStream = watch::Served<wire::WatchEvent>;

    async fn txn(&self, request: Request<wire::TxnRequest>) -> Result<Response<wire::TxnResponse>, Status> {
        let principal = Principal::of(&request)?;
        principal.is_platform_admin()?;
        let txn = transaction(principal.txn(), request.into_inner())?;
        match self.admin.store.txn(txn).await {
            Ok(committed) => Ok(Response::new(wire::TxnResponse {
                revision: committed.revision.0,
                duplicate: committed.duplicate,
                epoch: self.epoch(),
            })),
            // Not UNAVAILABLE: that says that nothing happened.
            Err(error @ TxnError::Unknown) => Err(Status::deadline_exceeded(error.to_string())),
            Err(error) => Err(status::of_txn(error)),
        }
    }

    async fn get(&self, request: Request<wire::GetRequest>) -> Result<Response<wire::GetResponse>, Status> {
        Principal::of(&request)?.is_platform_admin()?;
        let wire::GetRequest { key, freshness } = request.into_inner();
        ours(&key)?;
        let (entry, revision) =
            self.admin.store.get_with_revision(&key, read(freshness)).await.map_err(status::of_read)?;
        let entry = entry.map(entry_to_wire);
        Ok(Response::new(wire::GetResponse { entry, revision: revision.0, epoch: self.epoch() }))
    }

    async fn list(
        &self,
        request: Request<wire::ListRequest>,
    ) -> Result<Response<wire::ListResponse>, Status> {
        Principal::of(&request)?.is_platform_admin()?;
        let wire::ListRequest { prefix, freshness, limit, after } = request.into_inner();
        ours(&prefix)?;
        let limit = usize::try_from(limit).unwrap_or(MAX_LIST);
        let limit = if limit == 0 { MAX_LIST } else { limit.min(MAX_LIST) };
        let (all, revision) =
            self.admin.store.list(&prefix, read(freshness)).await.map_err(status::of_read)?;
        let mut rest = all.into_iter().filter(|entry| entry.key[..] > after[..]).peekable();
        let (mut entries, mut bytes) = (Vec::new(), 0);
        while entries.len() < limit
            && (bytes < MAX_LIST_BYTES || entries.is_empty())
            && let Some(entry) = rest.next()
        {
            bytes += entry.key.len() + entry.value.len();
            entries.push(entry_to_wire(entry));
        }
        let more = rest.peek().is_some();
        Ok(Response::new(wire::ListResponse { entries, revision: revision.0, epoch: self.epoch(), more }))
    }

    async fn watch(
        &self,
        request: Request<wire::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let principal = Principal::of(&request)?;
        principal.is_platform_admin()?;
        let wire::WatchRequest { prefix, from_revision } = request.into_inner();
        ours(&prefix)?;
        let open = self.admin.watches.open(&principal.role)?;
        let changes = self.admin.store.watch(prefix, Revision(from_revision));
        let events = stream::unfold(changes, |mut changes| async {
            let event = changes.next().await.map(event).map_err(status::of_watch);
            Some((event, changes))
        });
        Ok(Response::new(watch::serve(&self.admin, principal, open, events)))
    }
}

fn transaction(txn: Txn, request: wire::TxnRequest) -> Result<Txn, Status> {
    let wire::TxnRequest { request_id, compares, puts, deletes, note, seen_revision } = request;
    let mut txn = txn.note(note);
    txn.seen = Revision(seen_revision);
    if !request_id.is_empty() {
        txn.request_id = request_id;
    }
    for wire::Compare { key, mod_revision } in compares {
        ours(&key)?;
        txn = txn.compare(key, Revision(mod_revision));
    }
    for wire::Put { key, value } in puts {
        ours(&key)?;
        txn.ops.push(Op::Put { key: key.into(), value });
    }
    for key in deletes {
        ours(&key)?;
        txn.ops.push(Op::Delete { key: key.into() });
    }
    if txn.ops.is_empty() {
        return Err(Status::invalid_argument("a transaction puts or deletes at least one key"));
    }
    Ok(txn)
}

/// Whether a key or prefix is one of these that this service has.
fn ours(key: &str) -> Result<(), Status> {
    if key.starts_with(keys::KV) {
        return Ok(());
    }
    // A key that is megabytes long is not for an error message.
    let shown: String = key.chars().take(64).collect();
    Err(Status::permission_denied(format!(
        "{shown:?} is not under {:?}: only such keys are served here",
        keys::KV
    )))
}

fn read(freshness: Option<wire::Freshness>) -> Read {
    match freshness.and_then(|freshness| freshness.freshness) {
        None | Some(Freshness::Linearizable(_)) => Read::Linearizable,
        Some(Freshness::AtLeast(revision)) => Read::AtLeast(Revision(revision)),
        Some(Freshness::At(revision)) => Read::At(Revision(revision)),
        Some(Freshness::Local(_)) => Read::Local,
    }
}

fn entry_to_wire(entry: store::Entry) -> wire::Entry {
    wire::Entry {
        key: entry.key.to_string(),
        value: entry.value,
        create_revision: entry.create_revision.0,
        mod_revision: entry.mod_revision.0,
        version: entry.version,
    }
}

fn event(batch: WatchBatch) -> wire::WatchEvent {
    let events = batch
        .events
        .into_iter()
        .map(|event| wire::Event { key: event.key.to_string(), entry: event.entry.map(entry_to_wire) });
    wire::WatchEvent { revision: batch.revision.0, events: events.collect() }
}
