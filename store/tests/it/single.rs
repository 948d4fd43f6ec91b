//! One server.

use std::time::Duration;

use bytes::Bytes;
use store::{OpenError, Read, ReadError, Revision, Store, Txn, TxnError};

use crate::{config, open};

#[tokio::test]
async fn a_write_is_read_and_survives() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    assert!(store.is_leader(), "alone, it leads when it is open");
    let committed = store.txn(Txn::new("ada").put("a/1", "one").put("b/1", "two").note("why")).await.unwrap();
    assert_eq!((committed.revision, committed.duplicate), (Revision(1), false));
    for read in [Read::Local, Read::Linearizable, Read::AtLeast(Revision(1)), Read::At(Revision(1))] {
        assert_eq!(store.get("a/1", read).await.unwrap().unwrap().value, "one", "{read:?}");
        let (entries, revision) = store.list("a/", read).await.unwrap();
        assert_eq!((entries.len(), revision), (1, Revision(1)));
    }
    let before = store.status();
    store.shutdown().await;
    let store = open(dir.path()).await;
    assert_eq!(store.get("b/1", Read::Linearizable).await.unwrap().unwrap().value, "two");
    let after = store.status();
    assert_eq!((after.cluster_id, after.epoch), (before.cluster_id, before.epoch));
    assert!(after.leadership.term > before.leadership.term);
    let audit = store.audit(Revision(1), 10).unwrap();
    assert_eq!((&*audit[0].actor, &*audit[0].note, audit[0].keys.len()), ("ada", "why", 2));
    store.shutdown().await;
}

#[tokio::test]
async fn refusals_say_why() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let create = Txn::new("a").compare("k", Revision(0)).put("k", "1");
    store.txn(create.clone()).await.unwrap();
    assert!(store.txn(create.clone()).await.unwrap().duplicate, "a retry is the same request");
    let again = Txn { request_id: store::request_id(), ..create.clone() };
    let conflict = store.txn(again).await.unwrap_err();
    assert!(conflict.to_string().starts_with("k was changed by revision 1, not 0"), "{conflict}");
    let reused = store.txn(create.put("l", "2")).await;
    assert!(matches!(reused, Err(TxnError::RequestIdReused(_))), "{reused:?}");
    assert!(matches!(store.txn(Txn::new("a").put("", "1")).await, Err(TxnError::Invalid(_))));
    store.shutdown().await;
    assert_eq!(store.txn(Txn::new("a").put("k", "1")).await, Err(TxnError::Stopped));
    assert_eq!(store.get("k", Read::Linearizable).await, Err(ReadError::Stopped));
    assert_eq!(
        store.get("k", Read::Local).await.unwrap().unwrap().value,
        "1",
        "what is in memory still reads"
    );
}

#[tokio::test]
async fn a_read_waits_for_its_revision_but_not_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.read_timeout = Duration::from_millis(50);
    let store = Store::open(config).await.unwrap();
    let late = store.get("k", Read::AtLeast(Revision(2))).await;
    assert_eq!(late, Err(ReadError::Behind { wanted: Revision(2), have: Revision(0) }));
    let (read, _) =
        tokio::join!(store.get("k", Read::AtLeast(Revision(1))), store.txn(Txn::new("a").put("k", "1")));
    assert_eq!(read.unwrap().unwrap().value, "1");
    store.shutdown().await;
}

#[tokio::test]
async fn reads_that_wait_for_a_leader_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    // One of three: nobody leads.
    config.voters = vec![1, 2, 3];
    config.read_timeout = Duration::from_millis(200);
    config.max_reads = 8;
    let store = Store::open(config).await.unwrap();
    let read = |_| store.get("k", Read::Linearizable);
    let answers = futures_util::future::join_all((0..20).map(read)).await;
    let count = |error: ReadError| answers.iter().filter(|answer| **answer == Err(error.clone())).count();
    assert_eq!((count(ReadError::NoLeader), count(ReadError::Busy)), (8, 12));
    store.shutdown().await;
}

