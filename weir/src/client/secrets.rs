//! `weir secrets status|add-key|rotate-key|drop-key`: the keys that secrets are sealed with; `weir secrets rotate-tickets`:
//! those of TLS session tickets.
//!
//! The key file is edited here, on the machine that it is on; what the store has to do with it is asked of the servers.
//! Each step may be interrupted and done again.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use api::{
    admin::{
        ResealRequest, RetireKeyRequest, RotateTicketKeysRequest, SealingStatusRequest, SealingStatusResponse,
    },
    client::Admin,
};
use clap::Subcommand;
use store::seal::{self, KeyId};
use tokio::time::{Instant, sleep};
use tonic::Code;

use super::{Connect, refusal};
use crate::output::{self, Format, Table};

/// A server looks at its key file each second.
const KEY_FILES: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(250);

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Which key seals, what needs each key, and which servers have it
    Status {
        /// table, json or yaml
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
        #[command(flatten)]
        connect: Connect,
    },
    /// Add a new key to the key file on this machine; nothing uses it yet
    AddKey {
        #[command(flatten)]
        file: KeyFile,
        #[command(flatten)]
        connect: Connect,
    },
    /// Seal every secret with a new key, and drop the old one when nothing needs it
    RotateKey {
        /// The new key's id; by default the last one of the key file, or one that is added to it
        #[arg(long, value_name = "ID")]
        to: Option<KeyId>,
        /// Forget the history that needs the old key: no read, watch or rollback to before
        #[arg(long)]
        forget_history: bool,
        #[command(flatten)]
        file: KeyFile,
        #[command(flatten)]
        connect: Connect,
    },
    /// Drop a key from the key file on this machine, if nothing needs it
    DropKey {
        /// Its id, from `weir secrets status`
        id: KeyId,
        /// Forget the history that needs it: no read, watch or rollback to before
        #[arg(long)]
        forget_history: bool,
        #[command(flatten)]
        file: KeyFile,
        #[command(flatten)]
        connect: Connect,
    },
    /// Let the next key of TLS session tickets take over now; tickets of the one before it stay good until the rotation after
    RotateTickets {
        /// New keys at once: no ticket that was given stays good
        #[arg(long)]
        revoke: bool,
        #[command(flatten)]
        connect: Connect,
    },
}

/// The key file of the server on this machine.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct KeyFile {
    /// The key file; by default the one beside the data directory
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
}

impl KeyFile {
    fn path(&self, connect: &Connect) -> Result<PathBuf> {
        let path = match &self.key_file {
            Some(path) => path.clone(),
            None => connect.layout()?.key_encryption_key(),
        };
        seal::key_ids(&path)
            .context("run this on a server's machine, or name its key file with --key-file")?;
        Ok(path)
    }
}

pub(crate) async fn run(command: Command) -> Result<()> {
    match command {
        Command::Status { output, connect } => show(output, &status(&mut connect.client()?).await?),
        Command::AddKey { file, connect } => {
            let path = file.path(&connect)?;
            let id = seal::add_key(&path)?;
            output::text(&format!(
                "key {id} added to {}\n\n\
                 Back the file up. On several servers copy it to each of their machines (mode 0600); then\n\
                 `weir secrets rotate-key` seals every secret with the new key.\n",
                path.display()
            ))
        }
        Command::RotateKey { to, forget_history, file, connect } => {
            let path = file.path(&connect)?;
            rotate(&mut connect.client()?, &path, to, forget_history).await
        }
        Command::DropKey { id, forget_history, file, connect } => {
            let path = file.path(&connect)?;
            match drop_key(&mut connect.client()?, &path, id, forget_history).await? {
                Dropped::Needed(why) => bail!("key {id} stays in {}: {why}", path.display()),
                Dropped::Gone(text) => output::text(&text),
            }
        }
        Command::RotateTickets { revoke, connect } => {
            let request = RotateTicketKeysRequest { revoke };
            let answer = connect.client()?.secrets.rotate_ticket_keys(request).await.map_err(refusal)?;
            let what = if revoke { "session tickets revoked" } else { "ticket keys rotated" };
            output::text(&format!("{what} at revision {}\n", answer.into_inner().revision))
        }
    }
}

async fn status(client: &mut Admin) -> Result<SealingStatusResponse> {
    Ok(client.secrets.sealing_status(SealingStatusRequest {}).await.map_err(refusal)?.into_inner())
}

