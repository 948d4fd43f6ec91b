//! Who and where a server or host agent is that joined an installation of several machines.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Layout, write_private};

/// What an empty store means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Start {
    /// The first server has not started yet.
    Found,
    /// A server that joined has not started yet.
    Join,
    /// That it is lost: there was one.
    Existing,
}

/// `server.json`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServerFile {
    /// Its id in the cluster.
    pub(crate) id: u64,
    /// What an empty store means.
    pub(crate) start: Start,
    /// The cluster that it joins; whichever the store is of, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cluster_id: Option<String>,
    /// Where other servers, agents and workers reach it.
    pub(crate) peers: String,
    /// Where it listens for them, if elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) listen_peers: Option<String>,
    /// Where its admin API is reached.
    pub(crate) admin: String,
    /// Where it listens for that, if elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) listen_admin: Option<String>,
    /// Where it serves metrics.
    pub(crate) metrics: String,
    /// The default pool's addresses and the tenants' domain: the same on all servers.
    pub(crate) http: String,
    pub(crate) https: String,
    pub(crate) domain: String,
}

/// `node.json`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NodeFile {
    /// This machine's name among the nodes.
    pub(crate) name: String,
    /// Where the servers were when it joined; where they are now, its agent remembers.
    pub(crate) servers: Vec<String>,
}

impl Layout {
    pub(crate) fn server_file(&self) -> PathBuf {
        self.root().join("server.json")
    }
    pub(crate) fn node_file(&self) -> PathBuf {
        self.root().join("node.json")
    }

    /// `None`: this directory is no member's.
    pub(crate) fn read_server(&self) -> Result<Option<ServerFile>> {
        read(&self.server_file())
    }

    pub(crate) fn write_server(&self, file: &ServerFile) -> Result<()> {
        write_private(&self.server_file(), serde_json::to_string_pretty(file)?.as_bytes())
    }

    /// `None`: this directory is no host agent's.
    pub(crate) fn read_node(&self) -> Result<Option<NodeFile>> {
        read(&self.node_file())
    }

    pub(crate) fn write_node(&self, file: &NodeFile) -> Result<()> {
        write_private(&self.node_file(), serde_json::to_string_pretty(file)?.as_bytes())
    }
}

fn read<T: DeserializeOwned>(path: &std::path::Path) -> Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .with_context(|| format!("read {}: restore it from a backup", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}
