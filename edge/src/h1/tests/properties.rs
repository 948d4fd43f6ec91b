use proptest::prelude::*;

use super::*;

/// Heads that are nearly right: every part is one of a few good and bad ones.
fn request_bytes() -> impl Strategy<Value = Vec<u8>> {
    let part = |parts: &'static [&'static str]| prop::sample::select(parts);
    let method = part(&["GET", "POST", "HEAD", "OPTIONS", "get", "G\0T", ""]);
    let target = part(&["/", "/a?b", "*", "http://a/", "http://b", "/a b", "/\\", "?", "/%00"]);
    let version = part(&["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/1.3", "HTTP/2.0", "HTTP"]);
    let end = part(&["\r\n", "\r\n", "\r\n", "\r\n", "\r\n", "\r\n", "\r\n", "\n", "\r", ""]);
    let field = (field(), end.clone()).prop_map(|(field, end)| [field.as_slice(), end.as_bytes()].concat());
    let empty = part(&["", "", "", "\r\n", "\r\n\r\n", "\n"]);
    (empty, method, target, version, end, prop::collection::vec(field, 0..6), any::<[u8; 3]>()).prop_map(
        |(empty, method, target, version, end, fields, body)| {
            let line = format!("{empty}{method} {target} {version}{end}Host: a\r\n");
            [line.as_bytes(), &fields.concat(), b"\r\n", &body].concat()
        },
    )
}

fn field() -> impl Strategy<Value = Vec<u8>> {
    let name = prop::sample::select(vec![
        "Content-Length",
        "Transfer-Encoding",
        "Connection",
        "Expect",
        "Upgrade",
        "X-A",
        "x-b",
        "Cookie",
        "TE",
        "Host",
        "a b",
        " x",
    ]);
    let value = prop_oneof![
        3 => prop::sample::select(vec!["5", "chunked", "close", "x-a", "websocket", "100-continue", "a", "", "upgrade, x-b", "a\0"])
            .prop_map(|value| value.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..8),
    ];
    (name, value).prop_map(|(name, value)| [name.as_bytes(), b": ", &value].concat())
}

/// Everything that a caller can see of a result.
fn shown(result: &Result<Option<ParsedRequest>, RequestError>) -> String {
    match result {
        Ok(Some(parsed)) => {
            let fields: Vec<_> = parsed.head.fields.iter().map(|f| format!("{f:?}")).collect();
            format!("{} {:?} {:?} {}", summary(parsed), parsed.head.version(), fields, parsed.consumed)
        }
        Ok(None) => "incomplete".to_owned(),
        Err(error) => format!("{error:?}"),
    }
}