#[tokio::test]
async fn a_directory_is_opened_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let second = Store::open(config(dir.path())).await;
    assert!(matches!(second, Err(OpenError::InUse { .. })), "{second:?}");
    store.shutdown().await;
    let store = open(dir.path()).await;
    drop(store);
    // Without a handle it stops by itself.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        match Store::open(config(dir.path())).await {
            Ok(store) => break store.shutdown().await,
            Err(OpenError::InUse { .. }) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn large_values_and_many_writes_pass_snapshots_and_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.snapshot_entries = 50;
    config.keep_revisions = 20;
    for round in 0..3_u64 {
        let store = Store::open(config.clone()).await.unwrap();
        for i in 0..100 {
            let value = Bytes::from(vec![u8::try_from(i).unwrap(); 3000 * (1 + i % 7)]);
            store.txn(Txn::new("a").put(format!("k/{}", i % 13), value)).await.unwrap();
        }
        store.txn(Txn::new("a").put("large", vec![7; store::MAX_VALUE])).await.unwrap();
        let status = store.status();
        assert_eq!((status.keys, status.revision), (14, Revision((round + 1) * 101)));
        assert!(status.compacted.0 + 30 > status.revision.0, "history is compacted by itself: {status:?}");
        store.shutdown().await;
    }
    let files = |part: &str| std::fs::read_dir(dir.path().join(part)).unwrap().count();
    assert_eq!(files("snapshots"), 2);
    // Of some 130 that were written: two snapshots' spans stay, each of a quarter of the state at least, and as long as the
    // snapshot before it took.
    assert!(files("wal") < 100, "old segments go: {}", files("wal"));
}

#[tokio::test]
async fn status_says_how_large_the_log_is_and_how_far() {
    let dir = tempfile::tempdir().unwrap();
    let on_disk = || -> u64 {
        let files = std::fs::read_dir(dir.path().join("wal")).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
    };
    let store = open(dir.path()).await;
    let begun = store.status();
    assert_eq!(begun.wal_bytes, on_disk());
    assert!(begun.commit_index >= begun.applied_index && begun.commit_index > 0, "{begun:?}");
    for i in 0..8 {
        store.txn(Txn::new("a").put("k", vec![i; 30_000])).await.unwrap();
    }
    let grown = store.status();
    assert_eq!(grown.wal_bytes, on_disk());
    assert!(grown.wal_bytes > begun.wal_bytes, "{} segments", grown.wal_bytes / (64 << 10));
    assert_eq!(grown.commit_index, begun.commit_index + 8);
    store.shutdown().await;
    let store = open(dir.path()).await;
    assert_eq!(store.status().wal_bytes, on_disk());
    store.shutdown().await;
}

#[tokio::test]
async fn history_of_large_values_is_cut_by_its_size() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.keep_bytes = 1 << 20;
    let store = Store::open(config).await.unwrap();
    for _ in 0..200 {
        store.txn(Txn::new("a").put("k", vec![7; 40_000])).await.unwrap();
    }
    let status = store.status();
    assert!(status.bytes < 2 << 20, "{status:?}");
    assert!(status.revision.0 - status.compacted.0 >= 8, "some history stays: {status:?}");
    store.shutdown().await;
}

#[tokio::test]
async fn too_many_bytes_at_once_are_refused_and_the_rest_commits() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.queue_bytes = store::MAX_TXN;
    let store = Store::open(config).await.unwrap();
    let write = |i: usize| store.txn(Txn::new("a").put(format!("k{i}"), vec![0; store::MAX_VALUE]));
    let written = futures_util::future::join_all((0..20).map(write)).await;
    let refused = written.iter().filter(|result| **result == Err(TxnError::Busy)).count();
    assert!(refused > 0 && refused < 20, "{written:?}");
    assert_eq!(store.status().keys, 20 - refused as u64);
    assert!(write(99).await.is_ok(), "what was taken is given back");
    store.shutdown().await;
}

#[tokio::test]
async fn concurrent_counters_lose_no_increment() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let count = |store: store::Handle| async move {
        for _ in 0..20 {
            loop {
                let read = store.get("n", Read::Linearizable).await.unwrap();
                let (n, at) = read.map_or((0, Revision(0)), |entry| {
                    (std::str::from_utf8(&entry.value).unwrap().parse::<u64>().unwrap(), entry.mod_revision)
                });
                match store.txn(Txn::new("c").compare("n", at).put("n", (n + 1).to_string())).await {
                    Ok(_) => break,
                    Err(TxnError::Conflict { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
    };
    futures_util::future::join_all((0..8).map(|_| count(store.clone()))).await;
    assert_eq!(store.get("n", Read::Local).await.unwrap().unwrap().value, "160");
    store.shutdown().await;
}
