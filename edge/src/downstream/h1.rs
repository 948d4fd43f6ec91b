//! A client's HTTP/1 connection: one request after another.

mod body;
mod reply;

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use api::agent::IdleConnection;
use tokio::io::AsyncWrite;

use body::BodyState;
pub(crate) use body::H1Body;

use super::{Client, Past, tunnel::Tunnel};
use crate::{
    body::{Outbox, RequestBody},
    buffer::ReadBuffer,
    clock::Timer,
    drain::{Seat, Verdict},
    exit::Place,
    h1::{
        self, BodyLength, Outgoing, ParsedRequest, Persistence, Preface, RequestError, RequestParser,
        Version, h2_preface, write_response,
    },
    io::ClientIo,
    limits::{LARGE_BUFFER, UNWATCHED},
    serve::{Incoming, Reply, ReplyBody, local, refusal::Refusal, serve_request},
    share::Bill,
    worker::Thread,
};

/// How a connection ended.
pub(crate) enum End {
    /// It is closed.
    Closed,
    /// It speaks HTTP/2; these bytes of it were read already.
    PriorKnowledge(ClientIo, ReadBuffer),
}

/// What the reading and the writing side of a connection share. They take turns within one task, so each borrow
/// is over before the next begins.
pub(crate) struct Wire {
    io: RefCell<ClientIo>,
    input: RefCell<ReadBuffer>,
    body: RefCell<BodyState>,
    reading: Timer,
    writing: Timer,
    /// Whom the buffers of this request are for, while it waits for anything.
    bill: RefCell<Option<Bill>>,
    /// It is not to be handed over to another worker, or nobody took it.
    stays: Cell<bool>,
    thread: Rc<Thread>,
}

/// What came next on a connection.
enum Next {
    Request(ParsedRequest),
    PriorKnowledge,
    Refused(Refusal),
    Closed,
    /// Nothing yet, and another worker is to wait for it.
    Leave(Place),
}

/// Whether a connection can go on after a request.
enum After {
    /// Another request may come.
    Stay,
    /// All was said; the client may still be sending.
    Linger,
    /// Nothing more to say.
    Close,
    /// It is a tunnel now.
    Tunnel(Box<Tunnel>),
}

/// Serves requests until one side has enough.
pub(crate) async fn serve(
    thread: &Rc<Thread>,
    io: ClientIo,
    client: &Client,
    seat: &Seat,
    past: Past,
) -> End {
    let mut served = past.served;
    let wire = Wire::new(thread, io, past.stays);
    let mut parser = RequestParser::default();
    let mut outbox = Outbox::default();
    loop {
        seat.idle();
        let next = wire.next(&mut parser, seat, served == 0).await;
        seat.busy();
        let after = match next {
            Next::Closed => return End::Closed,
            Next::Leave(place) => {
                if Box::pin(wire.hand_over(place, client, seat, served)).await {
                    return End::Closed;
                }
                wire.stays.set(true);
                continue;
            }
            Next::PriorKnowledge if !thread.config().speaks_http2(client.port) => {
                wire.refuse(client, &RequestError::VersionUnsupported.into(), &mut outbox).await
            }
            Next::PriorKnowledge => {
                return End::PriorKnowledge(wire.io.into_inner(), wire.input.into_inner());
            }
            Next::Refused(refusal) => wire.refuse(client, &refusal, &mut outbox).await,
            Next::Request(request) => {
                // Boxed: an idle connection is a third as large, and a busy thread uses the same warm memory for
                // every request.
                Box::pin(wire.exchange(thread, client, seat, request, &mut outbox)).await
            }
        };
        served += 1;
        match after {
            After::Stay if served < thread.limits.requests_per_connection => outbox.rest(),
            After::Stay | After::Linger => {
                wire.linger().await;
                return End::Closed;
            }
            After::Close => return End::Closed,
            After::Tunnel(tunnel) => {
                let (io, input) = (wire.io.into_inner(), wire.input.into_inner());
                let share = client.membership.share();
                Box::pin(tunnel.run(thread, io, input, seat, share)).await;
                return End::Closed;
            }
        }
    }
}

/// How long a client is given to see our last words before the connection is closed under what it still sends.
const LINGER: Duration = Duration::from_secs(2);

