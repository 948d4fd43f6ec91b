//! One request and its response on a stream of an HTTP/2 connection.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

use super::{ExchangeError, Sending};
use crate::{
    body::{ClientError, Outbox, RequestBody},
    clock::Timer,
    h1::{BodyLength, Fields, Method, ParsedResponse, RequestHead, RequestTarget, Scheme},
    mux::Gone,
    share::{Bill, Share},
    upstream::{
        Occupied,
        h2::{Came, Failure, OpenStream, write_request},
        links::Slot,
    },
    worker::Thread,
};

/// A request on its way and the response that comes back.
pub(crate) struct H2Exchange {
    /// Until the response has come to its end. Before the slot: it makes room.
    stream: Option<OpenStream>,
    slot: Option<Slot>,
    _occupied: Occupied,
    /// How long nothing may move.
    patience: Duration,
    timer: Timer,
    waiting: bool,
    /// When the route's time is over.
    deadline: Option<Pin<Box<Sleep>>>,
    outbox: Outbox,
    sending: Sending,
    /// The upstream has done nothing for this request.
    refused: bool,
    trailers: Fields,
    /// Whom its buffers are for.
    bill: Option<Bill>,
}

impl H2Exchange {
    /// Begins the stream with the request's head. `None` if the connection has ended in this moment. Boxed: it is handed on to
    /// the reply.
    pub(crate) fn begin(
        thread: &Thread,
        slot: Slot,
        occupied: Occupied,
        head: &RequestHead,
        (target, scheme): (&RequestTarget<'_>, Scheme),
        body: &RequestBody<'_>,
    ) -> Option<Box<Self>> {
        let bodiless = matches!(body.length(), BodyLength::None | BodyLength::Length(0));
        let stream = slot.channel().open(head.method() == Method::Head, bodiless, |out| {
            write_request(out, head, target, scheme, body.length());
        })?;
        let mut outbox = Outbox::apart();
        if !bodiless {
            outbox.warm();
        }
        Some(Box::new(Self {
            stream: Some(stream),
            slot: Some(slot),
            _occupied: occupied,
            patience: thread.limits.stall,
            timer: thread.clock.timer(),
            waiting: false,
            deadline: None,
            outbox,
            sending: if bodiless { Sending::Done } else { Sending::Body },
            refused: false,
            trailers: Fields::new(),
            bill: None,
        }))
    }

    /// Its buffers are for that tenant.
    pub(super) fn bill(&mut self, share: &Rc<Share>) {
        self.bill = Some(Bill::new(share));
    }

    pub(super) fn set_deadline(&mut self, at: Option<Instant>) {
        self.deadline = at.map(|at| Box::pin(tokio::time::sleep_until(at)));
    }

    pub(super) fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    pub(super) fn is_unsent(&self) -> bool {
        self.refused
    }

    pub(super) async fn response(
        &mut self,
        request: &mut RequestBody<'_>,
    ) -> Result<ParsedResponse, ExchangeError> {
        request.wanted();
        poll_fn(|cx| self.poll_response(cx, request)).await
    }

    fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
        request: &mut RequestBody<'_>,
    ) -> Poll<Result<ParsedResponse, ExchangeError>> {
        if let Poll::Ready(Err(error)) = self.poll_send(cx, request) {
            return Poll::Ready(Err(error.into()));
        }
        let Some(stream) = &self.stream else { return Poll::Ready(Err(super::closed())) };
        match stream.poll_head(cx) {
            Poll::Ready(Ok(parsed)) => {
                self.waiting = false;
                Poll::Ready(Ok(parsed))
            }
            Poll::Ready(Err(failure)) => Poll::Ready(Err(self.failed(failure))),
            Poll::Pending => self.poll_patience(cx).map(Err),
        }
    }

    /// Sends as much of the request as the upstream takes and the client has sent. Pending while more is to come.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        request: &mut RequestBody<'_>,
    ) -> Poll<Result<(), ClientError>> {
        let Some(stream) = &self.stream else { return Poll::Ready(Ok(())) };
        loop {
            self.sending.fill(cx, request, &mut self.outbox)?;
            match self.sending {
                Sending::Done | Sending::Broken => return Poll::Ready(Ok(())),
                Sending::Body if self.outbox.is_empty() => return Poll::Pending,
                Sending::Last if self.outbox.is_empty() => {
                    stream.finish(&self.outbox.take_trailers());
                    self.sending = Sending::Done;
                    return Poll::Ready(Ok(()));
                }
                Sending::Body | Sending::Last => {}
            }
            match ready!(stream.poll_write(cx, self.outbox.waiting())) {
                Ok(count) => {
                    self.outbox.sent(count);
                    self.waiting = false;
                }
                Err(Gone) => self.sending = Sending::Broken,
            }
        }
    }

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
        let Some(stream) = &mut self.stream else { return Poll::Ready(Ok(None)) };
        match stream.poll_body(cx) {
            Poll::Ready(Ok(Came::Data)) => {
                self.waiting = false;
                let count = stream.data().len();
                if let Some(bill) = &self.bill {
                    bill.note(self.outbox.bytes.capacity() + count);
                }
                Poll::Ready(Ok(Some(count)))
            }
            Poll::Ready(Ok(Came::End(trailers))) => {
                self.trailers = trailers;
                self.end();
                Poll::Ready(Ok(None))
            }
            Poll::Ready(Err(failure)) => Poll::Ready(Err(self.failed(failure))),
            Poll::Pending => self.poll_patience(cx).map(Err),
        }
    }

    /// The response is there to its end.
    fn end(&mut self) {
        self.stream = None;
        if let Some(slot) = self.slot.take() {
            slot.release(self.timer.now_ms());
        }
    }

    pub(super) fn data(&self) -> &[u8] {
        self.stream.as_ref().map_or(&[], OpenStream::data)
    }

    pub(super) fn consume(&mut self, count: usize) {
        if let Some(stream) = &mut self.stream {
            stream.consume(count);
        }
    }

    pub(super) fn take_trailers(&mut self) -> Fields {
        std::mem::take(&mut self.trailers)
    }

    /// Ready when nothing moved for too long.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<ExchangeError> {
        if let Some(bill) = &self.bill {
            bill.note(self.outbox.bytes.capacity());
        }
        if !self.waiting {
            self.waiting = true;
            self.timer.set(self.patience);
        }
        if self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(ExchangeError::TimedOut);
        }
        if self.timer.poll(cx).is_ready() {
            // Not a word in all that time: others should not be put on a connection that may be dead.
            if let Some(slot) = &self.slot {
                slot.channel().retire();
            }
            return Poll::Ready(ExchangeError::TimedOut);
        }
        Poll::Pending
    }

    fn failed(&mut self, failure: Failure) -> ExchangeError {
        match failure {
            Failure::Refused => {
                self.refused = true;
                ExchangeError::Closed(io::ErrorKind::ConnectionRefused.into())
            }
            Failure::Closed(kind) => ExchangeError::Closed(kind.into()),
            Failure::Malformed(error) => error.into(),
        }
    }
}
