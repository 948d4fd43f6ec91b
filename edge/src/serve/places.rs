//! What a thread knows of the rules that answer its requests: where they are counted and what is told of them.
//!
//! It is found by positions in the tenant's table, so that a request neither hashes nor counts references for its
//! rule: of 10,000 rules no memory of their own would be in a cache.

use std::{
    cell::RefCell,
    collections::HashMap,
    rc::Rc,
    sync::{Arc, Weak},
};

use foldhash::fast::RandomState;
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
    /// By the address of the table, which the entry keeps alive, so that no other can take it.
    tables: HashMap<*const TenantTable, OfTable, RandomState>,
    /// The configuration that all of the tables are of; none if one was added since.
    config: Weak<Config>,
}

/// What is known of one table.
struct OfTable {
    table: Arc<TenantTable>,
    /// By their position.
    rules: Box<[OfRule]>,
    /// By the listener's position; of those that requests came in by.
    entrances: Box<[Option<Rc<Entrance>>]>,
    /// By the rule's position.
    unlisted: HashMap<usize, Unlisted>,
}

/// What is known of a rule: four bytes, so that what is known of 16 is one line of a cache.
#[derive(Clone, Copy, PartialEq, Eq)]
struct OfRule(u32);

/// Bits of a rule's number in its route; the others are the number of a series.
const RULE_BITS: u32 = 6;

impl OfRule {
    /// No request was for it.
    const UNKNOWN: Self = Self(u32::MAX);
    /// It is among the [`OfTable::unlisted`].
    const UNLISTED: Self = Self(u32::MAX - 1);

    /// Its requests are counted in the series of its route, of which it is the rule of that number. `None` if that is too much
    /// for four bytes.
    fn listed(series: Series, rule: u32) -> Option<Self> {
        let fits = rule < 1 << RULE_BITS && series.number() < 1 << (u32::BITS - RULE_BITS - 1);
        fits.then(|| Self(series.number() << RULE_BITS | rule))
    }

    fn series(self) -> Series {
        Series::of(self.0 >> RULE_BITS)
    }

    fn rule(self) -> u32 {
        self.0 & ((1 << RULE_BITS) - 1)
    }
}

/// What is known of a rule whose requests are counted with those of others, because there are too many series.
struct Unlisted {
    series: Series,
    rule: u32,
    labels: Rc<RouteKey>,
}

impl Places {
    /// The place of a request that a rule of `table` answers.
    pub(crate) fn of(&self, thread: &Thread, table: &Arc<TenantTable>, found: &Found<'_>) -> Place {
        let Known { tables, config } = &mut *self.known.borrow_mut();
        let known = tables.entry(Arc::as_ptr(table)).or_insert_with(|| {
            // It may be of an older configuration, which the request began with.
            *config = Weak::new();
            OfTable::new(table)
        });
        known.place(thread, found)
    }

    /// A tick: forgets tables that are in no configuration any more. What is known of those that are the same in the newest one
    /// stays.
    pub(crate) fn sweep(&self, newest: &Arc<Config>) {
        let Known { tables, config } = &mut *self.known.borrow_mut();
        if !std::ptr::eq(config.as_ptr(), Arc::as_ptr(newest)) {
            let is_current = |table: &Arc<TenantTable>| {
                newest.tenants.get(table.tenant.as_str()).is_some_and(|current| Arc::ptr_eq(current, table))
            };
            tables.retain(|_, known| is_current(&known.table));
            *config = Arc::downgrade(newest);
        }
    }
}

impl OfTable {
    fn new(table: &Arc<TenantTable>) -> Self {
        Self {
            table: Arc::clone(table),
            rules: vec![OfRule::UNKNOWN; table.routes.rule_count()].into(),
            entrances: vec![None; table.routes.listeners().len()].into(),
            unlisted: HashMap::new(),
        }
    }

    fn place(&mut self, thread: &Thread, found: &Found<'_>) -> Place {
        let at = found.rule_position();
        if self.rules[at] == OfRule::UNKNOWN {
            self.rules[at] = self.learn(thread, found);
        }
        let known = self.rules[at];
        let unlisted = if known == OfRule::UNLISTED { self.unlisted.get(&at) } else { None };
        let (series, rule, unlisted) = match unlisted {
            Some(of) => (of.series, of.rule, Some(Rc::clone(&of.labels))),
            None => (known.series(), known.rule(), None),
        };
        thread.counters.expect(series);
        let entrance = &mut self.entrances[found.listener_position()];
        let make = || Rc::new(entrance_of(thread, &self.table.tenant, found.listener));
        Place { entrance: Rc::clone(entrance.get_or_insert_with(make)), series, unlisted, rule }
    }

    fn learn(&mut self, thread: &Thread, found: &Found<'_>) -> OfRule {
        let labels = RouteKey::new(&self.table.tenant, found.route_id());
        let (series, rule) = (thread.counters.route(&labels), found.rule_number());
        let is_own = thread.counters.labels(series) == Some(&labels);
        let listed = OfRule::listed(series, rule).filter(|_| is_own);
        listed.unwrap_or_else(|| {
            self.unlisted.insert(found.rule_position(), Unlisted { series, rule, labels: Rc::new(labels) });
            OfRule::UNLISTED
        })
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
