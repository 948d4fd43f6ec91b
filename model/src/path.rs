//! The one canonical form of a path: route, policy and upstream see the same.

use std::borrow::Cow;

/// Why a path has no canonical form: the request is to be refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum PathError {
    /// It does not begin with `/`.
    #[error("the path does not begin with '/'")]
    NotAbsolute,
    /// A `%` without two hexadecimal digits after it.
    #[error("the path has a '%' that is not followed by two hexadecimal digits")]
    BadEscape,
    /// `%2f`, `%5c` or a backslash: servers disagree on whether these separate segments.
    #[error("the path has an encoded slash or a backslash")]
    HiddenSlash,
    /// A control character, encoded or not; NUL is one.
    #[error("the path has a control character")]
    Control,
    /// `?` or `#`: what follows is no path.
    #[error("the path has a '?' or '#'")]
    Delimiter,
}

/// The canonical form of `path` (without its query).
///
/// Dot segments are resolved (RFC 3986 section 5.2.4; `..` at the root stays there), `//` is one slash, what is
/// percent-encoded without need is decoded (section 2.3), what needs encoding is encoded with uppercase digits
/// (section 2.2.2.1). A slash at the end stays. Borrows when nothing is to be changed. Idempotent.
///
/// # Errors
/// When another server could read the path differently than we do.
pub fn canonical(path: &str) -> Result<Cow<'_, str>, PathError> {
    if !path.starts_with('/') {
        return Err(PathError::NotAbsolute);
    }
    if is_canonical(path.as_bytes()) {
        return Ok(Cow::Borrowed(path));
    }
    resolve(&normalise(path.as_bytes())?).map(Cow::Owned)
}

/// A quick, conservative test: no escapes, nothing to encode, no dot segments, no empty segments.
fn is_canonical(path: &[u8]) -> bool {
    let mut previous = 0;
    for (at, &byte) in path.iter().enumerate() {
        let fine = match byte {
            b'/' => previous != b'/',
            // A segment that begins with a dot may be a dot segment: leave it to the slow path if it is.
            b'.' if previous == b'/' => {
                !matches!(path.get(at + 1..), Some([] | [b'/', ..] | [b'.'] | [b'.', b'/', ..]))
            }
            _ => is_pchar(byte),
        };
        if !fine {
            return false;
        }
        previous = byte;
    }
    true
}

/// Escapes in their one form; the result is ASCII.
fn normalise(path: &[u8]) -> Result<String, PathError> {
    let mut out = String::with_capacity(path.len() + 16);
    let mut rest = path.iter();
    while let Some(&byte) = rest.next() {
        let (byte, escaped) = if byte == b'%' {
            let mut digit =
                || rest.next().and_then(|d| char::from(*d).to_digit(16)).ok_or(PathError::BadEscape);
            let (high, low) = (digit()?, digit()?);
            (u8::try_from(high * 16 + low).map_err(|_| PathError::BadEscape)?, true)
        } else {
            (byte, false)
        };
        match byte {
            b'\\' => return Err(PathError::HiddenSlash),
            b'/' if escaped => return Err(PathError::HiddenSlash),
            0..=0x1f | 0x7f => return Err(PathError::Control),
            b'?' | b'#' if !escaped => return Err(PathError::Delimiter),
            _ if is_unreserved(byte) || (!escaped && (is_pchar(byte) || byte == b'/')) => {
                out.push(byte.into())
            }
            _ => {
                const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
                out.push('%');
                out.push(DIGITS[usize::from(byte >> 4)].into());
                out.push(DIGITS[usize::from(byte & 15)].into());
            }
        }
    }
    Ok(out)
}

/// Slashes merged and dot segments resolved.
fn resolve(path: &str) -> Result<String, PathError> {
    let mut out = String::with_capacity(path.len());
    let mut open = false; // whether the path ends with a slash
    for segment in path.strip_prefix('/').ok_or(PathError::NotAbsolute)?.split('/') {
        open = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => out.truncate(out.rfind('/').unwrap_or(0)),
            _ => {
                out.push('/');
                out.push_str(segment);
            }
        }
    }
    if open || out.is_empty() {
        out.push('/');
    }
    Ok(out)
}

/// RFC 3986 section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// RFC 3986 section 3.3, without escapes.
fn is_pchar(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(
            byte,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@'
        )
}

