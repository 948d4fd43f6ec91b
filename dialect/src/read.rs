//! Reading a JSON value field by field, noting everything that is wrong instead of stopping at the first.
//!
//! What serde's `deny_unknown_fields` gives, and more: all mistakes of an object together, each with its path, and a
//! suggestion where a name is nearly right.

use std::{cell::RefCell, fmt::Display, ops::RangeInclusive};

use serde_json::{Map, Value};

/// Noted at most for one object: past this, it is not mended by reading on.
const MAX_PROBLEMS: usize = 100;

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) field: String,
    pub(crate) problem: String,
    pub(crate) fix: String,
}

/// What is wrong so far.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    list: RefCell<Vec<Problem>>,
}

impl Problems {
    fn push(&self, field: String, problem: String, fix: String) {
        let mut list = self.list.borrow_mut();
        if list.len() < MAX_PROBLEMS {
            list.push(Problem { field, problem, fix });
        }
    }

    pub(crate) fn into_list(self) -> Vec<Problem> {
        self.list.into_inner()
    }
}

/// A value and where it stands in its object.
#[derive(Clone)]
pub(crate) struct Node<'a> {
    pub(crate) field: String,
    value: &'a Value,
    problems: &'a Problems,
}

impl<'a> Node<'a> {
    pub(crate) fn root(value: &'a Value, problems: &'a Problems) -> Self {
        Self { field: String::new(), value, problems }
    }

    /// Notes that this is wrong, and how to mend it.
    pub(crate) fn wrong(&self, problem: impl Into<String>, fix: impl Into<String>) {
        self.problems.push(self.field.clone(), problem.into(), fix.into());
    }

    fn child(&self, name: &str, value: &'a Value) -> Self {
        // Put together by hand: this is done for every field of every object, and `format!` takes twice as long.
        let mut field = String::with_capacity(self.field.len() + 1 + name.len());
        if !self.field.is_empty() {
            field.push_str(&self.field);
            field.push('.');
        }
        field.push_str(name);
        Node { field, value, problems: self.problems }
    }

    /// As a mapping.
    pub(crate) fn fields(&self) -> Option<Fields<'a>> {
        match self.value {
            Value::Object(map) => Some(Fields { node: self.clone(), map, known: Vec::with_capacity(16) }),
            other => {
                self.wrong(format!("{} is not a mapping", describe(other)), "write fields below it");
                None
            }
        }
    }

    /// As a list of at most `most`.
    pub(crate) fn items(&self, most: usize) -> Vec<Self> {
        let Value::Array(list) = self.value else {
            self.wrong(format!("{} is not a list", describe(self.value)), "write each item after a '-'");
            return vec![];
        };
        if list.len() > most {
            self.wrong(format!("{} items are more than {most}", list.len()), "split the object");
        }
        let item = |(index, value)| Node {
            field: format!("{}[{index}]", self.field),
            value,
            problems: self.problems,
        };
        list.iter().take(most).enumerate().map(item).collect()
    }

    /// As text.
    pub(crate) fn text(&self) -> Option<&'a str> {
        match self.value {
            Value::String(text) => Some(text),
            scalar @ (Value::Number(_) | Value::Bool(_)) => {
                self.wrong(
                    format!("{} is not text", describe(scalar)),
                    format!("put it in quotes: \"{scalar}\""),
                );
                None
            }
            other => {
                self.wrong(format!("{} is not text", describe(other)), "write one value");
                None
            }
        }
    }

    /// As text of a length in `bytes`.
    pub(crate) fn text_of(&self, bytes: RangeInclusive<usize>) -> Option<&'a str> {
        let text = self.text()?;
        if text.is_empty() && !bytes.contains(&0) {
            self.wrong("it is empty", "give it a value or leave it out");
        } else if !bytes.contains(&text.len()) {
            self.wrong(format!("{} bytes are more than {}", text.len(), bytes.end()), "shorten it");
        } else {
            return Some(text);
        }
        None
    }

    /// As text that `parse` accepts; its error says what is wrong.
    pub(crate) fn parsed<T, E: Display>(
        &self,
        parse: impl FnOnce(&str) -> Result<T, E>,
        fix: &str,
    ) -> Option<T> {
        parse(self.text()?).map_err(|error| self.wrong(error.to_string(), fix)).ok()
    }

    /// As a whole number in `range`.
    pub(crate) fn number<T>(&self, range: RangeInclusive<T>) -> Option<T>
    where
        T: TryFrom<u64> + PartialOrd + Display,
    {
        let number = self.value.as_u64().and_then(|n| T::try_from(n).ok()).filter(|n| range.contains(n));
        if number.is_none() {
            let fix = format!("use a whole number from {} to {}", range.start(), range.end());
            self.wrong(format!("{} is not allowed", describe(self.value)), fix);
        }
        number
    }

    /// As one of these words. `what` with its article: `a path type`.
    pub(crate) fn choice<T: Copy>(&self, what: &str, options: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        if let Some((_, value)) = options.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let words: Vec<&str> = options.iter().map(|(word, _)| *word).collect();
        let fix = match nearest(text, words.iter().copied()) {
            Some(word) => format!("did you mean {word}? Use {}", alternatives(&words)),
            None => format!("use {}", alternatives(&words)),
        };
        self.wrong(format!("{text:?} is not {what}"), fix);
        None
    }

    pub(crate) fn raw(&self) -> &'a Value {
        self.value
    }
}

