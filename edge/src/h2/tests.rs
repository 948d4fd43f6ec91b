use proptest::prelude::*;

use super::{
    hpack::{Decoder, Encoder, FieldLines, HpackError, SectionLimits, write_field, write_status},
    *,
};

const LIMITS: SectionLimits = SectionLimits { fields: 100, bytes: 64 << 10 };

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] << 4 | pair[1]).unwrap()).collect()
}

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<(String, String)>, HpackError> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut lines = FieldLines::default();
    decoder.decode(block, LIMITS, &mut lines)?;
    Ok(lines.iter().map(|(name, value)| (text(name), text(value))).collect())
}

/// Reads blocks one after the other; of each its fields, as `name: value`.
fn check(blocks: &[(&str, &[&str])]) {
    let mut decoder = Decoder::default();
    for (block, expect) in blocks {
        let fields = decode(&mut decoder, &hex(block)).unwrap();
        let fields: Vec<_> = fields.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        assert_eq!(fields, *expect, "{block}");
    }
}

/// RFC 7541 appendix C.2.
#[test]
fn single_fields_of_the_standard() {
    check(&[(
        "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
        &["custom-key: custom-header"],
    )]);
    check(&[("040c 2f73 616d 706c 652f 7061 7468", &[":path: /sample/path"])]);
    check(&[("1008 7061 7373 776f 7264 0673 6563 7265 74", &["password: secret"])]);
    check(&[("82", &[":method: GET"])]);
}

/// RFC 7541 appendices C.3 and C.4: the same requests, as they are and in Huffman's code.
#[test]
fn requests_of_the_standard() {
    let first = [":method: GET", ":scheme: http", ":path: /", ":authority: www.example.com"];
    let second = [
        ":method: GET",
        ":scheme: http",
        ":path: /",
        ":authority: www.example.com",
        "cache-control: no-cache",
    ];
    let third = [
        ":method: GET",
        ":scheme: https",
        ":path: /index.html",
        ":authority: www.example.com",
        "custom-key: custom-value",
    ];
    check(&[
        ("8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d", &first),
        ("8286 84be 5808 6e6f 2d63 6163 6865", &second),
        ("8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65", &third),
    ]);
    check(&[
        ("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", &first),
        ("8286 84be 5886 a8eb 1064 9cbf", &second),
        ("8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf", &third),
    ]);
}

/// RFC 7541 appendices C.5 and C.6: responses that evict what came before, in a table of 256 bytes.
#[test]
fn responses_of_the_standard() {
    let date = "date: Mon, 21 Oct 2013 20:13:21 GMT";
    let location = "location: https://www.example.com";
    let first = [":status: 302", "cache-control: private", date, location];
    let second = [":status: 307", "cache-control: private", date, location];
    let third = [
        ":status: 200",
        "cache-control: private",
        "date: Mon, 21 Oct 2013 20:13:22 GMT",
        location,
        "content-encoding: gzip",
        "set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
    ];
    // The size that the examples take for granted is said first.
    check(&[
        (
            "3fe101 4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a \
             3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            &first,
        ),
        ("4803 3330 37c1 c0bf", &second),
        (
            "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a \
             6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d \
             6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31",
            &third,
        ),
    ]);
    check(&[
        (
            "3fe101 4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e \
             919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
            &first,
        ),
        ("4883 640e ffc1 c0bf", &second),
        (
            "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d \
             d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 \
             3d50 07",
            &third,
        ),
    ]);
}

#[test]
fn what_is_no_field_block_is_malformed() {
    for block in [
        "80",               // Index 0.
        "be",               // An entry that was not inserted.
        "7e0161",           // Its name.
        "ff80808080808001", // An index without end.
        "0003616263",       // No value.
        "000361",           // A name that is cut off.
        "00037fffffffff7f", // A length without end.
        "008161",           // Huffman's code with other padding than ones.
        "0082ffff00",       // With padding of a byte.
        "0085fffffffc7f00", // With the end of a string in it.
        "8220",             // A change of the table's size behind a field.
        "3fe21f",           // To more than we allow.
        "3fffffffffffff0f", // To more than there is.
        "202020",           // More changes than two can be needed.
    ] {
        let mut decoder = Decoder::default();
        assert_eq!(decode(&mut decoder, &hex(block)), Err(HpackError::Malformed), "{block}");
    }
    check(&[("20 3fe11f 82", &[":method: GET"])]);
}

/// Blocks that are too much are read to their end, or the next would be read as something else.
#[test]
fn the_table_stays_in_step_with_what_is_refused() {
    let limits = SectionLimits { fields: 3, bytes: 200 };
    let insert = hex("4001 6101 62");
    for (block, expect) in [
        ([vec![0x82; 4], insert.clone()].concat(), HpackError::TooManyFields),
        ([hex("0001 787f 41"), vec![b'v'; 192], insert].concat(), HpackError::TooLarge),
    ] {
        let mut decoder = Decoder::default();
        let mut lines = FieldLines::default();
        assert_eq!(decoder.decode(&block, limits, &mut lines), Err(expect));
        assert_eq!(decode(&mut decoder, &hex("be")).unwrap(), [("a".to_owned(), "b".to_owned())]);
    }
}

