//! TLS in QUIC: a client is answered as the listener says that serves its host, and which one that is, its first message
//! tells. quinn asks for a session before; this one waits for that message.

use std::{any::Any, sync::Arc};

use quinn::crypto::rustls::QuicServerConfig;
use quinn_proto::{
    ConnectionId, Side, TransportError,
    crypto::{
        ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, ServerConfig, Session,
        UnsupportedVersion,
    },
    transport_parameters::TransportParameters,
};

use crate::{
    hello,
    limits::QUIC_HELLO,
    tls::{Acceptor, Spoken},
};

/// The TLS side of a Gateway port.
pub(super) struct ByHello {
    acceptor: Arc<Acceptor>,
    port: u16,
    /// For what comes before there is a host: the keys of first packets are nobody's secret.
    first: Arc<QuicServerConfig>,
}

impl ByHello {
    /// # Errors
    /// When the cryptography lacks what QUIC begins with.
    pub(super) fn new(acceptor: Arc<Acceptor>, port: u16) -> std::io::Result<Self> {
        let first = QuicServerConfig::try_from(acceptor.server(port, "", Spoken::Http3).server);
        let first = Arc::new(first.map_err(std::io::Error::other)?);
        Ok(Self { acceptor, port, first })
    }

    /// The session of a client whose hello is here, as far as it is one.
    fn begin(&self, hello: &[u8], version: u32, params: &TransportParameters) -> Box<dyn Session> {
        // Malformed or too long: rustls finds that, too, and says it to the client.
        let host = hello::in_message(hello).ok().flatten().and_then(|hello| hello.server_name);
        let server = self.acceptor.server(self.port, host.as_deref().unwrap_or_default(), Spoken::Http3);
        let chosen =
            QuicServerConfig::try_from(server.server).map_or_else(|_| Arc::clone(&self.first), Arc::new);
        chosen.start_session(version, params)
    }
}

impl ServerConfig for ByHello {
    fn initial_keys(&self, version: u32, dst_cid: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        self.first.initial_keys(version, dst_cid)
    }

    fn retry_tag(&self, version: u32, orig_dst_cid: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.first.retry_tag(version, orig_dst_cid, packet)
    }

    fn start_session(self: Arc<Self>, version: u32, params: &TransportParameters) -> Box<dyn Session> {
        Box::new(Waiting { by: self, version, params: *params, begun: Vec::new(), chosen: None })
    }
}

/// A session that begins with the client's hello. Until then it has nothing to say.
struct Waiting {
    by: Arc<ByHello>,
    version: u32,
    params: TransportParameters,
    /// What has come of the hello: at most [`QUIC_HELLO`] and a packet.
    begun: Vec<u8>,
    chosen: Option<Box<dyn Session>>,
}

impl Session for Waiting {
    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        match &self.chosen {
            Some(chosen) => chosen.initial_keys(dst_cid, side),
            None => {
                let keys = self.by.first.initial_keys(self.version, dst_cid);
                keys.unwrap_or_else(|_| unreachable!("a session is begun of a version that has initial keys"))
            }
        }
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.chosen.as_ref()?.handshake_data()
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.chosen.as_ref()?.peer_identity()
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        self.chosen.as_ref()?.early_crypto()
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.chosen.as_ref()?.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.chosen.as_ref().is_none_or(|chosen| chosen.is_handshaking())
    }

    fn read_handshake(&mut self, bytes: &[u8]) -> Result<bool, TransportError> {
        if let Some(chosen) = &mut self.chosen {
            return chosen.read_handshake(bytes);
        }
        self.begun.extend_from_slice(bytes);
        if hello::in_message(&self.begun) == Ok(None) && self.begun.len() <= QUIC_HELLO {
            return Ok(false);
        }
        let begun = std::mem::take(&mut self.begun);
        let mut chosen = self.by.begin(&begun, self.version, &self.params);
        let has_data = chosen.read_handshake(&begun);
        self.chosen = Some(chosen);
        has_data
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        self.chosen.as_ref().map_or(Ok(None), |chosen| chosen.transport_parameters())
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        self.chosen.as_mut()?.write_handshake(buf)
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.chosen.as_mut()?.next_1rtt_keys()
    }

    fn is_valid_retry(&self, orig_dst_cid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        // Servers get none.
        self.chosen.as_ref().is_some_and(|chosen| chosen.is_valid_retry(orig_dst_cid, header, payload))
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        let chosen = self.chosen.as_ref().ok_or(ExportKeyingMaterialError)?;
        chosen.export_keying_material(output, label, context)
    }
}

#[cfg(test)]
mod tests {
    use arc_swap::ArcSwap;
    use quinn::crypto::rustls::{HandshakeData, QuicClientConfig};
    use quinn_proto::crypto::ClientConfig as _;
    use rustls::{RootCertStore, crypto::aws_lc_rs};

    use super::*;
    use crate::config::{Config, PoolSettings, load_certificate};

    const VERSION: u32 = 1;

    /// Those of who says none.
    fn params() -> TransportParameters {
        TransportParameters::read(Side::Client, &mut b"".as_slice()).unwrap()
    }

    /// A session of a server that has a certificate for whatever host.
    fn session() -> Box<dyn Session> {
        let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
        let certificate = load_certificate(&made.cert.pem(), &made.signing_key.serialize_pem()).unwrap();
        let pool = PoolSettings::new("default".parse().unwrap());
        let config = Config { default_certificate: Some(certificate), ..Config::empty(pool) };
        let acceptor = Acceptor::new(Arc::new(ArcSwap::from_pointee(config)), Arc::default());
        let by = Arc::new(ByHello::new(Arc::new(acceptor), 443).unwrap());
        by.start_session(VERSION, &params())
    }

    fn hello() -> Vec<u8> {
        let builder = rustls::ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
        let mut config = builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        config.alpn_protocols = vec![b"h3".to_vec()];
        let client = Arc::new(QuicClientConfig::try_from(config).unwrap());
        let mut client = client.start_session(VERSION, "a.test", &params()).unwrap();
        let mut hello = vec![];
        assert!(client.write_handshake(&mut hello).is_none());
        hello
    }

    #[test]
    fn a_hello_may_come_byte_by_byte() {
        let (mut session, hello) = (session(), hello());
        let (last, before) = hello.split_last().unwrap();
        let mut answer = vec![];
        for byte in before {
            assert!(!session.read_handshake(&[*byte]).unwrap());
            assert!(session.write_handshake(&mut answer).is_none() && session.handshake_data().is_none());
        }
        assert!(answer.is_empty() && session.is_handshaking());
        assert_eq!(session.transport_parameters().unwrap(), None);
        assert!(session.read_handshake(&[*last]).unwrap());
        let data = session.handshake_data().unwrap().downcast::<HandshakeData>().unwrap();
        assert_eq!(data.server_name.as_deref(), Some("a.test"));
        assert!(session.transport_parameters().unwrap().is_some());
        assert!(session.write_handshake(&mut answer).is_some() && !answer.is_empty());
    }

    #[test]
    fn what_is_no_hello_is_refused_and_not_kept() {
        let mut other = hello();
        other[0] = 2;
        assert!(session().read_handshake(&other).is_err());
        // One that announces eight million bytes and brings what is kept of it.
        let mut session = session();
        assert!(!session.read_handshake(&[1, 0x7f, 0xff, 0xff]).unwrap());
        let filler = vec![0; QUIC_HELLO - 4];
        assert!(!session.read_handshake(&filler).unwrap());
        assert!(session.read_handshake(&[0]).is_err());
    }
}
