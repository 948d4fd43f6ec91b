//! The compiled routes of one tenant, and the lookup.

mod ask;
mod paths;

use std::sync::Arc;

use ask::Ask;
pub(crate) use paths::{Hosted, Key, PathDraft, PathIndices, Root, whole_segments};

use crate::{
    Backend, CompileError, CompileLimits, CompiledAction, CompiledMatch, CompiledRoute, CompiledRule, Found,
    Listener, NotFound, PoolName, Request, StreamTable, TenantConfig,
    compile::{compile, position},
    host::{HOST_BYTES, HostMap},
};

/// The compiled routes of one tenant: immutable, shared, looked up on every request.
#[derive(Debug)]
pub struct RouteTable {
    pub(crate) listeners: Box<[Listener]>,
    /// In the order of the configuration.
    pub(crate) routes: Box<[CompiledRoute]>,
    /// The ids of the routes, one after another.
    pub(crate) text: Box<str>,
    /// The positions of the routes' listeners, route after route.
    pub(crate) attached: Box<[u32]>,
    /// In the order of the configuration, route after route.
    pub(crate) rules: Box<[CompiledRule]>,
    /// By rank: of two positions the lower one wins.
    pub(crate) matches: Box<[CompiledMatch]>,
    /// By port.
    pub(crate) ports: Box<[(u16, HostMap<Group>)]>,
    pub(crate) indices: PathIndices,
    pub(crate) streams: StreamTable,
}

/// The listeners of one port and hostname; those of several Gateways are one.
#[derive(Debug)]
pub(crate) struct Group {
    /// Positions in the table; never empty.
    pub(crate) listeners: Box<[u32]>,
    /// Its number among all groups.
    pub(crate) number: u32,
    /// Whether there are exact hosts; they are in the path indices.
    pub(crate) has_exact: bool,
    /// Of the other hosts.
    pub(crate) patterns: HostMap<Root>,
}

/// Where requests for a host enter.
#[derive(Debug, Clone, Copy)]
pub struct Entered<'t> {
    table: &'t RouteTable,
    group: &'t Group,
    start: Start,
}

/// Where the search for a path begins.
#[derive(Debug, Clone, Copy)]
enum Start {
    /// At an exact host if it is there, of which nothing was looked at yet, or else at a pattern.
    Host(Key),
    Pattern(Root),
}

impl<'t> Entered<'t> {
    /// The memory that [`find`](Self::find) will probably look at first, which may be in no cache: whoever has something
    /// else to do can have it fetched in the meantime.
    #[must_use]
    pub fn first_step(&self, path: &str) -> impl IntoIterator<Item = &'t (impl Sized + use<>)> {
        let (Start::Host(key) | Start::Pattern(Root { key, .. })) = self.start;
        self.table.indices.ahead(key, path)
    }

    /// The rule that answers `request`, which is for this host.
    ///
    /// # Errors
    /// When nothing is for the host, or no match holds.
    pub fn find(&self, request: &impl Request) -> Result<Found<'t>, NotFound> {
        let table = self.table;
        let root = match self.start {
            Start::Pattern(root) => root,
            Start::Host(key) => {
                let exact = table.indices.root(self.group.number, request.host(), key);
                exact.or_else(|| self.group.patterns.find(request.host()).copied()).ok_or(NotFound::Host)?
            }
        };
        let ask = Ask::new(request);
        let found = table.indices.find(root, &table.matches, &ask).ok_or(NotFound::Route)?;
        let matched = &table.matches[found.at as usize];
        let rule = &table.rules[found.rule as usize];
        let entered_at = table.listener(self.group, rule);
        let listener = &table.listeners[entered_at as usize];
        Ok(Found { table, rule, matched, listener, rule_at: found.rule, entered_at })
    }
}

impl RouteTable {
    /// The table of all listeners.
    ///
    /// # Errors
    /// Everything that is wrong with `config`, or costs more than `limits`, each with where it came from.
    pub fn compile(config: &TenantConfig, limits: &CompileLimits) -> Result<Self, Vec<CompileError>> {
        compile(config, None, limits)
    }

