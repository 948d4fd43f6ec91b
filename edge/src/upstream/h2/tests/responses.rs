//! Requests and what comes back of them.

use super::*;

#[test]
fn a_response_is_read_to_its_trailers() {
    let mut peer = Peer::new();
    let mut stream = peer.get();
    assert_eq!(status(&stream), None);
    let parts = [
        head(1, 0, &[(":status", "100")]),
        head(1, 0, &[(":status", "103"), ("link", "x")]),
        head(1, 0, &[(":status", "200"), ("content-length", "5"), ("x", "y")]),
        data(1, 0, b"hel"),
        data(1, 0, b""),
        frame(FrameKind::Data, flags::PADDED, 1, b"\x02lo\0\0"),
    ];
    peer.says(&parts.concat()).unwrap();
    let head_came = now(stream.poll_head(&cx())).unwrap().unwrap();
    assert_eq!((head_came.head.status(), head_came.framing.declared_length), (200, Some(5)));
    assert_eq!(head_came.head.fields.find("x"), Some(&b"y"[..]));
    assert_eq!(body(&mut stream), ("hello".to_owned(), Ok(false)));
    peer.says(&head(1, END, &[("grpc-status", "0"), ("host", "x")])).unwrap();
    let Some(Ok(Came::End(trailers))) = now(stream.poll_body(&cx())) else { panic!("no end") };
    assert_eq!((trailers.len(), trailers.find("grpc-status")), (1, Some(&b"0"[..])));
    drop(stream);
    assert_eq!((peer.streams(), peer.resets()), (0, vec![]), "nothing is left to say");
}

#[test]
fn a_request_ends_with_data_or_with_trailers() {
    let peer = Peer::new();
    let stream = peer.open(false);
    assert_eq!(now(stream.poll_write(&cx(), b"all")), Some(Ok(3)));
    stream.finish(&Fields::new());
    let said = peer.hears();
    assert_eq!((said[1].0.flags, &*said[1].1, said.len()), (END, &b"all"[..], 2), "in the last frame");
    let stream = peer.open(false);
    let mut trailers = Fields::new();
    trailers.push("sum", b"1").unwrap();
    stream.finish(&trailers);
    let said = peer.hears();
    assert_eq!((said[1].0.kind, said[1].0.flags, said[1].0.stream), (FrameKind::Headers, END | WHOLE, 3));
}

#[test]
fn an_early_answer_is_whole_whatever_resets_the_rest() {
    for code in [Code::NoError, Code::Cancel] {
        let mut peer = Peer::new();
        let mut stream = peer.open(false);
        peer.says(&[ok(1, 0), data(1, END, b"enough"), rst(1, code)].concat()).unwrap();
        assert!(matches!(stream.poll_write(&cx(), b"more"), Poll::Ready(Err(_))), "it takes no more");
        assert_eq!(status(&stream), Some(Ok(200)));
        assert_eq!(body(&mut stream), ("enough".to_owned(), Ok(true)));
        drop(stream);
        assert_eq!(peer.resets(), []);
        // One that does not say that it wants no more is told so.
        let mut stream = peer.open(false);
        peer.says(&ok(3, END)).unwrap();
        assert_eq!((status(&stream), body(&mut stream)), (Some(Ok(200)), (String::new(), Ok(true))));
        drop(stream);
        assert_eq!(peer.resets(), [(3, Code::Cancel.value())]);
    }
}

#[test]
fn what_is_cut_off_does_not_look_whole() {
    let mut peer = Peer::new();
    let mut stream = peer.get();
    peer.says(&[ok(1, 0), data(1, 0, b"half"), rst(1, Code::NoError)].concat()).unwrap();
    assert_eq!(status(&stream), Some(Ok(200)));
    let reset = closed(std::io::ErrorKind::ConnectionReset);
    assert_eq!(body(&mut stream), ("half".to_owned(), Err(reset)), "what came before is not lost");
}

#[test]
fn a_request_that_is_refused_may_be_sent_again() {
    let mut peer = Peer::new();
    let (refused, reset) = (peer.get(), peer.get());
    peer.says(&[rst(1, Code::RefusedStream), rst(3, Code::InternalError)].concat()).unwrap();
    assert_eq!(status(&refused), Some(Err(Failure::Refused)));
    assert_eq!(status(&reset), Some(Err(closed(std::io::ErrorKind::ConnectionReset))));
    drop((refused, reset));
    assert_eq!((peer.streams(), peer.resets()), (0, vec![]));
}

#[test]
fn who_goes_away_answers_what_it_has_begun() {
    let mut peer = Peer::new();
    let (mut first, second, third) = (peer.get(), peer.get(), peer.get());
    peer.says(&[ok(1, 0), ok(3, 0), goaway((1 << 31) - 1)].concat()).unwrap();
    assert!(peer.channel.most_streams() == 0 && peer.channel.open(false, true, |_| {}).is_none());
    assert_eq!(status(&third), None, "it may still come");
    peer.says(&goaway(1)).unwrap();
    assert_eq!(status(&third), Some(Err(Failure::Refused)));
    assert_eq!(status(&second), Some(Ok(200)), "what came is not lost");
    peer.says(&[ok(5, END), data(1, END, b"x")].concat()).unwrap();
    assert_eq!((status(&first), body(&mut first)), (Some(Ok(200)), ("x".to_owned(), Ok(true))));
}

#[test]
fn heads_of_one_block_in_many_frames() {
    let mut peer = Peer::new();
    let stream = peer.get();
    let block = block(&[(":status", "200"), ("x", "y")]);
    let mut parts = vec![frame(FrameKind::Headers, END, 1, &block[..1])];
    for byte in &block[1..block.len() - 1] {
        parts.push(frame(FrameKind::Continuation, 0, 1, &[*byte]));
    }
    parts.push(frame(FrameKind::Continuation, WHOLE, 1, &block[block.len() - 1..]));
    peer.says(&parts.concat()).unwrap();
    assert_eq!(status(&stream), Some(Ok(200)));
}

