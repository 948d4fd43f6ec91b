//! Endpoints that are left out because of how they answer, or because health checks fail; endpoints that warm up; bounds.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, Response};

use crate::{
    endpoints::spread,
    support::{Edge, PATIENCE, Upstream, backend, dead_address, forward, gate, pass, route},
    upstreams::{H2C, Manner, Peer, Turn, proxy},
};

/// Waits until the metrics have this line.
fn until(edge: &Edge, line: &str) {
    let began = Instant::now();
    while !edge.control.metrics().lines().any(|other| other == line) {
        assert!(began.elapsed() < PATIENCE, "{line} is not in\n{}", edge.control.metrics());
        thread::yield_now();
    }
}

fn unused(reason: &str, count: usize) -> String {
    format!(
        "weir_edge_backend_unused_endpoints{{tenant=\"static\",backend=\"default/up\",reason=\"{reason}\"}} {count}"
    )
}

fn passive(spec: &str) -> String {
    format!("  healthCheck: {{passive: {{{spec}}}}}\n")
}

/// An upstream that answers health checks as `well` says, and all else with its name.
fn checked(name: &'static str, well: &Arc<AtomicBool>) -> Upstream {
    let well = Arc::clone(well);
    Upstream::start(move |exchange, request| {
        if !request.line().contains("/healthz") {
            exchange.reply(name);
        } else if well.load(Ordering::SeqCst) {
            exchange.send("HTTP/1.1 204 No Content\r\n\r\n");
        } else {
            exchange.send("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n");
        }
    })
}

fn failing() -> Upstream {
    Upstream::start(|exchange, _| {
        exchange.send("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
    })
}

#[test]
fn an_endpoint_that_answers_with_errors_is_ejected_for_a_time() {
    let (a, b, bad) = (Upstream::saying("a"), Upstream::saying("b"), failing());
    let mut edge =
        Edge::start(&spread(&[&a, &b, &bad], &passive("consecutiveGatewayErrors: 3, baseEjectionTime: 2s")));
    let began = Instant::now();
    let mut errors = 0;
    while edge.control.metrics().contains("weir_edge_endpoint_ejections_total 0\n") {
        errors += u32::from(edge.get("/").status == 503);
        assert!(began.elapsed() < PATIENCE);
    }
    assert_eq!(errors, 3);
    let ejected = Instant::now();
    // What is held against it is not forgotten with the configuration.
    let other = passive("consecutiveGatewayErrors: 3, baseEjectionTime: 2s, window: 7s");
    edge.activate(&spread(&[&a, &b, &bad], &other));
    while ejected.elapsed() < Duration::from_millis(1500) {
        assert_eq!(edge.get("/").status, 200);
    }
    until(&edge, &unused("ejected", 1));
    until(&edge, &unused("ejected", 0));
    assert!(ejected.elapsed() >= Duration::from_millis(1750), "{:?}", ejected.elapsed());
    while edge.get("/").status == 200 {
        assert!(ejected.elapsed() < PATIENCE, "it is never asked again");
    }
}

#[test]
fn when_too_few_are_well_all_are_used() {
    for (threshold, expect) in [(50, "503 by the upstream"), (0, "503 by the edge")] {
        let (one, other) = (failing(), failing());
        let spec = format!(
            "  healthCheck: {{passive: {{consecutive5xx: 1, maxEjectedPercent: 100}}, panicThreshold: {threshold}}}\n"
        );
        let edge = Edge::start(&spread(&[&one, &other], &spec));
        let began = Instant::now();
        while !edge.control.metrics().contains("weir_edge_endpoint_ejections_total 2\n") {
            assert_eq!(edge.get("/").status, 503);
            assert!(began.elapsed() < PATIENCE);
        }
        let response = edge.get("/");
        let by = if response.text().is_empty() { "upstream" } else { "edge" };
        assert_eq!(format!("{} by the {by}", response.status), expect);
        if by == "edge" {
            assert_eq!(response.text(), "503 Service Unavailable: no endpoint of the backend is well\n");
        }
    }
}

#[test]
fn an_endpoint_that_cannot_be_reached_is_ejected() {
    let good = Upstream::saying("good");
    let yaml = route(&forward("up"))
        + &format!(
            "---\napiVersion: weir.dev/v1\nkind: Backend\nmetadata: {{name: up}}\nspec:\n  \
             endpoints: [{{address: \"{}\"}}, {{address: \"{}\"}}]\n{}",
            good.address,
            dead_address(),
            passive("consecutiveConnectFailures: 1")
        );
    let edge = Edge::start(&yaml);
    let began = Instant::now();
    while edge.control.metrics().contains("weir_edge_endpoint_ejections_total 0\n") {
        assert_eq!(edge.get("/").text(), "good", "tried again on the other");
        assert!(began.elapsed() < PATIENCE);
    }
    until(&edge, &unused("ejected", 1));
    assert_eq!(edge.get("/").text(), "good");
}

#[test]
fn an_endpoint_whose_checks_fail_is_not_used() {
    let well = [Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(true))];
    let (a, b) = (checked("a", &well[0]), checked("b", &well[1]));
    let spec = |unhealthy: u32| {
        format!(
            "  healthCheck: {{active: {{http: {{path: /healthz, host: up.test, expectedStatuses: [204]}}, \
             interval: 100ms, healthyThreshold: 2, unhealthyThreshold: {unhealthy}}}}}\n"
        )
    };
    let mut edge = Edge::start(&spread(&[&a, &b], &spec(2)));
    assert_eq!(edge.get("/").status, 200);
    well[0].store(false, Ordering::SeqCst);
    until(&edge, &unused("down", 1));
    edge.activate(&spread(&[&a, &b], &(spec(2) + "  connectTimeout: 1s\n")));
    for _ in 0..40 {
        assert_eq!(edge.get("/").text(), "b");
    }
    well[0].store(true, Ordering::SeqCst);
    until(&edge, &unused("down", 0));
    let began = Instant::now();
    while edge.get("/").text() != "a" {
        assert!(began.elapsed() < PATIENCE);
    }
    let check = a.received().into_iter().find(|request| request.line().contains("/healthz")).unwrap();
    assert_eq!(check.line(), "GET /healthz HTTP/1.1");
    assert_eq!(check.header("host"), Some("up.test"));
    assert_eq!(check.header("user-agent"), Some("weir-health-check"));
}

