//! The body of a request that came by HTTP/3.

use std::{
    rc::Rc,
    task::{Context, Poll, Waker, ready},
};

use super::{
    Link,
    frames::{Broken, Frames, Next},
};
use crate::{
    body::{ClientError, Meter, Outbox, RequestBody},
    downstream::request,
    h1::{BodyLength, Fields, RequestHead},
    h3::Code,
    section,
    share::{Bill, Share},
};

/// The body of a request.
pub(crate) struct H3Body {
    frames: Frames,
    /// What was read to see whether there is a body.
    peeked: Option<Result<Next, Broken>>,
    /// Bytes that the head declares.
    declared: Option<u64>,
    trailers: Fields,
    meter: Meter,
    link: Rc<Link>,
    /// Whom what is read ahead is for.
    bill: Option<Bill>,
}

impl H3Body {
    pub(super) fn request(
        link: &Rc<Link>,
        mut frames: Frames,
        head: &RequestHead,
        declared: Option<u64>,
        share: Option<&Rc<Share>>,
    ) -> RequestBody<'static> {
        // A request without a body ends with its head, in one packet.
        let mut cx = Context::from_waker(Waker::noop());
        let peeked = match frames.poll_next(&mut cx, &link.thread.limits) {
            Poll::Ready(next) => Some(next),
            Poll::Pending => None,
        };
        let ended = matches!(peeked, Some(Ok(Next::End)));
        let length = request::body_length(ended, declared);
        if length == BodyLength::None {
            return RequestBody::Empty;
        }
        let body = Self {
            frames,
            peeked,
            declared,
            trailers: Fields::new(),
            meter: Meter::new(&link.thread, length, head),
            link: Rc::clone(link),
            bill: share.map(Bill::new),
        };
        RequestBody::H3(Box::new(body))
    }

    pub(crate) fn meter(&self) -> &Meter {
        &self.meter
    }

    /// As [`RequestBody::poll_more`].
    pub(crate) fn poll_more(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Outbox,
    ) -> Poll<Result<bool, ClientError>> {
        match ready!(self.poll_next(cx))? {
            Next::Nothing => {
                let came = self.meter.came(0);
                if came.is_err() {
                    self.link.close(Code::ExcessiveLoad);
                }
                Poll::Ready(came.map(|()| false))
            }
            Next::Data(count) => {
                self.meter.came(count)?;
                if self.declared.is_some_and(|declared| self.meter.received() > declared) {
                    return Poll::Ready(Err(ClientError::Malformed));
                }
                self.link.thread.counters.bytes_in.add(count as u64);
                out.data(self.frames.data());
                self.frames.consume(count);
                Poll::Ready(Ok(false))
            }
            // The request is whole when its stream ends, and nothing may come in between.
            Next::Trailers(lines) => match section::trailers(&lines) {
                Some(trailers) => {
                    self.trailers = trailers;
                    self.poll_more(cx, out)
                }
                None => Poll::Ready(Err(ClientError::Malformed)),
            },
            Next::End => {
                if self.declared.is_some_and(|declared| self.meter.received() != declared) {
                    return Poll::Ready(Err(ClientError::Malformed));
                }
                out.end(&self.trailers);
                Poll::Ready(Ok(true))
            }
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Next, ClientError>> {
        let limits = &self.link.thread.limits;
        let next = match self.peeked.take() {
            Some(peeked) => Poll::Ready(peeked),
            None => self.frames.poll_next(cx, limits),
        };
        match next {
            Poll::Ready(Ok(next)) => Poll::Ready(Ok(next)),
            Poll::Ready(Err(Broken::Gone)) => Poll::Ready(Err(ClientError::Gone)),
            Poll::Ready(Err(Broken::Connection(code))) => {
                self.link.close(code);
                Poll::Ready(Err(ClientError::Malformed))
            }
            Poll::Ready(Err(Broken::Stream(_) | Broken::Head(_))) => Poll::Ready(Err(ClientError::Malformed)),
            Poll::Pending => {
                if let Some(bill) = &self.bill {
                    bill.note(self.frames.held());
                }
                self.meter.poll_slow(cx).map(Err)
            }
        }
    }
}
