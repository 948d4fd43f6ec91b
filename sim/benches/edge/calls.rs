//! System calls and context switches of Weir's worker for a request.

use std::{process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    time::timeout,
};

use crate::{
    Bench,
    clients::{Clients, Load, PATIENCE, Quota},
    figures,
    proxies::{self, Kind, Proxy, Service, Setup},
};

/// Requests that are counted under strace.
const REQUESTS: u64 = 20_000;

/// Without strace, for context switches: as fast as it goes.
const SPAN: Duration = Duration::from_secs(2);

/// What is aimed at.
const MOST_CALLS: f64 = 5.0;
const MOST_SWITCHES: f64 = 0.05;

pub(crate) async fn row(bench: &Bench) -> Result<()> {
    println!(
        "System calls (strace -c, {REQUESTS} requests, 5 at most) and context switches (0.05 at most) for a request:\n"
    );
    println!("| load | calls | context switches | CPU of the worker | the most frequent calls |");
    println!("|---|---|---|---|---|");
    ensure!(proxies::installed("strace"), "install strace");
    let loads =
        [("HTTP/1.1", Load::h1(false)), ("TLS", Load::h1(true)), ("HTTP/2", Load::H2), ("HTTP/3", Load::H3)];
    let mut missed = vec![];
    for (name, load) in loads {
        let setup =
            Setup { kind: Kind::Weir, service: Service::Http, upstream: bench.upstreams.http, routes: 1 };
        let proxy = Proxy::start(setup, &bench.identity).await?;
        let mut clients = Clients::open(&load, &proxy, &bench.identity).await?;
        clients.run(&Quota::count(2_000)).await?;

        let (switches, cpu) = (figures::switches(proxy.process)?, figures::cpu(proxy.process)?);
        let done = figures::float(clients.run(&Quota::span(SPAN)).await?);
        let switches = figures::float(figures::switches(proxy.process)? - switches) / done;
        let busy = (figures::cpu(proxy.process)? - cpu) / SPAN.as_secs_f64() * 100.0;

        drop(clients);
        // A worker that is traced is thirty times slower: with more in flight it would refuse work as overload.
        let shape = if matches!(load, Load::H1 { .. }) { (64, 1) } else { (4, 16) };
        let mut clients = Clients::open_some(&load, &proxy, &bench.identity, shape).await?;
        clients.run(&Quota::count(1_000)).await?;
        let requests = async { clients.run(&Quota::count(REQUESTS)).await.map(drop) };
        let table = traced(proxy.process, requests).await?;
        proxy.stop().await?;
        let calls = figures::float(table.iter().map(|(_, count)| count).sum()) / figures::float(REQUESTS);
        let most = table.iter().take(4).map(|(name, count)| format!("{name} {count}"));
        println!(
            "| {name} | {calls:.2} | {switches:.4} | {busy:.0} % | {} |",
            most.collect::<Vec<_>>().join(", ")
        );
        if calls > MOST_CALLS || switches > MOST_SWITCHES {
            missed.push(name);
        }
    }
    println!(
        "\n{}",
        if missed.is_empty() { "all kept".to_owned() } else { format!("missed: {}", missed.join(", ")) }
    );
    Ok(())
}

/// The process's system calls while something goes on, the most frequent first.
async fn traced(process: u32, meanwhile: impl Future<Output = Result<()>>) -> Result<Vec<(String, u64)>> {
    let summary = tempfile::NamedTempFile::new()?;
    let mut strace = Command::new("strace")
        .args(["-f", "-c", "-U", "calls,name", "-p", &process.to_string(), "-o"])
        .arg(summary.path())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    // It says so when it has attached to all threads.
    let mut said = BufReader::new(strace.stderr.take().context("piped")?).lines();
    let first = timeout(PATIENCE, said.next_line()).await??.unwrap_or_default();
    ensure!(first.contains("attached"), "strace: {first}");
    meanwhile.await?;
    let id = strace
        .id()
        .and_then(|id| rustix::process::Pid::from_raw(id.try_into().ok()?))
        .context("strace ended")?;
    rustix::process::kill_process(id, rustix::process::Signal::INT)?;
    timeout(PATIENCE, strace.wait()).await??;
    let text = std::fs::read_to_string(summary.path())?;
    let mut table: Vec<(String, u64)> = text
        .lines()
        .filter_map(|line| {
            let (count, name) = line.trim().split_once(' ')?;
            Some((name.trim().to_owned(), count.parse().ok()?)).filter(|(name, _)| name != "total")
        })
        .collect();
    ensure!(!table.is_empty(), "strace counted nothing: {text}");
    table.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    Ok(table)
}
