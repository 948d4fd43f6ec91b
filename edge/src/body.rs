//! Bodies on their way: what comes from a client, and what is waiting to be written to a socket.

mod meter;

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::AsyncWrite;

pub(crate) use meter::{Meter, Pace};

use crate::{
    buffer::{give_scratch, scratch},
    downstream::{h1::H1Body, h2::H2Body, h3::H3Body},
    h1::{BodyLength, Fields, write_chunk, write_last_chunk},
    io::ClientIo,
    limits::BUFFER,
};

/// Why a request's body ended before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ClientError {
    /// The connection is gone, or the stream was reset.
    #[error("the client went away")]
    Gone,
    /// Malformed framing.
    #[error("the request's body is malformed")]
    Malformed,
    /// Below the least rate.
    #[error("the request's body comes too slowly")]
    TooSlow,
}

/// A request's body.
pub(crate) enum RequestBody<'c> {
    /// There is none.
    Empty,
    /// What follows on an HTTP/1 connection.
    H1(H1Body<'c>),
    /// An HTTP/2 stream.
    H2(Box<H2Body>),
    /// An HTTP/3 stream.
    H3(Box<H3Body>),
}

impl RequestBody<'_> {
    /// How it must be framed for an HTTP/1 upstream.
    pub(crate) fn length(&self) -> BodyLength {
        match self {
            Self::Empty => BodyLength::None,
            Self::H1(body) => body.length(),
            Self::H2(body) => body.meter().length(),
            Self::H3(body) => body.meter().length(),
        }
    }

    /// Whether any of it was taken.
    pub(crate) fn is_used(&self) -> bool {
        match self {
            Self::Empty => false,
            Self::H1(body) => body.is_used(),
            Self::H2(body) => body.meter().is_used(),
            Self::H3(body) => body.meter().is_used(),
        }
    }

    /// Bytes of data that were taken.
    pub(crate) fn received(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::H1(body) => body.received(),
            Self::H2(body) => body.meter().received(),
            Self::H3(body) => body.meter().received(),
        }
    }

    /// Puts what comes next into `out`. Ready with `true` when that was the end.
    pub(crate) fn poll_more(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Outbox,
    ) -> Poll<Result<bool, ClientError>> {
        match self {
            Self::Empty => Poll::Ready(Ok(true)),
            Self::H1(body) => body.poll_more(cx, out),
            Self::H2(body) => body.poll_more(cx, out),
            Self::H3(body) => body.poll_more(cx, out),
        }
    }

    /// Puts what has come into `out`, as much as one write should take.
    ///
    /// # Errors
    /// [`ClientError`]: what came so far must not be taken for all of it.
    pub(crate) fn fill(&mut self, cx: &mut Context<'_>, out: &mut Outbox) -> Result<Filled, ClientError> {
        while out.len() < BUFFER {
            match self.poll_more(cx, out)? {
                Poll::Ready(true) => return Ok(Filled::Ended),
                Poll::Ready(false) => {}
                Poll::Pending => return Ok(Filled::Starved),
            }
        }
        Ok(Filled::Enough)
    }

    /// The upstream asks for the body (`100 Continue`).
    pub(crate) fn wanted(&mut self) {
        if let Self::H1(body) = self {
            body.send_continue();
        }
    }
}

/// What [`RequestBody::fill`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Filled {
    /// The outbox has enough.
    Enough,
    /// The client has sent no more yet; the task is woken when it does.
    Starved,
    /// The body's end is in the outbox.
    Ended,
}

/// Bytes that wait to be written to a socket, and how a body among them is framed.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pub(crate) bytes: Vec<u8>,
    written: usize,
    framing: Framing,
    /// The trailers of a body that has ended, where they are kept apart.
    trailers: Fields,
    /// All is written, but not flushed: TLS keeps records back when the socket is full.
    unflushed: bool,
}

/// How a body stands among the bytes of an outbox.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// As it is; trailers are lost.
    #[default]
    Plain,
    /// In chunks.
    Chunked,
    /// As it is, with its trailers beside it: HTTP/2 frames them itself.
    Apart,
}

impl Outbox {
    /// Takes memory for a message, where it has none.
    pub(crate) fn warm(&mut self) {
        if self.bytes.capacity() == 0 {
            self.bytes = scratch();
        }
    }

