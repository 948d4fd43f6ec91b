//! The worker's end of the agent's socket: whole messages with their sockets, over one connection.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use api::agent::{self, MAX_PACKET, ToAgent, ToWorker};
use sys::{
    polled::{Interest, Polled},
    seqpacket::Stream,
};

/// Why the connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// The agent is gone.
    #[error("the agent closed the connection")]
    Closed,
    /// The system's error.
    #[error("agent connection")]
    Io(#[from] io::Error),
    /// Not a message of this version.
    #[error("a message that this worker does not understand")]
    Message(#[from] agent::MessageError),
}

/// A connection to the agent.
#[derive(Debug)]
pub(crate) struct Link(Polled<Stream>);

impl Link {
    /// Connects to the agent that listens at `path`.
    ///
    /// # Errors
    /// When nobody listens there.
    pub(crate) fn connect(path: &Path) -> Result<Self, LinkError> {
        let both = Interest::READABLE | Interest::WRITABLE;
        Ok(Self(Polled::new(Stream::connect(path)?, both)?))
    }

    /// The next message and its sockets. Cancel-safe: a packet is taken whole or not at all.
    ///
    /// # Errors
    /// When the connection ended or the message is not one.
    pub(crate) async fn recv(&self) -> Result<(ToWorker, Vec<OwnedFd>), LinkError> {
        let packet = self.0.async_io(Interest::READABLE, |stream| stream.recv(MAX_PACKET)).await?;
        let packet = packet.ok_or(LinkError::Closed)?;
        Ok((agent::decode(&packet.bytes)?, packet.fds))
    }

    /// Sends one message with its sockets, whole.
    ///
    /// # Errors
    /// When the connection ended.
    pub(crate) async fn send(&self, message: &ToAgent, sockets: &[OwnedFd]) -> Result<(), LinkError> {
        let bytes = agent::encode(message)?;
        let fds: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
        Ok(self.0.async_io(Interest::WRITABLE, |stream| stream.send(&bytes, &fds)).await?)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sys::seqpacket::Listener;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn messages_and_the_end_arrive_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let listener = Listener::bind(&path).unwrap();
        let link = Link::connect(&path).unwrap();
        let peer = listener.accept().unwrap();
        link.send(&ToAgent::Draining, &[]).await.unwrap();
        let packet = peer.recv(MAX_PACKET).unwrap().unwrap();
        assert_eq!(agent::decode::<ToAgent>(&packet.bytes).unwrap(), ToAgent::Draining);

        peer.send(&agent::encode(&ToWorker::Recover).unwrap(), &[]).unwrap();
        peer.send(b"{\"juggle\":3}", &[]).unwrap();
        drop(peer);
        let within = Duration::from_secs(5);
        assert_eq!(timeout(within, link.recv()).await.unwrap().unwrap().0, ToWorker::Recover);
        assert!(matches!(timeout(within, link.recv()).await.unwrap(), Err(LinkError::Message(_))));
        assert!(matches!(timeout(within, link.recv()).await.unwrap(), Err(LinkError::Closed)));
    }
}
