//! What becomes of an object, as Gateway API conditions.

use serde::{Deserialize, Serialize};

use crate::ObjectKey;

/// What became of one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectStatus {
    /// The object.
    pub key: ObjectKey,
    /// In the order of the object's listeners or parents.
    pub conditions: Vec<Condition>,
}

/// One fact about an object, or about a part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// What the fact is about.
    pub scope: Scope,
    /// `Accepted`, `ResolvedRefs`, and what others add (`Programmed`, `Propagated`).
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it holds.
    pub status: bool,
    /// A word of Gateway API, or of Weir's where that has none.
    pub reason: String,
    /// A sentence for people; names what is missing.
    pub message: String,
}

/// What a condition is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Scope {
    /// The object as a whole.
    Object,
    /// A Gateway's listener of that name.
    Listener(String),
    /// A route's parent, `namespace/gateway` or `namespace/gateway/listener`.
    Parent(String),
}

/// Whether the object or part of it is valid and in use.
pub const ACCEPTED: &str = "Accepted";
/// Whether everything that it refers to exists and may be used.
pub const RESOLVED_REFS: &str = "ResolvedRefs";