impl Wire {
    fn new(thread: &Rc<Thread>, io: ClientIo, stays: bool) -> Self {
        Self {
            io: RefCell::new(io),
            input: RefCell::default(),
            body: RefCell::default(),
            reading: thread.clock.timer(),
            writing: thread.clock.timer(),
            bill: RefCell::default(),
            stays: Cell::new(stays),
            thread: Rc::clone(thread),
        }
    }

    fn parse_limits(&self) -> h1::Limits {
        h1::Limits {
            head_bytes: self.thread.limits.head_bytes.min(LARGE_BUFFER),
            fields: self.thread.limits.head_fields,
            // Whether it is allowed is the listener's to say.
            connect: true,
            ..h1::Limits::default()
        }
    }

    /// Waits for the next request and reads its head.
    async fn next(&self, parser: &mut RequestParser, seat: &Seat, first: bool) -> Next {
        let limits = self.parse_limits();
        self.reading.set(if self.input.borrow().is_empty() {
            self.thread.limits.idle
        } else {
            self.thread.limits.head
        });
        // Most never leave.
        let mut leaving: Option<Pin<Box<dyn Future<Output = Option<Place>>>>> = None;
        poll_fn(|cx| {
            let next = self.poll_next(cx, parser, &limits, seat, first);
            if next.is_pending() && self.input.borrow().is_empty() && self.may_leave(seat) {
                let place = leaving.get_or_insert_with(|| Box::pin(self.thread.shared.exit.place()));
                if let Some(place) = ready!(place.as_mut().poll(cx)) {
                    return Poll::Ready(Next::Leave(place));
                }
                self.stays.set(true);
            }
            next
        })
        .await
    }

