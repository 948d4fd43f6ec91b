//! Which key-encryption key the installation seals with, which keys each server's file holds, and which key each sealed
//! value needs.
//!
//! Each server has its own copy of the key file. So a key is first added to every file, then chosen (in the store, for
//! all servers at once), then every value is sealed anew, and only then the old key is dropped from the files. The
//! store knows the keys' ids; the keys themselves never leave the files.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use model::{Revision, TenantId};
use serde::{Deserialize, Serialize};
use store::{
    Entry, Handle, NodeId, Read, ReadError, Txn, WatchError,
    seal::{KeyId, Sealer, key_of},
};
use tokio::time::interval;
use tracing::{error, info, warn};

use crate::{
    keys,
    objects::{RecordError, Stored},
};

/// How often the key file is looked at: whoever rotates waits for it.
const RELOAD: Duration = Duration::from_secs(1);

/// What `sealing/current` holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Chosen {
    /// The key's id.
    pub(crate) key: String,
}

/// What `sealing/servers/<id>` holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Held {
    keys: Vec<String>,
}

/// The key that the store says seals, with its entry's revision.
pub(crate) async fn chosen(store: &Handle) -> Result<(Option<KeyId>, Revision), ReadError> {
    let Some(entry) = store.get(keys::SEALING_KEY, Read::Local).await? else {
        return Ok((None, Revision(0)));
    };
    let chosen = serde_json::from_slice::<Chosen>(&entry.value).ok();
    Ok((chosen.and_then(|chosen| chosen.key.parse().ok()), entry.mod_revision))
}

/// Seals with the key that the store says.
pub(crate) async fn choose(store: &Handle, sealer: &Sealer) -> Result<(), ReadError> {
    if let (Some(key), _) = chosen(store).await? {
        sealer.use_key(key);
    }
    Ok(())
}

/// Follows the key file and the store's choice until the store stops.
pub(crate) async fn follow(store: Handle, sealer: Arc<Sealer>) {
    let mut clock = interval(RELOAD);
    let mut changes = store.watch(keys::SEALING, Revision(0));
    let mut look = true;
    loop {
        tokio::select! {
            _ = clock.tick() => {
                match sealer.reload() {
                    Ok(changed) => look |= changed,
                    Err(error) => warn!(%error, "the key file is not read again: its keys stay as they were"),
                }
                // Tried again until the store takes it.
                look |= publish(&store, &sealer).await;
            }
            change = changes.next() => match change {
                Ok(batch) if batch.events.is_empty() => continue,
                Ok(_) => {}
                Err(WatchError::Compacted(_)) => changes = store.watch(keys::SEALING, Revision(0)),
                Err(WatchError::Stopped) => return,
            }
        }
        if choose(&store, &sealer).await.is_err() {
            return;
        }
        if std::mem::take(&mut look) {
            missing(&store, &sealer).await;
        }
    }
}

/// Says which keys this server's file holds, if the store says something else; whether it did. A server with one key
/// that never had another says nothing: it is the one that was given to all.
pub(crate) async fn publish(store: &Handle, sealer: &Sealer) -> bool {
    let held = Held { keys: sealer.keys().iter().map(ToString::to_string).collect() };
    let key = keys::sealing_server(store.status().node);
    let Ok(entry) = store.get(&key, Read::Local).await else { return false };
    let said = entry.as_ref().and_then(|entry| serde_json::from_slice::<Held>(&entry.value).ok());
    if said.as_ref() == Some(&held) || (entry.is_none() && held.keys.len() == 1) {
        return false;
    }
    let revision = entry.map_or(Revision(0), |entry| entry.mod_revision);
    let Ok(value) = serde_json::to_vec(&held) else { return false };
    let txn = Txn::new("server").note("the key file holds other keys").compare(key.as_str(), revision);
    let said = store.txn(txn.put(key, value)).await;
    if said.is_ok() {
        info!(keys = held.keys.join(" "), "the key file was read");
    }
    said.is_ok()
}

/// What the servers have said of their key files.
pub(crate) async fn servers(store: &Handle) -> Result<BTreeMap<NodeId, Vec<String>>, ReadError> {
    let mut servers = BTreeMap::new();
    for member in store.members() {
        let entry = store.get(&keys::sealing_server(member.id), Read::Local).await?;
        let held = entry.and_then(|entry| serde_json::from_slice::<Held>(&entry.value).ok());
        servers.insert(member.id, held.map_or_else(Vec::new, |held| held.keys));
    }
    Ok(servers)
}

