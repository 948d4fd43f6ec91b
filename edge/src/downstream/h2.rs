//! A client's HTTP/2 connection: hyper's server over a stream that gathers its writes.
//!
//! Each request is a task of its own on the thread and is served by the same [`serve_request`] as HTTP/1.

mod body;
pub(crate) mod request;
mod tunnel;

use std::{
    cell::Cell,
    convert::Infallible,
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    task::Poll,
};

use hyper::{body::Incoming as HyperBody, server::conn::http2, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::task::spawn_local;

pub(crate) use body::{H2Body, H2Reply};

use super::{Client, StreamRequest};
use crate::{
    buffer::ReadBuffer,
    drain::{Seat, Verdict},
    gather::Gather,
    h1::{ResponseHead, Version},
    io::ClientIo,
    serve::{Incoming, Reply, ReplyBody, local, refusal::Refusal, serve_request},
    worker::Thread,
};

/// Puts hyper's tasks on this thread.
#[derive(Clone, Copy)]
struct OnThisThread;

impl<F> hyper::rt::Executor<F> for OnThisThread
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        // The task ends with its stream; nobody waits for it.
        drop(spawn_local(future));
    }
}

/// What the streams of a connection tell the connection.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    /// Streams that are open.
    open: Cell<usize>,
    /// Those of them that are tunnels, which bound their silence themselves.
    tunnels: Cell<usize>,
    /// When a stream was last opened or a body moved, in either direction.
    moved_ms: Cell<u64>,
}

impl Streams {
    /// A stream was opened, or something of a body moved.
    fn moved(&self, now_ms: u64) {
        self.moved_ms.set(now_ms);
    }
}

/// An open stream.
pub(crate) struct OpenStream(Rc<Streams>);

impl OpenStream {
    fn new(streams: &Rc<Streams>, now_ms: u64) -> Self {
        streams.open.set(streams.open.get() + 1);
        streams.moved(now_ms);
        Self(Rc::clone(streams))
    }

    /// The same stream as a tunnel, which outlives its reply.
    fn tunnel(&self) -> OpenTunnel {
        let streams = &self.0;
        streams.tunnels.set(streams.tunnels.get() + 1);
        OpenTunnel(Self::new(streams, streams.moved_ms.get()))
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
    }
}

/// A stream that has become a tunnel.
pub(crate) struct OpenTunnel(OpenStream);

impl OpenTunnel {
    fn moved(&self, now_ms: u64) {
        self.0.0.moved(now_ms);
    }
}

impl Drop for OpenTunnel {
    fn drop(&mut self) {
        let streams = &self.0.0;
        streams.tunnels.set(streams.tunnels.get() - 1);
    }
}

