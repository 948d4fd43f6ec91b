//! What cannot be is refused with a code that says why, and leaves everything as it was.

use api::{
    admin::{
        self, ApplyRequest, DeleteRequest, Epoch, Expect, GetRequest, HistoryRequest, ListRecordsRequest,
        ListRequest, ObjectKey, RollbackRequest, SourceFile, WatchRequest,
    },
    client::Admin,
};
use futures_util::future::BoxFuture;
use model::Revision;
use store::Read;
use tonic::{Code, Status};

use crate::harness::{GATEWAY, Harness, apply, key, request, site, within};

type Refused = BoxFuture<'static, Result<(), Status>>;

fn applying(client: &Admin, request: ApplyRequest) -> Refused {
    let client = client.clone();
    Box::pin(async move { client.objects.clone().apply(request).await.map(drop) })
}

fn deleting(client: &Admin, request: DeleteRequest) -> Refused {
    let client = client.clone();
    Box::pin(async move { client.objects.clone().delete(request).await.map(drop) })
}

fn getting(client: &Admin, request: GetRequest) -> Refused {
    let client = client.clone();
    Box::pin(async move { client.objects.clone().get(request).await.map(drop) })
}

fn listing(client: &Admin, request: ListRequest) -> Refused {
    let client = client.clone();
    Box::pin(async move { client.objects.clone().list(request).await.map(drop) })
}

fn watching(client: &Admin, request: WatchRequest) -> Refused {
    let client = client.clone();
    Box::pin(async move {
        let mut events = client.objects.clone().watch(request).await?.into_inner();
        within(events.message()).await.map(drop)
    })
}

fn rolling(client: &Admin, request: RollbackRequest) -> Refused {
    let client = client.clone();
    Box::pin(async move { client.objects.clone().rollback(request).await.map(drop) })
}

fn history(client: &Admin, request: HistoryRequest) -> Refused {
    let client = client.clone();
    Box::pin(async move { client.objects.clone().history(request).await.map(drop) })
}

fn audit(client: &Admin, request: ListRecordsRequest) -> Refused {
    let client = client.clone();
    Box::pin(async move { client.audit.clone().list_records(request).await.map(drop) })
}

/// All keys with their revisions, and all of the audit.
async fn everything(store: &store::Handle) -> (Vec<store::Entry>, Vec<store::Record>) {
    let (entries, _) = store.list("", Read::Linearizable).await.unwrap();
    let audit = store.audit(Revision(store.status().compacted.0 + 1), usize::MAX).unwrap();
    (entries, audit)
}