#[test]
fn a_block_that_grows_without_end_is_a_bomb() {
    let mut lines = FieldLines::default();
    // One entry of the largest size, and references to it.
    let big = [hex("4001 78 7fa01e"), vec![b'v'; 3999]].concat();
    let bomb = [big, vec![0xbe; 2000]].concat();
    assert_eq!(Decoder::default().decode(&bomb, LIMITS, &mut lines), Err(HpackError::Bomb));
    let few = vec![0x82; 20_000];
    assert_eq!(Decoder::default().decode(&few, LIMITS, &mut lines), Err(HpackError::TooManyFields));
}

#[test]
fn an_entry_larger_than_the_table_empties_it() {
    let mut decoder = Decoder::default();
    decode(&mut decoder, &hex("4001 6101 62")).unwrap();
    decode(&mut decoder, &[hex("4001 78 7f811f"), vec![b'v'; 4096]].concat()).unwrap();
    assert_eq!(decode(&mut decoder, &hex("be")), Err(HpackError::Malformed));
    // So does a table without room.
    decode(&mut decoder, &hex("4001 6101 62")).unwrap();
    assert_eq!(decode(&mut decoder, &hex("20 be")), Err(HpackError::Malformed));
}

#[test]
fn what_we_write_is_what_is_read() {
    let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
    for (number, status) in [200, 204, 206, 304, 400, 404, 500, 103, 421, 599].into_iter().enumerate() {
        let mut block = vec![];
        encoder.begin(&mut block);
        assert_eq!(block.len(), usize::from(number == 0), "the table's size is said once");
        write_status(&mut block, status);
        let fields: Vec<_> =
            "age via date etag link vary allow server expires location set-cookie retry-after \
                              content-type accept-ranges cache-control content-range last-modified \
                              content-length content-encoding accept accept-encoding accept-language \
                              authorization cookie if-modified-since if-none-match range referer \
                              user-agent X-Other"
                .split_whitespace()
                .collect();
        for field in &fields {
            write_field(&mut block, field.as_bytes(), field.as_bytes());
        }
        let read = decode(&mut decoder, &block).unwrap();
        assert_eq!(read[0], (":status".to_owned(), status.to_string()));
        for (field, (name, value)) in fields.iter().zip(&read[1..]) {
            assert_eq!((name, &**value), (&field.to_ascii_lowercase(), *field));
        }
        assert_eq!(read.len(), fields.len() + 1);
    }
}

