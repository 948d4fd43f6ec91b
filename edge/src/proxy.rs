//! The PROXY protocol, versions 1 and 2: the header by which a load balancer says whose connection it passes on.
//!
//! Source: <https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>. Pure: bytes in, addresses out. Deliberately
//! absent: what TLVs say (authority, TLS, identifiers); they are skipped.

mod parse;
mod write;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;

pub use parse::{Guess, Header, Malformed, guess, parse};
pub use write::{write, write_own};

/// Both ends of a client's connection, as seen by whoever it came to first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hop {
    /// The client.
    pub source: SocketAddr,
    /// What it connected to.
    pub destination: SocketAddr,
}

/// What every header of version 2 begins with (section 2.2).
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// What every header of version 1 begins with.
const LINE: [u8; 6] = *b"PROXY ";
