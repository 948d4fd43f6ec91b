//! History, reads of the past, rollback, audit, quotas.

use std::time::{Duration, SystemTime};

use api::{
    admin::{
        self, DeleteRequest, GetRequest, HistoryRequest, ListRecordsRequest, ListRequest, RollbackRequest,
    },
    pki::Ca,
};
use tonic::{Code, Status};

use crate::harness::{GATEWAY, Harness, apply, get, key, request, site};

async fn history(client: &api::client::Admin, request: HistoryRequest) -> Vec<admin::Change> {
    client.objects.clone().history(request).await.unwrap().into_inner().changes
}

fn of(tenant: &str) -> HistoryRequest {
    HistoryRequest { tenant: tenant.into(), ..Default::default() }
}

fn back(tenant: &str, revision: u64) -> RollbackRequest {
    RollbackRequest { tenant: tenant.into(), revision, ..Default::default() }
}

async fn roll(
    client: &api::client::Admin,
    request: RollbackRequest,
) -> Result<admin::RollbackResponse, Status> {
    Ok(client.objects.clone().rollback(request).await?.into_inner())
}

fn outcomes(response: &admin::RollbackResponse) -> Vec<(String, &str)> {
    let mut outcomes: Vec<_> =
        response.applied.iter().map(|a| (a.key.as_ref().unwrap().name.clone(), a.outcome.as_str())).collect();
    outcomes.sort();
    outcomes
}

async fn delete(client: &api::client::Admin, tenant: &str, kind: &str, name: &str) -> u64 {
    let delete = DeleteRequest { keys: vec![key(tenant, kind, name)], ..Default::default() };
    client.objects.clone().delete(delete).await.unwrap().into_inner().revision
}

/// A Secret with a certificate of its own.
fn secret() -> String {
    let ca = Ca::create("users", SystemTime::now()).unwrap();
    let hosts = ["acme.localhost".to_owned()];
    let pair = ca.issue_serving(&hosts, Duration::from_secs(3600), SystemTime::now()).unwrap();
    let indent = |pem: &str| pem.lines().map(|line| format!("    {line}\n")).collect::<String>();
    let head =
        "---\napiVersion: v1\nkind: Secret\nmetadata: {name: s}\ntype: kubernetes.io/tls\nstringData:\n";
    format!("{head}  tls.crt: |\n{}  tls.key: |\n{}", indent(&pair.cert_pem), indent(&pair.key_pem))
}

