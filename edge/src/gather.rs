//! A stream that gathers what an HTTP/2 connection to an upstream writes. h2 flushes after every frame that it finds large
//! enough, which under load is a system call and a TLS record for each message; here a flush does nothing, and whoever drives
//! the connection writes once after every turn.

use std::{
    cell::RefCell,
    future::Future,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{body::Outbox, limits::LARGE_BUFFER};

struct State<S> {
    io: S,
    out: Outbox,
    /// The connection wanted to write and found no room.
    blocked: bool,
}

/// The byte stream as h2 sees it. Clones are the same stream.
pub(crate) struct Gather<S>(Rc<RefCell<State<S>>>);

impl<S> Clone for Gather<S> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Gather<S> {
    pub(crate) fn new(io: S) -> Self {
        Self(Rc::new(RefCell::new(State { io, out: Outbox::default(), blocked: false })))
    }

    /// Drives a connection over this stream and writes what it gathered. Whether it has ended.
    pub(crate) fn poll_connection<T>(
        &self,
        cx: &mut Context<'_>,
        mut connection: Pin<&mut impl Future<Output = T>>,
    ) -> bool {
        loop {
            let ended = connection.as_mut().poll(cx).is_ready();
            let written = self.poll_drain(cx);
            match written {
                _ if ended => return true,
                Poll::Ready(Err(_)) => return true,
                // It waits for room, and there is some again.
                Poll::Ready(Ok(())) if self.take_blocked() => {}
                _ => return false,
            }
        }
    }

    /// Writes what was gathered. Ready when all is written.
    fn poll_drain(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let state = &mut *self.0.borrow_mut();
        ready!(state.out.poll_write(cx, Pin::new(&mut state.io)))?;
        state.out.release();
        Poll::Ready(Ok(()))
    }

    /// Writes what was gathered, then says goodbye.
    pub(crate) fn poll_close(&self, cx: &mut Context<'_>) -> Poll<()> {
        if ready!(self.poll_drain(cx)).is_ok() {
            let state = &mut *self.0.borrow_mut();
            // Either way the connection is over.
            let _either = ready!(Pin::new(&mut state.io).poll_shutdown(cx));
        }
        Poll::Ready(())
    }

    /// Whether the connection waits for room since the last call.
    fn take_blocked(&self) -> bool {
        std::mem::take(&mut self.0.borrow_mut().blocked)
    }

    fn gather(&self, bytes: &[u8]) -> Poll<io::Result<usize>> {
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
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gather<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().io).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Gather<S> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.gather(bytes)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut total = 0;
        for part in parts.iter().filter(|part| !part.is_empty()) {
            match self.gather(part)? {
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
