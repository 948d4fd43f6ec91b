//! Traced requests as OTLP has them: a span for each request and for each of its tries, named and described by the
//! semantic conventions for HTTP (opentelemetry.io/docs/specs/semconv/http/http-spans, 1.23 and later).

use std::net::SocketAddr;

use api::request::{Request, Try};

use super::{
    SpanId, Traced,
    otlp::{
        CLIENT, ERROR, ExportRequest, KeyValue, Resource, ResourceSpans, SERVER, Scope, ScopeSpans, Span,
        Status,
    },
};
use crate::{journal::OUTRUN, metrics::Outcome};

/// A batch as it is sent. `worker` is the instance that the spans are of.
pub(super) fn request(batch: &[Traced], worker: &str) -> ExportRequest {
    let version = env!("CARGO_PKG_VERSION");
    let attributes = vec![
        KeyValue::text("service.name", "weir"),
        KeyValue::text("service.version", version),
        KeyValue::text("service.instance.id", worker),
    ];
    let scope = Scope { name: "weir".to_owned(), version: version.to_owned() };
    let scoped = ScopeSpans { scope: Some(scope), spans: batch.iter().flat_map(spans).collect() };
    let resource = Some(Resource { attributes });
    ExportRequest { resource_spans: vec![ResourceSpans { resource, scope_spans: vec![scoped] }] }
}

/// How many spans there are.
pub(super) fn count(request: &ExportRequest) -> u64 {
    let scoped = request.resource_spans.iter().flat_map(|resource| &resource.scope_spans);
    scoped.map(|scope| scope.spans.len() as u64).sum()
}

/// The request's span, and one for each try.
fn spans(traced: &Traced) -> Vec<Span> {
    let Traced { trace, request } = traced;
    let ids = [trace.first_try, trace.last_try];
    let tries = request.tries.iter().zip(ids).enumerate();
    let mut spans = vec![of_request(traced)];
    spans.extend(tries.filter_map(|(index, (tried, id))| Some(of_try(traced, tried, id?, index))));
    spans
}

/// What carries a connection that is passed on as it is; `None`: it is a request.
fn transport(request: &Request) -> Option<&'static str> {
    match request.protocol.as_str() {
        "TCP" | "TLS" => Some("tcp"),
        "UDP" => Some("udp"),
        _ => None,
    }
}

fn of_request(traced: &Traced) -> Span {
    let Traced { trace, request } = traced;
    let mut attributes = match transport(request) {
        Some(transport) => of_stream(request, transport),
        None => of_http(request),
    };
    for (key, value) in [
        ("weir.tenant", &request.tenant),
        ("weir.listener", &request.listener),
        ("weir.route", &request.route),
        ("weir.rule", &request.rule),
        ("weir.backend", &request.backend),
    ] {
        if !value.is_empty() {
            attributes.push(KeyValue::text(key, value));
        }
    }
    // A server's span fails by its own fault only.
    let is_stream = transport(request).is_some();
    let failure = match (request.refusal.as_str(), request.status) {
        ("", 0) if is_stream && request.outcome == Outcome::Forwarded.as_str() => None,
        (_, 100..500) => None,
        ("", 0) => Some(request.outcome.clone()),
        ("", status) => Some(status.to_string()),
        (refusal, _) => Some(refusal.to_owned()),
    };
    finish(&mut attributes, request.status, failure.as_deref());
    Span {
        trace_id: trace.id.0.to_vec(),
        span_id: trace.span.0.to_vec(),
        parent_span_id: trace.parent.map(|parent| parent.0.to_vec()).unwrap_or_default(),
        // The route would name a class of requests; its object's name does.
        name: named(if is_stream { &request.protocol } else { &request.method }, &request.route),
        kind: SERVER,
        start_time_unix_nano: at(request, 0),
        end_time_unix_nano: at(request, request.duration_us),
        attributes,
        status: failure.map(|_| Status { message: request.detail.clone(), code: ERROR }),
    }
}