fn in_pieces(input: &[u8], cuts: &[usize], limits: &Limits) -> Result<Option<ParsedRequest>, RequestError> {
    let mut parser = RequestParser::default();
    for &cut in cuts {
        match parser.parse(&input[..cut.min(input.len())], limits) {
            Ok(None) => {}
            done => return done,
        }
    }
    parser.parse(input, limits)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn cutting_the_input_changes_nothing(input in request_bytes(), mut cuts in prop::collection::vec(0usize..160, 0..6), small: bool) {
        let limits = if small { Limits { head_bytes: 60, request_line_bytes: 24, ..Limits::default() } } else { Limits::default() };
        cuts.sort_unstable();
        prop_assert_eq!(shown(&in_pieces(&input, &cuts, &limits)), shown(&parse_request(&input, &limits)));
    }

    #[test]
    fn no_bytes_make_the_parsers_panic(input in prop::collection::vec(any::<u8>(), 0..200)) {
        let limits = Limits::default();
        let _verdict = parse_request(&input, &limits);
        let _verdict = parse_request(&[b"GET / HTTP/1.1\r\nHost: a\r\n".as_slice(), &input, b"\r\n\r\n"].concat(), &limits);
        let _verdict = parse_response(&[b"HTTP/1.1 200 OK\r\n".as_slice(), &input, b"\r\n\r\n"].concat(), Method::Get);
        let mut body = BodyReader::new(BodyLength::Chunked, &limits);
        let mut rest = input.as_slice();
        while let Ok(step) = body.step(rest) {
            rest = &rest[step.consumed()..];
            if step.data == 0 {
                break;
            }
        }
    }

    #[test]
    fn what_is_accepted_httparse_reads_the_same_way(input in request_bytes()) {
        let limits = Limits { connect: true, underscores: true, ..Limits::default() };
        let Ok(Some(parsed)) = parse_request(&input, &limits) else { return Ok(()) };
        // HTTP/1.2 and later: httparse knows none.
        let input = String::from_utf8_lossy(&input[..parsed.consumed]).replacen(" HTTP/1.3\r\n", " HTTP/1.1\r\n", 1);
        prop_assume!(!input.contains('\u{fffd}'));
        let mut headers = [httparse::EMPTY_HEADER; 100];
        let mut raw = httparse::Request::new(&mut headers);
        prop_assert_eq!(raw.parse(input.as_bytes()), Ok(httparse::Status::Complete(input.len())));
        prop_assert_eq!(raw.method, Some(parsed.head.method_str()));
        let target = raw.path.unwrap();
        if target.starts_with('/') {
            let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
            prop_assert_eq!((path, query), (parsed.head.path(), parsed.head.query()));
        }
        let theirs: Vec<_> = raw.headers.iter().map(|header| (header.name.as_bytes(), header.value)).collect();
        let ours: Vec<_> = parsed.head.fields.iter().map(|field| (field.name, field.value)).collect();
        prop_assert_eq!(theirs, ours);
    }

    #[test]
    fn what_is_written_is_read_back(
        path in "/[a-z/%]{0,8}",
        query in prop::option::of("[a-z=&?]{0,8}"),
        fields in prop::collection::vec(("x-[a-z]{1,8}", "[!-~]([ -~]{0,10}[!-~])?"), 0..8),
        length in prop::option::of(any::<u64>()),
    ) {
        let mut head = RequestHead::from_parts("PUT", "shop.example:81", "/", Version::Http2).unwrap();
        for (name, value) in &fields {
            head.fields.push(name, value.as_bytes()).unwrap();
        }
        let body = length.map_or(BodyLength::Chunked, BodyLength::Length);
        let outgoing = Outgoing { body, persistence: Persistence::Close };
        let mut out = Vec::new();
        write_request(&mut out, &head, &RequestTarget { path: &path, query: query.as_deref(), host: head.authority() }, outgoing);
        let read = parse_request(&out, &Limits::default()).unwrap().unwrap();
        prop_assert_eq!(read.consumed, out.len());
        prop_assert_eq!((read.head.path(), read.head.query()), (path.as_str(), query.as_deref()));
        prop_assert_eq!((read.head.host(), read.head.port()), ("shop.example", Some(81)));
        prop_assert_eq!((read.framing.body, read.framing.keep_alive), (body, false));
        let ours: Vec<_> = read.head.fields.iter().filter(|f| f.name.starts_with(b"x-")).map(|f| (f.name.to_vec(), f.value.to_vec())).collect();
        let theirs: Vec<_> = fields.iter().map(|(name, value)| (name.clone().into_bytes(), value.clone().into_bytes())).collect();
        prop_assert_eq!(ours, theirs);
    }

    #[test]
    fn forwarding_never_changes_the_framing(input in request_bytes()) {
        let Ok(Some(parsed)) = parse_request(&input, &Limits::default()) else { return Ok(()) };
        let head = &parsed.head;
        prop_assume!(!head.host().is_empty());
        let outgoing = Outgoing { body: parsed.framing.body, persistence: Persistence::Default };
        let mut out = Vec::new();
        write_request(&mut out, head, &RequestTarget { path: head.path(), query: head.query(), host: head.authority() }, outgoing);
        let read = parse_request(&out, &Limits::default()).unwrap().unwrap();
        prop_assert_eq!(read.consumed, out.len());
        prop_assert_eq!(read.framing.body, parsed.framing.body);
        prop_assert_eq!((read.head.host(), read.head.method_str()), (head.host(), head.method_str()));
        prop_assert!(read.head.fields.iter().all(|f| !f.hop_by_hop || f.tag == Name::TransferEncoding || f.tag == Name::Te));
    }

    #[test]
    fn chunked_bodies_come_back_however_they_are_cut(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
        cuts in prop::collection::vec(1usize..30, 0..20),
    ) {
        let mut wire = Vec::new();
        for chunk in &chunks {
            write_chunk(&mut wire, chunk);
        }
        write_last_chunk(&mut wire, &Fields::new());
        wire.extend_from_slice(b"next");

        let mut body = BodyReader::new(BodyLength::Chunked, &Limits::default());
        let (mut data, mut rest, mut given) = (Vec::new(), Vec::new(), 0);
        for cut in cuts.into_iter().chain([usize::MAX]) {
            let end = given + cut.min(wire.len() - given);
            rest.extend_from_slice(&wire[given..end]);
            given = end;
            loop {
                let step = body.step(&rest).unwrap();
                data.extend_from_slice(&rest[step.skip..step.consumed()]);
                rest.drain(..step.consumed());
                if step.data == 0 {
                    break;
                }
            }
        }
        prop_assert!(body.is_done());
        prop_assert_eq!(data, chunks.concat());
        prop_assert_eq!(rest, b"next");
    }
}
