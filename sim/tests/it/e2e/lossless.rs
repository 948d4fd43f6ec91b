//! A million requests of every protocol over a hundred events of every kind, and none of them lost.
//!
//! One installation, real processes; clients that never send anything twice; and at each event connections that wait
//! in the kernel's queues, because the workers stand still from before it until after it.

mod clients;
mod doors;
mod events;
mod frames;
mod queue;
mod site;
mod size;
mod tally;
mod upstream;

use std::{
    collections::BTreeMap,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use serde_json::Value;
use sim::harness::{Load, tell};

use super::{no_errors, one_at_a_time};
use doors::HOST;
use events::Event;
use site::Site;
use size::Size;
use tally::Tally;

/// The generators, as processes of their own: name, scheme, flags. Open loop, and nothing is sent twice but what
/// HTTP/2 says was not looked at, which counts as failed here.
const LOADS: [(&str, &str, &[&str]); 6] = [
    ("HTTP/1.1, keep-alive", "http", &[]),
    ("HTTP/1.1, a connection each", "http", &["--new-connections"]),
    ("HTTP/1.1, TLS, keep-alive", "https", &[]),
    ("HTTP/1.1, TLS, a connection each", "https", &["--new-connections"]),
    ("HTTP/2", "https", &["--protocol=h2"]),
    ("HTTP/2, cleartext", "http", &["--protocol=h2"]),
];

fn start_loads(site: &Site, size: Size) -> Result<Vec<Load>> {
    let (http, https) = (site.weir.ports.http, site.weir.ports.https);
    let ca = site.ca_file().display().to_string();
    let start = |((_, scheme, flags), rate): (&(&str, &str, &[&str]), u32)| {
        let port = if *scheme == "https" { https } else { http };
        let (url, rate) = (format!("{scheme}://{HOST}:{port}/"), rate.to_string());
        // Until it is interrupted.
        let mut all = vec![url.as_str(), "--rate", &rate, "--duration=2h", "--connections=8", "--poisson"];
        all.extend_from_slice(flags);
        if *scheme == "https" {
            all.extend(["--cacert", &ca]);
        }
        Load::start(&all)
    };
    LOADS.iter().zip(size.rates).map(start).collect()
}

/// Ends the generators and enters what they found.
fn end_loads(loads: Vec<Load>, tally: &Tally) -> Result<String> {
    for load in &loads {
        load.interrupt()?;
    }
    let mut text = String::new();
    for (load, (name, ..)) in loads.into_iter().zip(LOADS) {
        let report = load.finish().with_context(|| name.to_owned())?;
        let count = |value: &Value| value.as_u64().unwrap_or(0);
        let failed: u64 = report["failed"].as_object().into_iter().flatten().map(|(_, n)| count(n)).sum();
        let seconds = report["timeline"].as_array().map(Vec::as_slice).unwrap_or_default();
        // What fell due in the end, when it was interrupted, was never begun.
        let (whole, _end) = seconds.split_at(seconds.len().saturating_sub(3));
        let not_sent: u64 = whole.iter().map(|second| count(&second["not_sent"])).sum();
        let failed = failed + not_sent + count(&report["retried_safe"]);
        let words = format!(
            "failed {}, not sent {not_sent}, sent twice {}: {}",
            report["failed"], report["retried_safe"], report["examples"]
        );
        tally.add(name, count(&report["ok"]), count(&report["reconnects"]), failed, words);
        let latency = &report["latency_us"];
        text.push_str(&format!(
            "{name:<34} p50 {:>6} us, p99 {:>7} us, at most {:>8} us\n",
            latency["p50"].to_string(),
            latency["p99"].to_string(),
            latency["max"].to_string()
        ));
    }
    Ok(text)
}

/// Runs the other clients on a thread of their own.
fn start_clients(site: &mut Site, size: Size, tally: &Arc<Tally>) -> Result<JoinHandle<Result<()>>> {
    let upstreams = site.upstreams.take().context("the upstreams serve once")?;
    let (doors, tally) = (site.doors.clone(), Arc::clone(tally));
    Ok(std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let delivered = upstreams.serve()?;
            clients::run(doors, delivered, size, tally).await
        })
    }))
}

/// Rounds of all kinds of events, each in an order of its own, until there were enough.
fn hold_events(
    site: &mut Site,
    size: Size,
    tally: &Tally,
    counts: &mut BTreeMap<&'static str, u32>,
) -> Result<()> {
    let seed =
        std::env::var("WEIR_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    tell(&format!("lossless: WEIR_SEED={seed}"));
    let mut random = StdRng::seed_from_u64(seed);
    let queued = tally.row("queued at an event");
    let mut held = 0;
    while held < size.events {
        let mut round = Event::ROUND;
        round.shuffle(&mut random);
        for event in round {
            let began = Instant::now();
            let name = site.hold(event, &mut random, &queued)?.name();
            *counts.entry(name).or_default() += 1;
            held += 1;
            if size.speaks {
                let (took, totals) = (began.elapsed().as_millis(), tally.totals());
                tell(&format!("event {held}, {name}: {took} ms, {} workers, {totals:?}", site.workers));
            }
            wait(Duration::from_millis(random.random_range(0..=size.gap_ms)));
            if tally.totals().failed > size.enough {
                return Err(anyhow!("too many failures to go on"));
            }
        }
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "requests go on meanwhile: a moment that nobody chose")]
fn wait(time: Duration) {
    std::thread::sleep(time);
}

#[test]
fn no_request_is_lost_over_any_event() -> Result<()> {
    let _turn = one_at_a_time();
    let size = Size::asked_for();
    let began = Instant::now();
    let mut site = Site::start(size)?;
    let tally = Arc::new(Tally::default());
    let clients = start_clients(&mut site, size, &tally)?;
    let loads = start_loads(&site, size)?;
    let mut counts = BTreeMap::new();
    let held = hold_events(&mut site, size, &tally, &mut counts);
    let latencies = end_loads(loads, &tally)?;
    tally.stop();
    clients.join().map_err(|_| anyhow!("the clients panicked"))??;

    let totals = tally.totals();
    let events: u32 = counts.values().sum();
    let kinds: Vec<_> = counts.iter().map(|(name, count)| format!("{count} {name}")).collect();
    tell(&format!(
        "lossless: {events} events ({}), {} requests, {} failed, in {} s\n{}{latencies}",
        kinds.join(", "),
        totals.requests,
        totals.failed,
        began.elapsed().as_secs(),
        tally.table()
    ));
    held.with_context(|| site.weir.log())?;
    assert_eq!(totals.failed, 0, "see the table above\n{}", site.weir.log());
    assert!(totals.requests >= size.requests, "only {} requests", totals.requests);
    assert_eq!(tally.empty(), Vec::<&str>::new(), "clients that did nothing");
    let (status, log) = site.weir.stop()?;
    assert!(status.success(), "{log}");
    no_errors(&log);
    Ok(())
}
