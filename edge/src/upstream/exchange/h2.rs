//! One request and its response on a stream of an HTTP/2 connection.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, client::ResponseFuture};
use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use tokio::time::{Instant, Sleep};

use super::{ExchangeError, Sending, closed};
use crate::{
    body::{ClientError, Outbox, RequestBody},
    clock::Timer,
    h1::{
        BodyLength, Fields, HeadError, Method, Name, ParsedResponse, RequestHead, RequestTarget,
        ResponseError, ResponseFraming, ResponseHead, Scheme,
    },
    upstream::{Occupied, links::Slot},
    worker::Thread,
};

/// The request cannot be said in HTTP/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request cannot be put into HTTP/2")]
pub(crate) struct Unsayable;

/// The request's head as it goes out (RFC 9113 section 8.3.1). `Expect` is left out: with flow control the body costs
/// nobody anything until the upstream wants it.
pub(crate) fn request(
    head: &RequestHead,
    target: &RequestTarget<'_>,
    scheme: Scheme,
    body: BodyLength,
) -> Result<http::Request<()>, Unsayable> {
    let path = match target.query {
        Some(query) => format!("{}?{query}", target.path),
        None => target.path.to_owned(),
    };
    let uri = Uri::builder().scheme(scheme.as_str()).authority(target.host).path_and_query(path);
    let mut request = http::Request::new(());
    *request.uri_mut() = uri.build().map_err(|_| Unsayable)?;
    *request.method_mut() = http::Method::from_bytes(head.method_str().as_bytes()).map_err(|_| Unsayable)?;
    *request.version_mut() = http::Version::HTTP_2;
    let fields = request.headers_mut();
    copy_fields(&head.fields, fields);
    for name in [header::HOST, header::CONTENT_LENGTH, header::EXPECT, header::TE] {
        fields.remove(name);
    }
    if let BodyLength::Length(length) = body {
        fields.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    if head.fields.all_known(Name::Te).any(has_trailers) {
        fields.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    Ok(request)
}

fn has_trailers(te: &[u8]) -> bool {
    te.split(|byte| *byte == b',').any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

/// A request on its way and the response that comes back.
pub(crate) struct H2Exchange {
    slot: Option<Slot>,
    _occupied: Occupied,
    method: Method,
    head_fields: usize,
    /// How long nothing may move.
    patience: Duration,
    timer: Timer,
    waiting: bool,
    /// When the route's time is over.
    deadline: Option<Pin<Box<Sleep>>>,
    outbox: Outbox,
    sending: Sending,
    /// The upstream said that it did nothing for this request.
    refused: bool,
    response: ResponseFuture,
    send: SendStream<Bytes>,
    receive: Option<RecvStream>,
    data: Bytes,
    trailers: Fields,
}

impl H2Exchange {
    /// Begins the stream with the request's head. `None` if the connection has ended in this moment.
    pub(crate) fn begin(
        thread: &Thread,
        slot: Slot,
        occupied: Occupied,
        request: http::Request<()>,
        method: Method,
        body: &RequestBody<'_>,
    ) -> Option<Self> {
        let bodiless = matches!(body.length(), BodyLength::None | BodyLength::Length(0));
        let mut sender = slot.sender();
        let (response, send) = match sender.send_request(request, bodiless) {
            Ok(begun) => begun,
            Err(_) => {
                slot.retire();
                return None;
            }
        };
        Some(Self {
            slot: Some(slot),
            _occupied: occupied,
            method,
            head_fields: thread.limits.head_fields,
            patience: thread.limits.stall,
            timer: thread.clock.timer(),
            waiting: false,
            deadline: None,
            outbox: Outbox::apart(),
            sending: if bodiless { Sending::Done } else { Sending::Body },
            refused: false,
            response,
            send,
            receive: None,
            data: Bytes::new(),
            trailers: Fields::new(),
        })
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
        match Pin::new(&mut self.response).poll(cx) {
            Poll::Ready(Ok(response)) => {
                self.waiting = false;
                let (parts, receive) = response.into_parts();
                let parsed = self.parse(&parts, receive.is_end_stream());
                self.receive = Some(receive);
                Poll::Ready(parsed.map_err(Into::into))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.failed(error))),
            Poll::Pending => self.poll_patience(cx).map(Err),
        }
    }

    fn parse(&self, parts: &http::response::Parts, ended: bool) -> Result<ParsedResponse, ResponseError> {
        let status = parts.status.as_u16();
        if !(200..600).contains(&status) {
            return Err(ResponseError::Status);
        }
        if parts.headers.len() > self.head_fields {
            return Err(HeadError::TooManyFields.into());
        }
        let mut head = ResponseHead::new(status);
        let mut declared_length = None;
        for (name, value) in &parts.headers {
            match *name {
                // h2 has checked it against the data.
                header::CONTENT_LENGTH => {
                    declared_length = value.to_str().ok().and_then(|text| text.parse().ok());
                }
                header::CONNECTION | header::TRANSFER_ENCODING | header::UPGRADE => {}
                _ => push(&mut head.fields, name, value)?,
            }
        }
        let none = ended || self.method == Method::Head || matches!(status, 204 | 304);
        let body = match declared_length {
            _ if none => BodyLength::None,
            Some(length) => BodyLength::Length(length),
            None => BodyLength::Chunked,
        };
        let framing = ResponseFraming { body, declared_length, keep_alive: true, interim: false };
        Ok(ParsedResponse { head, framing, consumed: 0 })
    }

    /// Sends as much of the request as the upstream takes and the client has sent. Pending while more is to come.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        request: &mut RequestBody<'_>,
    ) -> Poll<Result<(), ClientError>> {
        loop {
            self.sending.fill(cx, request, &mut self.outbox)?;
            match self.sending {
                Sending::Done | Sending::Broken => return Poll::Ready(Ok(())),
                Sending::Body if self.outbox.is_empty() => return Poll::Pending,
                Sending::Last if self.outbox.is_empty() => {
                    self.finish();
                    continue;
                }
                Sending::Body | Sending::Last => {}
            }
            match ready!(self.poll_room(cx)) {
                None => self.sending = Sending::Broken,
                Some(room) => {
                    let waiting = self.outbox.waiting();
                    let part = Bytes::copy_from_slice(&waiting[..room.min(waiting.len())]);
                    self.outbox.sent(part.len());
                    self.waiting = false;
                    if self.send.send_data(part, false).is_err() {
                        self.sending = Sending::Broken;
                    }
                }
            }
        }
    }

    /// Ends the request.
    fn finish(&mut self) {
        let fields = self.outbox.take_trailers();
        let sent = if fields.is_empty() {
            self.send.send_data(Bytes::new(), true)
        } else {
            let mut trailers = HeaderMap::new();
            copy_fields(&fields, &mut trailers);
            self.send.send_trailers(trailers)
        };
        self.sending = if sent.is_ok() { Sending::Done } else { Sending::Broken };
    }

    /// How much the upstream takes now, not zero; `None` if it takes no more.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Option<usize>> {
        self.send.reserve_capacity(self.outbox.len());
        loop {
            if self.send.capacity() > 0 {
                return Poll::Ready(Some(self.send.capacity()));
            }
            match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(None),
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
        let mut empty = 0;
        loop {
            if !self.data.is_empty() {
                return Poll::Ready(Ok(Some(self.data.len())));
            }
            let Some(receive) = &mut self.receive else { return Poll::Ready(Ok(None)) };
            match receive.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => {
                    self.waiting = false;
                    self.data = data;
                    empty += 1;
                    // Frames without data are free to send; that they keep us busy is bounded.
                    if empty > EMPTY_FRAMES {
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(self.failed(error))),
                Poll::Ready(None) => match receive.poll_trailers(cx) {
                    Poll::Ready(Ok(found)) => {
                        self.trailers = found.map(|found| trailers(&found)).unwrap_or_default();
                        self.end();
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(self.failed(error))),
                    Poll::Pending => return self.poll_patience(cx).map(Err),
                },
                Poll::Pending => return self.poll_patience(cx).map(Err),
            }
        }
    }

    /// The response is there to its end.
    fn end(&mut self) {
        self.receive = None;
        if let Some(slot) = self.slot.take() {
            slot.release(self.timer.now_ms());
        }
    }

    pub(super) fn data(&self) -> &[u8] {
        &self.data
    }

    pub(super) fn consume(&mut self, count: usize) {
        let count = count.min(self.data.len());
        drop(self.data.split_to(count));
        if let Some(receive) = &mut self.receive {
            // It fails for a stream that has ended, which needs no window.
            let _ended = receive.flow_control().release_capacity(count);
        }
    }

    pub(super) fn take_trailers(&mut self) -> Fields {
        std::mem::take(&mut self.trailers)
    }

    /// Ready when nothing moved for too long.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<ExchangeError> {
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
                slot.retire();
            }
            return Poll::Ready(ExchangeError::TimedOut);
        }
        Poll::Pending
    }

    fn failed(&mut self, error: h2::Error) -> ExchangeError {
        // RFC 9113 section 8.7: neither a refused stream nor one above a GOAWAY's last was processed.
        self.refused = error.is_remote()
            && (error.is_go_away() || (error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM)));
        if (error.is_io() || error.is_go_away())
            && let Some(slot) = &self.slot
        {
            slot.retire();
        }
        match error.into_io() {
            Some(error) => ExchangeError::Closed(error),
            None if self.refused => ExchangeError::Closed(io::ErrorKind::ConnectionRefused.into()),
            None => closed(),
        }
    }
}

/// Frames without data that are looked at in one turn.
const EMPTY_FRAMES: u32 = 32;

fn push(fields: &mut Fields, name: &HeaderName, value: &HeaderValue) -> Result<(), ResponseError> {
    let unfit = |_| ResponseError::Head(HeadError::Control);
    fields.push(name.as_str(), value.as_bytes().trim_ascii()).map_err(unfit)
}

/// Copies what is not the connection's.
fn copy_fields(fields: &Fields, into: &mut HeaderMap) {
    for field in fields.iter().filter(|field| !field.hop_by_hop) {
        // Ours were checked by the same rules; a value that http refuses all the same is left out.
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(field.name), HeaderValue::from_bytes(field.value))
        {
            into.append(name, value);
        }
    }
}

/// Trailers as ours.
fn trailers(headers: &HeaderMap) -> Fields {
    let mut fields = Fields::new();
    for (name, value) in headers {
        let framing = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::HOST, header::CONNECTION];
        if !framing.contains(name) {
            // What cannot be a field on HTTP/1 is left out.
            let _unfit = fields.push_trimmed(name.as_str(), value.as_bytes());
        }
    }
    fields
}
