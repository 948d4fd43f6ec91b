//! Certificates and keys in files: `<name>.pem` and `<name>.key`, the key readable by its owner only.

use std::{fs, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::Path};

use super::{Identity, PkiError};

/// The identity in `<name>.pem` and `<name>.key` of `directory`.
///
/// # Errors
///
/// A file cannot be read.
pub fn load(directory: &Path, name: &str) -> Result<Identity, PkiError> {
    let read = |extension: &str| {
        let path = directory.join(format!("{name}.{extension}"));
        fs::read_to_string(&path).map_err(|source| PkiError::File { path, source })
    };
    Ok(Identity { cert_pem: read("pem")?, key_pem: read("key")? })
}

/// Writes `<name>.pem` and `<name>.key`, both 0600. A reader sees the old file or the new one, never a part.
///
/// # Errors
///
/// A file cannot be written.
pub fn store(directory: &Path, name: &str, identity: &Identity) -> Result<(), PkiError> {
    // The key first: a certificate without its key is the worse half to be left with.
    for (extension, text) in [("key", &identity.key_pem), ("pem", &identity.cert_pem)] {
        let path = directory.join(format!("{name}.{extension}"));
        replace(&path, text.as_bytes()).map_err(|source| PkiError::File { path, source })?;
    }
    Ok(())
}

fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    // A leftover of a crash may have other permissions: begin with a new file.
    match fs::remove_file(&temporary) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}
