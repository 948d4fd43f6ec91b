//! What must not reach an upstream, or must reach it in one reading only.

use crate::support::{Edge, Upstream, proxy};

#[test]
fn ambiguous_requests_are_refused_and_the_connection_closed() {
    let upstream = Upstream::saying("x");
    let edge = Edge::start(&proxy(&upstream));
    let host = "Host: a.test\r\n";
    for (request, status) in [
        (
            format!(
                "POST / HTTP/1.1\r\n{host}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            ),
            400,
        ),
        (format!("POST / HTTP/1.1\r\n{host}Content-Length: 1\r\nContent-Length: 1\r\n\r\nx"), 400),
        (format!("POST / HTTP/1.1\r\n{host}Content-Length: +1\r\n\r\nx"), 400),
        (format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"), 501),
        (format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"), 400),
        (format!("POST / HTTP/1.0\r\n{host}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400),
        (format!("GET / HTTP/1.1\r\n{host}{host}\r\n"), 400),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        (format!("GET / HTTP/1.1\n{host}\r\n"), 400),
        (format!("GET / HTTP/1.1\r\n{host}X: a\rb\r\n\r\n"), 400),
        (format!("GET / HTTP/1.1\r\n{host}X: a\0b\r\n\r\n"), 400),
        (format!("GET / HTTP/1.1\r\n{host}X: a\r\n b\r\n\r\n"), 400),
        (format!("GET / HTTP/1.1\r\n{host}X : a\r\n\r\n"), 400),
        (format!("GET / HTTP/1.1\r\n{host}X_Y: a\r\n\r\n"), 400),
        ("GET http://b.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n".to_owned(), 400),
        (format!("GET * HTTP/1.1\r\n{host}\r\n"), 400),
        ("CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n".to_owned(), 501),
        (format!("GET / HTTP/2.0\r\n{host}\r\n"), 505),
        (format!("GET / HTTP/1.1\r\n{host}Expect: 200-ok\r\n\r\n"), 417),
        (format!("GET / HTTP/1.1\r\n{host}X: {}\r\n\r\n", "a".repeat(70_000)), 431),
        (format!("GET / HTTP/1.1\r\n{host}{}\r\n", "X: a\r\n".repeat(100)), 431),
    ] {
        let mut client = edge.connect();
        client.send(&request);
        client.send("GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n");
        let response = client.response();
        let start = &request[..request.len().min(120)];
        assert_eq!(response.status, status, "{start:?}");
        assert_eq!(response.header("connection"), Some("close"), "{start:?}");
        assert!(client.response_to("GET").is_none(), "{start:?}");
    }
    assert!(upstream.received().is_empty(), "{:?}", upstream.received());
}

#[test]
fn a_malformed_chunk_never_completes_a_request() {
    for chunks in
        ["5\r\nhello", "5\r\nhelloX\r\n0\r\n\r\n", "0x5\r\nhello\r\n0\r\n\r\n", "-1\r\n\r\n", "5 \nhello\r\n"]
    {
        let upstream = Upstream::saying("x");
        let edge = Edge::start(&proxy(&upstream));
        let mut client = edge.connect();
        client.send("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n");
        client.send(chunks);
        client.stream.shutdown(std::net::Shutdown::Write).unwrap();
        if let Some(response) = client.response_to("POST") {
            assert_eq!(response.status, 400, "{chunks:?}");
        }
        assert!(
            upstream.received().iter().all(|r| !r.raw.ends_with(b"0\r\n\r\n")),
            "{chunks:?}: {:?}",
            upstream.received()
        );
    }
}

#[test]
fn what_the_upstream_gets_is_written_anew() {
    let upstream = Upstream::saying("x");
    let edge = Edge::start(&proxy(&upstream));
    for (request, line, raw) in [
        ("GET http://a.test/x HTTP/1.1\r\nHost: a.test\r\n\r\n", "GET /x HTTP/1.1", &b""[..]),
        ("GET //a/./b/../c HTTP/1.1\r\nHost: a.test\r\n\r\n", "GET /a/c HTTP/1.1", b""),
        ("GET /%7Ea%41 HTTP/1.1\r\nHost: a.test.\r\n\r\n", "GET /~aA HTTP/1.1", b""),
        (
            "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: CHUNKED\r\n\r\n00003;a=b\r\nabc\r\n0;x\r\n\r\n",
            "POST / HTTP/1.1",
            b"3\r\nabc\r\n0\r\n\r\n",
        ),
        ("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\nabc", "POST / HTTP/1.1", b"abc"),
        ("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n", "POST / HTTP/1.1", b""),
        ("\r\nGET /late HTTP/1.1\r\nHost: a.test\r\n\r\n", "GET /late HTTP/1.1", b""),
    ] {
        assert_eq!(edge.ask(request).status, 200, "{request:?}");
        let received = upstream.last();
        assert_eq!(received.line(), line);
        assert_eq!(received.raw, raw, "{request:?}");
        assert_eq!(received.header("host"), Some("a.test"));
    }
    // All on one connection: nothing was left over between them.
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn connection_limits_hold() {
    let upstream = Upstream::saying("x");
    let limits = edge::Limits { connections: 2, ..edge::Limits::default() };
    let edge = Edge::start_with(&proxy(&upstream), limits);
    let mut first = edge.connect();
    let mut second = edge.connect();
    for client in [&mut first, &mut second] {
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
        assert_eq!(client.response().status, 200);
    }
    assert!(edge.connect().is_closed());
    first.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert_eq!(first.response().status, 200);
    assert!(edge.control.metrics().contains("weir_edge_over_limit_connections_total 1\n"));
}

#[test]
fn a_head_that_fills_the_buffer_is_431_to_its_end() {
    let upstream = Upstream::saying("x");
    let edge = Edge::start(&proxy(&upstream));
    let mut client = edge.connect();
    let field = format!("x-pad: {}\r\n", "p".repeat(4000));
    client.send(format!("GET / HTTP/1.1\r\nHost: a.test\r\n{}", field.repeat(18)));
    let response = client.response();
    assert_eq!((response.status, response.whole), (431, true));
    assert!(client.is_closed());
}

#[test]
fn a_worker_gets_no_huge_pages() {
    let _edge = Edge::start(&proxy(&Upstream::saying("x")));
    assert!(rustix::thread::transparent_huge_pages_are_disabled().unwrap());
}