/// Serves a connection to its end. `input` is what was read of it already.
pub(super) async fn serve(
    thread: Rc<Thread>,
    io: ClientIo,
    input: ReadBuffer,
    client: Rc<Client>,
    seat: Seat,
) {
    let limits = thread.limits;
    let gather = Gather::new(io, input);
    let streams = Rc::new(Streams::default());
    let service = {
        let (thread, streams) = (Rc::clone(&thread), Rc::clone(&streams));
        service_fn(move |request: http::Request<HyperBody>| {
            let (thread, client) = (Rc::clone(&thread), Rc::clone(&client));
            let stream = OpenStream::new(&streams, thread.clock.now_ms());
            // hyper moves the future five times before it is polled; boxed, that is a pointer and not kilobytes.
            Box::pin(async move { Ok::<_, Infallible>(answer(&thread, &client, request, stream).await) })
        })
    };
    let connection = http2::Builder::new(OnThisThread)
        .max_concurrent_streams(limits.h2_streams)
        .initial_stream_window_size(limits.h2_stream_window)
        .initial_connection_window_size(limits.h2_connection_window)
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(limits.h2_pending_resets)
        .max_local_error_reset_streams(limits.h2_local_resets)
        .max_send_buf_size(limits.h2_send_buffer)
        // Frames of 16 KiB, the least that there is: one stream's data should not hold up the others'.
        .max_frame_size(16 * 1024)
        // No pings of hyper's: `idle` and `tunnel_idle` end what is silent, and the kernel's keep-alive finds peers
        // that are gone.
        .keep_alive_interval(None)
        .auto_date_header(false)
        // WebSocket (RFC 8441).
        .enable_connect_protocol()
        .serve_connection(TokioIo::new(gather.clone()), service);
    let mut connection = pin!(connection);

    let timer = thread.clock.timer();
    timer.set(limits.idle);
    let mut retiring = false;
    let mut busy = false;
    let mut ended = false;
    poll_fn(|cx| {
        if !ended {
            ended = gather.poll_connection(cx, connection.as_mut());
        }
        if ended {
            // What was gathered is written before the end, GOAWAY among it; a client that does not take it is
            // left to its timer.
            return match gather.poll_close(cx) {
                Poll::Ready(()) => Poll::Ready(()),
                Poll::Pending => timer.poll(cx),
            };
        }
        let now_busy = streams.open.get() > 0;
        if now_busy != busy {
            busy = now_busy;
            if busy {
                seat.busy()
            } else {
                seat.idle()
            }
            streams.moved_ms.set(timer.now_ms());
            timer.set(if busy { limits.tunnel_idle } else { limits.idle });
        }
        let late = timer.poll(cx).is_ready();
        let verdict = seat.poll(cx);
        if verdict == Verdict::Abort {
            return Poll::Ready(());
        }
        if late && busy {
            let silent = timer.now_ms().saturating_sub(streams.moved_ms.get());
            let limit = u64::try_from(limits.tunnel_idle.as_millis()).unwrap_or(u64::MAX);
            if silent >= limit && streams.tunnels.get() == 0 {
                return Poll::Ready(());
            }
            let left = if silent >= limit { limit } else { limit - silent };
            timer.set(std::time::Duration::from_millis(left));
            return timer.poll(cx);
        }
        if (late || verdict >= Verdict::Retire) && !retiring {
            retiring = true;
            connection.as_mut().graceful_shutdown();
            timer.set(limits.idle);
            cx.waker().wake_by_ref();
        } else if late {
            // It did not answer our ping since.
            return Poll::Ready(());
        }
        Poll::Pending
    })
    .await;
}

async fn answer(
    thread: &Rc<Thread>,
    client: &Client,
    mut request: http::Request<HyperBody>,
    stream: OpenStream,
) -> http::Response<H2Reply> {
    let upgraded = hyper::upgrade::on(&mut request);
    let (parts, body) = request.into_parts();
    let reply = match request::convert(&parts, &thread.limits) {
        Ok(StreamRequest { head, length, upgrade }) => {
            let method = head.method();
            let body = H2Body::request(thread, body, &head, length, &stream);
            let reply = serve_request(thread, client, Incoming { head, body, upgrade }).await;
            match reply {
                Reply { head, body: ReplyBody::Tunnel(tunnel), record } => {
                    let open = stream.tunnel();
                    drop(spawn_local(tunnel::run(Rc::clone(thread), upgraded, tunnel, open)));
                    H2Reply::tunnel(head, record, stream)
                }
                reply => H2Reply::new(thread, reply, method, stream),
            }
        }
        Err(refusal) => {
            let (head, bytes) = local::refuse_unread(thread, client, &refusal);
            H2Reply::local(head, bytes, stream)
        }
    };
    reply.into_response()
}

/// A head that came by HTTP/2.
const VERSION: Version = Version::Http2;

impl H2Reply {
    fn into_response(self) -> http::Response<Self> {
        let mut response = http::Response::new(());
        let head: &ResponseHead = self.head();
        *response.status_mut() =
            http::StatusCode::from_u16(head.status()).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
        request::copy_fields(&head.fields, response.headers_mut());
        response.map(|()| self)
    }
}

/// What a conversion may end with.
type Refused<T> = Result<T, Refusal>;
