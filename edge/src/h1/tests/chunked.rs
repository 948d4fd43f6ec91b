use super::*;

/// Reads a chunked body from `input`, given in pieces of at most `piece` bytes. The data and what came after the
/// body, or how far it got.
fn read(input: &[u8], piece: usize) -> Result<(String, String), (&'static str, &'static str)> {
    let (mut body, mut rest, mut data) =
        (BodyReader::new(BodyLength::Chunked, &Limits::default()), Vec::new(), Vec::new());
    for piece in input.chunks(piece.max(1)) {
        rest.extend_from_slice(piece);
        loop {
            let step = body.step(&rest).map_err(|error| ("refused", error.kind()))?;
            data.extend_from_slice(&rest[step.skip..step.consumed()]);
            rest.drain(..step.consumed());
            if step.data == 0 {
                break;
            }
        }
    }
    if !body.is_done() {
        return Err(("incomplete", body.close().map_err(BodyError::kind).unwrap_err()));
    }
    let mut text = String::from_utf8(data).unwrap();
    for field in body.take_trailers().iter() {
        text.push_str(&format!(" {}={}", field.name.escape_ascii(), field.value.escape_ascii()));
    }
    Ok((text, rest.escape_ascii().to_string()))
}

const INCOMPLETE: Result<(&str, &str), (&str, &str)> = Err(("incomplete", "truncated"));

fn refused(kind: &'static str) -> Result<(&'static str, &'static str), (&'static str, &'static str)> {
    Err(("refused", kind))
}

#[track_caller]
fn check(input: &[u8], want: Result<(&str, &str), (&'static str, &'static str)>) {
    let got = |piece| read(input, piece);
    for piece in [usize::MAX, 1, 2, 3, 7] {
        let got = got(piece);
        let got = got.as_ref().map(|(data, rest)| (data.as_str(), rest.as_str())).map_err(|error| *error);
        assert_eq!(got, want, "{} in pieces of {piece}", input.escape_ascii());
    }
}

