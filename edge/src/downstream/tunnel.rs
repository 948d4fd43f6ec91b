//! Two byte streams joined, after the upstream has agreed to change protocols.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    body::Outbox,
    buffer::ReadBuffer,
    drain::{Seat, Verdict},
    io::ClientIo,
    upstream::pool::Connection,
    worker::Thread,
};

/// One direction.
pub(crate) struct Way {
    input: ReadBuffer,
    out: Outbox,
    /// The source has ended.
    ended: bool,
    /// The end was passed on.
    shut: bool,
}

impl Way {
    pub(crate) fn new(input: ReadBuffer) -> Self {
        Self { input, out: Outbox::default(), ended: false, shut: false }
    }

    /// Moves bytes until one side has to wait. Ready when the end was passed on; an error ends the tunnel.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut from: Pin<&mut impl AsyncRead>,
        mut to: Pin<&mut impl AsyncWrite>,
        moved: &mut u64,
    ) -> Poll<std::io::Result<()>> {
        loop {
            if self.shut {
                return Poll::Ready(Ok(()));
            }
            if !self.out.is_empty() {
                std::task::ready!(self.out.poll_write(cx, to.as_mut()))?;
            }
            if !self.input.is_empty() {
                *moved += self.input.len() as u64;
                self.out.data(self.input.filled());
                let len = self.input.len();
                self.input.consume(len);
                continue;
            }
            if self.ended {
                std::task::ready!(to.as_mut().poll_shutdown(cx))?;
                self.shut = true;
                continue;
            }
            match self.input.poll_read(cx, from.as_mut(), false) {
                Poll::Ready(Ok(0)) => self.ended = true,
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.input.release();
                    self.out.release();
                    return Poll::Pending;
                }
            }
        }
    }
}

/// Copies both ways until both have ended, one breaks, nothing moves for too long, or the drain is over.
pub(super) async fn run(
    thread: &Thread,
    mut io: ClientIo,
    input: ReadBuffer,
    mut upstream: Connection,
    seat: &Seat,
) {
    let mut up = Way::new(input);
    let mut down = Way::new(std::mem::take(&mut upstream.input));
    let timer = thread.clock.timer();
    timer.set(thread.limits.tunnel_idle);
    poll_fn(|cx| {
        let (mut received, mut sent) = (0, 0);
        let upward = up.poll(cx, Pin::new(&mut io), Pin::new(&mut upstream.stream), &mut received);
        let downward = down.poll(cx, Pin::new(&mut upstream.stream), Pin::new(&mut io), &mut sent);
        thread.counters.bytes_in.add(received);
        thread.counters.bytes_out.add(sent);
        if received + sent > 0 {
            timer.set(thread.limits.tunnel_idle);
        }
        match (upward, downward) {
            (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => return Poll::Ready(()),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(()),
            _ => {}
        }
        if seat.poll(cx) == Verdict::Abort {
            return Poll::Ready(());
        }
        timer.poll(cx)
    })
    .await;
}