    fn poll_next(
        &self,
        cx: &mut Context<'_>,
        parser: &mut RequestParser,
        limits: &h1::Limits,
        seat: &Seat,
        first: bool,
    ) -> Poll<Next> {
        loop {
            let waiting = self.input.borrow().is_empty();
            if !waiting {
                let mut input = self.input.borrow_mut();
                let preface = if first { h2_preface(input.filled()) } else { Preface::No };
                match preface {
                    Preface::Yes => return Poll::Ready(Next::PriorKnowledge),
                    Preface::Partial => {}
                    Preface::No => match parser.parse(input.filled(), limits) {
                        Ok(Some(parsed)) => {
                            input.consume(parsed.consumed);
                            return Poll::Ready(Next::Request(parsed));
                        }
                        Ok(None) => {}
                        Err(error) => return Poll::Ready(Next::Refused(error.into())),
                    },
                }
            }
            match self.poll_read(cx, false) {
                Poll::Ready(0) => return Poll::Ready(Next::Closed),
                Poll::Ready(_) if waiting => self.reading.set(self.thread.limits.head),
                Poll::Ready(_) => {}
                Poll::Pending => {
                    let verdict = seat.poll(cx);
                    let late = self.reading.poll(cx).is_ready();
                    if verdict == Verdict::Abort {
                        return Poll::Ready(Next::Closed);
                    }
                    if waiting {
                        // A request that came since the runtime last looked will wake us.
                        if (late || verdict == Verdict::Leave) && !self.io.borrow().has_input() {
                            return Poll::Ready(Next::Closed);
                        }
                        self.input.borrow_mut().release();
                    } else if late {
                        return Poll::Ready(Next::Refused(Refusal::HeadTimeout));
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// Reads once. Zero is the end, orderly or not: a connection that broke has no more to say either.
    fn poll_read(&self, cx: &mut Context<'_>, large: bool) -> Poll<usize> {
        let mut io = self.io.borrow_mut();
        let count = self.input.borrow_mut().poll_read(cx, Pin::new(&mut *io), large);
        count.map(|count| {
            let count = count.unwrap_or(0);
            self.thread.counters.bytes_in.add(count as u64);
            count
        })
    }

    /// Whether another worker could go on after a request as well as this one, which drains.
    fn may_leave(&self, seat: &Seat) -> bool {
        seat.verdict() != Verdict::Stay
            && !self.stays.get()
            && self.thread.registry.is_draining()
            && self.thread.shared.exit.is_open()
            && matches!(*self.io.borrow(), ClientIo::Plain(_))
    }

    /// Hands the connection over to another worker, with what has come of the next request meanwhile. Whether it is gone.
    async fn hand_over(&self, place: Place, client: &Client, seat: &Seat, served: u64) -> bool {
        let socket = match &*self.io.borrow() {
            ClientIo::Plain(socket) => socket.duplicate().ok(),
            // Its keys are here.
            ClientIo::Tls(_) => None,
        };
        let Some(socket) = socket else { return false };
        let connection = IdleConnection {
            listen: client.membership.listen().clone(),
            client: client.peer,
            local: client.local,
            served,
            age_ms: seat.age_ms(),
        };
        let mut handing = pin!(place.hand_over(connection, socket));
        poll_fn(|cx| match handing.as_mut().poll(cx) {
            Poll::Ready(taken) => {
                self.thread.counters.handed_over.add(u64::from(taken));
                Poll::Ready(taken)
            }
            // The drain is over; nobody reads it any more.
            Poll::Pending if seat.poll(cx) == Verdict::Abort => Poll::Ready(true),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// Serves one request and writes its reply.
    async fn exchange(
        &self,
        thread: &Rc<Thread>,
        client: &Client,
        seat: &Seat,
        request: ParsedRequest,
        outbox: &mut Outbox,
    ) -> After {
        let ParsedRequest { head, framing, .. } = request;
        let (method, version) = (head.method(), head.version());
        self.reading.set(UNWATCHED);
        *self.body.borrow_mut() = BodyState::new(&framing, &self.parse_limits());
        let body = match framing.body {
            BodyLength::None => RequestBody::Empty,
            _ => RequestBody::H1(H1Body::new(self)),
        };
        let incoming = Incoming { head, body, upgrade: framing.upgrade };

        let reply = {
            let mut serving = pin!(serve_request(thread, client, incoming));
            // Whoever goes away while the upstream is at work should not keep it working.
            poll_fn(|cx| match serving.as_mut().poll(cx) {
                Poll::Ready(reply) => Poll::Ready(Some(reply)),
                Poll::Pending if seat.poll(cx) == Verdict::Abort || self.poll_gone(cx).is_ready() => {
                    Poll::Ready(None)
                }
                Poll::Pending => {
                    self.hold(client, 0);
                    Poll::Pending
                }
            })
            .await
        };
        let Some(reply) = reply else { return After::Close };

        let keep_alive = framing.keep_alive
            && (seat.verdict() == Verdict::Stay || self.may_leave(seat))
            && reply.keeps_connection()
            && !self.body.borrow().is_withheld();
        let last = reply::Last { method, version, keep_alive };
        let written = self.write_reply(client, seat, reply, &last, outbox).await;
        self.bill.take();
        match written {
            reply::Written::Whole { stay: true }
                if self.body.borrow().is_done() || self.drain_body().await =>
            {
                After::Stay
            }
            // The client said that it would send no more: there is nothing to wait for.
            reply::Written::Whole { .. } if !framing.keep_alive && self.is_drained() => After::Close,
            reply::Written::Whole { .. } => After::Linger,
            reply::Written::Tunnel(tunnel) => After::Tunnel(tunnel),
            reply::Written::Broken => After::Close,
        }
    }

    /// Counts what is buffered, `out` beside what was read, as the tenant's.
    fn hold(&self, client: &Client, out: usize) {
        if let Some(share) = client.membership.share() {
            let mut bill = self.bill.borrow_mut();
            bill.get_or_insert_with(|| Bill::new(share)).note(self.input.borrow().capacity() + out);
        }
    }

    /// Whether all that the client has sent was read and used.
    fn is_drained(&self) -> bool {
        self.body.borrow().is_done() && self.input.borrow().is_empty()
    }

    /// Ready when the client has closed the connection. What it sends in the meantime is kept for later. For a connection's first
    /// request that is seen after [`UNWATCHED`] only: most are answered before anybody had to wait for its events.
    fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.input.borrow().is_empty() || !self.body.borrow().is_done() {
            return Poll::Pending;
        }
        let unwatched = !self.io.borrow().is_watched() && self.reading.poll(cx).is_pending();
        let read = if unwatched { Poll::Pending } else { self.poll_read(cx, false) };
        match read {
            Poll::Ready(0) => Poll::Ready(()),
            Poll::Ready(_) => Poll::Pending,
            Poll::Pending => {
                self.input.borrow_mut().release();
                Poll::Pending
            }
        }
    }

    /// Answers what could not be read as a request.
    async fn refuse(&self, client: &Client, refusal: &Refusal, outbox: &mut Outbox) -> After {
        let (head, body) = local::refuse_unread(&self.thread, client, refusal);
        let length = BodyLength::Length(body.len() as u64);
        outbox.warm();
        write_response(&mut outbox.bytes, &head, Outgoing { body: length, persistence: Persistence::Close });
        outbox.frame(length);
        outbox.data(&body);
        match self.flush(outbox, true).await {
            Ok(()) => After::Linger,
            Err(_) => After::Close,
        }
    }

    /// Writes all that waits, within the time for a response that does not move. After the `last` the connection is closed:
    /// the client gets that packet with the close.
    async fn flush(&self, outbox: &mut Outbox, last: bool) -> Result<(), reply::Stuck> {
        poll_fn(|cx| self.poll_flush(cx, outbox, last)).await
    }

    fn poll_flush(
        &self,
        cx: &mut Context<'_>,
        outbox: &mut Outbox,
        last: bool,
    ) -> Poll<Result<(), reply::Stuck>> {
        let before = outbox.len();
        let mut io = self.io.borrow_mut();
        let result = match last {
            true => outbox.poll_write_last(cx, &mut io),
            false => outbox.poll_write(cx, Pin::new(&mut *io)),
        };
        let progress = before - outbox.len();
        self.thread.counters.bytes_out.add(progress as u64);
        match result {
            Poll::Ready(result) => {
                self.writing.clear();
                Poll::Ready(result.map_err(|_| reply::Stuck))
            }
            Poll::Pending => {
                if progress > 0 || !self.writing.is_set() {
                    self.writing.set(self.thread.limits.stall);
                }
                self.writing.poll(cx).map(|()| Err(reply::Stuck))
            }
        }
    }

    /// Reads the rest of a body that nobody wants, if it is small. Whether it was.
    async fn drain_body(&self) -> bool {
        let mut waste = Outbox::default();
        let mut left = self.thread.limits.early_answer_drain;
        let mut body = H1Body::new(self);
        poll_fn(|cx| {
            loop {
                match body.poll_more(cx, &mut waste) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(_)) => return Poll::Ready(false),
                    Poll::Ready(Ok(true)) => return Poll::Ready(true),
                    Poll::Ready(Ok(false)) if waste.len() > left => return Poll::Ready(false),
                    Poll::Ready(Ok(false)) => {
                        left -= waste.len();
                        waste.bytes.clear();
                    }
                }
            }
        })
        .await
    }

    fn discard_input(&self) {
        let mut input = self.input.borrow_mut();
        let filled = input.len();
        input.consume(filled);
    }

    /// Closes the connection for writing and reads on for a moment: a close under what the client still sends
    /// would be a reset, which can take our last words from it.
    async fn linger(&self) {
        let mut left = self.thread.limits.early_answer_drain;
        // Nobody will read what is here, and a full buffer could take nothing more.
        self.discard_input();
        let lingering = self.reading.within(LINGER, |cx| {
            let mut io = self.io.borrow_mut();
            if Pin::new(&mut *io).poll_shutdown(cx).is_pending() {
                return Poll::Pending;
            }
            drop(io);
            loop {
                match self.poll_read(cx, false) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(count) if count == 0 || count > left => return Poll::Ready(()),
                    Poll::Ready(count) => {
                        left -= count;
                        self.discard_input();
                    }
                }
            }
        });
        let _either = lingering.await;
    }
}

impl Reply<'_> {
    /// Whether the client's connection can serve another request after this reply.
    fn keeps_connection(&self) -> bool {
        self.record.keeps_connection() && (!matches!(self.body, ReplyBody::Tunnel(_)))
    }
}

/// What the version allows for a body whose length is not known.
fn open_ended(version: Version) -> BodyLength {
    if version == Version::Http10 { BodyLength::UntilClose } else { BodyLength::Chunked }
}
