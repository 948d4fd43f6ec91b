//! The head of a response that came by HTTP/2, read as strictly as one of HTTP/1.

use crate::{
    h1::{
        BodyLength, Fields, FramingError, HeadError, Name, ResponseError, ResponseFraming, ResponseHead,
        content_length,
    },
    section::{FieldLines, is_name},
};

/// What a head says.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) head: ResponseHead,
    /// Bytes of the body that it declares.
    pub(super) length: Option<u64>,
}

/// The head of a response, be it an interim one.
///
/// # Errors
/// It is malformed (RFC 9113 sections 8.1.1, 8.2 and 8.3.2), or has more than `most` fields.
pub(super) fn read(lines: &FieldLines, most: usize) -> Result<Said, ResponseError> {
    let (mut status, mut length) = (None, None);
    let mut fields = Fields::with_room(lines);
    for (name, value) in lines.iter() {
        if name.first() == Some(&b':') {
            let first = status.is_none() && fields.is_empty() && length.is_none();
            if name != b":status" || !first {
                return Err(HeadError::StartLine.into());
            }
            status = Some(read_status(value).ok_or(ResponseError::Status)?);
            continue;
        }
        if !is_name(name) {
            return Err(HeadError::FieldName.into());
        }
        match Name::of(name) {
            Name::ContentLength if length.is_some() => return Err(FramingError::LengthRepeated.into()),
            Name::ContentLength => length = Some(content_length(value).ok_or(FramingError::Length)?),
            // Those of the connection.
            Name::Connection
            | Name::KeepAlive
            | Name::ProxyConnection
            | Name::TransferEncoding
            | Name::Upgrade => return Err(ResponseError::Connection),
            _ => push(&mut fields, name, value)?,
        }
    }
    let mut head = ResponseHead::new(status.ok_or(HeadError::StartLine)?);
    if fields.len() + usize::from(length.is_some()) > most {
        return Err(HeadError::TooManyFields.into());
    }
    head.fields = fields;
    Ok(Said { head, length })
}

/// Three digits of a status that HTTP/2 has: it has no 101 (RFC 9113 section 8.6).
fn read_status(text: &[u8]) -> Option<u16> {
    let &[hundreds @ b'1'..=b'5', tens @ b'0'..=b'9', ones @ b'0'..=b'9'] = text else { return None };
    let digit = |byte: u8| u16::from(byte - b'0');
    let status = digit(hundreds) * 100 + digit(tens) * 10 + digit(ones);
    (status != 101).then_some(status)
}

fn push(fields: &mut Fields, name: &[u8], value: &[u8]) -> Result<(), ResponseError> {
    let name = std::str::from_utf8(name).map_err(|_| HeadError::FieldName)?;
    fields.push_trimmed(name, value).map_err(|_| HeadError::Control.into())
}

/// Whether the answer to such a request has a body, if it does not say otherwise.
pub(super) fn has_body(status: u16, to_head: bool) -> bool {
    !to_head && !matches!(status, 204 | 304)
}

/// How the body of a final response is framed.
pub(super) fn framing(has_body: bool, ended: bool, declared_length: Option<u64>) -> ResponseFraming {
    let body = match declared_length {
        _ if ended || !has_body => BodyLength::None,
        Some(length) => BodyLength::Length(length),
        None => BodyLength::Chunked,
    };
    ResponseFraming { body, declared_length, keep_alive: true, interim: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h2::hpack::{Decoder, SectionLimits, write_field};

    /// The status and the fields, or the label of what is wrong.
    fn verdict(fields: &[(&str, &str)]) -> String {
        let mut block = vec![];
        for (name, value) in fields {
            if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
                block.extend([0, u8::try_from(name.len()).unwrap()]);
                block.extend(name.bytes());
                block.push(u8::try_from(value.len()).unwrap());
                block.extend(value.bytes());
            } else {
                write_field(&mut block, name.as_bytes(), value.as_bytes());
            }
        }
        let mut lines = FieldLines::default();
        Decoder::default().decode(&block, SectionLimits { fields: 99, bytes: 9999 }, &mut lines).unwrap();
        match read(&lines, 3) {
            Ok(Said { head, length }) => format!("{} {} {length:?}", head.status(), head.fields.len()),
            Err(error) => error.kind().to_owned(),
        }
    }

    #[test]
    fn heads_are_read_or_named() {
        for (fields, expect) in [
            (&[(":status", "200")][..], "200 0 None"),
            (&[(":status", "599"), ("content-length", "7"), ("x", " y ")], "599 1 Some(7)"),
            (&[(":status", "103"), ("link", "a"), ("link", "b")], "103 2 None"),
            (&[], "start_line"),
            (&[("x", "y")], "start_line"),
            (&[("x", "y"), (":status", "200")], "start_line"),
            (&[("content-length", "1"), (":status", "200")], "start_line"),
            (&[(":status", "200"), (":status", "200")], "start_line"),
            (&[(":status", "200"), (":path", "/")], "start_line"),
            (&[(":status", "101")], "status"),
            (&[(":status", "099")], "status"),
            (&[(":status", "600")], "status"),
            (&[(":status", "20")], "status"),
            (&[(":status", "0200")], "status"),
            (&[(":status", "+20")], "status"),
            (&[(":status", "200"), ("Upper", "x")], "field_name"),
            (&[(":status", "200"), ("", "x")], "field_name"),
            (&[(":status", "200"), ("a b", "x")], "control_character"),
            (&[(":status", "200"), ("x", "a\r\nb")], "control_character"),
            (&[(":status", "200"), ("x", "a\0")], "control_character"),
            (&[(":status", "200"), ("connection", "x")], "connection"),
            (&[(":status", "200"), ("keep-alive", "x")], "connection"),
            (&[(":status", "200"), ("proxy-connection", "x")], "connection"),
            (&[(":status", "200"), ("transfer-encoding", "chunked")], "connection"),
            (&[(":status", "200"), ("upgrade", "x")], "connection"),
            (
                &[(":status", "200"), ("content-length", "1"), ("content-length", "1")],
                "content_length_repeated",
            ),
            (&[(":status", "200"), ("content-length", "-1")], "content_length"),
            (&[(":status", "200"), ("a", ""), ("b", ""), ("c", ""), ("d", "")], "too_many_fields"),
        ] {
            assert_eq!(verdict(fields), expect, "{fields:?}");
        }
    }

    #[test]
    fn what_has_no_body_may_still_declare_one() {
        assert_eq!(framing(true, false, None).body, BodyLength::Chunked);
        assert_eq!(framing(true, false, Some(3)).body, BodyLength::Length(3));
        assert_eq!(framing(true, true, None).body, BodyLength::None);
        for (status, to_head) in [(200, true), (204, false), (304, false)] {
            let framing = framing(has_body(status, to_head), false, Some(3));
            assert_eq!((framing.body, framing.declared_length), (BodyLength::None, Some(3)));
        }
    }
}
