//! A stream that has become a tunnel (RFC 8441 section 5, RFC 9113 section 8.5): bytes in DATA frames.

use std::{
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::link::OpenStream;
use crate::{buffer::ReadBuffer, downstream::tunnel::Tunnel, mux::Gone, share::Share};

/// Runs the tunnel to its end.
pub(super) async fn run(stream: &OpenStream, tunnel: Tunnel, share: Option<&Rc<Share>>) {
    let thread = &stream.link().thread;
    let seat = thread.registry.enter(thread.random_below(1000));
    tunnel.run(thread, Stream(stream), ReadBuffer::default(), &seat, share).await;
}

/// The client's side.
struct Stream<'s>(&'s OpenStream);

fn gone(_: Gone) -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

impl AsyncRead for Stream<'_> {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // Trailers mean nothing in a tunnel.
        self.0.poll_body(buf.remaining(), |data| buf.put_slice(data)).map_ok(|_came| ()).map_err(gone)
    }
}

impl AsyncWrite for Stream<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_data(bytes).map_err(gone)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.finish();
        Poll::Ready(Ok(()))
    }
}
