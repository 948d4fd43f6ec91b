//! Writing a reply on an HTTP/1 connection: head and body in as few writes as it takes.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::AsyncWrite;

use super::{Wire, open_ended};
use crate::{
    body::Outbox,
    downstream::{Client, tunnel::Tunnel},
    drain::{Seat, Verdict},
    h1::{BodyLength, Method, Outgoing, Persistence, ResponseHead, Version, write_response},
    limits::{BUFFER, LARGE_BUFFER},
    metrics::Outcome,
    serve::{Relay, Reply, ReplyBody, local::has_body},
    upstream::exchange::ExchangeError,
};

/// The client takes nothing any more, or is gone.
#[derive(Debug)]
pub(super) struct Stuck;

/// What is known of the request that is answered.
pub(super) struct Last {
    pub(super) method: Method,
    pub(super) version: Version,
    /// Whether the connection shall live on.
    pub(super) keep_alive: bool,
}

/// How far a reply was written.
pub(super) enum Written {
    /// To its end; whether the connection can live on.
    Whole { stay: bool },
    /// Its head; the rest is a tunnel.
    Tunnel(Box<Tunnel>),
    /// Not to its end.
    Broken,
}

impl Wire {
    /// Writes a reply.
    pub(super) async fn write_reply(
        &self,
        client: &Client,
        seat: &Seat,
        reply: Reply<'_>,
        last: &Last,
        outbox: &mut Outbox,
    ) -> Written {
        let Reply { head, body, mut record } = reply;
        let bodied = has_body(last.method, head.status());
        match body {
            ReplyBody::Local(bytes) => {
                let length = if allows_length(head.status()) {
                    BodyLength::Length(bytes.len() as u64)
                } else {
                    BodyLength::None
                };
                let stay = self.begin(&head, length, last, outbox);
                if bodied {
                    outbox.data(&bytes);
                    record.moved(0, bytes.len() as u64);
                }
                match self.flush(outbox, !stay).await {
                    Ok(()) => {
                        record.finished(Outcome::Answered);
                        Written::Whole { stay }
                    }
                    Err(Stuck) => Written::Broken,
                }
            }
            ReplyBody::Upstream(mut relay) => {
                let length = match (relay.framing.body, relay.framing.declared_length) {
                    (BodyLength::Length(length), _) => BodyLength::Length(length),
                    (BodyLength::None, Some(declared)) if !bodied && allows_length(head.status()) => {
                        BodyLength::Length(declared)
                    }
                    (BodyLength::None, _) => BodyLength::None,
                    (BodyLength::Chunked | BodyLength::UntilClose, _) => open_ended(last.version),
                };
                let stay = self.begin(&head, length, last, outbox);
                let mut rest = self.thread.turns.rest(record.share());
                let relayed = poll_fn(|cx| {
                    let relayed = rest.timed(|| self.poll_relay(cx, seat, &mut relay, outbox, stay));
                    if relayed.is_pending() {
                        self.hold(client, outbox.bytes.capacity());
                    }
                    relayed
                });
                let relayed = relayed.await;
                drop(rest);
                record.moved(relay.request.received(), relay.sent);
                match relayed {
                    Ok(()) => {
                        record.finished(Outcome::Forwarded);
                        Written::Whole { stay }
                    }
                    Err(broken) => {
                        if matches!(broken, Broken::Upstream) {
                            record.finished(Outcome::Truncated);
                        }
                        if length == BodyLength::UntilClose {
                            // Otherwise the close would be the message's end.
                            self.io.borrow().reset_on_close();
                        }
                        Written::Broken
                    }
                }
            }
            ReplyBody::Tunnel(tunnel) => {
                // An answer to CONNECT changes nothing of the protocol: the tunnel is the rest of the connection.
                let persistence =
                    if head.status() == 101 { Persistence::Upgrade } else { Persistence::Default };
                let outgoing = Outgoing { body: BodyLength::None, persistence };
                write_response(&mut outbox.bytes, &head, outgoing);
                match self.flush(outbox, false).await {
                    Ok(()) => {
                        record.finished(Outcome::Forwarded);
                        Written::Tunnel(tunnel)
                    }
                    Err(Stuck) => Written::Broken,
                }
            }
        }
    }

