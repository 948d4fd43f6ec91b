//! Routes, rules and matches to their compiled form.

use std::{collections::HashSet, sync::Arc};

use super::{
    Backends, Errors, Parts, Positions, Spot, check,
    regexes::{Key, Regexes},
};
use crate::{
    Action, CompileLimits, CompiledAction, CompiledMatch, CompiledRoute, CompiledRule, Forward, Match,
    Origin, PathMatch, Route, Rule, TenantConfig, Timeouts, ValueMatch, ValueMatcher, Variant,
    WeightedBackend,
    compile::position,
    compiled::{CompiledMatcher, CompiledPath, CompiledValue, Conditions, Extras},
    path::canonical,
    span::Span,
    table::whole_segments,
};

pub(crate) mod action;

/// Gateway API's bound on a weight.
const MAX_WEIGHT: u32 = 1_000_000;

/// A route's id: a kind, a namespace and a name of at most 253 bytes.
const ID_BYTES: usize = 1 << 10;

/// What routes refer to.
pub(super) struct Names<'c> {
    pub(super) listeners: Positions<'c>,
    pub(super) backends: Backends<'c>,
}

/// All routes of `config`, with the matches sorted by rank.
pub(super) fn lower<'c>(
    config: &'c TenantConfig,
    names: &Names<'_>,
    limits: &CompileLimits,
    errors: &mut Errors,
) -> Parts<'c> {
    let (regexes, parts, matches) = (Regexes::default(), Parts::default(), vec![]);
    let mut lowering = Lowering { names, limits, errors, regexes, parts, matches };
    let mut ids = HashSet::with_capacity(config.routes.len());
    for route in &config.routes {
        if !ids.insert((&route.origin.kind, &route.id)) {
            lowering.errors.push(&route.origin, format!("route {} is there twice", route.id));
        }
        lowering.route(route);
    }
    let Lowering { mut parts, mut matches, errors, .. } = lowering;
    matches.sort_by_key(|(m, _)| m.rank);
    (parts.matches, parts.paths) = matches.into_iter().unzip();
    for pair in parts.matches.windows(2).filter(|pair| pair[0].rank == pair[1].rank) {
        let origin = |m: &CompiledMatch| &parts.rule(m, config).origin;
        let (first, second) = (origin(&pair[0]), origin(&pair[1]));
        errors.push(second, format!("rank {} is that of a match of {first} too", pair[1].rank.0));
    }
    parts
}

struct Lowering<'a, 'c> {
    names: &'a Names<'a>,
    limits: &'a CompileLimits,
    errors: &'a mut Errors,
    regexes: Regexes<'c>,
    parts: Parts<'c>,
    matches: Vec<(CompiledMatch, &'c PathMatch)>,
}

impl<'c> Lowering<'_, 'c> {
    fn route(&mut self, route: &'c Route) {
        let mut listeners = Vec::with_capacity(route.listeners.len());
        for id in &route.listeners {
            match self.names.listeners.get(id.0.as_str()) {
                Some(&listener) if listeners.contains(&listener) => {}
                Some(&listener) => listeners.push(listener),
                None => {
                    self.errors.push_in(&route.origin, "parentRefs", format!("there is no listener {id}"))
                }
            }
        }
        for hostname in &route.hostnames {
            check::host(hostname, &route.origin, "hostnames", self.errors);
        }
        let mut id = route.id.0.as_str();
        if id.len() > ID_BYTES {
            let problem = format!("an id of {} bytes is longer than {ID_BYTES}", id.len());
            self.errors.push(&route.origin, problem);
            id = "";
        }
        let parts = &mut self.parts;
        parts.text.push_str(id);
        parts.attached.extend_from_slice(&listeners);
        let index = position(parts.routes.len());
        parts.routes.push(CompiledRoute {
            id: Span::before(parts.text.len(), id.len()),
            listeners: Span::before(parts.attached.len(), listeners.len()),
            first_rule: position(parts.rules.len()),
        });
        for rule in &route.rules {
            self.rule(rule, index);
        }
    }

    fn rule(&mut self, rule: &'c Rule, route: u32) {
        if rule.matches.is_empty() {
            self.errors.push_in(&rule.origin, "matches", "a rule needs at least one match");
        }
        let index = position(self.parts.rules.len());
        for (at, each) in rule.matches.iter().enumerate() {
            let spot = Spot { rule: &rule.origin, index: at };
            if let Some(compiled) = self.one_match(each, spot, index) {
                self.matches.push((compiled, &each.path));
            }
        }
        if rule.timeouts.request.is_some_and(|t| t.is_zero())
            || rule.timeouts.backend_request.is_some_and(|t| t.is_zero())
        {
            self.errors.push_in(&rule.origin, "timeouts", "none is written as nothing, not as zero");
        }
        action::check_filters(&rule.filters, rule, self.limits, &rule.origin, "filters", self.errors);
        let action = self.action(rule);
        let persistence = rule.persistence.clone();
        let has_extras = rule.timeouts != Timeouts::default() || persistence.is_some();
        let extras = has_extras.then(|| Extras { timeouts: rule.timeouts, persistence }.into());
        let filters = rule.filters.clone().into();
        self.parts.rules.push(CompiledRule { filters, action, extras, route });
    }

    fn action(&mut self, rule: &Rule) -> CompiledAction {
        match &rule.action {
            Action::Forward(backends) => {
                for (index, weighted) in backends.iter().enumerate().filter(|(_, b)| !b.filters.is_empty()) {
                    let (field, filters) = (format!("backendRefs[{index}].filters"), &weighted.filters);
                    action::check_filters(filters, rule, self.limits, &rule.origin, &field, self.errors);
                }
                CompiledAction::Forward(forward(backends, &rule.origin, self.names, self.limits, self.errors))
            }
            Action::Redirect(redirect) => {
                action::check_redirect(redirect, rule, self.errors);
                CompiledAction::Redirect(redirect.clone().into())
            }
            Action::Respond(respond) => {
                action::check_respond(respond, self.limits, &rule.origin, self.errors);
                CompiledAction::Respond(respond.clone().into())
            }
        }
    }

