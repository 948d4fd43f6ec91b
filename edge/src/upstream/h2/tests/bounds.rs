//! What an upstream must not do, or not too often.

use super::*;
use crate::h2::PREFACE as NO_FRAME;

/// How often it may say that, to the last time that is too often.
fn tolerated(peer: &mut Peer, said: &[u8]) -> u32 {
    for number in 0..100_000 {
        match peer.says(said) {
            Ok(()) => drop(peer.bytes()),
            Err(code) => {
                assert_eq!(code, Code::EnhanceYourCalm);
                return number;
            }
        }
    }
    panic!("no bound");
}

#[test]
fn what_costs_nothing_is_bounded_exactly() {
    let small = LIMITS.h2_small_frames_per_s;
    for (said, expect) in [
        (frame(FrameKind::Ping, 0, 0, b"12345678"), LIMITS.h2_pings_per_s),
        (frame(FrameKind::Ping, flags::ACK, 0, b"12345678"), small),
        (settings(&[]), LIMITS.h2_settings_per_s - 1),
        (frame(FrameKind::Settings, flags::ACK, 0, b""), small),
        (more(0, 1), small),
        (goaway(0), small),
        (frame(FrameKind::Priority, 0, 1, &[0; 5]), small),
        (frame(FrameKind::Unknown, 0, 0, b"x"), small),
    ] {
        let mut peer = Peer::new();
        assert_eq!(tolerated(&mut peer, &said), expect, "{said:?}");
    }
}

#[test]
fn who_is_sent_more_may_say_more() {
    let mut peer = Peer::new();
    let streams: Vec<_> = (0..50).map(|_| peer.get()).collect();
    // Two for each head; all of them together are less than a KiB.
    assert_eq!(tolerated(&mut peer, &more(0, 1)), LIMITS.h2_small_frames_per_s + 2 * 50);
    drop(streams);
}

#[test]
fn empty_frames_are_tolerated_as_other_small_ones_are() {
    let mut peer = Peer::new();
    let mut stream = peer.get();
    peer.says(&[ok(1, 0), data(1, 0, b"x")].concat()).unwrap();
    // What we sent is two of them, a head and data are one each.
    let expect = LIMITS.h2_small_frames_per_s + 4;
    let empty = data(1, 0, b"");
    for _ in 0..expect {
        peer.says(&empty).unwrap();
    }
    assert_eq!(body(&mut stream), ("x".to_owned(), Ok(false)), "far more than a hundred");
    assert_eq!(peer.says(&empty), Err(Code::EnhanceYourCalm));
    // Behind each frame of data there may be one, for ever.
    let mut peer = Peer::new();
    let mut stream = peer.get();
    peer.says(&ok(1, 0)).unwrap();
    for _ in 0..5000 {
        peer.says(&[data(1, 0, b"x"), data(1, 0, b"")].concat()).unwrap();
        assert_eq!(body(&mut stream).0, "x");
    }
}

#[test]
fn what_was_on_its_way_when_a_client_went_away_is_held_against_nobody() {
    let mut peer = Peer::new();
    let stream = peer.get();
    peer.says(&ok(1, 0)).unwrap();
    drop(stream);
    for _ in 0..LIMITS.h2_small_frames_per_s * 3 {
        peer.says(&data(1, 0, b"x")).unwrap();
    }
    // Without data it is nothing that was asked for: what it has earned are two for our head, two for our reset and one for
    // its own head.
    assert_eq!(tolerated(&mut peer, &data(1, 0, b"")), LIMITS.h2_small_frames_per_s + 5);
}

#[test]
fn a_second_later_all_may_be_said_again() {
    let mut peer = Peer::new();
    let ping = frame(FrameKind::Ping, 0, 0, b"12345678");
    for second in 1..5 {
        peer.clock.sweep(peer.began + std::time::Duration::from_secs(second));
        for _ in 0..LIMITS.h2_pings_per_s {
            peer.says(&ping).unwrap();
        }
        assert_eq!(peer.hears().len(), LIMITS.h2_pings_per_s as usize, "each is answered");
    }
}