fn of_http(request: &Request) -> Vec<KeyValue> {
    vec![
        KeyValue::text("http.request.method", &request.method),
        KeyValue::text("url.path", &request.path),
        KeyValue::text("url.scheme", if request.tls.is_empty() { "http" } else { "https" }),
        KeyValue::text("server.address", &request.host),
        KeyValue::text("client.address", &request.client),
        KeyValue::text("network.protocol.version", request.protocol.trim_start_matches("HTTP/")),
        KeyValue::text("weir.request_id", &request.id),
        KeyValue::text("weir.outcome", &request.outcome),
    ]
}

/// By the conventions for networks; bytes are those of the client and to it.
fn of_stream(request: &Request, transport: &str) -> Vec<KeyValue> {
    let mut attributes = vec![
        KeyValue::text("network.transport", transport),
        KeyValue::text("client.address", &request.client),
        KeyValue::text("weir.outcome", &request.outcome),
        KeyValue::number("weir.bytes_in", request.bytes_in),
        KeyValue::number("weir.bytes_out", request.bytes_out),
    ];
    if !request.host.is_empty() {
        attributes.push(KeyValue::text("server.address", &request.host));
    }
    attributes
}

fn of_try(traced: &Traced, tried: &Try, id: SpanId, index: usize) -> Span {
    let Traced { trace, request } = traced;
    let transport = transport(request);
    let mut attributes = vec![match transport {
        Some(transport) => KeyValue::text("network.transport", transport),
        None => KeyValue::text("http.request.method", &request.method),
    }];
    if let Ok(endpoint) = tried.endpoint.parse::<SocketAddr>() {
        attributes.push(KeyValue::text("server.address", endpoint.ip().to_string()));
        attributes.push(KeyValue::number("server.port", endpoint.port()));
    }
    if index > 0 {
        attributes.push(KeyValue::number("http.request.resend_count", request.retries));
    }
    if let Some(connected) = tried.connected_us.filter(|_| !tried.reused) {
        attributes.push(KeyValue::number("weir.connect_us", connected.saturating_sub(tried.began_us)));
    }
    // A client's span fails by 4xx as well.
    let failure = match (tried.failure.as_str(), tried.status) {
        ("", 0) if transport.is_some() => None,
        ("", 400..) => Some(tried.status.to_string()),
        ("", 0) => Some(request.outcome.clone()),
        ("", _) => None,
        (failure, _) => Some(failure.to_owned()),
    };
    finish(&mut attributes, tried.status, failure.as_deref());
    // Of the last try, the response goes on to the end of the request; an earlier one failed before the next began, but for two
    // at once.
    let hedged = request.tries.iter().any(|tried| tried.failure == OUTRUN);
    let next = request.tries.get(index + 1).map(|next| next.began_us).filter(|_| !hedged);
    Span {
        trace_id: trace.id.0.to_vec(),
        span_id: id.0.to_vec(),
        parent_span_id: trace.span.0.to_vec(),
        name: match transport {
            Some(_) => request.protocol.clone(),
            None => named(&request.method, &request.backend),
        },
        kind: CLIENT,
        start_time_unix_nano: at(request, tried.began_us),
        end_time_unix_nano: at(request, next.unwrap_or(request.duration_us).max(tried.began_us)),
        attributes,
        status: failure.map(|_| Status { message: String::new(), code: ERROR }),
    }
}

fn finish(attributes: &mut Vec<KeyValue>, status: u32, failure: Option<&str>) {
    if status > 0 {
        attributes.push(KeyValue::number("http.response.status_code", status));
    }
    if let Some(failure) = failure {
        attributes.push(KeyValue::text("error.type", failure));
    }
}

fn named(method: &str, what: &str) -> String {
    if what.is_empty() { method.to_owned() } else { format!("{method} {what}") }
}

/// So long after the request's begin, nanoseconds since 1970.
fn at(request: &Request, after_us: u64) -> u64 {
    request.began_at_us.saturating_add(after_us).saturating_mul(1_000)
}
