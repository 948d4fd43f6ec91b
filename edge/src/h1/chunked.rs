//! The chunked coding (RFC 9112 section 7.1), read strictly.

use super::{
    HeadError, Limits,
    body::Step,
    fields::Fields,
    name::Name,
    scan::{HeadScan, ScanError},
};

/// Why a chunked body cannot be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// A chunk's size is not 1 to 16 hexadecimal digits.
    #[error("a chunk size is not a hexadecimal number")]
    Size,
    /// A chunk extension is malformed, or they are too long.
    #[error("a chunk extension is malformed or too long")]
    Extension,
    /// A line of the framing does not end with CR LF.
    #[error("a chunk's line does not end with CR LF")]
    LineEnd,
    /// The data of a chunk is longer or shorter than its size says.
    #[error("a chunk does not end where its size says")]
    DataEnd,
    /// The trailer section is malformed or too large.
    #[error("trailer section: {0}")]
    Trailers(HeadError),
}

impl ChunkError {
    /// The metric label.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Size => "chunk_size",
            Self::Extension => "chunk_extension",
            Self::LineEnd => "chunk_line_end",
            Self::DataEnd => "chunk_data_end",
            Self::Trailers(_) => "trailers",
        }
    }
}

/// `u64::MAX` in hexadecimal.
const SIZE_DIGITS: usize = 16;
/// Bytes of extension in one chunk: none are in use, and each one costs without bringing data.
const EXTENSION: usize = 256;
/// Bytes of extensions in one body.
const EXTENSIONS: usize = 16 << 10;
/// Bytes of one chunk's line.
const LINE: usize = SIZE_DIGITS + EXTENSION + b"\r\n".len();

#[derive(Debug, Clone, Copy)]
enum State {
    /// Before a chunk's line.
    Size,
    /// In a chunk's data, of which so much is to come.
    Data(u64),
    /// Before the CR LF after a chunk's data.
    DataEnd,
    /// After the last chunk's line.
    Trailers,
    /// After the empty line.
    End,
}

/// Reads one chunked body.
#[derive(Debug, Clone)]
pub(super) struct ChunkedDecoder {
    state: State,
    extensions: usize,
    scan: HeadScan,
    trailer_bytes: usize,
    trailer_fields: usize,
    trailers: Fields,
}

impl ChunkedDecoder {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            state: State::Size,
            extensions: 0,
            scan: HeadScan::default(),
            trailer_bytes: limits.head_bytes,
            trailer_fields: limits.fields.min(Limits::MAX_FIELDS),
            trailers: Fields::new(),
        }
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self.state, State::End)
    }

    /// The fields of the trailer section that may be forwarded; empty before the end.
    pub(super) fn take_trailers(&mut self) -> Fields {
        std::mem::take(&mut self.trailers)
    }

    /// As [`BodyReader::step`](super::BodyReader::step).
    pub(super) fn step(&mut self, input: &[u8]) -> Result<Step, ChunkError> {
        let mut skip = 0;
        loop {
            let rest = &input[skip..];
            match self.state {
                State::Size => {
                    let Some((size, line)) = self.size_line(rest)? else { break };
                    skip += line;
                    self.state = if size == 0 { State::Trailers } else { State::Data(size) };
                }
                State::Data(size) => {
                    let data = usize::try_from(size).map_or(rest.len(), |size| rest.len().min(size));
                    let left = size - data as u64;
                    self.state = if left == 0 { State::DataEnd } else { State::Data(left) };
                    return Ok(Step { skip, data });
                }
                State::DataEnd => match rest {
                    [b'\r', b'\n', ..] => {
                        skip += 2;
                        self.state = State::Size;
                    }
                    [] | [b'\r'] => break,
                    _ => return Err(ChunkError::DataEnd),
                },
                State::Trailers => {
                    let end = self.scan.end(rest, self.trailer_bytes, self.trailer_bytes);
                    let Some(end) = end.map_err(trailer_error)? else { break };
                    self.trailers = parse_trailers(&rest[..end], self.trailer_fields)?;
                    skip += end;
                    self.state = State::End;
                }
                State::End => break,
            }
        }
        Ok(Step { skip, data: 0 })
    }

    /// The size that a chunk's line says, and the line's length; `None` if the line has not ended.
    fn size_line(&mut self, input: &[u8]) -> Result<Option<(u64, usize)>, ChunkError> {
        let window = &input[..input.len().min(LINE)];
        let mut size: u64 = 0;
        let mut digits = 0;
        for digit in window.iter().map_while(|&byte| hex(byte)) {
            if digits == SIZE_DIGITS {
                return Err(ChunkError::Size);
            }
            digits += 1;
            size = size << 4 | u64::from(digit);
        }
        let extension = match window[digits..] {
            [] => return Ok(None),
            _ if digits == 0 => return Err(ChunkError::Size),
            [b'\r', b'\n', ..] => return Ok(Some((size, digits + 2))),
            [b'\r'] => return Ok(None),
            [b'\r' | b'\n', ..] => return Err(ChunkError::LineEnd),
            [b';', ..] => &window[digits..],
            _ => return Err(ChunkError::Size),
        };
        let is_text = |byte: &u8| !byte.is_ascii_control() || *byte == b'\t';
        let length = extension.iter().take_while(|byte| is_text(byte)).count();
        if length > EXTENSION || self.extensions + length > EXTENSIONS {
            return Err(ChunkError::Extension);
        }
        match extension[length..] {
            [b'\r', b'\n', ..] => {
                self.extensions += length;
                Ok(Some((size, digits + length + 2)))
            }
            [] | [b'\r'] => Ok(None),
            [b'\r' | b'\n', ..] => Err(ChunkError::LineEnd),
            _ => Err(ChunkError::Extension),
        }
    }
}

fn hex(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

fn trailer_error(error: ScanError) -> ChunkError {
    ChunkError::Trailers(match error {
        ScanError::Head(error) => error,
        ScanError::FirstLine => HeadError::TooLarge,
    })
}

/// Reads a whole trailer section and keeps the fields that may be forwarded.
fn parse_trailers(text: &[u8], most: usize) -> Result<Fields, ChunkError> {
    if text == b"\r\n" {
        return Ok(Fields::new());
    }
    let mut headers = vec![httparse::EMPTY_HEADER; most];
    // The head's words for what is wrong need a first line.
    let diagnose = |error| {
        let with_line = [b"T\r\n", text].concat();
        ChunkError::Trailers(HeadError::diagnose(&with_line, error))
    };
    match httparse::parse_headers(text, &mut headers).map_err(diagnose)? {
        httparse::Status::Complete((end, headers)) if end == text.len() => {
            let mut fields = Fields::from_parsed(text, headers);
            fields.retain(|field| may_trail(field.name, field.tag));
            Ok(fields)
        }
        _ => Err(ChunkError::Trailers(HeadError::FieldName)),
    }
}

/// Whether a field may come after the body: not one that frames, routes, authenticates, modifies the request or
/// says how to process the content (RFC 9110 section 6.5.1). All names that the edge acts upon are such.
fn may_trail(name: &[u8], tag: Name) -> bool {
    const NEVER: &[&str] = &[
        "age",
        "allow",
        "authentication-info",
        "expires",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "max-forwards",
        "pragma",
        "vary",
        "warning",
    ];
    tag == Name::Other && !NEVER.iter().any(|never| name.eq_ignore_ascii_case(never.as_bytes()))
}
