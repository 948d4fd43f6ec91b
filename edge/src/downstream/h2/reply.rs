//! Writing a reply on a stream.

use std::{
    future::poll_fn,
    task::{Context, Poll, ready},
    time::Duration,
};

use super::link::OpenStream;
use crate::{
    clock::Timer,
    grpc,
    h1::{BodyLength, Fields, Method, Name, ResponseHead},
    h2::{
        Code,
        hpack::{write_field, write_status},
    },
    metrics::Outcome,
    mux::Gone,
    serve::{Relay, Reply, ReplyBody, is_slow_stream, local::has_body},
    upstream::exchange::ExchangeError,
    worker::Thread,
};

/// Our side of a stream.
pub(super) struct Answer<'s> {
    stream: &'s OpenStream,
    /// How long the client may take nothing.
    patience: Duration,
    /// Since it takes nothing.
    timer: Option<Timer>,
}

impl<'s> Answer<'s> {
    pub(super) fn new(stream: &'s OpenStream) -> Self {
        Self { stream, patience: stream.link().thread.limits.stall, timer: None }
    }

    fn thread(&self) -> &'s Thread {
        &self.stream.link().thread
    }

    /// Writes the head of a reply whose body is a tunnel.
    pub(super) async fn begin(&mut self, head: &ResponseHead) -> Result<(), Code> {
        poll_fn(|cx| self.poll_head(cx, head, None)).await
    }

    /// Writes a reply of our own.
    pub(super) async fn local(&mut self, head: &ResponseHead, bytes: &[u8]) -> Result<(), Code> {
        let length = Some(bytes.len() as u64);
        poll_fn(|cx| self.poll_head(cx, head, length)).await?;
        self.bytes(bytes).await
    }

    /// Writes a reply.
    pub(super) async fn reply(&mut self, reply: Reply<'static>, method: Method) -> Result<(), Code> {
        let Reply { head, body, mut record } = reply;
        match body {
            ReplyBody::Local(bytes) => {
                let length = Some(bytes.len() as u64);
                poll_fn(|cx| self.poll_head(cx, &head, length)).await?;
                if has_body(method, head.status()) {
                    record.moved(0, bytes.len() as u64);
                    self.bytes(&bytes).await?;
                } else {
                    self.stream.finish();
                }
                record.finished(Outcome::Answered);
            }
            ReplyBody::Upstream(mut relay) => {
                let length = match (relay.framing.body, relay.framing.declared_length) {
                    (BodyLength::None | BodyLength::Length(0), declared) => declared,
                    (BodyLength::Length(length), _) => Some(length),
                    (BodyLength::Chunked | BodyLength::UntilClose, _) => None,
                };
                if is_slow_stream(&head) {
                    self.patience = self.thread().limits.tunnel_idle;
                }
                let mut begun = false;
                let thread = self.thread();
                let mut rest = thread.turns.rest(record.share());
                let relayed = poll_fn(|cx| {
                    if !begun {
                        ready!(self.poll_head(cx, &head, length))?;
                        begun = true;
                    }
                    rest.timed(|| self.poll_relay(cx, &mut relay, grpc::is_grpc(&head.fields)))
                });
                let relayed = relayed.await;
                drop(rest);
                record.moved(relay.request.received(), relay.sent);
                let (outcome, code) = match relayed {
                    Ok(outcome) => (outcome, None),
                    Err(code) => (Outcome::Truncated, Some(code)),
                };
                match code {
                    None => record.finished(outcome),
                    Some(code) => {
                        if code == Code::InternalError {
                            record.finished(outcome);
                        }
                        return Err(code);
                    }
                }
            }
            // See `tunnel`.
            ReplyBody::Tunnel(_) => return Err(Code::InternalError),
        }
        Ok(())
    }

    /// Writes all of a body, which ends the stream.
    async fn bytes(&mut self, mut bytes: &[u8]) -> Result<(), Code> {
        while !bytes.is_empty() {
            let count = poll_fn(|cx| self.poll_data(cx, bytes)).await?;
            bytes = &bytes[count..];
        }
        self.stream.finish();
        Ok(())
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        head: &ResponseHead,
        length: Option<u64>,
    ) -> Poll<Result<(), Code>> {
        let room = self.stream.poll_room();
        ready!(self.within(cx, room))?;
        let declares = head.status() >= 200 && head.status() != 204 && !grpc::is_trailers_only(head);
        self.stream.head(|out| {
            write_status(out, head.status());
            write_fields(out, &head.fields);
            if let Some(length) = length.filter(|_| declares) {
                write_field(out, b"content-length", itoa::Buffer::new().format(length).as_bytes());
            }
        });
        Poll::Ready(Ok(()))
    }

    /// Moves the upstream's response to the client: its bytes are copied once, into frames that wait to be written.
    fn poll_relay(
        &mut self,
        cx: &mut Context<'_>,
        relay: &mut Relay<'_>,
        grpc: bool,
    ) -> Poll<Result<Outcome, Code>> {
        loop {
            match ready!(relay.exchange.poll_data(cx, &mut relay.request)) {
                Ok(Some(_)) => {
                    let written = ready!(self.poll_data(cx, relay.exchange.data()))?;
                    self.thread().counters.bytes_out.add(written as u64);
                    relay.consume(written);
                }
                Ok(None) => {
                    relay.ended = true;
                    let trailers = relay.exchange.take_trailers();
                    if trailers.is_empty() {
                        self.stream.finish();
                    } else {
                        self.stream.trailers(|out| write_fields(out, &trailers));
                    }
                    return Poll::Ready(Ok(Outcome::Forwarded));
                }
                Err(ExchangeError::Client(_)) => return Poll::Ready(Err(Code::Cancel)),
                // gRPC can say what happened; to other clients a reset says that this was not all.
                Err(error) if grpc => {
                    self.stream.trailers(|out| write_fields(out, &grpc::broken_off(&error)));
                    return Poll::Ready(Ok(Outcome::Truncated));
                }
                Err(_) => return Poll::Ready(Err(Code::InternalError)),
            }
        }
    }

    fn poll_data(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, Code>> {
        let written = self.stream.poll_data(data);
        self.within(cx, written)
    }

    /// What comes of a write, within the time that the client may take nothing: whatever else moves on the connection, one
    /// stream must not wait for ever.
    fn within<T>(&mut self, cx: &mut Context<'_>, written: Poll<Result<T, Gone>>) -> Poll<Result<T, Code>> {
        if let Poll::Ready(written) = written {
            if let Some(timer) = &self.timer {
                timer.clear();
            }
            return Poll::Ready(written.map_err(|Gone| Code::Cancel));
        }
        let timer = self.timer.get_or_insert_with(|| self.stream.link().thread.clock.timer());
        if !timer.is_set() {
            timer.set(self.patience);
        }
        timer.poll(cx).map(|()| Err(Code::Cancel))
    }
}

/// Writes the last words to a call of gRPC that a drain cuts off, before or after the head of its answer.
pub(super) fn write_cut_off(out: &mut Vec<u8>, answered: bool) {
    if !answered {
        write_status(out, 200);
        write_field(out, b"content-type", grpc::KIND);
    }
    write_fields(out, &grpc::cut_off());
}

/// Writes what is not the connection's.
fn write_fields(out: &mut Vec<u8>, fields: &Fields) {
    for field in fields.iter().filter(|field| !field.hop_by_hop && field.tag != Name::ContentLength) {
        write_field(out, field.name, field.value);
    }
}
