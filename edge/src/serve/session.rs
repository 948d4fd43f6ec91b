//! Sessions that stay with an endpoint (GEP-1619): which one that is the client carries, sealed with the keys of session
//! tickets, so that every worker can open it and none has to remember it.
//!
//! ```text
//! base64url(ticket: version (1), when the session began and was last sealed (u64 each, seconds since 1970),
//!                   hash of the backend's id (u64), port (u16), address (4 or 16 bytes))
//! ```

use std::{
    io::Write as _,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use api::tickets::LIFETIME;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use model::{BackendId, Forward, SessionCarrier, SessionPersistence, TenantId, Variant};

use super::affinity::crumb;
use crate::{
    balance::hash,
    downstream::Client,
    h1::{Fields, InvalidField, Name, RequestHead, ResponseHead, Scheme},
    tls::tickets::{self, Scope},
    worker::Thread,
};

const VERSION: u8 = 1;
/// Longer than any that we give.
const TOKEN_BYTES: usize = 256;

/// What a client carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Token {
    began_s: u64,
    sealed_s: u64,
    backend: u64,
    endpoint: SocketAddr,
}

impl Token {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        for number in [self.began_s, self.sealed_s, self.backend] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        bytes.extend_from_slice(&self.endpoint.port().to_be_bytes());
        match self.endpoint.ip() {
            IpAddr::V4(ip) => bytes.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => bytes.extend_from_slice(&ip.octets()),
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first()?;
        let (began_s, rest) = rest.split_first_chunk()?;
        let (sealed_s, rest) = rest.split_first_chunk()?;
        let (backend, rest) = rest.split_first_chunk()?;
        let (port, address) = rest.split_first_chunk()?;
        let ip = match address.len() {
            4 => IpAddr::from(<[u8; 4]>::try_from(address).ok()?),
            _ => IpAddr::from(<[u8; 16]>::try_from(address).ok()?),
        };
        (*version == VERSION).then(|| Self {
            began_s: u64::from_be_bytes(*began_s),
            sealed_s: u64::from_be_bytes(*sealed_s),
            backend: u64::from_be_bytes(*backend),
            endpoint: SocketAddr::new(ip, u16::from_be_bytes(*port)),
        })
    }

    /// Whether it is over.
    fn is_over(&self, policy: &SessionPersistence, now_s: u64) -> bool {
        let past = |since_s: u64, limit: Option<Duration>| {
            limit.is_some_and(|limit| Duration::from_secs(now_s.saturating_sub(since_s)) >= limit)
        };
        past(self.began_s, policy.absolute) || past(self.sealed_s, policy.idle)
    }

    /// Whether it is worth sealing anew: before the idle time is over, and the key that it was sealed with is gone.
    fn is_stale(&self, policy: &SessionPersistence, now_s: u64) -> bool {
        let age = Duration::from_secs(now_s.saturating_sub(self.sealed_s));
        age >= policy.idle.unwrap_or(LIFETIME).min(LIFETIME) / 4
    }
}

/// The session that a request belongs to.
pub(super) struct Session<'t> {
    policy: &'t SessionPersistence,
    scope: Scope,
    scheme: Scheme,
    /// What the client has brought, if it is good.
    brought: Option<Token>,
    now_s: u64,
}

impl<'t> Session<'t> {
    /// Takes the session off the request, where a header carries it. What cannot be opened is none.
    pub(super) fn of(
        thread: &Thread,
        policy: &'t SessionPersistence,
        tenant: &TenantId,
        client: &Client,
        head: &mut RequestHead,
    ) -> Self {
        let scope = Scope::session(tenant, &policy.name);
        let now_s = tickets::now_s();
        let brought = find(policy, &head.fields)
            .filter(|text| text.len() <= TOKEN_BYTES)
            .and_then(|text| URL_SAFE_NO_PAD.decode(text).ok())
            .and_then(|sealed| thread.shared.tls.tickets().open(&scope, &sealed, now_s))
            .and_then(|opened| Token::decode(&opened))
            .filter(|token| !token.is_over(policy, now_s));
        if policy.carrier == SessionCarrier::Header {
            head.fields.remove(&policy.name);
        }
        Self { policy, scope, scheme: client.scheme, brought, now_s }
    }

