//! Session tickets: a client brings its session back, so that no worker has to remember it and any worker resumes it.
//!
//! ```text
//! key's name [16] | nonce [12] | sealed: the session, when it was given (u64, seconds since 1970) | tag [16]
//! ```
//!
//! The keys come with the configuration and are the same on all workers; a worker without a control plane makes its own.
//! Beside what is sealed, the key's name and a [`Scope`] are authenticated: rustls compares the server name of a session
//! with the client's and nothing else, so all else that decides who may resume what is in the scope.

#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{Arc, Weak},
    time::{SystemTime, UNIX_EPOCH},
};

use api::tickets::{LIFETIME, TicketKeys};
use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use model::{HostPattern, TenantId};
use rustls::{pki_types::CertificateDer, server::ProducesTickets};
use sha2::{Digest as _, Sha256};

use super::clients::ClientPolicy;
use crate::{config::Config, limits::TICKET, metrics::Counters};

const NAME_LEN: usize = 16;
const TAG_LEN: usize = 16;
const GIVEN_LEN: usize = 8;
/// What a ticket has beside the session.
const OVERHEAD: usize = NAME_LEN + NONCE_LEN + GIVEN_LEN + TAG_LEN;

/// Keys, ready to seal and to open.
pub struct Keyring {
    keys: TicketKeys,
    /// In the keys' order.
    ciphers: Vec<LessSafeKey>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Keyring").field(&self.keys).finish()
    }
}

impl Keyring {
    /// Of these keys.
    ///
    /// # Panics
    /// Never: a secret has the length that the cipher asks for.
    #[must_use]
    pub fn new(keys: TicketKeys) -> Self {
        // Not AES-GCM: its random nonces are good for 2^32 tickets of a key, and all workers have the same one for twelve
        // hours. RFC 8452 makes a key for each nonce.
        let cipher = |secret: &[u8; 32]| {
            LessSafeKey::new(
                UnboundKey::new(&AES_256_GCM_SIV, secret).expect("32 bytes are a key of AES-256"),
            )
        };
        let ciphers = keys.keys().iter().map(|key| cipher(&key.secret)).collect();
        Self { keys, ciphers }
    }

    fn seal(&self, scope: &Scope, session: &[u8], now_s: u64) -> Option<Vec<u8>> {
        if session.len() + OVERHEAD > TICKET {
            return None;
        }
        let current = self.keys.current(now_s);
        let (name, cipher) = (&self.keys.keys().get(current)?.name, self.ciphers.get(current)?);
        let nonce: [u8; NONCE_LEN] = rand::random();
        let mut ticket = Vec::with_capacity(session.len() + OVERHEAD);
        ticket.extend_from_slice(name);
        ticket.extend_from_slice(&nonce);
        ticket.extend_from_slice(session);
        ticket.extend_from_slice(&now_s.to_be_bytes());
        let plain = ticket.get_mut(NAME_LEN + NONCE_LEN..)?;
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = cipher.seal_in_place_separate_tag(nonce, scope.beside(name), plain).ok()?;
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn open(&self, scope: &Scope, ticket: &[u8], now_s: u64) -> Result<Vec<u8>, Refused> {
        if ticket.len() > TICKET {
            return Err(Refused::Invalid);
        }
        let (name, rest) = ticket.split_first_chunk::<NAME_LEN>().ok_or(Refused::Invalid)?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>().ok_or(Refused::Invalid)?;
        let key = self.keys.keys().iter().position(|key| key.name == *name).ok_or(Refused::Unknown)?;
        let cipher = self.ciphers.get(key).ok_or(Refused::Unknown)?;
        let mut opened = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let plain = cipher.open_in_place(nonce, scope.beside(name), &mut opened);
        let (session, given) =
            plain.map_err(|_| Refused::Invalid)?.split_last_chunk::<GIVEN_LEN>().ok_or(Refused::Invalid)?;
        // By a worker whose clock is ahead: it is new.
        let age_s = now_s.saturating_sub(u64::from_be_bytes(*given));
        if age_s >= LIFETIME.as_secs() {
            return Err(Refused::Old);
        }
        let length = session.len();
        opened.truncate(length);
        Ok(opened)
    }
}

/// Why a ticket is not taken: the client does a full handshake, as without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refused {
    /// Sealed with a key that is not here: no longer, or never.
    Unknown,
    /// Nobody sealed it, or it was given elsewhere.
    Invalid,
    /// Given too long ago.
    Old,
}

/// Where a ticket is good: names all that decides who is at the other end, beside the host that rustls compares. A session
/// that one tenant's listener has begun tells nothing to another's, and none outlives the certificates that it was begun
/// with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scope([u8; 32]);

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scope(..)")
    }
}

