//! Each attack: what a unit of it costs the worker beside an honest client's request, what one of its connections holds beside an
//! honest client's, and how long honest clients wait meanwhile.

mod h1;
mod h2;
mod h3;
mod raw;

use std::{
    cell::{Cell, RefCell},
    future::Future,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::{LocalSet, spawn_local},
};

use super::{
    cores, is_long,
    load::{Load, Manner, Outcome},
    origin,
    process::Process,
    tell,
    worker::Spec,
};
use crate::{
    support::{backend, forward, pause, secret},
    tls::client_config,
};

/// One attack.
struct Attack {
    name: &'static str,
    /// What is counted.
    unit: &'static str,
    connections: usize,
    /// Requests at once on each, by which memory is compared.
    requests: usize,
    /// Units a second, by all connections together, at most.
    per_second: f64,
    /// What an honest client does in its place.
    honest: Honest,
    strike: Act,
}

/// What one of its connections does.
type Act = fn(Rc<Striker>) -> Strike;

type Strike = Pin<Box<dyn Future<Output = std::io::Result<()>>>>;

impl Attack {
    /// Makes attacks that are measured by such a client, a connection of theirs by one of its requests: by name, unit,
    /// connections, units a second and what they do.
    fn beside(honest: Honest) -> impl Fn(&'static str, &'static str, usize, f64, Act) -> Self {
        move |name, unit, connections, per_second, strike| Self {
            name,
            unit,
            connections,
            requests: 1,
            per_second,
            honest,
            strike,
        }
    }
}

/// What an attack is measured by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Honest {
    /// A request on a connection that is kept.
    Http1,
    /// A connection, with a request.
    Http1Close,
    /// A TLS handshake, and a request.
    Tls,
    /// A request of HTTP/2.
    Http2,
    /// A request of HTTP/3.
    Http3,
}

/// What the attackers share.
struct Striker {
    targets: Targets,
    began: Instant,
    ends: Instant,
    per_second: f64,
    units: Cell<u64>,
    /// Connections that the worker closed.
    ended: Cell<u64>,
}

/// Where the worker is.
#[derive(Clone)]
struct Targets {
    http: SocketAddr,
    https: SocketAddr,
    quic: SocketAddr,
    proxied: SocketAddr,
    udp: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
    quic_config: quinn::ClientConfig,
}

impl Striker {
    /// Waits until it is time for `count` more units; false at the end.
    async fn pace(&self, count: u64) -> bool {
        let due = self.began + Duration::from_secs_f64(self.units.get() as f64 / self.per_second);
        if due >= self.ends {
            tokio::time::sleep_until(self.ends.into()).await;
            return false;
        }
        self.units.set(self.units.get() + count);
        tokio::time::sleep_until(due.into()).await;
        true
    }

    /// Says `first`, then `count` units of `more` at a time until the end, and takes no notice of what it hears.
    async fn flood(
        &self,
        stream: TcpStream,
        first: &[u8],
        count: u64,
        mut more: impl FnMut() -> Vec<u8>,
    ) -> std::io::Result<()> {
        let (mut reader, mut writer) = stream.into_split();
        let hearing = async {
            let mut heard = vec![0; 65536];
            while reader.read(&mut heard).await? > 0 {}
            std::io::Result::Ok(())
        };
        let saying = async {
            writer.write_all(first).await?;
            while self.pace(count).await {
                let mut all = Vec::new();
                (0..count).for_each(|_| all.extend(more()));
                writer.write_all(&all).await?;
            }
            std::io::Result::Ok(())
        };
        tokio::select! { heard = hearing => heard, said = saying => said }
    }

    /// Says `first`, then `more` again and again, slowly, and reads nothing.
    async fn dribble(&self, mut stream: TcpStream, first: &[u8], more: &[u8]) -> std::io::Result<()> {
        stream.write_all(first).await?;
        while self.pace(1).await {
            stream.write_all(more).await?;
        }
        Ok(())
    }
}

/// What was measured of one attack.
struct Measured {
    /// Of a unit.
    cpu_us: f64,
    /// Of a core's time.
    busy: f64,
    /// Of a connection, bytes.
    memory: f64,
    p99_ms: f64,
    /// Part of the time that the honest clients' thread was ready and did not run.
    kept_waiting: f64,
    struck: Struck,
}

