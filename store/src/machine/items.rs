//! The state as a set of items, (key, value) bytes each: what is hashed, what a snapshot holds and what is
//! written to disk. `store.proto` says how they are spelled.

use std::{collections::BTreeMap, sync::Arc};

use api::store as wire;
use model::{Epoch, Revision};
use prost::Message;
use sha2::{Digest, Sha256};

use super::{Machine, Position, Request, Version};
use crate::{Key, Record, StateHash};

/// One item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its key; the first byte is its kind.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
}

/// An item of a snapshot or of the disk is not one, or does not fit to the others.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the state does not read: {0}")]
pub struct BadItem(pub String);

/// What became of an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It is this now.
    Put(Vec<u8>),
    /// It is gone; it had this many bytes (which tell how many chunks it had on disk).
    Remove(usize),
}

/// Which items changed, in the order of their keys; the last change of each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Delta {
    /// By the item's key.
    pub changes: BTreeMap<Vec<u8>, Change>,
}

impl Delta {
    pub(super) fn put(&mut self, item: Item) {
        self.changes.insert(item.key, Change::Put(item.value));
    }

    pub(super) fn remove(&mut self, item: Item) {
        self.changes.insert(item.key, Change::Remove(item.value.len()));
    }
}

/// A hash of a set that items are added to and removed from in any order: the sum of their SHA-256, modulo 2^256.
///
/// It is there to find faults (a lost write, a bug in `apply`), not forgers: against who can choose items at
/// will, a sum of hashes is weaker than the hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Sum {
    words: [u64; 4],
    bytes: u64,
}

impl Sum {
    pub(super) fn add(&mut self, item: &Item) {
        let mut carry = false;
        for (word, other) in self.words.iter_mut().zip(digest(item)) {
            (*word, carry) = word.carrying_add(other, carry);
        }
        self.bytes += size(item);
    }

    pub(super) fn remove(&mut self, item: &Item) {
        let mut borrow = false;
        for (word, other) in self.words.iter_mut().zip(digest(item)) {
            (*word, borrow) = word.borrowing_sub(other, borrow);
        }
        self.bytes -= size(item);
    }

    pub(super) fn hash(&self) -> StateHash {
        let mut hash = [0; 32];
        for (chunk, word) in hash.chunks_exact_mut(8).zip(self.words) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        StateHash(hash)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

fn size(item: &Item) -> u64 {
    (item.key.len() + item.value.len()) as u64
}

fn digest(item: &Item) -> [u64; 4] {
    let mut hash = Sha256::new();
    hash.update((item.key.len() as u64).to_be_bytes());
    hash.update(&item.key);
    hash.update(&item.value);
    let digest = hash.finalize();
    std::array::from_fn(|word| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&digest[word * 8..word * 8 + 8]);
        u64::from_le_bytes(bytes)
    })
}

const META: u8 = b'm';
const REQUEST: u8 = b'q';
const RECORD: u8 = b'r';
const VERSION: u8 = b'v';

/// Whether an item with this key is put once, and removed once or never. All are but the first, which says where the
/// state is.
pub(crate) fn is_put_once(key: &[u8]) -> bool {
    key != [META]
}

pub(super) fn version(key: &str, version: &Version) -> Item {
    let mut item_key = Vec::with_capacity(key.len() + 11);
    item_key.push(VERSION);
    let length =
        u16::try_from(key.len()).expect("a key is at most MAX_KEY long: checked before it is applied");
    item_key.extend(length.to_be_bytes());
    item_key.extend(key.as_bytes());
    item_key.extend(version.revision.0.to_be_bytes());
    let value = wire::Version {
        create_revision: version.create_revision.0,
        version: version.version,
        value: version.value.clone(),
    };
    Item { key: item_key, value: value.encode_to_vec() }
}

pub(super) fn record(record: &Record) -> Item {
    let value = wire::Record {
        request_id: record.request_id.to_string(),
        actor: record.actor.to_string(),
        note: record.note.to_string(),
        time_ms: record.time_ms,
        keys: record.keys.iter().map(ToString::to_string).collect(),
        origin: record.origin.to_string(),
    };
    Item { key: numbered(RECORD, record.revision.0), value: value.encode_to_vec() }
}

pub(super) fn request(sequence: u64, request: &Request) -> Item {
    let value = wire::Request {
        id: request.id.to_string(),
        fingerprint: request.fingerprint,
        revision: request.revision.0,
    };
    Item { key: numbered(REQUEST, sequence), value: value.encode_to_vec() }
}

fn numbered(kind: u8, number: u64) -> Vec<u8> {
    let mut key = vec![kind];
    key.extend(number.to_be_bytes());
    key
}

impl Machine {
    pub(super) fn meta_item(&self) -> Item {
        let value = wire::Meta {
            epoch: Some(wire::Epoch { counter: self.epoch.counter, id: self.epoch.id }),
            revision: self.revision.0,
            compacted: self.compacted.0,
            applied_index: self.applied.index,
            applied_term: self.applied.term,
            members: Some(self.members.clone()),
            next_request: self.next_request,
        };
        Item { key: vec![META], value: value.encode_to_vec() }
    }

