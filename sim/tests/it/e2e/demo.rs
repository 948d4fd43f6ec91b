//! `weir up --demo`, from its banner to its end.

use std::{fs, process::Command, sync::Arc, time::Duration};

use anyhow::Result;
use sim::harness::{Installation, Load, Ports, get, has, tell};
use tempfile::TempDir;

use super::{PATIENCE, no_errors, one_at_a_time, set_pool};

#[test]
fn the_curl_line_answers_through_a_worker_and_nothing_is_left_behind() -> Result<()> {
    let _turn = one_at_a_time();
    let weir = Installation::up(&["--demo"])?;
    let banner = weir.banner().to_owned();
    let url = format!("http://demo.localhost:{}/", weir.ports.http);
    for expected in ["tenant    demo", &url, "HTTPS", "admin", "metrics", "token     weir-data/admin.token"] {
        assert!(banner.contains(expected), "no {expected:?} in\n{banner}");
    }
    let answer = get(weir.ports.http, &format!("demo.localhost:{}", weir.ports.http), "/hello?x=1")?;
    let body = String::from_utf8_lossy(&answer.body).into_owned();
    assert_eq!(answer.status, 200, "{}", answer.head);
    assert!(body.contains("GET /hello?x=1") && body.contains("x-forwarded-for: 127.0.0.1"), "{body}");
    assert_eq!(get(weir.ports.http, "nobody.example", "/")?.status, 404);

    if has("curl", "--version") {
        // The lines as printed, run by a shell.
        let lines: Vec<&str> = banner.lines().map(str::trim).filter(|l| l.starts_with("curl ")).collect();
        assert_eq!(lines.len(), 2, "{banner}");
        for line in lines {
            let line = line.replace("curl ", "curl -sS --fail ");
            let output = Command::new("sh").args(["-c", &line]).current_dir(weir.directory()).output()?;
            let (out, err) =
                (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert!(output.status.success() && out.contains("Hello from behind Weir"), "{line}: {out}{err}");
        }
    }
    let metrics = get(weir.ports.metrics, "localhost", "/metrics")?;
    assert_eq!(metrics.status, 200);
    // The workers' own, by way of their agent.
    weir.wait(PATIENCE, "the workers' metrics", || {
        let metrics = get(weir.ports.worker_metrics, "localhost", "/metrics")?;
        let text = String::from_utf8(metrics.body)?;
        let counted = |line: &str| {
            line.starts_with("weir_edge_requests_total{pool=\"default\",worker=\"")
                && line.contains("tenant=\"demo\",route=\"default/demo\",outcome=\"forwarded\",code=\"2xx\"")
        };
        Ok(metrics.status == 200 && text.lines().any(counted) && text.contains("weir_node_workers{"))
    })?;

    let directory = weir.directory().to_owned();
    let workers: Vec<u64> = weir.workers()?.iter().filter_map(|w| w["pid"].as_u64()).collect();
    assert!(!workers.is_empty());
    let children = [weir.child("server")?, weir.child("node")?];
    let kept = fs::read_dir(&directory)?.count();
    assert!(kept >= 2, "data and key");
    let (status, log) = {
        // The directory is looked at after the end, so its removal by the handle must wait.
        let copy = directory.clone();
        let stopped = weir.stop_keeping()?;
        assert_eq!(copy, stopped.directory.path());
        let left: Vec<_> =
            fs::read_dir(stopped.directory.path())?.map(|e| e.map(|e| e.file_name())).collect();
        assert!(left.is_empty(), "left behind: {left:?}");
        (stopped.status, stopped.log)
    };
    assert!(status.success(), "{status}\n{log}");
    for pid in workers.into_iter().chain(children.map(u64::from)) {
        assert!(!fs::exists(format!("/proc/{pid}"))?, "process {pid} is left");
    }
    no_errors(&log);
    Ok(())
}

#[test]
fn load_that_steps_up_and_down_is_followed_and_no_request_fails() -> Result<()> {
    let _turn = one_at_a_time();
    let weir = Installation::up(&["--demo"])?;
    // The declared capacity makes the worker the bottleneck on any machine.
    set_pool(&weir, 1..=4, "  capacityPerWorker: {requestsPerSecond: 100}\n  scaleInDelay: 3s\n")?;
    weir.settle(1, PATIENCE)?;
    let url = format!("http://demo.localhost:{}/", weir.ports.http);
    let mut load = Load::start(&[&url, "--steps", "30x4s,250x16s,30x25s", "--connections", "32"])?;
    let (mut most, mut spread) = (1, 0);
    while load.running()? {
        let ready = weir.ready_workers()?;
        most = most.max(ready.len());
        let busy = ready.iter().filter(|w| w["requests_per_second"].as_f64() > Some(10.0)).count();
        spread = spread.max(busy);
        sim::harness::pause();
    }
    let report = load.finish()?;
    tell(&format!(
        "steps 30, 250, 30 requests/s at 100 a worker: {} requests, {} ok, failed {}, not sent {}, p99 {} us, \
         at most {most} workers, of which {spread} busy at once",
        report["planned"], report["ok"], report["failed"], report["not_sent"], report["latency_us"]["p99"]
    ));
    assert!(most >= 3, "only {most} workers:\n{}", weir.ok(&["events"])?);
    assert!(spread >= 3, "the load did not spread: {spread} busy workers");
    assert_eq!(report["ok"], report["planned"], "{report:#}");
    weir.settle(1, PATIENCE)?;
    let events = weir.ok(&["events"])?;
    tell(&events);
    assert!(events.contains("scale-out") && events.contains("scale-in"), "{events}");
    let (status, log) = weir.stop()?;
    assert!(status.success(), "{log}");
    no_errors(&log);
    Ok(())
}

#[test]
fn a_second_up_is_refused() -> Result<()> {
    let _turn = one_at_a_time();
    let weir = Installation::up(&[])?;
    // On the same data.
    let same_data = weir.weir(&["up", "--data", "weir-data"])?;
    let text = String::from_utf8_lossy(&same_data.stderr).into_owned();
    assert_eq!(same_data.status.code(), Some(1));
    assert!(text.contains("another `weir up` runs on") && text.contains("--data"), "{text}");
    // On the same ports.
    let mut flags = vec!["up".to_owned(), "--data".into(), "other".into()];
    flags.extend(weir.ports.flags());
    let same_ports = weir.weir(&flags.iter().map(String::as_str).collect::<Vec<_>>())?;
    let text = String::from_utf8_lossy(&same_ports.stderr).into_owned();
    assert_eq!(same_ports.status.code(), Some(1));
    assert!(text.contains(&format!("127.0.0.1:{}", weir.ports.http)) && text.contains("--http"), "{text}");
    // The first one has noticed nothing.
    assert_eq!(weir.ready_workers()?.len(), 1);
    Ok(())
}

#[test]
fn an_installation_keeps_what_it_was_given() -> Result<()> {
    let _turn = one_at_a_time();
    let weir = Installation::up(&[])?;
    weir.ok(&["tenant", "create", "acme"])?;
    let (_, log) = {
        let stopped = weir.stop_keeping()?;
        no_errors(&stopped.log);
        let again = Installation::up_in(stopped.directory, Ports::free()?, &[])?;
        assert!(again.ok(&["tenant", "list"])?.contains("acme.localhost"));
        let stopped = again.stop_keeping()?;
        // Without its key it does not start, and says which file is to be restored.
        fs::remove_file(stopped.directory.path().join("weir-data.key"))?;
        let refused = Installation::up_in(Arc::clone(&stopped.directory), Ports::free()?, &[]);
        let Err(error) = refused else { anyhow::bail!("started without its key") };
        let text = format!("{error:#}");
        assert!(text.contains("weir-data.key is missing") && text.contains("restore"), "{text}");
        (stopped.status, stopped.log)
    };
    no_errors(&log);
    Ok(())
}

#[test]
fn port_zero_and_equal_ports_are_refused() -> Result<()> {
    let directory = TempDir::new()?;
    for (flags, expected) in [
        (["--http=127.0.0.1:0", "--https=127.0.0.1:1"], "port 0"),
        (["--http=127.0.0.1:12001", "--https=127.0.0.1:12001"], "--https"),
    ] {
        let output = Command::new(sim::harness::weir_binary())
            .arg("up")
            .args(flags)
            .current_dir(directory.path())
            .output()?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(expected), "{text}");
    }
    Ok(())
}

/// How long a start takes is told, not asserted: a debug build on a busy machine is no measure.
#[test]
fn the_start_is_told() -> Result<()> {
    let _turn = one_at_a_time();
    let weir = Installation::up(&["--demo"])?;
    let line = weir.banner().lines().find(|l| l.contains("Weir is up")).unwrap_or_default().to_owned();
    tell(&line);
    assert!(line.contains("ms"), "{}", weir.banner());
    weir.wait(Duration::from_secs(5), "events", || Ok(weir.ok(&["events"])?.contains("worker-ready")))?;
    Ok(())
}
