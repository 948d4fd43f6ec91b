//! A TLS client's first message, read without ending TLS: which host it asks for.
//!
//! RFC 8446 sections 4.1.2 and 5.1, RFC 6066 section 3. Pure and bounded: the caller stops at so many bytes. A message may
//! be cut into TLS records, and those into TCP segments, wherever the client likes. What it offers (versions, groups, GREASE,
//! Encrypted Client Hello) is the server's business; of an ECH hello the name is the outer one.

#[cfg(test)]
mod tests;

/// What a hello says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The host, lowercase; `None` when the client does not say.
    pub server_name: Option<String>,
}

/// Why bytes are no hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotHello {
    /// No TLS record of a handshake.
    #[error("it does not begin with a TLS handshake")]
    NotTls,
    /// A record that TLS does not allow here.
    #[error("a TLS record is malformed: {0}")]
    Record(&'static str),
    /// The message is another one or does not hold together.
    #[error("the client hello is malformed: {0}")]
    Message(&'static str),
}

/// Bytes before a record's content.
const RECORD_HEAD: usize = 5;
/// The most that one record may hold.
const RECORD_BYTES: usize = 1 << 14;
/// Bytes before a message's content.
const MESSAGE_HEAD: usize = 4;
/// The longest name (RFC 1035), and a dot at its end.
const NAME_BYTES: usize = 254;

/// Reads a hello as its bytes come.
#[derive(Debug, Default)]
pub struct HelloReader {
    /// What the records so far hold.
    message: Vec<u8>,
    /// Where the next record begins among the client's bytes.
    next: usize,
}

impl HelloReader {
    /// The hello, once it is whole. `bytes` is all that the client has sent so far; each byte is looked at once,
    /// however often this is called.
    ///
    /// # Errors
    /// [`NotHello`], as soon as it can be said.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<Option<Hello>, NotHello> {
        while let Some(record) = record(&bytes[self.next.min(bytes.len())..], self.next == 0)? {
            self.message.extend_from_slice(record);
            self.next += RECORD_HEAD + record.len();
            if let Some(hello) = in_message(&self.message)? {
                return Ok(Some(hello));
            }
        }
        Ok(None)
    }
}

/// The hello that a handshake begins with, once it is whole: without records, as QUIC carries it (RFC 9001 section 4.1.3).
///
/// # Errors
/// [`NotHello::Message`], as soon as it can be said.
pub fn in_message(handshake: &[u8]) -> Result<Option<Hello>, NotHello> {
    let Some((head, rest)) = handshake.split_first_chunk::<MESSAGE_HEAD>() else { return Ok(None) };
    let [kind, a, b, c] = *head;
    if kind != 1 {
        return Err(NotHello::Message("it is no client hello"));
    }
    let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX);
    rest.get(..length).map(hello).transpose()
}

/// The content of the record that `bytes` begin with, when it is whole.
fn record(bytes: &[u8], first: bool) -> Result<Option<&[u8]>, NotHello> {
    let head = &bytes[..bytes.len().min(RECORD_HEAD)];
    let other = if first { NotHello::NotTls } else { NotHello::Record("it is not of the handshake") };
    if head.first().is_some_and(|kind| *kind != 22) {
        return Err(other);
    }
    if head.get(1).is_some_and(|major| *major != 3) {
        return Err(if first { NotHello::NotTls } else { NotHello::Record("its version") });
    }
    let &[_, _, _, high, low] = head else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([high, low]));
    match length {
        0 => Err(NotHello::Record("it is empty")),
        1..=RECORD_BYTES => Ok(bytes.get(RECORD_HEAD..RECORD_HEAD + length)),
        _ => Err(NotHello::Record("it is too long")),
    }
}

/// What is left of a message.
struct Rest<'b>(&'b [u8]);

impl<'b> Rest<'b> {
    fn take(&mut self, count: usize, what: &'static str) -> Result<&'b [u8], NotHello> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(NotHello::Message(what))?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self, bytes: usize, what: &'static str) -> Result<usize, NotHello> {
        Ok(self.take(bytes, what)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    /// A vector behind its length, of that many bytes.
    fn vector(&mut self, length_bytes: usize, what: &'static str) -> Result<&'b [u8], NotHello> {
        let length = self.number(length_bytes, what)?;
        self.take(length, what)
    }
}

fn hello(content: &[u8]) -> Result<Hello, NotHello> {
    let mut rest = Rest(content);
    rest.take(2 + 32, "version and random")?;
    if rest.vector(1, "session id")?.len() > 32 {
        return Err(NotHello::Message("session id"));
    }
    let suites = rest.vector(2, "cipher suites")?.len();
    if suites < 2 || suites % 2 != 0 {
        return Err(NotHello::Message("cipher suites"));
    }
    if rest.vector(1, "compression methods")?.is_empty() {
        return Err(NotHello::Message("compression methods"));
    }
    // TLS 1.2 without extensions may end here.
    let mut extensions = Rest(if rest.0.is_empty() { &[] } else { rest.vector(2, "extensions")? });
    if !rest.0.is_empty() {
        return Err(NotHello::Message("something follows it"));
    }
    let mut names = None;
    while !extensions.0.is_empty() {
        let kind = extensions.number(2, "extensions")?;
        let data = extensions.vector(2, "extensions")?;
        if kind == 0 && names.replace(data).is_some() {
            return Err(NotHello::Message("two server names"));
        }
    }
    let server_name = names.map(server_name).transpose()?.flatten();
    Ok(Hello { server_name })
}

/// The host in a `server_name` extension. Other kinds of names do not exist, and are skipped.
fn server_name(data: &[u8]) -> Result<Option<String>, NotHello> {
    const WHAT: &str = "server name";
    let mut rest = Rest(data);
    let mut list = Rest(rest.vector(2, WHAT)?);
    if !rest.0.is_empty() || list.0.is_empty() {
        return Err(NotHello::Message(WHAT));
    }
    let mut host = None;
    while !list.0.is_empty() {
        let kind = list.number(1, WHAT)?;
        let name = list.vector(2, WHAT)?;
        if kind == 0 && host.replace(name).is_some() {
            return Err(NotHello::Message("two server names"));
        }
    }
    let Some(name) = host else { return Ok(None) };
    let text = std::str::from_utf8(name).ok().filter(|text| text.bytes().all(|b| b.is_ascii_graphic()));
    match text {
        Some(text) if (1..=NAME_BYTES).contains(&text.len()) => Ok(Some(text.to_ascii_lowercase())),
        _ => Err(NotHello::Message(WHAT)),
    }
}

/// A fatal alert in a record of its own (RFC 8446 section 6).
#[must_use]
pub const fn alert(description: u8) -> [u8; 7] {
    [21, 3, 1, 0, 2, 2, description]
}

/// The message cannot be read.
pub const DECODE_ERROR: u8 = 50;
/// No host of that name is here (RFC 6066 section 3).
pub const UNRECOGNIZED_NAME: u8 = 112;
/// It is not the client's fault.
pub const INTERNAL_ERROR: u8 = 80;