    fn one_match(&mut self, each: &'c Match, at: Spot<'_>, rule: u32) -> Option<CompiledMatch> {
        if let Some(method) = &each.method
            && http::Method::from_bytes(method.as_bytes()).is_err()
        {
            self.errors.push_at(at, "method", format!("{method:?} is not a method"));
        }
        for header in &each.headers {
            if let Err(problem) = action::check_name(&header.name) {
                self.errors.push_at(at, "headers", problem);
            }
        }
        if each.query.iter().any(|q| q.name.is_empty()) {
            self.errors.push_at(at, "queryParams", "a parameter needs a name");
        }
        let path = self.path(&each.path, at);
        let headers = self.values(&each.headers, at, "headers");
        let query = self.values(&each.query, at, "queryParams");
        let method = each.method.as_deref().map(Into::into);
        let any = method.is_none() && headers.is_empty() && query.is_empty();
        let conditions = (!any).then(|| Conditions { method, headers, query }.into());
        Some(CompiledMatch { rank: each.rank, rule, path: path?, conditions })
    }

    fn path(&mut self, path: &'c PathMatch, at: Spot<'_>) -> Option<CompiledPath> {
        let (PathMatch::Exact(text) | PathMatch::PrefixSegment(text) | PathMatch::PrefixString(text)) = path
        else {
            let PathMatch::Regex { pattern, anchor, icase } = path else { return None };
            return self
                .regex(Key { pattern, anchor: *anchor, icase: *icase }, at, "path")
                .map(CompiledPath::Regex);
        };
        if text.len() > self.limits.path_bytes {
            let (len, most) = (text.len(), self.limits.path_bytes);
            self.errors.push_at(at, "path", format!("a path of {len} bytes is longer than {most}"));
            return None;
        }
        match canonical(text) {
            // A string prefix may end in the middle of what only together is canonical, `/a/.`
            Ok(_) if matches!(path, PathMatch::PrefixString(_)) => {}
            Ok(form) if form == *text => {}
            Ok(form) => {
                self.errors.push_at(at, "path", format!("{text:?} matches nothing; write {form:?}"));
                return None;
            }
            Err(problem) => {
                self.errors.push_at(at, "path", format!("{text:?}: {problem}"));
                return None;
            }
        }
        Some(match path {
            PathMatch::Exact(_) => CompiledPath::Exact,
            PathMatch::PrefixString(_) => CompiledPath::Prefix(position(text.len())),
            _ => CompiledPath::Prefix(position(whole_segments(text).len())),
        })
    }

    fn values(&mut self, values: &'c [ValueMatch], at: Spot<'_>, field: &str) -> Box<[CompiledValue]> {
        if values.len() > self.limits.max_fields {
            let (count, most) = (values.len(), self.limits.max_fields);
            self.errors.push_at(at, field, format!("{count} are more than the limit of {most}"));
            return Box::default();
        }
        let mut compiled = Vec::with_capacity(values.len());
        for value in values {
            let matcher = match &value.matcher {
                ValueMatcher::Exact(text) => Some(CompiledMatcher::Exact(text.as_str().into())),
                ValueMatcher::Regex(pattern) => self
                    .regex(Key { pattern, anchor: true, icase: false }, at, field)
                    .map(CompiledMatcher::Regex),
            };
            compiled
                .extend(matcher.map(|matcher| CompiledValue { name: value.name.as_str().into(), matcher }));
        }
        compiled.into()
    }

    fn regex(&mut self, key: Key<'c>, at: Spot<'_>, field: &str) -> Option<Arc<regex::bytes::Regex>> {
        self.regexes.get(key, self.limits).map_err(|problem| self.errors.push_at(at, field, problem)).ok()
    }
}

/// Backends by weight; the caller checks their filters.
pub(super) fn forward(
    backends: &[WeightedBackend],
    origin: &Origin,
    names: &Names<'_>,
    limits: &CompileLimits,
    errors: &mut Errors,
) -> Forward {
    if backends.len() > limits.max_backends_per_rule {
        let (count, most) = (backends.len(), limits.max_backends_per_rule);
        errors.push_in(origin, "backendRefs", format!("{count} are more than the limit of {most}"));
        return Forward::new(vec![]);
    }
    let mut variants = Vec::with_capacity(backends.len());
    let mut total_weight = 0_u32;
    for (index, weighted) in backends.iter().enumerate() {
        if weighted.weight > MAX_WEIGHT {
            let problem = format!("{} is more than {MAX_WEIGHT}", weighted.weight);
            errors.push_in(origin, &format!("backendRefs[{index}].weight"), problem);
            continue;
        }
        let backend = weighted.backend.as_ref().and_then(|id| {
            let known = names.backends.get(id.0.as_str()).cloned();
            if known.is_none() {
                let field = format!("backendRefs[{index}]");
                errors.push_in(origin, &field, format!("there is no backend {id}"));
            }
            known
        });
        match total_weight.checked_add(weighted.weight) {
            Some(sum) => total_weight = sum,
            None => errors.push_in(origin, "backendRefs", "the sum of the weights is too large"),
        }
        if weighted.weight > 0 {
            let filters = weighted.filters.clone().into();
            variants.push(Variant { backend, weight: weighted.weight, filters });
        }
    }
    Forward::new(variants)
}
