//! The whole system over real processes, as a user runs it. One test at a time: they measure, and share two cores.

mod balancing;
mod clients;
mod cluster;
mod config;
mod confined;
mod demo;
mod examples;
mod explain;
mod faults;
mod history;
mod http3;
mod interop;
mod lossless;
mod objects;
mod scale;
mod secrets;
mod streams;
mod tickets;
mod tracing;
mod udp;
mod upstream;

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sim::harness::Installation;

/// Long enough for a debug build on a busy machine; what waits longer is broken.
const PATIENCE: Duration = Duration::from_secs(30);

/// Held by each end-to-end test.
pub(crate) fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the long forms of the proofs are asked for.
pub(crate) fn long() -> bool {
    std::env::var_os("WEIR_LONG").is_some()
}

/// The default pool of an installation, as YAML.
fn pool(weir: &Installation, workers: std::ops::RangeInclusive<usize>, more: &str) -> String {
    format!(
        "apiVersion: weir.dev/v1
kind: Pool
metadata:
  name: default
spec:
  listen:
    - {{port: 80, bind: '127.0.0.1:{}', protocol: HTTP}}
    - {{port: 443, bind: '127.0.0.1:{}', protocol: HTTPS}}
  minWorkers: {}
  maxWorkers: {}
{more}",
        weir.ports.http,
        weir.ports.https,
        workers.start(),
        workers.end()
    )
}

/// Applies the default pool.
fn set_pool(weir: &Installation, workers: std::ops::RangeInclusive<usize>, more: &str) -> anyhow::Result<()> {
    weir.apply("platform", &pool(weir, workers, more)).map(|_| ())
}

/// Waits until all workers serve what the tenant applied last, and with it all that was changed before.
fn wait_for_workers(weir: &Installation, tenant: &str) -> anyhow::Result<()> {
    weir.wait(PATIENCE, "configuration on all workers", || {
        let routes = weir.json(&["get", "httproutes", "-t", tenant])?;
        let conditions = routes["items"][0]["status"]["conditions"].as_array().cloned().unwrap_or_default();
        Ok(conditions.iter().any(|c| c["type"] == "Propagated" && c["status"] == "True"))
    })
}

/// No process of the installation may say that a human must look.
fn no_errors(log: &str) {
    let errors: Vec<&str> = log.lines().filter(|l| l.contains("\"level\":\"ERROR\"")).collect();
    assert!(errors.is_empty(), "unexpected errors in the log:\n{}", errors.join("\n"));
}
