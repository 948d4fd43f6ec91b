//! Windows, and how many streams there may be.

use super::*;
use crate::{h2::MOST, limits::UPSTREAM_H2_STREAMS};

fn write(stream: &OpenStream, data: &[u8]) -> Option<usize> {
    now(stream.poll_write(&cx(), data)).map(|written| written.unwrap())
}

/// Uses up so much of the connection's window.
fn fill(peer: &Peer, stream: &OpenStream, mut left: usize) {
    while left > 0 {
        left -= write(stream, &vec![0; left]).unwrap();
        peer.hears();
    }
}

#[test]
fn one_stream_until_the_upstream_has_said_more() {
    for (said, most) in [
        (&[][..], UPSTREAM_H2_STREAMS),
        (&[(STREAMS, 10)], 10),
        (&[(STREAMS, u32::MAX)], UPSTREAM_H2_STREAMS),
        (&[(STREAMS, 0)], 0),
    ] {
        let mut peer = Peer::with(LIMITS);
        assert!(peer.channel.is_unsaid() && peer.channel.most_streams() == 1);
        peer.settles(said);
        assert!(!peer.channel.is_unsaid());
        assert_eq!(peer.channel.most_streams(), most, "{said:?}");
    }
    let mut peer = Peer::new();
    peer.settles(&[(STREAMS, 7)]);
    peer.settles(&[(WINDOW, 1)]);
    assert_eq!(peer.channel.most_streams(), 7, "said once");
}

#[test]
fn data_waits_for_the_stream_and_for_the_connection() {
    let mut peer = Peer::new();
    peer.settles(&[(WINDOW, 5)]);
    let stream = peer.open(false);
    assert_eq!(write(&stream, b"hello world"), Some(5));
    assert_eq!(write(&stream, b" world"), None);
    peer.says(&more(1, 3)).unwrap();
    assert_eq!(write(&stream, b" world"), Some(3));
    // Taken back: below zero.
    peer.settles(&[(WINDOW, 1)]);
    peer.says(&more(1, 4)).unwrap();
    assert_eq!(write(&stream, b"rld"), None);
    peer.says(&more(1, 1)).unwrap();
    assert_eq!(write(&stream, b"rld"), Some(1));
    // The connection's is its own.
    peer.settles(&[(WINDOW, MOST)]);
    fill(&peer, &stream, 65_535 - 9);
    assert_eq!(write(&stream, b"x"), None);
    peer.says(&more(0, 1)).unwrap();
    assert_eq!(write(&stream, b"xy"), Some(1));
}

#[test]
fn streams_take_turns() {
    let mut peer = Peer::new();
    peer.settles(&[(WINDOW, MOST)]);
    let (first, second) = (peer.open(false), peer.open(false));
    fill(&peer, &first, 65_535);
    assert_eq!((write(&first, b"x"), write(&second, b"x")), (None, None));
    peer.says(&more(0, 2)).unwrap();
    assert_eq!((write(&second, b"x"), write(&first, b"x")), (None, Some(1)));
    assert_eq!(write(&second, b"x"), Some(1));
}

#[test]
fn a_stream_that_does_not_come_misses_its_turn() {
    let mut peer = Peer::new();
    peer.settles(&[(WINDOW, MOST)]);
    let (first, second) = (peer.open(false), peer.open(false));
    fill(&peer, &first, 65_535);
    for _ in 0..3 {
        assert_eq!((write(&first, b"x"), write(&second, b"x")), (None, None));
        // While nobody could send anything nobody has missed anything.
        (0..5).for_each(|_| peer.channel.attend(&cx()));
        peer.says(&more(0, 2)).unwrap();
        peer.channel.attend(&cx());
        assert_eq!(write(&second, b"x"), None, "the first may still come");
        peer.channel.attend(&cx());
        assert_eq!(write(&second, b"x"), Some(1), "its client takes nothing, say");
        assert_eq!(write(&first, b"x"), Some(1), "later");
    }
}

#[test]
fn who_takes_nothing_holds_up_nobody_else() {
    let mut peer = Peer::new();
    let streams: Vec<_> = (0..UPSTREAM_H2_STREAMS).map(|_| peer.get()).collect();
    let frame = vec![b'x'; 1 << 14];
    for stream in &streams {
        peer.says(&ok(stream.id, 0)).unwrap();
        for _ in 0..LIMITS.upstream_stream_window >> 14 {
            peer.says(&data(stream.id, 0, &frame)).unwrap();
        }
    }
    assert_eq!(peer.resets(), []);
    assert_eq!(peer.says(&data(1, 0, b"x")), Err(Code::FlowControlError), "and no more");
}

