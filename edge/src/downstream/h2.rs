//! A client's HTTP/2 connection.
//!
//! A task for the connection and one for each request, all on the thread that accepted it. The connection's task reads frames,
//! and writes what all have put into one buffer, once for each turn; a request is served by the same [`serve_request`] as one of
//! HTTP/1, and copies its answer into that buffer.
//!
//! An error of the protocol ends the connection with the code that RFC 9113 names; one of a request ends its stream.

mod body;
mod floods;
mod link;
mod receive;
mod reply;
mod tunnel;

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, ready},
};

use tokio::io::AsyncWrite;
use tracing::debug;

pub(crate) use body::H2Body;
use link::{Link, OpenStream};
use receive::{DRAIN_PING, Receiver};
use reply::Answer;

use super::{Client, StreamRequest};
use crate::{
    body::RequestBody,
    buffer::ReadBuffer,
    clock::Timer,
    drain::{Seat, Verdict},
    grpc,
    h2::{Code, FIRST_WINDOW, MOST, OurSettings, write_ping, write_settings, write_window_update},
    io::ClientIo,
    limits::{H2_FAREWELL, H2_FAREWELL_BYTES, H2_LAST_WORDS},
    metrics::Outcome,
    serve::{Incoming, Reply, ReplyBody, local, refusal::Refusal, serve_request},
    share::Bill,
    worker::Thread,
};

/// Serves a connection to its end. `input` is what was read of it already.
pub(super) async fn serve(
    thread: Rc<Thread>,
    io: ClientIo,
    input: ReadBuffer,
    client: Rc<Client>,
    seat: Seat,
) {
    let link = Link::new(Rc::clone(&thread));
    let receiver = Receiver::new(Rc::clone(&link), Rc::clone(&client));
    let (reading, writing) = (thread.clock.timer(), thread.clock.timer());
    let mut connection = Connection {
        link,
        client,
        bill: None,
        io,
        input,
        receiver,
        seat,
        reading,
        writing,
        phase: Phase::Beginning,
        leaving: Leaving::No,
        end: None,
        late: false,
        discarded: 0,
    };
    connection.begin();
    poll_fn(|cx| {
        let polled = connection.poll(cx);
        connection.hold();
        polled
    })
    .await;
}

/// How far a connection is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaving {
    No,
    /// GOAWAY was sent with a number that no stream has, and a PING whose answer says that the client has seen it.
    Said,
    /// GOAWAY was sent with the number of the last stream that is served.
    Final,
}

/// What a connection waits for, with its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The client's first words.
    Beginning,
    /// The rest of a head.
    Block,
    /// The answer to our PING.
    Leaving,
    /// A request.
    Idle,
    /// Those that are served.
    Busy,
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// What waits is written.
    Writing,
    /// The client is given time to see our last words before the connection is closed under what it still sends.
    Lingering,
}

struct Connection {
    link: Rc<Link>,
    client: Rc<Client>,
    /// Whom its buffers are for, once that is known.
    bill: Option<Bill>,
    io: ClientIo,
    input: ReadBuffer,
    receiver: Receiver,
    seat: Seat,
    reading: Timer,
    writing: Timer,
    phase: Phase,
    leaving: Leaving,
    end: Option<End>,
    /// It ends with the drain, which is over: its last words are all that it still has time for.
    late: bool,
    /// Bytes that were read while lingering.
    discarded: usize,
}

impl Connection {
    /// Counts what is buffered as the tenant's.
    fn hold(&mut self) {
        if let Some(share) = self.client.membership.share() {
            let bill = self.bill.get_or_insert_with(|| Bill::new(share));
            bill.note(self.link.held() + self.input.capacity());
        }
    }

