//! What a watch tells to whom history does not say what was missed.

use std::collections::BTreeMap;

use api::{
    admin::{self, DeleteRequest, Epoch, Held, WatchEvent, WatchRequest},
    client::Admin,
};
use model::Revision;
use tonic::{Code, Status, Streaming};

use crate::harness::{GATEWAY, Harness, apply, key, site, within};

/// Somebody who follows a tenant by the rules.
#[derive(Default)]
struct Follower {
    from: u64,
    epoch: Option<Epoch>,
    held: BTreeMap<String, Held>,
}

impl Follower {
    fn request(&self, resync: bool, by_digest: bool) -> WatchRequest {
        let held = self.held.values().cloned().map(|held| match by_digest {
            true => Held { revision: 0, ..held },
            false => Held { digest: vec![], ..held },
        });
        WatchRequest {
            tenant: "acme".into(),
            from_revision: self.from,
            epoch: self.epoch,
            resync,
            held: if resync { held.collect() } else { vec![] },
            ..Default::default()
        }
    }

    /// Takes an event; what it said.
    fn take(&mut self, event: WatchEvent) -> Vec<(String, bool)> {
        let changes = event.changes.into_iter().map(|change| {
            let key = change.key.unwrap();
            let name = format!("{}/{}", key.kind, key.name);
            let there = change.object.is_some();
            match change.object {
                Some(object) => {
                    let (revision, digest) = (object.revision, object.digest);
                    self.held.insert(name.clone(), Held { key: Some(key), revision, digest });
                }
                None => drop(self.held.remove(&name)),
            }
            (name, there)
        });
        let changes = changes.collect();
        self.epoch = event.epoch;
        if !event.more {
            self.from = event.revision + 1;
        }
        changes
    }

    async fn resync(&mut self, client: &Admin, by_digest: bool) -> Vec<(String, bool)> {
        let request = self.request(true, by_digest);
        let mut events = watch(client, request).await.unwrap();
        let mut changes = vec![];
        loop {
            let event = within(events.message()).await.unwrap().unwrap();
            assert!(event.resync, "{event:?}");
            let more = event.more;
            changes.extend(self.take(event));
            if !more {
                return changes;
            }
        }
    }
}

async fn watch(client: &Admin, request: WatchRequest) -> Result<Streaming<WatchEvent>, Status> {
    Ok(client.objects.clone().watch(request).await?.into_inner())
}

/// The first thing that a watch says.
async fn first(client: &Admin, request: WatchRequest) -> Result<WatchEvent, Status> {
    let mut events = watch(client, request).await?;
    Ok(within(events.message()).await?.unwrap())
}

#[tokio::test]
async fn who_missed_what_is_compacted_is_told_exactly_what_differs() {
    let harness = Harness::start().await;
    let (acme, _) = harness.tenant("acme").await;
    for by_digest in [false, true] {
        apply(&acme, "acme", &site("/a")).await;
        let mut follower = Follower::default();
        let all = follower.resync(&acme, by_digest).await;
        assert!(all.len() >= 3 && all.iter().all(|(_, there)| *there), "{all:?}");
        // What history has is told by history.
        let seen = follower.from;
        apply(&acme, "acme", &site("/b")).await;
        let event = first(&acme, follower.request(true, by_digest)).await.unwrap();
        assert!(!event.resync && event.revision == seen, "{event:?}");

        // Meanwhile one is changed, one is gone, one is new; one stays.
        let delete = DeleteRequest { keys: vec![key("acme", "Backend", "b")], ..Default::default() };
        acme.objects.clone().delete(delete).await.unwrap();
        let last =
            apply(&acme, "acme", &GATEWAY.replace("name: g}", &format!("name: new-{by_digest}}}"))).await;
        harness.store.compact(Revision(last)).await.unwrap();
        let late = first(&acme, follower.request(false, by_digest)).await.unwrap_err();
        assert_eq!(late.code(), Code::OutOfRange, "{late:?}");
        let mut told = follower.resync(&acme, by_digest).await;
        told.sort();
        let expected = [
            ("Backend/b".to_owned(), false),
            (format!("Gateway/new-{by_digest}"), true),
            ("HTTPRoute/r".to_owned(), true),
        ];
        assert_eq!(told, expected);
        // Then nothing differs, and it is said so.
        follower.from = 0;
        assert!(follower.resync(&acme, by_digest).await.is_empty());
        // And it goes on from there, each change once.
        let mut events = watch(&acme, follower.request(false, by_digest)).await.unwrap();
        let next = apply(&acme, "acme", &site("/c")).await;
        let event = within(events.message()).await.unwrap().unwrap();
        assert!(event.revision == next && event.changes.len() == 2 && !event.resync, "{event:?}");
    }
}

