//! The fields of a head: one buffer of text and one compact entry per field.

use std::borrow::Cow;

use super::name::Name;
use crate::section::FieldLines;

/// Why a field cannot be part of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidField {
    /// The name is empty or has a byte that no token has (RFC 9110 section 5.6.2).
    #[error("the field name is not a token")]
    Name,
    /// The value has a control character, or begins or ends with white space.
    #[error("the field value has a control character or white space around it")]
    Value,
}

/// A part of the head's text. 32 bits: a head is bounded by [`Limits`](super::Limits), far below 4 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Span {
    start: u32,
    len: u32,
}

impl Span {
    #[expect(clippy::cast_possible_truncation, reason = "text never grows over u32::MAX, see Fields::append")]
    pub(super) const fn new(start: usize, len: usize) -> Self {
        Self { start: start as u32, len: len as u32 }
    }

    /// Where `part` is in `text`; it is a subslice of it.
    pub(super) fn within(text: &[u8], part: &[u8]) -> Self {
        let start = part.as_ptr().addr().wrapping_sub(text.as_ptr().addr());
        debug_assert!(start + part.len() <= text.len(), "not a part of the text");
        Self::new(start, part.len())
    }

    pub(super) const fn start(self) -> usize {
        self.start as usize
    }

    pub(super) const fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The part of a text that is known to be one.
    #[inline]
    pub(super) fn of_str(self, text: &str) -> &str {
        let start = self.start as usize;
        text.get(start..start + self.len as usize).unwrap_or_default()
    }

    #[inline]
    pub(super) fn of(self, text: &[u8]) -> &[u8] {
        let start = self.start as usize;
        text.get(start..start + self.len as usize).unwrap_or_default()
    }
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Empty where the tag says the name.
    name: Span,
    value: Span,
    tag: Name,
    /// `Connection` names it.
    hop: bool,
}

/// One field of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// The name as it came, in any letter case.
    pub name: &'a [u8],
    /// Which known name that is.
    pub tag: Name,
    /// The value, without white space around it. May hold bytes above 0x7f, never a control character other
    /// than a tab.
    pub value: &'a [u8],
    /// Whether it belongs to the connection, by its name or because `Connection` names it: such a field is not
    /// forwarded.
    pub hop_by_hop: bool,
}

/// The fields of a message in their order. Whatever is in here is a valid field: nothing gets in unchecked.
#[derive(Debug, Clone, Default)]
pub struct Fields {
    text: Vec<u8>,
    entries: Vec<Entry>,
}

impl Fields {
    /// No fields.
    #[must_use]
    pub const fn new() -> Self {
        Self { text: Vec::new(), entries: Vec::new() }
    }

    /// None yet, with room for those of a section and for what a proxy adds.
    pub(crate) fn with_room(lines: &FieldLines) -> Self {
        Self {
            text: Vec::with_capacity(lines.mark() + SPARE_TEXT),
            entries: Vec::with_capacity(lines.len() + SPARE_FIELDS),
        }
    }

