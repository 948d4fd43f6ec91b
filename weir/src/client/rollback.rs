//! `weir rollback`.

use anyhow::Result;
use api::admin::RollbackRequest;

use super::{Connect, refusal};
use crate::output::{self, Format, Table};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Tenant
    #[arg(short, long, env = "WEIR_TENANT", default_value = "platform")]
    tenant: String,
    /// The revision to go back to (see weir history)
    #[arg(long, value_name = "N")]
    to: u64,
    /// Only if the tenant was not changed after this revision
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    unchanged_since: u64,
    /// Check everything, change nothing
    #[arg(long)]
    dry_run: bool,
    /// table, json or yaml
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    connect: Connect,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let mut client = args.connect.client()?;
    let request = RollbackRequest {
        tenant: args.tenant,
        revision: args.to,
        dry_run: args.dry_run,
        request_id: format!("{:032x}", rand::random::<u128>()),
        unchanged_since: args.unchanged_since,
        epoch: None,
    };
    let response = client.objects.rollback(request).await.map_err(refusal)?.into_inner();
    for warning in &response.warnings {
        output::note(&format!("warning: {warning}"));
    }
    let end = if args.dry_run {
        "dry run: nothing was changed".to_owned()
    } else {
        format!("revision {}", response.revision)
    };
    output::note(&end);
    let objects: Vec<_> = response
        .applied
        .iter()
        .map(|applied| {
            let key = applied.key.clone().unwrap_or_default();
            serde_json::json!({
                "kind": key.kind, "namespace": key.namespace, "name": key.name, "outcome": applied.outcome,
            })
        })
        .collect();
    let value = serde_json::json!({
        "revision": response.revision, "dryRun": args.dry_run, "objects": objects, "warnings": response.warnings,
    });
    output::print(args.output, &value, || {
        let mut table = Table::new(&["KIND", "NAMESPACE", "NAME", "OUTCOME"]);
        for applied in response.applied {
            let key = applied.key.unwrap_or_default();
            table.row([key.kind, key.namespace, key.name, applied.outcome]);
        }
        table
    })
}
