//! The byte stream of a connection, with TLS or without, to a client or an upstream.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use rustix::net::RecvFlags;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{client, server};

/// A client's connection.
pub(crate) type ClientIo = Io<server::TlsStream<TcpStream>>;

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
}

impl Session for server::TlsStream<TcpStream> {
    fn socket(&self) -> &TcpStream {
        self.get_ref().0
    }
}

impl Session for client::TlsStream<TcpStream> {
    fn socket(&self) -> &TcpStream {
        self.get_ref().0
    }
}

impl<S: Session> Io<S> {
    pub(crate) fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

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

    /// Whether the kernel has bytes that were not read. A system call; the runtime knows only what it was told when it
    /// last looked.
    pub(crate) fn has_input(&self) -> bool {
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

impl<S: Session> AsyncRead for Io<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl<S: Session> AsyncWrite for Io<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
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
