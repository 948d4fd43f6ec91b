//! `weir cluster status`.

use anyhow::Result;
use api::admin::StatusRequest;
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
}

pub(crate) async fn run(command: Command) -> Result<()> {
    let Command::Status { output, connect } = command;
    let mut client = connect.client()?;
    let s = client.cluster.status(StatusRequest {}).await.map_err(refusal)?.into_inner();
    let members: Vec<_> = s
        .members
        .iter()
        .map(|m| serde_json::json!({"id": m.id, "address": m.address, "voter": m.voter, "leader": m.id == s.leader}))
        .collect();
    let value = serde_json::json!({
        "version": s.version, "leader": s.leader, "term": s.term, "applied_index": s.applied_index,
        "commit_index": s.commit_index, "revision": s.revision, "members": members, "nodes": s.nodes,
        "epoch": format!("{}.{:016x}", s.epoch_counter, s.epoch_id),
        "state_bytes": s.state_bytes, "wal_bytes": s.wal_bytes,
    });
    output::print(output, &value, || {
        let mut table = Table::new(&["FIGURE", "VALUE"]);
        for (name, cell) in value.as_object().into_iter().flatten() {
            let text = cell.as_str().map_or_else(|| cell.to_string(), ToOwned::to_owned);
            table.row([name.replace('_', " "), text]);
        }
        table
    })
}
