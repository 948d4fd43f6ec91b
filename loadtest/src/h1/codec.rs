//! PURE. Reading HTTP/1.1 answers: the head, and where the body ends.

/// The most header fields of an answer.
const MAX_FIELDS: usize = 128;
/// The longest head of an answer, bytes.
const MAX_HEAD: usize = 64 * 1024;

/// Why bytes are not an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("the answer's head is not HTTP/1: {0}")]
    Head(httparse::Error),
    #[error("the answer's head is longer than 64 KiB")]
    TooLong,
    #[error("the answer has a Content-Length that is not one number")]
    Length,
    #[error("the answer switches protocols, which nobody asked for")]
    Switch,
    #[error("the answer has a broken chunk")]
    Chunk,
}

/// What the head says of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    /// Bytes of the head itself.
    pub(crate) length: usize,
    pub(crate) status: u16,
    pub(crate) body: Body,
    /// Whether the connection may be used again after the body.
    pub(crate) keep_alive: bool,
    pub(crate) worker: Option<String>,
}

/// Where the body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body {
    Length(u64),
    Chunked,
    UntilClose,
}

/// The head at the start of `bytes`, once it is complete. `to_head`: the request's method was HEAD.
pub(crate) fn parse_head(bytes: &[u8], to_head: bool) -> Result<Option<Head>, Malformed> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    let length = match response.parse(bytes).map_err(Malformed::Head)? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial if bytes.len() > MAX_HEAD => return Err(Malformed::TooLong),
        httparse::Status::Partial => return Ok(None),
    };
    let status = response.code.unwrap_or(0);
    if status == 101 {
        return Err(Malformed::Switch);
    }
    let mut keep_alive = response.version == Some(1);
    let (mut declared, mut chunked, mut encoded, mut worker) = (None, false, false, None);
    for field in response.headers.iter() {
        let value = field.value.trim_ascii();
        if field.name.eq_ignore_ascii_case("content-length") {
            let length = std::str::from_utf8(value).ok().and_then(|v| v.parse::<u64>().ok());
            let length = length.ok_or(Malformed::Length)?;
            if declared.replace(length).is_some_and(|before| before != length) {
                return Err(Malformed::Length);
            }
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            encoded = true;
            chunked = tokens(value).last().is_some_and(|t| t.eq_ignore_ascii_case(b"chunked"));
        } else if field.name.eq_ignore_ascii_case("connection") {
            for token in tokens(value) {
                if token.eq_ignore_ascii_case(b"close") {
                    keep_alive = false;
                } else if token.eq_ignore_ascii_case(b"keep-alive") && response.version == Some(0) {
                    keep_alive = true;
                }
            }
        } else if field.name.eq_ignore_ascii_case("x-weir-worker") {
            worker = Some(String::from_utf8_lossy(value).into_owned());
        }
    }
    // RFC 9112 section 6.3.
    let body = match declared {
        _ if to_head || status < 200 || status == 204 || status == 304 => Body::Length(0),
        _ if chunked => Body::Chunked,
        Some(length) if !encoded => Body::Length(length),
        _ => Body::UntilClose,
    };
    let keep_alive = keep_alive && body != Body::UntilClose;
    Ok(Some(Head { length, status, body, keep_alive, worker }))
}

fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&b| b == b',').map(<[u8]>::trim_ascii)
}

/// Where in a chunked body (RFC 9112 section 7.1) the reader is.
///
/// `Size -> Extension -> Data -> DataEnd -> Size ...`, and after a chunk of size zero `Trailer -> Done`.
#[derive(Debug, Default)]
pub(crate) struct Chunks {
    state: Chunk,
    body_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunk {
    /// Digits of the size so far, and how many.
    Size {
        size: u64,
        digits: u8,
    },
    /// The rest of the size's line.
    Extension {
        size: u64,
        seen: u16,
    },
    /// Bytes of data still to come.
    Data(u64),
    /// The line end after data.
    DataEnd,
    /// A trailer line of so many bytes so far, of so many in all.
    Trailer {
        line: u32,
        seen: u32,
    },
    Done,
}

impl Default for Chunk {
    fn default() -> Self {
        Self::Size { size: 0, digits: 0 }
    }
}

impl Chunks {
    /// Takes what it can of `bytes`; returns how much. Nothing after the end is taken.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let mut at = 0;
        while at < bytes.len() && self.state != Chunk::Done {
            if let Chunk::Data(missing) = self.state {
                let here = (bytes.len() - at).min(usize::try_from(missing).unwrap_or(usize::MAX));
                at += here;
                self.body_bytes += here as u64;
                let missing = missing - here as u64;
                self.state = if missing == 0 { Chunk::DataEnd } else { Chunk::Data(missing) };
            } else {
                self.state = self.state.after(bytes[at])?;
                at += 1;
            }
        }
        Ok(at)
    }

    pub(crate) fn is_done(&self) -> bool {
        self.state == Chunk::Done
    }

    pub(crate) fn body_bytes(&self) -> u64 {
        self.body_bytes
    }
}

