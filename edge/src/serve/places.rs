//! What a thread knows of the rules that answer its requests: where they are counted and what is told of them.
//!
//! It is found by positions in the tenant's table, so that a request neither hashes nor counts references for its
//! rule: of 10,000 rules no memory of their own would be in a cache.

use std::{
    cell::RefCell,
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    rc::Rc,
    sync::Arc,
};

use model::{Found, Listener, TenantId};

use crate::{
    accesslog::Policy,
    config::{Config, TenantTable},
    journal::{Entrance, Place},
    metrics::{RouteKey, Series},
    worker::Thread,
};

/// Of all tables that requests were looked up in.
#[derive(Default)]
pub(crate) struct Places {
    known: RefCell<Known>,
}

#[derive(Default)]
struct Known {
    /// The configuration that the tables are of.
    config: Option<Arc<Config>>,
    /// By the address of the table, which the entry keeps alive, so that no other can take it.
    tables: HashMap<*const TenantTable, OfTable, BuildHasherDefault<Addresses>>,
}

impl Known {
    /// Moves on to another configuration. What is known of tables that are the same in it stays.
    fn follow(&mut self, config: &Arc<Config>) {
        if !self.config.as_ref().is_some_and(|known| Arc::ptr_eq(known, config)) {
            let is_current = |table: &Arc<TenantTable>| {
                config.tenants.get(table.tenant.as_str()).is_some_and(|current| Arc::ptr_eq(current, table))
            };
            self.tables.retain(|_, known| is_current(&known.table));
            self.config = Some(Arc::clone(config));
        }
    }
}

/// What is known of one table.
struct OfTable {
    table: Arc<TenantTable>,
    /// By their position.
    rules: Box<[OfRule]>,
    /// By the listener's position; of those that requests came in by.
    entrances: Box<[Option<Rc<Entrance>>]>,
    /// Of rules whose routes have no series of their own, by the rule's position.
    unlisted: HashMap<usize, Rc<RouteKey>>,
}

/// What is known of a rule.
#[derive(Clone, Copy)]
enum OfRule {
    /// No request was for it.
    Unknown,
    /// Its requests are counted in the series of its route, of which it is the rule of that number.
    Listed(Series, u32),
    /// They are counted with those of others: there are too many series.
    Unlisted(Series, u32),
}

impl Places {
    /// The place of a request that a rule of `table` answers, which is the tenant's in `config`.
    pub(crate) fn of(
        &self,
        thread: &Thread,
        config: &Arc<Config>,
        table: &Arc<TenantTable>,
        found: &Found<'_>,
    ) -> Place {
        let mut known = self.known.borrow_mut();
        known.follow(config);
        known.tables.entry(Arc::as_ptr(table)).or_insert_with(|| OfTable::new(table)).place(thread, found)
    }
}

impl OfTable {
    fn new(table: &Arc<TenantTable>) -> Self {
        Self {
            table: Arc::clone(table),
            rules: vec![OfRule::Unknown; table.routes.rule_count()].into(),
            entrances: vec![None; table.routes.listeners().len()].into(),
            unlisted: HashMap::new(),
        }
    }

    fn place(&mut self, thread: &Thread, found: &Found<'_>) -> Place {
        let at = found.rule_position();
        if let OfRule::Unknown = self.rules[at] {
            self.rules[at] = self.learn(thread, found);
        }
        let (series, unlisted, rule) = match self.rules[at] {
            OfRule::Listed(series, rule) => (series, None, rule),
            OfRule::Unlisted(series, rule) => (series, self.unlisted.get(&at).cloned(), rule),
            OfRule::Unknown => (Series::NONE, None, 0),
        };
        thread.counters.expect(series);
        let entrance = &mut self.entrances[found.listener_position()];
        let make = || Rc::new(entrance_of(thread, &self.table.tenant, found.listener));
        Place { entrance: Rc::clone(entrance.get_or_insert_with(make)), series, unlisted, rule }
    }

    fn learn(&mut self, thread: &Thread, found: &Found<'_>) -> OfRule {
        let key = RouteKey::new(&self.table.tenant, found.route_id());
        let series = thread.counters.route(&key);
        if thread.counters.labels(series) == Some(&key) {
            return OfRule::Listed(series, found.rule_number());
        }
        self.unlisted.insert(found.rule_position(), Rc::new(key));
        OfRule::Unlisted(series, found.rule_number())
    }
}

fn entrance_of(thread: &Thread, tenant: &TenantId, listener: &Listener) -> Entrance {
    Entrance {
        tenant: tenant.clone(),
        listener: listener.id.to_string().into(),
        log: listener.policy.access_log.as_deref().map(Policy::new),
        sampled_ppm: thread.tracer.sampled_ppm(listener.policy.trace_sampled_ppm),
    }
}

/// Hashes addresses. Nobody outside chooses them, so it need not withstand anybody.
#[derive(Default)]
pub(crate) struct Addresses(u64);

impl Hasher for Addresses {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_usize(usize::from(*byte)));
    }

    fn write_usize(&mut self, address: usize) {
        // 2^64 divided by the golden ratio, odd (Knuth, The Art of Computer Programming, section 6.4).
        self.0 = (self.0.rotate_left(5) ^ address as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        // The product's low bits say little of what was multiplied.
        self.0.rotate_left(26)
    }
}
