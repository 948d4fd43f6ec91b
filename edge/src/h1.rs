//! HTTP/1.1, both sides: heads, framing and bodies as pure functions of bytes.
//!
//! Sans-IO: slices in, values out, and whole heads written to a `Vec<u8>`; no sockets, clocks or futures. httparse
//! finds the parts of a head; whatever it lets through that could be read two ways (bare LF, HTTP/1.1 without
//! `Host`, `Content-Length` beside `Transfer-Encoding`, ...) is refused here. What goes out is always written from
//! the parsed model, never copied from the wire.
//!
//! A connection keeps one parser per direction and feeds it the unconsumed bytes, from their first, whenever more
//! have come:
//!
//! ```
//! use edge::h1::{BodyReader, Limits, RequestParser, Step};
//!
//! let limits = Limits::default();
//! let mut input: &[u8] = b"POST /a?b HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 2\r\n\r\nhi";
//! let parsed = RequestParser::default().parse(input, &limits)?.expect("the head is complete");
//! assert_eq!((parsed.head.host(), parsed.head.path()), ("shop.example", "/a"));
//! input = &input[parsed.consumed..];
//!
//! let mut body = BodyReader::new(parsed.framing.body, &limits);
//! assert_eq!(body.step(input)?, Step { skip: 0, data: 2 });
//! assert!(body.is_done());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Deliberately absent: decompression, path canonicalisation (`model::path`), and every decision that needs a config.

mod body;
mod chunked;
mod error;
mod fields;
mod framing;
mod head;
mod host;
mod name;
mod preface;
mod request;
mod response;
mod scan;
mod target;
mod write;

#[cfg(test)]
mod tests;

pub use body::{BodyError, BodyReader, Step};
pub use chunked::ChunkError;
pub use error::{FramingError, HeadError};
pub use fields::{Field, Fields, InvalidField};
pub(crate) use framing::content_length;
pub use framing::{BodyLength, Upgrade};
pub use head::{Method, RequestHead, ResponseHead, Scheme, Version, standard_reason};
pub use host::HostError;
pub use name::Name;
pub use preface::{Preface, h2_preface};
pub use request::{ParsedRequest, RequestError, RequestFraming, RequestParser};
pub use response::{ParsedResponse, ResponseError, ResponseFraming, ResponseParser};
pub use target::TargetError;
pub use write::{
    Outgoing, Persistence, RequestTarget, write_chunk, write_chunk_header, write_last_chunk, write_request,
    write_response,
};

/// What a head, a chunk or a trailer section may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a head or a trailer section, with its line ends.
    pub head_bytes: usize,
    /// Fields of a head or a trailer section, at most [`Limits::MAX_FIELDS`].
    pub fields: usize,
    /// Bytes of the request line: twice the 8000 that RFC 9112 section 3 asks for.
    pub request_line_bytes: usize,
    /// Whether CONNECT is a request like any other; otherwise it is refused with 501.
    pub connect: bool,
    /// Whether a request's field names may have a `_`, which CGI and WSGI cannot tell from a `-`.
    pub underscores: bool,
}

impl Limits {
    /// No more fields than this are parsed, whatever the configuration says.
    pub const MAX_FIELDS: usize = 256;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes: 64 << 10,
            fields: 100,
            request_line_bytes: 16 << 10,
            connect: false,
            underscores: false,
        }
    }
}