    /// The table of the listeners of one pool; the rest of `config` is checked as well.
    ///
    /// # Errors
    /// As [`compile`](Self::compile).
    pub fn compile_for_pool(
        config: &TenantConfig,
        pool: &PoolName,
        limits: &CompileLimits,
    ) -> Result<Self, Vec<CompileError>> {
        compile(config, Some(pool), limits)
    }

    /// The rule that answers `request`.
    ///
    /// Of the port's listeners, those with the most specific hostname that the host is of: exact, then the longest
    /// wildcard, then none. Of the routes on them, those with the most specific hostname, in the same way. Of
    /// their matches that hold, the one of the lowest rank. There is no way back: when no match holds on the most
    /// specific hostname, a less specific one is not asked (Envoy's virtual hosts do the same).
    ///
    /// Never panics. Allocates only to decode the query for a match that asks for it, and what the request's
    /// own methods and the regex engine allocate.
    ///
    /// # Errors
    /// When no rule answers, why.
    pub fn find<'t>(&'t self, request: &impl Request) -> Result<Found<'t>, NotFound> {
        self.enter(request.port(), request.host())?.find(request)
    }

    /// The first half of [`find`](Self::find): where requests for `host` enter on a port. It looks at no memory that is the
    /// host's own, unless a listener has it as its hostname.
    ///
    /// # Errors
    /// When none does; where there are hosts by name, the second half may say so as well.
    pub fn enter(&self, port: u16, host: &str) -> Result<Entered<'_>, NotFound> {
        let at = self.ports.binary_search_by_key(&port, |(port, _)| *port).map_err(|_| NotFound::Listener)?;
        let group = self.ports[at].1.find(host).ok_or(NotFound::Host)?;
        let start = if group.has_exact && host.len() <= HOST_BYTES {
            Start::Host(self.indices.host(group.number, host))
        } else {
            Start::Pattern(*group.patterns.find(host).ok_or(NotFound::Host)?)
        };
        Ok(Entered { table: self, group, start })
    }

    /// The position of the first of the listeners of the rule's route that is in the group.
    fn listener(&self, group: &Group, rule: &CompiledRule) -> u32 {
        let first = group.listeners[0];
        match group.listeners.len() {
            1 => first,
            _ => {
                let own = &self.attached[self.routes[rule.route as usize].listeners.range()];
                *own.iter().find(|own| group.listeners.contains(own)).unwrap_or(&first)
            }
        }
    }

    /// The listeners of the tenant, in the order of its configuration.
    #[must_use]
    pub fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    /// The ids of the tenant's routes, in the order of its configuration.
    pub fn route_ids(&self) -> impl Iterator<Item = &str> {
        self.routes.iter().map(|route| &self.text[route.id.range()])
    }

    /// How many rules it has.
    #[must_use]
    pub fn rule_count(&self) -> usize {
        self.rules.len()
    }

    /// The id of the route that the rule at a position is of, and the rule's position in it, from 0.
    ///
    /// # Panics
    /// When there is no rule at that position.
    #[must_use]
    pub fn whose(&self, rule: usize) -> (&str, u32) {
        let route = &self.routes[self.rules[rule].route as usize];
        (&self.text[route.id.range()], position(rule).saturating_sub(route.first_rule))
    }

    /// Which route takes what is passed on as it is.
    #[must_use]
    pub fn streams(&self) -> &StreamTable {
        &self.streams
    }

    /// The backends that its rules and its routes of streams forward to; one that several name comes several times.
    pub fn backends(&self) -> impl Iterator<Item = &Arc<Backend>> {
        let rules = self.rules.iter().filter_map(|rule| match &rule.action {
            CompiledAction::Forward(forward) => Some(forward),
            CompiledAction::Redirect(_) | CompiledAction::Respond(_) => None,
        });
        let variants = rules.chain(self.streams.forwards()).flat_map(|forward| forward.variants());
        variants.filter_map(|variant| variant.backend.as_ref())
    }
}
