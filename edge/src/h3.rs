//! HTTP/3, the server's side: frames, settings and QPACK as pure functions of bytes (RFC 9114, RFC 9204).
//!
//! Sans-IO, as [`h1`](crate::h1) is: slices in, values out. QUIC itself is quinn's.
//!
//! The `h3` crate (0.0.8) is our tests' client and not our server: it keeps a HEADERS frame or an unknown one in memory
//! however long it says to be, takes the last of repeated pseudo-headers and those that follow ordinary fields, lets a
//! body that was cut off inside a DATA frame look complete, and its GOAWAY names a request that it has answered.
//!
//! The dynamic table is not used in either direction (we announce a capacity of zero): it saves little on an edge's
//! short connections, costs memory for each, and lets one stream hold up another.
//!
//! Deliberately absent: push, and every decision that needs a connection's state.

mod code;
mod frame;
pub mod qpack;
mod settings;
mod varint;

#[cfg(test)]
mod tests;

pub use code::Code;
pub use frame::{FrameHeader, FrameKind, frame_header, write_frame_header};
pub use settings::{Settings, write_settings};
pub use varint::{VARINT_MAX, varint, write_varint};

/// The type of a client's unidirectional stream (RFC 9114 section 6.2, RFC 9204 section 4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// Settings and GOAWAY.
    Control,
    /// Pushed responses; only a server's.
    Push,
    /// Insertions into the dynamic table.
    Encoder,
    /// What became of them.
    Decoder,
    /// Any other; not an error.
    Unknown,
}

impl StreamKind {
    /// The kind of that number.
    #[must_use]
    pub const fn of(number: u64) -> Self {
        match number {
            0x00 => Self::Control,
            0x01 => Self::Push,
            0x02 => Self::Encoder,
            0x03 => Self::Decoder,
            _ => Self::Unknown,
        }
    }
}
