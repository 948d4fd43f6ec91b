//! Bearer tokens: 256 random bits, shown once, stored as their hash.

use std::fmt;

use aws_lc_rs::rand;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::Role;

/// What every token begins with, so that scanners of leaked secrets know one.
const PREFIX: &str = "weir_";

/// A token. Never stored, never logged.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// The operating system gave no randomness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no randomness for a token")]
pub struct NoRandomness;

impl Token {
    /// A new token.
    ///
    /// # Errors
    ///
    /// There is no randomness.
    pub fn generate() -> Result<Self, NoRandomness> {
        let mut secret = [0; 32];
        rand::fill(&mut secret).map_err(|_| NoRandomness)?;
        Ok(Self(format!("{PREFIX}{}", BASE64.encode(secret))))
    }

    /// What somebody presents. `None` if it cannot be a token: it is not looked up then.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let secret = BASE64.decode(text.strip_prefix(PREFIX)?).ok()?;
        (secret.len() == 32).then(|| Self(text.to_owned()))
    }

    /// The token itself, to be shown once.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The hash that it is stored under.
    #[must_use]
    pub fn hash(&self) -> String {
        hash(&self.0)
    }
}

/// SHA-256 in hex. A token has 256 random bits: there is nothing to stretch.
#[must_use]
pub fn hash(token: &str) -> String {
    use std::fmt::Write as _;
    Sha256::digest(token).iter().fold(String::with_capacity(64), |mut hex, byte| {
        // Writing to a String cannot fail.
        write!(hex, "{byte:02x}").ok();
        hex
    })
}

/// What the store holds of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// The token's hash, again: compared in constant time after the lookup.
    pub hash: String,
    /// What it allows.
    pub role: Role,
    /// Milliseconds since the Unix epoch.
    pub created_at_ms: i64,
}

impl TokenRecord {
    /// Whether this is the record of `token`.
    #[must_use]
    pub fn is_of(&self, token: &Token) -> bool {
        self.hash.as_bytes().ct_eq(token.hash().as_bytes()).into()
    }

    /// For the audit: enough of the hash to find the record, too little to be worth anything.
    #[must_use]
    pub fn label(&self) -> String {
        format!("{} token {}", self.role, self.hash.get(..12).unwrap_or_default())
    }
}
