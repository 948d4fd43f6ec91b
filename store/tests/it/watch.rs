//! What a watch guarantees.

use std::collections::BTreeMap;

use bytes::Bytes;
use store::{Compacted, Handle, Key, Read, Revision, Txn, WatchBatch, WatchError};

use crate::open;

type Keys = BTreeMap<Key, Bytes>;

/// Follows a prefix until `end`, each revision in order, and dies and resumes now and then.
async fn follow(store: Handle, prefix: &str, end: Revision, dies_every: u64) -> (Keys, Vec<WatchBatch>) {
    let mut watch = store.watch(prefix, Revision(1));
    let (mut keys, mut seen, mut last) = (Keys::new(), Vec::new(), Revision(0));
    while last < end {
        let batch = watch.next().await.unwrap();
        assert!(batch.revision > last, "ordered and unique: {} after {last}", batch.revision);
        last = batch.revision;
        assert_eq!(watch.position(), Revision(last.0 + 1));
        for event in &batch.events {
            assert!(event.key.starts_with(prefix));
            match &event.entry {
                Some(entry) => {
                    assert_eq!(entry.mod_revision, batch.revision);
                    keys.insert(event.key.clone(), entry.value.clone());
                }
                None => assert!(keys.remove(&event.key).is_some(), "only what was there is deleted"),
            }
        }
        if !batch.is_bookmark() {
            seen.push(batch);
        }
        if last.0.is_multiple_of(dies_every) {
            watch = store.watch(prefix, watch.position());
        }
    }
    (keys, seen)
}

#[tokio::test]
async fn watches_are_ordered_unique_whole_and_resumable_under_concurrent_writers() {
    const WRITERS: u64 = 8;
    const WRITES: u64 = 40;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let write = |writer: u64| {
        let store = store.clone();
        async move {
            for i in 0..WRITES {
                let txn = Txn::new("w").put(format!("a/{writer}"), i.to_string());
                let key = format!("b/{writer}/{}", i / 2);
                let txn = if i % 2 == 0 { txn.put(key, i.to_string()) } else { txn.delete(key) };
                store.txn(txn).await.unwrap();
            }
        }
    };
    let end = Revision(WRITERS * WRITES);
    let writers = futures_util::future::join_all((0..WRITERS).map(write));
    let (_, all, again, a) = tokio::join!(
        writers,
        follow(store.clone(), "", end, u64::MAX),
        follow(store.clone(), "", end, 7),
        follow(store.clone(), "a/", end, 11),
    );
    assert_eq!(all.1.len() as u64, end.0, "reliable: every revision");
    assert!(all.1.iter().all(|batch| batch.events.len() == 2), "atomic: whole transactions");
    assert_eq!(all, again, "a watch that resumes sees the same");
    let listed = |prefix: &'static str| {
        let store = store.clone();
        async move {
            let (entries, _) = store.list(prefix, Read::Linearizable).await.unwrap();
            entries.into_iter().map(|entry| (entry.key, entry.value)).collect::<Keys>()
        }
    };
    assert_eq!(all.0, listed("").await);
    assert_eq!(a.0, listed("a/").await);
    store.shutdown().await;
}

#[tokio::test]
async fn a_watch_that_falls_behind_compaction_is_told_and_lists_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let mut slow = store.watch("", Revision(1));
    for i in 0..10 {
        store.txn(Txn::new("w").put("k", i.to_string())).await.unwrap();
    }
    assert_eq!(slow.next().await.unwrap().revision, Revision(1));
    store.compact(Revision(5)).await.unwrap();
    let told = Compacted { compacted: Revision(5) };
    assert_eq!(slow.next().await, Err(WatchError::Compacted(told)));
    assert_eq!(slow.next().await, Err(WatchError::Compacted(told)), "it stays so");
    let (_, revision) = store.list("", Read::Local).await.unwrap();
    let mut resumed = store.watch("", Revision(revision.0 + 1));
    let mut kept = store.watch("", Revision(6));
    store.txn(Txn::new("w").delete("k")).await.unwrap();
    let next = resumed.next().await.unwrap();
    assert_eq!((next.revision, next.events[0].entry.clone()), (Revision(11), None));
    assert_eq!(kept.next().await.unwrap().events[0].entry.as_ref().unwrap().value, "5");
    store.shutdown().await;
}

#[tokio::test]
async fn a_watch_from_zero_begins_with_the_next_revision() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    store.txn(Txn::new("w").put("k", "old")).await.unwrap();
    let mut watch = store.watch("", Revision(0));
    store.txn(Txn::new("w").put("k", "new")).await.unwrap();
    assert_eq!(watch.next().await.unwrap().revision, Revision(2));
    store.shutdown().await;
}

#[tokio::test]
async fn bookmarks_say_how_far_a_quiet_watch_has_come() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let mut watch = store.watch("a/", Revision(1));
    for _ in 0..3 {
        store.txn(Txn::new("w").put("b/1", "x")).await.unwrap();
    }
    tokio::time::pause();
    let batch = watch.next().await.unwrap();
    assert!(batch.is_bookmark() && batch.revision == Revision(3), "{batch:?}");
    assert_eq!(watch.position(), Revision(4));
    let more = tokio::time::timeout(std::time::Duration::from_secs(60), watch.next()).await;
    assert!(more.is_err(), "nothing new, nothing said: {more:?}");
    tokio::time::resume();
    store.shutdown().await;
}

#[tokio::test]
async fn a_dropped_next_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let mut watch = store.watch("", Revision(1));
    let write = async {
        for i in 1..=40 {
            store.txn(Txn::new("w").put("k", i.to_string())).await.unwrap();
        }
    };
    let read = async {
        let mut seen = Vec::new();
        while seen.len() < 40 {
            // Polled once and dropped, again and again.
            tokio::select! {
                biased;
                batch = watch.next() => seen.push(batch.unwrap().revision.0),
                () = tokio::task::yield_now() => {}
            }
        }
        seen
    };
    let (seen, ()) = tokio::join!(read, write);
    assert_eq!(seen, (1..=40).collect::<Vec<_>>());
    store.shutdown().await;
}
