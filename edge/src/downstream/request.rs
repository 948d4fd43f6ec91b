//! Heads of HTTP/2 and HTTP/3 to ours (RFC 9113 sections 8.2 and 8.3, RFC 9114 sections 4.2 and 4.3).

use super::StreamRequest;
use crate::{
    h1::{
        BodyLength, Fields, FramingError, HeadError, Name, RequestError, RequestHead, TargetError, Version,
        content_length,
    },
    limits::Limits,
    section::{FieldLines, is_name},
    serve::refusal::Refusal,
};

/// What a conversion may end with.
type Refused<T> = Result<T, Fault>;

/// Why a head is no request.
#[derive(Debug)]
pub(super) enum Fault {
    /// It is malformed as RFC 9113 section 8.1.1 and RFC 9114 section 4.1.2 mean it: the stream is reset, with
    /// `PROTOCOL_ERROR` or `H3_MESSAGE_ERROR`.
    Malformed(RequestError),
    /// It is well-formed and refused.
    Refused(Refusal),
}

impl From<RequestError> for Fault {
    fn from(error: RequestError) -> Self {
        Self::Refused(error.into())
    }
}

const fn malformed(error: HeadError) -> Fault {
    Fault::Malformed(RequestError::Head(error))
}

/// The pseudo-headers of a request.
#[derive(Debug, Default)]
struct Pseudo<'l> {
    method: Option<&'l [u8]>,
    scheme: Option<&'l [u8]>,
    authority: Option<&'l [u8]>,
    path: Option<&'l [u8]>,
    /// Of an extended CONNECT (RFC 8441, RFC 9220).
    protocol: Option<&'l [u8]>,
}

impl<'l> Pseudo<'l> {
    /// Takes one in; each may be there once.
    fn set(&mut self, name: &[u8], value: &'l [u8]) -> Refused<()> {
        let place = match name {
            b":method" => &mut self.method,
            b":scheme" => &mut self.scheme,
            b":authority" => &mut self.authority,
            b":path" => &mut self.path,
            b":protocol" => &mut self.protocol,
            _ => return Err(malformed(HeadError::FieldName)),
        };
        match place.replace(value) {
            None => Ok(()),
            Some(_) => Err(malformed(HeadError::StartLine)),
        }
    }
}

/// The request, its head checked as strictly as one that came by HTTP/1.
///
/// # Errors
/// The fault.
pub(super) fn convert(lines: &FieldLines, limits: &Limits, version: Version) -> Refused<StreamRequest> {
    let mut pseudo = Pseudo::default();
    let (mut host, mut length, mut expects) = (None, None, false);
    let (mut ordinary, mut crumbs) = (0, 0);
    for (name, value) in lines.iter() {
        if name.first() == Some(&b':') {
            if ordinary > 0 {
                return Err(malformed(HeadError::StartLine));
            }
            pseudo.set(name, value)?;
            continue;
        }
        ordinary += 1;
        if !is_name(name) {
            return Err(malformed(HeadError::FieldName));
        }
        match Name::of(name) {
            Name::Host if host.replace(value).is_some() => return Err(RequestError::HostRepeated.into()),
            Name::ContentLength if length.replace(value).is_some() => {
                return Err(Fault::Malformed(FramingError::LengthRepeated.into()));
            }
            // Those of the connection.
            Name::Connection
            | Name::KeepAlive
            | Name::ProxyConnection
            | Name::TransferEncoding
            | Name::Upgrade => return Err(Fault::Malformed(RequestError::Connection)),
            Name::Te if !value.eq_ignore_ascii_case(b"trailers") => {
                return Err(Fault::Malformed(RequestError::Connection));
            }
            Name::Expect if !value.eq_ignore_ascii_case(b"100-continue") => {
                return Err(RequestError::Expectation.into());
            }
            Name::Expect => expects = true,
            Name::Cookie => crumbs += value.len() + 2,
            _ => {}
        }
    }
    if ordinary > limits.head_fields {
        return Err(RequestError::Head(HeadError::TooManyFields).into());
    }
    let mut head = begin(&pseudo, host, version)?;
    let mut cookie = Vec::with_capacity(crumbs);
    for (name, value) in lines.iter().filter(|(name, _)| name.first() != Some(&b':')) {
        match Name::of(name) {
            Name::Host | Name::Expect => {}
            // One field again; HTTP/1 has no crumbs.
            Name::Cookie => {
                if !cookie.is_empty() {
                    cookie.extend_from_slice(b"; ");
                }
                cookie.extend_from_slice(value);
            }
            _ if name.contains(&b'_') => return Err(RequestError::Underscore.into()),
            _ => push(&mut head.fields, name, value)?,
        }
    }
    if !cookie.is_empty() {
        push(&mut head.fields, Name::Cookie.as_str().as_bytes(), &cookie)?;
    }
    let length = length
        .map(|text| content_length(text).ok_or(Fault::Malformed(FramingError::Length.into())))
        .transpose()?;
    Ok(StreamRequest { expects, ..StreamRequest::new(head, length, pseudo.protocol.is_some())? })
}

