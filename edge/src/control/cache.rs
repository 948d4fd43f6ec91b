//! Last-known-good files: what a worker starts from when no server answers.
//!
//! The content is one complete [`Delta`], encrypted with AES-256-GCM under a key that the agent hands over: the
//! directory alone tells nobody a tenant's routes or private keys. Two files are written in turn, each whole or
//! not at all (write, sync, rename), so that a crash in the middle of one leaves the other. All workers of a pool on
//! one machine share the directory: one of them writes, the one that has the lock.
//!
//! ```text
//! "weir-lkg" | version u8 = 1 | nonce [12] | ciphertext and tag of the encoded Delta
//! ```

use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use api::feed::Delta;
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    error::Unspecified,
};
use bytes::{Buf as _, Bytes};
use prost::Message;
use sys::lock::{Lock, LockError};

const MAGIC: &[u8; 9] = b"weir-lkg\x01";
/// A full configuration of 100,000 routes is below 100 MiB; what is larger was not written by a worker.
const MAX_BYTES: u64 = 512 << 20;
/// No write takes this long.
const LEFTOVER: std::time::Duration = std::time::Duration::from_secs(300);
const FILES: [&str; 2] = ["good-a", "good-b"];
const LOCK: &str = "writer.lock";

/// Why there is nothing to start from, or nothing could be kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CacheError {
    /// A file or directory could not be used.
    #[error("{what} {path}")]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The lock of the one that writes.
    #[error(transparent)]
    Lock(LockError),
    /// The agent handed over something else than 32 bytes in hex.
    #[error("the cache key is not 32 bytes in hex")]
    Key,
    /// The file was not written under this key, or is damaged.
    #[error("{path} is damaged or was written under another key")]
    Sealed { path: PathBuf },
    /// The content is not a configuration.
    #[error("{path} does not decode")]
    Decode {
        path: PathBuf,
        #[source]
        source: prost::DecodeError,
    },
}

/// The two files of one worker's pool.
pub(crate) struct Cache {
    dir: PathBuf,
    key: RandomizedNonceKey,
    /// Held by the one worker that writes.
    lock: Option<Lock>,
    /// Which file is written next: never the newer one.
    next: usize,
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Cache {
    /// A cache in `dir`, made if it is not there. `key` is 32 bytes in hex.
    ///
    /// # Errors
    /// When the key is malformed or the directory cannot be made.
    pub(crate) fn open(dir: &Path, key: &str) -> Result<Self, CacheError> {
        let bytes = from_hex(key).ok_or(CacheError::Key)?;
        let key = RandomizedNonceKey::new(&AES_256_GCM, &bytes).map_err(|Unspecified| CacheError::Key)?;
        fs::create_dir_all(dir).map_err(io("make directory", dir))?;
        remove_leftovers(dir).map_err(io("clean directory", dir))?;
        Ok(Self { dir: dir.into(), key, lock: None, next: 0 })
    }

    /// Whether this worker is the one that writes, or becomes it now.
    ///
    /// # Errors
    /// When the lock file cannot be used.
    pub(crate) fn is_ours(&mut self) -> Result<bool, CacheError> {
        if self.lock.is_none() {
            self.lock = match Lock::take(&self.dir.join(LOCK)) {
                Ok(lock) => Some(lock),
                Err(LockError::Held { .. }) => return Ok(false),
                Err(error @ LockError::File { .. }) => return Err(CacheError::Lock(error)),
            };
            // The one before wrote last, whichever file that was.
            self.load();
        }
        Ok(true)
    }

    /// The newest file that is whole, with what was wrong with the others. `None` where there is none.
    pub(crate) fn load(&mut self) -> (Option<Delta>, Vec<CacheError>) {
        let mut found: Option<(usize, Delta)> = None;
        let mut errors = vec![];
        for (index, name) in FILES.iter().enumerate() {
            match self.read(&self.dir.join(name)) {
                Ok(Some(delta)) if found.as_ref().is_none_or(|(_, best)| version(&delta) > version(best)) => {
                    found = Some((index, delta));
                }
                Ok(_) => {}
                Err(error) => errors.push(error),
            }
        }
        let Some((index, delta)) = found else { return (None, errors) };
        self.next = 1 - index;
        (Some(delta), errors)
    }

    /// Keeps `delta`, which must be complete, in place of the older file.
    ///
    /// # Errors
    /// When the file cannot be written; the other one is as it was.
    pub(crate) fn store(&mut self, delta: &Delta) -> Result<(), CacheError> {
        let path = self.dir.join(FILES[self.next]);
        let mut sealed = delta.encode_to_vec();
        let nonce = self
            .key
            .seal_in_place_append_tag(Aad::from(MAGIC), &mut sealed)
            .map_err(|Unspecified| CacheError::Sealed { path: path.clone() })?;
        let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
        let write = || -> std::io::Result<()> {
            let mut options = fs::OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(MAGIC)?;
            file.write_all(nonce.as_ref())?;
            file.write_all(&sealed)?;
            file.sync_data()?;
            fs::rename(&temporary, &path)
        };
        write().map_err(io("write", &path))?;
        self.next = 1 - self.next;
        Ok(())
    }

    fn read(&self, path: &Path) -> Result<Option<Delta>, CacheError> {
        let mut bytes = vec![];
        match fs::File::open(path).and_then(|file| file.take(MAX_BYTES).read_to_end(&mut bytes)) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io("read", path)(error)),
        }
        let sealed = || CacheError::Sealed { path: path.into() };
        let head = MAGIC.len() + NONCE_LEN;
        if bytes.len() < head || !bytes.starts_with(MAGIC) {
            return Err(sealed());
        }
        let mut bytes = Bytes::from(bytes);
        let nonce =
            Nonce::try_assume_unique_for_key(&bytes[MAGIC.len()..head]).map_err(|Unspecified| sealed())?;
        bytes.advance(head);
        // Nobody else has these bytes: opened in place, and the snapshots in them are not copied.
        let mut ciphertext = bytes.try_into_mut().map_err(|_| sealed())?;
        let plain = self
            .key
            .open_in_place(nonce, Aad::from(MAGIC), &mut ciphertext)
            .map_err(|Unspecified| sealed())?
            .len();
        ciphertext.truncate(plain);
        Delta::decode(ciphertext.freeze())
            .map(Some)
            .map_err(|source| CacheError::Decode { path: path.into(), source })
    }
}

