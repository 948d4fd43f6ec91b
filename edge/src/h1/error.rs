//! What can be wrong with any head, request or response.

/// A head that is not well-formed, or too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// A line ends with LF alone.
    #[error("a line ends with LF without CR")]
    BareLf,
    /// A CR that does not end a line.
    #[error("a CR without LF")]
    BareCr,
    /// A control character, NUL among them.
    #[error("a control character")]
    Control,
    /// A field that goes on in the next line (obs-fold).
    #[error("a folded field line")]
    Folded,
    /// White space between a field's name and its colon.
    #[error("white space before the colon of a field")]
    SpaceBeforeColon,
    /// A field name that is not a token.
    #[error("a field name that is not a token")]
    FieldName,
    /// A request or status line that is none.
    #[error("a malformed first line")]
    StartLine,
    /// More bytes than [`Limits::head_bytes`](super::Limits).
    #[error("the head is too large")]
    TooLarge,
    /// More fields than [`Limits::fields`](super::Limits).
    #[error("too many fields")]
    TooManyFields,
}

impl HeadError {
    /// The metric label.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::BareLf => "bare_lf",
            Self::BareCr => "bare_cr",
            Self::Control => "control_character",
            Self::Folded => "folded_field",
            Self::SpaceBeforeColon => "space_before_colon",
            Self::FieldName => "field_name",
            Self::StartLine => "start_line",
            Self::TooLarge => "head_too_large",
            Self::TooManyFields => "too_many_fields",
        }
    }

    /// Names what httparse refused in `head`, a head whose lines all end with CR LF.
    #[cold]
    pub(super) fn diagnose(head: &[u8], error: httparse::Error) -> Self {
        use httparse::Error;
        let mut lines =
            head.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let first = lines.next().unwrap_or_default();
        match error {
            Error::TooManyHeaders => Self::TooManyFields,
            Error::HeaderName | Error::HeaderValue => {
                lines.find_map(Self::of_field_line).unwrap_or(Self::FieldName)
            }
            // Also a CR in place of a field line.
            Error::NewLine => {
                Self::of_text(first).or_else(|| lines.find_map(Self::of_text)).unwrap_or(Self::StartLine)
            }
            Error::Status | Error::Token | Error::Version => Self::of_text(first).unwrap_or(Self::StartLine),
        }
    }

    fn of_field_line(line: &[u8]) -> Option<Self> {
        if line.is_empty() {
            return None;
        }
        if line.starts_with(b" ") || line.starts_with(b"\t") {
            return Some(Self::Folded);
        }
        if let Some(problem) = Self::of_text(line) {
            return Some(problem);
        }
        let name = line.split(|&byte| byte == b':').next().unwrap_or_default();
        let has_colon = name.len() < line.len();
        match name.trim_ascii_end() {
            trimmed if has_colon && trimmed.len() < name.len() => Some(Self::SpaceBeforeColon),
            token if has_colon && super::fields::is_token(token) => None,
            _ => Some(Self::FieldName),
        }
    }

    fn of_text(line: &[u8]) -> Option<Self> {
        line.iter().find_map(|byte| match byte {
            b'\r' => Some(Self::BareCr),
            b'\t' => None,
            byte if byte.is_ascii_control() => Some(Self::Control),
            _ => None,
        })
    }
}

/// Fields that contradict each other about where the body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// `Content-Length` and `Transfer-Encoding` together.
    #[error("Content-Length beside Transfer-Encoding")]
    LengthAndCoding,
    /// More than one `Content-Length`, equal or not.
    #[error("Content-Length more than once")]
    LengthRepeated,
    /// A `Content-Length` that is not plain decimal digits, or more than 64 bits.
    #[error("Content-Length is not a number of bytes")]
    Length,
    /// More than one `Transfer-Encoding`.
    #[error("Transfer-Encoding more than once")]
    CodingRepeated,
    /// A `Transfer-Encoding` that is malformed, or does not end with exactly one `chunked`.
    #[error("Transfer-Encoding is not chunked")]
    Coding,
    /// A `Transfer-Encoding` with a coding that is not served.
    #[error("Transfer-Encoding names a coding other than chunked")]
    CodingUnknown,
    /// A `Transfer-Encoding` in HTTP/1.0, which has none.
    #[error("Transfer-Encoding in HTTP/1.0")]
    CodingInHttp10,
}

impl FramingError {
    /// The metric label.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::LengthAndCoding => "length_and_coding",
            Self::LengthRepeated => "content_length_repeated",
            Self::Length => "content_length",
            Self::CodingRepeated => "transfer_encoding_repeated",
            Self::Coding => "transfer_encoding",
            Self::CodingUnknown => "transfer_coding_unknown",
            Self::CodingInHttp10 => "transfer_encoding_http10",
        }
    }
}
