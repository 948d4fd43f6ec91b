use super::*;

const PLAIN: Outgoing = Outgoing { body: BodyLength::None, persistence: Persistence::Default };

fn request(input: &str, target: &RequestTarget<'_>, outgoing: Outgoing) -> String {
    let head = parse_request(input.as_bytes(), &Limits::default()).unwrap().unwrap().head;
    let mut out = Vec::new();
    write_request(&mut out, &head, target, outgoing);
    String::from_utf8(out).unwrap()
}

fn response(input: &str, outgoing: Outgoing) -> String {
    let head = parse_response(input.as_bytes(), Method::Get).unwrap().unwrap().head;
    let mut out = Vec::new();
    write_response(&mut out, &head, outgoing);
    String::from_utf8(out).unwrap()
}

#[test]
fn requests_are_written_from_the_model() {
    let target = RequestTarget { path: "/new", query: Some("q"), host: "b:81" };
    let got = request("GET /old?q HTTP/1.0\r\nHost: a\r\nAccept:  */*\t\r\nx-a:\r\n\r\n", &target, PLAIN);
    assert_eq!(got, "GET /new?q HTTP/1.1\r\nHost: b:81\r\nAccept: */*\r\nx-a: \r\n\r\n");
}

#[test]
fn hop_by_hop_fields_stay_behind() {
    let target = RequestTarget { path: "/", query: None, host: "a" };
    let got = request(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, x-hop, cookie\r\nKeep-Alive: 1\r\nProxy-Connection: 1\r\n\
        Proxy-Authorization: 1\r\nTE: gzip;q=0.5, Trailers\r\nUpgrade: websocket\r\nHTTP2-Settings: 1\r\nX-Hop: 1\r\nCookie: c\r\n\r\n",
        &target,
        PLAIN,
    );
    assert_eq!(got, "GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nCookie: c\r\n\r\n");
    let got = request("GET / HTTP/1.1\r\nHost: a\r\nTE: gzip\r\n\r\n", &target, PLAIN);
    assert_eq!(got, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
}

#[test]
fn the_framing_is_our_own() {
    let target = RequestTarget { path: "/", query: None, host: "a" };
    let framed = |body, persistence| {
        let input = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        request(input, &target, Outgoing { body, persistence }).replacen(
            "POST / HTTP/1.1\r\nHost: a\r\n",
            "",
            1,
        )
    };
    assert_eq!(framed(BodyLength::Chunked, Persistence::Default), "Transfer-Encoding: chunked\r\n\r\n");
    assert_eq!(
        framed(BodyLength::Length(0), Persistence::Close),
        "Content-Length: 0\r\nConnection: close\r\n\r\n"
    );
    assert_eq!(
        framed(BodyLength::Length(u64::MAX), Persistence::Default),
        "Content-Length: 18446744073709551615\r\n\r\n"
    );
    assert_eq!(framed(BodyLength::None, Persistence::Default), "\r\n");
}

#[test]
fn upgrades_keep_their_field() {
    let target = RequestTarget { path: "/", query: None, host: "a" };
    let upgrade = Outgoing { body: BodyLength::None, persistence: Persistence::Upgrade };
    let got = request(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        &target,
        upgrade,
    );
    assert_eq!(got, "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n");
    let got = response("HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", upgrade);
    assert_eq!(got, "HTTP/1.1 101 Go\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n");
}

#[test]
fn responses_are_written_from_the_model() {
    let input = "HTTP/1.0 200 Fine\r\nServer: nginx\r\nConnection: keep-alive, x-hop\r\nX-Hop: 1\r\nContent-Length: 5\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\n";
    let keep =
        Outgoing { body: BodyLength::Length(5), persistence: Persistence::KeepAlive { timeout_s: 30 } };
    assert_eq!(
        response(input, keep),
        "HTTP/1.1 200 Fine\r\nServer: nginx\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 5\r\n\
        Connection: keep-alive\r\nKeep-Alive: timeout=30\r\n\r\n"
    );
    let close = Outgoing { body: BodyLength::UntilClose, persistence: Persistence::Close };
    assert_eq!(
        response(input, close),
        "HTTP/1.1 200 Fine\r\nServer: nginx\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nConnection: close\r\n\r\n"
    );
}

#[test]
fn pushed_fields_are_written_like_parsed_ones() {
    let mut head = ResponseHead::new(503);
    head.fields.push_known(Name::RetryAfter, b"1").unwrap();
    head.fields.push("X-Why", b"overload").unwrap();
    head.fields.push_known(Name::Connection, b"keep-alive").unwrap();
    let mut out = b"before".to_vec();
    write_response(
        &mut out,
        &head,
        Outgoing { body: BodyLength::Length(0), persistence: Persistence::Default },
    );
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "beforeHTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nX-Why: overload\r\nContent-Length: 0\r\n\r\n"
    );
}

#[test]
fn chunks_are_written_in_hexadecimal() {
    let header = |size| {
        let mut out = Vec::new();
        write_chunk_header(&mut out, size);
        String::from_utf8(out).unwrap()
    };
    for (size, want) in [(0, ""), (1, "1\r\n"), (15, "f\r\n"), (16, "10\r\n"), (0xabcd, "abcd\r\n")] {
        assert_eq!(header(size), want);
    }
    assert_eq!(header(usize::MAX), format!("{:x}\r\n", usize::MAX));

    let mut trailers = Fields::new();
    trailers.push("x-sum", b"1").unwrap();
    trailers.push("transfer-encoding", b"chunked").unwrap();
    let mut out = Vec::new();
    write_chunk(&mut out, b"hi");
    write_chunk(&mut out, b"");
    write_last_chunk(&mut out, &trailers);
    assert_eq!(String::from_utf8(out).unwrap(), "2\r\nhi\r\n0\r\nx-sum: 1\r\n\r\n");
}
