//! Instructions of the worker for a request, counted by callgrind and compared with the file beside this one.
//!
//! Only what runs in user space counts. valgrind says that the processor has AVX2 and AES, but neither AVX-512 nor SHA:
//! ciphers take other ways than on the machine itself. So the figures compare builds, not costs. A worker that is thirty times
//! slower now and then takes itself for overloaded and has requests wait for their turns, which costs instructions: of several
//! counts the least is that of the requests alone.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::PathBuf, process::Command};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    Bench,
    clients::{Clients, Load, Quota},
    costs, figures, profile,
    proxies::{self, Kind, Proxy, Service, Setup},
};

/// Uncounted, so that pools and caches are full.
const WARM_UP: u64 = 300;
const COUNTED: u64 = 2_000;

/// How often each load is counted.
const COUNTS: usize = 3;

/// A load may take so much more or less than is recorded.
const TOLERANCE: f64 = 0.03;

/// A function is recorded if it takes at least this share of its load.
const SHARE: f64 = 0.005;

const LOADS: [&str; 5] = ["h1", "tls", "h2", "connect", "routes"];

/// One request at a time, so that the order of events is the same each time: a connection, and a stream of it.
const SHAPE: (usize, usize) = (1, 1);

/// Instructions a request: of a load in all, and by function.
#[derive(Debug, Default, Clone)]
struct Count {
    all: f64,
    functions: BTreeMap<String, f64>,
}

pub(crate) async fn row(bench: &Bench) -> Result<()> {
    ensure!(proxies::installed("callgrind_control"), "install valgrind");
    let recorded = match fs::read_to_string(record()) {
        Ok(text) => parse(&text)?,
        Err(_) => BTreeMap::new(),
    };
    println!("Instructions in user space for a request (callgrind, {COUNTED} requests):\n");
    println!("| load | now | recorded | change |");
    println!("|---|---|---|---|");
    let (mut counts, mut changed) = (BTreeMap::new(), String::new());
    for name in LOADS {
        let count = least(bench, name).await.with_context(|| name.to_owned())?;
        let before = recorded.get(name).cloned().unwrap_or_default();
        let change = count.all / before.all - 1.0;
        if before.all > 0.0 {
            println!("| {name} | {:.0} | {:.0} | {:+.1} % |", count.all, before.all, change * 100.0);
        } else {
            println!("| {name} | {:.0} | | |", count.all);
        }
        if change.abs() > TOLERANCE {
            write!(changed, "\n{name}: {:+.1} %\n{}", change * 100.0, largest_changes(&count, &before))?;
        }
        counts.insert(name, count);
    }
    if bench.plan.record {
        fs::write(record(), render(&counts)?)?;
        println!("\nrecorded in {}", record().display());
    } else if recorded.is_empty() {
        bail!("nothing is recorded in {}: run this with --record", record().display());
    } else if !changed.is_empty() {
        bail!(
            "more than {:.0} % from what is recorded; if that is meant, run this with --record\n{changed}",
            TOLERANCE * 100.0
        );
    }
    Ok(())
}

fn record() -> PathBuf {
    concat!(env!("CARGO_MANIFEST_DIR"), "/benches/edge/instructions.txt").into()
}

async fn least(bench: &Bench, name: &str) -> Result<Count> {
    let mut least = count(bench, name).await?;
    for _ in 1..COUNTS {
        let next = count(bench, name).await?;
        if next.all < least.all {
            least = next;
        }
    }
    Ok(least)
}

