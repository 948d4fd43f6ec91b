//! Bodies of HTTP/2 streams.

use std::{
    borrow::Cow,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame, Incoming as HyperBody, SizeHint};

use super::{OpenStream, Streams, request};
use crate::{
    body::{ClientError, Meter, Outbox, RequestBody},
    grpc,
    h1::{BodyLength, Fields, Method, Name, RequestHead, ResponseHead},
    metrics::Outcome,
    serve::{Reply, ReplyBody, local::has_body, record::Record},
    upstream::exchange::ExchangeError,
    worker::Thread,
};

/// The body of a request.
pub(crate) struct H2Body {
    incoming: HyperBody,
    meter: Meter,
    streams: Rc<Streams>,
}

impl H2Body {
    pub(super) fn request(
        thread: &Thread,
        incoming: HyperBody,
        head: &RequestHead,
        declared: Option<u64>,
        stream: &OpenStream,
    ) -> RequestBody<'static> {
        let length = request::body_length(incoming.is_end_stream(), declared);
        if length == BodyLength::None {
            return RequestBody::Empty;
        }
        let meter = Meter::new(thread, length, head);
        RequestBody::H2(Box::new(Self { incoming, meter, streams: Rc::clone(&stream.0) }))
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
        let frame = match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => return self.meter.poll_slow(cx).map(Err),
        };
        match frame {
            None => {
                out.end(&Fields::new());
                Poll::Ready(Ok(true))
            }
            Some(Err(_)) => Poll::Ready(Err(ClientError::Gone)),
            Some(Ok(frame)) => {
                self.meter.taken();
                match frame.into_data() {
                    Ok(data) => {
                        self.meter.came(data.len())?;
                        self.streams.moved(self.meter.now_ms());
                        out.data(&data);
                        Poll::Ready(Ok(false))
                    }
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        out.end(&request::trailers(&trailers));
                        Poll::Ready(Ok(true))
                    }
                }
            }
        }
    }
}

/// A reply as hyper wants it: the body holds all that the request occupies until its end.
pub(crate) struct H2Reply {
    head: ResponseHead,
    body: Option<ReplyBody<'static>>,
    record: Option<Record>,
    length: Option<u64>,
    stream: OpenStream,
    thread: Option<Rc<Thread>>,
}

impl H2Reply {
    pub(super) fn new(
        thread: &Rc<Thread>,
        reply: Reply<'static>,
        method: Method,
        stream: OpenStream,
    ) -> Self {
        let Reply { mut head, body, mut record } = reply;
        let bodied = has_body(method, head.status());
        // Then the head ends the stream, as gRPC demands of a reply that is only trailers.
        let bodiless = matches!(&body, ReplyBody::Upstream(relay)
            if matches!(relay.framing.body, BodyLength::None | BodyLength::Length(0)));
        let (body, length) = match body {
            ReplyBody::Local(bytes) => {
                record.finished(Outcome::Answered);
                let length = bytes.len() as u64;
                record.moved(0, if bodied { length } else { 0 });
                (bodied.then_some(ReplyBody::Local(bytes)), Some(length))
            }
            ReplyBody::Upstream(relay) => match (relay.framing.body, relay.framing.declared_length) {
                (BodyLength::None | BodyLength::Length(0), declared) => {
                    record.finished(Outcome::Forwarded);
                    // Polled once more, to give the connection back.
                    (Some(ReplyBody::Upstream(relay)), declared)
                }
                (BodyLength::Length(length), _) => (Some(ReplyBody::Upstream(relay)), Some(length)),
                (BodyLength::Chunked | BodyLength::UntilClose, _) => (Some(ReplyBody::Upstream(relay)), None),
            },
            // See `tunnel`.
            ReplyBody::Tunnel(_) => (None, None),
        };
        head.fields.remove_known(Name::ContentLength);
        let declares = head.status() >= 200 && head.status() != 204 && !grpc::is_trailers_only(&head);
        if let Some(length) = length.filter(|_| declares) {
            // Digits are a valid value.
            let _valid =
                head.fields.push_known(Name::ContentLength, itoa::Buffer::new().format(length).as_bytes());
        }
        let length = if bodied && !bodiless { length } else { Some(0) };
        let mut reply =
            Self { head, body, record: Some(record), length, stream, thread: Some(Rc::clone(thread)) };
        if reply.length == Some(0) {
            reply.finish_empty();
        }
        reply
    }

