//! What is left after a disaster becomes a new cluster.

use anyhow::{Context, Result};
use sim::cluster::Cluster;

use super::{PATIENCE, SITE, numbered, one_at_a_time, read, serves, serving, write};

#[test]
fn a_backup_is_restored_as_a_new_cluster_that_serves_the_same() -> Result<()> {
    let _turn = one_at_a_time();
    let mut cluster = serving(1)?;
    write(&cluster, 7)?;
    let said = cluster.weir_ok(&["backup", "-o", "b.weir"])?;
    assert!(said.contains("keys"), "{said}");
    write(&cluster, 8)?;
    let epoch = cluster.status_of(1)?["epoch"].clone();
    cluster.kill(1)?;
    serves(&cluster)?;
    // Everything is lost but the backup and the key file.
    let (place, key) = (cluster.place_of(1)?, cluster.path("s1.key"));
    let token = cluster.admin_token()?;
    std::fs::remove_dir_all(cluster.path("s1"))?;
    std::fs::rename(&key, cluster.path("elsewhere.key"))?;
    let mut args = vec!["restore", "b.weir", "--data=s1"];
    args.extend(place.iter().map(String::as_str));
    let output = cluster.weir_local(&args)?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("--key-file"), "{text}");
    args.push("--key-file=elsewhere.key");
    let output = cluster.weir_local(&args)?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    cluster.run(1)?;
    cluster.leader()?;
    assert_eq!(read(&cluster, 1)?, 7, "as the backup has it");
    assert_ne!(cluster.status_of(1)?["epoch"], epoch, "a new life");
    // Tokens of before work, and so does the certificate of the node: the CA is the same.
    let output = cluster.weir_as(&token, 1, &["cluster", "status"])?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    cluster.settle(1)?;
    write(&cluster, 9)?;
    cluster.apply_on(1, "acme", SITE)?;
    serves(&cluster)?;
    cluster.stop_all()
}

#[test]
fn the_last_server_begins_anew_when_the_majority_is_gone() -> Result<()> {
    let _turn = one_at_a_time();
    let mut cluster = Cluster::start(3)?;
    cluster.weir_ok(&["tenant", "create", "acme"])?;
    let leader = cluster.leader()?;
    cluster.apply_on(leader, "acme", &numbered(5))?;
    let left = cluster.follower()?;
    cluster.wait(PATIENCE, "the follower's read", |cluster| Ok(read(cluster, left).is_ok()))?;
    for id in cluster.running() {
        cluster.kill(id)?;
    }
    let data = format!("--data=s{left}");
    let output = cluster.weir_local(&["cluster", "force-new", &data])?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("are lost"), "{text}");
    let output = cluster.weir_local(&["cluster", "force-new", &data, "--yes"])?;
    let text = String::from_utf8(output.stdout).context("text")?;
    assert!(output.status.success() && text.contains("a cluster of its own"), "{text}");

    cluster.run(left)?;
    assert_eq!(cluster.leader()?, left);
    assert_eq!(read(&cluster, left)?, 5);
    write(&cluster, 6)?;
    assert_eq!(cluster.members()?.len(), 1);
    // Another one that comes back is a stranger, and takes nothing over.
    let other = [1, 2, 3].into_iter().find(|id| *id != left).unwrap_or_default();
    cluster.run(other)?;
    let added = cluster.add_server()?;
    assert!(added > 3, "no id is used twice: {added}");
    assert_eq!(read(&cluster, added)?, 6);
    assert_eq!(cluster.members()?.len(), 2);
    cluster.kill(other)?;
    Ok(())
}
