//! Every bound of the data plane, in one place, each with the reason for its number.
//!
//! They hold from the first request with no configuration. No single client may cost more than ten times the
//! memory or CPU of an honest one.

use std::time::Duration;

/// What one listener allows. The same limits hold on every protocol where they mean something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request or response head: 8 KiB is what most servers take, single sign-on cookies need more.
    pub head_bytes: usize,
    /// Fields in a head or a trailer section: twice what browsers and two proxies together send.
    pub head_fields: usize,
    /// From a connection's acceptance to the end of its TLS handshake: three lost SYNs and a slow phone. As long, before
    /// that, for a PROXY protocol header.
    pub handshake: Duration,
    /// From a head's first byte to its end: a head is a packet or two, so only attackers need longer.
    pub head: Duration,
    /// A keep-alive connection without a request; browsers close at 60 to 115 s themselves.
    pub idle: Duration,
    /// What we advertise in `Keep-Alive: timeout`: shorter than `idle` and than a drain, so that the client, who
    /// knows whether a request is on its way, closes first.
    pub advertised_idle: Duration,
    /// A body may be slow for this long before its rate counts.
    pub body_grace: Duration,
    /// The least rate of a request body after `body_grace`, bytes per second: slower than any modem.
    pub body_rate: u64,
    /// No byte of a response could be written, or none came from the upstream, for this long.
    pub stall: Duration,
    /// No byte in either direction of a tunnel.
    pub tunnel_idle: Duration,
    /// What is read of a request body after an early answer before the connection is closed instead: as much
    /// as a connection may buffer anyway.
    pub early_answer_drain: usize,
    /// Connections of one listening socket address, over all threads.
    pub connections: usize,
    /// Connections of one client address (loopback exempt: a local proxy speaks for many).
    pub connections_per_client: usize,
    /// Requests served at once by one thread: as many as a listener may have connections, so that HTTP/2's streams
    /// do not multiply what those may cost.
    pub in_flight: u64,
    /// How long requests of one tenant may wait for their turn through a whole second: ten times what a busy thread shows, and
    /// still less than a person notices. Then those are refused that would wait for longer, until none waits.
    pub queue_delay: Duration,
    /// Resident memory of the process above which requests and connections are refused: all connections that a
    /// listener allows, each with two full buffers, and half as much again for configurations.
    pub memory_bytes: u64,
    /// What a request costs beside its own work, by a busy loop: for tests of overload. Nothing that a user can say sets it.
    #[doc(hidden)]
    pub toll: Duration,
    /// Requests on one connection before it is closed, so that no client stays on one worker for ever.
    pub requests_per_connection: u64,
    /// HTTP/2 streams open at once: a browser opens about as many, nginx allows 128.
    pub h2_streams: u32,
    /// HTTP/2 stream window, bytes: 256 KiB fills 20 Mbit/s at 100 ms.
    pub h2_stream_window: u32,
    /// HTTP/2 connection window, bytes: four streams at full window.
    pub h2_connection_window: u32,
    /// HTTP/2 stream window that an upstream gets, bytes: two buffers, which is 64 MB/s at the 2 ms that upstreams are away.
    pub upstream_stream_window: u32,
    /// HTTP/2 connection window that an upstream gets, bytes: every stream's, for a client that takes nothing of its answer must not
    /// hold up those of others on the same connection.
    pub upstream_connection_window: u32,
    /// DATA frames without data in a row, of one stream: they are free to send and must not be free to repeat.
    pub h2_empty_frames: u32,
    /// HTTP/2 streams reset by us through the client's fault before GOAWAY (MadeYouReset, CVE-2025-8671).
    pub h2_local_resets: usize,
    /// HTTP/2 streams reset by the client before they were answered (Rapid Reset, CVE-2023-44487), less those that were
    /// answered: half of what a client may have open, and all of it once as many were answered.
    pub h2_pending_resets: u32,
    /// HTTP/2 streams reset by the client in one second, answered or not, beyond one for each that was answered.
    pub h2_resets_per_s: u32,
    /// HTTP/2 PING frames in one second, beyond one for each KiB that the client was sent: clients send one in some seconds, or
    /// measure their windows by one for each frame of data.
    pub h2_pings_per_s: u32,
    /// HTTP/2 SETTINGS frames in one second: clients send one or two in all.
    pub h2_settings_per_s: u32,
    /// HTTP/2 CONTINUATION frames of one head (CVE-2024-27316): a head of 64 KiB needs four.
    pub h2_continuations: u32,
    /// HTTP/2 frames in one second that ask for nothing (WINDOW_UPDATE, PRIORITY, those of unknown kinds or of streams that
    /// have ended), beyond one for each KiB that the client was sent.
    pub h2_small_frames_per_s: u32,
    /// HTTP/3 requests of one connection that the client takes back in one second; the streams and windows of HTTP/2
    /// hold for HTTP/3, too.
    pub h3_cancelled_per_s: u32,
    /// Frames on the client's HTTP/3 control stream in one second: clients send three, and reprioritise now and then.
    pub h3_control_frames_per_s: u32,
    /// QUIC handshakes of a thread whose clients' addresses are not proved before further clients must prove theirs first
    /// (Retry): more than begin at once in ordinary times, and, at some 60 KiB each, 2 MiB that a flood of forged addresses can hold
    /// for the time of a handshake. Who comes above it loses a round trip and nothing else.
    pub quic_unproved: usize,
    /// Sessions of UDP of one port, on one thread: as many as connections.
    pub udp_sessions: usize,
    /// Sessions of UDP of one client address, of one port and on one thread (loopback exempt).
    pub udp_sessions_per_client: usize,
}

