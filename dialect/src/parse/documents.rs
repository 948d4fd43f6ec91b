//! A file's documents, each read by itself so that one that is malformed does not hide the others.

use std::borrow::Cow;

use serde_json::Value;
use serde_saphyr::{DefaultMessageFormatter, Localizer, Location};

use crate::{Mistake, Source, SourceFile};

/// Larger files are refused: an apply is sent and stored as a whole.
const MAX_FILE_BYTES: usize = 32 << 20;

/// The documents of a file as JSON values; empty ones are left out.
pub(super) fn split(file: &SourceFile) -> impl Iterator<Item = Result<(Source, Value), Vec<Mistake>>> {
    let texts = if file.content.len() > MAX_FILE_BYTES { vec![] } else { texts(&file.content) };
    let too_large = (file.content.len() > MAX_FILE_BYTES).then(|| {
        let problem = format!("{} bytes are more than {MAX_FILE_BYTES}", file.content.len());
        Err(vec![malformed(file, 0, problem, "split the file")])
    });
    too_large
        .into_iter()
        .chain(texts.into_iter().filter_map(|(line, text)| read(file, line, text).transpose()))
}

/// The text of each document with the line where it begins, from 1.
fn texts(content: &str) -> Vec<(usize, &str)> {
    let content = content.strip_prefix('\u{feff}').unwrap_or(content);
    let mut texts = vec![];
    let (mut start, mut first_line, mut offset) = (0, 1, 0);
    for (line, text) in (1..).zip(content.split_inclusive('\n')) {
        // A marker at the first column ends a document wherever it stands (YAML 1.2 section 9.1.2).
        if text.starts_with("---")
            && matches!(text.as_bytes().get(3), None | Some(b' ' | b'\t' | b'\r' | b'\n'))
        {
            texts.push((first_line, &content[start..offset]));
            // What follows the marker on its line is content; its column does not matter.
            start = offset + 3;
            first_line = line;
        }
        offset += text.len();
    }
    texts.push((first_line, &content[start..]));
    texts
}

fn read(file: &SourceFile, line: usize, text: &str) -> Result<Option<(Source, Value)>, Vec<Mistake>> {
    let options = serde_saphyr::options! {
        // YAML 1.2's: `yes` and `on` are text, as `kubectl` users who were bitten by 1.1 expect.
        strict_booleans: true,
        with_snippet: false,
    };
    let value: Value = match serde_saphyr::from_str_with_options(text, options) {
        Ok(value) => value,
        Err(error) if is_empty(text) => {
            drop(error);
            return Ok(None);
        }
        Err(error) => {
            let at = error.location().map_or(0, |location| usize::try_from(location.line()).unwrap_or(0));
            let broken = text.lines().nth(at.saturating_sub(1)).unwrap_or_default();
            let fix = if broken.contains(": *") || broken.contains("- *") {
                "put what begins with '*' in quotes: \"*.example.com\""
            } else {
                "mend the YAML"
            };
            return Err(vec![malformed(file, line + at.saturating_sub(1), problem_of(&error), fix)]);
        }
    };
    if value.is_null() {
        return Ok(None);
    }
    // Comments and blank lines before the first field are not where anybody looks.
    let before = text.lines().take_while(|line| is_empty(line)).count();
    Ok(Some((Source { file: file.name.clone(), line: line + before }, value)))
}

/// Whether there are only comments, blank lines and end markers.
fn is_empty(text: &str) -> bool {
    text.lines().all(|line| {
        let line = line.trim();
        line.is_empty() || line.starts_with('#') || line == "..."
    })
}

/// What is wrong, with the column. The line is the mistake's own: the reader counts it from the document's
/// beginning, people from the file's.
fn problem_of(error: &serde_saphyr::Error) -> String {
    let formatter = DefaultMessageFormatter.with_localizer(&ColumnOnly);
    first_line(&error.without_snippet().render_with_formatter(&formatter))
}

/// Leaves lines out of the reader's messages.
struct ColumnOnly;

impl Localizer for ColumnOnly {
    fn attach_location<'a>(&self, base: Cow<'a, str>, at: Location) -> Cow<'a, str> {
        if at == Location::UNKNOWN { base } else { format!("{base}, at column {}", at.column()).into() }
    }

    fn alias_defined_at(&self, _: Location) -> String {
        String::new()
    }

    fn alias_used_at(&self, _: Location) -> String {
        String::new()
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

fn malformed(file: &SourceFile, line: usize, problem: String, fix: &str) -> Mistake {
    Mistake {
        file: file.name.clone(),
        line,
        object: String::new(),
        field: String::new(),
        problem,
        fix: fix.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_begin_at_their_markers() {
        let content = "# top\na: 1\n---\nb: |\n  --- not a marker\n  x\n--- {c: 1}\n----\n---";
        let texts = texts(content);
        let lines: Vec<_> = texts.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [1, 3, 7, 9]);
        assert_eq!(texts[1].1, "\nb: |\n  --- not a marker\n  x\n");
        assert_eq!(texts[2].1, " {c: 1}\n----\n");
    }

    #[test]
    fn lines_are_those_of_the_file() {
        let read = |content: &str| {
            let file = SourceFile { name: "f".into(), content: content.into() };
            split(&file)
                .map(|d| d.map(|(source, _)| source.line).map_err(|m| m[0].line))
                .collect::<Vec<Result<usize, usize>>>()
        };
        assert_eq!(read("# c\n\na: 1\n---\n\n---\n# d\nb: 1\n"), [Ok(3), Ok(8)]);
        assert_eq!(read("a: 1\n---\nb: 1\nc: [\n"), [Ok(1), Err(4)]);
        assert_eq!(read(""), []);
        assert_eq!(read("{\"a\": 1}"), [Ok(1)]);
    }
}
