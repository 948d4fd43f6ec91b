//! TLS towards clients: rustls with aws-lc-rs, certificates by SNI from the active configuration, TLS 1.2 and 1.3.

pub(crate) mod certificates;
pub(crate) mod clients;
mod records;
mod stream;
pub(crate) mod tickets;

use std::{
    collections::HashMap,
    fmt, io,
    sync::{Arc, Weak},
};

use arc_swap::ArcSwap;
use rustls::{
    CipherSuite, CommonState, ServerConfig, ServerConnection,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert},
    sign::CertifiedKey,
};

use crate::{buffer::ReadBuffer, config::Config, metrics::Counters, socket::Socket};
use certificates::Shown;
use clients::{ClientPolicy, Credentials};
pub(crate) use stream::TlsStream;
use tickets::{Scope, Tickets};

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
    fn of(connection: &CommonState, server_name: Option<String>) -> Self {
        Self {
            server_name,
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

/// The TLS side of the listeners: finds what rustls is told when a client has said which host it wants. A listener's
/// configuration is kept with its certificates, and shared by the threads.
pub(crate) struct Acceptor {
    config: Arc<ArcSwap<Config>>,
    tickets: Arc<Tickets>,
    /// What all have in common.
    base: ServerConfig,
    /// Where no listener serves the host.
    nobodys: ArcSwap<HashMap<(u16, Offer), Arc<ServerConfig>>>,
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").finish_non_exhaustive()
    }
}

/// What a client speaks in TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spoken {
    /// HTTP by TCP.
    Http,
    /// HTTP by QUIC.
    Http3,
    /// Bytes that are not HTTP.
    Bytes,
}

impl Acceptor {
    /// With the worker's configuration; `counters` counts the tickets of all its threads.
    pub(crate) fn new(config: Arc<ArcSwap<Config>>, counters: Arc<Counters>) -> Self {
        let tickets = Arc::new(Tickets::new(&config, counters));
        let resolver = Resolver { shown: Arc::default(), config: Arc::downgrade(&config) };
        let base = base(resolver, tickets.within(Scope::nobody(0)), None);
        Self { config, tickets, base, nobodys: ArcSwap::default() }
    }

    /// What seals session tickets, and what else clients carry between workers.
    pub(crate) fn tickets(&self) -> &Tickets {
        &self.tickets
    }

    /// Does a handshake with a client of a Gateway port; the caller bounds its time. `begun` is what was read of it already.
    /// Dropping it closes the connection.
    pub(crate) async fn accept(
        &self,
        port: u16,
        spoken: Spoken,
        stream: Socket,
        begun: ReadBuffer,
    ) -> io::Result<Accepted> {
        let mut clients = None;
        let (stream, agreed) = TlsStream::accept(stream, begun, |host| {
            let told = self.server(port, host, spoken);
            clients = told.clients;
            told.server
        })
        .await?;
        Accepted::of(stream, agreed, clients.as_deref())
    }

    /// What rustls is told of a client that asks for `host` (empty without SNI) on a Gateway port.
    pub(crate) fn server(&self, port: u16, host: &str, spoken: Spoken) -> Server {
        let config = self.config.load();
        let offer = match spoken {
            Spoken::Http if config.speaks_http2_for(port, host) => Offer::Http,
            Spoken::Http => Offer::Http1,
            Spoken::Http3 => Offer::Http3,
            Spoken::Bytes => Offer::Nothing,
        };
        let table = config.hosts.owner(host).and_then(|tenant| config.tenants.get(tenant.as_str()));
        match table.and_then(|table| table.certificates.listener(port, host)) {
            Some(listener) => {
                let make = || self.make(offer, &listener.shown, listener.scope, listener.clients.as_deref());
                Server { server: listener.server(offer, make), clients: listener.clients.clone() }
            }
            None => Server { server: self.nobodys(port, offer), clients: None },
        }
    }

    /// What rustls is told where no listener serves the host.
    fn nobodys(&self, port: u16, offer: Offer) -> Arc<ServerConfig> {
        let key = (port, offer);
        if let Some(known) = self.nobodys.load().get(&key) {
            return Arc::clone(known);
        }
        let made = Arc::new(self.make(offer, &Arc::default(), Scope::nobody(port), None));
        self.nobodys.rcu(|known| {
            let mut known = HashMap::clone(known);
            known.entry(key).or_insert_with(|| Arc::clone(&made));
            known
        });
        made
    }

