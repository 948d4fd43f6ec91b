//! The feed, seen by a scripted worker.

use std::collections::BTreeMap;

use api::{
    admin::{Condition, DeleteTenantRequest},
    client,
    feed::{
        Ack, Delta, EdgeMessage, Epoch, Hello, LoadReport, Nack, ServerMessage, TenantVersion,
        edge_message::Message as FromEdge, server_message::Message as FromServer,
    },
    pki::RoleKind,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::harness::{GATEWAY, Harness, apply, get, key, site, within};

/// A worker that does as it is told.
pub(crate) struct Worker {
    out: mpsc::Sender<EdgeMessage>,
    messages: Streaming<ServerMessage>,
    epoch: Option<Epoch>,
    have: BTreeMap<String, TenantVersion>,
}

pub(crate) fn hello(worker: &str) -> Hello {
    Hello { worker: worker.into(), pool: "default".into(), ..Default::default() }
}

impl Worker {
    pub(crate) async fn connect(harness: &Harness, hello: Hello) -> Result<Self, Status> {
        let identity = harness.identity(RoleKind::Edge);
        let address = harness.feed_address.to_string();
        let mut client = client::feed(&address, harness.ca.cert_pem(), &identity).unwrap();
        let (out, outbox) = mpsc::channel(16);
        out.send(EdgeMessage { message: Some(FromEdge::Hello(hello)) }).await.unwrap();
        let messages = within(client.subscribe(ReceiverStream::new(outbox))).await?.into_inner();
        Ok(Self { out, messages, epoch: None, have: BTreeMap::new() })
    }

    /// The next delta; heartbeats are let pass.
    pub(crate) async fn delta(&mut self) -> Delta {
        loop {
            let message = within(self.messages.message()).await.unwrap().unwrap();
            if let Some(FromServer::Delta(delta)) = message.message {
                self.epoch = delta.epoch;
                for t in &delta.tenants {
                    let version = TenantVersion {
                        tenant: t.tenant.clone(),
                        revision: t.revision,
                        hash: t.hash.to_vec(),
                    };
                    self.have.insert(t.tenant.clone(), version);
                }
                return delta;
            }
        }
    }

    pub(crate) async fn say(&self, message: FromEdge) {
        self.out.send(EdgeMessage { message: Some(message) }).await.unwrap();
    }

    pub(crate) async fn ack(&self, delta: &Delta) {
        self.say(FromEdge::Ack(Ack { epoch: delta.epoch, revision: delta.revision })).await;
    }
}

fn names(delta: &Delta) -> Vec<&str> {
    delta.tenants.iter().map(|t| t.tenant.as_str()).collect()
}

/// Reads the object again until its `Propagated` condition is as `wanted`.
async fn propagated(harness: &Harness, kind: &str, name: &str, wanted: &str) -> Condition {
    let platform = harness.platform();
    within(async {
        loop {
            let object = get(&platform, key("acme", kind, name)).await.unwrap();
            let condition = object.conditions.into_iter().find(|c| c.r#type == "Propagated");
            if let Some(condition) = condition.filter(|c| format!("{} {}", c.status, c.reason) == wanted) {
                return condition;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

#[tokio::test]
async fn a_worker_gets_everything_first_and_then_what_changes() {
    let harness = Harness::start().await;
    let (acme, _) = harness.tenant("acme").await;
    let (beta, _) = harness.tenant("beta").await;
    apply(&acme, "acme", &site("/")).await;
    apply(&beta, "beta", GATEWAY).await;
    let mut world = harness.controller.world();
    let served = |world: &controller::World| {
        ["acme", "beta"]
            .iter()
            .all(|t| world.tenants[*t].snapshot.as_ref().is_some_and(|s| !s.pools.is_empty()))
    };
    drop(within(world.wait_for(|world| served(world))).await.unwrap());

    let mut worker = Worker::connect(&harness, hello("w1")).await.unwrap();
    let first = worker.delta().await;
    assert_eq!(names(&first), ["acme", "beta"]);
    let hosts = api::convert::host_owners(first.hosts.as_ref().unwrap()).unwrap();
    assert_eq!(hosts.len(), 4, "{hosts:?}");
    let pool = api::convert::Pool::try_from(first.pool.clone().unwrap()).unwrap();
    assert!(pool.ports.len() == 2 && pool.default_certificate.is_some());
    let config = api::convert::decode(&first.tenants[0].config).unwrap();
    assert_eq!((config.routes.len(), config.listeners.len()), (1, 1));
    assert_eq!(api::convert::hash(&first.tenants[0].config).as_slice(), first.tenants[0].hash.as_ref());
    worker.ack(&first).await;

    let revision = apply(&acme, "acme", &site("/other")).await;
    let second = worker.delta().await;
    assert_eq!((names(&second), second.revision), (vec!["acme"], revision));
    assert!(second.hosts.is_none() && second.pool.is_none() && second.removed.is_empty());

    harness.platform().tenants.delete_tenant(DeleteTenantRequest { name: "beta".into() }).await.unwrap();
    let third = worker.delta().await;
    assert_eq!(third.removed, ["beta"]);
    assert!(third.tenants.is_empty() && third.hosts.is_some_and(|hosts| hosts.owners.len() == 2));
}

#[tokio::test]
async fn a_worker_that_resumes_with_all_hashes_gets_no_tenant() {
    let harness = Harness::start().await;
    let (acme, _) = harness.tenant("acme").await;
    let revision = apply(&acme, "acme", &site("/")).await;
    drop(within(harness.controller.world().wait_for(|w| w.revision.0 >= revision)).await.unwrap());
    let mut worker = Worker::connect(&harness, hello("w1")).await.unwrap();
    let first = worker.delta().await;
    let resume = Hello {
        epoch: worker.epoch,
        revision: first.revision,
        have: worker.have.into_values().collect(),
        ..hello("w1")
    };
    let mut again = Worker::connect(&harness, resume.clone()).await.unwrap();
    let delta = again.delta().await;
    assert!(delta.tenants.is_empty() && delta.removed.is_empty() && delta.hosts.is_some());
    // Nothing was sent, so nothing is missing: it serves the tenant already.
    propagated(&harness, "HTTPRoute", "r", "True Propagated").await;

    // A worker that is ahead waits until the server has caught up.
    let ahead = Hello { revision: first.revision + 1, ..resume };
    let mut ahead = Worker::connect(&harness, ahead).await.unwrap();
    let second = apply(&acme, "acme", &site("/x")).await;
    assert_eq!(ahead.delta().await.revision, second);
}

#[tokio::test]
async fn an_object_is_programmed_when_the_workers_say_so() {
    let harness = Harness::start().await;
    let (acme, _) = harness.tenant("acme").await;
    apply(&acme, "acme", &site("/")).await;
    propagated(&harness, "HTTPRoute", "r", "Unknown NoWorkers").await;

    let mut worker = Worker::connect(&harness, hello("w1")).await.unwrap();
    let mut delta = worker.delta().await;
    // The world may have been one step behind when the worker came.
    while !names(&delta).contains(&"acme") {
        worker.ack(&delta).await;
        delta = worker.delta().await;
    }
    worker.ack(&delta).await;
    let condition = propagated(&harness, "HTTPRoute", "r", "True Propagated").await;
    assert!(condition.message.starts_with("1 of 1"), "{}", condition.message);

    let revision = apply(&acme, "acme", &site("/new")).await;
    let delta = worker.delta().await;
    propagated(&harness, "HTTPRoute", "r", "False Pending").await;
    let nack = Nack {
        revision: delta.revision,
        tenant: "acme".into(),
        object: "HTTPRoute default/r spec.rules[0]".into(),
        reason: "this worker cannot".into(),
    };
    worker.say(FromEdge::Nack(nack)).await;
    worker.ack(&delta).await;
    let condition = propagated(&harness, "HTTPRoute", "r", "False Refused").await;
    let message = &condition.message;
    assert!(message.contains("w1") && message.contains("this worker cannot"), "{message}");
    assert!(message.contains(&revision.to_string()), "{message}");
    let other = propagated(&harness, "Gateway", "g", "False Refused").await;
    assert!(other.message.contains("HTTPRoute default/r"), "{}", other.message);
    let workers = harness.platform().workers.list_workers(api::admin::ListWorkersRequest::default()).await;
    assert!(workers.unwrap().into_inner().workers[0].nacks[0].contains("this worker cannot"));

    apply(&acme, "acme", &site("/mended")).await;
    let delta = worker.delta().await;
    worker.ack(&delta).await;
    propagated(&harness, "HTTPRoute", "r", "True Propagated").await;

    // The fleet grows: a worker that starts is no news of the object, until it is current.
    let mut second = Worker::connect(&harness, hello("w2")).await.unwrap();
    let delta = second.delta().await;
    let condition = propagated(&harness, "HTTPRoute", "r", "True Propagated").await;
    assert!(condition.message.starts_with("1 of 1"), "{}", condition.message);
    second.ack(&delta).await;
    within(async {
        while !propagated(&harness, "HTTPRoute", "r", "True Propagated").await.message.starts_with("2 of 2") {
        }
    })
    .await;
    drop(second);

    drop(worker);
    propagated(&harness, "HTTPRoute", "r", "Unknown NoWorkers").await;
}

#[tokio::test]
async fn a_slow_worker_gets_the_latest_not_every_step() {
    let harness = Harness::start().await;
    let (acme, _) = harness.tenant("acme").await;
    let mut worker = Worker::connect(&harness, hello("w1")).await.unwrap();
    worker.delta().await;
    let steps = 20;
    let mut last = 0;
    for n in 0..steps {
        last = apply(&acme, "acme", &site(&format!("/{n}"))).await;
    }
    // It acknowledges nothing: the window closes, then changes are merged.
    let mut received = vec![];
    drop(within(harness.controller.world().wait_for(|w| w.revision.0 >= last)).await.unwrap());
    loop {
        let delta = worker.delta().await;
        worker.ack(&delta).await;
        received.push(delta.revision);
        if delta.revision == last {
            break;
        }
    }
    assert!(received.len() < steps && received.is_sorted(), "{received:?}");
}

#[tokio::test]
async fn a_hello_that_makes_no_sense_is_refused() {
    let harness = Harness::start().await;
    let refused = async |hello: Hello| match Worker::connect(&harness, hello).await {
        Err(status) => status.code(),
        Ok(_) => Code::Ok,
    };
    assert_eq!(refused(Hello { pool: "elsewhere".into(), ..hello("w1") }).await, Code::FailedPrecondition);
    assert_eq!(refused(hello("Not A Worker")).await, Code::InvalidArgument);
    let short = TenantVersion { tenant: "a".into(), hash: vec![1], ..Default::default() };
    assert_eq!(refused(Hello { have: vec![short], ..hello("w1") }).await, Code::InvalidArgument);
}

#[tokio::test]
async fn load_reports_reach_the_intake() {
    let harness = Harness::start().await;
    let identity = harness.identity(RoleKind::Edge);
    let address = harness.feed_address.to_string();
    let mut client = client::feed(&address, harness.ca.cert_pem(), &identity).unwrap();
    let reports = [3, 4].map(|sequence| LoadReport { sequence, ..Default::default() });
    let mut replies = client.report(tokio_stream::iter(reports)).await.unwrap().into_inner();
    for sequence in [3, 4] {
        let reply = within(replies.message()).await.unwrap().unwrap();
        assert_eq!(reply.retire_above_connections, sequence);
    }
}

#[tokio::test]
async fn a_stale_plan_is_not_written() {
    use controller::DesiredError;
    use model::{Generation, Revision};
    let harness = Harness::start().await;
    let (desired, pool) = (harness.controller.desired(), "default".parse().unwrap());
    let put = async |fence: (u64, u64), expected: Revision| {
        desired.put_if(&pool, (fence.0, Generation(fence.1)), b"plan", expected).await
    };
    let first = put((1, 1), Revision(0)).await.unwrap();
    for (fence, expected) in [((1, 1), first), ((1, 0), first), ((0, 9), first), ((1, 2), Revision(0))] {
        let error = put(fence, expected).await.unwrap_err();
        assert!(matches!(error, DesiredError::Stale { term: 1, .. }), "{fence:?} {error}");
    }
    put((1, 2), first).await.unwrap();
    let plan = desired.get(&pool, store::Read::Linearizable).await.unwrap().unwrap();
    assert_eq!((plan.term, plan.generation, plan.body.as_ref()), (1, Generation(2), b"plan".as_slice()));
}

#[tokio::test]
async fn a_server_that_ends_ends_its_streams() {
    let mut harness = Harness::start().await;
    let (acme, _) = harness.tenant("acme").await;
    let watch = api::admin::WatchRequest { tenant: "acme".into(), ..Default::default() };
    let mut watch = acme.objects.clone().watch(watch).await.unwrap().into_inner();
    let mut worker = Worker::connect(&harness, hello("w1")).await.unwrap();
    worker.delta().await;
    harness.shut_down().await;
    assert_eq!(within(watch.message()).await.unwrap_err().code(), Code::Unavailable);
    let end = within(async {
        loop {
            match worker.messages.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(status) => return Some(status.code()),
            }
        }
    });
    assert_eq!(end.await, Some(Code::Unavailable));
}

/// Answers one question about a request; what was asked.
async fn answer(worker: &mut Worker, known: &api::request::Request) -> api::feed::Recall {
    let asked = loop {
        let message = within(worker.messages.message()).await.unwrap().unwrap();
        match message.message {
            Some(FromServer::Recall(recall)) => break recall,
            Some(FromServer::Delta(delta)) => worker.ack(&delta).await,
            _ => {}
        }
    };
    let request = (asked.request == known.id && ["", known.tenant.as_str()].contains(&asked.tenant.as_str()))
        .then(|| known.clone());
    let question = asked.question;
    worker.say(FromEdge::Recalled(api::feed::Recalled { question, request })).await;
    asked
}

#[tokio::test]
async fn a_tenant_learns_of_its_own_requests_only() {
    let harness = Harness::start().await;
    let (acme, _) = harness.tenant("acme").await;
    let (globex, _) = harness.tenant("globex").await;
    let asks = Hello { recalls: true, ..hello("w-1") };
    let mut knowing = Worker::connect(&harness, asks).await.unwrap();
    // One of a version that answers no questions is not asked.
    let _older = Worker::connect(&harness, hello("w-2")).await.unwrap();
    let id = "0123456789abcdef0123456789abcdef";
    let known = api::request::Request { id: id.into(), tenant: "acme".into(), ..Default::default() };
    let recall = |tenant: &str, request: &str| api::admin::RecallRequest {
        tenant: tenant.into(),
        request: request.into(),
    };
    for (client, tenant, finds) in
        [(&acme, "acme", true), (&globex, "globex", false), (&harness.platform(), "", true)]
    {
        let mut objects = client.objects.clone();
        let (found, asked) =
            tokio::join!(objects.recall(recall(tenant, &id.to_uppercase())), answer(&mut knowing, &known));
        let found = found.unwrap().into_inner();
        assert_eq!(asked.tenant, tenant);
        assert_eq!(found.request.is_some(), finds, "{tenant:?}: {found:?}");
        assert_eq!((found.asked, found.silent), (1, 0));
        assert_eq!(found.worker, if finds { "w-1" } else { "" });
    }
    for (tenant, request, code) in [
        ("globex", id, Code::PermissionDenied),
        ("", id, Code::PermissionDenied),
        ("acme", "me", Code::InvalidArgument),
    ] {
        let refused = acme.objects.clone().recall(recall(tenant, request)).await.unwrap_err();
        assert_eq!(refused.code(), code, "{tenant:?} {request}: {refused:?}");
    }
}