    /// The head after which the stream is a tunnel; what moves there is no body.
    pub(super) fn tunnel(head: ResponseHead, mut record: Record, stream: OpenStream) -> Self {
        record.finished(Outcome::Forwarded);
        Self { head, body: None, record: None, length: None, stream, thread: None }
    }

    pub(super) fn local(head: ResponseHead, bytes: Cow<'static, [u8]>, stream: OpenStream) -> Self {
        let length = Some(bytes.len() as u64);
        Self { head, body: Some(ReplyBody::Local(bytes)), record: None, length, stream, thread: None }
    }

    pub(super) fn head(&self) -> &ResponseHead {
        &self.head
    }

    /// A response without a body: the upstream's connection is free at once.
    fn finish_empty(&mut self) {
        if let Some(ReplyBody::Upstream(mut relay)) = self.body.take() {
            let mut cx = Context::from_waker(std::task::Waker::noop());
            // Not ready: the request's body is still on its way; then the connection is closed.
            let _ended = relay.exchange.poll_data(&mut cx, &mut relay.request);
        }
    }

    fn poll_relay(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ExchangeError>>> {
        let Some(ReplyBody::Upstream(relay)) = &mut self.body else { return Poll::Ready(None) };
        match ready!(relay.exchange.poll_data(cx, &mut relay.request)) {
            Ok(Some(count)) => {
                let data = Bytes::copy_from_slice(relay.exchange.data());
                relay.consume(count);
                if let Some(thread) = &self.thread {
                    self.stream.0.moved(thread.clock.now_ms());
                    thread.counters.bytes_out.add(data.len() as u64);
                }
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Ok(None) => {
                let trailers = relay.exchange.take_trailers();
                self.end(Outcome::Forwarded);
                if trailers.is_empty() {
                    return Poll::Ready(None);
                }
                let mut headers = HeaderMap::new();
                request::copy_fields(&trailers, &mut headers);
                Poll::Ready(Some(Ok(Frame::trailers(headers))))
            }
            Err(error) => {
                let outcome = match error {
                    ExchangeError::Client(_) => Outcome::Abandoned,
                    _ => Outcome::Truncated,
                };
                self.end(outcome);
                // gRPC can say what happened; to other clients a reset says that this was not all.
                if outcome == Outcome::Truncated && grpc::is_grpc(&self.head.fields) {
                    let mut trailers = HeaderMap::new();
                    request::copy_fields(&grpc::broken_off(&error), &mut trailers);
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Poll::Ready(Some(Err(error)))
            }
        }
    }

    fn end(&mut self, outcome: Outcome) {
        let body = self.body.take();
        if let Some(mut record) = self.record.take() {
            if let Some(ReplyBody::Upstream(relay)) = &body {
                record.moved(relay.request.received(), relay.sent);
            }
            record.finished(outcome);
        }
    }
}

impl Body for H2Reply {
    type Data = Bytes;
    type Error = ExchangeError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ExchangeError>>> {
        let this = self.get_mut();
        match &mut this.body {
            None => Poll::Ready(None),
            Some(ReplyBody::Local(bytes)) => {
                let bytes = match std::mem::take(bytes) {
                    Cow::Borrowed(bytes) => Bytes::from_static(bytes),
                    Cow::Owned(bytes) => Bytes::from(bytes),
                };
                this.end(Outcome::Answered);
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Some(ReplyBody::Upstream(_)) => this.poll_relay(cx),
            Some(ReplyBody::Tunnel(_)) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.body, self.length) {
            (None, _) => SizeHint::with_exact(0),
            // The head says it already, and the body counts down while hyper looks at it only once.
            (Some(_), _) => SizeHint::default(),
        }
    }
}