#[test]
fn what_a_request_begins_with_is_what_is_read() {
    let block = |method: &str, is_https, authority: &str, path: &str, query| {
        let mut block = vec![];
        hpack::write_method(&mut block, method);
        hpack::write_scheme(&mut block, is_https);
        hpack::write_authority(&mut block, authority);
        hpack::write_path(&mut block, path, query);
        block
    };
    let long = "p".repeat(300);
    assert_eq!(block("GET", false, "a.test", "/", None).len(), 11, "an index for each but the authority");
    for (method, is_https, path, query) in [
        ("GET", false, "/", None),
        ("POST", true, "/", Some("")),
        ("PATCH", true, "/a", Some("b=c")),
        ("GET", true, &*long, Some(&*long)),
    ] {
        let block = block(method, is_https, "a.test", path, query);
        let read = decode(&mut Decoder::default(), &block).unwrap();
        let path = query.map_or(path.to_owned(), |query| format!("{path}?{query}"));
        let scheme = if is_https { "https" } else { "http" };
        let expect = [(":method", method), (":scheme", scheme), (":authority", "a.test"), (":path", &*path)];
        assert_eq!(read, expect.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}

fn frame(length: usize, kind: FrameKind, flags: u8, stream: u32) -> FrameHeader {
    FrameHeader { length, kind, flags, stream }
}

#[test]
fn frames_have_their_size_and_place() {
    use FrameKind::*;
    let (size, protocol) =
        (Err(Fault::Connection(Code::FrameSizeError)), Err(Fault::Connection(Code::ProtocolError)));
    for (length, kind, flags, stream, expect) in [
        (16_384, Data, 0, 1, Ok(())),
        (16_385, Data, 0, 1, size),
        (16_385, Unknown, 0, 0, size),
        (0, Data, 0, 0, protocol),
        (0, Headers, 0, 0, protocol),
        (0, Continuation, 0, 0, protocol),
        (5, Priority, 0, 0, protocol),
        (4, Priority, 0, 1, Err(Fault::Stream(Code::FrameSizeError))),
        (5, Priority, 0, 1, Ok(())),
        (4, Reset, 0, 0, protocol),
        (3, Reset, 0, 1, size),
        (6, Settings, 0, 1, protocol),
        (5, Settings, 0, 0, size),
        (6, Settings, flags::ACK, 0, size),
        (0, Settings, flags::ACK, 0, Ok(())),
        (8, Ping, 0, 1, protocol),
        (7, Ping, 0, 0, size),
        (8, GoAway, 0, 1, protocol),
        (7, GoAway, 0, 0, size),
        (9, GoAway, 0, 0, Ok(())),
        (3, WindowUpdate, 0, 1, size),
        (4, WindowUpdate, 0, 0, Ok(())),
        (4, PushPromise, 0, 1, protocol),
    ] {
        assert_eq!(frame(length, kind, flags, stream).check(), expect, "{kind:?} {length} {flags} {stream}");
    }
}

#[test]
fn payloads_are_read() {
    use FrameKind::*;
    let padded = |length| frame(length, Data, flags::PADDED, 1);
    assert_eq!(data(&frame(2, Data, 0, 1), b"ab"), Ok(&b"ab"[..]));
    assert_eq!(data(&padded(4), b"\x01ab\0"), Ok(&b"ab"[..]));
    assert_eq!(data(&padded(3), b"\x02\0\0"), Ok(&b""[..]));
    assert_eq!(data(&padded(3), b"\x03ab"), Err(Fault::Connection(Code::ProtocolError)));
    assert_eq!(data(&padded(0), b""), Err(Fault::Connection(Code::FrameSizeError)));
    let both = frame(8, Headers, flags::PADDED | flags::PRIORITY, 5);
    assert_eq!(
        headers(&both, b"\x01\x80\0\0\x05\x10a\0"),
        Ok(HeadersFrame { fragment: b"a", depends_on_itself: true })
    );
    assert_eq!(
        headers(&both, b"\x01\0\0\0\x03\x10a\0"),
        Ok(HeadersFrame { fragment: b"a", depends_on_itself: false })
    );
    let short = frame(4, Headers, flags::PRIORITY, 5);
    assert_eq!(headers(&short, b"\0\0\0\0"), Err(Fault::Connection(Code::FrameSizeError)));
    assert_eq!(priority(&frame(5, Priority, 0, 5), b"\0\0\0\x05\0"), Err(Fault::Stream(Code::ProtocolError)));
    assert_eq!(window_update(&frame(4, WindowUpdate, 0, 1), b"\x80\0\0\x01"), Ok(1));
    for (stream, expect) in
        [(0, Fault::Connection(Code::ProtocolError)), (1, Fault::Stream(Code::ProtocolError))]
    {
        assert_eq!(window_update(&frame(4, WindowUpdate, 0, stream), b"\x80\0\0\0"), Err(expect));
    }
    assert_eq!(goaway(b"\x80\0\0\x03\0\0\0\x0bdebug"), Some((3, 11)));
    assert_eq!(reset(b"\0\0\0\x08"), Some(8));
}

#[test]
fn settings_have_their_bounds() {
    let read = |pairs: &[(u16, u32)]| {
        let bytes = |(id, value): &(u16, u32)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
        Settings::read(&pairs.iter().map(bytes).collect::<Vec<_>>().concat())
    };
    for (id, value, expect) in [
        (2, 2, Code::ProtocolError),
        (8, 2, Code::ProtocolError),
        (4, 1 << 31, Code::FlowControlError),
        (5, (1 << 14) - 1, Code::ProtocolError),
        (5, 1 << 24, Code::ProtocolError),
    ] {
        assert_eq!(read(&[(id, value)]), Err(expect), "{id} {value}");
    }
    let settings =
        read(&[(1, u32::MAX), (2, 1), (3, 0), (4, 5), (4, 7), (5, (1 << 24) - 1), (99, 9)]).unwrap();
    let expect = Settings {
        push: Some(true),
        streams: Some(0),
        initial_window: Some(7),
        max_frame: Some((1 << 24) - 1),
    };
    assert_eq!(settings, expect);
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(length in 0_usize..1 << 24, flags: u8, stream in 0..=MOST) {
        let mut out = vec![];
        write_frame_header(&mut out, length, FrameKind::Continuation, flags, stream);
        let read = FrameHeader::read(&out);
        prop_assert_eq!(read, Some(frame(length, FrameKind::Continuation, flags, stream)));
        prop_assert_eq!(FrameHeader::read(&out[..8]), None);
    }

    #[test]
    fn any_bytes_are_a_block_or_none(blocks: Vec<Vec<u8>>) {
        let (mut decoder, mut lines) = (Decoder::default(), FieldLines::default());
        for block in blocks {
            let _any = decoder.decode(&block, LIMITS, &mut lines);
        }
    }
}
