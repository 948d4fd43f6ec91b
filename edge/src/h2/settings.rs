//! SETTINGS (RFC 9113 section 6.5, RFC 8441 section 3).

use super::{Code, FrameKind, MOST, flags, write_frame_header};

const ENABLE_PUSH: u16 = 0x2;
const MAX_CONCURRENT_STREAMS: u16 = 0x3;
const INITIAL_WINDOW_SIZE: u16 = 0x4;
const MAX_FRAME_SIZE: u16 = 0x5;
const MAX_HEADER_LIST_SIZE: u16 = 0x6;
const ENABLE_CONNECT_PROTOCOL: u16 = 0x8;

/// What a peer says about itself, as far as it concerns us. `None` where it does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settings {
    /// Whether it is told of push, which a server must not be (RFC 9113 section 6.5.2).
    pub push: Option<bool>,
    /// Streams that we may have open at once.
    pub streams: Option<u32>,
    /// The window of each of its streams, at most 2^31-1.
    pub initial_window: Option<u32>,
    /// The largest frame that it takes, 2^14 to 2^24-1 bytes.
    pub max_frame: Option<u32>,
}

impl Settings {
    /// Reads the payload of a SETTINGS frame, whose length was checked. Of a setting that comes twice the last one counts.
    ///
    /// # Errors
    ///
    /// A value that its setting cannot have.
    pub fn read(payload: &[u8]) -> Result<Self, Code> {
        let mut settings = Self::default();
        for &[i, j, a, b, c, d] in payload.as_chunks().0 {
            let value = u32::from_be_bytes([a, b, c, d]);
            match u16::from_be_bytes([i, j]) {
                ENABLE_PUSH | ENABLE_CONNECT_PROTOCOL if value > 1 => return Err(Code::ProtocolError),
                ENABLE_PUSH => settings.push = Some(value == 1),
                MAX_CONCURRENT_STREAMS => settings.streams = Some(value),
                INITIAL_WINDOW_SIZE if value > MOST => return Err(Code::FlowControlError),
                INITIAL_WINDOW_SIZE => settings.initial_window = Some(value),
                MAX_FRAME_SIZE if !(1 << 14..1 << 24).contains(&value) => return Err(Code::ProtocolError),
                MAX_FRAME_SIZE => settings.max_frame = Some(value),
                // The size of a table that we do not fill, and what a head may cost, which is for its peer to say.
                _ => {}
            }
        }
        Ok(settings)
    }
}

/// What we say about ourselves to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OurSettings {
    /// Streams that the client may have open at once.
    pub streams: u32,
    /// The window of each, bytes.
    pub window: u32,
    /// What a head may cost, bytes.
    pub field_section: u32,
}

/// Appends a server's SETTINGS. The largest frame and the decoder's table stay what they are without a word; an extended
/// CONNECT is welcome.
pub fn write_settings(out: &mut Vec<u8>, settings: &OurSettings) {
    write(
        out,
        &[
            (MAX_CONCURRENT_STREAMS, settings.streams),
            (INITIAL_WINDOW_SIZE, settings.window),
            (MAX_HEADER_LIST_SIZE, settings.field_section),
            (ENABLE_CONNECT_PROTOCOL, 1),
        ],
    );
}

/// Appends a client's SETTINGS: nothing is to be pushed, `window` bytes may come on each stream, and a head may cost
/// `field_section` bytes. The largest frame and the decoder's table stay what they are without a word.
pub fn write_client_settings(out: &mut Vec<u8>, window: u32, field_section: u32) {
    write(out, &[(ENABLE_PUSH, 0), (INITIAL_WINDOW_SIZE, window), (MAX_HEADER_LIST_SIZE, field_section)]);
}

fn write(out: &mut Vec<u8>, said: &[(u16, u32)]) {
    write_frame_header(out, said.len() * 6, FrameKind::Settings, 0, 0);
    for (id, value) in said {
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

/// Appends the answer to a peer's SETTINGS.
pub fn write_settings_ack(out: &mut Vec<u8>) {
    write_frame_header(out, 0, FrameKind::Settings, flags::ACK, 0);
}
