//! One request and its response on an HTTP/1.1 connection of its own: no task, channel or lock.

use std::{
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

use super::{ExchangeError, Sending, closed};
use crate::{
    body::{ClientError, Filled, Outbox, RequestBody},
    h1::{self, BodyLength, BodyReader, Fields, Method, ParsedResponse, ResponseError, ResponseParser},
    limits::{BUFFER, INTERIM_RESPONSES, LARGE_BUFFER},
    share::{Bill, Share},
    upstream::{Occupied, pool::Connection},
};

/// A request on its way and the response that comes back.
pub(crate) struct H1Exchange {
    connection: Option<Box<Connection>>,
    occupied: Occupied,
    method: Method,
    limits: h1::Limits,
    /// How long nothing may move.
    patience: Duration,
    waiting: bool,
    /// When the route's time is over.
    deadline: Option<Pin<Box<Sleep>>>,
    outbox: Outbox,
    sending: Sending,
    wrote: bool,
    parser: ResponseParser,
    /// 1xx responses so far.
    interim: u32,
    body: BodyReader,
    keep_alive: bool,
    /// Bytes at the front of the connection's input that are data of the body.
    data: usize,
    /// Whom its buffers are for.
    bill: Option<Bill>,
}

impl H1Exchange {
    /// An exchange that begins with `outbox`, the request's head, and goes on with its body. Boxed: it is handed on to the
    /// reply.
    pub(crate) fn new(
        connection: Box<Connection>,
        occupied: Occupied,
        method: Method,
        outbox: Outbox,
        limits: &crate::limits::Limits,
    ) -> Box<Self> {
        let parse = h1::Limits {
            head_bytes: limits.head_bytes.min(LARGE_BUFFER),
            fields: limits.head_fields,
            ..Default::default()
        };
        Box::new(Self {
            connection: Some(connection),
            occupied,
            method,
            limits: parse,
            patience: limits.stall,
            waiting: false,
            deadline: None,
            outbox,
            sending: Sending::Body,
            wrote: false,
            parser: ResponseParser::default(),
            interim: 0,
            body: BodyReader::new(BodyLength::None, &parse),
            keep_alive: false,
            data: 0,
            bill: None,
        })
    }

    /// Its buffers are for that tenant.
    pub(super) fn bill(&mut self, share: &Rc<Share>) {
        self.bill = Some(Bill::new(share));
    }

    /// The route's time is over then.
    pub(super) fn set_deadline(&mut self, at: Option<Instant>) {
        match (at, &mut self.deadline) {
            (None, deadline) => *deadline = None,
            (Some(at), Some(deadline)) => deadline.as_mut().reset(at),
            (Some(at), deadline) => *deadline = Some(Box::pin(tokio::time::sleep_until(at))),
        }
    }

    /// How long nothing may move from now on: longer for streams that say little.
    pub(super) fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Whether not a byte of the request was written.
    pub(super) fn is_unsent(&self) -> bool {
        !self.wrote
    }

    /// Sends the request and reads the head of its final response. Drop-safe: the connection is then closed.
    ///
    /// # Errors
    /// [`ExchangeError`]; the exchange is of no further use.
    pub(super) async fn response(
        &mut self,
        request: &mut RequestBody<'_>,
    ) -> Result<ParsedResponse, ExchangeError> {
        poll_fn(|cx| self.poll_response(cx, request)).await
    }

    fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
        request: &mut RequestBody<'_>,
    ) -> Poll<Result<ParsedResponse, ExchangeError>> {
        loop {
            if let Poll::Ready(Err(error)) = self.poll_send(cx, request) {
                return Poll::Ready(Err(error.into()));
            }
            let Some(connection) = &mut self.connection else { return Poll::Ready(Err(closed())) };
            if !connection.input.is_empty()
                && let Some(parsed) =
                    self.parser.parse(connection.input.filled(), self.method, &self.limits)?
            {
                connection.input.consume(parsed.consumed);
                if parsed.framing.interim {
                    // Only 100 is passed on. 103 (early hints) is left out: a client of HTTP/1.1 need not expect it.
                    self.interim += 1;
                    if self.interim > INTERIM_RESPONSES {
                        return Poll::Ready(Err(ResponseError::Status.into()));
                    }
                    if parsed.head.status() == 100 {
                        request.wanted();
                    }
                    continue;
                }
                self.body = BodyReader::new(parsed.framing.body, &self.limits);
                self.keep_alive = parsed.framing.keep_alive;
                return Poll::Ready(Ok(parsed));
            }
            if ready!(self.poll_fill(cx, false))? == 0 {
                return Poll::Ready(Err(closed()));
            }
        }
    }

    /// Writes as much of the request as the upstream takes and the client has sent. Pending while more is to come.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        request: &mut RequestBody<'_>,
    ) -> Poll<Result<(), ClientError>> {
        let Some(connection) = &mut self.connection else { return Poll::Ready(Ok(())) };
        loop {
            // A small body goes out with its head, in one write.
            let filled = self.sending.fill(cx, request, &mut self.outbox)?;
            match self.sending {
                Sending::Done | Sending::Broken => return Poll::Ready(Ok(())),
                Sending::Body if self.outbox.is_empty() => return Poll::Pending,
                Sending::Body | Sending::Last => {}
            }
            let before = self.outbox.len();
            let written = self.outbox.poll_write(cx, Pin::new(&mut connection.stream));
            if self.outbox.len() < before {
                self.wrote = true;
                self.waiting = false;
            }
            match written {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_)) => self.sending = Sending::Broken,
                Poll::Ready(Ok(())) if self.sending == Sending::Last => {
                    self.sending = Sending::Done;
                    // The answer may take its time, and the request may have been large.
                    self.outbox.rest();
                }
                Poll::Ready(Ok(())) if filled == Filled::Starved => return Poll::Pending,
                Poll::Ready(Ok(())) => {}
            }
        }
    }

    /// Reads once from the upstream, within its time.
    fn poll_fill(&mut self, cx: &mut Context<'_>, large: bool) -> Poll<Result<usize, ExchangeError>> {
        let Some(connection) = &mut self.connection else { return Poll::Ready(Ok(0)) };
        let read = connection.input.poll_read(cx, Pin::new(&mut connection.stream), large);
        if let Some(bill) = &self.bill {
            bill.note(connection.input.capacity() + self.outbox.bytes.capacity());
        }
        if let Poll::Ready(count) = read {
            self.waiting = false;
            return Poll::Ready(count.map_err(ExchangeError::Closed));
        }
        if !self.waiting {
            self.waiting = true;
            connection.timer.set(self.patience);
        }
        let over = self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready());
        if over || connection.timer.poll(cx).is_ready() {
            return Poll::Ready(Err(ExchangeError::TimedOut));
        }
        Poll::Pending
    }

    /// How many bytes of the response's body are there, in [`data`](Self::data): not zero. `None` at its end.
    /// Goes on sending the request in the meantime.
    ///
    /// # Errors
    /// [`ExchangeError`]: what came so far must not be taken for all of it.
    pub(super) fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
        request: &mut RequestBody<'_>,
    ) -> Poll<Result<Option<usize>, ExchangeError>> {
        if self.sending != Sending::Done
            && let Poll::Ready(Err(error)) = self.poll_send(cx, request)
        {
            return Poll::Ready(Err(error.into()));
        }
        loop {
            if self.data > 0 {
                return Poll::Ready(Ok(Some(self.data)));
            }
            if self.body.is_done() {
                self.give_back();
                return Poll::Ready(Ok(None));
            }
            let Some(connection) = &mut self.connection else { return Poll::Ready(Ok(None)) };
            let step = self.body.step(connection.input.filled())?;
            connection.input.consume(step.skip);
            self.data = step.data;
            if step.data > 0 || self.body.is_done() {
                continue;
            }
            let large = self.body.remaining().is_none_or(|left| left > BUFFER as u64);
            if ready!(self.poll_fill(cx, large))? == 0 {
                self.body.close()?;
            }
        }
    }

    /// The data that [`poll_data`](Self::poll_data) found.
    pub(super) fn data(&self) -> &[u8] {
        self.connection.as_ref().map_or(&[], |c| &c.input.filled()[..self.data])
    }

    /// Forgets the first bytes of the data.
    pub(super) fn consume(&mut self, count: usize) {
        let count = count.min(self.data);
        self.data -= count;
        if let Some(connection) = &mut self.connection {
            connection.input.consume(count);
        }
    }

    /// The trailers of a body that has ended.
    pub(super) fn take_trailers(&mut self) -> Fields {
        self.body.take_trailers()
    }

    /// The connection after a 101, with what came after it.
    pub(super) fn into_tunnel(mut self: Box<Self>) -> Option<(Box<Connection>, Occupied)> {
        self.connection.take().map(|connection| (connection, self.occupied))
    }

    /// The response is read: another request may use the connection, if both sides are done and willing.
    fn give_back(&mut self) {
        if let Some(connection) = self.connection.take()
            && self.keep_alive
            && self.sending == Sending::Done
        {
            connection.give_back(self.occupied.endpoint());
            self.bill = None;
        }
    }
}
