//! Puts a second beside etcd: `weir server` and `etcd` as processes on this machine, TLS on both, one client.
//!
//! ```text
//! cargo build --release --bin weir && cargo bench -p sim --bench etcd [-- OPTIONS]
//!   --servers 1,3  --clients 1,16,256  --rounds 3  --seconds 3  --only weir|etcd  --dir DIRECTORY
//! ```
//!
//! Both run at once, each with its files below the same directory, and rounds alternate: weir, etcd, weir, etcd ...
//! Figures are medians of the rounds. All clients call the leader, at most 16 on a connection, and wait for an answer
//! before they send the next put: a key that was never used before, with 300 bytes. etcd has its default settings.
#![expect(clippy::print_stdout, reason = "a benchmark's output")]

mod load;
mod probe;
mod servers;
mod wire;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};

use load::Round;
use servers::{Cluster, Etcd, Weir};

/// What is to be measured.
struct Plan {
    servers: Vec<usize>,
    clients: Vec<usize>,
    rounds: usize,
    span: Duration,
    weir: bool,
    etcd: bool,
    dir: PathBuf,
}

fn main() -> Result<()> {
    let plan = plan(std::env::args().skip(1))?;
    let dir = tempfile::Builder::new().prefix("weir-beside-etcd-").tempdir_in(&plan.dir)?;
    println!("load {}; fdatasync of 1 KiB in place: {}", probe::load_average()?, probe::syncs(dir.path())?);
    // One thread: the client takes the same share of the machine from both.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        println!(
            "| servers | clients | store | puts/s | p50 ms | p99 ms | CPU ms of the servers per 1,000 puts |"
        );
        println!("|---|---|---|---|---|---|---|");
        for &count in &plan.servers {
            let mut clusters: Vec<Box<dyn Cluster>> = Vec::new();
            if plan.weir {
                clusters.push(Box::new(Weir::start(&dir.path().join(format!("weir-{count}")), count).await?));
            }
            if plan.etcd {
                clusters.push(Box::new(Etcd::start(&dir.path().join(format!("etcd-{count}")), count).await?));
            }
            for &clients in &plan.clients {
                measure(&plan, &clusters, count, clients).await?;
            }
        }
        Ok(())
    })
}

async fn measure(plan: &Plan, clusters: &[Box<dyn Cluster>], servers: usize, clients: usize) -> Result<()> {
    let mut rounds: Vec<Vec<Round>> = clusters.iter().map(|_| Vec::new()).collect();
    for round in 0..plan.rounds {
        for (cluster, rounds) in clusters.iter().zip(&mut rounds) {
            let target = cluster.leader().await?;
            let prefix = format!("kv/{servers}-{clients}-{round}");
            let measured = load::run(&target, cluster.processes(), &prefix, clients, plan.span).await;
            rounds.push(measured.with_context(|| format!("{} under {clients} clients", cluster.name()))?);
        }
    }
    for (cluster, rounds) in clusters.iter().zip(&rounds) {
        let median = |figure: fn(&Round) -> f64| probe::median(rounds.iter().map(figure));
        println!(
            "| {servers} | {clients} | {} | {:.0} | {:.2} | {:.2} | {:.0} |",
            cluster.name(),
            median(|round| round.rate),
            median(|round| round.p50_ms),
            median(|round| round.p99_ms),
            median(|round| round.cpu_ms_per_1000),
        );
    }
    if let [weir, etcd] = &rounds[..] {
        // Of rounds that followed each other, so that what else the machine did counts for both.
        let ratio = |figure: fn(&Round) -> f64| {
            probe::median(weir.iter().zip(etcd).map(|(weir, etcd)| figure(weir) / figure(etcd)))
        };
        println!(
            "| {servers} | {clients} | weir / etcd | {:.2} | {:.2} | {:.2} | {:.2} |",
            ratio(|round| round.rate),
            ratio(|round| round.p50_ms),
            ratio(|round| round.p99_ms),
            ratio(|round| round.cpu_ms_per_1000),
        );
    }
    Ok(())
}

fn plan(arguments: impl Iterator<Item = String>) -> Result<Plan> {
    let mut plan = Plan {
        servers: vec![1, 3],
        clients: vec![1, 16, 256],
        rounds: 3,
        span: Duration::from_secs(3),
        weir: true,
        etcd: true,
        dir: ".".into(),
    };
    // Cargo's own.
    let mut arguments = arguments.filter(|argument| argument != "--bench");
    while let Some(flag) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--servers" => plan.servers = numbers(&value)?,
            "--clients" => plan.clients = numbers(&value)?,
            "--rounds" => plan.rounds = value.parse()?,
            "--seconds" => plan.span = Duration::from_secs_f64(value.parse()?),
            "--dir" => plan.dir = value.into(),
            "--only" => (plan.weir, plan.etcd) = (value == "weir", value == "etcd"),
            other => bail!("unknown option {other}"),
        }
    }
    Ok(plan)
}

fn numbers(text: &str) -> Result<Vec<usize>> {
    text.split(',').map(|number| number.parse().with_context(|| format!("{number:?} is no number"))).collect()
}