impl Scope {
    /// A listener that ends TLS, with the certificates that it shows and what it asks of its clients'.
    pub(crate) fn listener<'c>(
        tenant: &TenantId,
        port: u16,
        hostname: Option<&HostPattern>,
        chains: impl Iterator<Item = &'c [CertificateDer<'static>]>,
        clients: Option<&ClientPolicy>,
    ) -> Self {
        let hostname = hostname.map(ToString::to_string).unwrap_or_default();
        let mut hash = Sha256::new_with_prefix("weir ticket: listener");
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        part(tenant.as_str().as_bytes());
        part(&port.to_be_bytes());
        part(hostname.as_bytes());
        for chain in chains {
            part(&(chain.len() as u64).to_be_bytes());
            chain.iter().for_each(|certificate| part(certificate));
        }
        if let Some(clients) = clients {
            part(clients.digest());
        }
        Self(hash.finalize().into())
    }

    /// Sessions of a name that stay with endpoints of a tenant's: no TLS sessions.
    pub(crate) fn session(tenant: &TenantId, name: &str) -> Self {
        let mut hash = Sha256::new_with_prefix("weir session persistence");
        for part in [tenant.as_str(), name] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }

    /// What no listener serves, on a port: nobody's.
    pub(crate) fn nobody(port: u16) -> Self {
        let hash = Sha256::new_with_prefix("weir ticket: nobody").chain_update(port.to_be_bytes());
        Self(hash.finalize().into())
    }

    /// What is authenticated beside a ticket's content.
    fn beside(&self, name: &[u8; NAME_LEN]) -> Aad<[u8; NAME_LEN + 32]> {
        let mut both = [0; NAME_LEN + 32];
        both[..NAME_LEN].copy_from_slice(name);
        both[NAME_LEN..].copy_from_slice(&self.0);
        Aad::from(both)
    }
}

/// A worker's tickets, of all its threads.
pub(crate) struct Tickets {
    /// Which has the listeners that have these: none of them keeps the others alive.
    config: Weak<ArcSwap<Config>>,
    /// For as long as the configuration brings no keys. They stay when it changes.
    own: ArcSwap<Keyring>,
    counters: Arc<Counters>,
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").finish_non_exhaustive()
    }
}

impl Tickets {
    pub(crate) fn new(config: &Arc<ArcSwap<Config>>, counters: Arc<Counters>) -> Self {
        let own = Keyring::new(TicketKeys::first(now_s(), &mut rand::random));
        Self { config: Arc::downgrade(config), own: ArcSwap::from_pointee(own), counters }
    }

    /// What rustls is to make tickets with.
    pub(crate) fn within(self: &Arc<Self>, scope: Scope) -> Arc<dyn ProducesTickets> {
        Arc::new(Scoped { tickets: Arc::clone(self), scope })
    }

    /// Seals something that a client is to carry; the same keys open it on every worker, for [`LIFETIME`] at least.
    pub(crate) fn seal(&self, scope: &Scope, content: &[u8], now_s: u64) -> Option<Vec<u8>> {
        self.with_keys(now_s, |keys| keys.seal(scope, content, now_s))
    }

    /// What was sealed in that scope; `None`: nothing that can be opened.
    pub(crate) fn open(&self, scope: &Scope, sealed: &[u8], now_s: u64) -> Option<Vec<u8>> {
        self.with_keys(now_s, |keys| keys.open(scope, sealed, now_s)).ok()
    }

    fn with_keys<T>(&self, now_s: u64, work: impl FnOnce(&Keyring) -> T) -> T {
        let config = self.config.upgrade().map(|config| config.load_full());
        if let Some(given) = config.as_ref().and_then(|config| config.ticket_keys.as_ref()) {
            return work(given);
        }
        if now_s >= self.own.load().keys.due_s() {
            // Of several threads that come here at once, one is first, and the others find its keys.
            self.own.rcu(|own| match own.keys.rotated(now_s, &mut rand::random) {
                Some(rotated) => Arc::new(Keyring::new(rotated)),
                None => Arc::clone(own),
            });
        }
        work(&self.own.load())
    }
}

/// The tickets of one scope.
#[derive(Debug)]
struct Scoped {
    tickets: Arc<Tickets>,
    scope: Scope,
}

impl ProducesTickets for Scoped {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(LIFETIME.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, session: &[u8]) -> Option<Vec<u8>> {
        let now_s = now_s();
        let ticket = self.tickets.with_keys(now_s, |keys| keys.seal(&self.scope, session, now_s))?;
        self.tickets.counters.tickets_issued.add_shared(1);
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let now_s = now_s();
        let opened = self.tickets.with_keys(now_s, |keys| keys.open(&self.scope, ticket, now_s));
        let counters = &self.tickets.counters;
        match opened {
            Ok(_) => counters.tickets_accepted.add_shared(1),
            Err(Refused::Unknown) => counters.tickets_unknown.add_shared(1),
            Err(Refused::Invalid | Refused::Old) => counters.tickets_refused.add_shared(1),
        }
        opened.ok()
    }
}

/// Seconds since 1970.
pub(crate) fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
