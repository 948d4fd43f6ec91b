//! Three servers with real listeners and certificates: what the transport carries, and whom it refuses.

mod cluster;
mod membership;
mod refusals;
mod switch;

use std::time::Duration;

use store::{Handle, Read, Revision, TxnError};

use crate::cluster::write;
use cluster::{Cluster, eventually};

/// Bytes that no compression makes smaller: a snapshot of many has many pieces.
fn noise(length: usize) -> Vec<u8> {
    (0..length).map(|_| rand::random()).collect()
}

async fn write_many(store: &Handle, keys: std::ops::Range<u64>, length: usize) -> Revision {
    let mut last = Revision(0);
    for key in keys {
        last = write(store, store::Txn::new("t").put(format!("k/{key}"), noise(length))).await;
    }
    last
}

#[tokio::test]
async fn a_cluster_survives_its_leader_which_comes_back_by_snapshot() {
    let mut cluster = Cluster::new(|_, _| {});
    for node in 1..=3 {
        cluster.start(node).await;
    }
    // Through each of them: a follower forwards what it is asked to write.
    for node in 1..=3 {
        write(cluster.store(node), store::Txn::new("t").put(format!("by/{node}"), "1")).await;
    }
    for node in 1..=3 {
        let (entries, _) = cluster.store(node).list("by/", Read::Linearizable).await.unwrap();
        assert_eq!(entries.len(), 3, "server {node} sees every answered write");
    }

    let old = cluster.leader().await;
    cluster.kill(old);
    let other = old % 3 + 1;
    // More than the log keeps.
    let last = write_many(cluster.store(other), 0..80, 8 << 10).await;
    let new = cluster.leader().await;
    assert_ne!(new, old);

    cluster.start(old).await;
    let read = cluster.store(old).list("", Read::AtLeast(last)).await.unwrap();
    assert_eq!(read.0.len(), 83);
    assert_eq!(read, cluster.store(other).list("", Read::AtLeast(last)).await.unwrap());
    // The log alone does not reach back so far. Whoever sent it hears of it a little later.
    let sent = |node| cluster.link(node, old).is_some_and(|link| link.snapshots >= 1);
    eventually("a snapshot was taken", || (1..=3).any(sent)).await;

    // It is a member as before: with it, one of the other two can go.
    cluster.kill(new);
    write_many(cluster.store(old), 80..85, 10).await;
    cluster.agree(&[old, 6 - old - new]).await;

    // The last one alone writes nothing.
    cluster.kill(6 - old - new);
    let alone = cluster.store(old).txn(store::Txn::new("t").put("k/0", "lost")).await;
    assert!(matches!(alone, Err(TxnError::NoLeader | TxnError::Unknown)), "{alone:?}");
}

#[tokio::test]
async fn a_server_that_stalls_costs_messages_and_no_writes_and_catches_up() {
    let mut cluster = Cluster::new(|config, links| {
        // By the log, not by a snapshot.
        config.snapshot_bytes = 64 << 20;
        links.outbox_messages = 8;
    });
    for node in 1..=3 {
        cluster.start(node).await;
    }
    let first = write_many(cluster.store(1), 0..5, 10).await;
    for node in 1..=3 {
        cluster.store(node).list("", Read::AtLeast(first)).await.unwrap();
    }
    let leader = cluster.leader().await;
    let slow = leader % 3 + 1;
    let before = cluster.link(leader, slow).unwrap().lost;
    cluster.pause(slow, true);
    let last = write_many(cluster.store(leader), 0..60, 32 << 10).await;
    assert!(cluster.store(slow).status().revision < last, "nothing reaches a server that is paused");
    let lost = || cluster.link(leader, slow).unwrap().lost > before;
    eventually("a full outbox loses messages", lost).await;

    cluster.pause(slow, false);
    eventually("it catches up", || cluster.store(slow).status().revision >= last).await;
    cluster.agree(&[1, 2, 3]).await;
    // A stop in good order ends all streams.
    for node in 1..=3 {
        tokio::time::timeout(Duration::from_secs(10), cluster.store(node).shutdown()).await.unwrap();
    }
}

#[tokio::test]
async fn a_write_on_its_way_to_a_leader_that_dies_is_made_by_the_next_one_once() {
    let mut cluster = Cluster::new(|config, _| config.write_timeout = Duration::from_secs(20));
    for node in 1..=3 {
        cluster.start(node).await;
    }
    write(cluster.store(1), store::Txn::new("t").put("k/0", "0")).await;
    let leader = cluster.leader().await;
    let follower = cluster.store(leader % 3 + 1).clone();
    eventually("the follower knows its leader", || follower.status().leader == Some(leader)).await;
    // Nothing that is forwarded from here on arrives; then the leader is gone with it.
    cluster.pause(leader, true);
    let on_their_way: Vec<_> = (1..=20)
        .map(|i| {
            let store = follower.clone();
            tokio::spawn(async move { store.txn(store::Txn::new("t").put(format!("k/{i}"), "1")).await })
        })
        .collect();
    eventually("all are proposed", || on_their_way.len() == 20).await;
    cluster.kill(leader);
    for write in on_their_way {
        let answer = tokio::time::timeout(Duration::from_secs(20), write).await.expect("in time").unwrap();
        // One that came when it was known already that nobody leads was not proposed, and says so.
        assert!(matches!(answer, Ok(_) | Err(TxnError::NoLeader)), "{answer:?}");
    }
    let (entries, _) = follower.list("k/", Read::Linearizable).await.unwrap();
    assert!(entries.iter().all(|entry| entry.version == 1), "each was made once");
    assert!(entries.len() > 1);
}
