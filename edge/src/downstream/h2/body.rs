//! The body of a request that came by HTTP/2.

use std::{
    rc::Rc,
    task::{Context, Poll},
};

use super::link::{Came, Link, OpenStream};
use crate::{
    body::{ClientError, Meter, Outbox, RequestBody},
    downstream::request,
    h1::{BodyLength, RequestHead},
    h2::hpack::write_status,
    limits::BUFFER,
    mux::Gone,
};

/// The body of a request.
pub(crate) struct H2Body {
    link: Rc<Link>,
    id: u32,
    meter: Meter,
    /// The client sends the body only when it is told to.
    expects: bool,
}

impl H2Body {
    /// The body of `stream`; `ended` if it ended with its head.
    pub(super) fn request(
        stream: &OpenStream,
        head: &RequestHead,
        declared: Option<u64>,
        ended: bool,
        expects: bool,
    ) -> RequestBody<'static> {
        let length = request::body_length(ended, declared);
        if length == BodyLength::None {
            return RequestBody::Empty;
        }
        let link = Rc::clone(stream.link());
        let meter = Meter::new(&link.thread, length, head);
        RequestBody::H2(Box::new(Self { link, id: stream.id(), meter, expects }))
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
        match self.link.poll_body(self.id, BUFFER, &mut |data| out.data(data)) {
            Poll::Ready(Ok(Came::Data(count))) => {
                self.expects = false;
                self.meter.came(count)?;
                self.link.thread.counters.bytes_in.add(count as u64);
                Poll::Ready(Ok(false))
            }
            Poll::Ready(Ok(Came::End(trailers))) => {
                if !trailers.is_empty() {
                    self.meter.taken();
                }
                out.end(&trailers);
                Poll::Ready(Ok(true))
            }
            // It was reset, by the client or through its fault.
            Poll::Ready(Err(Gone)) => Poll::Ready(Err(ClientError::Gone)),
            Poll::Pending => {
                // `Expect` is not passed on: whoever takes the body wants it.
                if std::mem::take(&mut self.expects) {
                    self.link.interim(self.id, |out| write_status(out, 100));
                }
                self.meter.poll_slow(cx).map(Err)
            }
        }
    }
}
