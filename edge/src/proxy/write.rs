//! Headers for upstreams.

use std::{
    io::Write as _,
    net::{IpAddr, SocketAddr},
};

use model::ProxyVersion;

use super::{Hop, LINE, SIGNATURE};

/// `PROXY` of version 2.
const PROXY: u8 = 0x21;
/// `LOCAL` of version 2.
const LOCAL: u8 = 0x20;
/// TCP over IPv4 and over IPv6.
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// Appends the header that says `hop`. Where its ends are of different families, both are written as IPv6.
pub fn write(version: ProxyVersion, hop: &Hop, out: &mut Vec<u8>) {
    let canonical = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
    let (source, destination) = (canonical(hop.source), canonical(hop.destination));
    let ports = (source.port(), destination.port());
    match (version, source.ip(), destination.ip()) {
        (ProxyVersion::V1, IpAddr::V4(from), IpAddr::V4(to)) => {
            line(out, format_args!("TCP4 {from} {to}"), ports)
        }
        (ProxyVersion::V1, from, to) => {
            line(out, format_args!("TCP6 {} {}", mapped(from), mapped(to)), ports);
        }
        (ProxyVersion::V2, IpAddr::V4(from), IpAddr::V4(to)) => {
            binary(out, TCP4, &[from.octets(), to.octets()].concat(), ports);
        }
        (ProxyVersion::V2, from, to) => {
            binary(out, TCP6, &[mapped(from).octets(), mapped(to).octets()].concat(), ports);
        }
    }
}

/// The header of a connection that is the sender's own, such as a health check's: `UNKNOWN` or `LOCAL`.
pub fn write_own(version: ProxyVersion, out: &mut Vec<u8>) {
    match version {
        ProxyVersion::V1 => out.extend_from_slice(b"PROXY UNKNOWN\r\n"),
        ProxyVersion::V2 => {
            out.extend_from_slice(&SIGNATURE);
            out.extend_from_slice(&[LOCAL, 0, 0, 0]);
        }
    }
}

fn mapped(ip: IpAddr) -> std::net::Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

fn line(out: &mut Vec<u8>, addresses: std::fmt::Arguments<'_>, (source, destination): (u16, u16)) {
    out.extend_from_slice(&LINE);
    // A vector takes whatever it is given.
    let _written = write!(out, "{addresses} {source} {destination}\r\n");
}

fn binary(out: &mut Vec<u8>, family: u8, addresses: &[u8], (source, destination): (u16, u16)) {
    // 36 bytes at most.
    let length = u16::try_from(addresses.len() + 4).unwrap_or(u16::MAX);
    out.extend_from_slice(&SIGNATURE);
    out.extend_from_slice(&[PROXY, family]);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(addresses);
    out.extend_from_slice(&source.to_be_bytes());
    out.extend_from_slice(&destination.to_be_bytes());
}
