//! The loop on paused time, with a store that can be made to fail.

use std::sync::{
    Mutex,
    atomic::{AtomicU32, Ordering},
};

use api::{
    feed::{LoadReport, WorkerPhase},
    node::{NodeStatus, PoolStatus, WorkerState, WorkerStatus},
};
use futures_util::future::BoxFuture;
use model::Generation;
use tokio::time::{advance, sleep};

use super::*;
use crate::{
    EventKind, PoolPolicy,
    execute::{DesiredError, InMemory, Stored, Version},
    plan::DesiredPool,
};

/// A store that fails as often as it is told to.
#[derive(Debug, Default)]
struct Store {
    plans: InMemory,
    failures: AtomicU32,
}

impl Store {
    fn fail(&self, pool: &PoolName) -> Option<DesiredError> {
        let left = self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        left.ok().map(|_| DesiredError::Unavailable { pool: pool.clone(), source: "no leader".into() })
    }

    async fn plan(&self, name: &str) -> Option<DesiredPool> {
        self.plans.load(&pool(name)).await.unwrap().map(|stored| stored.desired)
    }
}

impl Desired for Store {
    fn load<'a>(&'a self, pool: &'a PoolName) -> BoxFuture<'a, Result<Option<Stored>, DesiredError>> {
        match self.fail(pool) {
            Some(error) => Box::pin(async { Err(error) }),
            None => self.plans.load(pool),
        }
    }

    fn store<'a>(
        &'a self,
        desired: &'a DesiredPool,
        expected: Option<Version>,
    ) -> BoxFuture<'a, Result<Version, DesiredError>> {
        match self.fail(&desired.pool) {
            Some(error) => Box::pin(async { Err(error) }),
            None => self.plans.store(desired, expected),
        }
    }
}

/// Keeps what it was told last.
#[derive(Debug, Default)]
struct Told(Mutex<Arc<Plans>>);

impl Provider for Told {
    fn provide(&self, plans: &Arc<Plans>) {
        *self.0.lock().unwrap() = Arc::clone(plans);
    }
}

impl Told {
    fn workers(&self, name: &str) -> Option<u32> {
        self.0.lock().unwrap().get(&pool(name)).map(|plan| plan.workers)
    }
}

struct Test {
    autoscaler: Autoscaler,
    store: Arc<Store>,
    told: Arc<Told>,
    policies: watch::Sender<Policies>,
    leadership: watch::Sender<Leadership>,
    shutdown: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
    sequence: u64,
}

fn pool(name: &str) -> PoolName {
    name.parse().unwrap()
}

fn policies(names: &[&str]) -> Policies {
    let policy = PoolPolicy { min_workers: 2, ..PoolPolicy::default() };
    names.iter().map(|name| (pool(name), policy.clone())).collect()
}

impl Test {
    fn begin(leader: bool) -> Self {
        let policies = watch::Sender::new(policies(&["default"]));
        let leadership = watch::Sender::new(Leadership { leader, term: 1 });
        let shutdown = watch::Sender::new(false);
        let autoscaler = Autoscaler::new(policies.subscribe(), leadership.subscribe());
        let (store, told) = (Arc::new(Store::default()), Arc::new(Told::default()));
        let task = tokio::spawn(run(
            autoscaler.clone(),
            Arc::clone(&store) as Arc<dyn Desired>,
            Arc::clone(&told) as Arc<dyn Provider>,
            shutdown.subscribe(),
        ));
        Self { autoscaler, store, told, policies, leadership, shutdown, task, sequence: 0 }
    }

    /// The node says that so many workers are ready.
    fn node(&self, workers: u32) {
        let worker = |n| WorkerStatus {
            worker: format!("w{n}"),
            state: WorkerState::Ready.into(),
            ..WorkerStatus::default()
        };
        let workers = (0..workers).map(worker).collect();
        let pool = PoolStatus { pool: "default".to_owned(), workers, ..PoolStatus::default() };
        let status = NodeStatus { node: "n".to_owned(), cpus: 8, pools: vec![pool] };
        self.autoscaler.shared.fleet().status(&status, self.autoscaler.shared.clock.now()).unwrap();
    }

    /// Each of so many workers reports that it uses that much CPU.
    fn report(&mut self, workers: u32, cpu_us: u64) {
        self.sequence += 1;
        for n in 0..workers {
            let report = LoadReport {
                worker: format!("w{n}"),
                pool: "default".to_owned(),
                sequence: self.sequence,
                window_us: 1_000_000,
                requests: 1_000,
                cpu_us,
                threads: 1,
                phase: WorkerPhase::Ready.into(),
                ..LoadReport::default()
            };
            self.autoscaler.intake().take(&report).unwrap();
        }
    }

    fn events(&self, kind: EventKind) -> Vec<String> {
        let events = self.autoscaler.events().recent(None, usize::MAX);
        events.into_iter().filter(|e| e.kind == kind).map(|e| e.reason).collect()
    }
}

async fn seconds(count: u64) {
    sleep(Duration::from_secs(count)).await;
}

