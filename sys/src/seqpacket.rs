//! `SOCK_SEQPACKET` Unix sockets: one send is one receive, and descriptors travel beside the bytes.
//!
//! Everything is nonblocking; wrap a [`Stream`] or [`Listener`] in tokio's `AsyncFd` and try again on
//! [`io::ErrorKind::WouldBlock`].

use std::{
    fs, io,
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    },
};

/// The most descriptors in one packet: the kernel's `SCM_MAX_FD`.
pub const MAX_FDS: usize = 253;

/// The longest path that fits `sockaddr_un` with its closing zero, bytes.
const MAX_PATH: usize = 107;

/// The largest backlog of connections not yet accepted.
const BACKLOG: i32 = 128;

/// One packet.
#[derive(Debug)]
pub struct Packet {
    /// Never empty.
    pub bytes: Vec<u8>,
    /// Close-on-exec, in the order in which they were sent.
    pub fds: Vec<OwnedFd>,
}

/// Who is at the other end of a [`Stream`], as the kernel noted at connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credentials {
    /// Process id in our own pid namespace.
    pub pid: u32,
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
}

/// A listening socket at a path, mode 0600.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    path: PathBuf,
}

impl Listener {
    /// Listens at `path`. A socket file on which nobody listens any more is replaced.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::AddrInUse`] if somebody listens there or something else than a socket has that name; any
    /// other error of the system, with the path in its text.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let name =
            |error: io::Error| io::Error::new(error.kind(), format!("listen on {}: {error}", path.display()));
        Self::bind_unnamed(path).map_err(name)
    }

    fn bind_unnamed(path: &Path) -> io::Result<Self> {
        remove_stale(path)?;
        let socket = new_socket()?;
        // The mode of the file is that of the socket's own inode, so there is no moment at which others may connect.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        with_address(path, |address| rustix::net::bind(&socket, address))?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(Self { socket, path: path.to_owned() })
    }

    /// The next connection, or [`io::ErrorKind::WouldBlock`].
    ///
    /// # Errors
    ///
    /// Those of `accept4`.
    pub fn accept(&self) -> io::Result<Stream> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        Ok(Stream { socket: rustix::net::accept_with(&self.socket, flags)? })
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// One end of a connection.
#[derive(Debug)]
pub struct Stream {
    socket: OwnedFd,
}

impl Stream {
    /// Connects to the listener at `path`.
    ///
    /// # Errors
    ///
    /// Those of `connect`, with the path in the text; [`io::ErrorKind::WouldBlock`] if the backlog is full.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let name = |error: io::Error| {
            io::Error::new(error.kind(), format!("connect to {}: {error}", path.display()))
        };
        let socket = new_socket().map_err(name)?;
        with_address(path, |address| rustix::net::connect(&socket, address)).map_err(name)?;
        Ok(Self { socket })
    }

    /// Two ends that are connected to each other.
    ///
    /// # Errors
    ///
    /// Those of `socketpair`.
    pub fn pair() -> io::Result<(Self, Self)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (a, b) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Self { socket: a }, Self { socket: b }))
    }

    /// Sends one packet, whole or not at all.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidInput`] for an empty packet (it would read as the end) or more than [`MAX_FDS`];
    /// [`io::ErrorKind::WouldBlock`]; those of `sendmsg`.
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        if bytes.is_empty() || fds.len() > MAX_FDS {
            let text = format!("a packet of {} bytes and {} descriptors", bytes.len(), fds.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            let fits = control.push(SendAncillaryMessage::ScmRights(fds));
            debug_assert!(fits, "the space is for MAX_FDS");
        }
        rustix::net::sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// The next packet of at most `max` bytes, or `None` at the end of the connection.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`]; [`io::ErrorKind::InvalidData`] if bytes or descriptors were cut off, and then
    /// those that did arrive are closed; those of `recvmsg`.
    pub fn recv(&self, max: usize) -> io::Result<Option<Packet>> {
        let mut bytes = vec![0; max];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut buffers = [IoSliceMut::new(&mut bytes)];
        let received =
            rustix::net::recvmsg(&self.socket, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            let text =
                format!("a packet of more than {max} bytes or with more descriptors than can be taken");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        if received.bytes == 0 {
            return Ok(None);
        }
        bytes.truncate(received.bytes);
        Ok(Some(Packet { bytes, fds }))
    }

    /// Who connected, or who listens.
    ///
    /// # Errors
    ///
    /// Those of `getsockopt`.
    pub fn peer(&self) -> io::Result<Credentials> {
        let peer = rustix::net::sockopt::socket_peercred(&self.socket)?;
        Ok(Credentials {
            pid: peer.pid.as_raw_nonzero().get().unsigned_abs(),
            uid: peer.uid.as_raw(),
            gid: peer.gid.as_raw(),
        })
    }
}

macro_rules! as_fd {
    ($name:ident) => {
        impl AsFd for $name {
            fn as_fd(&self) -> BorrowedFd<'_> {
                self.socket.as_fd()
            }
        }

        impl AsRawFd for $name {
            fn as_raw_fd(&self) -> RawFd {
                self.socket.as_raw_fd()
            }
        }
    };
}

