//! A connection's task: reads frames, and writes what the streams have put into the buffer.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncWrite};
use tracing::debug;

use super::{Channel, receive::Receiver};
use crate::{buffer::ReadBuffer, clock::Timer, h2::Code, limits::BUFFER};

/// How long an upstream is given to take our last words.
const CLOSING: Duration = Duration::from_secs(2);

/// Drives a connection to its end: until nobody holds it any more, or the upstream has enough.
pub(in crate::upstream) async fn run(
    channel: Rc<Channel>,
    io: impl AsyncRead + AsyncWrite + Unpin,
    address: SocketAddr,
    closing: Timer,
) {
    let receiver = Receiver::new(Rc::clone(&channel));
    let input = ReadBuffer::default();
    let mut driver = Driver { channel, address, io, input, receiver, closing, large: false };
    let ended = poll_fn(|cx| driver.poll(cx)).await;
    // Whatever still waits on it.
    driver.channel.end(ended.as_ref().map_or_else(io::Error::kind, |()| io::ErrorKind::ConnectionAborted));
    if let Err(error) = ended {
        debug!(%address, %error, "HTTP/2 connection to an upstream ended");
    }
}

struct Driver<S> {
    channel: Rc<Channel>,
    address: SocketAddr,
    io: S,
    input: ReadBuffer,
    receiver: Receiver,
    /// Armed once only our last words are left to write.
    closing: Timer,
    /// The last read brought much: the next one will.
    large: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.channel.attend(cx);
        loop {
            if !self.closing.is_set() {
                match self.receive(cx) {
                    Ok(()) => {}
                    Err(Broken::Io(error)) => return Poll::Ready(Err(error)),
                    Err(Broken::Protocol(code)) => self.close(code),
                }
            }
            if !self.closing.is_set() && self.channel.is_left() {
                self.close(Code::NoError);
            }
            let choked = self.channel.is_choked();
            let flushed = self.channel.poll_flush(cx, Pin::new(&mut self.io));
            if self.closing.is_set() {
                return self.poll_close(cx, flushed);
            }
            if let Poll::Ready(Err(error)) = flushed {
                // What it has said before it stopped listening is heard.
                let _last = self.receive(cx);
                return Poll::Ready(Err(error));
            }
            // What there was no room to read may be there already.
            if !choked || self.channel.is_choked() {
                return Poll::Pending;
            }
        }
    }

    /// Reads frames until there is nothing more to read, or there should not be.
    fn receive(&mut self, cx: &mut Context<'_>) -> Result<(), Broken> {
        loop {
            while !self.channel.is_choked() {
                match self.receiver.read(self.input.filled()).map_err(Broken::Protocol)? {
                    0 => break,
                    size => self.input.consume(size),
                }
            }
            if self.channel.is_choked() {
                return Ok(());
            }
            match self.input.poll_read(cx, Pin::new(&mut self.io), self.large) {
                Poll::Ready(Ok(0)) => return Err(Broken::Io(io::ErrorKind::UnexpectedEof.into())),
                Poll::Ready(Ok(count)) => self.large = count >= BUFFER / 2,
                Poll::Ready(Err(error)) => return Err(Broken::Io(error)),
                Poll::Pending => {
                    self.input.release();
                    return Ok(());
                }
            }
        }
    }

    /// Says goodbye, which is all that is left to do.
    fn close(&mut self, code: Code) {
        if code != Code::NoError {
            debug!(address = %self.address, %code, "HTTP/2 connection to an upstream closed");
            self.channel.end(io::ErrorKind::InvalidData);
        }
        self.channel.goaway(code);
        self.closing.set(CLOSING);
    }

    /// Ready when the upstream has taken our last words, or has had its time.
    fn poll_close(&mut self, cx: &mut Context<'_>, flushed: Poll<io::Result<()>>) -> Poll<io::Result<()>> {
        if self.closing.poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        ready!(flushed)?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Why nothing more is read.
enum Broken {
    /// The upstream has gone.
    Io(io::Error),
    /// It did what it must not.
    Protocol(Code),
}
