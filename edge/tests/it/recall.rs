//! Requests by their ids: in the answer, for the upstream, and what is known of them afterwards.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api::request::Request;

use crate::support::{
    Edge, PATIENCE, Response, Upstream, backend, dead_address, forward, gate, pass, proxy, route, wait_for,
};

fn id(response: &Response) -> &str {
    let id = response.header("x-request-id").expect("an answer names its request");
    assert!(id.len() == 32 && id.bytes().all(|digit| digit.is_ascii_hexdigit()), "{id}");
    id
}

/// What is known of a request, once it is over.
fn recall(edge: &Edge, id: &str) -> Request {
    let mut known = None;
    wait_for("the request is known", || {
        known = edge.runtime.block_on(edge.control.recall(id, None));
        known.is_some()
    });
    known.unwrap()
}

#[test]
fn a_request_has_one_name_for_the_client_the_upstream_and_whoever_asks() {
    let upstream = Upstream::saying("hello");
    let edge = Edge::start(&proxy(&upstream));
    let mut client = edge.connect();
    let mut ask = || {
        client.send("GET /a?secret=1 HTTP/1.1\r\nHost: Shop.test:80\r\nX-Request-Id: mine\r\n\r\n");
        client.response()
    };
    let first = ask();
    assert_eq!(upstream.last().header("x-request-id"), Some(id(&first)));
    let second = ask();
    assert_ne!(id(&first), id(&second));

    let known = recall(&edge, id(&first));
    assert_eq!(known.id, id(&first));
    assert_eq!((known.tenant.as_str(), known.route.as_str()), ("static", "default/all"));
    assert_eq!((known.listener.as_str(), known.rule.as_str()), ("default/gateway/http", "spec.rules[0]"));
    assert_eq!((known.method.as_str(), known.host.as_str(), known.path.as_str()), ("GET", "shop.test", "/a"));
    assert_eq!((known.client.as_str(), known.protocol.as_str()), ("127.0.0.1", "HTTP/1.1"));
    assert_eq!((known.status, known.outcome.as_str(), known.bytes_out), (200, "forwarded", 5));
    let [tried] = known.tries.as_slice() else { panic!("{:?}", known.tries) };
    assert_eq!((tried.endpoint.as_str(), tried.status), (upstream.address.to_string().as_str(), 200));
    assert!(!tried.reused && tried.connected_us.is_some_and(|at| at <= known.duration_us), "{tried:?}");
    assert!(tried.answered_us >= tried.connected_us && tried.failure.is_empty(), "{tried:?}");
    assert!(recall(&edge, id(&second)).tries[0].reused, "the second goes by the first one's connection");
    let began = Duration::from_micros(known.began_at_us);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    assert!(
        now.saturating_sub(began) < PATIENCE && began <= now + Duration::from_secs(1),
        "{began:?}, {now:?}"
    );
}

#[test]
fn why_a_request_was_refused_is_known() {
    let rules = "  - matches: [{path: {type: PathPrefix, value: /dead}}]\n    \
                   backendRefs: [{group: weir.dev, kind: Backend, name: up}]\n";
    let edge = Edge::start(&(route(rules) + &backend("up", dead_address())));
    let dead = edge.get("/dead");
    assert_eq!(dead.status, 502);
    let known = recall(&edge, id(&dead));
    assert_eq!((known.status, known.refusal.as_str(), known.outcome.as_str()), (502, "connect", "refused"));
    assert!(known.detail.contains("refused"), "the system's own words: {}", known.detail);
    assert_eq!((known.retries, known.tries.len()), (1, 2), "a try that was never sent is made again");
    for tried in &known.tries {
        assert_eq!((tried.failure.as_str(), tried.connected_us, tried.answered_us), ("connect", None, None));
    }
    let nowhere = edge.get("/nowhere");
    assert_eq!(nowhere.status, 404);
    let known = recall(&edge, id(&nowhere));
    assert_eq!((known.refusal.as_str(), known.tenant.as_str()), ("no_route", "static"));
    assert!(known.route.is_empty() && known.tries.is_empty());
    let crooked = edge.get("/a%2fb");
    assert_eq!(crooked.status, 400);
    let known = recall(&edge, id(&crooked));
    assert_eq!((known.refusal.as_str(), known.tenant.as_str()), ("path", "static"));
    let unread = edge.ask("GET /\r\n\r\n");
    assert_eq!(unread.status, 400);
    let known = recall(&edge, id(&unread));
    assert_eq!((known.status, known.outcome.as_str(), known.method.as_str()), (400, "refused", ""));
    assert!(!known.refusal.is_empty() && known.tenant.is_empty(), "{known:?}");
    let none = edge.runtime.block_on(edge.control.recall("0123456789abcdef0123456789abcdef", None));
    assert!(none.is_none());
}

#[test]
fn a_request_that_ends_with_its_client_is_known_as_abandoned() {
    let (open, wait) = gate();
    let upstream = Upstream::start(move |exchange, _| {
        pass(&wait);
        exchange.reply("late");
    });
    let edge = Edge::start(&proxy(&upstream));
    let mut client = edge.connect();
    client.send("GET /slow HTTP/1.1\r\nHost: a.test\r\n\r\n");
    wait_for("the request is at the upstream", || !upstream.received().is_empty());
    let id = upstream.last().header("x-request-id").unwrap().to_owned();
    assert!(edge.runtime.block_on(edge.control.recall(&id, None)).is_none(), "it is still running");
    drop(client);
    let known = recall(&edge, &id);
    assert_eq!((known.status, known.outcome.as_str()), (0, "abandoned"));
    drop(open);
}

#[test]
fn a_route_decides_whether_the_client_learns_the_id() {
    let upstream = Upstream::start(|exchange, _| {
        exchange.send("HTTP/1.1 200 OK\r\nX-Request-Id: theirs\r\nContent-Length: 0\r\n\r\n");
    });
    let plain = Edge::start(&proxy(&upstream));
    assert_ne!(plain.get("/").header("x-request-id"), Some("theirs"));
    let filter =
        "    filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {remove: [x-request-id]}}]\n";
    let edge = Edge::start(&(route(&(forward("up") + filter)) + &backend("up", upstream.address)));
    assert_eq!(edge.get("/").header("x-request-id"), None);
}
