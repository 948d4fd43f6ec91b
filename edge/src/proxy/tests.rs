use model::ProxyVersion;
use proptest::prelude::*;

use super::*;
use crate::limits::PROXY_HEADER;

const SIG: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Version 2 with this command, family and rest, the length as it is.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap();
    [SIG, &[command, family], &length.to_be_bytes(), rest].concat()
}

fn hop(source: &str, destination: &str) -> Option<Hop> {
    Some(Hop { source: source.parse().unwrap(), destination: destination.parse().unwrap() })
}

/// As a whole, and when what follows comes with it; and not before its last byte.
fn check(header: &[u8], expect: Option<Hop>) {
    let shown = header.escape_ascii();
    let whole = Ok(Some(Header { len: header.len(), hop: expect }));
    assert_eq!(parse(header), whole, "{shown}");
    assert_eq!(parse(&[header, b"GET / HTTP/1.1\r\n"].concat()), whole, "{shown}");
    for end in 0..header.len() {
        assert_eq!(parse(&header[..end]), Ok(None), "{shown} cut at {end}");
    }
}

#[test]
fn lines_are_read() {
    check(b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n", hop("192.0.2.1:56324", "198.51.100.2:443"));
    check(b"PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n", hop("0.0.0.0:0", "255.255.255.255:65535"));
    check(b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n", hop("[2001:db8::1]:1", "[::1]:2"));
    check(b"PROXY UNKNOWN\r\n", None);
    check(b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", None);
    let full = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let longest = format!("PROXY UNKNOWN {full} {full} 65535 65535\r\n");
    assert_eq!(longest.len(), 107);
    check(longest.as_bytes(), None);
}

#[test]
fn binary_headers_are_read() {
    let four = [192, 0, 2, 1, 198, 51, 100, 2, 0xdc, 4, 1, 0xbb];
    let expect = hop("192.0.2.1:56324", "198.51.100.2:443");
    check(&v2(0x21, 0x11, &four), expect);
    // Datagrams, and TLVs behind the addresses.
    check(&v2(0x21, 0x12, &four), expect);
    check(&v2(0x21, 0x11, &[&four[..], &[4, 0, 3, 1, 2, 3, 0x20, 0, 0]].concat()), expect);
    // TLVs are skipped, whatever is in them.
    check(&v2(0x21, 0x11, &[&four[..], &[0xff; 700]].concat()), expect);
    let six = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[1], &[0; 15], &[1], &[0, 1, 0, 2]].concat();
    check(&v2(0x21, 0x21, &six), hop("[2001:db8::1]:1", "[::1]:2"));
    check(&v2(0x21, 0x31, &[b'x'; 216]), None);
    check(&v2(0x21, 0x00, &[]), None);
    check(&v2(0x21, 0x00, &[1; 9]), None);
    check(&v2(0x20, 0x00, &[]), None);
    // A LOCAL connection's family and addresses are nothing to go by.
    check(&v2(0x20, 0x11, &four), None);
    check(&v2(0x20, 0xff, &[7; 5]), None);
    check(&v2(0x20, 0x00, &vec![0; PROXY_HEADER - 16]), None);
}

#[test]
fn what_is_malformed_is_refused() {
    let line = |text: &str, expect: &str| {
        let error = parse(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(expect), "{text:?}: {error}");
    };
    for none in [
        "GET / HTTP/1.1\r\n",
        "proxy TCP4 ",
        "PROXYTCP4 ",
        "PROXY\tTCP4",
        "\r\n\r\n\0\r\nQUIX",
        "\x16\x03\x01",
    ] {
        line(none, "does not begin with");
    }
    for (rest, expect) in [
        ("TCP4 192.0.2.1 192.0.2.2 1 2\n", "end is"),
        ("TCP4 192.0.2.1 192.0.2.2 1 2 \r\n", "end is"),
        ("TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n", "end is"),
        ("TCP4 192.0.2.1 192.0.2.2 1 2\r\r\n", "destination port"),
        ("TCP4 192.0.2.1 192.0.2.2 1\r\n", "destination port"),
        ("TCP4 192.0.2.1 192.0.2.2\r\n", "source port"),
        ("TCP4 192.0.2.1\r\n", "destination is"),
        ("TCP4\r\n", "source is"),
        ("TCP4 \r\n", "source is"),
        ("\r\n", "family"),
        (" TCP4 192.0.2.1 192.0.2.2 1 2\r\n", "family"),
        ("TCP5 192.0.2.1 192.0.2.2 1 2\r\n", "family"),
        ("tcp4 192.0.2.1 192.0.2.2 1 2\r\n", "family"),
        ("UNKNOWNS\r\n", "family"),
        ("UDP4 192.0.2.1 192.0.2.2 1 2\r\n", "family"),
        ("TCP4  192.0.2.1 192.0.2.2 1 2\r\n", "source is"),
        ("TCP4 192.0.2.01 192.0.2.2 1 2\r\n", "source is"),
        ("TCP4 192.0.2.256 192.0.2.2 1 2\r\n", "source is"),
        ("TCP4 192.0.2 192.0.2.2 1 2\r\n", "source is"),
        ("TCP4 ::1 192.0.2.2 1 2\r\n", "source is"),
        ("TCP4 192.0.2.1 ::1 1 2\r\n", "destination is"),
        ("TCP6 192.0.2.1 192.0.2.2 1 2\r\n", "source is"),
        ("TCP6 [::1] ::1 1 2\r\n", "source is"),
        ("TCP6 ::1%lo ::1 1 2\r\n", "source is"),
        ("TCP6 ::1 ::1::2 1 2\r\n", "destination is"),
        ("TCP4 a.example.com 192.0.2.2 1 2\r\n", "source is"),
        ("TCP4 192.0.2.1 192.0.2.2 65536 2\r\n", "source port"),
        ("TCP4 192.0.2.1 192.0.2.2 -1 2\r\n", "source port"),
        ("TCP4 192.0.2.1 192.0.2.2 +1 2\r\n", "source port"),
        ("TCP4 192.0.2.1 192.0.2.2 01 2\r\n", "source port"),
        ("TCP4 192.0.2.1 192.0.2.2 0x1 2\r\n", "source port"),
        ("TCP4 192.0.2.1 192.0.2.2 1 \r\n", "destination port"),
        ("TCP4 192.0.2.1 192.0.2.2\t1 2\r\n", "destination is"),
    ] {
        line(&format!("PROXY {rest}"), expect);
    }
    line(&format!("PROXY UNKNOWN {}", "x".repeat(93)), "no end within 107");
    line(&format!("PROXY UNKNOWN {}\r\n", "x".repeat(92)), "no end within 107");
    assert_eq!(parse(b"PROXY TCP4 \xff\r\n"), Err(Malformed::Line("text")));

    let four = [1; 12];
    for (command, family, rest, expect) in [
        (0x11, 0x11, &four[..], Malformed::Command(0x11)),
        (0x31, 0x11, &four, Malformed::Command(0x31)),
        (0x22, 0x11, &four, Malformed::Command(0x22)),
        (0x2f, 0x11, &four, Malformed::Command(0x2f)),
        (0x21, 0x13, &four, Malformed::Family(0x13)),
        (0x21, 0x03, &four, Malformed::Family(0x03)),
        (0x21, 0x41, &four, Malformed::Family(0x41)),
        (0x21, 0xff, &four, Malformed::Family(0xff)),
        (0x21, 0x11, &four[..11], Malformed::Short(11)),
        (0x21, 0x11, &[], Malformed::Short(0)),
        (0x21, 0x21, &[1; 35], Malformed::Short(35)),
        (0x21, 0x31, &[1; 215], Malformed::Short(215)),
        (0x21, 0x11, &[1; PROXY_HEADER - 15], Malformed::Long(PROXY_HEADER + 1)),
        (0x20, 0x00, &[1; PROXY_HEADER - 15], Malformed::Long(PROXY_HEADER + 1)),
    ] {
        assert_eq!(parse(&v2(command, family, rest)), Err(expect), "{command:#x} {family:#x}");
    }
    // Said at once, not when all has come.
    assert_eq!(parse(&v2(0x31, 0, &[])[..13]), Err(Malformed::Command(0x31)));
    assert_eq!(parse(&v2(0x21, 0x99, &[])[..14]), Err(Malformed::Family(0x99)));
    let long = [SIG, &[0x21, 0x11, 0xff, 0xff]].concat();
    assert_eq!(parse(&long), Err(Malformed::Long(16 + 0xffff)), "before it has come");
}

#[test]
fn what_may_be_a_header_is_waited_for() {
    for (bytes, expect) in [
        (&b""[..], Guess::Open),
        (b"P", Guess::Open),
        (b"PROXY", Guess::Open),
        (b"PROXY ", Guess::Yes),
        (b"PR ", Guess::No),
        (b"POST / HTTP/1.1", Guess::No),
        (b"\r\n\r", Guess::Open),
        (SIG, Guess::Yes),
        (b"\r\n\r\nGET", Guess::No),
        (b"\x16\x03", Guess::No),
    ] {
        assert_eq!(guess(bytes), expect, "{}", bytes.escape_ascii());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

    /// Whatever is written is read back, from its last byte on and with anything behind it.
    #[test]
    fn what_is_written_is_read(source: SocketAddr, destination: SocketAddr, second: bool, more: Vec<u8>) {
        // Neither a flow nor a scope travels; an IPv4 end beside an IPv6 one is written as IPv6.
        let version = if second { ProxyVersion::V2 } else { ProxyVersion::V1 };
        let plain = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
        let mut bytes = Vec::new();
        write(version, &Hop { source, destination }, &mut bytes);
        let len = bytes.len();
        bytes.extend(more);
        let read = parse(&bytes).unwrap().unwrap();
        prop_assert_eq!(read.len, len);
        let hop = read.hop.unwrap();
        prop_assert_eq!(plain(hop.source), plain(source));
        prop_assert_eq!(plain(hop.destination), plain(destination));
        for end in 0..len {
            prop_assert_eq!(parse(&bytes[..end]), Ok(None));
        }
    }

    /// Never panics; never reads beyond its bound; and what is said of a beginning stays true.
    #[test]
    fn any_bytes_have_one_verdict(start in 0usize..4, bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let start: &[u8] = match start {
            0 => b"",
            1 => b"PROXY ",
            2 => b"PROXY TCP4 1.2.3.4 ",
            _ => SIG,
        };
        let bytes = [start, &bytes].concat();
        let mut verdict = Ok(None);
        for end in 0..=bytes.len() {
            let now = parse(&bytes[..end]);
            if verdict != Ok(None) {
                prop_assert_eq!(now, verdict, "changed at {}", end);
            }
            if let Ok(Some(header)) = now {
                prop_assert!(header.len <= end && header.len <= PROXY_HEADER);
            }
            verdict = now;
        }
        if bytes.len() >= PROXY_HEADER {
            prop_assert_ne!(verdict, Ok(None));
        }
    }

    /// One wrong byte in a right header is found, or changes what it says to something well-formed; it never panics.
    #[test]
    fn a_changed_byte_is_survived(second: bool, at: prop::sample::Index, byte: u8) {
        let version = if second { ProxyVersion::V2 } else { ProxyVersion::V1 };
        let hop = hop("192.0.2.1:56324", "198.51.100.2:443").unwrap();
        let mut bytes = Vec::new();
        write(version, &hop, &mut bytes);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(Some(header)) = parse(&bytes) {
            prop_assert!(header.len <= bytes.len());
        }
    }
}

#[test]
fn a_connection_of_our_own_names_nobody() {
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        let mut header = Vec::new();
        write_own(version, &mut header);
        check(&header, None);
    }
}
