//! Who starts and stops workers.

pub mod process;

use std::sync::Arc;

use crate::state::Plans;

/// Brings what runs to what is planned. It is told of plans that are stored already; it may be told of the same plans
/// again, and of newer ones before it has acted on older ones.
pub trait Provider: Send + Sync + 'static {
    /// Makes these the plans to act on. Must not wait.
    fn provide(&self, plans: &Arc<Plans>);
}
