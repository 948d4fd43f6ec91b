//! The byte stream of a connection, with TLS or without, to a client or an upstream.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use rustix::net::{RecvFlags, SendFlags};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::client;

use crate::tls::TlsStream;

/// A client's connection.
pub(crate) type ClientIo = Io<TlsStream>;

/// A connection to an upstream.
pub(crate) type UpstreamIo = Io<client::TlsStream<TcpStream>>;

/// A connection whose TLS sessions are `S`.
pub(crate) enum Io<S> {
    /// Cleartext.
    Plain(TcpStream),
    /// TLS; boxed, because the session's state is large and cleartext connections should not carry it.
    Tls(Box<S>),
}

/// A TLS session over a socket, on either side.
pub(crate) trait Session: AsyncRead + AsyncWrite + Unpin {
    fn socket(&self) -> &TcpStream;

    /// Whether it has bytes of the socket that nobody has read, as far as it can tell.
    fn holds_input(&self) -> bool {
        false
    }
}

impl Session for TlsStream {
    fn socket(&self) -> &TcpStream {
        self.socket()
    }

    fn holds_input(&self) -> bool {
        self.holds_input()
    }
}

impl Session for client::TlsStream<TcpStream> {
    fn socket(&self) -> &TcpStream {
        self.get_ref().0
    }
}

impl<S: Session> Io<S> {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.socket(),
        }
    }

    /// Makes the close a reset, which no client takes for the end of a message.
    pub(crate) fn reset_on_close(&self) {
        // It fails only if the socket is closed already.
        let _closed = self.socket().set_zero_linger();
    }

    /// Whether the kernel or the TLS session has bytes that were not read. A system call; the runtime knows only what it was
    /// told when it last looked.
    pub(crate) fn has_input(&self) -> bool {
        if matches!(self, Self::Tls(session) if session.holds_input()) {
            return true;
        }
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        matches!(rustix::net::recv(self.socket(), &mut [0], flags), Ok((1.., _)))
    }

    /// Whether neither bytes nor the end came since the last read. Costs no system call: that read left the socket
    /// drained, so there is something only if an event said so. In TLS what comes while nothing was asked may be
    /// harmless (a late ticket), but it cannot be told from the beginning of an answer that nobody asked for.
    pub(crate) fn is_quiet(&self) -> bool {
        matches!(self.socket().try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl ClientIo {
    /// Writes what nothing follows: if all is taken, the caller closes the connection next, and the end goes in the same packet
    /// (in TLS with `close_notify`), which costs either side half of what two cost.
    pub(crate) fn poll_write_last(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(socket) => poll_send(cx, socket, bytes, After::Close),
            Self::Tls(session) => session.poll_write_last(cx, bytes),
        }
    }
}

/// What follows the bytes that are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// Others, or nothing for now.
    More,
    /// The close: the kernel keeps the last packet back for it.
    Close,
}

/// Gives bytes to the kernel; how many it took. By system calls of our own: those of the C library make each a point
/// where its thread could be cancelled, which costs two locked instructions.
pub(crate) fn poll_send(
    cx: &mut Context<'_>,
    socket: &TcpStream,
    bytes: &[u8],
    after: After,
) -> Poll<io::Result<usize>> {
    if bytes.is_empty() {
        return Poll::Ready(Ok(0));
    }
    let flags = match after {
        After::More => SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
        After::Close => SendFlags::MORE | SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
    };
    loop {
        ready!(socket.poll_write_ready(cx))?;
        let sent =
            drained(socket, Interest::WRITABLE, bytes.len(), || rustix::net::send(socket, bytes, flags));
        match sent {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            sent => return Poll::Ready(sent),
        }
    }
}

/// Reads what the kernel has, by a system call of our own as in [`poll_send`].
fn poll_receive(cx: &mut Context<'_>, socket: &TcpStream, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
    let space = buf.initialize_unfilled();
    if space.is_empty() {
        return Poll::Ready(Ok(()));
    }
    let room = space.len();
    loop {
        ready!(socket.poll_read_ready(cx))?;
        let received = drained(socket, Interest::READABLE, room, || {
            rustix::net::recv(socket, &mut *space, RecvFlags::DONTWAIT).map(|(count, _)| count)
        });
        match received {
            Ok(count) => {
                buf.advance(count);
                return Poll::Ready(Ok(()));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
}

/// Moves bytes by `call`, at most `room`. If it moves fewer, there is nothing more to do before the next event, which the runtime
/// is told as if the call had found nothing: so none is made only to find that out.
fn drained(
    socket: &TcpStream,
    interest: Interest,
    room: usize,
    call: impl FnOnce() -> rustix::io::Result<usize>,
) -> io::Result<usize> {
    let mut moved = None;
    let result = socket.try_io(interest, || {
        let count = call()?;
        if (1..room).contains(&count) {
            moved = Some(count);
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(count)
    });
    moved.map_or(result, Ok)
}

/// A socket that is read by [`poll_receive`].
pub(crate) struct Direct<'s>(pub(crate) &'s TcpStream);

impl AsyncRead for Direct<'_> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        poll_receive(cx, self.0, buf)
    }
}

impl<S: Session> AsyncRead for Io<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => poll_receive(cx, stream, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl<S: Session> AsyncWrite for Io<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => poll_send(cx, stream, buf, After::More),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