/// The worker's objects: all that there is to attack.
fn yaml(made: &rcgen::CertifiedKey<rcgen::KeyPair>) -> String {
    let kind = "apiVersion: gateway.networking.k8s.io/v1\nkind";
    let listeners = [
        "{name: http, port: 80, protocol: HTTP}",
        "{name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: cert}]}}",
        "{name: proxied, port: 8000, protocol: HTTP}",
        "{name: udp, port: 5300, protocol: UDP}",
    ];
    let upstreams = backend("up", super::origin()) + &backend("bulk", super::bulk_origin());
    // An upstream of theirs, where what they ask for takes its time: that is no time of the worker's.
    let bulk = "  - matches: [{path: {value: /large}}, {path: {value: /bulk}}]\n    \
                backendRefs: [{group: weir.dev, kind: Backend, name: bulk}]\n";
    format!(
        "{kind}: Gateway\nmetadata: {{name: gateway}}\nspec:\n  gatewayClassName: weir\n  listeners: [{}]\n---\n\
         {kind}: HTTPRoute\nmetadata: {{name: all}}\nspec:\n  parentRefs: [{{name: gateway}}]\n  rules:\n{}---\n\
         apiVersion: gateway.networking.k8s.io/v1alpha2\nkind: UDPRoute\nmetadata: {{name: datagrams}}\nspec:\n  \
         parentRefs: [{{name: gateway, sectionName: udp}}]\n  rules:\n{}---\n\
         apiVersion: weir.dev/v1\nkind: Pool\nmetadata: {{name: default}}\nspec:\n  listen:\n  \
         - {{port: 80, bind: \"127.0.0.1:80\"}}\n  - {{port: 443, bind: \"127.0.0.1:443\", protocol: HTTPS}}\n  \
         - {{port: 8000, bind: \"127.0.0.1:8000\", proxyProtocol: {{trusted: [\"127.0.0.0/8\"], mode: Required}}}}\n  \
         - {{port: 5300, bind: \"127.0.0.1:5300\", protocol: UDP}}\n{upstreams}{}",
        listeners.join(", "),
        forward("up") + bulk,
        forward("silent"),
        backend("silent", origin::silent())
            + &secret("cert", &made.cert.pem(), &made.signing_key.serialize_pem()),
    )
}

/// A worker, and what its attackers need to know.
fn start() -> (Process, Targets) {
    let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
    let process = Process::start(&Spec { alone: Some(yaml(&made)), tenants: vec![], toll_us: 0 });
    let roots = [made.cert.der().clone()];
    let quic = quinn::crypto::rustls::QuicClientConfig::try_from(client_config(&roots, &[b"h3"])).unwrap();
    let targets = Targets {
        http: process.tcp(80),
        https: process.tcp(443),
        quic: process.udp(443),
        proxied: process.tcp(8000),
        udp: process.udp(5300),
        tls: client_config(&roots, &[b"http/1.1"]),
        quic_config: quinn::ClientConfig::new(Arc::new(quic)),
    };
    (process, targets)
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, future)
}

