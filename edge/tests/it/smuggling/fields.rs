//! Requests as lists of fields, by HTTP/2 and HTTP/3: what HTTP/1 has no words for must not become words of HTTP/1.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use tokio::time::timeout;

use super::{START, text};
use crate::{
    h3::{Served, serve},
    support::{Edge, PATIENCE, Upstream, proxy},
};

type Field = (&'static [u8], &'static [u8]);

/// A request, and what the upstream gets of it: `None` if nothing.
struct Vector {
    fields: &'static [Field],
    body: &'static [u8],
    passed: Option<(&'static str, &'static str)>,
}

const POST: Field = (b":method", b"POST");
const HTTPS: Field = (b":scheme", b"https");
const HOST: Field = (b":authority", b"a.test");
const ROOT: Field = (b":path", b"/");

/// A POST to `/` of `a.test` with one more field, which is refused.
macro_rules! refused {
    ($($name:literal: $value:literal),+) => {
        Vector { fields: &[POST, HTTPS, HOST, ROOT, $(($name, $value)),+], body: b"", passed: None }
    };
}

/// Not with a request's own four fields.
macro_rules! odd {
    ($($field:expr),*) => { Vector { fields: &[$($field),*], body: b"", passed: None } };
}

#[rustfmt::skip]
const VECTORS: &[Vector] = &[
    Vector { fields: &[POST, HTTPS, HOST, ROOT], body: b"", passed: Some(("", "")) },
    Vector { fields: &[POST, HTTPS, HOST, ROOT, (b"content-length", b"5")], body: b"hello", passed: Some(("Content-Length: 5\r\n", "hello")) },
    Vector { fields: &[POST, HTTPS, HOST, ROOT], body: b"0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n", passed: Some(("Transfer-Encoding: chunked\r\n", "1f\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n\r\n0\r\n\r\n")) },
    Vector { fields: &[POST, HTTPS, HOST, ROOT, (b"host", b"a.test")], body: b"", passed: Some(("", "")) },
    Vector { fields: &[POST, HTTPS, ROOT, (b"host", b"a.test")], body: b"", passed: Some(("", "")) },
    // A length that is not the body's.
    Vector { fields: &[POST, HTTPS, HOST, ROOT, (b"content-length", b"0")], body: b"GET /smuggled HTTP/1.1\r\n\r\n", passed: None },
    Vector { fields: &[POST, HTTPS, HOST, ROOT, (b"content-length", b"4")], body: b"hello", passed: None },
    Vector { fields: &[POST, HTTPS, HOST, ROOT, (b"content-length", b"6")], body: b"hello", passed: None },
    Vector { fields: &[POST, HTTPS, HOST, ROOT, (b"content-length", b"+5")], body: b"hello", passed: None },
    Vector { fields: &[POST, HTTPS, HOST, ROOT, (b"content-length", b"05")], body: b"hello", passed: None },
    Vector { fields: &[POST, HTTPS, HOST, ROOT, (b"content-length", b"5, 5")], body: b"hello", passed: None },
    Vector { fields: &[POST, HTTPS, HOST, ROOT, (b"content-length", b"")], body: b"hello", passed: None },
    Vector { fields: &[POST, HTTPS, HOST, ROOT, (b"content-length", b"5"), (b"content-length", b"6")], body: b"hello", passed: None },
    Vector { fields: &[POST, HTTPS, HOST, ROOT, (b"content-length", b"5"), (b"content-length", b"5")], body: b"hello", passed: None },
    // Fields of the connection.
    refused!(b"transfer-encoding": b"chunked"),
    refused!(b"transfer-encoding": b"identity"),
    refused!(b"transfer-encoding": b""),
    refused!(b"connection": b"close"),
    refused!(b"connection": b"keep-alive, transfer-encoding"),
    refused!(b"keep-alive": b"timeout=5"),
    refused!(b"proxy-connection": b"close"),
    refused!(b"upgrade": b"h2c"),
    refused!(b"te": b"trailers, chunked"),
    refused!(b"te": b"gzip"),
    // Ends of lines in what has none.
    refused!(b"x": b"a\r\nTransfer-Encoding: chunked"),
    refused!(b"x": b"a\nTransfer-Encoding: chunked"),
    refused!(b"x": b"a\rTransfer-Encoding: chunked"),
    refused!(b"x": b"a\r\n\r\nGET /smuggled HTTP/1.1"),
    refused!(b"x": b"a\0b"),
    refused!(b"x": b"\r\n"),
    refused!(b"x\r\ntransfer-encoding": b"chunked"),
    refused!(b"x\ntransfer-encoding": b"chunked"),
    refused!(b"x: y\r\nz": b"a"),
    refused!(b"x:": b"a"),
    refused!(b"transfer-encoding:": b"chunked"),
    refused!(b"transfer-encoding ": b"chunked"),
    refused!(b" transfer-encoding": b"chunked"),
    refused!(b"transfer_encoding": b"chunked"),
    refused!(b"Transfer-Encoding": b"chunked"),
    refused!(b"X": b"a"),
    refused!(b"x\0": b"a"),
    refused!(b"x y": b"a"),
    refused!(b"x\xff": b"a"),
    refused!(b"": b"a"),
    // Hosts in two words.
    refused!(b"host": b"b.test"),
    refused!(b"host": b"a.test:81"),
    refused!(b"host": b"a.test", b"host": b"a.test"),
    refused!(b"host": b"a.test", b"host": b"b.test"),
    odd!(POST, HTTPS, ROOT),
    odd!(POST, HTTPS, ROOT, (b":authority", b"")),
    odd!(POST, HTTPS, ROOT, (b":authority", b"u@a.test")),
    odd!(POST, HTTPS, ROOT, (b":authority", b"a.test b.test")),
    odd!(POST, HTTPS, ROOT, (b":authority", b"a.test\r\nx: y")),
    odd!(POST, HTTPS, ROOT, (b":authority", b"a.test/b")),
    odd!(POST, HTTPS, ROOT, (b":authority", b"a.test"), (b":authority", b"b.test")),
    // Request lines that would be others.
    odd!((b":method", b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\nPOST"), HTTPS, HOST, ROOT),
    odd!((b":method", b"GET /smuggled HTTP/1.1 POST"), HTTPS, HOST, ROOT),
    odd!((b":method", b"PO ST"), HTTPS, HOST, ROOT),
    odd!((b":method", b""), HTTPS, HOST, ROOT),
    odd!(POST, HTTPS, HOST, (b":path", b"/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\nX: y")),
    odd!(POST, HTTPS, HOST, (b":path", b"/a b")),
    odd!(POST, HTTPS, HOST, (b":path", b"/\tHTTP/1.1")),
    odd!(POST, HTTPS, HOST, (b":path", b"/a\0")),
    odd!(POST, HTTPS, HOST, (b":path", b"a")),
    odd!(POST, HTTPS, HOST, (b":path", b"")),
    odd!(POST, HTTPS, HOST, (b":path", b"*")),
    odd!(POST, HTTPS, HOST, (b":path", b"/#a")),
    odd!(POST, HTTPS, HOST, (b":path", b"http://b.test/")),
    odd!(POST, HTTPS, HOST),
    odd!(HTTPS, HOST, ROOT),
    odd!(POST, HOST, ROOT),
    odd!(POST, (b":scheme", b"https://b.test/?"), HOST, ROOT),
    odd!(POST, (b":scheme", b"ht\r\ntps"), HOST, ROOT),
    odd!(POST, HTTPS, HOST, ROOT, ROOT),
    odd!(POST, POST, HTTPS, HOST, ROOT),
    odd!(POST, HTTPS, HOST, ROOT, (b":status", b"200")),
    odd!(POST, HTTPS, HOST, ROOT, (b":x", b"y")),
    odd!(POST, HTTPS, HOST, (b"x", b"y"), ROOT),
    odd!(POST, HTTPS, HOST, ROOT, (b":protocol", b"websocket")),
];

/// What is wrong with what became of it.
fn wrong(vector: &Vector, accepted: bool, got: &[crate::support::Received]) -> Option<String> {
    let texts: Vec<_> = got.iter().map(text).collect();
    let right = match vector.passed {
        Some((framing, body)) => {
            let expected = format!("{START}{framing}\r\n{body}");
            accepted && texts.len() == 1 && texts[0].replace("proto: https", "proto: http") == expected
        }
        // A head whose body turns out to be another may have been sent on, but never as a whole request.
        None => {
            !accepted
                && got.iter().all(|request| {
                    let length =
                        request.header("content-length").and_then(|length| length.parse::<usize>().ok());
                    length.is_some_and(|length| request.raw.len() < length)
                })
        }
    };
    let fields: Vec<_> = vector
        .fields
        .iter()
        .map(|(name, value)| format!("{}: {}", name.escape_ascii(), value.escape_ascii()))
        .collect();
    (!right).then(|| {
        format!(
            "{fields:?} {:?}\n  passed: {:?}, accepted: {accepted}, upstream {texts:?}",
            vector.body.escape_ascii().to_string(),
            vector.passed
        )
    })
}

fn report(wrong: &[String]) {
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), VECTORS.len(), wrong.join("\n"));
}