#[test]
fn blocks_do_not_go_on_for_ever() {
    let begin = frame(FrameKind::Headers, 0, 1, &[0x88]);
    let go_on = frame(FrameKind::Continuation, 0, 1, b"");
    let mut peer = Peer::new();
    let _stream = peer.get();
    peer.says(&begin).unwrap();
    for _ in 0..LIMITS.h2_continuations {
        peer.says(&go_on).unwrap();
    }
    assert_eq!(peer.says(&go_on), Err(Code::EnhanceYourCalm));
    // Nor do they grow without end.
    let mut peer = Peer::new();
    let _stream = peer.get();
    peer.says(&begin).unwrap();
    let large = frame(FrameKind::Continuation, 0, 1, &[0; 16_000]);
    let taken = (0..20).take_while(|_| peer.says(&large).is_ok()).count();
    assert_eq!(taken, 2 * LIMITS.head_bytes / 16_000);
    // A reference of one byte that stands for four thousand.
    let mut peer = Peer::new();
    let _stream = peer.get();
    let mut bomb = vec![0x40, 1, b'x', 0x7f, 0xa0, 0x1e];
    bomb.extend([b'v'; 3999]);
    bomb.extend([0xbe; 2000]);
    assert_eq!(peer.says(&frame(FrameKind::Headers, WHOLE, 1, &bomb)), Err(Code::EnhanceYourCalm));
}

#[test]
fn whoever_does_not_listen_is_not_read() {
    let mut peer = Peer::new();
    let ping = frame(FrameKind::Ping, 0, 0, b"12345678");
    let mut said = 0;
    while !peer.channel.is_choked() {
        peer.clock.sweep(peer.began + std::time::Duration::from_secs(said / 50));
        peer.says(&ping).unwrap();
        said += 1;
    }
    assert_eq!(said, (128 * 1024_u64).div_ceil(17), "as many answers as 128 KiB hold");
    peer.bytes();
    assert!(!peer.channel.is_choked());
}

#[test]
fn frames_that_must_not_be_end_the_connection() {
    use FrameKind::*;
    for (said, expect) in [
        (frame(Data, 0, 0, b"x"), Code::ProtocolError),
        (data(5, 0, b"x"), Code::ProtocolError),
        (data(2, 0, b"x"), Code::ProtocolError),
        (frame(Data, flags::PADDED, 1, b"\x02a"), Code::ProtocolError),
        (frame(Data, flags::PADDED, 1, b""), Code::FrameSizeError),
        (vec![0, 0x40, 1, 0, 0, 0, 0, 0, 1], Code::FrameSizeError),
        (ok(0, 0), Code::ProtocolError),
        (ok(5, 0), Code::ProtocolError),
        (ok(2, 0), Code::ProtocolError),
        (frame(Headers, WHOLE, 1, &[0x80]), Code::CompressionError),
        (frame(Headers, WHOLE, 1, &[0xbe]), Code::CompressionError),
        (frame(Continuation, WHOLE, 1, &[0x88]), Code::ProtocolError),
        ([frame(Headers, 0, 1, &[0x88]), data(1, 0, b"x")].concat(), Code::ProtocolError),
        ([frame(Headers, 0, 1, &[0x88]), frame(Continuation, WHOLE, 3, b"")].concat(), Code::ProtocolError),
        ([frame(Headers, 0, 1, &[0x88]), frame(Unknown, 0, 0, b"")].concat(), Code::ProtocolError),
        (frame(PushPromise, WHOLE, 1, &[0, 0, 0, 2, 0x82]), Code::ProtocolError),
        (frame(Reset, 0, 1, b"123"), Code::FrameSizeError),
        (frame(Reset, 0, 0, b"1234"), Code::ProtocolError),
        (rst(5, Code::Cancel), Code::ProtocolError),
        (frame(Settings, 0, 0, b"12345"), Code::FrameSizeError),
        (frame(Settings, 0, 1, b""), Code::ProtocolError),
        (frame(Settings, flags::ACK, 0, b"123456"), Code::FrameSizeError),
        (settings(&[(2, 1)]), Code::ProtocolError),
        (settings(&[(2, 2)]), Code::ProtocolError),
        (settings(&[(WINDOW, 1 << 31)]), Code::FlowControlError),
        (settings(&[(5, 16_383)]), Code::ProtocolError),
        (frame(Ping, 0, 0, b"1234567"), Code::FrameSizeError),
        (frame(Ping, 0, 1, b"12345678"), Code::ProtocolError),
        (frame(GoAway, 0, 0, b"1234567"), Code::FrameSizeError),
        (frame(GoAway, 0, 1, b"12345678"), Code::ProtocolError),
        (frame(WindowUpdate, 0, 0, b"123"), Code::FrameSizeError),
        (more(5, 1), Code::ProtocolError),
        (more(0, 0), Code::ProtocolError),
    ] {
        let mut peer = Peer::new();
        let _streams = (peer.get(), peer.get());
        assert_eq!(peer.says(&said), Err(expect), "{said:?}");
    }
}