#[test]
fn interim_responses_are_few_and_end_nothing() {
    let interim = |flags| head(1, flags, &[(":status", "102")]);
    for (said, expect) in [
        (vec![interim(0); INTERIM_RESPONSES as usize], None),
        (vec![interim(0); INTERIM_RESPONSES as usize + 1], Some(ResponseError::Status)),
        (vec![interim(END)], Some(ResponseError::Status)),
        (vec![head(1, 0, &[(":status", "101")])], Some(ResponseError::Status)),
    ] {
        let mut peer = Peer::new();
        let stream = peer.get();
        peer.says(&said.concat()).unwrap();
        assert_eq!(status(&stream), expect.map(|error| Err(Failure::Malformed(error))));
        let resets = if expect.is_some() { vec![(1, Code::ProtocolError.value())] } else { vec![] };
        assert_eq!(peer.resets(), resets);
    }
}

#[test]
fn a_body_is_as_long_as_its_head_says() {
    let ten = |flags| head(1, flags, &[(":status", "200"), ("content-length", "10")]);
    let sum = || head(1, END, &[("sum", "1")]);
    for (said, expect) in [
        (vec![ten(0), data(1, END, b"0123456789")], Ok(true)),
        (vec![ten(0), data(1, 0, b"0123456789"), sum()], Ok(true)),
        (vec![ten(0), data(1, 0, b"0123456789"), data(1, END, b"")], Ok(true)),
        (vec![ten(END)], Err(WRONG_LENGTH)),
        (vec![ten(0), data(1, END, b"")], Err(WRONG_LENGTH)),
        (vec![ten(0), data(1, END, b"012345678")], Err(WRONG_LENGTH)),
        (vec![ten(0), data(1, 0, b"012345678"), sum()], Err(WRONG_LENGTH)),
        (vec![ten(0), data(1, 0, b"01234567890")], Err(WRONG_LENGTH)),
    ] {
        let mut peer = Peer::new();
        let mut stream = peer.get();
        peer.says(&said.concat()).unwrap();
        let _head = status(&stream);
        assert_eq!(body(&mut stream).1, expect);
        let resets = if expect.is_err() { vec![(1, Code::ProtocolError.value())] } else { vec![] };
        assert_eq!(peer.resets(), resets);
    }
}

#[test]
fn answers_without_bodies_may_say_how_long_they_would_be() {
    for (to_head, code) in [(true, "200"), (false, "204"), (false, "304")] {
        for (said, expect) in [(&b""[..], Ok(true)), (b"x", Err(WRONG_LENGTH))] {
            let mut peer = Peer::new();
            let mut stream = peer.channel.open(to_head, true, |_| {}).unwrap();
            let began = head(1, 0, &[(":status", code), ("content-length", "10")]);
            peer.says(&[began, data(1, END, said)].concat()).unwrap();
            let parsed = now(stream.poll_head(&cx())).unwrap().unwrap();
            assert_eq!(parsed.framing.declared_length, Some(10));
            assert_eq!(parsed.framing.body, crate::h1::BodyLength::None);
            assert_eq!(body(&mut stream).1, expect);
        }
    }
}

#[test]
fn what_is_no_response_is_named() {
    let many: Vec<_> = (0..=LIMITS.head_fields).map(|_| ("x", "y")).collect();
    let large = "v".repeat(40_000);
    let large = [(":status", "200"), ("x", &*large), ("y", &*large)];
    let large = block(&large);
    let (first, rest) = large.split_at(16_000);
    let large = [
        frame(FrameKind::Headers, 0, 1, first),
        frame(FrameKind::Continuation, 0, 1, &rest[..16_000]),
        frame(FrameKind::Continuation, 0, 1, &rest[16_000..32_000]),
        frame(FrameKind::Continuation, 0, 1, &rest[32_000..48_000]),
        frame(FrameKind::Continuation, 0, 1, &rest[48_000..64_000]),
        frame(FrameKind::Continuation, WHOLE, 1, &rest[64_000..]),
    ];
    let line = |error: HeadError| Failure::Malformed(error.into());
    for (said, expect) in [
        (head(1, 0, &[("x", "y")]), line(HeadError::StartLine)),
        (head(1, 0, &[&[(":status", "200")][..], &many].concat()), line(HeadError::TooManyFields)),
        (large.concat(), line(HeadError::TooLarge)),
        (data(1, 0, b"x"), line(HeadError::StartLine)),
        (data(1, 0, b""), line(HeadError::StartLine)),
        (data(1, END, b""), line(HeadError::StartLine)),
        (head(1, 0, &[(":status", "200"), ("upgrade", "x")]), Failure::Malformed(ResponseError::Connection)),
    ] {
        let mut peer = Peer::new();
        let (stream, other) = (peer.get(), peer.get());
        peer.says(&said).unwrap();
        assert_eq!(status(&stream), Some(Err(expect)));
        assert_eq!(peer.resets(), [(1, Code::ProtocolError.value())]);
        // The others know nothing of it.
        peer.says(&ok(3, END)).unwrap();
        assert_eq!(status(&other), Some(Ok(200)));
    }
    // Trailers that are none.
    for said in [head(1, 0, &[("x", "y")]), head(1, END, &[(":status", "200")])] {
        let mut peer = Peer::new();
        let mut stream = peer.get();
        peer.says(&[ok(1, 0), said].concat()).unwrap();
        assert_eq!(status(&stream), Some(Ok(200)));
        assert_eq!(body(&mut stream).1, Err(line(HeadError::StartLine)));
    }
}