    /// Puts the head into the outbox. Whether the connection can live on after such a message.
    fn begin(&self, head: &ResponseHead, length: BodyLength, last: &Last, outbox: &mut Outbox) -> bool {
        let stay = last.keep_alive && length != BodyLength::UntilClose;
        let persistence = if stay {
            // Also for HTTP/1.1: a client that knows when we would close does not send into the close.
            let timeout_s = u16::try_from(self.thread.limits.advertised_idle.as_secs()).unwrap_or(u16::MAX);
            Persistence::KeepAlive { timeout_s }
        } else {
            Persistence::Close
        };
        outbox.warm();
        write_response(&mut outbox.bytes, head, Outgoing { body: length, persistence });
        outbox.frame(length);
        stay
    }

    /// Writes all that waits, then some of `data`, which is much.
    fn poll_bypass(
        &self,
        cx: &mut Context<'_>,
        outbox: &mut Outbox,
        data: &[u8],
    ) -> Poll<Result<usize, Stuck>> {
        if !outbox.is_empty() {
            ready!(self.poll_flush(cx, outbox, false))?;
        }
        let mut io = self.io.borrow_mut();
        match Pin::new(&mut *io).poll_write(cx, data) {
            Poll::Ready(Ok(count)) if count > 0 => {
                self.writing.clear();
                self.thread.counters.bytes_out.add(count as u64);
                outbox.bypassed();
                Poll::Ready(Ok(count))
            }
            Poll::Ready(_) => Poll::Ready(Err(Stuck)),
            Poll::Pending => {
                if !self.writing.is_set() {
                    self.writing.set(self.thread.limits.stall);
                }
                self.writing.poll(cx).map(|()| Err(Stuck))
            }
        }
    }

    /// Moves the upstream's response to the client. What is there is written at once, but not before all that is
    /// there was collected: a small response is one write.
    fn poll_relay(
        &self,
        cx: &mut Context<'_>,
        seat: &Seat,
        relay: &mut Relay<'_>,
        outbox: &mut Outbox,
        stay: bool,
    ) -> Poll<Result<(), Broken>> {
        if seat.poll(cx) == Verdict::Abort {
            return Poll::Ready(Err(Broken::Client));
        }
        loop {
            let mut starved = false;
            while !relay.ended && !starved && !relay.broken && outbox.len() < LARGE_BUFFER {
                match relay.exchange.poll_data(cx, &mut relay.request) {
                    // Not copied; the head goes first.
                    Poll::Ready(Ok(Some(count))) if count >= BUFFER && outbox.is_plain() => {
                        let written = ready!(self.poll_bypass(cx, outbox, relay.exchange.data()));
                        let Ok(count) = written else { return Poll::Ready(Err(Broken::Client)) };
                        relay.consume(count);
                    }
                    Poll::Ready(Ok(Some(count))) => {
                        outbox.data(relay.exchange.data());
                        relay.consume(count);
                    }
                    Poll::Ready(Ok(None)) => {
                        outbox.end(&relay.exchange.take_trailers());
                        relay.ended = true;
                    }
                    Poll::Ready(Err(ExchangeError::Client(_))) => return Poll::Ready(Err(Broken::Client)),
                    Poll::Ready(Err(_)) => relay.broken = true,
                    Poll::Pending => starved = true,
                }
            }
            match self.poll_flush(cx, outbox, relay.ended && !stay) {
                Poll::Ready(Err(Stuck)) => return Poll::Ready(Err(Broken::Client)),
                // The client has got what there was, and sees the connection break.
                Poll::Ready(Ok(())) if relay.broken => return Poll::Ready(Err(Broken::Upstream)),
                Poll::Ready(Ok(())) if relay.ended => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(())) if starved => {
                    return self.poll_gone(cx).map(|()| Err(Broken::Client));
                }
                Poll::Ready(Ok(())) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

/// Who broke off.
enum Broken {
    Client,
    Upstream,
}

/// Whether a response of that status may say the length of a body that it does not have (RFC 9110 section 8.6).
fn allows_length(status: u16) -> bool {
    status >= 200 && status != 204
}
