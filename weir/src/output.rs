//! What people and programs read: tables, JSON and YAML on stdout, errors on stderr.
#![expect(clippy::print_stderr, reason = "this module is the command line's output")]

use std::io::{IsTerminal, Write};

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::Serialize;

/// The form of a read verb's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Default)]
pub(crate) enum Format {
    /// Aligned columns for people.
    #[default]
    Table,
    /// One JSON document.
    Json,
    /// One YAML document.
    Yaml,
}

/// Rows under a header, each column as wide as its widest cell.
#[derive(Debug)]
pub(crate) struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(header: &[&'static str]) -> Self {
        Self { header: header.to_vec(), rows: vec![] }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.header.len());
        self.rows.push(cells.into());
    }

    pub(crate) fn render(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.chain([self.header[column].len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.header.len()).map(width).collect();
        let mut out = String::new();
        let header: Vec<String> = self.header.iter().map(|cell| cell.to_string()).collect();
        for row in std::iter::once(&header).chain(&self.rows) {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 3));
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

/// Prints `value` as JSON or YAML, or the table.
pub(crate) fn print<T: Serialize>(format: Format, value: &T, table: impl FnOnce() -> Table) -> Result<()> {
    match format {
        Format::Table => text(&table().render()),
        Format::Json => text(&(serde_json::to_string_pretty(value).context("write JSON")? + "\n")),
        Format::Yaml => text(&serde_saphyr::to_string(value).context("write YAML")?),
    }
}

/// Writes text to stdout. A reader that went away (`| head`) is a quiet end.
pub(crate) fn text(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => result.context("write to stdout"),
    }
}

/// A line of progress on stderr, for people.
pub(crate) fn note(line: &str) {
    eprintln!("{line}");
}

/// An error on stderr, each cause on a line of its own.
pub(crate) fn error(error: &anyhow::Error) {
    let paint = std::io::stderr().is_terminal();
    let (red, plain) = if paint { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
    eprintln!("{red}error:{plain} {error}");
    for cause in error.chain().skip(1) {
        eprintln!("  because: {cause}");
    }
}

/// Whether progress should be drawn: stdout is a terminal.
pub(crate) fn interactive() -> bool {
    std::io::stdout().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align() {
        let mut table = Table::new(&["NAME", "AGE"]);
        table.row(["a".into(), "10s".into()]);
        table.row(["longer-name".into(), "1s".into()]);
        assert_eq!(table.render(), "NAME          AGE\na             10s\nlonger-name   1s\n");
    }
}
