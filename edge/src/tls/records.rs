//! The record layer of a TLS 1.3 connection whose handshake is over (RFC 8446 section 5).
//!
//! Records are opened and sealed where they lie: no allocation and one copy each way. rustls did the handshake and keeps the
//! secrets that later keys come from; what it held for the handshake is gone, so that an idle connection is small.

#[cfg(test)]
mod tests;

use std::{fmt, ops::Range};

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rustls::{
    AlertDescription, ConnectionTrafficSecrets, ExtractedSecrets, kernel::KernelConnection,
    server::ServerConnectionData,
};

/// Bytes before a record's content.
const HEAD: usize = 5;
/// The most that a record may carry.
pub(super) const PLAIN: usize = 1 << 14;
/// What a sealed record may have beyond that: its kind, padding and the tag.
const EXPANSION: usize = 256;
const TAG: usize = 16;
/// Records sealed with one AES-GCM key: well below the 2^24.5 of RFC 8446 section 5.5.
const RENEW_AFTER: u64 = 1 << 23;
/// Records in a row that bring the request no byte (empty ones, key updates): each costs us more than it costs the client.
const BARREN: u32 = 32;

/// The kinds of records (RFC 8446 section 5.1).
mod kind {
    pub(super) const ALERT: u8 = 21;
    pub(super) const HANDSHAKE: u8 = 22;
    pub(super) const DATA: u8 = 23;
}

/// The client broke the protocol, or broke it off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Broken {
    /// We end it with this alert.
    #[error("the client broke TLS: {0:?}")]
    Ours(AlertDescription),
    /// The client has ended it with this alert.
    #[error("the client sent the alert {0:?}")]
    Theirs(AlertDescription),
    /// A key could not be made or used.
    #[error("a key of the connection cannot be used")]
    Key,
}

/// What a record held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Opened {
    /// Bytes for whoever reads, there in the input.
    Data(Range<usize>),
    /// Nothing for them.
    Nothing,
    /// The client will say no more.
    Closed,
}

/// The keys of one direction.
struct Direction {
    key: LessSafeKey,
    iv: [u8; 12],
    /// Records so far with this key.
    sequence: u64,
}

impl Direction {
    fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Self, Broken> {
        let (algorithm, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(Broken::Key),
        };
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| Broken::Key)?;
        let iv = iv.as_ref().try_into().map_err(|_| Broken::Key)?;
        Ok(Self { key: LessSafeKey::new(key), iv, sequence })
    }

    /// The next record's nonce (RFC 8446 section 5.3).
    fn nonce(&mut self) -> Nonce {
        let mut nonce = self.iv;
        for (byte, count) in nonce.iter_mut().skip(4).zip(self.sequence.to_be_bytes()) {
            *byte ^= count;
        }
        self.sequence += 1;
        Nonce::assume_unique_for_key(nonce)
    }
}

/// Both directions of a connection.
pub(super) struct Records {
    receiving: Direction,
    sending: Direction,
    secrets: KernelConnection<ServerConnectionData>,
    /// Records since the last that brought a byte.
    barren: u32,
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Records").finish_non_exhaustive()
    }
}

impl Records {
    /// Takes a connection over. All that came was opened, all that is to be sent was sealed.
    pub(super) fn new(
        keys: ExtractedSecrets,
        secrets: KernelConnection<ServerConnectionData>,
    ) -> Result<Self, Broken> {
        let (receiving, sending) = (Direction::new(keys.rx)?, Direction::new(keys.tx)?);
        Ok(Self { receiving, sending, secrets, barren: 0 })
    }