/// The default limits.
pub const LIMITS: Limits = Limits {
    head_bytes: 64 * 1024,
    head_fields: 100,
    handshake: Duration::from_secs(10),
    head: Duration::from_secs(10),
    idle: Duration::from_secs(60),
    advertised_idle: Duration::from_secs(20),
    body_grace: Duration::from_secs(10),
    body_rate: 1024,
    stall: Duration::from_secs(60),
    tunnel_idle: Duration::from_secs(300),
    early_answer_drain: 64 * 1024,
    connections: 10_000,
    connections_per_client: 1_000,
    in_flight: 10_000,
    queue_delay: Duration::from_millis(100),
    memory_bytes: 2 << 30,
    toll: Duration::ZERO,
    requests_per_connection: u64::MAX,
    h2_streams: 100,
    h2_stream_window: 256 * 1024,
    h2_connection_window: 1024 * 1024,
    upstream_stream_window: 128 * 1024,
    upstream_connection_window: 100 * 128 * 1024,
    h2_empty_frames: 100,
    h2_local_resets: 200,
    h2_pending_resets: 50,
    h2_resets_per_s: 100,
    h2_pings_per_s: 100,
    h2_settings_per_s: 50,
    h2_continuations: 20,
    h2_small_frames_per_s: 1000,
    h3_cancelled_per_s: 100,
    h3_control_frames_per_s: 100,
    quic_unproved: 32,
    udp_sessions: 10_000,
    udp_sessions_per_client: 1_000,
};

impl Default for Limits {
    fn default() -> Self {
        LIMITS
    }
}

/// Bytes of a pooled buffer: a head and a small body in one read, so that an ordinary request needs one.
pub const BUFFER: usize = 16 * 1024;

/// Bytes of a buffer for a large head or body, and the most that one direction of a connection buffers.
pub const LARGE_BUFFER: usize = 64 * 1024;

/// Free buffers kept by a thread: 16 MiB, what a burst of a thousand busy connections needs again at once.
pub const FREE_BUFFERS: usize = 1024;

/// Free large buffers kept by a thread: 4 MiB, as many as there are large bodies on their way.
pub const FREE_LARGE_BUFFERS: usize = 64;

/// Connections taken from one listening socket before other work gets its turn: a queue of this length drains
/// in one go, and the wait that it imposes on requests stays under 2 ms.
pub const ACCEPT_BATCH: usize = 32;

/// What is ready may take this long with what new connections bring before fewer of them are accepted at once: a quarter of what
/// makes a thread busy, for a request waits for that two or three times.
pub const ACCEPT_PASS: Duration = Duration::from_micros(500);

/// Connections that are accepted for each millisecond that all else takes, at least: more than a thread can serve that is as
/// busy as that, so that they are refused rather than kept waiting.
pub const ACCEPT_LEAST_PER_MS: usize = 2;

/// The pause after `accept` failed for lack of descriptors or memory: long enough for connections to end, short
/// enough that the kernel's queue (4,096) does not overflow at 10,000 connections per second.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often deadlines are checked; every limit in seconds is held to within this.
pub const TICK: Duration = Duration::from_millis(250);

