//! The order in which matches are tried, as Gateway API has it.

use std::cmp::Reverse;

use model::{Match, PathMatch, Rank, Revision, Route};

use super::world::World;
use crate::Kind;

/// Gives every match of `routes` its rank.
///
/// Exact paths, then prefixes, then regular expressions, then the prefix `/`; longer ones first. Gateway API leaves the
/// place of expressions to the implementation: one may match anything, so what is definite goes first; but `/` is
/// what people write for "everything else", and before it an expression would never be asked. Then those with a
/// method, with more headers, with more parameters. Then the older route, the route that sorts first by namespace and
/// name, the earlier rule.
pub(super) fn assign(routes: &mut [Route], world: &World<'_>) {
    let created: Vec<Option<Revision>> = routes
        .iter()
        .map(|route| {
            let origin = &route.origin;
            let kind = Kind::parse(&origin.kind)?;
            world.object(kind, &origin.namespace, &origin.name).and_then(|object| object.created)
        })
        .collect();
    let mut order = vec![];
    for (route, each_route) in routes.iter().enumerate() {
        for (rule, each_rule) in each_route.rules.iter().enumerate() {
            for (index, each) in each_rule.matches.iter().enumerate() {
                // What is not stored yet is newest.
                let age = created[route].unwrap_or(Revision(u64::MAX));
                let name = (&each_route.origin.namespace, &each_route.origin.name);
                order.push((precedence(each), age, name, (route, rule, index)));
            }
        }
    }
    order.sort();
    let places: Vec<_> = order.into_iter().map(|(.., place)| place).collect();
    for (rank, (route, rule, index)) in (0..).zip(places) {
        routes[route].rules[rule].matches[index].rank = Rank(rank);
    }
}

/// What is lower goes first.
fn precedence(each: &Match) -> impl Ord + use<> {
    let (kind, len) = match &each.path {
        PathMatch::Exact(text) => (0, text.len()),
        PathMatch::PrefixSegment(text) | PathMatch::PrefixString(text) if text == "/" => (3, 1),
        PathMatch::PrefixSegment(text) | PathMatch::PrefixString(text) => (1, text.len()),
        PathMatch::Regex { pattern, .. } => (2, pattern.len()),
    };
    (kind, Reverse(len), each.method.is_none(), Reverse(each.headers.len()), Reverse(each.query.len()))
}
