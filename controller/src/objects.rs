//! Objects as the store holds them: verbatim, with their generation; secrets sealed.

mod redact;

#[cfg(test)]
mod tests;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use dialect::{Kind, Object, ObjectKey, Source};
use model::{Generation, Revision, TenantId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use store::{Entry, seal::Sealer};

use crate::keys;

use redact::redact;

/// An object as it is in the store.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    generation: Generation,
    /// What every reader may see: of a secret, all but its data.
    json: Value,
    /// All of a secret, sealed for its key, in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sealed: Option<String>,
}

/// A stored object that every reader may see.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    /// Whose it is.
    pub(crate) tenant: TenantId,
    /// What names it.
    pub(crate) key: ObjectKey,
    /// How often its spec changed, from 1.
    pub(crate) generation: Generation,
    /// When it was first stored.
    pub(crate) created: Revision,
    /// Its last change.
    pub(crate) revision: Revision,
    /// Verbatim, or redacted.
    pub(crate) json: Value,
    sealed: Option<String>,
}

/// Why a stored object cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub(crate) struct RecordError {
    pub(crate) key: String,
    pub(crate) problem: String,
}

impl Stored {
    /// What an entry holds.
    pub(crate) fn read(entry: &Entry) -> Result<Self, RecordError> {
        let error = |problem: String| RecordError { key: entry.key.to_string(), problem };
        let (tenant, key) =
            keys::parse_object(&entry.key).ok_or_else(|| error("the key is no object's".to_owned()))?;
        let record: Record = serde_json::from_slice(&entry.value).map_err(|e| error(e.to_string()))?;
        Ok(Self {
            tenant,
            key,
            generation: record.generation,
            created: entry.create_revision,
            revision: entry.mod_revision,
            json: record.json,
            sealed: record.sealed,
        })
    }

    /// Verbatim, whatever it is. Not for readers.
    pub(crate) fn unsealed(&self, sealer: &Sealer) -> Result<Value, RecordError> {
        Ok(self.opened(sealer)?.unwrap_or_else(|| self.json.clone()))
    }

    /// What is sealed; `None` where nothing is.
    fn opened(&self, sealer: &Sealer) -> Result<Option<Value>, RecordError> {
        let Some(sealed) = &self.sealed else { return Ok(None) };
        let key = keys::object(&self.tenant, &self.key);
        let error = |problem: String| RecordError { key: key.clone(), problem };
        let bytes = BASE64.decode(sealed).map_err(|e| error(e.to_string()))?;
        let plain = sealer.open(&self.tenant, &key, &bytes).map_err(|e| error(e.to_string()))?;
        serde_json::from_slice(&plain).map(Some).map_err(|e| error(e.to_string()))
    }

    /// The sealed value, if it has one.
    pub(crate) fn sealed(&self) -> Option<Vec<u8>> {
        BASE64.decode(self.sealed.as_ref()?).ok()
    }

    /// What to store in its place, sealed with the key that seals now; `None`: it is, or has nothing sealed.
    pub(crate) fn reseal(&self, sealer: &Sealer) -> Result<Option<Vec<u8>>, RecordError> {
        let key = keys::object(&self.tenant, &self.key);
        let error = |problem: String| RecordError { key: key.clone(), problem };
        let Some(sealed) = self.sealed() else { return Ok(None) };
        let resealed = sealer.reseal(&self.tenant, &key, &sealed).map_err(|e| error(e.to_string()))?;
        let Some(resealed) = resealed else { return Ok(None) };
        let sealed = Some(BASE64.encode(resealed));
        let record = Record { generation: self.generation, json: self.json.clone(), sealed };
        serde_json::to_vec(&record).map(Some).map_err(|e| error(e.to_string()))
    }

    /// Parsed, with its age.
    pub(crate) fn object(&self, sealer: &Sealer) -> Result<Object, Vec<String>> {
        self.clone().into_object(sealer)
    }

    /// The same, without a copy of what may be large.
    pub(crate) fn into_object(self, sealer: &Sealer) -> Result<Object, Vec<String>> {
        let json = self.opened(sealer).map_err(|e| vec![e.to_string()])?.unwrap_or(self.json);
        let mut object = dialect::parse_value(&Source::default(), json)
            .map_err(|mistakes| mistakes.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        object.created = Some(self.created);
        Ok(object)
    }
}

/// Names one version of an object, whatever life the store is in: its value with its revision, of which only the hash
/// leaves.
pub(crate) fn digest(entry: &Entry) -> Vec<u8> {
    let mut hash = Sha256::new();
    hash.update((entry.key.len() as u64).to_be_bytes());
    hash.update(entry.key.as_bytes());
    hash.update(entry.mod_revision.0.to_be_bytes());
    hash.update(&entry.value);
    hash.finalize()[..16].to_vec()
}

/// What a change does to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Created,
    Configured,
    Unchanged,
    Deleted,
}

impl Outcome {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Configured => "configured",
            Self::Unchanged => "unchanged",
            Self::Deleted => "deleted",
        }
    }
}

/// What becomes of `old` if a user applies `json`, and the value to store (none if it stays as it is).
///
/// The generation rises when anything but metadata changes. A `status` is Weir's own word, as read verbs print it beside
/// the object: it is left out, so that what was read can be applied.
pub(crate) fn write(
    tenant: &TenantId,
    key: &ObjectKey,
    json: &Value,
    old: Option<&Stored>,
    sealer: &Sealer,
) -> Result<(Outcome, Option<Vec<u8>>), RecordError> {
    let json = &without_status(json);
    let (outcome, generation) = match old {
        None => (Outcome::Created, Generation(1)),
        Some(old) => {
            // A secret that cannot be opened (its key file is gone) is replaced, not a reason to refuse.
            let before = old.unsealed(sealer).unwrap_or(Value::Null);
            if before == *json {
                return Ok((Outcome::Unchanged, None));
            }
            let rises = u64::from(!same_but_metadata(&before, json));
            (Outcome::Configured, Generation(old.generation.0 + rises))
        }
    };
    let name = keys::object(tenant, key);
    let error = |problem: String| RecordError { key: name.clone(), problem };
    let record = if key.kind == Kind::Secret {
        let plain = serde_json::to_vec(json).map_err(|e| error(e.to_string()))?;
        let sealed = sealer.seal(tenant, &name, &plain).map_err(|e| error(e.to_string()))?;
        Record { generation, json: redact(json), sealed: Some(BASE64.encode(sealed)) }
    } else {
        Record { generation, json: json.clone(), sealed: None }
    };
    let value = serde_json::to_vec(&record).map_err(|e| error(e.to_string()))?;
    Ok((outcome, Some(value)))
}

fn without_status(json: &Value) -> Value {
    let mut json = json.clone();
    if let Some(object) = json.as_object_mut() {
        object.remove("status");
    }
    json
}

fn same_but_metadata(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return a == b };
    let rest = |object: &serde_json::Map<String, Value>| {
        let mut rest = object.clone();
        rest.remove("metadata");
        rest
    };
    rest(a) == rest(b)
}
