//! What the keys of QUIC are made from.

use std::fmt;

use sha2::{Digest, Sha256};

/// The secret of those who share UDP addresses: for stateless resets, Retry tokens and connection IDs. With one secret
/// each worker can answer for what another has sent, and the agent can lead datagrams by the IDs that workers make.
#[derive(Clone, PartialEq, Eq)]
pub struct QuicSecret([u8; 32]);

impl QuicSecret {
    /// That secret.
    #[must_use]
    pub const fn new(secret: [u8; 32]) -> Self {
        Self(secret)
    }

    /// The secret that 64 hexadecimal digits write.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut secret = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        for (at, byte) in secret.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
        }
        Some(Self(secret))
    }

    /// The key of that name: one secret makes several, of which none tells another.
    #[must_use]
    pub fn derive(&self, name: &str) -> [u8; 32] {
        Sha256::new().chain_update("weir quic ").chain_update(name).chain_update(self.0).finalize().into()
    }

    /// The bytes of the connection IDs' key.
    #[must_use]
    pub fn cid_key(&self) -> [u8; 8] {
        let [a, b, c, d, e, f, g, h, ..] = self.derive("cid");
        [a, b, c, d, e, f, g, h]
    }
}

impl fmt::Debug for QuicSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuicSecret").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_secret_makes_several_keys() {
        let secret = QuicSecret::new([7; 32]);
        assert_ne!(secret.derive("a"), secret.derive("b"));
        assert_eq!(secret.cid_key(), QuicSecret::new([7; 32]).cid_key());
        assert_ne!(secret.cid_key(), QuicSecret::new([8; 32]).cid_key());
        assert!(!format!("{secret:?}").contains('7'));
    }

    #[test]
    fn a_secret_is_written_in_hexadecimal() {
        assert_eq!(QuicSecret::from_hex(&"07".repeat(32)), Some(QuicSecret::new([7; 32])));
        for wrong in ["", "07", &"0g".repeat(32), &"é".repeat(32)] {
            assert_eq!(QuicSecret::from_hex(wrong), None);
        }
    }
}
