//! UDP that is passed on: workers come and go, a pool sleeps and wakes, and questions are answered.

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use sim::harness::{Installation, command, free_port, kill, pause, tell, wait_exit, weir_binary};
use tempfile::TempDir;

use super::{PATIENCE, long, no_errors, one_at_a_time};

/// Clients at once.
const CLIENTS: usize = 32;

/// After this a question counts as lost. Longer than a debug build on a busy machine may stand still.
const LOST_AFTER: Duration = Duration::from_secs(3);

/// Answers questions of two bytes or more with the same and a bit set, as DNS has it.
struct Resolver {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    running: Option<JoinHandle<()>>,
}

impl Resolver {
    fn start() -> Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let (address, stop) = (socket.local_addr()?, Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let running = thread::spawn(move || {
            let mut message = [0; 65_536];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((count @ 3.., from)) = socket.recv_from(&mut message) else { continue };
                message[2] |= 0x80;
                // Who is gone by now does not miss it.
                let _gone = socket.send_to(&message[..count], from);
            }
        });
        Ok(Self { address, stop, running: Some(running) })
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(running) = self.running.take() {
            let _panicked = running.join();
        }
    }
}

fn question(number: u16) -> [u8; 32] {
    let mut message = [0; 32];
    message[..2].copy_from_slice(&number.to_be_bytes());
    message
}

/// Asks once. Whether there was an answer in time; answers to what was asked before are passed over.
fn ask(client: &UdpSocket, number: u16, within: Duration) -> Result<bool> {
    // The first may be told of what was sent before, to nobody.
    client.send(&question(number)).or_else(|_| client.send(&question(number)))?;
    let deadline = Instant::now() + within;
    let mut message = [0; 100];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        client.set_read_timeout(Some(left))?;
        match client.recv(&mut message) {
            Ok(count) if message[..2] == number.to_be_bytes() => {
                ensure!(count == 32 && message[2] == 0x80, "another answer: {:?}", &message[..count]);
                return Ok(true);
            }
            Ok(_) => {}
            // Nobody has the port yet, or nothing came.
            Err(_) => {}
        }
    }
}

fn client_of(door: SocketAddr) -> Result<UdpSocket> {
    let client = UdpSocket::bind("127.0.0.1:0")?;
    client.connect(door)?;
    Ok(client)
}

/// What the clients did.
#[derive(Debug, Default)]
struct Tally {
    answered: AtomicU64,
    lost: AtomicU64,
    stop: AtomicBool,
}

/// Each client goes on by one port, as one session; every other one asks each question from another port, too.
fn clients(door: SocketAddr, tally: &Arc<Tally>) -> Vec<JoinHandle<Result<()>>> {
    let run = move |moves: bool, tally: Arc<Tally>| -> Result<()> {
        let mut client = client_of(door)?;
        for number in (0..=u16::MAX).cycle() {
            if tally.stop.load(Ordering::Relaxed) {
                break;
            }
            if moves {
                client = client_of(door)?;
            }
            let counter = if ask(&client, number, LOST_AFTER)? { &tally.answered } else { &tally.lost };
            counter.fetch_add(1, Ordering::Relaxed);
            pause();
        }
        Ok(())
    };
    (0..CLIENTS)
        .map(|number| {
            let tally = Arc::clone(tally);
            thread::spawn(move || run(number % 2 == 1, tally))
        })
        .collect()
}

fn pool(weir: &Installation, door: SocketAddr, workers: std::ops::RangeInclusive<usize>) -> String {
    format!(
        "apiVersion: weir.dev/v1
kind: Pool
metadata: {{name: default}}
spec:
  listen:
  - {{port: 80, bind: '127.0.0.1:{}', protocol: HTTP}}
  - {{port: 443, bind: '127.0.0.1:{}', protocol: HTTPS}}
  - {{port: 53, bind: '{door}', protocol: UDP, tenant: demo}}
  minWorkers: {}
  maxWorkers: {}
  scaleInDelay: 1s
  drainDeadline: 15s
",
        weir.ports.http,
        weir.ports.https,
        workers.start(),
        workers.end()
    )
}

fn routes(resolver: SocketAddr, policy: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: dns}}
spec: {{gatewayClassName: weir, listeners: [{{name: udp, port: 53, protocol: UDP}}]}}
---
apiVersion: weir.dev/v1
kind: ListenerPolicy
metadata: {{name: dns}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: dns}}]
  udp: {{{policy}}}
---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: UDPRoute
metadata: {{name: dns}}
spec:
  parentRefs: [{{name: dns}}]
  rules: [{{backendRefs: [{{group: weir.dev, kind: Backend, name: resolver}}]}}]
---
apiVersion: weir.dev/v1
kind: Backend
metadata: {{name: resolver}}
spec: {{endpoints: [{{address: '{resolver}'}}]}}
"
    )
}

