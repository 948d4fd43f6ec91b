//! What the tasks of a connection share: its streams, its windows, and what waits to be written.
//!
//! Nothing here waits for anything: a task that finds no room is woken when there is some.

use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use tokio::io::AsyncWrite;

use super::floods::Floods;
use crate::{
    h1::Fields,
    h2::{Code, Fault, Settings, flags, write_ping, write_reset, write_settings_ack},
    limits::Limits,
    mux::{Arrival, CALM, Closed, Gone, Mux, Stream, Window},
    worker::Thread,
};

/// What the tasks of a connection share.
pub(crate) struct Link {
    pub(super) thread: Rc<Thread>,
    state: RefCell<State>,
}

/// What a server knows of a stream.
#[derive(Debug, Default)]
struct Served {
    /// The final head was written.
    answered: bool,
    /// It is a call of gRPC.
    grpc: bool,
}

struct State {
    mux: Mux<Served>,
    /// Tasks of streams, those among them whose streams have ended.
    tasks: usize,
    floods: Floods,
}

impl Link {
    pub(super) fn new(thread: Rc<Thread>) -> Rc<Self> {
        let mux = Mux::new(thread.limits.h2_connection_window);
        Rc::new(Self { thread, state: RefCell::new(State { mux, tasks: 0, floods: Floods::default() }) })
    }

    fn limits(&self) -> &Limits {
        &self.thread.limits
    }

    /// The task of `cx` is the connection's; it looks at everything now.
    pub(super) fn attend(&self, cx: &Context<'_>) {
        self.state.borrow_mut().mux.attend(cx);
    }

    /// Streams that are open.
    pub(super) fn open_streams(&self) -> usize {
        self.state.borrow().mux.streams.len()
    }

    /// Whether the client must be read no further: it takes nothing of what it asks for, or what it took back is still being
    /// cancelled.
    pub(super) fn is_choked(&self) -> bool {
        let state = self.state.borrow();
        let most = usize::try_from(self.limits().h2_streams).unwrap_or(usize::MAX);
        state.mux.is_choked() || state.tasks >= most.saturating_mul(2)
    }

    /// Bytes that are held for the client: what waits to be written, and what it sent of bodies that was not taken yet.
    pub(super) fn held(&self) -> usize {
        self.state.borrow().mux.held(self.limits().h2_connection_window)
    }

    /// Appends frames of the connection.
    pub(super) fn control(&self, write: impl FnOnce(&mut Vec<u8>)) {
        self.state.borrow_mut().mux.control(write);
    }

    /// Appends GOAWAY.
    pub(super) fn goaway(&self, last: u32, code: Code) {
        self.state.borrow_mut().mux.goaway(last, code);
    }

    /// Writes what waits, as far as the client takes it. Ready when that is all.
    pub(super) fn poll_flush(
        &self,
        cx: &mut Context<'_>,
        io: Pin<&mut impl AsyncWrite>,
    ) -> Poll<std::io::Result<()>> {
        self.state.borrow_mut().mux.poll_flush(cx, io)
    }

    /// Bytes that wait to be written.
    pub(super) fn unwritten(&self) -> usize {
        self.state.borrow().mux.unwritten()
    }

    /// Ends all streams, and says so on those that are still served: to calls of gRPC by a status, which `last_words` writes for a
    /// call that was answered already or was not, to all else by a reset. Whether there was anything to say.
    pub(super) fn cut_off(&self, last_words: impl Fn(&mut Vec<u8>, bool)) -> bool {
        let mux = &mut self.state.borrow_mut().mux;
        let open: Vec<_> = mux.streams.abandon().filter(|stream| !stream.finished).collect();
        for stream in &open {
            if stream.own.grpc {
                mux.section(stream.id, true, |out| last_words(out, stream.own.answered));
            } else {
                mux.write_reset(stream.id, Code::InternalError);
            }
        }
        !open.is_empty()
    }

