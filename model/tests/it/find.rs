//! Lookups, case by case.

use model::{CompileLimits, NotFound, PathMatch, RouteTable, TenantConfig, ValueMatch, ValueMatcher};

use crate::ask::{Ask, config, exact, listener, path, prefix, route};

fn table(config: &TenantConfig) -> RouteTable {
    RouteTable::compile(config, &CompileLimits::default()).unwrap()
}

/// The route's name and the rank that answers.
#[track_caller]
fn check(table: &RouteTable, request: &Ask, expect: Result<(&str, u32), NotFound>) {
    let found = table.find(request).map(|found| (found.route_id(), found.matched.rank.0));
    assert_eq!(found, expect, "{request:?}");
}

#[test]
fn the_most_specific_hostname_answers_and_there_is_no_way_back() {
    let table = table(&config(
        vec![listener("any", 80, None)],
        vec![
            route("exact", &["any"], &["shop.acme.com"], vec![prefix("/cart", 0)]),
            route("wild", &["any"], &["*.acme.com"], vec![prefix("/", 1)]),
            route("all", &["any"], &[], vec![prefix("/", 2)]),
        ],
    ));
    check(&table, &Ask::get("shop.acme.com/cart"), Ok(("exact", 0)));
    check(&table, &Ask::get("shop.acme.com/other"), Err(NotFound::Route));
    check(&table, &Ask::get("x.y.acme.com/other"), Ok(("wild", 1)));
    check(&table, &Ask::get("acme.com/other"), Ok(("all", 2)));
    check(&table, &Ask::get("acme.com/other").port(81), Err(NotFound::Listener));
}

#[test]
fn a_host_belongs_to_its_most_specific_listener_alone() {
    let table = table(&config(
        vec![listener("wild", 80, Some("*.acme.com")), listener("exact", 80, Some("a.acme.com"))],
        vec![
            route("on-wild", &["wild"], &["a.acme.com", "b.acme.com"], vec![prefix("/", 0)]),
            route("on-exact", &["exact"], &[], vec![prefix("/only", 1)]),
        ],
    ));
    check(&table, &Ask::get("a.acme.com/only"), Ok(("on-exact", 1)));
    check(&table, &Ask::get("a.acme.com/"), Err(NotFound::Route));
    check(&table, &Ask::get("b.acme.com/"), Ok(("on-wild", 0)));
    check(&table, &Ask::get("c.acme.com/"), Err(NotFound::Host));
    check(&table, &Ask::get("acme.com/"), Err(NotFound::Host));
}

#[test]
fn a_hostname_of_several_routes_merges_and_the_rank_decides() {
    let table = table(&config(
        vec![listener("l", 80, None)],
        vec![
            route("a", &["l"], &["acme.com"], vec![prefix("/a", 5), exact("/x", 9)]),
            route("b", &["l"], &["acme.com", "b.com"], vec![prefix("/a/b", 7), prefix("/", 8)]),
        ],
    ));
    // The rank, not the length: ranks are the dialect's to give.
    check(&table, &Ask::get("acme.com/a/b"), Ok(("a", 5)));
    check(&table, &Ask::get("acme.com/x"), Ok(("b", 8)));
    check(&table, &Ask::get("b.com/a/b"), Ok(("b", 7)));
}

#[test]
fn prefixes_are_of_segments_or_of_text() {
    let table = table(&config(
        vec![listener("l", 80, None)],
        vec![route(
            "r",
            &["l"],
            &[],
            vec![
                prefix("/seg/", 0),
                path(PathMatch::PrefixString("/str".into()), 1),
                path(PathMatch::PrefixString("/st".into()), 2),
            ],
        )],
    ));
    for (url, expect) in [
        ("h/seg", Ok(("r", 0))),
        ("h/seg/", Ok(("r", 0))),
        ("h/seg/x", Ok(("r", 0))),
        ("h/segx", Err(NotFound::Route)),
        ("h/str", Ok(("r", 1))),
        ("h/strong/x", Ok(("r", 1))),
        ("h/stx", Ok(("r", 2))),
        ("h/s", Err(NotFound::Route)),
    ] {
        check(&table, &Ask::get(url), expect);
    }
    assert_eq!(table.find(&Ask::get("h/seg/x")).unwrap().matched.prefix_len(), Some(4));
}

#[test]
fn methods_headers_and_parameters_must_all_hold() {
    let value = |name: &str, matcher| ValueMatch { name: name.into(), matcher };
    let mut all = prefix("/", 0);
    all.method = Some("POST".into());
    all.headers = vec![value("x-env", ValueMatcher::Regex("canary|test".into()))];
    all.query = vec![value("v", ValueMatcher::Exact("a b".into()))];
    let table = table(&config(vec![listener("l", 80, None)], vec![route("r", &["l"], &[], vec![all])]));
    let good = Ask::get("h/?w=1&v=a%20b&v=c").method("POST").header("x-env", "canary");
    check(&table, &good, Ok(("r", 0)));
    check(&table, &good.clone().method("post"), Err(NotFound::Route));
    check(&table, &good.clone().header("x-env", "x"), Err(NotFound::Route));
    check(&table, &Ask { query: Some("v=c&v=a%20b".into()), ..good.clone() }, Err(NotFound::Route));
    check(&table, &Ask { query: None, ..good }, Err(NotFound::Route));
}

#[test]
fn a_parameter_far_behind_is_not_looked_at() {
    let mut one = prefix("/", 0);
    one.query = vec![ValueMatch { name: "v".into(), matcher: ValueMatcher::Exact("1".into()) }];
    let table = table(&config(vec![listener("l", 80, None)], vec![route("r", &["l"], &[], vec![one])]));
    let ask = |before: usize| Ask::get(&format!("h/?{}v=1", "x&".repeat(before)));
    check(&table, &ask(127), Ok(("r", 0)));
    check(&table, &ask(128), Err(NotFound::Route));
}

#[test]
fn the_listener_found_is_one_of_the_routes_own() {
    let table = table(&config(
        vec![listener("gw1", 80, None), listener("gw2", 80, None)],
        vec![
            route("one", &["gw1"], &["one.com"], vec![prefix("/", 0)]),
            route("two", &["gw2"], &["two.com"], vec![prefix("/", 1)]),
        ],
    ));
    assert_eq!(table.find(&Ask::get("two.com/")).unwrap().listener.id.0, "gw2");
    assert_eq!(table.find(&Ask::get("one.com/")).unwrap().listener.id.0, "gw1");
}

#[test]
fn a_pools_table_has_its_own_listeners_only() {
    let mut other = listener("other", 81, None);
    other.pool = "gold".parse().unwrap();
    let config = config(
        vec![listener("l", 80, None), other],
        vec![route("r", &["l", "other"], &[], vec![prefix("/", 0)])],
    );
    let table =
        RouteTable::compile_for_pool(&config, &"gold".parse().unwrap(), &CompileLimits::default()).unwrap();
    check(&table, &Ask::get("h/"), Err(NotFound::Listener));
    check(&table, &Ask::get("h/").port(81), Ok(("r", 0)));
}

#[test]
fn many_children_of_one_segment_are_all_found() {
    let matches = (0..100).map(|i| prefix(&format!("/svc/{i}"), i)).collect();
    let table = table(&config(vec![listener("l", 80, None)], vec![route("r", &["l"], &[], matches)]));
    for i in 0..100 {
        check(&table, &Ask::get(&format!("h/svc/{i}/x")), Ok(("r", i)));
    }
    check(&table, &Ask::get("h/svc/100"), Err(NotFound::Route));
}
