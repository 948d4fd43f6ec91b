//! Connections, heads, failures.

use std::time::{Duration, Instant};

use edge::Limits;

use crate::support::{Edge, PATIENCE, Upstream, backend, dead_address, forward, gate, pass, proxy, route};

#[test]
fn a_request_is_forwarded_with_who_sent_it() {
    let upstream = Upstream::saying("hello");
    let edge = Edge::start(&proxy(&upstream));
    let response = edge.ask(
        "GET /a?b=c HTTP/1.1\r\nHost: Shop.test:8080\r\nAccept: */*\r\nX-Forwarded-For: 6.6.6.6\r\n\
         X-Real-IP: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX-Request-Id: mine\r\nConnection: keep-alive, x-drop\r\n\
         X-Drop: 1\r\nKeep-Alive: timeout=5\r\nTE: gzip\r\n\r\n",
    );
    assert_eq!((response.status, response.text()), (200, "hello"));
    let received = upstream.last();
    assert_eq!(received.line(), "GET /a?b=c HTTP/1.1");
    assert_eq!(received.header("host"), Some("shop.test:8080"));
    assert_eq!(received.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(received.header("x-forwarded-proto"), Some("http"));
    assert_eq!(received.header("x-forwarded-host"), Some("shop.test:8080"));
    assert_eq!(received.header("accept"), Some("*/*"));
    assert_ne!(received.header("x-request-id"), Some("mine"));
    assert_eq!(received.header("x-request-id").map(str::len), Some(32));
    for gone in ["x-drop", "keep-alive", "te", "x-real-ip", "forwarded", "connection"] {
        assert_eq!(received.header(gone), None, "{gone}");
    }
}

#[test]
fn connections_are_kept_on_both_sides() {
    let upstream = Upstream::saying("x");
    let edge = Edge::start(&proxy(&upstream));
    let mut client = edge.connect();
    for _ in 0..20 {
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
        let response = client.response();
        assert_eq!(response.status, 200);
        assert_eq!(response.header("keep-alive"), Some("timeout=20"));
    }
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let upstream = Upstream::start(|exchange, request| exchange.reply(request.line()));
    let edge = Edge::start(&proxy(&upstream));
    let mut client = edge.connect();
    let requests: String = (0..50).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: a.test\r\n\r\n")).collect();
    client.send(requests);
    for n in 0..50 {
        assert_eq!(client.response().text(), format!("GET /{n} HTTP/1.1"));
    }
}

#[test]
fn http_1_0_is_served_and_closed_unless_it_asks() {
    let upstream = Upstream::start(|exchange, _| {
        exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n");
    });
    let edge = Edge::start(&proxy(&upstream));
    let response = edge.ask("GET / HTTP/1.0\r\nHost: a.test\r\n\r\n");
    assert_eq!(response.text(), "hi");
    assert_eq!(response.header("transfer-encoding"), None, "HTTP/1.0 has no chunks");
    assert_eq!(response.header("connection"), Some("close"));
    let upstream = Upstream::saying("hi");
    let edge = Edge::start(&proxy(&upstream));
    let mut client = edge.connect();
    for _ in 0..2 {
        client.send("GET / HTTP/1.0\r\nHost: a.test\r\nConnection: keep-alive\r\n\r\n");
        assert_eq!(client.response().header("connection"), Some("keep-alive"));
    }
}

#[test]
fn an_upstream_that_is_down_is_502_and_the_connection_goes_on() {
    let edge = Edge::start(&(route(&forward("up")) + &backend("up", dead_address())));
    let mut client = edge.connect();
    for _ in 0..3 {
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\nAccept: application/json\r\n\r\n");
        let response = client.response();
        assert_eq!(response.status, 502);
        assert!(response.text().contains("\"error\":\"connect\""), "{}", response.text());
    }
}

#[test]
fn a_pooled_connection_that_died_is_retried() {
    // The first connection answers one request and closes when the next one comes.
    let upstream = Upstream::start(|exchange, _| {
        if exchange.connection == 0 && exchange.request == 1 {
            exchange.close();
        } else {
            exchange.reply("fine");
        }
    });
    let edge = Edge::start(&proxy(&upstream));
    assert_eq!(edge.get("/").text(), "fine");
    assert_eq!(edge.get("/").text(), "fine");
    assert_eq!(upstream.connections(), 2);
    assert!(edge.control.metrics().contains("weir_edge_retries_total 1\n"));
}

#[test]
fn a_post_that_was_sent_is_not_repeated() {
    let upstream = Upstream::start(|exchange, _| match (exchange.connection, exchange.request) {
        (0, 1) => exchange.close(),
        _ => exchange.reply("fine"),
    });
    let edge = Edge::start(&proxy(&upstream));
    assert_eq!(edge.get("/").status, 200);
    assert_eq!(edge.ask("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\nhi").status, 502);
    assert_eq!(upstream.received().len(), 2);
}

#[test]
fn an_upstream_that_dies_before_its_response_is_502() {
    for part in ["", "HTTP/1.1 200 OK\r\nContent-Le"] {
        let upstream = Upstream::start(move |exchange, _| {
            exchange.send(part);
            exchange.close();
        });
        let edge = Edge::start(&proxy(&upstream));
        assert_eq!(
            edge.ask("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n").status,
            502,
            "{part}"
        );
    }
}

#[test]
fn a_response_that_breaks_off_is_never_complete() {
    for framing in ["Content-Length: 10\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"] {
        let upstream = Upstream::start(move |exchange, _| {
            exchange.send(format!("HTTP/1.1 200 OK\r\n{framing}"));
            exchange.close();
        });
        let edge = Edge::start(&proxy(&upstream));
        let response = edge.get("/");
        assert!(!response.whole, "{framing}: {response:?}");
        assert!(edge.control.metrics().contains("outcome=\"truncated\""), "{framing}");
    }
}

#[test]
fn a_malformed_response_is_502() {
    for bad in [
        "SSH-2.0-OpenSSH\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi!",
    ] {
        let upstream = Upstream::start(move |exchange, _| exchange.send(bad));
        let edge = Edge::start(&proxy(&upstream));
        assert_eq!(edge.get("/").status, 502, "{bad:?}");
    }
}

#[test]
fn route_timeouts_are_504() {
    let (_never, wait) = gate();
    let upstream = Upstream::start(move |_, _| wait.lock().unwrap().recv().unwrap_or_default());
    for timeouts in ["{request: 100ms}", "{request: 10s, backendRequest: 100ms}"] {
        let rules = forward("up") + &format!("    timeouts: {timeouts}\n");
        let edge = Edge::start(&(route(&rules) + &backend("up", upstream.address)));
        let began = Instant::now();
        assert_eq!(edge.get("/").status, 504, "{timeouts}");
        assert!(began.elapsed() < Duration::from_secs(5), "{timeouts}");
    }
}

#[test]
fn an_upstream_that_says_nothing_is_504() {
    let (_never, wait) = gate();
    let upstream = Upstream::start(move |_, _| wait.lock().unwrap().recv().unwrap_or_default());
    let limits = Limits { stall: Duration::from_millis(300), ..Limits::default() };
    let edge = Edge::start_with(&proxy(&upstream), limits);
    assert_eq!(edge.get("/").status, 504);
}

#[test]
fn a_slow_head_is_408_and_an_idle_connection_is_closed() {
    let upstream = Upstream::saying("x");
    let limits =
        Limits { head: Duration::from_millis(300), idle: Duration::from_millis(600), ..Limits::default() };
    let edge = Edge::start_with(&proxy(&upstream), limits);
    let mut slow = edge.connect();
    slow.send("GET / HTTP/1.1\r\nHost:");
    assert_eq!(slow.response().status, 408);
    assert!(slow.is_closed());
    let mut idle = edge.connect();
    assert!(idle.is_closed());
}

#[test]
fn a_request_that_nobody_waits_for_is_cancelled_upstream() {
    let ((began, has_begun), (over, is_over)) = (gate(), gate());
    let upstream = Upstream::raw(move |exchange| {
        exchange.head().unwrap();
        began.send(()).unwrap();
        // The end of the connection is what we wait for.
        assert!(exchange.head().is_none());
        over.send(()).unwrap();
    });
    let edge = Edge::start(&proxy(&upstream));
    let mut client = edge.connect();
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    pass(&has_begun);
    drop(client);
    pass(&is_over);
}

#[test]
fn idle_upstream_connections_that_were_closed_are_not_used() {
    let upstream = Upstream::start(|exchange, _| {
        exchange.reply("x");
        exchange.close();
    });
    let edge = Edge::start(&proxy(&upstream));
    for _ in 0..5 {
        assert_eq!(edge.ask("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n").status, 200);
        // Once the kernel knows of the close, the worker is told of it before it is told of another request.
        let began = Instant::now();
        while is_established(upstream.address.port()) {
            assert!(began.elapsed() < PATIENCE, "the connection is still open");
            std::thread::yield_now();
        }
    }
    assert_eq!(upstream.received().len(), 5);
    assert!(edge.control.metrics().contains("weir_edge_retries_total 0\n"));
}

/// Whether a connection to that port is open on the side that made it.
fn is_established(port: u16) -> bool {
    let remote = format!(":{port:04X} 01 ");
    std::fs::read_to_string("/proc/net/tcp").unwrap().contains(&remote)
}

#[test]
fn early_hints_are_left_out_and_endless_ones_refused() {
    const HINT: &str = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
    for (hints, status) in [(3, 200), (50, 502)] {
        let upstream = Upstream::start(move |exchange, _| {
            exchange.send(HINT.repeat(hints));
            exchange.reply("x");
        });
        let edge = Edge::start(&proxy(&upstream));
        assert_eq!(edge.get("/").status, status, "{hints}");
    }
}

#[test]
fn upgrades_become_tunnels_only_after_101() {
    let upstream = Upstream::raw(|exchange| {
        let request = exchange.head().unwrap();
        if request.header("upgrade") == Some("websocket") {
            exchange.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\nwelcome\r\n\r\n");
            while let Some(echo) = exchange.head() {
                exchange.send(echo.head.to_uppercase());
            }
        } else {
            exchange.reply(request.header("upgrade").unwrap_or("none"));
        }
    });
    let edge = Edge::start(&proxy(&upstream));
    let mut client = edge.connect();
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n");
    let response = client.response();
    assert_eq!(response.status, 101);
    assert_eq!(response.header("upgrade"), Some("websocket"));
    client.send("hello\r\n\r\n");
    let mut text = Vec::new();
    while !text.ends_with(b"HELLO\r\n\r\n") {
        let mut byte = [0; 1];
        std::io::Read::read_exact(&mut client.stream, &mut byte).unwrap();
        text.push(byte[0]);
    }
    assert!(edge.control.metrics().contains("weir_edge_tunnels_total 1\n"));
    let h2c = edge.ask("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n");
    assert_eq!(h2c.text(), "none");
}

#[test]
fn metrics_name_the_route() {
    let upstream = Upstream::saying("x");
    let edge = Edge::start(&proxy(&upstream));
    edge.get("/");
    let line = "weir_edge_requests_total{tenant=\"static\",route=\"default/all\",outcome=\"forwarded\",code=\"2xx\"} 1\n";
    let began = Instant::now();
    while !edge.control.metrics().contains(line) {
        assert!(began.elapsed() < PATIENCE, "{}", edge.control.metrics());
        std::thread::yield_now();
    }
    let load = edge.control.load();
    assert_eq!((load.requests, load.errors, load.in_flight), (1, 0, 0));
    assert_eq!(load.tenant_requests["static"], 1);
}