async fn count(bench: &Bench, name: &str) -> Result<Count> {
    let load = match name {
        "h1" => Load::h1(false),
        "tls" => Load::h1(true),
        "h2" => Load::H2,
        "connect" => Load::Connect,
        _ => costs::to_all_routes(),
    };
    // A route's first request makes what the others find.
    let (routes, warm_up) =
        if name == "routes" { (costs::ROUTES, 2 * costs::ROUTES as u64) } else { (1, WARM_UP) };
    let dumps = tempfile::tempdir()?;
    let file = format!("--callgrind-out-file={}", dumps.path().join("dump").display());
    // What waits for its turn on a busy machine would be refused as overload; who may not be so nice is told and goes on.
    let valgrind =
        ["nice", "-n", "-20", "valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no", &file];
    let setup = Setup { kind: Kind::Weir, service: Service::Http, upstream: bench.upstreams.http, routes };
    let proxy = Proxy::start_under(&valgrind, setup, &bench.identity).await?;
    let mut clients = Clients::open_some(&load, &proxy, &bench.identity, SHAPE).await?;
    clients.run(&Quota::count(warm_up)).await?;
    control(&proxy, &["--instr=on"])?;
    let done = clients.run(&Quota::count(COUNTED)).await?;
    ensure!(done == COUNTED, "{done} requests were answered");
    control(&proxy, &["--dump=counted"])?;
    let dump = fs::read_to_string(dumps.path().join("dump.1")).context("callgrind wrote nothing")?;
    let share = |cost| figures::float(cost) / figures::float(COUNTED);
    let functions: BTreeMap<_, _> =
        profile::by_function(&dump)?.into_iter().map(|(name, cost)| (name, share(cost))).collect();
    drop(clients);
    proxy.stop().await?;
    let all = functions.values().sum();
    Ok(Count { all, functions })
}

fn control(proxy: &Proxy, arguments: &[&str]) -> Result<()> {
    let ran = Command::new("callgrind_control").args(arguments).arg(proxy.process.to_string()).output()?;
    let said = String::from_utf8_lossy(&ran.stdout);
    ensure!(ran.status.success() && said.contains("OK"), "callgrind_control {arguments:?}: {said}");
    Ok(())
}

/// The functions whose share changed most, as lines.
fn largest_changes(now: &Count, before: &Count) -> String {
    let names =
        now.functions.keys().chain(before.functions.keys().filter(|name| !now.functions.contains_key(*name)));
    let mut changes: Vec<(&String, f64, f64)> = names
        .filter_map(|name| {
            let of = |count: &Count| count.functions.get(name).copied().unwrap_or(0.0);
            let (new, old) = (of(now), of(before));
            // What is not recorded was below the share that is.
            (old > 0.0 || new > before.all * SHARE).then_some((name, new, old))
        })
        .collect();
    changes.sort_by(|a, b| (b.1 - b.2).abs().total_cmp(&(a.1 - a.2).abs()));
    changes
        .iter()
        .take(12)
        .map(|(name, new, old)| format!("  {:+8.0}  {old:.0} -> {new:.0}  {name}\n", new - old))
        .collect()
}

/// A load's line is followed by those of its largest functions, indented.
fn render(counts: &BTreeMap<&str, Count>) -> Result<String> {
    let mut text = "# Instructions a request, by load and by function. Written by: cargo bench -p sim --bench edge -- --rows instructions --record\n".to_owned();
    for (name, count) in counts {
        writeln!(text, "{name} {:.0}", count.all)?;
        let mut functions: Vec<_> =
            count.functions.iter().filter(|(_, cost)| **cost >= count.all * SHARE).collect();
        functions.sort_by(|a, b| b.1.total_cmp(a.1));
        for (function, cost) in functions {
            writeln!(text, "  {cost:.0} {function}")?;
        }
    }
    Ok(text)
}

fn parse(text: &str) -> Result<BTreeMap<String, Count>> {
    let mut counts = BTreeMap::new();
    let mut load = None;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (first, second) = line.trim().split_once(' ').with_context(|| format!("{line:?}"))?;
        if line.starts_with(' ') {
            let count: &mut Count =
                load.as_mut().map(|(_, count)| count).context("a function before a load")?;
            count.functions.insert(second.to_owned(), first.parse()?);
        } else {
            counts
                .extend(load.replace((first.to_owned(), Count { all: second.parse()?, ..Count::default() })));
        }
    }
    counts.extend(load);
    Ok(counts)
}
