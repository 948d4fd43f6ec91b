//! Field sections (RFC 9204 section 4.5) without a dynamic table.

pub use crate::section::{FieldLines, SectionLimits};
use crate::section::{Line, Malformed, Reader, Text, write_integer, write_string};

/// Why a field section is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QpackError {
    /// It is no field section, or refers to a table that we do not keep: the connection ends.
    #[error("the field section cannot be decoded")]
    Malformed,
    /// More fields than are allowed.
    #[error("too many fields")]
    TooManyFields,
    /// Larger than is allowed.
    #[error("the field section is too large")]
    TooLarge,
}

impl From<Malformed> for QpackError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// Reads a field section.
///
/// # Errors
///
/// [`QpackError`]
pub fn decode(section: &[u8], limits: SectionLimits) -> Result<FieldLines, QpackError> {
    let mut reader = Reader { input: section };
    // Required insert count and base: without a dynamic table both are zero.
    if reader.integer(8)?.1 != 0 {
        return Err(QpackError::Malformed);
    }
    if reader.integer(7)?.0 != 0 {
        return Err(QpackError::Malformed);
    }
    let mut lines = FieldLines::with_room(section.len());
    let mut cost = 0_usize;
    while !reader.input.is_empty() {
        if lines.len() == limits.fields {
            return Err(QpackError::TooManyFields);
        }
        let line = line(&mut lines, &mut reader)?;
        cost += lines.cost(line);
        if cost > limits.bytes {
            return Err(QpackError::TooLarge);
        }
        lines.push(line);
    }
    Ok(lines)
}

fn line(lines: &mut FieldLines, reader: &mut Reader<'_>) -> Result<Line, QpackError> {
    match reader.peek()? {
        // Indexed, static.
        0b1100_0000.. => {
            let (name, value) = entry(reader.integer(6)?.1)?;
            Ok(Line { name: Text::Static(name), value: Text::Static(value) })
        }
        // A literal whose name is static.
        0b0101_0000..=0b0101_1111 | 0b0111_0000..=0b0111_1111 => {
            let (name, _) = entry(reader.integer(4)?.1)?;
            Ok(Line { name: Text::Static(name), value: lines.string(reader, 7)? })
        }
        // A literal.
        0b0010_0000..=0b0011_1111 => {
            let name = lines.string(reader, 3)?;
            Ok(Line { name, value: lines.string(reader, 7)? })
        }
        // The dynamic table, which has nothing in it.
        _ => Err(QpackError::Malformed),
    }
}

fn entry(index: u64) -> Result<(&'static str, &'static str), QpackError> {
    usize::try_from(index).ok().and_then(|index| STATIC.get(index)).copied().ok_or(QpackError::Malformed)
}

/// Appends the beginning of a field section.
pub fn begin(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0, 0]);
}

/// Appends `:status`.
pub fn write_status(out: &mut Vec<u8>, status: u16) {
    let known = match status {
        103 => 24,
        200 => 25,
        304 => 26,
        404 => 27,
        503 => 28,
        100 => 63,
        204 => 64,
        206 => 65,
        302 => 66,
        400 => 67,
        403 => 68,
        421 => 69,
        425 => 70,
        500 => 71,
        _ => {
            write_integer(out, 0b0101_0000, 4, 24);
            return write_string(out, itoa::Buffer::new().format(status).as_bytes());
        }
    };
    write_integer(out, 0b1100_0000, 6, known);
}

/// Appends a field; its name in lowercase.
pub fn write_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    match static_name(name) {
        Some(index) => write_integer(out, 0b0101_0000, 4, index),
        None => {
            write_integer(out, 0b0010_0000, 3, name.len());
            out.extend(name.iter().map(u8::to_ascii_lowercase));
        }
    }
    write_string(out, value);
}