    /// Gives all memory back if nothing is in it: for a connection that may be idle for long.
    pub(crate) fn rest(&mut self) {
        if self.is_empty() {
            give_scratch(std::mem::take(&mut self.bytes));
        }
    }

    /// One for a protocol that frames bodies itself.
    pub(crate) fn apart() -> Self {
        let mut out = Self::default();
        out.framing = Framing::Apart;
        out
    }

    /// What waits.
    pub(crate) fn waiting(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    /// The first `count` bytes of what waits are on their way.
    pub(crate) fn sent(&mut self, count: usize) {
        self.written = (self.written + count).min(self.bytes.len());
        if self.written == self.bytes.len() {
            self.bytes.clear();
            self.written = 0;
        }
    }

    /// The trailers that were kept apart.
    pub(crate) fn take_trailers(&mut self) -> Fields {
        std::mem::take(&mut self.trailers)
    }

    /// How bodies are framed from now on.
    pub(crate) fn frame(&mut self, length: BodyLength) {
        self.framing = if length == BodyLength::Chunked { Framing::Chunked } else { Framing::Plain };
    }

    /// Bytes not yet written.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.written
    }

    /// Whether all was written and flushed.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0 && !self.unflushed
    }

    /// Whether body bytes go out as they are.
    pub(crate) fn is_plain(&self) -> bool {
        self.framing == Framing::Plain
    }

    /// Something was written past the box: a flush is due.
    pub(crate) fn bypassed(&mut self) {
        self.unflushed = true;
    }

    /// Appends body bytes.
    pub(crate) fn data(&mut self, data: &[u8]) {
        if self.framing == Framing::Chunked {
            write_chunk(&mut self.bytes, data);
        } else {
            self.bytes.extend_from_slice(data);
        }
    }

    /// Appends the end of the body.
    pub(crate) fn end(&mut self, trailers: &Fields) {
        match self.framing {
            Framing::Plain => {}
            Framing::Chunked => write_last_chunk(&mut self.bytes, trailers),
            Framing::Apart => self.trailers = trailers.clone(),
        }
    }

    /// Ready when all is written.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        mut io: Pin<&mut impl AsyncWrite>,
    ) -> Poll<io::Result<()>> {
        while self.written < self.bytes.len() {
            let count = ready!(io.as_mut().poll_write(cx, &self.bytes[self.written..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(io.poll_flush(cx))?;
            self.unflushed = false;
        }
        self.bytes.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    /// Forgets what was written of what is not written to its end, once that is much.
    pub(crate) fn compact(&mut self) {
        if self.written >= BUFFER {
            self.bytes.drain(..self.written);
            self.written = 0;
        }
    }

    /// As [`poll_write`](Self::poll_write), of what is the connection's last.
    pub(crate) fn poll_write_last(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut ClientIo,
    ) -> Poll<io::Result<()>> {
        loop {
            let count = ready!(io.poll_write_last(cx, self.waiting()))?;
            self.sent(count);
            match (self.waiting().is_empty(), count) {
                (true, _) => break,
                (false, 0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                (false, _) => {}
            }
        }
        ready!(Pin::new(io).poll_flush(cx))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        give_scratch(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outbox_at_rest_holds_nothing_and_takes_the_warmest_memory() {
        let mut out = Outbox::default();
        out.warm();
        out.data(b"message");
        out.rest();
        assert_eq!(out.waiting(), b"message", "what waits is kept");
        out.sent(7);
        let memory = out.bytes.as_ptr();
        out.rest();
        assert_eq!(out.bytes.capacity(), 0);
        out.warm();
        assert_eq!((out.bytes.as_ptr(), out.bytes.len()), (memory, 0));
    }

    #[test]
    fn chunks_are_framed_and_ended() {
        let mut out = Outbox::default();
        out.frame(BodyLength::Chunked);
        out.data(b"hello world, hello");
        out.data(b"");
        out.end(&Fields::new());
        assert_eq!(out.bytes, b"12\r\nhello world, hello\r\n0\r\n\r\n");
        let mut out = Outbox::default();
        out.frame(BodyLength::Length(2));
        out.data(b"hi");
        out.end(&Fields::new());
        assert_eq!(out.bytes, b"hi");
    }
}