/// What is ready may take this long before requests wait for their turns: half a slice of the kernel's scheduler, and above
/// what a thread shows that keeps up.
pub const BUSY: Duration = Duration::from_millis(2);

/// At least this long after one measurement of it the next one begins.
pub const PROBE_PAUSE: Duration = Duration::from_millis(10);

/// How long requests that have their turn may take together, at least, before what has become ready gets its turn: about
/// what one request costs whose tenant asks for much.
pub const QUANTUM: Duration = Duration::from_millis(1);

/// The most of it, however long all else takes.
pub const QUANTUM_MOST: Duration = Duration::from_millis(10);

/// CPU time by which a tenant may have fallen behind its part and still catch up, before those who asked for more: what several
/// requests cost that come at once, and as long as others may have to wait for them.
pub const CREDIT: Duration = Duration::from_millis(20);

/// A queue of requests that stands for this long is no burst.
pub const STANDING: Duration = Duration::from_secs(1);

/// Endpoints that are tried for one stream: one that just died, and one that died with it.
pub const STREAM_TRIES: u32 = 3;

/// Idle upstream connections kept per endpoint and thread: more than a thread can keep busy.
pub const UPSTREAM_IDLE: usize = 512;

/// Requests at once on one HTTP/2 connection to an upstream, at most what the upstream allows: as many as we allow our
/// clients, and what servers commonly do.
pub const UPSTREAM_H2_STREAMS: usize = 100;

/// TLS sessions kept for each backend, to resume them: endpoints of one name share them.
pub const UPSTREAM_SESSIONS: usize = 256;

/// An endpoint that could not be connected to is passed over for this long, unless none is left.
pub const ENDPOINT_REST: Duration = Duration::from_secs(5);

/// Retries allowed per hundred requests: enough for a restarting upstream, too few to double an overload.
pub const RETRY_PERCENT: u32 = 20;

/// Retries allowed before any request has earned them: a quiet route must still survive a dead connection.
pub const RETRY_RESERVE: u32 = 10;

/// Names are not resolved again before this, whatever their time to live: the shortest that resolvers commonly hand out,
/// and a bound on lookups.
pub const DNS_MIN: Duration = Duration::from_secs(5);

/// Names are resolved again after this, whatever their time to live: as late as an operator who moved a service would wait.
pub const DNS_MAX: Duration = Duration::from_secs(300);

/// For one lookup, all servers and tries together.
pub const DNS_LOOKUP: Duration = Duration::from_secs(5);

/// Names tracked at once, over all tenants.
pub const DNS_NAMES: usize = 10_000;

/// Addresses used of one name; a record set of more than this does not fit into a UDP answer.
pub const DNS_ADDRESSES: usize = 64;

/// Series of the per-route metrics; requests of further routes count under `other`.
pub const ROUTE_SERIES: usize = 10_000;

/// Series of the per-tenant metrics; further tenants are not shown.
pub const TENANT_SERIES: usize = 10_000;

/// Series of the per-backend metrics; further backends are not shown.
pub const BACKEND_SERIES: usize = 10_000;

/// Endpoints whose health is checked, over all tenants; further ones are taken to be well. With the shortest interval as
/// many checks a second as a helper thread can do.
pub const CHECKED_ENDPOINTS: usize = 10_000;

/// Health checks at once, the others wait: they have a time limit each, and endpoints that do not answer must not take
/// the worker's descriptors.
pub const CHECKS_AT_ONCE: usize = 256;

/// Commands waiting for one request thread; their senders wait when there are more.
pub const COMMANDS: usize = 64;

/// 1xx responses before the final one: more than any server sends, and each one begins the wait for the next anew.
pub const INTERIM_RESPONSES: u32 = 16;

/// How long each side of a WebSocket that has to go may take to answer our Close: ten round trips of the slowest link.
pub const WEBSOCKET_GOODBYE: Duration = Duration::from_secs(5);

/// From a CONNECT to its destination's connection, the name's resolution and all addresses together: as long as for any
/// upstream.
pub const CONNECT_TIME: Duration = Duration::from_secs(5);

/// Names of CONNECT that one thread resolves at once; each waits on a thread of its own.
pub const CONNECT_LOOKUPS: usize = 64;

/// The kernel asks a silent client whether it is still there after this, three times at this distance: a client that
/// lost its network holds a connection for two minutes at most.
pub const TCP_KEEPALIVE: Duration = Duration::from_secs(30);

