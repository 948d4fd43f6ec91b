//! What the HTTP/1.1 codec costs per request: `cargo bench -p edge --bench h1`.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use edge::h1::{
    BodyLength, BodyReader, Limits, Method, Name, Outgoing, Persistence, RequestParser, RequestTarget,
    ResponseParser, write_chunk, write_last_chunk, write_request, write_response,
};

/// What wrk sends.
const SMALL: &[u8] = b"GET /index.html HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n";

/// What a browser sends.
const BROWSER: &[u8] = b"GET /shop/items?page=2&sort=price HTTP/1.1\r\n\
    Host: shop.example.com\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
    Accept-Language: en-US,en;q=0.5\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Referer: https://shop.example.com/\r\n\
    Connection: keep-alive\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef; theme=dark; consent=yes\r\n\
    Upgrade-Insecure-Requests: 1\r\n\
    Sec-Fetch-Dest: document\r\n\
    Sec-Fetch-Mode: navigate\r\n\
    Sec-Fetch-Site: same-origin\r\n\
    Priority: u=0, i\r\n\r\n";

/// What nginx answers.
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
    Server: nginx/1.26.0\r\n\
    Date: Mon, 23 Nov 2026 22:00:00 GMT\r\n\
    Content-Type: text/html\r\n\
    Content-Length: 1024\r\n\
    Last-Modified: Mon, 23 Nov 2026 21:00:00 GMT\r\n\
    Connection: keep-alive\r\n\
    ETag: \"6742-400\"\r\n\
    Accept-Ranges: bytes\r\n\r\n";

fn parse(c: &mut Criterion) {
    let limits = Limits::default();
    for (name, input) in [("small", SMALL), ("browser", BROWSER)] {
        c.bench_function(&format!("parse request, {name}"), |b| {
            let mut parser = RequestParser::default();
            b.iter(|| parser.parse(black_box(input), &limits));
        });
        c.bench_function(&format!("httparse alone, {name}"), |b| {
            b.iter(|| {
                let mut headers = [httparse::EMPTY_HEADER; 100];
                httparse::Request::new(&mut headers).parse(black_box(input)).is_ok()
            });
        });
    }
    c.bench_function("parse response", |b| {
        let mut parser = ResponseParser::default();
        b.iter(|| parser.parse(black_box(RESPONSE), Method::Get, &limits));
    });
}

fn write(c: &mut Criterion) {
    let limits = Limits::default();
    let mut out = Vec::with_capacity(4096);
    for (name, input) in [("small", SMALL), ("browser", BROWSER)] {
        let parsed = RequestParser::default().parse(input, &limits).expect("well-formed").expect("complete");
        let head = parsed.head;
        c.bench_function(&format!("write request, {name}"), |b| {
            let outgoing = Outgoing { body: BodyLength::None, persistence: Persistence::Default };
            b.iter(|| {
                out.clear();
                let target = RequestTarget { path: head.path(), query: head.query(), host: head.authority() };
                write_request(&mut out, &head, &target, outgoing);
                black_box(&out);
            });
        });
        c.bench_function(&format!("set a field, {name}"), |b| {
            b.iter_batched_ref(
                || head.clone(),
                |head| head.fields.set_known(Name::XForwardedFor, black_box(b"203.0.113.7")),
                BatchSize::SmallInput,
            );
        });
    }
    let parsed = ResponseParser::default().parse(RESPONSE, Method::Get, &limits).expect("well-formed");
    let head = parsed.expect("complete").head;
    c.bench_function("write response", |b| {
        let outgoing = Outgoing { body: BodyLength::Length(1024), persistence: Persistence::Default };
        b.iter(|| {
            out.clear();
            write_response(&mut out, &head, outgoing);
            black_box(&out);
        });
    });
}

fn chunked(c: &mut Criterion) {
    let mut wire = Vec::new();
    for _ in 0..16 {
        write_chunk(&mut wire, &[b'x'; 1024]);
    }
    write_last_chunk(&mut wire, &edge::h1::Fields::new());
    c.bench_function("read 16 chunks of 1 KiB", |b| {
        b.iter(|| {
            let mut body = BodyReader::new(BodyLength::Chunked, &Limits::default());
            let mut rest = black_box(wire.as_slice());
            while let Ok(step) = body.step(rest) {
                rest = &rest[step.consumed()..];
                if step.data == 0 {
                    break;
                }
            }
            body.is_done()
        });
    });
}

criterion_group!(benches, parse, write, chunked);
criterion_main!(benches);
