//! The byte stream of a connection, with TLS or without, to a client or an upstream.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::client;

use crate::{
    socket::{After, Socket},
    tls::TlsStream,
};

/// A client's connection.
pub(crate) type ClientIo = Io<TlsStream>;

/// A connection to an upstream.
pub(crate) type UpstreamIo = Io<client::TlsStream<Socket>>;

/// A connection whose TLS sessions are `S`.
pub(crate) enum Io<S> {
    /// Cleartext.
    Plain(Socket),
    /// TLS; boxed, because the session's state is large and cleartext connections should not carry it.
    Tls(Box<S>),
}

/// A TLS session over a socket, on either side.
pub(crate) trait Session: AsyncRead + AsyncWrite + Unpin {
    fn socket(&self) -> &Socket;

    /// Whether it has bytes of the socket that nobody has read, as far as it can tell.
    fn holds_input(&self) -> bool {
        false
    }
}

impl Session for TlsStream {
    fn socket(&self) -> &Socket {
        self.socket()
    }

    fn holds_input(&self) -> bool {
        self.holds_input()
    }
}

impl Session for client::TlsStream<Socket> {
    fn socket(&self) -> &Socket {
        self.get_ref().0
    }
}

impl<S: Session> Io<S> {
    fn socket(&self) -> &Socket {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.socket(),
        }
    }

    /// As [`Socket::reset_on_close`].
    pub(crate) fn reset_on_close(&self) {
        self.socket().reset_on_close();
    }

    /// Whether the kernel or the TLS session has bytes that were not read. A system call.
    pub(crate) fn has_input(&self) -> bool {
        matches!(self, Self::Tls(session) if session.holds_input()) || self.socket().has_input()
    }

    /// Whether neither bytes nor the end came since the last read. Costs no system call. In TLS what comes while nothing was
    /// asked may be harmless (a late ticket), but it cannot be told from the beginning of an answer that nobody asked for.
    pub(crate) fn is_quiet(&self) -> bool {
        self.socket().is_quiet()
    }

    /// Whether events are waited for: if not, nobody hears of a peer that goes away.
    pub(crate) fn is_watched(&self) -> bool {
        self.socket().is_watched()
    }
}

impl ClientIo {
    /// Writes what nothing follows: if all is taken, the caller closes the connection next, and the end goes in the same packet
    /// (in TLS with `close_notify`), which costs either side half of what two cost.
    pub(crate) fn poll_write_last(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(socket) => socket.poll_send(cx, bytes, After::Close),
            Self::Tls(session) => session.poll_write_last(cx, bytes),
        }
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
