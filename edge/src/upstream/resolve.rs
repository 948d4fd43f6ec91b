//! Names of endpoints to addresses, on the helper thread. Request threads read a table and never wait.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use futures_util::{StreamExt, stream};
use model::{EndpointAddress, is_denied};
use tracing::warn;

use crate::{
    limits::{DNS_ADDRESSES, DNS_NAMES, DNS_REFRESH},
    shared::{Phase, Shared},
};

/// What names stand for, as last resolved.
#[derive(Debug, Default)]
pub(crate) struct Resolved {
    /// Rises whenever an address changes.
    pub(crate) version: u64,
    names: HashMap<String, Vec<IpAddr>>,
}

impl Resolved {
    /// The addresses of a name; none while it was not resolved.
    pub(crate) fn addresses(&self, name: &str) -> &[IpAddr] {
        self.names.get(name).map_or(&[], Vec::as_slice)
    }
}

/// Lookups at once: resolvers answer in milliseconds, and a slow one must not delay all others.
const LOOKUPS: usize = 16;

/// Resolves the names of the active configuration, at once when it changes and again every few seconds, until
/// the worker is drained.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut phase = shared.phase.subscribe();
    let mut activated = shared.activated.subscribe();
    loop {
        refresh(&shared).await;
        tokio::select! {
            _ = phase.wait_for(|phase| *phase == Phase::Drained) => return,
            _ = activated.changed() => {}
            () = tokio::time::sleep(DNS_REFRESH) => {}
        }
    }
}

async fn refresh(shared: &Shared) {
    let names = names(shared);
    let old = shared.resolved.load_full();
    if names.is_empty() && old.names.is_empty() {
        return;
    }
    let lookups = names.into_iter().map(async |name| {
        let addresses = lookup(&name).await;
        (name, addresses)
    });
    let found: Vec<_> = stream::iter(lookups).buffer_unordered(LOOKUPS).collect().await;
    let names: HashMap<_, _> = found
        .into_iter()
        .filter_map(|(name, addresses)| {
            // A resolver that fails does not take addresses away: better old ones than none.
            let addresses = addresses.or_else(|| old.names.get(&name).cloned())?;
            Some((name, addresses))
        })
        .collect();
    if names != old.names {
        shared.resolved.store(Arc::new(Resolved { version: old.version + 1, names }));
    }
}

fn names(shared: &Shared) -> BTreeSet<String> {
    let config = shared.config.load();
    let backends = config.tenants.values().flat_map(|t| t.backends.values());
    let names = backends.flat_map(|b| &b.endpoints).filter_map(|endpoint| match &endpoint.address {
        EndpointAddress::Dns { host, .. } => Some(host.clone()),
        EndpointAddress::Ip(_) => None,
    });
    names.take(DNS_NAMES).collect()
}

/// Sorted, so that an answer in another order is no change.
async fn lookup(name: &str) -> Option<Vec<IpAddr>> {
    match tokio::time::timeout(DNS_REFRESH, tokio::net::lookup_host((name, 0))).await {
        Ok(Ok(found)) => {
            let mut addresses: Vec<_> = found.map(|a| a.ip()).filter(|ip| !is_denied(*ip)).collect();
            addresses.sort_unstable();
            addresses.dedup();
            addresses.truncate(DNS_ADDRESSES);
            Some(addresses)
        }
        Ok(Err(error)) => {
            warn!(name, %error, "cannot resolve an endpoint");
            None
        }
        Err(_) => {
            warn!(name, "resolving an endpoint timed out");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_services_are_out_of_reach() {
        for denied in ["169.254.169.254", "::ffff:169.254.169.254", "fd00:ec2::254"] {
            assert!(is_denied(denied.parse().unwrap()), "{denied}");
        }
        for allowed in ["127.0.0.1", "::1", "10.0.0.1", "169.254.1.1"] {
            assert!(!is_denied(allowed.parse().unwrap()), "{allowed}");
        }
    }
}