#[tokio::test]
async fn history_says_who_changed_what_and_the_past_is_read_as_it_was() {
    let harness = Harness::start().await;
    let (acme, _) = harness.tenant("acme").await;
    let (beta, _) = harness.tenant("beta").await;
    let first = apply(&acme, "acme", &site("/a")).await;
    apply(&beta, "beta", GATEWAY).await;
    let second = apply(&acme, "acme", &site("/b")).await;
    let third = delete(&acme, "acme", "Backend", "b").await;

    let changes = history(&acme, of("acme")).await;
    assert_eq!(changes.iter().map(|c| c.revision).collect::<Vec<_>>(), [third, second, first]);
    let what = |change: &admin::Change| {
        let object =
            |o: &admin::ChangedObject| (o.key.clone().unwrap().name, o.operation.clone(), o.generation);
        change.objects.iter().map(object).collect::<Vec<_>>()
    };
    assert_eq!(what(&changes[0]), [("b".to_owned(), "deleted".to_owned(), 0)]);
    assert_eq!(what(&changes[1]), [("r".to_owned(), "configured".to_owned(), 2)]);
    assert_eq!(changes[2].objects.len(), 3);
    for change in &changes {
        assert!(change.actor.starts_with("tenant-admin(acme) token "), "{change:?}");
        assert!(change.origin.starts_with("127.0.0.1:") && change.time_ms > 0, "{change:?}");
    }
    // In pages, of one kind, of one object.
    let page = HistoryRequest { limit: 1, ..of("acme") };
    let newest = acme.objects.clone().history(page.clone()).await.unwrap().into_inner();
    assert_eq!((newest.changes[0].revision, newest.next), (third, third));
    let older = history(&acme, HistoryRequest { before: newest.next, ..page }).await;
    assert_eq!(older[0].revision, second);
    let route = HistoryRequest { kind: "HTTPRoute".into(), name: "r".into(), ..of("acme") };
    assert_eq!(history(&acme, route).await.len(), 2);

    // The past.
    let then =
        |revision| GetRequest { key: Some(key("acme", "HTTPRoute", "r")), revision, ..Default::default() };
    let read = async |revision| acme.objects.clone().get(then(revision)).await;
    let old = read(first).await.unwrap().into_inner();
    let object = old.object.unwrap();
    assert!(object.json.contains("\"/a\"") && object.conditions.is_empty(), "{object:?}");
    assert_eq!((old.revision, object.revision), (first, first));
    assert_eq!(read(first - 1).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(read(1).await.unwrap_err().code(), Code::OutOfRange, "another tenant's time");
    assert_eq!(read(third + 100).await.unwrap_err().code(), Code::OutOfRange);
    let list = ListRequest { tenant: "acme".into(), revision: second, ..Default::default() };
    assert_eq!(acme.objects.clone().list(list).await.unwrap().into_inner().objects.len(), 3);
    let both = GetRequest { at_least: 1, ..then(first) };
    assert_eq!(acme.objects.clone().get(both).await.unwrap_err().code(), Code::InvalidArgument);

    // A tenant of the same name later has a history of its own.
    let gone = admin::DeleteTenantRequest { name: "acme".into() };
    harness.platform().tenants.delete_tenant(gone).await.unwrap();
    let (acme, _) = harness.tenant("acme").await;
    assert!(history(&acme, of("acme")).await.is_empty());
    assert_eq!(roll(&acme, back("acme", second)).await.unwrap_err().code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn a_rollback_is_one_new_transaction_that_leaves_everything_as_it_was() {
    let harness = Harness::start().await;
    let (acme, _) = harness.tenant("acme").await;
    let (beta, _) = harness.tenant("beta").await;
    let (one, two) = (secret(), secret());
    let good = apply(&acme, "acme", &(site("/a") + &one)).await;
    let others = apply(&beta, "beta", GATEWAY).await;
    apply(&acme, "acme", &(site("/b") + &two)).await;
    delete(&acme, "acme", "Backend", "b").await;
    let second = GATEWAY.replace("name: g}", "name: g2}");
    let last = apply(&acme, "acme", &second).await;

    let expected = [
        ("b".to_owned(), "created"),
        ("g".to_owned(), "unchanged"),
        ("g2".to_owned(), "deleted"),
        ("r".to_owned(), "configured"),
        ("s".to_owned(), "configured"),
    ];
    let dry = RollbackRequest { dry_run: true, ..back("acme", good) };
    assert_eq!(outcomes(&roll(&acme, dry).await.unwrap()), expected);
    get(&acme, key("acme", "Gateway", "g2")).await.unwrap();

    let late = RollbackRequest { unchanged_since: good, ..back("acme", good) };
    assert_eq!(roll(&acme, late).await.unwrap_err().code(), Code::Aborted);
    let named = RollbackRequest { request_id: "back-1".into(), unchanged_since: last, ..back("acme", good) };
    let done = roll(&acme, named.clone()).await.unwrap();
    assert_eq!(outcomes(&done), expected);
    assert_eq!(roll(&acme, named).await.unwrap().revision, done.revision, "a retried one is made once");

    let route = get(&acme, key("acme", "HTTPRoute", "r")).await.unwrap();
    assert!(route.json.contains("\"/a\"") && route.revision == done.revision, "{route:?}");
    assert_eq!(route.generation, 3, "a generation never falls");
    get(&acme, key("acme", "Backend", "b")).await.unwrap();
    assert_eq!(get(&acme, key("acme", "Gateway", "g2")).await.unwrap_err().code(), Code::NotFound);
    let same = acme.objects.clone().apply(request("acme", &one)).await.unwrap().into_inner();
    assert_eq!(same.applied[0].outcome, "unchanged", "the secret is the first one again");
    // Others are as they were, history too.
    assert_eq!(get(&beta, key("beta", "Gateway", "g")).await.unwrap().revision, others);
    let changes = history(&acme, of("acme")).await;
    assert_eq!((changes.len(), changes[0].revision), (5, done.revision));
    assert!(changes[0].note.contains(&format!("back to revision {good}")), "{:?}", changes[0]);
    // And forth again; then there is nothing to do.
    roll(&acme, back("acme", last)).await.unwrap();
    get(&acme, key("acme", "Gateway", "g2")).await.unwrap();
    let again = roll(&acme, back("acme", last)).await.unwrap();
    assert!(again.applied.iter().all(|a| a.outcome == "unchanged"), "{again:?}");
}

#[tokio::test]
async fn a_rollback_that_cannot_be_is_refused_whole() {
    let harness = Harness::start().await;
    let (acme, _) = harness.tenant("acme").await;
    harness.tenant("beta").await;
    let platform = harness.platform();
    let grant = |tenant: &str| {
        let spec = "spec: {hostnames: [shop.example.com]}";
        format!("apiVersion: weir.dev/v1\nkind: Tenant\nmetadata: {{name: {tenant}}}\n{spec}\n")
    };
    apply(&platform, "platform", &grant("acme")).await;
    let route = site("/").replace("parentRefs:", "hostnames: [shop.example.com]\n  parentRefs:");
    let with_host = apply(&acme, "acme", &route).await;
    let without = apply(&acme, "acme", &site("/")).await;
    // The host goes to somebody else meanwhile.
    delete(&platform, "platform", "Tenant", "acme").await;
    apply(&platform, "platform", &grant("beta")).await;
    let hash = harness.store.status().hash;
    let status = roll(&acme, back("acme", with_host)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("shop.example.com"), "{status:?}");
    assert_eq!(harness.store.status().hash, hash);
    assert_eq!(get(&acme, key("acme", "HTTPRoute", "r")).await.unwrap().revision, without);

    // What is forgotten is said to be, with what is left.
    let now = harness.store.status().revision.0;
    harness.store.compact(model::Revision(now - 1)).await.unwrap();
    let status = roll(&acme, back("acme", with_host)).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains(&format!("from {} to {now}", now - 1)), "{status:?}");
    assert_eq!(roll(&acme, back("acme", now + 9)).await.unwrap_err().code(), Code::OutOfRange);
    assert_eq!(roll(&acme, back("acme", 0)).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn the_platform_is_rolled_back_with_the_shares_that_it_gave() {
    let harness = Harness::start().await;
    let (acme, _) = harness.tenant("acme").await;
    let platform = harness.platform();
    let quotas = |objects: u64| {
        let spec = format!("spec: {{quotas: {{objects: {objects}}}}}");
        format!("apiVersion: weir.dev/v1\nkind: Tenant\nmetadata: {{name: acme}}\n{spec}\n")
    };
    let share = async || {
        let listed = platform.tenants.clone().list_tenants(admin::ListTenantsRequest {}).await.unwrap();
        let tenant = listed.into_inner().tenants.remove(0);
        (tenant.objects, tenant.max_objects)
    };
    assert_eq!(share().await, (0, 100_000));
    let three = apply(&platform, "platform", &quotas(3)).await;
    apply(&platform, "platform", &quotas(2)).await;
    assert_eq!(share().await, (0, 2));

    let hash = harness.store.status().hash;
    for dry_run in [true, false] {
        let request = admin::ApplyRequest { dry_run, ..request("acme", &site("/")) };
        let status = acme.objects.clone().apply(request).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        for part in ["tenant acme", "3 objects", "quota is 2", "spec.quotas.objects"] {
            assert!(status.message().contains(part), "{status:?}");
        }
    }
    assert_eq!(get(&acme, key("acme", "Gateway", "g")).await.unwrap_err().code(), Code::NotFound);
    assert_ne!(harness.store.status().hash, hash, "it was refused where it was applied");

    roll(&platform, back("platform", three)).await.unwrap();
    assert_eq!(share().await, (0, 3));
    let full = apply(&acme, "acme", &site("/")).await;
    // A rollback keeps the quota too.
    delete(&acme, "acme", "Backend", "b").await;
    apply(&platform, "platform", &quotas(2)).await;
    assert_eq!(roll(&acme, back("acme", full)).await.unwrap_err().code(), Code::ResourceExhausted);
    delete(&platform, "platform", "Tenant", "acme").await;
    assert_eq!(share().await, (2, 100_000));
    roll(&acme, back("acme", full)).await.unwrap();
    assert_eq!(share().await, (3, 100_000));
    let gone = admin::DeleteTenantRequest { name: "acme".into() };
    platform.tenants.clone().delete_tenant(gone).await.unwrap();
    let (quotas, _) = harness.store.list("quotas/", store::Read::Linearizable).await.unwrap();
    assert!(quotas.is_empty(), "{quotas:?}");
}

#[tokio::test]
async fn writers_that_race_do_not_exceed_a_quota_together() {
    let harness = Harness::start().await;
    let (acme, _) = harness.tenant("acme").await;
    let spec = "spec: {quotas: {objects: 4}}";
    let tenant = format!("apiVersion: weir.dev/v1\nkind: Tenant\nmetadata: {{name: acme}}\n{spec}\n");
    apply(&harness.platform(), "platform", &tenant).await;
    let racers = (0..8).map(|n| {
        let acme = acme.clone();
        tokio::spawn(async move {
            let content = GATEWAY.replace("name: g}", &format!("name: g{n}}}"));
            loop {
                match acme.objects.clone().apply(request("acme", &content)).await {
                    Ok(_) => return true,
                    Err(status) if status.code() == Code::Aborted => {}
                    Err(status) => {
                        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
                        return false;
                    }
                }
            }
        })
    });
    let mut made = 0;
    for racer in racers.collect::<Vec<_>>() {
        made += u32::from(racer.await.unwrap());
    }
    assert_eq!(made, 4);
}

#[tokio::test]
async fn the_audit_says_who_what_when_and_from_where_to_whom_it_concerns() {
    let harness = Harness::start().await;
    let (acme, _) = harness.tenant("acme").await;
    let (beta, _) = harness.tenant("beta").await;
    let platform = harness.platform();
    apply(&beta, "beta", GATEWAY).await;
    let applied = apply(&acme, "acme", GATEWAY).await;
    let token = admin::CreateTokenRequest { tenant: "acme".into(), role: "viewer".into() };
    let viewer = acme.tenants.clone().create_token(token).await.unwrap().into_inner().token;
    let viewer = harness.admin(&viewer);

    let list = async |client: &api::client::Admin, request: ListRecordsRequest| {
        client.audit.clone().list_records(request).await.map(|answer| answer.into_inner().records)
    };
    let acmes = ListRecordsRequest { tenant: "acme".into(), ..Default::default() };
    for client in [&viewer, &acme, &platform] {
        let records = list(client, acmes.clone()).await.unwrap();
        let notes: Vec<_> = records.iter().map(|record| record.note.as_str()).collect();
        let expected =
            ["create a token: tenant-viewer(acme)", "apply 1 objects to acme", "create tenant acme"];
        assert_eq!(notes, expected);
        for record in &records {
            assert!(record.origin.starts_with("127.0.0.1:"), "{record:?}");
            assert!(record.keys.iter().all(|key| !key.key.contains("beta")), "{record:?}");
        }
        let keys = &records[1].keys;
        assert_eq!((keys.len(), keys[0].key.as_str()), (1, "objects/acme/Gateway/default/g"));
        assert_eq!((keys[0].operation.as_str(), records[1].revision), ("created", applied));
        let token = &records[0].keys[0].key;
        assert_eq!(token.len(), "tokens/".len() + 12, "{token}");
    }
    assert_eq!(list(&acme, ListRecordsRequest::default()).await.unwrap_err().code(), Code::PermissionDenied);
    let betas = ListRecordsRequest { tenant: "beta".into(), ..Default::default() };
    assert_eq!(list(&acme, betas).await.unwrap_err().code(), Code::PermissionDenied);

    let all = list(&platform, ListRecordsRequest::default()).await.unwrap();
    assert!(all.len() >= 6 && all.is_sorted_by(|a, b| a.revision > b.revision), "{all:?}");
    let by_acme = ListRecordsRequest { actor: "tenant-admin(acme)".into(), ..Default::default() };
    assert_eq!(list(&platform, by_acme).await.unwrap().len(), 2);
    let time_ms = all.iter().find(|record| record.revision == applied).unwrap().time_ms;
    for (since_ms, until_ms, seen) in
        [(time_ms, time_ms + 1, true), (time_ms + 1, 0, false), (0, time_ms, false)]
    {
        let request = ListRecordsRequest { since_ms, until_ms, ..Default::default() };
        let found = list(&platform, request).await.unwrap();
        assert_eq!(found.iter().any(|record| record.revision == applied), seen, "{since_ms} {until_ms}");
    }
    // Page by page it is the same.
    let (mut before, mut pages) = (0, vec![]);
    loop {
        let request = ListRecordsRequest { before, limit: 2, ..Default::default() };
        let page = platform.audit.clone().list_records(request).await.unwrap().into_inner();
        pages.extend(page.records);
        before = page.next;
        if before == 0 {
            break;
        }
    }
    assert_eq!(pages, all);

    // A token's end is told by what it was, and nothing of it by itself.
    let revoke = admin::RevokeTokensRequest { tenant: "acme".into() };
    platform.tenants.clone().revoke_tokens(revoke).await.unwrap();
    let records = list(&platform, acmes).await.unwrap();
    assert!(records[0].note.contains("revoke 2 tokens of acme") && records[0].keys.len() == 2, "{records:?}");
    assert!(records[0].actor.starts_with("platform-admin token"), "{records:?}");
}
