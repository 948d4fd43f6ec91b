//! One connection to the target: TCP, and TLS where the URL says https.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use rustix::net::RecvFlags;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{FailureKind, Plan, Protocol, tally::Failure, target::Target, tls, tls::TlsError};

/// Opens connections.
#[derive(Clone)]
pub(crate) struct Connector {
    target: Target,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    protocol: Protocol,
}

impl Connector {
    pub(crate) fn new(plan: &Plan, target: Target) -> Result<Self, TlsError> {
        let tls = if target.tls {
            let host = target.host.clone();
            let name = ServerName::try_from(host.clone()).map_err(|_| TlsError::ServerName { host })?;
            Some((TlsConnector::from(Arc::new(tls::client_config(plan)?)), name))
        } else {
            None
        };
        Ok(Self { target, tls, protocol: plan.protocol })
    }

    pub(crate) async fn connect(&self) -> Result<Stream, Failure> {
        let connect = |error: io::Error| Failure::new(FailureKind::Connect, error);
        let tcp = TcpStream::connect(self.target.address).await.map_err(connect)?;
        tcp.set_nodelay(true).map_err(connect)?;
        let Some((connector, name)) = &self.tls else {
            return Ok(Stream::Plain(tcp));
        };
        let tls = connector.connect(name.clone(), tcp).await;
        let tls = tls.map_err(|error| Failure::new(FailureKind::Tls, error))?;
        if self.protocol == Protocol::H2 && tls.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(Failure::new(FailureKind::Tls, "the server does not offer h2"));
        }
        Ok(Stream::Tls(Box::new(tls)))
    }
}

/// Bytes to and from the target.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Whether nothing has come on a connection on which nothing is expected: no end, no error, no bytes (a 408 for
    /// idleness, say). Only such a connection may be given the next request.
    ///
    /// It asks the kernel: tokio knows of an end only after its next look at epoll, and a request written in between
    /// would be lost by the generator's fault. What TLS says for itself (session tickets) is read and forgotten.
    pub(crate) async fn is_quiet(&mut self) -> bool {
        for _ in 0..TLS_ROUNDS {
            match peek(self.tcp()) {
                Err(rustix::io::Errno::WOULDBLOCK) => return true,
                Ok(1..) if matches!(self, Self::Tls(_)) => {}
                Ok(_) | Err(_) => return false,
            }
            // Lets the runtime look at epoll, so that the read below sees what the kernel has.
            tokio::task::yield_now().await;
            let mut byte = [0; 1];
            let mut byte = ReadBuf::new(&mut byte);
            // The waker is not needed: nothing waits for this read.
            if Pin::new(&mut *self).poll_read(&mut Context::from_waker(Waker::noop()), &mut byte).is_ready() {
                return false;
            }
        }
        false
    }

    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
        }
    }
}

/// How often an idle TLS connection may have something to say for itself before it is given up.
const TLS_ROUNDS: usize = 8;

fn peek(tcp: &TcpStream) -> rustix::io::Result<usize> {
    let mut byte = [0; 1];
    rustix::net::recv(tcp, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT).map(|(_, length)| length)
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
