//! Settings (RFC 9114 section 7.2.4).

use super::{
    Code,
    frame::{FrameKind, write_frame_header},
    varint::{varint, write_varint},
};

const QPACK_MAX_TABLE_CAPACITY: u64 = 0x01;
const MAX_FIELD_SECTION_SIZE: u64 = 0x06;
const QPACK_BLOCKED_STREAMS: u64 = 0x07;
/// RFC 9220 section 5.
const ENABLE_CONNECT_PROTOCOL: u64 = 0x08;

/// Settings in one frame: ten times what any client sends.
const MOST: usize = 64;

/// What a client's settings say that we act upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settings {
    /// The largest head that it takes, counted as RFC 9114 section 4.2.2 does.
    pub max_field_section: Option<u64>,
}

impl Settings {
    /// Reads the payload of a SETTINGS frame.
    ///
    /// # Errors
    ///
    /// The code that the connection is closed with.
    pub fn parse(mut payload: &[u8]) -> Result<Self, Code> {
        let mut settings = Self::default();
        let mut seen = Vec::new();
        while !payload.is_empty() {
            let (id, first) = varint(payload).ok_or(Code::FrameError)?;
            let (value, second) = varint(&payload[first..]).ok_or(Code::FrameError)?;
            payload = &payload[first + second..];
            // Those of HTTP/2 are errors (section 7.2.4.1), and so is one that comes twice.
            if matches!(id, 0x00 | 0x02..=0x05) || seen.contains(&id) {
                return Err(Code::SettingsError);
            }
            if seen.len() == MOST {
                return Err(Code::ExcessiveLoad);
            }
            seen.push(id);
            if id == MAX_FIELD_SECTION_SIZE {
                settings.max_field_section = Some(value);
            }
        }
        Ok(settings)
    }
}

/// Appends the SETTINGS frame of a server that uses no dynamic table and serves extended CONNECT.
pub fn write_settings(out: &mut Vec<u8>, max_field_section: u64) {
    let mut payload = Vec::new();
    for (id, value) in [
        (QPACK_MAX_TABLE_CAPACITY, 0),
        (MAX_FIELD_SECTION_SIZE, max_field_section),
        (QPACK_BLOCKED_STREAMS, 0),
        (ENABLE_CONNECT_PROTOCOL, 1),
    ] {
        write_varint(&mut payload, id);
        write_varint(&mut payload, value);
    }
    write_frame_header(out, FrameKind::Settings, payload.len());
    out.extend_from_slice(&payload);
}
