//! What the fields of a head say about its message: where the body ends and whether the connection lives on.

use super::{
    error::FramingError,
    fields::{Fields, is_token},
    head::Version,
    name::Name,
};

/// Where a body ends (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// There is none.
    None,
    /// After so many bytes. `Length(0)` is a body that says it is empty.
    Length(u64),
    /// With the last chunk.
    Chunked,
    /// With the connection; responses only.
    UntilClose,
}

/// The protocol that a request wants to change to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upgrade {
    /// `websocket`
    WebSocket,
    /// Another one; never `h2c`.
    Other,
}

/// The fields that matter to the message as a whole, found in one pass.
#[derive(Debug, Default)]
pub(super) struct Survey<'a> {
    pub(super) host: Option<&'a [u8]>,
    pub(super) host_repeated: bool,
    pub(super) upgrade: Option<&'a [u8]>,
    pub(super) expect: Option<&'a [u8]>,
    pub(super) expect_repeated: bool,
    pub(super) has_connection: bool,
    pub(super) has_underscore: bool,
    upgrade_repeated: bool,
    length: Option<&'a [u8]>,
    length_repeated: bool,
    coding: Option<&'a [u8]>,
    coding_repeated: bool,
}

impl<'a> Survey<'a> {
    pub(super) fn of(fields: &'a Fields) -> Self {
        let mut survey = Self::default();
        for field in fields.iter() {
            let value = Some(field.value);
            match field.tag {
                Name::Host => survey.host_repeated |= std::mem::replace(&mut survey.host, value).is_some(),
                Name::ContentLength => {
                    survey.length_repeated |= std::mem::replace(&mut survey.length, value).is_some();
                }
                Name::TransferEncoding => {
                    survey.coding_repeated |= std::mem::replace(&mut survey.coding, value).is_some();
                }
                Name::Expect => {
                    survey.expect_repeated |= std::mem::replace(&mut survey.expect, value).is_some();
                }
                Name::Upgrade => {
                    survey.upgrade_repeated |= std::mem::replace(&mut survey.upgrade, value).is_some();
                }
                Name::Connection => survey.has_connection = true,
                Name::Other => survey.has_underscore |= field.name.contains(&b'_'),
                _ => {}
            }
        }
        survey
    }

    /// The length that the fields declare; `None` if they declare none.
    pub(super) fn declared(&self, version: Version) -> Result<Option<BodyLength>, FramingError> {
        match (self.length, self.coding) {
            (None, None) => Ok(None),
            (Some(_), Some(_)) => Err(FramingError::LengthAndCoding),
            (Some(_), None) if self.length_repeated => Err(FramingError::LengthRepeated),
            (Some(length), None) => content_length(length)
                .map(|length| Some(BodyLength::Length(length)))
                .ok_or(FramingError::Length),
            (None, Some(_)) if version == Version::Http10 => Err(FramingError::CodingInHttp10),
            (None, Some(_)) if self.coding_repeated => Err(FramingError::CodingRepeated),
            (None, Some(coding)) => transfer_coding(coding).map(|()| Some(BodyLength::Chunked)),
        }
    }

    /// The protocol that the `Upgrade` field names, if it is one that may be tunnelled.
    pub(super) fn upgrade(&self) -> Option<Upgrade> {
        let protocol = self.upgrade.filter(|protocol| !self.upgrade_repeated && !protocol.is_empty())?;
        let mut offers = list(protocol);
        if offers.any(|offer| offer.len() >= 3 && offer[..3].eq_ignore_ascii_case(b"h2c")) {
            return None;
        }
        Some(if protocol.eq_ignore_ascii_case(b"websocket") { Upgrade::WebSocket } else { Upgrade::Other })
    }
}

/// `1*DIGIT` in 64 bits. Stricter than the grammar in one point: no leading zeros, which some read as octal.
pub(crate) fn content_length(value: &[u8]) -> Option<u64> {
    match value {
        [b'0'] => Some(0),
        [b'1'..=b'9', ..] => decimal(value),
        _ => None,
    }
}

/// The number that one or more digits say, in 64 bits.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    let add = |number: u64, byte: &u8| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 { None } else { number.checked_mul(10)?.checked_add(digit.into()) }
    };
    if digits.is_empty() { None } else { digits.iter().try_fold(0, add) }
}

/// Only `chunked`, once and alone.
fn transfer_coding(value: &[u8]) -> Result<(), FramingError> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let mut codings = value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
    let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
    if codings.clone().any(|coding| !is_token(coding)) {
        return Err(FramingError::Coding);
    }
    let last = codings.next_back().is_some_and(is_chunked);
    let before = codings.clone().any(is_chunked);
    // Chunked twice, or not last: no reading of it is safe. Otherwise it is a coding that we do not have.
    if before || (last && codings.next().is_none()) {
        Err(FramingError::Coding)
    } else {
        Err(FramingError::CodingUnknown)
    }
}

/// The elements of a comma-separated list; empty ones are left out (RFC 9110 section 5.6.1).
pub(super) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> + Clone {
    value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

/// Whether there is one value, and it is that token.
fn is_alone<'v>(mut values: impl Iterator<Item = &'v [u8]>, token: &[u8]) -> bool {
    values.next().is_some_and(|value| value.eq_ignore_ascii_case(token)) && values.next().is_none()
}

/// What the `Connection` fields say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct ConnectionOptions {
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) upgrade: bool,
    /// Not a list of tokens, or too long a list.
    pub(super) malformed: bool,
}

/// More options than any honest message has; each one is compared with every field.
const MAX_OPTIONS: usize = 16;

impl ConnectionOptions {
    /// Reads the `Connection` fields and marks the fields that they name as hop-by-hop.
    pub(super) fn take(fields: &mut Fields) -> Self {
        if is_alone(fields.all_known(Name::Connection), b"keep-alive") {
            // Most say this or nothing.
            return Self { keep_alive: true, ..Self::default() };
        }
        let mut options = Self::default();
        let mut named: Vec<Vec<u8>> = Vec::new();
        let mut count = 0;
        for option in fields.all_known(Name::Connection).flat_map(list) {
            count += 1;
            if option.eq_ignore_ascii_case(b"keep-alive") {
                options.keep_alive = true;
            } else if option.eq_ignore_ascii_case(b"close") {
                options.close = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                options.upgrade = true;
            } else if count > MAX_OPTIONS || !is_token(option) {
                options.malformed = true;
                break;
            } else if Name::of(option) == Name::Other {
                named.push(option.to_vec());
            }
        }
        for name in &named {
            fields.mark_hop_by_hop(name);
        }
        options
    }

    /// Whether the connection serves another message after this one (RFC 9112 section 9.3).
    pub(super) fn keeps_alive(self, version: Version) -> bool {
        !self.close && !self.malformed && (version != Version::Http10 || self.keep_alive)
    }
}
