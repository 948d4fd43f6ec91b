//! How servers and nodes become members of the installation: join tokens, and certificates by request.
//!
//! ```text
//! token.rs   `id.secret.ca-hash`, good once and for a while; its record in the store has the secret's hash
//! service.rs Join (admin port, the token says who may) and Renew (peers' port, the old certificate does)
//! ca.rs      the CA, sealed in the store: any server can sign, whichever is left
//! ```

mod ca;
mod rate;
mod service;
mod token;

#[cfg(test)]
mod tests;

use std::{path::PathBuf, time::Duration};

pub use ca::{CaError, found_ca, seal_ca, stored_ca, unseal_ca};
pub use token::{JoinRole, JoinToken};

pub(crate) use service::Joining;
pub(crate) use token::{JoinRecord, Refused};

/// How long a certificate lives that was asked for. Short: whoever was removed is out by then, for there is no
/// list of revoked ones. It is renewed at two thirds, so a server may be away for eight hours.
pub const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// How this server lets others join.
#[derive(Debug, Clone)]
pub struct Joins {
    /// The key file, which a new server gets a copy of. `None`: no server can join.
    pub key_file: Option<PathBuf>,
    /// How long the certificates live.
    pub lifetime: Duration,
}

impl Default for Joins {
    fn default() -> Self {
        Self { key_file: None, lifetime: LIFETIME }
    }
}
