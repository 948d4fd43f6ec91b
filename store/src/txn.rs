//! Transactions and the other commands of the Raft log: what they may be, and how they are spelled.

use std::collections::BTreeSet;

use api::store as wire;
use bytes::Bytes;
use model::Revision;
use prost::Message;
use sha2::{Digest, Sha256};

use crate::{
    Key, NodeId,
    members::Addresses,
    quota::{self, Quota},
};

/// The longest key, bytes.
pub const MAX_KEY: usize = 1024;
/// The largest value, bytes: what etcd takes, so that whatever fits into Kubernetes fits here.
pub const MAX_VALUE: usize = 1536 * 1024;
/// The most operations of a transaction, and the most compares.
pub const MAX_OPS: usize = 10_000;
/// The most bytes of a transaction's keys and values: one Raft entry is one message between servers.
pub const MAX_TXN: usize = 8 * 1024 * 1024;
/// The longest request id, bytes.
pub const MAX_REQUEST_ID: usize = 128;
/// The longest actor, bytes.
pub const MAX_ACTOR: usize = 256;
/// The longest note, bytes.
pub const MAX_NOTE: usize = 1024;
/// The longest origin, bytes.
pub const MAX_ORIGIN: usize = 256;

/// Changes that are applied all or not at all, if all compares hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Txn {
    /// Names the request: a second transaction with the same id (of the last
    /// [`REQUESTS_KEPT`](crate::REQUESTS_KEPT) applied) is answered, not applied. [`request_id`] draws one.
    pub request_id: String,
    /// What has to hold.
    pub compares: Vec<Compare>,
    /// What is done. A key may be named once.
    pub ops: Vec<Op>,
    /// Who asks, for the audit.
    pub actor: String,
    /// Why, for the audit.
    pub note: String,
    /// From where it is asked, for the audit.
    pub origin: String,
    /// The revision that its proposer had seen. Requests are remembered for a while only: where that does not reach back
    /// to here, this one may have been applied before, and is answered [`Unknown`](crate::TxnError::Unknown), not
    /// applied again. 0: the store fills in the present.
    pub seen: Revision,
}

/// Holds if the key was changed last by exactly this revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    /// The key.
    pub key: Key,
    /// Its [`mod_revision`](crate::Entry::mod_revision); 0: the key must not exist.
    pub mod_revision: Revision,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Create or replace.
    Put {
        /// The key.
        key: Key,
        /// Its new value.
        value: Bytes,
    },
    /// Delete; of a key that does not exist it changes nothing.
    Delete {
        /// The key.
        key: Key,
    },
}

/// Why a transaction is refused before it is proposed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTxn {
    /// No request id, or too long.
    #[error("a request id has 1 to {MAX_REQUEST_ID} bytes")]
    RequestId,
    /// The audit text is too long.
    #[error("the actor and the origin have at most {MAX_ACTOR} bytes each, and the note at most {MAX_NOTE}")]
    Audit,
    /// A key that cannot be.
    #[error("a key has 1 to {MAX_KEY} bytes: {0:?}")]
    Key(Key),
    /// A value is too large.
    #[error("the value of {key} has {size} bytes; the most is {MAX_VALUE}")]
    Value {
        /// Whose.
        key: Key,
        /// How large.
        size: usize,
    },
    /// Too many parts.
    #[error("a transaction has at most {MAX_OPS} operations and as many compares: split it")]
    Ops,
    /// Too large as a whole.
    #[error("the transaction has {0} bytes; the most is {MAX_TXN}: split it")]
    Size(usize),
    /// The order of two operations on one key would be the only difference between two results.
    #[error("the key {0} is changed twice")]
    Twice(Key),
    /// A key under `quotas/` that is none.
    #[error(
        "{0} is no quota: its key is quotas/ and a prefix that ends with '/', its value a weir.store.v1.Quota"
    )]
    Quota(Key),
}

/// A request id that nobody else draws.
#[must_use]
pub fn request_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

