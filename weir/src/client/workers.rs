//! `weir workers`.

use anyhow::Result;
use api::admin::{DrainWorkerRequest, ListWorkersRequest, Worker};

use super::{Connect, refusal};
use crate::output::{self, Format, Table};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Drain this worker; the autoscaler replaces it if it is needed
    #[arg(long, value_name = "WORKER")]
    drain: Option<String>,
    /// Only this pool
    #[arg(long, default_value = "")]
    pool: String,
    /// table, json or yaml
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    connect: Connect,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let mut client = args.connect.client()?;
    if let Some(worker) = args.drain {
        client.workers.drain_worker(DrainWorkerRequest { worker: worker.clone() }).await.map_err(refusal)?;
        return output::text(&format!("worker {worker} drains\n"));
    }
    let request = ListWorkersRequest { pool: args.pool };
    let workers = client.workers.list_workers(request).await.map_err(refusal)?.into_inner().workers;
    output::print(args.output, &workers.iter().map(value).collect::<Vec<_>>(), || table(&workers))
}

fn value(w: &Worker) -> serde_json::Value {
    serde_json::json!({
        "worker": w.worker, "pool": w.pool, "node": w.node, "pid": w.pid, "state": w.state, "slots": w.slots,
        "revision": w.revision, "requests_per_second": w.requests_per_second, "cpu": w.cpu,
        "connections": w.connections, "in_flight": w.in_flight, "memory_bytes": w.memory_bytes,
        "latency_p50_us": w.latency_p50_us, "latency_p99_us": w.latency_p99_us,
        "error_ratio": w.error_ratio, "nacks": w.nacks,
    })
}

pub(super) fn table(workers: &[Worker]) -> Table {
    let header = [
        "WORKER", "POOL", "STATE", "PID", "SLOTS", "REVISION", "REQ/S", "CPU", "CONNS", "P50", "P99",
        "ERRORS", "MIB",
    ];
    let mut table = Table::new(&header);
    for w in workers {
        table.row([
            w.worker.clone(),
            w.pool.clone(),
            w.state.clone(),
            w.pid.to_string(),
            w.slots.to_string(),
            w.revision.to_string(),
            format!("{:.0}", w.requests_per_second),
            format!("{:.0}%", w.cpu * 100.0),
            w.connections.to_string(),
            milliseconds(w.latency_p50_us),
            milliseconds(w.latency_p99_us),
            format!("{:.2}%", w.error_ratio * 100.0),
            (w.memory_bytes >> 20).to_string(),
        ]);
    }
    table
}

#[expect(clippy::cast_precision_loss, reason = "for people, to a tenth of a millisecond")]
fn milliseconds(us: u64) -> String {
    format!("{:.1}ms", us as f64 / 1000.0)
}
