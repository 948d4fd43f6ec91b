//! Random transactions of every kind, good and bad, against a plain map with its history, through the store's handle.

use std::{collections::BTreeMap, sync::Arc};

use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use store::{
    Entry, Handle, InvalidTxn, Op, Quota, Read, ReadError, Revision, Store, Txn, TxnError, Usage, WatchError,
};

use crate::{Unsynced, config};

const PREFIXES: [&str; 2] = ["a/", "b/"];

#[derive(Debug, Clone)]
enum Step {
    /// Keys that are put with values of a length, keys that are deleted, and a compare that holds or does not.
    Txn {
        puts: BTreeMap<u8, u8>,
        deletes: Vec<u8>,
        compare: Option<(u8, bool)>,
    },
    /// The last one again, or its request id for something else.
    Again {
        same: bool,
    },
    /// What breaks a bound.
    Bad(u8),
    Quota {
        prefix: usize,
        quota: Option<(u64, u64)>,
    },
    /// All but the last few revisions are forgotten.
    Compact(u64),
    /// Each key as it was so many revisions ago, by one transaction.
    Rollback(u64),
    ReadAt(u64),
    /// A watch of a prefix, from so many revisions ago on.
    Watch {
        prefix: usize,
        back: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let key = || 0u8..12;
    let puts = prop::collection::btree_map(key(), 0u8..200, 0..4);
    let deletes = prop::collection::vec(key(), 0..3);
    let compare = prop::option::of((key(), any::<bool>()));
    let quota = prop::option::of((0u64..8, 0u64..900));
    prop_oneof![
        10 => (puts, deletes, compare)
            .prop_map(|(puts, deletes, compare)| Step::Txn { puts, deletes, compare }),
        1 => any::<bool>().prop_map(|same| Step::Again { same }),
        1 => (0u8..4).prop_map(Step::Bad),
        2 => (0..2usize, quota).prop_map(|(prefix, quota)| Step::Quota { prefix, quota }),
        1 => (0u64..8).prop_map(Step::Compact),
        2 => (0u64..10).prop_map(Step::Rollback),
        2 => (0u64..12).prop_map(Step::ReadAt),
        2 => (0..2usize, 0u64..12).prop_map(|(prefix, back)| Step::Watch { prefix, back }),
    ]
}

fn key(number: u8) -> String {
    format!("{}{number}", PREFIXES[usize::from(number % 2)])
}

type Keys = BTreeMap<String, Entry>;

#[derive(Default)]
struct Model {
    /// As it is after each revision.
    history: Vec<Keys>,
    quotas: BTreeMap<&'static str, Quota>,
    compacted: u64,
    last: Option<(Txn, Revision)>,
}

impl Model {
    fn now(&self) -> &Keys {
        self.history.last().unwrap()
    }

    fn revision(&self) -> u64 {
        self.history.len() as u64 - 1
    }

    fn back(&self, by: u64) -> (u64, Keys) {
        let at = self.revision().saturating_sub(by);
        (at, self.history[usize::try_from(at).unwrap()].clone())
    }

    /// What comes of operations.
    fn after(&self, ops: &[Op]) -> Keys {
        let revision = Revision(self.revision() + 1);
        let mut keys = self.now().clone();
        for op in ops {
            let name = op.key().to_string();
            let old = keys.remove(&name);
            if let Op::Put { key, value } = op {
                let entry = Entry {
                    key: key.clone(),
                    value: value.clone(),
                    create_revision: old.as_ref().map_or(revision, |old| old.create_revision),
                    mod_revision: revision,
                    version: old.map_or(1, |old| old.version + 1),
                };
                keys.insert(name, entry);
            }
        }
        keys
    }

    fn usage(keys: &Keys, prefix: &str) -> Usage {
        let under = keys.values().filter(|entry| entry.key.starts_with(prefix));
        under.fold(Usage::default(), |usage, entry| Usage {
            keys: usage.keys + 1,
            bytes: usage.bytes + (entry.key.len() + entry.value.len()) as u64,
        })
    }

