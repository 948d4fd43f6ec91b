//! Random changes of a tenant through the admin API, against a plain map with its history.

use std::collections::BTreeMap;

use api::{
    admin::{
        self, ApplyRequest, DeleteRequest, Epoch, Expect, Held, ListRequest, RollbackRequest, WatchRequest,
    },
    client::Admin,
};
use model::Revision;
use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use tonic::Code;

use crate::harness::{Harness, apply, key, request, within};

/// A name and the port that its address has.
type Objects = BTreeMap<u8, u16>;

#[derive(Debug, Clone)]
enum Step {
    Apply(Objects),
    /// With an expectation of the first one, right or wrong.
    Expect(Objects, bool),
    Delete(u8),
    /// The last named apply again, after whatever came since.
    Again,
    /// Its id for something else.
    Reuse,
    Quota(u64),
    /// All but the last few revisions are forgotten.
    Compact(u64),
    /// As it was so many changes ago.
    Rollback(usize, bool),
    ReadAt(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let objects = || prop::collection::btree_map(0u8..6, 1u16..5, 1..4);
    prop_oneof![
        6 => objects().prop_map(Step::Apply),
        2 => (objects(), any::<bool>()).prop_map(|(objects, right)| Step::Expect(objects, right)),
        3 => (0u8..6).prop_map(Step::Delete),
        1 => Just(Step::Again),
        1 => Just(Step::Reuse),
        1 => (1u64..7).prop_map(Step::Quota),
        1 => (0u64..6).prop_map(Step::Compact),
        3 => (0usize..6, any::<bool>()).prop_map(|(back, dry)| Step::Rollback(back, dry)),
        2 => (0usize..8).prop_map(Step::ReadAt),
    ]
}

/// What the tenant should be.
struct Model {
    now: Objects,
    /// After each revision that changed an object; the first is empty.
    history: Vec<(u64, Objects)>,
    quota: u64,
    compacted: u64,
    named: Option<ApplyRequest>,
}

impl Model {
    fn became(&mut self, revision: u64, objects: Objects) {
        assert!(revision > self.last());
        self.now = objects;
        self.history.push((revision, self.now.clone()));
    }

    fn last(&self) -> u64 {
        self.history.last().map_or(0, |(revision, _)| *revision)
    }

    fn back(&self, by: usize) -> (u64, Objects) {
        self.history[self.history.len().saturating_sub(by + 1)].clone()
    }

    fn at(&self, revision: u64) -> Objects {
        let older = self.history.partition_point(|(at, _)| *at <= revision);
        self.history[..older].last().map(|(_, objects)| objects.clone()).unwrap_or_default()
    }

    /// Whether the tenant's share lets it become this.
    fn fits(&self, objects: &Objects) -> bool {
        let (would, have) = (objects.len(), self.now.len());
        would as u64 <= self.quota || would <= have
    }
}

fn name(object: u8) -> String {
    format!("b{object}")
}

fn yaml(objects: &Objects) -> String {
    let one = |(object, port): (&u8, &u16)| {
        format!(
            "apiVersion: weir.dev/v1\nkind: Backend\nmetadata: {{name: {}}}\n\
             spec: {{endpoints: [{{address: \"127.0.0.1:{port}\"}}]}}\n",
            name(*object)
        )
    };
    objects.iter().map(one).collect::<Vec<_>>().join("---\n")
}

fn read<'o>(objects: impl IntoIterator<Item = &'o admin::Object>) -> Objects {
    objects.into_iter().map(value).collect()
}

fn value(object: &admin::Object) -> (u8, u16) {
    let json: serde_json::Value = serde_json::from_str(&object.json).unwrap();
    let address = json["spec"]["endpoints"][0]["address"].as_str().unwrap();
    let name = &object.key.as_ref().unwrap().name;
    (name[1..].parse().unwrap(), address.rsplit(':').next().unwrap().parse().unwrap())
}

struct World {
    harness: Harness,
    acme: Admin,
    model: Model,
    steps: u64,
}

