//! Whether filters and local replies can be carried out safely, whoever wrote them.

use std::collections::HashSet;

use crate::{
    CompileLimits, Filter, HeaderEdit, HostPattern, Origin, PathMatch, PathModifier, Redirect, Respond,
    Rewrite, Rule, compile::Errors,
};

/// Headers that frame a message or name its target: editing them would make two servers read it differently.
pub const NOT_EDITABLE: [&str; 11] = [
    "connection",
    "content-length",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
];

pub(super) fn check_filters(
    filters: &[Filter],
    rule: &Rule,
    limits: &CompileLimits,
    origin: &Origin,
    field: &str,
    errors: &mut Errors,
) {
    if filters.len() > limits.max_filters {
        let (count, most) = (filters.len(), limits.max_filters);
        errors.push_in(origin, field, format!("{count} filters are more than the limit of {most}"));
        return;
    }
    for (index, filter) in filters.iter().enumerate() {
        let field = format!("{field}[{index}]");
        match filter {
            Filter::RequestHeaders(edit) | Filter::ResponseHeaders(edit) => {
                check_edit(edit, limits, origin, &field, errors);
            }
            Filter::Rewrite(Rewrite { hostname, path }) => {
                if let Some(hostname) = hostname {
                    check_hostname(hostname, origin, &field, errors);
                }
                if let Some(path) = path {
                    check_modifier(path, rule, origin, &field, errors);
                }
            }
        }
    }
}

fn check_edit(edit: &HeaderEdit, limits: &CompileLimits, origin: &Origin, field: &str, errors: &mut Errors) {
    let mut names = HashSet::new();
    let written = edit.set.iter().chain(&edit.add);
    let all = written.clone().map(|(name, _)| name).chain(&edit.remove);
    if all.clone().count() > limits.max_fields {
        errors.push_in(origin, field, format!("more than {} headers are edited", limits.max_fields));
        return;
    }
    for name in all {
        if let Err(problem) = check_name(name) {
            errors.push_in(origin, field, problem);
        }
        if NOT_EDITABLE.contains(&name.as_str()) {
            errors.push_in(
                origin,
                field,
                format!("the header {name} is the gateway's own and cannot be edited"),
            );
        }
        if !names.insert(name) {
            errors.push_in(origin, field, format!("the header {name} is edited twice"));
        }
    }
    for (name, value) in written {
        if http::HeaderValue::from_bytes(value.as_bytes()).is_err() {
            errors.push_in(origin, field, format!("the value of {name} has a control character"));
        }
    }
}

/// A header's name, as it is compared: in lowercase.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let parsed = http::HeaderName::from_lowercase(name.as_bytes());
    parsed.map(drop).map_err(|_| format!("{name:?} is not a header's name in lowercase"))
}

pub(super) fn check_redirect(redirect: &Redirect, rule: &Rule, errors: &mut Errors) {
    let origin = &rule.origin;
    let field = "requestRedirect";
    if !matches!(redirect.status, 301 | 302 | 303 | 307 | 308) {
        errors.push_in(origin, field, format!("{} is no redirect's status", redirect.status));
    }
    if let Some(scheme) = redirect.scheme.as_deref()
        && !matches!(scheme, "http" | "https")
    {
        errors.push_in(origin, field, format!("the scheme {scheme:?} is neither http nor https"));
    }
    if redirect.port == Some(0) {
        errors.push_in(origin, field, "the port must be at least 1");
    }
    if let Some(hostname) = &redirect.hostname {
        check_hostname(hostname, origin, field, errors);
    }
    if let Some(path) = &redirect.path {
        check_modifier(path, rule, origin, field, errors);
    }
}

pub(super) fn check_respond(respond: &Respond, limits: &CompileLimits, origin: &Origin, errors: &mut Errors) {
    if !(200..600).contains(&respond.status) {
        errors.push(origin, format!("{} is not the status of a final response", respond.status));
    }
    if respond.body.len() > limits.respond_body_bytes {
        let (len, most) = (respond.body.len(), limits.respond_body_bytes);
        errors.push(origin, format!("a body of {len} bytes is longer than the limit of {most}"));
    }
}

fn check_hostname(hostname: &str, origin: &Origin, field: &str, errors: &mut Errors) {
    let parsed = HostPattern::parse(hostname);
    if !matches!(&parsed, Ok(HostPattern::Exact(name)) if name == hostname) {
        errors.push_in(origin, field, format!("{hostname:?} is not the name of one host in lowercase"));
    }
}

fn check_modifier(path: &PathModifier, rule: &Rule, origin: &Origin, field: &str, errors: &mut Errors) {
    let (PathModifier::ReplaceFull(text) | PathModifier::ReplacePrefix(text)) = path;
    // A request line and a Location header both carry it: nothing that ends either.
    if !text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'\\')) {
        errors.push_in(origin, field, format!("{text:?} has a character that must be percent-encoded"));
    }
    let may_be_empty = matches!(path, PathModifier::ReplacePrefix(_));
    if !(text.starts_with('/') || may_be_empty && text.is_empty()) {
        errors.push_in(origin, field, format!("{text:?} does not begin with '/'"));
    }
    let is_prefix =
        |path: &PathMatch| matches!(path, PathMatch::PrefixSegment(_) | PathMatch::PrefixString(_));
    if may_be_empty && !rule.matches.iter().all(|m| is_prefix(&m.path)) {
        errors.push_in(origin, field, "a prefix can only be replaced where every match is by prefix");
    }
}
