//! `weir events`.

use anyhow::Result;
use api::admin::{Event, EventsRequest};
use tokio_stream::StreamExt;

use super::{Connect, refusal};
use crate::output::{self, Format};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this pool
    #[arg(long, default_value = "")]
    pool: String,
    /// At most this many past events
    #[arg(long, default_value_t = 100)]
    limit: u32,
    /// Go on with new ones as they come
    #[arg(short, long)]
    follow: bool,
    /// table, or json (one object a line)
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    connect: Connect,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let mut client = args.connect.client()?;
    let request = EventsRequest { pool: args.pool, limit: args.limit, follow: args.follow };
    let mut events = client.workers.events(request).await.map_err(refusal)?.into_inner();
    while let Some(event) = events.next().await {
        output::text(&line(args.output, &event.map_err(refusal)?)?)?;
    }
    Ok(())
}

fn line(format: Format, e: &Event) -> Result<String> {
    let at = jiff::Timestamp::from_millisecond(e.at_ms)?;
    Ok(match format {
        Format::Table => {
            let change = if e.workers_before == e.workers_after {
                e.workers_after.to_string()
            } else {
                format!("{} -> {}", e.workers_before, e.workers_after)
            };
            format!("{at:.3}   {:<10} {:<15} {change:<10} {}\n", e.pool, e.kind, e.reason)
        }
        Format::Json | Format::Yaml => {
            let value = serde_json::json!({
                "at": at.to_string(), "pool": e.pool, "kind": e.kind, "reason": e.reason,
                "workers_before": e.workers_before, "workers_after": e.workers_after,
            });
            let separator = if format == Format::Yaml { "---\n" } else { "" };
            format!("{separator}{value}\n")
        }
    })
}
