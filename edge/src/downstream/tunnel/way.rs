//! One direction of a tunnel.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    buffer::ReadBuffer,
    websocket::{Scanner, Until},
};

/// What may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    /// All.
    All,
    /// All up to the next border between messages; there our Close goes in.
    ToBorder,
    /// All up to a Close of the source, in whose place ours goes.
    ToClose,
    /// Nothing: our Close was said.
    Nothing,
}

/// What comes from one side and goes to the other. Bytes are written from where they were read to.
pub(crate) struct Way {
    input: ReadBuffer,
    /// Bytes at the front of the input that go on.
    passing: usize,
    /// Follows the messages of a WebSocket.
    scanner: Option<Scanner>,
    pass: Pass,
    /// Our Close, or what is left of it to write.
    goodbye: Vec<u8>,
    /// Written and not flushed: TLS keeps records back when the socket is full.
    unflushed: bool,
    /// The source has ended.
    ended: bool,
    /// The end was passed on.
    shut: bool,
    moved: u64,
}

impl Way {
    /// Bytes that mean nothing to us.
    pub(crate) fn opaque(input: ReadBuffer) -> Self {
        Self {
            input,
            passing: 0,
            scanner: None,
            pass: Pass::All,
            goodbye: Vec::new(),
            unflushed: false,
            ended: false,
            shut: false,
            moved: 0,
        }
    }

    /// The frames of a WebSocket, and the one that may end them.
    pub(super) fn websocket(input: ReadBuffer, goodbye: Vec<u8>) -> Self {
        Self { scanner: Some(Scanner::default()), goodbye, ..Self::opaque(input) }
    }

    pub(super) fn knows_borders(&self) -> bool {
        self.scanner.is_some()
    }

    pub(super) fn set_pass(&mut self, pass: Pass) {
        if self.pass != Pass::Nothing {
            self.pass = pass;
        }
    }

    /// Whether the Close was ours.
    pub(super) fn has_said_goodbye(&self) -> bool {
        self.pass == Pass::Nothing
    }

    /// Whether the destination has got all that it will: a Close of either, or the end.
    pub(super) fn is_closed(&self) -> bool {
        let said = match self.pass {
            Pass::Nothing => self.goodbye.is_empty(),
            _ => self.passing == 0 && self.scanner.as_ref().is_some_and(Scanner::is_closed),
        };
        said && !self.unflushed || self.shut
    }

    /// Whether the source has said its Close, or ended.
    pub(super) fn is_answered(&self) -> bool {
        self.ended || self.scanner.as_ref().is_some_and(Scanner::is_closed)
    }

    /// Bytes of memory that it has.
    pub(super) fn held(&self) -> usize {
        self.input.capacity()
    }

    /// Bytes that were passed on since the last call.
    pub(crate) fn take_moved(&mut self) -> u64 {
        std::mem::take(&mut self.moved)
    }

    /// Moves bytes until one side has to wait. Ready when the end was passed on; an error ends the tunnel.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut from: Pin<&mut impl AsyncRead>,
        mut to: Pin<&mut impl AsyncWrite>,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.shut {
                return Poll::Ready(Ok(()));
            }
            if self.passing > 0 {
                let count = ready!(to.as_mut().poll_write(cx, &self.input.filled()[..self.passing]))?;
                self.input.consume(count);
                self.passing -= count;
                self.moved += count as u64;
                self.unflushed = true;
                if count == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                continue;
            }
            if self.pass == Pass::Nothing {
                ready!(self.poll_goodbye(cx, to.as_mut()))?;
            }
            if self.unflushed {
                ready!(to.as_mut().poll_flush(cx))?;
                self.unflushed = false;
            }
            if !self.input.is_empty() {
                self.look();
                continue;
            }
            if self.pass == Pass::ToBorder && self.scanner.as_ref().is_some_and(Scanner::at_border) {
                self.pass = Pass::Nothing;
                continue;
            }
            if self.ended {
                if self.pass == Pass::ToClose && self.scanner.as_ref().is_some_and(Scanner::at_border) {
                    self.pass = Pass::Nothing;
                    continue;
                }
                ready!(to.as_mut().poll_shutdown(cx))?;
                self.shut = true;
                continue;
            }
            match self.input.poll_read(cx, from.as_mut(), false) {
                Poll::Ready(Ok(0)) => self.ended = true,
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.input.release();
                    return Poll::Pending;
                }
            }
        }
    }

    /// Finds out how much of the input goes on.
    fn look(&mut self) {
        let until = match self.pass {
            Pass::All | Pass::Nothing => Until::End,
            Pass::ToBorder => Until::Border,
            Pass::ToClose => Until::Close,
        };
        let filled = self.input.filled();
        let count = self.scanner.as_mut().map_or(filled.len(), |scanner| scanner.follow(filled, until));
        match self.pass {
            // Only looked at, for the source's Close.
            Pass::Nothing => self.input.consume(count),
            _ if count == 0 => self.pass = Pass::Nothing,
            _ => self.passing = count,
        }
    }

    fn poll_goodbye(
        &mut self,
        cx: &mut Context<'_>,
        mut to: Pin<&mut impl AsyncWrite>,
    ) -> Poll<io::Result<()>> {
        while !self.goodbye.is_empty() {
            let count = ready!(to.as_mut().poll_write(cx, &self.goodbye))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.goodbye.drain(..count);
            self.unflushed = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes our Close if that cuts nothing and the destination takes it at once.
    pub(super) fn say_goodbye(&mut self, cx: &mut Context<'_>, mut to: Pin<&mut impl AsyncWrite>) {
        let at_border = self.scanner.as_ref().is_some_and(Scanner::at_border);
        if at_border && self.passing == 0 && !self.shut {
            self.pass = Pass::Nothing;
            // It is the last moment: an error changes nothing.
            let _either = (self.poll_goodbye(cx, to.as_mut()), to.poll_flush(cx));
        }
    }
}
