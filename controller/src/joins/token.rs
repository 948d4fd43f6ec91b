//! PURE but for the randomness: tokens with which one server or node joins, once.

use std::{fmt, str::FromStr};

use aws_lc_rs::rand;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;

use crate::auth::{NoRandomness, hash};

/// What a token lets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JoinRole {
    /// A server.
    Server,
    /// A host agent, with its workers.
    Node,
}

impl fmt::Display for JoinRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server => "server",
            Self::Node => "node",
        })
    }
}

impl FromStr for JoinRole {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "server" => Ok(Self::Server),
            "node" => Ok(Self::Node),
            _ => Err(format!("role is \"server\" or \"node\", not {text:?}")),
        }
    }
}

/// A token, `id.secret.ca-hash`. Shown once, never stored, never logged.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Finds its record; no secret.
    pub id: String,
    secret: String,
    /// SHA-256 of the CA's certificate, in hex: whoever joins believes no other.
    pub ca_hash: String,
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken").field("id", &self.id).finish_non_exhaustive()
    }
}

impl JoinToken {
    /// A new token of the installation whose CA has this hash.
    ///
    /// # Errors
    ///
    /// There is no randomness.
    pub fn generate(ca_hash: &str) -> Result<Self, NoRandomness> {
        let (mut id, mut secret) = ([0; 8], [0; 32]);
        rand::fill(&mut id).map_err(|_| NoRandomness)?;
        rand::fill(&mut secret).map_err(|_| NoRandomness)?;
        let id = id.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { id, secret: BASE64.encode(secret), ca_hash: ca_hash.to_owned() })
    }

    /// What somebody presents. `None` if it cannot be a token.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('.');
        let (Some(id), Some(secret), Some(ca_hash), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return None;
        };
        let hex = |text: &str, length: usize| {
            text.len() == length && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        let secret_is_one = BASE64.decode(secret).is_ok_and(|secret| secret.len() == 32);
        (hex(id, 16) && hex(ca_hash, 64) && secret_is_one).then(|| Self {
            id: id.to_owned(),
            secret: secret.to_owned(),
            ca_hash: ca_hash.to_owned(),
        })
    }

    /// The token itself, to be shown once.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("{}.{}.{}", self.id, self.secret, self.ca_hash)
    }
}

/// What the store holds of a token, under `joins/<id>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JoinRecord {
    /// The secret's hash. It has 256 random bits: there is nothing to stretch.
    pub(crate) hash: String,
    pub(crate) role: JoinRole,
    pub(crate) created_by: String,
    pub(crate) created_at_ms: i64,
    pub(crate) expires_at_ms: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) used: Option<Use>,
}

/// Who used a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Use {
    /// The hash of its key: the same process may ask again, for its answer may have been lost.
    pub(crate) key: String,
    /// `server-3` or a node's name; empty while the server has no id yet.
    pub(crate) name: String,
}

/// Why a token lets nobody in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("this join token is not known here: it was revoked, or is another installation's")]
    Unknown,
    #[error("this join token was used by {by}: a token is good once, make another")]
    Used { by: String },
    #[error("this join token is over since {ago_s} s: make another (`weir cluster token create`)")]
    Expired { ago_s: i64 },
    #[error("this join token is for a {have}, not for a {wanted}: make one with --role {wanted}")]
    Role { have: JoinRole, wanted: JoinRole },
}

impl JoinRecord {
    pub(crate) fn new(token: &JoinToken, role: JoinRole, created_by: &str, now_ms: i64, ttl_ms: i64) -> Self {
        Self {
            hash: hash(&token.secret),
            role,
            created_by: created_by.to_owned(),
            created_at_ms: now_ms,
            expires_at_ms: now_ms.saturating_add(ttl_ms),
            used: None,
        }
    }

    /// Whether whoever shows `token` and has the key with the hash `key` may join as `role` now. Nothing is told to
    /// who does not know the secret.
    pub(crate) fn admits(
        &self,
        token: &JoinToken,
        role: JoinRole,
        key: &str,
        now_ms: i64,
    ) -> Result<(), Refused> {
        let known: bool = self.hash.as_bytes().ct_eq(hash(&token.secret).as_bytes()).into();
        if !known {
            return Err(Refused::Unknown);
        }
        if self.role != role {
            return Err(Refused::Role { have: self.role, wanted: role });
        }
        match &self.used {
            Some(used) if used.key != key => {
                let by = if used.name.is_empty() { "a server that is joining" } else { &used.name };
                return Err(Refused::Used { by: by.to_owned() });
            }
            _ => {}
        }
        if now_ms >= self.expires_at_ms {
            return Err(Refused::Expired { ago_s: (now_ms - self.expires_at_ms) / 1000 });
        }
        Ok(())
    }
}