#[test]
fn settings_come_first() {
    for said in [
        frame(FrameKind::Settings, flags::ACK, 0, b""),
        frame(FrameKind::Ping, 0, 0, b"12345678"),
        ok(1, 0),
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        NO_FRAME.to_vec(),
    ] {
        let mut peer = Peer::with(LIMITS);
        let _stream = peer.get();
        assert!(peer.says(&said).is_err(), "{said:?}");
    }
}

#[test]
fn what_comes_after_the_end_of_a_stream() {
    let after = |how: fn(&mut Peer)| {
        let mut peer = Peer::new();
        how(&mut peer);
        peer.hears();
        peer
    };
    let whole: fn(&mut Peer) = |peer| {
        let _stream = peer.get();
        peer.says(&ok(1, END)).unwrap();
    };
    let reset: fn(&mut Peer) = |peer| {
        let _stream = peer.get();
        peer.says(&rst(1, Code::Cancel)).unwrap();
    };
    let cancelled: fn(&mut Peer) = |peer| drop(peer.get());
    for (how, data_is, head_is) in [
        (whole, Err(Code::StreamClosed), Err(Code::StreamClosed)),
        (reset, Err(Code::StreamClosed), Err(Code::StreamClosed)),
        // What was on its way when we said so.
        (cancelled, Ok(()), Ok(())),
    ] {
        assert_eq!(after(how).says(&data(1, 0, b"late")), data_is);
        assert_eq!(after(how).says(&ok(1, 0)), head_is);
        for harmless in [more(1, 1), more(1, 0), rst(1, Code::Cancel)] {
            let mut peer = after(how);
            peer.says(&harmless).unwrap();
            assert_eq!(peer.hears().len(), 0, "it is not answered");
        }
    }
    // While its request still looks at it, only the stream is concerned, which is whole already.
    let mut peer = Peer::new();
    let mut stream = peer.get();
    peer.says(&[ok(1, 0), data(1, END, b"x"), data(1, 0, b"late")].concat()).unwrap();
    assert_eq!(peer.resets(), [(1, Code::StreamClosed.value())]);
    assert_eq!((status(&stream), body(&mut stream)), (Some(Ok(200)), ("x".to_owned(), Ok(true))));
}

#[test]
fn a_stream_that_we_have_cancelled_costs_no_window_and_no_step_of_the_table() {
    let mut peer = Peer::new();
    drop(peer.get());
    let insert = frame(FrameKind::Headers, WHOLE, 1, &[0x88, 0x40, 1, b'a', 1, b'b']);
    peer.says(&insert).unwrap();
    for _ in 0..200 {
        peer.says(&data(1, 0, &[0; 16_000])).unwrap();
        peer.hears();
    }
    let stream = peer.get();
    peer.says(&frame(FrameKind::Headers, WHOLE | END, 3, &[0x88, 0xbe])).unwrap();
    let parsed = now(stream.poll_head(&cx())).unwrap().unwrap();
    assert_eq!(parsed.head.fields.find("a"), Some(&b"b"[..]), "what another stream's head has put there");
}

#[test]
fn a_request_that_is_dropped_is_cancelled() {
    let mut peer = Peer::new();
    drop(peer.get());
    let stream = peer.open(false);
    peer.says(&ok(3, 0)).unwrap();
    drop(stream);
    let cancel = Code::Cancel.value();
    assert_eq!(peer.resets(), [(1, cancel), (3, cancel)]);
    assert_eq!(peer.streams(), 0);
}
