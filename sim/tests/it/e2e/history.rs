//! Watching, history, rollback, quotas and audit, through the command line.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Stdio},
};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;
use sim::harness::{Installation, command, kill, weir_binary};

use super::{PATIENCE, one_at_a_time};

/// A running `weir get --watch`, ended with the test.
struct Watching {
    child: Child,
    file: PathBuf,
}

impl Watching {
    fn start(weir: &Installation, tenant: &str) -> Result<Self> {
        let file = weir.directory().join("watched.json");
        let child = command(&weir_binary().display().to_string())
            .args(["get", "--watch", "-t", tenant, "-o", "json"])
            .current_dir(weir.directory())
            .stdin(Stdio::null())
            .stdout(File::create(&file)?)
            .spawn()
            .context("start weir get --watch")?;
        Ok(Self { child, file })
    }

    /// What it has told.
    fn lines(&self) -> Result<Vec<Value>> {
        let text = fs::read_to_string(&self.file)?;
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// Change and name of each line.
    fn told(&self) -> Result<Vec<(String, String)>> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(self.lines()?.iter().map(|line| (text(&line["change"]), text(&line["name"]))).collect())
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        // Errors: it has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn backend(name: &str, port: u16) -> String {
    format!(
        "apiVersion: weir.dev/v1\nkind: Backend\nmetadata: {{name: {name}}}\n\
         spec: {{endpoints: [{{address: \"127.0.0.1:{port}\"}}]}}\n"
    )
}

fn revision(weir: &Installation, tenant: &str) -> Result<u64> {
    let history = weir.json(&["history", "-t", tenant, "--limit", "1"])?;
    history["changes"][0]["revision"].as_u64().context("a revision")
}

#[test]
fn a_watch_outlives_the_server_and_tells_each_change_once() -> Result<()> {
    let _turn = one_at_a_time();
    let weir = Installation::up(&[])?;
    weir.ok(&["tenant", "create", "acme"])?;
    weir.apply("acme", &backend("one", 1))?;
    let watching = Watching::start(&weir, "acme")?;
    weir.wait(PATIENCE, "what there is", || Ok(watching.told()?.len() == 1))?;
    weir.apply("acme", &backend("two", 1))?;
    weir.wait(PATIENCE, "a change", || Ok(watching.told()?.len() == 2))?;
    for round in 0..2_u16 {
        let server = weir.child("server")?;
        kill(server, Signal::KILL)?;
        weir.wait(PATIENCE, "a new server", || Ok(weir.child("server").is_ok_and(|pid| pid != server)))?;
        weir.wait(PATIENCE, "an answer", || Ok(weir.weir(&["get", "-t", "acme"])?.status.success()))?;
        weir.apply("acme", &backend("one", 10 + round))?;
        weir.ok(&["delete", "backend", "two", "-t", "acme"])?;
        weir.apply("acme", &backend("two", 10 + round))?;
        let expected = 2 + 3 * (usize::from(round) + 1);
        weir.wait(PATIENCE, "the changes after", || Ok(watching.told()?.len() >= expected))?;
    }
    let told = watching.told()?;
    let line = |change: &str, name: &str| (change.to_owned(), name.to_owned());
    let round = [line("configured", "one"), line("deleted", "two"), line("created", "two")];
    let mut expected = vec![line("present", "one"), line("created", "two")];
    expected.extend(round.clone());
    expected.extend(round);
    assert_eq!(told, expected);
    let revisions: Vec<_> = watching.lines()?.iter().map(|line| line["revision"].as_u64()).collect();
    assert!(revisions.is_sorted_by(|a, b| a < b), "{revisions:?}");
    Ok(())
}

#[test]
fn a_tenant_goes_back_and_the_audit_says_so() -> Result<()> {
    let _turn = one_at_a_time();
    let weir = Installation::up(&[])?;
    weir.ok(&["tenant", "create", "acme"])?;
    weir.apply("acme", &backend("one", 1))?;
    let good = revision(&weir, "acme")?.to_string();
    weir.apply("acme", &(backend("one", 2) + "---\n" + &backend("two", 2)))?;

    let then = weir.json(&["get", "backend", "one", "-t", "acme", "--revision", &good])?;
    assert_eq!(then["items"][0]["spec"]["endpoints"][0]["address"], "127.0.0.1:1");
    let diff = weir.ok(&["diff", "backend", "one", "-t", "acme", "--from", &good])?;
    let marked =
        |mark: char, text: &str| diff.lines().any(|line| line.starts_with(mark) && line.contains(text));
    assert!(marked('-', "127.0.0.1:1") && marked('+', "127.0.0.1:2"), "{diff}");

    let dry = weir.json(&["rollback", "-t", "acme", "--to", &good, "--dry-run"])?;
    assert_eq!(dry["objects"].as_array().map(Vec::len), Some(2), "{dry}");
    weir.ok(&["get", "backend", "two", "-t", "acme"])?;
    weir.ok(&["rollback", "-t", "acme", "--to", &good])?;
    ensure!(!weir.weir(&["get", "backend", "two", "-t", "acme"])?.status.success(), "two is gone");
    let table = weir.ok(&["history", "-t", "acme"])?;
    assert!(table.contains("Backend default/two deleted") && table.lines().count() == 4, "{table}");

    let audit = weir.json(&["audit", "-t", "acme", "--since", "1h"])?;
    let newest = &audit["records"][0];
    assert!(newest["note"].as_str().is_some_and(|note| note.starts_with("roll acme back")), "{newest}");
    assert!(newest["origin"].as_str().is_some_and(|origin| origin.starts_with("127.0.0.1:")), "{newest}");

    let quota =
        "apiVersion: weir.dev/v1\nkind: Tenant\nmetadata: {name: acme}\nspec: {quotas: {objects: 1}}\n";
    weir.apply("platform", quota)?;
    assert!(weir.ok(&["tenant", "list"])?.contains("1 of 1"));
    let file = weir.directory().join("more.yaml");
    fs::write(&file, backend("three", 1))?;
    let refused = weir.weir(&["apply", "-t", "acme", "-f", "more.yaml"])?;
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && text.contains("its quota is 1"), "{text}");
    Ok(())
}
