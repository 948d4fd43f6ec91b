use std::sync::Arc;

use proptest::prelude::*;
use rustls::{ClientConfig, ClientConnection, RootCertStore, crypto::aws_lc_rs};

use super::*;

/// A hello as rustls says it.
fn real(host: &str) -> Vec<u8> {
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let mut client = ClientConnection::new(Arc::new(config), host.to_owned().try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

fn vector<const N: usize>(content: &[u8]) -> Vec<u8> {
    [&content.len().to_be_bytes()[8 - N..], content].concat()
}

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &vector::<2>(data)].concat()
}

fn name_extension(name: &[u8]) -> Vec<u8> {
    extension(0, &vector::<2>(&[&[0][..], &vector::<2>(name)].concat()))
}

/// A hello's content with these extensions.
fn content(extensions: &[u8]) -> Vec<u8> {
    [
        &[3, 3][..],
        &[7; 32],
        &vector::<1>(&[1; 32]),
        &vector::<2>(&[0x13, 1]),
        &vector::<1>(&[0]),
        &vector::<2>(extensions),
    ]
    .concat()
}

fn message(content: &[u8]) -> Vec<u8> {
    [&[1][..], &vector::<3>(content)].concat()
}

/// The message in records of at most so many bytes.
fn records(message: &[u8], most: usize) -> Vec<u8> {
    message.chunks(most).flat_map(|part| [&[22, 3, 1][..], &vector::<2>(part)].concat()).collect()
}

/// What is read of it, in whatever pieces it comes.
#[track_caller]
fn check(bytes: &[u8], expect: Result<Option<&str>, NotHello>) {
    let expect = expect.map(|name| Hello { server_name: name.map(str::to_owned) });
    for step in [1, 2, 7, bytes.len().max(1)] {
        let mut reader = HelloReader::default();
        let mut ends = (0..bytes.len()).step_by(step).skip(1).chain([bytes.len()]);
        let verdict = ends.find_map(|end| reader.advance(&bytes[..end]).transpose());
        assert_eq!(verdict, Some(expect.clone()), "in steps of {step}");
    }
}

#[test]
fn a_real_hello_is_read_however_it_is_cut() {
    let whole = real("shop.example.com");
    check(&whole, Ok(Some("shop.example.com")));
    let inner = &whole[RECORD_HEAD..];
    for most in [1, 3, 4, 5, 40, 200, 16_384] {
        check(&records(inner, most), Ok(Some("shop.example.com")));
    }
    // An address is no host, and rustls says none.
    check(&real("192.0.2.1"), Ok(None));
}

#[test]
fn names_and_what_stands_beside_them() {
    let with = |extensions: &[Vec<u8>]| records(&message(&content(&extensions.concat())), 16_384);
    let (grease, name) = (extension(0x0a0a, &[1, 2]), name_extension(b"a.example.com"));
    // The inner hello of ECH is sealed in an extension; the outer name is the one to go by.
    let ech = extension(0xfe0d, &[0, 0, 1, 0, 1, 9, 0, 32, 5]);
    check(&with(&[]), Ok(None));
    check(&with(&[grease.clone(), name.clone(), ech, extension(0xfafa, &[])]), Ok(Some("a.example.com")));
    check(&with(&[name_extension(b"A.Example.COM")]), Ok(Some("a.example.com")));
    check(&with(&[name_extension(b"under_score.example.com")]), Ok(Some("under_score.example.com")));
    // A large hello: post-quantum shares, long tickets.
    check(&with(&[extension(0x33, &[7; 9000]), name.clone()]), Ok(Some("a.example.com")));
    let large = message(&content(&[extension(0x33, &[7; 40_000]), name.clone()].concat()));
    check(&records(&large, 16_384), Ok(Some("a.example.com")));
    // Before extensions there were none at all.
    let bare = content(&[]);
    check(&records(&message(&bare[..bare.len() - 2]), 99), Ok(None));

    for (extensions, problem) in [
        (vec![name.clone(), name], "two server names"),
        (vec![extension(0, &[])], "server name"),
        (vec![extension(0, &[0, 0])], "server name"),
        (vec![extension(0, &vector::<2>(&[0, 0, 0]))], "server name"),
        (vec![extension(0, &vector::<2>(&[0, 0, 9, b'a']))], "server name"),
        (vec![extension(0, &[&vector::<2>(&[0, 0, 1, b'a'])[..], &[1]].concat())], "server name"),
        (vec![extension(0, &vector::<2>(&[0, 0, 1, b'a', 0, 0, 1, b'b']))], "two server names"),
        (vec![name_extension(b"a\0.com")], "server name"),
        (vec![name_extension(b"a b")], "server name"),
        (vec![name_extension("ä.com".as_bytes())], "server name"),
        (vec![name_extension(&[b'a'; 255])], "server name"),
        (vec![vec![0, 0]], "extensions"),
        (vec![vec![0, 0, 0, 9, 1]], "extensions"),
    ] {
        check(&with(&extensions), Err(NotHello::Message(problem)));
    }
    check(&with(&[extension(0, &vector::<2>(&[5, 0, 1, b'a']))]), Ok(None));
}

