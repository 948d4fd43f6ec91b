//! CONNECT (RFC 9110 section 9.3.6): a tunnel to a destination of the client's choice, within what its listener allows.
//!
//! The name is resolved here and the address that was checked is the one that is connected to, so that a name cannot lead
//! elsewhere in between.

use std::{net::SocketAddr, rc::Rc};

use model::{is_denied, is_public};
use tokio::{
    net::{TcpStream, lookup_host},
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
    if !policy.ok_or_else(off)?.allows_connect(host, port) {
        return Err(Refusal::Destination);
    }
    let opened_by = OpenedBy::Connect { listener_port: client.port, host: host.to_owned(), port };
    let route = TunnelRoute { tenant: tenant.clone(), host: asked.to_owned(), opened_by };
    let stream = reach(thread, host, port, config.pool.connect_private).await?;
    let upstream = Connection::apart(thread, UpstreamIo::Plain(stream));
    Ok(Tunnel { upstream, occupied: None, websocket: false, route })
}

/// Connects to the first address of the name that can be connected to.
async fn reach(thread: &Thread, host: &str, port: u16, private: bool) -> Result<TcpStream, Refusal> {
    let ends = Instant::now() + CONNECT_TIME;
    let lookup = Lookup::begin(thread).ok_or(Refusal::Unresolved)?;
    let found = timeout_at(ends, lookup_host((host, port))).await.map_err(|_| Refusal::ConnectTimeout)?;
    let found: Vec<SocketAddr> = found.map_err(|_| Refusal::Unresolved)?.take(DNS_ADDRESSES).collect();
    drop(lookup);
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
struct Lookup<'t>(&'t Thread);

impl<'t> Lookup<'t> {
    /// `None` if too many are.
    fn begin(thread: &'t Thread) -> Option<Self> {
        let running = thread.lookups.get();
        (running < CONNECT_LOOKUPS).then(|| {
            thread.lookups.set(running + 1);
            Self(thread)
        })
    }
}

impl Drop for Lookup<'_> {
    fn drop(&mut self) {
        self.0.lookups.set(self.0.lookups.get() - 1);
    }
}