/// The static entry that has the name of a field that responses often have.
fn static_name(name: &[u8]) -> Option<usize> {
    let (index, candidate) = match (name.len(), name.first()?.to_ascii_lowercase()) {
        (3, b'a') => (2, "age"),
        (4, b'd') => (6, "date"),
        (4, b'e') => (7, "etag"),
        (4, b'l') => (11, "link"),
        (4, b'v') => (59, "vary"),
        (6, b's') => (92, "server"),
        (7, b'a') => (83, "alt-svc"),
        (8, b'l') => (12, "location"),
        (10, b's') => (14, "set-cookie"),
        (12, b'c') => (44, "content-type"),
        (13, b'a') => (32, "accept-ranges"),
        (13, b'c') => (36, "cache-control"),
        (13, b'l') => (10, "last-modified"),
        (14, b'c') => (4, "content-length"),
        (16, b'c') => (42, "content-encoding"),
        _ => return None,
    };
    name.eq_ignore_ascii_case(candidate.as_bytes()).then_some(index)
}

/// RFC 9204 appendix A.
#[rustfmt::skip]
static STATIC: [(&str, &str); 99] = [
    (":authority", ""),
    (":path", "/"),
    ("age", "0"),
    ("content-disposition", ""),
    ("content-length", "0"),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("referer", ""),
    ("set-cookie", ""),
    (":method", "CONNECT"),
    (":method", "DELETE"),
    (":method", "GET"),
    (":method", "HEAD"),
    (":method", "OPTIONS"),
    (":method", "POST"),
    (":method", "PUT"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "103"),
    (":status", "200"),
    (":status", "304"),
    (":status", "404"),
    (":status", "503"),
    ("accept", "*/*"),
    ("accept", "application/dns-message"),
    ("accept-encoding", "gzip, deflate, br"),
    ("accept-ranges", "bytes"),
    ("access-control-allow-headers", "cache-control"),
    ("access-control-allow-headers", "content-type"),
    ("access-control-allow-origin", "*"),
    ("cache-control", "max-age=0"),
    ("cache-control", "max-age=2592000"),
    ("cache-control", "max-age=604800"),
    ("cache-control", "no-cache"),
    ("cache-control", "no-store"),
    ("cache-control", "public, max-age=31536000"),
    ("content-encoding", "br"),
    ("content-encoding", "gzip"),
    ("content-type", "application/dns-message"),
    ("content-type", "application/javascript"),
    ("content-type", "application/json"),
    ("content-type", "application/x-www-form-urlencoded"),
    ("content-type", "image/gif"),
    ("content-type", "image/jpeg"),
    ("content-type", "image/png"),
    ("content-type", "text/css"),
    ("content-type", "text/html; charset=utf-8"),
    ("content-type", "text/plain"),
    ("content-type", "text/plain;charset=utf-8"),
    ("range", "bytes=0-"),
    ("strict-transport-security", "max-age=31536000"),
    ("strict-transport-security", "max-age=31536000; includesubdomains"),
    ("strict-transport-security", "max-age=31536000; includesubdomains; preload"),
    ("vary", "accept-encoding"),
    ("vary", "origin"),
    ("x-content-type-options", "nosniff"),
    ("x-xss-protection", "1; mode=block"),
    (":status", "100"),
    (":status", "204"),
    (":status", "206"),
    (":status", "302"),
    (":status", "400"),
    (":status", "403"),
    (":status", "421"),
    (":status", "425"),
    (":status", "500"),
    ("accept-language", ""),
    ("access-control-allow-credentials", "FALSE"),
    ("access-control-allow-credentials", "TRUE"),
    ("access-control-allow-headers", "*"),
    ("access-control-allow-methods", "get"),
    ("access-control-allow-methods", "get, post, options"),
    ("access-control-allow-methods", "options"),
    ("access-control-expose-headers", "content-length"),
    ("access-control-request-headers", "content-type"),
    ("access-control-request-method", "get"),
    ("access-control-request-method", "post"),
    ("alt-svc", "clear"),
    ("authorization", ""),
    ("content-security-policy", "script-src 'none'; object-src 'none'; base-uri 'none'"),
    ("early-data", "1"),
    ("expect-ct", ""),
    ("forwarded", ""),
    ("if-range", ""),
    ("origin", ""),
    ("purpose", "prefetch"),
    ("server", ""),
    ("timing-allow-origin", "*"),
    ("upgrade-insecure-requests", "1"),
    ("user-agent", ""),
    ("x-forwarded-for", ""),
    ("x-frame-options", "deny"),
    ("x-frame-options", "sameorigin"),
];
