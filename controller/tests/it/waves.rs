//! Changes that concern all workers go out in waves; gaps are closed by comparing.

use std::collections::BTreeMap;

use api::{
    admin::Condition,
    feed::{Delta, Nack, edge_message::Message as FromEdge},
};

use crate::{
    feed::{Worker, hello},
    harness::{Harness, apply, get, key, site, within},
};

fn pool(seconds: u32) -> String {
    format!(
        "apiVersion: weir.dev/v1
kind: Pool
metadata: {{name: default}}
spec: {{drainDeadline: {seconds}s}}
"
    )
}

/// Reads the default pool until its `Propagated` condition is as `wanted`.
async fn propagated(harness: &Harness, wanted: &str) -> Condition {
    let platform = harness.platform();
    within(async {
        loop {
            let pool = get(&platform, key("platform", "Pool", "default")).await.unwrap();
            let condition = pool.conditions.into_iter().find(|c| c.r#type == "Propagated");
            if let Some(condition) = condition.filter(|c| format!("{} {}", c.status, c.reason) == wanted) {
                return condition;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

/// Takes deltas until the worker has a pool with this drain deadline.
async fn take_pool(worker: &mut Worker, seconds: u64) -> Delta {
    loop {
        let delta = worker.delta().await;
        if delta.pool.as_ref().is_some_and(|pool| pool.drain_deadline_ms == seconds * 1000) {
            return delta;
        }
        worker.ack(&delta).await;
    }
}

/// Twenty workers that have acknowledged what there is; the pool's drain deadline is 20 s.
async fn twenty(harness: &Harness) -> Vec<Worker> {
    apply(&harness.platform(), "platform", &pool(20)).await;
    let mut workers = vec![];
    for n in 0..20 {
        let mut worker = Worker::connect(harness, hello(&format!("w{n:02}"))).await.unwrap();
        let delta = take_pool(&mut worker, 20).await;
        worker.ack(&delta).await;
        workers.push(worker);
    }
    propagated(harness, "True Propagated").await;
    workers
}

#[tokio::test]
async fn a_pools_settings_go_to_one_worker_then_a_tenth_then_all() {
    let harness = Harness::start().await;
    let mut workers = twenty(&harness).await;
    apply(&harness.platform(), "platform", &pool(21)).await;
    let delta = take_pool(&mut workers[0], 21).await;
    let condition = propagated(&harness, "False RollingOut").await;
    assert!(condition.message.starts_with("0 of 20"), "{}", condition.message);
    workers[0].ack(&delta).await;
    let delta = take_pool(&mut workers[1], 21).await;
    propagated(&harness, "False RollingOut").await;
    workers[1].ack(&delta).await;
    for worker in &mut workers[2..] {
        let delta = take_pool(worker, 21).await;
        worker.ack(&delta).await;
    }
    let condition = propagated(&harness, "True Propagated").await;
    assert!(condition.message.starts_with("20 of 20"), "{}", condition.message);
}

#[tokio::test]
async fn settings_that_a_worker_refuses_reach_no_other_and_tenants_go_on() {
    let harness = Harness::start().await;
    let (acme, _) = harness.tenant("acme").await;
    let mut workers = twenty(&harness).await;
    apply(&harness.platform(), "platform", &pool(21)).await;
    let delta = take_pool(&mut workers[0], 21).await;
    let nack = Nack {
        revision: delta.revision,
        tenant: String::new(),
        object: "Pool default".into(),
        reason: "no such deadline".into(),
    };
    workers[0].say(FromEdge::Nack(nack)).await;
    workers[0].ack(&delta).await;
    let condition = propagated(&harness, "False Held").await;
    assert!(condition.message.contains("w00") && condition.message.contains("no such deadline"));

    // The second worker gets the tenant's change and not the pool's; so does one that comes now, with the pool before.
    let revision = apply(&acme, "acme", &site("/")).await;
    let delta = workers[1].delta().await;
    assert_eq!((delta.revision, delta.tenants.len(), delta.pool), (revision, 1, None));
    let mut late = Worker::connect(&harness, hello("w99")).await.unwrap();
    assert_eq!(late.delta().await.pool.unwrap().drain_deadline_ms, 20_000);

    // What mends it goes out in waves again, to the same worker first.
    apply(&harness.platform(), "platform", &pool(22)).await;
    let delta = take_pool(&mut workers[0], 22).await;
    workers[0].ack(&delta).await;
    let wave = take_pool(&mut workers[1], 22).await;
    workers[1].ack(&wave).await;
}

#[tokio::test]
async fn one_worker_alone_has_new_settings_with_its_first_answer() {
    let harness = Harness::start().await;
    let mut worker = Worker::connect(&harness, hello("w1")).await.unwrap();
    let first = worker.delta().await;
    worker.ack(&first).await;
    for seconds in 20..30 {
        apply(&harness.platform(), "platform", &pool(seconds)).await;
        let delta = take_pool(&mut worker, seconds.into()).await;
        worker.ack(&delta).await;
    }
    propagated(&harness, "True Propagated").await;
}

/// What a delta brings, by tenant.
fn brings(delta: &Delta) -> BTreeMap<&str, usize> {
    delta.tenants.iter().map(|t| (t.tenant.as_str(), t.config.len())).collect()
}

#[tokio::test]
async fn history_that_is_gone_makes_no_worker_load_anything_again() {
    let harness = Harness::start().await;
    let (acme, _) = harness.tenant("acme").await;
    let (beta, _) = harness.tenant("beta").await;
    apply(&acme, "acme", &site("/")).await;
    let revision = apply(&beta, "beta", &site("/")).await;
    drop(within(harness.controller.world().wait_for(|w| w.revision.0 >= revision)).await.unwrap());
    let mut worker = Worker::connect(&harness, hello("w1")).await.unwrap();
    let first = worker.delta().await;
    assert_eq!(brings(&first).len(), 2);
    worker.ack(&first).await;

    // Changes and compactions race: whether the controller sees a change or a gap, the worker gets that change alone.
    for n in 0..20 {
        let revision = apply(&acme, "acme", &site(&format!("/{n}"))).await;
        harness.store.compact(model::Revision(revision)).await.unwrap();
        let delta = worker.delta().await;
        assert_eq!(brings(&delta).keys().copied().collect::<Vec<_>>(), ["acme"]);
        assert!(delta.hosts.is_none() && delta.pool.is_none() && delta.removed.is_empty());
        worker.ack(&delta).await;
    }
}
