//! What the streams of a connection to an upstream share with its task.
//!
//! A stream has ended here as soon as it has for the protocol. What its request has not seen of it yet waits in a list of its
//! own: the end of a whole response, or why there is none.

use std::{
    cell::RefCell,
    collections::VecDeque,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use tokio::{io::AsyncWrite, sync::Notify};

use super::{
    floods::{Floods, earned},
    stream::{Failure, OpenStream},
};
use crate::{
    clock::Clock,
    h1::{ParsedResponse, ResponseError},
    h2::{Code, FIRST_WINDOW, Fault, MOST, PREFACE, write_client_settings, write_window_update},
    limits::Limits,
    mux::{CALM, Closed, Mux, Stream, Window},
};

/// A connection as its streams and its task share it.
pub(crate) struct Channel {
    pub(super) limits: Limits,
    pub(super) clock: Rc<Clock>,
    /// Told when the upstream has said how many streams it takes, and when it takes no more.
    pub(super) changed: Rc<Notify>,
    pub(super) state: RefCell<State>,
}

/// What a client knows of a stream.
#[derive(Debug)]
pub(super) struct Asked {
    /// By HEAD: the answer has no body.
    pub(super) to_head: bool,
    /// Where its head begins among all that is written.
    position: u64,
    /// 1xx responses so far.
    pub(super) interim: u32,
    /// The final head came.
    pub(super) answered: bool,
    /// The final head, until it is taken.
    pub(super) head: Option<ParsedResponse>,
    /// Why there is no more to come, though the response has not ended.
    pub(super) failed: Option<Failure>,
}

#[expect(clippy::vec_box, reason = "streams that end are boxed already")]
pub(super) struct State {
    pub(super) mux: Mux<Asked>,
    /// Streams that have ended and whose requests still hold them.
    over: Vec<Box<Stream<Asked>>>,
    /// The next stream's number.
    pub(super) next: u32,
    /// Streams that the upstream takes at once, once it has said that.
    pub(super) most: Option<usize>,
    /// It takes no new streams.
    pub(super) is_retired: bool,
    /// Nobody holds it any more.
    is_left: bool,
    pub(super) floods: Floods,
    /// Frames that brought something.
    pub(super) useful: u64,
}

impl Channel {
    /// A connection that begins with our first words (RFC 9113 section 3.4).
    pub(crate) fn new(limits: Limits, clock: Rc<Clock>, changed: Rc<Notify>) -> Rc<Self> {
        let mut mux = Mux::new(limits.upstream_connection_window);
        let field_section = u32::try_from(limits.head_bytes).unwrap_or(u32::MAX);
        let more = limits.upstream_connection_window.min(MOST).saturating_sub(FIRST_WINDOW);
        mux.control(|out| {
            out.extend_from_slice(PREFACE);
            write_client_settings(out, limits.upstream_stream_window.min(MOST), field_section);
            if more > 0 {
                write_window_update(out, 0, more);
            }
        });
        let state = State {
            mux,
            over: Vec::new(),
            next: 1,
            most: None,
            is_retired: false,
            is_left: false,
            floods: Floods::default(),
            useful: 0,
        };
        Rc::new(Self { limits, clock, changed, state: RefCell::new(state) })
    }

    // For those who look for a place on it.

    /// Streams that it takes at once. One, until the upstream has said more: those above its bound are refused, each at the price
    /// of a retry (RFC 9113 section 5.1.2). Zero, if it takes no more.
    pub(crate) fn most_streams(&self) -> usize {
        let state = self.state.borrow();
        if state.is_retired { 0 } else { state.most.unwrap_or(1) }
    }

    /// Whether its upstream has not said yet how many streams it takes.
    pub(crate) fn is_unsaid(&self) -> bool {
        let state = self.state.borrow();
        !state.is_retired && state.most.is_none()
    }

    /// It gets no new streams.
    pub(crate) fn retire(&self) {
        if !std::mem::replace(&mut self.state.borrow_mut().is_retired, true) {
            self.changed.notify_waiters();
        }
    }

    /// Nobody holds it any more: it ends.
    pub(crate) fn leave(&self) {
        let state = &mut *self.state.borrow_mut();
        state.is_retired = true;
        state.is_left = true;
        state.mux.wake();
    }

    /// Begins a stream with the head that `encode` appends. `ends` if that is all of the request. `None`: it takes no more.
    ///
    /// A head is put into the buffer however much waits there: each is bounded, and so is how many there are.
    pub(crate) fn open(
        self: &Rc<Self>,
        to_head: bool,
        ends: bool,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> Option<OpenStream> {
        let state = &mut *self.state.borrow_mut();
        if state.is_retired {
            return None;
        }
        let id = state.next;
        state.next += 2;
        // Its numbers are used up (RFC 9113 section 5.1.1).
        state.is_retired = state.next > MOST;
        let position = state.mux.position();
        let asked = Asked { to_head, position, interim: 0, answered: false, head: None, failed: None };
        let receive = Window::new(self.limits.upstream_stream_window);
        let mut stream = Stream::new(id, asked, receive, state.mux.first_window());
        stream.finished = ends;
        state.mux.streams.open(stream);
        state.mux.section(id, ends, encode);
        Some(OpenStream { channel: Rc::clone(self), id, data: VecDeque::new() })
    }

    // For the connection's task.

    /// The task of `cx` is the connection's; it looks at everything now.
    pub(super) fn attend(&self, cx: &Context<'_>) {
        self.state.borrow_mut().mux.attend(cx);
    }

    pub(super) fn is_left(&self) -> bool {
        self.state.borrow().is_left
    }

    pub(super) fn is_choked(&self) -> bool {
        self.state.borrow().mux.is_choked()
    }

    /// Writes what waits, as far as the upstream takes it. Ready when that is all.
    pub(super) fn poll_flush(
        &self,
        cx: &mut Context<'_>,
        io: Pin<&mut impl AsyncWrite>,
    ) -> Poll<io::Result<()>> {
        self.state.borrow_mut().mux.poll_flush(cx, io)
    }

    /// Says goodbye. The upstream has no streams of its own.
    pub(super) fn goaway(&self, code: Code) {
        self.state.borrow_mut().mux.goaway(0, code);
    }

    /// The connection has ended. Streams of which not a byte was written may be asked for again.
    pub(super) fn end(&self, why: io::ErrorKind) {
        self.retire();
        let State { mux, over, .. } = &mut *self.state.borrow_mut();
        let streams: Vec<_> = mux.streams.abandon().collect();
        for mut stream in streams {
            if !is_whole(&stream) {
                let was_written = mux.is_written(stream.own.position);
                stream.own.failed = Some(if was_written { Failure::Closed(why) } else { Failure::Refused });
            }
            over.push(stream);
        }
    }
}

/// Whether its response is there to its end.
fn is_whole(stream: &Stream<Asked>) -> bool {
    stream.own.answered && stream.ended
}

impl State {
    /// An open stream, or one that is over and still held.
    pub(super) fn held(&mut self, id: u32) -> Option<&mut Stream<Asked>> {
        match self.over.iter().position(|stream| stream.id == id) {
            Some(place) => self.over.get_mut(place).map(|stream| &mut **stream),
            None => self.mux.streams.find(id),
        }
    }

    /// Its request holds the stream no more, of which it has `unread` bytes.
    pub(super) fn let_go(&mut self, id: u32, unread: usize) {
        let mut left = unread;
        if let Some(place) = self.over.iter().position(|stream| stream.id == id) {
            left += self.over.swap_remove(place).body.len();
        } else if let Some(stream) = self.mux.streams.find(id) {
            if stream.finished && stream.ended {
                drop(self.mux.close(id, Closed::ByPeer));
            } else {
                self.mux.reset(id, Code::Cancel);
            }
        }
        self.mux.give_back(u32::try_from(left).unwrap_or(u32::MAX));
    }

    /// Ends a stream. A response that came to its end is whole all the same.
    pub(super) fn fail(&mut self, id: u32, how: Closed, failure: Failure) {
        if let Some(mut stream) = self.mux.end(id, how) {
            if !is_whole(&stream) {
                stream.own.failed = Some(failure);
            }
            self.over.push(stream);
        }
    }

    /// What came on a stream is no response (RFC 9113 section 8.1.1).
    pub(super) fn malformed(&mut self, id: u32, error: ResponseError) {
        self.fail(id, Closed::ByUs, Failure::Malformed(error));
        self.mux.write_reset(id, Code::ProtocolError);
    }

    /// Uses up all numbers below that one.
    #[cfg(test)]
    pub(super) fn skip_to(&mut self, next: u32) {
        self.next = next;
    }

    /// Streams that are over and still held.
    #[cfg(test)]
    pub(super) fn held_streams(&self) -> usize {
        self.over.len()
    }

    pub(super) fn earned(&self) -> u64 {
        earned(self.mux.frames(), self.mux.sent(), self.useful)
    }

    pub(super) fn small_frame(&mut self, channel: &Channel) -> Result<(), Fault> {
        let earned = self.earned();
        if self.floods.small_frame(earned, &channel.limits, channel.clock.now_ms()) {
            Err(CALM)
        } else {
            Ok(())
        }
    }
}