fn show(format: Format, status: &SealingStatusResponse) -> Result<()> {
    let holders = |id: &str| -> Vec<u64> {
        let servers = status.servers.iter().filter(|server| server.keys.iter().any(|key| key == id));
        servers.map(|server| server.id).collect()
    };
    let keys: Vec<_> = status
        .keys
        .iter()
        .map(|key| {
            serde_json::json!({
                "id": key.id, "seals": key.id == status.current, "values": key.values,
                "past_values": key.past_values, "servers": holders(&key.id),
            })
        })
        .collect();
    output::print(format, &keys, || {
        let mut table = Table::new(&["KEY", "SEALS", "VALUES", "IN HISTORY", "SERVERS"]);
        for key in &status.keys {
            let seals = if key.id == status.current { "yes" } else { "" };
            let servers: Vec<_> = holders(&key.id).iter().map(ToString::to_string).collect();
            table.row([
                key.id.clone(),
                seals.to_owned(),
                key.values.to_string(),
                key.past_values.to_string(),
                servers.join(" "),
            ]);
        }
        table
    })
}

async fn rotate(client: &mut Admin, path: &Path, to: Option<KeyId>, forget_history: bool) -> Result<()> {
    let current = status(client).await?.current;
    let new = match to {
        Some(id) => id,
        // The newest key is last: if it does not seal, this goes on with what was begun before.
        None => match seal::key_ids(path)?.last() {
            Some(last) if last.to_string() != current => *last,
            _ => seal::add_key(path)?,
        },
    };
    on_all_servers(client, path, new).await?;
    let mut sealed = 0;
    loop {
        let request = ResealRequest { key: new.to_string() };
        let answer = client.secrets.reseal(request).await.map_err(refusal)?.into_inner();
        sealed += answer.resealed;
        if answer.resealed > 0 && answer.remaining > 0 {
            output::note(&format!("{sealed} values sealed anew, {} to go", answer.remaining));
        }
        if answer.remaining > 0 && answer.resealed == 0 {
            bail!(
                "{} values are not sealed anew; their keys stay in use:\n  {}",
                answer.remaining,
                answer.failed.join("\n  ")
            );
        }
        if answer.remaining == 0 {
            break;
        }
    }
    output::text(&format!("key {new} seals; values sealed anew: {sealed}\n"))?;
    for old in seal::key_ids(path)?.into_iter().filter(|id| *id != new) {
        match drop_key(client, path, old, forget_history).await? {
            Dropped::Gone(text) => output::text(&text)?,
            // The rotation has done what it could: the old key opens what is left.
            Dropped::Needed(why) => output::text(&format!(
                "key {old} stays in {} for now: {why}\nlater: weir secrets drop-key {old}\n",
                path.display()
            ))?,
        }
    }
    Ok(())
}

/// Waits until each server has said that its key file holds the key.
async fn on_all_servers(client: &mut Admin, path: &Path, key: KeyId) -> Result<()> {
    let until = Instant::now() + KEY_FILES;
    loop {
        let servers = status(client).await?.servers;
        let lacking: Vec<_> = servers
            .iter()
            .filter(|server| !server.keys.contains(&key.to_string()))
            .map(|server| server.id.to_string())
            .collect();
        if lacking.is_empty() {
            return Ok(());
        }
        if Instant::now() >= until {
            bail!(
                "key {key} is in {}, but not in the key files of servers {}: copy the file to their machines (mode \
                 0600), then run this again. Nothing uses the key yet",
                path.display(),
                lacking.join(", ")
            );
        }
        sleep(POLL).await;
    }
}

/// What became of a key that was to be dropped.
enum Dropped {
    /// What to tell of it.
    Gone(String),
    /// It stays, and why.
    Needed(String),
}

async fn drop_key(client: &mut Admin, path: &Path, id: KeyId, forget_history: bool) -> Result<Dropped> {
    if !seal::key_ids(path)?.contains(&id) {
        bail!("key {id} is not in {}", path.display());
    }
    let request = RetireKeyRequest { key: id.to_string(), forget_history };
    let answer = match client.secrets.retire_key(request).await {
        Ok(answer) => answer.into_inner(),
        Err(status) if status.code() == Code::FailedPrecondition => {
            return Ok(Dropped::Needed(status.message().to_owned()));
        }
        Err(status) => return Err(refusal(status)),
    };
    seal::drop_key(path, id)?;
    let mut text = format!("key {id} dropped from {}\n", path.display());
    if answer.servers.len() > 1 {
        let servers: Vec<_> = answer.servers.iter().map(ToString::to_string).collect();
        text.push_str(&format!(
            "the key files of servers {} may still have it: run `weir secrets drop-key {id}` on each of their machines\n",
            servers.join(", ")
        ));
    }
    text.push_str("backups that were made before need it: keep a copy beside them\n");
    Ok(Dropped::Gone(text))
}
