//! `weir cluster`, `weir node join`, `weir backup`, `weir restore`: what makes and mends an installation of several
//! servers. What asks a running server is in [`client`](crate::client::cluster).

pub(crate) mod backup;
pub(crate) mod init;
pub(crate) mod join;
pub(crate) mod node;
pub(crate) mod restore;

use std::net::SocketAddr;

use anyhow::{Result, bail};
use clap::Subcommand;

use crate::client;

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

impl Place {
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
