//! JSON objects written into a buffer, one to a line.

use std::{fmt::Display, io::Write as _};

/// An object that is being written.
pub(super) struct Object<'b> {
    out: &'b mut Vec<u8>,
    first: bool,
}

impl<'b> Object<'b> {
    pub(super) fn open(out: &'b mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, first: true }
    }

    /// A text, cut at `most` bytes and then ending with `…`.
    pub(super) fn text(&mut self, name: &str, text: &str, most: usize) {
        self.name(name);
        self.out.push(b'"');
        if text.len() <= most {
            escape(self.out, text);
        } else {
            escape(self.out, &text[..text.floor_char_boundary(most)]);
            self.out.extend_from_slice("…".as_bytes());
        }
        self.out.push(b'"');
    }

    /// As [`text`](Self::text), if there is one.
    pub(super) fn some_text(&mut self, name: &str, text: Option<&str>, most: usize) {
        if let Some(text) = text {
            self.text(name, text, most);
        }
    }

    /// A text that needs no escaping: an address.
    pub(super) fn display(&mut self, name: &str, value: &impl Display) {
        self.name(name);
        // A vector takes whatever it is given.
        let _written = write!(self.out, "\"{value}\"");
    }

    pub(super) fn number(&mut self, name: &str, number: u64) {
        self.name(name);
        self.out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    }

    pub(super) fn close(self) {
        self.out.extend_from_slice(b"}\n");
    }

    /// Names are our own or plain by the rules of configuration, and need no escaping.
    fn name(&mut self, name: &str) {
        self.out.extend_from_slice(if self.first { b"\"" } else { b",\"" });
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.first = false;
    }
}

/// Appends the inside of a JSON string (RFC 8259 section 7). Escapes more than it must: no control character, C1
/// ones and line separators among them, reaches a terminal or ends a line.
fn escape(out: &mut Vec<u8>, text: &str) {
    let is_plain = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\';
    if text.bytes().all(is_plain) {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    for c in text.chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                // Such characters are below U+FFFF: four digits hold them.
                let _written = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(text: &str, most: usize) -> String {
        let mut out = Vec::new();
        let mut object = Object::open(&mut out);
        object.text("a", text, most);
        object.close();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn texts_are_escaped_and_cut() {
        assert_eq!(written("/a b", 9), "{\"a\":\"/a b\"}\n");
        assert_eq!(
            written("\"\\\n\0\u{7f}\u{9b}\u{2028}é", 99),
            "{\"a\":\"\\\"\\\\\\u000a\\u0000\\u007f\\u009b\\u2028é\"}\n"
        );
        assert_eq!(written("abcd", 4), "{\"a\":\"abcd\"}\n");
        assert_eq!(written("abcde", 4), "{\"a\":\"abcd…\"}\n");
        assert_eq!(written("abcé", 4), "{\"a\":\"abc…\"}\n", "not within a character");
    }

    #[test]
    fn members_are_parted_by_commas() {
        let mut out = Vec::new();
        let mut object = Object::open(&mut out);
        object.number("a", 1);
        object.some_text("b", None, 1);
        object.display("c", &std::net::Ipv4Addr::LOCALHOST);
        object.close();
        assert_eq!(String::from_utf8(out).unwrap(), "{\"a\":1,\"c\":\"127.0.0.1\"}\n");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_text_is_read_back_from_one_line(text in any::<String>()) {
            let line = written(&text, usize::MAX);
            prop_assert!(!line.trim_end_matches('\n').chars().any(char::is_control));
            let read: serde_json::Value = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(read["a"].as_str(), Some(text.as_str()));
        }

        #[test]
        fn any_cut_is_valid_json(text in any::<String>(), most in 0usize..40) {
            let line = written(&text, most);
            let read: serde_json::Value = serde_json::from_str(&line).unwrap();
            let read = read["a"].as_str().unwrap();
            prop_assert!(text.starts_with(read.strip_suffix('…').unwrap_or(read)) || read == text);
            prop_assert!(read.len() <= most + '…'.len_utf8());
        }
    }
}
