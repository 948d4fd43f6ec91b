//! Request smuggling: what two readers could read in two ways is refused, and what is not refused reaches the upstream in
//! one reading, byte for byte. Each vector has a connection of its own, and another request right behind it.

mod fields;

use std::net::Shutdown;

use crate::support::{Edge, Received, Upstream, proxy};

/// What becomes of a request.
#[derive(Debug, Clone, Copy)]
enum Verdict {
    /// It is answered with this status, the connection is closed, and no byte of it is sent on.
    Refused(u16),
    /// Its head was right and may have been sent on; of its body nothing that would end it was. The connection is closed.
    Cut,
    /// The upstream got a request of which the head ends like this, and these bytes behind it.
    Passed(&'static str, &'static str),
}
use Verdict::{Cut, Passed, Refused};

/// Behind each vector on the same connection: answered if the vector was passed, and never else.
const NEXT: &str = "GET /next HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// How the head that the upstream is to see begins.
const START: &str = "POST / HTTP/1.1\r\nHost: a.test\r\nx-forwarded-for: 127.0.0.1\r\nx-forwarded-proto: http\r\n\
                     x-forwarded-host: a.test\r\nx-request-id: ID\r\n";

/// What came, byte for byte but for the request's name, which is another each time.
fn text(received: &Received) -> String {
    let head = match received.header("x-request-id") {
        Some(id) => received.head.replace(id, "ID"),
        None => received.head.clone(),
    };
    head + &String::from_utf8_lossy(&received.raw)
}

