//! Sockets of `SO_REUSEPORT` groups: any number of sockets on one address among which the kernel spreads
//! connections (TCP) or datagrams (UDP) by a hash.
//!
//! IPv4 and IPv6 make groups of their own: an IPv6 socket is v6-only unless asked otherwise, because a dual-stack
//! group beside an IPv4 group takes connections from it by rules that nobody remembers.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};

/// How the sockets of a group are made. All of a group should be made alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReuseportOptions {
    /// Connections that may wait to be accepted, for each socket; the kernel caps it at `net.core.somaxconn`.
    pub backlog: i32,
    /// Keeps a connection out of the accept queue until its first byte came, at most about this long.
    pub defer_accept: Option<Duration>,
    /// An IPv6 wildcard does not take IPv4.
    pub v6only: bool,
}

impl Default for ReuseportOptions {
    fn default() -> Self {
        // 4096 is the kernel's own cap (somaxconn) since 5.4: a burst that fits nowhere else waits here.
        Self { backlog: 4096, defer_accept: None, v6only: true }
    }
}

/// A listening TCP socket in the group of `address`, nonblocking and close-on-exec. Port 0 begins a new group; see
/// [`local_address`] for its port.
///
/// # Errors
///
/// Those of `socket`, `bind` and `listen`, with the address in the text.
pub fn bind_tcp(address: SocketAddr, options: ReuseportOptions) -> io::Result<OwnedFd> {
    let bind = || -> io::Result<Socket> {
        let socket = new_socket(address, Type::STREAM, Protocol::TCP, options.v6only)?;
        // Connections of an earlier life in TIME_WAIT must not keep the address.
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        if let Some(time) = options.defer_accept {
            set_defer_accept(socket.as_fd(), Some(time))?;
        }
        socket.listen(options.backlog)?;
        Ok(socket)
    };
    bind().map(OwnedFd::from).map_err(|error| named("listen on TCP", address, &error))
}

/// A bound, unconnected UDP socket in the group of `address`, nonblocking and close-on-exec. Of `options` only
/// `v6only` counts.
///
/// # Errors
///
/// Those of `socket` and `bind`, with the address in the text.
pub fn bind_udp(address: SocketAddr, options: ReuseportOptions) -> io::Result<OwnedFd> {
    let bind = || -> io::Result<Socket> {
        let socket = new_socket(address, Type::DGRAM, Protocol::UDP, options.v6only)?;
        // No SO_REUSEADDR: on UDP that alone would let a stranger's socket steal the port.
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        Ok(socket)
    };
    bind().map(OwnedFd::from).map_err(|error| named("bind UDP", address, &error))
}

/// Succeeds if nobody listens on the TCP address, in a reuseport group or not. Joining a group would steal
/// connections from whoever has it, in silence; this refuses to.
///
/// # Errors
///
/// [`io::ErrorKind::AddrInUse`] if somebody does; others of `bind`, such as a missing privilege.
pub fn probe_tcp(address: SocketAddr) -> io::Result<()> {
    let probe = || {
        let socket = new_socket(address, Type::STREAM, Protocol::TCP, true)?;
        // Lets TIME_WAIT pass; a listening socket still conflicts.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())
    };
    probe().map_err(|error| named("listen on TCP", address, &error))
}

/// Succeeds if nobody has the UDP address.
///
/// # Errors
///
/// [`io::ErrorKind::AddrInUse`] if somebody does; others of `bind`.
pub fn probe_udp(address: SocketAddr) -> io::Result<()> {
    let probe = || new_socket(address, Type::DGRAM, Protocol::UDP, true)?.bind(&address.into());
    probe().map_err(|error| named("bind UDP", address, &error))
}

/// The address that a socket is bound to.
///
/// # Errors
///
/// If it is not an IP socket.
pub fn local_address(socket: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    let address = rustix::net::getsockname(socket)?;
    SocketAddr::try_from(address).map_err(io::Error::from)
}

/// A number that is the same for all duplicates of one socket, in all processes, and of no other.
///
/// # Errors
///
/// If it is not a socket.
pub fn cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(rustix::net::sockopt::socket_cookie(socket)?)
}

/// How many connections wait in a listening socket's accept queue.
///
/// # Errors
///
/// [`io::ErrorKind::InvalidInput`] if the socket does not listen; those of `getsockopt`.
pub fn queue_len(listener: BorrowedFd<'_>) -> io::Result<u32> {
    if !rustix::net::sockopt::socket_acceptconn(listener)? {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the socket does not listen"));
    }
    // Of a listening socket, tcpi_unacked is sk_ack_backlog (net/ipv4/tcp.c, tcp_get_info).
    Ok(tcp_info(listener)?.tcpi_unacked)
}

