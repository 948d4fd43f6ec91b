//! TLS towards clients: rustls with aws-lc-rs, certificates by SNI from the active configuration, TLS 1.2 and 1.3.

pub(crate) mod certificates;

use std::{
    collections::HashMap,
    fmt, io,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig, ServerConnection,
    crypto::aws_lc_rs,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::net::TcpStream;
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor, server::TlsStream};

use crate::config::Config;

/// What a handshake agreed upon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Agreed {
    /// The host that the client asked for, lowercase.
    pub(crate) server_name: Option<String>,
    /// The version, as logs name it.
    pub(crate) version: Option<&'static str>,
    /// HTTP/2 by ALPN.
    pub(crate) h2: bool,
    /// The session was resumed.
    pub(crate) resumed: bool,
}

impl Agreed {
    pub(crate) fn of(connection: &ServerConnection) -> Self {
        Self {
            server_name: connection.server_name().map(str::to_owned),
            version: connection.protocol_version().and_then(|version| match version {
                rustls::ProtocolVersion::TLSv1_2 => Some("TLSv1.2"),
                rustls::ProtocolVersion::TLSv1_3 => Some("TLSv1.3"),
                _ => None,
            }),
            h2: connection.alpn_protocol() == Some(b"h2"),
            resumed: connection.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
        }
    }
}

/// The TLS side of the listeners: a configuration for each Gateway port, shared by the threads so that a session
/// resumes on any of them.
pub(crate) struct Acceptor {
    config: Arc<ArcSwap<Config>>,
    /// A port may speak something else after a change of the pool.
    ports: Mutex<HashMap<(u16, Offer), Arc<ServerConfig>>>,
    quic: Mutex<HashMap<u16, Arc<ServerConfig>>>,
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").finish_non_exhaustive()
    }
}

impl Acceptor {
    pub(crate) fn new(config: Arc<ArcSwap<Config>>) -> Self {
        Self { config, ports: Mutex::default(), quic: Mutex::default() }
    }

    /// Does a handshake; the caller bounds its time. Dropping it closes the connection.
    pub(crate) async fn accept(&self, port: u16, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let accepted = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
        let http2 = {
            let hello = accepted.client_hello();
            let host = hello.server_name().unwrap_or_default();
            self.config.load().speaks_http2_for(port, host)
        };
        let offer = if http2 { Offer::Http } else { Offer::Http1 };
        accepted.into_stream(self.server(port, offer).map_err(io::Error::other)?).await
    }

    /// Does a handshake whose first bytes were read already, for bytes that are not HTTP; the caller bounds its time.
    pub(crate) async fn accept_begun(
        &self,
        port: u16,
        stream: TcpStream,
        begun: &[u8],
    ) -> io::Result<TlsStream<TcpStream>> {
        let acceptor = TlsAcceptor::from(self.server(port, Offer::Nothing).map_err(io::Error::other)?);
        let mut fed = Ok(());
        let accepting = acceptor.accept_with(stream, |connection| fed = feed(connection, begun));
        // A client that was refused gets its alert in the course of the handshake.
        let accepted = accepting.await;
        fed.and(accepted)
    }

    /// What QUIC on that port shows its clients.
    pub(crate) fn quic(&self, port: u16) -> io::Result<Arc<ServerConfig>> {
        let mut ports = self.quic.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = ports.get(&port) {
            return Ok(Arc::clone(known));
        }
        let mut server = server_config(port, Arc::clone(&self.config)).map_err(io::Error::other)?;
        server.alpn_protocols = vec![b"h3".to_vec()];
        let server = Arc::new(server);
        ports.insert(port, Arc::clone(&server));
        Ok(server)
    }

    fn server(&self, port: u16, offer: Offer) -> Result<Arc<ServerConfig>, rustls::Error> {
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = ports.get(&(port, offer)) {
            return Ok(Arc::clone(known));
        }
        let mut server = server_config(port, Arc::clone(&self.config))?;
        server.alpn_protocols = offer.protocols().iter().map(|protocol| protocol.to_vec()).collect();
        let server = Arc::new(server);
        ports.insert((port, offer), Arc::clone(&server));
        Ok(server)
    }
}

