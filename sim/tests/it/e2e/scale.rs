//! A hundred scale events under load, and no request lost.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use sim::harness::{Installation, Load, connect, get, has, tell};

use super::{PATIENCE, long, no_errors, one_at_a_time, set_pool};

/// Each event changes the pool's worker count; a cycle is 1 -> 3 -> 2 -> 4 -> 1.
const CYCLE: [usize; 4] = [3, 2, 4, 1];

/// Scales up and down while `load` runs, `events` times at least, and says how often it did.
fn scale_while(weir: &Installation, load: &mut Load, events: usize) -> Result<usize> {
    let mut count = 0;
    for workers in CYCLE.into_iter().cycle() {
        if !load.running()? {
            break;
        }
        set_pool(weir, workers..=workers, "  scaleInDelay: 1s\n")?;
        weir.wait(PATIENCE, &format!("{workers} ready workers"), || {
            Ok(weir.ready_workers()?.len() == workers)
        })
        .with_context(|| format!("{:#?}\n{}", weir.workers(), weir.log()))?;
        count += 1;
        if count >= events && workers == 1 {
            break;
        }
    }
    Ok(count)
}

fn no_request_fails(protocol: &[&str], rate: u32, events: usize, seconds: u32) -> Result<()> {
    let weir = Installation::up(&["--demo"])?;
    set_pool(&weir, 1..=1, "  scaleInDelay: 1s\n")?;
    let secure = protocol.contains(&"h2");
    let (scheme, port) = if secure { ("https", weir.ports.https) } else { ("http", weir.ports.http) };
    let url = format!("{scheme}://demo.localhost:{port}/");
    let (rate, duration) = (rate.to_string(), format!("{seconds}s"));
    let ca = weir.directory().join("weir-data/pki/ca.pem").display().to_string();
    let mut arguments = vec![url.as_str(), "--rate", &rate, "--duration", &duration, "--connections", "16"];
    arguments.extend(protocol);
    if secure {
        arguments.extend(["--cacert", &ca]);
    }
    let mut load = Load::start(&arguments)?;
    let scaled = scale_while(&weir, &mut load, events)?;
    let report = load.finish()?;
    tell(&format!(
        "{protocol:?}: {scaled} scale events, {} requests, {} ok, failed {}, not sent {}, reconnects {}, p99 {} us",
        report["planned"],
        report["ok"],
        report["failed"],
        report["not_sent"],
        report["reconnects"],
        report["latency_us"]["p99"]
    ));
    assert!(scaled >= events.min(8), "only {scaled} events in {seconds} s");
    assert_eq!(report["ok"], report["planned"], "{report:#}\n{}", weir.log());
    let (status, log) = weir.stop()?;
    assert!(status.success(), "{log}");
    no_errors(&log);
    Ok(())
}

/// (events, requests per second, seconds): the long form is the proof, the short one runs with every change.
fn size() -> (usize, u32, u32) {
    if long() { (100, 500, 240) } else { (8, 200, 25) }
}

#[test]
fn keep_alive_requests_survive_scale_events() -> Result<()> {
    let _turn = one_at_a_time();
    let (events, rate, seconds) = size();
    no_request_fails(&["--protocol", "h1"], rate, events, seconds)
}

#[test]
fn new_connections_survive_scale_events() -> Result<()> {
    let _turn = one_at_a_time();
    let (events, rate, seconds) = size();
    no_request_fails(&["--protocol", "h1", "--new-connections"], rate, events, seconds)
}

#[test]
fn http2_streams_survive_scale_events() -> Result<()> {
    let _turn = one_at_a_time();
    let (events, rate, seconds) = size();
    no_request_fails(&["--protocol", "h2"], rate, events, seconds)
}

/// A client that waits between two requests while its worker goes.
struct Patient(BufReader<TcpStream>);

impl Patient {
    fn connect(weir: &Installation) -> Result<Self> {
        Ok(Self(BufReader::new(connect(weir.ports.http)?)))
    }