/// A sealed value of the store.
pub(crate) struct Sealed {
    pub(crate) entry: Entry,
    /// The key that it needs, if it says one that this version reads.
    pub(crate) key: Option<KeyId>,
    what: What,
}

enum What {
    Object(Box<Stored>),
    /// The platform's own, sealed as a whole under its key.
    Whole(&'static str),
}

impl Sealed {
    /// The sealed value in an entry, if it has one.
    pub(crate) fn of(entry: &Entry) -> Option<Self> {
        let whole = [keys::CA, keys::TICKET_KEYS].into_iter().find(|key| *entry.key == **key);
        let (what, sealed) = match whole {
            Some(key) => (What::Whole(key), entry.value.to_vec()),
            None => {
                let stored = Stored::read(entry).ok()?;
                let sealed = stored.sealed()?;
                (What::Object(Box::new(stored)), sealed)
            }
        };
        Some(Self { entry: entry.clone(), key: key_of(&sealed), what })
    }

    /// What to store in its place; `None`: it needs no other.
    pub(crate) fn reseal(&self, sealer: &Sealer) -> Result<Option<Vec<u8>>, RecordError> {
        match &self.what {
            What::Object(stored) => stored.reseal(sealer),
            What::Whole(key) => sealer
                .reseal(&TenantId::platform(), key, &self.entry.value)
                .map(|sealed| sealed.map(|sealed| sealed.to_vec()))
                .map_err(|error| RecordError { key: (*key).to_owned(), problem: error.to_string() }),
        }
    }
}

/// All sealed values. The CA is the last, so that it is sealed anew when all others are: a server that has been away knows
/// by it that its state opens.
pub(crate) async fn sealed(store: &Handle, read: Read) -> Result<Vec<Sealed>, ReadError> {
    let (objects, _) = store.list(keys::OBJECTS, read).await?;
    // Of the same revision or a later one.
    let read = if let Read::At(_) = read { read } else { Read::Local };
    let ticket_keys = store.get(keys::TICKET_KEYS, read).await?;
    let ca = store.get(keys::CA, read).await?;
    Ok(objects.iter().chain(&ticket_keys).chain(&ca).filter_map(Sealed::of).collect())
}

/// How many values need each key: those that are there, and those that history has beside them.
pub(crate) async fn uses(store: &Handle) -> Result<BTreeMap<KeyId, (u64, u64)>, ReadError> {
    let live = sealed(store, Read::Linearizable).await?;
    let status = store.status();
    let mut past = sealed(store, Read::At(status.compacted)).await?;
    let mut changes = store.watch("", Revision(status.compacted.0 + 1));
    let mut seen = status.compacted;
    while seen < status.revision {
        match changes.next().await {
            Ok(batch) => {
                seen = batch.revision;
                past.extend(batch.events.iter().filter_map(|e| e.entry.as_ref()).filter_map(Sealed::of));
            }
            Err(WatchError::Compacted(compacted)) => return Err(compacted.into()),
            Err(WatchError::Stopped) => return Err(ReadError::Stopped),
        }
    }
    let mut uses: BTreeMap<KeyId, (u64, u64)> = BTreeMap::new();
    for key in live.iter().filter_map(|value| value.key) {
        uses.entry(key).or_default().0 += 1;
    }
    let newest: BTreeMap<_, _> = live.iter().map(|l| (&l.entry.key, l.entry.mod_revision)).collect();
    let is_live = |entry: &Entry| newest.get(&entry.key) == Some(&entry.mod_revision);
    for key in past.iter().filter(|value| !is_live(&value.entry)).filter_map(|value| value.key) {
        uses.entry(key).or_default().1 += 1;
    }
    Ok(uses)
}

/// Says which keys this server lacks: the values that need them cannot be served.
async fn missing(store: &Handle, sealer: &Sealer) {
    let Ok(values) = sealed(store, Read::Local).await else { return };
    let held = sealer.keys();
    let mut lacking: BTreeMap<KeyId, u64> = BTreeMap::new();
    for key in values.iter().filter_map(|value| value.key).filter(|key| !held.contains(key)) {
        *lacking.entry(key).or_default() += 1;
    }
    for (key, values) in lacking {
        error!(%key, values, "the key file lacks a key that secrets are sealed with: copy it from another server");
    }
}
