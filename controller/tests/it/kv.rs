//! The raw store for the platform's tools: what it does, and what it keeps out of.

use api::kv::{
    Compare, Freshness, GetRequest, ListRequest, Put, TxnRequest, TxnResponse, WatchRequest,
    freshness::Freshness as Fresh,
};
use tonic::{Code, Status};

use crate::harness::{Harness, within};

fn put(key: &str, value: &str) -> TxnRequest {
    TxnRequest {
        puts: vec![Put { key: key.into(), value: value.as_bytes().to_vec().into() }],
        ..Default::default()
    }
}

fn fresh(freshness: Fresh) -> Option<Freshness> {
    Some(Freshness { freshness: Some(freshness) })
}

async fn txn(harness: &Harness, request: TxnRequest) -> Result<TxnResponse, Status> {
    harness.platform().kv.txn(request).await.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn keys_are_put_read_listed_and_deleted() {
    let harness = Harness::start().await;
    let mut kv = harness.platform().kv;
    let first = txn(&harness, put("kv/a", "1")).await.unwrap();
    let epoch = first.epoch.unwrap();
    assert!(!first.duplicate && epoch.counter == 1);
    for i in 0..5 {
        txn(&harness, put(&format!("kv/list/{i}"), "x")).await.unwrap();
    }
    let get = |freshness| GetRequest { key: "kv/a".into(), freshness };
    for freshness in [
        None,
        fresh(Fresh::Linearizable(true)),
        fresh(Fresh::AtLeast(first.revision)),
        fresh(Fresh::Local(true)),
    ] {
        let got = kv.get(get(freshness)).await.unwrap().into_inner();
        assert_eq!(got.entry.unwrap().value, "1");
        assert_eq!((got.revision, got.epoch), (first.revision + 5, Some(epoch)));
    }
    let before = kv.get(get(fresh(Fresh::At(first.revision - 1)))).await.unwrap().into_inner();
    assert_eq!((before.entry, before.revision), (None, first.revision - 1));

    let list = |after: &str, freshness| ListRequest {
        prefix: "kv/list/".into(),
        freshness,
        limit: 3,
        after: after.into(),
    };
    let page = kv.list(list("", None)).await.unwrap().into_inner();
    assert!(page.more && page.entries.len() == 3);
    txn(&harness, TxnRequest { deletes: vec!["kv/list/4".into()], ..Default::default() }).await.unwrap();
    // The next page is of the same revision: nothing changes between two pages.
    let next =
        kv.list(list(&page.entries[2].key, fresh(Fresh::At(page.revision)))).await.unwrap().into_inner();
    assert!(!next.more);
    assert_eq!(next.entries.iter().map(|e| &*e.key).collect::<Vec<_>>(), ["kv/list/3", "kv/list/4"]);
}

#[tokio::test]
async fn a_transaction_compares_and_is_applied_once() {
    let harness = Harness::start().await;
    let one = txn(&harness, put("kv/a", "1")).await.unwrap().revision;
    let compare = |mod_revision| vec![Compare { key: "kv/a".into(), mod_revision }];
    let stale = txn(&harness, TxnRequest { compares: compare(0), ..put("kv/a", "2") }).await.unwrap_err();
    assert_eq!(stale.code(), Code::Aborted, "{stale}");
    let request = TxnRequest { compares: compare(one), request_id: "r".into(), ..put("kv/a", "2") };
    let two = txn(&harness, request.clone()).await.unwrap();
    let again = txn(&harness, request).await.unwrap();
    assert_eq!((again.revision, again.duplicate), (two.revision, true));
    let other = txn(&harness, TxnRequest { request_id: "r".into(), ..put("kv/a", "3") }).await.unwrap_err();
    assert_eq!(other.code(), Code::InvalidArgument, "{other}");
}

#[tokio::test]
async fn nothing_else_of_the_store_is_reached() {
    let harness = Harness::start().await;
    let (mut tenant, _) = harness.tenant("acme").await;
    let before = harness.store.status().hash;
    let mut kv = harness.platform().kv;
    let denied = |what: &str, code: Code| assert_eq!(code, Code::PermissionDenied, "{what}");
    for key in ["tokens/x", "objects/acme/Gateway/default/g", "kv", "", "/kv/a"] {
        let compare = Compare { key: key.into(), mod_revision: 0 };
        denied(key, kv.txn(put(key, "1")).await.unwrap_err().code());
        denied(
            key,
            kv.txn(TxnRequest { deletes: vec![key.into()], ..Default::default() }).await.unwrap_err().code(),
        );
        denied(
            key,
            kv.txn(TxnRequest { compares: vec![compare], ..put("kv/a", "1") }).await.unwrap_err().code(),
        );
        denied(key, kv.get(GetRequest { key: key.into(), freshness: None }).await.unwrap_err().code());
        let list = ListRequest { prefix: key.into(), ..Default::default() };
        denied(key, kv.list(list).await.unwrap_err().code());
        let watch = WatchRequest { prefix: key.into(), from_revision: 0 };
        denied(key, kv.watch(watch).await.unwrap_err().code());
    }
    denied("a tenant", tenant.kv.txn(put("kv/a", "1")).await.unwrap_err().code());
    let empty = kv.txn(TxnRequest::default()).await.unwrap_err();
    assert_eq!(empty.code(), Code::InvalidArgument);
    let large = "x".repeat(2000);
    assert_eq!(kv.txn(put(&format!("kv/{large}"), "1")).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(harness.store.status().hash, before, "nothing was changed");
}

#[tokio::test]
async fn a_watch_tells_whole_revisions_and_what_is_compacted() {
    let harness = Harness::start().await;
    let mut kv = harness.platform().kv;
    let first = txn(&harness, put("kv/w/a", "1")).await.unwrap().revision;
    txn(&harness, put("kv/other", "1")).await.unwrap();
    let both = TxnRequest { deletes: vec!["kv/w/a".into()], ..put("kv/w/b", "2") };
    let third = txn(&harness, both).await.unwrap().revision;
    let watch = |from_revision| WatchRequest { prefix: "kv/w/".into(), from_revision };
    let mut events = kv.watch(watch(first)).await.unwrap().into_inner();
    let event = within(events.message()).await.unwrap().unwrap();
    assert_eq!((event.revision, &*event.events[0].key), (first, "kv/w/a"));
    let event = within(async {
        loop {
            let event = events.message().await.unwrap().unwrap();
            if !event.events.is_empty() {
                break event;
            }
        }
    })
    .await;
    let of = |entry: &api::kv::Event| (entry.key.clone(), entry.entry.is_some());
    assert_eq!(event.revision, third);
    assert_eq!(
        event.events.iter().map(of).collect::<Vec<_>>(),
        [("kv/w/b".into(), true), ("kv/w/a".into(), false)]
    );

    harness.store.compact(store::Revision(third)).await.unwrap();
    let mut late = kv.watch(watch(first)).await.unwrap().into_inner();
    assert_eq!(within(late.message()).await.unwrap_err().code(), Code::OutOfRange);
    let old = GetRequest { key: "kv/w/a".into(), freshness: fresh(Fresh::At(first)) };
    assert_eq!(kv.get(old).await.unwrap_err().code(), Code::OutOfRange);
}
