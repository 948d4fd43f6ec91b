//! Latency at an equal offered rate, in open loop.

use std::ops::ControlFlow;

use anyhow::{Context, Result, ensure};
use loadtest::{Arrivals, Plan, Protocol, Report};
use tokio::time::{Duration, Instant};

use crate::{
    Bench,
    clients::{Clients, Load, Quota},
    figures::{self, Spread},
    proxies::{Kind, Proxy, Service, Setup},
};

/// Of what the slowest serves at most.
const SHARE: f64 = 0.3;
/// What the generator sends with margin beside an upstream on the same CPU.
const MOST: f64 = 10_000.0;

struct Contender {
    setup: Setup,
    p50: Vec<f64>,
    p99: Vec<f64>,
}

pub(crate) async fn row(bench: &Bench) -> Result<()> {
    println!("Latency in open loop (Poisson), microseconds:\n");
    println!("| load | requests/s | proxy | p50 | p99 | ratio of p99 to it [95 %] | invalid rounds |");
    println!("|---|---|---|---|---|---|---|");
    for (name, load) in [("HTTP/1.1", Load::h1(false)), ("TLS", Load::h1(true)), ("HTTP/2", Load::H2)] {
        beside(bench, name, &load).await.with_context(|| name.to_owned())?;
    }
    Ok(())
}

async fn beside(bench: &Bench, name: &str, load: &Load) -> Result<()> {
    let mut contenders: Vec<Contender> = vec![];
    let mut peak = f64::INFINITY;
    for kind in [Kind::Weir, Kind::Nginx, Kind::Haproxy] {
        if kind.is_there() {
            let setup = Setup { kind, service: Service::Http, upstream: bench.upstreams.http, routes: 1 };
            peak = peak.min(fastest(bench, setup, load).await?);
            contenders.push(Contender { setup, p50: vec![], p99: vec![] });
        }
    }
    let rate = (peak * SHARE).min(MOST).round();
    let mut invalid = vec![0; contenders.len()];
    for _ in 0..bench.plan.rounds {
        for (contender, invalid) in contenders.iter_mut().zip(&mut invalid) {
            let report = measure(bench, contender.setup, load, rate).await?;
            let micros = |figure: Option<u64>| figure.map_or(f64::NAN, figures::float);
            contender.p50.push(micros(report.latency_us.p50));
            contender.p99.push(micros(report.latency_us.p99));
            *invalid += u32::from(!report.validity.valid);
        }
    }
    let Some(first) = contenders.first() else { return Ok(()) };
    for (number, (contender, invalid)) in contenders.iter().zip(invalid).enumerate() {
        let spread = |figures: &[f64]| Spread::of(figures.iter().copied());
        let ratio = if number == 0 { String::new() } else { figures::ratio(&first.p99, &contender.p99) };
        println!(
            "| {name} | {rate} | {} | {:.0} | {:.0} | {ratio} | {invalid} |",
            contender.setup.kind.name(),
            spread(&contender.p50),
            spread(&contender.p99),
        );
    }
    Ok(())
}

/// Answers a second in closed loop.
async fn fastest(bench: &Bench, setup: Setup, load: &Load) -> Result<f64> {
    let proxy = Proxy::start(setup, &bench.identity).await?;
    let mut clients = Clients::open(load, &proxy, &bench.identity).await?;
    clients.run(&Quota::count(1_000)).await?;
    let began = Instant::now();
    let done = clients.run(&Quota::span(Duration::from_secs(1))).await?;
    let rate = figures::float(done) / began.elapsed().as_secs_f64();
    proxy.stop().await?;
    Ok(rate)
}

async fn measure(bench: &Bench, setup: Setup, load: &Load, rate: f64) -> Result<Report> {
    let proxy = Proxy::start(setup, &bench.identity).await?;
    let secure = !matches!(load, Load::H1 { tls: false, .. });
    let (scheme, to) = if secure { ("https", proxy.https) } else { ("http", proxy.http) };
    let mut plan =
        Plan::new(format!("{scheme}://{to}/").parse()?, rate, Duration::from_secs(bench.plan.seconds.into()));
    plan.warmup = Duration::from_millis(500);
    plan.arrivals = Arrivals::Poisson { seed: 1 };
    if matches!(load, Load::H2) {
        (plan.protocol, plan.connections) = (Protocol::H2, 16);
    }
    let report = loadtest::run(plan, |_| ControlFlow::Continue(())).await?;
    proxy.stop().await?;
    ensure!(
        report.ok == report.planned,
        "{} of {} answered: {:?}",
        report.ok,
        report.planned,
        report.examples
    );
    Ok(report)
}
