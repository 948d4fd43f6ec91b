//! How what a caller holds differs from the present: what a watch begins with where history does not say it.

use std::{collections::BTreeMap, iter::Peekable, vec};

use api::admin as wire;
use model::{Epoch, Revision};
use prost::Message as _;
use store::{Entry, Key, Read};
use tonic::Status;

use super::{Admin, parse_key, parse_tenant, read::object, status, wire_key};
use crate::{
    keys,
    objects::{self, Stored},
    others::Elsewhere,
};

/// Versions that a caller may say it holds: all objects of a large tenant.
const MAX_HELD: usize = 100_000;

/// Bytes of one event's objects, about: no message blocks a stream for long.
const PART: usize = 1024 * 1024;

/// Where a watch begins.
pub(super) struct Begin {
    /// The first revision of which changes are told.
    pub(super) from: Revision,
    /// What is told before.
    pub(super) resync: Option<Resync>,
}

/// A difference that is told in parts.
pub(super) struct Resync {
    revision: Revision,
    rest: Peekable<vec::IntoIter<(Key, Option<Entry>)>>,
    /// Also of no difference the caller is told.
    told: bool,
}

/// Where a watch of these keys begins, and with what.
pub(super) async fn begin(
    admin: &Admin,
    prefix: &str,
    request: &wire::WatchRequest,
) -> Result<Begin, Status> {
    let same_epoch = admin.same_epoch(request.epoch.as_ref());
    let from = Revision(request.from_revision);
    // Before its tenant was made there was another one of that name.
    let created = match request.tenant.as_str() {
        "" => Revision(0),
        tenant => admin.created(&parse_tenant(tenant)?).await?,
    };
    if !request.resync {
        same_epoch?;
        if !request.held.is_empty() {
            return Err(Status::invalid_argument(
                "held says what differs with resync only: set it, or leave held out",
            ));
        }
        if from.0 > 1 {
            admin.reached(Revision(from.0 - 1)).await?;
        }
        let from = if from.0 == 0 { from } else { from.max(created) };
        return Ok(Begin { from, resync: None });
    }
    let held = held(prefix, request)?;
    let told = match same_epoch {
        Ok(()) => from.0 > 0 && from > created && from > admin.store.status().compacted,
        Err(_) => false,
    };
    if told {
        match admin.reached(Revision(from.0 - 1)).await {
            Ok(()) => return Ok(Begin { from, resync: None }),
            // The epoch was not said, and is another one.
            Err(status) if status.code() == tonic::Code::OutOfRange => {}
            Err(status) => return Err(status),
        }
    }
    let (entries, revision) = admin.store.list(prefix, Read::Linearizable).await.map_err(status::of_read)?;
    let differing = differing(entries, held, admin.store.epoch());
    let resync = Resync { revision, rest: differing.into_iter().peekable(), told: false };
    Ok(Begin { from: Revision(revision.0 + 1), resync: Some(resync) })
}

/// What a caller holds of an object.
struct Version<'r> {
    held: &'r wire::Held,
    /// That its revision is of.
    epoch: Option<wire::Epoch>,
}

impl Version<'_> {
    fn is(&self, entry: &Entry, now: Epoch) -> bool {
        if !self.held.digest.is_empty() {
            return self.held.digest == objects::digest(entry);
        }
        let same = self.epoch.is_some_and(|epoch| (epoch.counter, epoch.id) == (now.counter, now.id));
        same && self.held.revision == entry.mod_revision.0
    }
}

fn held<'r>(prefix: &str, request: &'r wire::WatchRequest) -> Result<BTreeMap<String, Version<'r>>, Status> {
    if request.held.len() > MAX_HELD {
        return Err(Status::invalid_argument(format!(
            "held has at most {MAX_HELD} objects: list again instead"
        )));
    }
    let version = |held: &'r wire::Held| {
        let (tenant, object) = parse_key(held.key.clone())?;
        let key = keys::object(&tenant, &object);
        if !request.tenant.is_empty() && tenant.as_str() != request.tenant {
            return Err(Status::permission_denied("held names an object of another tenant"));
        }
        if !key.starts_with(prefix) {
            return Err(Status::invalid_argument(format!("held names {object}, which is not watched")));
        }
        Ok((key, Version { held, epoch: request.epoch }))
    };
    request.held.iter().map(version).collect()
}

