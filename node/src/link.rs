//! The agent's end of the connections to its workers.

use std::{io, os::fd::AsFd, os::fd::OwnedFd, sync::Arc, time::Duration};

use api::agent::{MAX_PACKET, ToAgent, ToWorker, decode, encode};
use model::{PoolName, WorkerId};
use sys::{
    polled::{Interest, Polled},
    seqpacket::{Listener, Packet, Stream},
};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};
use tracing::{debug, warn};

use crate::agent::Event;

/// Connections at a time: all workers of some pools, and some that connect again.
const MAX_CONNECTIONS: usize = 2048;

/// Messages that wait for one worker. A settled pool sends a handful; a worker this far behind is not listening.
const MAX_QUEUED: usize = 256;

/// For the first message, and for a worker to make room for one.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is sent to one worker; dropping it closes the connection.
#[derive(Debug)]
pub(crate) struct Link {
    /// Unique to the connection.
    pub(crate) serial: u64,
    /// Whether the worker knows `Renewed`.
    pub(crate) renews: bool,
    /// Whether it knows `Measure`.
    pub(crate) measures: bool,
    /// Whether it knows `Adopt`.
    pub(crate) adopts: bool,
    queue: mpsc::Sender<Outgoing>,
}

#[derive(Debug)]
struct Outgoing {
    bytes: Vec<u8>,
    sockets: Vec<Arc<OwnedFd>>,
}

impl Link {
    /// Queues a message; false if the worker cannot be reached.
    pub(crate) fn send(&self, message: &ToWorker, sockets: Vec<Arc<OwnedFd>>) -> bool {
        match encode(message) {
            Ok(bytes) => self.queue.try_send(Outgoing { bytes, sockets }).is_ok(),
            Err(error) => {
                warn!(%error, "message not sent");
                false
            }
        }
    }
}

/// A worker's first message, checked against what the kernel says of its process.
#[derive(Debug)]
pub(crate) struct Hello {
    pub(crate) worker: WorkerId,
    pub(crate) pool: PoolName,
    pub(crate) pid: u32,
    pub(crate) message: ToAgent,
    pub(crate) link: Link,
}

/// Accepts workers until it is aborted.
pub(crate) async fn serve(listener: Listener, events: mpsc::Sender<Event>) {
    let listener = match Polled::new(listener, Interest::READABLE) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "the agent's socket cannot be polled"),
    };
    let mut connections = JoinSet::new();
    for serial in 0.. {
        while connections.len() >= MAX_CONNECTIONS {
            connections.join_next().await;
        }
        while connections.try_join_next().is_some() {}
        match listener.async_io(Interest::READABLE, Listener::accept).await {
            Ok(stream) => {
                connections.spawn(converse(stream, serial, events.clone()));
            }
            Err(error) => {
                warn!(%error, "accepting a worker failed");
                // Out of descriptors, most likely; they do not come back within a microsecond.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(stream: Stream, serial: u64, events: mpsc::Sender<Event>) {
    let mut said_hello = None;
    if let Err(error) = exchange(stream, serial, &events, &mut said_hello).await {
        warn!(worker = said_hello.as_ref().map(tracing::field::display), %error, "connection to a worker failed");
    }
    if let Some(worker) = said_hello {
        // The receiver is gone only if the agent is.
        let _gone = events.send(Event::Unlinked { worker, serial }).await;
    }
}

async fn exchange(
    stream: Stream,
    serial: u64,
    events: &mpsc::Sender<Event>,
    said_hello: &mut Option<WorkerId>,
) -> io::Result<()> {
    let peer = stream.peer()?;
    let stream = Polled::new(stream, Interest::READABLE | Interest::WRITABLE)?;
    let Some(first) = timeout(PATIENCE, receive(&stream)).await?? else { return Ok(()) };
    let message: ToAgent = parse(&first)?;
    let ToAgent::Hello { worker, pool, pid, renews, measures, adopts, .. } = &message else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the first message is not Hello"));
    };
    if *pid != peer.pid {
        let text = format!("worker {worker} says to be process {pid} and is {}", peer.pid);
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    let (worker, pool, pid) = (worker.clone(), pool.clone(), *pid);
    *said_hello = Some(worker.clone());
    let (queue, mut outgoing) = mpsc::channel(MAX_QUEUED);
    let link = Link { serial, renews: *renews, measures: *measures, adopts: *adopts, queue };
    let hello = Hello { worker: worker.clone(), pool, pid, message, link };
    if events.send(Event::Hello(Box::new(hello))).await.is_err() {
        return Ok(());
    }
    loop {
        tokio::select! {
            next = outgoing.recv() => {
                let Some(next) = next else { return Ok(()) };
                timeout(PATIENCE, deliver(&stream, &next)).await??;
            }
            packet = receive(&stream) => {
                let Some(packet) = packet? else { return Ok(()) };
                let message = parse(&packet)?;
                debug!(%worker, ?message, "worker said");
                let said = Event::Said { worker: worker.clone(), serial, message, sockets: packet.fds };
                if events.send(said).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
}

/// Cancel-safe: a packet is taken whole or not at all.
async fn receive(stream: &Polled<Stream>) -> io::Result<Option<Packet>> {
    stream.async_io(Interest::READABLE, |stream| stream.recv(MAX_PACKET)).await
}

async fn deliver(stream: &Polled<Stream>, packet: &Outgoing) -> io::Result<()> {
    let sockets: Vec<_> = packet.sockets.iter().map(AsFd::as_fd).collect();
    loop {
        let sent = stream.async_io(Interest::WRITABLE, |stream| stream.send(&packet.bytes, &sockets)).await;
        match sent {
            // Too many descriptors are on their way in all packets of this user (unix(7)); workers will take some.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::TOOMANYREFS.raw_os_error()) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            sent => return sent,
        }
    }
}

fn parse(packet: &Packet) -> io::Result<ToAgent> {
    decode(&packet.bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
