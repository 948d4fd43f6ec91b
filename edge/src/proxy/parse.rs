//! A header's bytes to what it says.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use super::{Hop, LINE, SIGNATURE};
use crate::limits::PROXY_HEADER;

/// The longest line of version 1, with its end (section 2.1).
const LINE_BYTES: usize = 107;

/// Signature, version and command, family, length (section 2.2).
const FIXED: usize = 16;

/// A header that was read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Its bytes; what follows is the client's.
    pub len: usize,
    /// Whose connection it is. `None`: the sender's own (`LOCAL`, a health check), or of a family that has no address
    /// and port.
    pub hop: Option<Hop>,
}

/// Why bytes are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Neither version's first bytes.
    #[error("it does not begin with a PROXY protocol header")]
    NoHeader,
    /// No end of the line where it must be at last.
    #[error("the line has no end within {LINE_BYTES} bytes")]
    LongLine,
    /// The line is not of the form that it must have.
    #[error("the line's {0} is malformed")]
    Line(&'static str),
    /// Not version 2, or a command that is neither `LOCAL` nor `PROXY`.
    #[error("version and command {0:#04x} are unknown")]
    Command(u8),
    /// A family or transport that does not exist.
    #[error("address family and protocol {0:#04x} are unknown")]
    Family(u8),
    /// Shorter than its addresses.
    #[error("{0} bytes cannot hold its addresses")]
    Short(u16),
    /// Longer than what is read of one.
    #[error("{0} bytes are more than {PROXY_HEADER}")]
    Long(usize),
}

/// Whether bytes begin a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guess {
    /// They do.
    Yes,
    /// They do not.
    No,
    /// More of them are needed to say.
    Open,
}

/// Whether `bytes` begin a header, of either version.
#[must_use]
pub fn guess(bytes: &[u8]) -> Guess {
    for start in [&SIGNATURE[..], &LINE[..]] {
        if bytes.starts_with(start) {
            return Guess::Yes;
        }
        if start.starts_with(bytes) {
            return Guess::Open;
        }
    }
    Guess::No
}

/// The header that `bytes` begin with; `None` while more of it is to come, of which at most
/// [`PROXY_HEADER`](crate::limits::PROXY_HEADER) bytes are needed in all.
///
/// # Errors
/// [`Malformed`], as soon as it can be said: more bytes never mend it.
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    match guess(bytes) {
        Guess::Open => Ok(None),
        Guess::No => Err(Malformed::NoHeader),
        Guess::Yes if bytes.starts_with(&SIGNATURE) => binary(bytes),
        Guess::Yes => line(bytes),
    }
}

fn line(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let seen = &bytes[..bytes.len().min(LINE_BYTES)];
    let Some(end) = memchr::memchr(b'\n', seen) else {
        return if seen.len() < LINE_BYTES { Ok(None) } else { Err(Malformed::LongLine) };
    };
    let text = seen[..end].strip_suffix(b"\r").ok_or(Malformed::Line("end"))?;
    let text = std::str::from_utf8(&text[LINE.len()..]).map_err(|_| Malformed::Line("text"))?;
    let len = end + 1;
    let (family, rest) = text.split_once(' ').unwrap_or((text, ""));
    let hop = match family {
        // Whatever follows is to be ignored.
        "UNKNOWN" => None,
        "TCP4" => Some(hop::<Ipv4Addr>(rest)?),
        "TCP6" => Some(hop::<Ipv6Addr>(rest)?),
        _ => return Err(Malformed::Line("family")),
    };
    Ok(Some(Header { len, hop }))
}

/// `source destination port port`, with one space between.
fn hop<A: FromStr + Into<IpAddr>>(text: &str) -> Result<Hop, Malformed> {
    let mut words = text.split(' ');
    let mut word = || words.next().unwrap_or_default();
    let address = |text: &str| text.parse::<A>().map(Into::into);
    let source = address(word()).map_err(|_| Malformed::Line("source"))?;
    let destination = address(word()).map_err(|_| Malformed::Line("destination"))?;
    let source_port = port(word()).ok_or(Malformed::Line("source port"))?;
    let destination_port = port(word()).ok_or(Malformed::Line("destination port"))?;
    if words.next().is_some() {
        return Err(Malformed::Line("end"));
    }
    Ok(Hop {
        source: SocketAddr::new(source, source_port),
        destination: SocketAddr::new(destination, destination_port),
    })
}

/// A number without a sign or a leading zero.
fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

fn binary(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED>() else {
        return partly(bytes);
    };
    let (command, family) = (fixed[12], fixed[13]);
    let length = u16::from_be_bytes([fixed[14], fixed[15]]);
    let local = is_local(command)?;
    // A LOCAL connection's family means nothing (section 2.2).
    let addresses = if local { Addresses::None } else { addresses(family)? };
    let needed = match addresses {
        Addresses::None => 0,
        Addresses::V4 => 12,
        Addresses::V6 => 36,
        Addresses::Unix => 216,
    };
    if usize::from(length) < needed {
        return Err(Malformed::Short(length));
    }
    let len = FIXED + usize::from(length);
    if len > PROXY_HEADER {
        return Err(Malformed::Long(len));
    }
    if bytes.len() < len {
        return Ok(None);
    }
    let hop = match addresses {
        Addresses::None | Addresses::Unix => None,
        Addresses::V4 => pair::<4>(rest),
        Addresses::V6 => pair::<16>(rest),
    };
    Ok(Some(Header { len, hop }))
}

/// What can be said before the fixed part is whole.
fn partly(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let local = match bytes.get(12) {
        Some(command) => is_local(*command)?,
        None => return Ok(None),
    };
    if let (Some(family), false) = (bytes.get(13), local) {
        addresses(*family)?;
    }
    Ok(None)
}

fn is_local(command: u8) -> Result<bool, Malformed> {
    match command {
        0x20 => Ok(true),
        0x21 => Ok(false),
        other => Err(Malformed::Command(other)),
    }
}

/// How addresses are written.
#[derive(Debug, Clone, Copy)]
enum Addresses {
    None,
    V4,
    V6,
    Unix,
}

/// What a family says. One with no transport says nothing of who is connected; datagrams are believed as streams are.
fn addresses(family: u8) -> Result<Addresses, Malformed> {
    match (family >> 4, family & 0xf) {
        (0..=3, 0) | (0, 1 | 2) => Ok(Addresses::None),
        (1, 1 | 2) => Ok(Addresses::V4),
        (2, 1 | 2) => Ok(Addresses::V6),
        (3, 1 | 2) => Ok(Addresses::Unix),
        _ => Err(Malformed::Family(family)),
    }
}

/// Source and destination, then their ports.
fn pair<const N: usize>(bytes: &[u8]) -> Option<Hop>
where
    IpAddr: From<[u8; N]>,
{
    let (source, rest) = bytes.split_first_chunk::<N>()?;
    let (destination, rest) = rest.split_first_chunk::<N>()?;
    let ports = rest.first_chunk::<4>()?;
    let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
    Some(Hop {
        source: SocketAddr::new(IpAddr::from(*source), port(0)),
        destination: SocketAddr::new(IpAddr::from(*destination), port(2)),
    })
}
