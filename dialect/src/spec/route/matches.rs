//! Conditions of an HTTPRoute's rule.

use std::collections::HashSet;

use model::{CompileLimits, PathMatch, ValueMatch, ValueMatcher, check_regex, path::canonical};

use crate::read::{Fields, Node};

/// Gateway API's bounds.
const MAX_VALUES: usize = 16;
const MAX_HEADER_BYTES: usize = 4_096;
const MAX_PARAMETER_BYTES: usize = 1_024;
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// Holds when every part of it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteMatch {
    /// `/` as a prefix unless it says otherwise.
    pub path: PathMatch,
    /// `None` is any.
    pub method: Option<String>,
    /// Names in lowercase.
    pub headers: Vec<ValueMatch>,
    /// Parameters of the query.
    pub query: Vec<ValueMatch>,
}

impl RouteMatch {
    /// What a rule without matches has.
    pub(super) fn everything() -> Self {
        Self { path: PathMatch::PrefixSegment("/".into()), method: None, headers: vec![], query: vec![] }
    }
}

pub(super) fn read_match(node: &Node<'_>) -> Option<RouteMatch> {
    let mut fields = node.fields()?;
    let path = match fields.optional("path") {
        Some(node) => read_path(&node),
        None => Some(RouteMatch::everything().path),
    };
    let method = match fields.optional("method") {
        Some(node) => {
            let methods = METHODS.map(|method| (method, method));
            node.choice("a method", &methods).map(|method| Some(method.to_owned()))
        }
        None => Some(None),
    };
    let headers = read_headers(&mut fields);
    let query = read_values(&fields.list("queryParams", MAX_VALUES), MAX_PARAMETER_BYTES, |node| {
        node.text_of(1..=256).map(str::to_owned)
    });
    fields.finish();
    Some(RouteMatch { path: path?, method: method?, headers: headers?, query: query? })
}

/// The `headers` of a match.
pub(super) fn read_headers(fields: &mut Fields<'_>) -> Option<Vec<ValueMatch>> {
    read_values(&fields.list("headers", MAX_VALUES), MAX_HEADER_BYTES, read_header_name)
}

#[derive(Clone, Copy)]
enum PathType {
    Exact,
    Prefix,
    Regex,
}

fn read_path(node: &Node<'_>) -> Option<PathMatch> {
    let mut fields = node.fields()?;
    let kind = fields.optional("type").map_or(Some(PathType::Prefix), |node| {
        let options = [
            ("Exact", PathType::Exact),
            ("PathPrefix", PathType::Prefix),
            ("RegularExpression", PathType::Regex),
        ];
        node.choice("a path type", &options)
    });
    let value = fields.optional("value");
    fields.finish();
    let Some(node) = value else { return kind.map(|_| RouteMatch::everything().path) };
    let text = node.text_of(1..=CompileLimits::default().path_bytes)?;
    Some(match kind? {
        PathType::Exact => PathMatch::Exact(read_path_text(&node, text)?),
        PathType::Prefix => {
            let path = read_path_text(&node, text)?;
            // `/a/` and `/a` are the same prefix (Gateway API).
            let trimmed = path.strip_suffix('/').filter(|rest| !rest.is_empty());
            PathMatch::PrefixSegment(trimmed.unwrap_or(&path).to_owned())
        }
        PathType::Regex => {
            read_regex(&node, text)?;
            PathMatch::Regex { pattern: text.to_owned(), anchor: true, icase: false }
        }
    })
}

/// The canonical form of a path. One that no request can have is refused, as Gateway API does.
fn read_path_text(node: &Node<'_>, text: &str) -> Option<String> {
    let fix = "requests are matched in canonical form: begin with '/', and write no '?', '#', '\\' or '%2f'";
    let form = node.parsed(|text| canonical(text).map(std::borrow::Cow::into_owned), fix)?;
    if text.contains("//") || text.split('/').any(|segment| matches!(segment, "." | "..")) {
        node.wrong(
            format!("no request has the path {text:?} once it is resolved"),
            format!("write {form:?}"),
        );
        return None;
    }
    Some(form)
}

fn read_regex(node: &Node<'_>, pattern: &str) -> Option<()> {
    let fix = "write it in RE2's syntax; it must hold for the whole text";
    check_regex(pattern, &CompileLimits::default()).map_err(|problem| node.wrong(problem, fix)).ok()
}

/// A header's name in lowercase.
pub(super) fn read_header_name(node: &Node<'_>) -> Option<String> {
    let text = node.text_of(1..=256)?;
    if http::HeaderName::from_bytes(text.as_bytes()).is_err() {
        node.wrong(format!("{text:?} is not a header's name"), "use letters, digits and '-'");
        return None;
    }
    Some(text.to_ascii_lowercase())
}

/// Named values. `None` when one of them is wrong.
fn read_values(
    nodes: &[Node<'_>],
    max_bytes: usize,
    name: impl Fn(&Node<'_>) -> Option<String>,
) -> Option<Vec<ValueMatch>> {
    let mut names = HashSet::new();
    let read: Vec<_> = nodes
        .iter()
        .map(|node| {
            let value = read_value(node, max_bytes, &name)?;
            if !names.insert(value.name.clone()) {
                node.wrong(
                    format!("{:?} is there twice", value.name),
                    "only one value of a name can be asked for",
                );
            }
            Some(value)
        })
        .collect();
    read.into_iter().collect()
}

fn read_value(
    node: &Node<'_>,
    max_bytes: usize,
    name: impl Fn(&Node<'_>) -> Option<String>,
) -> Option<ValueMatch> {
    let mut fields = node.fields()?;
    let is_regex = fields.optional("type").map_or(Some(false), |node| {
        node.choice("a match type", &[("Exact", false), ("RegularExpression", true)])
    });
    let name = fields.required("name").and_then(|node| name(&node));
    let node = fields.required("value");
    let value = node.as_ref().and_then(|node| node.text_of(1..=max_bytes));
    fields.finish();
    let (value, node) = (value?.to_owned(), node?);
    let matcher = if is_regex? {
        read_regex(&node, &value)?;
        ValueMatcher::Regex(value)
    } else {
        ValueMatcher::Exact(value)
    };
    Some(ValueMatch { name: name?, matcher })
}
