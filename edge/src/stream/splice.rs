//! A client's and an endpoint's connection joined.

use std::{future::poll_fn, pin::Pin, task::Poll};

use crate::{
    buffer::ReadBuffer,
    downstream::tunnel::Way,
    drain::{Seat, Verdict},
    io::ClientIo,
    upstream::pool::Connection,
    worker::Thread,
};

/// How two joined connections ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// Both sides have said all that they had to.
    Whole,
    /// One side broke off.
    Broken,
    /// Nothing moved for too long.
    Idle,
    /// The drain was over first.
    Drained,
}

/// What went through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moved {
    /// Bytes from the client.
    pub(super) received: u64,
    /// Bytes to the client.
    pub(super) sent: u64,
    pub(super) ended: Ended,
}

/// Copies both ways. The end of one way is passed on, and the other goes on; anything but two ends resets both
/// connections, so that nobody takes half for the whole.
pub(super) async fn run(
    thread: &Thread,
    mut io: ClientIo,
    input: ReadBuffer,
    mut upstream: Box<Connection>,
    seat: &Seat,
) -> Moved {
    let mut up = Way::opaque(input);
    let mut down = Way::opaque(std::mem::take(&mut upstream.input));
    let timer = thread.clock.timer();
    timer.set(thread.limits.tunnel_idle);
    let mut moved = Moved { received: 0, sent: 0, ended: Ended::Whole };
    moved.ended = poll_fn(|cx| {
        let upward = up.poll(cx, Pin::new(&mut io), Pin::new(&mut upstream.stream));
        let downward = down.poll(cx, Pin::new(&mut upstream.stream), Pin::new(&mut io));
        let (received, sent) = (up.take_moved(), down.take_moved());
        thread.counters.bytes_in.add(received);
        thread.counters.bytes_out.add(sent);
        moved.received += received;
        moved.sent += sent;
        if received + sent > 0 {
            timer.set(thread.limits.tunnel_idle);
        }
        match (upward, downward) {
            (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => Poll::Ready(Ended::Broken),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Ended::Whole),
            _ if seat.poll(cx) == Verdict::Abort => Poll::Ready(Ended::Drained),
            _ => timer.poll(cx).map(|()| Ended::Idle),
        }
    })
    .await;
    if moved.ended != Ended::Whole {
        io.reset_on_close();
        upstream.stream.reset_on_close();
    }
    moved
}