/// Keeps connections out of the accept queue until their first byte came, at most about `time` (rounded up to the
/// kernel's retransmission steps); `None` accepts them at once. For protocols in which the client speaks first.
///
/// # Errors
///
/// Those of `setsockopt`.
#[expect(unsafe_code, reason = "neither socket2 nor rustix offers TCP_DEFER_ACCEPT")]
pub fn set_defer_accept(listener: BorrowedFd<'_>, time: Option<Duration>) -> io::Result<()> {
    let seconds = time.map_or(0, |t| i32::try_from(t.as_secs().max(1)).unwrap_or(i32::MAX));
    let size = u32::try_from(size_of_val(&seconds)).expect("an i32 has 4 bytes");
    // SAFETY: the descriptor is open for the borrow, the value is an initialised int and `size` is its size.
    let result = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            size,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[expect(unsafe_code, reason = "neither socket2 nor rustix offers TCP_INFO")]
fn tcp_info(socket: BorrowedFd<'_>) -> io::Result<libc::tcp_info> {
    let mut info = std::mem::MaybeUninit::<libc::tcp_info>::zeroed();
    let mut size = u32::try_from(size_of::<libc::tcp_info>()).expect("a tcp_info has some hundred bytes");
    // SAFETY: the descriptor is open for the borrow, and `size` is that of the buffer, which the kernel fills up to.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut size,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all of tcp_info is integers, of which zero is a value; what the kernel did not fill is zero.
    Ok(unsafe { info.assume_init() })
}

fn new_socket(address: SocketAddr, kind: Type, protocol: Protocol, v6only: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind.nonblocking(), Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(v6only)?;
    }
    Ok(socket)
}

fn named(what: &str, address: SocketAddr, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what} {address}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    fn loopback() -> SocketAddr {
        "127.0.0.1:0".parse().unwrap()
    }

    fn group() -> (OwnedFd, SocketAddr) {
        let first = bind_tcp(loopback(), ReuseportOptions::default()).unwrap();
        let address = local_address(first.as_fd()).unwrap();
        (first, address)
    }

    #[test]
    fn a_group_shares_its_address_and_a_probe_sees_it() {
        let (first, address) = group();
        let second = bind_tcp(address, ReuseportOptions::default()).unwrap();
        assert_eq!(local_address(second.as_fd()).unwrap(), address);
        assert_eq!(probe_tcp(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert_eq!(probe_tcp(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(second);
        probe_tcp(address).unwrap();
    }

    #[test]
    fn a_stranger_without_reuseport_is_an_error_with_the_address() {
        let stranger = TcpListener::bind(loopback()).unwrap();
        let address = stranger.local_addr().unwrap();
        let error = bind_tcp(address, ReuseportOptions::default()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }

    #[test]
    fn time_wait_does_not_stop_a_probe() {
        let (socket, address) = group();
        let client = TcpStream::connect(address).unwrap();
        let listener = TcpListener::from(socket);
        listener.set_nonblocking(false).unwrap();
        // The side that closes first is the one in TIME_WAIT.
        drop(listener.accept().unwrap());
        drop(client);
        drop(listener);
        probe_tcp(address).unwrap();
    }

    #[test]
    fn the_queue_is_counted() {
        let (socket, address) = group();
        assert_eq!(queue_len(socket.as_fd()).unwrap(), 0);
        let _clients = [TcpStream::connect(address).unwrap(), TcpStream::connect(address).unwrap()];
        // connect() returns at the SYN-ACK; the last ACK is handled on loopback before it returns.
        assert_eq!(queue_len(socket.as_fd()).unwrap(), 2);
        let listener = TcpListener::from(socket);
        listener.accept().unwrap();
        assert_eq!(queue_len(listener.as_fd()).unwrap(), 1);
    }

    #[test]
    fn only_a_listener_has_a_queue() {
        let (_socket, address) = group();
        let client = TcpStream::connect(address).unwrap();
        assert_eq!(queue_len(client.as_fd()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_deferred_connection_is_not_queued_before_its_first_byte() {
        use std::io::Write;
        let options =
            ReuseportOptions { defer_accept: Some(Duration::from_secs(10)), ..ReuseportOptions::default() };
        let socket = bind_tcp(loopback(), options).unwrap();
        let mut client = TcpStream::connect(local_address(socket.as_fd()).unwrap()).unwrap();
        assert_eq!(queue_len(socket.as_fd()).unwrap(), 0);
        client.write_all(b"x").unwrap();
        assert_eq!(queue_len(socket.as_fd()).unwrap(), 1);
    }

    #[test]
    fn udp_groups_share_and_strangers_are_seen() {
        let first = bind_udp(loopback(), ReuseportOptions::default()).unwrap();
        let address = local_address(first.as_fd()).unwrap();
        let second = bind_udp(address, ReuseportOptions::default()).unwrap();
        assert_eq!(probe_udp(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop((first, second));
        probe_udp(address).unwrap();
        let stranger = UdpSocket::bind(address).unwrap();
        assert_eq!(probe_udp(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert!(bind_udp(address, ReuseportOptions::default()).is_err());
        drop(stranger);
    }

    #[test]
    fn duplicates_have_one_cookie() {
        let (first, address) = group();
        let second = bind_tcp(address, ReuseportOptions::default()).unwrap();
        let duplicate = first.try_clone().unwrap();
        assert_eq!(cookie(first.as_fd()).unwrap(), cookie(duplicate.as_fd()).unwrap());
        assert_ne!(cookie(first.as_fd()).unwrap(), cookie(second.as_fd()).unwrap());
    }

    #[test]
    fn ipv6_is_a_group_of_its_own() {
        let Ok(v6) = bind_tcp("[::]:0".parse().unwrap(), ReuseportOptions::default()) else {
            return; // A machine without IPv6 has nothing to test.
        };
        let port = local_address(v6.as_fd()).unwrap().port();
        probe_tcp(SocketAddr::from(([0, 0, 0, 0], port))).unwrap();
    }
}