/// Sends each request, and says which did not become what they should.
fn judge(vectors: &[(Vec<u8>, Verdict)]) {
    let upstream = Upstream::saying("x");
    let edge = Edge::start(&proxy(&upstream));
    let mut wrong = vec![];
    for (request, verdict) in vectors {
        let before = upstream.received().len();
        let mut client = edge.connect();
        client.send(request);
        client.send(NEXT);
        if matches!(verdict, Cut) {
            // Some wait for more. It may have been closed already.
            drop(client.stream.shutdown(Shutdown::Write));
        }
        let first = client.response_to("POST");
        let second = first.as_ref().and_then(|_| client.response_to("GET"));
        let got = upstream.received().split_off(before);
        let texts: Vec<_> = got.iter().map(text).collect();
        let status = first.as_ref().map(|response| response.status);
        let closes = first.as_ref().is_none_or(|response| response.header("connection") == Some("close"));
        let right = match *verdict {
            Refused(expected) => status == Some(expected) && closes && second.is_none() && got.is_empty(),
            Cut => {
                matches!(status, None | Some(400))
                    && second.is_none()
                    && got.len() <= 1
                    && got.iter().all(|request| {
                        request.header("transfer-encoding").is_some() && !request.raw.ends_with(b"0\r\n\r\n")
                    })
            }
            Passed(framing, body) => {
                let expected = format!("{START}{framing}\r\n{body}");
                status == Some(200)
                    && second.is_some_and(|response| response.status == 200)
                    && texts.len() == 2
                    && texts[0] == expected
                    && got[1].line() == "GET /next HTTP/1.1"
            }
        };
        if !right {
            let request = String::from_utf8_lossy(request);
            wrong.push(format!("{request:?}\n  should be {verdict:?}\n  was {status:?}, upstream {texts:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), vectors.len(), wrong.join("\n"));
}

/// A POST with these fields and this body.
fn post(fields: &[u8], body: &[u8]) -> Vec<u8> {
    [b"POST / HTTP/1.1\r\nHost: a.test\r\n", fields, b"\r\n\r\n", body].concat()
}

const CHUNKED: Verdict = Passed("Transfer-Encoding: chunked\r\n", "0\r\n\r\n");

#[rustfmt::skip]
const CODINGS: &[(&[u8], Verdict)] = &[
    (b"Transfer-Encoding: chunked", CHUNKED),
    (b"transfer-encoding: CHUNKED", CHUNKED),
    (b"Transfer-Encoding:chunked", CHUNKED),
    (b"Transfer-Encoding: \tchunked\t ", CHUNKED),
    (b"Transfer-Encoding: chunked\r\nConnection: Transfer-Encoding", CHUNKED),
    (b"Transfer-Encoding : chunked", Refused(400)),
    (b"Transfer-Encoding\t: chunked", Refused(400)),
    (b" Transfer-Encoding: chunked", Refused(400)),
    (b"X: y\r\n Transfer-Encoding: chunked", Refused(400)),
    (b"Transfer-Encoding: chunked, chunked", Refused(400)),
    (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", Refused(400)),
    (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", Refused(400)),
    (b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", Refused(400)),
    (b"Transfer-Encoding: identity", Refused(501)),
    (b"Transfer-Encoding: gzip, chunked", Refused(501)),
    (b"Transfer-Encoding: chunked, identity", Refused(400)),
    (b"Transfer-Encoding: xchunked", Refused(501)),
    (b"Transfer-Encoding: chunkedx", Refused(501)),
    (b"Transfer-Encoding: chunked;q=1", Refused(400)),
    (b"Transfer-Encoding: \"chunked\"", Refused(400)),
    (b"Transfer-Encoding: 'chunked'", Refused(501)),
    (b"Transfer-Encoding: chunked,", Refused(400)),
    (b"Transfer-Encoding: ,chunked", Refused(400)),
    (b"Transfer-Encoding: ", Refused(400)),
    (b"Transfer-Encoding: chun\xe2\x84\xaaed", Refused(400)),
    (b"Transfer-Encoding: \x0bchunked", Refused(400)),
    (b"Transfer-Encoding: \x0cchunked", Refused(400)),
    (b"Transfer-Encoding: chunked\0", Refused(400)),
    (b"Transfer-Encoding: \xa0chunked", Refused(400)),
    (b"Transfer-Encoding:\r\n chunked", Refused(400)),
    (b"Transfer-Encoding:\n chunked", Refused(400)),
    (b"Transfer-Encoding: chunked\rX: y", Refused(400)),
    (b"X: y\nTransfer-Encoding: chunked", Refused(400)),
    (b"X: y\rTransfer-Encoding: chunked", Refused(400)),
    (b"X: y\r\n\rTransfer-Encoding: chunked", Refused(400)),
    (b"Transfer_Encoding: chunked", Refused(400)),
    (b"Transfer-Encoding\0: chunked", Refused(400)),
    (b"Transfer-Encoding\xa0: chunked", Refused(400)),
    (b"\"Transfer-Encoding\": chunked", Refused(400)),
    (b"Transfer-Encoding", Refused(400)),
    (b"\x0bTransfer-Encoding: chunked", Refused(400)),
];

#[test]
fn a_transfer_coding_is_chunked_or_nothing_and_never_beside_a_length() {
    let mut vectors = vec![];
    for (coding, verdict) in CODINGS {
        vectors.push((post(coding, b"0\r\n\r\n"), *verdict));
        for both in
            [[b"Content-Length: 5\r\n", *coding].concat(), [coding, &b"\r\nContent-Length: 5"[..]].concat()]
        {
            // Whatever is wrong with the coding, there are two words on where the body ends.
            vectors.push((post(&both, b"0\r\n\r\n"), Refused(400)));
        }
        let older = [b"POST / HTTP/1.0\r\nHost: a.test\r\n", *coding, b"\r\n\r\n0\r\n\r\n"].concat();
        let verdict = if matches!(verdict, Passed(..) | Refused(501)) { Refused(400) } else { *verdict };
        vectors.push((older, verdict));
    }
    judge(&vectors);
}

#[test]
fn a_length_is_digits_once() {
    let five = Passed("Content-Length: 5\r\n", "hello");
    #[rustfmt::skip]
    let vectors: &[(&[u8], Verdict)] = &[
        (b"Content-Length: 5", five),
        (b"content-length:5", five),
        (b"Content-Length: \t5 \t", five),
        (b"Content-Length: 5\r\nConnection: Content-Length", five),
        (b"Content-Length: +5", Refused(400)),
        (b"Content-Length: -5", Refused(400)),
        (b"Content-Length: 05", Refused(400)),
        (b"Content-Length: 0x5", Refused(400)),
        (b"Content-Length: 5,5", Refused(400)),
        (b"Content-Length: 5, 5", Refused(400)),
        (b"Content-Length: 5, 6", Refused(400)),
        (b"Content-Length: 5;", Refused(400)),
        (b"Content-Length: 5 5", Refused(400)),
        (b"Content-Length: 5.0", Refused(400)),
        (b"Content-Length: 5e0", Refused(400)),
        (b"Content-Length: 1_0", Refused(400)),
        (b"Content-Length: \"5\"", Refused(400)),
        (b"Content-Length: \xef\xbc\x95", Refused(400)),
        (b"Content-Length: 5\x0b", Refused(400)),
        (b"Content-Length: 5\0", Refused(400)),
        (b"Content-Length: ", Refused(400)),
        (b"Content-Length: 18446744073709551616", Refused(400)),
        (b"Content-Length: 18446744073709551621", Refused(400)),
        (b"Content-Length: 5\r\nContent-Length: 5", Refused(400)),
        (b"Content-Length: 5\r\nContent-Length: 0", Refused(400)),
        (b"Content-Length: 5\r\nContent-Length:", Refused(400)),
        (b"Content-Length : 5", Refused(400)),
        (b"Content_Length: 5", Refused(400)),
        (b"Content-Length\0: 5", Refused(400)),
        (b"Content-Length:\r\n 5", Refused(400)),
        (b"X: y\nContent-Length: 5", Refused(400)),
        (b"X: y\rContent-Length: 5", Refused(400)),
        (b"\x0bContent-Length: 5", Refused(400)),
    ];
    judge(&vectors.iter().map(|(fields, verdict)| (post(fields, b"hello"), *verdict)).collect::<Vec<_>>());
}

#[test]
fn chunks_are_read_in_one_way() {
    let passed = |body| Passed("Transfer-Encoding: chunked\r\n", body);
    #[rustfmt::skip]
    let vectors: &[(&[u8], Verdict)] = &[
        (b"5\r\nhello\r\n0\r\n\r\n", passed("5\r\nhello\r\n0\r\n\r\n")),
        (b"0005\r\nhello\r\n000\r\n\r\n", passed("5\r\nhello\r\n0\r\n\r\n")),
        (b"a\r\n0\r\n\r\nhello\r\n0\r\n\r\n", passed("a\r\n0\r\n\r\nhello\r\n0\r\n\r\n")),
        (b"A\r\n0\r\n\r\nhello\r\n0\r\n\r\n", passed("a\r\n0\r\n\r\nhello\r\n0\r\n\r\n")),
        (b"5;a=b;c=\"d\"\r\nhello\r\n0;e\r\n\r\n", passed("5\r\nhello\r\n0\r\n\r\n")),
        (b"0\r\n\r\n", passed("0\r\n\r\n")),
        (b"5\nhello\r\n0\r\n\r\n", Cut),
        (b"5\r\nhello\n0\r\n\r\n", Cut),
        (b"5\r\nhello\r\n0\n\r\n", Cut),
        (b"5\r\nhello\r\n0\r\n\n", Cut),
        (b"5\r\nhello0\r\n\r\n", Cut),
        (b"5\r\nhellox\r\n0\r\n\r\n", Cut),
        (b"5\r\nhell\r\n0\r\n\r\n", Cut),
        (b"5\r\nhello\r0\r\n\r\n", Cut),
        (b"5\rhello\r\n0\r\n\r\n", Cut),
        (b"5\r\rhello\r\n0\r\n\r\n", Cut),
        (b"5;a\nb\r\nhello\r\n0\r\n\r\n", Cut),
        (b"5;a\rb\r\nhello\r\n0\r\n\r\n", Cut),
        (b"5;\0\r\nhello\r\n0\r\n\r\n", Cut),
        (b"+5\r\nhello\r\n0\r\n\r\n", Cut),
        (b"-0\r\n\r\n", Cut),
        (b"0x5\r\nhello\r\n0\r\n\r\n", Cut),
        (b" 5\r\nhello\r\n0\r\n\r\n", Cut),
        (b"5_0\r\nhello\r\n0\r\n\r\n", Cut),
        (b"5,0\r\nhello\r\n0\r\n\r\n", Cut),
        (b"5.\r\nhello\r\n0\r\n\r\n", Cut),
        (b"\xef\xbc\x95\r\nhello\r\n0\r\n\r\n", Cut),
        (b"\r\n5\r\nhello\r\n0\r\n\r\n", Cut),
        (b"g\r\nhello\r\n0\r\n\r\n", Cut),
        (b"\"5\"\r\nhello\r\n0\r\n\r\n", Cut),
        (b"10000000000000005\r\nhello\r\n0\r\n\r\n", Cut),
        (b"fffffffffffffffb\r\nhello\r\n0\r\n\r\n", Cut),
        (b"5\r\nhello\r\n0\r\nX: y\nZ: a\r\n\r\n", Cut),
        (b"5\r\nhello\r\n0\r\n X: y\r\n\r\n", Cut),
        (b"5\r\nhello\r\n0\r\nX : y\r\n\r\n", Cut),
        (b"5\r\nhello\r\n0\r\nX\r\n\r\n", Cut),
        (b"5\r\nhello\r\n0\r\nX: \0\r\n\r\n", Cut),
        (b"5\r\nhello\r\n0\r\nX: y\r\n\rZ: a\r\n\r\n", Cut),
        (b"5\r\nhello\r\n\r\n0\r\n\r\n", Cut),
        (b"5\r\nhello", Cut),
    ];
    let vectors = vectors.iter().map(|(body, verdict)| (post(b"Transfer-Encoding: chunked", body), *verdict));
    judge(&vectors.collect::<Vec<_>>());
}

#[test]
fn the_start_of_a_request_is_read_in_one_way() {
    let none = Passed("", "");
    #[rustfmt::skip]
    let vectors: &[(&[u8], Verdict)] = &[
        (b"POST / HTTP/1.1\r\nHost: a.test\r\n\r\n", none),
        (b"\r\nPOST / HTTP/1.1\r\nHost: a.test\r\n\r\n", none),
        (b"POST / HTTP/1.1\r\nHost: A.Test.\r\n\r\n", none),
        (b"POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", none),
        (b"POST http://A.TEST/ HTTP/1.1\r\nHost: a.test\r\n\r\n", none),
        (b"POST http://a.test HTTP/1.1\r\nHost: a.test\r\n\r\n", none),
        (b"POST /a/../ HTTP/1.1\r\nHost: a.test\r\n\r\n", none),
        (b"POST /./// HTTP/1.1\r\nHost: a.test\r\n\r\n", none),
        (b"POST http://b.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", Refused(400)),
        (b"POST http://a.test@b.test/ HTTP/1.1\r\nHost: b.test\r\n\r\n", Refused(400)),
        (b"POST http://a.test:81/ HTTP/1.1\r\nHost: a.test\r\n\r\n", Refused(400)),
        (b"POST a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", Refused(400)),
        (b"POST / HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n", Refused(400)),
        (b"POST / HTTP/1.1\r\nHost: a.test\r\nHost: a.test\r\n\r\n", Refused(400)),
        (b"POST / HTTP/1.1\r\nHost: a.test\r\nHOST : b.test\r\n\r\n", Refused(400)),
        (b"POST / HTTP/1.1\r\nHost: a.test, b.test\r\n\r\n", Refused(400)),
        (b"POST / HTTP/1.1\r\nHost: a.test b.test\r\n\r\n", Refused(400)),
        (b"POST / HTTP/1.1\r\nHost: a.test#b.test\r\n\r\n", Refused(400)),
        (b"POST / HTTP/1.1\r\nHost: a.test/b\r\n\r\n", Refused(400)),
        (b"POST / HTTP/1.1\r\nHost: a.test@b.test\r\n\r\n", Refused(400)),
        (b"POST / HTTP/1.1\r\nHost: a.test:80@b.test\r\n\r\n", Refused(400)),
        (b"POST / HTTP/1.1\r\nHost: a.test%00.b.test\r\n\r\n", Refused(400)),
        (b"POST / HTTP/1.1\r\nHost:\r\n\r\n", Refused(400)),
        (b"POST / HTTP/1.1\r\nX: y\r\n\r\n", Refused(400)),
        (b"POST / HTTP/1.1\r\n Host: a.test\r\n\r\n", Refused(400)),
        (b"POST / HTTP/1.1 HTTP/1.1\r\nHost: a.test\r\n\r\n", Refused(400)),
        (b"POST /a b HTTP/1.1\r\nHost: a.test\r\n\r\n", Refused(400)),
        (b"POST /\tHTTP/1.1\r\nHost: a.test\r\n\r\n", Refused(400)),
        (b"POST  / HTTP/1.1\r\nHost: a.test\r\n\r\n", Refused(400)),
        (b" POST / HTTP/1.1\r\nHost: a.test\r\n\r\n", Refused(400)),
        (b"P\xc3\x96ST / HTTP/1.1\r\nHost: a.test\r\n\r\n", Refused(400)),
        (b"POST /\xc3\x96 HTTP/1.1\r\nHost: a.test\r\n\r\n", Refused(400)),
        (b"POST /#a HTTP/1.1\r\nHost: a.test\r\n\r\n", Refused(400)),
        (b"POST /\\a HTTP/1.1\r\nHost: a.test\r\n\r\n", Refused(400)),
        (b"POST / HTTP/1.1\rHost: a.test\r\n\r\n", Refused(400)),
        (b"POST / HTTP/1.1\nHost: a.test\n\n", Refused(400)),
        (b"POST / HTTP/1.1\r\nHost: a.test\r\n\n", Refused(400)),
        (b"POST / HTTP/1.1\r\nHost: a.test\n\r\n", Refused(400)),
        (b"POST /\r\nHost: a.test\r\n\r\n", Refused(400)),
        (b"POST / HTTP/0.9\r\nHost: a.test\r\n\r\n", Refused(505)),
        (b"POST / HTTP/2.0\r\nHost: a.test\r\n\r\n", Refused(505)),
        (b"POST / HTTP/1.1x\r\nHost: a.test\r\n\r\n", Refused(400)),
        (b"POST / HTTP/01.1\r\nHost: a.test\r\n\r\n", Refused(400)),
        (b"PRI * HTTP/2.0\r\nHost: a.test\r\n\r\n", Refused(505)),
        (b"POST * HTTP/1.1\r\nHost: a.test\r\n\r\n", Refused(400)),
        (b"CONNECT a.test:80 HTTP/1.1\r\nHost: a.test:80\r\n\r\n", Refused(501)),
        (b"POST / HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue, x\r\n\r\n", Refused(417)),
        (b"POST / HTTP/1.1\r\nHost: a.test\r\nConnection: \0\r\n\r\n", Refused(400)),
        (b"POST / HTTP/1.1\r\nHost: a.test\r\nConnection: a b\r\n\r\n", Refused(400)),
        (b"POST / HTTP/1.1\r\nHost: a.test\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nConnection: Upgrade, HTTP2-Settings\r\n\r\n", none),
        (b"POST / HTTP/1.1\r\nHost: a.test\r\nConnection: Host\r\n\r\n", none),
        (b"POST / HTTP/1.1\r\nHost: a.test\r\nConnection: X-Forwarded-For\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n", none),
        (b"POST / HTTP/1.1\r\nHost: a.test\r\nKeep-Alive: timeout=1\r\nProxy-Connection: x\r\nTE: gzip\r\n\r\n", none),
    ];
    judge(&vectors.iter().map(|(request, verdict)| (request.to_vec(), *verdict)).collect::<Vec<_>>());
}