/// The head without its fields.
fn begin(pseudo: &Pseudo<'_>, host: Option<&[u8]>, version: Version) -> Refused<RequestHead> {
    let method = pseudo.method.ok_or(malformed(HeadError::StartLine))?;
    let method = match (method, pseudo.protocol) {
        // A CONNECT that names a protocol is that protocol's upgrade.
        (b"CONNECT", Some(b"websocket")) => b"GET",
        (b"CONNECT", None) => return connect(pseudo, host, version),
        (b"CONNECT", _) => return Err(RequestError::Connect.into()),
        (_, Some(_)) => return Err(malformed(HeadError::FieldName)),
        (method, None) => method,
    };
    let method = std::str::from_utf8(method).map_err(|_| Fault::Malformed(RequestError::Method))?;
    let scheme = pseudo.scheme.ok_or(malformed(HeadError::StartLine))?;
    if !scheme.eq_ignore_ascii_case(b"https") && !scheme.eq_ignore_ascii_case(b"http") {
        return Err(RequestError::Target(TargetError::Form).into());
    }
    let path = pseudo.path.filter(|path| !path.is_empty()).ok_or(malformed(HeadError::StartLine))?;
    if path != b"*" && !path.starts_with(b"/") {
        return Err(RequestError::Target(TargetError::Form).into());
    }
    let path = std::str::from_utf8(path).map_err(|_| RequestError::Target(TargetError::Character))?;
    if path.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return Err(RequestError::Target(TargetError::Character).into());
    }
    Ok(RequestHead::from_parts(method, authority(pseudo, host)?, path, version)?)
}

/// The head of a CONNECT, which has no scheme and no path (RFC 9113 section 8.5, RFC 9114 section 4.4).
fn connect(pseudo: &Pseudo<'_>, host: Option<&[u8]>, version: Version) -> Refused<RequestHead> {
    if pseudo.scheme.is_some() || pseudo.path.is_some() {
        return Err(malformed(HeadError::StartLine));
    }
    let authority = authority(pseudo, host)?;
    Ok(RequestHead::from_parts("CONNECT", authority, authority, version)?)
}

fn authority<'p>(pseudo: &Pseudo<'p>, host: Option<&'p [u8]>) -> Refused<&'p str> {
    let authority = match (pseudo.authority, host) {
        (Some(authority), Some(host)) if !host.eq_ignore_ascii_case(authority) => {
            return Err(RequestError::HostMismatch.into());
        }
        (Some(authority), _) => authority,
        (None, Some(host)) => host,
        (None, None) => return Err(RequestError::HostMissing.into()),
    };
    std::str::from_utf8(authority).map_err(|_| RequestError::HostMissing.into())
}

fn push(fields: &mut Fields, name: &[u8], value: &[u8]) -> Refused<()> {
    let name = std::str::from_utf8(name).map_err(|_| malformed(HeadError::FieldName))?;
    fields.push_trimmed(name, value).map_err(|_| malformed(HeadError::Control))
}

