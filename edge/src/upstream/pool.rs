//! Connections to an endpoint, reused: HTTP/1.1, one request at a time.

use std::{io, sync::Arc, time::Duration};

use tokio::net::TcpStream;

use super::Endpoint;
use crate::{
    buffer::ReadBuffer,
    clock::Timer,
    limits::{UPSTREAM_AGE, UPSTREAM_IDLE, UPSTREAM_IDLE_TIME},
    metrics::Counters,
    worker::Thread,
};

/// A connection to an endpoint. Dropping it closes it.
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    pub(crate) input: ReadBuffer,
    pub(crate) timer: Timer,
    /// It served a request before: the upstream may have closed it in the meantime.
    pub(crate) reused: bool,
    counters: Arc<Counters>,
    born_ms: u64,
    idle_since_ms: u64,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.counters.upstream_connections.sub(1);
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("connect")]
    Io(#[source] io::Error),
    #[error("connect timed out")]
    TimedOut,
}

/// Idle connections of one endpoint, the one used last on top: the others may then grow old and go.
#[derive(Default)]
pub(crate) struct Idle(Vec<Connection>);

impl Idle {
    /// Closes connections that were idle for too long, and those that the other side has closed.
    pub(super) fn expire(&mut self, now_ms: u64) {
        let limit = millis(UPSTREAM_IDLE_TIME);
        self.0.retain(|c| now_ms.saturating_sub(c.idle_since_ms) < limit && c.is_quiet());
    }
}

impl Connection {
    /// An idle connection to `endpoint` that is still open, as far as we know.
    pub(crate) fn reuse(endpoint: &Endpoint) -> Option<Self> {
        loop {
            let mut connection = endpoint.idle.borrow_mut().0.pop()?;
            if connection.is_quiet() {
                connection.reused = true;
                return Some(connection);
            }
        }
    }

    /// A new connection to `endpoint`.
    pub(crate) async fn open(
        thread: &Thread,
        endpoint: &Endpoint,
        limit: Duration,
    ) -> Result<Self, ConnectError> {
        let result = match tokio::time::timeout(limit, TcpStream::connect(endpoint.address)).await {
            Ok(Ok(stream)) => stream.set_nodelay(true).map(|()| stream).map_err(ConnectError::Io),
            Ok(Err(error)) => Err(ConnectError::Io(error)),
            Err(_) => Err(ConnectError::TimedOut),
        };
        let now = thread.clock.now_ms();
        match result {
            Ok(stream) => {
                thread.counters.upstream_connects.add(1);
                thread.counters.upstream_connections.add(1);
                Ok(Self {
                    stream,
                    input: ReadBuffer::default(),
                    timer: thread.clock.timer(),
                    reused: false,
                    counters: Arc::clone(&thread.counters),
                    born_ms: now,
                    idle_since_ms: now,
                })
            }
            Err(error) => {
                thread.counters.upstream_connect_errors.add(1);
                endpoint.rest(now);
                Err(error)
            }
        }
    }

    /// Gives the connection back for another request. The caller has read the response to its end, written the
    /// request to its end, and both sides want to go on.
    pub(crate) fn give_back(mut self, endpoint: &Endpoint) {
        let now = self.timer.now_ms();
        if !self.input.is_empty() || now.saturating_sub(self.born_ms) >= millis(UPSTREAM_AGE) {
            return;
        }
        self.input.release();
        self.timer.clear();
        self.idle_since_ms = now;
        let mut idle = endpoint.idle.borrow_mut();
        if idle.0.len() < UPSTREAM_IDLE {
            idle.0.push(self);
        }
    }

    /// Whether neither bytes nor the end came while it was idle. Costs no system call: the last read left the
    /// socket drained, so there is something only if an event said so.
    fn is_quiet(&self) -> bool {
        matches!(self.stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