    /// Ends all streams.
    pub(super) fn abandon(&self) {
        self.state.borrow_mut().mux.streams.abandon().for_each(drop);
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
        let mut stream = Stream::new(id, Served::default(), receive, state.mux.first_window());
        stream.declared = declared;
        stream.ended = ended;
        state.mux.streams.open(stream);
        state.tasks += 1;
        OpenStream { link: Rc::clone(self), id }
    }

    /// Whether that stream is open, and if so whether the client's side has ended.
    pub(super) fn is_ended(&self, id: u32) -> Option<bool> {
        self.state.borrow_mut().mux.streams.find(id).map(|stream| stream.ended)
    }

    pub(super) fn how_closed(&self, id: u32) -> Option<Closed> {
        self.state.borrow().mux.streams.how_closed(id)
    }

    /// Resets a stream through the client's fault.
    ///
    /// # Errors
    /// It did that too often.
    pub(super) fn fault(&self, id: u32, code: Code) -> Result<(), Fault> {
        let state = &mut *self.state.borrow_mut();
        state.mux.reset(id, code);
        if state.floods.local_reset(self.limits()) { Err(CALM) } else { Ok(()) }
    }

    /// Refuses a stream before it is opened (RFC 9113 section 8.7): it may be asked for again.
    pub(super) fn refuse(&self, id: u32) {
        let state = &mut *self.state.borrow_mut();
        state.mux.streams.remember(id, Closed::ByUs);
        state.mux.control(|out| write_reset(out, id, Code::RefusedStream));
    }

    /// A DATA frame of that size came, `data` among it. The stream's number was used before.
    pub(super) fn data(&self, id: u32, size: u32, data: &[u8], ends: bool) -> Result<(), Fault> {
        let state = &mut *self.state.borrow_mut();
        match state.mux.data(id, size, data, ends)? {
            Arrival::Empty(in_a_row) if in_a_row > self.limits().h2_empty_frames => Err(CALM),
            Arrival::Data | Arrival::Empty(_) => Ok(()),
            Arrival::Stray => state.small_frame(&self.thread),
        }
    }

    /// Trailers came, which end the client's side.
    pub(super) fn trailers(&self, id: u32, trailers: Fields) -> Result<(), Fault> {
        self.state.borrow_mut().mux.trailers(id, trailers)
    }

    /// RST_STREAM came.
    pub(super) fn reset_by_client(&self, id: u32) -> Result<(), Fault> {
        let state = &mut *self.state.borrow_mut();
        let answered = match state.mux.close(id, Closed::ByPeer) {
            Some(stream) => stream.own.answered,
            None => {
                state.mux.streams.forget(id);
                true
            }
        };
        let now = self.thread.clock.now_ms();
        if state.floods.reset(answered, self.limits(), now) { Err(CALM) } else { Ok(()) }
    }

    /// The client takes more, on a stream or (0) on the connection.
    pub(super) fn window_update(&self, id: u32, increment: u32) -> Result<(), Fault> {
        let state = &mut *self.state.borrow_mut();
        state.mux.window_update(id, increment)?;
        state.small_frame(&self.thread)
    }

    /// A frame came that asks for nothing.
    pub(super) fn small_frame(&self) -> Result<(), Fault> {
        self.state.borrow_mut().small_frame(&self.thread)
    }

    pub(super) fn ping(&self, payload: &[u8]) -> Result<(), Fault> {
        let state = &mut *self.state.borrow_mut();
        state.mux.control(|out| write_ping(out, flags::ACK, payload));
        let now = self.thread.clock.now_ms();
        if state.floods.ping(state.mux.sent(), self.limits(), now) { Err(CALM) } else { Ok(()) }
    }

