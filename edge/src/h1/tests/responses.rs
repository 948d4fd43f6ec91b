use super::{response_table::CLASSES, *};

fn summary(parsed: &ParsedResponse) -> String {
    let ParsedResponse { head, framing, .. } = parsed;
    let mut text = format!(
        "{} {} {}",
        head.status(),
        body_name(framing.body),
        if framing.keep_alive { "keep" } else { "close" }
    );
    if let Some(length) = framing.declared_length.filter(|_| framing.body == BodyLength::None) {
        text.push_str(&format!(" of {length}"));
    }
    if framing.interim {
        text.push_str(" interim");
    }
    text
}

#[test]
fn every_vector_of_the_table_gets_its_verdict() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for (method, class) in CLASSES {
        for (case, want) in class.cases {
            count += 1;
            let input = [class.before, case, class.after].concat();
            let got = match parse_response(&input, *method) {
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
    assert!(count >= 50, "{count} vectors");
}

#[test]
fn reasons_are_kept_or_supplied() {
    let reason = |line: &[u8]| {
        let input = [line, b"\r\n\r\n"].concat();
        let parsed = parse_response(&input, Method::Get).unwrap().unwrap();
        String::from_utf8(parsed.head.reason().to_vec()).unwrap()
    };
    assert_eq!(reason(b"HTTP/1.1 200 Fine"), "Fine");
    assert_eq!(reason(b"HTTP/1.1 200 "), "OK");
    assert_eq!(reason(b"HTTP/1.1 200"), "OK");
    assert_eq!(reason(b"HTTP/1.1 299 "), "");
    assert_eq!(reason(b"HTTP/1.1 404 \xff"), "Not Found", "not passed on if it is not text");
}

#[test]
fn interim_responses_come_before_the_final_one() {
    let input =
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
    let mut parser = ResponseParser::default();
    let limits = Limits::default();
    let first = parser.parse(input, Method::Get, &limits).unwrap().unwrap();
    assert!(first.framing.interim);
    let second = parser.parse(&input[first.consumed..], Method::Get, &limits).unwrap().unwrap();
    assert_eq!((second.head.status(), second.framing.body), (200, BodyLength::Length(2)));
    assert_eq!(&input[first.consumed + second.consumed..], b"hi");
}

#[test]
fn the_fields_of_responses_may_have_underscores() {
    let parsed = parse_response(b"HTTP/1.1 200 OK\r\nx_y: 1\r\n\r\n", Method::Get).unwrap().unwrap();
    assert_eq!(parsed.head.fields.find("X_Y"), Some(b"1".as_slice()));
}

#[test]
fn replies_of_our_own_are_made_from_parts() {
    let head = ResponseHead::new(404).with("content-type", b"text/plain").unwrap();
    assert_eq!((head.status(), head.reason()), (404, b"Not Found".as_slice()));
    assert_eq!(head.fields.known(Name::ContentType), Some(b"text/plain".as_slice()));
    assert_eq!(ResponseHead::new(999).status(), 500, "never a status that no client understands");
}
