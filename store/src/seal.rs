//! Envelope encryption of secrets, before they are proposed: the log, the state, snapshots and backups hold
//! ciphertext only.
//!
//! A *key-encryption key* (KEK) that all servers share lies in a file outside the data directory. Each tenant's
//! secrets are sealed with *data keys* of its own, drawn at random, which travel inside the sealed value, wrapped by
//! the KEK. So a sealed value opens with the KEK alone, a data key says nothing about another tenant's, and a
//! data key that is used for at most [`USES`] values never comes near the bound of random 96-bit nonces.
//!
//! What is authenticated beside the text: for the value the tenant and the key's name (a sealed value cannot be
//! moved to another key), for the data key the tenant and the KEK's id.
//!
//! ```text
//! value   = format(1) = 1 | KEK id(8) | data key nonce(12) | wrapped data key(32 + 16) | nonce(12) | text | tag(16)
//! ```

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Mutex,
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand,
};
use bytes::Bytes;
use model::TenantId;

const FORMAT: u8 = 1;
const KEY: usize = 32;
const TAG: usize = 16;
const ID: usize = 8;
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
        sealed: String,
        /// The key that is there.
        have: String,
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
    id: [u8; ID],
    kek: LessSafeKey,
    keys: Mutex<BTreeMap<TenantId, DataKey>>,
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
        f.debug_struct("Sealer").field("id", &hex(&self.id)).finish_non_exhaustive()
    }
}

impl Sealer {
    /// Reads the key file, or makes it (mode 0600) with a new key if it is missing. It holds one line:
    /// `weir-kek-1 <id> <key>`, both in hex.
    ///
    /// # Errors
    ///
    /// If others than its owner may read it, or it is not a key file.
    pub fn from_file(path: &Path) -> Result<Self, SealError> {
        let failed = |source| SealError::File { path: path.to_owned(), source };
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => create(path).map_err(failed)?,
            read => read.map_err(failed)?,
        };
        let mode = fs::metadata(path).map_err(failed)?.permissions().mode();
        let bad = |problem| SealError::BadFile { path: path.to_owned(), problem };
        if mode & 0o077 != 0 {
            return Err(bad(
                "others than its owner may read it: chmod 600, and draw new secrets if they did",
            ));
        }
        let (id, key) = parse(&text).ok_or_else(|| bad("not a line `weir-kek-1 <id> <key>`: restore it"))?;
        Ok(Self { id, kek: aes(&key)?, keys: Mutex::default() })
    }

    /// Seals a tenant's secret for the key that it will be stored under.
    ///
    /// # Errors
    ///
    /// Only if the cryptographic module fails.
    pub fn seal(&self, tenant: &TenantId, key_name: &str, plaintext: &[u8]) -> Result<Bytes, SealError> {
        let mut keys = self.keys.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if keys.get(tenant).is_none_or(|key| key.uses >= USES) {
            if keys.len() >= KEPT {
                keys.pop_first();
            }
            keys.insert(tenant.clone(), self.data_key(tenant)?);
        }
        let key = keys.get_mut(tenant).ok_or(SealError::Crypto)?;
        key.uses += 1;
        let nonce: [u8; NONCE_LEN] = random()?;
        let mut text = plaintext.to_vec();
        let aad = Aad::from(value_aad(tenant, key_name));
        key.key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut text)?;
        Ok([&key.header[..], &nonce, &text].concat().into())
    }

    /// Opens what [`Sealer::seal`] made for this tenant and key.
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
        if *id != self.id {
            let (sealed, have) = (hex(id), hex(&self.id));
            return Err(SealError::OtherKey { key: key_name.to_owned(), sealed, have });
        }
        let mut wrapped = *wrapped;
        let aad = Aad::from(self.key_aad(tenant));
        let key = self.kek.open_in_place(Nonce::assume_unique_for_key(*wrap_nonce), aad, &mut wrapped);
        let key = aes(key.map_err(forged)?)?;
        let mut text = text.to_vec();
        let aad = Aad::from(value_aad(tenant, key_name));
        let length =
            key.open_in_place(Nonce::assume_unique_for_key(*nonce), aad, &mut text).map_err(forged)?.len();
        text.truncate(length);
        Ok(text)
    }

    fn data_key(&self, tenant: &TenantId) -> Result<DataKey, SealError> {
        let key: [u8; KEY] = random()?;
        let nonce: [u8; NONCE_LEN] = random()?;
        let mut wrapped = key.to_vec();
        let aad = Aad::from(self.key_aad(tenant));
        self.kek.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut wrapped)?;
        let header = [&[FORMAT][..], &self.id, &nonce, &wrapped].concat();
        Ok(DataKey { key: aes(&key)?, header, uses: 0 })
    }

    fn key_aad(&self, tenant: &TenantId) -> Vec<u8> {
        [b"weir data key\0", &self.id[..], tenant.as_str().as_bytes()].concat()
    }
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

/// Makes the file whole or not at all: two servers that start at once agree on one key.
fn create(path: &Path) -> io::Result<String> {
    let random = |_| io::Error::other("no randomness");
    let id: [u8; ID] = self::random().map_err(random)?;
    let key: [u8; KEY] = self::random().map_err(random)?;
    let text = format!("weir-kek-1 {} {}\n", hex(&id), hex(&key));
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let draft = path.with_added_extension(format!("{}.new", hex(&id)));
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    let linked = fs::hard_link(&draft, path);
    fs::remove_file(&draft)?;
    match linked {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        linked => linked?,
    }
    fs::File::open(directory)?.sync_all()?;
    fs::read_to_string(path)
}

fn parse(text: &str) -> Option<([u8; ID], [u8; KEY])> {
    let mut words = text.split_ascii_whitespace();
    let (Some("weir-kek-1"), Some(id), Some(key), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return None;
    };
    Some((unhex(id)?, unhex(key)?))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != N * 2 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests;
