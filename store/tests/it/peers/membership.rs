//! Servers that come and go, over real connections.

use std::time::Duration;

use store::{Addresses, MemberError, OpenError, Read, Standing, Start, Txn};

use super::cluster::{Cluster, eventually};
use crate::cluster::write;

/// Tries a change until the other one that is under way is through, and at whoever leads.
async fn change(cluster: &Cluster, change: impl AsyncFn(&store::Handle) -> Result<(), MemberError>) {
    let tried = async {
        loop {
            let leader = cluster.leader().await;
            match change(cluster.store(leader)).await {
                Ok(()) => return,
                Err(
                    MemberError::Busy
                    | MemberError::NotLeader { .. }
                    | MemberError::HandingOver { .. }
                    | MemberError::Quorum { .. }
                    | MemberError::Unanswered,
                ) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) => panic!("{error}"),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), tried).await.expect("the change is made");
}

async fn join(cluster: &mut Cluster, expect: u64) {
    let addresses = Addresses { peers: cluster.address(expect), admin: String::new() };
    let leader = cluster.leader().await;
    let id = cluster.store(leader).add_learner(addresses).await.unwrap();
    assert_eq!(id, expect);
    cluster.start_as(id, Start::Join, vec![]).await;
    let votes = || cluster.store(leader).status().voters.contains(&id);
    eventually("it has caught up and votes", votes).await;
    eventually("it knows so", || cluster.store(id).status().voters.contains(&id)).await;
    assert_eq!(*cluster.store(id).standing().borrow(), Standing::Member);
}

#[tokio::test]
async fn one_server_grows_to_three_and_its_first_one_may_go() {
    let mut cluster = Cluster::new(|_, _| {});
    cluster.start_as(1, Start::Found, vec![1]).await;
    // More than the log keeps: who joins needs a snapshot that knows of it.
    for i in 0..60 {
        write(cluster.store(1), Txn::new("t").put(format!("k/{i}"), "1")).await;
    }
    join(&mut cluster, 2).await;
    join(&mut cluster, 3).await;
    let (entries, _) = cluster.store(3).list("k/", Read::Linearizable).await.unwrap();
    assert_eq!(entries.len(), 60);

    let follower = if cluster.leader().await == 2 { 3 } else { 2 };
    let refused = cluster.store(follower).remove(1).await.unwrap_err();
    let MemberError::NotLeader { leader: Some(leader) } = refused else { panic!("{refused:?}") };
    assert_eq!(leader.id, cluster.leader().await);

    change(&cluster, async |store| match store.remove(1).await {
        Err(MemberError::Unknown { id: 1 }) => Ok(()),
        other => other,
    })
    .await;
    write(cluster.store(2), Txn::new("t").put("after", "1")).await;
    eventually("who was removed hears of it", || *cluster.store(1).standing().borrow() == Standing::Removed)
        .await;
    assert!(cluster.store(2).members().iter().all(|member| member.id != 1));
    cluster.agree(&[2, 3]).await;
    // Its id is nobody's any more.
    let addresses = Addresses { peers: cluster.address(4), admin: String::new() };
    change(&cluster, async |store| store.add_learner(addresses.clone()).await.map(|id| assert_eq!(id, 4)))
        .await;
}

#[tokio::test]
async fn what_would_stop_all_writes_is_refused() {
    let mut cluster = Cluster::new(|_, _| {});
    for node in 1..=3 {
        cluster.start(node).await;
    }
    write(cluster.store(1), Txn::new("t").put("k", "1")).await;
    let leader = cluster.leader().await;
    let (one, other) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    cluster.kill(one);
    // Twenty ticks of 20 ms without a word: it counts as down.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let refused = cluster.store(leader).remove(other).await.unwrap_err();
    assert_eq!(refused, MemberError::Quorum { voters: 2, healthy: 1, needed: 2 });
    // The one that is down may go: two stay, and both are there.
    change(&cluster, async |store| store.remove(one).await).await;
    write(cluster.store(leader), Txn::new("t").put("k", "2")).await;
    assert!(matches!(
        cluster.store(leader).promote(9).await,
        Err(MemberError::Unknown { id: 9 } | MemberError::NotLeader { .. })
    ));
}

#[tokio::test]
async fn a_server_whose_disk_was_wiped_does_not_come_back_under_its_id() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = crate::config(dir.path());
    config.start = Start::Existing;
    let refused = store::Store::open(config).await.unwrap_err();
    assert!(matches!(refused, OpenError::Gone { node: 1, .. }), "{refused}");
    assert!(refused.to_string().contains("weir cluster remove 1"), "{refused}");
}
