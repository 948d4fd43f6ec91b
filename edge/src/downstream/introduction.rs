//! Connections that a trusted peer passes on: whose they are, as its PROXY protocol header says.

use std::{io, net::SocketAddr, pin::pin, task::Poll};

use rustix::net::RecvFlags;
use tokio::{io::Interest, net::TcpStream};
use tracing::debug;

use crate::{
    drain::{Seat, Verdict},
    limits::PROXY_HEADER,
    proxy::{Hop, Malformed, parse},
    worker::Thread,
};

/// Reads the header, and not a byte of what follows it. `Some(None)`: the peer speaks for itself. `None`: the connection is
/// to be closed, because the header is malformed, missing though it is `required`, or too slow.
pub(super) async fn read(
    thread: &Thread,
    stream: &TcpStream,
    peer: SocketAddr,
    required: bool,
    seat: &Seat,
) -> Option<Option<Hop>> {
    let timer = thread.clock.timer();
    let read = {
        let mut reading = pin!(read_header(stream, required));
        timer
            .within(thread.limits.handshake, |cx| {
                if seat.poll(cx) == Verdict::Abort {
                    return Poll::Ready(None);
                }
                reading.as_mut().poll(cx).map(Some)
            })
            .await
    };
    let problem = match read {
        Ok(Some(Ok(hop))) => return Some(hop),
        Ok(None) => return None,
        Ok(Some(Err(error))) => error.to_string(),
        Err(_expired) => "it did not come in time".to_owned(),
    };
    thread.counters.proxy_errors.add(1);
    debug!(%peer, problem, "no PROXY protocol header");
    None
}

/// Looks at what has come until the header is whole, and only then takes it: so that what follows stays in the kernel for
/// whoever speaks with the client. A look that finds too little waits for the next event, not for readiness.
async fn read_header(stream: &TcpStream, required: bool) -> io::Result<Option<Hop>> {
    let mut bytes = vec![0; PROXY_HEADER];
    let look = || {
        let (_, count) = rustix::net::recv(stream, bytes.as_mut_slice(), RecvFlags::PEEK)?;
        match parse(&bytes[..count]) {
            Ok(None) if count == 0 => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(None) => Err(io::ErrorKind::WouldBlock.into()),
            Ok(header) => Ok(header),
            Err(Malformed::NoHeader) if !required => Ok(None),
            Err(malformed) => Err(io::Error::new(io::ErrorKind::InvalidData, malformed)),
        }
    };
    let Some(header) = stream.async_io(Interest::READABLE, look).await? else { return Ok(None) };
    let mut left = header.len;
    while left > 0 {
        // All of it is here: it was seen.
        left -= stream.try_read(&mut bytes[..left])?;
    }
    Ok(header.hop)
}