#[tokio::test]
async fn bad_input_gets_a_precise_code_and_loses_nothing() {
    let harness = Harness::start().await;
    let (acme, _) = harness.tenant("acme").await;
    harness.tenant("beta").await;
    let platform = harness.platform();
    let token = admin::CreateTokenRequest { tenant: "acme".into(), role: "viewer".into() };
    let viewer = harness.admin(&acme.tenants.clone().create_token(token).await.unwrap().into_inner().token);
    let nobody = harness.admin(&controller::generate_token().unwrap());
    let first = apply(&acme, "acme", &site("/a")).await;
    let named = ApplyRequest { request_id: "once".into(), ..request("acme", &site("/b")) };
    let last = acme.objects.clone().apply(named).await.unwrap().into_inner();
    let quota =
        "apiVersion: weir.dev/v1\nkind: Tenant\nmetadata: {name: acme}\nspec: {quotas: {objects: 3}}\n";
    let now = apply(&platform, "platform", quota).await;
    harness.store.compact(Revision(last.revision)).await.unwrap();

    let future = now + 1_000;
    let epoch = Some(Epoch { counter: 99, id: 99 });
    let route = || Some(key("acme", "HTTPRoute", "r"));
    let stale = |revision| ApplyRequest {
        expect: vec![Expect { key: route(), revision }],
        ..request("acme", &site("/c"))
    };
    let large = format!(
        "apiVersion: weir.dev/v1\nkind: DirectResponse\nmetadata: {{name: d, annotations: {{a: {}}}}}\n\
         spec: {{status: 200}}\n",
        "x".repeat(1600 * 1024)
    );
    let names = |count: usize| (0..count).map(|n| key("acme", "Backend", &format!("b{n}"))).collect();
    let get = |key: Option<ObjectKey>| GetRequest { key, ..Default::default() };
    let list = |tenant: &str, kind: &str| ListRequest {
        tenant: tenant.into(),
        kind: kind.into(),
        ..Default::default()
    };
    let watch = |tenant: &str, from_revision| WatchRequest {
        tenant: tenant.into(),
        from_revision,
        ..Default::default()
    };
    let back =
        |tenant: &str, revision| RollbackRequest { tenant: tenant.into(), revision, ..Default::default() };
    let past = |tenant: &str, kind: &str| HistoryRequest {
        tenant: tenant.into(),
        kind: kind.into(),
        ..Default::default()
    };
    let delete = |keys| DeleteRequest { keys, ..Default::default() };
    let records = |tenant: &str| ListRecordsRequest { tenant: tenant.into(), ..Default::default() };
    let files =
        |count: usize| ApplyRequest { files: vec![SourceFile::default(); count], ..request("acme", "") };

    let cases: Vec<(&str, Code, Refused)> = vec![
        ("no YAML", Code::InvalidArgument, applying(&acme, request("acme", "a: [b"))),
        ("no object", Code::InvalidArgument, applying(&acme, request("acme", "a: b"))),
        ("no such kind", Code::InvalidArgument, {
            applying(&acme, request("acme", &GATEWAY.replace("kind: Gateway", "kind: Gate")))
        }),
        ("no such field", Code::InvalidArgument, {
            applying(&acme, request("acme", &GATEWAY.replace("listeners", "listners")))
        }),
        ("a value too large", Code::InvalidArgument, applying(&acme, request("acme", &large))),
        ("a message too large", Code::OutOfRange, {
            applying(&acme, request("acme", &"#".repeat(9 * 1024 * 1024)))
        }),
        ("too many files", Code::InvalidArgument, applying(&acme, files(1_001))),
        ("a name that is none", Code::InvalidArgument, {
            applying(&acme, request("acme", &GATEWAY.replace("name: g", "name: g/h")))
        }),
        ("a request id too long", Code::InvalidArgument, {
            applying(&acme, ApplyRequest { request_id: "x".repeat(129), ..request("acme", GATEWAY) })
        }),
        ("a request id of another request", Code::InvalidArgument, {
            applying(&acme, ApplyRequest { request_id: "once".into(), ..request("acme", GATEWAY) })
        }),
        ("a tenant that is no name", Code::InvalidArgument, applying(&acme, request("A/b", GATEWAY))),
        ("another tenant", Code::PermissionDenied, applying(&acme, request("beta", GATEWAY))),
        ("the platform", Code::PermissionDenied, applying(&acme, request("platform", GATEWAY))),
        ("a tenant that is not there", Code::NotFound, applying(&platform, request("gamma", GATEWAY))),
        ("a viewer", Code::PermissionDenied, applying(&viewer, request("acme", GATEWAY))),
        ("nobody", Code::Unauthenticated, applying(&nobody, request("acme", GATEWAY))),
        ("a stale revision", Code::Aborted, applying(&acme, stale(first))),
        ("an object that is there already", Code::Aborted, applying(&acme, stale(0))),
        ("a revision to come, expected", Code::Aborted, applying(&acme, stale(future))),
        ("another epoch", Code::FailedPrecondition, {
            applying(&acme, ApplyRequest { epoch, ..request("acme", GATEWAY) })
        }),
        ("more than the quota", Code::ResourceExhausted, {
            applying(&acme, request("acme", &GATEWAY.replace("name: g}", "name: g4}")))
        }),
        ("nothing to delete", Code::InvalidArgument, deleting(&acme, delete(vec![]))),
        ("too much to delete", Code::InvalidArgument, deleting(&acme, delete(names(9_999)))),
        ("what is not there", Code::NotFound, deleting(&acme, delete(names(2)))),
        ("two tenants at once", Code::PermissionDenied, {
            deleting(&acme, delete(vec![key("acme", "Gateway", "g"), key("beta", "Gateway", "g")]))
        }),
        ("an unknown kind", Code::InvalidArgument, {
            deleting(&acme, delete(vec![key("acme", "Frob", "g")]))
        }),
        ("another request's id", Code::InvalidArgument, {
            let request_id = "once".into();
            let keys = vec![key("acme", "Gateway", "g")];
            deleting(&acme, DeleteRequest { keys, request_id, ..Default::default() })
        }),
        ("no key", Code::InvalidArgument, getting(&acme, get(None))),
        (
            "a key with a slash",
            Code::InvalidArgument,
            getting(&acme, get(Some(key("acme", "Gateway", "a/b")))),
        ),
        ("nothing of that name", Code::NotFound, getting(&acme, get(Some(key("acme", "Gateway", "x"))))),
        ("a revision to come", Code::OutOfRange, {
            getting(&acme, GetRequest { revision: future, ..get(route()) })
        }),
        ("a compacted revision", Code::OutOfRange, {
            getting(&acme, GetRequest { revision: first, ..get(route()) })
        }),
        ("at least a revision to come", Code::Unavailable, {
            getting(&acme, GetRequest { at_least: future, ..get(route()) })
        }),
        ("two freshnesses", Code::InvalidArgument, {
            getting(&acme, GetRequest { at_least: now, revision: now, ..get(route()) })
        }),
        ("an epoch that ended", Code::FailedPrecondition, {
            getting(&acme, GetRequest { at_least: now, epoch, ..get(route()) })
        }),
        ("a list of another", Code::PermissionDenied, listing(&acme, list("beta", ""))),
        ("a list of all", Code::PermissionDenied, listing(&acme, list("", ""))),
        ("a list of an unknown kind", Code::InvalidArgument, listing(&acme, list("acme", "Frob"))),
        ("a list of the past", Code::OutOfRange, {
            listing(&acme, ListRequest { revision: first, ..list("acme", "") })
        }),
        ("a watch of another", Code::PermissionDenied, watching(&acme, watch("beta", 1))),
        ("a watch of nobody", Code::NotFound, watching(&platform, watch("gamma", 1))),
        ("a watch of the past", Code::OutOfRange, watching(&acme, watch("acme", first))),
        ("a watch of the future", Code::OutOfRange, watching(&acme, watch("acme", future))),
        ("a watch of another epoch", Code::FailedPrecondition, {
            watching(&acme, WatchRequest { epoch, ..watch("acme", now) })
        }),
        ("back to nowhere", Code::InvalidArgument, rolling(&acme, back("acme", 0))),
        ("back to what is forgotten", Code::FailedPrecondition, rolling(&acme, back("acme", first))),
        ("back to the future", Code::OutOfRange, rolling(&acme, back("acme", future))),
        ("another tenant back", Code::PermissionDenied, rolling(&acme, back("beta", now))),
        ("a viewer back", Code::PermissionDenied, rolling(&viewer, back("acme", now))),
        ("nobody back", Code::NotFound, rolling(&platform, back("gamma", now))),
        ("back after a change", Code::Aborted, {
            rolling(&acme, RollbackRequest { unchanged_since: first, ..back("acme", now) })
        }),
        ("back in another epoch", Code::FailedPrecondition, {
            rolling(&acme, RollbackRequest { epoch, ..back("acme", now) })
        }),
        ("history of another", Code::PermissionDenied, history(&acme, past("beta", ""))),
        ("history of an unknown kind", Code::InvalidArgument, history(&acme, past("acme", "Frob"))),
        ("history of a name alone", Code::InvalidArgument, {
            history(&acme, HistoryRequest { name: "r".into(), ..past("acme", "") })
        }),
        ("history of nobody", Code::NotFound, history(&platform, past("gamma", ""))),
        ("the audit of another", Code::PermissionDenied, audit(&acme, records("beta"))),
        ("the audit of all", Code::PermissionDenied, audit(&acme, records(""))),
        ("the audit of nobody", Code::NotFound, audit(&platform, records("gamma"))),
    ];
    let before = everything(&harness.store).await;
    let count = cases.len();
    for (what, code, refused) in cases {
        let status = within(refused).await.expect_err(what);
        assert_eq!(status.code(), code, "{what}: {status:?}");
        assert!(!status.message().is_empty(), "{what}");
        assert_eq!(everything(&harness.store).await, before, "{what}");
    }
    println!("{count} refusals, each with its code, and nothing changed");
}
