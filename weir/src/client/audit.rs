//! `weir audit`.

use anyhow::{Context as _, Result};
use api::admin::{AuditRecord, ListRecordsRequest};
use jiff::{SignedDuration, Timestamp};

use super::{
    Connect,
    history::{Page, time},
    refusal,
};
use crate::output::{self, Format, Table};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only what concerns this tenant; without it everything, for the platform's administrator
    #[arg(short, long, env = "WEIR_TENANT", default_value = "")]
    tenant: String,
    /// Only of actors that contain this, such as autoscaler, or a token's number
    #[arg(long, default_value = "")]
    actor: String,
    /// Only from this time on: 2026-11-23T08:00:00Z, or an age such as 90m or 2h
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<i64>,
    /// Only before this time
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<i64>,
    #[command(flatten)]
    page: Page,
    /// table, json or yaml
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    connect: Connect,
}

/// A time, or how long ago it was, in milliseconds since the Unix epoch.
fn moment(text: &str) -> Result<i64> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at.as_millisecond());
    }
    let age: SignedDuration =
        text.parse().context("use a time such as 2026-11-23T08:00:00Z, or an age such as 2h")?;
    Ok((Timestamp::now() - age).as_millisecond())
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let mut client = args.connect.client()?;
    let request = ListRecordsRequest {
        tenant: args.tenant,
        actor: args.actor,
        since_ms: args.since.unwrap_or(0),
        until_ms: args.until.unwrap_or(0),
        before: args.page.before,
        limit: args.page.limit,
    };
    let response = client.audit.list_records(request).await.map_err(refusal)?.into_inner();
    if response.next > 0 {
        output::note(&format!("there may be older ones: --before {}", response.next));
    }
    let records: Vec<_> = response.records.iter().map(value).collect();
    let value = serde_json::json!({
        "records": records, "compacted": response.compacted, "next": response.next,
    });
    output::print(args.output, &value, || {
        let mut table = Table::new(&["REVISION", "TIME", "ACTOR", "FROM", "WHAT", "KEYS"]);
        for record in response.records {
            let keys = words(&record);
            let AuditRecord { revision, time_ms, actor, origin, note, .. } = record;
            table.row([revision.to_string(), time(time_ms), actor, origin, note, keys]);
        }
        table
    })
}

fn value(record: &AuditRecord) -> serde_json::Value {
    let keys: Vec<_> = record
        .keys
        .iter()
        .map(|key| serde_json::json!({"key": key.key, "operation": key.operation}))
        .collect();
    serde_json::json!({
        "revision": record.revision, "time": time(record.time_ms), "actor": record.actor,
        "origin": record.origin, "note": record.note, "keys": keys,
    })
}

/// The first few keys.
fn words(record: &AuditRecord) -> String {
    const SHOWN: usize = 3;
    let shown = record.keys.iter().take(SHOWN).map(|key| format!("{} {}", key.key, key.operation));
    let mut words: Vec<String> = shown.collect();
    if record.keys.len() > SHOWN {
        words.push(format!("{} more", record.keys.len() - SHOWN));
    }
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_one_or_an_age() {
        assert_eq!(moment("1970-01-01T00:00:01Z").unwrap(), 1_000);
        let ago = Timestamp::now().as_millisecond() - moment("2h").unwrap();
        assert!((7_200_000..7_260_000).contains(&ago), "{ago}");
        assert!(moment("yesterday").is_err());
    }
}
