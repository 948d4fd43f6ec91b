//! What an installation tells of requests: `weir explain --request`, the access log and traces.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    sync::{Arc, mpsc},
    thread,
};

use anyhow::{Context as _, Result};
use sim::harness::{Installation, Ports, exchange, get};
use tempfile::TempDir;

use super::{PATIENCE, one_at_a_time};

#[test]
fn a_past_request_is_explained_to_its_tenant_and_to_nobody_else() -> Result<()> {
    let _turn = one_at_a_time();
    let weir = Installation::up(&["--demo"])?;
    weir.ok(&["tenant", "create", "other"])?;
    let answer = get(weir.ports.http, "demo.localhost", "/some/path?secret=1")?;
    assert_eq!(answer.status, 200);
    let id = answer.header("x-request-id").context("the answer names its request")?.to_owned();
    let mut told = serde_json::Value::Null;
    // It is remembered when its last byte is on the way.
    weir.wait(PATIENCE, "the request is known", || {
        let output = weir.weir(&["explain", "--request", &id, "-t", "demo", "-o", "json"])?;
        told = serde_json::from_slice(&output.stdout).unwrap_or_default();
        Ok(output.status.success())
    })?;
    assert_eq!((&told["tenant"], &told["status"]), (&"demo".into(), &200.into()), "{told:#}");
    assert_eq!((&told["path"], &told["rule"]), (&"/some/path".into(), &"spec.rules[0]".into()), "{told:#}");
    assert!(told["tries"][0]["answered_us"].is_u64() && told["worker"].is_string(), "{told:#}");

    let missing = get(weir.ports.http, "nobody.localhost", "/")?;
    assert_eq!(missing.status, 404);
    let lost = missing.header("x-request-id").context("refusals are named, too")?.to_owned();
    let text = weir.ok(&["explain", "--request", &lost])?;
    assert!(text.contains("unknown_host") && text.contains("404"), "{text}");

    for (id, tenant) in [(&id, "other"), (&lost, "demo")] {
        let output = weir.weir(&["explain", "--request", id, "-t", tenant])?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains("workers knows this request"), "{tenant}: {text}");
    }
    Ok(())
}

/// What a tenant's policy says of its listener holds in the installation's workers, and spans go where the environment says.
#[test]
fn workers_log_and_trace_as_a_listeners_policy_says() -> Result<()> {
    let _turn = one_at_a_time();
    let directory = Arc::new(TempDir::with_prefix("weir-")?);
    let log = directory.path().join("access.log");
    let collector = TcpListener::bind("127.0.0.1:0")?;
    let environment = [
        ("RUST_LOG", "info".to_owned()),
        ("WEIR_ACCESS_LOG", format!("file:{}", log.display())),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", collector.local_addr()?)),
    ];
    let environment = environment.each_ref().map(|(name, value)| (*name, value.as_str()));
    let (taken, spans) = mpsc::channel();
    thread::spawn(move || take_spans(&collector, &taken));
    let weir = Installation::up_with(Arc::clone(&directory), Ports::free()?, &["--demo"], &environment)?;
    std::fs::write(
        directory.path().join("policy.yaml"),
        "apiVersion: weir.dev/v1\nkind: ListenerPolicy\nmetadata: {name: observed}\nspec:\n  \
         targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: demo}]\n  \
         tracing: {sampledPercent: 100}\n  \
         accessLog: {fields: [{name: agent, requestHeader: user-agent}], \
         filter: {requestHeader: {name: x-wanted}}}\n",
    )?;
    weir.ok(&["apply", "-t", "demo", "-f", "policy.yaml"])?;
    let ask = "GET /seen HTTP/1.1\r\nHost: demo.localhost\r\nX-Wanted: 1\r\nUser-Agent: probe/1\r\nConnection: close\r\n\r\n";
    let mut line = serde_json::Value::Null;
    // Until the workers have the policy, its field is not there.
    weir.wait(PATIENCE, "a line with the policy's field", || {
        exchange(weir.ports.http, ask.as_bytes())?;
        get(weir.ports.http, "demo.localhost", "/unseen")?;
        let text = std::fs::read_to_string(&log)?;
        let found =
            text.lines().rfind(|line| line.contains("\"agent\":\"probe/1\"") && line.contains("trace_id"));
        line = found.map(serde_json::from_str).transpose()?.unwrap_or_default();
        Ok(found.is_some())
    })?;
    let after = std::fs::read_to_string(&log)?;
    let (_, after) = after.split_once("\"agent\"").context("the field")?;
    assert!(!after.contains("/unseen"), "the filter wants only what has the header: {after}");
    let trace = line["trace_id"].as_str().context("a sampled request's line names its trace")?;
    let id: Vec<u8> =
        (0..16).map(|at| u8::from_str_radix(&trace[2 * at..][..2], 16)).collect::<Result<_, _>>()?;
    let mut told = vec![];
    weir.wait(PATIENCE, "its spans", || {
        told.extend(spans.try_iter().flatten());
        Ok(told.windows(id.len()).any(|part| part == id))
    })?;
    weir.stop()?;
    Ok(())
}

/// Answers whatever is sent with 200 and passes it on, for as long as somebody wants it.
fn take_spans(collector: &TcpListener, taken: &mpsc::Sender<Vec<u8>>) {
    for stream in collector.incoming().map_while(Result::ok) {
        let taken = taken.clone();
        thread::spawn(move || -> std::io::Result<()> {
            let mut stream = stream;
            let (mut pending, mut buffer) = (vec![], [0; 4096]);
            loop {
                let count = stream.read(&mut buffer)?;
                pending.extend_from_slice(&buffer[..count]);
                let text = String::from_utf8_lossy(&pending).to_ascii_lowercase();
                let length = text.split_once("content-length: ").and_then(|(_, rest)| {
                    let (length, _) = rest.split_once("\r\n")?;
                    length.parse::<usize>().ok()
                });
                let head = pending.windows(4).position(|part| part == b"\r\n\r\n");
                if let (Some(length), Some(head)) = (length, head)
                    && pending.len() >= head + 4 + length
                {
                    if taken.send(std::mem::take(&mut pending)).is_err() {
                        return Ok(());
                    }
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
                }
                if count == 0 {
                    return Ok(());
                }
            }
        });
    }
}
