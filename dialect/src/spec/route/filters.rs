//! Filters of an HTTPRoute's rule or backend.

use std::collections::HashSet;

use model::{Filter, HeaderEdit, PathMatch, PathModifier, Redirect, Rewrite};

use super::{RouteMatch, matches::read_header_name};
use crate::{Kind, name, read::Node, spec::precise_hostname};

/// Gateway API's bounds.
const MAX_EDITS: usize = 16;
const MAX_HEADER_BYTES: usize = 4_096;
const MAX_PATH_BYTES: usize = 1_024;

/// Filters, sorted into those that change and the one that answers.
#[derive(Default)]
pub(super) struct Filters {
    pub(super) plain: Vec<Filter>,
    pub(super) reply: Option<Reply>,
}

/// A filter that answers by itself.
pub(super) enum Reply {
    Redirect(Redirect),
    Respond { name: String, field: String },
}

impl Reply {
    pub(super) fn what(&self) -> &'static str {
        match self {
            Self::Redirect(_) => "RequestRedirect",
            Self::Respond { .. } => "a DirectResponse",
        }
    }
}

enum One {
    Plain(Filter),
    Reply(Reply),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Type {
    RequestHeaders,
    ResponseHeaders,
    Redirect,
    Rewrite,
    Extension,
    Mirror,
    Cors,
}

const TYPES: [(&str, Type); 7] = [
    ("RequestHeaderModifier", Type::RequestHeaders),
    ("ResponseHeaderModifier", Type::ResponseHeaders),
    ("RequestRedirect", Type::Redirect),
    ("URLRewrite", Type::Rewrite),
    ("ExtensionRef", Type::Extension),
    ("RequestMirror", Type::Mirror),
    ("CORS", Type::Cors),
];

/// The filters; `matches` are those of their rule. `None` when one of them is wrong.
pub(super) fn read_filters(nodes: &[Node<'_>], matches: Option<&[RouteMatch]>) -> Option<Filters> {
    let mut filters = Filters::default();
    let mut types = HashSet::new();
    let mut fine = true;
    for node in nodes {
        let Some((kind, one)) = read_filter(node, matches) else {
            fine = false;
            continue;
        };
        if !types.insert(kind) {
            node.wrong("a filter of its type stands before it", "merge the two");
        }
        match one {
            One::Plain(filter) => filters.plain.push(filter),
            One::Reply(reply) if filters.reply.is_some() => {
                node.wrong(format!("{} and the filter before it both answer", reply.what()), "remove one");
            }
            One::Reply(reply) => filters.reply = Some(reply),
        }
        if types.contains(&Type::Redirect) && types.contains(&Type::Rewrite) {
            node.wrong("URLRewrite and RequestRedirect exclude each other", "remove one");
        }
    }
    fine.then_some(filters)
}

fn read_filter(node: &Node<'_>, matches: Option<&[RouteMatch]>) -> Option<(Type, One)> {
    let mut fields = node.fields()?;
    let kind = fields.required("type").and_then(|node| {
        let kind = node.choice("a filter type", &TYPES)?;
        if matches!(kind, Type::Mirror | Type::Cors) {
            node.wrong(format!("{} is not supported yet", node.text()?), "remove the filter");
        }
        Some(kind)
    });
    // Each type has a field of its own name; another type's field would be passed over in silence.
    let fields_by_type = [
        (Type::RequestHeaders, "requestHeaderModifier"),
        (Type::ResponseHeaders, "responseHeaderModifier"),
        (Type::Redirect, "requestRedirect"),
        (Type::Rewrite, "urlRewrite"),
        (Type::Extension, "extensionRef"),
        (Type::Mirror, "requestMirror"),
        (Type::Cors, "cors"),
    ];
    let mut own = None;
    for (of, name) in fields_by_type {
        match (fields.optional(name), kind) {
            (Some(node), Some(kind)) if kind == of => own = Some(node),
            (Some(node), Some(_)) => node.wrong("it does not belong to the filter's type", "remove it"),
            (None, Some(kind)) if kind == of && !matches!(kind, Type::Mirror | Type::Cors) => {
                node.wrong(format!("it has no {name}"), format!("add {name}"));
            }
            _ => {}
        }
    }
    fields.finish();
    let (kind, own) = (kind?, own?);
    let one = match kind {
        Type::RequestHeaders => One::Plain(Filter::RequestHeaders(read_edit(&own)?)),
        Type::ResponseHeaders => One::Plain(Filter::ResponseHeaders(read_edit(&own)?)),
        Type::Redirect => One::Reply(Reply::Redirect(read_redirect(&own, matches)?)),
        Type::Rewrite => One::Plain(Filter::Rewrite(read_rewrite(&own, matches)?)),
        Type::Extension => One::Reply(read_extension(&own)?),
        Type::Mirror | Type::Cors => return None,
    };
    Some((kind, one))
}

fn read_edit(node: &Node<'_>) -> Option<HeaderEdit> {
    let mut fields = node.fields()?;
    let set = fields.list("set", MAX_EDITS);
    let add = fields.list("add", MAX_EDITS);
    let remove = fields.list("remove", MAX_EDITS);
    fields.finish();
    let mut names = HashSet::new();
    let mut once = |node: &Node<'_>, name: &str| {
        if model::NOT_EDITABLE.contains(&name) {
            node.wrong(format!("the header {name} is the gateway's own and cannot be edited"), "remove it");
        }
        if !names.insert(name.to_owned()) {
            node.wrong(format!("the header {name} is edited twice"), "edit each header once");
        }
    };
    let mut written = |nodes: &[Node<'_>]| -> Vec<Option<(String, String)>> {
        let read = |node: &Node<'_>| {
            let header = read_header(node)?;
            once(node, &header.0);
            Some(header)
        };
        nodes.iter().map(read).collect()
    };
    let (set, add) = (written(&set), written(&add));
    let removed = |node: &Node<'_>| {
        let name = read_header_name(node)?;
        once(node, &name);
        Some(name)
    };
    let remove: Vec<_> = remove.iter().map(removed).collect();
    Some(HeaderEdit {
        set: set.into_iter().collect::<Option<_>>()?,
        add: add.into_iter().collect::<Option<_>>()?,
        remove: remove.into_iter().collect::<Option<_>>()?,
    })
}

