//! `weir history`.

use anyhow::Result;
use api::admin::{Change, ChangedObject, HistoryRequest};

use super::{Connect, kind, refusal};
use crate::output::{self, Format, Table};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Kind, such as httproute; without it every kind is shown
    kind: Option<String>,
    /// Only the object of that name
    name: Option<String>,
    /// Tenant
    #[arg(short, long, env = "WEIR_TENANT", default_value = "platform")]
    tenant: String,
    /// Only this namespace
    #[arg(short, long, default_value = "")]
    namespace: String,
    #[command(flatten)]
    page: Page,
    /// table, json or yaml
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    connect: Connect,
}

/// Which part of a long list.
#[derive(Debug, clap::Args)]
pub(super) struct Page {
    /// Revisions before this one
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(super) before: u64,
    /// At most this many
    #[arg(long, default_value_t = 100)]
    pub(super) limit: u32,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let kind = args.kind.as_deref().map(kind).transpose()?.unwrap_or_default();
    let mut client = args.connect.client()?;
    let request = HistoryRequest {
        tenant: args.tenant,
        kind: kind.into(),
        namespace: args.namespace,
        name: args.name.unwrap_or_default(),
        before: args.page.before,
        limit: args.page.limit,
    };
    let response = client.objects.history(request).await.map_err(refusal)?.into_inner();
    if response.next > 0 {
        output::note(&format!("there are older ones: --before {}", response.next));
    }
    let changes: Vec<_> = response.changes.iter().map(value).collect::<Result<_>>()?;
    let value = serde_json::json!({"changes": changes, "oldest": response.oldest, "next": response.next});
    output::print(args.output, &value, || {
        let mut table = Table::new(&["REVISION", "TIME", "ACTOR", "FROM", "CHANGES"]);
        for change in response.changes {
            let objects = words(&change.objects);
            table.row([
                change.revision.to_string(),
                time(change.time_ms),
                change.actor,
                change.origin,
                objects,
            ]);
        }
        table
    })
}

fn value(change: &Change) -> Result<serde_json::Value> {
    let objects: Vec<_> = change
        .objects
        .iter()
        .map(|object| {
            let key = object.key.clone().unwrap_or_default();
            serde_json::json!({
                "operation": object.operation, "kind": key.kind, "namespace": key.namespace,
                "name": key.name, "generation": object.generation,
            })
        })
        .collect();
    Ok(serde_json::json!({
        "revision": change.revision, "time": time(change.time_ms), "actor": change.actor,
        "origin": change.origin, "note": change.note, "objects": objects,
    }))
}

/// Milliseconds since the Unix epoch, for people.
pub(super) fn time(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |at| format!("{at:.3}"))
}

/// The first few changes.
fn words(objects: &[ChangedObject]) -> String {
    const SHOWN: usize = 3;
    let mut words: Vec<String> = objects
        .iter()
        .take(SHOWN)
        .map(|object| {
            let key = object.key.clone().unwrap_or_default();
            format!("{} {}/{} {}", key.kind, key.namespace, key.name, object.operation)
        })
        .collect();
    if objects.len() > SHOWN {
        words.push(format!("{} more", objects.len() - SHOWN));
    }
    words.join(", ")
}
