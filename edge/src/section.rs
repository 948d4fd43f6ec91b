//! Field sections: what HPACK (RFC 7541) and QPACK (RFC 9204) have in common. Integers, strings, Huffman's code, and the
//! lines that come of them.

mod huffman;

use crate::h1::{Fields, Name};

/// What a field costs beyond its text (RFC 9113 section 6.5.2, RFC 9114 section 4.2.2).
pub(crate) const FIELD_OVERHEAD: usize = 32;

/// What a field section may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SectionLimits {
    /// Field lines, pseudo-headers among them.
    pub fields: usize,
    /// Bytes of names and values, and 32 for each line.
    pub bytes: usize,
}

/// The bytes are no field section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// The lines of a field section, unchecked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldLines {
    text: Vec<u8>,
    lines: Vec<Line>,
}

/// Bytes of a section's text whose memory is kept for the next: more than those of most requests.
const KEPT: usize = 4096;

/// A field's name and value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) name: Text,
    pub(crate) value: Text,
}

/// A string of a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Text {
    Static(&'static str),
    /// Of the section's own text.
    Own {
        start: usize,
        end: usize,
    },
}

impl FieldLines {
    /// With room for what a section of so many bytes commonly becomes.
    pub(crate) fn with_room(coded: usize) -> Self {
        Self { text: Vec::with_capacity(coded * 3 / 2), lines: Vec::with_capacity(16) }
    }

    /// Names and values in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.lines.iter().map(|line| (self.of(line.name), self.of(line.value)))
    }

    /// How many lines there are.
    pub(crate) fn len(&self) -> usize {
        self.lines.len()
    }

    /// Forgets all lines; their memory is kept if it is little.
    pub(crate) fn clear(&mut self) {
        if self.text.capacity() > KEPT {
            *self = Self::default();
        }
        self.text.clear();
        self.lines.clear();
    }

    pub(crate) fn of(&self, text: Text) -> &[u8] {
        match text {
            Text::Static(text) => text.as_bytes(),
            Text::Own { start, end } => self.text.get(start..end).unwrap_or_default(),
        }
    }

    /// What a line counts for.
    pub(crate) fn cost(&self, line: Line) -> usize {
        self.of(line.name).len() + self.of(line.value).len() + FIELD_OVERHEAD
    }

    pub(crate) fn push(&mut self, line: Line) {
        self.lines.push(line);
    }

    /// Takes text over that is somebody else's.
    pub(crate) fn copy(&mut self, text: &[u8]) -> Text {
        let start = self.text.len();
        self.text.extend_from_slice(text);
        Text::Own { start, end: self.text.len() }
    }

    /// Where the text ends.
    pub(crate) fn mark(&self) -> usize {
        self.text.len()
    }

    /// Forgets the text after a mark, of which no line was made.
    pub(crate) fn forget(&mut self, mark: usize) {
        self.text.truncate(mark);
    }

    /// Reads a string whose length has that many bits in its first byte, after the mark of Huffman's code.
    pub(crate) fn string(&mut self, reader: &mut Reader<'_>, bits: u32) -> Result<Text, Malformed> {
        let (flags, length) = reader.integer(bits)?;
        let raw = reader.take(length)?;
        let start = self.text.len();
        if flags & 1 == 1 {
            huffman::decode(raw, &mut self.text)?;
        } else {
            self.text.extend_from_slice(raw);
        }
        Ok(Text::Own { start, end: self.text.len() })
    }
}

/// Whether a field's name may be one: it is there, and in lowercase. Which other bytes it has, [`Fields`] look at.
pub(crate) fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && !name.iter().any(u8::is_ascii_uppercase)
}

/// Trailers as ours. `None` if they are malformed.
pub(crate) fn trailers(lines: &FieldLines) -> Option<Fields> {
    let mut fields = Fields::new();
    for (name, value) in lines.iter() {
        if name.first() == Some(&b':') || !is_name(name) {
            return None;
        }
        let framing = [Name::ContentLength, Name::TransferEncoding, Name::Host, Name::Connection];
        if !framing.contains(&Name::of(name)) {
            // What cannot be a field on HTTP/1 is left out.
            let name = std::str::from_utf8(name).ok()?;
            let _unfit = fields.push_trimmed(name, value);
        }
    }
    Some(fields)
}

/// What is left to read of a section.
pub(crate) struct Reader<'s> {
    pub(crate) input: &'s [u8],
}

impl<'s> Reader<'s> {
    /// The next byte, which is read again.
    pub(crate) fn peek(&self) -> Result<u8, Malformed> {
        self.input.first().copied().ok_or(Malformed)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.input.split_first().ok_or(Malformed)?;
        self.input = rest;
        Ok(*first)
    }

    fn take(&mut self, count: u64) -> Result<&'s [u8], Malformed> {
        let count = usize::try_from(count).map_err(|_| Malformed)?;
        let (taken, rest) = self.input.split_at_checked(count).ok_or(Malformed)?;
        self.input = rest;
        Ok(taken)
    }

    /// An integer with that many bits in its first byte (RFC 7541 section 5.1), and the bits before it.
    pub(crate) fn integer(&mut self, bits: u32) -> Result<(u8, u64), Malformed> {
        let first = u16::from(self.byte()?);
        let most = (1_u16 << bits) - 1;
        let flags = u8::try_from(first >> bits).map_err(|_| Malformed)?;
        if first & most < most {
            return Ok((flags, u64::from(first & most)));
        }
        let mut value = u64::from(most);
        // Five more bytes hold 35 bits, more than any length or index has.
        for shift in (0..35).step_by(7) {
            let byte = self.byte()?;
            value += u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((flags, value));
            }
        }
        Err(Malformed)
    }
}

/// Appends a string as it is. Huffman's code is not used: it saves a third of the text at several times the price.
pub(crate) fn write_string(out: &mut Vec<u8>, text: &[u8]) {
    write_integer(out, 0, 7, text.len());
    out.extend_from_slice(text);
}

/// Appends an integer with that many bits in its first byte, behind the bits that `flags` has.
#[expect(clippy::cast_possible_truncation, reason = "below the mask in each case")]
pub(crate) fn write_integer(out: &mut Vec<u8>, flags: u8, bits: u32, value: usize) {
    let most = (1_usize << bits) - 1;
    if value < most {
        return out.push(flags | value as u8);
    }
    out.push(flags | most as u8);
    let mut rest = value - most;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}