impl World {
    async fn start() -> Self {
        let harness = Harness::start().await;
        let (acme, _) = harness.tenant("acme").await;
        let created = harness.store.status().revision.0;
        let history = vec![(created, Objects::new())];
        let model = Model { now: Objects::new(), history, quota: 100_000, compacted: 0, named: None };
        Self { harness, acme, model, steps: 0 }
    }

    /// Applies, and checks the answer against what should come of it.
    async fn apply(&mut self, objects: &Objects, request: ApplyRequest) -> Result<(), Code> {
        let mut becomes = self.model.now.clone();
        becomes.extend(objects);
        let answer = self.acme.objects.clone().apply(request).await;
        if becomes == self.model.now {
            return answer.map(drop).map_err(|status| status.code());
        }
        match answer {
            Ok(answer) => {
                assert!(self.model.fits(&becomes), "{becomes:?} is more than {}", self.model.quota);
                self.model.became(answer.into_inner().revision, becomes);
                Ok(())
            }
            Err(status) => {
                let exhausted = status.code() == Code::ResourceExhausted;
                assert!(!exhausted || !self.model.fits(&becomes), "{status:?}");
                Err(status.code())
            }
        }
    }

    async fn step(&mut self, step: Step) {
        self.steps += 1;
        match step {
            Step::Apply(objects) => {
                let request_id = format!("r{}", self.steps);
                let request = ApplyRequest { request_id, ..request("acme", &yaml(&objects)) };
                let before = self.model.last();
                let answer = self.apply(&objects, request.clone()).await;
                assert!(matches!(answer, Ok(()) | Err(Code::ResourceExhausted)), "{answer:?}");
                // One that changed nothing is not remembered, and need not be.
                if self.model.last() > before {
                    self.model.named = Some(request);
                }
            }
            Step::Expect(objects, right) => {
                let first = *objects.keys().next().unwrap();
                let is = self.revision_of(first).await;
                let expect = Expect {
                    key: Some(key("acme", "Backend", &name(first))),
                    revision: if right { is } else { is + 1 },
                };
                let request = ApplyRequest { expect: vec![expect], ..request("acme", &yaml(&objects)) };
                let answer = self.apply(&objects, request).await;
                match right {
                    true => assert!(matches!(answer, Ok(()) | Err(Code::ResourceExhausted)), "{answer:?}"),
                    false => assert_eq!(answer, Err(Code::Aborted)),
                }
            }
            Step::Delete(object) => {
                let keys = vec![key("acme", "Backend", &name(object))];
                let answer =
                    self.acme.objects.clone().delete(DeleteRequest { keys, ..Default::default() }).await;
                let mut becomes = self.model.now.clone();
                match becomes.remove(&object) {
                    Some(_) => self.model.became(answer.unwrap().into_inner().revision, becomes),
                    None => assert_eq!(answer.unwrap_err().code(), Code::NotFound),
                }
            }
            Step::Again => {
                if let Some(request) = self.model.named.clone() {
                    // Answered whatever came since; what would not fit any more is not asked of the store.
                    self.acme.objects.clone().apply(request).await.unwrap();
                }
            }
            Step::Reuse => {
                if let Some(named) = self.model.named.clone() {
                    let other = ApplyRequest { files: request("acme", "# other\n").files, ..named };
                    let status = self.acme.objects.clone().apply(other).await.unwrap_err();
                    assert_eq!(status.code(), Code::InvalidArgument);
                }
            }
            Step::Quota(objects) => {
                let spec = format!("spec: {{quotas: {{objects: {objects}}}}}");
                let tenant =
                    format!("apiVersion: weir.dev/v1\nkind: Tenant\nmetadata: {{name: acme}}\n{spec}\n");
                apply(&self.harness.platform(), "platform", &tenant).await;
                self.model.quota = objects;
            }
            Step::Compact(keep) => {
                let to = self.harness.store.status().revision.0.saturating_sub(keep);
                self.model.compacted = self.harness.store.compact(Revision(to)).await.unwrap().0;
            }
            Step::Rollback(back, dry_run) => {
                let (revision, becomes) = self.model.back(back);
                let request =
                    RollbackRequest { tenant: "acme".into(), revision, dry_run, ..Default::default() };
                let answer = self.acme.objects.clone().rollback(request).await;
                if revision < self.model.compacted {
                    assert_eq!(answer.unwrap_err().code(), Code::FailedPrecondition);
                } else if !self.model.fits(&becomes) {
                    assert_eq!(answer.unwrap_err().code(), Code::ResourceExhausted);
                } else {
                    let answer = answer.unwrap().into_inner();
                    if !dry_run && becomes != self.model.now {
                        self.model.became(answer.revision, becomes);
                    }
                }
            }
            Step::ReadAt(back) => {
                let (revision, objects) = self.model.back(back);
                let list = ListRequest { tenant: "acme".into(), revision, ..Default::default() };
                let answer = self.acme.objects.clone().list(list).await;
                if revision < self.model.compacted {
                    assert_eq!(answer.unwrap_err().code(), Code::OutOfRange);
                } else {
                    assert_eq!(read(&answer.unwrap().into_inner().objects), objects);
                }
            }
        }
        let list = ListRequest { tenant: "acme".into(), ..Default::default() };
        let now = self.acme.objects.clone().list(list).await.unwrap().into_inner();
        assert_eq!(read(&now.objects), self.model.now);
    }

