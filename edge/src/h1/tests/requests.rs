use super::{request_table::CLASSES, *};

#[test]
fn every_vector_of_the_table_gets_its_verdict() {
    let limits = Limits::default();
    let mut wrong = Vec::new();
    let mut count = 0;
    for class in CLASSES {
        for (case, want) in class.cases {
            count += 1;
            let input = [class.before, case, class.after].concat();
            let got = match parse_request(&input, &limits) {
                Ok(Some(parsed)) => Ok(summary(&parsed)),
                Ok(None) => Ok("incomplete".to_owned()),
                Err(error) => Err((error.kind(), error.status())),
            };
            if got.as_deref().map_err(|error| *error) != *want {
                wrong.push(format!(
                    "{}: {:?}\n  got  {got:?}\n  want {want:?}",
                    class.name,
                    input.escape_ascii().to_string()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {count} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(count >= 150, "{count} vectors");
}

fn check(input: &[u8], limits: &Limits, want: Verdict) {
    let got = match parse_request(input, limits) {
        Ok(Some(parsed)) => Ok(summary(&parsed)),
        Ok(None) => Ok("incomplete".to_owned()),
        Err(error) => Err((error.kind(), error.status())),
    };
    assert_eq!(got.as_deref().map_err(|error| *error), want, "{}", input.escape_ascii());
}

#[test]
fn heads_are_bounded() {
    let limits = Limits { head_bytes: 64, fields: 3, request_line_bytes: 32, ..Limits::default() };
    let fields = |count: usize| {
        [b"GET / HTTP/1.1\r\nHost: a\r\n".to_vec(), b"a:\r\n".repeat(count - 1), b"\r\n".to_vec()].concat()
    };
    check(&fields(3), &limits, Ok("GET a / none keep"));
    check(&fields(4), &limits, Err(("too_many_fields", 431)));

    let sized = |bytes: usize| {
        let head = "GET / HTTP/1.1\r\nHost: a\r\nb: \r\n\r\n";
        head.replace("b: ", &format!("b: {}", "x".repeat(bytes - head.len()))).into_bytes()
    };
    check(&sized(64), &limits, Ok("GET a / none keep"));
    check(&sized(65), &limits, Err(("head_too_large", 431)));
    check(&sized(90)[..64], &limits, Err(("head_too_large", 431)));
    check(&sized(90)[..63], &limits, Ok("incomplete"));
    let after_empty_lines = |bytes: usize| [b"\r\n\r\n".to_vec(), sized(bytes)].concat();
    check(&after_empty_lines(60), &limits, Ok("GET a / none keep"));
    check(&after_empty_lines(61), &limits, Err(("head_too_large", 431)));

    // The line's CR LF may be the bytes 31 and 32.
    check(
        b"GET /aaaaaaaaaaaaaaaa HTTP/1.1\r\nHost: a\r\n\r\n",
        &limits,
        Ok("GET a /aaaaaaaaaaaaaaaa none keep"),
    );
    check(
        b"GET /aaaaaaaaaaaaaaaaa HTTP/1.1\r\nHost: a\r\n\r\n",
        &limits,
        Err(("request_line_too_long", 414)),
    );
    check(&[b"GET /".as_slice(), &[b'a'; 27]].concat(), &limits, Err(("request_line_too_long", 414)));
    check(&[b"GET /".as_slice(), &[b'a'; 26]].concat(), &limits, Ok("incomplete"));
}

#[test]
fn more_fields_than_the_parser_has_room_for_are_refused_whatever_the_limit() {
    let limits = Limits { fields: usize::MAX, ..Limits::default() };
    let head = |count: usize| {
        [b"GET / HTTP/1.1\r\nHost: a\r\n".to_vec(), b"a:b\r\n".repeat(count - 1), b"\r\n".to_vec()].concat()
    };
    check(&head(Limits::MAX_FIELDS), &limits, Ok("GET a / none keep"));
    check(&head(Limits::MAX_FIELDS + 1), &limits, Err(("too_many_fields", 431)));
}

#[test]
fn connect_is_read_where_it_is_enabled() {
    let limits = Limits { connect: true, ..Limits::default() };
    check(b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", &limits, Ok("CONNECT a:443  none keep"));
    check(
        b"CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]:443\r\n\r\n",
        &limits,
        Ok("CONNECT [::1]:443  none keep"),
    );
    check(b"CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", &limits, Err(("target_authority", 400)));
    check(b"CONNECT a:443 HTTP/1.1\r\nHost: b:443\r\n\r\n", &limits, Err(("host_mismatch", 400)));
    check(b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", &limits, Err(("host_mismatch", 400)));
    check(b"CONNECT /a HTTP/1.1\r\nHost: a\r\n\r\n", &limits, Err(("target_form", 400)));
    check(b"CONNECT http://a:443 HTTP/1.1\r\nHost: a\r\n\r\n", &limits, Err(("target_form", 400)));
    check(
        b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\nContent-Length: 1\r\n\r\n",
        &limits,
        Err(("connect_body", 400)),
    );
    check(
        b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\nTransfer-Encoding: chunked\r\n\r\n",
        &limits,
        Err(("connect_body", 400)),
    );
}

#[test]
fn underscores_are_let_in_where_they_are_enabled() {
    let limits = Limits { underscores: true, ..Limits::default() };
    check(b"GET / HTTP/1.1\r\nHost: a\r\nx_y: 1\r\n\r\n", &limits, Ok("GET a / none keep"));
}

#[test]
fn the_head_keeps_what_the_client_wrote() {
    let input = b"get /A?b=%20&c HTTP/1.1\r\nhOsT: Shop.Example:8080\r\nX-A:  1\t\r\nx-a: \xff\r\nCookie:\r\n\r\nrest";
    let parsed = parse_request(input, &Limits::default()).unwrap().unwrap();
    let head = &parsed.head;
    assert_eq!(&input[parsed.consumed..], b"rest");
    assert_eq!((head.method(), head.method_str(), head.version()), (Method::Other, "get", Version::Http11));
    assert_eq!(
        (head.host(), head.port(), head.authority()),
        ("shop.example", Some(8080), "shop.example:8080")
    );
    assert_eq!((head.path(), head.query(), head.scheme()), ("/A", Some("b=%20&c"), None));
    let fields: Vec<_> = head.fields.iter().map(|field| (field.name, field.tag, field.value)).collect();
    let want: [(&[u8], Name, &[u8]); 4] = [
        (b"hOsT", Name::Host, b"Shop.Example:8080"),
        (b"X-A", Name::Other, b"1"),
        (b"x-a", Name::Other, b"\xff"),
        (b"Cookie", Name::Cookie, b""),
    ];
    assert_eq!(fields, want);
    assert_eq!(head.fields.joined("x-A").as_deref(), Some(b"1,\xff".as_slice()));
    assert_eq!(head.fields.joined("cookie").as_deref(), Some(b"".as_slice()));
    assert_eq!(head.fields.joined("accept"), None);
}

#[test]
fn an_authority_has_one_form() {
    for (written, host, canonical) in [
        ("a.test", "a.test", "a.test"),
        ("a.test:80", "a.test", "a.test:80"),
        ("a.test.", "a.test", "a.test"),
        ("A.test.:8080", "a.test", "a.test:8080"),
        ("a.test.:8080", "a.test", "a.test:8080"),
        ("a.test:0080", "a.test", "a.test:80"),
        ("[2001:DB8::1]:443", "[2001:db8::1]", "[2001:db8::1]:443"),
    ] {
        let by_host = format!("GET / HTTP/1.1\r\nHost: {written}\r\n\r\n");
        let by_target = format!("GET http://{written}/ HTTP/1.1\r\nHost: {written}\r\n\r\n");
        for request in [by_host, by_target] {
            let parsed = parse_request(request.as_bytes(), &Limits::default()).unwrap().unwrap();
            assert_eq!(parsed.head.authority(), canonical, "{request}");
            assert_eq!(parsed.head.host(), host, "{request}");
        }
    }
}

#[test]
fn connection_names_fields_away_but_not_those_that_others_rely_on() {
    let input = b"GET / HTTP/1.1\r\nHost: a\r\nX-Secret: 1\r\nX-Forwarded-For: 2\r\nAuthorization: 3\r\nContent-Length: 0\r\n\
        Connection: x-secret, X-Forwarded-For, authorization, host, content-length, te\r\nTE: gzip\r\nX-Kept: 4\r\n\r\n";
    let parsed = parse_request(input, &Limits::default()).unwrap().unwrap();
    let gone: Vec<_> =
        parsed.head.fields.iter().filter(|field| field.hop_by_hop).map(|field| field.name).collect();
    let want: [&[u8]; 3] = [b"X-Secret", b"Connection", b"TE"];
    assert_eq!(gone, want);
}

#[test]
fn requests_follow_each_other() {
    let input = b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut parser = RequestParser::default();
    let first = parser.parse(input, &Limits::default()).unwrap().unwrap();
    let second = parser.parse(&input[first.consumed..], &Limits::default()).unwrap().unwrap();
    assert_eq!((first.head.path(), second.head.path()), ("/1", "/2"));
    assert_eq!(first.consumed + second.consumed, input.len());
}

#[test]
fn heads_are_made_from_parts_as_from_the_wire() {
    let mut head = RequestHead::from_parts("GET", "Shop.example:443", "/a?b", Version::Http2).unwrap();
    head.fields.push("x-a", b"1").unwrap();
    assert_eq!(
        (head.host(), head.port(), head.path(), head.query()),
        ("shop.example", Some(443), "/a", Some("b"))
    );
    assert_eq!(head.authority(), "shop.example:443");
    assert_eq!(head.fields.known(Name::Host), Some(b"Shop.example:443".as_slice()));

    let from = |method, authority, target| {
        RequestHead::from_parts(method, authority, target, Version::Http2)
            .map(|_| ())
            .map_err(RequestError::kind)
    };
    assert_eq!(from("OPTIONS", "a", "*"), Ok(()));
    assert_eq!(from("G T", "a", "/"), Err("method"));
    assert_eq!(from("", "a", "/"), Err("method"));
    assert_eq!(from("GET", "", "/"), Err("host"));
    assert_eq!(from("GET", "a\r\nb", "/"), Err("host"));
    assert_eq!(from("GET", "a b", "/"), Err("host"));
    assert_eq!(from("GET", "u@a", "/"), Err("host"));
    assert_eq!(from("GET", "a", ""), Err("target_form"));
    assert_eq!(from("GET", "a", "/\r\n"), Err("target_character"));
    assert_eq!(from("GET", "a", "/a b"), Err("target_character"));
    assert_eq!(from("GET", "a", "/é"), Err("target_character"));
    assert_eq!(from("GET", "a", "http://b/"), Err("host_mismatch"));
}

#[test]
fn fields_that_would_break_the_framing_never_get_in() {
    let mut fields = Fields::new();
    for name in ["", "a b", "a:", "a\r\n", "ä", "a\0"] {
        assert_eq!(fields.push(name, b"1"), Err(InvalidField::Name), "{name:?}");
    }
    for value in ["a\r\nb: c", "a\nb", "a\rb", "\0", "\x7f", " a", "a\t"] {
        assert_eq!(fields.push("a", value.as_bytes()), Err(InvalidField::Value), "{value:?}");
        assert_eq!(fields.set_known(Name::Via, value.as_bytes()), Err(InvalidField::Value), "{value:?}");
    }
    assert_eq!(fields.push_known(Name::Other, b"1"), Err(InvalidField::Name));
    assert!(fields.is_empty());
}

#[test]
fn fields_are_set_and_removed_by_name() {
    let mut fields = Fields::new();
    for (name, value) in [("Via", "1"), ("x-a", "2"), ("via", "3"), ("X-A", "4"), ("x-b", "5")] {
        fields.push(name, value.as_bytes()).unwrap();
    }
    let show = |fields: &Fields| {
        fields
            .iter()
            .map(|f| format!("{}={}", f.name.escape_ascii(), f.value.escape_ascii()))
            .collect::<Vec<_>>()
            .join(" ")
    };
    fields.set("VIA", b"6").unwrap();
    assert_eq!(show(&fields), "x-a=2 X-A=4 x-b=5 VIA=6");
    fields.set("x-a", b"7").unwrap();
    assert_eq!(show(&fields), "x-b=5 VIA=6 x-a=7");
    fields.set_known(Name::Via, b"8").unwrap();
    assert_eq!(show(&fields), "x-b=5 x-a=7 via=8");
    fields.remove("X-B");
    fields.remove_known(Name::Via);
    assert_eq!(show(&fields), "x-a=7");
}

#[test]
fn the_preface_of_http2_is_told_from_requests() {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for cut in 0..preface.len() {
        assert_eq!(h2_preface(&preface[..cut]), Preface::Partial);
    }
    assert_eq!(h2_preface(preface), Preface::Yes);
    assert_eq!(h2_preface(&[preface.as_slice(), b"\0\0"].concat()), Preface::Yes);
    assert_eq!(h2_preface(b"PUT / HTTP/1.1"), Preface::No);
    assert_eq!(h2_preface(b"PRI * HTTP/2.0\r\n\r\nXX"), Preface::No);
}

#[test]
fn errors_say_what_is_wrong() {
    let error = parse_request(b"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", &Limits::default()).unwrap_err();
    assert_eq!(error.to_string(), "malformed Host: not a port");
    let error = parse_request(b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", &Limits::default()).unwrap_err();
    assert_eq!(error.to_string(), "malformed request: white space before the colon of a field");
}