#[test]
fn bodies_are_read_to_their_end_and_no_further() {
    check(b"0\r\n\r\n", Ok(("", "")));
    check(b"2\r\nhi\r\n0\r\n\r\n", Ok(("hi", "")));
    check(b"2\r\nhi\r\n0\r\n\r\nGET /", Ok(("hi", "GET /")));
    check(b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n", Ok(("ab", "")));
    check(b"a\r\n0123456789\r\n0\r\n\r\n", Ok(("0123456789", "")));
    check(b"A\r\n0123456789\r\n000\r\n\r\n", Ok(("0123456789", "")));
    check(b"0000000000000002\r\nhi\r\n0\r\n\r\n", Ok(("hi", "")));
    check(b"4\r\n\r\n\r\n\r\n0\r\n\r\n", Ok(("\r\n\r\n", "")));
    check(b"2;a\r\nhi\r\n0;b=\"c;d\"\r\n\r\n", Ok(("hi", "")));
    check(b"2;\ta = \xff\r\nhi\r\n0\r\n\r\n", Ok(("hi", "")));
}

#[test]
fn a_body_that_stops_is_incomplete() {
    for input in [
        "",
        "2",
        "2\r",
        "2\r\n",
        "2\r\nh",
        "2\r\nhi",
        "2\r\nhi\r",
        "2\r\nhi\r\n",
        "0\r\n",
        "0\r\n\r",
        "0\r\na: b\r\n",
        "2;a",
    ] {
        check(input.as_bytes(), INCOMPLETE);
    }
    check(b"ffffffffffffffff\r\nhi", INCOMPLETE);
}

#[test]
fn odd_sizes_are_refused() {
    for input in [
        "\r\n",
        "x\r\n",
        "-1\r\n",
        "+1\r\na\r\n",
        " 1\r\na\r\n",
        "1 \r\na\r\n",
        "1\t\r\na\r\n",
        "0x1\r\na\r\n",
        "1_0\r\n",
        "g\r\n",
        "1,2\r\n",
        "00000000000000001\r\na\r\n",
        "10000000000000000\r\n",
        "\n",
        ";a\r\n",
        "1 ;a\r\na\r\n",
        "1\0\r\n",
    ] {
        check(input.as_bytes(), refused("chunk_size"));
    }
}

#[test]
fn odd_line_ends_are_refused() {
    for input in
        ["2\nhi\r\n0\r\n\r\n", "2\r\r\nhi", "2\rhi\r\n", "2;a\nhi\r\n", "2;a\rb\r\nhi\r\n", "0\n\r\n"]
    {
        check(input.as_bytes(), refused("chunk_line_end"));
    }
    for input in [
        "2\r\nhi\n0\r\n\r\n",
        "2\r\nhi0\r\n\r\n",
        "2\r\nhi!\r\n0\r\n\r\n",
        "2\r\nhi\r\r\n",
        "2\r\nhi\rx",
        "1\r\nhi\r\n0\r\n\r\n",
    ] {
        check(input.as_bytes(), refused("chunk_data_end"));
    }
    for input in ["0\r\n\n", "0\r\na: b\n\r\n", "0\r\na: b\r\n\n"] {
        check(input.as_bytes(), refused("trailers"));
    }
}

#[test]
fn extensions_are_bounded() {
    let chunk = |bytes: usize| format!("1;{}\r\na\r\n", "e".repeat(bytes - 1));
    let body = |chunks: usize, bytes: usize| format!("{}0\r\n\r\n", chunk(bytes).repeat(chunks));
    check(body(1, 256).as_bytes(), Ok(("a", "")));
    check(body(1, 257).as_bytes(), refused("chunk_extension"));
    check(body(64, 256).as_bytes(), Ok((&"a".repeat(64), "")));
    check(body(65, 256).as_bytes(), refused("chunk_extension"));
    check(format!("1;{}", "e".repeat(300)).as_bytes(), refused("chunk_extension"));
    check(b"1;a\0\r\na\r\n", refused("chunk_extension"));
    check(b"1;a\x7f\r\na\r\n", refused("chunk_extension"));
}

#[test]
fn trailers_are_kept_unless_they_could_change_the_message() {
    check(b"0\r\nx-checksum: 1\r\nGrpc-Status: 0\r\n\r\nrest", Ok((" x-checksum=1 Grpc-Status=0", "rest")));
    check(
        b"0\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\nHost: b\r\nAuthorization: x\r\nSet-Cookie: y\r\n\
        Content-Type: z\r\nX-Forwarded-For: 1\r\nConnection: close\r\nTrailer: q\r\nIf-Match: *\r\nAge: 1\r\nok: 1\r\n\r\n",
        Ok((" ok=1", "")),
    );
}

#[test]
fn malformed_trailers_are_refused() {
    for input in [
        "0\r\na : b\r\n\r\n",
        "0\r\n a: b\r\n\r\n",
        "0\r\na: b\r\n c\r\n\r\n",
        "0\r\na\r\n\r\n",
        "0\r\n: b\r\n\r\n",
        "0\r\na: \0\r\n\r\n",
        "0\r\na: b\rc: d\r\n\r\n",
        "0\r\n\rx\r\n\r\n",
    ] {
        check(input.as_bytes(), refused("trailers"));
    }
    check(format!("0\r\n{}\r\n", "a: b\r\n".repeat(100)).as_bytes(), Ok((&" a=b".repeat(100), "")));
    check(format!("0\r\n{}\r\n", "a: b\r\n".repeat(101)).as_bytes(), refused("trailers"));
    check(format!("0\r\na: {}", "b".repeat(64 << 10)).as_bytes(), refused("trailers"));
}

#[test]
fn lengths_end_where_they_say() {
    let mut body = BodyReader::new(BodyLength::Length(5), &Limits::default());
    assert_eq!(body.step(b"abc").unwrap(), Step { skip: 0, data: 3 });
    assert_eq!((body.remaining(), body.is_done()), (Some(2), false));
    assert_eq!(body.close(), Err(BodyError::Truncated));
    assert_eq!(body.step(b"defg").unwrap(), Step { skip: 0, data: 2 });
    assert!(body.is_done());
    assert_eq!(body.step(b"fg").unwrap(), Step::default());
    assert_eq!(body.close(), Ok(()));
    assert!(BodyReader::new(BodyLength::None, &Limits::default()).is_done());
}

#[test]
fn a_body_until_close_ends_with_the_connection() {
    let mut body = BodyReader::new(BodyLength::UntilClose, &Limits::default());
    assert_eq!(body.step(b"abc").unwrap(), Step { skip: 0, data: 3 });
    assert!(!body.is_done());
    assert_eq!(body.close(), Ok(()));
    assert!(body.is_done());
}
