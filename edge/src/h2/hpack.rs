//! Field blocks (RFC 7541): a decoder with its dynamic table, and an encoder without one.

mod table;

use table::{STATIC, Table};

use crate::section::{FIELD_OVERHEAD, Line, Malformed, Reader, Text, write_integer, write_string};
pub use crate::section::{FieldLines, SectionLimits};

/// Why a field block is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HpackError {
    /// It is no field block. The decoder knows no more what its peer knows: the connection ends.
    #[error("the field block cannot be decoded")]
    Malformed,
    /// It is far larger than is allowed: the connection ends.
    #[error("the field block is a bomb")]
    Bomb,
    /// More fields than are allowed. The block was read to its end, so that others may follow.
    #[error("too many fields")]
    TooManyFields,
    /// Larger than is allowed. The block was read to its end, so that others may follow.
    #[error("the fields are too large")]
    TooLarge,
}

impl From<Malformed> for HpackError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// Bytes of the decoder's dynamic table: what everybody expects without a word (RFC 9113 section 6.5.2).
pub const TABLE: usize = 4096;

/// A block that comes to so many times what it may cost is a bomb: a reference of one byte can stand for 4 KiB.
pub const BOMB: usize = 16;

/// What reads the field blocks of a connection, in their order.
#[derive(Debug)]
pub struct Decoder {
    table: Table,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { table: Table::new(TABLE) }
    }
}

impl Decoder {
    /// Reads a whole field block into `lines`, whose memory is used again.
    ///
    /// # Errors
    ///
    /// [`HpackError`]; `lines` are of no use then.
    pub fn decode(
        &mut self,
        block: &[u8],
        limits: SectionLimits,
        lines: &mut FieldLines,
    ) -> Result<(), HpackError> {
        lines.clear();
        let mut reader = Reader { input: block };
        // The table's size may change here and nowhere else, twice at most (RFC 7541 section 4.2).
        let mut changes = 0;
        while let Some(0b0010_0000..=0b0011_1111) = reader.input.first() {
            let size = usize::try_from(reader.integer(5)?.1).map_err(|_| HpackError::Malformed)?;
            changes += 1;
            if size > TABLE || changes > 2 {
                return Err(HpackError::Malformed);
            }
            self.table.resize(size);
        }
        let mut cost = 0_usize;
        let mut over = None;
        while !reader.input.is_empty() {
            let mark = lines.mark();
            let line = self.line(&mut reader, lines)?;
            cost += lines.cost(line);
            if over.is_none() {
                if cost > limits.bytes {
                    over = Some(HpackError::TooLarge);
                } else if lines.len() == limits.fields {
                    over = Some(HpackError::TooManyFields);
                }
            }
            if over.is_none() {
                lines.push(line);
            } else {
                // Nobody will see it, but the table must be what the peer's is.
                lines.forget(mark);
                if cost > limits.bytes.saturating_mul(BOMB) {
                    return Err(HpackError::Bomb);
                }
            }
        }
        over.map_or(Ok(()), Err)
    }

    fn line(&mut self, reader: &mut Reader<'_>, lines: &mut FieldLines) -> Result<Line, HpackError> {
        match reader.peek()? {
            // Indexed (section 6.1).
            0b1000_0000.. => {
                let index = reader.integer(7)?.1;
                self.entry(index, lines)
            }
            // A literal that is to be remembered (section 6.2.1).
            0b0100_0000..=0b0111_1111 => {
                let index = reader.integer(6)?.1;
                let line = self.literal(index, reader, lines)?;
                self.table.insert(lines.of(line.name), lines.of(line.value));
                Ok(line)
            }
            // Literals that are not, or never (sections 6.2.2 and 6.2.3).
            0b0000_0000..=0b0001_1111 => {
                let index = reader.integer(4)?.1;
                self.literal(index, reader, lines)
            }
            // A change of the table's size behind a field.
            0b0010_0000..=0b0011_1111 => Err(HpackError::Malformed),
        }
    }

    fn literal(
        &self,
        index: u64,
        reader: &mut Reader<'_>,
        lines: &mut FieldLines,
    ) -> Result<Line, HpackError> {
        let name = if index == 0 { lines.string(reader, 7)? } else { self.name(index, lines)? };
        Ok(Line { name, value: lines.string(reader, 7)? })
    }

    fn entry(&self, index: u64, lines: &mut FieldLines) -> Result<Line, HpackError> {
        match place(index)? {
            Place::Static(name, value) => Ok(Line { name: Text::Static(name), value: Text::Static(value) }),
            Place::Dynamic(age) => {
                let (name, value) = self.table.entry(age).ok_or(HpackError::Malformed)?;
                Ok(Line { name: lines.copy(name), value: lines.copy(value) })
            }
        }
    }

    fn name(&self, index: u64, lines: &mut FieldLines) -> Result<Text, HpackError> {
        match place(index)? {
            Place::Static(name, _) => Ok(Text::Static(name)),
            Place::Dynamic(age) => {
                let (name, _) = self.table.entry(age).ok_or(HpackError::Malformed)?;
                Ok(lines.copy(name))
            }
        }
    }
}

enum Place {
    Static(&'static str, &'static str),
    /// Entries that were inserted after it.
    Dynamic(usize),
}

