//! Requests from the wire: RFC 9112 sections 2 to 6, read strictly.

use std::{borrow::Cow, mem::MaybeUninit};

use super::{
    BodyLength, FramingError, HeadError, HostError, Limits, Method, RequestHead, TargetError, Upgrade,
    Version,
    fields::{Fields, Span, is_token},
    framing::{ConnectionOptions, Survey},
    scan::{HeadScan, ScanError},
    target,
};

/// Why a request is refused. The connection is closed after the reply: where its next request would begin is
/// not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The head is malformed or too large.
    #[error("malformed request: {0}")]
    Head(#[from] HeadError),
    /// More than two empty lines before the request line.
    #[error("malformed request: empty lines before the request line")]
    EmptyLines,
    /// The request line is longer than [`Limits::request_line_bytes`].
    #[error("the request line is too long")]
    RequestLineTooLong,
    /// The method is not a token.
    #[error("malformed request: the method is not a token")]
    Method,
    /// The target is malformed.
    #[error("malformed request target: {0}")]
    Target(#[from] TargetError),
    /// What stands where the version belongs is none; HTTP/0.9 among them.
    #[error("malformed request: no HTTP version in the request line")]
    Version,
    /// A major version that HTTP/1 does not share its syntax with.
    #[error("the HTTP version is not supported")]
    VersionUnsupported,
    /// A field name with `_`.
    #[error("malformed request: a field name has an underscore")]
    Underscore,
    /// HTTP/1.1 without `Host`.
    #[error("malformed request: no Host")]
    HostMissing,
    /// More than one `Host`.
    #[error("malformed request: Host more than once")]
    HostRepeated,
    /// A `Host` that is not `host[:port]`.
    #[error("malformed Host: {0}")]
    Host(HostError),
    /// The target's authority is not that of `Host`.
    #[error("malformed request: Host differs from the target")]
    HostMismatch,
    /// The fields do not say where the body ends.
    #[error("malformed request: {0}")]
    Framing(#[from] FramingError),
    /// A `Connection` that is not a list of a few tokens.
    #[error("malformed request: Connection is not a short list of tokens")]
    Connection,
    /// An `Expect` other than `100-continue`.
    #[error("the expectation is not supported")]
    Expectation,
    /// CONNECT where it is not enabled.
    #[error("CONNECT is not supported")]
    Connect,
    /// CONNECT with a body.
    #[error("malformed request: CONNECT with a body")]
    ConnectBody,
}

impl RequestError {
    /// The status of the reply.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::RequestLineTooLong => 414,
            Self::Expectation => 417,
            Self::Head(HeadError::TooLarge | HeadError::TooManyFields) => 431,
            Self::Connect | Self::Framing(FramingError::CodingUnknown) => 501,
            Self::VersionUnsupported => 505,
            _ => 400,
        }
    }

    /// The metric label.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Head(error) => error.kind(),
            Self::EmptyLines => "empty_lines",
            Self::RequestLineTooLong => "request_line_too_long",
            Self::Method => "method",
            Self::Target(TargetError::Form) => "target_form",
            Self::Target(TargetError::Character) => "target_character",
            Self::Target(TargetError::Fragment) => "target_fragment",
            Self::Target(TargetError::Asterisk) => "target_asterisk",
            Self::Target(TargetError::Authority(_)) => "target_authority",
            Self::Version => "version",
            Self::VersionUnsupported => "version_unsupported",
            Self::Underscore => "underscore",
            Self::HostMissing => "host_missing",
            Self::HostRepeated => "host_repeated",
            Self::Host(_) => "host",
            Self::HostMismatch => "host_mismatch",
            Self::Framing(error) => error.kind(),
            Self::Connection => "connection",
            Self::Expectation => "expectation",
            Self::Connect => "connect",
            Self::ConnectBody => "connect_body",
        }
    }
}

impl From<ScanError> for RequestError {
    fn from(error: ScanError) -> Self {
        match error {
            ScanError::Head(error) => Self::Head(error),
            ScanError::FirstLine => Self::RequestLineTooLong,
        }
    }
}

/// What a request's head says about its message and connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestFraming {
    /// Where the body ends; never [`BodyLength::UntilClose`].
    pub body: BodyLength,
    /// Whether the client would send another request on this connection.
    pub keep_alive: bool,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub expect_continue: bool,
    /// The protocol that the client wants to change to. `None` also where we do not let it: with a body, in
    /// HTTP/1.0, or to `h2c`.
    pub upgrade: Option<Upgrade>,
}

/// A request's head and what it says of its message.
#[derive(Debug, Clone)]
pub struct ParsedRequest {
    /// The head; boxed, since it is handed on many times.
    pub head: Box<RequestHead>,
    /// Its message.
    pub framing: RequestFraming,
    /// How many bytes of the input the head was: the body begins after them.
    pub consumed: usize,
}

/// Reads the requests of a connection, one head at a time. After an error there is nothing more to read.
#[derive(Debug, Clone, Default)]
pub struct RequestParser {
    /// Empty lines before the request line, in bytes.
    skipped: usize,
    scan: HeadScan,
}

impl RequestParser {
    /// Reads the head that `input` begins with. `None`: it has not ended; call again with the same bytes and
    /// more. How the bytes were cut makes no difference to the result, and none is searched twice.
    ///
    /// # Errors
    ///
    /// [`RequestError`] as soon as it is certain that no request comes of it.
    pub fn parse(&mut self, input: &[u8], limits: &Limits) -> Result<Option<ParsedRequest>, RequestError> {
        if !self.skip_empty_lines(input)? {
            return Ok(None);
        }
        let input = &input[self.skipped..];
        // The empty lines count: a caller's buffer of `head_bytes` is never full and the head still to come.
        let head_bytes = limits.head_bytes.saturating_sub(self.skipped);
        let Some(end) = self.scan.end(input, head_bytes, limits.request_line_bytes)? else {
            return Ok(None);
        };
        let consumed = self.skipped + end;
        *self = Self::default();
        let (head, framing) = parse_head(&input[..end], limits)?;
        Ok(Some(ParsedRequest { head, framing, consumed }))
    }

