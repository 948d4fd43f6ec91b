//! Writing a reply on a request's stream.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll, ready},
};

use quinn::SendStream;

use super::Link;
use crate::{
    clock::Timer,
    grpc,
    h1::{BodyLength, Fields, Method, Name, ResponseHead},
    h3::{
        Code, FrameKind,
        qpack::{begin, write_field, write_status},
        write_frame_header,
    },
    limits::{BUFFER, LARGE_BUFFER, Limits},
    metrics::Outcome,
    serve::{Relay, Reply, ReplyBody, local::has_body},
    share::Bill,
    upstream::exchange::ExchangeError,
    worker::Thread,
};

/// Our side of a request's stream. Whoever drops it before its end resets it: quinn would end it instead, and what was cut
/// off would look complete.
pub(super) struct Answer {
    send: SendStream,
    ended: bool,
}

impl Answer {
    pub(super) fn new(send: SendStream) -> Self {
        Self { send, ended: false }
    }

    /// Ready when the client wants no answer any more.
    pub(super) fn stopped(&self) -> impl Future<Output = ()> + use<> {
        let stopped = self.send.stopped();
        // An error: the connection is gone.
        async move { drop(stopped.await) }
    }

    /// Breaks it off.
    pub(super) fn reset(&mut self, code: Code) {
        if !std::mem::replace(&mut self.ended, true) {
            // An error: the client has stopped it, or the connection is gone.
            let _ended = self.send.reset(code.value().into());
        }
    }

    pub(super) fn finish(&mut self) {
        self.ended = true;
        let _ended = self.send.finish();
    }

    /// Writes the head of a reply whose body is a tunnel.
    pub(super) async fn begin(
        &mut self,
        timer: &Timer,
        limits: &Limits,
        head: &ResponseHead,
    ) -> Result<(), Code> {
        let mut out = Outgoing::default();
        out.head(head, None);
        poll_fn(|cx| self.poll_flush(cx, timer, limits, &mut out)).await
    }

    /// The stream to write a tunnel's frames to.
    pub(super) fn stream(&mut self) -> Pin<&mut SendStream> {
        Pin::new(&mut self.send)
    }

    /// Writes a reply of our own.
    pub(super) async fn local(
        &mut self,
        timer: &Timer,
        limits: &Limits,
        head: &ResponseHead,
        body: &[u8],
    ) -> Result<(), Code> {
        let mut out = Outgoing::default();
        out.head(head, Some(body.len() as u64));
        out.data(body);
        poll_fn(|cx| self.poll_flush(cx, timer, limits, &mut out)).await?;
        self.finish();
        Ok(())
    }

    /// Writes a reply.
    pub(super) async fn reply(
        &mut self,
        link: &Link,
        timer: &Timer,
        reply: Reply<'static>,
        method: Method,
    ) -> Result<(), Code> {
        let thread = &link.thread;
        let Reply { head, body, mut record } = reply;
        let bodied = has_body(method, head.status());
        let mut out = Outgoing::default();
        match body {
            ReplyBody::Local(bytes) => {
                out.head(&head, Some(bytes.len() as u64));
                if bodied {
                    out.data(&bytes);
                    record.moved(0, bytes.len() as u64);
                }
                poll_fn(|cx| self.poll_flush(cx, timer, &thread.limits, &mut out)).await?;
                record.finished(Outcome::Answered);
            }
            ReplyBody::Upstream(mut relay) => {
                let length = match (relay.framing.body, relay.framing.declared_length) {
                    (BodyLength::None | BodyLength::Length(0), declared) => declared,
                    (BodyLength::Length(length), _) => Some(length),
                    (BodyLength::Chunked | BodyLength::UntilClose, _) => None,
                };
                out.head(&head, length);
                let mut rest = thread.turns.rest(record.share());
                let mut bill = None;
                let relayed = poll_fn(|cx| {
                    let relayed = rest.timed(|| self.poll_relay(cx, thread, timer, &mut relay, &mut out));
                    if let (Poll::Pending, Some(share)) = (&relayed, record.share()) {
                        bill.get_or_insert_with(|| Bill::new(share)).note(out.bytes.capacity());
                    }
                    relayed
                });
                let relayed = relayed.await;
                drop(rest);
                record.moved(relay.request.received(), relay.sent);
                match relayed {
                    Ok(()) if out.broken => record.finished(Outcome::Truncated),
                    Ok(()) => record.finished(Outcome::Forwarded),
                    Err(code) => {
                        if code == Code::InternalError {
                            record.finished(Outcome::Truncated);
                        }
                        return Err(code);
                    }
                }
            }
            // See `tunnel`.
            ReplyBody::Tunnel(_) => return Err(Code::InternalError),
        }
        self.finish();
        Ok(())
    }

