//! What a thread knows of the rules that answer its requests: where they are counted and what is told of them.
//!
//! It is found by positions in the tenant's table, so that a request neither hashes nor counts references for its
//! rule: of 10,000 rules no memory of their own would be in a cache. Even the four bytes that are kept of a rule are not waited
//! for: they are asked for when the rule is found and looked at when the request goes on its way.

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::{Arc, Weak},
};

use foldhash::fast::RandomState;
use model::{Found, Listener, TenantId};
use sys::prefetch;

use crate::{
    accesslog::Policy,
    config::{Config, TenantTable},
    journal::{Counted, Entrance},
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
    tables: HashMap<*const TenantTable, Rc<OfTable>, RandomState>,
    /// The configuration that all of the tables are of; none if one was added since.
    config: Weak<Config>,
}

/// What is known of one table.
struct OfTable {
    table: Arc<TenantTable>,
    /// By their position.
    rules: Box<[Cell<OfRule>]>,
    /// By the listener's position; of those that requests came in by.
    entrances: Box<[OnceCell<Rc<Entrance>>]>,
    /// By the rule's position.
    unlisted: RefCell<HashMap<usize, Counted>>,
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

/// A rule that answers a request; what is known of it is on its way from memory.
pub(crate) struct Answering {
    table: Rc<OfTable>,
    rule: usize,
}

impl Places {
    /// Where a request came in that a rule of `table` answers, and the rule.
    pub(crate) fn of(
        &self,
        thread: &Thread,
        table: &Arc<TenantTable>,
        found: &Found<'_>,
    ) -> (Rc<Entrance>, Answering) {
        let Known { tables, config } = &mut *self.known.borrow_mut();
        let known = tables.entry(Arc::as_ptr(table)).or_insert_with(|| {
            // It may be of an older configuration, which the request began with.
            *config = Weak::new();
            Rc::new(OfTable::new(table))
        });
        let rule = found.rule_position();
        prefetch::line(&known.rules[rule]);
        (known.entrance(thread, found), Answering { table: Rc::clone(known), rule })
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
            rules: vec![Cell::new(OfRule::UNKNOWN); table.routes.rule_count()].into(),
            entrances: vec![OnceCell::new(); table.routes.listeners().len()].into(),
            unlisted: RefCell::default(),
        }
    }

    fn entrance(&self, thread: &Thread, found: &Found<'_>) -> Rc<Entrance> {
        let make = || Rc::new(entrance_of(thread, &self.table.tenant, found.listener));
        Rc::clone(self.entrances[found.listener_position()].get_or_init(make))
    }

    fn learn(&self, thread: &Thread, at: usize) -> OfRule {
        let (route, rule) = self.table.routes.whose(at);
        let labels = RouteKey::new(&self.table.tenant, route);
        let series = thread.counters.route(&labels);
        let is_own = thread.counters.labels(series) == Some(&labels);
        let listed = OfRule::listed(series, rule).filter(|_| is_own);
        listed.unwrap_or_else(|| {
            let counted = Counted { series, rule, unlisted: Some(Rc::new(labels)) };
            self.unlisted.borrow_mut().insert(at, counted);
            OfRule::UNLISTED
        })
    }
}

impl Answering {
    /// Where its requests are counted. This one's counters are on their way then.
    pub(crate) fn counted(self, thread: &Thread) -> Counted {
        let Self { table, rule: at } = self;
        if table.rules[at].get() == OfRule::UNKNOWN {
            table.rules[at].set(table.learn(thread, at));
        }
        let known = table.rules[at].get();
        let unlisted =
            if known == OfRule::UNLISTED { table.unlisted.borrow().get(&at).cloned() } else { None };
        let listed = || Counted { series: known.series(), rule: known.rule(), unlisted: None };
        let counted = unlisted.unwrap_or_else(listed);
        thread.counters.expect(counted.series);
        counted
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
