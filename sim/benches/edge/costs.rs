//! CPU time for a request (or message), side by side.

use std::{rc::Rc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use tokio::time::Instant;

use crate::{
    Bench,
    clients::{self, Clients, Load, Quota},
    configs,
    figures::{self, Spread},
    proxies::{Kind, Proxy, Service, Setup},
};

/// Caches, pools and connections before anything counts.
const WARM_UP: Duration = Duration::from_millis(300);
/// Whose turn it is changes as often: the less the machine's speed changes from one to the next, the more a ratio says.
const SLICE: Duration = Duration::from_millis(100);
/// The same for a load generator that knows whole seconds only.
const LONG_SLICE: Duration = Duration::from_secs(1);

/// Of the row with many of them.
pub(crate) const ROUTES: usize = 10_000;

/// A proxy with a load, and what was seen of it in each round.
struct Contender {
    name: String,
    setup: Setup,
    load: Load,
    /// Requests a second; `None`: as many as go.
    rate: Option<f64>,
    micros: Vec<f64>,
    rates: Vec<f64>,
}

/// Measures one of the rows and prints it.
pub(crate) async fn row(bench: &Bench, row: &str) -> Result<()> {
    let upstreams = &bench.upstreams;
    let (title, contenders) = match row {
        "h3" => {
            let mut all = beside(&[Kind::Weir, Kind::Envoy], Service::Http, upstreams.http, &Load::H3);
            let h2 = Setup { kind: Kind::Weir, service: Service::Http, upstream: upstreams.http, routes: 1 };
            all.push(Contender::new("Weir, HTTP/2", h2, Load::H2));
            ("HTTP/3, 1 KiB, 16 connections x 32 streams", all)
        }
        "grpc" => {
            let kinds = [Kind::Weir, Kind::Nginx, Kind::Haproxy, Kind::Envoy];
            let all = beside(&kinds, Service::Grpc, upstreams.grpc, &Load::Grpc);
            ("gRPC unary calls, 100 bytes each way, TLS to h2c, 16 connections x 32 streams", all)
        }
        "websocket" => {
            let kinds = [Kind::Weir, Kind::Nginx, Kind::Haproxy];
            let all = beside(&kinds, Service::WebSocket, upstreams.websocket, &Load::WebSocket);
            ("WebSocket, messages of 125 bytes echoed, 64 connections", all)
        }
        "routes" => return routes(bench).await,
        "builds" => return builds(bench).await,
        _ => bail!("not a row of costs: {row}"),
    };
    beside_each_other(bench, title, contenders).await?;
    Ok(())
}

/// Those that can be started, with the same load.
fn beside(kinds: &[Kind], service: Service, upstream: u16, load: &Load) -> Vec<Contender> {
    let there = kinds.iter().copied().filter(|kind| kind.is_there());
    let contender =
        |kind: Kind| Contender::new(kind.name(), Setup { kind, service, upstream, routes: 1 }, load.clone());
    there.map(contender).collect()
}

/// Two builds of Weir beside each other, by the loads that everybody looks at.
async fn builds(bench: &Bench) -> Result<()> {
    let loads = [
        ("HTTP/1.1, 1 KiB, 64 connections", Load::h1(false)),
        ("The same in TLS", Load::h1(true)),
        ("HTTP/2, 1 KiB, 16 connections x 32 streams", Load::H2),
        ("A connection for each request", Load::Connect),
        ("HTTP/1.1, 1 MiB", Load::large()),
    ];
    for (title, load) in loads {
        let kinds = [Kind::Weir, Kind::WeirBefore];
        let contenders = beside(&kinds, Service::Http, bench.upstreams.http, &load);
        beside_each_other(bench, title, contenders).await?;
        println!();
    }
    Ok(())
}

/// Requests for each of the many routes; neighbours in the configuration are far apart in time.
pub(crate) fn to_all_routes() -> Load {
    to_routes((0..ROUTES).map(spread))
}

/// Requests of which the route of rank `r` gets a share of `1/r`, in an order that is the same each time.
fn to_popular_routes() -> Load {
    let weights = (1..=ROUTES).map(|rank| 1.0 / figures::float(rank as u64));
    let sums: Vec<f64> = weights
        .scan(0.0, |sum, weight| {
            *sum += weight;
            Some(*sum)
        })
        .collect();
    let whole = sums.last().copied().unwrap_or_default();
    let ranks = (0..4 * ROUTES as u64).map(|draw| {
        let point = figures::float(scrambled(draw) >> 11) / figures::float(1 << 53) * whole;
        sums.partition_point(|sum| *sum < point).min(ROUTES - 1)
    });
    to_routes(ranks.map(spread))
}

/// As good as random (SplitMix64).
fn scrambled(number: u64) -> u64 {
    let mut bits = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

/// Neighbours are far apart.
fn spread(number: usize) -> usize {
    number * 7919 % ROUTES
}

fn to_routes(order: impl Iterator<Item = usize>) -> Load {
    let requests = order
        .map(|route| clients::request(&configs::host_of(route), &format!("{}/x", configs::path_of(route))));
    Load::H1 { tls: false, requests: Rc::new(requests.collect()) }
}

/// Of what the slower one serves at most.
const PACE: f64 = 0.6;

/// The same requests, for 10,000 routes and for one: as many as go, and at an equal rate.
///
/// A client that is faster than its proxy sleeps, and to wake it is the proxy's cost: so a proxy that is a little slower
/// seems to be more so. At an equal rate clients sleep as often for both.
async fn routes(bench: &Bench) -> Result<()> {
    let contenders = |load: &Load, rate| {
        let contender = |name, routes| {
            let (kind, service, upstream) = (Kind::Weir, Service::Http, bench.upstreams.http);
            let setup = Setup { kind, service, upstream, routes };
            Contender { rate, ..Contender::new(name, setup, load.clone()) }
        };
        vec![contender("10,000 routes", ROUTES), contender("one route", 1)]
    };
    let all = to_all_routes();
    let title = "HTTP/1.1 kept alive, 64 connections, 10,000 routes of 1,000 hosts or one route";
    let rates = beside_each_other(bench, title, contenders(&all, None)).await?;
    let rate = (rates.into_iter().fold(f64::INFINITY, f64::min) * PACE).round();
    println!();
    let title = format!("The same at {rate}/s");
    beside_each_other(bench, &title, contenders(&all, Some(rate))).await?;
    println!();
    let title = format!("The same, the route of rank r with a share of 1/r (Zipf), at {rate}/s");
    beside_each_other(bench, &title, contenders(&to_popular_routes(), Some(rate))).await?;
    Ok(())
}

impl Contender {
    fn new(name: &str, setup: Setup, load: Load) -> Self {
        Self { name: name.to_owned(), setup, load, rate: None, micros: vec![], rates: vec![] }
    }

    /// For so long.
    fn quota(&self, span: Duration) -> Quota {
        let quota = Quota::span(span);
        match self.rate {
            Some(rate) => quota.at(rate),
            None => quota,
        }
    }

    fn slice(&self) -> Duration {
        if matches!(self.load, Load::Grpc) { LONG_SLICE } else { SLICE }
    }

    /// Where requests differ, each has been made before: what is made for a route's first request is not a request's cost.
    fn warm_up(&self) -> Quota {
        match &self.load {
            Load::H1 { requests, .. } if requests.len() > 1 => Quota::count(2 * requests.len() as u64),
            _ => Quota::span(WARM_UP),
        }
    }
}

/// Runs the rounds and prints each contender's figures, and the first one's ratio to each other. How many requests a
/// second each has answered.
async fn beside_each_other(bench: &Bench, title: &str, mut contenders: Vec<Contender>) -> Result<Vec<f64>> {
    for _ in 0..bench.plan.rounds {
        round(bench, &mut contenders).await?;
    }
    println!("{title}:\n");
    println!("| proxy | CPU us | answers/s | ratio of CPU to it [95 %] |");
    println!("|---|---|---|---|");
    let mut rates = vec![];
    for (number, contender) in contenders.iter().enumerate() {
        let micros = Spread::of(contender.micros.iter().copied());
        let rate = Spread::of(contender.rates.iter().copied()).median();
        let ratio = match number {
            0 => String::new(),
            _ => figures::ratio(&contenders[0].micros, &contender.micros),
        };
        rates.push(rate);
        println!("| {} | {micros} | {rate:.0} | {ratio} |", contender.name);
    }
    Ok(rates)
}

async fn round(bench: &Bench, contenders: &mut [Contender]) -> Result<()> {
    let mut running = Vec::new();
    for contender in &*contenders {
        let proxy = Proxy::start(contender.setup, &bench.identity).await?;
        let mut clients = Clients::open(&contender.load, &proxy, &bench.identity)
            .await
            .with_context(|| format!("clients of {}", contender.name))?;
        clients.run(&contender.warm_up()).await.with_context(|| contender.name.clone())?;
        running.push((proxy, clients, 0.0, 0, 0.0));
    }
    let slice = contenders.iter().map(Contender::slice).max().unwrap_or(SLICE);
    for _ in 0..(u128::from(bench.plan.seconds) * 1000 / slice.as_millis()) {
        for ((proxy, clients, cpu, done, seconds), contender) in running.iter_mut().zip(&*contenders) {
            let (before, began) = (figures::cpu(proxy.process)?, Instant::now());
            *done += clients.run(&contender.quota(slice)).await.with_context(|| contender.name.clone())?;
            *cpu += figures::cpu(proxy.process)? - before;
            *seconds += began.elapsed().as_secs_f64();
        }
    }
    for ((proxy, _, cpu, done, seconds), contender) in running.into_iter().zip(contenders) {
        proxy.stop().await?;
        ensure!(done > 0, "{} answered nothing", contender.name);
        contender.micros.push(cpu * 1e6 / figures::float(done));
        contender.rates.push(figures::float(done) / seconds);
    }
    Ok(())
}
