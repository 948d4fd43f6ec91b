//! What a request is (RFC 9113 section 8, RFC 8441, RFC 9110).

use super::*;

pub(super) fn all() -> Vec<Case> {
    let trailers = |fields: &[(&str, &str)]| frame(HEADERS, WHOLE, 1, &block(fields));
    let body = |bytes| frame(DATA, 0, 1, bytes);
    let last = |bytes| frame(DATA, END_STREAM, 1, bytes);
    let mut cases = vec![
        one("8.1", "GET", &[get(1)], ok(1)),
        one("8.1", "HEAD", &[fields(&[(":method", "HEAD"), SCHEME, PATH, HOST])], ok(1)),
        one("8.1", "POST", &[post(1, &[]), last(b"hello")], ok(1)),
        one("8.1", "POST with trailers", &[post(1, &[]), body(b"hello"), trailers(&[("x-sum", "1")])], ok(1)),
        one(
            "8.1",
            "trailers that do not end the stream",
            &[post(1, &[]), frame(HEADERS, END_HEADERS, 1, &block(&[("x", "y")]))],
            Resets(1, PROTOCOL),
        ),
        one("8.1", "requests at once", &[get(1), get(3), get(5), get(7)], ok(5)),
        one("8.1.1", "a length without a body", &[with(&[("content-length", "5")])], Resets(1, PROTOCOL)),
        one(
            "8.1.1",
            "a length that is not the body's",
            &[post(1, &[("content-length", "1")]), last(b"hello")],
            Resets(1, PROTOCOL),
        ),
        one(
            "8.1.1",
            "a length that is not the body's, of two frames",
            &[post(1, &[("content-length", "1")]), body(b"he"), last(b"llo")],
            Resets(1, PROTOCOL),
        ),
        one(
            "8.1.1",
            "a length that is more than the body",
            &[post(1, &[("content-length", "6")]), last(b"hello")],
            Resets(1, PROTOCOL),
        ),
        one(
            "8.1.1",
            "a length that is more than the body before trailers",
            &[post(1, &[("content-length", "6")]), body(b"hello"), trailers(&[("x", "y")])],
            Resets(1, PROTOCOL),
        ),
        one("8.1.1", "a length of nothing", &[with(&[("content-length", "0")])], ok(1)),
        one(
            "8.3",
            "a pseudo-header in trailers",
            &[post(1, &[]), body(b"x"), trailers(&[(":method", "GET")])],
            Resets(1, PROTOCOL),
        ),
        one(
            "8.3",
            "a name in uppercase in trailers",
            &[post(1, &[]), body(b"x"), trailers(&[("X-Sum", "1")])],
            Resets(1, PROTOCOL),
        ),
        one(
            "8.3",
            "a pseudo-header behind a field",
            &[fields(&[METHOD, SCHEME, HOST, ("x", "y"), PATH])],
            Resets(1, PROTOCOL),
        ),
        one("8.3.1", "an empty path", &[fields(&[METHOD, SCHEME, HOST, (":path", "")])], Resets(1, PROTOCOL)),
        one("8.3.1", "a fragment", &[fields(&[METHOD, SCHEME, HOST, (":path", "/#a")])], Answers(1, 400)),
        one(
            "8.3.1",
            "no authority but a host",
            &[fields(&[METHOD, SCHEME, PATH, ("host", "a.test")])],
            ok(1),
        ),
        one(
            "8.5",
            "CONNECT with a path",
            &[fields(&[(":method", "CONNECT"), HOST, PATH])],
            Resets(1, PROTOCOL),
        ),
        one("8.5", "CONNECT without an authority", &[fields(&[(":method", "CONNECT")])], Answers(1, 400)),
        one(
            "8441",
            "an extended CONNECT for what is not served",
            &[fields(&[(":method", "CONNECT"), (":protocol", "x"), SCHEME, PATH, HOST])],
            Answers(1, 501),
        ),
        one(
            "8441",
            ":protocol without CONNECT",
            &[with(&[("x", "y"), (":protocol", "websocket")])],
            Resets(1, PROTOCOL),
        ),
        one(
            "9110 10.1.1",
            "the body is asked for",
            &[post(1, &[("expect", "100-continue")]), last(b"hello")],
            ok(1),
        ),
        one("9110 10.1.1", "another expectation", &[with(&[("expect", "x")])], Answers(1, 417)),
    ];
    for field in [
        ("X-Upper", "y"),
        ("", "y"),
        (":x", "y"),
        (":status", "200"),
        ("connection", "keep-alive"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("te", "trailers, deflate"),
        ("x", "a\r\nb"),
        ("x", "a\0b"),
        ("x y", "z"),
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/"),
        (":authority", "a.test"),
    ] {
        // Pseudo-headers come first.
        let list = if field.0.starts_with(':') { [&[field], GET].concat() } else { [GET, &[field]].concat() };
        cases.push(one("8.2", "a field that no request has", &[fields(&list)], Resets(1, PROTOCOL)));
    }
    cases.push(one("8.2.2", "te: trailers", &[with(&[("te", "trailers")])], ok(1)));
    for missing in 0..3 {
        let list: Vec<_> =
            GET.iter().enumerate().filter(|(n, _)| *n != missing).map(|(_, field)| *field).collect();
        cases.push(one("8.3.1", "no method, no scheme or no path", &[fields(&list)], Resets(1, PROTOCOL)));
    }
    cases
}
