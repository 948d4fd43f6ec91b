//! The parsers, and what is true of each.

use std::fmt::Debug;

use edge::{
    h1::{
        BodyLength, BodyReader, Fields, Limits, Method, Outgoing, Persistence, RequestParser, RequestTarget,
        ResponseParser, write_request,
    },
    h3::{self, qpack},
    hello::HelloReader,
    proxy,
};
use model::ProxyVersion;

use super::{Target, reference};

/// An error in a word: its form without what it holds.
pub(super) fn word(error: &impl Debug) -> String {
    let text = format!("{error:?}");
    text.chars().filter(|c| c.is_ascii_alphabetic() || *c == '(').take(60).collect()
}

/// Where an input is cut to be read in pieces: not everywhere, since that takes long, but somewhere else for each input.
fn cuts(input: &[u8]) -> impl Iterator<Item = usize> {
    let step =
        1 + input.iter().fold(input.len(), |sum, b| sum.wrapping_mul(31).wrapping_add(usize::from(*b))) % 23;
    (0..input.len()).step_by(step)
}

/// What is read of the input as more and more of it comes: the first that is not `Ok(None)`.
fn in_pieces<T, E>(
    input: &[u8],
    mut read: impl FnMut(&[u8]) -> Result<Option<T>, E>,
) -> Result<Option<T>, E> {
    let early = cuts(input).map(|cut| read(&input[..cut])).find(|read| !matches!(read, Ok(None)));
    early.unwrap_or_else(|| read(input))
}

/// Names in lowercase, and values.
fn pairs(fields: &Fields) -> Vec<(Vec<u8>, Vec<u8>)> {
    fields.iter().map(|field| (field.name.to_ascii_lowercase(), field.value.to_vec())).collect()
}

pub(super) const REQUEST: Target = Target {
    name: "request",
    run: request,
    words: &[
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b":",
        b"\0",
        b",",
        b"GET",
        b"POST",
        b"OPTIONS",
        b"CONNECT",
        b"*",
        b"/",
        b"//",
        b"..",
        b"%2f",
        b"?",
        b"#",
        b"http://",
        b"@",
        b"[::1]",
        b":80",
        b"HTTP/1.0",
        b"HTTP/1.1",
        b"HTTP/1.9",
        b"Host: a.test\r\n",
        b"Host",
        b"Content-Length: 5\r\n",
        b"Content-Length",
        b"Transfer-Encoding: chunked\r\n",
        b"chunked",
        b"Connection: close\r\n",
        b"Connection: upgrade, x-a\r\n",
        b"Upgrade: websocket\r\n",
        b"Expect: 100-continue\r\n",
        b"X-A: b\r\n",
        b"_",
        b"\x7f",
        b"\xff",
        b"Cookie: a=b\r\n",
        b"TE: trailers\r\n",
    ],
};

fn request(input: &[u8]) -> String {
    let limits = Limits { connect: true, ..Limits::default() };
    let read = |input: &[u8]| RequestParser::default().parse(input, &limits);
    let whole = read(input);
    let mut parser = RequestParser::default();
    let pieces = in_pieces(input, |begun| parser.parse(begun, &limits));
    assert_eq!(format!("{pieces:?}"), format!("{whole:?}"), "in pieces");
    let parsed = match whole {
        Ok(Some(parsed)) => parsed,
        Ok(None) => return "incomplete".into(),
        Err(error) => return word(&error),
    };
    let head = &parsed.head;
    // The second reader sees the same.
    let other = reference::head(input).expect("the second reader refuses it");
    assert_eq!((other.len, &other.start[0][..]), (parsed.consumed, head.method_str().as_bytes()));
    assert!(other.start[2].starts_with(b"HTTP/1.") && other.start[2].len() == 8);
    assert_eq!(other.fields, pairs(&head.fields));
    let (length, coding) = (other.all("content-length"), other.all("transfer-encoding"));
    let body = match (&length[..], &coding[..]) {
        ([], []) => BodyLength::None,
        ([length], []) => BodyLength::Length(std::str::from_utf8(length).unwrap().parse().unwrap()),
        ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") => BodyLength::Chunked,
        _ => panic!("two words on where the body ends"),
    };
    assert_eq!(parsed.framing.body, body);
    assert!(other.all("host").len() <= 1);
    // What we write of it reads the same, and nothing of its framing is another.
    let mut out = Vec::new();
    let target = RequestTarget { path: head.path(), query: head.query(), host: head.authority() };
    write_request(&mut out, head, &target, Outgoing { body, persistence: Persistence::Default });
    if head.method_str() != "CONNECT" && !head.host().is_empty() {
        let again = read(&out).unwrap().unwrap();
        assert_eq!((again.consumed, again.framing.body), (out.len(), body));
        assert_eq!(
            (again.head.host(), again.head.method_str(), again.head.path(), again.head.query()),
            (head.host(), head.method_str(), head.path(), head.query())
        );
    }
    format!(
        "{body:?} {} {:?} {} {:?}",
        parsed.framing.keep_alive,
        parsed.framing.upgrade,
        parsed.framing.expect_continue,
        head.version()
    )
}

