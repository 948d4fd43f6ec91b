//! What a thread has given to each tenant.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use super::Counter;
use crate::{admit::Overload, limits::TENANT_SERIES};

/// What one thread counts for one tenant.
#[derive(Debug, Default)]
pub struct TenantCounters {
    /// Requests that are being served, and streams.
    pub(crate) requests: Counter,
    /// Client connections that are open.
    pub(crate) connections: Counter,
    /// Bytes of buffers for its requests.
    pub(crate) buffered_bytes: Counter,
    shed: [Counter; Overload::ALL.len()],
}

impl TenantCounters {
    /// One of its requests is refused.
    pub(crate) fn shed(&self, overload: Overload) {
        if let Some(counter) = self.shed.get(overload.index()) {
            counter.add(1);
        }
    }

    /// How many were refused for each reason.
    pub(super) fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Overload::ALL.into_iter().zip(&self.shed).map(|(overload, count)| (overload.kind(), count.value()))
    }
}

/// The tenants of a thread.
#[derive(Debug, Default)]
pub(super) struct Tenants(Mutex<HashMap<String, Arc<TenantCounters>>>);

impl Tenants {
    /// The counters of a tenant. Beyond the bound nobody sees them.
    pub(super) fn of(&self, tenant: &str) -> Arc<TenantCounters> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = all.get(tenant) {
            return Arc::clone(found);
        }
        let counters = Arc::default();
        if all.len() < TENANT_SERIES {
            all.insert(tenant.to_owned(), Arc::clone(&counters));
        }
        counters
    }

    /// Adds what this thread counts to what others do.
    pub(super) fn collect(&self, into: &mut BTreeMap<String, Vec<Arc<TenantCounters>>>) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (tenant, counters) in all.iter() {
            into.entry(tenant.clone()).or_default().push(Arc::clone(counters));
        }
    }
}