    async fn revision_of(&self, object: u8) -> u64 {
        let list = ListRequest { tenant: "acme".into(), ..Default::default() };
        let objects = self.acme.objects.clone().list(list).await.unwrap().into_inner().objects;
        let name = name(object);
        objects.iter().find(|o| o.key.as_ref().unwrap().name == name).map_or(0, |o| o.revision)
    }

    /// Follows a watch that knew all from the beginning on, to the end: each revision's state is the model's.
    async fn follow(&self) {
        let (mut from, mut resync) = (self.model.history[0].0 + 1, false);
        let (mut seen, mut held) = (Objects::new(), BTreeMap::<u8, Held>::new());
        let mut epoch: Option<Epoch> = None;
        while from <= self.model.last() {
            let watch = WatchRequest {
                tenant: "acme".into(),
                from_revision: from,
                epoch,
                resync,
                held: if resync { held.values().cloned().collect() } else { vec![] },
                ..Default::default()
            };
            let mut events = self.acme.objects.clone().watch(watch).await.unwrap().into_inner();
            while from <= self.model.last() {
                let event = match within(events.message()).await {
                    Ok(event) => event.unwrap(),
                    Err(status) => {
                        assert!(status.code() == Code::OutOfRange && !resync, "{status:?}");
                        assert!(from <= self.model.compacted, "only what is forgotten is not told");
                        resync = true;
                        break;
                    }
                };
                assert!(event.revision >= from);
                for change in event.changes {
                    let key = change.key.unwrap();
                    let object: u8 = key.name[1..].parse().unwrap();
                    match change.object {
                        Some(now) => {
                            let digest = now.digest.clone();
                            assert_eq!(
                                seen.insert(object, value(&now).1).is_none(),
                                !held.contains_key(&object)
                            );
                            let known = held
                                .insert(object, Held { key: Some(key), digest: digest.clone(), revision: 0 });
                            assert!(known.is_none_or(|known| known.digest != digest), "told twice");
                        }
                        None => {
                            held.remove(&object);
                            assert!(seen.remove(&object).is_some(), "only what was there is gone");
                        }
                    }
                }
                assert!(!event.more);
                assert_eq!(seen, self.model.at(event.revision), "at {}", event.revision);
                (from, epoch) = (event.revision + 1, event.epoch);
            }
        }
    }
}

/// `WEIR_SEED` runs one seed again; `WEIR_SEEDS` says how many cases.
#[test]
fn the_admin_api_is_a_map_with_history() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("WEIR_SEED").unwrap_or_else(rand::random);
    let cases = u32::try_from(number("WEIR_SEEDS").unwrap_or(6)).unwrap();
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    println!("seed {seed}, {cases} cases");
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let done = runner.run(&prop::collection::vec(step(), 1..30), |steps| {
        runtime.block_on(async {
            let mut world = World::start().await;
            for step in steps {
                world.step(step).await;
            }
            world.follow().await;
            world.harness.shut_down().await;
        });
        Ok(())
    });
    if let Err(error) = done {
        panic!("WEIR_SEED={seed} WEIR_SEEDS={cases}: {error}");
    }
}
