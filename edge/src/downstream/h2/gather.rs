//! A stream that gathers what hyper writes. hyper flushes after every frame it finds large enough, which under
//! load is a system call and a TLS record for each response; here a flush does nothing, and whoever drives the
//! connection writes once after every turn.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use tokio::io::AsyncWrite;

use crate::{body::Outbox, buffer::ReadBuffer, downstream::io::Io, limits::LARGE_BUFFER};

struct State {
    io: Io,
    /// Read before hyper got the connection.
    input: ReadBuffer,
    out: Outbox,
    /// hyper wanted to write and found no room.
    blocked: bool,
}

/// The connection as hyper sees it. Clones are the same connection.
#[derive(Clone)]
pub(super) struct Gather(Rc<RefCell<State>>);

impl Gather {
    pub(super) fn new(io: Io, input: ReadBuffer) -> Self {
        Self(Rc::new(RefCell::new(State { io, input, out: Outbox::default(), blocked: false })))
    }

    /// Writes what was gathered. Ready when all is written.
    pub(super) fn poll_drain(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let state = &mut *self.0.borrow_mut();
        ready!(state.out.poll_write(cx, Pin::new(&mut state.io)))?;
        state.out.release();
        Poll::Ready(Ok(()))
    }

    /// Writes what was gathered, then says goodbye.
    pub(super) fn poll_close(&self, cx: &mut Context<'_>) -> Poll<()> {
        if ready!(self.poll_drain(cx)).is_ok() {
            let state = &mut *self.0.borrow_mut();
            // Either way the connection is over.
            let _either = ready!(Pin::new(&mut state.io).poll_shutdown(cx));
        }
        Poll::Ready(())
    }

    /// Whether hyper waits for room since the last call.
    pub(super) fn take_blocked(&self) -> bool {
        std::mem::take(&mut self.0.borrow_mut().blocked)
    }
}

impl hyper::rt::Read for Gather {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let state = &mut *self.0.borrow_mut();
        if state.input.is_empty() {
            ready!(state.input.poll_read(cx, Pin::new(&mut state.io), false))?;
        }
        let count = state.input.len().min(buf.remaining());
        buf.put_slice(&state.input.filled()[..count]);
        state.input.consume(count);
        state.input.release();
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for Gather {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let state = &mut *self.0.borrow_mut();
        let room = LARGE_BUFFER.saturating_sub(state.out.len());
        if room == 0 {
            // No waker: whoever drives the connection looks at `blocked` after every drain.
            state.blocked = true;
            return Poll::Pending;
        }
        let count = bytes.len().min(room);
        state.out.data(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut total = 0;
        for part in parts.iter().filter(|part| !part.is_empty()) {
            match self.as_mut().poll_write(cx, part)? {
                Poll::Ready(count) => {
                    total += count;
                    if count < part.len() {
                        break;
                    }
                }
                Poll::Pending if total == 0 => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(Ok(total))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Whoever drives the connection closes it, once all is written.
        Poll::Ready(Ok(()))
    }
}
