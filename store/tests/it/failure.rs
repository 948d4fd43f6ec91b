//! A disk that fails, and what was acknowledged before it did.

use std::{
    fs::File,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use store::{
    Read, ReadError, Store, Txn, TxnError, WatchError,
    fatal::OnFatal,
    files::{FileSystem, Os},
};

use crate::{config, open};

#[derive(Debug, Default)]
struct Breaks(AtomicBool);

impl FileSystem for Breaks {
    fn sync(&self, file: &File) -> io::Result<()> {
        if self.0.load(Ordering::SeqCst) { Err(io::Error::other("EIO")) } else { Os.sync(file) }
    }
}

#[tokio::test]
async fn a_failed_sync_ends_the_server_and_acknowledges_nothing_more() {
    let dir = tempfile::tempdir().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut config = config(dir.path());
    let files = Arc::new(Breaks::default());
    config.files = files.clone();
    let fatal = seen.clone();
    config.on_fatal = OnFatal(Arc::new(move |error| fatal.lock().unwrap().push(error.to_string())));
    let store = Store::open(config).await.unwrap();
    let mut watch = store.watch("", store::Revision(1));
    store.txn(Txn::new("a").put("kept", "1")).await.unwrap();
    files.0.store(true, Ordering::SeqCst);
    assert_eq!(store.txn(Txn::new("a").put("lost", "1")).await, Err(TxnError::Unknown));
    store.shutdown().await;
    let seen = seen.lock().unwrap().clone();
    assert!(matches!(&seen[..], [one] if one.contains("wal") && one.contains("EIO")), "{seen:?}");
    assert_eq!(store.get("kept", Read::Linearizable).await, Err(ReadError::Stopped));
    assert_eq!(watch.next().await.unwrap().events.len(), 1);
    assert_eq!(watch.next().await, Err(WatchError::Stopped));
    assert!(!store.is_leader(), "who acts as leader stops");

    // The disk is well again, and this was a crash: no marker, no last batch.
    let store = open(dir.path()).await;
    assert_eq!(store.get("kept", Read::Linearizable).await.unwrap().unwrap().value, "1");
    store.shutdown().await;
}