    fn fits(&self, after: &Keys) -> bool {
        self.quotas.iter().all(|(prefix, quota)| {
            let (have, would) = (Self::usage(self.now(), prefix), Self::usage(after, prefix));
            let keeps = |have, would, most| would <= most || would <= have;
            keeps(have.keys, would.keys, quota.max_keys) && keeps(have.bytes, would.bytes, quota.max_bytes)
        })
    }
}

struct World {
    store: Handle,
    model: Model,
    figures: Figures,
}

#[derive(Debug, Default)]
struct Figures {
    commits: u64,
    conflicts: u64,
    exceeded: u64,
    rollbacks: u64,
    watched: u64,
    compacted: u64,
}

impl World {
    /// Proposes it; everything is then as the model says.
    async fn propose(&mut self, txn: Txn) {
        let conflict = txn.compares.iter().find_map(|compare| {
            let actual = self.model.now().get(&*compare.key).map_or(Revision(0), |entry| entry.mod_revision);
            (actual != compare.mod_revision).then(|| TxnError::Conflict {
                key: compare.key.clone(),
                expected: compare.mod_revision,
                actual,
            })
        });
        let after = self.model.after(&txn.ops);
        let fits = self.model.fits(&after);
        match (self.store.txn(txn.clone()).await, conflict) {
            (answer, Some(conflict)) => {
                self.figures.conflicts += 1;
                assert_eq!(answer, Err(conflict));
            }
            (Ok(committed), None) => {
                self.figures.commits += 1;
                assert!(fits, "a quota was exceeded");
                assert_eq!((committed.revision.0, committed.duplicate), (self.model.revision() + 1, false));
                self.model.history.push(after);
                self.model.last = Some((txn, committed.revision));
            }
            (Err(TxnError::Quota(exceeded)), None) => {
                self.figures.exceeded += 1;
                assert!(!fits, "{exceeded}");
                let have = Model::usage(self.model.now(), &exceeded.prefix);
                let have = if exceeded.what == "keys" { have.keys } else { have.bytes };
                assert!(exceeded.have == have && exceeded.would > exceeded.most, "{exceeded}");
            }
            (Err(error), None) => panic!("{error}"),
        }
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Txn { puts, deletes, compare } => {
                let deletes = deletes.into_iter().filter(|number| !puts.contains_key(number));
                let deletes: std::collections::BTreeSet<u8> = deletes.collect();
                let put = |txn: Txn, (number, length): (&u8, &u8)| {
                    txn.put(key(*number), vec![*length; usize::from(*length)])
                };
                let mut txn = puts.iter().fold(Txn::new("p").note("random").origin("here"), put);
                txn = deletes.into_iter().fold(txn, |txn, number| txn.delete(key(number)));
                if let Some((number, right)) = compare {
                    let key = key(number);
                    let is = self.model.now().get(&key).map_or(0, |entry| entry.mod_revision.0);
                    txn = txn.compare(key, Revision(if right { is } else { is + 1 }));
                }
                self.propose(txn).await;
            }
            Step::Again { same } => {
                let Some((txn, revision)) = self.model.last.clone() else { return };
                if same {
                    let again = self.store.txn(txn.note("again")).await.unwrap();
                    assert_eq!((again.revision, again.duplicate), (revision, true));
                } else {
                    let id = txn.request_id.clone();
                    let other = Txn { request_id: id.clone(), ..Txn::new("p").put("other", "x") };
                    assert_eq!(self.store.txn(other).await, Err(TxnError::RequestIdReused(id)));
                }
            }
            Step::Bad(which) => {
                let (txn, problem) = match which {
                    0 => (Txn::new("p").put("", "x"), InvalidTxn::Key("".into())),
                    1 => (Txn::new("p").put("k", "x").delete("k"), InvalidTxn::Twice("k".into())),
                    2 => (Txn { request_id: String::new(), ..Txn::new("p") }, InvalidTxn::RequestId),
                    _ => (Txn::new("p").put("quotas/a", "x"), InvalidTxn::Quota("quotas/a".into())),
                };
                assert_eq!(self.store.txn(txn).await, Err(TxnError::Invalid(problem)));
            }
            Step::Quota { prefix, quota } => {
                let prefix = PREFIXES[prefix];
                let quota = quota.map(|(max_keys, max_bytes)| Quota { max_keys, max_bytes });
                let before = self.model.revision();
                self.propose(Txn::new("p").quota(prefix, quota)).await;
                assert_eq!(self.model.revision(), before + 1, "a quota may be less than what is used");
                match quota {
                    Some(quota) => drop(self.model.quotas.insert(prefix, quota)),
                    None => drop(self.model.quotas.remove(prefix)),
                }
            }
            Step::Compact(keep) => {
                let to = self.model.revision().saturating_sub(keep);
                self.model.compacted = self.model.compacted.max(to);
                let compacted = self.store.compact(Revision(to)).await;
                assert_eq!(compacted, Ok(Revision(self.model.compacted)));
            }
            Step::Rollback(back) => {
                let (at, then) = self.model.back(back);
                let Some(then) = self.past("", at, &then).await else { return };
                let mut txn = Txn::new("p").note("rollback");
                for prefix in PREFIXES {
                    let old: BTreeMap<_, _> =
                        then.iter().filter(|(key, _)| key.starts_with(prefix)).collect();
                    for (key, entry) in self.model.now().iter().filter(|(key, _)| key.starts_with(prefix)) {
                        txn = match old.get(key) {
                            Some(_) => txn,
                            None => txn.compare(key.as_str(), entry.mod_revision).delete(key.as_str()),
                        };
                    }
                    txn = old
                        .into_iter()
                        .fold(txn, |txn, (key, entry)| txn.put(key.as_str(), entry.value.clone()));
                }
                self.figures.rollbacks += 1;
                self.propose(txn).await;
            }
            Step::ReadAt(back) => {
                let (at, then) = self.model.back(back);
                for prefix in ["", "a/", "b/"] {
                    self.past(prefix, at, &then).await;
                }
            }
            Step::Watch { prefix, back } => self.watch(PREFIXES[prefix], self.model.back(back).0).await,
        }
    }