/// Returns once a question is answered: addresses, and what is done with datagrams, come by two ways.
fn routed(weir: &Installation, door: SocketAddr) -> Result<()> {
    let client = client_of(door)?;
    weir.wait(PATIENCE, "the first answer", || ask(&client, 1, Duration::from_millis(200)))
}

#[test]
fn questions_are_answered_while_workers_come_and_go() -> Result<()> {
    let _turn = one_at_a_time();
    let weir = Installation::up(&["--demo"])?;
    let door = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let resolver = Resolver::start()?;
    weir.apply("platform", &pool(&weir, door, 1..=1))?;
    weir.apply("demo", &routes(resolver.address, "idleTimeout: 5s"))?;
    routed(&weir, door).with_context(|| weir.log())?;
    let tally = Arc::new(Tally::default());
    let running = clients(door, &tally);
    let cycles = if long() { 25 } else { 2 };
    let mut events = 0;
    let mut scale = || -> Result<()> {
        for workers in [3, 1].into_iter().cycle().take(2 * cycles) {
            weir.apply("platform", &pool(&weir, door, workers..=workers))?;
            weir.wait(PATIENCE, &format!("{workers} workers"), || {
                Ok(weir.ready_workers()?.len() == workers && weir.workers()?.len() == workers)
            })?;
            events += 1;
            let before = tally.answered.load(Ordering::Relaxed);
            let more = || Ok(tally.answered.load(Ordering::Relaxed) > before + 10 * CLIENTS as u64);
            weir.wait(PATIENCE, "answers", more)?;
        }
        Ok(())
    };
    let result = scale();
    tally.stop.store(true, Ordering::Relaxed);
    for client in running {
        match client.join() {
            Ok(ended) => ended?,
            Err(_) => bail!("a client panicked"),
        }
    }
    result.with_context(|| weir.log())?;
    let (answered, lost) = (tally.answered.load(Ordering::Relaxed), tally.lost.load(Ordering::Relaxed));
    tell(&format!("udp: {events} scale events, {answered} questions answered, {lost} lost"));
    // A worker that leaves answers what it was asked, so none should be; but UDP promises nothing.
    ensure!(lost * 1000 <= answered, "{lost} of {answered} lost\n{}", weir.log());
    let (status, log) = weir.stop()?;
    assert!(status.success(), "{log}");
    no_errors(&log);
    Ok(())
}

#[test]
fn a_question_wakes_a_pool_and_is_answered() -> Result<()> {
    let _turn = one_at_a_time();
    let weir = Installation::up(&["--demo"])?;
    let door = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let resolver = Resolver::start()?;
    weir.apply("platform", &pool(&weir, door, 0..=2))?;
    weir.apply("demo", &routes(resolver.address, "responses: 1"))?;
    routed(&weir, door).with_context(|| weir.log())?;
    // A minute without a question.
    weir.wait(PATIENCE * 5, "the pool to sleep", || Ok(weir.workers()?.is_empty()))?;
    // Once: it waits for the worker that it wakes.
    let began = Instant::now();
    let answered = ask(&client_of(door)?, 7, PATIENCE)?;
    ensure!(answered, "a question to a sleeping pool was lost\n{}", weir.log());
    tell(&format!("udp: a sleeping pool answered after {} ms", began.elapsed().as_millis()));
    let (status, log) = weir.stop()?;
    assert!(status.success(), "{log}");
    no_errors(&log);
    Ok(())
}

#[test]
fn the_example_passes_questions_on() -> Result<()> {
    let _turn = one_at_a_time();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace")?;
    let (first, second) = (Resolver::start()?, Resolver::start()?);
    let (directory, door) = (TempDir::new()?, SocketAddr::from(([127, 0, 0, 1], free_port()?)));
    let yaml = fs::read_to_string(root.join("examples/static/dns.yaml"))?
        .replace("127.0.0.1:15353", &door.to_string())
        .replace("127.0.0.1:9053", &first.address.to_string())
        .replace("127.0.0.1:9054", &second.address.to_string());
    let file = directory.path().join("dns.yaml");
    fs::write(&file, yaml)?;
    let mut edge = command(&weir_binary().display().to_string())
        .args(["edge", "--static", &file.display().to_string(), "--threads", "2"])
        .stdin(Stdio::null())
        .spawn()?;
    let client = client_of(door)?;
    let deadline = Instant::now() + PATIENCE;
    while !ask(&client, 1, Duration::from_millis(200))? {
        ensure!(Instant::now() < deadline, "no answer");
    }
    for number in 2..200 {
        ensure!(ask(&client_of(door)?, number, LOST_AFTER)?, "question {number} was lost");
    }
    kill(edge.id(), Signal::HUP)?;
    ensure!(ask(&client, 200, LOST_AFTER)?, "lost in a reload");
    kill(edge.id(), Signal::TERM)?;
    assert!(wait_exit(&mut edge, PATIENCE)?.success());
    Ok(())
}
