//! Responses from the wire, read as strictly as requests: an upstream may be compromised, or merely odd.

use std::mem::MaybeUninit;

use super::{
    BodyLength, FramingError, HeadError, Limits, Method, ResponseHead, Version,
    fields::{Fields, Span},
    framing::{ConnectionOptions, Survey},
    scan::{HeadScan, ScanError},
};

/// Why a response cannot be used. The client gets 502 and the upstream connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// The head is malformed or too large.
    #[error("malformed response: {0}")]
    Head(#[from] HeadError),
    /// It is not an HTTP/1 response.
    #[error("malformed response: not HTTP/1")]
    Version,
    /// A status outside 100 to 599.
    #[error("malformed response: the status is not one of 100 to 599")]
    Status,
    /// The fields do not say where the body ends.
    #[error("malformed response: {0}")]
    Framing(#[from] FramingError),
    /// A field of the connection in HTTP/2, which has none.
    #[error("malformed response: a field of the connection in HTTP/2")]
    Connection,
}

impl ResponseError {
    /// The status of the reply to the client.
    #[must_use]
    pub const fn status(self) -> u16 {
        502
    }

    /// The metric label.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Head(error) => error.kind(),
            Self::Version => "version",
            Self::Status => "status",
            Self::Framing(error) => error.kind(),
            Self::Connection => "connection",
        }
    }
}

impl From<ScanError> for ResponseError {
    fn from(error: ScanError) -> Self {
        match error {
            ScanError::Head(error) => Self::Head(error),
            ScanError::FirstLine => Self::Head(HeadError::TooLarge),
        }
    }
}

/// What a response's head says about its message and connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseFraming {
    /// Where the body ends.
    pub body: BodyLength,
    /// The length that the fields declare, also where no body follows (HEAD, 304).
    pub declared_length: Option<u64>,
    /// Whether the connection may serve another request once the body has been read to its end. The caller
    /// checks that no byte came after it.
    pub keep_alive: bool,
    /// 1xx other than 101: another response to the same request follows.
    pub interim: bool,
}

/// A response's head and what it says of its message.
#[derive(Debug, Clone)]
pub struct ParsedResponse {
    /// The head.
    pub head: ResponseHead,
    /// Its message.
    pub framing: ResponseFraming,
    /// How many bytes of the input the head was: the body begins after them.
    pub consumed: usize,
}

/// Reads the responses of a connection, one head at a time. After an error there is nothing more to read.
#[derive(Debug, Clone, Default)]
pub struct ResponseParser {
    scan: HeadScan,
}

impl ResponseParser {
    /// Reads the head that `input` begins with, the answer to a request of that method. `None`: it has not
    /// ended; call again with the same bytes and more.
    ///
    /// # Errors
    ///
    /// [`ResponseError`] as soon as it is certain that no response comes of it.
    pub fn parse(
        &mut self,
        input: &[u8],
        request: Method,
        limits: &Limits,
    ) -> Result<Option<ParsedResponse>, ResponseError> {
        let start = &b"HTTP/1."[..input.len().min(7)];
        if !input.starts_with(start) {
            return Err(ResponseError::Version);
        }
        let Some(end) = self.scan.end(input, limits.head_bytes, limits.head_bytes)? else {
            return Ok(None);
        };
        *self = Self::default();
        let (head, framing) = parse_head(&input[..end], request, limits)?;
        Ok(Some(ParsedResponse { head, framing, consumed: end }))
    }
}

/// Reads a whole head, whose lines all end with CR LF.
fn parse_head(
    text: &[u8],
    request: Method,
    limits: &Limits,
) -> Result<(ResponseHead, ResponseFraming), ResponseError> {
    if matches!(text.get(7), Some(b'2'..=b'9')) {
        let mut text = text.to_vec();
        text[7] = b'1';
        return parse_head(&text, request, limits);
    }
    let mut headers = [const { MaybeUninit::uninit() }; Limits::MAX_FIELDS];
    let headers = &mut headers[..limits.fields.min(Limits::MAX_FIELDS)];
    let mut raw = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut raw, text, headers)
        .map_err(|error| diagnose(text, error))?;
    let (Some(status), Some(minor), true) =
        (raw.code, raw.version, parsed == httparse::Status::Complete(text.len()))
    else {
        return Err(HeadError::StartLine.into());
    };
    if !(100..600).contains(&status) {
        return Err(ResponseError::Status);
    }
    let reason = raw.reason.filter(|reason| !reason.is_empty());
    let mut head = ResponseHead {
        status,
        reason: reason.map_or(Span::default(), |reason| Span::within(text, reason.as_bytes())),
        version: if minor == 0 { Version::Http10 } else { Version::Http11 },
        fields: Fields::from_parsed(text, raw.headers),
    };
    let framing = finish(&mut head, request)?;
    Ok((head, framing))
}

/// What needs the fields: body and connection (RFC 9112 section 6.3).
fn finish(head: &mut ResponseHead, request: Method) -> Result<ResponseFraming, ResponseError> {
    let survey = Survey::of(&head.fields);
    let declared = survey.declared(head.version)?;
    let options = if survey.has_connection {
        ConnectionOptions::take(&mut head.fields)
    } else {
        ConnectionOptions::default()
    };
    let status = head.status;
    let tunnel = request == Method::Connect && (200..300).contains(&status);
    let (body, clean) = match declared {
        _ if status < 200 || status == 204 || tunnel => {
            // No body, whatever the fields say; but what they announce may come all the same.
            (BodyLength::None, matches!(declared, None | Some(BodyLength::Length(0))))
        }
        _ if status == 304 || request == Method::Head => (BodyLength::None, true),
        Some(body) => (body, true),
        None => (BodyLength::UntilClose, false),
    };
    Ok(ResponseFraming {
        body,
        declared_length: match declared {
            Some(BodyLength::Length(length)) => Some(length),
            _ => None,
        },
        keep_alive: clean && options.keeps_alive(head.version),
        interim: status < 200 && status != 101,
    })
}

/// Names what httparse refused.
#[cold]
fn diagnose(text: &[u8], error: httparse::Error) -> ResponseError {
    match error {
        httparse::Error::Version => ResponseError::Version,
        httparse::Error::Status if HeadError::diagnose(text, error) == HeadError::StartLine => {
            ResponseError::Status
        }
        _ => HeadError::diagnose(text, error).into(),
    }
}