as_fd!(Listener);
as_fd!(Stream);

fn new_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// Removes a socket file on which nobody listens.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(file) if !file.file_type().is_socket() => {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "there is a file of that name, not a socket",
            ));
        }
        Ok(_) => {}
    }
    match Stream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        // A full backlog is somebody as well.
        Ok(_) | Err(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there")),
    }
}

/// Calls `with` with the address of `path`. A path too long for an address is reached through an open handle of
/// its directory.
fn with_address(path: &Path, with: impl FnOnce(&SocketAddrUnix) -> rustix::io::Result<()>) -> io::Result<()> {
    if path.as_os_str().len() <= MAX_PATH {
        return Ok(with(&SocketAddrUnix::new(path)?)?);
    }
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"));
    };
    let directory =
        rustix::fs::open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
    if short.as_os_str().len() > MAX_PATH {
        let text = format!("the file name is too long for a socket; its path can have {MAX_PATH} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    Ok(with(&SocketAddrUnix::new(short)?)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn is_cloexec(fd: &OwnedFd) -> bool {
        rustix::io::fcntl_getfd(fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC)
    }

    #[test]
    fn descriptors_arrive_in_order_and_close_on_exec() {
        let (a, b) = Stream::pair().unwrap();
        let files = [tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap()];
        rustix::fs::ftruncate(&files[0], 10).unwrap();
        rustix::fs::ftruncate(&files[1], 20).unwrap();
        a.send(b"two", &[files[0].as_fd(), files[1].as_fd()]).unwrap();
        let packet = b.recv(100).unwrap().unwrap();
        assert_eq!(packet.bytes, b"two");
        let sizes: Vec<_> = packet.fds.iter().map(|fd| rustix::fs::fstat(fd).unwrap().st_size).collect();
        assert_eq!(sizes, [10, 20]);
        assert!(packet.fds.iter().all(is_cloexec));
    }

    #[test]
    fn one_send_is_one_receive_and_then_the_end() {
        let (a, b) = Stream::pair().unwrap();
        a.send(b"one", &[]).unwrap();
        a.send(b"two", &[]).unwrap();
        drop(a);
        assert_eq!(b.recv(100).unwrap().unwrap().bytes, b"one");
        assert_eq!(b.recv(100).unwrap().unwrap().bytes, b"two");
        assert!(b.recv(100).unwrap().is_none());
    }

    #[test]
    fn nothing_to_receive_would_block() {
        let (_a, b) = Stream::pair().unwrap();
        assert_eq!(b.recv(100).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_truncated_packet_is_an_error_and_its_descriptors_are_closed() {
        let (a, b) = Stream::pair().unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        a.send(b"longer than three", &[writer.as_fd()]).unwrap();
        drop(writer);
        assert_eq!(b.recv(3).unwrap_err().kind(), io::ErrorKind::InvalidData);
        // The end of the pipe is seen only if no copy of its writing end is left.
        assert_eq!(rustix::io::read(&reader, &mut [0; 1]).unwrap(), 0);
    }

    #[test]
    fn an_empty_packet_is_refused() {
        let (a, _b) = Stream::pair().unwrap();
        assert_eq!(a.send(b"", &[]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_listener_is_private_and_knows_its_peer() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        let listener = Listener::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let client = Stream::connect(&path).unwrap();
        let server = listener.accept().unwrap();
        assert_eq!(server.peer().unwrap().pid, std::process::id());
        client.send(b"hello", &[]).unwrap();
        assert_eq!(server.recv(100).unwrap().unwrap().bytes, b"hello");
    }

    #[test]
    fn a_path_too_long_for_an_address_works_all_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let long = directory.path().join("d".repeat(100)).join("e".repeat(100));
        fs::create_dir_all(&long).unwrap();
        let path = long.join("agent.sock");
        let listener = Listener::bind(&path).unwrap();
        let _client = Stream::connect(&path).unwrap();
        listener.accept().unwrap();
        let error = Listener::bind(&long.join("n".repeat(100))).unwrap_err().to_string();
        assert!(error.contains("too long"), "{error}");
    }

    #[test]
    fn a_stale_file_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        let listener = Listener::bind(&path).unwrap();
        assert_eq!(Listener::bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        Listener::bind(&path).unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "precious").unwrap();
        assert_eq!(Listener::bind(&file).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(fs::read(&file).unwrap(), b"precious");
    }
}
