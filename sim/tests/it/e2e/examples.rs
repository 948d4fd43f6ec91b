//! The examples of the documentation, as they are but for addresses.

use std::{fs, path::Path, process::Stdio};

use anyhow::{Context, Result};
use rustix::process::Signal;
use sim::{
    harness::{Installation, command, free_port, get, kill, wait_exit, weir_binary},
    upstream::Upstream,
};
use tempfile::TempDir;

use super::{PATIENCE, one_at_a_time};

fn example(path: &str) -> Result<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace")?;
    fs::read_to_string(root.join("examples").join(path)).with_context(|| format!("read examples/{path}"))
}

#[test]
fn a_static_proxy_serves_reloads_and_drains() -> Result<()> {
    let _turn = one_at_a_time();
    let (first, second) = (Upstream::start("first")?, Upstream::start("second")?);
    let (directory, port) = (TempDir::new()?, free_port()?);
    let file = directory.path().join("proxy.yaml");
    let yaml = example("static/proxy.yaml")?.replace("127.0.0.1:8080", &format!("127.0.0.1:{port}"));
    let with = |upstream: &Upstream| yaml.replace("127.0.0.1:9000", &format!("127.0.0.1:{}", upstream.port));
    fs::write(&file, with(&first))?;
    let mut edge = command(&weir_binary().display().to_string())
        .args(["edge", "--static", &file.display().to_string()])
        .stdin(Stdio::null())
        .spawn()?;
    let says = |name: &str| {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let answer = get(port, "any.example", "/");
            if answer.as_ref().is_ok_and(|a| String::from_utf8_lossy(&a.body).contains(name)) {
                return Ok(());
            }
            anyhow::ensure!(std::time::Instant::now() < deadline, "no {name}: {answer:?}");
            sim::harness::pause();
        }
    };
    says("first: GET / HTTP/1.1")?;
    fs::write(&file, with(&second))?;
    kill(edge.id(), Signal::HUP)?;
    says("second: GET / HTTP/1.1")?;
    // A file with a mistake changes nothing.
    fs::write(&file, "kind: Nonsense\n")?;
    kill(edge.id(), Signal::HUP)?;
    says("second: GET / HTTP/1.1")?;
    kill(edge.id(), Signal::TERM)?;
    assert!(wait_exit(&mut edge, PATIENCE)?.success());
    Ok(())
}

#[test]
fn the_quickstart_works_as_written() -> Result<()> {
    let _turn = one_at_a_time();
    let upstream = Upstream::start("shop")?;
    let weir = Installation::up(&[])?;
    weir.ok(&["tenant", "create", "acme"])?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace")?;
    let copy = weir.directory().join("quickstart");
    fs::create_dir(&copy)?;
    for entry in fs::read_dir(root.join("examples/quickstart"))? {
        let entry = entry?;
        let text = fs::read_to_string(entry.path())?
            .replace("127.0.0.1:9000", &format!("127.0.0.1:{}", upstream.port));
        fs::write(copy.join(entry.file_name()), text)?;
    }
    weir.ok(&["apply", "-t", "acme", "-f", "quickstart", "--dry-run"])?;
    assert_eq!(get(weir.ports.http, "acme.localhost", "/")?.status, 404, "a dry run changes nothing");
    weir.ok(&["apply", "-t", "acme", "-f", "quickstart"])?;
    weir.wait(PATIENCE, "the route", || Ok(get(weir.ports.http, "acme.localhost", "/")?.status == 200))?;
    assert!(upstream.served() > 0);
    Ok(())
}

#[test]
fn the_cluster_of_the_example_survives_its_leader() -> Result<()> {
    let _turn = one_at_a_time();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace")?;
    let (directory, http, https) = (TempDir::new()?, free_port()?, free_port()?);
    // Below those that other tests are given, and below the kernel's own.
    let ports = 1_100 + std::process::id() % 8_000;
    let script = root.join("examples/cluster/cluster.sh");
    let run = |args: &[&str]| -> Result<String> {
        let output = command(&script.display().to_string())
            .args(args)
            .current_dir(directory.path())
            .env("WEIR", weir_binary())
            .env("PORTS", ports.to_string())
            .env("HTTP", http.to_string())
            .env("HTTPS", https.to_string())
            .stdin(Stdio::null())
            .output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "cluster.sh {args:?}: {stderr}");
        Ok(String::from_utf8(output.stdout)?)
    };
    let result = (|| {
        let status = run(&["up"])?;
        anyhow::ensure!(status.matches("voter").count() + status.matches("leader,").count() == 3, "{status}");
        run(&["tenant", "create", "acme"])?;
        let leader: serde_json::Value = serde_json::from_str(&run(&["cluster", "status", "-o", "json"])?)?;
        let leader = leader["leader"].as_u64().context("a leader")?.to_string();
        run(&["kill", &leader])?;
        let deadline = std::time::Instant::now() + PATIENCE;
        let files = root.join("examples/quickstart").display().to_string();
        while let Err(error) = run(&["apply", "-t", "acme", "-f", &files]) {
            anyhow::ensure!(std::time::Instant::now() < deadline, "{error}");
        }
        while get(http, "acme.localhost", "/hello")?.status != 200 {
            anyhow::ensure!(std::time::Instant::now() < deadline, "the route is not served");
            sim::harness::pause();
        }
        run(&["start", &leader]).map(drop)
    })();
    run(&["down"])?;
    result
}
