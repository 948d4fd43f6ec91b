use super::*;
use crate::{Read, Store, Txn};

fn addresses() -> Addresses {
    Addresses { peers: "h:1".into(), admin: "h:2".into() }
}

fn how(dir: &Path) -> Restore {
    Restore { segment: 64 << 10, ..Restore::new(dir, 1, addresses()) }
}

fn config(dir: &Path) -> crate::Config {
    crate::Config { segment: 64 << 10, ..crate::Config::new(dir) }
}

async fn filled(dir: &Path) -> crate::Handle {
    let store = Store::open(config(dir)).await.unwrap();
    for i in 0..50 {
        store.txn(Txn::new("ada").put(format!("k/{}", i % 7), i.to_string())).await.unwrap();
    }
    store
}

#[tokio::test]
async fn a_backup_begins_a_new_life_with_all_that_was_there() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    let store = filled(&from).await;
    let backup = store.backup().await.unwrap();
    store.txn(Txn::new("ada").put("later", "lost")).await.unwrap();
    let old = store.status();

    let origin = restore(&backup, &how(&to)).unwrap();
    assert_eq!((origin.revision, origin.epoch, origin.keys), (Revision(50), old.epoch, 7));
    assert_eq!(inspect(&backup).unwrap(), origin);
    let restored = Store::open(config(&to)).await.unwrap();
    let new = restored.status();
    assert!(new.epoch > old.epoch, "{:?} {:?}", new.epoch, old.epoch);
    assert_ne!(new.cluster_id, old.cluster_id);
    assert_eq!(restored.members()[0].addresses, addresses());
    let at = Read::At(Revision(50));
    assert_eq!(restored.list("", at).await.unwrap(), store.list("", at).await.unwrap());
    assert_eq!(restored.get("later", Read::Linearizable).await.unwrap(), None);
    assert_eq!(restored.audit(Revision(1), 100).unwrap(), store.audit(Revision(1), 50).unwrap());
    let next = restored.txn(Txn::new("ada").put("k/0", "new")).await.unwrap();
    assert_eq!(next.revision, Revision(51));
    store.shutdown().await;
    restored.shutdown().await;
}

#[tokio::test]
async fn what_is_no_backup_and_where_data_is_nothing_is_restored() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(&dir.path().join("from")).await;
    let backup = store.backup().await.unwrap();
    store.shutdown().await;
    for byte in (0..backup.len()).step_by(37) {
        let mut changed = backup.to_vec();
        changed[byte] ^= 4;
        let to = dir.path().join("changed");
        assert!(matches!(restore(&changed.into(), &how(&to)), Err(RestoreError::NoBackup(_))), "byte {byte}");
        assert!(!to.exists());
    }
    for cut in (0..backup.len()).step_by(61) {
        assert!(inspect(&backup.slice(..cut)).is_err());
    }
    let full = how(&dir.path().join("from"));
    assert!(matches!(restore(&backup, &full), Err(RestoreError::NotEmpty { .. })));
}

#[tokio::test]
async fn what_a_server_has_left_makes_a_cluster_and_stays_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    let store = filled(&path).await;
    let old = store.status();
    assert!(matches!(force_new(&how(&path)), Err(RestoreError::Open(OpenError::InUse { .. }))));
    store.shutdown().await;

    let forced = force_new(&how(&path)).unwrap();
    assert_eq!((forced.origin.revision, forced.origin.keys), (Revision(50), 7));
    assert!(forced.aside.join("identity").exists());
    let new = Store::open(config(&path)).await.unwrap();
    assert!(new.status().epoch > old.epoch);
    assert_eq!(new.get("k/0", Read::Linearizable).await.unwrap().unwrap().value, "49");
    new.shutdown().await;
    let again = force_new(&how(&path)).unwrap();
    assert_ne!(again.aside, forced.aside);
    assert!(force_new(&how(&dir.path().join("none"))).is_err());
}
