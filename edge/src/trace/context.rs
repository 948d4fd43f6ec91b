//! W3C Trace Context, level 1 (<https://www.w3.org/TR/trace-context-1/>): which trace a request is part of. Pure.
//!
//! What is not exactly as the specification says is as if it were not there: then a trace begins here.

use std::fmt;

use crate::h1::Fields;

/// The header that names the trace and the caller's span.
pub(crate) const TRACEPARENT: &str = "traceparent";
/// What other tracing systems say of it.
pub(crate) const TRACESTATE: &str = "tracestate";

/// A trace's name; not zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId(pub(crate) [u8; 16]);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// A span's name; not zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SpanId(pub(crate) [u8; 8]);

impl SpanId {
    /// The name that these bits make.
    pub(crate) fn new(bits: u64) -> Self {
        Self(bits.max(1).to_be_bytes())
    }
}

impl TraceId {
    /// The name that these bits make.
    pub(crate) fn new(high: u64, low: u64) -> Self {
        let bits = u128::from(high) << 64 | u128::from(low.max(1));
        Self(bits.to_be_bytes())
    }
}

/// What the caller says of its trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parent {
    pub(crate) trace: TraceId,
    pub(crate) span: SpanId,
    pub(crate) sampled: bool,
}

/// Bytes of a `traceparent` of version 00: `00-` 32 digits `-` 16 digits `-` 2 digits.
const LENGTH: usize = 55;

/// Bytes of all `tracestate` together that must be passed on; longer ones are dropped, which a receiver may do.
const STATE_BYTES: usize = 512;
/// Members of a `tracestate`, at most (section 3.3.1.1).
const STATE_MEMBERS: usize = 32;

impl Parent {
    /// What a request's fields say; `None` if that is not valid, or said twice.
    pub(crate) fn of(fields: &Fields) -> Option<Self> {
        let value = fields.joined(TRACEPARENT)?;
        Self::parse(&value)
    }

    /// Section 3.2. Of a version that is still to come, the part that version 00 has.
    fn parse(value: &[u8]) -> Option<Self> {
        let (known, rest) = value.split_at_checked(LENGTH)?;
        let [version] = digits(&known[..2])?;
        let is_whole = match version {
            0xff => false,
            0 => rest.is_empty(),
            _ => rest.is_empty() || rest.starts_with(b"-"),
        };
        if !is_whole || [2, 35, 52].into_iter().any(|at| known[at] != b'-') {
            return None;
        }
        let (trace, span, [flags]) =
            (digits(&known[3..35])?, digits(&known[36..52])?, digits::<1>(&known[53..])?);
        let named = trace != [0; 16] && span != [0; 8];
        named.then_some(Self { trace: TraceId(trace), span: SpanId(span), sampled: flags & 1 == 1 })
    }
}

/// So many bytes as lowercase hexadecimal digits.
fn digits<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    let (pairs, []) = text.as_chunks::<2>() else { return None };
    if pairs.len() != N {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

/// The `traceparent` of a span's callee.
pub(crate) fn traceparent(trace: TraceId, span: SpanId, sampled: bool) -> [u8; LENGTH] {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    let mut put = |at: usize, bytes: &[u8]| {
        for (pair, byte) in text[at..].as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
            *pair = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 0xf)]];
        }
    };
    put(3, &trace.0);
    put(36, &span.0);
    put(53, &[u8::from(sampled)]);
    text
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Whether the request's `tracestate` can be passed on (section 3.3): a list of `key=value`, each key once.
pub(crate) fn is_valid_state(fields: &Fields) -> bool {
    let Some(state) = fields.joined(TRACESTATE) else { return true };
    if state.len() > STATE_BYTES {
        return false;
    }
    let mut keys: Vec<&[u8]> = vec![];
    for member in
        state.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
    {
        let Some(at) = member.iter().position(|byte| *byte == b'=') else { return false };
        let (key, value) = (&member[..at], &member[at + 1..]);
        if !is_key(key) || !is_value(value) || keys.contains(&key) || keys.len() == STATE_MEMBERS {
            return false;
        }
        keys.push(key);
    }
    true
}