#[test]
fn a_check_is_made_once_for_all_threads() {
    let well = Arc::new(AtomicBool::new(true));
    let upstream = checked("x", &well);
    let spec = "  healthCheck: {active: {http: {path: /healthz}, interval: 100ms}}\n";
    let addresses = ["127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"];
    let edge = Edge::start_on(&spread(&[&upstream], spec), edge::Limits::default(), &addresses);
    for address in &edge.bound {
        let mut client = crate::support::Client::connect(*address);
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
        assert_eq!(client.response().status, 200);
    }
    let (began, checks) = (Instant::now(), upstream.received().len());
    while began.elapsed() < Duration::from_secs(1) {
        thread::yield_now();
    }
    let checks = upstream.received().len() - checks;
    assert!((5..=12).contains(&checks), "{checks} in a second");
}

#[test]
fn a_check_can_be_a_connection() {
    let good = Upstream::saying("good");
    let yaml = route(&forward("up"))
        + &format!(
            "---\napiVersion: weir.dev/v1\nkind: Backend\nmetadata: {{name: up}}\nspec:\n  \
             endpoints: [{{address: \"{}\"}}, {{address: \"{}\"}}]\n  healthCheck: {{active: {{tcp: {{}}}}}}\n",
            good.address,
            dead_address()
        );
    let edge = Edge::start(&yaml);
    // Only what gets requests is shown.
    assert_eq!(edge.get("/").status, 200);
    until(&edge, &unused("down", 1));
    let connects = || edge.control.metrics().contains("weir_edge_upstream_failed_connects_total 0\n");
    let before = connects();
    (0..40).for_each(|_| assert_eq!(edge.get("/").status, 200));
    assert_eq!(connects(), before, "no request went there");
}

