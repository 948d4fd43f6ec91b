//! Byte buffers that are reused: an idle connection holds none, a busy one takes its thread's warmest.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, ReadBuf};

use crate::limits::{BUFFER, FREE_BUFFERS, FREE_LARGE_BUFFERS, LARGE_BUFFER};

#[derive(Default)]
struct Free {
    small: Vec<Vec<u8>>,
    large: Vec<Vec<u8>>,
    /// Empty ones, for what a connection of many streams has to write.
    outgoing: Vec<Vec<u8>>,
}

thread_local! {
    static FREE: RefCell<Free> =
        const { RefCell::new(Free { small: Vec::new(), large: Vec::new(), outgoing: Vec::new() }) };
}

fn take(size: usize) -> Vec<u8> {
    FREE.with_borrow_mut(|free| if size == BUFFER { free.small.pop() } else { free.large.pop() })
        .unwrap_or_else(|| vec![0; size])
}

fn give(data: Vec<u8>) {
    // A thread that ends has no list any more; the memory is then simply freed.
    let _gone = FREE.try_with(|free| {
        let mut free = free.borrow_mut();
        let (list, most) = match data.len() {
            BUFFER => (&mut free.small, FREE_BUFFERS),
            LARGE_BUFFER => (&mut free.large, FREE_LARGE_BUFFERS),
            _ => return,
        };
        if list.len() < most {
            list.push(data);
        }
    });
}

thread_local! {
    static SCRATCH: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An empty vector to write a message into, the thread's warmest; to be given to [`give_scratch`] when the message is gone.
pub(crate) fn scratch() -> Vec<u8> {
    SCRATCH.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(BUFFER / 8))
}

/// Takes a vector back. One that a large message has made large is freed.
pub(crate) fn give_scratch(mut bytes: Vec<u8>) {
    if bytes.capacity() == 0 || bytes.capacity() > BUFFER {
        return;
    }
    bytes.clear();
    // A thread that ends has no list any more; the memory is then simply freed.
    let _gone = SCRATCH.try_with(|free| {
        let mut free = free.borrow_mut();
        if free.len() < FREE_BUFFERS {
            free.push(bytes);
        }
    });
}

/// An empty vector for what a connection of many streams has to write, which may have room already; to be given to
/// [`give_outgoing`].
pub(crate) fn take_outgoing() -> Vec<u8> {
    FREE.with_borrow_mut(|free| free.outgoing.pop()).unwrap_or_default()
}

/// Takes such a vector back; small ones, and those that are too large for most, are simply freed.
pub(crate) fn give_outgoing(mut bytes: Vec<u8>) {
    if !(BUFFER / 4..=4 * LARGE_BUFFER).contains(&bytes.capacity()) {
        return;
    }
    bytes.clear();
    // As for those that are read into.
    let _gone = FREE.try_with(|free| {
        let mut free = free.borrow_mut();
        if free.outgoing.len() < FREE_LARGE_BUFFERS {
            free.outgoing.push(bytes);
        }
    });
}

/// Bytes read and not yet used. Holds no memory until something is read into it.
#[derive(Debug, Default)]
pub(crate) struct ReadBuffer {
    data: Vec<u8>,
    start: usize,
    end: usize,
}

impl ReadBuffer {
    /// What has been read and not consumed.
    pub(crate) fn filled(&self) -> &[u8] {
        &self.data[self.start..self.end]
    }

    /// The same, to be changed in place.
    pub(crate) fn filled_mut(&mut self) -> &mut [u8] {
        &mut self.data[self.start..self.end]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    /// Bytes of memory that it holds.
    pub(crate) fn capacity(&self) -> usize {
        self.data.len()
    }

    /// Forgets the first `count` bytes.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Gives the memory back if nothing is in it.
    pub(crate) fn release(&mut self) {
        if self.is_empty() && !self.data.is_empty() {
            give(std::mem::take(&mut self.data));
        }
    }

    /// Whether `LARGE_BUFFER` bytes wait to be consumed.
    pub(crate) fn is_full(&self) -> bool {
        self.len() == LARGE_BUFFER
    }

    /// Makes room for as much as one read can bring. `large` asks for the large size at once.
    fn make_room(&mut self, large: bool) {
        if self.start > 0 && self.end == self.data.len() {
            self.data.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let size = if large || self.end >= BUFFER { LARGE_BUFFER } else { BUFFER };
        if self.data.len() < size && (self.data.is_empty() || self.end == self.data.len() || large) {
            let mut data = take(size);
            data[..self.end].copy_from_slice(&self.data[..self.end]);
            let old = std::mem::replace(&mut self.data, data);
            if !old.is_empty() {
                give(old);
            }
        }
    }

    /// Reads once; `Ok(0)` is the end of the stream. Must not be called when full.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        io: Pin<&mut impl AsyncRead>,
        large: bool,
    ) -> Poll<io::Result<usize>> {
        debug_assert!(!self.is_full(), "the caller consumes before it reads on");
        self.make_room(large);
        let mut space = ReadBuf::new(&mut self.data[self.end..]);
        ready!(io.poll_read(cx, &mut space))?;
        let count = space.filled().len();
        self.end += count;
        Poll::Ready(Ok(count))
    }
}

impl Drop for ReadBuffer {
    fn drop(&mut self) {
        if !self.data.is_empty() {
            give(std::mem::take(&mut self.data));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn read(buffer: &mut ReadBuffer, mut from: &[u8], large: bool) -> usize {
        let mut cx = Context::from_waker(Waker::noop());
        match buffer.poll_read(&mut cx, Pin::new(&mut from), large) {
            Poll::Ready(Ok(count)) => count,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_buffer_grows_when_full_and_keeps_its_bytes() {
        let mut buffer = ReadBuffer::default();
        assert_eq!(read(&mut buffer, &[1; BUFFER + 5], false), BUFFER);
        buffer.consume(3);
        assert_eq!(read(&mut buffer, &[2; 3], false), 3, "the consumed room is used first");
        assert_eq!(buffer.len(), BUFFER);
        assert_eq!(read(&mut buffer, &[3; 7], false), 7);
        assert_eq!(buffer.filled()[..2], [1, 1]);
        assert_eq!(buffer.filled()[BUFFER - 4..], [1, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3]);
    }

    #[test]
    fn memory_goes_back_to_the_thread() {
        let mut buffer = ReadBuffer::default();
        read(&mut buffer, b"abc", false);
        buffer.release();
        assert!(!buffer.data.is_empty(), "what is filled is kept");
        buffer.consume(3);
        buffer.release();
        assert!(buffer.data.is_empty());
        assert!(FREE.with_borrow(|free| !free.small.is_empty()));
    }
}