    /// Our first words.
    fn begin(&self) {
        let limits = &self.link.thread.limits;
        let settings = OurSettings {
            streams: limits.h2_streams,
            window: limits.h2_stream_window.min(MOST),
            field_section: u32::try_from(limits.head_bytes).unwrap_or(u32::MAX),
        };
        let more = limits.h2_connection_window.min(MOST).saturating_sub(FIRST_WINDOW);
        self.link.control(|out| {
            write_settings(out, &settings);
            if more > 0 {
                write_window_update(out, 0, more);
            }
        });
        self.reading.set(limits.head);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.link.attend(cx);
        loop {
            if self.end.is_none()
                && let Err(code) = self.receive(cx)
            {
                self.fail(code);
            }
            if self.end.is_none() && self.look(cx).is_ready() {
                return Poll::Ready(());
            }
            let choked = self.link.is_choked();
            match self.poll_flush(cx) {
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(())) if self.end.is_some() => return self.poll_farewell(cx),
                Poll::Ready(Ok(())) => {}
                Poll::Pending => {
                    if self.writing.poll(cx).is_ready() {
                        return Poll::Ready(());
                    }
                }
            }
            // What there was no room to read may be there already.
            if self.end.is_some() || !choked || self.link.is_choked() {
                return Poll::Pending;
            }
        }
    }

    /// Reads frames until there is nothing more to read, or there should not be.
    ///
    /// # Errors
    /// The connection ends with that code; `None`: the client has gone.
    fn receive(&mut self, cx: &mut Context<'_>) -> Result<(), Option<Code>> {
        loop {
            while !self.link.is_choked() {
                match self.receiver.read(self.input.filled(), self.leaving).map_err(Some)? {
                    0 => break,
                    size => self.input.consume(size),
                }
            }
            if self.link.is_choked() {
                return Ok(());
            }
            match self.input.poll_read(cx, Pin::new(&mut self.io), false) {
                Poll::Ready(Ok(count)) if count > 0 => {}
                Poll::Ready(_) => return Err(None),
                Poll::Pending => {
                    self.input.release();
                    return Ok(());
                }
            }
        }
    }

    /// Looks at what else a connection ends for. Ready if it is to end at once.
    fn look(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let limits = self.link.thread.limits;
        let verdict = self.seat.poll(cx);
        if verdict == Verdict::Abort {
            if !self.link.cut_off(reply::write_cut_off) {
                return Poll::Ready(());
            }
            self.finish();
            self.reading.set(H2_LAST_WORDS);
            self.late = true;
            return Poll::Pending;
        }
        let idle = self.link.open_streams() == 0;
        let phase = match self.leaving {
            _ if !self.receiver.is_settled() => Phase::Beginning,
            _ if self.receiver.is_in_block() => Phase::Block,
            Leaving::Said => Phase::Leaving,
            Leaving::No | Leaving::Final if idle => Phase::Idle,
            Leaving::No | Leaving::Final => Phase::Busy,
        };
        if phase != self.phase {
            self.phase = phase;
            match phase {
                Phase::Beginning | Phase::Block => self.reading.set(limits.head),
                Phase::Leaving | Phase::Idle => self.reading.set(limits.idle),
                Phase::Busy => self.reading.clear(),
            }
            if idle {
                self.receiver.release();
                self.seat.idle();
            } else {
                self.seat.busy();
            }
        }
        let late = self.reading.poll(cx).is_ready();
        let tired = self.receiver.requests >= limits.requests_per_connection;
        match (self.phase, self.leaving) {
            (Phase::Beginning, _) if late => self.finish(),
            (Phase::Block, _) if late => self.fail(Some(Code::EnhanceYourCalm)),
            (phase, Leaving::No) if verdict >= Verdict::Retire || tired || phase == Phase::Idle && late => {
                self.leaving = Leaving::Said;
                self.link.goaway(MOST, Code::NoError);
                self.link.control(|out| write_ping(out, 0, &DRAIN_PING));
                self.reading.set(limits.idle);
                self.phase = Phase::Leaving;
                // The timer that was late wakes nobody until it is looked at again.
                cx.waker().wake_by_ref();
            }
            // What was sent before the client saw our GOAWAY has come. Or it does not care.
            (_, Leaving::Said) if self.receiver.pinged || self.phase == Phase::Leaving && late => {
                self.leaving = Leaving::Final;
                self.link.goaway(self.receiver.last(), Code::NoError);
                // Looked at again, for what comes next.
                cx.waker().wake_by_ref();
            }
            (Phase::Idle, Leaving::Final) => self.finish(),
            (Phase::Idle, _) if self.receiver.client_leaves => self.finish(),
            _ => {}
        }
        Poll::Pending
    }

    /// Ends the connection through the client's fault. `None`: it has gone.
    fn fail(&mut self, code: Option<Code>) {
        if let Some(code) = code {
            debug!(peer = %self.receiver.peer(), %code, "HTTP/2 connection closed");
            let counters = &self.link.thread.counters;
            let counter =
                if code == Code::EnhanceYourCalm { &counters.h2_floods } else { &counters.h2_errors };
            counter.add(1);
            self.link.goaway(self.receiver.last(), code);
        }
        self.finish();
    }

    /// What is left to write is written, then the connection ends.
    fn finish(&mut self) {
        self.link.abandon();
        self.seat.idle();
        self.reading.set(H2_FAREWELL);
        self.end = Some(End::Writing);
    }

    /// Writes what waits, within the time that a client may take nothing.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let before = self.link.unwritten();
        let flushed = self.link.poll_flush(cx, Pin::new(&mut self.io));
        if flushed.is_ready() {
            self.writing.clear();
        } else if self.link.unwritten() < before || !self.writing.is_set() {
            self.writing.set(self.link.thread.limits.stall);
        }
        flushed
    }

    /// Says that nothing more comes, and waits a little for the client to see it.
    fn poll_farewell(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let over = !self.late && self.seat.poll(cx) == Verdict::Abort;
        if over || self.reading.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if self.end == Some(End::Writing) {
            if ready!(pin!(&mut self.io).poll_shutdown(cx)).is_err() {
                return Poll::Ready(());
            }
            self.end = Some(End::Lingering);
        }
        loop {
            self.input.consume(self.input.len());
            match ready!(self.input.poll_read(cx, Pin::new(&mut self.io), false)) {
                Ok(count) if count > 0 => {
                    self.discarded += count;
                    if self.discarded > H2_FAREWELL_BYTES {
                        return Poll::Ready(());
                    }
                }
                _ => return Poll::Ready(()),
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.link.abandon();
    }
}

/// What came on a new stream.
enum Request {
    Read(Box<StreamRequest>),
    Refused(Refusal),
}

/// Serves one request to its end, or to that of its stream: whatever is under way then is dropped, and cancelled upstream
/// with it.
async fn serve_stream(stream: OpenStream, client: Rc<Client>, request: Request, ended: bool) {
    let mut serving = pin!(serve_request_stream(&stream, &client, request, ended));
    let served = poll_fn(|cx| {
        if !stream.attend(cx) {
            return Poll::Ready(Ok(()));
        }
        serving.as_mut().poll(cx)
    });
    if let Err(code) = served.await {
        stream.reset(code);
    }
}

async fn serve_request_stream(
    stream: &OpenStream,
    client: &Client,
    request: Request,
    ended: bool,
) -> Result<(), Code> {
    let thread = &stream.link().thread;
    let mut answer = Answer::new(stream);
    let request = match request {
        Request::Read(request) => *request,
        Request::Refused(refusal) => {
            let (head, bytes) = local::refuse_unread(thread, client, &refusal);
            return answer.local(&head, &bytes).await;
        }
    };
    let StreamRequest { head, length, upgrade, expects } = request;
    if grpc::is_grpc(&head.fields) {
        stream.calls_by_grpc();
    }
    let method = head.method();
    let tunnels = upgrade.is_some() || method == crate::h1::Method::Connect;
    let body =
        if tunnels { RequestBody::Empty } else { H2Body::request(stream, &head, length, ended, expects) };
    let reply = serve_request(thread, client, Incoming { head: Box::new(head), body, upgrade }).await;
    match reply {
        Reply { head, body: ReplyBody::Tunnel(tunnel), mut record } => {
            answer.begin(&head).await?;
            record.finished(Outcome::Forwarded);
            drop(record);
            tunnel::run(stream, *tunnel, client.membership.share()).await;
            Ok(())
        }
        reply => answer.reply(reply, method).await,
    }
}
