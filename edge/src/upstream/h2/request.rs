//! The head of a request on its way to an HTTP/2 upstream.

use crate::{
    h1::{BodyLength, Name, RequestHead, RequestTarget, Scheme},
    h2::hpack::{write_authority, write_field, write_method, write_path, write_scheme},
};

/// Appends the fields of a request's head (RFC 9113 section 8.3.1), as [`h1::write_request`](crate::h1::write_request) does for
/// HTTP/1.1. The target's host is not empty.
///
/// `Expect` is left out: with flow control the body costs nobody anything until the upstream wants it.
pub(crate) fn write_request(
    out: &mut Vec<u8>,
    head: &RequestHead,
    target: &RequestTarget<'_>,
    scheme: Scheme,
    body: BodyLength,
) {
    let is_text = |part: &str| part.bytes().all(|byte| byte.is_ascii_graphic());
    debug_assert!(is_text(target.path) && target.query.is_none_or(is_text), "checked before");
    debug_assert!(is_text(target.host) && !target.host.is_empty(), "checked before");
    write_method(out, head.method_str());
    write_scheme(out, scheme == Scheme::Https);
    write_authority(out, target.host);
    write_path(out, target.path, target.query);
    for field in head.fields.iter() {
        match field.tag {
            Name::Host | Name::ContentLength | Name::Expect => {}
            Name::Te => {
                if has_trailers(field.value) {
                    write_field(out, b"te", b"trailers");
                }
            }
            _ if field.hop_by_hop => {}
            _ => write_field(out, field.name, field.value),
        }
    }
    if let BodyLength::Length(length) = body {
        write_field(out, b"content-length", itoa::Buffer::new().format(length).as_bytes());
    }
}

fn has_trailers(te: &[u8]) -> bool {
    te.split(|byte| *byte == b',').any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        h1::Version,
        h2::hpack::{Decoder, Encoder, FieldLines, SectionLimits},
    };

    fn written(fields: &[(&str, &str)], body: BodyLength) -> Vec<String> {
        let mut head = RequestHead::from_parts("PURGE", "a.test", "/x?y", Version::Http11).unwrap();
        for (name, value) in fields {
            head.fields.push(name, value.as_bytes()).unwrap();
        }
        let mut block = vec![];
        Encoder::default().begin(&mut block);
        let target = RequestTarget { path: "/z", query: Some("y"), host: "up.test:8080" };
        write_request(&mut block, &head, &target, Scheme::Https, body);
        let mut lines = FieldLines::default();
        Decoder::default().decode(&block, SectionLimits { fields: 100, bytes: 9999 }, &mut lines).unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        lines.iter().map(|(name, value)| format!("{}: {}", text(name), text(value))).collect()
    }

    const PSEUDO: [&str; 4] = [":method: PURGE", ":scheme: https", ":authority: up.test:8080", ":path: /z?y"];

    #[test]
    fn what_is_the_connections_is_left_out() {
        let fields = [
            ("Host", "a.test"),
            ("Connection", "close"),
            ("Keep-Alive", "1"),
            ("Transfer-Encoding", "chunked"),
            ("Upgrade", "websocket"),
            ("Expect", "100-continue"),
            ("Content-Length", "9"),
            ("TE", "gzip"),
            ("X-Own", "V"),
        ];
        assert_eq!(written(&fields, BodyLength::Chunked), [&PSEUDO[..], &["x-own: V"]].concat());
    }

    #[test]
    fn a_length_and_the_wish_for_trailers_are_said() {
        let expect = [&PSEUDO[..], &["te: trailers", "content-length: 7"]].concat();
        assert_eq!(written(&[("te", "gzip, Trailers")], BodyLength::Length(7)), expect);
    }
}