impl Chunk {
    /// The state after one byte that is not data. CR is taken anywhere before LF: a test client may be lenient in
    /// what ends a line, as long as it never loses the border of a message.
    fn after(self, byte: u8) -> Result<Self, Malformed> {
        Ok(match (self, byte) {
            (Self::Size { size, digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if digits < 15 => {
                let digit = char::from(byte).to_digit(16).unwrap_or(0);
                Self::Size { size: size * 16 + u64::from(digit), digits: digits + 1 }
            }
            (Self::Size { digits: 0, .. }, _) => return Err(Malformed::Chunk),
            (Self::Size { size, .. } | Self::Extension { size, .. }, b'\n') => match size {
                0 => Self::Trailer { line: 0, seen: 0 },
                size => Self::Data(size),
            },
            (Self::Size { size, .. }, b'\r' | b';' | b' ' | b'\t') => Self::Extension { size, seen: 0 },
            (Self::Extension { size, seen }, _) if seen < 4096 => Self::Extension { size, seen: seen + 1 },
            (Self::DataEnd, b'\r') => Self::DataEnd,
            (Self::DataEnd, b'\n') => Self::default(),
            (Self::Trailer { line: 0, .. }, b'\n') => Self::Done,
            (Self::Trailer { seen, .. }, b'\n') => Self::Trailer { line: 0, seen: seen + 1 },
            (Self::Trailer { line, seen }, b'\r') => Self::Trailer { line, seen },
            (Self::Trailer { line, seen }, _) if seen < 65_536 => {
                Self::Trailer { line: line + 1, seen: seen + 1 }
            }
            _ => return Err(Malformed::Chunk),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str, to_head: bool) -> Head {
        parse_head(text.as_bytes(), to_head).unwrap().unwrap()
    }

    #[test]
    fn the_body_ends_where_rfc_9112_says() {
        for (text, body, keep_alive) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", Body::Length(5), true),
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\nConnection: Close\r\n\r\n", Body::Length(5), false),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n", Body::Chunked, true),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n",
                Body::Chunked,
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\ncontent-length: 5\r\n\r\n",
                Body::UntilClose,
                false,
            ),
            ("HTTP/1.1 200 OK\r\n\r\n", Body::UntilClose, false),
            ("HTTP/1.1 204 No Content\r\n\r\n", Body::Length(0), true),
            ("HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", Body::Length(0), true),
            ("HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\n", Body::Length(5), false),
            ("HTTP/1.0 200 OK\r\ncontent-length: 5\r\nconnection: keep-alive\r\n\r\n", Body::Length(5), true),
            ("HTTP/1.1 100 Continue\r\n\r\n", Body::Length(0), true),
        ] {
            let parsed = head(text, false);
            assert_eq!(
                (parsed.body, parsed.keep_alive, parsed.length),
                (body, keep_alive, text.len()),
                "{text:?}"
            );
        }
        assert_eq!(
            head("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", true).body,
            Body::Length(0),
            "to HEAD"
        );
    }

    #[test]
    fn the_worker_is_read() {
        let parsed = head("HTTP/1.1 503 x\r\nX-Weir-Worker:  w-7 \r\ncontent-length: 0\r\n\r\n", false);
        assert_eq!((parsed.status, parsed.worker.as_deref()), (503, Some("w-7")));
    }

    #[test]
    fn heads_that_are_not_http_are_refused() {
        for (text, error) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n", Malformed::Length),
            ("HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n", Malformed::Length),
            ("HTTP/1.1 101 Switching\r\n\r\n", Malformed::Switch),
        ] {
            assert_eq!(parse_head(text.as_bytes(), false), Err(error), "{text:?}");
        }
        assert!(matches!(parse_head(b"SSH-2.0-OpenSSH\r\n\r\n", false), Err(Malformed::Head(_))));
        let endless = format!("HTTP/1.1 200 OK\r\nx: {}", "a".repeat(MAX_HEAD));
        assert_eq!(parse_head(endless.as_bytes(), false), Err(Malformed::TooLong));
    }

    /// Feeds `text` in pieces of every size; returns the body's length and how many bytes were taken.
    fn chunked(text: &str) -> Result<(u64, usize), Malformed> {
        let whole = {
            let mut chunks = Chunks::default();
            let taken = chunks.feed(text.as_bytes())?;
            assert!(chunks.is_done(), "{text:?}");
            (chunks.body_bytes(), taken)
        };
        for size in 1..text.len() {
            let mut chunks = Chunks::default();
            let taken: usize = text.as_bytes().chunks(size).map(|piece| chunks.feed(piece).unwrap()).sum();
            assert_eq!((chunks.body_bytes(), taken), whole, "in pieces of {size}");
        }
        Ok(whole)
    }

    #[test]
    fn chunks_are_read_in_pieces_of_any_size() {
        assert_eq!(chunked("5\r\nhello\r\n0\r\n\r\n"), Ok((5, 15)));
        assert_eq!(
            chunked("5;a=b\r\nhello\r\nA\r\n0123456789\r\n0\r\nx: y\r\nz: 1\r\n\r\n").map(|r| r.0),
            Ok(15)
        );
        assert_eq!(chunked("0\r\n\r\nHTTP/1.1 200").map(|r| r.1), Ok(5), "the next answer is left");
    }

    #[test]
    fn broken_chunks_are_refused() {
        for text in ["\r\n", "x\r\n", "5\r\nhellox", "ffffffffffffffff\r\n", "-1\r\n"] {
            assert_eq!(Chunks::default().feed(text.as_bytes()), Err(Malformed::Chunk), "{text:?}");
        }
    }
}