/// `path` with its first `prefix_len` bytes replaced, as Gateway API's `ReplacePrefixMatch` has it: exactly one
/// slash between the replacement and the rest, and never an empty path.
#[must_use]
pub fn replace_prefix(path: &str, prefix_len: usize, replacement: &str) -> String {
    let rest = path.get(prefix_len..).unwrap_or_default();
    let head = replacement.strip_suffix('/').unwrap_or(replacement);
    let mut out = String::with_capacity(head.len() + rest.len() + 1);
    out.push_str(head);
    if rest.is_empty() {
        // Nothing follows: the replacement stands as it was written.
        out.push_str(&replacement[head.len()..]);
    } else {
        if !rest.starts_with('/') {
            out.push('/');
        }
        out.push_str(rest);
    }
    if out.is_empty() {
        out.push('/');
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_form_for_many_spellings() {
        for (path, expect) in [
            ("/", "/"),
            ("//", "/"),
            ("/a/b", "/a/b"),
            ("/a//b///c", "/a/b/c"),
            ("/a/./b/../c", "/a/c"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/../../etc", "/etc"),
            ("/a//../b", "/b"),
            ("/a/%2e%2E/b", "/b"),
            ("/.well-known/x", "/.well-known/x"),
            ("/...", "/..."),
            ("/..a/b..", "/..a/b.."),
            ("/%7Ea%2d", "/~a-"),
            ("/%c3%a4", "/%C3%A4"),
            ("/ä b", "/%C3%A4%20b"),
            ("/%2525", "/%2525"),
            ("/a;v=1/b@c:d", "/a;v=1/b@c:d"),
            ("/%3f%23", "/%3F%23"),
            ("/{id}", "/%7Bid%7D"),
        ] {
            assert_eq!(canonical(path).as_deref(), Ok(expect), "{path}");
        }
    }

    #[test]
    fn what_is_canonical_is_not_copied() {
        for path in ["/", "/a/b.c/", "/.a/..b/c;d=e"] {
            assert!(matches!(canonical(path), Ok(Cow::Borrowed(_))), "{path}");
        }
    }

    #[test]
    fn ambiguous_paths_are_refused() {
        for (path, error) in [
            ("", PathError::NotAbsolute),
            ("a", PathError::NotAbsolute),
            ("*", PathError::NotAbsolute),
            ("/%", PathError::BadEscape),
            ("/%4", PathError::BadEscape),
            ("/%4g", PathError::BadEscape),
            ("/%+41", PathError::BadEscape),
            ("/a%2fb", PathError::HiddenSlash),
            ("/a%2Fb", PathError::HiddenSlash),
            ("/a%5cb", PathError::HiddenSlash),
            ("/a\\b", PathError::HiddenSlash),
            ("/%00", PathError::Control),
            ("/%0d%0a", PathError::Control),
            ("/\u{7f}", PathError::Control),
            ("/a\tb", PathError::Control),
            ("/a?b", PathError::Delimiter),
            ("/a#b", PathError::Delimiter),
        ] {
            assert_eq!(canonical(path), Err(error), "{path}");
        }
    }

    #[test]
    fn prefixes_are_replaced_as_gateway_api_lists_it() {
        for (path, prefix, replacement, expect) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo", "/foo", "/xyz/", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/bar", "", "/xyz", "/xyz/bar"),
            ("/foobar", "/foo", "/xyz", "/xyz/bar"),
        ] {
            assert_eq!(
                replace_prefix(path, prefix.len(), replacement),
                expect,
                "{path} {prefix} {replacement}"
            );
        }
    }

    proptest! {
        #[test]
        fn canonical_is_idempotent_and_safe(path in "/([a./%\\-~{ä;]|%2[0-9eEf]|%4[0-9a-f]|\\.\\./|//){0,24}") {
            if let Ok(once) = canonical(&path) {
                prop_assert_eq!(canonical(&once), Ok(Cow::Borrowed(&*once)), "{}", path);
                let segments: Vec<_> = once[1..].split('/').collect();
                prop_assert!(once.starts_with('/') && once.is_ascii());
                prop_assert!(!segments.iter().any(|s| matches!(*s, "." | "..")), "{}", once);
                prop_assert!(!once.contains("//"), "{}", once);
            }
        }

        #[test]
        fn any_text_is_canonical_or_refused(path in "\\PC*") {
            if let Ok(once) = canonical(&path) {
                prop_assert_eq!(canonical(&once), Ok(Cow::Borrowed(&*once)));
            }
        }

        #[test]
        fn a_replaced_prefix_leaves_a_path(path in "/[a/]{0,8}", len in 0usize..12, replacement in "(/[a/]{0,4})?") {
            prop_assert!(replace_prefix(&path, len, &replacement).starts_with('/'));
        }
    }
}
