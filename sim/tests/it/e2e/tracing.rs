//! Spans to a collector in TLS: verified by the machine's authorities, and not sent to one that they do not vouch for.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Stdio,
    sync::{Arc, mpsc},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use rcgen::CertifiedKey;
use rustix::process::Signal;
use rustls::{ServerConfig, ServerConnection, StreamOwned, pki_types::PrivateKeyDer};
use sim::harness::{command, free_port, get, kill, wait_exit, weir_binary};
use tempfile::TempDir;

use super::{PATIENCE, objects, one_at_a_time};

/// A collector that tells of the exports that it gets.
struct Collector {
    address: SocketAddr,
    certificate_pem: String,
    exports: mpsc::Receiver<String>,
}

impl Collector {
    fn start() -> Result<Self> {
        let CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
        let config =
            ServerConfig::builder().with_no_client_auth().with_single_cert(vec![cert.der().clone()], key)?;
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let (taken, exports) = mpsc::channel();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (config, taken) = (Arc::clone(&config), taken.clone());
                // Who does not trust it goes in the handshake.
                thread::spawn(move || serve(stream, config, &taken));
            }
        });
        Ok(Self { address, certificate_pem: cert.pem(), exports })
    }

    fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }
}

fn serve(stream: TcpStream, config: Arc<ServerConfig>, taken: &mpsc::Sender<String>) -> Result<()> {
    let mut stream = BufReader::new(StreamOwned::new(ServerConnection::new(config)?, stream));
    loop {
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            ensure!(stream.read_line(&mut line)? > 0, "the end");
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
            if line == "\r\n" {
                break;
            }
            head.push_str(&line);
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body)?;
        taken.send(head + &String::from_utf8_lossy(&body))?;
        stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
    }
}

/// A standalone worker that sends all spans to a collector and trusts these authorities, asked once, until `seen`.
fn trace(collector: &Collector, authorities: &str, seen: impl FnOnce() -> Result<()>) -> Result<String> {
    let directory = TempDir::new()?;
    let (roots, file, port) =
        (directory.path().join("ca.pem"), directory.path().join("site.yaml"), free_port()?);
    fs::write(&roots, authorities)?;
    let site =
        objects::pool_on(port) + &objects::gateway(objects::HTTP) + &objects::answer("traced-site", "hello");
    fs::write(&file, site)?;
    let mut edge = command(&weir_binary().display().to_string())
        .args(["edge", "--static", &file.display().to_string(), "--otlp-endpoint", &collector.url()])
        .args(["--trace-sampled", "100", "--otlp-headers", "x-team=edge"])
        .env("SSL_CERT_FILE", &roots)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let deadline = std::time::Instant::now() + PATIENCE;
    while !get(port, "any.test", "/").is_ok_and(|answer| answer.status == 200) {
        ensure!(std::time::Instant::now() < deadline, "no answer");
        sim::harness::pause();
    }
    let result = seen();
    kill(edge.id(), Signal::TERM)?;
    ensure!(wait_exit(&mut edge, PATIENCE)?.success());
    let mut log = String::new();
    edge.stderr.take().context("it is piped")?.read_to_string(&mut log)?;
    result.with_context(|| log.clone())?;
    Ok(log)
}

#[test]
fn spans_reach_a_collector_in_tls_and_none_that_nobody_vouches_for() -> Result<()> {
    let _turn = one_at_a_time();
    let (collector, stranger) = (Collector::start()?, Collector::start()?);
    trace(&collector, &collector.certificate_pem, || {
        let export = collector.exports.recv_timeout(PATIENCE).context("no spans")?;
        ensure!(export.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{export}");
        let lower = export.to_ascii_lowercase();
        for expect in ["content-type: application/x-protobuf", "x-team: edge", "default/traced-site"] {
            ensure!(lower.contains(expect), "{expect}: {export}");
        }
        Ok(())
    })?;
    let log = trace(&stranger, &collector.certificate_pem, || Ok(()))?;
    ensure!(stranger.exports.try_recv().is_err(), "not a byte for whom nobody vouches");
    ensure!(log.contains("spans are not taken"), "{log}");
    Ok(())
}
