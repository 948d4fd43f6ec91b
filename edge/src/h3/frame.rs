//! What a frame begins with (RFC 9114 section 7.1).

use super::varint::{varint, write_varint};

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// A part of a body.
    Data,
    /// A head or trailers.
    Headers,
    /// Only where push is.
    CancelPush,
    /// The first of a control stream.
    Settings,
    /// Never a client's.
    PushPromise,
    /// The client goes away.
    GoAway,
    /// Only where push is.
    MaxPushId,
    /// Of HTTP/2, never of HTTP/3 (section 7.2.8).
    Reserved,
    /// Any other; means nothing.
    Unknown,
}

impl FrameKind {
    const fn of(number: u64) -> Self {
        match number {
            0x00 => Self::Data,
            0x01 => Self::Headers,
            0x03 => Self::CancelPush,
            0x04 => Self::Settings,
            0x05 => Self::PushPromise,
            0x07 => Self::GoAway,
            0x0d => Self::MaxPushId,
            0x02 | 0x06 | 0x08 | 0x09 => Self::Reserved,
            _ => Self::Unknown,
        }
    }

    const fn number(self) -> u64 {
        match self {
            Self::Data => 0x00,
            Self::Headers => 0x01,
            Self::CancelPush => 0x03,
            Self::Settings => 0x04,
            Self::PushPromise => 0x05,
            Self::GoAway => 0x07,
            Self::MaxPushId => 0x0d,
            Self::Reserved => 0x02,
            // One that every peer must ignore (section 7.2.8).
            Self::Unknown => 0x21,
        }
    }
}

/// What a frame begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// What it is.
    pub kind: FrameKind,
    /// Bytes that follow.
    pub length: u64,
    /// Bytes of the header itself.
    pub size: usize,
}

/// The header that `input` begins with. `None`: it has not ended.
#[must_use]
pub fn frame_header(input: &[u8]) -> Option<FrameHeader> {
    let (number, first) = varint(input)?;
    let (length, second) = varint(&input[first..])?;
    Some(FrameHeader { kind: FrameKind::of(number), length, size: first + second })
}

/// Appends a header.
pub fn write_frame_header(out: &mut Vec<u8>, kind: FrameKind, length: usize) {
    write_varint(out, kind.number());
    write_varint(out, length as u64);
}
