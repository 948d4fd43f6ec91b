//! `edge::run_static` as a program of its own, for measuring without the rest of `weir`.
//!
//! `cargo run --release -p edge --example static -- FILE [THREADS] [METRICS_ADDRESS [ACCESS_LOG]]`

use anyhow::Context;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    api::process::init_tracing("warn")?;
    let mut args = std::env::args().skip(1);
    edge::run_static(&edge::StaticArgs {
        file: args.next().context("usage: static FILE [THREADS] [METRICS_ADDRESS]")?.into(),
        threads: args.next().map_or(Ok(1), |threads| threads.parse())?,
        metrics: args.next().map(|address| address.parse()).transpose()?,
        access_log: args.next().map_or(Ok(edge::accesslog::Sink::Off), |sink| sink.parse())?,
        tracing: None,
    })
}
