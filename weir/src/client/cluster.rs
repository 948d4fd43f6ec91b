//! `weir cluster status|add|promote|remove|token`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use api::admin::{
    CreateJoinTokenRequest, CreateJoinTokenResponse, JoinToken, ListJoinTokensRequest, PromoteRequest,
    RemoveRequest, RevokeJoinTokenRequest, StatusRequest,
};
use clap::Subcommand;

use super::{Connect, refusal};
use crate::output::{self, Format, Table};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Members, leader, revision and sizes of the store
    Status {
        /// table, json or yaml
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
        #[command(flatten)]
        connect: Connect,
    },
    /// Make a join token and print the command that adds a server with it
    Add {
        /// How long the token is good: 90s, 30m, 2h
        #[arg(long, value_name = "TIME", default_value = "1h", value_parser = time)]
        ttl: Duration,
        #[command(flatten)]
        connect: Connect,
    },
    /// Have a learner vote now (those that have caught up do so by themselves)
    Promote {
        /// Its id, from `weir cluster status`
        id: u64,
        #[command(flatten)]
        connect: Connect,
    },
    /// Remove a server for ever: its id is never used again
    Remove {
        /// Its id, from `weir cluster status`
        id: u64,
        #[command(flatten)]
        connect: Connect,
    },
    /// Make, list and revoke the tokens with which servers and nodes join
    #[command(subcommand)]
    Token(Token),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Make a token, good once (shown once)
    Create {
        /// server, or node: a host agent with its workers
        #[arg(long, value_parser = ["server", "node"])]
        role: String,
        /// How long it is good: 90s, 30m, 2h
        #[arg(long, value_name = "TIME", default_value = "1h", value_parser = time)]
        ttl: Duration,
        #[command(flatten)]
        connect: Connect,
    },
    /// List tokens, used ones and those of the last day among them
    List {
        /// table, json or yaml
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
        #[command(flatten)]
        connect: Connect,
    },
    /// Revoke a token
    Revoke {
        /// Its id: what stands before the first dot
        id: String,
        #[command(flatten)]
        connect: Connect,
    },
}

pub(crate) async fn run(command: Command) -> Result<()> {
    match command {
        Command::Status { output, connect } => status(output, &connect).await,
        Command::Add { ttl, connect } => {
            let created = create("server", ttl, &connect).await?;
            output::text(&format!(
                "On the new machine, within {}:\n\n  weir cluster join{} \\\n    --token {} \\\n    \
                 --data DIR --peers HOST:PORT --admin HOST:PORT\n\nthen: weir server --data DIR\n",
                shown(ttl),
                servers(&created),
                created.token
            ))
        }
        Command::Promote { id, connect } => {
            settle(async || {
                connect.client()?.cluster.promote(PromoteRequest { id }).await.map_err(Failed::Refused)
            })
            .await?;
            output::text(&format!("server {id} votes\n"))
        }
        Command::Remove { id, connect } => {
            let mut asked = false;
            let removed = settle(async || {
                let answer = connect.client()?.cluster.remove(RemoveRequest { id }).await;
                let again = std::mem::replace(&mut asked, true);
                match answer {
                    // The one that was asked before did it, and its answer was lost.
                    Err(status) if again && status.code() == tonic::Code::NotFound => Ok(()),
                    answer => answer.map(drop).map_err(Failed::Refused),
                }
            });
            removed.await?;
            output::text(&format!(
                "server {id} removed: stop it and delete its data directory, it is of no more use\n"
            ))
        }
        Command::Token(Token::Create { role, ttl, connect }) => {
            let created = create(&role, ttl, &connect).await?;
            output::text(&format!("{}\n", created.token))
        }
        Command::Token(Token::List { output, connect }) => list(output, &connect).await,
        Command::Token(Token::Revoke { id, connect }) => {
            let request = RevokeJoinTokenRequest { id: id.clone() };
            connect.client()?.cluster.revoke_join_token(request).await.map_err(refusal)?;
            output::text(&format!("join token {id} revoked\n"))
        }
    }
}

/// How long a change of membership waits for one that is under way, or for leadership to be handed over.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(300);

enum Failed {
    Refused(tonic::Status),
    Other(anyhow::Error),
}

impl From<anyhow::Error> for Failed {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

/// Asks until the answer is more than "in a moment".
async fn settle<T>(mut ask: impl AsyncFnMut() -> Result<T, Failed>) -> Result<T> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match ask().await {
            Ok(done) => return Ok(done),
            Err(Failed::Refused(status))
                if status.code() == tonic::Code::Unavailable && tokio::time::Instant::now() < deadline =>
            {
                tokio::time::sleep(PAUSE).await;
            }
            Err(Failed::Refused(status)) => return Err(refusal(status)),
            Err(Failed::Other(error)) => return Err(error),
        }
    }
}