    fn send(&mut self) -> Result<()> {
        Ok(self.0.get_mut().write_all(b"GET / HTTP/1.1\r\nHost: demo.localhost\r\n\r\n")?)
    }

    /// The head of the answer.
    fn answer(&mut self) -> Result<String> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            ensure!(self.0.read_line(&mut head)? > 0, "closed after {head:?}");
        }
        let head = head.to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
        let mut body = vec![0; length.context("a length")?.parse()?];
        self.0.read_exact(&mut body)?;
        Ok(head)
    }
}

#[test]
fn idle_connections_outlive_their_workers() -> Result<()> {
    let _turn = one_at_a_time();
    let weir = Installation::up(&["--demo"])?;
    set_pool(&weir, 3..=3, "  scaleInDelay: 1s\n")?;
    weir.settle(3, PATIENCE)?;
    let mut clients = (0..200).map(|_| Patient::connect(&weir)).collect::<Result<Vec<_>>>()?;
    // New workers relieve each other of connections first, until each has its part.
    let began = std::time::Instant::now();
    weir.wait(PATIENCE, "level workers", || {
        let mut level = began.elapsed() > Duration::from_secs(4);
        for client in &mut clients {
            client.send()?;
            let head = client.answer()?;
            ensure!(head.starts_with("http/1.1 200"), "{head}");
            if head.contains("connection: close") {
                *client = Patient::connect(&weir)?;
                level = false;
            }
        }
        Ok(level)
    })?;
    set_pool(&weir, 1..=1, "  scaleInDelay: 1s\n")?;
    weir.settle(1, PATIENCE)?;
    let mut kept = 0;
    for client in &mut clients {
        // One that was closed while it was idle is no failure.
        if client.send().is_ok()
            && let Ok(head) = client.answer()
        {
            ensure!(head.starts_with("http/1.1 200"), "{head}");
            kept += usize::from(!head.contains("connection: close"));
        }
    }
    // Two workers of three went. Some connections are sent away at any time, so that each worker has its part.
    tell(&format!("{kept} of {} connections are kept", clients.len()));
    ensure!(kept * 4 >= clients.len() * 3, "only {kept} are kept");
    let metrics = String::from_utf8(get(weir.ports.worker_metrics, "localhost", "/metrics")?.body)?;
    let adopted = metrics.lines().filter(|line| line.starts_with("weir_edge_adopted_connections_total"));
    let adopted: u64 = adopted.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum();
    ensure!(adopted > 0, "{metrics}");
    tell(&format!("{adopted} connections were adopted by the worker that is left"));
    let (status, log) = weir.stop()?;
    assert!(status.success(), "{log}");
    no_errors(&log);
    Ok(())
}

/// wrk as a second opinion: it knows nothing of Weir and counts every socket error.
#[test]
fn wrk_sees_no_error_either() -> Result<()> {
    let _turn = one_at_a_time();
    if !has("wrk", "-v") {
        return Ok(());
    }
    let weir = Installation::up(&["--demo"])?;
    set_pool(&weir, 1..=1, "  scaleInDelay: 1s\n")?;
    let seconds = if long() { 120 } else { 15 };
    let wrk = Command::new("wrk")
        .args(["-t1", "-c8", &format!("-d{seconds}s"), "-H", "Host: demo.localhost"])
        .arg(format!("http://127.0.0.1:{}/", weir.ports.http))
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let deadline = std::time::Instant::now() + Duration::from_secs(seconds);
    let mut events = 0;
    for workers in CYCLE.into_iter().cycle() {
        if std::time::Instant::now() > deadline {
            break;
        }
        set_pool(&weir, workers..=workers, "  scaleInDelay: 1s\n")?;
        weir.wait(PATIENCE, "workers", || Ok(weir.ready_workers()?.len() == workers))?;
        events += 1;
    }
    let output = String::from_utf8(wrk.wait_with_output()?.stdout)?;
    tell(&format!("{events} scale events\n{output}"));
    assert!(output.contains("requests in"), "{output}");
    assert!(!output.contains("Socket errors") && !output.contains("Non-2xx"), "{output}");
    Ok(())
}
