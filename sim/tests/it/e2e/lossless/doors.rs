//! Where clients come in, and what they believe.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, Result};
use api::pki::Ca;
use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::super::PATIENCE;

/// The hosts of the tenant `demo`: what stands behind the demo itself, and what this proof adds.
pub(super) const HOST: &str = "demo.localhost";
pub(super) const GRPC: &str = "grpc.demo.localhost";
pub(super) const WEBSOCKET: &str = "ws.demo.localhost";

/// The path on the demo's host behind which bodies are read.
pub(super) const BODIES: &str = "/bodies";

/// The addresses of the installation, and the CA of its tenant.
#[derive(Debug, Clone)]
pub(super) struct Doors {
    pub(super) http: SocketAddr,
    pub(super) https: SocketAddr,
    roots: RootCertStore,
}

impl Doors {
    pub(super) fn new(http: u16, https: u16, ca: &Ca) -> Result<Self> {
        let local = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.cert_pem().as_bytes())?)?;
        Ok(Self { http: local(http), https: local(https), roots })
    }

    /// TLS for one client, who remembers its sessions.
    pub(super) fn tls(&self, protocol: &str) -> Result<Arc<ClientConfig>> {
        Ok(Arc::new(self.config(protocol)?))
    }

    /// TLS for one who remembers nothing: each handshake shows the certificate.
    pub(super) fn forgetful(&self, protocol: &str) -> Result<Arc<ClientConfig>> {
        let mut config = self.config(protocol)?;
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }

    fn config(&self, protocol: &str) -> Result<ClientConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        Ok(config)
    }

    /// A way in by TCP, with TLS or without.
    pub(super) fn by(&self, tls: Option<Arc<ClientConfig>>) -> Way {
        let address = if tls.is_some() { self.https } else { self.http };
        Way { address, tls: tls.map(TlsConnector::from) }
    }
}

/// One way in by TCP.
#[derive(Clone)]
pub(super) struct Way {
    address: SocketAddr,
    tls: Option<TlsConnector>,
}

/// What comes of it.
pub(super) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

impl Way {
    pub(super) async fn connect(&self, host: &'static str) -> Result<Box<dyn Io>> {
        let connecting = async {
            let stream = TcpStream::connect(self.address).await.context("connect")?;
            stream.set_nodelay(true)?;
            let Some(connector) = &self.tls else { return anyhow::Ok(Box::new(stream) as Box<dyn Io>) };
            let name = ServerName::try_from(host)?;
            Ok(Box::new(connector.connect(name, stream).await.context("TLS handshake")?) as Box<dyn Io>)
        };
        timeout(PATIENCE, connecting).await.context("no connection in time")?
    }
}