async fn status(output: Format, connect: &Connect) -> Result<()> {
    let mut client = connect.client()?;
    let s = client.cluster.status(StatusRequest {}).await.map_err(refusal)?.into_inner();
    let members: Vec<_> = s
        .members
        .iter()
        .map(|m| {
            serde_json::json!({
                "id": m.id, "address": m.address, "admin": m.admin, "voter": m.voter, "leader": m.id == s.leader,
            })
        })
        .collect();
    let value = serde_json::json!({
        "version": s.version, "leader": s.leader, "term": s.term, "applied_index": s.applied_index,
        "commit_index": s.commit_index, "revision": s.revision, "members": members, "nodes": s.nodes,
        "epoch": format!("{}.{:016x}", s.epoch_counter, s.epoch_id),
        "state_bytes": s.state_bytes, "wal_bytes": s.wal_bytes, "server": s.server,
    });
    output::print(output, &value, || {
        let mut table = Table::new(&["FIGURE", "VALUE"]);
        for (name, cell) in value.as_object().into_iter().flatten().filter(|(name, _)| *name != "members") {
            let text = cell.as_str().map_or_else(|| cell.to_string(), ToOwned::to_owned);
            table.row([name.replace('_', " "), text]);
        }
        for member in &s.members {
            let part = match (member.id == s.leader, member.voter) {
                (true, _) => "leader",
                (false, true) => "voter",
                (false, false) => "learner",
            };
            let text = format!("{part}, peers {}, admin {}", known(&member.address), known(&member.admin));
            table.row([format!("server {}", member.id), text]);
        }
        table
    })
}

fn known(address: &str) -> &str {
    if address.is_empty() { "-" } else { address }
}

async fn create(role: &str, ttl: Duration, connect: &Connect) -> Result<CreateJoinTokenResponse> {
    let request = CreateJoinTokenRequest { role: role.to_owned(), ttl_s: ttl.as_secs() };
    Ok(connect.client()?.cluster.create_join_token(request).await.map_err(refusal)?.into_inner())
}

/// The servers to join at, as flags.
fn servers(created: &CreateJoinTokenResponse) -> String {
    created.admins.iter().map(|admin| format!(" --server {admin}")).collect()
}

async fn list(output: Format, connect: &Connect) -> Result<()> {
    let tokens =
        connect.client()?.cluster.list_join_tokens(ListJoinTokensRequest {}).await.map_err(refusal)?;
    let tokens = tokens.into_inner().tokens;
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let state = |token: &JoinToken| {
        let left_ms = i128::from(token.expires_at_ms) - i128::try_from(now_ms).unwrap_or(i128::MAX);
        match (token.used_by.as_str(), u64::try_from(left_ms / 1000)) {
            ("", Ok(left_s)) if left_ms > 0 => format!("good for {}", shown(Duration::from_secs(left_s))),
            ("", _) => "over".to_owned(),
            (by, _) => format!("used by {by}"),
        }
    };
    let values: Vec<_> = tokens
        .iter()
        .map(|t| {
            serde_json::json!({
                "id": t.id, "role": t.role, "created_by": t.created_by, "created_at_ms": t.created_at_ms,
                "expires_at_ms": t.expires_at_ms, "used_by": t.used_by,
            })
        })
        .collect();
    output::print(output, &values, || {
        let mut table = Table::new(&["ID", "ROLE", "STATE", "CREATED BY"]);
        for t in &tokens {
            table.row([t.id.clone(), t.role.clone(), state(t), t.created_by.clone()]);
        }
        table
    })
}

/// `90s`, `30m`, `2h`, `1d`.
fn time(text: &str) -> Result<Duration> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number: u64 = number.parse().with_context(|| format!("{text:?} is no time: 90s, 30m or 2h"))?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => bail!("{text:?} is no time: 90s, 30m or 2h"),
    };
    Ok(Duration::from_secs(number.saturating_mul(seconds)))
}

/// The inverse of [`time`], in its largest whole unit.
fn shown(time: Duration) -> String {
    let seconds = time.as_secs();
    let units = [(24 * 3600, "d"), (3600, "h"), (60, "m")];
    let fits = units.into_iter().find(|(unit, _)| seconds > 0 && seconds.is_multiple_of(*unit));
    fits.map_or_else(|| format!("{seconds}s"), |(unit, name)| format!("{}{name}", seconds / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_as_it_is_shown() {
        for text in ["90s", "30m", "2h", "7d", "0s"] {
            assert_eq!(shown(time(text).unwrap()), text);
        }
        for bad in ["", "5", "m", "1 h", "-1s", "1w"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }
}
