//! A TCP socket of either side.
//!
//! One that was just accepted is not watched by the runtime yet. Its client speaks first, and most often has done so by the time
//! it is read, so that a connection with one request may end before anybody had to wait for an event: two calls of `epoll_ctl`
//! and what they cost in the kernel are spared. It is watched as soon as there is something to wait for.

use std::{
    io, mem,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags, Shutdown, sockopt},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};

/// A connected socket, which does not block.
#[derive(Debug)]
pub(crate) enum Socket {
    /// Of a client that was accepted: nobody waits for its events.
    Fresh {
        socket: OwnedFd,
        /// A read took all that there was.
        drained: bool,
    },
    /// The runtime has it.
    Watched(TcpStream),
    /// It could not be watched, and is closed.
    Lost,
}

/// What follows the bytes that are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// Others, or nothing for now.
    More,
    /// The close: the kernel keeps the last packet back for it.
    Close,
}

/// Spares the connections of a socket the timers of a pacer (BBR's, where the host has chosen it) if the other side is on this
/// machine: there is no network between them whose queues could fill. A listener's connections inherit it.
pub(crate) fn unpaced(socket: impl AsFd, address: SocketAddr) {
    if address.ip().is_loopback()
        && sockopt::tcp_congestion(&socket).is_ok_and(|control| control.starts_with("bbr"))
    {
        // Who may not choose goes on with what there is.
        let _slower = sockopt::set_tcp_congestion(&socket, "reno");
    }
}

impl Socket {
    /// One that `accept` gave.
    pub(crate) fn accepted(socket: OwnedFd) -> Self {
        Self::Fresh { socket, drained: false }
    }

    /// Whether events are waited for: if not, nobody hears of a client that goes away.
    pub(crate) fn is_watched(&self) -> bool {
        !matches!(self, Self::Fresh { .. })
    }

    /// The runtime's socket, to wait for its events.
    ///
    /// # Errors
    /// Those of `epoll_ctl`; the socket is closed then.
    pub(crate) fn watched(&mut self) -> io::Result<&TcpStream> {
        if let Self::Fresh { .. } = self
            && let Self::Fresh { socket, .. } = mem::replace(self, Self::Lost)
        {
            *self = Self::Watched(TcpStream::from_std(socket.into())?);
        }
        match self {
            Self::Watched(stream) => Ok(stream),
            Self::Fresh { .. } | Self::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn descriptor(&self) -> io::Result<BorrowedFd<'_>> {
        match self {
            Self::Fresh { socket, .. } => Ok(socket.as_fd()),
            Self::Watched(stream) => Ok(stream.as_fd()),
            Self::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Another descriptor of it.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.descriptor()?.try_clone_to_owned()
    }

    /// What the client connected to.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(rustix::net::getsockname(self.descriptor()?)?.try_into()?)
    }

    /// Makes the close a reset, which no client takes for the end of a message.
    pub(crate) fn reset_on_close(&self) {
        if let Ok(socket) = self.descriptor() {
            // It fails only if the socket is closed already.
            let _closed = sockopt::set_socket_linger(socket, Some(Duration::ZERO));
        }
    }

    /// Whether the kernel has bytes that were not read. A system call; the runtime knows only what it was told when it last
    /// looked.
    pub(crate) fn has_input(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let peeked = self.descriptor().map(|socket| rustix::net::recv(socket, &mut [0], flags));
        matches!(peeked, Ok(Ok((1.., _))))
    }

    /// Whether neither bytes nor the end came since the last read. Costs no system call: that read left the socket drained, so
    /// there is something only if an event said so.
    pub(crate) fn is_quiet(&self) -> bool {
        let Self::Watched(stream) = self else { return false };
        matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Gives bytes to the kernel; how many it took. By system calls of our own: those of the C library make each a point
    /// where its thread could be cancelled, which costs two locked instructions.
    pub(crate) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
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
        if let Self::Fresh { socket, .. } = self {
            match rustix::net::send(&*socket, bytes, flags) {
                Err(Errno::WOULDBLOCK) => {}
                sent => return Poll::Ready(Ok(sent?)),
            }
        }
        let stream = self.watched()?;
        loop {
            ready!(stream.poll_write_ready(cx))?;
            let sent =
                drained(stream, Interest::WRITABLE, bytes.len(), || rustix::net::send(stream, bytes, flags));
            match sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return Poll::Ready(sent),
            }
        }
    }

    /// Reads what the kernel has, by a system call of our own as in [`Socket::poll_send`].
    fn poll_receive(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let space = buf.initialize_unfilled();
        if space.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let room = space.len();
        if let Self::Fresh { socket, drained } = self
            && !*drained
        {
            match rustix::net::recv(&*socket, &mut *space, RecvFlags::DONTWAIT) {
                Err(Errno::WOULDBLOCK) => {}
                received => {
                    let (count, _) = received?;
                    *drained = count < room;
                    buf.advance(count);
                    return Poll::Ready(Ok(()));
                }
            }
        }
        let stream = self.watched()?;
        loop {
            ready!(stream.poll_read_ready(cx))?;
            let received = drained(stream, Interest::READABLE, room, || {
                rustix::net::recv(stream, &mut *space, RecvFlags::DONTWAIT).map(|(count, _)| count)
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
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        Self::Watched(stream)
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

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_receive(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_send(cx, buf, After::More)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Fresh { socket, .. } => Poll::Ready(Ok(rustix::net::shutdown(socket, Shutdown::Write)?)),
            Self::Watched(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Lost => Poll::Ready(Ok(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn who_is_on_this_machine_is_not_paced() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let control = || sockopt::tcp_congestion(&listener).unwrap();
        if let Err(error) = sockopt::set_tcp_congestion(&listener, "bbr") {
            println!("skipped: this host has no BBR: {error}");
            return;
        }
        unpaced(&listener, "192.0.2.1:80".parse().unwrap());
        assert_eq!(control(), "bbr", "there is a network");
        let address = listener.local_addr().unwrap();
        unpaced(&listener, address);
        assert_eq!(control(), "reno");
        let _client = std::net::TcpStream::connect(address).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert_eq!(sockopt::tcp_congestion(&accepted).unwrap(), "reno", "inherited");
    }
}
