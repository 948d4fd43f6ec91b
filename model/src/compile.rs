//! From a tenant's configuration to its route table: everything is checked, all that is wrong is reported.

mod check;
mod lower;
mod place;
mod regexes;
mod streams;

use std::{collections::HashMap, sync::Arc};

pub use lower::action::NOT_EDITABLE;
pub use regexes::check_regex;

use crate::{
    Backend, CompileError, CompileLimits, CompiledMatch, CompiledRoute, CompiledRule, Origin, PathMatch,
    PoolName, RouteTable, Rule, TenantConfig,
};

/// Reported at most: past this, a configuration is not mended by reading on.
const MAX_ERRORS: usize = 256;

/// The table of the listeners of `pool`, or of all of them.
pub(crate) fn compile(
    config: &TenantConfig,
    pool: Option<&PoolName>,
    limits: &CompileLimits,
) -> Result<RouteTable, Vec<CompileError>> {
    let mut errors = Errors::default();
    check::sizes(config, limits, &mut errors);
    // Past its limits a configuration is not looked into any further: that is what they are for.
    errors.stop()?;

    let backends = check::backends(config, limits, &mut errors);
    check::certificates(config, &mut errors);
    let listeners = check::listeners(config, &mut errors);
    let names = lower::Names { listeners, backends };
    let parts = lower::lower(config, &names, limits, &mut errors);
    let streams = streams::streams(config, &names, pool, limits, &mut errors);
    errors.stop()?;

    let mut table = place::place(config, parts, pool, limits, &mut errors);
    errors.stop()?;
    table.streams = streams;
    Ok(table)
}

/// The compiled routes, flat: each match names its rule by position, each rule its route.
#[derive(Debug, Default)]
struct Parts<'c> {
    routes: Vec<CompiledRoute>,
    /// The ids of the routes.
    text: String,
    /// The positions of their listeners.
    attached: Vec<u32>,
    rules: Vec<CompiledRule>,
    /// By rank.
    matches: Vec<CompiledMatch>,
    /// Of each match: its path as it is written.
    paths: Vec<&'c PathMatch>,
}

impl Parts<'_> {
    /// The rule that a match is of, in the configuration that the parts were made of.
    fn rule<'c>(&self, each: &CompiledMatch, config: &'c TenantConfig) -> &'c Rule {
        let route = self.rules[each.rule as usize].route as usize;
        &config.routes[route].rules[(each.rule - self.routes[route].first_rule) as usize]
    }
}

/// Backends by their id.
type Backends<'c> = HashMap<&'c str, Arc<Backend>>;

/// Positions in the configuration by id.
type Positions<'c> = HashMap<&'c str, u32>;

/// Where a match stands. Spelled out only where something is wrong: matches are many.
#[derive(Debug, Clone, Copy)]
struct Spot<'o> {
    rule: &'o Origin,
    index: usize,
}

/// What is wrong so far.
#[derive(Debug, Default)]
struct Errors {
    list: Vec<CompileError>,
}

impl Errors {
    fn push(&mut self, origin: &Origin, problem: impl Into<String>) {
        if self.list.len() < MAX_ERRORS {
            self.list.push(CompileError { origin: origin.clone(), problem: problem.into() });
        }
    }

    /// The same, `field` below the origin's own.
    fn push_in(&mut self, origin: &Origin, field: &str, problem: impl Into<String>) {
        let mut inner = origin.clone();
        if !inner.field.is_empty() {
            inner.field.push('.');
        }
        inner.field.push_str(field);
        self.push(&inner, problem);
    }

    /// The same, `field` of one of the rule's matches.
    fn push_at(&mut self, at: Spot<'_>, field: &str, problem: impl Into<String>) {
        self.push_in(at.rule, &format!("matches[{}].{field}", at.index), problem);
    }

    /// Ends the compilation if something is wrong.
    fn stop(&mut self) -> Result<(), Vec<CompileError>> {
        if self.list.is_empty() { Ok(()) } else { Err(std::mem::take(&mut self.list)) }
    }
}

/// A position as it is kept; the limits bound every list far below `u32::MAX`.
pub(crate) fn position(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}
