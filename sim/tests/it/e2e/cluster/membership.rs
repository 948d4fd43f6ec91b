//! Servers come and go.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{PATIENCE, Traffic, no_errors, one_at_a_time, read, serving, write};

#[test]
fn a_fourth_server_joins_and_the_old_leader_leaves() -> Result<()> {
    let _turn = one_at_a_time();
    let mut cluster = serving(3)?;
    write(&cluster, 1)?;
    let mut traffic = Traffic::start(&cluster, 15)?;
    let fourth = cluster.add_server()?;
    assert_eq!(fourth, 4);
    assert_eq!(read(&cluster, fourth)?, 1, "at the server that has just joined");

    // Asked at a follower: the command goes to the leader by itself.
    let old = cluster.leader()?;
    let follower = cluster.follower()?;
    let said = cluster.weir_ok_on(follower, &["cluster", "remove", &old.to_string()])?;
    assert!(said.contains(&format!("server {old} removed")), "{said}");
    let status = cluster.ended(old)?;
    assert!(!status.success(), "a server that was removed says so");
    assert!(cluster.log().contains("was removed from its cluster"), "{}", cluster.log());
    assert!(cluster.members()?.iter().all(|member| member["id"] != old));
    write(&cluster, 2)?;
    for id in cluster.running() {
        assert_eq!(read(&cluster, id)?, 2, "server {id}");
    }
    // Started again, it is still nobody.
    cluster.run(old)?;
    assert!(!cluster.ended(old)?.success());
    cluster.forget(old);

    // The agent knows the new server: it goes on with that one alone among those that it knew.
    cluster.settle(1)?;
    cluster.wait(PATIENCE, "end of the traffic", |_| Ok(!traffic.running()?))?;
    traffic.finish()?;
    no_errors(&cluster.log().replace("was removed from its cluster", ""));
    cluster.stop_all()
}

#[test]
fn what_would_leave_no_majority_is_refused() -> Result<()> {
    let _turn = one_at_a_time();
    let mut cluster = sim::cluster::Cluster::start(3)?;
    let leader = cluster.leader()?;
    let followers: Vec<u64> = cluster.running().into_iter().filter(|id| *id != leader).collect();
    cluster.kill(followers[0])?;
    // The leader takes some heartbeats to miss it.
    let began = Instant::now();
    cluster.wait(PATIENCE, "four seconds", |_| Ok(began.elapsed() >= Duration::from_secs(4)))?;
    let output = cluster.weir_on(leader, &["cluster", "remove", &followers[1].to_string()])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("nothing could be written"), "{said}");
    // The dead one may go.
    cluster.weir_ok_on(leader, &["cluster", "remove", &followers[0].to_string()])?;
    assert_eq!(cluster.members()?.len(), 2);
    cluster.stop_all()
}
