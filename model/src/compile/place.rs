//! Which route answers on which port and host.

use std::collections::{BTreeMap, HashMap};

use super::{Errors, Parts, position};
use crate::{
    CompileLimits, HostPattern, Origin, PathMatch, PoolName, RouteTable, StreamTable, TenantConfig,
    host::HostMap,
    streams::attached_hosts,
    table::{Group, Hosted, PathDraft, PathIndices, Root},
};

/// Listeners of one port and hostname, and the routes on them by hostname. `None` is any host.
#[derive(Debug, Default)]
struct Draft {
    listeners: Vec<u32>,
    hosts: BTreeMap<Option<HostPattern>, Vec<u32>>,
}

type Drafts = BTreeMap<(u16, Option<HostPattern>), Draft>;

pub(super) fn place(
    config: &TenantConfig,
    parts: Parts<'_>,
    pool: Option<&PoolName>,
    limits: &CompileLimits,
    errors: &mut Errors,
) -> RouteTable {
    let mut drafts = Drafts::new();
    for (index, listener) in config.listeners.iter().enumerate() {
        if listener.protocol.is_http() && pool.is_none_or(|pool| *pool == listener.pool) {
            let key = (listener.port, listener.hostname.clone());
            drafts.entry(key).or_default().listeners.push(position(index));
        }
    }
    let mut budget = Budget { left: limits.max_placements, origin: None };
    attach(config, &parts, &mut drafts, &mut budget);

    let mut indices = Indices::new(config, &parts);
    let mut hosted = vec![];
    for (group, draft) in (0..).zip(drafts.values()) {
        for (host, routes) in &draft.hosts {
            let tree = indices.of(routes, limits, &mut budget, errors);
            hosted.push(Hosted { group, host: host.as_ref(), tree });
        }
    }
    if let Some(origin) = budget.origin {
        let most = limits.max_placements;
        errors
            .push(&origin, format!("all routes on all their hosts and ports have more than {most} matches"));
    }
    let (indices, roots) = PathIndices::new(indices.done, &hosted);
    let ports = ports(&drafts, &hosted, &roots);
    RouteTable {
        listeners: config.listeners.clone().into(),
        routes: parts.routes.into(),
        text: parts.text.into(),
        attached: parts.attached.into(),
        rules: parts.rules.into(),
        matches: parts.matches.into(),
        ports: ports.into(),
        indices,
        streams: StreamTable::default(),
    }
}

/// The groups of each port. `roots` are those of the hosts in `hosted`, which are in the order of the drafts.
fn ports(drafts: &Drafts, hosted: &[Hosted<'_>], roots: &[Root]) -> Vec<(u16, HostMap<Group>)> {
    let mut ports: Vec<(u16, HostMap<Group>)> = vec![];
    let mut hosts = hosted.iter().zip(roots).peekable();
    for (number, ((port, hostname), draft)) in (0..).zip(drafts) {
        let mut group = Group {
            listeners: draft.listeners.clone().into(),
            number,
            has_exact: false,
            patterns: HostMap::default(),
        };
        while let Some((each, root)) = hosts.next_if(|(each, _)| each.group == number) {
            match each.host {
                Some(HostPattern::Exact(_)) => group.has_exact = true,
                pattern => {
                    group.patterns.insert(pattern, *root);
                }
            }
        }
        if ports.last().is_none_or(|(last, _)| last != port) {
            ports.push((*port, HostMap::default()));
        }
        if let Some((_, groups)) = ports.last_mut() {
            groups.insert(hostname.as_ref(), group);
        }
    }
    ports
}

/// How many matches may still be placed, and where that ran out.
struct Budget {
    left: usize,
    origin: Option<Origin>,
}

impl Budget {
    /// Whether there was room for that many.
    fn take(&mut self, matches: usize, origin: &Origin) -> bool {
        match self.left.checked_sub(matches) {
            Some(left) => self.left = left,
            None => {
                self.origin.get_or_insert_with(|| origin.clone());
            }
        }
        self.origin.is_none()
    }
}

/// Attaches every route to its listeners' groups.
fn attach(config: &TenantConfig, parts: &Parts<'_>, drafts: &mut Drafts, budget: &mut Budget) {
    for (index, (route, compiled)) in config.routes.iter().zip(&parts.routes).enumerate() {
        for listener in &parts.attached[compiled.listeners.range()] {
            let listener = &config.listeners[*listener as usize];
            let Some(draft) = drafts.get_mut(&(listener.port, listener.hostname.clone())) else { continue };
            for host in attached_hosts(&route.hostnames, listener.hostname.as_ref()) {
                if !budget.take(1, &route.origin) {
                    return;
                }
                let routes = draft.hosts.entry(host).or_default();
                // Two listeners of one group, or two hostnames with the same intersection.
                if routes.last() != Some(&position(index)) {
                    routes.push(position(index));
                }
            }
        }
    }
}

/// The positions of each route's matches, by rank.
fn matches_by_route(parts: &Parts<'_>) -> Vec<Vec<u32>> {
    let mut by_route = vec![vec![]; parts.routes.len()];
    for (index, each) in parts.matches.iter().enumerate() {
        let rule = &parts.rules[each.rule as usize];
        by_route[rule.route as usize].push(position(index));
    }
    by_route
}

/// What an index spends on a match: segments become nodes of its tree.
fn cost(path: &PathMatch) -> usize {
    match path {
        PathMatch::PrefixSegment(prefix) => 1 + prefix.matches('/').count() / 4,
        _ => 1,
    }
}

/// Path indices; hosts with the same routes share one.
struct Indices<'p> {
    config: &'p TenantConfig,
    parts: &'p Parts<'p>,
    by_route: Vec<Vec<u32>>,
    known: HashMap<&'p [u32], usize>,
    done: Vec<PathDraft<'p>>,
}

impl<'p> Indices<'p> {
    fn new(config: &'p TenantConfig, parts: &'p Parts<'p>) -> Self {
        Self { config, parts, by_route: matches_by_route(parts), known: HashMap::new(), done: vec![] }
    }

    /// The position of the index of the matches of `routes`.
    fn of(
        &mut self,
        routes: &'p [u32],
        limits: &CompileLimits,
        budget: &mut Budget,
        errors: &mut Errors,
    ) -> usize {
        if let Some(&known) = self.known.get(routes) {
            return known;
        }
        let mut matches: Vec<u32> =
            routes.iter().flat_map(|route| &self.by_route[*route as usize]).copied().collect();
        matches.sort_unstable();
        let origin = |index: u32| &self.parts.rule(&self.parts.matches[index as usize], self.config).origin;
        let index = self.done.len();
        let cost = matches.iter().map(|each| cost(self.parts.paths[*each as usize])).sum();
        if matches.first().is_none_or(|first| budget.take(cost, origin(*first))) {
            let paths = PathDraft::new(&self.parts.paths, &self.parts.matches, &matches);
            if let Some(crowd) = paths.crowded(limits.max_matches_per_path) {
                let problem = format!(
                    "more than {} matches share this path on one host; use fewer, or different paths",
                    limits.max_matches_per_path
                );
                errors.push(origin(crowd), problem);
            }
            self.done.push(paths);
        } else {
            self.done.push(PathDraft::empty());
        }
        self.known.insert(routes, index);
        index
    }
}