    /// Opens the record that `input` begins with, in place. `None`: it is not whole. Otherwise how many bytes it took, what it
    /// held, and in `out` what has to be answered.
    pub(super) fn open(
        &mut self,
        input: &mut [u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<(usize, Opened)>, Broken> {
        let Some((head, rest)) = input.split_first_chunk_mut::<HEAD>() else { return Ok(None) };
        let head = *head;
        let [outer, _, _, high, low] = head;
        let length = usize::from(u16::from_be_bytes([high, low]));
        if outer != kind::DATA {
            return Err(Broken::Ours(AlertDescription::UnexpectedMessage));
        }
        if length > PLAIN + EXPANSION {
            return Err(Broken::Ours(AlertDescription::RecordOverflow));
        }
        let Some(sealed) = rest.get_mut(..length) else { return Ok(None) };
        let nonce = self.receiving.nonce();
        let inner = self.receiving.key.open_in_place(nonce, Aad::from(head), sealed);
        let inner = inner.map_err(|_| Broken::Ours(AlertDescription::BadRecordMac))?;
        // Padding is zeros behind the kind.
        let Some(end) = inner.iter().rposition(|byte| *byte != 0) else {
            return Err(Broken::Ours(AlertDescription::UnexpectedMessage));
        };
        if end > PLAIN {
            return Err(Broken::Ours(AlertDescription::RecordOverflow));
        }
        let (content, kind) = (&inner[..end], inner[end]);
        let opened = match kind {
            kind::DATA if end > 0 => Opened::Data(HEAD..HEAD + end),
            kind::DATA => Opened::Nothing,
            kind::ALERT => alert(content)?,
            kind::HANDSHAKE => {
                let asked = key_update(content)?;
                self.renew(asked, out)?;
                Opened::Nothing
            }
            _ => return Err(Broken::Ours(AlertDescription::UnexpectedMessage)),
        };
        self.barren = if opened == Opened::Nothing { self.barren + 1 } else { 0 };
        if self.barren > BARREN {
            return Err(Broken::Ours(AlertDescription::UnexpectedMessage));
        }
        Ok(Some((HEAD + length, opened)))
    }

    /// The client sends with new keys from now on; it may have asked for the same.
    fn renew(&mut self, asked: bool, out: &mut Vec<u8>) -> Result<(), Broken> {
        self.receiving = Direction::new(self.secrets.update_rx_secret().map_err(|_| Broken::Key)?)?;
        if asked { self.renew_sending(out) } else { Ok(()) }
    }

    fn renew_sending(&mut self, out: &mut Vec<u8>) -> Result<(), Broken> {
        self.seal_record(kind::HANDSHAKE, &[24, 0, 0, 1, 0], out)?;
        self.sending = Direction::new(self.secrets.update_tx_secret().map_err(|_| Broken::Key)?)?;
        Ok(())
    }

    /// Appends records with these bytes.
    pub(super) fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), Broken> {
        for part in plain.chunks(PLAIN) {
            if self.sending.sequence >= RENEW_AFTER {
                self.renew_sending(out)?;
            }
            self.seal_record(kind::DATA, part, out)?;
        }
        Ok(())
    }

    /// Appends an alert.
    pub(super) fn seal_alert(
        &mut self,
        description: AlertDescription,
        out: &mut Vec<u8>,
    ) -> Result<(), Broken> {
        let level = if description == AlertDescription::CloseNotify { 1 } else { 2 };
        self.seal_record(kind::ALERT, &[level, description.into()], out)
    }

    fn seal_record(&mut self, kind: u8, plain: &[u8], out: &mut Vec<u8>) -> Result<(), Broken> {
        let length = u16::try_from(plain.len() + 1 + TAG).map_err(|_| Broken::Key)?;
        let [high, low] = length.to_be_bytes();
        // The version of TLS 1.2, for ever (RFC 8446 section 5.1).
        let head = [kind::DATA, 3, 3, high, low];
        out.reserve(HEAD + usize::from(length));
        out.extend_from_slice(&head);
        let start = out.len();
        out.extend_from_slice(plain);
        out.push(kind);
        let nonce = self.sending.nonce();
        let tag = self.sending.key.seal_in_place_separate_tag(nonce, Aad::from(head), &mut out[start..]);
        out.extend_from_slice(tag.map_err(|_| Broken::Key)?.as_ref());
        Ok(())
    }
}

/// What an alert means (RFC 8446 section 6).
fn alert(content: &[u8]) -> Result<Opened, Broken> {
    let &[_, description] = content else {
        return Err(Broken::Ours(AlertDescription::DecodeError));
    };
    match AlertDescription::from(description) {
        AlertDescription::CloseNotify => Ok(Opened::Closed),
        AlertDescription::UserCanceled => Ok(Opened::Nothing),
        fatal => Err(Broken::Theirs(fatal)),
    }
}

/// Whether the one message that a client may send now asks for the same of us (RFC 8446 section 4.6.3). It ends its record,
/// since the next one has other keys.
fn key_update(content: &[u8]) -> Result<bool, Broken> {
    match content {
        [24, 0, 0, 1, asked @ (0 | 1)] => Ok(*asked == 1),
        [24, 0, 0, 1, _] => Err(Broken::Ours(AlertDescription::IllegalParameter)),
        _ => Err(Broken::Ours(AlertDescription::UnexpectedMessage)),
    }
}
