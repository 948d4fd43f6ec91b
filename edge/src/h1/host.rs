//! Authorities: the one reading of `Host` that routing, tenancy and the upstream share.

use std::net::Ipv6Addr;

use super::framing::decimal;

/// What is wrong with an authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// No host.
    #[error("empty")]
    Empty,
    /// `user@host`
    #[error("user information")]
    Userinfo,
    /// Not 1 to 65535.
    #[error("not a port")]
    Port,
    /// What is in brackets is not an IPv6 address.
    #[error("not an IPv6 address")]
    Ipv6,
    /// Not a letter, digit, `-`, `_` or `.`.
    #[error("not a hostname")]
    Character,
    /// An empty label, one over 63 bytes, or a name over 253 bytes.
    #[error("a label is empty or too long")]
    Label,
}

/// A checked authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Authority<'a> {
    /// In its brackets if it is an IPv6 address; no trailing dot. Letter case as it came.
    pub(super) host: &'a [u8],
    pub(super) port: Option<u16>,
}

impl<'a> Authority<'a> {
    /// Reads `host [":" port]`.
    ///
    /// Narrower than RFC 3986: a registered name is a DNS name (with `_`, which service names have), because a
    /// percent-encoded or `!`-bearing host means nothing to a gateway and much to a cache key.
    pub(super) fn parse(authority: &'a [u8]) -> Result<Self, HostError> {
        if authority.contains(&b'@') {
            return Err(HostError::Userinfo);
        }
        let (host, port) = if authority.starts_with(b"[") {
            let end = memchr::memchr(b']', authority).ok_or(HostError::Ipv6)? + 1;
            let (host, port) = authority.split_at(end);
            check_ipv6(host)?;
            (host, port)
        } else {
            let end = memchr::memchr(b':', authority).unwrap_or(authority.len());
            let (host, port) = authority.split_at(end);
            (check_name(host)?, port)
        };
        let port = match port {
            [] => None,
            [b':', digits @ ..] => Some(parse_port(digits).ok_or(HostError::Port)?),
            _ => return Err(HostError::Port),
        };
        Ok(Self { host, port })
    }

    /// Whether both name the same host and port, where a port that is not named is `default_port`.
    pub(super) fn is_same(&self, other: &Self, default_port: u16) -> bool {
        self.host.eq_ignore_ascii_case(other.host)
            && self.port.unwrap_or(default_port) == other.port.unwrap_or(default_port)
    }
}

fn check_ipv6(bracketed: &[u8]) -> Result<(), HostError> {
    let address = std::str::from_utf8(&bracketed[1..bracketed.len() - 1]).map_err(|_| HostError::Ipv6)?;
    address.parse::<Ipv6Addr>().map(|_| ()).map_err(|_| HostError::Ipv6)
}

/// The name without its trailing dot.
fn check_name(name: &[u8]) -> Result<&[u8], HostError> {
    const LABEL: usize = 63;
    const NAME: usize = 253;
    if name.is_empty() {
        return Err(HostError::Empty);
    }
    let name = name.strip_suffix(b".").unwrap_or(name);
    if name.len() > NAME {
        return Err(HostError::Label);
    }
    let mut label = 0;
    for &byte in name {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => label += 1,
            b'.' if label == 0 => return Err(HostError::Label),
            b'.' => label = 0,
            _ => return Err(HostError::Character),
        }
        if label > LABEL {
            return Err(HostError::Label);
        }
    }
    if label == 0 { Err(HostError::Label) } else { Ok(name) }
}

fn parse_port(digits: &[u8]) -> Option<u16> {
    let port = if digits.len() > 5 { None } else { decimal(digits) };
    port.and_then(|port| u16::try_from(port).ok()).filter(|&port| port != 0)
}
