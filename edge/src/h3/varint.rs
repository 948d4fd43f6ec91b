//! QUIC's integers of variable length (RFC 9000 section 16).

/// The largest that there is.
pub const VARINT_MAX: u64 = (1 << 62) - 1;

/// The integer that `input` begins with, and its length. `None`: it has not ended.
#[must_use]
pub fn varint(input: &[u8]) -> Option<(u64, usize)> {
    let first = *input.first()?;
    let length = 1 << (first >> 6);
    let bytes = input.get(..length)?;
    let value = bytes[1..].iter().fold(u64::from(first & 0x3f), |value, byte| value << 8 | u64::from(*byte));
    Some((value, length))
}

/// Appends an integer, in its shortest form. One above [`VARINT_MAX`] becomes that.
pub fn write_varint(out: &mut Vec<u8>, value: u64) {
    let value = value.min(VARINT_MAX);
    let bytes = value.to_be_bytes();
    let (length, mark) = match value {
        0..0x40 => (1, 0x00),
        0x40..0x4000 => (2, 0x40),
        0x4000..0x4000_0000 => (4, 0x80),
        _ => (8, 0xc0),
    };
    let start = out.len();
    out.extend_from_slice(&bytes[8 - length..]);
    out[start] |= mark;
}