#[test]
fn by_http_2() {
    let upstream = Upstream::saying("x");
    let edge = Edge::start(&proxy(&upstream));
    let mut found = vec![];
    for vector in VECTORS {
        let before = upstream.received().len();
        let accepted = ask_h2(&edge, vector);
        found.extend(wrong(vector, accepted, &upstream.received().split_off(before)));
    }
    report(&found);
}

/// Whether it is answered with 200.
fn ask_h2(edge: &Edge, vector: &Vector) -> bool {
    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
    }
    let mut block = vec![];
    for (name, value) in vector.fields {
        // As text that is not to be remembered (RFC 7541, 6.2.2): all are shorter than 127 bytes.
        block.extend([&[0, u8::try_from(name.len()).unwrap()][..], name].concat());
        block.extend([&[u8::try_from(value.len()).unwrap()][..], value].concat());
    }
    let last = u8::from(vector.body.is_empty());
    let mut stream = TcpStream::connect(edge.at(80)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut request = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    request.extend(frame(4, 0, 0, &[]));
    request.extend(frame(1, 4 | last, 1, &block));
    if last == 0 {
        request.extend(frame(0, 1, 1, vector.body));
    }
    stream.write_all(&request).unwrap();
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).is_err() {
            return false;
        }
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        if stream.read_exact(&mut payload).is_err() {
            return false;
        }
        match head[3] {
            // The size of a table comes first; 200 has a number of its own (RFC 7541, 4.2 and appendix A).
            1 => return payload.starts_with(&[0x20, 0x88]),
            3 | 7 => return false,
            _ => {}
        }
    }
}

