//! CPU time for a request (or message), side by side.

use std::{rc::Rc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use tokio::time::Instant;

use crate::{
    Bench,
    clients::{self, Clients, Load, Quota},
    configs,
    figures::{self, Spread},
    proxies::{self, Kind, Proxy, Service, Setup},
};

/// Caches, pools and connections before anything counts.
const WARM_UP: Duration = Duration::from_millis(300);
/// Whose turn it is changes as often.
const SLICE: Duration = Duration::from_secs(1);

/// Of the row with many of them.
pub(crate) const ROUTES: usize = 10_000;

/// A proxy with a load, and what was seen of it in each round.
struct Contender {
    name: String,
    setup: Setup,
    load: Load,
    micros: Vec<f64>,
    rates: Vec<f64>,
}

/// Measures one of the rows and prints it.
pub(crate) async fn row(bench: &Bench, row: &str) -> Result<()> {
    let upstreams = &bench.upstreams;
    let setup = |kind, service, upstream| Setup { kind, service, upstream, routes: 1 };
    let beside = |kinds: &[Kind], service, upstream, load: &Load| {
        let there = kinds.iter().filter(|kind| match kind {
            Kind::Weir => true,
            other => proxies::installed(&other.name().to_lowercase()),
        });
        there
            .map(|kind| Contender::new(kind.name(), setup(*kind, service, upstream), load.clone()))
            .collect::<Vec<_>>()
    };
    let (title, contenders) = match row {
        "h3" => {
            let mut all = beside(&[Kind::Weir, Kind::Envoy], Service::Http, upstreams.http, &Load::H3);
            let h2 = setup(Kind::Weir, Service::Http, upstreams.http);
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
        "routes" => {
            ("HTTP/1.1 kept alive, 64 connections, 10,000 routes of 1,000 hosts or one route", routes(bench))
        }
        _ => bail!("not a row of costs: {row}"),
    };
    beside_each_other(bench, title, contenders).await
}

/// Requests for each of the many routes; neighbours in the configuration are far apart in time.
pub(crate) fn to_all_routes() -> Load {
    let order = (0..ROUTES).map(|number| number * 7919 % ROUTES);
    let requests = order
        .map(|route| clients::request(&configs::host_of(route), &format!("{}/x", configs::path_of(route))));
    Load::H1 { tls: false, requests: Rc::new(requests.collect()) }
}

/// The same requests, for 10,000 routes and for one.
fn routes(bench: &Bench) -> Vec<Contender> {
    let load = to_all_routes();
    let setup =
        |routes| Setup { kind: Kind::Weir, service: Service::Http, upstream: bench.upstreams.http, routes };
    vec![
        Contender::new("10,000 routes", setup(ROUTES), load.clone()),
        Contender::new("one route", setup(1), load),
    ]
}

impl Contender {
    fn new(name: &str, setup: Setup, load: Load) -> Self {
        Self { name: name.to_owned(), setup, load, micros: vec![], rates: vec![] }
    }

    /// Where requests differ, each has been made before: what is made for a route's first request is not a request's cost.
    fn warm_up(&self) -> Quota {
        match &self.load {
            Load::H1 { requests, .. } if requests.len() > 1 => Quota::count(2 * requests.len() as u64),
            _ => Quota::span(WARM_UP),
        }
    }
}

/// Runs the rounds and prints each contender's figures, and the first one's ratio to each other.
async fn beside_each_other(bench: &Bench, title: &str, mut contenders: Vec<Contender>) -> Result<()> {
    for _ in 0..bench.plan.rounds {
        round(bench, &mut contenders).await?;
    }
    println!("{title}:\n");
    println!("| proxy | CPU us | answers/s | ratio of CPU to it [95 %] |");
    println!("|---|---|---|---|");
    let Some(first) = contenders.first() else { return Ok(()) };
    for (number, contender) in contenders.iter().enumerate() {
        let micros = Spread::of(contender.micros.iter().copied());
        let rate = Spread::of(contender.rates.iter().copied()).median();
        let ratio = match number {
            0 => String::new(),
            _ => figures::ratio(&first.micros, &contender.micros),
        };
        println!("| {} | {micros} | {rate:.0} | {ratio} |", contender.name);
    }
    Ok(())
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
    for _ in 0..bench.plan.seconds {
        for ((proxy, clients, cpu, done, seconds), contender) in running.iter_mut().zip(&*contenders) {
            let (before, began) = (figures::cpu(proxy.process)?, Instant::now());
            *done += clients.run(&Quota::span(SLICE)).await.with_context(|| contender.name.clone())?;
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