    /// The keys under a prefix as they were, if that is not forgotten.
    async fn past(&mut self, prefix: &str, at: u64, then: &Keys) -> Option<Keys> {
        let read = self.store.list(prefix, Read::At(Revision(at))).await;
        if at < self.model.compacted {
            assert!(matches!(read, Err(ReadError::Compacted(_))), "{read:?}");
            self.figures.compacted += 1;
            return None;
        }
        let (entries, revision) = read.unwrap();
        assert_eq!(revision.0, at);
        assert!(entries.iter().eq(then.values().filter(|entry| entry.key.starts_with(prefix))));
        Some(then.clone())
    }

    /// Follows a prefix from the state after revision `at` to the present.
    async fn watch(&mut self, prefix: &str, at: u64) {
        let under = |keys: &Keys| -> Keys {
            keys.iter()
                .filter(|(key, _)| key.starts_with(prefix))
                .map(|(k, e)| (k.clone(), e.clone()))
                .collect()
        };
        let mut watch = self.store.watch(prefix, Revision(at + 1));
        let mut seen = under(&self.model.history[usize::try_from(at).unwrap()]);
        let changed = |at: u64| {
            let at = usize::try_from(at).unwrap();
            under(&self.model.history[at]) != under(&self.model.history[at - 1])
        };
        let expected: Vec<u64> = (at + 1..=self.model.revision()).filter(|at| changed(*at)).collect();
        if at < self.model.compacted {
            assert!(matches!(watch.next().await, Err(WatchError::Compacted(_))));
            self.figures.compacted += 1;
            return;
        }
        for revision in expected {
            let batch = watch.next().await.unwrap();
            assert_eq!(batch.revision.0, revision, "ordered, unique, none left out");
            for event in batch.events {
                match event.entry {
                    Some(entry) => drop(seen.insert(event.key.to_string(), entry)),
                    None => assert!(seen.remove(&*event.key).is_some()),
                }
            }
            assert_eq!(seen, under(&self.model.history[usize::try_from(revision).unwrap()]), "whole");
            self.figures.watched += 1;
        }
    }

    async fn check(&self) {
        let (entries, revision) = self.store.list("", Read::Linearizable).await.unwrap();
        assert_eq!(revision.0, self.model.revision());
        assert!(entries.iter().eq(self.model.now().values()), "{entries:?}");
        for prefix in PREFIXES {
            let quota = self.model.quotas.get(prefix).copied();
            let usage = Model::usage(self.model.now(), prefix);
            assert_eq!(self.store.usage(prefix), (usage, quota), "{prefix}");
        }
        let audit = self.store.audit(Revision(self.model.compacted + 1), usize::MAX).unwrap();
        assert_eq!(audit.len() as u64, self.model.revision() - self.model.compacted);
        let history = self.store.history("", Revision(u64::MAX), usize::MAX);
        let backwards = history.changes.iter().map(|(record, _)| record.revision);
        // Revisions that changed no key have no part in it.
        assert!(backwards.eq(audit.iter().rev().filter(|r| !r.keys.is_empty()).map(|r| r.revision)));
    }
}

/// `WEIR_SEED` runs one seed again; `WEIR_SEEDS` says how many cases.
#[test]
fn the_store_is_a_map_with_history_and_quotas() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("WEIR_SEED").unwrap_or_else(|| u64::from(std::process::id()) ^ 0x5eed);
    let cases = u32::try_from(number("WEIR_SEEDS").unwrap_or(24)).unwrap();
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    println!("seed {seed}, {cases} cases");
    let config_of = Config { cases, failure_persistence: None, max_shrink_iters: 500, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config_of, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let figures = std::cell::RefCell::new(Figures::default());
    let done = runner.run(&prop::collection::vec(step(), 1..60), |steps| {
        let dir = tempfile::tempdir().unwrap();
        runtime.block_on(async {
            let mut config = config(dir.path());
            config.files = Arc::new(Unsynced);
            let store = Store::open(config.clone()).await.unwrap();
            let model = Model { history: vec![Keys::new()], ..Model::default() };
            let mut world = World { store, model, figures: figures.take() };
            for step in steps {
                world.step(step).await;
                world.check().await;
            }
            // What is kept beside the keys comes back with them.
            world.store.shutdown().await;
            world.store = Store::open(config).await.unwrap();
            world.check().await;
            world.store.shutdown().await;
            figures.replace(world.figures);
        });
        Ok(())
    });
    println!("{:?}", figures.into_inner());
    if let Err(error) = done {
        panic!("WEIR_SEED={seed} WEIR_SEEDS={cases}: {error}");
    }
}