/// How an HTTP/1 upstream is told where the body ends.
pub(super) fn body_length(ended: bool, declared: Option<u64>) -> BodyLength {
    match (ended, declared) {
        (_, Some(length)) => BodyLength::Length(length),
        (true, None) => BodyLength::None,
        (false, None) => BodyLength::Chunked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        h3::qpack::{self, SectionLimits, begin as begin_section, write_field},
        limits::LIMITS,
        section::trailers,
    };

    const GET: &[(&str, &str)] =
        &[(":method", "GET"), (":scheme", "https"), (":authority", "a.test"), (":path", "/p?q")];

    fn lines(fields: &[(&str, &str)]) -> FieldLines {
        let mut section = vec![];
        begin_section(&mut section);
        for (name, value) in fields {
            if name.bytes().any(|b| b.is_ascii_uppercase()) {
                section.push(0x20 | u8::try_from(name.len()).unwrap());
                section.extend(name.bytes());
                section.push(u8::try_from(value.len()).unwrap());
                section.extend(value.bytes());
            } else {
                write_field(&mut section, name.as_bytes(), value.as_bytes());
            }
        }
        qpack::decode(&section, SectionLimits { fields: 200, bytes: 1 << 20 }).unwrap()
    }

    /// The label of what is wrong with a request of these fields and more; `!` before it says that the stream is reset.
    fn verdict_by(version: Version, fields: &[(&str, &str)]) -> String {
        match convert(&lines(fields), &LIMITS, version) {
            Ok(StreamRequest { head, length, upgrade, .. }) => {
                let upgrade = if upgrade.is_some() { " upgrade" } else { "" };
                format!("{} {} {length:?}{upgrade}", head.method_str(), head.path())
            }
            Err(Fault::Malformed(error)) => format!("!{}", error.kind()),
            Err(Fault::Refused(refusal)) => refusal.kind().to_owned(),
        }
    }

    /// The same by HTTP/2 and HTTP/3.
    fn verdict(fields: &[(&str, &str)]) -> String {
        let verdict = verdict_by(Version::Http3, fields);
        assert_eq!(verdict_by(Version::Http2, fields), verdict, "{fields:?}");
        verdict
    }

    fn check(more: &[(&str, &str)], expect: &str) {
        assert_eq!(verdict(&[GET, more].concat()), expect, "{more:?}");
    }

    #[test]
    fn ordinary_requests_pass() {
        check(&[], "GET /p None");
        check(&[("host", "A.test"), ("te", "trailers"), ("content-length", "7")], "GET /p Some(7)");
        let StreamRequest { head, .. } = convert(
            &lines(&[GET, &[("cookie", "a=1"), ("x", "y"), ("cookie", "b=2")]].concat()),
            &LIMITS,
            Version::Http2,
        )
        .ok()
        .unwrap();
        assert_eq!(head.fields.known(Name::Cookie), Some(&b"a=1; b=2"[..]));
        assert_eq!((head.host(), head.query()), ("a.test", Some("q")));
    }

    #[test]
    fn what_the_standard_calls_malformed_resets_the_stream() {
        for (more, expect) in [
            (&[("Upper", "x")][..], "!field_name"),
            (&[(":method", "GET")], "!start_line"),
            (&[("x", "y"), (":path", "/")], "!start_line"),
            (&[(":status", "200")], "!field_name"),
            (&[(":protocol", "websocket")], "!field_name"),
            (&[("connection", "x")], "!connection"),
            (&[("keep-alive", "x")], "!connection"),
            (&[("proxy-connection", "x")], "!connection"),
            (&[("transfer-encoding", "chunked")], "!connection"),
            (&[("upgrade", "x")], "!connection"),
            (&[("te", "gzip")], "!connection"),
            (&[("x", "a\r\nb")], "!control_character"),
            (&[("x", "a\0b")], "!control_character"),
            (&[("a b", "x")], "!control_character"),
            (&[("content-length", "1"), ("content-length", "1")], "!content_length_repeated"),
            (&[("content-length", "+1")], "!content_length"),
            (&[("content-length", "01")], "!content_length"),
            (&[("content-length", "1, 1")], "!content_length"),
            (&[("content-length", "99999999999999999999")], "!content_length"),
        ] {
            check(more, expect);
        }
        for missing in 0..4 {
            let rest: Vec<_> =
                GET.iter().enumerate().filter(|(n, _)| *n != missing).map(|(_, f)| *f).collect();
            let expect = if missing == 2 { "host_missing" } else { "!start_line" };
            assert_eq!(verdict(&rest), expect, "{rest:?}");
        }
    }

    #[test]
    fn an_extended_connect_is_an_upgrade() {
        let connect = |more: &[(&str, &str)]| {
            let fields = GET.iter().map(|(n, v)| if *n == ":method" { (*n, "CONNECT") } else { (*n, *v) });
            verdict(&fields.chain(more.iter().copied()).collect::<Vec<_>>())
        };
        assert_eq!(connect(&[(":protocol", "websocket")]), "GET /p None upgrade");
        assert_eq!(connect(&[(":protocol", "connect-udp")]), "connect");
        assert_eq!(connect(&[(":protocol", "websocket"), ("content-length", "3")]), "connect_body");
    }

    #[test]
    fn a_connect_is_for_an_authority_alone() {
        let fields = [(":method", "CONNECT"), (":authority", "a.test:443")];
        for version in [Version::Http2, Version::Http3] {
            assert_eq!(verdict_by(version, &fields), "CONNECT  None");
            for more in [(":path", "/"), (":scheme", "https")] {
                assert_eq!(verdict_by(version, &[&fields[..], &[more]].concat()), "!start_line");
            }
        }
    }

    #[test]
    fn an_expectation_is_to_be_asked_for_the_body() {
        let fields = lines(&[GET, &[("expect", "100-Continue")]].concat());
        let request = convert(&fields, &LIMITS, Version::Http2).ok().unwrap();
        assert!(request.expects && request.head.fields.known(Name::Expect).is_none());
        check(&[("expect", "200-ok")], "expectation");
    }

    #[test]
    fn what_could_be_read_two_ways_is_refused_as_on_http_1() {
        check(&[("host", "b.test")], "host_mismatch");
        check(&[("host", "a.test"), ("host", "a.test")], "host_repeated");
        check(&[("x_y", "1")], "underscore");
        let with = |name: &str, value: &str| {
            let fields: Vec<_> =
                GET.iter().map(|(n, v)| if *n == name { (*n, value) } else { (*n, *v) }).collect();
            verdict(&fields)
        };
        assert_eq!(with(":path", ""), "!start_line");
        for (name, value, expect) in [
            (":path", "http://b.test/", "target_form"),
            (":path", "p", "target_form"),
            (":path", "*", "target_asterisk"),
            (":path", "/a b", "target_character"),
            (":path", "/a\tb", "target_character"),
            (":path", "/a\\b", "target_character"),
            (":path", "/a#b", "target_fragment"),
            (":scheme", "ftp", "target_form"),
            (":method", "G T", "method"),
            (":authority", "user@a.test", "host"),
            (":authority", "a.test:x", "host"),
            (":authority", "", "host"),
        ] {
            assert_eq!(with(name, value), expect, "{name} {value}");
        }
    }

    #[test]
    fn fields_are_counted_before_crumbs_are_joined() {
        let crumbs = vec![("cookie", "a=1"); 101];
        check(&crumbs[..100], "GET /p None");
        check(&crumbs, "too_many_fields");
    }

    #[test]
    fn trailers_have_no_pseudo_headers() {
        assert_eq!(trailers(&lines(&[("x", "1"), ("host", "b")])).unwrap().len(), 1);
        assert!(trailers(&lines(&[(":path", "/")])).is_none());
        assert!(trailers(&lines(&[("X", "1")])).is_none());
    }
}