/// What honest clients cost: CPU time of a request, microseconds, and what one of them holds while it waits for its answer.
fn honest(kind: Honest) -> (f64, f64) {
    let (process, targets) = start();
    let count = if is_long() { 400 } else { 100 };
    block_on(async {
        raw::honest(kind, &targets, 20).await;
        let before = process.cpu();
        raw::honest(kind, &targets, count).await;
        let cpu_us = (process.cpu() - before).as_secs_f64() * 1e6 / count as f64;
        let (before, waiting) = (process.memory(), 100);
        let clients: Vec<_> = (0..waiting)
            .map(|_| {
                let targets = targets.clone();
                spawn_local(async move { raw::waiting(kind, &targets).await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(700)).await;
        let memory = process.memory().saturating_sub(before) as f64 / f64::from(waiting);
        clients.into_iter().for_each(|client| client.abort());
        (cpu_us, memory)
    })
}

const HONEST_PER_SECOND: f64 = 300.0;

fn honest_load(targets: &Targets, time: Duration) -> Load {
    Load {
        to: targets.http,
        host: "a.test",
        manner: Manner::Http1,
        clients: 20,
        per_second: HONEST_PER_SECOND,
        time,
    }
}

/// Attacks a worker while honest clients go on.
fn measure(attack: &Attack, time: Duration) -> (Measured, Measured) {
    let (process, targets) = start();
    let skip = Duration::from_millis(300);
    // What the first request by a protocol brings with it is no attack's.
    block_on(raw::honest(attack.honest, &targets, 20));
    let before = process.cpu();
    let alone = honest_load(&targets, time).run();
    let usual = process.cpu() - before;
    let (cpu, memory) = (process.cpu(), process.memory());
    let beside = honest_load(&targets, time).start();
    let struck = std::thread::scope(|scope| {
        let striking = || {
            cores::give_way();
            strike(attack, targets, process.memory_reader(), time)
        };
        scope.spawn(striking).join().unwrap()
    });
    let spent = (process.cpu() - cpu).saturating_sub(usual);
    let beside = beside.join().unwrap();
    assert!(
        beside.failed + beside.refused <= beside.served.len() / 100,
        "{}: honest clients fail",
        attack.name
    );
    let measured = |outcome: &Outcome, spent: Duration, struck: Struck| Measured {
        cpu_us: spent.as_secs_f64() * 1e6 / struck.units.max(1) as f64,
        busy: spent.as_secs_f64() / time.as_secs_f64(),
        memory: struck.memory.saturating_sub(memory) as f64 / (attack.connections * attack.requests) as f64,
        p99_ms: outcome.p99(skip).as_secs_f64() * 1e3,
        kept_waiting: outcome.kept_waiting,
        struck,
    };
    (measured(&beside, spent, struck), measured(&alone, Duration::ZERO, Struck::default()))
}

/// What came of an attack on the attackers' side.
#[derive(Debug, Default, Clone, Copy)]
struct Struck {
    units: u64,
    /// Connections that the worker closed.
    ended: u64,
    /// The most memory that the worker had meanwhile.
    memory: u64,
}

/// Attacks for so long.
fn strike(attack: &Attack, targets: Targets, memory: impl Fn() -> u64 + 'static, time: Duration) -> Struck {
    let began = Instant::now();
    let striker = Rc::new(Striker {
        targets,
        began,
        ends: began + time,
        per_second: attack.per_second,
        units: Cell::new(0),
        ended: Cell::new(0),
    });
    let most = Rc::new(Cell::new(0));
    block_on(async {
        let watching = spawn_local({
            let most = Rc::clone(&most);
            async move {
                loop {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    most.set(memory().max(most.get()));
                }
            }
        });
        let attackers: Vec<_> = (0..attack.connections)
            .map(|_| {
                let (striker, strike) = (Rc::clone(&striker), attack.strike);
                spawn_local(async move {
                    // Whoever is thrown out comes again, a little later.
                    while Instant::now() < striker.ends {
                        let thrown_out =
                            strike(Rc::clone(&striker)).await.is_err() || Instant::now() < striker.ends;
                        if thrown_out {
                            striker.ended.set(striker.ended.get() + 1);
                            tokio::time::sleep(Duration::from_millis(20)).await;
                        }
                    }
                })
            })
            .collect();
        for attacker in attackers {
            let left = (time + Duration::from_millis(500)).saturating_sub(began.elapsed());
            drop(tokio::time::timeout(left, attacker).await);
        }
        watching.abort();
    });
    Struck { units: striker.units.get(), ended: striker.ended.get(), memory: most.get() }
}

/// What is promised, or what a loaded machine holds.
struct Bounds {
    asymmetry: f64,
    slower: f64,
    /// A p99 below this is the scheduler's.
    floor_ms: f64,
}

fn check(attack: &Attack, honest: (f64, f64), time: Duration, bounds: &Bounds) -> Result<(), String> {
    let (during, usual) = measure(attack, time);
    let (cpu, memory) = (during.cpu_us / honest.0, during.memory / honest.1);
    let slower = during.p99_ms / usual.p99_ms.max(bounds.floor_ms);
    let holds = cpu <= bounds.asymmetry && memory <= bounds.asymmetry && slower <= bounds.slower;
    let line = format!(
        "| {} | {} | {} {}s, {} thrown out | {:.1} µs ({cpu:.2}x of {:?}), {:.0} % of a core | {:.1} KiB ({memory:.1}x) | {:.1} ms, {:.1} ms before | {:.1} %, {:.1} % before | {} |",
        attack.name,
        attack.connections,
        during.struck.units,
        attack.unit,
        during.struck.ended,
        during.cpu_us,
        attack.honest,
        100.0 * during.busy,
        during.memory / 1024.0,
        during.p99_ms,
        usual.p99_ms,
        100.0 * during.kept_waiting,
        100.0 * usual.kept_waiting,
        if holds { "holds" } else { "DOES NOT HOLD" },
    );
    tell(&line);
    if holds { Ok(()) } else { Err(line) }
}

/// All of them, or those that tell most.
fn run(attacks: Vec<Attack>, short: &[&str]) {
    let bounds = match is_long() {
        true => Bounds { asymmetry: 10.0, slower: 2.0, floor_ms: 2.0 },
        false => Bounds { asymmetry: 20.0, slower: 10.0, floor_ms: 20.0 },
    };
    let time = Duration::from_millis(if is_long() { 2500 } else { 800 });
    tell(
        "| attack | connections | units | CPU for each | memory of a connection | honest p99 | its clients waited for a core | |",
    );
    tell("|---|---|---|---|---|---|---|---|");
    let known: RefCell<std::collections::HashMap<Honest, (f64, f64)>> = RefCell::default();
    let mut failed = Vec::new();
    for mut attack in attacks {
        if std::env::var("WEIR_ATTACK").is_ok_and(|only| !attack.name.contains(&only)) {
            continue;
        }
        if !is_long() {
            if !short.contains(&attack.name) {
                continue;
            }
            attack.connections = attack.connections.min(300);
            attack.per_second = attack.per_second.min(3_000.0);
        }
        let measured = *known.borrow_mut().entry(attack.honest).or_insert_with(|| honest(attack.honest));
        let mut result = check(&attack, measured, time, &bounds);
        // The machine has others who work.
        for _ in 0..2 {
            if result.is_err() {
                pause(Duration::from_millis(300));
                result = check(&attack, measured, time, &bounds);
            }
        }
        failed.extend(result.err());
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn slow_and_loud_clients_cost_as_much_as_honest_ones() {
    run(h1::attacks(), &["slow head", "slow read", "chunks of a byte"]);
}

#[test]
fn floods_of_http_2_cost_as_much_as_honest_clients() {
    run(h2::attacks(), &["rapid reset", "CONTINUATION", "header bomb"]);
}

#[test]
fn floods_of_quic_cost_as_much_as_honest_clients() {
    run(h3::attacks(), &["unproved handshakes", "stream resets"]);
}
