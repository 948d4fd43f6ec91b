//! Names of endpoints to addresses, on the helper thread. Request threads read a table and never wait.

mod lookup;

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use model::is_denied;
use tracing::warn;

use crate::{
    limits::{DNS_ADDRESSES, DNS_MAX, DNS_MIN, DNS_NAMES},
    shared::{Phase, Shared},
};
use lookup::{Answer, Resolver};

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

/// Resolves the names of the active configuration, at once when it changes and again when their time to live ends, until
/// the worker is drained.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut phase = shared.phase.subscribe();
    let mut activated = shared.activated.subscribe();
    let (mut known, mut resolver) = (Known::default(), None);
    loop {
        known.keep(&wanted(&shared));
        if !known.0.is_empty() {
            if resolver.as_ref().is_some_and(Resolver::is_outdated) {
                resolver = None;
                known.expire();
            }
            known.refresh(resolver.get_or_insert_with(Resolver::of_machine)).await;
        }
        known.publish(&shared);
        let wait = known.next_due().map(|due| due.saturating_duration_since(Instant::now()).min(DNS_MIN));
        tokio::select! {
            _ = phase.wait_for(|phase| *phase == Phase::Drained) => return,
            _ = activated.changed() => {}
            // Looks at least this often whether the machine asks somebody else by now.
            () = tokio::time::sleep(wait.unwrap_or(DNS_MAX)) => {}
        }
    }
}

/// The names of the active configuration.
fn wanted(shared: &Shared) -> BTreeSet<String> {
    let config = shared.config.load();
    let names = config.tenants.iter().flat_map(|(_, table)| &table.names);
    names.take(DNS_NAMES).map(|name| name.to_string()).collect()
}

/// What is known of each name.
#[derive(Debug, Default)]
struct Known(HashMap<String, Entry>);

#[derive(Debug, Default)]
struct Entry {
    /// Sorted, so that an answer in another order is no change. `None` while there was no answer.
    addresses: Option<Vec<IpAddr>>,
    /// When to ask again; `None` is now.
    due: Option<Instant>,
}

impl Known {
    /// Only these names.
    fn keep(&mut self, names: &BTreeSet<String>) {
        self.0.retain(|name, _| names.contains(name));
        for name in names {
            if !self.0.contains_key(name) {
                self.0.insert(name.clone(), Entry::default());
            }
        }
    }

    /// All answers have run out.
    fn expire(&mut self) {
        self.0.values_mut().for_each(|entry| entry.due = None);
    }

    /// Asks for those whose time has come.
    async fn refresh(&mut self, resolver: &Resolver) {
        let now = Instant::now();
        let due: Vec<_> = (self.0.iter())
            .filter(|(_, entry)| entry.due.is_none_or(|due| due <= now))
            .map(|(name, _)| name.clone())
            .collect();
        let lookups = due.into_iter().map(async |name| {
            let answer = resolver.lookup(&name).await;
            (name, answer)
        });
        let answers: Vec<_> = stream::iter(lookups).buffer_unordered(LOOKUPS).collect().await;
        let now = Instant::now();
        for (name, answer) in answers {
            if let Err(error) = &answer {
                warn!(name, error, "cannot resolve an endpoint");
            }
            self.0.entry(name).or_default().take(answer, now);
        }
    }

    fn next_due(&self) -> Option<Instant> {
        self.0.values().filter_map(|entry| entry.due).min()
    }

    /// Tells the request threads, if something has changed.
    fn publish(&self, shared: &Shared) {
        let names = self.0.iter().filter_map(|(name, entry)| Some((name.clone(), entry.addresses.clone()?)));
        let (names, old): (HashMap<_, _>, _) = (names.collect(), shared.resolved.load());
        if names != old.names {
            shared.resolved.store(Arc::new(Resolved { version: old.version + 1, names }));
        }
    }
}

impl Entry {
    /// Takes an answer for as long as it holds, within bounds. A resolver that fails does not take addresses away (RFC
    /// 8767): better old ones than none.
    fn take(&mut self, answer: Result<Answer, String>, now: Instant) {
        let hold = match answer {
            Ok(Answer { mut addresses, ttl }) => {
                addresses.retain(|ip| !is_denied(*ip));
                addresses.sort_unstable();
                addresses.dedup();
                addresses.truncate(DNS_ADDRESSES);
                self.addresses = Some(addresses);
                ttl.clamp(DNS_MIN, DNS_MAX)
            }
            Err(_) => RETRY,
        };
        self.due = Some(now + hold);
    }
}

/// When a name is asked for again that could not be resolved.
const RETRY: Duration = DNS_MIN;

#[cfg(test)]
mod tests;
