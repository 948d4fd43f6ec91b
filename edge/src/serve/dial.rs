//! CONNECT (RFC 9110 section 9.3.6): a tunnel to a destination of the client's choice, within what its listener allows.
//!
//! The name is resolved here and the address that was checked is the one that is connected to, so that a name cannot lead
//! elsewhere in between.

use std::{cell::Cell, io, net::SocketAddr, rc::Rc};

use model::{is_denied, is_public};
use tokio::{
    net::{TcpStream, lookup_host},
    task::spawn_local,
    time::{Instant, timeout_at},
};

use super::refusal::Refusal;
use crate::{
    downstream::{Client, tunnel::Tunnel},
    drain::{OpenedBy, TunnelRoute},
    h1::{RequestError, RequestHead},
    io::UpstreamIo,
    limits::{CONNECT_LOOKUPS, CONNECT_TIME, DNS_ADDRESSES},
    upstream::pool::Connection,
    worker::Thread,
};

/// The tunnel that a CONNECT asks for.
///
/// # Errors
/// CONNECT is off, or the destination is not allowed or cannot be reached.
pub(super) async fn open(
    thread: &Rc<Thread>,
    client: &Client,
    head: &RequestHead,
) -> Result<Tunnel, Refusal> {
    let off = || Refusal::Request(RequestError::Connect);
    let (host, port) = (head.host(), head.port().ok_or_else(off)?);
    let config = thread.config();
    // In TLS the listener is the one that the client named. In cleartext it can only be the destination's own tenant's.
    let asked = client.server_name.as_deref().unwrap_or(host);
    let tenant = config.hosts.owner(asked).ok_or_else(off)?;
    let table = config.tenants.get(tenant.as_str()).ok_or_else(off)?;
    let policy = table.policy(client.port, asked).filter(|policy| !policy.connect.is_empty());
    client.comes_in(table, asked)?;
    if !policy.ok_or_else(off)?.allows_connect(host, port) {
        return Err(Refusal::Destination);
    }
    let opened_by = OpenedBy::Connect { listener_port: client.port, host: host.to_owned(), port };
    let route = TunnelRoute { tenant: tenant.clone(), host: asked.to_owned(), opened_by };
    let stream = reach(thread, host, port, config.pool.connect_private).await?;
    let upstream = Connection::apart(thread, UpstreamIo::Plain(stream.into()));
    Ok(Tunnel { upstream, occupied: None, websocket: false, route })
}

/// Connects to the first address of the name that can be connected to.
async fn reach(thread: &Rc<Thread>, host: &str, port: u16, private: bool) -> Result<TcpStream, Refusal> {
    let ends = Instant::now() + CONNECT_TIME;
    let lookup = Lookup::begin(&thread.lookups).ok_or(Refusal::Unresolved)?;
    let looking = spawn_local(lookup.run(lookup_host((host.to_owned(), port))));
    let found = timeout_at(ends, looking).await.map_err(|_| Refusal::ConnectTimeout)?;
    let found = found.ok().flatten().ok_or(Refusal::Unresolved)?;
    let allowed = |to: &&SocketAddr| !is_denied(to.ip()) && (private || is_public(to.ip()));
    let mut failed = Refusal::Destination;
    for address in found.iter().filter(allowed) {
        match timeout_at(ends, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                thread.counters.upstream_connects.add(1);
                stream.set_nodelay(true).map_err(Refusal::Connect)?;
                return Ok(stream);
            }
            Ok(Err(error)) => failed = Refusal::Connect(error),
            Err(_) => failed = Refusal::ConnectTimeout,
        }
        thread.counters.upstream_connect_errors.add(1);
    }
    Err(failed)
}

/// A name that is being resolved.
struct Lookup(Rc<Cell<usize>>);

impl Lookup {
    /// `None` if too many are.
    fn begin(running: &Rc<Cell<usize>>) -> Option<Self> {
        let count = running.get();
        (count < CONNECT_LOOKUPS).then(|| {
            running.set(count + 1);
            Self(Rc::clone(running))
        })
    }

    /// The name's addresses. Counts to its end, whoever still waits for it: a resolver's thread cannot be called back.
    async fn run<A: Iterator<Item = SocketAddr>>(
        self,
        looking: impl Future<Output = io::Result<A>>,
    ) -> Option<Vec<SocketAddr>> {
        looking.await.ok().map(|found| found.take(DNS_ADDRESSES).collect())
    }
}

impl Drop for Lookup {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use tokio::{sync::oneshot, task::LocalSet};

    use super::*;

    #[tokio::test]
    async fn a_lookup_that_nobody_waits_for_still_counts() {
        let running = Rc::new(Cell::new(CONNECT_LOOKUPS - 1));
        let lookup = Lookup::begin(&running).unwrap();
        assert!(Lookup::begin(&running).is_none(), "as many as may be");
        let (answer, answered) = oneshot::channel::<()>();
        let local = LocalSet::new();
        let looking = local.spawn_local(lookup.run(async {
            let _gone = answered.await;
            Ok(std::iter::empty())
        }));
        // Its client went away, or had waited for long enough.
        drop(looking);
        local.run_until(tokio::task::yield_now()).await;
        assert_eq!(running.get(), CONNECT_LOOKUPS);
        answer.send(()).unwrap();
        local.await;
        assert_eq!(running.get(), CONNECT_LOOKUPS - 1);
    }
}
