//! Identifiers as newtypes, so that two of them cannot be swapped.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// Why a string is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} {value:?} is not valid: use 1 to {max} of a-z, 0-9 and '-', beginning and ending with a letter or digit"
)]
pub struct InvalidName {
    /// Which identifier was meant.
    pub what: &'static str,
    /// What was given.
    pub value: String,
    /// The longest length allowed, in bytes.
    pub max: usize,
}

/// A DNS label of at most `max` bytes (RFC 1123 section 2.1).
fn is_label(value: &str, max: usize) -> bool {
    let ends_ok = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    value.len() <= max
        && ends_ok(value.bytes().next())
        && ends_ok(value.bytes().last())
        && value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(value: &str) -> Result<Self, InvalidName> {
                if is_label(value, $max) {
                    Ok(Self(value.into()))
                } else {
                    Err(InvalidName { what: $what, value: value.to_owned(), max: $max })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(value: String) -> Result<Self, InvalidName> {
                value.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.as_str().to_owned()
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    };
}

name! {
    /// A tenant: a DNS label, because `<tenant>.<domain>` is its hostname.
    TenantId, "tenant", 63
}
name! {
    /// A pool of workers that serve the same addresses.
    PoolName, "pool", 63
}
name! {
    /// One worker process, unique for ever: a restarted worker is another worker.
    WorkerId, "worker", 63
}

impl TenantId {
    /// The reserved tenant that owns what belongs to the installation itself: pools, tenants, desired state.
    pub const PLATFORM: &'static str = "platform";

    /// The reserved platform tenant.
    #[must_use]
    pub fn platform() -> Self {
        Self(Self::PLATFORM.into())
    }

    /// Whether this is the reserved platform tenant.
    #[must_use]
    pub fn is_platform(&self) -> bool {
        self.as_str() == Self::PLATFORM
    }
}

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

counter! {
    /// The store's global revision: one per transaction, never reused within an epoch.
    Revision
}
counter! {
    /// How often a thing's specification changed; a plan made for an older generation is refused.
    Generation
}

/// The life of a store: a restore from backup begins a new one, so that revisions of two lives never mix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Epoch {
    /// Rises with every restore.
    pub counter: u64,
    /// Drawn at random when the epoch began.
    pub id: u64,
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:016x}", self.counter, self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels() {
        for good in ["a", "acme", "a-1", "0", &"x".repeat(63)] {
            assert!(good.parse::<TenantId>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "ä", &"x".repeat(64)] {
            assert!(bad.parse::<TenantId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bad_name_says_what_is_allowed() {
        let error = "Acme".parse::<TenantId>().unwrap_err().to_string();
        assert!(error.contains("tenant \"Acme\"") && error.contains("a-z"), "{error}");
    }
}
