//! Tenants, tokens, workers, the cluster.

use api::admin::{self, CreateTenantRequest, CreateTokenRequest, DeleteTenantRequest, RevokeTokensRequest};
use tokio_stream::StreamExt as _;
use tonic::Code;

use crate::harness::{GATEWAY, Harness, apply, get, key, request};

#[tokio::test]
async fn a_tenant_is_created_once_and_deleted_with_all_it_has() {
    let harness = Harness::start().await;
    let (acme, _) = harness.tenant("acme").await;
    apply(&acme, "acme", GATEWAY).await;
    let mut tenants = harness.platform().tenants;
    let create = |name: &str| CreateTenantRequest { name: name.into() };
    assert_eq!(tenants.create_tenant(create("acme")).await.unwrap_err().code(), Code::AlreadyExists);
    for bad in ["platform", "Acme", "a.b", ""] {
        assert_eq!(
            tenants.create_tenant(create(bad)).await.unwrap_err().code(),
            Code::InvalidArgument,
            "{bad}"
        );
    }
    let listed = tenants.list_tenants(admin::ListTenantsRequest {}).await.unwrap().into_inner().tenants;
    assert!(listed.len() == 1 && listed[0].objects == 1 && listed[0].created_at > 0, "{listed:?}");

    let deleted = tenants.delete_tenant(DeleteTenantRequest { name: "acme".into() }).await.unwrap();
    assert_eq!(deleted.into_inner().objects, 1);
    let status = get(&acme, key("acme", "Gateway", "g")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "its token is gone");
    let (entries, _) = harness.store.list("objects/acme/", store::Read::Linearizable).await.unwrap();
    assert!(entries.is_empty());
    let (again, _) = harness.tenant("acme").await;
    assert_eq!(get(&again, key("acme", "Gateway", "g")).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_viewer_reads_and_does_not_write() {
    let harness = Harness::start().await;
    let (acme, _) = harness.tenant("acme").await;
    apply(&acme, "acme", GATEWAY).await;
    let token = |role: &str| CreateTokenRequest { tenant: "acme".into(), role: role.into() };
    let bad = acme.tenants.clone().create_token(token("king")).await.unwrap_err();
    assert_eq!(bad.code(), Code::InvalidArgument);
    let viewer = acme.tenants.clone().create_token(token("viewer")).await.unwrap().into_inner().token;
    let viewer = harness.admin(&viewer);
    get(&viewer, key("acme", "Gateway", "g")).await.unwrap();
    let status = viewer.objects.clone().apply(request("acme", GATEWAY)).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    let status = viewer.tenants.clone().create_token(token("admin")).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "a viewer makes itself no admin");
}

#[tokio::test]
async fn revoked_and_invented_tokens_are_worth_nothing() {
    let harness = Harness::start().await;
    let (acme, _) = harness.tenant("acme").await;
    let revoke = RevokeTokensRequest { tenant: "acme".into() };
    assert_eq!(harness.platform().tenants.revoke_tokens(revoke).await.unwrap().into_inner().revoked, 1);
    let unauthenticated =
        [acme, harness.admin("weir_x"), harness.admin(&controller::generate_token().unwrap())];
    for client in unauthenticated {
        let status = get(&client, key("acme", "Gateway", "g")).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
    }
}

#[tokio::test]
async fn workers_events_and_the_cluster_are_the_platforms() {
    let harness = Harness::start().await;
    let mut platform = harness.platform();
    let listed = platform.workers.list_workers(admin::ListWorkersRequest::default()).await.unwrap();
    assert_eq!(listed.into_inner().workers[0].worker, "w1");
    let drain = |worker: &str| admin::DrainWorkerRequest { worker: worker.into() };
    platform.workers.drain_worker(drain("w1")).await.unwrap();
    assert_eq!(harness.fleet.drained.lock().unwrap().len(), 1);
    assert_eq!(platform.workers.drain_worker(drain("w9")).await.unwrap_err().code(), Code::NotFound);
    let request = admin::EventsRequest { limit: 1, ..Default::default() };
    let events = platform.workers.events(request).await.unwrap().into_inner();
    assert_eq!(events.collect::<Vec<_>>().await.len(), 1);
    let status = platform.cluster.status(admin::StatusRequest {}).await.unwrap().into_inner();
    assert!(status.leader == 1 && status.nodes == ["n1"] && status.revision > 0, "{status:?}");
}

#[tokio::test]
async fn a_tenant_with_more_objects_than_a_transaction_holds_is_deleted() {
    let harness = Harness::start().await;
    harness.tenant("acme").await;
    let json = serde_json::json!({"generation": 1, "json": {"kind": "Backend"}}).to_string();
    for part in 0..3 {
        let mut txn = store::Txn::new("test");
        for n in 0..7_000 {
            txn = txn.put(format!("objects/acme/Backend/default/b{part}-{n}"), json.clone());
        }
        harness.store.txn(txn).await.unwrap();
    }
    let deleted = harness.platform().tenants.delete_tenant(DeleteTenantRequest { name: "acme".into() }).await;
    assert_eq!(deleted.unwrap().into_inner().objects, 21_000);
    let (entries, _) = harness.store.list("objects/acme/", store::Read::Linearizable).await.unwrap();
    assert!(entries.is_empty());
    harness.tenant("acme").await;
}

#[tokio::test]
async fn a_tenant_object_is_in_no_namespace() {
    let harness = Harness::start().await;
    harness.tenant("acme").await;
    let grant = |namespace: &str| {
        let metadata = format!("{{name: acme, namespace: {namespace}}}");
        let host = "spec: {hostnames: [shop.example.com]}";
        request("platform", &format!("apiVersion: weir.dev/v1\nkind: Tenant\nmetadata: {metadata}\n{host}\n"))
    };
    let mut objects = harness.platform().objects;
    // It would outlive its tenant, and wait for the next one of that name.
    let status = objects.apply(grant("other")).await.unwrap_err();
    assert!(status.code() == Code::InvalidArgument && status.message().contains("namespace"), "{status:?}");
    objects.apply(grant("default")).await.unwrap();
    harness.platform().tenants.delete_tenant(DeleteTenantRequest { name: "acme".into() }).await.unwrap();
    harness.tenant("acme").await;
    let status = get(&harness.platform(), key("platform", "Tenant", "acme")).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}
