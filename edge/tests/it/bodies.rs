//! Bodies, in every framing and both ways.

use std::{thread, time::Duration};

use edge::Limits;

use crate::support::{Edge, Upstream, gate, pass, proxy};

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| u8::try_from(n * 7 % 251).unwrap()).collect()
}

#[test]
fn a_mebibyte_goes_both_ways() {
    let upstream = Upstream::start(|exchange, request| {
        exchange.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", request.body.len()));
        exchange.send(&request.body);
    });
    let edge = Edge::start(&proxy(&upstream));
    let mut client = edge.connect();
    let body = pattern(1 << 20);
    for _ in 0..3 {
        client.send(format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {}\r\n\r\n", body.len()));
        client.send(&body);
        let response = client.response();
        assert_eq!(response.status, 200);
        assert!(response.whole && response.body == body);
    }
    assert_eq!(upstream.connections(), 1);
    assert_eq!(upstream.last().header("content-length"), Some("1048576"));
}

/// An upstream whose answers are as long as the path says.
fn of_length() -> Upstream {
    Upstream::start(|exchange, request| {
        let length: usize = request.line()["GET /".len()..].split(' ').next().unwrap().parse().unwrap();
        exchange.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"));
        exchange.send(pattern(length));
    })
}

#[test]
fn long_bodies_come_whole_and_leave_their_connections_in_order() {
    let upstream = of_length();
    let edge = Edge::start(&proxy(&upstream));
    let mut client = edge.connect();
    for length in [16_384, 65_536, 100_000, 524_288, 8 << 20, 12] {
        client.send(format!("GET /{length} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
        let response = client.response();
        assert!(response.whole && response.body == pattern(length), "{length}");
    }
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn a_long_body_that_ends_too_early_is_never_complete() {
    let upstream = Upstream::raw(|exchange| {
        exchange.head().unwrap();
        exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 4000000\r\n\r\n");
        exchange.send(pattern(3_000_000));
        exchange.close();
    });
    let edge = Edge::start(&proxy(&upstream));
    let mut client = edge.connect();
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let response = client.response();
    assert!(!response.whole && response.body == pattern(3_000_000), "{} bytes", response.body.len());
    // Nothing of it is left for whoever comes next.
    assert!(!edge.get("/").whole);
}

#[test]
fn who_leaves_in_the_middle_of_a_long_body_leaves_nothing_to_others() {
    let upstream = of_length();
    let edge = Edge::start(&proxy(&upstream));
    for _ in 0..3 {
        let mut client = edge.connect();
        client.send("GET /80000000 HTTP/1.1\r\nHost: a.test\r\n\r\n");
        client.stream.peek(&mut [0]).unwrap();
        drop(client);
        assert_eq!(edge.get("/1000000").body, pattern(1_000_000));
    }
}

#[test]
fn chunks_and_trailers_go_both_ways() {
    let upstream = Upstream::start(|exchange, request| {
        exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n");
        exchange.send(format!("{:x}\r\n", request.body.len()));
        exchange.send(&request.body);
        exchange.send("\r\n0\r\nX-Sum: 42\r\n\r\n");
    });
    let edge = Edge::start(&proxy(&upstream));
    let mut client = edge.connect();
    for size in [1, 100, 100_000] {
        let body = pattern(size);
        client.send("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n");
        for part in body.chunks(7_000) {
            client.send(format!("{:X};ext=1\r\n", part.len()));
            client.send(part);
            client.send("\r\n");
        }
        client.send("0\r\nX-Check: yes\r\n\r\n");
        let response = client.response();
        assert!(response.whole && response.body == body, "{size}");
        assert_eq!(response.trailers, "X-Sum: 42\r\n");
        let received = upstream.last();
        assert_eq!(received.header("transfer-encoding"), Some("chunked"));
        assert_eq!(received.trailers, "X-Check: yes\r\n");
        assert!(!String::from_utf8_lossy(&received.raw).contains("ext"), "chunk extensions end here");
    }
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn a_body_until_close_is_chunked_for_the_client() {
    let upstream = Upstream::start(|exchange, _| {
        exchange.send("HTTP/1.1 200 OK\r\n\r\nuntil the end");
        exchange.close();
    });
    let edge = Edge::start(&proxy(&upstream));
    let mut client = edge.connect();
    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
        let response = client.response();
        assert!(response.whole);
        assert_eq!(response.text(), "until the end");
        assert_eq!(response.header("transfer-encoding"), Some("chunked"));
    }
}

#[test]
fn responses_without_a_body_keep_their_length_and_the_connection() {
    for (method, head, length) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n", Some("1234")),
        ("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", None),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", None),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\nETag: \"x\"\r\n\r\n", Some("77")),
    ] {
        let upstream = Upstream::start(move |exchange, _| exchange.send(head));
        let edge = Edge::start(&proxy(&upstream));
        let mut client = edge.connect();
        for _ in 0..2 {
            client.send(format!("{method} / HTTP/1.1\r\nHost: a.test\r\n\r\n"));
            let response = client.response_to(method).unwrap();
            assert_eq!(response.header("content-length"), length, "{method} {head}");
            assert_eq!(response.header("transfer-encoding"), None, "{method} {head}");
        }
        assert_eq!(upstream.connections(), 1, "{method} {head}");
    }
}

#[test]
fn continue_is_the_upstreams_word() {
    let upstream = Upstream::start(|exchange, request| exchange.reply(&request.body.len().to_string()));
    let edge = Edge::start(&proxy(&upstream));
    let mut client = edge.connect();
    for _ in 0..2 {
        client.send("PUT / HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
        assert_eq!(client.response().status, 100);
        client.send("12345");
        assert_eq!(client.response().text(), "5");
    }
}

#[test]
fn a_refused_expectation_closes_the_connection() {
    let upstream = Upstream::raw(|exchange| {
        exchange.head().unwrap();
        exchange.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n");
        exchange.head();
    });
    let edge = Edge::start(&proxy(&upstream));
    let mut client = edge.connect();
    client.send("PUT / HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    let response = client.response();
    assert_eq!((response.status, response.header("connection")), (413, Some("close")));
    assert!(client.is_closed());
}

#[test]
fn an_early_answer_passes_a_body_that_is_still_coming() {
    let (open, wait) = gate();
    let upstream = Upstream::raw(move |exchange| {
        exchange.head().unwrap();
        exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nearly ");
        pass(&wait);
        exchange.send("end");
        exchange.head();
    });
    let edge = Edge::start(&proxy(&upstream));
    let mut client = edge.connect();
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 10\r\n\r\n12345");
    let mut early = [0; 512];
    let count = std::io::Read::read(&mut client.stream, &mut early).unwrap();
    assert!(String::from_utf8_lossy(&early[..count]).starts_with("HTTP/1.1 200"));
    client.send("67890");
    open.send(()).unwrap();
    let mut rest = String::new();
    while !rest.ends_with("end") {
        let mut byte = [0];
        std::io::Read::read_exact(&mut client.stream, &mut byte).unwrap();
        rest.push(char::from(byte[0]));
    }
    // The whole body came, so the connection goes on, but not the one to the upstream.
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    open.send(()).unwrap();
    assert_eq!(client.response().text(), "early end");
    assert_eq!(upstream.connections(), 2);
}

#[test]
fn after_an_early_answer_little_is_drained_and_much_is_not() {
    for (length, stays) in [(32 << 10, true), (8 << 20, false)] {
        let edge = Edge::start(&crate::support::route(
            "  - backendRefs: []\n    matches: [{path: {type: Exact, value: /other}}]\n",
        ));
        let mut client = edge.connect();
        client.send(format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {length}\r\n\r\n"));
        let mut writer = client.stream.try_clone().unwrap();
        // The other side may close under us: that is the point.
        let writing = thread::spawn(move || drop(std::io::Write::write_all(&mut writer, &pattern(length))));
        assert_eq!(client.response().status, 404);
        if stays {
            writing.join().unwrap();
            client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
            assert_eq!(client.response().status, 404);
        } else {
            assert!(client.is_closed());
            writing.join().unwrap();
        }
    }
}

#[test]
fn a_body_that_comes_too_slowly_is_408() {
    let upstream = Upstream::saying("x");
    let limits = Limits { body_grace: Duration::from_millis(300), ..Limits::default() };
    let edge = Edge::start_with(&proxy(&upstream), limits);
    let mut client = edge.connect();
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 10\r\n\r\n123");
    assert_eq!(client.response().status, 408);
    assert!(client.is_closed());
    assert!(upstream.received().iter().all(|r| r.body.len() < 10));
}

#[test]
fn a_client_that_breaks_off_leaves_no_complete_request() {
    let ((began, has_begun), (over, is_over)) = (gate(), gate());
    let upstream = Upstream::raw(move |exchange| {
        let mut request = exchange.head().unwrap();
        began.send(()).unwrap();
        exchange.body(&mut request);
        assert!(!request.raw.ends_with(b"0\r\n\r\n"), "{request:?}");
        over.send(()).unwrap();
    });
    let edge = Edge::start(&proxy(&upstream));
    let mut client = edge.connect();
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    pass(&has_begun);
    drop(client);
    pass(&is_over);
}

#[test]
fn who_waits_for_100_continue_is_not_too_slow() {
    let (open, wait) = gate();
    let upstream = Upstream::raw(move |exchange| {
        let mut request = exchange.head().unwrap();
        pass(&wait);
        exchange.send("HTTP/1.1 100 Continue\r\n\r\n");
        exchange.body(&mut request);
        exchange.reply(std::str::from_utf8(&request.body).unwrap());
    });
    let limits = Limits { body_grace: Duration::from_millis(250), ..Limits::default() };
    let edge = Edge::start_with(&proxy(&upstream), limits);
    let mut client = edge.connect();
    client.send("PUT / HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    client.stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    assert!(client.stream.peek(&mut [0]).is_err(), "nobody may answer before the upstream does");
    client.stream.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
    open.send(()).unwrap();
    assert_eq!(client.response().status, 100);
    client.send("12345");
    assert_eq!(client.response().text(), "12345");
}

#[test]
fn an_empty_chunked_body_is_ended_again_when_the_request_is_repeated() {
    // The first connection answers one request and closes when the next one comes.
    let upstream = Upstream::start(|exchange, _| match (exchange.connection, exchange.request) {
        (0, 1) => exchange.close(),
        _ => exchange.reply("fine"),
    });
    let edge = Edge::start(&proxy(&upstream));
    assert_eq!(edge.get("/").text(), "fine");
    let response =
        edge.ask("DELETE / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    assert_eq!(response.text(), "fine");
    assert_eq!(upstream.last().raw, b"0\r\n\r\n");
}

#[test]
fn a_response_until_close_that_the_drain_cuts_off_is_never_complete() {
    let (began, has_begun) = gate();
    let upstream = Upstream::raw(move |exchange| {
        exchange.head().unwrap();
        exchange.send("HTTP/1.1 200 OK\r\n\r\nhalf");
        began.send(()).unwrap();
        exchange.head();
    });
    let edge = Edge::start(&proxy(&upstream));
    let mut client = edge.connect();
    client.send("GET / HTTP/1.0\r\nHost: a.test\r\n\r\n");
    pass(&has_begun);
    let mut first = [0; 1];
    client.stream.peek(&mut first).unwrap();
    edge.drain(Duration::from_millis(300));
    let ended = std::io::Read::read_to_end(&mut client.stream, &mut Vec::new());
    assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}
