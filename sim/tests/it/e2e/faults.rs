//! Processes die; the data plane goes on.

use std::io::{Read, Write};

use anyhow::{Context, Result};
use rustix::process::Signal;
use sim::harness::{Installation, Load, connect, freeze, get, kill, tell};

use super::{PATIENCE, one_at_a_time, set_pool};

fn host(weir: &Installation) -> String {
    format!("demo.localhost:{}", weir.ports.http)
}

fn serves(weir: &Installation) -> Result<()> {
    let answer = get(weir.ports.http, &host(weir), "/")?;
    anyhow::ensure!(answer.status == 200, "{}", answer.head);
    Ok(())
}

fn pid(worker: &serde_json::Value) -> u32 {
    worker["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).unwrap_or_default()
}

#[test]
fn a_killed_worker_is_replaced_and_queued_connections_survive() -> Result<()> {
    let _turn = one_at_a_time();
    let weir = Installation::up(&["--demo"])?;
    weir.settle(1, PATIENCE)?;
    let first = pid(&weir.ready_workers()?[0]);
    // A worker that is stopped accepts nothing: what connects now waits in the kernel's queue.
    freeze(first)?;
    let mut queued = vec![];
    for _ in 0..50 {
        let mut stream = connect(weir.ports.http)?;
        stream.write_all(
            format!("GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", host(&weir)).as_bytes(),
        )?;
        queued.push(stream);
    }
    kill(first, Signal::KILL)?;
    for (number, mut stream) in queued.into_iter().enumerate() {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).with_context(|| format!("queued connection {number}"))?;
        assert!(answer.starts_with("HTTP/1.1 200"), "connection {number}: {answer:?}");
    }
    weir.settle(1, PATIENCE)?;
    assert_ne!(pid(&weir.ready_workers()?[0]), first);
    Ok(())
}

#[test]
fn workers_go_on_without_their_agent_and_the_next_one_takes_over() -> Result<()> {
    let _turn = one_at_a_time();
    let weir = Installation::up(&["--demo"])?;
    set_pool(&weir, 2..=2, "")?;
    weir.settle(2, PATIENCE)?;
    let before: Vec<u32> = weir.ready_workers()?.iter().map(pid).collect();
    let url = format!("http://{}/", host(&weir));
    let load = Load::start(&[&url, "--rate", "100", "--duration", "10s", "--new-connections"])?;
    let agent = weir.child("node")?;
    // One of them stands still meanwhile: to such an orphan the kernel sends SIGHUP.
    freeze(before[0])?;
    kill(agent, Signal::KILL)?;
    weir.wait(PATIENCE, "a new agent", || Ok(weir.child("node").is_ok_and(|pid| pid != agent)))?;
    kill(before[0], Signal::CONT)?;
    weir.settle(2, PATIENCE)?;
    let after: Vec<u32> = weir.ready_workers()?.iter().map(pid).collect();
    assert_eq!(sorted(before), sorted(after.clone()), "the workers were replaced");
    // The new agent has the sockets: it can lend them to new workers and take them back.
    set_pool(&weir, 3..=3, "")?;
    weir.settle(3, PATIENCE)?;
    kill(after[0], Signal::KILL)?;
    weir.wait(PATIENCE, "a replacement", || {
        let now: Vec<u32> = weir.ready_workers()?.iter().map(pid).collect();
        Ok(now.len() == 3 && !now.contains(&after[0]))
    })?;
    let report = load.finish()?;
    tell(&format!(
        "agent and one worker killed: {} requests, {} ok, failed {}",
        report["planned"], report["ok"], report["failed"]
    ));
    // A killed worker takes the requests that it was serving with it, and no other.
    let lost = report["planned"].as_u64().unwrap_or(0) - report["ok"].as_u64().unwrap_or(0);
    assert!(lost <= 4, "{report:#}");
    Ok(())
}

fn sorted(mut pids: Vec<u32>) -> Vec<u32> {
    pids.sort_unstable();
    pids
}

#[test]
fn edges_serve_without_a_server_and_a_new_worker_starts_from_its_last_known_good() -> Result<()> {
    let _turn = one_at_a_time();
    let weir = Installation::up(&["--demo"])?;
    weir.settle(1, PATIENCE)?;
    serves(&weir)?;
    let worker = pid(&weir.ready_workers()?[0]);
    // The second file is written a second after the first, with all that there is by then.
    let cached = || {
        let files = walk(&weir.directory().join("weir-data/node"))?;
        Ok(["good-a", "good-b"].iter().all(|name| files.iter().any(|file| file.ends_with(name))))
    };
    weir.wait(PATIENCE, "last-known-good files", cached)?;
    // Stopped, not killed: the supervisor does not notice, so that no server answers for as long as we like.
    let server = weir.child("server")?;
    freeze(server)?;
    for _ in 0..20 {
        serves(&weir)?;
    }
    kill(worker, Signal::KILL)?;
    // The agent restarts it with no server; what connects meanwhile waits in the queue.
    serves(&weir).context("after the worker was killed with no server")?;
    kill(server, Signal::CONT)?;
    // Now killed: the supervisor starts another, and the installation is whole again.
    kill(server, Signal::KILL)?;
    serves(&weir)?;
    weir.wait(PATIENCE, "a new server", || Ok(weir.child("server").is_ok_and(|pid| pid != server)))?;
    weir.wait(PATIENCE, "one worker", || Ok(weir.ready_workers().is_ok_and(|w| w.len() == 1)))?;
    serves(&weir)?;
    Ok(())
}

/// All files below a directory.
fn walk(directory: &std::path::Path) -> Result<Vec<String>> {
    let mut files = vec![];
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(walk(&path)?);
        } else {
            files.push(path.display().to_string());
        }
    }
    Ok(files)
}
