//! HTTP/3 as clients that are not ours speak it: aioquic, libcurl with ngtcp2 (pycurl) and with BoringSSL (curl_cffi), and
//! Chromium.
//!
//! Each client is a script under `tests/it/peers`, which does what it is asked to on one connection where it can, and says
//! a line for each thing: `ok WHAT`, `skip WHAT: why`, `failed WHAT: why`. The Python packages are those of `WEIR_PYTHON`
//! (`pip install aioquic pycurl curl_cffi`); a client that is not there is skipped by its name.

mod origin;

use std::{
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use origin::Origin;
use sim::harness::{Installation, tell};

use super::{PATIENCE, no_errors, objects, one_at_a_time, set_pool};

const POOL: &str = "  scaleInDelay: 1s\n  drainDeadline: 10s\n";

/// What every client must do; Chromium has no trailers.
const ASKED: [&str; 6] = ["small", "big", "post", "parallel", "trailers", "survives"];

fn peer(name: &str) -> String {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/peers").join(name);
    file.display().to_string()
}

fn python_with(module: &str) -> Option<String> {
    let python = std::env::var("WEIR_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let import = Command::new(&python).args(["-c", &format!("import {module}")]).output().ok()?;
    import.status.success().then_some(python)
}

/// An installation that serves `acme.interop.test`, and what answers there.
struct Served {
    weir: Installation,
    origin: Origin,
}

impl Served {
    fn start() -> Result<Self> {
        // Some clients take no certificate for `*.localhost`.
        let weir = Installation::up(&["--domain", "interop.test"])?;
        set_pool(&weir, 1..=1, POOL)?;
        weir.ok(&["tenant", "create", "acme"])?;
        let origin = Origin::start()?;
        let yaml = objects::gateway("{name: https, port: 443, protocol: HTTPS}")
            + &objects::forward("origin")
            + &objects::backend("origin", &[origin.port]);
        weir.apply("acme", &yaml)?;
        weir.settle(1, PATIENCE)?;
        Ok(Self { weir, origin })
    }

    fn ca(&self) -> PathBuf {
        self.weir.directory().join("weir-data/pki/ca.pem")
    }

    /// Runs a client, which says when it is time for more workers, and checks all that it says.
    fn run(self, name: &str, mut command: Command, excused: &[&str]) -> Result<()> {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = Peer(child.with_context(|| format!("start {name}"))?);
        let out = BufReader::new(child.0.stdout.take().context("stdout is piped")?);
        let mut said = Vec::new();
        for line in out.lines() {
            let line = line?;
            if line == "scale" {
                set_pool(&self.weir, 3..=3, POOL)?;
                self.weir.settle(3, PATIENCE)?;
                self.origin.release();
                writeln!(child.0.stdin.as_mut().context("stdin is piped")?, "scaled")?;
                continue;
            }
            said.push(line);
        }
        let status = child.0.wait()?;
        tell(&format!("http3 interop, {name}: {}", said.join(", ")));
        ensure!(status.success(), "{name} ended with {status}: {said:?}\n{}", self.weir.log());
        for what in ASKED {
            let done = said.iter().any(|line| line == &format!("ok {what}"));
            let skipped = said.iter().any(|line| line.starts_with(&format!("skip {what}:")));
            ensure!(
                done || skipped && excused.contains(&what),
                "{name}, {what}: {said:?}\n{}",
                self.weir.log()
            );
        }
        let (status, log) = self.weir.stop()?;
        ensure!(status.success(), "{log}");
        no_errors(&log);
        Ok(())
    }
}

/// A client that ends with its test.
struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn with_python(name: &str, module: &str, script: &str) -> Result<()> {
    let _turn = one_at_a_time();
    let Some(python) = python_with(module) else {
        tell(&format!("skipped: no {module} (pip install {name}, WEIR_PYTHON)"));
        return Ok(());
    };
    let served = Served::start()?;
    let mut command = Command::new(python);
    command.arg(peer(script)).arg(served.weir.ports.https.to_string()).arg(served.ca());
    served.run(name, command, &[])
}

#[test]
fn http3_is_served_to_aioquic() -> Result<()> {
    with_python("aioquic", "aioquic", "h3_aioquic.py")
}

#[test]
fn http3_is_served_to_libcurl_with_ngtcp2() -> Result<()> {
    with_python("pycurl", "pycurl", "h3_pycurl.py")
}

#[test]
fn http3_is_served_to_libcurl_with_boringssl() -> Result<()> {
    with_python("curl_cffi", "curl_cffi", "h3_curl_cffi.py")
}

#[test]
fn http3_is_served_to_chromium() -> Result<()> {
    let _turn = one_at_a_time();
    let there =
        Command::new("chromium").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !there.is_ok_and(|status| status.success()) {
        tell("skipped: no chromium");
        return Ok(());
    }
    let Some(python) = python_with("cryptography") else {
        tell(
            "skipped: no cryptography, to name the certificate to Chromium (pip install cryptography, WEIR_PYTHON)",
        );
        return Ok(());
    };
    let served = Served::start()?;
    let mut command = Command::new(python);
    command.arg(peer("h3_chromium.py")).arg(served.weir.ports.https.to_string()).arg(served.ca());
    served.run("Chromium", command, &["trailers"])
}
