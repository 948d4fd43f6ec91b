//! `weir cluster`, `weir node join`, `weir backup`, `weir restore`: what makes and mends an installation of several
//! servers. What asks a running server is in [`client`](crate::client::cluster).

pub(crate) mod backup;
pub(crate) mod init;
pub(crate) mod join;
pub(crate) mod node;
pub(crate) mod restore;

use std::{net::SocketAddr, time::SystemTime};

use anyhow::{Result, bail};
use api::pki::{self, Ca, Request, RoleKind};
use clap::Subcommand;
use store::transport::role_name;

use crate::{
    client,
    layout::{ClientFile, Layout, ServerFile, Start, write_private},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a new installation: its CA, its key file, and the data directory of its first server
    Init(init::Args),
    /// Make the data directory of a server that joins an installation (`weir cluster add` prints the command)
    Join(join::Args),
    /// Make a cluster of the one server that is left, when the majority is gone for ever
    ForceNew(restore::ForceArgs),
    #[command(flatten)]
    Ask(client::cluster::Command),
}

pub(crate) fn run(command: Command) -> Result<()> {
    match command {
        Command::Init(args) => init::run(&args),
        Command::Join(args) => client::run(join::run(args)),
        Command::ForceNew(args) => restore::force_new(&args),
        Command::Ask(command) => client::run(client::cluster::run(command)),
    }
}

/// Where a server is, as `init` and `join` are told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Place {
    /// Where other servers, agents and workers will reach this server
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7072")]
    pub(crate) peers: String,
    /// Where it listens for them, if elsewhere
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen_peers: Option<SocketAddr>,
    /// Where its admin API will be reached
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7070")]
    pub(crate) admin: String,
    /// Where it listens for that, if elsewhere
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen_admin: Option<SocketAddr>,
    /// Metrics, HTTP
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7071")]
    pub(crate) metrics: SocketAddr,
}

/// What workers of the default pool serve, as `init` and `restore` are told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct DataPlane {
    /// Where workers of the default pool listen for HTTP (port 80 of a Gateway)
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    http: SocketAddr,
    /// Where workers of the default pool listen for HTTPS (port 443 of a Gateway)
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8443")]
    https: SocketAddr,
    /// Tenants get <tenant>.<domain>
    #[arg(long, default_value = "localhost")]
    domain: String,
}

/// The server that every new cluster begins with.
const FIRST: u64 = 1;

/// What makes a directory the first server's: the CA's certificate, its own, the administrator's token if there is none
/// yet, and, last, `server.json`. A directory without that was not finished, and starts nothing.
fn write_first(layout: &Layout, start: Start, ca: &Ca, place: &Place, serves: &DataPlane) -> Result<()> {
    write_private(&layout.ca(), ca.cert_pem().as_bytes())?;
    let lifetime = controller::CERTIFICATE_LIFETIME;
    let whom = Request { kind: RoleKind::Server, name: role_name(FIRST), dns: vec![], ips: vec![], lifetime };
    pki::store(&layout.pki(), "server", &ca.issue(&whom, SystemTime::now())?)?;
    if !layout.admin_token().exists() {
        write_private(&layout.admin_token(), format!("{}\n", controller::generate_token()?).as_bytes())?;
    }
    layout.write_client(&ClientFile::new(&place.admin, &[]))?;
    layout.write_server(&place.server(FIRST, start, serves))
}

impl Place {
    fn server(&self, id: u64, start: Start, serves: &DataPlane) -> ServerFile {
        ServerFile {
            id,
            start,
            cluster_id: None,
            peers: self.peers.clone(),
            listen_peers: self.listen_peers.map(|address| address.to_string()),
            admin: self.admin.clone(),
            listen_admin: self.listen_admin.map(|address| address.to_string()),
            metrics: self.metrics.to_string(),
            http: serves.http.to_string(),
            https: serves.https.to_string(),
            domain: serves.domain.clone(),
        }
    }

    /// Refuses what cannot be an address.
    pub(crate) fn check(&self) -> Result<()> {
        for (flag, text) in [("--peers", &self.peers), ("--admin", &self.admin)] {
            let authority: Option<http::uri::Authority> = text.parse().ok();
            if authority.and_then(|authority| authority.port_u16()).is_none_or(|port| port == 0) {
                bail!("{flag} {text:?} is not of the form host:port, with a port that others can reach");
            }
        }
        if self.peers == self.admin {
            bail!("--peers and --admin are both {}: give one of them another port", self.peers);
        }
        Ok(())
    }
}
