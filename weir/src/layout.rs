//! Where an installation keeps its files: one directory, and the key-encryption key beside it.
//!
//! ```text
//! weir-data/            0700
//!   up.lock             held by the running `up`, with its process id
//!   client.json         where the admin API is, for the command line
//!   admin.token         0600, the platform admin's bearer token
//!   demo                present if `up --demo` made the directory and will remove it
//!   pki/                ca.pem ca.key server.pem server.key node.pem node.key
//!   server/             the store
//!   node/               the agent's socket, plan and worker caches
//!   server.json         of a server that `weir cluster init` or `join` made: who and where it is
//!   node.json           of a host agent that `weir node join` made
//! weir-data.key         0600, outside the directory: a backup of the one is useless without the other
//! ```

mod member;

use std::{
    ffi::OsString,
    fs,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

pub(crate) use member::{NodeFile, ServerFile, Start};

/// The default data directory, in the current directory.
pub(crate) const DEFAULT_DATA: &str = "weir-data";

/// The files of one installation.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
}

/// What a client needs to find the admin API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClientFile {
    /// `host:port`
    pub(crate) admin: String,
    /// The other servers', to be tried in turn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) others: Vec<String>,
}

impl ClientFile {
    /// With this address first, and these after it.
    pub(crate) fn new(admin: &str, all: &[String]) -> Self {
        let others = all.iter().filter(|other| *other != admin).cloned().collect();
        Self { admin: admin.to_owned(), others }
    }

    /// All addresses, the nearest first.
    pub(crate) fn addresses(self) -> Vec<String> {
        [vec![self.admin], self.others].concat()
    }
}

impl Layout {
    /// The layout below `root`, which is made absolute: children run elsewhere.
    pub(crate) fn new(root: &Path) -> Result<Self> {
        let root = std::path::absolute(root).with_context(|| format!("find {}", root.display()))?;
        Ok(Self { root })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }
    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("up.lock")
    }
    pub(crate) fn client(&self) -> PathBuf {
        self.root.join("client.json")
    }
    pub(crate) fn admin_token(&self) -> PathBuf {
        self.root.join("admin.token")
    }
    pub(crate) fn demo_marker(&self) -> PathBuf {
        self.root.join("demo")
    }
    pub(crate) fn pki(&self) -> PathBuf {
        self.root.join("pki")
    }
    pub(crate) fn ca(&self) -> PathBuf {
        self.pki().join("ca.pem")
    }
    /// The CA's certificate and key, sealed, until the store has them.
    pub(crate) fn sealed_ca(&self) -> PathBuf {
        self.pki().join("ca.sealed")
    }
    pub(crate) fn server(&self) -> PathBuf {
        self.root.join("server")
    }
    pub(crate) fn node(&self) -> PathBuf {
        self.root.join("node")
    }
    pub(crate) fn agent_socket(&self) -> PathBuf {
        self.node().join("agent.sock")
    }

    /// The key-encryption key, beside the directory and never in it.
    pub(crate) fn key_encryption_key(&self) -> PathBuf {
        let mut name = self.root.file_name().map_or_else(|| OsString::from(DEFAULT_DATA), OsString::from);
        name.push(".key");
        self.root.with_file_name(name)
    }

    /// Makes the directories that are missing, readable by their owner alone.
    pub(crate) fn create(&self) -> Result<()> {
        for dir in [self.root.clone(), self.pki(), self.server(), self.node()] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&dir)
                .with_context(|| format!("make directory {}", dir.display()))?;
        }
        Ok(())
    }

    /// Refuses a directory that something is in already, and a key file that is there without one: it may be the only
    /// way to somebody's secrets.
    pub(crate) fn expect_new(&self) -> Result<()> {
        if fs::read_dir(&self.root).is_ok_and(|mut entries| entries.next().is_some()) {
            bail!("{} is not empty: give another directory with --data", self.root.display());
        }
        if self.key_encryption_key().exists() {
            bail!(
                "{} is there, the key file of an installation whose directory is not: move it away if that is gone for good",
                self.key_encryption_key().display()
            );
        }
        Ok(())
    }

    pub(crate) fn write_client(&self, client: &ClientFile) -> Result<()> {
        write_private(&self.client(), serde_json::to_string_pretty(client)?.as_bytes())
    }

    /// What `up` last wrote for clients, if it did.
    pub(crate) fn read_client(&self) -> Result<Option<ClientFile>> {
        let path = self.client();
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .with_context(|| format!("read {}: remove it and start `weir up` again", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }
}

/// Writes a file that only its owner may read, whole or not at all.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = path.with_extension("tmp");
    let write = || -> std::io::Result<()> {
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_beside_the_directory() {
        let layout = Layout::new(Path::new("/a/weir-data")).unwrap();
        assert_eq!(layout.key_encryption_key(), Path::new("/a/weir-data.key"));
        assert!(!layout.key_encryption_key().starts_with(layout.root()));
    }
}
