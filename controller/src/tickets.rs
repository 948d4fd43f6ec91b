//! The keys of TLS session tickets: the leader makes and rotates them, the store keeps them, sealed, and the feed brings
//! them to all workers. When which key seals is [`api::tickets`]' to say.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use api::{
    convert::{self, Hash},
    feed as wire,
    tickets::{Fresh, InvalidTicketKeys, TicketKeys},
};
use model::{Revision, TenantId};
use prost::Message as _;
use store::{
    Handle, Read, ReadError, Txn, TxnError,
    seal::{SealError, Sealer},
};
use tokio::time::interval;
use tracing::{error, info, warn};

use crate::{keys, sealing};

/// How often the leader looks whether a rotation is due. Nobody waits for it: the next key is known long before.
const CHECK: Duration = Duration::from_secs(10);
/// Attempts before a rotation gives up to others that come between.
const ATTEMPTS: usize = 5;

/// Why there are no keys, or no others.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TicketKeysError {
    /// They do not open or seal.
    #[error("the ticket keys")]
    Seal(#[from] SealError),
    /// They are not written as this version writes them.
    #[error("the ticket keys are not written as this version writes them")]
    Format(#[from] prost::DecodeError),
    /// They are none.
    #[error("the stored ticket keys")]
    Invalid(#[from] InvalidTicketKeys),
    /// The store did not answer.
    #[error("read the ticket keys")]
    Read(#[from] ReadError),
    /// The store did not take them.
    #[error("store the ticket keys")]
    Store(#[from] TxnError),
    /// Others keep changing them, or the key that seals them.
    #[error("others keep changing the ticket keys: try again")]
    Contended,
}

/// The keys as workers get them.
#[derive(Debug)]
pub struct TicketKeysState {
    pub(crate) wire: wire::TicketKeys,
    /// Names what is sent.
    pub(crate) hash: Hash,
}

impl From<&TicketKeys> for TicketKeysState {
    fn from(keys: &TicketKeys) -> Self {
        let wire = wire::TicketKeys::from(keys);
        Self { hash: convert::message_hash(&wire), wire }
    }
}

/// Which keys are to take the place of those that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rotation {
    /// The next ones, when the last key's turn has come. The first ones, where there are none.
    IfDue,
    /// The next key seals at once; tickets of the one before it stay good.
    Now,
    /// New ones: no ticket stays good.
    Revoke,
}

/// Keeps the keys rotated while this server leads, until the store stops.
pub(crate) async fn follow(store: Handle, sealer: Arc<Sealer>) {
    let mut clock = interval(CHECK);
    let mut leadership = store.leadership();
    let mut failing = false;
    loop {
        tokio::select! {
            _ = clock.tick() => {}
            changed = leadership.changed() => if changed.is_err() { return },
        }
        if !store.is_leader() {
            continue;
        }
        match rotate(&store, &sealer, || Txn::new("server"), Rotation::IfDue).await {
            Ok(_) => failing = false,
            // A store that is busy, or leads no more, is soon asked again.
            Err(TicketKeysError::Read(_) | TicketKeysError::Store(_) | TicketKeysError::Contended) => {}
            Err(error) if !failing => {
                failing = true;
                let error = &error as &dyn std::error::Error;
                error!(
                    error,
                    "session tickets go on with the keys that there are: see `weir secrets status`"
                );
            }
            Err(_) => {}
        }
    }
}

/// Puts other keys in place of those that there are, in a transaction that `begin` begins. The revision of what was
/// written; `None`: nothing was due.
pub(crate) async fn rotate(
    store: &Handle,
    sealer: &Sealer,
    begin: impl Fn() -> Txn,
    rotation: Rotation,
) -> Result<Option<Revision>, TicketKeysError> {
    for _ in 0..ATTEMPTS {
        let entry = store.get(keys::TICKET_KEYS, Read::Local).await?;
        let revision = entry.as_ref().map_or(Revision(0), |entry| entry.mod_revision);
        let known = match (&entry, rotation) {
            // Not read: they may be what no key opens any more.
            (None, _) | (_, Rotation::Revoke) => None,
            (Some(entry), _) => Some(open(sealer, &entry.value)?),
        };
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut fresh = || -> Fresh { (rand::random(), rand::random()) };
        let next = match (known, rotation) {
            (None, _) => TicketKeys::first(now_s, &mut fresh),
            (Some(known), Rotation::IfDue) => match known.rotated(now_s, &mut fresh) {
                Some(next) => next,
                None => return Ok(None),
            },
            (Some(known), _) => known.advanced(now_s, &mut fresh),
        };
        // A sealing key that is retired meanwhile fails the compare.
        let (chosen, chosen_at) = sealing::chosen(store).await?;
        if let Some(key) = chosen {
            sealer.use_key(key);
        }
        let note = match rotation {
            Rotation::IfDue => "rotate the keys of session tickets",
            Rotation::Now => "rotate the keys of session tickets before their time",
            Rotation::Revoke => "revoke all session tickets",
        };
        let txn = begin()
            .note(note)
            .compare(keys::TICKET_KEYS, revision)
            .compare(keys::SEALING_KEY, chosen_at)
            .put(keys::TICKET_KEYS, seal(sealer, &next)?);
        let mut written = store.txn(txn.clone()).await;
        if matches!(written, Err(TxnError::Unknown)) {
            written = store.txn(txn).await;
        }
        match written {
            Ok(written) => {
                info!(revision = %written.revision, ?rotation, "the keys of session tickets were rotated");
                return Ok(Some(written.revision));
            }
            Err(TxnError::Conflict { .. }) => {
                // Read what it conflicts with, not what is here.
                store.get(keys::TICKET_KEYS, Read::Linearizable).await?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    warn!("others keep changing the keys of session tickets");
    Err(TicketKeysError::Contended)
}

fn seal(sealer: &Sealer, keys: &TicketKeys) -> Result<bytes::Bytes, TicketKeysError> {
    let plain = wire::TicketKeys::from(keys).encode_to_vec();
    Ok(sealer.seal(&TenantId::platform(), keys::TICKET_KEYS, &plain)?)
}

/// The keys in a stored value.
pub(crate) fn open(sealer: &Sealer, sealed: &[u8]) -> Result<TicketKeys, TicketKeysError> {
    let plain = sealer.open(&TenantId::platform(), keys::TICKET_KEYS, sealed)?;
    Ok(TicketKeys::try_from(&wire::TicketKeys::decode(plain.as_slice())?)?)
}
