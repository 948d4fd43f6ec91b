//! Envelope encryption of secrets, before they are proposed: the log, the state, snapshots and backups hold
//! ciphertext only.
//!
//! A *key-encryption key* (KEK) that all servers share lies in a file outside the data directory. Each tenant's
//! secrets are sealed with *data keys* of its own, drawn at random, which travel inside the sealed value, wrapped by
//! the KEK. So a sealed value opens with the KEK alone, a data key says nothing about another tenant's, and a
//! data key that is used for at most [`USES`] values never comes near the bound of random 96-bit nonces.
//!
//! Keys are rotated: the file may hold several, of which one seals and all open. Whoever rotates chooses the new one for the
//! installation ([`Sealer::use_key`]), seals every value anew ([`Sealer::reseal`]), and drops the old one when nothing
//! needs it. A sealed value says which key it needs ([`key_of`]).
//!
//! What is authenticated beside the text: for the value the tenant and the key's name (a sealed value cannot be
//! moved to another key), for the data key the tenant and the KEK's id.
//!
//! ```text
//! value   = format(1) = 1 | KEK id(8) | data key nonce(12) | wrapped data key(32 + 16) | nonce(12) | text | tag(16)
//! ```

mod file;

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand,
};
use bytes::Bytes;
use model::TenantId;

pub use file::{BadKeyId, KeyId, add_key, drop_key, key_ids};

use file::{ID, Stamp};

const FORMAT: u8 = 1;
const KEY: usize = 32;
const TAG: usize = 16;
const WRAPPED: usize = KEY + TAG;
/// What a sealed value is longer than its text.
pub const OVERHEAD: usize = 1 + ID + NONCE_LEN + WRAPPED + NONCE_LEN + TAG;

/// Values sealed with one data key. NIST SP 800-38D allows 2^32 random nonces a key.
pub const USES: u32 = 1 << 20;

/// Tenants whose data key is kept at hand for sealing; beyond that the keys are drawn anew.
const KEPT: usize = 1024;

/// Why a value is not sealed or opened. Never says what is in it.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The key file cannot be read or made.
    #[error("key file {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The key file is not one.
    #[error("key file {}: {problem}", path.display())]
    BadFile {
        /// Which.
        path: PathBuf,
        /// What is wrong, and how to mend it.
        problem: &'static str,
    },
    /// It was sealed by a newer version, or is no sealed value.
    #[error("{key}: not a sealed value that this version reads")]
    Format {
        /// Whose value.
        key: String,
    },
    /// It was sealed under another key file.
    #[error(
        "{key}: sealed under key {sealed}, but the key file holds {have}: use the installation's key file"
    )]
    OtherKey {
        /// Whose value.
        key: String,
        /// The key it needs.
        sealed: KeyId,
        /// The keys that are there.
        have: String,
    },
    /// The installation seals with a key that this server does not have.
    #[error(
        "the installation seals with key {wanted}, which the key file lacks: copy it from another server"
    )]
    Lacking {
        /// The key.
        wanted: KeyId,
    },
    /// It was changed, or belongs to another key or tenant.
    #[error("{key}: the sealed value is not authentic: it was changed, or belongs to another key or tenant")]
    NotAuthentic {
        /// Whose value.
        key: String,
    },
    /// The cryptographic module failed (its source of randomness).
    #[error("the cryptographic module failed")]
    Crypto,
}

impl From<aws_lc_rs::error::Unspecified> for SealError {
    fn from(_: aws_lc_rs::error::Unspecified) -> Self {
        Self::Crypto
    }
}

/// Seals and opens secrets.
pub struct Sealer {
    path: PathBuf,
    state: Mutex<State>,
}

struct State {
    keks: Vec<(KeyId, LessSafeKey)>,
    /// What the installation has chosen. `None`: the file's first.
    chosen: Option<KeyId>,
    stamp: Stamp,
    /// Under the key that seals.
    data_keys: BTreeMap<TenantId, DataKey>,
}

