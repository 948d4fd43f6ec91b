//! A request's stream that has become a tunnel (RFC 9220): bytes in DATA frames.

use std::{
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    Link,
    frames::{Broken, Frames, Next},
    reply::Answer,
};
use crate::{
    buffer::ReadBuffer,
    downstream::tunnel::Tunnel,
    h3::{Code, FrameKind, write_frame_header},
    share::Share,
};

/// Runs the tunnel to its end.
pub(super) async fn run(
    link: &Rc<Link>,
    tunnel: Tunnel,
    answer: &mut Answer,
    frames: Frames,
    share: Option<&Rc<Share>>,
) {
    let thread = &link.thread;
    let seat = thread.registry.enter(thread.random_below(1000));
    let stream = Stream { link, frames, answer, header: Vec::new(), announced: 0, empty_frames: 0 };
    tunnel.run(thread, stream, ReadBuffer::default(), &seat, share).await;
}

/// The client's side.
struct Stream<'a> {
    link: &'a Link,
    frames: Frames,
    answer: &'a mut Answer,
    /// What is left to write of a DATA frame's header.
    header: Vec<u8>,
    /// Bytes of that frame's data that are to come.
    announced: usize,
    /// DATA frames without data since the last with some.
    empty_frames: u32,
}

impl AsyncRead for Stream<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let limits = &this.link.thread.limits;
        loop {
            match ready!(this.frames.poll_next(cx, limits)) {
                Ok(Next::Data(count)) => {
                    let count = count.min(buf.remaining());
                    buf.put_slice(&this.frames.data()[..count]);
                    this.frames.consume(count);
                    this.empty_frames = 0;
                    return Poll::Ready(Ok(()));
                }
                Ok(Next::Nothing) => {
                    this.empty_frames += 1;
                    if this.empty_frames > limits.h2_empty_frames {
                        return this.fail(Code::ExcessiveLoad);
                    }
                }
                Ok(Next::End) => return Poll::Ready(Ok(())),
                // Only DATA may follow (RFC 9114 section 4.4).
                Ok(Next::Trailers(_)) => return this.fail(Code::FrameUnexpected),
                Err(Broken::Connection(code)) => return this.fail(code),
                Err(Broken::Gone) => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                Err(Broken::Stream(_) | Broken::Head(_)) => {
                    return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                }
            }
        }
    }
}

impl Stream<'_> {
    /// Ends the connection.
    fn fail<T>(&self, code: Code) -> Poll<io::Result<T>> {
        self.link.close(code);
        Poll::Ready(Err(io::ErrorKind::InvalidData.into()))
    }

    fn poll_header(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.header.is_empty() {
            let count = ready!(self.answer.stream().poll_write(cx, &self.header))?;
            self.header.drain(..count);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream<'_> {
    /// A frame for all of `bytes`; whoever is told that only some were taken goes on with the others.
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.announced == 0 {
            write_frame_header(&mut self.header, FrameKind::Data, bytes.len());
            self.announced = bytes.len();
        }
        ready!(self.poll_header(cx))?;
        let most = self.announced.min(bytes.len());
        let count = ready!(self.answer.stream().poll_write(cx, &bytes[..most]))?;
        self.announced -= count;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Inside a frame it would be malformed, so the drop resets it.
        if self.announced == 0 {
            self.answer.finish();
        }
        Poll::Ready(Ok(()))
    }
}
