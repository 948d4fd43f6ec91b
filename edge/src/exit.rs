//! Idle connections that go on in another worker when theirs drains.
//!
//! A cleartext HTTP/1 connection that waits for its client's next request is nothing but its socket, so another worker can
//! serve it as well: its client sees no close, and none that meets a request which is on its way. Whoever hands one over keeps
//! its own copy of the socket and does not read it before the answer: what comes in the meantime waits in the kernel for
//! whoever has the connection then.

use std::{
    convert::Infallible,
    future::pending,
    os::fd::OwnedFd,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use api::agent::IdleConnection;
use tokio::sync::{
    mpsc::{self, OwnedPermit},
    oneshot,
};

use crate::limits::LEAVING;

/// A connection that waits for another worker.
#[derive(Debug)]
pub(crate) struct Leaving {
    pub(crate) connection: IdleConnection,
    pub(crate) socket: OwnedFd,
    /// Told whether another worker has it.
    pub(crate) taken: oneshot::Sender<bool>,
}

/// The way to other workers.
#[derive(Debug)]
pub(crate) struct Exit {
    queue: mpsc::Sender<Leaving>,
    leaving: Mutex<Option<mpsc::Receiver<Leaving>>>,
    open: AtomicBool,
}

impl Default for Exit {
    fn default() -> Self {
        let (queue, leaving) = mpsc::channel(LEAVING);
        Self { queue, leaving: Mutex::new(Some(leaving)), open: AtomicBool::default() }
    }
}

impl Exit {
    /// What comes by it; the first who asks gets it.
    pub(crate) fn leaving(&self) -> Option<mpsc::Receiver<Leaving>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether there is somebody who passes connections on.
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// There is, or there no longer is.
    pub(crate) fn set_open(&self, open: bool) {
        self.open.store(open, Ordering::Relaxed);
    }

    /// Waits for a place in the queue; `None` where nothing leaves any more. Meanwhile the connection is served as ever.
    pub(crate) fn place(&self) -> impl Future<Output = Option<Place>> + use<> {
        let queue = self.queue.clone();
        async { queue.reserve_owned().await.ok().map(Place) }
    }
}

/// A place in the queue, for one connection.
pub(crate) struct Place(OwnedPermit<Leaving>);

impl Place {
    /// Hands a connection over with a copy of its socket. Whether another worker has it: then the one here is to be closed,
    /// unread. Not cancel-safe: whoever gives up waiting has to close it, too.
    pub(crate) async fn hand_over(self, connection: IdleConnection, socket: OwnedFd) -> bool {
        let (taken, answer) = oneshot::channel();
        self.0.send(Leaving { connection, socket, taken });
        answer.await.unwrap_or(false)
    }
}

/// Has all that would leave stay, for as long as nobody passes them on.
pub(crate) async fn refuse(queue: &mut mpsc::Receiver<Leaving>) -> Infallible {
    while let Some(leaving) = queue.recv().await {
        // Its connection's time may be over.
        let _gone = leaving.taken.send(false);
    }
    // The sender lives as long as the worker.
    pending().await
}

/// Takes what waits behind `first`, for one message.
pub(crate) fn batch(first: Leaving, queue: &mut mpsc::Receiver<Leaving>) -> Vec<Leaving> {
    let mut batch = vec![first];
    while batch.len() < LEAVING
        && let Ok(next) = queue.try_recv()
    {
        batch.push(next);
    }
    batch
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use api::agent::{Listen, Transport};

    use super::*;

    fn connection() -> (IdleConnection, OwnedFd) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let bind = listener.local_addr().unwrap();
        let stream = std::net::TcpStream::connect(bind).unwrap();
        let listen = Listen { bind, port: 80, tls: false, transport: Transport::Tcp, raw: false };
        let connection = IdleConnection { listen, client: bind, local: bind, served: 1, age_ms: 1 };
        (connection, stream.into())
    }

    #[tokio::test]
    async fn who_leaves_hears_whether_another_worker_came() {
        let exit = Exit::default();
        let mut queue = exit.leaving().unwrap();
        assert!(exit.leaving().is_none(), "one reads it");
        let (connection, socket) = connection();
        for taken in [true, false] {
            let pass_on = async {
                let first = queue.recv().await.unwrap();
                assert_eq!(first.connection, connection);
                for leaving in batch(first, &mut queue) {
                    leaving.taken.send(taken).unwrap();
                }
            };
            let place = exit.place().await.unwrap();
            let hand_over = place.hand_over(connection.clone(), socket.try_clone().unwrap());
            let (heard, ()) = tokio::join!(hand_over, pass_on);
            assert_eq!(heard, taken);
        }
    }

    #[tokio::test]
    async fn who_cannot_leave_stays() {
        let exit = Exit::default();
        let mut queue = exit.leaving().unwrap();
        let (connection, socket) = connection();
        let hand_over = async {
            let place = exit.place().await.unwrap();
            place.hand_over(connection.clone(), socket.try_clone().unwrap()).await
        };
        tokio::select! {
            never = refuse(&mut queue) => match never {},
            taken = hand_over => assert!(!taken, "there is no agent"),
        }
        // An agent that does nothing: those who find no place in the queue wait for one, and are served meanwhile.
        let mut places = Vec::new();
        for _ in 0..LEAVING {
            places.push(exit.place().await.unwrap());
        }
        let mut next = Box::pin(exit.place());
        assert!(futures_util::poll!(&mut next).is_pending());
        places.pop();
        assert!(next.await.is_some());
        drop(queue);
        assert!(exit.place().await.is_none());
    }
}