impl Txn {
    /// An empty transaction with a new request id.
    #[must_use]
    pub fn new(actor: impl Into<String>) -> Self {
        Self {
            request_id: request_id(),
            compares: Vec::new(),
            ops: Vec::new(),
            actor: actor.into(),
            note: String::new(),
            origin: String::new(),
            seen: Revision(0),
        }
    }

    /// With this key put.
    #[must_use]
    pub fn put(mut self, key: impl Into<Key>, value: impl Into<Bytes>) -> Self {
        self.ops.push(Op::Put { key: key.into(), value: value.into() });
        self
    }

    /// With this key deleted.
    #[must_use]
    pub fn delete(mut self, key: impl Into<Key>) -> Self {
        self.ops.push(Op::Delete { key: key.into() });
        self
    }

    /// Only if the key was changed last by this revision (0: does not exist).
    #[must_use]
    pub fn compare(mut self, key: impl Into<Key>, mod_revision: Revision) -> Self {
        self.compares.push(Compare { key: key.into(), mod_revision });
        self
    }

    /// With this note for the audit.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// With this place for the audit.
    #[must_use]
    pub fn origin(mut self, origin: impl Into<String>) -> Self {
        self.origin = origin.into();
        self
    }

    /// With this quota for the live keys under a prefix that ends with `/`; `None`: with none for them.
    #[must_use]
    pub fn quota(mut self, prefix: &str, quota: Option<Quota>) -> Self {
        self.ops.push(quota::op(prefix, quota));
        self
    }

    /// Whether it is within all bounds.
    ///
    /// # Errors
    ///
    /// The first bound that it breaks.
    pub fn check(&self) -> Result<(), InvalidTxn> {
        if self.request_id.is_empty() || self.request_id.len() > MAX_REQUEST_ID {
            return Err(InvalidTxn::RequestId);
        }
        if self.actor.len() > MAX_ACTOR || self.note.len() > MAX_NOTE || self.origin.len() > MAX_ORIGIN {
            return Err(InvalidTxn::Audit);
        }
        if self.ops.len() > MAX_OPS || self.compares.len() > MAX_OPS {
            return Err(InvalidTxn::Ops);
        }
        let mut size = 0;
        let mut changed = BTreeSet::new();
        for compare in &self.compares {
            check_key(&compare.key)?;
            size += compare.key.len();
        }
        for op in &self.ops {
            let key = op.key();
            check_key(key)?;
            size += key.len();
            if let Op::Put { value, .. } = op {
                if value.len() > MAX_VALUE {
                    return Err(InvalidTxn::Value { key: key.clone(), size: value.len() });
                }
                size += value.len();
                quota::check(key, value)?;
            }
            if !changed.insert(key) {
                return Err(InvalidTxn::Twice(key.clone()));
            }
        }
        if size > MAX_TXN { Err(InvalidTxn::Size(size)) } else { Ok(()) }
    }