#[test]
fn a_check_can_ask_by_grpc() {
    let serving = Arc::new(AtomicBool::new(true));
    let says = Arc::clone(&serving);
    let peer = Peer::start(Manner::default(), move |Turn { request, mut respond, .. }| {
        let serving = says.load(Ordering::SeqCst);
        async move {
            if request.uri().path() != "/grpc.health.v1.Health/Check" {
                let mut send = respond.send_response(Response::new(()), false).unwrap();
                return send.send_data(Bytes::from_static(b"x"), true).unwrap();
            }
            let mut body = request.into_body();
            let asked = body.data().await.unwrap().unwrap();
            assert_eq!(asked, Bytes::from_static(b"\0\0\0\0\x06\x0a\x04shop"));
            let response = Response::builder().header("content-type", "application/grpc");
            let mut send = respond.send_response(response.body(()).unwrap(), false).unwrap();
            send.send_data(Bytes::from(vec![0, 0, 0, 0, 2, 8, if serving { 1 } else { 2 }]), false).unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            send.send_trailers(trailers).unwrap();
        }
        .boxed()
    });
    let spec = format!(
        "{H2C}  healthCheck: {{active: {{grpc: {{service: shop}}, interval: 100ms, unhealthyThreshold: 1}}, panicThreshold: 0}}\n"
    );
    let edge = Edge::start(&proxy(&peer, &spec));
    assert_eq!(edge.get("/").status, 200);
    serving.store(false, Ordering::SeqCst);
    until(&edge, &unused("down", 1));
    assert_eq!(edge.get("/").status, 503);
    serving.store(true, Ordering::SeqCst);
    until(&edge, &unused("down", 0));
    assert_eq!(edge.get("/").status, 200);
}

#[test]
fn a_new_endpoint_gets_its_share_little_by_little() {
    let (a, b, new) = (Upstream::saying("a"), Upstream::saying("b"), Upstream::saying("new"));
    for (policy, most) in [("PowerOfTwo", 40), ("LeastRequest", 40), ("RoundRobin", 40)] {
        let spec = format!("  loadBalancer: {{type: {policy}, slowStart: 10m}}\n");
        let mut edge = Edge::start(&spread(&[&a, &b], &spec));
        let shares = |edge: &Edge| (0..300).filter(|_| edge.get("/").text() == "new").count();
        assert_eq!(shares(&edge), 0);
        edge.activate(&spread(&[&a, &b, &new], &spec));
        let share = shares(&edge);
        assert!((1..most).contains(&share), "{policy}: {share} of 300, a third when it is warm");
    }
}

#[test]
fn an_endpoint_gets_no_more_requests_than_allowed() {
    let (open, wait) = gate();
    let upstream = || {
        let wait = Arc::clone(&wait);
        Upstream::start(move |exchange, _| {
            pass(&wait);
            exchange.reply("x");
        })
    };
    let (a, b) = (upstream(), upstream());
    let edge = Edge::start(&spread(&[&a, &b], "  connectionPool: {maxRequestsPerEndpoint: 2}\n"));
    let mut clients: Vec<_> = (0..4).map(|_| edge.connect()).collect();
    clients.iter_mut().for_each(|client| client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"));
    let began = Instant::now();
    while a.received().len() + b.received().len() < 4 {
        assert!(began.elapsed() < PATIENCE);
    }
    assert_eq!((a.received().len(), b.received().len()), (2, 2));
    let refused = edge.get("/");
    assert_eq!(
        (refused.status, refused.text()),
        (503, "503 Service Unavailable: all endpoints of the backend are busy\n")
    );
    (0..4).for_each(|_| open.send(()).unwrap());
    clients.iter_mut().for_each(|client| assert_eq!(client.response().status, 200));
}

#[test]
fn connections_are_closed_when_they_are_idle_or_old() {
    let upstream = Upstream::saying("x");
    let edge = Edge::start(&spread(&[&upstream], "  connectionPool: {idleTimeout: 500ms}\n"));
    assert_eq!(edge.get("/").status, 200);
    until(&edge, "weir_edge_upstream_connections 1");
    until(&edge, "weir_edge_upstream_connections 0");

    let upstream = Upstream::saying("x");
    let edge = Edge::start(&(route(&forward("up")) + &backend("up", upstream.address)));
    (0..3).for_each(|_| assert_eq!(edge.get("/").status, 200));
    assert_eq!(upstream.connections(), 1);
    let edge = Edge::start(&spread(&[&upstream], "  connectionPool: {maxAge: 500ms}\n"));
    let began = Instant::now();
    while upstream.connections() < 3 {
        assert_eq!(edge.get("/").status, 200);
        assert!(began.elapsed() < PATIENCE, "an old connection is used for ever");
    }
    assert!(began.elapsed() >= Duration::from_millis(250));
}