#[tokio::test]
async fn an_epoch_that_ended_is_refused_or_compared() {
    let harness = Harness::start().await;
    let (acme, _) = harness.tenant("acme").await;
    apply(&acme, "acme", &site("/a")).await;
    let mut follower = Follower::default();
    follower.resync(&acme, true).await;
    // As after a restore: the same objects, another life.
    follower.epoch = follower.epoch.map(|epoch| Epoch { counter: epoch.counter - 1, ..epoch });
    let status = first(&acme, follower.request(false, true)).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("restored") && status.message().contains("list again"), "{status:?}");
    let list = admin::ListRequest {
        tenant: "acme".into(),
        at_least: 1,
        epoch: follower.epoch,
        ..Default::default()
    };
    assert_eq!(acme.objects.clone().list(list).await.unwrap_err().code(), Code::FailedPrecondition);
    // By digests nothing differs; revisions of another life say nothing, so all is told.
    let epoch = follower.epoch;
    assert!(follower.resync(&acme, true).await.is_empty());
    follower.epoch = epoch;
    assert_eq!(follower.resync(&acme, false).await.len(), 3);
}

#[tokio::test]
async fn a_tenant_that_is_another_one_by_now_is_told_as_a_difference() {
    let harness = Harness::start().await;
    let (acme, _) = harness.tenant("acme").await;
    apply(&acme, "acme", &site("/a")).await;
    let platform = harness.platform();
    let mut follower = Follower::default();
    follower.resync(&platform, true).await;
    let gone = admin::DeleteTenantRequest { name: "acme".into() };
    platform.tenants.clone().delete_tenant(gone).await.unwrap();
    let (acme, _) = harness.tenant("acme").await;
    apply(&acme, "acme", GATEWAY).await;
    let mut told = follower.resync(&platform, true).await;
    told.sort();
    assert_eq!(
        told,
        [("Backend/b".to_owned(), false), ("Gateway/g".to_owned(), true), ("HTTPRoute/r".to_owned(), false)]
    );
}

#[tokio::test]
async fn a_difference_too_large_for_one_event_comes_in_parts() {
    let harness = Harness::start().await;
    let (acme, _) = harness.tenant("acme").await;
    let filler = "x".repeat(100_000);
    let json =
        serde_json::json!({"generation": 1, "json": {"kind": "Backend", "metadata": {"filler": filler}}});
    let txn = (0..30).fold(store::Txn::new("test"), |txn, n| {
        txn.put(format!("objects/acme/Backend/default/b{n}"), json.to_string())
    });
    harness.store.txn(txn).await.unwrap();
    let mut events = watch(&acme, Follower::default().request(true, true)).await.unwrap();
    let (mut parts, mut objects) = (0, 0);
    loop {
        let event = within(events.message()).await.unwrap().unwrap();
        (parts, objects) = (parts + 1, objects + event.changes.len());
        if !event.more {
            break;
        }
    }
    assert!(objects == 30 && parts >= 3, "{parts} {objects}");
}

#[tokio::test]
async fn what_is_held_is_of_what_is_watched() {
    let harness = Harness::start().await;
    let (acme, _) = harness.tenant("acme").await;
    harness.tenant("beta").await;
    let held =
        |tenant: &str, kind: &str| vec![Held { key: Some(key(tenant, kind, "g")), ..Default::default() }];
    let request = |resync, held| WatchRequest {
        tenant: "acme".into(),
        kind: "Gateway".into(),
        resync,
        held,
        ..Default::default()
    };
    for (resync, held, code) in [
        (true, held("beta", "Gateway"), Code::PermissionDenied),
        (true, held("acme", "Backend"), Code::InvalidArgument),
        (true, vec![Held::default()], Code::InvalidArgument),
        (false, held("acme", "Gateway"), Code::InvalidArgument),
    ] {
        let status = first(&acme, request(resync, held)).await.unwrap_err();
        assert_eq!(status.code(), code, "{status:?}");
    }
    let future = WatchRequest { from_revision: 1_000, ..request(false, vec![]) };
    assert_eq!(first(&acme, future).await.unwrap_err().code(), Code::OutOfRange);
}