    /// Tells transactions apart that were given the same request id by mistake: of what it compares and changes,
    /// not of its audit text, which a retry may word anew.
    pub(crate) fn fingerprint(&self) -> u64 {
        let mut hash = Sha256::new();
        let mut part = |tag: u8, bytes: &[u8]| {
            hash.update([tag]);
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        for compare in &self.compares {
            part(0, compare.key.as_bytes());
            part(1, &compare.mod_revision.0.to_be_bytes());
        }
        for op in &self.ops {
            match op {
                Op::Put { key, value } => {
                    part(2, key.as_bytes());
                    part(3, value);
                }
                Op::Delete { key } => part(4, key.as_bytes()),
            }
        }
        let digest = hash.finalize();
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        u64::from_be_bytes(first)
    }
}

impl Op {
    /// What it changes.
    #[must_use]
    pub fn key(&self) -> &Key {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

fn check_key(key: &Key) -> Result<(), InvalidTxn> {
    if key.is_empty() || key.len() > MAX_KEY {
        // A key that is megabytes long is not for an error message.
        let shown = key.chars().take(64).collect::<String>();
        return Err(InvalidTxn::Key(shown.into()));
    }
    Ok(())
}

/// What a normal entry of the Raft log says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// A transaction, and when it was proposed.
    Txn {
        /// What is to be done.
        txn: Txn,
        /// By the proposer's clock, milliseconds since the Unix epoch.
        time_ms: i64,
    },
    /// Forget history up to and including this revision.
    Compact {
        /// The revision.
        revision: Revision,
    },
    /// A member is reached elsewhere now.
    Address {
        /// Which.
        id: NodeId,
        /// Where.
        addresses: Addresses,
    },
}

/// Finds the caller that waits for a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket {
    /// One run of one server.
    pub origin: u64,
    /// Counts its proposals.
    pub number: u64,
}

/// A committed entry that this version cannot read. It must not be skipped: the servers' states would part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a committed command cannot be read ({0}): run the version of Weir that wrote it, or a newer one")]
pub struct UnknownCommand(String);

impl Command {
    /// As the payload of a Raft entry.
    #[must_use]
    pub fn encode(&self, ticket: Ticket) -> Vec<u8> {
        let body = match self {
            Self::Txn { txn, time_ms } => wire::command::Body::Txn(wire::Txn {
                request_id: txn.request_id.clone(),
                compares: txn
                    .compares
                    .iter()
                    .map(|c| wire::Compare { key: c.key.to_string(), mod_revision: c.mod_revision.0 })
                    .collect(),
                ops: txn.ops.iter().map(|op| wire::Op { op: Some(encode_op(op)) }).collect(),
                actor: txn.actor.clone(),
                note: txn.note.clone(),
                origin: txn.origin.clone(),
                time_ms: *time_ms,
                seen_revision: txn.seen.0,
            }),
            Self::Compact { revision } => {
                wire::command::Body::Compact(wire::Compact { revision: revision.0 })
            }
            Self::Address { id, addresses: Addresses { peers, admin } } => {
                let (peers, admin) = (peers.clone(), admin.clone());
                wire::command::Body::Address(wire::Member { id: *id, peers, admin })
            }
        };
        let message = wire::Command { origin: ticket.origin, number: ticket.number, body: Some(body) };
        message.encode_to_vec()
    }

    /// From the payload of a Raft entry.
    ///
    /// # Errors
    ///
    /// If another version wrote it.
    pub fn decode(payload: &[u8]) -> Result<(Ticket, Self), UnknownCommand> {
        let message = wire::Command::decode(payload).map_err(|error| UnknownCommand(error.to_string()))?;
        let ticket = Ticket { origin: message.origin, number: message.number };
        let command = match message.body {
            Some(wire::command::Body::Txn(txn)) => {
                let time_ms = txn.time_ms;
                Self::Txn { txn: decode_txn(txn)?, time_ms }
            }
            Some(wire::command::Body::Compact(compact)) => {
                Self::Compact { revision: Revision(compact.revision) }
            }
            Some(wire::command::Body::Address(wire::Member { id, peers, admin })) => {
                Self::Address { id, addresses: Addresses { peers, admin } }
            }
            None => return Err(UnknownCommand("no known body".into())),
        };
        Ok((ticket, command))
    }
}

fn encode_op(op: &Op) -> wire::op::Op {
    match op {
        Op::Put { key, value } => wire::op::Op::Put(wire::Put { key: key.to_string(), value: value.clone() }),
        Op::Delete { key } => wire::op::Op::Delete(key.to_string()),
    }
}

fn decode_txn(txn: wire::Txn) -> Result<Txn, UnknownCommand> {
    let decode_op = |op: wire::Op| match op.op {
        Some(wire::op::Op::Put(put)) => Ok(Op::Put { key: put.key.into(), value: put.value }),
        Some(wire::op::Op::Delete(key)) => Ok(Op::Delete { key: key.into() }),
        None => Err(UnknownCommand("an operation of no known kind".into())),
    };
    Ok(Txn {
        request_id: txn.request_id,
        compares: txn
            .compares
            .into_iter()
            .map(|c| Compare { key: c.key.into(), mod_revision: Revision(c.mod_revision) })
            .collect(),
        ops: txn.ops.into_iter().map(decode_op).collect::<Result<_, _>>()?,
        actor: txn.actor,
        note: txn.note,
        origin: txn.origin,
        seen: Revision(txn.seen_revision),
    })
}

#[cfg(test)]
mod tests;
