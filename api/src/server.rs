//! How servers listen: TLS or mTLS, HTTP/2 limits, a bound on connections.

mod incoming;
mod secure;

use std::time::Duration;

use tonic::transport::{Certificate, Server, ServerTlsConfig};

use crate::{limits, pki::Identity};

pub use incoming::{Bounded, Counted};
pub use secure::secure;

/// The most concurrent calls of one connection (Envoy's edge guide; `limits.md` gives the same to users).
pub const MAX_STREAMS: u32 = 100;

/// The most connections of one listener by default. Workers and agents hold one or two each.
pub const MAX_CONNECTIONS: usize = 10_000;

/// A user's connection is asked to come again after this, so that load spreads over the servers. Feeds are not:
/// each of their streams that ends costs a resume.
const USER_MAX_AGE: Duration = Duration::from_secs(3600);
const USER_MAX_AGE_GRACE: Duration = Duration::from_secs(60);

/// Whether callers must show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// Only callers with a certificate of the CA (peers, feed, agents).
    Required,
    /// Callers with or without one (admin).
    Optional,
}

/// A tonic server with TLS and safe limits; add services to it and serve [`Bounded`] connections.
///
/// # Errors
///
/// A certificate or key cannot be used.
pub fn server(
    identity: &Identity,
    ca_pem: &str,
    clients: ClientAuth,
) -> Result<Server, tonic::transport::Error> {
    let tls = ServerTlsConfig::new()
        .identity(tonic::transport::Identity::from_pem(&identity.cert_pem, &identity.key_pem))
        .client_ca_root(Certificate::from_pem(ca_pem))
        .client_auth_optional(clients == ClientAuth::Optional)
        .timeout(limits::CONNECT_TIMEOUT);
    plain(clients).tls_config(tls)
}

/// The same without TLS: for connections that have it already ([`secure`]).
#[must_use]
pub fn plain(clients: ClientAuth) -> Server {
    let server = Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .concurrency_limit_per_connection(MAX_STREAMS as usize)
        .timeout(limits::CALL_TIMEOUT)
        .http2_keepalive_interval(Some(limits::KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(limits::KEEPALIVE_TIMEOUT))
        // Rapid reset: more than this many streams reset before they were accepted is an attack.
        .http2_max_pending_accept_reset_streams(Some(20))
        .http2_max_local_error_reset_streams(Some(200))
        .http2_max_header_list_size(16 * 1024)
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .tcp_nodelay(true);
    match clients {
        ClientAuth::Required => server,
        ClientAuth::Optional => {
            server.max_connection_age(USER_MAX_AGE).max_connection_age_grace(USER_MAX_AGE_GRACE)
        }
    }
}
