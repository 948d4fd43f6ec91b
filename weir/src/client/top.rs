//! `weir top`: the workers, drawn again every second.

use std::time::Duration;

use anyhow::Result;
use api::admin::ListWorkersRequest;

use super::{Connect, refusal, workers::table};
use crate::output;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this pool
    #[arg(long, default_value = "")]
    pool: String,
    /// Draw once and end
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    connect: Connect,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let mut client = args.connect.client()?;
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    loop {
        ticks.tick().await;
        let request = ListWorkersRequest { pool: args.pool.clone() };
        let mut workers = client.workers.list_workers(request).await.map_err(refusal)?.into_inner().workers;
        workers.sort_by(|a, b| b.requests_per_second.total_cmp(&a.requests_per_second));
        let rate: f64 = workers.iter().map(|w| w.requests_per_second).sum();
        let connections: u64 = workers.iter().map(|w| w.connections).sum();
        let clear = if output::interactive() && !args.once { "\x1b[H\x1b[2J" } else { "" };
        output::text(&format!(
            "{clear}workers {}   requests/s {rate:.0}   connections {connections}\n\n{}",
            workers.len(),
            table(&workers).render()
        ))?;
        if args.once {
            return Ok(());
        }
    }
}
