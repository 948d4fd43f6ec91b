//! What the edge costs where the usual load generators do not look, beside nginx, HAProxy and Envoy.
//!
//! ```text
//! WEIR_BIN=target/dist/weir cargo bench -p sim --bench edge [-- OPTIONS]
//!   --rows h3,grpc,websocket,routes,idle,calls,latency,instructions  --rounds 9  --seconds 2  --record
//! WEIR_BIN=NEW WEIR_BEFORE=OLD cargo bench -p sim --bench edge -- --rows builds
//! ```
//!
//! Proxies run on CPU 0 with one thread, this program and the upstreams on CPU 1. Costs are CPU time of the proxy's threads
//! for a request, from the kernel's accounting. In each round all proxies of a row are started anew and take turns of a tenth of a
//! second; a ratio is of the same round, so that it holds while the machine's speed drifts. `builds` is two builds of Weir.
//! `instructions` needs valgrind and compares with `instructions.txt`; `--record` writes that file.
#![expect(clippy::print_stdout, reason = "a benchmark's output")]

mod calls;
mod clients;
mod configs;
mod costs;
mod figures;
mod h3;
mod idle;
mod instructions;
mod latency;
mod profile;
mod proxies;
mod upstreams;
mod websocket;

use anyhow::{Context, Result, bail};
use rustix::thread::{CpuSet, sched_setaffinity};
use tokio::signal::unix::{SignalKind, signal};

use crate::{configs::Identity, upstreams::Upstreams};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What is to be measured.
pub(crate) struct Plan {
    rows: Vec<String>,
    pub(crate) rounds: usize,
    /// Of each proxy in each round.
    pub(crate) seconds: u32,
    pub(crate) record: bool,
}

/// What all rows need.
pub(crate) struct Bench {
    pub(crate) plan: Plan,
    pub(crate) identity: Identity,
    pub(crate) upstreams: Upstreams,
}

const ROWS: [&str; 9] =
    ["h3", "grpc", "websocket", "routes", "idle", "calls", "latency", "instructions", "builds"];

fn main() -> Result<()> {
    let plan = plan(std::env::args().skip(1))?;
    // Ten thousand idle connections, for us and for those whom we start.
    let mut files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    files.current = files.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, files)?;
    let mut ours = CpuSet::new();
    ours.set(1);
    sched_setaffinity(None, &ours).context("this benchmark needs two CPUs")?;
    let load = std::fs::read_to_string("/proc/loadavg")?;
    println!("load {}", load.split(' ').take(3).collect::<Vec<_>>().join(" "));

    // One thread: clients and upstreams take what one CPU gives.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut ended = signal(SignalKind::terminate())?;
        // Whoever ends it early ends its proxies, too: they end when they are dropped.
        tokio::select! {
            measured = measure(plan) => measured,
            _ = ended.recv() => bail!("ended early"),
            _ = tokio::signal::ctrl_c() => bail!("ended early"),
        }
    })
}

async fn measure(plan: Plan) -> Result<()> {
    let identity = Identity::new()?;
    let upstreams = Upstreams::start(&identity).await?;
    let bench = Bench { plan, identity, upstreams };
    for row in &bench.plan.rows {
        println!();
        match row.as_str() {
            "h3" | "grpc" | "websocket" | "routes" | "builds" => costs::row(&bench, row).await,
            "idle" => idle::row(&bench).await,
            "calls" => calls::row(&bench).await,
            "latency" => latency::row(&bench).await,
            _ => instructions::row(&bench).await,
        }
        .with_context(|| format!("row {row}"))?;
    }
    Ok(())
}

fn plan(arguments: impl Iterator<Item = String>) -> Result<Plan> {
    // All that need no second build.
    let rows = ROWS.iter().filter(|row| **row != "builds").map(|row| (*row).to_owned()).collect();
    let mut plan = Plan { rows, rounds: 9, seconds: 2, record: false };
    // Cargo's own.
    let mut arguments = arguments.filter(|argument| argument != "--bench");
    while let Some(flag) = arguments.next() {
        if flag == "--record" {
            plan.record = true;
            continue;
        }
        let value = arguments.next().with_context(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--rows" => plan.rows = value.split(',').map(str::to_owned).collect(),
            "--rounds" => plan.rounds = value.parse().with_context(|| format!("{flag} {value}"))?,
            "--seconds" => plan.seconds = value.parse().with_context(|| format!("{flag} {value}"))?,
            other => bail!("unknown option {other}"),
        }
    }
    match plan.rows.iter().find(|row| !ROWS.contains(&row.as_str())) {
        Some(row) => bail!("there is no row {row}; there are {}", ROWS.join(", ")),
        None if plan.rounds == 0 || plan.seconds == 0 => bail!("rounds and seconds are at least 1"),
        None => Ok(plan),
    }
}
