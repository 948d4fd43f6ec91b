//! What a connection knows of its streams (RFC 9113 section 5.1).

use std::{
    collections::VecDeque,
    task::{Context, Waker},
};

use super::Window;
use crate::h1::Fields;

/// A stream that is open, or half of it.
#[derive(Debug)]
pub(crate) struct Stream<E> {
    pub(crate) id: u32,
    /// What only this end of the connection knows of it.
    pub(crate) own: E,
    /// The task that serves it.
    waker: Option<Waker>,
    /// What came of the body and was not taken yet.
    pub(crate) body: VecDeque<u8>,
    pub(crate) trailers: Fields,
    /// Bytes of the body that the head declares.
    pub(crate) declared: Option<u64>,
    /// Bytes of the body that came.
    pub(crate) received: u64,
    /// The peer's side has ended.
    pub(crate) ended: bool,
    /// DATA frames without data since the last with some.
    pub(crate) empty_frames: u32,
    /// What the peer may still send.
    pub(crate) receive: Window,
    /// What the peer still takes; below zero after it took some back.
    pub(crate) send: i64,
    /// Our side has ended.
    pub(crate) finished: bool,
    /// It waits for its turn to send data.
    pub(crate) queued: bool,
    /// The last frame that was written, while it can be changed: the turn of the buffer, and where its flags are.
    pub(crate) last_frame: Option<(u64, usize)>,
}

impl<E> Stream<E> {
    pub(crate) fn new(id: u32, own: E, receive: Window, send: u32) -> Self {
        Self {
            id,
            own,
            waker: None,
            body: VecDeque::new(),
            trailers: Fields::new(),
            declared: None,
            received: 0,
            ended: false,
            empty_frames: 0,
            receive,
            send: send.into(),
            finished: false,
            queued: false,
            last_frame: None,
        }
    }

    /// The task of `cx` serves it.
    pub(crate) fn attend(&mut self, cx: &Context<'_>) {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
    }

    pub(crate) fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}

/// The streams of a connection, in the order of their numbers.
#[derive(Debug)]
pub(crate) struct Streams<E> {
    open: Vec<(u32, Box<Stream<E>>)>,
    closed: VecDeque<(u32, Closed)>,
}

impl<E> Default for Streams<E> {
    fn default() -> Self {
        Self { open: Vec::new(), closed: VecDeque::new() }
    }
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closed {
    /// The peer ended or reset its side: no more frames may come.
    ByPeer,
    /// We reset it, and the peer may not know yet: what comes is ignored.
    ByUs,
}

/// Streams that have ended and are remembered: as many as may be open.
const REMEMBERED: usize = 100;

impl<E> Streams<E> {
    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    fn place(&self, id: u32) -> Result<usize, usize> {
        self.open.binary_search_by_key(&id, |(id, _)| *id)
    }

    pub(crate) fn find(&mut self, id: u32) -> Option<&mut Stream<E>> {
        let place = self.place(id).ok()?;
        self.open.get_mut(place).map(|(_, stream)| &mut **stream)
    }

    /// Its number is above all others'.
    pub(crate) fn open(&mut self, stream: Stream<E>) {
        self.open.push((stream.id, Box::new(stream)));
    }

    pub(crate) fn close(&mut self, id: u32, how: Closed) -> Option<Box<Stream<E>>> {
        let place = self.place(id).ok()?;
        self.remember(id, how);
        Some(self.open.remove(place).1)
    }

    /// Remembers how a stream ended that was never opened here.
    pub(crate) fn remember(&mut self, id: u32, how: Closed) {
        if self.closed.len() == REMEMBERED {
            self.closed.pop_front();
        }
        self.closed.push_back((id, how));
    }

    /// How a stream ended, if that is not too long ago.
    pub(crate) fn how_closed(&self, id: u32) -> Option<Closed> {
        self.closed.iter().rev().find(|(closed, _)| *closed == id).map(|(_, how)| *how)
    }

    /// The peer resets a stream that we have reset: it sends nothing more.
    pub(crate) fn forget(&mut self, id: u32) {
        if let Some((_, how)) = self.closed.iter_mut().rev().find(|(closed, _)| *closed == id) {
            *how = Closed::ByPeer;
        }
    }

    pub(crate) fn iter(&mut self) -> impl Iterator<Item = &mut Stream<E>> {
        self.open.iter_mut().map(|(_, stream)| &mut **stream)
    }

    /// Takes out all that are open; their tasks are woken.
    pub(crate) fn abandon(&mut self) -> impl Iterator<Item = Box<Stream<E>>> {
        self.open.drain(..).map(|(_, stream)| {
            stream.wake();
            stream
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_found_and_remembered() {
        let mut streams = Streams::default();
        let stream = |id| Stream::new(id, (), Window::new(1), 1);
        for id in 0..2 * u32::try_from(REMEMBERED).unwrap() {
            streams.open(stream(2 * id + 1));
        }
        assert!(streams.find(3).is_some() && streams.find(2).is_none());
        assert_eq!(streams.close(3, Closed::ByUs).map(|stream| stream.id), Some(3));
        assert!(streams.close(3, Closed::ByUs).is_none() && streams.find(3).is_none());
        assert_eq!(streams.how_closed(3), Some(Closed::ByUs));
        streams.forget(3);
        assert_eq!(streams.how_closed(3), Some(Closed::ByPeer));
        for id in 2..2 + u32::try_from(REMEMBERED).unwrap() {
            streams.close(2 * id + 1, Closed::ByPeer);
        }
        assert_eq!(streams.how_closed(3), None, "long ago");
        assert_eq!(streams.len(), REMEMBERED - 1);
    }
}
