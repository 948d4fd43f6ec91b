//! Names and durations as Kubernetes and Gateway API write them.

use std::time::Duration;

use crate::read::Node;

/// The longest name of an object (RFC 1123 subdomain).
const NAME_BYTES: usize = 253;
/// The longest name of a namespace (RFC 1123 label).
const NAMESPACE_BYTES: usize = 63;

/// An object's, listener's or rule's name.
pub(crate) fn name(node: &Node<'_>) -> Option<String> {
    let text = node.text_of(1..=NAME_BYTES)?;
    if !text.split('.').all(is_label) {
        node.wrong(
            format!("{text:?} is not a name"),
            "use a-z, 0-9, '-' and '.', with a letter or digit at both ends of each part",
        );
        return None;
    }
    Some(text.to_owned())
}

/// A namespace's name.
pub(crate) fn namespace(node: &Node<'_>) -> Option<String> {
    let text = node.text_of(1..=NAMESPACE_BYTES)?;
    if !is_label(text) {
        node.wrong(
            format!("{text:?} is not a namespace"),
            "use a-z, 0-9 and '-', with a letter or digit at both ends",
        );
        return None;
    }
    Some(text.to_owned())
}

fn is_label(text: &str) -> bool {
    let ends = [text.bytes().next(), text.bytes().last()];
    ends.iter().all(|b| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit()))
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// A duration (GEP-2257): up to four of `1h`, `30m`, `10s`, `500ms` in a row.
pub(crate) fn duration(node: &Node<'_>) -> Option<Duration> {
    let text = node.text()?;
    let parsed = parse_duration(text);
    if parsed.is_none() {
        node.wrong(format!("{text:?} is not a duration"), "write it like 500ms, 10s or 1h30m");
    }
    parsed
}

/// A duration longer than zero.
pub(crate) fn positive_duration(node: &Node<'_>) -> Option<Duration> {
    let parsed = duration(node)?;
    if parsed.is_zero() {
        node.wrong("it must be longer than zero", "write it like 500ms, 10s or 1h30m");
        return None;
    }
    Some(parsed)
}

fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut sum = Duration::ZERO;
    for _ in 0..4 {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        if !(1..=5).contains(&digits) {
            return None;
        }
        let number: u64 = number.parse().ok()?;
        let units = after.bytes().take_while(u8::is_ascii_lowercase).count();
        let (unit, after) = after.split_at(units);
        sum += match unit {
            "h" => Duration::from_secs(number * 3600),
            "m" => Duration::from_secs(number * 60),
            "s" => Duration::from_secs(number),
            "ms" => Duration::from_millis(number),
            _ => return None,
        };
        rest = after;
        if rest.is_empty() {
            return Some(sum);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_gep_2257() {
        for (text, ms) in
            [("0s", 0), ("10s", 10_000), ("1h30m", 5_400_000), ("1h2m3s4ms", 3_723_004), ("99999ms", 99_999)]
        {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "10", "s", "1.5s", "-1s", "100000s", "1d", "1s1s1s1s1s", " 1s", "1s ", "1us", "1 s"]
        {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
