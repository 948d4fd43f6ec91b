//! What both ends of an HTTP/2 connection have in common: its streams, their windows, and what waits to be written
//! (RFC 9113 sections 5 and 6.9). `downstream::h2` is the server's side of it, `upstream::h2` the client's.
//!
//! Nothing here waits for anything: a task that finds no room is woken when there is some.

mod block;
mod rate;
mod sending;
mod streams;
mod window;

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use tokio::io::AsyncWrite;

pub(crate) use block::{Blocks, too_large};
pub(crate) use rate::{BYTES_PER_FRAME, Rate};
pub(crate) use streams::{Closed, Stream, Streams};
pub(crate) use window::Window;

use crate::{
    body::Outbox,
    buffer::give_outgoing,
    h1::Fields,
    h2::{
        Code, FIRST_WINDOW, FRAME, Fault, MOST, hpack::Encoder, write_goaway, write_reset,
        write_window_update,
    },
    limits::LARGE_BUFFER,
};

/// Bytes that wait to be written, above which streams wait, too: with one more frame that is a large buffer.
const FULL: usize = LARGE_BUFFER - FRAME;

/// Bytes that wait to be written, above which no more is read: answers to PING, SETTINGS and the like, of a peer that takes
/// none of them.
const CHOKED: usize = 2 * LARGE_BUFFER;

/// Too much of what costs a peer nothing.
pub(crate) const CALM: Fault = Fault::Connection(Code::EnhanceYourCalm);

/// What is written belongs to a stream that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gone;

/// What a DATA frame was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Data of an open stream, or the end of its body.
    Data,
    /// Nothing: so many in a row, on an open stream.
    Empty(u32),
    /// Of a stream that we have reset, or that ended long ago.
    Stray,
}

/// One end of a connection. `E` is what only that end knows of a stream.
pub(crate) struct Mux<E> {
    out: Outbox,
    pub(crate) streams: Streams<E>,
    /// How often some of the buffer was written: what is still in it and was put there before can be changed no more.
    turn: u64,
    /// Bytes that left the buffer.
    written: u64,
    /// Frames of streams that were put into the buffer, and their bytes.
    frames: u64,
    sent: u64,
    encoder: Encoder,
    /// Streams that have data and wait for their turn, the first of which is next.
    turns: VecDeque<u32>,
    /// The stream that was woken for its turn, and how often the connection's task has run since.
    called: Option<(u32, u32)>,
    /// Streams that wait for room for a head.
    waiting: Vec<u32>,
    /// What the peer takes on all streams together.
    window: i64,
    /// What it takes on a new one.
    first_window: u32,
    /// What it may send on all streams together.
    receive: Window,
    /// The connection's task.
    waker: Option<Waker>,
    /// It was woken and has not run since.
    woken: bool,
}

impl<E> Mux<E> {
    /// One whose peer may send so many bytes on all streams together.
    pub(crate) fn new(window: u32) -> Self {
        Self {
            out: Outbox::default(),
            streams: Streams::default(),
            turn: 0,
            written: 0,
            frames: 0,
            sent: 0,
            encoder: Encoder::default(),
            turns: VecDeque::new(),
            called: None,
            waiting: Vec::new(),
            window: FIRST_WINDOW.into(),
            first_window: FIRST_WINDOW,
            receive: Window::new(window.max(FIRST_WINDOW)),
            waker: None,
            woken: false,
        }
    }

    /// The task of `cx` is the connection's; it looks at everything now.
    pub(crate) fn attend(&mut self, cx: &Context<'_>) {
        self.woken = false;
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
        self.miss_turn();
    }

    /// Wakes the connection's task.
    pub(crate) fn wake(&mut self) {
        if !std::mem::replace(&mut self.woken, true)
            && let Some(waker) = &self.waker
        {
            waker.wake_by_ref();
        }
    }

