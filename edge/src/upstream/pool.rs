//! Connections to an endpoint, reused: HTTP/1.1, one request at a time.

use std::{sync::Arc, time::Duration};

use model::PoolPolicy;

use super::Endpoint;
use crate::{
    buffer::ReadBuffer, clock::Timer, io::UpstreamIo, limits::UPSTREAM_IDLE, metrics::Counters, proxy::Hop,
    worker::Thread,
};

/// A connection to an endpoint. Dropping it closes it. It lives in a box: each request takes it and gives it back.
pub(crate) struct Connection {
    pub(crate) stream: UpstreamIo,
    pub(crate) input: ReadBuffer,
    pub(crate) timer: Timer,
    counters: Arc<Counters>,
    /// Whose it is, where the endpoint was told so: nobody else may use it.
    of: Option<Box<Hop>>,
    born_ms: u64,
    idle_since_ms: u64,
    reused: bool,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.counters.upstream_connections.sub(1);
    }
}

/// Idle connections of one endpoint, the one used last on top: the others may then grow old and go.
#[derive(Default)]
#[expect(clippy::vec_box, reason = "the boxes are handed out")]
pub(crate) struct Idle(Vec<Box<Connection>>);

impl Idle {
    /// Closes connections that were idle for too long, and those that the other side has closed.
    pub(super) fn expire(&mut self, now_ms: u64, policy: PoolPolicy) {
        let limit = millis(policy.idle);
        self.0.retain(|c| now_ms.saturating_sub(c.idle_since_ms) < limit && c.stream.is_quiet());
    }
}

impl Connection {
    /// An idle connection to `endpoint` that is still open, as far as we know: one of `hop`'s own where that matters.
    pub(crate) fn reuse(endpoint: &Endpoint, hop: Hop) -> Option<Box<Self>> {
        loop {
            let mut idle = endpoint.idle.borrow_mut();
            let connection = if endpoint.transport.proxy.is_none() {
                idle.0.pop()?
            } else {
                let own = idle.0.iter().rposition(|c| c.of.as_deref() == Some(&hop))?;
                idle.0.remove(own)
            };
            drop(idle);
            if connection.stream.is_quiet() {
                return Some(connection);
            }
        }
    }

    /// A connection that was just opened.
    pub(super) fn new(thread: &Thread, endpoint: &Endpoint, hop: Hop, stream: UpstreamIo) -> Box<Self> {
        let mut connection = Self::apart(thread, stream);
        connection.of = endpoint.transport.proxy.map(|_| Box::new(hop));
        connection
    }

    /// One that is no endpoint's, and so is never used again.
    pub(crate) fn apart(thread: &Thread, stream: UpstreamIo) -> Box<Self> {
        let now = thread.clock.now_ms();
        thread.counters.upstream_connections.add(1);
        Box::new(Self {
            stream,
            input: ReadBuffer::default(),
            timer: thread.clock.timer(),
            counters: Arc::clone(&thread.counters),
            of: None,
            born_ms: now,
            idle_since_ms: now,
            reused: false,
        })
    }

    /// Whether an earlier request has gone by it.
    pub(super) fn is_reused(&self) -> bool {
        self.reused
    }

    /// Gives the connection back for another request. The caller has read the response to its end, written the
    /// request to its end, and both sides want to go on.
    pub(crate) fn give_back(mut self: Box<Self>, endpoint: &Endpoint) {
        let now = self.timer.now_ms();
        if !self.input.is_empty() || now.saturating_sub(self.born_ms) >= millis(endpoint.pool.get().max_age) {
            return;
        }
        self.input.release();
        self.timer.clear();
        self.idle_since_ms = now;
        self.reused = true;
        let mut idle = endpoint.idle.borrow_mut();
        if idle.0.len() < UPSTREAM_IDLE {
            idle.0.push(self);
        }
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
