//! Sessions that stay with an endpoint.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How a rule's clients stay with the endpoint that answered them first (GEP-1619). What says which one that is they carry
/// themselves, sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionPersistence {
    /// The cookie's name, or the header's in lowercase.
    pub name: String,
    /// What carries it.
    pub carrier: SessionCarrier,
    /// How long a session lasts at most, from its first request. `None`: however long.
    pub absolute: Option<Duration>,
    /// How long without a request. `None`: for as long as what is sealed can be opened.
    pub idle: Option<Duration>,
}

/// What carries a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionCarrier {
    /// A cookie.
    Cookie {
        /// It outlives the browser's session, to the end of the absolute time.
        permanent: bool,
        /// The path that it is for.
        path: String,
    },
    /// A header, which clients send back as they got it.
    Header,
}
