//! Where lines go, and the thread that takes them there.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, Write},
    path::PathBuf,
    str::FromStr,
};

use tracing::{info, warn};

/// Where the access log goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Sink {
    /// Nowhere.
    #[default]
    Off,
    /// Standard output.
    Stdout,
    /// Appended to a file, which is made if it is not there.
    File(PathBuf),
}

/// A text that names no sink.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an access log; use off, stdout or file:PATH")]
pub struct InvalidSink(String);

impl FromStr for Sink {
    type Err = InvalidSink;

    fn from_str(text: &str) -> Result<Self, InvalidSink> {
        match text {
            "off" => Ok(Self::Off),
            "stdout" => Ok(Self::Stdout),
            _ => match text.strip_prefix("file:") {
                Some(path) if !path.is_empty() => Ok(Self::File(path.into())),
                _ => Err(InvalidSink(text.to_owned())),
            },
        }
    }
}

impl fmt::Display for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Stdout => f.write_str("stdout"),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

impl Sink {
    pub(super) fn open(&self) -> io::Result<Option<Writer>> {
        let output: Box<dyn Write + Send> = match self {
            Self::Off => return Ok(None),
            Self::Stdout => Box::new(io::stdout()),
            Self::File(path) => Box::new(open(path)?),
        };
        Ok(Some(Writer::new(self.clone(), output)))
    }
}

fn open(path: &PathBuf) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    // Addresses and paths are nobody else's business.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o640);
    options.open(path)
}

/// What the writer is asked to do.
#[derive(Debug)]
pub(super) enum Message {
    /// To write whole lines.
    Lines(Vec<u8>),
    /// To open its file anew.
    Reopen,
}

/// How many lines there are.
pub(super) fn count(lines: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', lines).count() as u64
}

/// The writer's side of a sink.
pub(super) struct Writer {
    sink: Sink,
    output: Box<dyn Write + Send>,
    /// Whether the last write failed: the log of a full disk is told of once, not with every buffer.
    failing: bool,
}

impl Writer {
    pub(super) fn new(sink: Sink, output: Box<dyn Write + Send>) -> Self {
        Self { sink, output, failing: false }
    }

    /// Does what it is asked; how many lines were lost.
    pub(super) fn take(&mut self, message: Message) -> u64 {
        match message {
            Message::Lines(lines) => self.write(&lines),
            Message::Reopen => {
                self.reopen();
                0
            }
        }
    }

    fn write(&mut self, lines: &[u8]) -> u64 {
        match self.output.write_all(lines).and_then(|()| self.output.flush()) {
            Ok(()) => {
                if std::mem::take(&mut self.failing) {
                    info!(sink = %self.sink, "the access log is written again");
                }
                0
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    warn!(sink = %self.sink, %error, "the access log cannot be written, its lines are lost");
                }
                count(lines)
            }
        }
    }

    fn reopen(&mut self) {
        let Sink::File(path) = &self.sink else { return };
        match open(path) {
            Ok(file) => self.output = Box::new(file),
            // The old file is still open: better renamed than lost.
            Err(error) => warn!(sink = %self.sink, %error, "the access log cannot be opened again"),
        }
    }
}