/// What is there and not held as it is, and what is held and not there any more, in the order of the keys.
fn differing(
    entries: Vec<Entry>,
    mut held: BTreeMap<String, Version<'_>>,
    epoch: Epoch,
) -> Vec<(Key, Option<Entry>)> {
    let mut differing = vec![];
    for entry in entries {
        match held.remove(&*entry.key) {
            Some(version) if version.is(&entry, epoch) => {}
            _ => differing.push((entry.key.clone(), Some(entry))),
        }
    }
    differing.extend(held.into_keys().map(|key| (Key::from(key), None)));
    differing.sort_by(|(a, _), (b, _)| a.cmp(b));
    differing
}

impl Resync {
    /// The next part; `None`: all was told.
    pub(super) fn next(&mut self, admin: &Admin) -> Option<Result<wire::WatchEvent, Status>> {
        if self.told {
            return None;
        }
        let event = self.part(admin);
        self.told = !event.as_ref().is_ok_and(|event| event.more);
        Some(event)
    }

    fn part(&mut self, admin: &Admin) -> Result<wire::WatchEvent, Status> {
        let world = admin.world.borrow().clone();
        let (mut changes, mut bytes) = (vec![], 0);
        while bytes < PART
            && let Some((key, entry)) = self.rest.next()
        {
            let Some((tenant, name)) = keys::parse_object(&key) else { continue };
            let object = match &entry {
                // One unreadable object must not hide the others; the feed reports it.
                Some(entry) => match Stored::read(entry) {
                    Ok(stored) => Some(object(admin, Some((&world, &Elsewhere::default())), entry, &stored)?),
                    Err(_) => continue,
                },
                None => None,
            };
            let change = wire::ObjectChange { key: Some(wire_key(&tenant, &name)), object };
            bytes += change.encoded_len();
            changes.push(change);
        }
        let more = self.rest.peek().is_some();
        Ok(wire::WatchEvent { revision: self.revision.0, changes, resync: true, more, epoch: admin.epoch() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str, revision: u64, value: &str) -> Entry {
        let revision = Revision(revision);
        Entry {
            key: key.into(),
            value: value.to_owned().into(),
            create_revision: revision,
            mod_revision: revision,
            version: 1,
        }
    }

    #[test]
    fn what_is_held_as_it_is_does_not_differ() {
        let epoch = Epoch { counter: 2, id: 7 };
        let same = Some(wire::Epoch { counter: 2, id: 7 });
        let other = Some(wire::Epoch { counter: 1, id: 7 });
        let now = entry("k", 5, "v");
        let by_revision = |revision| wire::Held { revision, ..Default::default() };
        let by_digest = |of: &Entry| wire::Held { digest: objects::digest(of), ..Default::default() };
        for (held, epoch_of, differs) in [
            (by_revision(5), same, false),
            (by_revision(4), same, true),
            // The revision of another life, or of nobody knows which, says nothing.
            (by_revision(5), other, true),
            (by_revision(5), None, true),
            (by_digest(&now), other, false),
            (by_digest(&entry("k", 5, "w")), same, true),
            (by_digest(&entry("k", 4, "v")), same, true),
        ] {
            let version = Version { held: &held, epoch: epoch_of };
            let held = BTreeMap::from([("k".to_owned(), version)]);
            assert_eq!(differing(vec![now.clone()], held, epoch).len(), usize::from(differs), "{epoch_of:?}");
        }
        let gone = wire::Held::default();
        let held = BTreeMap::from([("a".to_owned(), Version { held: &gone, epoch: same })]);
        let found = differing(vec![now], held, epoch);
        assert_eq!(
            found.iter().map(|(key, entry)| (&**key, entry.is_some())).collect::<Vec<_>>(),
            [("a", false), ("k", true)]
        );
    }
}
