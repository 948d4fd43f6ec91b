//! Routing as its definition reads, straight over the configuration: what [`RouteTable::find`] must agree with.

use model::{
    HostPattern, Match, NotFound, PathMatch, Request, Route, TenantConfig, ValueMatch, ValueMatcher,
};
use regex::Regex;

/// How specific a hostname is: exact, then wildcards by length, then any.
fn specificity(pattern: Option<&HostPattern>) -> (u8, usize) {
    match pattern {
        Some(HostPattern::Exact(host)) => (2, host.len()),
        Some(HostPattern::Wildcard(suffix)) => (1, suffix.len()),
        None => (0, 0),
    }
}

fn most_specific<'p>(
    patterns: impl Iterator<Item = Option<&'p HostPattern>>,
    host: &str,
) -> Option<Option<&'p HostPattern>> {
    patterns.filter(|p| p.is_none_or(|p| p.matches(host))).max_by_key(|p| specificity(*p))
}

/// `(route, rule, match, listener)` by position.
pub(crate) fn find(
    config: &TenantConfig,
    request: &impl Request,
) -> Result<(usize, usize, usize, usize), NotFound> {
    let on_port = || config.listeners.iter().enumerate().filter(|(_, l)| l.port == request.port());
    if on_port().next().is_none() {
        return Err(NotFound::Listener);
    }
    let hostname = most_specific(on_port().map(|(_, l)| l.hostname.as_ref()), request.host())
        .ok_or(NotFound::Host)?
        .cloned();
    let group: Vec<usize> = on_port().filter(|(_, l)| l.hostname == hostname).map(|(i, _)| i).collect();

    let attached = |route: &Route| {
        route.listeners.iter().find_map(|id| group.iter().copied().find(|i| config.listeners[*i].id == *id))
    };
    let answers_for = |route: &Route| -> Vec<Option<HostPattern>> {
        match (&hostname, route.hostnames.is_empty()) {
            (_, true) => vec![hostname.clone()],
            (None, false) => route.hostnames.iter().cloned().map(Some).collect(),
            (Some(listener), false) => {
                route.hostnames.iter().filter_map(|h| HostPattern::intersect(h, listener)).map(Some).collect()
            }
        }
    };
    let patterns: Vec<(usize, usize, Option<HostPattern>)> = config
        .routes
        .iter()
        .enumerate()
        .filter_map(|(index, route)| Some((index, attached(route)?, answers_for(route))))
        .flat_map(|(index, listener, hosts)| hosts.into_iter().map(move |host| (index, listener, host)))
        .collect();
    let best =
        most_specific(patterns.iter().map(|(_, _, p)| p.as_ref()), request.host()).ok_or(NotFound::Host)?;

    let mut found: Option<(model::Rank, usize, usize, usize, usize)> = None;
    for (route, listener, _) in patterns.iter().filter(|(_, _, pattern)| pattern.as_ref() == best) {
        for (rule, each_rule) in config.routes[*route].rules.iter().enumerate() {
            for (index, each) in each_rule.matches.iter().enumerate() {
                if found.is_none_or(|(rank, ..)| each.rank < rank) && holds(each, request) {
                    found = Some((each.rank, *route, rule, index, *listener));
                }
            }
        }
    }
    found.map(|(_, route, rule, index, listener)| (route, rule, index, listener)).ok_or(NotFound::Route)
}

fn holds(each: &Match, request: &impl Request) -> bool {
    let path = request.path();
    let by_path = match &each.path {
        PathMatch::Exact(text) => path == text,
        PathMatch::PrefixSegment(text) if text == "/" => true,
        PathMatch::PrefixSegment(text) => {
            let text = text.trim_end_matches('/');
            path == text || path.starts_with(&format!("{text}/"))
        }
        PathMatch::PrefixString(text) => path.starts_with(text.as_str()),
        PathMatch::Regex { pattern, anchor, icase } => {
            let flags = if *icase { "(?i)" } else { "" };
            if *anchor {
                whole(&format!("{flags}{pattern}"), path)
            } else {
                regex(pattern, flags).is_match(path)
            }
        }
    };
    by_path
        && each.method.as_deref().is_none_or(|m| m == request.method())
        && each.headers.iter().all(|h| {
            request.header(&h.name).is_some_and(|value| value_holds(h, std::str::from_utf8(&value).unwrap()))
        })
        && each.query.iter().all(|q| {
            let pairs = request.query().unwrap_or_default().split('&');
            let mut named = pairs.filter_map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                (!pair.is_empty() && decode(name) == q.name).then(|| decode(value))
            });
            named.next().is_some_and(|value| value_holds(q, &value))
        })
}

fn value_holds(asked: &ValueMatch, value: &str) -> bool {
    match &asked.matcher {
        ValueMatcher::Exact(text) => text == value,
        ValueMatcher::Regex(pattern) => whole(pattern, value),
    }
}

fn regex(pattern: &str, flags: &str) -> Regex {
    Regex::new(&format!("{flags}{pattern}")).unwrap()
}

fn whole(pattern: &str, text: &str) -> bool {
    Regex::new(&format!("^(?:{pattern})$")).unwrap().is_match(text) && !text.ends_with('\n')
}

fn decode(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}
