//! Channels to a server: the admin API with a bearer token, the feed with a client certificate.
//!
//! Both pin the installation's CA and check for [`SERVER_NAME`](crate::pki::SERVER_NAME), whatever the address.
//! Channels connect when they are first used and again after a loss.

mod any;
mod pin;
mod route;

use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

use crate::{
    admin::{
        audit_client::AuditClient, cluster_client::ClusterClient, objects_client::ObjectsClient,
        secrets_client::SecretsClient, tenants_client::TenantsClient, workers_client::WorkersClient,
    },
    feed::feed_client::FeedClient,
    kv::kv_client::KvClient,
    limits,
    node::nodes_client::NodesClient,
    pki::{Identity, SERVER_NAME},
    store::peers_client::PeersClient,
};

pub use any::AnyServer;
pub use pin::{PinError, authority};
pub use route::Route;

/// Why there is no channel. The connection itself is made later and fails with a `Status`.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Not `host:port`.
    #[error("{address:?} is not of the form host:port")]
    Address {
        /// The address as given.
        address: String,
    },
    /// The CA's or the client's certificate cannot be used.
    #[error("TLS to {address}: {problem}")]
    Tls {
        /// Whom it was for.
        address: String,
        /// What is wrong.
        problem: String,
    },
    /// The token has characters that no token has.
    #[error("the token is not valid: use it as it was shown, without blanks or line ends")]
    Token,
    /// Nobody to talk to.
    #[error("there is no server's address")]
    Nobody,
}

/// A channel to `address` (`host:port`) that trusts only servers of `ca_pem`'s installation.
///
/// # Errors
///
/// The address or a certificate is not valid.
pub fn channel(address: &str, ca_pem: &str, identity: Option<&Identity>) -> Result<Channel, ClientError> {
    Ok(endpoint(address, ca_pem, identity)?.connect_lazy())
}

fn endpoint(address: &str, ca_pem: &str, identity: Option<&Identity>) -> Result<Endpoint, ClientError> {
    let endpoint = Endpoint::from_shared(format!("https://{address}"))
        .ok()
        .filter(|e| e.uri().authority().is_some_and(|a| a.port().is_some()))
        .ok_or_else(|| ClientError::Address { address: address.to_owned() })?;
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(ca_pem))
        .domain_name(SERVER_NAME)
        .timeout(limits::CONNECT_TIMEOUT);
    if let Some(Identity { cert_pem, key_pem }) = identity {
        tls = tls.identity(tonic::transport::Identity::from_pem(cert_pem, key_pem));
    }
    let endpoint = endpoint
        .tls_config(tls)
        .map_err(|e| ClientError::Tls { address: address.to_owned(), problem: root_cause(&e) })?
        .connect_timeout(limits::CONNECT_TIMEOUT)
        .timeout(limits::CALL_TIMEOUT)
        .http2_keep_alive_interval(limits::KEEPALIVE_INTERVAL)
        .keep_alive_timeout(limits::KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true)
        // A delta of a megabyte would else need a window update each 64 KiB.
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(2 * 1024 * 1024);
    Ok(endpoint)
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// Adds `authorization: Bearer <token>` to every call.
#[derive(Clone)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Bearer {
    /// No token: the caller is known by its certificate.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// For this token.
    ///
    /// # Errors
    ///
    /// The token has characters that no token has.
    pub fn new(token: &str) -> Result<Self, ClientError> {
        if !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(ClientError::Token);
        }
        let mut value: MetadataValue<Ascii> =
            format!("Bearer {token}").parse().map_err(|_| ClientError::Token)?;
        value.set_sensitive(true);
        Ok(Self(Some(value)))
    }
}

impl std::fmt::Debug for Bearer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bearer(..)")
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// The servers, with calls that carry a token.
pub type Authorized = InterceptedService<AnyServer, Bearer>;

