//! What a worker may not do, seen from outside.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use sim::harness::{Installation, command, free_port, get, kill, pause, tell, wait_exit, weir_binary};
use tempfile::TempDir;

use super::{PATIENCE, objects, one_at_a_time, set_pool};

/// All threads of a worker of an installation, for what it may do is fixed before there is a second one.
#[test]
fn no_thread_of_a_worker_can_gain_privileges() -> Result<()> {
    let _turn = one_at_a_time();
    let weir = Installation::up(&["--demo"])?;
    set_pool(&weir, 2..=2, "")?;
    weir.settle(2, PATIENCE)?;
    for worker in weir.ready_workers()? {
        let pid = worker["pid"].as_u64().context("a worker has a process")?;
        let mut threads = 0;
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let status = fs::read_to_string(task?.path().join("status"))?;
            ensure!(status.contains("NoNewPrivs:\t1"), "a thread of worker {pid} is not confined:\n{status}");
            threads += 1;
        }
        ensure!(threads > 1, "worker {pid} has no request threads");
    }
    ensure!(get(weir.ports.http, "demo.localhost", "/")?.status == 200, "the workers do not serve");
    weir.stop()?;
    Ok(())
}

/// A worker that is led astray, here by a link where its log's directory was, does not follow.
#[test]
fn a_worker_writes_nowhere_but_to_its_log() -> Result<()> {
    let _turn = one_at_a_time();
    let (directory, elsewhere) = (TempDir::with_prefix("weir-")?, TempDir::with_prefix("weir-")?);
    let logs = directory.path().join("logs");
    fs::create_dir(&logs)?;
    let port = free_port()?;
    let file = directory.path().join("gateway.yaml");
    fs::write(&file, site(port))?;
    let log = logs.join("access.log");
    let mut child = command(&weir_binary().display().to_string())
        .args(["edge", "--static"])
        .arg(&file)
        .arg("--access-log")
        .arg(format!("file:{}", log.display()))
        .env("RUST_LOG", "info")
        .stdin(Stdio::null())
        .stderr(fs::File::create(directory.path().join("stderr"))?)
        .spawn()?;
    let done = lead_astray(&child, port, &logs, &directory, elsewhere.path());
    kill(child.id(), Signal::TERM)?;
    wait_exit(&mut child, Duration::from_secs(10))?;
    done
}

fn lead_astray(child: &Child, port: u16, logs: &Path, directory: &TempDir, elsewhere: &Path) -> Result<()> {
    let said = || fs::read_to_string(directory.path().join("stderr"));
    wait("the worker to serve", || Ok(serves(port)))?;
    if said()?.contains("this kernel has no Landlock") {
        tell("SKIPPED: this kernel has no Landlock");
        return Ok(());
    }
    // Rotated as it should be: the directory is its own.
    fs::rename(logs.join("access.log"), logs.join("access.log.1"))?;
    kill(child.id(), Signal::HUP)?;
    wait("a new log", || Ok(logs.join("access.log").exists()))?;
    // And then where it has no business.
    fs::rename(logs, directory.path().join("before"))?;
    symlink(elsewhere, logs)?;
    kill(child.id(), Signal::HUP)?;
    wait("the refusal to be told", || Ok(said()?.contains("ermission denied")))?;
    ensure!(fs::read_dir(elsewhere)?.next().is_none(), "the worker followed the link");
    ensure!(serves(port), "the worker does not serve any more");
    Ok(())
}

/// That its upstream is not there is its answer.
fn serves(port: u16) -> bool {
    get(port, "any.test", "/").is_ok_and(|answer| matches!(answer.status, 502 | 503))
}

fn wait(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    while !holds()? {
        ensure!(Instant::now() < until, "waited in vain for {what}");
        pause();
    }
    Ok(())
}

/// A route to where nobody listens.
fn site(port: u16) -> String {
    objects::pool_on(port)
        + &objects::gateway(objects::HTTP)
        + &objects::forward("nobody")
        + &objects::backend("nobody", &[1])
}
