//! `gateway.networking.k8s.io/v1` GRPCRoute: an HTTPRoute whose matches name services and methods.

use std::collections::HashSet;

use model::{CompileLimits, PathMatch, Timeouts};

use super::{
    HttpRouteSpec, MAX_BACKENDS, MAX_MATCHES, MAX_RULES, RouteMatch, RouteRule, RuleAction,
    filters::{self, Filters},
    matches::read_headers,
};
use crate::read::{Fields, Node};

impl HttpRouteSpec {
    /// Reads a GRPCRoute. gRPC's methods are paths (`/package.Service/Method`), so what it says is an HTTPRoute.
    pub(in crate::spec) fn read_grpc(node: &Node<'_>) -> Option<Self> {
        let mut fields = node.fields()?;
        let (parents, hostnames) = super::read_place(&mut fields);
        let mut names = HashSet::new();
        let rules = match fields.required("rules") {
            Some(node) => {
                node.items(MAX_RULES).iter().filter_map(|node| read_rule(node, &mut names)).collect()
            }
            None => vec![],
        };
        fields.unsupported(&["useDefaultGateways"]);
        super::bound_matches(&fields, &rules);
        fields.finish();
        Some(Self { parents, hostnames, rules })
    }
}

fn read_rule(node: &Node<'_>, names: &mut HashSet<String>) -> Option<RouteRule> {
    let mut fields = node.fields()?;
    super::read_name(&mut fields, names);
    let mut matches: Vec<_> = fields.list("matches", MAX_MATCHES).iter().filter_map(read_match).collect();
    if fields.optional("matches").is_none_or(|node| node.raw().as_array().is_some_and(Vec::is_empty)) {
        matches.push(RouteMatch::everything());
    }
    let filter_nodes = fields.list("filters", 16);
    let backend_nodes = fields.list("backendRefs", MAX_BACKENDS);
    let session = super::read_session(&mut fields, &matches);
    fields.finish();
    let filters = read_filters(&filter_nodes, &matches);
    let backends: Vec<_> =
        backend_nodes.iter().filter_map(|node| super::read_backend(node, &matches)).collect();
    // The client's own deadline (`grpc-timeout`) holds.
    let timeouts = Timeouts::default();
    let action = RuleAction::Forward(backends);
    Some(RouteRule { matches, filters: filters?, action, timeouts, session: session? })
}

/// GRPCRoute has the filters of HTTPRoute but those that change paths or answer.
fn read_filters(nodes: &[Node<'_>], matches: &[RouteMatch]) -> Option<Vec<model::Filter>> {
    let mut fine = true;
    for node in nodes {
        let kind = node.raw().get("type").and_then(serde_json::Value::as_str);
        if let Some(kind @ ("URLRewrite" | "RequestRedirect" | "ExtensionRef")) = kind {
            node.wrong(
                format!("a GRPCRoute has no {kind}"),
                "use RequestHeaderModifier or ResponseHeaderModifier, or an HTTPRoute",
            );
            fine = false;
        }
    }
    let Filters { plain, .. } = filters::read_filters(nodes, Some(matches))?;
    fine.then_some(plain)
}

fn read_match(node: &Node<'_>) -> Option<RouteMatch> {
    let mut fields = node.fields()?;
    let path = match fields.optional("method") {
        Some(node) => read_method(&node),
        None => Some(RouteMatch::everything().path),
    };
    let headers = read_headers(&mut fields);
    fields.finish();
    Some(RouteMatch { path: path?, headers: headers?, ..RouteMatch::everything() })
}

fn read_method(node: &Node<'_>) -> Option<PathMatch> {
    let mut fields = node.fields()?;
    let exact = match fields.optional("type") {
        Some(node) => {
            node.choice("a type of method matches", &[("Exact", true), ("RegularExpression", false)])
        }
        None => Some(true),
    };
    let service = part(&mut fields, "service");
    let method = part(&mut fields, "method");
    fields.finish();
    let (exact, service, method) = (exact?, service?, method?);
    if service.is_none() && method.is_none() {
        node.wrong("it names neither a service nor a method", "name one, or leave the match out");
        return None;
    }
    if !exact {
        let any = || "[^/]+".to_owned();
        let pattern = format!("/(?:{})/(?:{})", service.unwrap_or_else(any), method.unwrap_or_else(any));
        if let Err(problem) = model::check_regex(&pattern, &CompileLimits::default()) {
            node.wrong(problem, "write it in RE2's syntax; it must hold for the whole name");
            return None;
        }
        return Some(PathMatch::Regex { pattern, anchor: true, icase: false });
    }
    for text in service.iter().chain(&method) {
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-')) {
            node.wrong(format!("{text:?} is no name of gRPC"), "use a-z, A-Z, 0-9, '_' and '.'");
            return None;
        }
    }
    Some(match (service, method) {
        (Some(service), Some(method)) => PathMatch::Exact(format!("/{service}/{method}")),
        (Some(service), None) => PathMatch::PrefixSegment(format!("/{service}")),
        (None, method) => PathMatch::Regex {
            pattern: format!("/[^/]+/{}", method.unwrap_or_default().replace('.', "\\.")),
            anchor: true,
            icase: false,
        },
    })
}

fn part(fields: &mut Fields<'_>, name: &'static str) -> Option<Option<String>> {
    match fields.optional(name) {
        Some(node) => node.text_of(1..=1024).map(|text| Some(text.to_owned())),
        None => Some(None),
    }
}
