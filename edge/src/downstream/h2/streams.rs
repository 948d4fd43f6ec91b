//! What a connection knows of its streams (RFC 9113 section 5.1).

use std::{
    collections::VecDeque,
    task::{Context, Waker},
};

use crate::{
    h1::Fields,
    h2::{FIRST_WINDOW, MOST},
};

/// A stream that is open, or half of it.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: u32,
    /// The task that serves it.
    waker: Option<Waker>,
    /// What came of the body and was not taken yet.
    pub(super) body: VecDeque<u8>,
    pub(super) trailers: Fields,
    /// Bytes of the body that the head declares.
    pub(super) declared: Option<u64>,
    /// Bytes of the body that came.
    pub(super) received: u64,
    /// The client's side has ended.
    pub(super) ended: bool,
    /// DATA frames without data since the last with some.
    pub(super) empty_frames: u32,
    /// What the client may still send.
    pub(super) receive: Window,
    /// What the client still takes; below zero after it took some back.
    pub(super) send: i64,
    /// The final head was written.
    pub(super) answered: bool,
    /// Our side has ended.
    pub(super) finished: bool,
    /// It waits for its turn to send data.
    pub(super) queued: bool,
    /// The last frame that was written, while it can be changed: the turn of the buffer, and where its flags are.
    pub(super) last_frame: Option<(u64, usize)>,
}

impl Stream {
    pub(super) fn new(id: u32, declared: Option<u64>, ended: bool, receive: Window, send: u32) -> Self {
        Self {
            id,
            waker: None,
            body: VecDeque::new(),
            trailers: Fields::new(),
            declared,
            received: 0,
            ended,
            empty_frames: 0,
            receive,
            send: send.into(),
            answered: false,
            finished: false,
            queued: false,
            last_frame: None,
        }
    }

    /// The task of `cx` serves it.
    pub(super) fn attend(&mut self, cx: &Context<'_>) {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
    }

    pub(super) fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}

/// The streams of a connection, in the order of their numbers.
#[derive(Debug, Default)]
pub(super) struct Streams {
    open: Vec<(u32, Box<Stream>)>,
    closed: VecDeque<(u32, Closed)>,
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closed {
    /// The client ended or reset its side: no more frames may come.
    ByClient,
    /// We reset it, and the client may not know yet: what comes is ignored.
    ByUs,
}

/// Streams that have ended and are remembered: as many as may be open.
const REMEMBERED: usize = 100;

impl Streams {
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    fn place(&self, id: u32) -> Result<usize, usize> {
        self.open.binary_search_by_key(&id, |(id, _)| *id)
    }

    pub(super) fn find(&mut self, id: u32) -> Option<&mut Stream> {
        let place = self.place(id).ok()?;
        self.open.get_mut(place).map(|(_, stream)| &mut **stream)
    }

    /// Its number is above all others'.
    pub(super) fn open(&mut self, stream: Stream) {
        self.open.push((stream.id, Box::new(stream)));
    }

    pub(super) fn close(&mut self, id: u32, how: Closed) -> Option<Box<Stream>> {
        let place = self.place(id).ok()?;
        self.remember(id, how);
        Some(self.open.remove(place).1)
    }

    /// Remembers how a stream ended that was never opened here.
    pub(super) fn remember(&mut self, id: u32, how: Closed) {
        if self.closed.len() == REMEMBERED {
            self.closed.pop_front();
        }
        self.closed.push_back((id, how));
    }

    /// How a stream ended, if that is not too long ago.
    pub(super) fn how_closed(&self, id: u32) -> Option<Closed> {
        self.closed.iter().rev().find(|(closed, _)| *closed == id).map(|(_, how)| *how)
    }

    /// The client resets a stream that we have reset: it sends nothing more.
    pub(super) fn forget(&mut self, id: u32) {
        if let Some((_, how)) = self.closed.iter_mut().rev().find(|(closed, _)| *closed == id) {
            *how = Closed::ByClient;
        }
    }

    pub(super) fn iter(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.open.iter_mut().map(|(_, stream)| &mut **stream)
    }

    /// Closes all; their tasks are woken.
    pub(super) fn abandon(&mut self) {
        for (_, stream) in self.open.drain(..) {
            stream.wake();
        }
    }
}

/// What a client may send before it must be given room again (RFC 9113 section 6.9).
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    left: u32,
    /// Bytes that were taken since it was opened last.
    taken: u32,
    /// Bytes after which it is opened: half of it, so that a client is not told of every few bytes.
    step: u32,
}

impl Window {
    pub(super) fn new(size: u32) -> Self {
        let size = size.min(MOST);
        Self { left: size, taken: 0, step: (size / 2).max(1) }
    }

    /// That of a stream whose client may not have heard of our settings yet.
    pub(super) fn unsettled(size: u32) -> Self {
        Self { left: size.clamp(FIRST_WINDOW, MOST), ..Self::new(size) }
    }

    /// So many bytes came. Whether there was room for them.
    pub(super) fn receive(&mut self, bytes: u32) -> bool {
        let left = self.left.checked_sub(bytes);
        self.left = left.unwrap_or(0);
        left.is_some()
    }

    /// Bytes that came and were not taken, of a window of `size`.
    pub(super) fn held(&self, size: u32) -> u32 {
        size.min(MOST).saturating_sub(self.left).saturating_sub(self.taken)
    }

    /// So many of the bytes that came are taken. By how much the window is to be opened, if it is time for that.
    pub(super) fn take(&mut self, bytes: u32) -> Option<u32> {
        self.taken += bytes;
        if self.taken < self.step {
            return None;
        }
        let taken = std::mem::take(&mut self.taken);
        self.left += taken;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_opened_by_what_was_taken() {
        let mut window = Window::new(1000);
        assert!(window.receive(900));
        assert_eq!(window.held(1000), 900);
        assert_eq!(window.take(499), None);
        assert_eq!(window.held(1000), 401);
        assert!(!window.receive(101), "what was taken and not given back yet");
        let mut window = Window::new(1000);
        assert!(window.receive(1000));
        assert_eq!(window.take(600), Some(600));
        assert_eq!(window.take(400), None);
        assert!(window.receive(600) && !window.receive(1));
        // Who has not heard of it may count with the first one.
        let mut window = Window::unsettled(1000);
        assert!(window.receive(FIRST_WINDOW) && !window.receive(1));
    }

    #[test]
    fn streams_are_found_and_remembered() {
        let mut streams = Streams::default();
        let stream = |id| Stream::new(id, None, false, Window::new(1), 1);
        for id in 0..2 * u32::try_from(REMEMBERED).unwrap() {
            streams.open(stream(2 * id + 1));
        }
        assert!(streams.find(3).is_some() && streams.find(2).is_none());
        assert_eq!(streams.close(3, Closed::ByUs).map(|stream| stream.id), Some(3));
        assert!(streams.close(3, Closed::ByUs).is_none() && streams.find(3).is_none());
        assert_eq!(streams.how_closed(3), Some(Closed::ByUs));
        streams.forget(3);
        assert_eq!(streams.how_closed(3), Some(Closed::ByClient));
        for id in 2..2 + u32::try_from(REMEMBERED).unwrap() {
            streams.close(2 * id + 1, Closed::ByClient);
        }
        assert_eq!(streams.how_closed(3), None, "long ago");
        assert_eq!(streams.len(), REMEMBERED - 1);
    }
}
