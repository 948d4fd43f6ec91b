//! Random configurations and requests.

use model::{
    CompileLimits, HostPattern, Match, Origin, PathMatch, Rank, RouteTable, TenantConfig, ValueMatch,
    ValueMatcher,
};
use proptest::{prelude::*, sample::select};

use crate::{
    ask::{self, Ask},
    naive,
};

/// Few names, so that they meet.
const HOSTS: [&str; 7] = ["a.com", "b.a.com", "c.b.a.com", "*.a.com", "*.b.a.com", "*.com", "d.org"];
const ASKED_HOSTS: [&str; 8] =
    ["a.com", "b.a.com", "c.b.a.com", "x.b.a.com", "x.a.com", "x.com", "d.org", "x.org"];
const PORTS: [u16; 3] = [80, 81, 443];
const PATHS: [&str; 10] = ["/", "/a", "/a/", "/a/b", "/a/b/", "/a/b/c", "/ab", "/abc", "/b", "/b/a"];
const REGEXES: [&str; 6] = ["/a.*", "/[ab]/.", "b", "/A/B?", "(?i)/AB", "/a|/b"];

fn any_path() -> impl Strategy<Value = PathMatch> {
    let text = || select(&PATHS[..]).prop_map(String::from);
    prop_oneof![
        3 => text().prop_map(PathMatch::PrefixSegment),
        2 => text().prop_map(PathMatch::Exact),
        2 => text().prop_map(PathMatch::PrefixString),
        1 => (select(&REGEXES[..]), any::<bool>(), any::<bool>())
            .prop_map(|(pattern, anchor, icase)| PathMatch::Regex { pattern: pattern.into(), anchor, icase }),
    ]
}

fn any_values(name: &'static str) -> impl Strategy<Value = Vec<ValueMatch>> {
    let matcher = prop_oneof![
        select(&["1", "2", "", "1,2", "a b"][..]).prop_map(|v| ValueMatcher::Exact(v.into())),
        select(&["1|2", ".*", "[0-9]"][..]).prop_map(|v| ValueMatcher::Regex(v.into())),
    ];
    let one = matcher.prop_map(move |matcher| vec![ValueMatch { name: name.into(), matcher }]);
    prop_oneof![2 => Just(vec![]), 1 => one]
}

fn any_match() -> impl Strategy<Value = Match> {
    let method = prop_oneof![2 => Just(None), 1 => select(&["GET", "POST"][..]).prop_map(|m| Some(m.into()))];
    (any_path(), method, any_values("x"), any_values("q")).prop_map(|(path, method, headers, query)| Match {
        rank: Rank(0),
        path,
        method,
        headers,
        query,
    })
}

fn any_hostname() -> impl Strategy<Value = Option<&'static str>> {
    prop_oneof![1 => Just(None), 3 => select(&HOSTS[..]).prop_map(Some)]
}

/// A configuration that compiles.
fn any_config() -> impl Strategy<Value = TenantConfig> {
    let listeners = prop::collection::vec((select(&PORTS[..2]), any_hostname()), 1..5);
    let routes = prop::collection::vec(
        (
            prop::collection::vec(any::<prop::sample::Index>(), 0..4),
            prop::collection::vec(select(&HOSTS[..]), 0..3),
            prop::collection::vec(any_match(), 1..4),
        ),
        0..6,
    );
    (listeners, routes, any::<u64>()).prop_map(|(listeners, routes, seed)| {
        let names: Vec<String> = (0..listeners.len()).map(|i| format!("l{i}")).collect();
        let listeners = listeners
            .into_iter()
            .zip(&names)
            .map(|((port, host), name)| ask::listener(name, port, host))
            .collect();
        let routes = routes
            .into_iter()
            .enumerate()
            .map(|(i, (parents, hosts, matches))| {
                let parents: Vec<&str> = parents.iter().map(|at| at.get(&names).as_str()).collect();
                ask::route(&format!("r{i}"), &parents, &hosts, matches)
            })
            .collect();
        let mut config = ask::config(listeners, routes);
        rank(&mut config, seed);
        config
    })
}

/// Unique ranks in an order that `seed` chooses.
fn rank(config: &mut TenantConfig, seed: u64) {
    let mut matches: Vec<&mut Match> =
        config.routes.iter_mut().flat_map(|r| &mut r.rules).flat_map(|r| &mut r.matches).collect();
    let mut state = seed | 1;
    for at in (1..matches.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        matches.swap(at, usize::try_from(state >> 33).unwrap() % (at + 1));
    }
    for (rank, each) in (0..).step_by(3).zip(matches) {
        each.rank = Rank(rank);
    }
}