    /// All items, in the order of their keys.
    pub fn items(&self) -> impl Iterator<Item = Item> {
        let first_request = self.next_request - self.requests.len() as u64;
        // Keys of one length sort by themselves; of several lengths, by length first: the item's key begins with it.
        let mut keys: Vec<_> = self.keys.iter().collect();
        keys.sort_by_key(|(key, _)| key.len());
        let versions = keys.into_iter().flat_map(|(key, all)| all.iter().map(move |v| version(key, v)));
        std::iter::once(self.meta_item())
            .chain((first_request..).zip(&self.requests).map(|(sequence, r)| request(sequence, r)))
            .chain(self.records.iter().map(|r| record(r)))
            .chain(versions)
    }

    /// The state that these items are.
    ///
    /// # Errors
    ///
    /// If an item does not read, or they do not make a state. That nothing is missing, only the hash can tell.
    pub fn from_items(items: impl IntoIterator<Item = Item>) -> Result<Self, BadItem> {
        let mut machine = Self::default();
        let mut next_request = None;
        let mut last: Option<Vec<u8>> = None;
        for item in items {
            if last.as_ref().is_some_and(|last| *last >= item.key) {
                return Err(BadItem("items are out of order".into()));
            }
            machine.sum.add(&item);
            match item.key.split_first() {
                Some((&META, [])) => next_request = Some(machine.read_meta(&item.value)?),
                Some((&REQUEST, rest)) => machine.read_request(number(rest)?, &item.value)?,
                Some((&RECORD, rest)) => machine.read_record(Revision(number(rest)?), &item.value)?,
                Some((&VERSION, rest)) => machine.read_version(rest, &item.value)?,
                _ => return Err(BadItem("an item of an unknown kind: a newer version wrote it".into())),
            }
            last = Some(item.key);
        }
        if next_request.ok_or_else(|| BadItem("no meta item".into()))? != machine.next_request {
            return Err(BadItem("remembered requests are missing".into()));
        }
        if machine.revision.0 != machine.compacted.0 + machine.records.len() as u64 {
            return Err(BadItem("revisions are missing from history".into()));
        }
        let newest = machine.records.iter().rfind(|record| !record.keys.is_empty());
        let newest = newest.map_or(machine.compacted, |record| record.revision);
        planted!(RevisionOfNewestKey, machine.revision = newest);
        machine.live =
            machine.keys.iter().filter(|(_, v)| v.last().is_some_and(|v| v.value.is_some())).count() as u64;
        machine.read_quotas()?;
        Ok(machine)
    }

    /// Returns the next request's number, which is checked when the requests have been read.
    fn read_meta(&mut self, value: &[u8]) -> Result<u64, BadItem> {
        let meta = wire::Meta::decode(value).map_err(bad)?;
        let epoch = meta.epoch.unwrap_or_default();
        self.epoch = Epoch { counter: epoch.counter, id: epoch.id };
        self.revision = Revision(meta.revision);
        self.compacted = Revision(meta.compacted);
        self.applied = Position { index: meta.applied_index, term: meta.applied_term };
        self.members = meta.members.unwrap_or_default();
        self.next_request = meta.next_request;
        Ok(meta.next_request)
    }

    fn read_request(&mut self, sequence: u64, value: &[u8]) -> Result<(), BadItem> {
        let request = wire::Request::decode(value).map_err(bad)?;
        if !self.requests.is_empty() && sequence != self.next_request {
            return Err(BadItem(format!("request {sequence} follows {}", self.next_request)));
        }
        let id = Key::from(request.id);
        self.request_index.insert(id.clone(), sequence);
        let revision = Revision(request.revision);
        self.requests.push_back(Request { id, fingerprint: request.fingerprint, revision });
        self.next_request = sequence.checked_add(1).ok_or_else(|| BadItem("a request without end".into()))?;
        Ok(())
    }

    fn read_record(&mut self, revision: Revision, value: &[u8]) -> Result<(), BadItem> {
        let record = wire::Record::decode(value).map_err(bad)?;
        let expected = self.compacted.0.saturating_add(self.records.len() as u64).saturating_add(1);
        if revision.0 != expected {
            return Err(BadItem(format!("revision {revision} where {expected} belongs")));
        }
        self.records.push_back(Arc::new(Record {
            revision,
            request_id: record.request_id.into(),
            actor: record.actor.into(),
            note: record.note.into(),
            origin: record.origin.into(),
            time_ms: record.time_ms,
            keys: record.keys.into_iter().map(Key::from).collect(),
        }));
        Ok(())
    }

    fn read_version(&mut self, rest: &[u8], value: &[u8]) -> Result<(), BadItem> {
        let short = || BadItem("a version's key is cut".into());
        let (length, rest) = rest.split_first_chunk::<2>().ok_or_else(short)?;
        let (key, revision) =
            rest.split_at_checked(usize::from(u16::from_be_bytes(*length))).ok_or_else(short)?;
        let key = Key::from(std::str::from_utf8(key).map_err(|_| BadItem("a key is not UTF-8".into()))?);
        let version = wire::Version::decode(value).map_err(bad)?;
        let version = Version {
            revision: Revision(number(revision)?),
            create_revision: Revision(version.create_revision),
            version: version.version,
            value: version.value,
        };
        self.keys.push(&key, version);
        Ok(())
    }
}

fn number(bytes: &[u8]) -> Result<u64, BadItem> {
    let bytes = bytes.try_into().map_err(|_| BadItem("a number is not 8 bytes long".into()))?;
    Ok(u64::from_be_bytes(bytes))
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn bad(error: prost::DecodeError) -> BadItem {
    BadItem(error.to_string())
}
