//! A ListenerPolicy's `accessLog`.

use std::collections::HashSet;

use model::{AccessLog, LogFact, LogField, LogFilter, LogValue};

use crate::{name, read::Node};

/// Each is a text of some hundred bytes in each line.
const MAX_FIELDS: usize = 16;
const NAME_BYTES: usize = 64;
const CONSTANT_BYTES: usize = 256;
/// Of a header's name and of the value that a filter compares it with.
const HEADER_BYTES: usize = 256;

/// Names that lines have already.
const ORDINARY: [&str; 22] = [
    "time",
    "tenant",
    "route",
    "method",
    "host",
    "path",
    "protocol",
    "status",
    "outcome",
    "refusal",
    "bytes_in",
    "bytes_out",
    "duration_us",
    "upstream",
    "upstream_us",
    "retries",
    "client",
    "tls",
    "request_id",
    "worker",
    "lost",
    "trace_id",
];

/// Headers whose values let whoever reads a log act as somebody else.
const CREDENTIALS: [&str; 10] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "x-api-key",
    "x-auth-token",
    "x-amz-security-token",
    "x-csrf-token",
    "x-xsrf-token",
    "authentication-info",
];

pub(super) fn read(node: &Node<'_>) -> Option<AccessLog> {
    let mut fields = node.fields()?;
    let own = fields.list("fields", MAX_FIELDS);
    let filter = fields.optional("filter");
    fields.finish();
    let read: Option<Vec<_>> = own.iter().map(read_field).collect();
    let filter = match filter {
        Some(node) => {
            let filter = read_filter(&node, 1)?;
            if filter.parts() > LogFilter::MAX_PARTS {
                let problem =
                    format!("{} filters in one are more than {}", filter.parts(), LogFilter::MAX_PARTS);
                node.wrong(problem, "leave some out");
                return None;
            }
            Some(filter)
        }
        None => None,
    };
    let read = read?;
    let mut names = HashSet::new();
    for (node, field) in own.iter().zip(&read) {
        if !names.insert(&field.name) {
            node.wrong(format!("there are two fields {}", field.name), "rename or remove one");
            return None;
        }
    }
    Some(AccessLog { fields: read, filter })
}

fn read_field(node: &Node<'_>) -> Option<LogField> {
    let mut fields = node.fields()?;
    let name = fields.required("name").and_then(|node| read_name(&node));
    let constant = fields.optional("value");
    let request = fields.optional("requestHeader");
    let response = fields.optional("responseHeader");
    let fact = fields.optional("fact");
    fields.finish();
    let value = match (constant, request, response, fact) {
        (Some(node), None, None, None) => {
            node.text_of(0..=CONSTANT_BYTES).map(|text| LogValue::Constant(text.to_owned()))
        }
        (None, Some(node), None, None) => read_header(&node).map(LogValue::RequestHeader),
        (None, None, Some(node), None) => read_header(&node).map(LogValue::ResponseHeader),
        (None, None, None, Some(node)) => node.choice("a fact", &LogFact::ALL).map(LogValue::Fact),
        _ => {
            node.wrong("it tells one thing", "write one of value, requestHeader, responseHeader or fact");
            None
        }
    };
    Some(LogField { name: name?, value: value? })
}

fn read_name(node: &Node<'_>) -> Option<String> {
    let text = node.text_of(1..=NAME_BYTES)?;
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if !text.bytes().all(is_plain) {
        node.wrong(format!("{text:?} is not a field's name"), "use a-z, 0-9 and '_'");
        return None;
    }
    if ORDINARY.contains(&text) {
        node.wrong(format!("every line has a field {text} already"), "choose another name");
        return None;
    }
    Some(text.to_owned())
}

fn read_header(node: &Node<'_>) -> Option<String> {
    let text = read_header_name(node)?;
    if CREDENTIALS.contains(&text.as_str()) {
        node.wrong(
            format!("{text} holds credentials, which do not go into logs"),
            "log something that the service derives from it, in a header of its own",
        );
        return None;
    }
    Some(text)
}

