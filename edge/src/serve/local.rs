//! Replies that we make ourselves.

use std::{borrow::Cow, fmt::Write};

use model::{CompiledMatch, Redirect, Respond};

use super::{edit, record, refusal::Refusal};
use crate::{
    date,
    downstream::Client,
    grpc,
    h1::{Method, Name, RequestHead, ResponseHead, Scheme, standard_reason},
    worker::Thread,
};

/// The reply to a refused request: gRPC's for its clients, JSON for who asks for it, otherwise a line of text.
pub(crate) fn refuse(refusal: &Refusal, request: &RequestHead) -> (ResponseHead, Cow<'static, [u8]>) {
    if grpc::is_grpc(&request.fields) {
        return (grpc::refuse(refusal), Cow::Borrowed(b""));
    }
    let json = request
        .fields
        .known(Name::Accept)
        .is_some_and(|accept| memchr::memmem::find(accept, b"application/json").is_some());
    refuse_as(refusal, json)
}

/// The reply to what could not even be read as a request, which is counted, remembered and logged.
pub(crate) fn refuse_unread(
    thread: &Thread,
    client: &Client,
    refusal: &Refusal,
) -> (ResponseHead, Cow<'static, [u8]>) {
    let id = record::unread(thread, client, refusal);
    let (mut head, body) = refuse_as(refusal, false);
    date::stamp(&mut head, thread.clock.swept());
    // Hexadecimal digits are a valid value.
    let _valid = head.fields.push_known(Name::XRequestId, id.as_bytes());
    (head, body)
}

fn refuse_as(refusal: &Refusal, json: bool) -> (ResponseHead, Cow<'static, [u8]>) {
    let status = refusal.status();
    let mut head = ResponseHead::new(status);
    let body = if json {
        let body = serde_json::json!({
            "status": status,
            "error": refusal.kind(),
            "message": refusal.to_string(),
        });
        format!("{body}\n")
    } else {
        format!("{status} {}: {refusal}\n", standard_reason(status))
    };
    let kind: &[u8] = if json { b"application/json" } else { b"text/plain; charset=utf-8" };
    // Constants are valid values.
    let _valid = head.fields.push_known(Name::ContentType, kind);
    if let Some(seconds) = refusal.retry_after_s() {
        let _valid = head.fields.push_known(Name::RetryAfter, itoa::Buffer::new().format(seconds).as_bytes());
    }
    (head, Cow::Owned(body.into_bytes()))
}

/// A fixed reply of a route.
pub(super) fn respond(respond: &Respond) -> (ResponseHead, Cow<'static, [u8]>) {
    let mut head = ResponseHead::new(respond.status);
    let _valid = head.fields.push_known(Name::ContentType, b"text/plain; charset=utf-8");
    (head, Cow::Owned(respond.body.clone().into_bytes()))
}

/// The reply to `OPTIONS *`, which asks about the server as a whole (RFC 9110 section 9.3.7): it is us who are asked,
/// no route and no upstream, so any host will do.
pub(super) fn about_us() -> ResponseHead {
    let mut head = ResponseHead::new(204);
    // A constant is a valid value.
    let _valid = head.fields.push("allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
    head
}

/// A redirect of a route (Gateway API `HTTPRequestRedirectFilter`).
pub(super) fn redirect(
    redirect: &Redirect,
    client: &Client,
    request: &RequestHead,
    path: &str,
    matched: &CompiledMatch,
) -> Result<ResponseHead, Refusal> {
    let scheme = redirect.scheme.as_deref().unwrap_or(client.scheme.as_str());
    let host = redirect.hostname.as_deref().unwrap_or(request.host());
    let same_place = redirect.scheme.is_none() && redirect.hostname.is_none();
    let port = match redirect.port {
        Some(port) => Some(port),
        // The client knows best how it got here: through a port mapping, perhaps.
        None if same_place => request.port(),
        None if redirect.scheme.is_some() => None,
        None => Some(client.port),
    };
    let default = if scheme == "https" { Scheme::Https.default_port() } else { Scheme::Http.default_port() };
    let mut location = format!("{scheme}://{host}");
    // Writing to a String cannot fail.
    if let Some(port) = port.filter(|port| *port != default) {
        let _infallible = write!(location, ":{port}");
    }
    match &redirect.path {
        Some(modifier) => location.push_str(&edit::modified_path(path, modifier, matched)),
        None => location.push_str(path),
    }
    if let Some(query) = request.query() {
        let _infallible = write!(location, "?{query}");
    }
    let mut head = ResponseHead::new(redirect.status);
    head.fields.push_known(Name::Location, location.as_bytes()).map_err(|_| Refusal::BadLocation)?;
    Ok(head)
}

/// Whether a response to `method` with `status` may have a body (RFC 9112 section 6.3).
pub(crate) fn has_body(method: Method, status: u16) -> bool {
    method != Method::Head && status >= 200 && status != 204 && status != 304
}
