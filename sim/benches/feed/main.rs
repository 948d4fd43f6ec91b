//! The feed at scale: how long a commit takes until it is active on all workers, what it costs, and how a worker starts
//! from its own disk.
//!
//! ```text
//! cargo bench -p sim --bench feed [-- OPTIONS]
//!   --tenants 1000  --routes 100  --workers 4  --subscribers 196  --rate 50  --seconds 20
//! ```
//!
//! One process is the server (store, controller, feed over mTLS). `--workers` processes are real workers (`run_worker`, with
//! this process as their agent): they compile what they get. One process holds `--subscribers` streams, each on a connection
//! of its own with a certificate, that unpack each snapshot, check its hash and acknowledge it. Changes of one route in a
//! tenant at a time are written in open loop. A change's time runs from before its transaction is given to the store until
//! the last of all has it active, by the clock that the processes share.
#![expect(clippy::print_stdout, reason = "a benchmark's output")]

mod agent;
mod config;
mod figures;
mod server;
mod subscribers;

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, bail};

use crate::figures::Figures;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What is to be measured.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) tenants: usize,
    pub(crate) routes: usize,
    pub(crate) workers: usize,
    pub(crate) subscribers: usize,
    pub(crate) rate: u32,
    pub(crate) span: Duration,
}

/// How long everybody may take to have everything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["role", "worker", directory, name] => agent::worker(Path::new(directory), name),
        ["role", "subscribers", directory, count] => subscribers::run(Path::new(directory), count.parse()?),
        _ => measure(&plan(&args)?),
    }
}

fn plan(args: &[String]) -> Result<Plan> {
    let mut plan = Plan {
        tenants: 1000,
        routes: 100,
        workers: 4,
        subscribers: 196,
        rate: 50,
        span: Duration::from_secs(20),
    };
    // Cargo says `--bench` to a benchmark.
    let mut args = args.iter().filter(|arg| *arg != "--bench");
    while let Some(option) = args.next() {
        let value = args.next().with_context(|| format!("{option} needs a value"))?;
        let number = || value.parse::<u32>().with_context(|| format!("{option} {value}"));
        match option.as_str() {
            "--tenants" => plan.tenants = usize::try_from(number()?)?,
            "--routes" => plan.routes = usize::try_from(number()?)?,
            "--workers" => plan.workers = usize::try_from(number()?)?,
            "--subscribers" => plan.subscribers = usize::try_from(number()?)?,
            "--rate" => plan.rate = number()?,
            "--seconds" => plan.span = Duration::from_secs(number()?.into()),
            _ => bail!("there is no option {option}"),
        }
    }
    Ok(plan)
}

fn measure(plan: &Plan) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load {}", load.split(' ').take(3).collect::<Vec<_>>().join(" "));
    println!("{plan:?}");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let server = server::Server::start(directory.path(), plan).await?;
        println!("{}", server.describe());

        let agent = agent::Agent::start(&server, directory.path())?;
        let mut workers = vec![];
        for n in 0..plan.workers {
            workers.push(agent.spawn(&format!("bench-{n}"), directory.path())?);
            agent.ready().await?;
        }
        let mut subscribers = subscribers::Subscribers::start(directory.path(), plan.subscribers).await?;
        println!("{} subscribed", plan.workers + plan.subscribers);

        let before = server.counters();
        let written = server.write_changes(plan).await?;
        let after = server.counters();
        println!("{}", after.since(&before, written.len()));

        let mut reached = subscribers.finish().await?;
        if let Some(worker) = workers.first() {
            println!("{}", worker.memory(plan)?);
        }
        for worker in workers {
            reached.add(worker.finish(&agent).await?);
        }
        let figures = Figures::new(&written, &reached, plan.workers + plan.subscribers);
        println!("{figures}");

        for (case, reachable) in [("no server", false), ("a server", true)] {
            let took = agent.cold_start(directory.path(), reachable).await?;
            println!("a worker starts from its own disk, {case}: {} ms to ready", took.as_millis());
        }
        server.stop().await;
        if figures.missing > 0 {
            bail!("{} changes never came to everybody", figures.missing);
        }
        Ok(())
    })
}