    /// How many fields there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The fields in their order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Field<'_>> {
        self.entries.iter().map(|entry| self.field(entry))
    }

    /// The value of the first field of that known name.
    #[must_use]
    pub fn known(&self, name: Name) -> Option<&[u8]> {
        self.all_known(name).next()
    }

    /// The values of all fields of that known name.
    pub fn all_known(&self, name: Name) -> impl Iterator<Item = &[u8]> {
        debug_assert!(name != Name::Other, "names without a tag are found by text");
        self.entries.iter().filter(move |entry| entry.tag == name).map(|entry| entry.value.of(&self.text))
    }

    /// The value of the first field of that name, in any letter case.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&[u8]> {
        let tag = Name::of(name.as_bytes());
        self.entries.iter().find(|entry| self.is(entry, tag, name)).map(|entry| entry.value.of(&self.text))
    }

    /// The values of all fields of that name joined by `,` (RFC 9110 section 5.3); borrowed where there is one.
    #[must_use]
    pub fn joined(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let tag = Name::of(name.as_bytes());
        let mut values = self
            .entries
            .iter()
            .filter(|entry| self.is(entry, tag, name))
            .map(|entry| entry.value.of(&self.text));
        let mut joined = Cow::Borrowed(values.next()?);
        for value in values {
            let joined = joined.to_mut();
            joined.push(b',');
            joined.extend_from_slice(value);
        }
        Some(joined)
    }

    /// Appends a field.
    ///
    /// # Errors
    ///
    /// [`InvalidField`] if it could not be told from framing on the wire; nothing is appended then.
    pub fn push(&mut self, name: &str, value: &[u8]) -> Result<(), InvalidField> {
        if !is_token(name.as_bytes()) {
            return Err(InvalidField::Name);
        }
        check_value(value)?;
        let name_span = self.append(name.as_bytes());
        let value = self.append(value);
        self.entries.push(Entry { name: name_span, value, tag: Name::of(name.as_bytes()), hop: false });
        Ok(())
    }

    /// Appends a field of HTTP/2 or HTTP/3, whose values have been sent with spaces around them.
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push).
    pub(crate) fn push_trimmed(&mut self, name: &str, value: &[u8]) -> Result<(), InvalidField> {
        let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
        let start = value.iter().position(|byte| !is_space(byte)).unwrap_or(value.len());
        let end = value.iter().rposition(|byte| !is_space(byte)).map_or(start, |last| last + 1);
        self.push(name, &value[start..end])
    }

    /// Appends a field of a known name; cheaper than [`push`](Self::push).
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push); [`Name::Other`] is no name.
    pub fn push_known(&mut self, name: Name, value: &[u8]) -> Result<(), InvalidField> {
        if name == Name::Other {
            return Err(InvalidField::Name);
        }
        check_value(value)?;
        self.push_checked(name, value);
        Ok(())
    }

    fn push_checked(&mut self, name: Name, value: &[u8]) {
        let value = self.append(value);
        self.entries.push(Entry { name: Span::default(), value, tag: name, hop: false });
    }

    /// Replaces all fields of that name by one, at the end.
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push); nothing is removed then.
    pub fn set(&mut self, name: &str, value: &[u8]) -> Result<(), InvalidField> {
        self.push(name, value)?;
        if let Some(entry) = self.entries.pop() {
            self.remove(name);
            self.entries.push(entry);
        }
        Ok(())
    }

    /// Replaces all fields of that known name by one, at the end.
    ///
    /// # Errors
    ///
    /// As [`push_known`](Self::push_known); nothing is removed then.
    pub fn set_known(&mut self, name: Name, value: &[u8]) -> Result<(), InvalidField> {
        if name == Name::Other {
            return Err(InvalidField::Name);
        }
        check_value(value)?;
        if self.known(name).is_some() {
            self.remove_known(name);
        }
        self.push_checked(name, value);
        Ok(())
    }

    /// Removes all fields of that name, in any letter case.
    pub fn remove(&mut self, name: &str) {
        let tag = Name::of(name.as_bytes());
        let text = &self.text;
        self.entries.retain(|entry| {
            entry.tag != tag
                || (tag == Name::Other && !entry.name.of(text).eq_ignore_ascii_case(name.as_bytes()))
        });
    }

    /// Removes all fields of that known name.
    pub fn remove_known(&mut self, name: Name) {
        debug_assert!(name != Name::Other, "names without a tag are removed by text");
        self.entries.retain(|entry| entry.tag != name);
    }

    /// Removes all fields of the known names for which `goes` holds.
    pub fn remove_each(&mut self, goes: impl Fn(Name) -> bool) {
        self.entries.retain(|entry| entry.tag == Name::Other || !goes(entry.tag));
    }

    /// Keeps the fields for which `keep` holds.
    pub fn retain(&mut self, mut keep: impl FnMut(Field<'_>) -> bool) {
        let mut entries = std::mem::take(&mut self.entries);
        entries.retain(|entry| keep(self.field(entry)));
        self.entries = entries;
    }

    fn is(&self, entry: &Entry, tag: Name, name: &str) -> bool {
        entry.tag == tag
            && (tag != Name::Other || entry.name.of(&self.text).eq_ignore_ascii_case(name.as_bytes()))
    }

    #[inline]
    fn field(&self, entry: &Entry) -> Field<'_> {
        let name =
            if entry.name.is_empty() { entry.tag.as_str().as_bytes() } else { entry.name.of(&self.text) };
        Field {
            name,
            tag: entry.tag,
            value: entry.value.of(&self.text),
            hop_by_hop: entry.hop || entry.tag.is_hop_by_hop(),
        }
    }

    /// Appends to the text. Text over 4 GiB cannot be addressed; callers are bounded by kilobytes.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Span {
        let span = Span::new(self.text.len(), bytes.len());
        self.text.extend_from_slice(bytes);
        span
    }

    pub(super) fn text(&self) -> &[u8] {
        &self.text
    }

    /// The fields of a head that httparse accepted: `text` is the head and the headers are parts of it.
    pub(super) fn from_parsed(text: &[u8], headers: &[httparse::Header<'_>]) -> Self {
        let mut fields = Self {
            text: Vec::with_capacity(text.len() + SPARE_TEXT),
            entries: Vec::with_capacity(headers.len() + SPARE_FIELDS),
        };
        fields.text.extend_from_slice(text);
        fields.entries.extend(headers.iter().map(|header| Entry {
            name: Span::within(text, header.name.as_bytes()),
            value: Span::within(text, header.value),
            tag: Name::of(header.name.as_bytes()),
            hop: false,
        }));
        fields
    }

    /// Notes that `Connection` names this field, which has no tag.
    pub(super) fn mark_hop_by_hop(&mut self, name: &[u8]) {
        for entry in &mut self.entries {
            entry.hop |= entry.tag == Name::Other && entry.name.of(&self.text).eq_ignore_ascii_case(name);
        }
    }
}

/// Room for the fields that a proxy adds (forwarded-for, -proto, -host, via, request id), so that adding them
/// does not move the head.
const SPARE_TEXT: usize = 192;
const SPARE_FIELDS: usize = 6;

/// Whether this is a token (RFC 9110 section 5.6.2): what methods and field names are made of.
pub(super) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|&byte| is_tchar(byte))
}

const fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

/// RFC 9110 section 5.5: visible characters, obs-text, and white space inside.
fn check_value(value: &[u8]) -> Result<(), InvalidField> {
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let is_control = |byte: u8| ((byte < b' ') & (byte != b'\t')) | (byte == 0x7f);
    // No early exit: so the compiler looks at 16 bytes at a time.
    let has_control = value.iter().fold(false, |found, &byte| found | is_control(byte));
    if is_space(value.first()) || is_space(value.last()) || has_control {
        return Err(InvalidField::Value);
    }
    Ok(())
}