/// Where the field of an index is (section 2.3.3).
fn place(index: u64) -> Result<Place, HpackError> {
    let index = usize::try_from(index).ok().and_then(|index| index.checked_sub(1));
    let index = index.ok_or(HpackError::Malformed)?;
    Ok(match STATIC.get(index) {
        Some((name, value)) => Place::Static(name, value),
        None => Place::Dynamic(index - STATIC.len()),
    })
}

/// Appends the fields of blocks, in the order in which those are sent. It has no dynamic table: most fields of a message are
/// different each time, or cheaper to copy than to find.
#[derive(Debug, Default)]
pub struct Encoder {
    begun: bool,
}

impl Encoder {
    /// Begins a block. The first one of a connection says that there is no table, so that whatever size the peer allows or
    /// takes back later needs no answer (RFC 7541 section 4.2).
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.begun, true) {
            out.push(0b0010_0000);
        }
    }
}

/// Appends `:status`.
pub fn write_status(out: &mut Vec<u8>, status: u16) {
    let known = match status {
        200 => 8,
        204 => 9,
        206 => 10,
        304 => 11,
        400 => 12,
        404 => 13,
        500 => 14,
        _ => {
            out.push(8);
            return write_string(out, itoa::Buffer::new().format(status).as_bytes());
        }
    };
    out.push(0b1000_0000 | known);
}

/// Appends `:method`.
pub fn write_method(out: &mut Vec<u8>, method: &str) {
    match method {
        "GET" => out.push(0b1000_0000 | 2),
        "POST" => out.push(0b1000_0000 | 3),
        _ => write_value(out, 2, &[method]),
    }
}

/// Appends `:scheme`, `http` or `https`.
pub fn write_scheme(out: &mut Vec<u8>, is_https: bool) {
    out.push(0b1000_0000 | if is_https { 7 } else { 6 });
}

/// Appends `:authority`.
pub fn write_authority(out: &mut Vec<u8>, authority: &str) {
    write_value(out, 1, &[authority]);
}

/// Appends `:path`; the query without its `?`.
pub fn write_path(out: &mut Vec<u8>, path: &str, query: Option<&str>) {
    match query {
        Some(query) => write_value(out, 4, &[path, "?", query]),
        None if path == "/" => out.push(0b1000_0000 | 4),
        None => write_value(out, 4, &[path]),
    }
}

/// Appends a field that is not to be remembered and has the name of a static entry. Its value is of parts.
fn write_value(out: &mut Vec<u8>, name: usize, parts: &[&str]) {
    write_integer(out, 0, 4, name);
    write_integer(out, 0, 7, parts.iter().map(|part| part.len()).sum());
    parts.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
}

/// Appends a field that is not to be remembered; its name in lowercase.
pub fn write_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    match static_name(name) {
        // What these hold no proxy behind us should put into a table (RFC 7541 section 7.1.3).
        Some(secret @ (AUTHORIZATION | COOKIE | SET_COOKIE)) => write_integer(out, 0b0001_0000, 4, secret),
        Some(index) => write_integer(out, 0, 4, index),
        None => {
            out.push(0);
            write_integer(out, 0, 7, name.len());
            out.extend(name.iter().map(u8::to_ascii_lowercase));
        }
    }
    write_string(out, value);
}

const AUTHORIZATION: usize = 23;
const COOKIE: usize = 32;
const SET_COOKIE: usize = 55;

/// The static entry that has the name of a field that messages often have.
fn static_name(name: &[u8]) -> Option<usize> {
    let letter = |at: usize| name.get(at).map_or(0, u8::to_ascii_lowercase);
    let (index, candidate) = match (name.len(), letter(0)) {
        (3, b'a') => (21, "age"),
        (3, b'v') => (60, "via"),
        (4, b'd') => (33, "date"),
        (4, b'e') => (34, "etag"),
        (4, b'l') => (45, "link"),
        (4, b'v') => (59, "vary"),
        (5, b'a') => (22, "allow"),
        (5, b'r') => (50, "range"),
        (6, b'a') => (19, "accept"),
        (6, b'c') => (COOKIE, "cookie"),
        (6, b's') => (54, "server"),
        (7, b'e') => (36, "expires"),
        (7, b'r') => (51, "referer"),
        (8, b'l') => (46, "location"),
        (10, b's') => (SET_COOKIE, "set-cookie"),
        (10, b'u') => (58, "user-agent"),
        (11, b'r') => (53, "retry-after"),
        (12, b'c') => (31, "content-type"),
        (13, b'a') if letter(1) == b'u' => (AUTHORIZATION, "authorization"),
        (13, b'a') => (18, "accept-ranges"),
        (13, b'c') if letter(1) == b'a' => (24, "cache-control"),
        (13, b'c') => (30, "content-range"),
        (13, b'i') => (41, "if-none-match"),
        (13, b'l') => (44, "last-modified"),
        (14, b'c') => (28, "content-length"),
        (15, b'a') if letter(7) == b'e' => (16, "accept-encoding"),
        (15, b'a') => (17, "accept-language"),
        (16, b'c') => (26, "content-encoding"),
        (17, b'i') => (40, "if-modified-since"),
        _ => return None,
    };
    name.eq_ignore_ascii_case(candidate.as_bytes()).then_some(index)
}
