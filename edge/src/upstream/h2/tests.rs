//! A connection against an upstream whose every byte is written here.

mod bounds;
mod driving;
mod flow;
mod random;
mod responses;

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Instant,
};

use tokio::sync::Notify;

use super::{Channel, receive::Receiver, stream::*};
use crate::{
    clock::Clock,
    h1::{Fields, FramingError, HeadError, ResponseError},
    h2::{
        Code, FRAME_HEADER, Frame, FrameHeader, FrameKind, PREFACE, flags,
        hpack::{write_field, write_status},
        reset, write_frame_header,
    },
    limits::{INTERIM_RESPONSES, LIMITS, Limits},
};

const END: u8 = flags::END_STREAM;
const WHOLE: u8 = flags::END_HEADERS;

fn frame(kind: FrameKind, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![];
    write_frame_header(&mut out, payload.len(), kind, flags, stream);
    out.extend_from_slice(payload);
    out
}

fn data(stream: u32, flags: u8, data: &[u8]) -> Vec<u8> {
    frame(FrameKind::Data, flags, stream, data)
}

fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = vec![];
    for (name, value) in fields {
        match *name {
            ":status" => write_status(&mut block, value.parse().unwrap()),
            name => write_field(&mut block, name.as_bytes(), value.as_bytes()),
        }
    }
    block
}

fn head(stream: u32, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(FrameKind::Headers, WHOLE | flags, stream, &block(fields))
}

fn ok(stream: u32, flags: u8) -> Vec<u8> {
    head(stream, flags, &[(":status", "200")])
}

fn rst(stream: u32, code: Code) -> Vec<u8> {
    frame(FrameKind::Reset, 0, stream, &code.value().to_be_bytes())
}

fn goaway(last: u32) -> Vec<u8> {
    frame(FrameKind::GoAway, 0, 0, &[&last.to_be_bytes()[..], &[0; 4]].concat())
}

fn more(stream: u32, increment: u32) -> Vec<u8> {
    frame(FrameKind::WindowUpdate, 0, stream, &increment.to_be_bytes())
}

fn settings(pairs: &[(u16, u32)]) -> Vec<u8> {
    let pair = |(id, value): &(u16, u32)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
    frame(FrameKind::Settings, 0, 0, &pairs.iter().map(pair).collect::<Vec<_>>().concat())
}

const STREAMS: u16 = 3;
const WINDOW: u16 = 4;

fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// What is ready now.
fn now<T>(poll: Poll<T>) -> Option<T> {
    match poll {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// An upstream and our end of its connection.
struct Peer {
    channel: Rc<Channel>,
    receiver: Receiver,
    clock: Rc<Clock>,
    began: Instant,
}

impl Peer {
    fn with(limits: Limits) -> Self {
        let began = Instant::now();
        let clock = Clock::new(began);
        let channel = Channel::new(limits, Rc::clone(&clock), Rc::new(Notify::new()));
        let receiver = Receiver::new(Rc::clone(&channel));
        Self { channel, receiver, clock, began }
    }

    /// One that has said its settings, and has heard ours.
    fn new() -> Self {
        let mut peer = Self::with(LIMITS);
        peer.settles(&[]);
        peer
    }

    fn settles(&mut self, pairs: &[(u16, u32)]) {
        self.says(&settings(pairs)).unwrap();
        self.hears();
    }

    /// It says whole frames.
    fn says(&mut self, mut bytes: &[u8]) -> Result<(), Code> {
        while !bytes.is_empty() {
            let size = self.receiver.read(bytes)?;
            assert!(size > 0, "a frame that is cut off");
            bytes = &bytes[size..];
        }
        Ok(())
    }

    /// All that waits for it.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![];
        let flushed = self.channel.poll_flush(&mut cx(), Pin::new(&mut bytes));
        assert!(matches!(flushed, Poll::Ready(Ok(()))));
        bytes
    }

    /// The frames that wait for it.
    fn hears(&self) -> Vec<(FrameHeader, Vec<u8>)> {
        let bytes = self.bytes();
        let mut rest = bytes.strip_prefix(PREFACE).unwrap_or(&bytes);
        let mut frames = vec![];
        while let Some(frame) = Frame::read(rest).unwrap() {
            frames.push((frame.header, frame.payload.to_vec()));
            rest = &rest[FRAME_HEADER + frame.payload.len()..];
        }
        assert!(rest.is_empty(), "{rest:?}");
        frames
    }

    /// The streams that it hears are reset, with the codes.
    fn resets(&self) -> Vec<(u32, u32)> {
        let frames = self.hears().into_iter().filter(|(header, _)| header.kind == FrameKind::Reset);
        frames.map(|(header, payload)| (header.stream, reset(&payload).unwrap())).collect()
    }

    fn open(&self, ends: bool) -> OpenStream {
        self.channel.open(false, ends, |out| out.push(0x82)).unwrap()
    }

    /// A GET that it has heard.
    fn get(&self) -> OpenStream {
        let stream = self.open(true);
        self.hears();
        stream
    }

    /// Streams that are open or held.
    fn streams(&self) -> usize {
        self.channel.state.borrow().mux.streams.len()
    }
}

/// The status and the declared length of the head that came.
fn status(stream: &OpenStream) -> Option<Result<u16, Failure>> {
    now(stream.poll_head(&cx())).map(|head| head.map(|parsed| parsed.head.status()))
}

/// What came of a body: its data up to its end, or to why there is none, and whether it has ended.
fn body(stream: &mut OpenStream) -> (String, Result<bool, Failure>) {
    let mut text = String::new();
    loop {
        match stream.poll_body(&cx()) {
            Poll::Ready(Ok(Came::Data)) => {
                text += std::str::from_utf8(stream.data()).unwrap();
                stream.consume(stream.data().len());
            }
            Poll::Ready(Ok(Came::End(_))) => return (text, Ok(true)),
            Poll::Ready(Err(failure)) => return (text, Err(failure)),
            Poll::Pending => return (text, Ok(false)),
        }
    }
}

const WRONG_LENGTH: Failure = Failure::Malformed(ResponseError::Framing(FramingError::Length));

fn closed(kind: std::io::ErrorKind) -> Failure {
    Failure::Closed(kind)
}

#[test]
fn the_first_request_goes_out_with_our_first_words() {
    let peer = Peer::with(LIMITS);
    let _stream = peer.open(true);
    let bytes = peer.bytes();
    assert!(bytes.starts_with(PREFACE));
    let peer = Peer::with(LIMITS);
    let _stream = peer.open(true);
    let said: Vec<_> =
        peer.hears().iter().map(|(header, _)| (header.kind, header.flags, header.stream)).collect();
    let expect =
        [(FrameKind::Settings, 0, 0), (FrameKind::WindowUpdate, 0, 0), (FrameKind::Headers, END | WHOLE, 1)];
    assert_eq!(said, expect);
}