/// How long a client of a protocol in which it speaks first may say nothing before its connection is accepted
/// (`TCP_DEFER_ACCEPT`; the least that the kernel knows). Most speak at once, and nobody is woken twice for them.
pub const FIRST_BYTE: Duration = Duration::from_secs(1);

/// How long a client's events need not be watched while its first request is served: until the next tick.
pub const UNWATCHED: Duration = Duration::from_millis(1);

/// Idle connections on their way to another worker at once, of all threads; as many as go into one message.
pub const LEAVING: usize = 64;

/// Bytes of a connection that wait in the kernel for a client to take what was sent before, above which it takes no more from us.
/// Its own bound is on all that is not acknowledged, 4 MiB: a client that takes nothing would have a large answer copied and kept.
/// As much as one of our buffers, so that a connection that moves is never out of data.
pub const UNSENT: u32 = 64 * 1024;

/// How long an HTTP/2 client is given to see our last words before the connection is closed under what it still sends.
pub const H2_FAREWELL: Duration = Duration::from_secs(2);

/// The same for one whose streams a drain has cut off at its end: some round trips, and less than an agent waits beyond it.
pub const H2_LAST_WORDS: Duration = Duration::from_millis(500);

/// Bytes that it may still send meanwhile: what was on its way, a full window.
pub const H2_FAREWELL_BYTES: usize = 1 << 20;

/// Unidirectional QUIC streams that a client may have open: HTTP/3 needs three, and some clients send one more that means
/// nothing, to see that it is ignored.
pub const QUIC_UNI_STREAMS: u32 = 8;

/// Unidirectional QUIC streams of one connection, ever: those that mean nothing are free to open and must not be free to
/// repeat.
pub const H3_UNI_STREAMS_EVER: u32 = 100;

/// Frames that mean nothing on one HTTP/3 request's stream, ever: clients send one, if any.
pub const H3_FOREIGN_FRAMES: u32 = 100;

/// Bytes of one frame on an HTTP/3 control stream that means something; SETTINGS are some dozen.
pub const H3_CONTROL_FRAME: usize = 4096;

/// QUIC connections of one thread that have begun and not been looked at: what one look at the socket can bring.
pub const QUIC_INCOMING: usize = 1024;

/// Bytes that wait for one of them: the packets of a hello in three datagrams, and what follows it at once.
pub const QUIC_INCOMING_BYTES: u64 = 8 * 1024;

/// No request may have come for this long, and for three round trips, before a retired HTTP/3 connection is closed: those
/// that were sent before the client heard of it are here by then.
pub const QUIC_QUIET: Duration = Duration::from_millis(300);

/// How long a worker stays to tell its last clients that their connections have ended.
pub const QUIC_FAREWELL: Duration = Duration::from_secs(1);

/// How long clients may remember that HTTP/3 is served: a day, as everybody says. Who finds it gone comes back by TCP.
pub const ALT_SVC_AGE_S: u32 = 86_400;

/// Bytes of a PROXY protocol header, TLVs and all: what nginx reads, and eight times what HAProxy sends.
pub const PROXY_HEADER: usize = 4096;

/// Bytes of a TLS session ticket: a session is some 150, and one that ever holds a client's certificates some thousand.
pub const TICKET: usize = 8 * 1024;

/// Bytes of a TLS client's first message by QUIC that are kept until it is whole: those of post-quantum shares are two
/// thousand. A longer one gets no tenant's configuration.
pub const QUIC_HELLO: usize = 16 * 1024;

/// Free trails of requests kept by a thread: as many as a burst of a thousand requests needs again at once.
pub const FREE_TRAILS: usize = 1024;

/// How long a question about a request waits for a thread that is busy.
pub const RECALL: Duration = Duration::from_millis(500);

/// Reads of one UDP socket at once, each of 64 KiB: one datagram, or several of a client's that the kernel has joined.
pub const UDP_READS: usize = 8;

/// What the kernel is asked to keep of datagrams that wait for us, bytes: a burst of 3,000; it gives no more than
/// `net.core.rmem_max`.
pub const UDP_BUFFER: usize = 4 << 20;

/// A session of UDP that is silent for this long ends when its worker drains: what its client says from then on goes to
/// others, and an answer that is still to come is here by then.
pub const UDP_DRAIN_QUIET: Duration = Duration::from_secs(5);
