//! Why a configuration does not compile.

use crate::Origin;

/// One thing that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {problem}")]
pub struct CompileError {
    /// The object and field that caused it.
    pub origin: Origin,
    /// What is wrong, and how to mend it.
    pub problem: String,
}
