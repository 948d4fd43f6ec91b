//! Frames of streams on their way into the buffer: whose turn it is, and how much of it.

use std::task::Poll;

use super::{FULL, Gone, Mux};
use crate::{
    buffer::take_outgoing,
    h2::{FRAME, FRAME_HEADER, FrameKind, flags, write_frame_header},
};

impl<E> Mux<E> {
    pub(super) fn is_full(&self) -> bool {
        self.out.len() >= FULL
    }

    /// Wakes those who wait for room, if there is some.
    pub(super) fn make_room(&mut self) {
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
    pub(super) fn next_turn(&mut self) {
        if !self.is_full()
            && self.window > 0
            && let Some(id) = self.turns.front().copied()
            && let Some(stream) = self.streams.find(id)
        {
            stream.wake();
            if self.called.is_none_or(|(called, _)| called != id) {
                self.called = Some((id, 0));
            }
            // Looks whether it has come.
            self.wake();
        }
    }

    /// The connection's task runs. A stream that was called and has not come by the second time misses its turn: its task had one in
    /// between, and waits for something else, which must not hold up the others.
    pub(super) fn miss_turn(&mut self) {
        let Some((id, runs)) = self.called else { return };
        if self.turns.front() != Some(&id) || self.is_full() || self.window <= 0 {
            self.called = None;
        } else if runs == 0 {
            self.called = Some((id, 1));
            self.wake();
        } else {
            self.leave_queue(id);
        }
    }

    /// The stream leaves the queue, if it is there; the next one may send.
    fn leave_queue(&mut self, id: u32) {
        if self.turns.front() == Some(&id) {
            self.turns.pop_front();
            self.called = None;
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
        self.frames += 1;
        self.sent += (FRAME_HEADER + length) as u64;
        if let Some(stream) = self.streams.find(id) {
            stream.last_frame = Some(place);
        }
    }

    /// Appends a field block as HEADERS and as many CONTINUATIONs as it takes. `ends` if it is the last of its stream.
    pub(crate) fn section(&mut self, id: u32, ends: bool, encode: impl FnOnce(&mut Vec<u8>)) {
        let begin = self.out.bytes.len();
        let flags = if ends { flags::END_STREAM | flags::END_HEADERS } else { flags::END_HEADERS };
        self.begin_frame(id, 0, FrameKind::Headers, flags);
        self.encoder.begin(&mut self.out.bytes);
        encode(&mut self.out.bytes);
        let length = self.out.bytes.len() - begin - FRAME_HEADER;
        self.sent += length as u64;
        self.wake();
        if length <= FRAME {
            let [.., a, b, c] = length.to_be_bytes();
            self.out.bytes[begin..begin + 3].copy_from_slice(&[a, b, c]);
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

    /// Ready when there is room for a head or trailers.
    pub(crate) fn poll_room(&mut self, id: u32) -> Poll<Result<(), Gone>> {
        if self.streams.find(id).is_none() {
            return Poll::Ready(Err(Gone));
        }
        if self.is_full() {
            self.waiting.push(id);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    /// Whether there is room for something small that nobody waits for.
    pub(crate) fn has_room(&self) -> bool {
        !self.is_full()
    }

    /// Appends a frame of data. How many bytes it took; pending until the peer, or the connection, takes more.
    pub(crate) fn poll_data(&mut self, id: u32, data: &[u8]) -> Poll<Result<usize, Gone>> {
        let window = self.window;
        let full = self.is_full();
        let Some(stream) = self.streams.find(id) else { return Poll::Ready(Err(Gone)) };
        if stream.send <= 0 {
            self.leave_queue(id);
            return Poll::Pending;
        }
        let first = self.turns.front().is_none_or(|first| *first == id);
        if full || window <= 0 || !first {
            if !std::mem::replace(&mut stream.queued, true) {
                self.turns.push_back(id);
            }
            return Poll::Pending;
        }
        let most = usize::try_from(stream.send.min(window)).unwrap_or(0).min(FRAME);
        let count = data.len().min(most);
        let sent = i64::try_from(count).unwrap_or(i64::MAX);
        stream.send -= sent;
        self.window -= sent;
        self.begin_frame(id, count, FrameKind::Data, 0);
        self.out.bytes.extend_from_slice(&data[..count]);
        self.leave_queue(id);
        self.wake();
        Poll::Ready(Ok(count))
    }

    /// Ends our side: by its last frame if that was not written yet, or by one of its own.
    pub(crate) fn finish(&mut self, id: u32) {
        let turn = self.turn;
        let Some(stream) = self.streams.find(id) else { return };
        if std::mem::replace(&mut stream.finished, true) {
            return;
        }
        match stream.last_frame.filter(|(written, _)| *written == turn) {
            Some((_, place)) => {
                if let Some(flags) = self.out.bytes.get_mut(place) {
                    *flags |= flags::END_STREAM;
                }
            }
            None => self.begin_frame(id, 0, FrameKind::Data, flags::END_STREAM),
        }
        self.wake();
    }
}
