//! Between a host agent and the workers of its machine: a `SOCK_SEQPACKET` Unix socket that the agent listens
//! on and each worker connects to. One packet is one JSON message; sockets travel beside it by `SCM_RIGHTS`,
//! in the order of the message's `slots`.
//!
//! # Slots
//!
//! A slot is one socket of a `SO_REUSEPORT` group. The agent binds a fixed number of them for each address,
//! holds them for life and *lends* them. A TCP slot may be held by several workers for a moment (survivors take
//! a leaver's slots before it drops them). A UDP slot belongs to one worker thread for that worker's life: two
//! readers of one UDP socket steal each other's datagrams. So a UDP slot is lent once, is never asked back, stays
//! with its worker while that drains, and is lent again only after the worker's process has ended. The kernel leads the
//! datagrams of a UDP group to its sockets by their count, so none of a group may close: each worker keeps all of them,
//! for the next agent.
//!
//! # Moves
//!
//! ```text
//! worker                         agent
//!   Hello                  ->
//!                          <-    Welcome            (a new worker)
//!                          <-    Recover            (a worker that an agent has welcomed before)
//!                          <-    Renewed            (at any time after either: other servers, a new certificate)
//!   Recovered + sockets    ->                       (one or more a listen address)
//!   Kept + sockets         ->                       (UDP sockets that it does not read)
//!   RecoveredAll           ->                       (then its state is as its Hello said)
//!   Ready                  ->                       (configuration loaded, TLS warm; not after Recover if Hello said so)
//!                          <-    Keep + sockets     (UDP sockets of other slots, not to be read; not answered)
//!                          <-    Lend + sockets
//!   Taken                  ->                       (the sockets are in epoll)
//!                          <-    Return             (only after other workers said Taken)
//!   Returned               ->                       (deregistered from epoll, then closed; never shutdown())
//!                          <-    Measure            (at any time after Welcome or Recover)
//!   Measured + a file      ->
//!                          <-    Drain              (after the last TCP slot is returned)
//!   Draining               ->                       (also unasked, on SIGTERM: then Return follows as above)
//!                          <-    PassesOn           (after either greeting: HandOver is understood)
//!   HandOver + sockets     ->                       (idle connections of a worker that drains; one message at a time)
//!                          <-    HandedOver         (whether another worker got them)
//!                          <-    Adopt + sockets    (to that other worker; not answered)
//!   Drained                ->                       (the last connection is gone; the worker exits 0)
//! ```
//!
//! A worker that was asked to return a slot first accepts what waits on it: where the agent closes an address, the
//! worker's copy is the last, and what is still queued on it then is reset. A worker that drains unasked keeps
//! accepting until its slots are asked back. Messages are answered in their order; a `Lend` of slots that are held
//! already is answered with `Taken` again (the duplicates are closed), a `Return` of slots that are not held with
//! `Returned`.
//!
//! The end of the connection means that the peer is gone: an agent lends the worker's slots to others at once and
//! ends the worker if it does not connect again; a worker goes on serving and connects again until an agent answers.
//!
//! Agent and worker may be of different versions (a new agent recovers old workers): fields that the receiver does
//! not know are ignored, and fields may only be added with a default.

use std::{net::SocketAddr, path::PathBuf};

use model::{PoolName, WorkerId};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The longest packet, bytes. Certificates in [`Welcome`] are the largest part of any message.
pub const MAX_PACKET: usize = 128 * 1024;

/// The most sockets in one packet; the kernel's own bound (`SCM_MAX_FD`) is 253.
pub const MAX_SOCKETS: usize = 128;

/// The bytes of a message's packet.
///
/// # Errors
///
/// A message that does not fit [`MAX_PACKET`].
pub fn encode(message: &impl Serialize) -> Result<Vec<u8>, MessageError> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MAX_PACKET { Err(MessageError::TooLong(bytes.len())) } else { Ok(bytes) }
}

/// The message of a packet.
///
/// # Errors
///
/// Bytes that are no such message.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, MessageError> {
    Ok(serde_json::from_slice(bytes)?)
}

