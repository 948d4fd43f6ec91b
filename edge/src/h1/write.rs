//! Writing messages: always from the parsed model, with our own framing.

use super::{
    fields::{Field, Fields},
    framing::{BodyLength, list},
    head::{RequestHead, ResponseHead},
    name::Name,
};

/// What the message being written says of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persistence {
    /// Nothing: the version's default holds, which is to stay open for HTTP/1.1.
    Default,
    /// `Connection: keep-alive`, for a client of HTTP/1.0, and for how long an idle connection stays.
    KeepAlive {
        /// `Keep-Alive: timeout=`, in seconds.
        timeout_s: u16,
    },
    /// `Connection: close`.
    Close,
    /// `Connection: upgrade`, and the head's `Upgrade` field is kept.
    Upgrade,
}

/// The framing of the message being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outgoing {
    /// How its body is framed. `None` and `UntilClose` write no framing field at all. For the answer to HEAD, and
    /// for 304, the length that the upstream declared.
    pub body: BodyLength,
    /// What it says of the connection.
    pub persistence: Persistence,
}

/// What the request line and `Host` of a forwarded request say: from a checked head or a checked config.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestTarget<'a> {
    /// The path, or `*`, or the authority for CONNECT; never empty.
    pub path: &'a str,
    /// The query without its `?`.
    pub query: Option<&'a str>,
    /// The value of `Host`.
    pub host: &'a str,
}

/// Appends the head of a request to `out`, always as HTTP/1.1.
///
/// Hop-by-hop fields, `Host` and `Content-Length` of `head` are left out and ours are written; of `TE` only
/// `trailers` is kept. `Expect` is forwarded: a caller that answers it itself removes it from the fields.
pub fn write_request(out: &mut Vec<u8>, head: &RequestHead, target: &RequestTarget<'_>, outgoing: Outgoing) {
    let RequestTarget { path, query, host } = *target;
    let is_text = |part: &str| part.bytes().all(|byte| byte.is_ascii_graphic());
    debug_assert!(is_text(path) && query.is_none_or(is_text) && is_text(host), "checked before");
    let query = query.map(str::as_bytes);
    reserve(out, &head.fields, path.len() + query.map_or(0, <[u8]>::len) + host.len());

    put(out, &[head.method_str().as_bytes(), b" ", path.as_bytes()]);
    if let Some(query) = query {
        put(out, &[b"?", query]);
    }
    put(out, &[b" HTTP/1.1\r\nHost: ", host.as_bytes(), b"\r\n"]);
    for field in head.fields.iter() {
        match field.tag {
            Name::Host => {}
            Name::Te => {
                if list(field.value).any(|coding| coding.eq_ignore_ascii_case(b"trailers")) {
                    put(out, &[b"TE: trailers\r\n"]);
                }
            }
            _ => write_forwarded(out, &field, outgoing.persistence),
        }
    }
    finish(out, outgoing);
}

/// Appends the head of a response to `out`, always as HTTP/1.1. Hop-by-hop fields and `Content-Length` of `head`
/// are left out and ours are written.
pub fn write_response(out: &mut Vec<u8>, head: &ResponseHead, outgoing: Outgoing) {
    let reason = head.reason();
    reserve(out, &head.fields, reason.len());
    put(out, &[b"HTTP/1.1 ", &digits(head.status()), b" ", reason, b"\r\n"]);
    for field in head.fields.iter() {
        write_forwarded(out, &field, outgoing.persistence);
    }
    finish(out, outgoing);
}

/// Appends data as one chunk; nothing if there is none, since an empty chunk would end the body.
pub fn write_chunk(out: &mut Vec<u8>, data: &[u8]) {
    if !data.is_empty() {
        write_chunk_header(out, data.len());
        put(out, &[data, b"\r\n"]);
    }
}

/// Appends a chunk's line; `size` bytes of data and CR LF follow. Nothing for a size of 0.
pub fn write_chunk_header(out: &mut Vec<u8>, size: usize) {
    let Some(bits) = size.checked_ilog2() else { return };
    for nibble in (0..=bits / 4).rev() {
        out.push(b"0123456789abcdef"[(size >> (nibble * 4)) & 0xf]);
    }
    put(out, &[b"\r\n"]);
}

/// Appends the last chunk, the trailer fields and the end of the body.
pub fn write_last_chunk(out: &mut Vec<u8>, trailers: &Fields) {
    put(out, &[b"0\r\n"]);
    for field in trailers.iter() {
        write_forwarded(out, &field, Persistence::Default);
    }
    put(out, &[b"\r\n"]);
}

fn write_forwarded(out: &mut Vec<u8>, field: &Field<'_>, persistence: Persistence) {
    let keep = match field.tag {
        Name::ContentLength => false,
        Name::Upgrade => persistence == Persistence::Upgrade,
        _ => !field.hop_by_hop,
    };
    if keep {
        put(out, &[field.name, b": ", field.value, b"\r\n"]);
    }
}

/// Our own framing, and the end of the head.
fn finish(out: &mut Vec<u8>, outgoing: Outgoing) {
    let mut number = itoa::Buffer::new();
    match outgoing.body {
        BodyLength::None | BodyLength::UntilClose => {}
        BodyLength::Chunked => put(out, &[b"Transfer-Encoding: chunked\r\n"]),
        BodyLength::Length(length) => {
            put(out, &[b"Content-Length: ", number.format(length).as_bytes(), b"\r\n"]);
        }
    }
    match outgoing.persistence {
        Persistence::Default => put(out, &[b"\r\n"]),
        Persistence::KeepAlive { timeout_s } => {
            let timeout = number.format(timeout_s).as_bytes();
            put(out, &[b"Connection: keep-alive\r\nKeep-Alive: timeout=", timeout, b"\r\n\r\n"]);
        }
        Persistence::Close => put(out, &[b"Connection: close\r\n\r\n"]),
        Persistence::Upgrade => put(out, &[b"Connection: upgrade\r\n\r\n"]),
    }
}

/// Makes room for the whole head at once.
fn reserve(out: &mut Vec<u8>, fields: &Fields, start_line: usize) {
    const FRAMING: usize = 128;
    out.reserve(start_line + fields.text().len() + 4 * fields.len() + FRAMING);
}

fn digits(status: u16) -> [u8; 3] {
    [status / 100, status / 10, status].map(|digit| b'0' + (digit % 10) as u8)
}

fn put(out: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
}
