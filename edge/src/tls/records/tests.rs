use std::{io::Read, io::Write, sync::Arc};

use rustls::{
    AlertDescription, ClientConnection, ServerConfig,
    crypto::CryptoProvider,
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, UnbufferedStatus},
};

use super::{BARREN, Broken, HEAD, Opened, PLAIN, RENEW_AFTER, Records, TAG};

/// A client of rustls, and our side of its connection.
struct Pair {
    client: ClientConnection,
    ours: Records,
    /// What the client has sent.
    input: Vec<u8>,
}

impl Pair {
    fn new() -> Self {
        Self::with(&rustls::crypto::aws_lc_rs::default_provider())
    }

    fn with(provider: &CryptoProvider) -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider.clone()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())
            .unwrap();
        config.enable_secret_extraction = true;
        let client = rustls::ClientConfig::builder_with_provider(Arc::new(provider.clone()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut client = ClientConnection::new(Arc::new(client), "localhost".try_into().unwrap()).unwrap();
        let mut server = UnbufferedServerConnection::new(Arc::new(config)).unwrap();
        let mut input = Vec::new();
        loop {
            while client.wants_write() {
                client.write_tls(&mut input).unwrap();
            }
            let UnbufferedStatus { discard, state } = server.process_tls_records(&mut input);
            let done = match state.unwrap() {
                ConnectionState::EncodeTlsData(mut record) => {
                    let mut flight = vec![0; 8192];
                    let length = record.encode(&mut flight).unwrap();
                    client.read_tls(&mut &flight[..length]).unwrap();
                    client.process_new_packets().unwrap();
                    false
                }
                ConnectionState::TransmitTlsData(sent) => {
                    sent.done();
                    false
                }
                ConnectionState::WriteTraffic(_) => true,
                _ => false,
            };
            input.drain(..discard);
            if done {
                break;
            }
        }
        let (keys, secrets) = server.dangerous_into_kernel_connection().unwrap();
        Self { client, ours: Records::new(keys, secrets).unwrap(), input }
    }

    fn client_says(&mut self, bytes: &[u8]) {
        self.client.writer().write_all(bytes).unwrap();
        self.client_flushes();
    }

    fn client_flushes(&mut self) {
        while self.client.wants_write() {
            self.client.write_tls(&mut self.input).unwrap();
        }
    }

    /// Opens the next record, whose bytes are returned. What has to be answered goes to the client.
    fn open(&mut self) -> Result<Option<(Opened, Vec<u8>)>, Broken> {
        let mut out = Vec::new();
        let opened = self.ours.open(&mut self.input, &mut out);
        self.client_hears(&out);
        Ok(opened?.map(|(length, opened)| {
            let bytes = match &opened {
                Opened::Data(range) => self.input[range.clone()].to_vec(),
                _ => Vec::new(),
            };
            self.input.drain(..length);
            (opened, bytes)
        }))
    }

    fn hear(&mut self) -> Vec<u8> {
        self.open().unwrap().expect("a whole record").1
    }

    fn client_hears(&mut self, mut records: &[u8]) {
        while !records.is_empty() {
            self.client.read_tls(&mut records).unwrap();
            self.client.process_new_packets().unwrap();
        }
    }

    fn say(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        self.ours.seal(bytes, &mut out).unwrap();
        self.client_hears(&out);
        let mut heard = vec![0; bytes.len()];
        self.client.reader().read_exact(&mut heard).unwrap();
        heard
    }

    /// Puts a record of our own making into the input, sealed with the client's keys.
    fn forge(&mut self, inner: &[u8]) {
        let receiving = &mut self.ours.receiving;
        let sequence = receiving.sequence;
        let length = u16::try_from(inner.len() + TAG).unwrap().to_be_bytes();
        let head = [23, 3, 3, length[0], length[1]];
        let mut sealed = inner.to_vec();
        let nonce = receiving.nonce();
        receiving.sequence = sequence;
        receiving.key.seal_in_place_append_tag(nonce, aws_lc_rs::aead::Aad::from(head), &mut sealed).unwrap();
        self.input.extend(head);
        self.input.extend(sealed);
    }

    fn refused(&mut self) -> AlertDescription {
        match self.open() {
            Err(Broken::Ours(alert)) => alert,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn both_understand_each_other_with_every_cipher() {
    let all = rustls::crypto::aws_lc_rs::default_provider();
    let suites = all.cipher_suites.iter().filter(|suite| suite.tls13().is_some());
    let mut tried = 0;
    for suite in suites {
        let provider = CryptoProvider { cipher_suites: vec![*suite], ..all.clone() };
        let mut pair = Pair::with(&provider);
        for size in [1, 100, PLAIN, 1] {
            let text: Vec<u8> = (0..=250).cycle().take(size).collect();
            pair.client_says(&text);
            assert_eq!(pair.hear(), text, "{suite:?}, {size} bytes to us");
            assert_eq!(pair.say(&text), text, "{suite:?}, {size} bytes from us");
        }
        tried += 1;
    }
    assert_eq!(tried, 3);
}

#[test]
fn much_is_cut_into_records() {
    let mut pair = Pair::new();
    let text = vec![b'x'; 2 * PLAIN + 7];
    let before = pair.ours.sending.sequence;
    let mut out = Vec::new();
    pair.ours.seal(&text, &mut out).unwrap();
    assert_eq!(out.len(), text.len() + 3 * (HEAD + 1 + TAG));
    assert_eq!(pair.ours.sending.sequence, before + 3);
}

#[test]
fn a_record_comes_in_pieces() {
    let mut pair = Pair::new();
    pair.client_says(b"whole");
    let whole = std::mem::take(&mut pair.input);
    for cut in 0..whole.len() {
        pair.input = whole[..cut].to_vec();
        assert_eq!(pair.open(), Ok(None), "{cut} bytes");
    }
    pair.input = whole;
    assert_eq!(pair.hear(), b"whole");
}

#[test]
fn keys_are_renewed_from_either_side() {
    let mut pair = Pair::new();
    for round in 0..3 {
        // rustls asks for ours, too.
        pair.client.refresh_traffic_keys().unwrap();
        pair.client_says(b"new keys");
        assert_eq!(pair.open().unwrap().unwrap().0, Opened::Nothing, "round {round}: the update");
        assert_eq!(pair.hear(), b"new keys");
        assert_eq!(pair.ours.sending.sequence, 0, "ours were renewed as well");
        assert_eq!(pair.say(b"understood"), b"understood");
    }
    pair.ours.sending.sequence = RENEW_AFTER;
    let mut out = Vec::new();
    // With a count that the client does not have it could not be read; only the keys are looked at.
    pair.ours.seal(b"after many", &mut out).unwrap();
    assert_eq!(pair.ours.sending.sequence, 1, "one record with new keys");
}

#[test]
fn the_end_is_said_and_heard() {
    let mut pair = Pair::new();
    pair.client.send_close_notify();
    pair.client_flushes();
    assert_eq!(pair.open().unwrap().unwrap().0, Opened::Closed);
    let mut out = Vec::new();
    pair.ours.seal_alert(AlertDescription::CloseNotify, &mut out).unwrap();
    pair.client_hears(&out);
    assert_eq!(pair.client.reader().read(&mut [0]).unwrap(), 0);
}

#[test]
fn padding_is_not_content() {
    let mut pair = Pair::new();
    pair.forge(b"text\x17\0\0\0\0");
    assert_eq!(pair.hear(), b"text");
}

#[test]
fn what_breaks_the_protocol_is_refused_by_name() {
    let cases: [(&str, &[u8], AlertDescription); 9] = [
        ("only padding", &[0, 0, 0], AlertDescription::UnexpectedMessage),
        ("nothing at all", &[], AlertDescription::UnexpectedMessage),
        ("a change of cipher", &[1, 20], AlertDescription::UnexpectedMessage),
        ("a heartbeat", b"ping\x18", AlertDescription::UnexpectedMessage),
        ("a second hello", &[1, 0, 0, 0, 22], AlertDescription::UnexpectedMessage),
        (
            "an update that asks for more than it may",
            &[24, 0, 0, 1, 2, 22],
            AlertDescription::IllegalParameter,
        ),
        (
            "two updates in one record",
            &[24, 0, 0, 1, 0, 24, 0, 0, 1, 0, 22],
            AlertDescription::UnexpectedMessage,
        ),
        ("half an alert", &[2, 21], AlertDescription::DecodeError),
        ("an empty message", &[22], AlertDescription::UnexpectedMessage),
    ];
    for (what, inner, expected) in cases {
        let mut pair = Pair::new();
        pair.forge(inner);
        assert_eq!(pair.refused(), expected, "{what}");
    }
    let mut long = vec![b'x'; PLAIN + 1];
    long.push(23);
    let mut pair = Pair::new();
    pair.forge(&long);
    assert_eq!(pair.refused(), AlertDescription::RecordOverflow, "content that is too long");

    let outer: [(&str, [u8; 5], AlertDescription); 3] = [
        ("an unsealed alert", [21, 3, 3, 0, 2], AlertDescription::UnexpectedMessage),
        ("an unsealed change of cipher", [20, 3, 3, 0, 1], AlertDescription::UnexpectedMessage),
        ("a record that says it is too long", [23, 3, 3, 0x42, 0], AlertDescription::RecordOverflow),
    ];
    for (what, head, expected) in outer {
        let mut pair = Pair::new();
        pair.input.extend(head);
        assert_eq!(pair.refused(), expected, "{what}");
    }
}

#[test]
fn a_changed_bit_is_noticed() {
    let mut probe = Pair::new();
    probe.client_says(b"as it was");
    let bits = probe.input.len() * 8;
    // The record's kind and length are looked at before.
    for bit in (HEAD * 8..bits).step_by(7) {
        let mut pair = Pair::new();
        pair.client_says(b"as it was");
        pair.input[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(pair.refused(), AlertDescription::BadRecordMac, "bit {bit}");
    }
}

#[test]
fn a_fatal_alert_ends_it() {
    let mut pair = Pair::new();
    pair.forge(&[2, 40, 21]);
    assert_eq!(pair.open(), Err(Broken::Theirs(AlertDescription::HandshakeFailure)));
}

#[test]
fn records_that_bring_nothing_are_counted() {
    let mut pair = Pair::new();
    for _ in 0..BARREN {
        pair.forge(&[23]);
        assert_eq!(pair.open().unwrap().unwrap().0, Opened::Nothing);
    }
    pair.forge(b"one that does\x17");
    assert_eq!(pair.hear(), b"one that does");
    for _ in 0..BARREN {
        pair.forge(&[23]);
        assert_eq!(pair.open().unwrap().unwrap().0, Opened::Nothing);
    }
    pair.forge(&[23]);
    assert_eq!(pair.refused(), AlertDescription::UnexpectedMessage);
}