    /// Whether the peer must be read no further: it takes nothing of what it asks for.
    pub(crate) fn is_choked(&self) -> bool {
        self.out.len() >= CHOKED
    }

    /// Bytes that are held for the peer: what waits to be written, and what it sent of bodies that was not taken yet, of a window
    /// of `window`.
    pub(crate) fn held(&self, window: u32) -> usize {
        let bodies = self.receive.held(window.max(FIRST_WINDOW));
        self.out.bytes.capacity().saturating_add(usize::try_from(bodies).unwrap_or(usize::MAX))
    }

    /// Bytes that wait to be written.
    pub(crate) fn unwritten(&self) -> usize {
        self.out.len()
    }

    /// Bytes of frames of streams that were put into the buffer, ever.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// How many such frames that were.
    pub(crate) fn frames(&self) -> u64 {
        self.frames
    }

    /// What a new stream's peer takes at first.
    pub(crate) fn first_window(&self) -> u32 {
        self.first_window
    }

    /// Where the next frame begins among all bytes of the connection.
    pub(crate) fn position(&self) -> u64 {
        self.written + self.out.len() as u64
    }

    /// Whether the byte at `position` is on its way.
    pub(crate) fn is_written(&self, position: u64) -> bool {
        self.written > position
    }

    /// Appends frames of the connection, whose task is awake.
    pub(crate) fn control(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.out.bytes);
    }

    /// Appends GOAWAY.
    pub(crate) fn goaway(&mut self, last: u32, code: Code) {
        self.control(|out| write_goaway(out, last, code));
    }

    /// Writes what waits, as far as the peer takes it. Ready when that is all.
    pub(crate) fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        io: Pin<&mut impl AsyncWrite>,
    ) -> Poll<std::io::Result<()>> {
        if self.out.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.turn += 1;
        let before = self.out.len();
        let flushed = self.out.poll_write(cx, io);
        self.written += (before - self.out.len()) as u64;
        self.out.compact();
        if self.out.is_empty() {
            // Another connection of the thread may need it meanwhile.
            give_outgoing(std::mem::take(&mut self.out.bytes));
        }
        self.make_room();
        flushed
    }

    /// A DATA frame of that size came, `data` among it. The stream's number was used before.
    ///
    /// # Errors
    /// There is no window for it, it is not what its head declared, or its stream has ended.
    pub(crate) fn data(&mut self, id: u32, size: u32, data: &[u8], ends: bool) -> Result<Arrival, Fault> {
        if !self.receive.receive(size) {
            return Err(Fault::Connection(Code::FlowControlError));
        }
        let Some(stream) = self.streams.find(id) else {
            self.give_back(size);
            return match self.streams.how_closed(id) {
                Some(Closed::ByPeer) => Err(Fault::Connection(Code::StreamClosed)),
                Some(Closed::ByUs) | None => Ok(Arrival::Stray),
            };
        };
        let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
        stream.received += u64::from(length);
        let fault = if stream.ended {
            Some(Code::StreamClosed)
        } else if !stream.receive.receive(size) {
            Some(Code::FlowControlError)
        } else {
            let declared = stream.declared.unwrap_or(stream.received);
            let wrong = stream.received > declared || ends && stream.received < declared;
            wrong.then_some(Code::ProtocolError)
        };
        if let Some(code) = fault {
            self.give_back(size);
            return Err(Fault::Stream(code));
        }
        stream.empty_frames = if data.is_empty() && !ends { stream.empty_frames + 1 } else { 0 };
        let arrival =
            if stream.empty_frames > 0 { Arrival::Empty(stream.empty_frames) } else { Arrival::Data };
        stream.ended = ends;
        stream.body.extend(data);
        stream.wake();
        if size > length {
            // Padding is nobody's.
            self.take(id, size - length);
        }
        Ok(arrival)
    }

    /// Trailers came, which end the peer's side.
    ///
    /// # Errors
    /// The body is shorter than its head declared.
    pub(crate) fn trailers(&mut self, id: u32, trailers: Fields) -> Result<(), Fault> {
        let Some(stream) = self.streams.find(id) else { return Ok(()) };
        if stream.declared.is_some_and(|declared| declared != stream.received) {
            return Err(Fault::Stream(Code::ProtocolError));
        }
        stream.trailers = trailers;
        stream.ended = true;
        stream.wake();
        Ok(())
    }

    /// The peer takes more, on a stream or (0) on the connection.
    ///
    /// # Errors
    /// More than a window can be (RFC 9113 section 6.9.1).
    pub(crate) fn window_update(&mut self, id: u32, increment: u32) -> Result<(), Fault> {
        if id == 0 {
            self.window += i64::from(increment);
            if self.window > i64::from(MOST) {
                return Err(Fault::Connection(Code::FlowControlError));
            }
            self.make_room();
        } else if let Some(stream) = self.streams.find(id) {
            stream.send += i64::from(increment);
            if stream.send > i64::from(MOST) {
                return Err(Fault::Stream(Code::FlowControlError));
            }
            stream.wake();
        }
        Ok(())
    }

    /// The peer takes so much at first, of streams that are open, too (RFC 9113 section 6.9.2).
    ///
    /// # Errors
    /// That is more than a window can be.
    pub(crate) fn resize_windows(&mut self, window: u32) -> Result<(), Fault> {
        let change = i64::from(window) - i64::from(self.first_window);
        self.first_window = window;
        for stream in self.streams.iter() {
            stream.send += change;
            if stream.send > i64::from(MOST) {
                return Err(Fault::Connection(Code::FlowControlError));
            }
            stream.wake();
        }
        Ok(())
    }

    /// Bytes of bodies are taken, or will never be: the peer may send as many more.
    pub(crate) fn give_back(&mut self, bytes: u32) {
        if let Some(increment) = self.receive.take(bytes) {
            self.control(|out| write_window_update(out, 0, increment));
            self.wake();
        }
    }

    /// Bytes of a stream's body are taken.
    pub(crate) fn take(&mut self, id: u32, bytes: u32) {
        if let Some(stream) = self.streams.find(id)
            && let Some(increment) = stream.receive.take(bytes)
            && !stream.ended
        {
            self.control(|out| write_window_update(out, id, increment));
            self.wake();
        }
        self.give_back(bytes);
    }

    /// Ends a stream; its task is woken. What came of its body is the caller's.
    pub(crate) fn end(&mut self, id: u32, how: Closed) -> Option<Box<Stream<E>>> {
        let stream = self.streams.close(id, how)?;
        stream.wake();
        if stream.queued {
            let was_next = self.turns.front() == Some(&id);
            self.turns.retain(|queued| *queued != id);
            if was_next {
                self.called = None;
                self.next_turn();
            }
        }
        Some(stream)
    }

    /// Ends a stream, of whose body nobody takes any more; its task is woken.
    pub(crate) fn close(&mut self, id: u32, how: Closed) -> Option<Box<Stream<E>>> {
        let stream = self.end(id, how)?;
        self.give_back(u32::try_from(stream.body.len()).unwrap_or(u32::MAX));
        Some(stream)
    }

    /// Resets a stream.
    pub(crate) fn reset(&mut self, id: u32, code: Code) {
        let ended = self.streams.find(id).is_some_and(|stream| stream.ended);
        let how = if ended { Closed::ByPeer } else { Closed::ByUs };
        if self.close(id, how).is_none() && self.streams.how_closed(id).is_none() {
            self.streams.remember(id, how);
        }
        self.write_reset(id, code);
    }

    /// Appends RST_STREAM.
    pub(crate) fn write_reset(&mut self, id: u32, code: Code) {
        self.control(|out| write_reset(out, id, code));
        self.frames += 1;
        self.wake();
    }
}