#[test]
fn what_waits_to_be_written_is_bounded() {
    let mut peer = Peer::new();
    peer.settles(&[(WINDOW, MOST)]);
    peer.says(&more(0, MOST - 65_535)).unwrap();
    let stream = peer.open(false);
    let mut written = 0;
    while let Some(count) = write(&stream, &[0; 20_000]) {
        written += count;
    }
    assert!((48_000..66_000).contains(&written), "{written}");
    peer.bytes();
    assert!(write(&stream, b"x").is_some());
}

#[test]
fn windows_have_their_bounds() {
    let mut peer = Peer::new();
    let (stream, other) = (peer.get(), peer.get());
    peer.says(&more(1, MOST)).unwrap();
    assert_eq!(status(&stream), Some(Err(closed(std::io::ErrorKind::InvalidData))));
    assert_eq!(peer.resets(), [(1, Code::FlowControlError.value())]);
    peer.says(&more(3, 0)).unwrap();
    assert!(status(&other).is_some());
    assert_eq!(peer.resets(), [(3, Code::ProtocolError.value())]);
    assert_eq!(peer.says(&more(0, MOST)), Err(Code::FlowControlError));
    let mut peer = Peer::new();
    let _stream = peer.get();
    peer.says(&more(1, MOST - 65_535)).unwrap();
    assert_eq!(peer.says(&settings(&[(WINDOW, 65_536)])), Err(Code::FlowControlError));
}

#[test]
fn an_upstream_is_held_to_our_windows() {
    let limits = Limits { upstream_stream_window: 1000, upstream_connection_window: 70_000, ..LIMITS };
    let increments = |peer: &Peer| -> Vec<_> {
        let frames = peer.hears().into_iter().filter(|(header, _)| header.kind == FrameKind::WindowUpdate);
        frames.map(|(header, payload)| (header.stream, reset(&payload).unwrap())).collect()
    };
    let mut peer = Peer::with(limits);
    assert_eq!(increments(&peer), [(0, 70_000 - 65_535)]);
    peer.settles(&[]);
    let mut stream = peer.get();
    peer.says(&[ok(1, 0), data(1, 0, &[b'x'; 1000])].concat()).unwrap();
    assert_eq!(increments(&peer), [], "nothing is taken yet");
    assert_eq!(body(&mut stream).0.len(), 1000);
    assert_eq!(increments(&peer), [(1, 1000)]);
    peer.says(&data(1, 0, &[b'x'; 1000])).unwrap();
    peer.says(&data(1, 0, b"x")).unwrap();
    assert_eq!(peer.resets(), [(1, Code::FlowControlError.value())]);
    assert_eq!(body(&mut stream).1, Err(closed(std::io::ErrorKind::InvalidData)));
    drop(stream);
    // The connection's window is for all streams together, and what nobody will take is given back at once.
    let streams: Vec<_> = (0..67).map(|_| peer.get()).collect();
    let mut told = 0;
    for number in 0..67 {
        let id = 3 + 2 * number;
        let said = peer.says(&[ok(id, 0), data(id, 0, &[b'x'; 1000])].concat());
        assert_eq!(said, Ok(()), "stream {id}");
        told += increments(&peer).len();
    }
    assert_eq!(told, 0, "half of it was not taken");
    drop(streams);
    assert!(!increments(&peer).is_empty());
    assert_eq!(peer.channel.state.borrow().mux.held(70_000), 0);
}

#[test]
fn a_connection_has_so_much_room_and_no_more() {
    let limits = Limits { upstream_stream_window: MOST, upstream_connection_window: 65_535, ..LIMITS };
    let mut peer = Peer::with(limits);
    peer.settles(&[]);
    let stream = peer.get();
    peer.says(&ok(1, 0)).unwrap();
    for _ in 0..4 {
        peer.says(&data(1, 0, &[0; 16_000])).unwrap();
    }
    assert_eq!(peer.says(&data(1, 0, &[0; 1536])), Err(Code::FlowControlError));
    drop(stream);
}

#[test]
fn the_last_number_ends_the_connections_use() {
    let peer = Peer::new();
    peer.channel.state.borrow_mut().skip_to(MOST);
    let stream = peer.open(true);
    assert_eq!((stream.id, peer.channel.most_streams()), (MOST, 0));
    assert!(peer.channel.open(false, true, |_| {}).is_none());
}