fn any_ask() -> impl Strategy<Value = Ask> {
    let path = prop_oneof![
        select(&["/", "/a", "/a/", "/a/b", "/a/b/c/d", "/ab", "/abcd", "/A/b", "/b/a", "/c"][..])
            .prop_map(String::from),
        "(/[ab]{0,2}){1,4}",
    ];
    let query =
        select(&[None, Some("q=1"), Some("q=2&q=1"), Some("%71=a%20b"), Some("&&q"), Some("p=1&q=%31")][..]);
    let headers =
        prop::collection::vec(select(&["1", "2", "a b"][..]).prop_map(|v| ("x".into(), v.into())), 0..3);
    (select(&PORTS[..]), select(&ASKED_HOSTS[..]), path, query, select(&["GET", "POST"][..]), headers)
        .prop_map(|(port, host, path, query, method, headers)| Ask {
            port,
            host: host.into(),
            path,
            query: query.map(Into::into),
            method: method.into(),
            headers,
        })
}

/// Nearly anything; most of it does not compile.
fn wild_config() -> impl Strategy<Value = TenantConfig> {
    let path = prop_oneof!["/?[a/.%*]{0,6}", "[\\\\(\\[a*?)+|/]{0,6}"];
    let wild = (path, 0..4_u32, 0..3_u32, ".{0,3}").prop_map(|(text, kind, rank, name)| {
        let path = match kind {
            0 => PathMatch::Exact(text),
            1 => PathMatch::PrefixSegment(text),
            2 => PathMatch::PrefixString(text),
            _ => PathMatch::Regex { pattern: text, anchor: true, icase: false },
        };
        let query = vec![ValueMatch { name, matcher: ValueMatcher::Regex(".*".into()) }];
        Match { rank: Rank(rank), path, method: None, headers: vec![], query }
    });
    let hosts = prop::collection::vec(
        prop_oneof!["[a.]{0,4}".prop_map(HostPattern::Exact), "[a.]{0,4}".prop_map(HostPattern::Wildcard)],
        0..3,
    );
    (prop::collection::vec((wild, hosts), 0..3), 0..3_usize).prop_map(|(routes, listeners)| {
        let listeners = (0..listeners).map(|i| ask::listener(&format!("l{i}"), 80, None)).collect();
        let routes = routes.into_iter().enumerate().map(|(i, (each, hostnames))| {
            let mut route = ask::route(&format!("r{i}"), &["l0"], &[], vec![each]);
            route.hostnames = hostnames;
            route
        });
        ask::config(listeners, routes.collect())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn find_equals_the_naive_matcher(
        config in any_config(),
        requests in prop::collection::vec(any_ask(), 1..16),
    ) {
        let table = RouteTable::compile(&config, &CompileLimits::default()).expect("a valid configuration");
        for request in requests {
            let expect = naive::find(&config, &request).map(|(route, rule, index, listener)| {
                let route = &config.routes[route];
                (
                    route.id.clone(),
                    route.rules[rule].origin.clone(),
                    route.rules[rule].matches[index].rank,
                    config.listeners[listener].id.clone(),
                )
            });
            let found = table.find(&request).map(|found| {
                let written = found.written(&config).expect("of this configuration");
                assert_eq!((found.route_id(), found.matched.rank), (&*written.route.id.0, written.matched.rank));
                let (route, rule) = table.whose(found.rule_position());
                assert_eq!((route, &written.route.rules[rule as usize]), (found.route_id(), written.rule));
                (
                    written.route.id.clone(),
                    written.rule.origin.clone(),
                    found.matched.rank,
                    found.listener.id.clone(),
                )
            });
            prop_assert_eq!(found, expect, "{:?}", request);
        }
    }

    #[test]
    fn what_compiles_never_panics(
        config in wild_config(),
        host in "[a.]{0,6}",
        path in "/?[a/.]{0,6}|.{0,6}",
        query in prop::option::of(".{0,8}|[a=&%2]{0,12}"),
    ) {
        match RouteTable::compile(&config, &CompileLimits::default()) {
            Ok(table) => {
                let request = Ask { path, query, host, ..Ask::get("") };
                if let Ok(found) = table.find(&request) {
                    prop_assert!(found.matched.prefix_len().is_none_or(|len| len <= request.path.len()));
                }
            }
            Err(errors) => {
                prop_assert!(!errors.is_empty());
                prop_assert!(errors.iter().all(|e| e.origin != Origin::default() && !e.problem.is_empty()));
            }
        }
    }
}
