//! HTTP/2: frames, settings and HPACK as pure functions of bytes (RFC 9113, RFC 7541).
//!
//! Sans-IO, as [`h1`](crate::h1) and [`h3`](crate::h3) are: slices in, values out. What a stream or a connection may do, and
//! when, is `mux`'s for both sides, `downstream::h2`'s for clients and `upstream::h2`'s for upstreams. The `h2` crate asks
//! whether endpoints are well, and is our tests' client and upstream.
//!
//! Deliberately absent: push, priorities (read, checked and ignored; RFC 9113 section 5.3.2), and a dynamic table for what we
//! send.

mod code;
mod frame;
pub mod hpack;
mod settings;

#[cfg(test)]
mod tests;

pub use code::{Code, Fault};
pub use frame::{
    FRAME_HEADER, Frame, FrameHeader, FrameKind, HeadersFrame, data, flags, goaway, headers, priority, reset,
    window_update, write_frame_header, write_goaway, write_ping, write_reset, write_window_update,
};
pub use settings::{OurSettings, Settings, write_client_settings, write_settings, write_settings_ack};

/// What a connection begins with (RFC 9113 section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The largest window (RFC 9113 section 6.9.1), and the largest number of a stream.
pub const MOST: u32 = (1 << 31) - 1;

/// The window of a connection, and of each stream until SETTINGS say otherwise (RFC 9113 section 6.9.2).
pub const FIRST_WINDOW: u32 = 65_535;

/// Bytes of a frame that everybody takes (RFC 9113 section 4.2), and the most that we take and send.
pub const FRAME: usize = 16_384;
