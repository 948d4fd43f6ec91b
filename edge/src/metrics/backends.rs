//! What a thread sees of each backend's endpoints.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use super::Counter;
use crate::limits::BACKEND_SERIES;

/// Labels of a backend's series: the tenant and the backend.
pub(crate) type BackendKey = (String, String);

/// How many of a backend's endpoints there are, and are not used. An endpoint can be in several of the numbers.
#[derive(Debug, Default)]
pub(crate) struct BackendGauges {
    /// All.
    pub(crate) endpoints: Counter,
    /// It could not be connected to a moment ago.
    pub(crate) resting: Counter,
    /// It answered with errors.
    pub(crate) ejected: Counter,
    /// Health checks fail.
    pub(crate) down: Counter,
}

impl BackendGauges {
    /// Each number that says why endpoints are not used, with its label.
    pub(super) fn reasons(&self) -> [(&'static str, u64); 3] {
        let Self { resting, ejected, down, .. } = self;
        [("resting", resting), ("ejected", ejected), ("down", down)]
            .map(|(name, gauge)| (name, gauge.value()))
    }
}

/// The backends that a thread forwards to.
#[derive(Debug, Default)]
pub(super) struct Backends(Mutex<HashMap<BackendKey, Weak<BackendGauges>>>);

impl Backends {
    /// The gauges of a backend; they are shown for as long as somebody holds them. Beyond the bound nobody sees them.
    pub(super) fn of(&self, key: BackendKey) -> Arc<BackendGauges> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = all.get(&key).and_then(Weak::upgrade) {
            return found;
        }
        if all.len() >= BACKEND_SERIES {
            all.retain(|_, gauges| gauges.strong_count() > 0);
        }
        let gauges = Arc::default();
        if all.len() < BACKEND_SERIES {
            all.insert(key, Arc::downgrade(&gauges));
        }
        gauges
    }

    /// Adds what this thread sees to what others do.
    pub(super) fn collect(&self, into: &mut BTreeMap<BackendKey, Vec<Arc<BackendGauges>>>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, gauges| gauges.strong_count() > 0);
        for (key, gauges) in all.iter() {
            if let Some(gauges) = gauges.upgrade() {
                into.entry(key.clone()).or_default().push(gauges);
            }
        }
    }
}
