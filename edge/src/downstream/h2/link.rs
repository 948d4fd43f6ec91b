//! What the tasks of a connection share: its streams, its windows, and what waits to be written.
//!
//! Nothing here waits for anything: a task that finds no room is woken when there is some.

use std::{
    cell::RefCell,
    collections::VecDeque,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use tokio::io::AsyncWrite;

use super::{
    floods::Floods,
    streams::{Closed, Stream, Streams, Window},
};
use crate::{
    body::Outbox,
    buffer::{give_outgoing, take_outgoing},
    h1::Fields,
    h2::{
        Code, FIRST_WINDOW, FRAME, FRAME_HEADER, Fault, FrameKind, MOST, Settings, flags, hpack::Encoder,
        write_frame_header, write_goaway, write_ping, write_reset, write_settings_ack, write_window_update,
    },
    limits::{LARGE_BUFFER, Limits},
    worker::Thread,
};

/// Bytes that wait to be written, above which streams wait, too: with one more frame that is a large buffer.
const FULL: usize = LARGE_BUFFER - FRAME;

/// Bytes that wait to be written, above which no more is read: answers to PING, SETTINGS and the like, of a client that
/// takes none of them.
const CHOKED: usize = 2 * LARGE_BUFFER;

/// What is written belongs to a stream that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gone;

/// What the tasks of a connection share.
pub(crate) struct Link {
    pub(super) thread: Rc<Thread>,
    state: RefCell<State>,
}

struct State {
    out: Outbox,
    /// How often some of the buffer was written: what is still in it and was put there before can be changed no more.
    turn: u64,
    /// Bytes of frames that were put into the buffer.
    sent: u64,
    encoder: Encoder,
    streams: Streams,
    /// Tasks of streams, those among them whose streams have ended.
    tasks: usize,
    /// Streams that have data and wait for their turn, the first of which is next.
    turns: VecDeque<u32>,
    /// Streams that wait for room for a head.
    waiting: Vec<u32>,
    /// What the client takes on all streams together.
    window: i64,
    /// What it takes on a new one.
    first_window: u32,
    receive: Window,
    floods: Floods,
    /// The connection's task.
    waker: Option<Waker>,
    /// It was woken and has not run since.
    woken: bool,
}

impl Link {
    pub(super) fn new(thread: Rc<Thread>) -> Rc<Self> {
        let window = thread.limits.h2_connection_window.max(FIRST_WINDOW);
        Rc::new(Self {
            thread,
            state: RefCell::new(State {
                out: Outbox::default(),
                turn: 0,
                sent: 0,
                encoder: Encoder::default(),
                streams: Streams::default(),
                tasks: 0,
                turns: VecDeque::new(),
                waiting: Vec::new(),
                window: FIRST_WINDOW.into(),
                first_window: FIRST_WINDOW,
                receive: Window::new(window),
                floods: Floods::default(),
                waker: None,
                woken: false,
            }),
        })
    }

    fn limits(&self) -> &Limits {
        &self.thread.limits
    }

    /// The task of `cx` is the connection's; it looks at everything now.
    pub(super) fn attend(&self, cx: &Context<'_>) {
        let state = &mut *self.state.borrow_mut();
        state.woken = false;
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
    }

    /// Streams that are open.
    pub(super) fn open_streams(&self) -> usize {
        self.state.borrow().streams.len()
    }

    /// Whether the client must be read no further: it takes nothing of what it asks for, or what it took back is still being
    /// cancelled.
    pub(super) fn is_choked(&self) -> bool {
        let state = self.state.borrow();
        let most = usize::try_from(self.limits().h2_streams).unwrap_or(usize::MAX);
        state.out.len() >= CHOKED || state.tasks >= most.saturating_mul(2)
    }

    /// Bytes that are held for the client: what waits to be written, and what it sent of bodies that was not taken yet.
    pub(super) fn held(&self) -> usize {
        let state = self.state.borrow();
        let window = self.limits().h2_connection_window.max(FIRST_WINDOW);
        let bodies = usize::try_from(state.receive.held(window)).unwrap_or(usize::MAX);
        state.out.bytes.capacity().saturating_add(bodies)
    }

    /// Appends frames of the connection.
    pub(super) fn control(&self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.state.borrow_mut().out.bytes);
    }

    /// Appends GOAWAY.
    pub(super) fn goaway(&self, last: u32, code: Code) {
        self.control(|out| write_goaway(out, last, code));
    }

    /// Writes what waits, as far as the client takes it. Ready when that is all.
    pub(super) fn poll_flush(
        &self,
        cx: &mut Context<'_>,
        io: Pin<&mut impl AsyncWrite>,
    ) -> Poll<std::io::Result<()>> {
        let state = &mut *self.state.borrow_mut();
        if state.out.is_empty() {
            return Poll::Ready(Ok(()));
        }
        state.turn += 1;
        let flushed = state.out.poll_write(cx, io);
        state.out.compact();
        if state.out.is_empty() {
            // Another connection of the thread may need it meanwhile.
            give_outgoing(std::mem::take(&mut state.out.bytes));
        }
        state.make_room();
        flushed
    }

    /// Bytes that wait to be written.
    pub(super) fn unwritten(&self) -> usize {
        self.state.borrow().out.len()
    }

    /// Ends all streams.
    pub(super) fn abandon(&self) {
        self.state.borrow_mut().streams.abandon();
    }

    // What the client says.

    /// Opens a stream.
    pub(super) fn open(
        self: &Rc<Self>,
        id: u32,
        declared: Option<u64>,
        ended: bool,
        settled: bool,
    ) -> OpenStream {
        let state = &mut *self.state.borrow_mut();
        let size = self.limits().h2_stream_window;
        let receive = if settled { Window::new(size) } else { Window::unsettled(size) };
        state.streams.open(Stream::new(id, declared, ended, receive, state.first_window));
        state.tasks += 1;
        OpenStream { link: Rc::clone(self), id }
    }

    /// Whether that stream is open, and if so whether the client's side has ended.
    pub(super) fn is_ended(&self, id: u32) -> Option<bool> {
        self.state.borrow_mut().streams.find(id).map(|stream| stream.ended)
    }

    pub(super) fn how_closed(&self, id: u32) -> Option<Closed> {
        self.state.borrow().streams.how_closed(id)
    }

    /// Resets a stream through the client's fault.
    ///
    /// # Errors
    /// It did that too often.
    pub(super) fn fault(&self, id: u32, code: Code) -> Result<(), Fault> {
        let state = &mut *self.state.borrow_mut();
        state.reset(id, code);
        if state.floods.local_reset(self.limits()) { Err(CALM) } else { Ok(()) }
    }

    /// Refuses a stream before it is opened (RFC 9113 section 8.7): it may be asked for again.
    pub(super) fn refuse(&self, id: u32) {
        let state = &mut *self.state.borrow_mut();
        state.streams.remember(id, Closed::ByUs);
        write_reset(&mut state.out.bytes, id, Code::RefusedStream);
    }

    /// A DATA frame of that size came, `data` among it. The stream's number was used before.
    pub(super) fn data(&self, id: u32, size: u32, data: &[u8], ends: bool) -> Result<(), Fault> {
        let state = &mut *self.state.borrow_mut();
        if !state.receive.receive(size) {
            return Err(Fault::Connection(Code::FlowControlError));
        }
        let Some(stream) = state.streams.find(id) else {
            state.give_back(size);
            return match state.streams.how_closed(id) {
                Some(Closed::ByClient) => Err(Fault::Connection(Code::StreamClosed)),
                Some(Closed::ByUs) | None => state.small_frame(&self.thread),
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
            state.give_back(size);
            return Err(Fault::Stream(code));
        }
        stream.empty_frames = if data.is_empty() && !ends { stream.empty_frames + 1 } else { 0 };
        if stream.empty_frames > self.limits().h2_empty_frames {
            return Err(CALM);
        }
        stream.ended = ends;
        stream.body.extend(data);
        if size > length {
            // Padding is nobody's.
            state.take(id, size - length);
        }
        if let Some(stream) = state.streams.find(id) {
            stream.wake();
        }
        Ok(())
    }

    /// Trailers came, which end the client's side.
    pub(super) fn trailers(&self, id: u32, trailers: Fields) -> Result<(), Fault> {
        let state = &mut *self.state.borrow_mut();
        let Some(stream) = state.streams.find(id) else { return Ok(()) };
        if stream.declared.is_some_and(|declared| declared != stream.received) {
            return Err(Fault::Stream(Code::ProtocolError));
        }
        stream.trailers = trailers;
        stream.ended = true;
        stream.wake();
        Ok(())
    }

    /// RST_STREAM came.
    pub(super) fn reset_by_client(&self, id: u32) -> Result<(), Fault> {
        let state = &mut *self.state.borrow_mut();
        let answered = match state.close(id, Closed::ByClient) {
            Some(stream) => stream.answered,
            None => {
                state.streams.forget(id);
                true
            }
        };
        let now = self.thread.clock.now_ms();
        if state.floods.reset(answered, self.limits(), now) { Err(CALM) } else { Ok(()) }
    }

    /// The client takes more, on a stream or (0) on the connection.
    pub(super) fn window_update(&self, id: u32, increment: u32) -> Result<(), Fault> {
        let state = &mut *self.state.borrow_mut();
        if id == 0 {
            state.window += i64::from(increment);
            if state.window > i64::from(MOST) {
                return Err(Fault::Connection(Code::FlowControlError));
            }
            state.make_room();
        } else if let Some(stream) = state.streams.find(id) {
            stream.send += i64::from(increment);
            if stream.send > i64::from(MOST) {
                return Err(Fault::Stream(Code::FlowControlError));
            }
            stream.wake();
        }
        state.small_frame(&self.thread)
    }

    /// A frame came that asks for nothing.
    pub(super) fn small_frame(&self) -> Result<(), Fault> {
        self.state.borrow_mut().small_frame(&self.thread)
    }

    pub(super) fn ping(&self, payload: &[u8]) -> Result<(), Fault> {
        let state = &mut *self.state.borrow_mut();
        write_ping(&mut state.out.bytes, flags::ACK, payload);
        let now = self.thread.clock.now_ms();
        if state.floods.ping(state.sent, self.limits(), now) { Err(CALM) } else { Ok(()) }
    }

    /// The client's settings hold from now on (RFC 9113 section 6.5.3).
    pub(super) fn settings(&self, settings: Settings) -> Result<(), Fault> {
        let state = &mut *self.state.borrow_mut();
        if let Some(window) = settings.initial_window {
            let change = i64::from(window) - i64::from(state.first_window);
            state.first_window = window;
            for stream in state.streams.iter() {
                stream.send += change;
                if stream.send > i64::from(MOST) {
                    return Err(Fault::Connection(Code::FlowControlError));
                }
                stream.wake();
            }
        }
        // Frames of the least size that there is do for everybody.
        write_settings_ack(&mut state.out.bytes);
        let now = self.thread.clock.now_ms();
        if state.floods.settings(self.limits(), now) { Err(CALM) } else { Ok(()) }
    }
}

/// Too much of what costs a client nothing.
pub(super) const CALM: Fault = Fault::Connection(Code::EnhanceYourCalm);

impl State {
    fn wake(&mut self) {
        if !std::mem::replace(&mut self.woken, true)
            && let Some(waker) = &self.waker
        {
            waker.wake_by_ref();
        }
    }

    fn small_frame(&mut self, thread: &Thread) -> Result<(), Fault> {
        let now = thread.clock.now_ms();
        if self.floods.small_frame(self.sent, &thread.limits, now) { Err(CALM) } else { Ok(()) }
    }

    /// Bytes of bodies are taken, or will never be: the client may send as many more.
    fn give_back(&mut self, bytes: u32) {
        if let Some(increment) = self.receive.take(bytes) {
            write_window_update(&mut self.out.bytes, 0, increment);
            self.wake();
        }
    }

    /// Bytes of a stream's body are taken.
    fn take(&mut self, id: u32, bytes: u32) {
        if let Some(stream) = self.streams.find(id)
            && let Some(increment) = stream.receive.take(bytes)
            && !stream.ended
        {
            write_window_update(&mut self.out.bytes, id, increment);
            self.wake();
        }
        self.give_back(bytes);
    }

    /// Ends a stream; its task is woken.
    fn close(&mut self, id: u32, how: Closed) -> Option<Box<Stream>> {
        let stream = self.streams.close(id, how)?;
        stream.wake();
        self.give_back(u32::try_from(stream.body.len()).unwrap_or(u32::MAX));
        if stream.queued {
            let was_next = self.turns.front() == Some(&id);
            self.turns.retain(|queued| *queued != id);
            if was_next {
                self.next_turn();
            }
        }
        Some(stream)
    }

    /// Resets a stream.
    fn reset(&mut self, id: u32, code: Code) {
        let ended = self.streams.find(id).is_some_and(|stream| stream.ended);
        let how = if ended { Closed::ByClient } else { Closed::ByUs };
        if self.close(id, how).is_none() && self.streams.how_closed(id).is_none() {
            self.streams.remember(id, how);
        }
        write_reset(&mut self.out.bytes, id, code);
        self.wake();
    }

    fn is_full(&self) -> bool {
        self.out.len() >= FULL
    }

    /// Wakes those who wait for room, if there is some.
    fn make_room(&mut self) {
        if self.is_full() {
            return;
        }
        for id in std::mem::take(&mut self.waiting) {
            if let Some(stream) = self.streams.find(id) {
                stream.wake();
            }
        }
        self.next_turn();
    }

    /// Wakes the stream whose turn it is, if it can send something.
    fn next_turn(&mut self) {
        if !self.is_full()
            && self.window > 0
            && let Some(id) = self.turns.front()
            && let Some(stream) = self.streams.find(*id)
        {
            stream.wake();
        }
    }

    /// The stream leaves the queue, if it is there; the next one may send.
    fn leave_queue(&mut self, id: u32) {
        if self.turns.front() == Some(&id) {
            self.turns.pop_front();
            if let Some(stream) = self.streams.find(id) {
                stream.queued = false;
            }
            self.next_turn();
        }
    }

    /// Appends the header of a frame of an open stream, which can be changed until some of the buffer is written.
    fn begin_frame(&mut self, id: u32, length: usize, kind: FrameKind, flags: u8) {
        if self.out.bytes.capacity() == 0 {
            self.out.bytes = take_outgoing();
        }
        let place = (self.turn, self.out.bytes.len() + 4);
        write_frame_header(&mut self.out.bytes, length, kind, flags, id);
        self.sent += (FRAME_HEADER + length) as u64;
        if let Some(stream) = self.streams.find(id) {
            stream.last_frame = Some(place);
        }
    }

    /// Appends a field block as HEADERS and as many CONTINUATIONs as it takes.
    fn section(&mut self, id: u32, ends: bool, encode: impl FnOnce(&mut Vec<u8>)) {
        let begin = self.out.bytes.len();
        let flags = if ends { flags::END_STREAM | flags::END_HEADERS } else { flags::END_HEADERS };
        self.begin_frame(id, 0, FrameKind::Headers, flags);
        self.encoder.begin(&mut self.out.bytes);
        encode(&mut self.out.bytes);
        let length = self.out.bytes.len() - begin - FRAME_HEADER;
        self.sent += length as u64;
        let mut header = Vec::with_capacity(FRAME_HEADER);
        if length <= FRAME {
            write_frame_header(&mut header, length, FrameKind::Headers, flags, id);
            self.out.bytes[begin..begin + FRAME_HEADER].copy_from_slice(&header);
            return;
        }
        let block = self.out.bytes.split_off(begin + FRAME_HEADER);
        self.out.bytes.truncate(begin);
        let mut parts = block.chunks(FRAME).peekable();
        let mut kind = FrameKind::Headers;
        while let Some(part) = parts.next() {
            let mut flags = if kind == FrameKind::Headers { flags & flags::END_STREAM } else { 0 };
            if parts.peek().is_none() {
                flags |= flags::END_HEADERS;
            }
            write_frame_header(&mut self.out.bytes, part.len(), kind, flags, id);
            self.out.bytes.extend_from_slice(part);
            kind = FrameKind::Continuation;
        }
    }
}

/// A stream as its task has it. Whoever drops it before its end resets it: what was cut off must not look complete.
pub(super) struct OpenStream {
    link: Rc<Link>,
    id: u32,
}

impl OpenStream {
    pub(super) fn link(&self) -> &Rc<Link> {
        &self.link
    }

    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// The task of `cx` serves the stream. Whether it is still there.
    pub(super) fn attend(&self, cx: &Context<'_>) -> bool {
        let found = self.link.state.borrow_mut().streams.find(self.id).map(|stream| stream.attend(cx));
        found.is_some()
    }

    /// Ready when there is room for a head or trailers.
    pub(super) fn poll_room(&self) -> Poll<Result<(), Gone>> {
        let state = &mut *self.link.state.borrow_mut();
        if state.streams.find(self.id).is_none() {
            return Poll::Ready(Err(Gone));
        }
        if state.is_full() {
            state.waiting.push(self.id);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes the final head.
    pub(super) fn head(&self, encode: impl FnOnce(&mut Vec<u8>)) {
        let state = &mut *self.link.state.borrow_mut();
        if let Some(stream) = state.streams.find(self.id) {
            stream.answered = true;
            state.floods.answered(self.link.limits());
            state.section(self.id, false, encode);
            state.wake();
        }
    }

    /// Writes trailers, which end the stream.
    pub(super) fn trailers(&self, encode: impl FnOnce(&mut Vec<u8>)) {
        let state = &mut *self.link.state.borrow_mut();
        if let Some(stream) = state.streams.find(self.id) {
            stream.finished = true;
            state.section(self.id, true, encode);
            state.wake();
        }
    }

    /// Writes a frame of data. How many bytes it took; pending until the client, or the connection, takes more.
    pub(super) fn poll_data(&self, data: &[u8]) -> Poll<Result<usize, Gone>> {
        let state = &mut *self.link.state.borrow_mut();
        let window = state.window;
        let full = state.is_full();
        let Some(stream) = state.streams.find(self.id) else { return Poll::Ready(Err(Gone)) };
        if stream.send <= 0 {
            state.leave_queue(self.id);
            return Poll::Pending;
        }
        let first = state.turns.front().is_none_or(|first| *first == self.id);
        if full || window <= 0 || !first {
            if !std::mem::replace(&mut stream.queued, true) {
                state.turns.push_back(self.id);
            }
            return Poll::Pending;
        }
        let most = usize::try_from(stream.send.min(window)).unwrap_or(0).min(FRAME);
        let count = data.len().min(most);
        let sent = i64::try_from(count).unwrap_or(i64::MAX);
        stream.send -= sent;
        state.window -= sent;
        state.begin_frame(self.id, count, FrameKind::Data, 0);
        state.out.bytes.extend_from_slice(&data[..count]);
        state.leave_queue(self.id);
        state.wake();
        Poll::Ready(Ok(count))
    }

    /// Ends our side: by its last frame if that was not written yet, or by one of its own.
    pub(super) fn finish(&self) {
        let state = &mut *self.link.state.borrow_mut();
        let turn = state.turn;
        let Some(stream) = state.streams.find(self.id) else { return };
        if std::mem::replace(&mut stream.finished, true) {
            return;
        }
        match stream.last_frame.filter(|(written, _)| *written == turn) {
            Some((_, place)) => {
                if let Some(flags) = state.out.bytes.get_mut(place) {
                    *flags |= flags::END_STREAM;
                }
            }
            None => state.begin_frame(self.id, 0, FrameKind::Data, flags::END_STREAM),
        }
        state.wake();
    }

    /// Resets the stream.
    pub(super) fn reset(&self, code: Code) {
        let state = &mut *self.link.state.borrow_mut();
        if state.streams.find(self.id).is_some() {
            state.reset(self.id, code);
        }
    }

    /// What came of the request's body: at most `most` bytes, which `take` gets. Pending if nothing did.
    pub(super) fn poll_body(&self, most: usize, mut take: impl FnMut(&[u8])) -> Poll<Result<Came, Gone>> {
        self.link.poll_body(self.id, most, &mut take)
    }
}

/// What came of a request's body.
pub(super) enum Came {
    Data(usize),
    End(Fields),
}

impl Link {
    /// Writes an interim head, if there is room.
    pub(super) fn interim(&self, id: u32, encode: impl FnOnce(&mut Vec<u8>)) {
        let state = &mut *self.state.borrow_mut();
        if !state.is_full() && state.streams.find(id).is_some_and(|stream| !stream.answered) {
            state.section(id, false, encode);
            state.wake();
        }
    }

    /// As [`OpenStream::poll_body`].
    pub(super) fn poll_body(
        &self,
        id: u32,
        most: usize,
        take: &mut impl FnMut(&[u8]),
    ) -> Poll<Result<Came, Gone>> {
        let state = &mut *self.state.borrow_mut();
        let Some(stream) = state.streams.find(id) else { return Poll::Ready(Err(Gone)) };
        if stream.body.is_empty() {
            if stream.ended {
                return Poll::Ready(Ok(Came::End(std::mem::take(&mut stream.trailers))));
            }
            return Poll::Pending;
        }
        let count = stream.body.len().min(most);
        let (first, second) = stream.body.as_slices();
        let (first, second) =
            (&first[..first.len().min(count)], &second[..count.saturating_sub(first.len())]);
        take(first);
        if !second.is_empty() {
            take(second);
        }
        stream.body.drain(..count);
        state.take(id, u32::try_from(count).unwrap_or(u32::MAX));
        Poll::Ready(Ok(Came::Data(count)))
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let state = &mut *self.link.state.borrow_mut();
        state.tasks -= 1;
        if let Some(stream) = state.streams.find(self.id) {
            match (stream.finished, stream.ended) {
                (true, true) => drop(state.close(self.id, Closed::ByClient)),
                // The answer needs no more of the request (RFC 9113 section 8.1).
                (true, false) => state.reset(self.id, Code::NoError),
                (false, _) => state.reset(self.id, Code::InternalError),
            }
        }
        // It may wait for the last stream, or for tasks to end.
        state.wake();
    }
}
