//! `model` to the wire and back.
//!
//! Encoding is deterministic: equal configurations give equal bytes, so that a hash names a configuration on
//! every server. Decoding trusts nothing: an error names the tenant and the object whose node is wrong.

mod access_log;
mod client_certificates;
mod feed;
mod from_wire;
mod pack;
mod to_wire;
mod traffic;

#[cfg(test)]
mod tests;

use bytes::Bytes;
use model::{Feature, TenantConfig};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::snapshot;

pub use feed::{InvalidPool, Pool, PoolPort, host_index, host_owners};
pub use pack::{MAX_PATCHED, UnpackError, pack, pack_against, unpack};

/// SHA-256 of an encoded `TenantConfig`.
pub type Hash = [u8; 32];

/// Why a message is not what it says it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// The bytes are no protobuf of this kind.
    #[error("the snapshot cannot be decoded: {0}")]
    Decode(String),
    /// The snapshot needs something that this version does not know.
    #[error("tenant {tenant}: the snapshot needs the feature {feature:?}, which this version does not know")]
    UnknownFeature {
        /// Whose snapshot.
        tenant: String,
        /// The feature as the snapshot names it.
        feature: String,
    },
    /// A node is not valid.
    #[error("tenant {tenant}: {origin}: {problem}")]
    Invalid {
        /// Whose snapshot.
        tenant: String,
        /// The object and field, or the place in the message where there is no object.
        origin: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl ConvertError {
    /// The object and field at fault, where there is one.
    #[must_use]
    pub fn origin(&self) -> &str {
        match self {
            Self::Invalid { origin, .. } => origin,
            Self::Decode(_) | Self::UnknownFeature { .. } => "",
        }
    }
}

/// The configuration's bytes and their hash. Equal configurations give equal bytes.
#[must_use]
pub fn encode(config: &TenantConfig) -> (Bytes, Hash) {
    let bytes = Bytes::from(snapshot::TenantConfig::from(config).encode_to_vec());
    let hash = hash(&bytes);
    (bytes, hash)
}

/// The hash by which a snapshot's bytes are named.
#[must_use]
pub fn hash(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

/// The configuration in `bytes`.
///
/// # Errors
///
/// The bytes are not a `TenantConfig`, need a feature that this version lacks, or hold a node that is not valid.
pub fn decode(bytes: &[u8]) -> Result<TenantConfig, ConvertError> {
    snapshot::TenantConfig::decode(bytes).map_err(|e| ConvertError::Decode(e.to_string()))?.try_into()
}

/// The hash by which a message is named that a feed sends beside the snapshots.
#[must_use]
pub fn message_hash(message: &impl prost::Message) -> Hash {
    hash(&message.encode_to_vec())
}

/// How this version's edges take what is sent, as `Hello` says it.
pub mod encoding {
    /// Snapshots as zstd frames.
    pub const ZSTD: &str = "zstd";
    /// Snapshots as zstd frames with the snapshot before as their prefix.
    pub const PATCH: &str = "patch";
    /// What changed of the host index.
    pub const HOSTS_PATCH: &str = "hosts-patch";
    /// All of them.
    pub const ALL: [&str; 3] = [ZSTD, PATCH, HOSTS_PATCH];
}

/// The names of all features that this version serves, as `Hello` says them.
#[must_use]
pub fn known_features() -> Vec<String> {
    Feature::ALL.into_iter().map(|f| f.as_str().to_owned()).collect()
}