fn read_header(node: &Node<'_>) -> Option<(String, String)> {
    let mut fields = node.fields()?;
    let name = fields.required("name").and_then(|node| read_header_name(&node));
    let value = fields.required("value").and_then(|node| {
        let text = node.text_of(1..=MAX_HEADER_BYTES)?;
        if http::HeaderValue::from_bytes(text.as_bytes()).is_err() {
            node.wrong("it has a control character", "write it on one line");
            return None;
        }
        Some(text.to_owned())
    });
    fields.finish();
    Some((name?, value?))
}

fn read_redirect(node: &Node<'_>, matches: Option<&[RouteMatch]>) -> Option<Redirect> {
    let mut fields = node.fields()?;
    let scheme = fields.optional("scheme").map_or(Some(None), |node| {
        node.choice("a scheme", &[("http", "http"), ("https", "https")]).map(Some)
    });
    let hostname = fields.optional("hostname").map_or(Some(None), |node| precise_hostname(&node).map(Some));
    let path = fields.optional("path").map_or(Some(None), |node| read_modifier(&node, matches).map(Some));
    let port = fields.optional("port").map_or(Some(None), |node| node.number(1..=u16::MAX).map(Some));
    let status = fields.optional("statusCode").map_or(Some(302), |node| {
        let status = node.number(301..=308);
        match status {
            Some(301 | 302 | 303 | 307 | 308) => status,
            Some(other) => {
                node.wrong(format!("{other} is no redirect's status"), "use 301, 302, 303, 307 or 308");
                None
            }
            None => None,
        }
    });
    fields.finish();
    let scheme = scheme?.map(str::to_owned);
    Some(Redirect { scheme, hostname: hostname?, path: path?, port: port?, status: status? })
}

fn read_rewrite(node: &Node<'_>, matches: Option<&[RouteMatch]>) -> Option<Rewrite> {
    let mut fields = node.fields()?;
    let hostname = fields.optional("hostname").map_or(Some(None), |node| precise_hostname(&node).map(Some));
    let path = fields.optional("path").map_or(Some(None), |node| read_modifier(&node, matches).map(Some));
    fields.finish();
    let rewrite = Rewrite { hostname: hostname?, path: path? };
    if rewrite == Rewrite::default() {
        node.wrong("it rewrites nothing", "add hostname or path");
        return None;
    }
    Some(rewrite)
}

fn read_modifier(node: &Node<'_>, matches: Option<&[RouteMatch]>) -> Option<PathModifier> {
    let mut fields = node.fields()?;
    let is_prefix = fields.required("type").and_then(|node| {
        node.choice("a path modifier", &[("ReplaceFullPath", false), ("ReplacePrefixMatch", true)])
    });
    let full = fields.optional("replaceFullPath");
    let prefix = fields.optional("replacePrefixMatch");
    fields.finish();
    match (is_prefix?, full, prefix) {
        (false, Some(full), None) => read_replacement(&full).map(PathModifier::ReplaceFull),
        (true, None, Some(prefix)) => {
            let is_prefix = |each: &RouteMatch| matches!(each.path, PathMatch::PrefixSegment(_));
            if !matches.is_some_and(|matches| matches.iter().all(is_prefix)) {
                node.wrong(
                    "ReplacePrefixMatch needs a prefix to replace",
                    "give every match of the rule a path of type PathPrefix, or use ReplaceFullPath",
                );
            }
            read_replacement(&prefix).map(PathModifier::ReplacePrefix)
        }
        (false, ..) => {
            node.wrong(
                "ReplaceFullPath has replaceFullPath and nothing else",
                "add it, and remove the other",
            );
            None
        }
        (true, ..) => {
            node.wrong(
                "ReplacePrefixMatch has replacePrefixMatch and nothing else",
                "add it, and remove the other",
            );
            None
        }
    }
}

fn read_replacement(node: &Node<'_>) -> Option<String> {
    let text = node.text_of(0..=MAX_PATH_BYTES)?;
    if !text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'\\')) {
        node.wrong(format!("{text:?} has a character that a path cannot have"), "percent-encode it");
        return None;
    }
    // Gateway API allows what begins with no slash; a path does.
    Some(if text.starts_with('/') { text.to_owned() } else { format!("/{text}") })
}

fn read_extension(node: &Node<'_>) -> Option<Reply> {
    let mut fields = node.fields()?;
    let group = fields.required("group").and_then(|node| node.text_of(0..=253));
    let kind = fields.required("kind").and_then(|node| node.text_of(1..=63));
    let name = fields.required("name").and_then(|node| name::name(&node));
    fields.finish();
    let (group, kind) = (group?, kind?);
    if (group, kind) != (Kind::DirectResponse.group(), Kind::DirectResponse.as_str()) {
        node.wrong(
            format!("an extension of kind {kind} is not supported yet"),
            "use a DirectResponse of group weir.dev, or remove the filter",
        );
        return None;
    }
    Some(Reply::Respond { name: name?, field: node.field.clone() })
}
