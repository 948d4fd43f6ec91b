//! What routes say: weights, filters, redirects, rewrites.

use crate::support::{Edge, Upstream, backend, dead_address, forward, gate, pass, proxy, route};

#[test]
fn weights_are_kept() {
    let (a, b) = (Upstream::saying("a"), Upstream::saying("b"));
    let rules = "  - backendRefs:
    - {group: weir.dev, kind: Backend, name: a, weight: 3}
    - {group: weir.dev, kind: Backend, name: b, weight: 1}
    - {group: weir.dev, kind: Backend, name: c, weight: 0}
";
    let backends = backend("a", a.address) + &backend("b", b.address) + &backend("c", dead_address());
    let edge = Edge::start(&(route(rules) + &backends));
    let mut client = edge.connect();
    let to_a = (0..2000)
        .filter(|_| {
            client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
            client.response().text() == "a"
        })
        .count();
    // Seven standard deviations.
    assert!((1360..1640).contains(&to_a), "{to_a}");
}

#[test]
fn headers_are_edited_on_both_ways() {
    let upstream = Upstream::start(|exchange, _| {
        exchange.send("HTTP/1.1 200 OK\r\nServer: secret\r\nX-Old: 1\r\nContent-Length: 0\r\n\r\n");
    });
    let rules = forward("up")
        + "    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier:
        set: [{name: X-Set, value: new}]
        add: [{name: X-Add, value: two}]
        remove: [X-Remove]
    - type: ResponseHeaderModifier
      responseHeaderModifier:
        set: [{name: X-Old, value: changed}]
";
    let edge = Edge::start(&(route(&rules) + &backend("up", upstream.address)));
    let response =
        edge.ask("GET / HTTP/1.1\r\nHost: a.test\r\nX-Set: old\r\nX-Add: one\r\nX-Remove: 1\r\n\r\n");
    let received = upstream.last();
    assert_eq!(received.header("x-set"), Some("new"));
    assert_eq!(received.head.matches("-Add: ").count() + received.head.matches("-add: ").count(), 2);
    assert_eq!(received.header("x-remove"), None);
    assert_eq!(response.header("x-old"), Some("changed"));
    assert_eq!(response.header("server"), None);
}

#[test]
fn paths_and_hosts_are_rewritten() {
    let upstream = Upstream::saying("x");
    let rules = "  - matches: [{path: {type: PathPrefix, value: /api}}]
    filters:
    - type: URLRewrite
      urlRewrite: {hostname: internal.test, path: {type: ReplacePrefixMatch, replacePrefixMatch: /v2}}
    backendRefs: [{group: weir.dev, kind: Backend, name: up}]
";
    let edge = Edge::start(&(route(rules) + &backend("up", upstream.address)));
    assert_eq!(edge.get("/api/a/../b?q=1").status, 200);
    assert_eq!(upstream.last().line(), "GET /v2/b?q=1 HTTP/1.1");
    assert_eq!(upstream.last().header("host"), Some("internal.test"));
    assert_eq!(upstream.last().header("x-forwarded-host"), Some("a.test"));
    assert_eq!(edge.get("/apis").status, 404);
}

#[test]
fn redirects_say_where() {
    let rules = "  - matches: [{path: {type: PathPrefix, value: /secure}}]
    filters: [{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 301}}]
  - matches: [{path: {type: PathPrefix, value: /old}}]
    filters:
    - type: RequestRedirect
      requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}, statusCode: 302}
";
    let edge = Edge::start(&route(rules));
    let location = |request: &str| {
        let response = edge.ask(request);
        (response.status, response.header("location").unwrap_or_default().to_owned())
    };
    assert_eq!(
        location("GET /secure/x?a=b HTTP/1.1\r\nHost: a.test:8080\r\n\r\n"),
        (301, "https://a.test/secure/x?a=b".to_owned())
    );
    assert_eq!(
        location("GET /old/x HTTP/1.1\r\nHost: a.test:8080\r\n\r\n"),
        (302, "http://a.test:8080/new/x".to_owned())
    );
}

#[test]
fn no_route_is_404_and_no_backend_is_500() {
    let rules = "  - matches: [{path: {type: Exact, value: /none}}]
    backendRefs: [{group: weir.dev, kind: Backend, name: missing}]
";
    let edge = Edge::start(&route(rules));
    assert_eq!(edge.get("/").status, 404);
    assert_eq!(edge.get("/none").status, 500);
    assert_eq!(edge.get("/a%2fb").status, 400);
}

#[test]
fn one_request_sees_one_configuration() {
    let (open, wait) = gate();
    let upstream = Upstream::start(move |exchange, request| {
        if request.line().contains("/slow") {
            pass(&wait);
        }
        exchange.reply(request.header("x-version").unwrap_or("none"));
    });
    let version = |version: &str| {
        let filter = format!(
            "    filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: X-Version, value: {version}}}]}}}},
      {{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: X-Version, value: {version}}}]}}}}]\n"
        );
        route(&(forward("up") + &filter)) + &backend("up", upstream.address)
    };
    let mut edge = Edge::start(&version("one"));
    let mut slow = edge.connect();
    slow.send("GET /slow HTTP/1.1\r\nHost: a.test\r\n\r\n");
    while upstream.received().is_empty() {
        std::thread::yield_now();
    }
    edge.activate(&version("two"));
    let quick = edge.get("/");
    assert_eq!((quick.text(), quick.header("x-version")), ("two", Some("two")));
    open.send(()).unwrap();
    let slow = slow.response();
    assert_eq!((slow.text(), slow.header("x-version")), ("one", Some("one")));
    edge.activate(&proxy(&upstream));
    assert_eq!(edge.get("/").text(), "none");
}

#[test]
fn metadata_addresses_are_out_of_reach() {
    let yaml = route(&forward("up")) + &backend("up", "169.254.169.254:80".parse().unwrap());
    let file = dialect::SourceFile { name: "test.yaml".to_owned(), content: yaml };
    let refused = edge::static_config::compile(file, model::Revision(1)).unwrap_err().to_string();
    assert!(refused.contains("169.254.169.254"), "{refused}");
}

#[test]
fn local_replies_get_the_routes_response_headers() {
    let rules = forward("up")
        + "    filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-Policy, value: strict}]}}]\n";
    let edge = Edge::start(&(route(&rules) + &backend("up", dead_address())));
    let response = edge.get("/");
    assert_eq!((response.status, response.header("x-policy")), (502, Some("strict")));
}

#[test]
fn options_of_everything_is_answered_here() {
    let upstream = Upstream::saying("x");
    let edge = Edge::start(&proxy(&upstream));
    let mut client = edge.connect();
    for target in ["*", "http://a.test"] {
        client.send(format!("OPTIONS {target} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
        let response = client.response();
        assert_eq!((response.status, response.header("content-length")), (204, None), "{target}");
        assert!(response.header("allow").unwrap().contains("OPTIONS"));
    }
    assert!(upstream.received().is_empty());
    client.send("OPTIONS / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert_eq!(client.response().text(), "x", "that one is the route's");
}