    /// The variant that the session belongs to, if the rule still has it.
    pub(super) fn variant<'f>(&self, forward: &'f Forward) -> Option<&'f Variant> {
        let token = self.brought.as_ref()?;
        let is_its = |variant: &&Variant| {
            variant.backend.as_ref().is_some_and(|backend| id_hash(&backend.id) == token.backend)
        };
        forward.variants().iter().find(is_its)
    }

    /// The endpoint that the session belongs to.
    pub(super) fn endpoint(&self) -> Option<SocketAddr> {
        self.brought.map(|token| token.endpoint)
    }

    /// Tells the client of its session, where that is new, has moved, or is to be sealed anew.
    ///
    /// # Errors
    /// Where the name cannot stand in a field, which the configuration's checks rule out.
    pub(super) fn issue(
        &self,
        thread: &Thread,
        head: &mut ResponseHead,
        backend: &BackendId,
        endpoint: SocketAddr,
    ) -> Result<(), InvalidField> {
        let backend = id_hash(backend);
        let same = self.brought.filter(|token| (token.backend, token.endpoint) == (backend, endpoint));
        let is_cookie = self.policy.carrier != SessionCarrier::Header;
        if is_cookie && same.is_some_and(|token| !token.is_stale(self.policy, self.now_s)) {
            return Ok(());
        }
        // One whose endpoint is gone has begun anew, for its state is gone.
        let began_s = same.map_or(self.now_s, |token| token.began_s);
        let token = Token { began_s, sealed_s: self.now_s, backend, endpoint };
        let sealed = thread.shared.tls.tickets().seal(&self.scope, &token.encode(), self.now_s);
        let Some(sealed) = sealed else { return Ok(()) };
        let text = URL_SAFE_NO_PAD.encode(sealed);
        match &self.policy.carrier {
            SessionCarrier::Header => head.fields.set(&self.policy.name, text.as_bytes()),
            SessionCarrier::Cookie { permanent, path } => {
                let ends_s =
                    self.policy.absolute.map(|absolute| began_s.saturating_add(absolute.as_secs().max(1)));
                let life_s =
                    ends_s.filter(|_| *permanent).map(|ends_s| ends_s.saturating_sub(self.now_s).max(1));
                let cookie = set_cookie(&self.policy.name, &text, path, life_s, self.scheme);
                head.fields.push_known(Name::SetCookie, &cookie)
            }
        }
    }
}

/// What the client has brought.
fn find<'f>(policy: &SessionPersistence, fields: &'f Fields) -> Option<&'f [u8]> {
    match policy.carrier {
        SessionCarrier::Header => fields.find(&policy.name),
        SessionCarrier::Cookie { .. } => {
            fields.all_known(Name::Cookie).find_map(|field| crumb(field, &policy.name))
        }
    }
}

fn id_hash(id: &BackendId) -> u64 {
    hash::hash(id.0.as_bytes())
}

/// `SameSite=Lax`: it is of no use to other sites' requests, but whoever comes by a link shall find the session.
fn set_cookie(name: &str, token: &str, path: &str, life_s: Option<u64>, scheme: Scheme) -> Vec<u8> {
    let mut text = format!("{name}={token}; Path={path}").into_bytes();
    if let Some(life_s) = life_s {
        // Writing to a Vec cannot fail.
        let _infallible = write!(text, "; Max-Age={life_s}");
    }
    text.extend_from_slice(b"; HttpOnly; SameSite=Lax");
    if scheme == Scheme::Https {
        text.extend_from_slice(b"; Secure");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(endpoint: &str) -> Token {
        Token { began_s: 1000, sealed_s: 2000, backend: 7, endpoint: endpoint.parse().unwrap() }
    }

    #[test]
    fn a_session_is_read_as_it_was_written() {
        for endpoint in ["192.0.2.1:80", "[2001:db8::1]:65535"] {
            let token = token(endpoint);
            let bytes = token.encode();
            assert_eq!(Token::decode(&bytes), Some(token));
            // The other kind of address is known by its length.
            for cut in (0..bytes.len()).filter(|cut| bytes.len() - cut != 12) {
                assert_eq!(Token::decode(&bytes[..cut]), None);
            }
            let mut other = bytes;
            other[0] = 2;
            assert_eq!(Token::decode(&other), None);
        }
    }

    #[test]
    fn a_session_is_over_at_its_limits_and_sealed_anew_before() {
        let policy = |absolute: Option<u64>, idle: Option<u64>| SessionPersistence {
            name: "s".into(),
            carrier: SessionCarrier::Header,
            absolute: absolute.map(Duration::from_secs),
            idle: idle.map(Duration::from_secs),
        };
        let token = token("192.0.2.1:80");
        for (absolute, idle, now_s, over, stale) in [
            (None, None, 2000, false, false),
            (None, None, 2000 + LIFETIME.as_secs() / 4, false, true),
            (Some(1500), None, 2499, false, false),
            (Some(1500), None, 2500, true, false),
            (None, Some(100), 2024, false, false),
            (None, Some(100), 2025, false, true),
            (None, Some(100), 2099, false, true),
            (None, Some(100), 2100, true, true),
            // By a worker whose clock is ahead.
            (Some(1500), Some(100), 900, false, false),
        ] {
            let policy = policy(absolute, idle);
            assert_eq!(token.is_over(&policy, now_s), over, "{policy:?} {now_s}");
            assert_eq!(token.is_stale(&policy, now_s), stale, "{policy:?} {now_s}");
        }
    }

    #[test]
    fn a_cookie_says_who_may_have_it() {
        let text = |life, scheme| String::from_utf8(set_cookie("s", "t", "/a", life, scheme)).unwrap();
        assert_eq!(text(None, Scheme::Http), "s=t; Path=/a; HttpOnly; SameSite=Lax");
        assert_eq!(text(Some(9), Scheme::Https), "s=t; Path=/a; Max-Age=9; HttpOnly; SameSite=Lax; Secure");
    }
}
