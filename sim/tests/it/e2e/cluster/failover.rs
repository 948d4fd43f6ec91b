//! Servers die or stand still.

use std::time::{Duration, Instant};

use anyhow::Result;
use sim::harness::tell;

use super::{PATIENCE, Traffic, no_errors, one_at_a_time, read, serves, serving, write};

#[test]
fn a_leader_that_is_killed_or_stands_still_costs_no_request_and_no_write() -> Result<()> {
    let _turn = one_at_a_time();
    let mut cluster = serving(3)?;
    write(&cluster, 1)?;
    let mut traffic = Traffic::start(&cluster, 25)?;

    let first = cluster.leader()?;
    cluster.kill(first)?;
    let began = Instant::now();
    write(&cluster, 2)?;
    tell(&format!("leader killed: the next write was acknowledged after {:?}", began.elapsed()));
    let second = cluster.leader()?;
    assert_ne!(second, first);
    cluster.run(first)?;
    // Whoever answers reads what was acknowledged, also the one that was away.
    cluster.wait(PATIENCE, "answer of the killed server", |cluster| Ok(read(cluster, first).is_ok()))?;
    assert_eq!(read(&cluster, first)?, 2);

    cluster.freeze(second)?;
    let began = Instant::now();
    // Five seconds in which it hears of nothing, and others write.
    let running: Vec<u64> = cluster.running().into_iter().filter(|id| *id != second).collect();
    cluster.wait(PATIENCE, "another leader", |cluster| {
        let status = cluster.status_of(running[0])?;
        Ok(status["leader"] != 0 && status["leader"] != second)
    })?;
    let third = cluster.status_of(running[0])?["leader"].as_u64().unwrap_or_default();
    let file = cluster.path("third.yaml");
    std::fs::write(&file, super::numbered(3))?;
    cluster.weir_ok_on(third, &["apply", "-t", "acme", "-f", &file.display().to_string()])?;
    cluster.wait(PATIENCE, "five seconds", |_| Ok(began.elapsed() >= Duration::from_secs(5)))?;
    cluster.thaw(second)?;
    // It led once, and must not answer from that time.
    assert_eq!(read(&cluster, second)?, 3, "a read at the server that stood still");
    write(&cluster, 4)?;
    for id in cluster.running() {
        assert_eq!(read(&cluster, id)?, 4, "server {id}");
    }
    cluster.settle(1)?;
    cluster.wait(PATIENCE, "end of the traffic", |_| Ok(!traffic.running()?))?;
    let report = traffic.finish()?;
    tell(&format!("leader killed, then stopped: {} requests, {} ok", report["planned"], report["ok"]));
    no_errors(&cluster.log());
    cluster.stop_all()
}

#[test]
fn without_a_majority_nothing_is_written_and_everything_is_served() -> Result<()> {
    let _turn = one_at_a_time();
    let mut cluster = serving(3)?;
    write(&cluster, 1)?;
    let mut traffic = Traffic::start(&cluster, 10)?;
    let leader = cluster.leader()?;
    let followers: Vec<u64> = cluster.running().into_iter().filter(|id| *id != leader).collect();
    cluster.kill(leader)?;
    cluster.kill(followers[0])?;
    let alone = followers[1];
    let file = cluster.path("refused.yaml");
    std::fs::write(&file, super::numbered(2))?;
    let output = cluster.weir_on(alone, &["apply", "-t", "acme", "-f", &file.display().to_string()])?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("leader"), "{text}");
    let output = cluster.weir_on(alone, &["get", "-t", "acme"])?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("no leader"), "a read that nobody confirms: {text}");
    serves(&cluster)?;
    // And with no server at all.
    cluster.kill(alone)?;
    serves(&cluster)?;
    cluster.wait(PATIENCE, "end of the traffic", |_| Ok(!traffic.running()?))?;
    traffic.finish()?;

    for id in [leader, followers[0], alone] {
        cluster.run(id)?;
    }
    write(&cluster, 3)?;
    cluster.settle(1)?;
    serves(&cluster)?;
    cluster.stop_all()
}