/// `lcalpha 0*255( lcalpha / DIGIT / "_" / "-"/ "*" / "/" )`, or `tenant@system` (section 3.3.1.3.1).
fn is_key(key: &[u8]) -> bool {
    let is_part = |part: &[u8], most: usize, digit_first: bool| {
        let first = part.first().is_some_and(|b| b.is_ascii_lowercase() || digit_first && b.is_ascii_digit());
        let is_rest = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-*/".contains(b);
        first && part.len() <= most && part.iter().all(is_rest)
    };
    match key.iter().position(|byte| *byte == b'@') {
        None => is_part(key, 256, false),
        Some(at) => is_part(&key[..at], 241, true) && is_part(&key[at + 1..], 14, false),
    }
}

/// Printable ASCII without `,` and `=`, not ending with a space (section 3.3.1.3.2).
fn is_value(value: &[u8]) -> bool {
    !value.is_empty()
        && value.len() <= 256
        && value.iter().all(|byte| matches!(byte, b' '..=b'~') && !b",=".contains(byte))
        && value.last() != Some(&b' ')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn fields(lines: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::new();
        for (name, value) in lines {
            fields.push(name, value.as_bytes()).unwrap();
        }
        fields
    }

    #[test]
    fn a_parent_is_read_as_the_specification_says() {
        let parent = Parent::of(&fields(&[("Traceparent", GOOD)])).unwrap();
        assert!(parent.sampled);
        assert_eq!(parent.trace.0[..2], [0x0a, 0xf7]);
        assert_eq!(parent.span.0, [0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31]);
        for (name, value, sampled) in [
            ("other flags", GOOD.replace("-01", "-03"), Some(true)),
            ("not sampled", GOOD.replace("-01", "-02"), Some(false)),
            ("a later version", GOOD.replacen("00", "cc", 1), Some(true)),
            ("a later version with more", GOOD.replacen("00", "cc", 1) + "-what-is-this", Some(true)),
            ("a later version that goes on", GOOD.replacen("00", "cc", 1) + ".what", None),
            ("the version that is none", GOOD.replacen("00", "ff", 1), None),
            ("more than there is", GOOD.to_owned() + "-00", None),
            ("a trace of zeros", GOOD.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)), None),
            ("a span of zeros", GOOD.replace("b7ad6b7169203331", &"0".repeat(16)), None),
            ("upper case", GOOD.to_uppercase(), None),
            ("too short", GOOD[1..].to_owned(), None),
            ("no hyphen", GOOD.replacen("-b7", "_b7", 1), None),
            ("no digit", GOOD.replacen("0a", "0g", 1), None),
            ("nothing", String::new(), None),
        ] {
            assert_eq!(
                Parent::parse(value.as_bytes()).map(|parent| parent.sampled),
                sampled,
                "{name}: {value}"
            );
        }
        let twice = fields(&[("traceparent", GOOD), ("traceparent", GOOD)]);
        assert_eq!(Parent::of(&twice), None, "said twice");
    }

    #[test]
    fn a_state_is_passed_on_if_it_is_one() {
        for (state, valid) in [
            (vec!["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"], true),
            (vec!["foo=1", "bar=2"], true),
            (vec!["foo=1, ,bar=2,"], true),
            (vec!["fw529a3039@dt=FfAAAA"], true),
            (vec!["0tenant@a=1"], true),
            (vec!["foo@=1"], false),
            (vec!["foo=1,foo=2"], false),
            (vec!["foo=1", "foo=2"], false),
            (vec!["Foo=1"], false),
            (vec!["0foo=1"], false),
            (vec!["foo"], false),
            (vec!["foo="], false),
            (vec!["foo=bar=baz"], false),
            (vec!["foo=\u{e9}"], false),
        ] {
            let lines: Vec<_> = state.iter().map(|value| ("tracestate", *value)).collect();
            assert_eq!(is_valid_state(&fields(&lines)), valid, "{state:?}");
        }
        let members = |count: usize| (0..count).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join(",");
        assert!(is_valid_state(&fields(&[("tracestate", &members(32))])));
        assert!(!is_valid_state(&fields(&[("tracestate", &members(33))])));
        assert!(!is_valid_state(&fields(&[("tracestate", &format!("k={}", "v".repeat(257)))])));
        assert!(is_valid_state(&Fields::new()));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_written_is_read_back(high: u64, low in 1u64.., span in 1u64.., sampled: bool) {
            let (trace, span) = (TraceId::new(high, low), SpanId::new(span));
            let text = traceparent(trace, span, sampled);
            prop_assert_eq!(Parent::parse(&text), Some(Parent { trace, span, sampled }));
        }

        #[test]
        fn nothing_panics(value in proptest::collection::vec(any::<u8>(), 0..80)) {
            Parent::parse(&value);
        }
    }
}