/// A tenant's key as it is used for sealing.
struct DataKey {
    key: LessSafeKey,
    /// The header of every value sealed with it: format, KEK id, nonce, wrapped key.
    header: Vec<u8>,
    uses: u32,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("keys", &self.keys()).finish_non_exhaustive()
    }
}

/// The key that a sealed value needs. `None`: it is none that this version reads.
#[must_use]
pub fn key_of(sealed: &[u8]) -> Option<KeyId> {
    let ([FORMAT], rest) = sealed.split_first_chunk()? else { return None };
    rest.first_chunk().map(|id| KeyId(*id))
}

impl Sealer {
    /// Reads the key file, or makes it (mode 0600) with a new key if it is missing. Each line is a key:
    /// `weir-kek-1 <id> <key>`, both in hex.
    ///
    /// # Errors
    ///
    /// If others than its owner may read it, or it is not a key file.
    pub fn from_file(path: &Path) -> Result<Self, SealError> {
        if matches!(path.try_exists(), Ok(false)) {
            file::create(path)?;
        }
        Ok(Self { path: path.to_owned(), state: Mutex::new(State::read(path)?) })
    }

    /// Reads the key file again if it has changed; returns whether it had. Keys that were there before are kept if it
    /// does not read.
    ///
    /// # Errors
    ///
    /// As [`Sealer::from_file`].
    pub fn reload(&self) -> Result<bool, SealError> {
        self.state().reload(&self.path)
    }

    /// The keys that it opens with, in the file's order.
    #[must_use]
    pub fn keys(&self) -> Vec<KeyId> {
        self.state().keks.iter().map(|(id, _)| *id).collect()
    }

    /// The key that it seals with, if it has it.
    #[must_use]
    pub fn sealing_key(&self) -> KeyId {
        self.state().sealing_key()
    }

    /// Seals with this key from now on: the installation has chosen it. Without it in the key file, nothing is sealed.
    pub fn use_key(&self, id: KeyId) {
        let mut state = self.state();
        if state.sealing_key() != id {
            state.data_keys.clear();
        }
        state.chosen = Some(id);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seals a tenant's secret for the key that it will be stored under.
    ///
    /// # Errors
    ///
    /// Only if the cryptographic module fails.
    pub fn seal(&self, tenant: &TenantId, key_name: &str, plaintext: &[u8]) -> Result<Bytes, SealError> {
        let mut state = self.state();
        if state.data_keys.get(tenant).is_none_or(|key| key.uses >= USES) {
            let key = state.data_key(tenant)?;
            if state.data_keys.len() >= KEPT {
                state.data_keys.pop_first();
            }
            state.data_keys.insert(tenant.clone(), key);
        }
        let key = state.data_keys.get_mut(tenant).ok_or(SealError::Crypto)?;
        key.uses += 1;
        let nonce: [u8; NONCE_LEN] = random()?;
        let mut text = plaintext.to_vec();
        let aad = Aad::from(value_aad(tenant, key_name));
        key.key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut text)?;
        Ok([&key.header[..], &nonce, &text].concat().into())
    }

    /// The same secret, sealed with the key that seals now, and a new data key. `None`: it is already.
    ///
    /// # Errors
    ///
    /// As [`Sealer::open`] and [`Sealer::seal`].
    pub fn reseal(
        &self,
        tenant: &TenantId,
        key_name: &str,
        sealed: &[u8],
    ) -> Result<Option<Bytes>, SealError> {
        if key_of(sealed) == Some(self.sealing_key()) {
            return Ok(None);
        }
        let text = self.open(tenant, key_name, sealed)?;
        self.seal(tenant, key_name, &text).map(Some)
    }

