//! What a lookup asks and what it answers.

use std::borrow::Cow;

use crate::{
    CompiledMatch, CompiledRoute, CompiledRule, Listener, Match, Route, RouteTable, Rule, TenantConfig,
};

/// The parts of a request that routing looks at.
pub trait Request {
    /// The port as the Gateway says it (80, 443), not the socket's.
    fn port(&self) -> u16;
    /// Lowercase, without a port.
    fn host(&self) -> &str;
    /// In canonical form (see [`canonical`](crate::path::canonical)), without the query.
    fn path(&self) -> &str;
    /// After the `?`, as sent.
    fn query(&self) -> Option<&str>;
    /// To the letter.
    fn method(&self) -> &str;
    /// The value of all fields of that lowercase name, joined by `,`; `None` when there is none.
    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>>;
}

/// What answers a request.
#[derive(Debug, Clone, Copy)]
pub struct Found<'t> {
    pub(crate) table: &'t RouteTable,
    /// The rule.
    pub rule: &'t CompiledRule,
    /// The match of the rule that held.
    pub matched: &'t CompiledMatch,
    /// Where the request entered.
    pub listener: &'t Listener,
    /// Position of the rule in the table.
    pub(crate) rule_at: u32,
    /// Position of the listener in the table.
    pub(crate) entered_at: u32,
}

/// What answers a request, as it was written.
#[derive(Debug, Clone, Copy)]
pub struct Written<'c> {
    /// The route object.
    pub route: &'c Route,
    /// Its rule.
    pub rule: &'c Rule,
    /// The match of the rule that held.
    pub matched: &'c Match,
}

impl<'t> Found<'t> {
    // Not looked up by `find`: few requests need it, and where there are many routes it is in no cache.
    fn route(&self) -> &'t CompiledRoute {
        &self.table.routes[self.rule.route as usize]
    }

    /// The route's id, unique in the tenant; the `route` label of metrics and logs.
    #[must_use]
    pub fn route_id(&self) -> &'t str {
        &self.table.text[self.route().id.range()]
    }

    /// The rule's position in the table: below [`RouteTable::rule_count`], and no other rule's.
    #[must_use]
    pub fn rule_position(&self) -> usize {
        self.rule_at as usize
    }

    /// The listener's position in [`RouteTable::listeners`].
    #[must_use]
    pub fn listener_position(&self) -> usize {
        self.entered_at as usize
    }

    /// The same in the configuration that the table was compiled from. `None` in another one.
    #[must_use]
    pub fn written<'c>(&self, config: &'c TenantConfig) -> Option<Written<'c>> {
        let route = config.routes.get(self.rule.route as usize)?;
        let rule = route.rules.get(self.rule_at.checked_sub(self.route().first_rule)? as usize)?;
        let matched = rule.matches.iter().find(|each| each.rank == self.matched.rank)?;
        Some(Written { route, rule, matched })
    }
}

/// Why no rule answers a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum NotFound {
    /// No listener on that port.
    #[error("no listener on this port")]
    Listener,
    /// No listener or no route for that host.
    #[error("no route for this host")]
    Host,
    /// The host is served, but no match holds.
    #[error("no match holds for this request")]
    Route,
}
