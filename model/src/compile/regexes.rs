//! Regular expressions, bounded and shared.

use std::{collections::HashMap, sync::Arc};

use regex::bytes::{Regex, RegexBuilder};

use crate::CompileLimits;

/// How deep groups may nest: the parser's recursion, and more than people read.
const NEST_LIMIT: u32 = 50;

/// Whether `pattern` would be accepted.
///
/// # Errors
/// Why not, in a sentence.
pub fn check_regex(pattern: &str, limits: &CompileLimits) -> Result<(), String> {
    Regexes::default().get(Key { pattern, anchor: true, icase: false }, limits).map(drop)
}

/// What makes two expressions the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key<'c> {
    pub(super) pattern: &'c str,
    /// It must hold for the whole text.
    pub(super) anchor: bool,
    pub(super) icase: bool,
}

/// The expressions of a tenant; one that is used twice is compiled and kept once.
#[derive(Debug, Default)]
pub(super) struct Regexes<'c> {
    known: HashMap<Key<'c>, Arc<Regex>>,
}

impl<'c> Regexes<'c> {
    pub(super) fn get(&mut self, key: Key<'c>, limits: &CompileLimits) -> Result<Arc<Regex>, String> {
        if let Some(regex) = self.known.get(&key) {
            return Ok(regex.clone());
        }
        if self.known.len() >= limits.max_regexes {
            return Err(format!("there are more than {} regular expressions", limits.max_regexes));
        }
        let regex = Arc::new(build(key, limits)?);
        self.known.insert(key, regex.clone());
        Ok(regex)
    }
}

fn build(key: Key<'_>, limits: &CompileLimits) -> Result<Regex, String> {
    if key.pattern.len() > limits.regex_pattern_bytes {
        let (len, most) = (key.pattern.len(), limits.regex_pattern_bytes);
        return Err(format!("a regular expression of {len} bytes is longer than the limit of {most}"));
    }
    let compile = |pattern: &str| {
        RegexBuilder::new(pattern)
            .case_insensitive(key.icase)
            .nest_limit(NEST_LIMIT)
            .size_limit(limits.regex_compiled_bytes)
            .dfa_size_limit(limits.regex_compiled_bytes)
            .build()
            .map_err(|error| explain(key.pattern, &error))
    };
    let alone = compile(key.pattern)?;
    if !key.anchor {
        return Ok(alone);
    }
    // The pattern compiles by itself, so `a)|(b` cannot break out of the group. The line break ends a comment
    // that `(?x)` allows; where `x` is off at the end of the pattern it must not be there.
    compile(&format!(r"\A(?:{})\z", key.pattern))
        .or_else(|_| compile(&format!("\\A(?:{}\n)\\z", key.pattern)))
}

fn explain(pattern: &str, error: &regex::Error) -> String {
    match error {
        regex::Error::CompiledTooBig(most) => {
            format!(
                "the regular expression {pattern:?} takes more than {most} bytes when compiled; simplify it"
            )
        }
        other => {
            // The parser's message draws the pattern first; its last line says what is wrong.
            let text = other.to_string();
            let reason = text.lines().last().unwrap_or_default().trim().trim_start_matches("error: ");
            format!("{pattern:?} is not a regular expression: {reason}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(pattern: &str, anchor: bool, icase: bool, text: &str) -> bool {
        let key = Key { pattern, anchor, icase };
        Regexes::default().get(key, &CompileLimits::default()).unwrap().is_match(text.as_bytes())
    }

    #[test]
    fn an_anchored_expression_holds_for_the_whole_text() {
        assert!(holds("a|bc", true, false, "bc"));
        for text in ["abc", "bcd", "a\n", "\na", "A"] {
            assert!(!holds("a|bc", true, false, text), "{text:?}");
        }
        assert!(holds("a|bc", false, false, "xbcx"));
        assert!(holds("a|bc", true, true, "BC"));
        assert!(!holds("(?m)^a$", true, false, "b\na"));
    }

    #[test]
    fn a_comment_cannot_swallow_the_anchor() {
        assert!(holds("(?x) a # letter", true, false, "a"));
        assert!(!holds("(?x) a # letter", true, false, "ab"));
    }

    #[test]
    fn what_is_too_much_or_malformed_is_refused_with_a_reason() {
        let limits = CompileLimits::default();
        for (pattern, reason) in [
            ("(", "unclosed group"),
            ("a)|(b", "unopened group"),
            ("(?<!a)b", "look-around"),
            (r"(a)\1", "backreferences"),
            (r"\w{1000}{10}", "when compiled"),
            (&"a".repeat(2_000), "longer than the limit of 1024"),
            (&format!("{}{}", "(".repeat(100), ")".repeat(100)), "nest"),
        ] {
            let problem = check_regex(pattern, &limits).unwrap_err();
            assert!(problem.contains(reason), "{problem}");
        }
    }

    #[test]
    fn equal_expressions_count_once() {
        let limits = CompileLimits { max_regexes: 1, ..CompileLimits::default() };
        let mut regexes = Regexes::default();
        let key = |pattern| Key { pattern, anchor: true, icase: false };
        assert!(regexes.get(key("a"), &limits).is_ok());
        assert!(regexes.get(key("a"), &limits).is_ok());
        assert!(regexes.get(key("b"), &limits).unwrap_err().contains("more than 1"));
    }
}
