//! Three servers in one process, each with its driver and its disk.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use store::{
    Handle, NodeId, Read, Revision, Store, Txn, TxnError,
    peer::{Network, PeerMessage},
};

/// Hands messages over in memory; to a server that is down they are lost.
#[derive(Clone, Default)]
struct Hub(Arc<Mutex<BTreeMap<NodeId, Handle>>>);

impl Network for Hub {
    fn send(&mut self, message: PeerMessage) {
        let to = self.0.lock().unwrap().get(&message.to).cloned();
        if let Some(to) = to {
            to.deliver(message);
        }
    }
}

impl Hub {
    async fn start(&self, dir: &Path, node: NodeId) -> Handle {
        let mut config = crate::config(&dir.join(node.to_string()));
        config.node = node;
        config.voters = vec![1, 2, 3];
        config.cluster_id = Some("test".into());
        config.tick = Duration::from_millis(20);
        config.snapshot_entries = 40;
        let handle = Store::open_with(config, Box::new(self.clone())).await.unwrap();
        self.0.lock().unwrap().insert(node, handle.clone());
        handle
    }

    async fn stop(&self, node: NodeId) {
        let handle = self.0.lock().unwrap().get(&node).cloned().unwrap();
        handle.shutdown().await;
        self.0.lock().unwrap().remove(&node);
    }
}

/// Tries one request until it is answered.
pub(crate) async fn write(store: &Handle, txn: Txn) -> Revision {
    let tried = async {
        loop {
            match store.txn(txn.clone()).await {
                Ok(committed) => break committed.revision,
                Err(TxnError::NoLeader | TxnError::Busy | TxnError::Unknown) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), tried).await.expect("a majority is up")
}

#[tokio::test]
async fn three_servers_agree_through_a_change_of_leader() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::default();
    let mut stores = Vec::new();
    for node in 1..=3 {
        stores.push(hub.start(dir.path(), node).await);
    }
    for (i, store) in stores.iter().enumerate() {
        write(store, Txn::new("t").put(format!("k/{i}"), "1")).await;
    }
    for store in &stores {
        let (entries, _) = store.list("k/", Read::Linearizable).await.unwrap();
        assert_eq!(entries.len(), 3, "a linearizable read on any server sees every answered write");
    }
    let leader = stores.iter().position(Handle::is_leader).unwrap();
    let epochs: Vec<_> = stores.iter().map(|store| store.status().epoch).collect();
    assert!(epochs.iter().all(|epoch| *epoch == epochs[0]));

    hub.stop(leader as u64 + 1).await;
    let other = stores[(leader + 1) % 3].clone();
    let mut last = Revision(0);
    for i in 0..100 {
        last = write(&other, Txn::new("t").put(format!("k/{}", i % 5), i.to_string())).await;
    }
    // It was away for more entries than a snapshot spans.
    stores[leader] = hub.start(dir.path(), leader as u64 + 1).await;
    let read = stores[leader].list("k/", Read::AtLeast(last)).await.unwrap();
    assert_eq!(read, other.list("k/", Read::AtLeast(last)).await.unwrap());

    let agreed = async {
        loop {
            let states: Vec<_> =
                stores.iter().map(|store| store.status()).map(|s| (s.applied_index, s.hash)).collect();
            if states.iter().all(|state| *state == states[0]) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), agreed).await.expect("equal hashes at one index");
    for node in 1..=3 {
        hub.stop(node).await;
    }
}
