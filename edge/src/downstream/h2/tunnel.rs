//! A stream that has become a tunnel (RFC 8441 section 5).

use std::{
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::OpenTunnel;
use crate::{buffer::ReadBuffer, clock::Clock, downstream::tunnel::Tunnel, worker::Thread};

/// Waits until the client is told, and runs the tunnel.
pub(super) async fn run(thread: Rc<Thread>, upgraded: OnUpgrade, tunnel: Box<Tunnel>, open: OpenTunnel) {
    // An error: it has gone before it could be told.
    let Ok(upgraded) = upgraded.await else { return };
    let seat = thread.registry.enter(thread.random_below(1000));
    let stream = Stream { io: TokioIo::new(upgraded), open, clock: Rc::clone(&thread.clock) };
    tunnel.run(&thread, stream, ReadBuffer::default(), &seat).await;
}

/// The client's side. What moves on it keeps its connection from being taken for silent.
struct Stream {
    io: TokioIo<Upgraded>,
    open: OpenTunnel,
    clock: Rc<Clock>,
}

impl Stream {
    fn moved<T>(&self, result: Poll<T>) -> Poll<T> {
        if result.is_ready() {
            self.open.moved(self.clock.now_ms());
        }
        result
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_read(cx, buf);
        self.moved(result)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.moved(result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