    /// Moves the upstream's response to the client: a small one with its head, in one write.
    fn poll_relay(
        &mut self,
        cx: &mut Context<'_>,
        thread: &Thread,
        timer: &Timer,
        relay: &mut Relay<'_>,
        out: &mut Outgoing,
    ) -> Poll<Result<(), Code>> {
        loop {
            let mut starved = false;
            let mut failed = None;
            while !relay.ended
                && !starved
                && failed.is_none()
                && out.announced == 0
                && out.bytes.len() < LARGE_BUFFER
            {
                match relay.exchange.poll_data(cx, &mut relay.request) {
                    Poll::Ready(Ok(Some(count))) => {
                        thread.counters.bytes_out.add(count as u64);
                        // Much is not copied once more.
                        if count >= BUFFER {
                            write_frame_header(&mut out.bytes, FrameKind::Data, count);
                            out.announced = count;
                        } else {
                            out.data(relay.exchange.data());
                            relay.consume(count);
                        }
                    }
                    Poll::Ready(Ok(None)) => {
                        out.trailers(&relay.exchange.take_trailers());
                        relay.ended = true;
                    }
                    Poll::Ready(Err(ExchangeError::Client(_))) => failed = Some(Code::MessageError),
                    // gRPC can say what happened; to other clients a reset says that this was not all.
                    Poll::Ready(Err(error)) if out.grpc => {
                        out.trailers(&grpc::broken_off(&error));
                        out.broken = true;
                        relay.ended = true;
                    }
                    Poll::Ready(Err(_)) => failed = Some(Code::InternalError),
                    Poll::Pending => starved = true,
                }
            }
            match self.poll_flush(cx, timer, &thread.limits, out) {
                Poll::Ready(Err(code)) => return Poll::Ready(Err(code)),
                // The client gets what there was, if it takes it, and then sees the stream break.
                _ if failed.is_some() => return Poll::Ready(Err(failed.unwrap_or(Code::InternalError))),
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) => {}
            }
            if out.announced > 0 {
                let count = ready!(self.poll_write(
                    cx,
                    timer,
                    &thread.limits,
                    &relay.exchange.data()[..out.announced]
                ))?;
                relay.consume(count);
                out.announced -= count;
            } else if relay.ended {
                return Poll::Ready(Ok(()));
            } else if starved {
                return Poll::Pending;
            }
        }
    }

    fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        timer: &Timer,
        limits: &Limits,
        out: &mut Outgoing,
    ) -> Poll<Result<(), Code>> {
        while out.written < out.bytes.len() {
            out.written += ready!(self.poll_write(cx, timer, limits, &out.bytes[out.written..]))?;
        }
        out.bytes.clear();
        out.written = 0;
        Poll::Ready(Ok(()))
    }

    /// Writes once, within the time that a client may take.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        timer: &Timer,
        limits: &Limits,
        bytes: &[u8],
    ) -> Poll<Result<usize, Code>> {
        match Pin::new(&mut self.send).poll_write(cx, bytes) {
            Poll::Ready(written) => {
                timer.clear();
                // Stopped, or the connection is gone.
                Poll::Ready(written.map_err(|_| Code::RequestCancelled))
            }
            Poll::Pending => {
                if !timer.is_set() {
                    timer.set(limits.stall);
                }
                timer.poll(cx).map(|()| Err(Code::ExcessiveLoad))
            }
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.reset(Code::RequestCancelled);
    }
}

/// Frames on their way.
#[derive(Debug, Default)]
struct Outgoing {
    bytes: Vec<u8>,
    written: usize,
    /// Bytes of a DATA frame whose header is among `bytes`, and which are the upstream's next.
    announced: usize,
    /// It answers a gRPC call.
    grpc: bool,
    /// The upstream's response broke off, and its trailers say so.
    broken: bool,
}

impl Outgoing {
    fn head(&mut self, head: &ResponseHead, length: Option<u64>) {
        let mut section = Vec::with_capacity(256);
        begin(&mut section);
        write_status(&mut section, head.status());
        write_fields(&mut section, &head.fields);
        self.grpc = grpc::is_grpc(&head.fields);
        let declares = head.status() >= 200 && head.status() != 204 && !grpc::is_trailers_only(head);
        if let Some(length) = length.filter(|_| declares) {
            write_field(&mut section, b"content-length", itoa::Buffer::new().format(length).as_bytes());
        }
        self.section(&section);
    }

    fn trailers(&mut self, trailers: &Fields) {
        if !trailers.is_empty() {
            let mut section = Vec::new();
            begin(&mut section);
            write_fields(&mut section, trailers);
            self.section(&section);
        }
    }

    fn section(&mut self, section: &[u8]) {
        write_frame_header(&mut self.bytes, FrameKind::Headers, section.len());
        self.bytes.extend_from_slice(section);
    }

    fn data(&mut self, data: &[u8]) {
        if !data.is_empty() {
            write_frame_header(&mut self.bytes, FrameKind::Data, data.len());
            self.bytes.extend_from_slice(data);
        }
    }
}

/// Writes what is not the connection's.
fn write_fields(section: &mut Vec<u8>, fields: &Fields) {
    for field in fields.iter().filter(|field| !field.hop_by_hop && field.tag != Name::ContentLength) {
        write_field(section, field.name, field.value);
    }
}
