//! Which installation a server is of, from its flags and its data directory.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use api::pki::{self, Ca, Identity};
use store::{Store, seal::Sealer};

use super::{
    Args,
    member::{Alone, Server},
};
use crate::layout::{Layout, ServerFile};

/// A server's installation, with no option left to interpret.
#[derive(Debug)]
pub(super) struct Installation {
    pub(super) listen_admin: String,
    pub(super) listen_peers: String,
    pub(super) metrics: SocketAddr,
    pub(super) http: SocketAddr,
    pub(super) https: SocketAddr,
    pub(super) domain: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// One server, whose files are where the flags say: `weir up` starts it.
    Alone { store: PathBuf, key_file: PathBuf, pki: PathBuf, admin_token_file: PathBuf },
    /// One of several, or one that may be joined: its directory says all.
    Member { layout: Layout, file: Box<ServerFile> },
}

const fn local(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

impl Installation {
    pub(super) fn find(args: &Args) -> Result<Self> {
        match (&args.pki, &args.key_file, &args.admin_token_file) {
            (Some(pki), Some(key_file), Some(token)) => Ok(Self::alone(args, pki, key_file, token)),
            _ => Self::member(args),
        }
    }

    fn alone(args: &Args, pki: &Path, key_file: &Path, admin_token_file: &Path) -> Self {
        Self {
            listen_admin: args.admin.unwrap_or(local(7070)).to_string(),
            listen_peers: args.feed.unwrap_or(local(7072)).to_string(),
            metrics: args.metrics.unwrap_or(local(7071)),
            http: args.http.unwrap_or(local(8080)),
            https: args.https.unwrap_or(local(8443)),
            domain: args.domain.clone().unwrap_or_else(|| "localhost".into()),
            kind: Kind::Alone {
                store: args.data.clone(),
                key_file: key_file.to_owned(),
                pki: pki.to_owned(),
                admin_token_file: admin_token_file.to_owned(),
            },
        }
    }

    fn member(args: &Args) -> Result<Self> {
        let layout = Layout::new(&args.data)?;
        let Some(file) = layout.read_server()? else {
            bail!(
                "{} is no server's directory: make one with `weir cluster init`, or with `weir cluster join` \
                 (`weir cluster add` at a running server prints the command)",
                layout.root().display()
            );
        };
        let parse = |what: &str, text: &str| -> Result<SocketAddr> {
            text.parse().with_context(|| format!("{what} {text:?} in {}", layout.server_file().display()))
        };
        let listen = |flag: Option<SocketAddr>, own: &Option<String>, told: &str| {
            flag.map(|address| address.to_string()).or_else(|| own.clone()).unwrap_or_else(|| told.to_owned())
        };
        Ok(Self {
            listen_admin: listen(args.admin, &file.listen_admin, &file.admin),
            listen_peers: listen(args.feed, &file.listen_peers, &file.peers),
            metrics: args.metrics.map_or_else(|| parse("metrics", &file.metrics), Ok)?,
            http: args.http.map_or_else(|| parse("http", &file.http), Ok)?,
            https: args.https.map_or_else(|| parse("https", &file.https), Ok)?,
            domain: args.domain.clone().unwrap_or_else(|| file.domain.clone()),
            kind: Kind::Member { layout, file: Box::new(file) },
        })
    }

    /// Opens the store. A server that joins has nothing in it until the leader reaches it.
    pub(super) async fn open(&self) -> Result<Server> {
        match &self.kind {
            Kind::Alone { store, key_file, pki, admin_token_file } => {
                let ca = Arc::new(Ca::load(pki)?);
                let identity = pki::load(pki, "server")?;
                let token = std::fs::read_to_string(admin_token_file)
                    .with_context(|| format!("read the admin token in {}", admin_token_file.display()))?;
                expect_key(store, key_file)?;
                let store = Store::open(store::Config::new(store)).await?;
                let sealer = Arc::new(Sealer::from_file(key_file)?);
                Ok(Server::alone(store, sealer, identity, Alone { ca, token }))
            }
            Kind::Member { layout, file } => {
                let key_file = layout.key_encryption_key();
                if !key_file.exists() {
                    bail!("{} is missing: restore it from its backup", key_file.display());
                }
                let sealer = Arc::new(Sealer::from_file(&key_file)?);
                let read = |path: PathBuf| {
                    std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
                };
                let ca_pem = read(layout.ca())?;
                let identity: Identity = pki::load(&layout.pki(), "server")?;
                Server::member(layout.clone(), (**file).clone(), sealer, (identity, ca_pem)).await
            }
        }
    }
}

/// A new key beside old data would open none of its secrets, and hide that the old one is lost.
fn expect_key(data: &Path, key_file: &Path) -> Result<()> {
    let has_data = std::fs::read_dir(data).is_ok_and(|mut entries| entries.next().is_some());
    if has_data && !key_file.exists() {
        bail!(
            "{} is missing, and the secrets in {} can be opened with nothing else: restore it from its backup",
            key_file.display(),
            data.display()
        );
    }
    Ok(())
}