pub(super) const RESPONSE: Target = Target {
    name: "response",
    run: response,
    words: &[
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b":",
        b"\0",
        b"HTTP/1.0",
        b"HTTP/1.1",
        b"100",
        b"101",
        b"103",
        b"200",
        b"204",
        b"304",
        b"999",
        b"OK",
        b"Content-Length: 5\r\n",
        b"Content-Length",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: gzip\r\n",
        b"Connection: close\r\n",
        b"Connection: keep-alive\r\n",
        b"Upgrade: websocket\r\n",
        b"X_A: b\r\n",
        b"\t",
        b"\xff",
        b",",
    ],
};

fn response(input: &[u8]) -> String {
    let limits = Limits::default();
    let mut outcome = String::new();
    for method in [Method::Get, Method::Head] {
        let whole = ResponseParser::default().parse(input, method, &limits);
        let mut parser = ResponseParser::default();
        let pieces = in_pieces(input, |begun| parser.parse(begun, method, &limits));
        assert_eq!(format!("{pieces:?}"), format!("{whole:?}"), "in pieces");
        outcome = match whole {
            Ok(Some(parsed)) => {
                let other = reference::head(input).expect("the second reader refuses it");
                assert_eq!(other.len, parsed.consumed);
                assert_eq!(std::str::from_utf8(&other.start[1]).unwrap().parse(), Ok(parsed.head.status()));
                assert_eq!(other.fields, pairs(&parsed.head.fields));
                let bodiless =
                    method == Method::Head || matches!(parsed.head.status(), 100..=199 | 204 | 304);
                assert!(!bodiless || parsed.framing.body == BodyLength::None, "a body where there is none");
                format!("{outcome} {:?}", parsed.framing)
            }
            Ok(None) => format!("{outcome} incomplete"),
            Err(error) => outcome + &word(&error),
        };
    }
    outcome
}

pub(super) const CHUNKED: Target = Target {
    name: "chunked",
    run: chunked,
    words: &[
        b"\r\n",
        b"\n",
        b"\r",
        b"0\r\n\r\n",
        b"5\r\nhello\r\n",
        b"0",
        b"00",
        b"a",
        b"F",
        b"ffffffffffffffff",
        b"7fffffff",
        b";",
        b";a=b",
        b" ",
        b"\t",
        b"X: y\r\n",
        b"X",
        b":",
        b"\0",
        b"g",
        b"+",
        b"-",
        b"0x",
        b"\"",
    ],
};

fn chunked(input: &[u8]) -> String {
    /// The data, the bytes read, and whether it is the end; or the error.
    fn read(input: &[u8], cuts: impl Iterator<Item = usize>) -> Result<(Vec<u8>, usize, bool), String> {
        let mut body = BodyReader::new(BodyLength::Chunked, &Limits::default());
        let (mut data, mut at) = (vec![], 0);
        for cut in cuts.chain([input.len()]) {
            while at <= cut && !body.is_done() {
                let step = body.step(&input[at..cut]).map_err(|error| word(&error))?;
                data.extend_from_slice(&input[at + step.skip..at + step.consumed()]);
                at += step.consumed();
                if step.data == 0 {
                    break;
                }
            }
        }
        Ok((data, at, body.is_done()))
    }
    let whole = read(input, std::iter::empty());
    let pieces = read(input, cuts(input));
    assert_eq!(pieces.as_ref().err(), whole.as_ref().err(), "in pieces");
    match whole {
        Err(error) => error,
        Ok((data, len, done)) => {
            if done {
                assert_eq!(pieces.unwrap(), (data.clone(), len, done), "in pieces");
                assert_eq!(reference::chunked(input), Ok(Some((data.clone(), len))), "the second reader");
            }
            format!("{done} {}", data.len().min(9))
        }
    }
}