/// Why bytes are not a message, or a message not a packet.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// Not JSON of that shape.
    #[error("not a message between agent and worker")]
    Json(#[from] serde_json::Error),
    /// Longer than [`MAX_PACKET`].
    #[error("a message of {0} bytes does not fit a packet of {MAX_PACKET}")]
    TooLong(usize),
}

/// What the agent says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToWorker {
    /// Who the worker is and all that it needs to serve.
    Welcome(Box<Welcome>),
    /// How the servers are reached from now on. Only to workers that said that they know this.
    Renewed(Box<Credentials>),
    /// Send duplicates of all sockets that you hold: I am a new agent.
    Recover,
    /// Listen on these as well. The sockets come beside the message.
    Lend(Slots),
    /// Hold these UDP sockets without reading them. Only to workers that said that they know this.
    Keep(Slots),
    /// Accept what waits on these, then stop listening on them.
    Return(Slots),
    /// Connections may be handed over to me. Only to workers that said that they adopt some.
    PassesOn,
    /// The answer to `HandOver`.
    HandedOver {
        /// Whether the connections are another worker's now; if not, they stay the sender's.
        taken: bool,
    },
    /// Serve these connections. Their sockets come beside the message. Only to workers that said that they know this.
    Adopt(Vec<IdleConnection>),
    /// Say your metrics. Only to workers that said that they know this.
    Measure {
        /// Names the question.
        question: u64,
    },
    /// Finish what you have and exit within the deadline.
    Drain {
        /// From now, milliseconds.
        deadline_ms: u64,
    },
}

/// What a worker says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToAgent {
    /// The first message of every connection.
    Hello {
        /// Given on the worker's command line by the agent that started it.
        worker: WorkerId,
        /// Its pool.
        pool: PoolName,
        /// Its process id; the agent checks it against `SO_PEERCRED`.
        pid: u32,
        /// Whether an earlier agent has welcomed this worker already.
        welcomed: bool,
        /// Whether it has said `Ready` to any agent.
        ready: bool,
        /// Whether it is draining.
        draining: bool,
        /// Whether it knows `Renewed`.
        #[serde(default)]
        renews: bool,
        /// Whether it knows `Keep`, and serves UDP.
        #[serde(default)]
        keeps: bool,
        /// Whether it knows `Measure`.
        #[serde(default)]
        measures: bool,
        /// Whether it knows `Adopt`.
        #[serde(default)]
        adopts: bool,
    },
    /// The sockets of one listen address that the worker holds; they come beside the message.
    Recovered(Slots),
    /// UDP sockets that it keeps and does not read; they come beside the message.
    Kept(Slots),
    /// All that there was to recover has been sent.
    RecoveredAll,
    /// The worker can serve.
    Ready {
        /// From the process's start, microseconds.
        start_us: u64,
    },
    /// These slots are being listened on.
    Taken(Slots),
    /// These slots are no longer listened on and are closed.
    Returned(Slots),
    /// The worker's metrics as Prometheus text, in a file in memory that comes beside the message.
    Measured {
        /// The question's.
        question: u64,
    },
    /// Connections for another worker, from one that drains; at most [`MAX_SOCKETS`], whose sockets come beside the message.
    /// The sender does not read them until it has an answer.
    HandOver(Vec<IdleConnection>),
    /// The worker drains, asked or not (SIGTERM): give its slots to others.
    Draining,
    /// The last connection is gone.
    Drained,
}

/// A cleartext connection that waits for its client's next request, as one worker hands it to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdleConnection {
    /// Where it was accepted.
    pub listen: Listen,
    /// Whose it is; a proxy before us may have said so.
    pub client: SocketAddr,
    /// What the client connected to.
    pub local: SocketAddr,
    /// Requests that were answered on it.
    pub served: u64,
    /// Since it was accepted, milliseconds.
    pub age_ms: u64,
}

/// Slots of one listen address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slots {
    /// What they are bound to.
    pub listen: Listen,
    /// Their numbers in the group, stable for the agent's life and recovered with the sockets.
    pub slots: Vec<u32>,
}

