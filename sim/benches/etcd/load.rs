//! Clients in closed loop against one server.

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{
    probe,
    wire::{Caller, Target},
};

/// Clients that share a connection.
const PER_CONNECTION: usize = 16;
/// What the first puts take (connections, caches) is not measured.
const WARM_UP: Duration = Duration::from_millis(500);
const VALUE: usize = 300;

/// What one round gave.
pub(crate) struct Round {
    pub(crate) rate: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) cpu_ms_per_1000: f64,
}

/// Puts for `span`; the processes are those whose CPU time counts.
pub(crate) async fn run(
    target: &Target,
    processes: Vec<u32>,
    prefix: &str,
    clients: usize,
    span: Duration,
) -> Result<Round> {
    let begin = Instant::now() + WARM_UP;
    let mut tasks = JoinSet::new();
    let mut connection = target.connect()?;
    for client in 0..clients {
        if client > 0 && client % PER_CONNECTION == 0 {
            connection = target.connect()?;
        }
        tasks.spawn(put(connection.clone(), format!("{prefix}/{client}"), begin, begin + span));
    }
    sleep_until(begin).await;
    let before = probe::cpu(&processes)?;
    sleep_until(begin + span).await;
    let cpu = probe::cpu(&processes)? - before;
    let mut latencies = Histogram::<u64>::new(3)?;
    while let Some(task) = tasks.join_next().await {
        latencies.add(task??)?;
    }
    #[expect(clippy::cast_precision_loss, reason = "figures")]
    let (puts, ms) =
        (latencies.len() as f64, |quantile| latencies.value_at_quantile(quantile) as f64 / 1000.0);
    Ok(Round {
        rate: puts / span.as_secs_f64(),
        p50_ms: ms(0.5),
        p99_ms: ms(0.99),
        cpu_ms_per_1000: cpu.as_secs_f64() * 1e6 / puts,
    })
}

async fn put(mut caller: Caller, prefix: String, begin: Instant, end: Instant) -> Result<Histogram<u64>> {
    let mut latencies = Histogram::new(3)?;
    let value = Bytes::from(vec![b'v'; VALUE]);
    for number in 0_u64.. {
        let started = Instant::now();
        if started >= end {
            break;
        }
        let key = format!("{prefix}/{number:08}");
        caller.put(key, value.clone()).await.context("put")?;
        let answered = Instant::now();
        if started >= begin && answered < end {
            latencies.record(u64::try_from((answered - started).as_micros())?)?;
        }
    }
    Ok(latencies)
}
