//! Frames as the two ends of a WebSocket make and read them, and an upstream that accepts.

use std::{
    io::Read,
    sync::mpsc::{self, Receiver},
};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine, prelude::BASE64_STANDARD};

use crate::support::{Exchange, PATIENCE, Upstream};

pub(super) const TEXT: u8 = 0x81;
pub(super) const TEXT_BEGINS: u8 = 0x01;
pub(super) const CONTINUES_AND_ENDS: u8 = 0x80;
pub(super) const CLOSE: u8 = 0x88;
pub(super) const GOING_AWAY: u16 = 1001;

/// A frame as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) first: u8,
    pub(super) masked: bool,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    /// `None` at the end of the stream.
    pub(super) fn read(stream: &mut impl Read) -> Option<Self> {
        let mut head = [0; 2];
        stream.read_exact(&mut head).ok()?;
        let masked = head[1] & 0x80 != 0;
        let mut mask = [0; 4];
        if masked {
            stream.read_exact(&mut mask).ok()?;
        }
        let length = usize::from(head[1] & 0x7f);
        assert!(length < 126, "these tests say little");
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).ok()?;
        payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        Some(Self { first: head[0], masked, payload })
    }

    pub(super) fn close_code(&self) -> Option<u16> {
        let code = self.payload.first_chunk().map(|code| u16::from_be_bytes(*code));
        (self.first == CLOSE).then(|| code.unwrap_or(1005))
    }
}

pub(super) fn frame(first: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut bytes = vec![first, u8::try_from(payload.len()).unwrap()];
    match mask {
        None => bytes.extend(payload),
        Some(mask) => {
            bytes[1] |= 0x80;
            bytes.extend(mask);
            bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        }
    }
    bytes
}

/// What a client sends.
pub(super) fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    frame(first, payload, Some([1, 2, 3, 4]))
}

pub(super) fn close(code: u16) -> Vec<u8> {
    frame(CLOSE, &code.to_be_bytes(), None)
}

/// An upstream that accepts WebSockets, answers as `answer` says, and tells what frames it got.
pub(super) fn upstream(
    answer: impl Fn(&mut Exchange, &Frame) + Send + Sync + 'static,
) -> (Upstream, Receiver<Option<Frame>>) {
    let (tell, told) = mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let upstream = Upstream::raw(move |exchange| {
        let request = loop {
            let Some(request) = exchange.head() else { return };
            if request.header("upgrade").is_some() {
                break request;
            }
            exchange.reply("no WebSocket");
        };
        let answered =
            format!("{}258EAFA5-E914-47DA-95CA-C5AB0DC85B11", request.header("sec-websocket-key").unwrap());
        let accept = BASE64_STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, answered.as_bytes()));
        exchange.send(format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
        ));
        loop {
            let frame = Frame::read(&mut exchange.stream);
            drop(tell.lock().unwrap().send(frame.clone()));
            match &frame {
                Some(frame) => answer(exchange, frame),
                None => return,
            }
        }
    });
    (upstream, told)
}

/// Says each frame again, and answers a Close with that code.
pub(super) fn echo(code: u16) -> impl Fn(&mut Exchange, &Frame) + Send + Sync + 'static {
    move |exchange, got| {
        if got.first == CLOSE {
            exchange.send(close(code));
            exchange.close();
        } else {
            exchange.send(frame(got.first, &got.payload, None));
        }
    }
}

pub(super) fn next(told: &Receiver<Option<Frame>>) -> Option<Frame> {
    told.recv_timeout(PATIENCE).expect("the upstream got nothing")
}