#[test]
fn by_http_3() {
    let upstream = Upstream::saying("x");
    let served = serve(&upstream);
    let mut found = vec![];
    served.edge.runtime.block_on(async {
        for vector in VECTORS {
            let before = upstream.received().len();
            let accepted = ask_h3(&served, vector).await;
            found.extend(wrong(vector, accepted, &upstream.received().split_off(before)));
        }
    });
    report(&found);
}

async fn ask_h3(served: &Served, vector: &Vector) -> bool {
    // Without a dynamic table, names as they are (RFC 9204, 4.5.1 and 4.5.6): all are shorter than 127 bytes.
    let mut section = vec![0, 0];
    for (name, value) in vector.fields {
        match u8::try_from(name.len()).unwrap() {
            short @ 0..7 => section.push(0x20 | short),
            long => section.extend([0x27, long - 7]),
        }
        section.extend(*name);
        section.push(u8::try_from(value.len()).unwrap());
        section.extend(*value);
    }
    let mut request = Vec::new();
    edge::h3::write_frame_header(&mut request, edge::h3::FrameKind::Headers, section.len());
    request.extend(section);
    if !vector.body.is_empty() {
        edge::h3::write_frame_header(&mut request, edge::h3::FrameKind::Data, vector.body.len());
        request.extend(vector.body);
    }
    let (_endpoint, connection) = served.dial().await;
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    drop(send.write_all(&request).await);
    drop(send.finish());
    match timeout(PATIENCE, recv.read_to_end(10_000)).await.unwrap() {
        // Behind the frame's header and the section's prefix 200 has a number of its own (RFC 9204, appendix A).
        Ok(answer) => answer.get(4) == Some(&(0xc0 | 25)) || answer.get(5) == Some(&(0xc0 | 25)),
        Err(_) => false,
    }
}
