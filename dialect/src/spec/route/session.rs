//! A rule's `sessionPersistence` (GEP-1619).

use model::{NOT_EDITABLE, PathMatch, SessionCarrier, SessionPersistence};

use super::RouteMatch;
use crate::{name, read::Node};

/// Gateway API's bound.
const NAME_BYTES: usize = 128;

/// What a rule says; its name is chosen where the rule is known, if it does not say one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionSpec {
    /// With an empty name: none was said.
    pub persistence: SessionPersistence,
}

pub(super) fn read(node: &Node<'_>, matches: &[RouteMatch]) -> Option<SessionSpec> {
    let mut fields = node.fields()?;
    let name_node = fields.optional("sessionName");
    let mut time = |field| match fields.optional(field) {
        Some(node) => name::positive_duration(&node).map(Some),
        None => Some(None),
    };
    let absolute = time("absoluteTimeout");
    let idle = time("idleTimeout");
    let is_cookie = match fields.optional("type") {
        Some(node) => node.choice("a carrier of sessions", &[("Cookie", true), ("Header", false)]),
        None => Some(true),
    };
    let cookie = fields.optional("cookieConfig");
    fields.finish();
    if let (Some(node), Some(false)) = (&cookie, is_cookie) {
        node.wrong("a header is no cookie", "remove it, or set type to Cookie");
        return None;
    }
    let permanent = match cookie {
        Some(node) => read_lifetime(&node),
        None => Some(false),
    };
    let (is_cookie, absolute, idle) = (is_cookie?, absolute?, idle?);
    let permanent = permanent?;
    if permanent && absolute.is_none() {
        node.wrong("a permanent cookie has to end some day", "add absoluteTimeout");
        return None;
    }
    if let (Some(absolute), Some(idle)) = (absolute, idle)
        && idle > absolute
    {
        node.wrong("idleTimeout is longer than absoluteTimeout", "shorten it, or remove it");
        return None;
    }
    let name = match name_node {
        Some(node) => read_name(&node, is_cookie)?,
        None => String::new(),
    };
    let carrier = match is_cookie {
        true => SessionCarrier::Cookie { permanent, path: cookie_path(matches) },
        false => SessionCarrier::Header,
    };
    Some(SessionSpec { persistence: SessionPersistence { name, carrier, absolute, idle } })
}

fn read_lifetime(node: &Node<'_>) -> Option<bool> {
    let mut fields = node.fields()?;
    let permanent = match fields.optional("lifetimeType") {
        Some(node) => node.choice("a lifetime of cookies", &[("Session", false), ("Permanent", true)]),
        None => Some(false),
    };
    fields.finish();
    permanent
}

/// A token (RFC 9110 section 5.6.2), as names of headers and cookies are.
fn read_name(node: &Node<'_>, is_cookie: bool) -> Option<String> {
    let text = node.text_of(1..=NAME_BYTES)?;
    if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)) {
        node.wrong(format!("{text:?} is not a name"), "use letters, digits, '-' and '_'");
        return None;
    }
    if is_cookie {
        return Some(text.to_owned());
    }
    let name = text.to_ascii_lowercase();
    if NOT_EDITABLE.contains(&name.as_str()) || name == "set-cookie" || name == "cookie" {
        node.wrong(format!("{text} has a meaning of its own"), "choose another name, like X-Session");
        return None;
    }
    Some(name)
}

/// What a browser shall send it to: the one path that the rule is for, else all.
fn cookie_path(matches: &[RouteMatch]) -> String {
    let plain = |path: &PathMatch| match path {
        PathMatch::Exact(path) | PathMatch::PrefixSegment(path) => Some(path.clone()),
        PathMatch::PrefixString(_) | PathMatch::Regex { .. } => None,
    };
    let mut paths = matches.iter().map(|each| plain(&each.path));
    let first = paths.next().flatten();
    let fits =
        |path: &String| path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b';' && byte != b',');
    match first {
        Some(first) if fits(&first) && paths.all(|path| path.as_ref() == Some(&first)) => first,
        _ => "/".to_owned(),
    }
}

/// The name of a session whose rule says none: different for each rule, and the same wherever it is compiled.
pub(crate) fn default_name(rule: &str, carrier: &SessionCarrier) -> String {
    // FNV-1a: the name is no secret, and nobody gains by another rule's.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in rule.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    match carrier {
        SessionCarrier::Cookie { .. } => format!("weir-session-{hash:016x}"),
        SessionCarrier::Header => format!("x-weir-session-{hash:016x}"),
    }
}
