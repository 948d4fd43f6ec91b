//! Descriptors on tokio's reactor.
//!
//! [`AsyncFd`]'s constructors are unsafe since tokio 1.54 (the safe ones are deprecated as unsound): a type may answer
//! `as_raw_fd` with something else tomorrow. [`Polled`] takes only types that own one descriptor for life, and never
//! gives out the value mutably, so it is safe.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    sync::Arc,
};

pub use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

use crate::{
    process::Process,
    seqpacket::{Listener, Stream},
};

mod sealed {
    /// Implemented for types that own one open descriptor from birth to drop, and answer `as_raw_fd` with it.
    pub trait OwnsOneFd {}
}

impl sealed::OwnsOneFd for OwnedFd {}
impl sealed::OwnsOneFd for Listener {}
impl sealed::OwnsOneFd for Process {}
impl sealed::OwnsOneFd for Stream {}
impl<T: sealed::OwnsOneFd> sealed::OwnsOneFd for Arc<T> {}

/// A nonblocking descriptor whose readiness can be awaited.
#[derive(Debug)]
pub struct Polled<T: sealed::OwnsOneFd + AsRawFd>(AsyncFd<T>);

impl<T: sealed::OwnsOneFd + AsRawFd> Polled<T> {
    /// Registers `inner` with the runtime of this thread.
    ///
    /// # Errors
    ///
    /// Those of `epoll_ctl`.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with its I/O driver on.
    #[expect(unsafe_code, reason = "tokio cannot know what types own their descriptor")]
    pub fn new(inner: T, interest: Interest) -> io::Result<Self> {
        // SAFETY: `OwnsOneFd` is sealed, and each of its types owns one open descriptor until it is dropped. `inner` is
        // moved into the `AsyncFd`, which nobody else can reach, and is given out only by shared reference.
        let registered = unsafe { AsyncFd::register_with_interest(inner, interest) };
        Ok(Self(registered?))
    }

    /// Calls `operation` until it does not answer [`io::ErrorKind::WouldBlock`], waiting for readiness between.
    /// Cancel-safe: what is cancelled has not happened.
    ///
    /// # Errors
    ///
    /// Those of `operation`.
    pub async fn async_io<R>(
        &self,
        interest: Interest,
        operation: impl FnMut(&T) -> io::Result<R>,
    ) -> io::Result<R> {
        self.0.async_io(interest, operation).await
    }

    /// Waits until it is readable.
    ///
    /// # Errors
    ///
    /// If the runtime is shutting down.
    pub async fn readable(&self) -> io::Result<AsyncFdReadyGuard<'_, T>> {
        self.0.readable().await
    }

    /// What was registered.
    pub fn inner(&self) -> &T {
        self.0.get_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_packet_is_waited_for() {
        let (a, b) = Stream::pair().unwrap();
        let b = Polled::new(b, Interest::READABLE).unwrap();
        let receive = b.async_io(Interest::READABLE, |stream| stream.recv(10));
        let send = async { a.send(b"later", &[]).unwrap() };
        let (packet, ()) = tokio::join!(receive, send);
        assert_eq!(packet.unwrap().unwrap().bytes, b"later");
    }
}
