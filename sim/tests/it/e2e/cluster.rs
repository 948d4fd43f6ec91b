//! Several servers as processes: whatever becomes of them, tenants' traffic is served and no acknowledged change is
//! lost.

mod disaster;
mod failover;
mod joining;
mod keys;
mod kills;
mod membership;
mod partition;
mod rolling;

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use sim::{
    cluster::Cluster,
    harness::{Load, get},
};

use super::{no_errors, one_at_a_time};

const PATIENCE: Duration = Duration::from_secs(60);

/// A tenant whose every request is answered by workers themselves.
const SITE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: web}
spec:
  gatewayClassName: weir
  listeners:
    - {name: http, port: 80, protocol: HTTP}
---
apiVersion: weir.dev/v1
kind: DirectResponse
metadata: {name: hello}
spec: {status: 200, body: 'hello'}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: site}
spec:
  parentRefs: [{name: web}]
  rules:
    - filters:
        - type: ExtensionRef
          extensionRef: {group: weir.dev, kind: DirectResponse, name: hello}
";

/// An object that says a number: what was acknowledged is read back.
fn numbered(number: u64) -> String {
    format!(
        "apiVersion: weir.dev/v1
kind: DirectResponse
metadata: {{name: number}}
spec: {{status: 200, body: '{number}'}}
"
    )
}

/// Servers and one node with a worker that serves tenant `acme`.
fn serving(servers: u64) -> Result<Cluster> {
    let mut cluster = Cluster::start(servers)?;
    with_traffic(&mut cluster)?;
    Ok(cluster)
}

fn with_traffic(cluster: &mut Cluster) -> Result<()> {
    cluster.add_node("n1")?;
    let first = cluster.running()[0];
    cluster.weir_ok(&["tenant", "create", "acme"])?;
    cluster.apply_on(first, "acme", SITE)?;
    cluster.settle(1)?;
    cluster.wait(PATIENCE, "an answer to the tenant's request", |cluster| Ok(serves(cluster).is_ok()))
}

fn host(cluster: &Cluster) -> String {
    format!("acme.localhost:{}", cluster.http)
}

fn serves(cluster: &Cluster) -> Result<()> {
    let answer = get(cluster.http, &host(cluster), "/")?;
    anyhow::ensure!(answer.status == 200 && answer.body == b"hello", "{}", answer.head);
    Ok(())
}

/// Requests to the tenant while something else happens.
struct Traffic(Load);

impl Traffic {
    fn start(cluster: &Cluster, seconds: u32) -> Result<Self> {
        let url = format!("http://{}/", host(cluster));
        Ok(Self(Load::start(&[
            &url,
            "--rate",
            "50",
            "--duration",
            &format!("{seconds}s"),
            "--new-connections",
        ])?))
    }

    fn running(&mut self) -> Result<bool> {
        self.0.running()
    }

    /// Not one may have failed.
    fn finish(self) -> Result<Value> {
        let report = self.0.finish()?;
        anyhow::ensure!(report["planned"] == report["ok"], "requests failed: {report:#}");
        Ok(report)
    }
}

/// Writes a number until it is acknowledged: a command whose answer was lost is given again.
fn write(cluster: &Cluster, number: u64) -> Result<()> {
    let file = cluster.path("number.yaml");
    std::fs::write(&file, numbered(number))?;
    let file = file.display().to_string();
    let mut last = String::new();
    cluster
        .wait(PATIENCE, "acknowledged write", |cluster| {
            let output = cluster.weir(&["apply", "-t", "acme", "-f", &file])?;
            last = String::from_utf8_lossy(&output.stderr).into_owned();
            Ok(output.status.success())
        })
        .with_context(|| format!("the last refusal: {last}"))
}

/// What a running server says the number is.
fn read(cluster: &Cluster, id: u64) -> Result<u64> {
    let text = cluster.weir_ok_on(id, &["get", "directresponse", "number", "-t", "acme", "-o", "json"])?;
    let objects: Value = serde_json::from_str(&text)?;
    let body = objects.pointer("/items/0/spec/body").and_then(Value::as_str);
    let body = body.with_context(|| format!("no body in {objects:#}"))?;
    Ok(body.parse()?)
}
