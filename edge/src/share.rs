//! What each tenant takes of a thread, and who has more than its share of what is scarce.
//!
//! A tenant may have all that nobody else needs. What is three quarters in use is scarce: from then on no more goes to whoever has
//! more of it than its part by weight, among those who have any. A quota of the tenant's own holds always.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::Arc,
};

use foldhash::fast::RandomState;
use model::{TenantId, TrafficQuota};

use crate::{admit::Scarce, config::Config, metrics::TenantCounters, turns::Lane};

/// What one tenant has of one thread.
#[derive(Debug)]
pub(crate) struct Share {
    pub(crate) counters: Arc<TenantCounters>,
    pub(crate) lane: Lane,
    quota: Cell<TrafficQuota>,
}

impl Share {
    pub(crate) fn new(counters: Arc<TenantCounters>, quota: TrafficQuota) -> Rc<Self> {
        Rc::new(Self { counters, lane: Lane::default(), quota: Cell::new(quota) })
    }

    pub(crate) fn weight(&self) -> u64 {
        self.quota.get().weight.get().into()
    }

    fn is_active(&self) -> bool {
        let TenantCounters { requests, connections, buffered_bytes, .. } = &*self.counters;
        requests.value() > 0 || connections.value() > 0 || buffered_bytes.value() > 0
    }

    /// How much it has of something.
    fn has(&self, what: Scarce) -> u64 {
        match what {
            Scarce::Requests => self.counters.requests.value(),
            Scarce::Connections => self.counters.connections.value(),
            Scarce::Memory => self.counters.buffered_bytes.value(),
        }
    }

    /// Whether its quota allows one more request or connection, or further bytes.
    pub(crate) fn is_within_quota(&self, what: Scarce) -> bool {
        let quota = self.quota.get();
        let most = match what {
            Scarce::Requests => quota.requests,
            Scarce::Connections => quota.connections,
            Scarce::Memory => quota.buffered_bytes,
        };
        most.is_none_or(|most| self.has(what) < most)
    }
}

/// Bytes of buffers that are one tenant's, until it is dropped.
#[derive(Debug)]
pub(crate) struct Bill {
    share: Rc<Share>,
    bytes: Cell<u64>,
}

impl Bill {
    /// One of nothing yet.
    pub(crate) fn new(share: &Rc<Share>) -> Self {
        Self { share: Rc::clone(share), bytes: Cell::new(0) }
    }

    /// It is so many now.
    pub(crate) fn note(&self, bytes: usize) {
        let (before, bytes) = (self.bytes.replace(bytes as u64), bytes as u64);
        let gauge = &self.share.counters.buffered_bytes;
        if bytes > before {
            gauge.add(bytes - before);
        } else if bytes < before {
            gauge.sub(before - bytes);
        }
    }
}

impl Drop for Bill {
    fn drop(&mut self) {
        self.note(0);
    }
}

/// What all tenants have of one thread.
#[derive(Debug)]
pub(crate) struct Shares {
    known: RefCell<HashMap<TenantId, Rc<Share>, RandomState>>,
    /// Of requests for hosts that nobody owns.
    nobody: Rc<Share>,
    /// Of TLS handshakes, when nothing is known of what follows.
    pub(crate) handshakes: Rc<Share>,
    /// That quotas were last taken from.
    config: Cell<*const Config>,
    /// Of those who have anything, as of the last tick.
    weights: Cell<u64>,
    /// Buffered for all together, as of the last tick.
    buffered: Cell<u64>,
}

impl Default for Shares {
    fn default() -> Self {
        let none = || Share::new(Arc::default(), TrafficQuota::default());
        Self {
            known: RefCell::default(),
            nobody: none(),
            handshakes: none(),
            config: Cell::new(std::ptr::null()),
            weights: Cell::default(),
            buffered: Cell::default(),
        }
    }
}