    /// The client's settings hold from now on (RFC 9113 section 6.5.3).
    pub(super) fn settings(&self, settings: Settings) -> Result<(), Fault> {
        let state = &mut *self.state.borrow_mut();
        if let Some(window) = settings.initial_window {
            state.mux.resize_windows(window)?;
        }
        // Frames of the least size that there is do for everybody.
        state.mux.control(write_settings_ack);
        let now = self.thread.clock.now_ms();
        if state.floods.settings(self.limits(), now) { Err(CALM) } else { Ok(()) }
    }
}

impl State {
    fn small_frame(&mut self, thread: &Thread) -> Result<(), Fault> {
        let now = thread.clock.now_ms();
        if self.floods.small_frame(self.mux.sent(), &thread.limits, now) { Err(CALM) } else { Ok(()) }
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
        let state = &mut *self.link.state.borrow_mut();
        state.mux.streams.find(self.id).map(|stream| stream.attend(cx)).is_some()
    }

    /// It is a call of gRPC.
    pub(super) fn calls_by_grpc(&self) {
        if let Some(stream) = self.link.state.borrow_mut().mux.streams.find(self.id) {
            stream.own.grpc = true;
        }
    }

    /// Ready when there is room for a head or trailers.
    pub(super) fn poll_room(&self) -> Poll<Result<(), Gone>> {
        self.link.state.borrow_mut().mux.poll_room(self.id)
    }

    /// Writes the final head.
    pub(super) fn head(&self, encode: impl FnOnce(&mut Vec<u8>)) {
        let state = &mut *self.link.state.borrow_mut();
        if let Some(stream) = state.mux.streams.find(self.id) {
            stream.own.answered = true;
            state.floods.answered(self.link.limits());
            state.mux.section(self.id, false, encode);
        }
    }

    /// Writes trailers, which end the stream.
    pub(super) fn trailers(&self, encode: impl FnOnce(&mut Vec<u8>)) {
        let state = &mut *self.link.state.borrow_mut();
        if let Some(stream) = state.mux.streams.find(self.id) {
            stream.finished = true;
            state.mux.section(self.id, true, encode);
        }
    }

    /// Writes a frame of data. How many bytes it took; pending until the client, or the connection, takes more.
    pub(super) fn poll_data(&self, data: &[u8]) -> Poll<Result<usize, Gone>> {
        self.link.state.borrow_mut().mux.poll_data(self.id, data)
    }

    /// Ends our side: by its last frame if that was not written yet, or by one of its own.
    pub(super) fn finish(&self) {
        self.link.state.borrow_mut().mux.finish(self.id);
    }

    /// Resets the stream.
    pub(super) fn reset(&self, code: Code) {
        let state = &mut *self.link.state.borrow_mut();
        if state.mux.streams.find(self.id).is_some() {
            state.mux.reset(self.id, code);
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
        let mux = &mut self.state.borrow_mut().mux;
        if mux.has_room() && mux.streams.find(id).is_some_and(|stream| !stream.own.answered) {
            mux.section(id, false, encode);
        }
    }

    /// As [`OpenStream::poll_body`].
    pub(super) fn poll_body(
        &self,
        id: u32,
        most: usize,
        take: &mut impl FnMut(&[u8]),
    ) -> Poll<Result<Came, Gone>> {
        let mux = &mut self.state.borrow_mut().mux;
        let Some(stream) = mux.streams.find(id) else { return Poll::Ready(Err(Gone)) };
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
        mux.take(id, u32::try_from(count).unwrap_or(u32::MAX));
        Poll::Ready(Ok(Came::Data(count)))
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let state = &mut *self.link.state.borrow_mut();
        state.tasks -= 1;
        if let Some(stream) = state.mux.streams.find(self.id) {
            match (stream.finished, stream.ended) {
                (true, true) => drop(state.mux.close(self.id, Closed::ByPeer)),
                // The answer needs no more of the request (RFC 9113 section 8.1).
                (true, false) => state.mux.reset(self.id, Code::NoError),
                (false, _) => state.mux.reset(self.id, Code::InternalError),
            }
        }
        // It may wait for the last stream, or for tasks to end.
        state.mux.wake();
    }
}