    /// Whether the first byte of a request line is there (RFC 9112 section 2.2 lets old clients send an empty
    /// line before it).
    fn skip_empty_lines(&mut self, input: &[u8]) -> Result<bool, RequestError> {
        const MOST: usize = 2 * b"\r\n".len();
        loop {
            match input.get(self.skipped..).unwrap_or_default() {
                [b'\r', b'\n', ..] if self.skipped == MOST => return Err(RequestError::EmptyLines),
                [b'\r', b'\n', ..] => self.skipped += 2,
                [b'\r', _, ..] => return Err(HeadError::BareCr.into()),
                [b'\n', ..] => return Err(HeadError::BareLf.into()),
                [] | [b'\r'] => return Ok(false),
                _ => return Ok(true),
            }
        }
    }
}

/// Reads a whole head, whose lines all end with CR LF.
fn parse_head(text: &[u8], limits: &Limits) -> Result<(Box<RequestHead>, RequestFraming), RequestError> {
    let text = as_http11(text)?;
    let mut headers = [const { MaybeUninit::uninit() }; Limits::MAX_FIELDS];
    let headers = &mut headers[..limits.fields.min(Limits::MAX_FIELDS)];
    let mut raw = httparse::Request::new(&mut []);
    let parsed = raw.parse_with_uninit_headers(&text, headers).map_err(|error| diagnose(&text, error))?;
    let (Some(method), Some(uri), Some(minor), true) =
        (raw.method, raw.path, raw.version, parsed == httparse::Status::Complete(text.len()))
    else {
        return Err(HeadError::StartLine.into());
    };
    if method == "CONNECT" && !limits.connect {
        return Err(RequestError::Connect);
    }
    let version = if minor == 0 { Version::Http10 } else { Version::Http11 };
    let fields = Fields::from_parsed(&text, raw.headers);
    let mut head = Box::new(RequestHead::begin(method, uri, version, fields)?);
    let framing = finish(&mut head, limits)?;
    Ok((head, framing))
}

/// What needs the fields: host, body, connection.
fn finish(head: &mut RequestHead, limits: &Limits) -> Result<RequestFraming, RequestError> {
    let version = head.version;
    let survey = Survey::of(&head.fields);
    if survey.has_underscore && !limits.underscores {
        return Err(RequestError::Underscore);
    }
    if survey.host_repeated {
        return Err(RequestError::HostRepeated);
    }
    let body = survey.declared(version)?.unwrap_or(BodyLength::None);
    if head.method == Method::Connect && !matches!(body, BodyLength::None | BodyLength::Length(0)) {
        return Err(RequestError::ConnectBody);
    }
    let expects = match survey.expect {
        None => false,
        Some(value) if value.eq_ignore_ascii_case(b"100-continue") && !survey.expect_repeated => true,
        Some(_) => return Err(RequestError::Expectation),
    };
    let has_body = matches!(body, BodyLength::Chunked | BodyLength::Length(1..));
    let upgrade = survey.upgrade().filter(|_| version == Version::Http11 && !has_body);
    let host = survey.host.map(|host| Span::within(head.fields.text(), host));
    let has_connection = survey.has_connection;
    target::resolve_host(head, host)?;
    let options =
        if has_connection { ConnectionOptions::take(&mut head.fields) } else { ConnectionOptions::default() };
    if options.malformed {
        return Err(RequestError::Connection);
    }
    Ok(RequestFraming {
        body,
        keep_alive: options.keeps_alive(version),
        expect_continue: expects && has_body && version == Version::Http11,
        upgrade: upgrade.filter(|_| options.upgrade),
    })
}

/// The head with a version that httparse knows: HTTP/1.2 and later are read as HTTP/1.1 (RFC 9110 section 2.5).
fn as_http11(text: &[u8]) -> Result<Cow<'_, [u8]>, RequestError> {
    let line_end = memchr::memchr(b'\r', text).unwrap_or(text.len());
    match text[..line_end] {
        [.., b' ', b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0' | b'1'] => Ok(Cow::Borrowed(text)),
        [.., b' ', b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'2'..=b'9'] => {
            let mut text = text.to_vec();
            text[line_end - 1] = b'1';
            Ok(Cow::Owned(text))
        }
        [.., b' ', b'H', b'T', b'T', b'P', b'/', b'0' | b'2'..=b'9', b'.', b'0'..=b'9'] => {
            Err(RequestError::VersionUnsupported)
        }
        // Malformed: httparse and `diagnose` say how.
        _ => Ok(Cow::Borrowed(text)),
    }
}

/// Names what httparse refused.
#[cold]
fn diagnose(text: &[u8], error: httparse::Error) -> RequestError {
    match HeadError::diagnose(text, error) {
        HeadError::StartLine => diagnose_line(text.split(|&byte| byte == b'\r').next().unwrap_or_default()),
        other => other.into(),
    }
}

/// Names what is wrong with a request line that has no control characters.
fn diagnose_line(line: &[u8]) -> RequestError {
    let parts: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
    match parts[..] {
        [method, ..] if !is_token(method) => RequestError::Method,
        [_, target, _] if !target.is_ascii() => TargetError::Character.into(),
        // Two parts are HTTP/0.9.
        [_, _] | [_, _, _] => RequestError::Version,
        _ => HeadError::StartLine.into(),
    }
}