fn read_header_name(node: &Node<'_>) -> Option<String> {
    let text = node.text_of(1..=HEADER_BYTES)?;
    if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)) {
        node.wrong(format!("{text:?} is not a header's name"), "use letters, digits and '-'");
        return None;
    }
    Some(text.to_ascii_lowercase())
}

fn read_filter(node: &Node<'_>, depth: usize) -> Option<LogFilter> {
    if depth > LogFilter::MAX_DEPTH {
        node.wrong(format!("filters are more than {} deep", LogFilter::MAX_DEPTH), "write it more simply");
        return None;
    }
    let mut fields = node.fields()?;
    let kinds =
        ["all", "any", "not", "statusClasses", "minDuration", "sampledPercent", "failed", "requestHeader"];
    let [all, any, not, classes, slow, sampled, failed, header] = kinds.map(|kind| fields.optional(kind));
    fields.finish();
    let mut parts = vec![];
    let several = |node: &Node<'_>| -> Option<Vec<LogFilter>> {
        let items = node.items(LogFilter::MAX_PARTS);
        if node.raw().as_array().is_some_and(Vec::is_empty) {
            node.wrong("it has no filters", "name one, or leave it out");
            return None;
        }
        items.iter().map(|item| read_filter(item, depth + 1)).collect()
    };
    if let Some(node) = all {
        parts.push(several(&node).map(LogFilter::All));
    }
    if let Some(node) = any {
        parts.push(several(&node).map(LogFilter::Any));
    }
    if let Some(node) = not {
        parts.push(read_filter(&node, depth + 1).map(|part| LogFilter::Not(Box::new(part))));
    }
    if let Some(node) = classes {
        let classes = [("1xx", 1), ("2xx", 2), ("3xx", 3), ("4xx", 4), ("5xx", 5)];
        let read: Option<Vec<u8>> =
            node.items(classes.len()).iter().map(|item| item.choice("a class of status", &classes)).collect();
        parts.push(read.map(LogFilter::StatusClasses));
    }
    if let Some(node) = slow {
        parts.push(name::duration(&node).map(LogFilter::MinDuration));
    }
    if let Some(node) = sampled {
        parts.push(read_percent(&node).map(LogFilter::SampledPpm));
    }
    if let Some(node) = failed {
        let is_true = node.raw().as_bool() == Some(true);
        if !is_true {
            node.wrong("it can only be true", "remove it, or write not: {failed: true}");
        }
        parts.push(is_true.then_some(LogFilter::Failed));
    }
    if let Some(node) = header {
        parts.push(read_header_filter(&node));
    }
    let one = parts.pop();
    match (one, parts.is_empty()) {
        (Some(one), true) => one,
        _ => {
            let words = kinds.join(", ");
            node.wrong(
                "a filter asks one thing",
                format!("write one of {words}; put several below all or any"),
            );
            None
        }
    }
}

/// A part of a hundred, to four decimals: in millionths.
pub(super) fn read_percent(node: &Node<'_>) -> Option<u32> {
    const WHOLE: f64 = 100.0;
    let percent = node.raw().as_f64().filter(|percent| (0.0..=WHOLE).contains(percent));
    if percent.is_none() {
        node.wrong("it is no part of a hundred", "use a number from 0 to 100, like 0.5");
    }
    // In range, see above.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to a million")]
    percent.map(|percent| (percent * 10_000.0).round() as u32)
}

fn read_header_filter(node: &Node<'_>) -> Option<LogFilter> {
    let mut fields = node.fields()?;
    let name = fields.required("name").and_then(|node| read_header_name(&node));
    let value = match fields.optional("value") {
        Some(node) => node.text_of(0..=HEADER_BYTES).map(|text| Some(text.to_owned())),
        None => Some(None),
    };
    fields.finish();
    Some(LogFilter::RequestHeader { name: name?, value: value? })
}
