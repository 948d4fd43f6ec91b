//! Puts a second and their latency on one server with the real write-ahead log, for 1, 16 and 256 clients.
//!
//! `cargo bench -p store --bench put [-- DIRECTORY]`; about five seconds. What counts is the disk under the directory:
//! the first line says what an fdatasync costs there.
#![expect(clippy::print_stdout, reason = "a benchmark's output")]

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::Path,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use store::{Config, Handle, Store, Txn};

const SPAN: Duration = Duration::from_millis(1500);
const VALUE: usize = 1024;

fn main() -> Sent<()> {
    let parent = std::env::args().skip(1).find(|argument| !argument.starts_with("--")).unwrap_or(".".into());
    let dir = tempfile::tempdir_in(parent)?;
    println!("fdatasync of 1 KiB in place: {}", show(&syncs(dir.path())?));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let store = Store::open(Config::new(dir.path().join("store"))).await?;
        for clients in [1, 16, 256] {
            let started = Instant::now();
            let tasks = (0..clients).map(|client| tokio::spawn(put(store.clone(), client, started + SPAN)));
            let mut all = Histogram::<u64>::new(3)?;
            for task in tasks.collect::<Vec<_>>() {
                all.add(task.await??)?;
            }
            #[expect(clippy::cast_precision_loss, reason = "a rate")]
            let rate = all.len() as f64 / started.elapsed().as_secs_f64();
            println!("{clients:>3} clients: {rate:>7.0} puts/s, {}", show(&all));
        }
        store.shutdown().await;
        Ok(())
    })
}

type Sent<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

async fn put(store: Handle, client: u32, until: Instant) -> Sent<Histogram<u64>> {
    let mut latencies = Histogram::new(3)?;
    let value = vec![7_u8; VALUE];
    let mut number = 0_u32;
    while Instant::now() < until {
        let started = Instant::now();
        let key = format!("objects/{client}/{}", number % 100);
        store.txn(Txn::new("bench").put(key, value.clone())).await?;
        latencies.record(micros(started))?;
        number += 1;
    }
    Ok(latencies)
}

fn syncs(dir: &Path) -> Sent<Histogram<u64>> {
    let file = File::create(dir.join("probe"))?;
    file.write_all_at(&vec![0; 1 << 20], 0)?;
    file.sync_all()?;
    let mut latencies = Histogram::new(3)?;
    for block in 0..200 {
        let started = Instant::now();
        file.write_all_at(&[7; VALUE], block * VALUE as u64)?;
        file.sync_data()?;
        latencies.record(micros(started))?;
    }
    Ok(latencies)
}

fn micros(started: Instant) -> u64 {
    u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX)
}

fn show(latencies: &Histogram<u64>) -> String {
    let at = |quantile| latencies.value_at_quantile(quantile);
    format!("p50 {} us, p99 {} us, max {} us", at(0.5), at(0.99), latencies.max())
}