#[test]
fn what_is_no_hello_is_refused() {
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"\x16\x02\x01\x00\x05",
        b"\x80\x2e\x01\x03\x01",
        b"\x15\x03\x01\x00\x02\x02\x28",
        b"\0",
    ] {
        check(bytes, Err(NotHello::NotTls));
    }
    check(b"\x16\x03\x01\x00\x00", Err(NotHello::Record("it is empty")));
    check(b"\x16\x03\x01\x40\x01", Err(NotHello::Record("it is too long")));
    let start = records(&message(&content(&[]))[..20], 20);
    check(
        &[&start[..], b"\x14\x03\x01\x00\x01\x01"].concat(),
        Err(NotHello::Record("it is not of the handshake")),
    );
    check(&[&start[..], b"\x16\x04\x01\x00\x01\x01"].concat(), Err(NotHello::Record("its version")));
    check(&records(&[2, 0, 0, 1, 1], 9), Err(NotHello::Message("it is no client hello")));
    let cut = |content: &[u8]| records(&message(content), 16_384);
    let whole = content(&[]);
    check(&cut(&[]), Err(NotHello::Message("version and random")));
    check(&cut(&whole[..33]), Err(NotHello::Message("version and random")));
    check(&cut(&whole[..40]), Err(NotHello::Message("session id")));
    check(&cut(&[&whole[..], &[0]].concat()), Err(NotHello::Message("something follows it")));
    let long_id = [&whole[..34], &vector::<1>(&[1; 33]), &whole[67..]].concat();
    check(&cut(&long_id), Err(NotHello::Message("session id")));
    for suites in [&[][..], &[0x13], &[0x13, 1, 2]] {
        let odd = [&whole[..67], &vector::<2>(suites), &whole[71..]].concat();
        check(&cut(&odd), Err(NotHello::Message("cipher suites")));
    }
    let no_compression = [&whole[..71], &[0], &whole[73..]].concat();
    check(&cut(&no_compression), Err(NotHello::Message("compression methods")));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 1000, ..ProptestConfig::default() })]

    /// Never panics, and never holds more than it was given.
    #[test]
    fn any_bytes_have_a_verdict(start in 0usize..2, bytes in prop::collection::vec(any::<u8>(), 0..300), step in 1usize..50) {
        let start: &[u8] = if start == 0 { b"" } else { b"\x16\x03\x01" };
        let bytes = [start, &bytes].concat();
        let mut reader = HelloReader::default();
        for end in (0..=bytes.len()).step_by(step) {
            match reader.advance(&bytes[..end]) {
                Ok(None) => prop_assert!(reader.message.len() <= end),
                _ => break,
            }
        }
    }

    /// A byte changed, records of any size, arrivals in any steps: the verdict is that of the whole.
    #[test]
    fn the_cut_does_not_change_the_verdict(
        at: prop::sample::Index,
        byte: u8,
        most in 1usize..400,
        step in 1usize..400,
    ) {
        let name = name_extension(b"a.example.com");
        let mut message = message(&content(&[extension(0x0a0a, &[0; 9]), name].concat()));
        let at = at.index(message.len());
        message[at] = byte;
        let whole = HelloReader::default().advance(&records(&message, 16_384));
        let cut = records(&message, most);
        let mut reader = HelloReader::default();
        let mut verdict = Ok(None);
        for end in (0..cut.len()).step_by(step).chain([cut.len()]) {
            verdict = reader.advance(&cut[..end]);
            if verdict != Ok(None) {
                break;
            }
        }
        prop_assert_eq!(verdict, whole);
    }
}