/// The admin API's clients over one connection.
#[derive(Debug, Clone)]
pub struct Admin {
    /// Tenants and their tokens.
    pub tenants: TenantsClient<Authorized>,
    /// Objects: apply, get, list, delete, watch, history, rollback, explain.
    pub objects: ObjectsClient<Authorized>,
    /// Who changed what.
    pub audit: AuditClient<Authorized>,
    /// Workers and what happened to them.
    pub workers: WorkersClient<Authorized>,
    /// The store's members.
    pub cluster: ClusterClient<Authorized>,
    /// The keys that secrets are sealed with.
    pub secrets: SecretsClient<Authorized>,
    /// Keys and values of the platform's own tools.
    pub kv: KvClient<Authorized>,
}

impl Admin {
    /// Clients of the admin port at `address` (`host:port`).
    ///
    /// # Errors
    ///
    /// The address, the CA or the token is not valid.
    pub fn new(address: &str, ca_pem: &str, token: &str) -> Result<Self, ClientError> {
        Self::of_any(&[address.to_owned()], ca_pem, token)
    }

    /// Clients of whichever of these servers answers; what only the leader does is asked of it.
    ///
    /// # Errors
    ///
    /// An address, the CA or the token is not valid, or there is no address.
    pub fn of_any(addresses: &[String], ca_pem: &str, token: &str) -> Result<Self, ClientError> {
        Ok(Self::over(AnyServer::new(addresses, ca_pem, None)?, Bearer::new(token)?))
    }

    /// The same for a server of the installation, whose certificate may do all that the administrator may.
    ///
    /// # Errors
    ///
    /// An address or a certificate is not valid, or there is no address.
    pub fn of_server(addresses: &[String], ca_pem: &str, identity: &Identity) -> Result<Self, ClientError> {
        Ok(Self::over(AnyServer::new(addresses, ca_pem, Some(identity))?, Bearer::none()))
    }

    fn over(servers: AnyServer, bearer: Bearer) -> Self {
        let channel = InterceptedService::new(servers, bearer);
        Self {
            tenants: TenantsClient::new(channel.clone()),
            // Lists and watches may carry many objects.
            objects: ObjectsClient::new(channel.clone())
                .max_decoding_message_size(limits::MAX_SNAPSHOT)
                .max_encoding_message_size(limits::MAX_APPLY),
            audit: AuditClient::new(channel.clone()),
            workers: WorkersClient::new(channel.clone()),
            secrets: SecretsClient::new(channel.clone()),
            cluster: ClusterClient::new(channel.clone()),
            kv: KvClient::new(channel)
                .max_decoding_message_size(limits::MAX_SNAPSHOT)
                .max_encoding_message_size(limits::MAX_APPLY),
        }
    }
}

/// A client of the feed at `address` for the worker that `identity` names.
///
/// # Errors
///
/// The address or a certificate is not valid.
pub fn feed(address: &str, ca_pem: &str, identity: &Identity) -> Result<FeedClient<Channel>, ClientError> {
    Ok(FeedClient::new(channel(address, ca_pem, Some(identity))?)
        .max_decoding_message_size(limits::MAX_DELTA))
}

/// A client of the servers' plans at `address` for the host agent that `identity` names.
///
/// # Errors
///
/// The address or a certificate is not valid.
pub fn nodes(address: &str, ca_pem: &str, identity: &Identity) -> Result<NodesClient<Channel>, ClientError> {
    Ok(NodesClient::new(channel(address, ca_pem, Some(identity))?))
}

/// A client of another server's store at `address` for the server that `identity` names.
///
/// # Errors
///
/// The address or a certificate is not valid.
pub fn peers(address: &str, ca_pem: &str, identity: &Identity) -> Result<PeersClient<Channel>, ClientError> {
    Ok(PeersClient::new(channel(address, ca_pem, Some(identity))?))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[tokio::test]
    async fn addresses_without_a_port_are_refused() {
        let ca = crate::pki::Ca::create("i", SystemTime::now()).unwrap();
        for bad in ["", "localhost", "a b:1", "https://x:1"] {
            assert!(matches!(channel(bad, ca.cert_pem(), None), Err(ClientError::Address { .. })), "{bad}");
        }
        assert!(channel("[::1]:7070", ca.cert_pem(), None).is_ok());
    }

    #[test]
    fn a_token_is_not_shown_and_has_no_blanks() {
        assert_eq!(format!("{:?}", Bearer::new("weir_secret").unwrap()), "Bearer(..)");
        assert!(Bearer::new("weir_secret\n").is_err());
    }
}
