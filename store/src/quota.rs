//! Quotas: how much the live keys under a prefix may take. A quota is itself a key, `quotas/<prefix>`, so that it is
//! replicated, watched, audited and restored as all else is.

use api::store as wire;
use bytes::Bytes;
use prost::Message;

use crate::{InvalidTxn, Key, Op};

/// Where quotas are. Whoever lets others write keys keeps them out of here.
pub const QUOTAS: &str = "quotas/";

/// What the live keys under a prefix may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// How many.
    pub max_keys: u64,
    /// Bytes of keys and values.
    pub max_bytes: u64,
}

/// What the live keys under a prefix take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// How many.
    pub keys: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
}

/// The keys under a prefix would take more than their quota, and more than they do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{prefix} would have {would} {what}; its quota is {most}, and it has {have}: delete some, or raise the quota"
)]
pub struct QuotaExceeded {
    /// The prefix.
    pub prefix: Key,
    /// `keys` or `bytes`.
    pub what: &'static str,
    /// What is there.
    pub have: u64,
    /// What there would be.
    pub would: u64,
    /// What there may be.
    pub most: u64,
}

impl Quota {
    /// Whether a prefix may come from `before` to `after`. One that has too much may still make it less, and what it has
    /// may be put anew.
    pub(crate) fn check(self, prefix: &str, before: Usage, after: Usage) -> Result<(), QuotaExceeded> {
        let kept = |what, have: u64, would: u64, most: u64| match would > most && would > have {
            false => Ok(()),
            true => Err(QuotaExceeded { prefix: prefix.into(), what, have, would, most }),
        };
        kept("keys", before.keys, after.keys, self.max_keys)?;
        kept("bytes", before.bytes, after.bytes, self.max_bytes)
    }

    /// From the value of its key.
    pub(crate) fn read(value: &[u8]) -> Result<Self, prost::DecodeError> {
        let wire::Quota { max_keys, max_bytes } = wire::Quota::decode(value)?;
        Ok(Self { max_keys, max_bytes })
    }
}

impl Usage {
    /// A key that took `before` bytes takes `after`; `None`: it is not there.
    pub(crate) fn change(&mut self, before: Option<u64>, after: Option<u64>) {
        self.keys = self.keys + u64::from(after.is_some()) - u64::from(before.is_some());
        self.bytes = self.bytes + after.unwrap_or(0) - before.unwrap_or(0);
    }
}

/// The key of a prefix's quota.
#[must_use]
pub fn key(prefix: &str) -> String {
    format!("{QUOTAS}{prefix}")
}

/// What sets a quota, or removes it.
pub(crate) fn op(prefix: &str, quota: Option<Quota>) -> Op {
    let key = Key::from(key(prefix));
    match quota {
        Some(Quota { max_keys, max_bytes }) => {
            Op::Put { key, value: Bytes::from(wire::Quota { max_keys, max_bytes }.encode_to_vec()) }
        }
        None => Op::Delete { key },
    }
}

/// The prefix whose quota a key is.
pub(crate) fn prefix_of(key: &str) -> Option<&str> {
    key.strip_prefix(QUOTAS).filter(|prefix| prefix.ends_with('/'))
}

/// That what is put under `quotas/` is a quota.
pub(crate) fn check(key: &Key, value: &[u8]) -> Result<(), InvalidTxn> {
    let is_one = !key.starts_with(QUOTAS) || (prefix_of(key).is_some() && Quota::read(value).is_ok());
    if is_one { Ok(()) } else { Err(InvalidTxn::Quota(key.clone())) }
}

/// The prefixes of a key that can have a quota.
pub(crate) fn prefixes(key: &str) -> impl Iterator<Item = &str> {
    key.match_indices('/').map(|(at, _)| &key[..=at])
}
