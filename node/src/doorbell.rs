//! Rings when a connection or a datagram waits on any of a sleeping pool's sockets.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use rustix::event::epoll;
use sys::polled::{Interest, Polled};
use tokio::task::AbortHandle;

/// Watches until it rings once or is dropped.
#[derive(Debug)]
pub(crate) struct Doorbell {
    task: AbortHandle,
    sockets: usize,
}

impl Doorbell {
    /// Calls `ring` once, as soon as one of `sockets` is readable.
    ///
    /// The sockets are in an epoll set of their own, whose descriptor is what the runtime polls: one registration
    /// for hundreds of sockets, and none of it is left when the set is closed.
    pub(crate) fn hang(
        sockets: Vec<Arc<OwnedFd>>,
        ring: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<Self> {
        let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (number, socket) in (0..).zip(&sockets) {
            epoll::add(&set, socket.as_fd(), epoll::EventData::new_u64(number), epoll::EventFlags::IN)?;
        }
        let set = Polled::new(set, Interest::READABLE)?;
        let count = sockets.len();
        let task = tokio::spawn(async move {
            if wait(&set).await.is_ok() {
                ring.await;
            }
            // Closing the set ends its watch; the sockets must be open until then.
            drop(set);
            drop(sockets);
        });
        Ok(Self { task: task.abort_handle(), sockets: count })
    }

    /// Whether it still waits, for that many sockets.
    pub(crate) fn hangs(&self, sockets: usize) -> bool {
        self.sockets == sockets && !self.task.is_finished()
    }
}

impl Drop for Doorbell {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn wait(set: &Polled<OwnedFd>) -> io::Result<()> {
    loop {
        let mut ready = set.readable().await?;
        let mut events =
            [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }];
        let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        if epoll::wait(set.inner(), &mut events[..], Some(&now))? > 0 {
            return Ok(());
        }
        ready.clear_ready();
    }
}