pub(super) const PROXY: Target = Target {
    name: "proxy",
    run: proxy_header,
    words: &[
        b"PROXY ",
        b"TCP4 ",
        b"TCP6 ",
        b"UNKNOWN",
        b"127.0.0.1 ",
        b"::1 ",
        b"65535 ",
        b"80",
        b"0",
        b"00",
        b"\r\n",
        b"\n",
        b" ",
        b"\r\n\r\n\0\r\nQUIT\n",
        b"\x21",
        b"\x20",
        b"\x11",
        b"\x21",
        b"\x31",
        b"\0\x0c",
        b"\0\x24",
        b"\0",
        b"\xff",
        b"\x01\0",
    ],
};

fn proxy_header(input: &[u8]) -> String {
    let whole = proxy::parse(input);
    assert_eq!(in_pieces(input, proxy::parse), whole, "in pieces");
    match whole {
        Ok(Some(header)) => {
            assert!(header.len <= input.len());
            for version in [ProxyVersion::V1, ProxyVersion::V2] {
                let Some(hop) = header.hop.filter(|hop| hop.source.is_ipv4() == hop.destination.is_ipv4())
                else {
                    continue;
                };
                let mut out = vec![];
                proxy::write(version, &hop, &mut out);
                assert_eq!(proxy::parse(&out), Ok(Some(proxy::Header { len: out.len(), hop: Some(hop) })));
            }
            format!("{:?}", header.hop.map(|hop| hop.source.is_ipv6()))
        }
        Ok(None) => "incomplete".into(),
        Err(error) => word(&error),
    }
}

pub(super) const HELLO: Target = Target {
    name: "hello",
    run: hello,
    words: &[
        b"\x16\x03\x01",
        b"\x16\x03\x03",
        b"\x17",
        b"\x01\0",
        b"\0\0",
        b"\0",
        b"\xff\xff",
        b"\x03\x03",
        b"\0\x05a.test",
        b"a",
        b".",
        b"A",
        b"-",
        b"xn--",
        b"\0\x10",
        b"\0\x2b",
        b"\xfe\x0d",
        b"127.0.0.1",
    ],
};

fn hello(input: &[u8]) -> String {
    let whole = HelloReader::default().advance(input);
    let mut reader = HelloReader::default();
    assert_eq!(in_pieces(input, |begun| reader.advance(begun)), whole, "in pieces");
    match whole {
        Ok(Some(hello)) => {
            // Where rustls reads a hello as well, it reads the same name.
            let mut acceptor = rustls::server::Acceptor::default();
            let taken = acceptor.read_tls(&mut &*input).is_ok();
            if taken && let Ok(Some(accepted)) = acceptor.accept() {
                let theirs = accepted.client_hello().server_name().map(str::to_ascii_lowercase);
                assert_eq!(hello.server_name.as_deref(), theirs.as_deref());
                return format!("both {}", hello.server_name.is_some());
            }
            format!("ours {}", hello.server_name.is_some())
        }
        Ok(None) => "incomplete".into(),
        Err(error) => format!("{error}"),
    }
}

pub(super) const FRAMES: Target = Target {
    name: "frames",
    run: frames,
    words: &[
        b"\0",
        b"\x01",
        b"\x04",
        b"\x06",
        b"\x07",
        b"\x08",
        b"\x0d",
        b"\x21",
        b"\x33",
        b"\x3f",
        b"\x40\x21",
        b"\x7f\xff",
        b"\x80\0\0\x01",
        b"\xc0\0\0\0\0\0\0\x01",
        b"\xff",
    ],
};