#[tokio::test(start_paused = true)]
async fn the_first_plan_is_stored_then_told() {
    let test = Test::begin(true);
    seconds(3).await;
    assert_eq!(test.told.workers("default"), None, "without a node there is nothing to plan");
    test.node(0);
    seconds(2).await;
    let plan = test.store.plan("default").await.unwrap();
    assert_eq!((plan.workers, plan.term, plan.generation), (2, 1, Generation(1)));
    assert_eq!(test.told.workers("default"), Some(2));
    assert_eq!(test.events(EventKind::ScaleOut), ["fewer than the minimum of 2"]);
    test.shutdown.send_replace(true);
    test.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_not_stored_is_told_to_nobody() {
    let test = Test::begin(true);
    test.store.failures.store(5, Ordering::SeqCst);
    test.node(0);
    while test.store.failures.load(Ordering::SeqCst) > 0 {
        assert_eq!(test.told.workers("default"), None);
        advance(Duration::from_millis(100)).await;
        test.node(0);
    }
    seconds(4).await;
    assert_eq!(test.told.workers("default"), Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_follower_tells_what_is_stored_and_stores_nothing() {
    let test = Test::begin(false);
    test.node(0);
    seconds(3).await;
    assert_eq!(test.store.plan("default").await, None);
    // The leader, elsewhere, stores a plan.
    test.leadership.send_replace(Leadership { leader: true, term: 2 });
    seconds(2).await;
    test.leadership.send_replace(Leadership { leader: false, term: 3 });
    let mut elsewhere = test.store.plan("default").await.unwrap();
    (elsewhere.term, elsewhere.generation, elsewhere.workers) = (3, Generation(2), 9);
    test.store.plans.store(&elsewhere, Some(Version(1))).await.unwrap();
    seconds(5).await;
    assert_eq!(test.told.workers("default"), Some(9));
    assert_eq!(test.store.plan("default").await.unwrap(), elsewhere);
}

#[tokio::test(start_paused = true)]
async fn a_plan_over_another_leaders_plan_is_refused_and_made_anew() {
    let mut test = Test::begin(true);
    test.node(2);
    seconds(2).await;
    let mut other = test.store.plan("default").await.unwrap();
    (other.term, other.generation, other.workers) = (1, Generation(8), 5);
    test.store.plans.store(&other, Some(Version(1))).await.unwrap();
    // Full workers: this leader, which does not know of the other plan, wants more.
    for _ in 0..10 {
        test.node(2);
        test.report(2, 990_000);
        seconds(1).await;
    }
    assert_eq!(test.events(EventKind::PlanRefused), ["another plan of default is stored"]);
    let plan = test.store.plan("default").await.unwrap();
    assert!(plan.generation > Generation(8) || plan == other, "{plan:?}");
    assert!(plan.workers >= 5, "{plan:?}");
}

#[tokio::test(start_paused = true)]
async fn saturation_does_not_wait_for_the_tick() {
    let mut test = Test::begin(true);
    for _ in 0..10 {
        test.node(2);
        test.report(2, 300_000);
        seconds(1).await;
    }
    assert_eq!(test.told.workers("default"), Some(2));
    // Just after a tick.
    sleep(Duration::from_millis(150)).await;
    test.report(2, 1_000_000);
    sleep(Duration::from_millis(250)).await;
    assert_eq!(test.told.workers("default"), Some(4), "{:?}", test.events(EventKind::ScaleOut));
}

#[tokio::test(start_paused = true)]
async fn a_deleted_pool_is_retired_and_no_policies_change_nothing() {
    let test = Test::begin(true);
    test.policies.send_replace(policies(&["default", "other"]));
    test.node(0);
    seconds(2).await;
    assert_eq!(test.told.workers("other"), Some(2));
    test.policies.send_replace(Policies::new());
    seconds(2).await;
    assert_eq!(test.told.workers("other"), Some(2));
    test.policies.send_replace(policies(&["default"]));
    seconds(2).await;
    assert_eq!((test.told.workers("other"), test.told.workers("default")), (Some(0), Some(2)));
    let plan = test.store.plan("other").await.unwrap();
    assert!(plan.shape.listen.is_empty() && plan.split.is_empty());
    seconds(5).await;
    assert_eq!(test.store.plan("other").await.unwrap().generation, plan.generation);
}

#[tokio::test(start_paused = true)]
async fn a_hold_is_an_event_once() {
    let mut test = Test::begin(true);
    // Four workers that nobody needs, and that have not been watched for long.
    for _ in 0..20 {
        test.node(4);
        test.report(4, 10_000);
        seconds(1).await;
    }
    let holds = test.events(EventKind::Hold);
    assert_eq!(holds.len(), 1, "{holds:?}");
    assert!(holds[0].contains("fewer would do"), "{holds:?}");
    // When all has been known for long enough they go, one by one.
    for _ in 0..60 {
        test.node(4);
        test.report(4, 10_000);
        seconds(1).await;
    }
    assert_eq!(test.events(EventKind::ScaleIn), ["demand was at most 0.06 workers for 60 s: 2 will do"]);
}

#[tokio::test(start_paused = true)]
async fn a_drained_worker_is_replaced_first() {
    let test = Test::begin(true);
    test.node(2);
    seconds(2).await;
    let unknown = test.autoscaler.drain("w9".parse().unwrap());
    assert!(matches!(unknown, Err(crate::DrainError::Unknown(_))));
    test.autoscaler.drain("w0".parse().unwrap()).unwrap();
    seconds(1).await;
    assert_eq!(test.store.plan("default").await.unwrap().for_node("n").workers, 3);
    test.node(3);
    seconds(2).await;
    let plan = test.store.plan("default").await.unwrap().for_node("n");
    assert_eq!((plan.workers, plan.drain), (2, vec!["w0".to_owned()]));
    test.leadership.send_replace(Leadership { leader: false, term: 2 });
    assert_eq!(test.autoscaler.drain("w1".parse().unwrap()), Err(crate::DrainError::NotLeading));
}