/// What is offered by ALPN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Offer {
    /// HTTP/2 and HTTP/1.1.
    Http,
    /// HTTP/1.1 alone.
    Http1,
    /// Bytes that are not HTTP.
    Nothing,
}

impl Offer {
    /// The best first.
    fn protocols(self) -> &'static [&'static [u8]] {
        match self {
            Self::Http => &[b"h2", b"http/1.1"],
            Self::Http1 => &[b"http/1.1"],
            Self::Nothing => &[],
        }
    }
}

/// Gives a connection what was read of it.
fn feed(connection: &mut ServerConnection, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        connection.read_tls(&mut bytes)?;
        connection.process_new_packets().map_err(io::Error::other)?;
    }
    Ok(())
}

fn server_config(port: u16, config: Arc<ArcSwap<Config>>) -> Result<ServerConfig, rustls::Error> {
    let mut server = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(BySni { port, config }));
    // Keys live in this process only: a client that comes back to another worker does a full handshake. rustls
    // resumes a session only for the server name that it was made for, so never across tenants.
    server.ticketer = aws_lc_rs::Ticketer::new()?;
    // Each ticket is a record of its own in the first flight; browsers use one or two.
    server.send_tls13_tickets = 1;
    // Early data can be replayed.
    server.max_early_data_size = 0;
    Ok(server)
}

/// Finds the certificate in whatever configuration is active when the client says hello.
struct BySni {
    port: u16,
    config: Arc<ArcSwap<Config>>,
}

impl fmt::Debug for BySni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BySni").field("port", &self.port).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for BySni {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let config = self.config.load();
        let host = hello.server_name().unwrap_or_default();
        let table = config.hosts.owner(host).and_then(|tenant| config.tenants.get(tenant.as_str()));
        table
            .and_then(|table| table.certificates.find(self.port, host, hello.signature_schemes()))
            .or_else(|| config.default_certificate.clone())
    }
}

/// TLS cannot work at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("TLS cannot be used: {0}")]
pub(crate) struct Unusable(String);

/// Does one handshake with ourselves in memory, so that no client waits for the first one, in which aws-lc
/// collects its entropy (0.1 to 0.2 s).
///
/// # Errors
/// [`Unusable`].
pub(crate) fn warm_up() -> Result<(), Unusable> {
    let text = |error: &dyn fmt::Display| Unusable(error.to_string());
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).map_err(|e| text(&e))?;
    let key =
        certificates::certified_key(&made.cert.pem(), &made.signing_key.serialize_pem()).map_err(Unusable)?;
    let mut config = Config::empty(crate::config::PoolSettings::new("warm".parse().map_err(|e| text(&e))?));
    config.default_certificate = Some(Arc::clone(&key));
    let server = server_config(443, Arc::new(ArcSwap::from_pointee(config))).map_err(|e| text(&e))?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).map_err(|e| text(&e))?;
    let client = rustls::ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| text(&e))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "localhost".try_into().map_err(|e| text(&e))?;
    let mut client = rustls::ClientConnection::new(Arc::new(client), name).map_err(|e| text(&e))?;
    let mut server = ServerConnection::new(Arc::new(server)).map_err(|e| text(&e))?;
    // Two flights each way are a handshake; more turns would mean that it does not end.
    for _ in 0..4 {
        let mut flight = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut flight).map_err(|e| text(&e))?;
        }
        server.read_tls(&mut flight.as_slice()).map_err(|e| text(&e))?;
        server.process_new_packets().map_err(|e| text(&e))?;
        let mut flight = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut flight).map_err(|e| text(&e))?;
        }
        client.read_tls(&mut flight.as_slice()).map_err(|e| text(&e))?;
        client.process_new_packets().map_err(|e| text(&e))?;
        if !client.is_handshaking() && !server.is_handshaking() {
            return Ok(());
        }
    }
    Err(Unusable("the first handshake does not end".to_owned()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_first_handshake_ends() {
        super::warm_up().unwrap();
    }
}