impl Shares {
    /// The share of whoever owns `host`.
    pub(crate) fn of(
        &self,
        config: &Config,
        host: &str,
        count: impl FnOnce(&TenantId) -> Arc<TenantCounters>,
    ) -> Rc<Share> {
        let Some(tenant) = config.hosts.owner(host) else { return Rc::clone(&self.nobody) };
        let quota = |tenant: &TenantId| config.tenants.get(tenant.as_str()).map(|table| table.quota);
        let mut known = self.known.borrow_mut();
        // The thread holds on to its configuration until it has another: an address is one configuration's.
        if !std::ptr::eq(self.config.replace(config), config) {
            known.iter().for_each(|(tenant, share)| share.quota.set(quota(tenant).unwrap_or_default()));
        }
        if let Some(share) = known.get(tenant) {
            return Rc::clone(share);
        }
        let share = Share::new(count(tenant), quota(tenant).unwrap_or_default());
        known.insert(tenant.clone(), Rc::clone(&share));
        share
    }

    /// A tick: counts those who have anything and forgets the others.
    pub(crate) fn sweep(&self) {
        let (mut weights, mut buffered) = (0, 0);
        self.known.borrow_mut().retain(|_, share| {
            if share.is_active() {
                weights += share.weight();
                buffered += share.has(Scarce::Memory);
            }
            share.is_active() || Rc::strong_count(share) > 1
        });
        self.weights.set(weights);
        self.buffered.set(buffered);
    }

    /// Whether `share` may have more of something of which `used` of `limit` is in use.
    pub(crate) fn is_fair(&self, share: &Share, what: Scarce, used: u64, limit: u64) -> bool {
        // Bytes are not all buffers': who has more than its part of those that are has to wait.
        let all = if what == Scarce::Memory { self.buffered.get() } else { limit };
        let own = share.weight();
        is_fair(
            used,
            limit,
            share.has(what),
            &Part { of: all, weight: own, weights: self.weights.get().max(own) },
        )
    }
}

/// A part of what there is, by weight.
struct Part {
    of: u64,
    weight: u64,
    weights: u64,
}

/// Whether who `has` so much may have more, where `used` of `limit` is in use.
fn is_fair(used: u64, limit: u64, has: u64, part: &Part) -> bool {
    let scarce = limit - limit / 4;
    used < scarce
        || part.weights == part.weight
        || u128::from(has) * u128::from(part.weights) <= u128::from(part.of) * u128::from(part.weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_alone_may_have_all_and_several_have_their_part_of_what_is_scarce() {
        let check = |used, has, weight, weights, expect| {
            let fair = is_fair(used, 1000, has, &Part { of: 1000, weight, weights });
            assert_eq!(fair, expect, "{has} of {used}, weight {weight} of {weights}");
        };
        check(749, 749, 100, 1000, true);
        check(1000, 1000, 100, 100, true);
        check(750, 500, 100, 200, true);
        check(750, 501, 100, 200, false);
        check(950, 5, 100, 200, true);
        check(750, 501, 300, 400, true);
        check(750, 251, 100, 400, false);
    }

    #[test]
    fn a_quota_holds_always() {
        let quota = TrafficQuota { requests: Some(2), ..TrafficQuota::default() };
        let share = Share::new(Arc::default(), quota);
        share.counters.requests.add(1);
        assert!(share.is_within_quota(Scarce::Requests));
        share.counters.requests.add(1);
        assert!(!share.is_within_quota(Scarce::Requests));
        assert!(share.is_within_quota(Scarce::Connections) && share.is_within_quota(Scarce::Memory));
    }

    #[test]
    fn who_has_nothing_is_forgotten() {
        let shares = Shares::default();
        let tenant: TenantId = "acme".parse().unwrap();
        let share = Share::new(Arc::default(), TrafficQuota::default());
        share.counters.connections.add(1);
        shares.known.borrow_mut().insert(tenant, Rc::clone(&share));
        shares.sweep();
        assert_eq!(shares.weights.get(), 100);
        share.counters.connections.sub(1);
        drop(share);
        shares.sweep();
        assert_eq!((shares.weights.get(), shares.known.borrow().len()), (0, 0));
    }
}
