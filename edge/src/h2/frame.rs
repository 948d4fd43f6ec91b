//! Frames (RFC 9113 sections 4.1 and 6).

use super::{Code, FRAME, Fault, MOST};

/// Bytes of a frame's header.
pub const FRAME_HEADER: usize = 9;

/// What the flags of a frame say.
pub mod flags {
    /// Of DATA and HEADERS: nothing follows on the stream.
    pub const END_STREAM: u8 = 0x1;
    /// Of SETTINGS and PING: an answer.
    pub const ACK: u8 = 0x1;
    /// Of HEADERS and CONTINUATION: the field block ends here.
    pub const END_HEADERS: u8 = 0x4;
    /// Of DATA and HEADERS: there is padding.
    pub const PADDED: u8 = 0x8;
    /// Of HEADERS: there is a priority.
    pub const PRIORITY: u8 = 0x20;
}

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// A part of a body.
    Data,
    /// A head or trailers, or their beginning.
    Headers,
    /// A priority.
    Priority,
    /// A stream is broken off.
    Reset,
    /// Settings, or the answer to ours.
    Settings,
    /// Never a client's, and refused of servers.
    PushPromise,
    /// A question whether we are there, or the answer to ours.
    Ping,
    /// The peer goes away.
    GoAway,
    /// Room for more data.
    WindowUpdate,
    /// What follows of a field block.
    Continuation,
    /// Any other; means nothing.
    Unknown,
}

impl FrameKind {
    const fn of(number: u8) -> Self {
        match number {
            0x0 => Self::Data,
            0x1 => Self::Headers,
            0x2 => Self::Priority,
            0x3 => Self::Reset,
            0x4 => Self::Settings,
            0x5 => Self::PushPromise,
            0x6 => Self::Ping,
            0x7 => Self::GoAway,
            0x8 => Self::WindowUpdate,
            0x9 => Self::Continuation,
            _ => Self::Unknown,
        }
    }

    const fn number(self) -> u8 {
        match self {
            Self::Data => 0x0,
            Self::Headers => 0x1,
            Self::Priority => 0x2,
            Self::Reset => 0x3,
            Self::Settings => 0x4,
            Self::PushPromise => 0x5,
            Self::Ping => 0x6,
            Self::GoAway => 0x7,
            Self::WindowUpdate => 0x8,
            Self::Continuation => 0x9,
            // One that every peer must ignore.
            Self::Unknown => 0xb,
        }
    }
}

/// What a frame begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Bytes that follow.
    pub length: usize,
    /// What it is.
    pub kind: FrameKind,
    /// What its kind makes of them; see [`flags`].
    pub flags: u8,
    /// The stream that it is of; 0 is the connection.
    pub stream: u32,
}

impl FrameHeader {
    /// The header that `input` begins with. `None`: it has not ended.
    #[must_use]
    pub fn read(input: &[u8]) -> Option<Self> {
        let [a, b, c, kind, flags, s, t, u, v, ..] = *input else { return None };
        Some(Self {
            length: usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c),
            kind: FrameKind::of(kind),
            flags,
            stream: u32::from_be_bytes([s, t, u, v]) & MOST,
        })
    }

    /// Whether that flag is set.
    #[must_use]
    pub const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Whether a frame of its kind may be so long, and where it is.
    ///
    /// # Errors
    ///
    /// What the standard says of each (RFC 9113 section 6). One that is too long ends the connection, whatever it is: it
    /// would have to be read to its end.
    pub fn check(&self) -> Result<(), Fault> {
        let size = Fault::Connection(Code::FrameSizeError);
        if self.length > FRAME {
            return Err(size);
        }
        let (on_stream, fits) = match self.kind {
            FrameKind::Data | FrameKind::Headers | FrameKind::Continuation => (Some(true), true),
            FrameKind::Priority if self.stream != 0 && self.length != 5 => {
                return Err(Fault::Stream(Code::FrameSizeError));
            }
            FrameKind::Priority => (Some(true), true),
            FrameKind::Reset => (Some(true), self.length == 4),
            FrameKind::Settings => {
                (Some(false), self.length.is_multiple_of(6) && (!self.has(flags::ACK) || self.length == 0))
            }
            FrameKind::Ping => (Some(false), self.length == 8),
            FrameKind::GoAway => (Some(false), self.length >= 8),
            FrameKind::WindowUpdate => (None, self.length == 4),
            FrameKind::PushPromise => return Err(Fault::Connection(Code::ProtocolError)),
            FrameKind::Unknown => (None, true),
        };
        if on_stream.is_some_and(|on_stream| on_stream != (self.stream != 0)) {
            return Err(Fault::Connection(Code::ProtocolError));
        }
        if fits { Ok(()) } else { Err(size) }
    }
}

/// A whole frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'i> {
    /// Its header.
    pub header: FrameHeader,
    /// What follows the header.
    pub payload: &'i [u8],
    /// What is wrong with it, which ends its stream.
    pub fault: Option<Code>,
}