    fn make(
        &self,
        offer: Offer,
        shown: &Arc<Shown>,
        scope: Scope,
        clients: Option<&ClientPolicy>,
    ) -> ServerConfig {
        let config = Arc::downgrade(&self.config);
        let resolver = Resolver { shown: Arc::clone(shown), config };
        let ticketer = self.tickets.within(scope);
        let mut server = match clients {
            None => {
                let mut server = self.base.clone();
                (server.cert_resolver, server.ticketer) = (Arc::new(resolver), ticketer);
                server
            }
            // rustls takes it at the beginning only.
            Some(clients) => base(resolver, ticketer, Some(clients)),
        };
        server.alpn_protocols = offer.protocols().iter().map(|protocol| protocol.to_vec()).collect();
        server
    }
}

/// What is done with a client that has said which host it wants.
#[derive(Debug)]
pub(crate) struct Server {
    /// What rustls is told.
    pub(crate) server: Arc<ServerConfig>,
    /// What is asked of the client's certificate. `None`: it is not asked.
    pub(crate) clients: Option<Arc<ClientPolicy>>,
}

/// A connection whose handshake is over.
pub(crate) struct Accepted {
    pub(crate) stream: TlsStream,
    pub(crate) agreed: Agreed,
    /// What the client has shown, where it was asked.
    pub(crate) credentials: Option<Credentials>,
}

impl Accepted {
    /// # Errors
    /// A session was resumed whose client may not come in any more: its certificate is over.
    fn of(stream: TlsStream, agreed: Agreed, clients: Option<&ClientPolicy>) -> io::Result<Self> {
        let Some(clients) = clients else { return Ok(Self { stream, agreed, credentials: None }) };
        let credentials = Credentials::new(clients, stream.peer_certificates());
        let refused =
            || io::Error::new(io::ErrorKind::PermissionDenied, "its certificate is not good any more");
        Ok(Self { stream, agreed, credentials: Some(credentials.ok_or_else(refused)?) })
    }
}

/// What is offered by ALPN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Offer {
    /// HTTP/2 and HTTP/1.1.
    Http,
    /// HTTP/1.1 alone.
    Http1,
    /// HTTP/3.
    Http3,
    /// Bytes that are not HTTP.
    Nothing,
}

impl Offer {
    /// How many there are.
    pub(crate) const COUNT: usize = 4;

    /// The best first.
    fn protocols(self) -> &'static [&'static [u8]] {
        match self {
            Self::Http => &[b"h2", b"http/1.1"],
            Self::Http1 => &[b"http/1.1"],
            Self::Http3 => &[b"h3"],
            Self::Nothing => &[],
        }
    }
}

/// What we can, the best for us first: of two suites that are both safe, the one with AES-128, whose SHA-256 processors know
/// and whose handshake therefore costs a fifth less than one with SHA-384. Go and BoringSSL choose the same.
fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| {
        let first = matches!(
            suite.suite(),
            CipherSuite::TLS13_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
        );
        !first
    });
    provider
}

fn base(
    resolver: Resolver,
    ticketer: Arc<dyn ProducesTickets>,
    clients: Option<&ClientPolicy>,
) -> ServerConfig {
    let builder = ServerConfig::builder_with_provider(Arc::new(provider()));
    let builder = builder
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .expect("the provider has cipher suites and groups of both versions");
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(clients) => builder.with_client_cert_verifier(clients.verifier()),
    };
    let mut server = builder.with_cert_resolver(Arc::new(resolver));
    server.ignore_client_order = true;
    // For `records`, which takes over after the handshake.
    server.enable_secret_extraction = true;
    server.ticketer = ticketer;
    // A session that only this worker knew would cost memory for each client, and the next worker could not resume it.
    server.session_storage = Arc::new(NoServerSessionStorage {});
    // Each ticket is a record of its own in the first flight; browsers use one or two.
    server.send_tls13_tickets = 1;
    // Early data can be replayed.
    server.max_early_data_size = 0;
    server
}

/// Finds the certificate among those of a listener, else the pool's own.
struct Resolver {
    shown: Arc<Shown>,
    /// Which has the listener that has this.
    config: Weak<ArcSwap<Config>>,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let host = hello.server_name().unwrap_or_default();
        let found = self.shown.find(host, hello.signature_schemes()).cloned();
        found.or_else(|| self.config.upgrade()?.load().default_certificate.clone())
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
    let acceptor = Acceptor::new(Arc::new(ArcSwap::from_pointee(config)), Arc::default());
    let server = acceptor.server(443, "", Spoken::Http).server;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).map_err(|e| text(&e))?;
    let client = rustls::ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| text(&e))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "localhost".try_into().map_err(|e| text(&e))?;
    let mut client = rustls::ClientConnection::new(Arc::new(client), name).map_err(|e| text(&e))?;
    let mut server = ServerConnection::new(server).map_err(|e| text(&e))?;
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
