//! What the fleet served, as metrics: the sum of what the workers report, by pool and by tenant.

use std::collections::BTreeSet;

use api::feed::LoadReport;
use model::{PoolName, TenantId};

use crate::metric;

/// Pools and tenants that have a label of their own; those beyond share one. Series cost a scraper memory for ever.
const MAX_POOLS: usize = 64;
const MAX_TENANTS: usize = 1000;

/// The label of those that have none of their own. No name of a tenant or pool: names have no `_`.
const OTHER: &str = "_other";

/// Names that have a label of their own: the first that came.
#[derive(Debug, Default)]
struct Labels(BTreeSet<String>);

impl Labels {
    fn of(&mut self, name: &str, most: usize) -> String {
        if !self.0.contains(name) {
            if self.0.len() >= most {
                return OTHER.to_owned();
            }
            self.0.insert(name.to_owned());
        }
        name.to_owned()
    }
}

/// Counts what was served.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pools: Labels,
    tenants: Labels,
}

impl Traffic {
    /// Counts a report of a worker of `pool` that was not counted before.
    pub(crate) fn count(&mut self, pool: &PoolName, report: &LoadReport) {
        let pool = self.pools.of(pool.as_str(), MAX_POOLS);
        for (name, n) in [
            (metric::POOL_REQUESTS, report.requests),
            (metric::POOL_ERRORS, report.errors),
            (metric::POOL_SHED, report.shed),
            (metric::POOL_BYTES_IN, report.bytes_in),
            (metric::POOL_BYTES_OUT, report.bytes_out),
        ] {
            metrics::counter!(name, "pool" => pool.clone()).increment(n);
        }
        for (tenant, requests) in &report.tenant_requests {
            // What is no tenant's name is not given a label by whoever sent it.
            let label = match tenant.parse::<TenantId>() {
                Ok(tenant) => self.tenants.of(tenant.as_str(), MAX_TENANTS),
                Err(_) => OTHER.to_owned(),
            };
            metrics::counter!(metric::TENANT_REQUESTS, "tenant" => label).increment(*requests);
        }
    }
}
