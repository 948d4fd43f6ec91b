//! Random transactions and restarts of every kind, against a plain map.

use std::{collections::BTreeMap, fs, path::Path};

use proptest::prelude::*;
use store::{Entry, Handle, Read, Revision, Store, Txn, TxnError};

use crate::config;

#[derive(Debug, Clone)]
enum Step {
    Put(Vec<(u8, u16)>),
    Delete(u8),
    /// Put if the key is as the model has it, or as another.
    Swap {
        key: u8,
        right: bool,
    },
    Again,
    Compact(u8),
    Restart(Restart),
}

#[derive(Debug, Clone, Copy)]
enum Restart {
    Clean,
    NoMarker,
    NoState,
    CorruptState,
    NoSnapshotMarker,
}

fn step() -> impl Strategy<Value = Step> {
    let puts = prop::collection::vec((0u8..12, prop_oneof![0u16..40, 15_000u16..40_000]), 0..4);
    let restart = prop_oneof![
        Just(Restart::Clean),
        Just(Restart::NoMarker),
        Just(Restart::NoState),
        Just(Restart::CorruptState),
        Just(Restart::NoSnapshotMarker),
    ];
    prop_oneof![
        6 => puts.prop_map(Step::Put),
        2 => (0u8..12).prop_map(Step::Delete),
        3 => (0u8..12, any::<bool>()).prop_map(|(key, right)| Step::Swap { key, right }),
        1 => Just(Step::Again),
        1 => (0u8..20).prop_map(Step::Compact),
        2 => restart.prop_map(Step::Restart),
    ]
}

/// What the store should be.
#[derive(Default)]
struct Model {
    keys: BTreeMap<String, Entry>,
    /// As it was after each revision.
    history: Vec<BTreeMap<String, Entry>>,
    compacted: u64,
    last: Option<(Txn, Revision)>,
}

impl Model {
    /// The revision that is being made.
    fn next(&self) -> Revision {
        Revision(self.history.len() as u64)
    }

    fn put(&mut self, key: String, value: Vec<u8>) {
        let revision = self.next();
        let old = self.keys.get(&key);
        let entry = Entry {
            key: key.as_str().into(),
            value: value.into(),
            create_revision: old.map_or(revision, |old| old.create_revision),
            mod_revision: revision,
            version: old.map_or(1, |old| old.version + 1),
        };
        self.keys.insert(key, entry);
    }

    fn mod_revision(&self, key: &str) -> Revision {
        self.keys.get(key).map_or(Revision(0), |entry| entry.mod_revision)
    }
}

struct World {
    store: Handle,
    model: Model,
}

impl World {
    async fn commit(&mut self, txn: Txn, change: impl FnOnce(&mut Model)) {
        let committed = self.store.txn(txn.clone()).await.unwrap();
        let revision = self.model.next();
        assert_eq!((committed.revision, committed.duplicate), (revision, false));
        change(&mut self.model);
        self.model.history.push(self.model.keys.clone());
        self.model.last = Some((txn, revision));
    }

    async fn step(&mut self, dir: &Path, step: Step) {
        match step {
            Step::Put(puts) => {
                let puts: BTreeMap<u8, u16> = puts.into_iter().collect();
                let value = |size: u16| vec![7u8; usize::from(size)];
                let txn = puts
                    .iter()
                    .fold(Txn::new("m"), |txn, (key, size)| txn.put(format!("k/{key}"), value(*size)));
                let apply = |model: &mut Model| {
                    puts.iter().for_each(|(key, size)| model.put(format!("k/{key}"), value(*size)));
                };
                self.commit(txn, apply).await;
            }
            Step::Delete(key) => {
                let key = format!("k/{key}");
                self.commit(Txn::new("m").delete(key.as_str()), |model| drop(model.keys.remove(&key))).await;
            }
            Step::Swap { key, right } => {
                let key = format!("k/{key}");
                let have = self.model.mod_revision(&key);
                let expected = if right { have } else { Revision(have.0 + 1) };
                let txn = Txn::new("m").compare(key.as_str(), expected).put(key.as_str(), "swapped");
                if right {
                    self.commit(txn, |model| model.put(key.clone(), b"swapped".to_vec())).await;
                } else {
                    let refused = self.store.txn(txn).await;
                    assert!(matches!(refused, Err(TxnError::Conflict { actual, .. }) if actual == have));
                }
            }
            Step::Again => {
                if let Some((txn, revision)) = self.model.last.clone() {
                    let again = self.store.txn(txn).await.unwrap();
                    assert_eq!((again.revision, again.duplicate), (revision, true));
                }
            }
            Step::Compact(back) => {
                let now = self.model.history.len() as u64 - 1;
                let to = now.saturating_sub(u64::from(back));
                self.model.compacted = self.model.compacted.max(to);
                assert_eq!(self.store.compact(Revision(to)).await, Ok(Revision(self.model.compacted)));
            }
            Step::Restart(kind) => {
                self.store.shutdown().await;
                spoil(dir, kind);
                self.store = Store::open(small(dir)).await.unwrap();
            }
        }
    }

    async fn check(&self) {
        let (entries, revision) = self.store.list("k/", Read::Linearizable).await.unwrap();
        assert!(entries.iter().eq(self.model.keys.values()), "{entries:?}");
        assert_eq!(revision.0, self.model.history.len() as u64 - 1);
        for back in [0, 1, 3, 10] {
            let at = revision.0.saturating_sub(back);
            let read = self.store.list("k/", Read::At(Revision(at))).await;
            if at < self.model.compacted {
                assert!(read.is_err());
            } else {
                let then = &self.model.history[usize::try_from(at).unwrap()];
                assert!(read.unwrap().0.iter().eq(then.values()), "at {at}");
            }
        }
    }
}

/// Snapshots often, so that restarts meet them.
fn small(dir: &Path) -> store::Config {
    let mut config = config(dir);
    config.snapshot_entries = 7;
    config
}

fn spoil(dir: &Path, kind: Restart) {
    let state = dir.join("state");
    match kind {
        Restart::Clean => {}
        Restart::NoMarker => fs::remove_file(state.join("CLEAN")).unwrap(),
        Restart::NoState => fs::remove_dir_all(&state).unwrap(),
        Restart::CorruptState => {
            let path = state.join("db/db");
            let mut bytes = fs::read(&path).unwrap();
            bytes.iter_mut().step_by(61).for_each(|byte| *byte ^= 0xff);
            fs::write(path, bytes).unwrap();
        }
        Restart::NoSnapshotMarker => {
            // A marker of another time.
            let path = state.join("CLEAN");
            let text = fs::read_to_string(&path).unwrap();
            fs::write(&path, text.replace("\"index\":", "\"index\":1")).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn the_store_is_a_map_with_history_through_any_restart(steps in prop::collection::vec(step(), 1..40)) {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = Store::open(small(dir.path())).await.unwrap();
            let model = Model { history: vec![BTreeMap::new()], ..Model::default() };
            let mut world = World { store, model };
            for step in steps {
                let restarted = matches!(step, Step::Restart(_));
                world.step(dir.path(), step).await;
                if restarted {
                    world.check().await;
                }
            }
            world.check().await;
            world.store.shutdown().await;
        });
    }
}
