//! The body of a request on an HTTP/1 connection.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
};

use tokio::io::AsyncWrite;

use super::Wire;
use crate::{
    body::{ClientError, Outbox, Pace},
    h1::{self, BodyLength, BodyReader, RequestFraming},
    limits::BUFFER,
};

/// How far a body has been read.
pub(super) struct BodyState {
    reader: BodyReader,
    length: BodyLength,
    pace: Pace,
    used: bool,
    received: u64,
    ended: bool,
    /// The client sends the body only after `100 Continue`.
    expects: bool,
    broken: bool,
}

impl Default for BodyState {
    fn default() -> Self {
        let length = BodyLength::None;
        Self {
            reader: BodyReader::new(length, &h1::Limits::default()),
            length,
            pace: Pace::default(),
            used: false,
            received: 0,
            ended: true,
            expects: false,
            broken: false,
        }
    }
}

impl BodyState {
    pub(super) fn new(framing: &RequestFraming, limits: &h1::Limits) -> Self {
        let reader = BodyReader::new(framing.body, limits);
        let ended = reader.is_done();
        Self { reader, length: framing.body, ended, expects: framing.expect_continue, ..Self::default() }
    }

    /// Whether it was read to its end.
    pub(super) fn is_done(&self) -> bool {
        self.ended
    }

    /// Whether the client may never send it, because nobody asked for it.
    pub(super) fn is_withheld(&self) -> bool {
        self.expects && !self.ended
    }
}

/// The body of the request that is being served.
pub(crate) struct H1Body<'c> {
    wire: &'c Wire,
}

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

impl<'c> H1Body<'c> {
    pub(super) fn new(wire: &'c Wire) -> Self {
        Self { wire }
    }

    pub(crate) fn length(&self) -> BodyLength {
        self.wire.body.borrow().length
    }

    pub(crate) fn is_used(&self) -> bool {
        self.wire.body.borrow().used
    }

    pub(crate) fn received(&self) -> u64 {
        self.wire.body.borrow().received
    }

    /// Passes the upstream's `100 Continue` on.
    pub(crate) fn send_continue(&mut self) {
        let mut state = self.wire.body.borrow_mut();
        if !std::mem::take(&mut state.expects) {
            return;
        }
        // Nothing else is waiting to be written: the client waits for this. So it fits into the socket's buffer,
        // and a connection in which it does not is of no use.
        let mut io = self.wire.io.borrow_mut();
        let mut cx = Context::from_waker(Waker::noop());
        let written = Pin::new(&mut *io).poll_write(&mut cx, CONTINUE);
        state.broken = !matches!(written, Poll::Ready(Ok(count)) if count == CONTINUE.len());
        let _tls_only = Pin::new(&mut *io).poll_flush(&mut cx);
    }

    pub(crate) fn poll_more(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Outbox,
    ) -> Poll<Result<bool, ClientError>> {
        loop {
            if let Some(ready) = self.take_read(out) {
                return Poll::Ready(ready);
            }
            let remaining = self.wire.body.borrow().reader.remaining();
            let large = remaining.is_none_or(|left| left > BUFFER as u64);
            match self.wire.poll_read(cx, large) {
                Poll::Ready(0) => return Poll::Ready(Err(ClientError::Gone)),
                Poll::Ready(count) => {
                    let mut state = self.wire.body.borrow_mut();
                    // Who sends the body waits no longer.
                    state.expects = false;
                    state.pace.came(count, self.wire.reading.now_ms());
                }
                Poll::Pending => {
                    let mut state = self.wire.body.borrow_mut();
                    if state.expects {
                        // It waits for the upstream's word, whose time is bounded.
                        return Poll::Pending;
                    }
                    let now = self.wire.reading.now_ms();
                    let time = state.pace.waits(now, &self.wire.thread.limits);
                    self.wire.reading.set(time);
                    return self.wire.reading.poll(cx).map(|()| Err(ClientError::TooSlow));
                }
            }
        }
    }

    /// What was read already. `None` if that is nothing.
    fn take_read(&mut self, out: &mut Outbox) -> Option<Result<bool, ClientError>> {
        let mut state = self.wire.body.borrow_mut();
        let mut input = self.wire.input.borrow_mut();
        if state.broken {
            return Some(Err(ClientError::Gone));
        }
        let Ok(step) = state.reader.step(input.filled()) else {
            state.broken = true;
            return Some(Err(ClientError::Malformed));
        };
        input.consume(step.skip);
        if step.data > 0 {
            out.data(&input.filled()[..step.data]);
            input.consume(step.data);
            state.used = true;
            state.received += step.data as u64;
            return Some(Ok(false));
        }
        state.reader.is_done().then(|| {
            // An empty body is ended again when the request is repeated; trailers are gone once they were taken.
            let trailers = state.reader.take_trailers();
            out.end(&trailers);
            state.used |= !trailers.is_empty();
            state.ended = true;
            Ok(true)
        })
    }
}
