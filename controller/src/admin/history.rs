//! History: which revisions changed a tenant's objects, newest first.

use api::admin as wire;
use dialect::Kind;
use model::{Revision, TenantId};
use store::{Event, Read, Record};
use tonic::Status;

use super::{Admin, parse_tenant, status, wire_key};
use crate::{auth::Principal, keys, objects::Stored};

/// Revisions of one answer, if the caller does not say, and the most.
const LIMIT: usize = 100;
const MAX_LIMIT: usize = 1_000;

/// Objects or keys that one answer names, about: a message has 4 MiB.
const MAX_NAMES: usize = 10_000;

pub(super) async fn history(
    admin: &Admin,
    principal: &Principal,
    request: wire::HistoryRequest,
) -> Result<wire::HistoryResponse, Status> {
    let tenant = parse_tenant(&request.tenant)?;
    principal.may_read(&tenant)?;
    let wanted = Wanted::of(&tenant, &request)?;
    fresh(admin).await?;
    let created = admin.created(&tenant).await?;
    let mut pages = Pages::new(request.before, request.limit);
    let mut changes = vec![];
    while let Some((record, events)) = pages.next(admin, &wanted.prefix) {
        if record.revision < created {
            pages.end();
            break;
        }
        let objects: Vec<_> = events.iter().filter_map(|event| wanted.object(&record, event)).collect();
        if objects.is_empty() {
            continue;
        }
        pages.took(&record, objects.len());
        changes.push(wire::Change {
            revision: record.revision.0,
            time_ms: record.time_ms,
            actor: record.actor.to_string(),
            origin: record.origin.to_string(),
            note: record.note.to_string(),
            objects,
        });
    }
    let oldest = created.max(admin.store.status().compacted).0;
    Ok(wire::HistoryResponse { changes, next: pages.rest(), oldest, epoch: admin.epoch() })
}

/// What follows is as new as the newest answer that any server gave.
pub(super) async fn fresh(admin: &Admin) -> Result<(), Status> {
    admin.store.get(keys::CA, Read::Linearizable).await.map(drop).map_err(status::of_read)
}

/// The history in pages, newest first.
pub(super) struct Pages {
    before: Revision,
    limit: usize,
    names: usize,
    taken: usize,
    found: std::vec::IntoIter<(Record, Vec<Event>)>,
    /// Where to look on behind `found`; `None`: history ends there.
    next: Option<Revision>,
}

impl Pages {
    pub(super) fn new(before: u64, limit: u32) -> Self {
        let before = Revision(if before == 0 { u64::MAX } else { before });
        let limit = usize::try_from(limit).unwrap_or(MAX_LIMIT);
        let limit = if limit == 0 { LIMIT } else { limit.min(MAX_LIMIT) };
        Self { before, limit, names: 0, taken: 0, found: vec![].into_iter(), next: Some(before) }
    }

    /// The next revision that changed a key under `prefix`; `None`: the page or the history is at its end.
    pub(super) fn next(&mut self, admin: &Admin, prefix: &str) -> Option<(Record, Vec<Event>)> {
        if self.taken >= self.limit || self.names >= MAX_NAMES {
            return None;
        }
        loop {
            if let Some(found) = self.found.next() {
                self.before = found.0.revision;
                return Some(found);
            }
            let next = self.next?;
            self.before = next;
            let part = admin.store.history(prefix, next, MAX_LIMIT);
            self.next = part.next;
            self.found = part.changes.into_iter();
        }
    }

    /// The answer has it, with so many names.
    pub(super) fn took(&mut self, record: &Record, names: usize) {
        self.before = record.revision;
        self.taken += 1;
        self.names += names;
    }

    /// What is older is not the caller's.
    pub(super) fn end(&mut self) {
        self.found = vec![].into_iter();
        self.next = None;
    }

    /// Before which the next page begins; 0: there is none.
    pub(super) fn rest(&self) -> u64 {
        let ended = self.next.is_none() && self.found.len() == 0;
        if ended { 0 } else { self.before.0 }
    }
}

/// Which objects are asked for.
struct Wanted {
    prefix: String,
    namespace: String,
    name: String,
}

impl Wanted {
    fn of(tenant: &TenantId, request: &wire::HistoryRequest) -> Result<Self, Status> {
        let wire::HistoryRequest { kind, namespace, name, .. } = request;
        let mut prefix = keys::objects_of(tenant);
        match (Kind::parse(kind), kind.as_str()) {
            (Some(kind), _) => prefix += &format!("{kind}/"),
            (None, "") if name.is_empty() => {}
            (None, "") => return Err(Status::invalid_argument("name its kind as well")),
            (None, kind) => return Err(Status::invalid_argument(format!("there is no kind {kind:?}"))),
        }
        Ok(Self { prefix, namespace: namespace.clone(), name: name.clone() })
    }

    fn object(&self, record: &Record, event: &Event) -> Option<wire::ChangedObject> {
        let (tenant, key) = keys::parse_object(&event.key)?;
        let fits = |wanted: &str, is: &str| wanted.is_empty() || wanted == is;
        if !fits(&self.namespace, &key.namespace) || !fits(&self.name, &key.name) {
            return None;
        }
        let stored = event.entry.as_ref().and_then(|entry| Stored::read(entry).ok());
        let operation = match &event.entry {
            None => "deleted",
            Some(entry) if entry.create_revision == record.revision => "created",
            Some(_) => "configured",
        };
        Some(wire::ChangedObject {
            key: Some(wire_key(&tenant, &key)),
            operation: operation.to_owned(),
            generation: stored.map_or(0, |stored| stored.generation.0),
        })
    }
}
