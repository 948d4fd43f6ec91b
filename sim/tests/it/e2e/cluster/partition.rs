//! The network between servers fails, and they do not know it.

use std::time::Duration;

use anyhow::Result;
use sim::{
    cluster::{Cluster, Options},
    proxy::{End, Faults},
};

use super::{PATIENCE, Traffic, one_at_a_time, read, serves, with_traffic, write};

#[test]
fn a_leader_that_nobody_hears_is_replaced_and_answers_nothing_stale() -> Result<()> {
    let _turn = one_at_a_time();
    let mut cluster = Cluster::start_with(3, Options { proxies: true, ..Options::default() })?;
    with_traffic(&mut cluster)?;
    write(&cluster, 1)?;
    let mut traffic = Traffic::start(&cluster, 15)?;
    let old = cluster.leader()?;
    cluster.isolate(old)?;
    let others: Vec<u64> = cluster.running().into_iter().filter(|id| *id != old).collect();
    cluster.wait(PATIENCE, "another leader", |cluster| {
        let status = cluster.status_of(others[0])?;
        Ok(others.iter().any(|id| status["leader"] == *id))
    })?;
    let leader = cluster.status_of(others[0])?["leader"].as_u64().unwrap_or_default();
    let file = cluster.path("two.yaml");
    std::fs::write(&file, super::numbered(2))?;
    cluster.weir_ok_on(leader, &["apply", "-t", "acme", "-f", &file.display().to_string()])?;
    // Its admin API is reached by clients: it must not answer from what it has.
    let output = cluster.weir_on(old, &["get", "directresponse", "number", "-t", "acme"])?;
    assert!(!output.status.success(), "stale: {}", String::from_utf8_lossy(&output.stdout));
    cluster.heal();
    cluster.wait(PATIENCE, "answer of the isolated server", |cluster| Ok(read(cluster, old).is_ok()))?;
    assert_eq!(read(&cluster, old)?, 2);

    // All connections end at once, in each way; slow ones follow.
    for end in [End::Cut, End::Reset, End::HalfClose] {
        cluster.end_connections(end);
        write(&cluster, 3)?;
    }
    let slow = cluster.follower()?;
    if let Some(proxy) = cluster.proxy(slow) {
        proxy.set(Faults::delay(Duration::from_millis(50)));
    }
    write(&cluster, 4)?;
    assert_eq!(read(&cluster, slow)?, 4, "a follower far away");
    cluster.heal();
    cluster.settle(1)?;
    serves(&cluster)?;
    cluster.wait(PATIENCE, "end of the traffic", |_| Ok(!traffic.running()?))?;
    traffic.finish()?;
    cluster.stop_all()
}