impl<'i> Frame<'i> {
    /// The frame that `input` begins with. `None`: it has not ended.
    ///
    /// # Errors
    ///
    /// It ends the connection, whatever is in it; see [`FrameHeader::check`].
    pub fn read(input: &'i [u8]) -> Result<Option<Self>, Code> {
        let Some(header) = FrameHeader::read(input) else { return Ok(None) };
        let fault = match header.check() {
            Ok(()) => None,
            Err(Fault::Stream(code)) => Some(code),
            Err(Fault::Connection(code)) => return Err(code),
        };
        let payload = input.get(FRAME_HEADER..FRAME_HEADER + header.length);
        Ok(payload.map(|payload| Self { header, payload, fault }))
    }

    /// Bytes of all of it.
    #[must_use]
    pub const fn size(&self) -> usize {
        FRAME_HEADER + self.payload.len()
    }
}

/// The payload without its padding.
fn unpadded<'p>(header: &FrameHeader, payload: &'p [u8]) -> Result<&'p [u8], Fault> {
    if !header.has(flags::PADDED) {
        return Ok(payload);
    }
    let (padding, rest) = payload.split_first().ok_or(Fault::Connection(Code::FrameSizeError))?;
    // Padding as long as the payload or longer is no padding (RFC 9113 sections 6.1 and 6.2).
    let length = rest.len().checked_sub(usize::from(*padding));
    length.and_then(|length| rest.get(..length)).ok_or(Fault::Connection(Code::ProtocolError))
}

/// The data of a DATA frame.
///
/// # Errors
///
/// The padding is none.
pub fn data<'p>(header: &FrameHeader, payload: &'p [u8]) -> Result<&'p [u8], Fault> {
    unpadded(header, payload)
}

/// What is in a HEADERS frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadersFrame<'p> {
    /// The field block, or its beginning.
    pub fragment: &'p [u8],
    /// Whether its stream is to depend on itself: an error of the stream, but the field block must be read first.
    pub depends_on_itself: bool,
}

/// Reads a HEADERS frame.
///
/// # Errors
///
/// The padding is none, or the priority is cut off.
pub fn headers<'p>(header: &FrameHeader, payload: &'p [u8]) -> Result<HeadersFrame<'p>, Fault> {
    let payload = unpadded(header, payload)?;
    if !header.has(flags::PRIORITY) {
        return Ok(HeadersFrame { fragment: payload, depends_on_itself: false });
    }
    let (priority, fragment) =
        payload.split_first_chunk::<5>().ok_or(Fault::Connection(Code::FrameSizeError))?;
    Ok(HeadersFrame { fragment, depends_on_itself: number(priority) == Some(header.stream) })
}

/// Reads a PRIORITY frame, which means nothing.
///
/// # Errors
///
/// The stream depends on itself.
pub fn priority(header: &FrameHeader, payload: &[u8]) -> Result<(), Fault> {
    if number(payload) == Some(header.stream) { Err(Fault::Stream(Code::ProtocolError)) } else { Ok(()) }
}

/// The code of a RST_STREAM frame.
#[must_use]
pub fn reset(payload: &[u8]) -> Option<u32> {
    payload.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes))
}

/// The last stream of a GOAWAY frame, and its code.
#[must_use]
pub fn goaway(payload: &[u8]) -> Option<(u32, u32)> {
    Some((number(payload)?, reset(payload.get(4..)?)?))
}

/// By how much a WINDOW_UPDATE frame opens a window.
///
/// # Errors
///
/// By nothing: an error of the stream or, on none, of the connection (RFC 9113 section 6.9).
pub fn window_update(header: &FrameHeader, payload: &[u8]) -> Result<u32, Fault> {
    match (number(payload), header.stream) {
        (Some(increment), _) if increment > 0 => Ok(increment),
        (_, 0) => Err(Fault::Connection(Code::ProtocolError)),
        _ => Err(Fault::Stream(Code::ProtocolError)),
    }
}

/// The 31 bits that a payload begins with.
fn number(payload: &[u8]) -> Option<u32> {
    reset(payload).map(|number| number & MOST)
}

/// Appends a header. `length` is below 2^24.
pub fn write_frame_header(out: &mut Vec<u8>, length: usize, kind: FrameKind, flags: u8, stream: u32) {
    let [.., a, b, c] = length.to_be_bytes();
    let [s, t, u, v] = stream.to_be_bytes();
    out.extend_from_slice(&[a, b, c, kind.number(), flags, s, t, u, v]);
}

/// Appends RST_STREAM.
pub fn write_reset(out: &mut Vec<u8>, stream: u32, code: Code) {
    write_frame_header(out, 4, FrameKind::Reset, 0, stream);
    out.extend_from_slice(&code.value().to_be_bytes());
}

/// Appends PING, or the answer to one.
pub fn write_ping(out: &mut Vec<u8>, flags: u8, payload: &[u8]) {
    write_frame_header(out, payload.len(), FrameKind::Ping, flags, 0);
    out.extend_from_slice(payload);
}

/// Appends GOAWAY: streams above `last` are not served.
pub fn write_goaway(out: &mut Vec<u8>, last: u32, code: Code) {
    write_frame_header(out, 8, FrameKind::GoAway, 0, 0);
    out.extend_from_slice(&last.to_be_bytes());
    out.extend_from_slice(&code.value().to_be_bytes());
}

/// Appends WINDOW_UPDATE.
pub fn write_window_update(out: &mut Vec<u8>, stream: u32, increment: u32) {
    write_frame_header(out, 4, FrameKind::WindowUpdate, 0, stream);
    out.extend_from_slice(&increment.to_be_bytes());
}
