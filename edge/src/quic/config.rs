//! How quinn is set up: keys, connection IDs, bounds.

use std::{io, sync::Arc};

use api::quic::QuicSecret;
use aws_lc_rs::{hkdf, hmac};
use quinn::{
    ConnectionId, ConnectionIdGenerator, EndpointConfig, IdleTimeout, ServerConfig, TransportConfig, crypto,
};
use quinn_proto::InvalidCid;
use sys::steer::{CID_LEN, CidKey};

use crate::limits::{Limits, QUIC_INCOMING, QUIC_INCOMING_BYTES, QUIC_UNI_STREAMS};

/// The endpoint of a slot.
pub(super) fn endpoint(secret: &QuicSecret, slot: u32) -> io::Result<EndpointConfig> {
    let slot =
        u16::try_from(slot).map_err(|_| invalid(format!("slot {slot} does not fit a connection id")))?;
    let reset = hmac::Key::new(hmac::HMAC_SHA256, &secret.derive("reset"));
    let mut config = EndpointConfig::new(Arc::new(reset));
    let generator = SlotIds { key: CidKey::new(secret.cid_key()), slot };
    config.cid_generator(move || Box::new(generator));
    Ok(config)
}

/// The server of a slot, with its bounds.
pub(super) fn server(
    tls: impl crypto::ServerConfig + 'static,
    secret: &QuicSecret,
    limits: &Limits,
) -> io::Result<ServerConfig> {
    let token = hkdf::Salt::new(hkdf::HKDF_SHA256, b"").extract(&secret.derive("token"));
    let mut server = ServerConfig::new(Arc::new(tls), Arc::new(token));
    server
        .transport_config(Arc::new(transport(limits)?))
        .max_incoming(QUIC_INCOMING)
        .incoming_buffer_size(QUIC_INCOMING_BYTES)
        .incoming_buffer_size_total(QUIC_INCOMING_BYTES * QUIC_INCOMING as u64)
        .migration(true);
    // Tokens of NEW_TOKEN frames would need a memory of those that were used.
    server.validation_token.sent(0);
    Ok(server)
}

fn transport(limits: &Limits) -> io::Result<TransportConfig> {
    let mut transport = TransportConfig::default();
    // Ours end connections before; a stream may be silent for this long.
    let idle = IdleTimeout::try_from(limits.tunnel_idle).map_err(|error| invalid(error.to_string()))?;
    transport
        .max_idle_timeout(Some(idle))
        .max_concurrent_bidi_streams(limits.h2_streams.into())
        .max_concurrent_uni_streams(QUIC_UNI_STREAMS.into())
        .stream_receive_window(limits.h2_stream_window.into())
        .receive_window(limits.h2_connection_window.into())
        .send_window(limits.h2_connection_window.into())
        // Datagrams are of no use to HTTP/3 as we serve it, and would wait in memory.
        .datagram_receive_buffer_size(None)
        .crypto_buffer_size(limits.head_bytes)
        .keep_alive_interval(None);
    Ok(transport)
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

/// Connection IDs that name their slot.
#[derive(Debug, Clone, Copy)]
struct SlotIds {
    key: CidKey,
    slot: u16,
}

impl ConnectionIdGenerator for SlotIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&self.key.cid(self.slot, rand::random()))
    }

    /// Those of other slots are refused: a stateless reset, which any of us can sign, would end a connection that lives
    /// (RFC 9000 section 21.11).
    fn validate(&self, cid: &ConnectionId) -> Result<(), InvalidCid> {
        if self.key.slot(cid) == Some(self.slot) { Ok(()) } else { Err(InvalidCid) }
    }

    fn cid_len(&self) -> usize {
        CID_LEN
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}

/// How many streams a client may open that are not requests.
const _: () = assert!(QUIC_UNI_STREAMS >= 3, "RFC 9114 section 6.2");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_makes_ids_that_only_it_takes_for_its_own() {
        let key = CidKey::new([7; 8]);
        let ids = |slot| SlotIds { key, slot };
        for slot in [0, 1, 77] {
            let cid = ids(slot).generate_cid();
            assert!(ids(slot).validate(&cid).is_ok());
            assert!(ids(slot + 1).validate(&cid).is_err());
        }
        assert!(ids(3).validate(&ConnectionId::new(&[3; CID_LEN])).is_err());
    }
}
