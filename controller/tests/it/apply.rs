//! Apply, get, list, delete, watch, explain.

use api::admin::{self, DeleteRequest, Expect, ExplainRequest, ListRequest, WatchRequest};
use tonic::Code;

use crate::harness::{GATEWAY, Harness, apply, get, key, request, site, within};

#[tokio::test]
async fn what_is_applied_is_read_and_deleted() {
    let harness = Harness::start().await;
    let (acme, _) = harness.tenant("acme").await;
    let mut objects = acme.objects.clone();

    let first = objects.apply(request("acme", &site("/"))).await.unwrap().into_inner();
    assert!(first.applied.len() == 3 && first.applied.iter().all(|a| a.outcome == "created"), "{first:?}");
    let again = objects.apply(request("acme", &site("/"))).await.unwrap().into_inner();
    assert!(again.applied.iter().all(|a| a.outcome == "unchanged"), "{again:?}");
    let changed = objects.apply(request("acme", &site("/a"))).await.unwrap().into_inner();
    let outcomes: Vec<_> = changed.applied.iter().map(|a| a.outcome.as_str()).collect();
    assert_eq!(outcomes, ["unchanged", "configured", "unchanged"]);

    let route = get(&acme, key("acme", "HTTPRoute", "r")).await.unwrap();
    assert_eq!((route.generation, route.revision), (2, changed.revision));
    assert_eq!(route.created_revision, first.revision);
    let accepted = route.conditions.iter().find(|c| c.r#type == "Accepted").unwrap();
    assert_eq!((accepted.status.as_str(), accepted.observed_generation), ("True", 2));

    let list = |kind: &str| ListRequest {
        tenant: "acme".into(),
        kind: kind.into(),
        at_least: changed.revision,
        ..Default::default()
    };
    assert_eq!(objects.list(list("")).await.unwrap().into_inner().objects.len(), 3);
    assert_eq!(objects.list(list("Gateway")).await.unwrap().into_inner().objects.len(), 1);

    let delete = |names: &[&str]| DeleteRequest {
        keys: names.iter().map(|n| key("acme", "HTTPRoute", n)).collect(),
        ..Default::default()
    };
    let missing = objects.delete(delete(&["r", "missing"])).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
    objects.delete(delete(&["r"])).await.unwrap();
    assert_eq!(get(&acme, key("acme", "HTTPRoute", "r")).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn an_apply_with_mistakes_is_refused_whole_and_names_them_all() {
    let harness = Harness::start().await;
    let (acme, _) = harness.tenant("acme").await;
    let content = format!(
        "{GATEWAY}---
apiVersion: weir.dev/v1
kind: Backend
metadata: {{name: one}}
spec: {{endpoints: [{{address: \"nonsense\"}}]}}
---
apiVersion: weir.dev/v1
kind: Backend
metadata: {{name: two}}
spec: {{endpionts: []}}
"
    );
    let status = acme.objects.clone().apply(request("acme", &content)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let message = status.message();
    assert!(message.contains("test.yaml") && message.contains("Backend default/one"), "{message}");
    assert!(message.contains("Backend default/two") && message.lines().count() >= 2, "{message}");
    assert_eq!(get(&acme, key("acme", "Gateway", "g")).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_host_of_another_tenant_and_the_platforms_kinds_are_refused() {
    let harness = Harness::start().await;
    let (acme, _) = harness.tenant("acme").await;
    harness.tenant("beta").await;
    let foreign = site("/").replace("parentRefs:", "hostnames: [shop.beta.localhost]\n  parentRefs:");
    let status = acme.objects.clone().apply(request("acme", &foreign)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert!(status.message().contains("shop.beta.localhost"), "{status:?}");

    let pool = "apiVersion: weir.dev/v1\nkind: Pool\nmetadata: {name: mine}\nspec: {}\n";
    let status = acme.objects.clone().apply(request("acme", pool)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let status = acme.objects.clone().apply(request("platform", pool)).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);

    let listen = "apiVersion: weir.dev/v1\nkind: Pool\nmetadata: {name: mine}\n\
                  spec: {listen: [{port: 80, bind: \"127.0.0.1:8180\", protocol: HTTP}]}\n";
    apply(&harness.platform(), "platform", listen).await;
    within(harness.controller.world().wait_for(|world| world.pools.contains_key("mine"))).await.unwrap();
    let clash = listen.replace("8180", "8080");
    let status = harness.platform().objects.apply(request("platform", &clash)).await.unwrap_err();
    assert!(status.message().contains("127.0.0.1:8080"), "{status:?}");
}

#[tokio::test]
async fn a_granted_host_is_the_tenants_alone() {
    let harness = Harness::start().await;
    let (acme, _) = harness.tenant("acme").await;
    harness.tenant("beta").await;
    let grant = |tenant: &str| {
        format!(
            "apiVersion: weir.dev/v1\nkind: Tenant\nmetadata: {{name: {tenant}}}\n\
             spec: {{hostnames: [shop.example.com]}}\n"
        )
    };
    let platform = harness.platform();
    let unknown = platform.objects.clone().apply(request("platform", &grant("nobody"))).await.unwrap_err();
    assert!(unknown.message().contains("no tenant nobody"), "{unknown:?}");
    apply(&platform, "platform", &grant("acme")).await;
    let twice = platform.objects.clone().apply(request("platform", &grant("beta"))).await.unwrap_err();
    assert_eq!(twice.code(), Code::InvalidArgument);
    assert!(twice.message().contains("shop.example.com"), "{twice:?}");
    let route = site("/").replace("parentRefs:", "hostnames: [shop.example.com]\n  parentRefs:");
    apply(&acme, "acme", &route).await;
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let harness = Harness::start().await;
    let (acme, _) = harness.tenant("acme").await;
    let dry = admin::ApplyRequest { dry_run: true, ..request("acme", &site("/")) };
    let answer = acme.objects.clone().apply(dry).await.unwrap().into_inner();
    assert!(answer.applied.iter().all(|a| a.outcome == "created"));
    assert_eq!(get(&acme, key("acme", "Gateway", "g")).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn an_expectation_that_does_not_hold_aborts() {
    let harness = Harness::start().await;
    let (acme, _) = harness.tenant("acme").await;
    let revision = apply(&acme, "acme", GATEWAY).await;
    let expect = |revision: u64, content: &str| admin::ApplyRequest {
        expect: vec![Expect { key: Some(key("acme", "Gateway", "g")), revision }],
        ..request("acme", content)
    };
    let changed = GATEWAY.replace("name: http", "name: web");
    for wrong in [0, revision + 1] {
        let status = acme.objects.clone().apply(expect(wrong, &changed)).await.unwrap_err();
        assert_eq!(status.code(), Code::Aborted, "{wrong}");
    }
    acme.objects.clone().apply(expect(revision, &changed)).await.unwrap();
}

#[tokio::test]
async fn changes_of_one_tenant_that_race_are_all_made() {
    let harness = Harness::start().await;
    let (acme, _) = harness.tenant("acme").await;
    let racers = (0..3).map(|n| {
        let acme = acme.clone();
        tokio::spawn(async move {
            let content = GATEWAY.replace("name: g}", &format!("name: g{n}}}"));
            acme.objects.clone().apply(request("acme", &content)).await.unwrap();
        })
    });
    for racer in racers.collect::<Vec<_>>() {
        racer.await.unwrap();
    }
    for n in 0..3 {
        get(&acme, key("acme", "Gateway", &format!("g{n}"))).await.unwrap();
    }
}

#[tokio::test]
async fn a_retried_request_is_made_once() {
    let harness = Harness::start().await;
    let (acme, _) = harness.tenant("acme").await;
    let first = admin::ApplyRequest { request_id: "r-1".into(), ..request("acme", &site("/a")) };
    acme.objects.clone().apply(first.clone()).await.unwrap();
    let later = apply(&acme, "acme", &site("/b")).await;
    // The first is sent again, late: what came after it stays.
    acme.objects.clone().apply(first.clone()).await.unwrap();
    let other = admin::ApplyRequest { request_id: "r-1".into(), ..request("acme", GATEWAY) };
    let reused = acme.objects.clone().apply(other).await.unwrap_err();
    assert!(reused.code() == Code::InvalidArgument && reused.message().contains("r-1"), "{reused:?}");
    let route = get(&acme, key("acme", "HTTPRoute", "r")).await.unwrap();
    assert!(route.revision == later && route.json.contains("/b"), "{route:?}");
}

#[tokio::test]
async fn a_watch_tells_changes_in_order_from_where_it_is_asked() {
    let harness = Harness::start().await;
    let (acme, _) = harness.tenant("acme").await;
    let (beta, _) = harness.tenant("beta").await;
    let first = apply(&acme, "acme", GATEWAY).await;
    apply(&beta, "beta", GATEWAY).await;
    let watch = WatchRequest { tenant: "acme".into(), from_revision: first, ..Default::default() };
    let mut events = acme.objects.clone().watch(watch).await.unwrap().into_inner();
    let delete = DeleteRequest { keys: vec![key("acme", "Gateway", "g")], ..Default::default() };
    acme.objects.clone().delete(delete).await.unwrap();

    let mut seen = vec![];
    while seen.len() < 2 {
        let event = within(events.message()).await.unwrap().unwrap();
        seen.extend(event.changes.into_iter().map(|change| {
            let key = change.key.unwrap();
            (event.revision, key.tenant, key.name, change.object.is_some())
        }));
    }
    assert_eq!(seen[0], (first, "acme".to_owned(), "g".to_owned(), true));
    assert!(seen[1].0 > first && !seen[1].3, "{seen:?}");
}

#[tokio::test]
async fn explain_says_which_route_answers_and_why() {
    let harness = Harness::start().await;
    let (acme, _) = harness.tenant("acme").await;
    let revision = apply(&acme, "acme", &site("/shop")).await;
    within(harness.controller.world().wait_for(|world| world.revision.0 >= revision)).await.unwrap();
    let ask = |url: &str| ExplainRequest { tenant: "acme".into(), url: url.into(), ..Default::default() };
    let explain = async |url: &str| acme.objects.clone().explain(ask(url)).await.unwrap().into_inner();

    // 8080 is where the pool listens for port 80.
    for url in ["http://acme.localhost/shop/x", "http://acme.localhost:8080/shop?a=b", "ACME.localhost/shop"]
    {
        let answer = explain(url).await;
        assert!(answer.matched && answer.route.contains("default/r"), "{answer:?}");
        assert!(answer.action.contains("127.0.0.1:9"), "{answer:?}");
        assert!(answer.steps.iter().any(|s| s.contains("HTTPRoute default/r")), "{answer:?}");
    }
    for (url, why) in [
        ("http://acme.localhost/other", "none of their matches"),
        ("http://acme.localhost:1/shop", "port 1"),
        ("http://nobody.example.com/", "does not belong to tenant acme"),
    ] {
        let answer = explain(url).await;
        assert!(!answer.matched && answer.steps.iter().any(|s| s.contains(why)), "{url}: {answer:?}");
    }
    // The port of another pool, which serves no listener of the tenant.
    let other = "apiVersion: weir.dev/v1\nkind: Pool\nmetadata: {name: other}\n\
                 spec: {listen: [{port: 80, bind: '127.0.0.1:8090'}]}\n";
    let revision = apply(&harness.platform(), "platform", other).await;
    within(harness.controller.world().wait_for(|world| world.revision.0 >= revision)).await.unwrap();
    let answer = explain("http://acme.localhost:8090/shop").await;
    assert!(!answer.matched, "{answer:?}");
    let bad = acme.objects.clone().explain(ask("http://acme.localhost/%2f")).await.unwrap_err();
    assert_eq!(bad.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_watch_ends_with_its_token_and_shows_nothing_of_a_later_or_earlier_tenant() {
    let harness = Harness::start().await;
    let (old, _) = harness.tenant("acme").await;
    let first = apply(&old, "acme", GATEWAY).await;
    let watch = |from: u64| WatchRequest { tenant: "acme".into(), from_revision: from, ..Default::default() };
    let mut events = old.objects.clone().watch(watch(first)).await.unwrap().into_inner();
    assert_eq!(within(events.message()).await.unwrap().unwrap().changes.len(), 1);

    // The name goes to somebody else while the watch is open.
    let delete = admin::DeleteTenantRequest { name: "acme".into() };
    harness.platform().tenants.delete_tenant(delete).await.unwrap();
    let (new, _) = harness.tenant("acme").await;
    apply(&new, "acme", &site("/secret-plan")).await;
    let status = loop {
        match within(events.message()).await {
            Ok(Some(event)) => {
                assert!(event.changes.iter().all(|change| change.object.is_none()), "{event:?}")
            }
            Ok(None) => panic!("the watch ended without a reason"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Unauthenticated);

    // Nor does history tell the newcomer what was there before.
    let mut events = new.objects.clone().watch(watch(1)).await.unwrap().into_inner();
    let event = within(events.message()).await.unwrap().unwrap();
    assert!(event.changes.len() == 3 && event.revision > first, "{event:?}");
}

#[tokio::test]
async fn a_tenants_open_watches_are_bounded() {
    let harness = Harness::start().await;
    let (acme, _) = harness.tenant("acme").await;
    let (beta, _) = harness.tenant("beta").await;
    let watch = |tenant: &str| WatchRequest { tenant: tenant.into(), ..Default::default() };
    let mut open = vec![];
    let status = loop {
        match acme.objects.clone().watch(watch("acme")).await {
            Ok(events) => open.push(events),
            Err(status) => break status,
        }
        if open.len() == 99 {
            // The connection's 100 calls are not the bound that is tested.
            let second = harness.admin(&create_token(&acme).await);
            open.push(second.objects.clone().watch(watch("acme")).await.unwrap());
            break second.objects.clone().watch(watch("acme")).await.map(drop).unwrap_err();
        }
    };
    assert_eq!((open.len(), status.code()), (100, Code::ResourceExhausted), "{status:?}");
    // Others have their own.
    beta.objects.clone().watch(watch("beta")).await.unwrap();
    open.clear();
    within(async {
        // The server sees the end of a stream a little later.
        while acme.objects.clone().watch(watch("acme")).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

async fn create_token(client: &api::client::Admin) -> String {
    let request = admin::CreateTokenRequest { tenant: "acme".into(), role: "viewer".into() };
    client.tenants.clone().create_token(request).await.unwrap().into_inner().token
}

#[tokio::test]
async fn calls_that_name_too_much_are_refused_at_once() {
    let harness = Harness::start().await;
    let (acme, _) = harness.tenant("acme").await;
    let many = || (0..9_999).map(|n| key("acme", "Backend", &format!("b{n}")));
    let expect = many().map(|key| Expect { key: Some(key), revision: 0 }).collect();
    let apply = admin::ApplyRequest { expect, ..request("acme", GATEWAY) };
    let status = acme.objects.clone().apply(apply).await.unwrap_err();
    assert!(status.code() == Code::InvalidArgument && status.message().contains("expect"), "{status:?}");
    let delete = DeleteRequest { keys: many().collect(), ..Default::default() };
    let status = acme.objects.clone().delete(delete).await.unwrap_err();
    assert!(status.code() == Code::InvalidArgument && status.message().contains("keys"), "{status:?}");
    for headers in [vec!["a: b".to_owned(); 101], vec![format!("a: {}", "b".repeat(65_536))]] {
        let url = "http://acme.localhost/".to_owned();
        let explain = ExplainRequest { tenant: "acme".into(), url, headers, ..Default::default() };
        let status = acme.objects.clone().explain(explain).await.unwrap_err();
        assert!(status.code() == Code::InvalidArgument && status.message().contains("431"), "{status:?}");
    }
}
