//! The key-encryption key is replaced on three servers, of which each has its own copy of the key file.

use std::fs;

use anyhow::{Context, Result};
use serde_json::Value;
use sim::cluster::Cluster;

use super::{PATIENCE, no_errors, one_at_a_time, read, write};

/// The keys as `weir secrets status` shows them.
fn keys(cluster: &Cluster) -> Result<Vec<Value>> {
    let text = cluster.weir_ok(&["secrets", "status", "-o", "json"])?;
    Ok(serde_json::from_str(&text)?)
}

fn sealing(cluster: &Cluster) -> Result<String> {
    let keys = keys(cluster)?;
    let key = keys.iter().find(|key| key["seals"] == true).and_then(|key| key["id"].as_str());
    key.map(ToOwned::to_owned).context("a key that seals")
}

/// Whether each of the three has the key.
fn is_everywhere(cluster: &Cluster, id: &str) -> Result<bool> {
    let has = |key: &Value| key["id"] == id && key["servers"] == serde_json::json!([1, 2, 3]);
    Ok(keys(cluster)?.iter().any(has))
}

#[test]
fn a_key_is_replaced_on_three_servers_of_which_one_is_killed() -> Result<()> {
    let _turn = one_at_a_time();
    let mut cluster = Cluster::start(3)?;
    cluster.weir_ok(&["tenant", "create", "acme"])?;
    write(&cluster, 1)?;
    let file = |id: u64| format!("s{id}.key");
    let old = sealing(&cluster)?;

    cluster.weir_ok(&["secrets", "add-key", "--key-file", &file(1)])?;
    let refused = cluster.weir(&["secrets", "rotate-key", "--key-file", &file(1)])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("servers 2, 3"), "{said}");
    assert_eq!(sealing(&cluster)?, old, "nothing is changed while a server lacks the key");

    for id in [2, 3] {
        fs::copy(cluster.path(&file(1)), cluster.path(&file(id)))?;
    }
    let new = fs::read_to_string(cluster.path(&file(1)))?;
    let new = new.lines().last().and_then(|line| line.split(' ').nth(1)).context("a key")?.to_owned();
    cluster.wait(PATIENCE, "the key on all servers", |cluster| is_everywhere(cluster, &new))?;

    // It has said that it has the key: the others need not wait for it.
    let killed = cluster.leader()?;
    cluster.kill(killed)?;
    cluster.leader()?;
    let done = cluster.weir_ok(&["secrets", "rotate-key", "--forget-history", "--key-file", &file(1)])?;
    assert!(done.contains(&format!("key {new} seals")) && done.contains("dropped"), "{done}");
    assert_eq!(sealing(&cluster)?, new);
    write(&cluster, 2)?;

    // Where the old key is still in the file, and what is sealed with the new one opens at a start.
    cluster.run(killed)?;
    cluster
        .wait(PATIENCE, "return of the server", |cluster| Ok(read(cluster, killed).is_ok_and(|n| n == 2)))?;
    for id in [2, 3] {
        cluster.weir_ok(&["secrets", "drop-key", &old, "--key-file", &file(id)])?;
    }
    cluster.wait(PATIENCE, "the old key on no server", |cluster| {
        Ok(keys(cluster)?.len() == 1 && is_everywhere(cluster, &new)?)
    })?;
    for id in cluster.running() {
        let status = cluster.stop(id)?;
        assert!(status.success(), "server {id} ended with {status}");
        cluster.run(id)?;
        cluster
            .wait(PATIENCE, "a start with the new key alone", |cluster| Ok(cluster.status_of(id).is_ok()))?;
    }
    write(&cluster, 3)?;
    no_errors(&cluster.log());
    cluster.stop_all()
}
