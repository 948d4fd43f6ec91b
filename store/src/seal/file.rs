//! The key file: one key-encryption key a line, `weir-kek-1 <id> <key>`, both in hex. The first line seals, unless the
//! installation has chosen another ([`Sealer::use_key`](super::Sealer::use_key)); all of them open.
//!
//! The file is replaced whole, and one change at a time: a key that is lost takes the secrets with it.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    str::FromStr,
};

use super::{KEY, SealError, random};

const NAME: &str = "weir-kek-1";
pub(super) const ID: usize = 8;

/// The most keys in one file: two, while one replaces the other, and some that old backups need.
const MAX_KEYS: usize = 16;

/// What a key-encryption key is called. It is no secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub(super) [u8; ID]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// It is not 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key's id is 16 hexadecimal digits")]
pub struct BadKeyId;

impl FromStr for KeyId {
    type Err = BadKeyId;

    fn from_str(text: &str) -> Result<Self, BadKeyId> {
        unhex(text).map(Self).ok_or(BadKeyId)
    }
}

/// The keys of a file, in its order.
pub(super) type Keys = Vec<(KeyId, [u8; KEY])>;

/// What tells one content of a file from the next without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

impl Stamp {
    pub(super) fn of(path: &Path) -> Result<Self, SealError> {
        let metadata = fs::metadata(path).map_err(failed(path))?;
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        Ok(Self { inode: metadata.ino(), length: metadata.len(), modified })
    }
}

/// The ids of the file's keys, in its order.
///
/// # Errors
///
/// If others than its owner may read it, or it is not a key file.
pub fn key_ids(path: &Path) -> Result<Vec<KeyId>, SealError> {
    Ok(read(path)?.into_iter().map(|(id, _)| id).collect())
}

/// Draws a key and adds it as the last. Nothing is sealed with it before the installation chooses it.
///
/// # Errors
///
/// If the file cannot be read or replaced, or has 16 keys.
pub fn add_key(path: &Path) -> Result<KeyId, SealError> {
    let _turn = turn(path)?;
    let mut keys = read(path)?;
    if keys.len() >= MAX_KEYS {
        return Err(bad(path, "it has 16 keys: drop those that nothing needs"));
    }
    let id = KeyId(random()?);
    keys.push((id, random()?));
    replace(path, &keys)?;
    Ok(id)
}

/// Removes a key. Whether nothing needs it is for the caller to know: what is sealed with it does not open again.
/// Returns whether it was there.
///
/// # Errors
///
/// If the file cannot be read or replaced, or the key is its only one.
pub fn drop_key(path: &Path, id: KeyId) -> Result<bool, SealError> {
    let _turn = turn(path)?;
    let mut keys = read(path)?;
    let before = keys.len();
    keys.retain(|(other, _)| *other != id);
    if keys.is_empty() {
        return Err(bad(path, "it is the only key"));
    }
    if keys.len() != before {
        replace(path, &keys)?;
    }
    Ok(keys.len() != before)
}

/// Reads the file.
pub(super) fn read(path: &Path) -> Result<Keys, SealError> {
    let text = fs::read_to_string(path).map_err(failed(path))?;
    let mode = fs::metadata(path).map_err(failed(path))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(bad(
            path,
            "others than its owner may read it: chmod 600, and draw new secrets if they did",
        ));
    }
    let keys: Option<Keys> = text.lines().map(parse).collect();
    let keys = keys.filter(|keys| !keys.is_empty());
    let keys = keys.ok_or_else(|| bad(path, "not lines `weir-kek-1 <id> <key>`: restore it"))?;
    let mut ids: Vec<_> = keys.iter().map(|(id, _)| id).collect();
    ids.sort_unstable();
    ids.dedup();
    if ids.len() != keys.len() {
        return Err(bad(path, "two of its keys have one id: restore it"));
    }
    Ok(keys)
}

/// Makes the file with one key, whole or not at all: two servers that start at once agree on one key.
pub(super) fn create(path: &Path) -> Result<(), SealError> {
    let draft = draft(path, &[(KeyId(random()?), random()?)])?;
    let linked = fs::hard_link(&draft, path);
    fs::remove_file(&draft).map_err(failed(path))?;
    match linked {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        linked => linked.map_err(failed(path))?,
    }
    sync_parent(path)
}

fn replace(path: &Path, keys: &[(KeyId, [u8; KEY])]) -> Result<(), SealError> {
    let draft = draft(path, keys)?;
    fs::rename(&draft, path).map_err(failed(path))?;
    sync_parent(path)
}

/// Writes a file beside it, durably, that only its owner may read.
fn draft(path: &Path, keys: &[(KeyId, [u8; KEY])]) -> Result<PathBuf, SealError> {
    let text: String = keys.iter().map(|(id, key)| format!("{NAME} {id} {}\n", hex(key))).collect();
    let draft = path.with_added_extension(format!("{}.new", KeyId(random()?)));
    let write = || {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(failed(path))?;
    Ok(draft)
}

fn sync_parent(path: &Path) -> Result<(), SealError> {
    File::open(parent(path)).and_then(|dir| dir.sync_all()).map_err(failed(path))
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Held by whoever changes the file. The directory's lock: the file itself is another after each change.
fn turn(path: &Path) -> Result<File, SealError> {
    let directory = File::open(parent(path)).map_err(failed(path))?;
    rustix::fs::flock(&directory, rustix::fs::FlockOperation::LockExclusive)
        .map_err(|errno| failed(path)(errno.into()))?;
    Ok(directory)
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> SealError {
    let path = path.to_owned();
    move |source| SealError::File { path, source }
}

fn bad(path: &Path, problem: &'static str) -> SealError {
    SealError::BadFile { path: path.to_owned(), problem }
}

fn parse(line: &str) -> Option<(KeyId, [u8; KEY])> {
    let mut words = line.split_ascii_whitespace();
    let (Some(NAME), Some(id), Some(key), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return None;
    };
    Some((KeyId(unhex(id)?), unhex(key)?))
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