fn frames(input: &[u8]) -> String {
    let (mut rest, mut count, mut outcome) = (input, 0, String::new());
    while let Some(header) = h3::frame_header(rest) {
        assert!(header.size <= rest.len() && header.length <= h3::VARINT_MAX);
        let mut out = vec![];
        h3::write_varint(&mut out, header.length);
        assert_eq!(h3::varint(&out), Some((header.length, out.len())), "the shortest form");
        rest = &rest[header.size..];
        let Some(payload) = usize::try_from(header.length).ok().and_then(|length| rest.get(..length)) else {
            break;
        };
        if count < 1 {
            outcome += &word(&header.kind);
        }
        if header.kind == h3::FrameKind::Settings && count < 2 {
            outcome += &match h3::Settings::parse(payload) {
                Ok(settings) => format!("{}", settings.max_field_section.is_some()),
                Err(code) => word(&code),
            };
        }
        rest = &rest[payload.len()..];
        count += 1;
    }
    format!("{outcome} {}", rest.len().min(3))
}

pub(super) const FIELDS: Target = Target {
    name: "fields",
    run: fields,
    words: &[
        b"\0\0",
        b"\xc0",
        b"\xd1",
        b"\xff",
        b"\xff\x24",
        b"\x50",
        b"\x5f",
        b"\x51\x04test",
        b"\x21a",
        b"\x27\0abcdefg",
        b"\x2a\x94\xe7",
        b"\x81\x1f",
        b"\x82\xff\xff",
        b"\x80",
        b"\x7f\x80\x01",
        b"\x10",
    ],
};

fn fields(input: &[u8]) -> String {
    let limits = qpack::SectionLimits { fields: 20, bytes: 2000 };
    let lines = match qpack::decode(input, limits) {
        Ok(lines) => lines,
        Err(error) => return word(&error),
    };
    let read: Vec<_> =
        lines.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.to_vec())).collect();
    assert!(
        read.len() <= 20
            && read.iter().map(|(name, value)| name.len() + value.len() + 32).sum::<usize>() <= 2000
    );
    let mut out = vec![];
    qpack::begin(&mut out);
    for (name, value) in &read {
        qpack::write_field(&mut out, name, value);
    }
    let again = qpack::decode(&out, limits).unwrap();
    let again: Vec<_> = again.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
    assert_eq!(again, read);
    format!("{}", read.len())
}

pub(super) const PATH: Target = Target {
    name: "path",
    run: path,
    words: &[
        b"/", b"//", b".", b"..", b"/.", b"/..", b"/../", b"%2e", b"%2E%2e", b"%2f", b"%5c", b"\\", b"%",
        b"%4", b"%41", b"%7e", b"%00", b"%c3%a9", b";", b"?", b"#", b"\0", b"\x7f", b" ", b"a",
    ],
};

fn path(input: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(input) else { return "text".into() };
    let form = match model::path::canonical(text) {
        Ok(form) => form.into_owned(),
        Err(error) => return word(&error),
    };
    assert_eq!(model::path::canonical(&form).as_deref(), Ok(&*form), "once more");
    assert!(form.starts_with('/') && !form.contains("//") && !form.contains('\\') && form.is_ascii());
    assert!(form.split('/').all(|segment| segment != "." && segment != ".."), "{form}");
    for hidden in ["%2f", "%5c", "%2e", "%00"] {
        assert!(!form.to_ascii_lowercase().contains(hidden), "{form}");
    }
    // A second reading of RFC 3986, sections 5.2.4 and 6.2.2: as many segments are left.
    let mut left: Vec<String> = vec![];
    let decoded = percent(text);
    for segment in decoded.split('/').skip(1).filter(|segment| !segment.is_empty()) {
        match segment {
            "." => {}
            ".." => drop(left.pop()),
            _ => left.push(segment.to_owned()),
        }
    }
    let segments: Vec<_> =
        form.split('/').skip(1).filter(|segment| !segment.is_empty()).map(percent).collect();
    assert_eq!(segments, left, "{form}");
    format!("{} {}", form == text, left.len().min(4))
}

/// Without percent-encoding; bytes that are no text are shown as they were.
fn percent(text: &str) -> String {
    let (mut out, mut rest) = (String::new(), text.as_bytes());
    while let Some((&byte, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| byte == b'%') {
            Some(code) => {
                out.push(char::from(code));
                rest = &after[2..];
            }
            None => {
                out.push(char::from(byte));
                rest = after;
            }
        }
    }
    out
}