/// One address that a pool listens on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Listen {
    /// The socket address.
    pub bind: SocketAddr,
    /// The port as Gateways name it (80 for 8080).
    pub port: u16,
    /// Whether TLS is spoken from the first byte.
    pub tls: bool,
    /// TCP (shared for a moment) or UDP (exclusive).
    pub transport: Transport,
    /// Whether bytes are passed on as they are, rather than requests read: in TLS by the host that the hello names. By UDP:
    /// datagrams are, rather than HTTP/3 spoken.
    #[serde(default)]
    pub raw: bool,
}

/// How a slot may be lent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// May be held by several workers at once.
    Tcp,
    /// Held by one thread of one worker for that worker's life.
    Udp,
}

/// How a worker reaches the servers.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// Where the servers are, `host:port`; any will do.
    pub servers: Vec<String>,
    /// The installation's CA, PEM.
    pub ca_pem: String,
    /// The worker's client certificate, PEM.
    pub cert_pem: String,
    /// Its key, PEM. Never written to disk by the worker.
    pub key_pem: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("servers", &self.servers).finish_non_exhaustive()
    }
}

impl From<&Welcome> for Credentials {
    fn from(welcome: &Welcome) -> Self {
        Self {
            servers: welcome.servers.clone(),
            ca_pem: welcome.ca_pem.clone(),
            cert_pem: welcome.cert_pem.clone(),
            key_pem: welcome.key_pem.clone(),
        }
    }
}

/// All that a new worker needs to serve.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The feed addresses of the servers, `host:port`; any will do.
    pub servers: Vec<String>,
    /// The installation's CA, PEM.
    pub ca_pem: String,
    /// The worker's client certificate, PEM.
    pub cert_pem: String,
    /// Its key, PEM. Never written to disk by the worker.
    pub key_pem: String,
    /// The only directory that the worker writes to: last-known-good files.
    pub cache_dir: PathBuf,
    /// Encrypts what is in it: 32 bytes in hex.
    pub cache_key: String,
    /// Request threads.
    pub threads: u32,
    /// Connections at the drain deadline are closed; milliseconds.
    pub drain_deadline_ms: u64,
    /// See [`QuicSecret`](crate::quic::QuicSecret): 32 bytes in hex.
    #[serde(default)]
    pub quic_secret: String,
}

impl std::fmt::Debug for Welcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Welcome")
            .field("servers", &self.servers)
            .field("cache_dir", &self.cache_dir)
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots() -> Slots {
        let bind = "127.0.0.1:8080".parse().unwrap();
        Slots {
            listen: Listen { bind, port: 80, tls: false, transport: Transport::Tcp, raw: false },
            slots: vec![0, 7],
        }
    }

    #[test]
    fn messages_survive_the_wire() {
        for message in [ToWorker::Recover, ToWorker::Lend(slots()), ToWorker::Drain { deadline_ms: 30_000 }] {
            assert_eq!(decode::<ToWorker>(&encode(&message).unwrap()).unwrap(), message);
        }
        for message in [ToAgent::Ready { start_us: 5 }, ToAgent::Taken(slots()), ToAgent::RecoveredAll] {
            assert_eq!(decode::<ToAgent>(&encode(&message).unwrap()).unwrap(), message);
        }
    }

    #[test]
    fn a_worker_of_an_earlier_version_renews_nothing() {
        let hello =
            br#"{"hello":{"worker":"w-1","pool":"p","pid":7,"welcomed":true,"ready":true,"draining":false}}"#;
        assert!(matches!(decode::<ToAgent>(hello).unwrap(), ToAgent::Hello { renews: false, .. }));
    }

    #[test]
    fn a_field_of_a_later_version_is_ignored() {
        let message = decode::<ToWorker>(br#"{"drain":{"deadline_ms":5,"reason":"later"}}"#).unwrap();
        assert_eq!(message, ToWorker::Drain { deadline_ms: 5 });
    }

    #[test]
    fn a_message_longer_than_a_packet_is_refused() {
        assert!(matches!(encode(&"x".repeat(MAX_PACKET)), Err(MessageError::TooLong(_))));
    }
}