/// Removes half-written files of workers that died while they wrote.
fn remove_leftovers(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let is_temporary = entry.path().extension().is_some_and(|extension| extension == "tmp");
        let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|at| at.elapsed().ok());
        if is_temporary && age.is_some_and(|age| age > LEFTOVER) {
            // Another worker may have removed it meanwhile.
            fs::remove_file(entry.path()).ok();
        }
    }
    Ok(())
}

fn version(delta: &Delta) -> (u64, u64) {
    (delta.epoch.unwrap_or_default().counter, delta.revision)
}

fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> CacheError {
    let path = path.to_owned();
    move |source| CacheError::Io { what, path, source }
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use api::feed::{Epoch, TenantSnapshot};

    use super::*;

    const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    fn delta(revision: u64) -> Delta {
        let config = format!("secret of revision {revision}").into_bytes().into();
        let tenants = vec![TenantSnapshot { tenant: "acme".into(), revision, config, ..Default::default() }];
        Delta { epoch: Some(Epoch { counter: 1, id: 7 }), revision, tenants, ..Default::default() }
    }

    #[test]
    fn the_newest_whole_file_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let mut cache = Cache::open(dir.path(), KEY).unwrap();
        assert_eq!(cache.load().0, None);
        for revision in 1..=3 {
            cache.store(&delta(revision)).unwrap();
        }
        let (loaded, errors) = Cache::open(dir.path(), KEY).unwrap().load();
        assert_eq!(loaded, Some(delta(3)));
        assert!(errors.is_empty());
    }

    #[test]
    fn a_damaged_file_is_refused_and_the_other_one_used() {
        let dir = tempfile::tempdir().unwrap();
        let mut cache = Cache::open(dir.path(), KEY).unwrap();
        cache.store(&delta(1)).unwrap();
        cache.store(&delta(2)).unwrap();
        let newest = dir.path().join(FILES[1]);
        let whole = fs::read(&newest).unwrap();
        for position in [0, 9, 15, whole.len() / 2, whole.len() - 1] {
            let mut damaged = whole.clone();
            damaged[position] ^= 1;
            fs::write(&newest, &damaged).unwrap();
            let mut cache = Cache::open(dir.path(), KEY).unwrap();
            let (loaded, errors) = cache.load();
            assert_eq!(loaded, Some(delta(1)), "flip at {position}");
            assert_eq!(errors.len(), 1);
            // The damaged one is overwritten next, never the good one.
            assert_eq!(cache.next, 1);
        }
    }

    #[test]
    fn nothing_is_in_the_clear_and_another_key_does_not_open_it() {
        let dir = tempfile::tempdir().unwrap();
        Cache::open(dir.path(), KEY).unwrap().store(&delta(1)).unwrap();
        let bytes = fs::read(dir.path().join(FILES[0])).unwrap();
        assert!(!bytes.windows(6).any(|w| w == b"secret"));
        let other = KEY.replace("00", "ff");
        assert_eq!(Cache::open(dir.path(), &other).unwrap().load().0, None);
    }

    #[test]
    fn a_malformed_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for key in ["", "00", &KEY.replace('0', "g")] {
            assert!(matches!(Cache::open(dir.path(), key), Err(CacheError::Key)), "{key}");
        }
    }
}
