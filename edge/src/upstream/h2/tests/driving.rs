//! The connection's task.

use std::{future::poll_fn, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    task::JoinHandle,
};

use super::*;
use crate::upstream::h2::run;

/// A connection that is driven, and the upstream's end of it.
struct Driven {
    channel: Rc<Channel>,
    clock: Rc<Clock>,
    began: Instant,
    io: DuplexStream,
    task: JoinHandle<()>,
}

impl Driven {
    /// Between the two there is room for so many bytes.
    fn new(room: usize) -> Self {
        let Peer { channel, clock, began, .. } = Peer::with(LIMITS);
        let (ours, io) = duplex(room);
        let address: SocketAddr = ([127, 0, 0, 1], 1).into();
        let task = tokio::task::spawn_local(run(Rc::clone(&channel), ours, address, clock.timer()));
        Self { channel, clock, began, io, task }
    }

    fn open(&self) -> OpenStream {
        self.channel.open(false, true, |out| out.push(0x82)).unwrap()
    }

    async fn says(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.unwrap();
    }

    /// All that it hears until the end.
    async fn rest(&mut self) -> Vec<u8> {
        let mut bytes = vec![];
        self.io.read_to_end(&mut bytes).await.unwrap();
        bytes
    }
}

async fn answer(stream: &OpenStream) -> Result<u16, Failure> {
    poll_fn(|cx| stream.poll_head(cx)).await.map(|parsed| parsed.head.status())
}

fn local(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

/// The last frame of `bytes`: GOAWAY, with its code.
fn goodbye(bytes: &[u8]) -> u32 {
    let last = &bytes[bytes.len() - 17..];
    assert_eq!(last[..13], [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    reset(&last[13..]).unwrap()
}

#[test]
fn a_connection_that_nobody_holds_says_goodbye() {
    local(async {
        let mut driven = Driven::new(1 << 16);
        driven.says(&settings(&[])).await;
        let stream = driven.open();
        driven.says(&ok(1, END)).await;
        assert_eq!(answer(&stream).await, Ok(200));
        drop(stream);
        driven.channel.leave();
        assert_eq!(goodbye(&driven.rest().await), Code::NoError.value());
        driven.task.await.unwrap();
    });
}

#[test]
fn whoever_breaks_the_rules_is_told_which() {
    local(async {
        let mut driven = Driven::new(1 << 16);
        let stream = driven.open();
        tokio::task::yield_now().await;
        driven.says(&[settings(&[]), more(0, 0)].concat()).await;
        assert_eq!(answer(&stream).await, Err(closed(std::io::ErrorKind::InvalidData)));
        assert_eq!(driven.channel.most_streams(), 0);
        assert_eq!(goodbye(&driven.rest().await), Code::ProtocolError.value());
        driven.task.await.unwrap();
    });
}

#[test]
fn what_was_never_written_may_be_sent_elsewhere() {
    local(async {
        // The first request fills the way; of the second nothing goes.
        let mut driven = Driven::new(16);
        let first = driven.open();
        tokio::task::yield_now().await;
        let second = driven.open();
        driven.io.shutdown().await.unwrap();
        assert_eq!(answer(&second).await, Err(Failure::Refused));
        assert_eq!(answer(&first).await, Err(Failure::Refused), "16 bytes of the preface are no request");
        driven.task.await.unwrap();
        let mut driven = Driven::new(1 << 16);
        let first = driven.open();
        let mut bytes = [0; 24];
        driven.io.read_exact(&mut bytes).await.unwrap();
        driven.io.shutdown().await.unwrap();
        assert_eq!(answer(&first).await, Err(closed(std::io::ErrorKind::UnexpectedEof)));
    });
}

#[test]
fn an_upstream_that_takes_no_goodbye_is_left() {
    local(async {
        let driven = Driven::new(16);
        drop(driven.open());
        tokio::task::yield_now().await;
        driven.channel.leave();
        tokio::task::yield_now().await;
        assert!(!driven.task.is_finished());
        driven.clock.sweep(driven.began + std::time::Duration::from_secs(3));
        driven.task.await.unwrap();
        drop(driven.io);
    });
}

#[test]
fn much_goes_both_ways() {
    local(async {
        let mut driven = Driven::new(1000);
        let mut stream = driven.channel.open(false, false, |out| out.push(0x83)).unwrap();
        let body: Vec<_> = (0..300_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let expected = body.clone();
        let asking = async {
            let mut sent = 0;
            while sent < body.len() {
                sent += poll_fn(|cx| stream.poll_write(cx, &body[sent..])).await.unwrap();
            }
            stream.finish(&Fields::new());
            assert_eq!(answer(&stream).await, Ok(200));
            let mut back = vec![];
            while let Ok(Came::Data) = poll_fn(|cx| stream.poll_body(cx)).await {
                back.extend_from_slice(stream.data());
                stream.consume(stream.data().len());
            }
            assert!(back == expected, "{} of {} bytes", back.len(), expected.len());
        };
        let answering = async {
            driven.says(&[settings(&[(WINDOW, 500_000)]), more(0, 500_000)].concat()).await;
            let (mut bytes, mut read) = (vec![], vec![0; 1000]);
            let mut whole = vec![];
            loop {
                let count = driven.io.read(&mut read).await.unwrap();
                bytes.extend_from_slice(&read[..count]);
                let skip = if bytes.starts_with(PREFACE) { PREFACE.len() } else { 0 };
                let Some(frame) = Frame::read(&bytes[skip..]).unwrap() else { continue };
                if frame.header.kind == FrameKind::Data {
                    whole.extend_from_slice(frame.payload);
                }
                let (ends, size) =
                    (frame.header.kind == FrameKind::Data && frame.header.has(END), frame.size());
                bytes.drain(..skip + size);
                if ends {
                    break;
                }
            }
            driven.says(&ok(1, 0)).await;
            let (mut window, mut left) = (LIMITS.upstream_stream_window as usize, &whole[..]);
            while !left.is_empty() {
                let count = left.len().min(7000).min(window);
                if count > 0 {
                    driven.says(&data(1, 0, &left[..count])).await;
                    left = &left[count..];
                    window -= count;
                    continue;
                }
                let count = driven.io.read(&mut read).await.unwrap();
                bytes.extend_from_slice(&read[..count]);
                while let Some(frame) = Frame::read(&bytes).unwrap() {
                    if frame.header.kind == FrameKind::WindowUpdate && frame.header.stream == 1 {
                        window += reset(frame.payload).unwrap() as usize;
                    }
                    let size = frame.size();
                    bytes.drain(..size);
                }
            }
            driven.says(&data(1, END, b"")).await;
        };
        tokio::join!(asking, answering);
    });
}