/// The fields of a mapping. Ask for all that may be there, then [`finish`](Self::finish).
pub(crate) struct Fields<'a> {
    pub(crate) node: Node<'a>,
    map: &'a Map<String, Value>,
    known: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// The field, if it is there and not null.
    pub(crate) fn optional(&mut self, name: &'static str) -> Option<Node<'a>> {
        self.known.push(name);
        let value = self.map.get(name).filter(|value| !value.is_null())?;
        Some(self.node.child(name, value))
    }

    /// The field; noted when it is not there.
    pub(crate) fn required(&mut self, name: &'static str) -> Option<Node<'a>> {
        let found = self.optional(name);
        if found.is_none() {
            self.node.child(name, &Value::Null).wrong("it is missing", format!("add {name}"));
        }
        found
    }

    /// The items of a list that may be missing.
    pub(crate) fn list(&mut self, name: &'static str, most: usize) -> Vec<Node<'a>> {
        self.optional(name).map(|node| node.items(most)).unwrap_or_default()
    }

    /// Fields that mean nothing here, whatever is in them.
    pub(crate) fn ignore(&mut self, names: &[&'static str]) {
        self.known.extend(names);
    }

    /// Fields of the standard that this version does not serve: silence would be worse.
    pub(crate) fn unsupported(&mut self, names: &[&'static str]) {
        for name in names {
            if let Some(node) = self.optional(name) {
                node.wrong("it is not supported yet", "remove it");
            }
        }
    }

    /// Notes the fields that nobody asked for.
    pub(crate) fn finish(self) {
        for (name, value) in self.map.iter().filter(|(name, _)| !self.known.contains(&name.as_str())) {
            let fix = match nearest(name, self.known.iter().copied()) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("use {}", alternatives(&self.known)),
            };
            self.node.child(name, value).wrong("there is no such field", fix);
        }
    }
}

/// A value in a few words.
fn describe(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(flag) => format!("{flag}"),
        Value::Number(number) => format!("{number}"),
        // It may be a secret that stands in the wrong place: only what surely is none is repeated.
        Value::String(text) if text.len() <= 32 => format!("{text:?}"),
        Value::String(_) => "this text".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
    }
}

/// `a, b or c`.
pub(crate) fn alternatives(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [most @ .., last] => format!("{} or {last}", most.join(", ")),
    }
}

/// The candidate that was probably meant.
pub(crate) fn nearest<'w>(word: &str, candidates: impl IntoIterator<Item = &'w str>) -> Option<&'w str> {
    // A third of the letters may be wrong; a long word is compared with nothing, it costs its square.
    let most = (word.len() / 3).clamp(1, 3);
    let close = |candidate: &str| {
        let (a, b) = (word.to_ascii_lowercase(), candidate.to_ascii_lowercase());
        if word.len() > 64 { usize::MAX } else { edits(a.as_bytes(), b.as_bytes()) }
    };
    candidates
        .into_iter()
        .map(|candidate| (close(candidate), candidate))
        .filter(|(edits, _)| *edits <= most)
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance.
fn edits(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn everything_that_is_wrong_is_noted() {
        let value = json!({"name": 7, "kinds": "x", "colour": 1, "port": 70_000, "mode": "Termnate"});
        let problems = Problems::default();
        let mut fields = Node::root(&value, &problems).fields().unwrap();
        assert_eq!(fields.required("name").unwrap().text(), None);
        assert!(fields.list("kinds", 3).is_empty());
        assert!(fields.required("color").is_none());
        assert_eq!(fields.optional("port").unwrap().number(1..=u16::MAX), None);
        assert_eq!(fields.optional("mode").unwrap().choice("a mode", &[("Terminate", 1), ("Pass", 2)]), None);
        fields.finish();
        let noted: Vec<String> =
            problems.into_list().iter().map(|p| format!("{}: {}; {}", p.field, p.problem, p.fix)).collect();
        assert_eq!(
            noted,
            [
                "name: 7 is not text; put it in quotes: \"7\"",
                "kinds: \"x\" is not a list; write each item after a '-'",
                "color: it is missing; add color",
                "port: 70000 is not allowed; use a whole number from 1 to 65535",
                "mode: \"Termnate\" is not a mode; did you mean Terminate? Use Terminate or Pass",
                "colour: there is no such field; did you mean color?",
            ]
        );
    }

    #[test]
    fn the_nearest_word_is_close() {
        let words = ["hostname", "hostnames", "port", "protocol"];
        assert_eq!(nearest("hostnam", words), Some("hostname"));
        assert_eq!(nearest("Port", words), Some("port"));
        assert_eq!(nearest("tls", words), None);
    }
}