    /// Opens what [`Sealer::seal`] made for this tenant and key. Reads the key file again if the value needs a key that
    /// was not there.
    ///
    /// # Errors
    ///
    /// If it is anything else.
    pub fn open(&self, tenant: &TenantId, key_name: &str, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let format = || SealError::Format { key: key_name.to_owned() };
        let forged = |_| SealError::NotAuthentic { key: key_name.to_owned() };
        let ([FORMAT], rest) = sealed.split_first_chunk().ok_or_else(format)? else { return Err(format()) };
        let (id, rest) = rest.split_first_chunk::<ID>().ok_or_else(format)?;
        let (wrap_nonce, rest) = rest.split_first_chunk::<NONCE_LEN>().ok_or_else(format)?;
        let (wrapped, rest) = rest.split_first_chunk::<WRAPPED>().ok_or_else(format)?;
        let (nonce, text) = rest.split_first_chunk::<NONCE_LEN>().ok_or_else(format)?;
        let id = KeyId(*id);
        let mut state = self.state();
        if state.kek(id).is_none() {
            state.reload(&self.path)?;
        }
        let Some(kek) = state.kek(id) else {
            let have: Vec<_> = state.keks.iter().map(|(id, _)| id.to_string()).collect();
            let (key, have) = (key_name.to_owned(), have.join(", "));
            return Err(SealError::OtherKey { key, sealed: id, have });
        };
        let mut wrapped = *wrapped;
        let aad = Aad::from(key_aad(id, tenant));
        let key = kek.open_in_place(Nonce::assume_unique_for_key(*wrap_nonce), aad, &mut wrapped);
        let key = aes(key.map_err(forged)?)?;
        drop(state);
        let mut text = text.to_vec();
        let aad = Aad::from(value_aad(tenant, key_name));
        let length =
            key.open_in_place(Nonce::assume_unique_for_key(*nonce), aad, &mut text).map_err(forged)?.len();
        text.truncate(length);
        Ok(text)
    }
}

impl State {
    fn read(path: &Path) -> Result<Self, SealError> {
        // Before the content: what changes in between is read again.
        let stamp = Stamp::of(path)?;
        let keks = file::read(path)?.into_iter().map(|(id, key)| Ok((id, aes(&key)?)));
        let keks = keks.collect::<Result<_, SealError>>()?;
        Ok(Self { keks, chosen: None, stamp, data_keys: BTreeMap::new() })
    }

    fn reload(&mut self, path: &Path) -> Result<bool, SealError> {
        if Stamp::of(path)? == self.stamp {
            return Ok(false);
        }
        *self = Self { chosen: self.chosen, ..Self::read(path)? };
        Ok(true)
    }

    fn sealing_key(&self) -> KeyId {
        self.chosen.unwrap_or(self.keks[0].0)
    }

    fn kek(&self, id: KeyId) -> Option<&LessSafeKey> {
        self.keks.iter().find(|(other, _)| *other == id).map(|(_, kek)| kek)
    }

    /// Draws a tenant's key, wrapped under the key that seals.
    fn data_key(&self, tenant: &TenantId) -> Result<DataKey, SealError> {
        let id = self.sealing_key();
        let kek = self.kek(id).ok_or(SealError::Lacking { wanted: id })?;
        let key: [u8; KEY] = random()?;
        let nonce: [u8; NONCE_LEN] = random()?;
        let mut wrapped = key.to_vec();
        let aad = Aad::from(key_aad(id, tenant));
        kek.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut wrapped)?;
        let header = [&[FORMAT][..], &id.0, &nonce, &wrapped].concat();
        Ok(DataKey { key: aes(&key)?, header, uses: 0 })
    }
}

fn key_aad(id: KeyId, tenant: &TenantId) -> Vec<u8> {
    [b"weir data key\0", &id.0[..], tenant.as_str().as_bytes()].concat()
}

/// A tenant's name has no NUL, so no two pairs have the same bytes.
fn value_aad(tenant: &TenantId, key_name: &str) -> Vec<u8> {
    [b"weir value\0", tenant.as_str().as_bytes(), b"\0", key_name.as_bytes()].concat()
}

fn aes(key: &[u8]) -> Result<LessSafeKey, SealError> {
    Ok(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key)?))
}

fn random<const N: usize>() -> Result<[u8; N], SealError> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
