//! Puts beside etcd: the same client drives both, one and three servers, TLS, values of 300 bytes, on this machine's disk,
//! in turns.
//!
//! ```text
//! cargo bench -p sim --bench etcd                     1, 16 and 256 clients, 5 rounds of 3 s each
//! cargo bench -p sim --bench etcd -- 3 2 1,64         3 rounds of 2 s, 1 and 64 clients
//! ```
//!
//! Closed loop: a client sends its next put when the last one was answered. Clients share connections, eight to one, and
//! connections go to all servers in turn, as both sides' own clients do. etcd runs as Debian ships it, with its defaults.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement: it says what it saw, or where it failed"
)]

mod support;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use support::{Cluster, Kind};

const VALUE: usize = 300;
const CLIENTS_A_CONNECTION: usize = 8;

/// What one round of one system at one point came to.
#[derive(Debug, Clone, Copy)]
struct Round {
    rate: f64,
    p50: Duration,
    p99: Duration,
    /// CPU time of all servers for a put.
    cpu: Duration,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let number = |index: usize, default: u64| args.get(index).map_or(default, |arg| arg.parse().unwrap());
    let (rounds, seconds) = (number(0, 5), number(1, 3));
    let clients: Vec<usize> = match args.get(2) {
        Some(list) => list.split(',').map(|count| count.parse().unwrap()).collect(),
        None => vec![1, 16, 256],
    };
    if !support::has_etcd() {
        println!("etcd is not installed (Debian: etcd-server): nothing to compare with, skipped");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    println!(
        "servers clients | weir puts/s  p50     p99    cpu/put | etcd puts/s  p50     p99    cpu/put | rate  p50   p99   cpu"
    );
    for servers in [1, 3] {
        let dir = tempfile::tempdir_in(".").unwrap();
        let systems = [Kind::Weir, Kind::Etcd].map(|kind| Cluster::start(kind, servers, dir.path()));
        for &clients in &clients {
            let mut seen: BTreeMap<usize, Vec<Round>> = BTreeMap::new();
            for round in 0..=rounds {
                for (index, system) in systems.iter().enumerate() {
                    let came = runtime.block_on(measure(system, clients, Duration::from_secs(seconds)));
                    // The first warms both up.
                    if round > 0 {
                        seen.entry(index).or_default().push(came);
                    }
                }
            }
            let [weir, etcd] = [0, 1].map(|index| median(&seen[&index]));
            println!(
                "{servers:>7} {clients:>7} | {} | {} | {}",
                show(&weir),
                show(&etcd),
                ratios(&weir, &etcd)
            );
        }
    }
}

async fn measure(cluster: &Cluster, clients: usize, length: Duration) -> Round {
    let connections: Vec<_> =
        (0..clients.div_ceil(CLIENTS_A_CONNECTION)).map(|index| cluster.connect(index)).collect();
    // Connected, and warm.
    for connection in &connections {
        connection.clone().put("kv/warm".into(), vec![0; VALUE].into()).await.unwrap();
    }
    let cpu = cluster.cpu();
    let begun = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for client in 0..clients {
        let mut connection = connections[client % connections.len()].clone();
        tasks.spawn(async move {
            let mut took = Vec::new();
            let value = bytes::Bytes::from(vec![b'v'; VALUE]);
            while begun.elapsed() < length {
                let asked = Instant::now();
                // A key that is written again and again, of a thousand for each client.
                let key = format!("kv/bench/{client:04}/{:03}", took.len() % 1000);
                connection.put(key, value.clone()).await.unwrap();
                took.push(asked.elapsed());
            }
            took
        });
    }
    let mut took: Vec<Duration> = tasks.join_all().await.into_iter().flatten().collect();
    let elapsed = begun.elapsed();
    took.sort_unstable();
    let puts = u32::try_from(took.len()).unwrap();
    Round {
        rate: f64::from(puts) / elapsed.as_secs_f64(),
        p50: took[took.len() / 2],
        p99: took[took.len() * 99 / 100],
        cpu: (cluster.cpu() - cpu) / puts,
    }
}

/// The median of each figure.
fn median(rounds: &[Round]) -> Round {
    let middle = |mut values: Vec<Duration>| {
        values.sort_unstable();
        values[values.len() / 2]
    };
    let mut rates: Vec<f64> = rounds.iter().map(|round| round.rate).collect();
    rates.sort_by(f64::total_cmp);
    Round {
        rate: rates[rates.len() / 2],
        p50: middle(rounds.iter().map(|round| round.p50).collect()),
        p99: middle(rounds.iter().map(|round| round.p99).collect()),
        cpu: middle(rounds.iter().map(|round| round.cpu).collect()),
    }
}

fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

fn show(round: &Round) -> String {
    let cpu = format!("{} us", round.cpu.as_micros());
    format!("{:>11.0} {:>8} {:>8} {cpu:>7}", round.rate, ms(round.p50), ms(round.p99))
}

/// Weir's by etcd's.
fn ratios(weir: &Round, etcd: &Round) -> String {
    let by = |one: Duration, other: Duration| one.as_secs_f64() / other.as_secs_f64();
    format!(
        "{:.2}  {:.2}  {:.2}  {:.2}",
        weir.rate / etcd.rate,
        by(weir.p50, etcd.p50),
        by(weir.p99, etcd.p99),
        by(weir.cpu, etcd.cpu)
    )
}
