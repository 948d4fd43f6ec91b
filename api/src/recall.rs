//! What is known of one request, in words and as JSON: the same wherever it is asked for.

use serde_json::{Map, Value, json};

use crate::request::{Request, Try};

/// The request's way, one step a line, in the order of events.
#[must_use]
pub fn steps(request: &Request) -> Vec<String> {
    let tls = if request.tls.is_empty() { String::new() } else { format!(" over {}", request.tls) };
    let Request { method, host, path, client, protocol, .. } = request;
    let mut steps = match method.as_str() {
        "" => vec![format!("what came from {client}{tls} could not be read as a request")],
        _ => vec![format!("{method} {host}{path} came from {client} by {protocol}{tls}")],
    };
    if request.queue_delay_us >= SHOWN_DELAY_US {
        steps.push(format!(
            "its thread was {} late with its work: the request waited about as long before it was seen",
            time(request.queue_delay_us)
        ));
    }
    let Request { tenant, listener, route, rule, .. } = request;
    match (tenant.as_str(), route.as_str()) {
        ("", _) if method.is_empty() => {}
        ("", _) => steps.push("no tenant was found for it".to_owned()),
        (tenant, "") => steps.push(format!("its host is tenant {tenant}'s, no route of which was followed")),
        (tenant, route) => steps.push(format!(
            "it entered by listener {listener} of tenant {tenant}: {rule} of route {route} answers"
        )),
    }
    if !request.backend.is_empty() {
        steps.push(format!("forwarded to backend {}", request.backend));
    }
    let skipped = usize::try_from(request.retries).unwrap_or(usize::MAX).saturating_sub(1);
    for (index, tried) in request.tries.iter().enumerate() {
        if index == 1 && skipped > 0 {
            steps.push(format!("{skipped} more tries"));
        }
        steps.push(of_try(tried));
    }
    if request.retry_denied {
        steps.push("not tried again: the backend's budget of retries was used up".to_owned());
    }
    if !request.refusal.is_empty() {
        let detail = if request.detail.is_empty() { String::new() } else { format!(": {}", request.detail) };
        steps.push(format!("refused ({}){detail}", request.refusal));
    }
    let ended = match request.status {
        0 => "no answer was given".to_owned(),
        status => format!("answered with {status}"),
    };
    steps.push(format!(
        "{ended} ({}) after {}, {} bytes in, {} bytes out",
        request.outcome,
        time(request.duration_us),
        request.bytes_in,
        request.bytes_out
    ));
    steps
}

/// Shorter delays explain nothing.
const SHOWN_DELAY_US: u64 = 5_000;

fn of_try(tried: &Try) -> String {
    let mut text = format!("at {}: endpoint {}", time(tried.began_us), tried.endpoint);
    match tried.connected_us {
        Some(_) if tried.reused => text += ", by a connection that was open",
        Some(at) => text += &format!(", connected after {}", time(at.saturating_sub(tried.began_us))),
        None => text += ", no connection",
    }
    if let Some(at) = tried.answered_us {
        text += &format!(", answered {} after {}", tried.status, time(at.saturating_sub(tried.began_us)));
    }
    if !tried.failure.is_empty() {
        text += &format!(", failed ({})", tried.failure);
    }
    text
}

/// `12.3 ms`
fn time(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} us"),
        1_000..1_000_000 => format!("{}.{} ms", us / 1_000, us % 1_000 / 100),
        _ => format!("{}.{:03} s", us / 1_000_000, us % 1_000_000 / 1_000),
    }
}

/// All that is known, by the names of the messages; what is empty is left out.
#[must_use]
pub fn json(request: &Request) -> Value {
    let tries = request.tries.iter().map(|tried| {
        object([
            ("endpoint", json!(tried.endpoint)),
            ("began_us", json!(tried.began_us)),
            ("connected_us", json!(tried.connected_us)),
            ("reused", json!(tried.reused)),
            ("answered_us", json!(tried.answered_us)),
            ("status", some(tried.status)),
            ("failure", json!(tried.failure)),
        ])
    });
    object([
        ("id", json!(request.id)),
        ("began_at_us", json!(request.began_at_us)),
        ("tenant", json!(request.tenant)),
        ("listener", json!(request.listener)),
        ("route", json!(request.route)),
        ("rule", json!(request.rule)),
        ("backend", json!(request.backend)),
        ("trace_id", json!(request.trace_id)),
        ("method", json!(request.method)),
        ("host", json!(request.host)),
        ("path", json!(request.path)),
        ("protocol", json!(request.protocol)),
        ("client", json!(request.client)),
        ("tls", json!(request.tls)),
        ("status", some(request.status)),
        ("outcome", json!(request.outcome)),
        ("refusal", json!(request.refusal)),
        ("detail", json!(request.detail)),
        ("duration_us", json!(request.duration_us)),
        ("queue_delay_us", json!(request.queue_delay_us)),
        ("tries", json!(tries.collect::<Vec<_>>())),
        ("retries", json!(request.retries)),
        ("retry_denied", json!(request.retry_denied)),
        ("bytes_in", json!(request.bytes_in)),
        ("bytes_out", json!(request.bytes_out)),
        ("steps", json!(steps(request))),
    ])
}

fn some(status: u32) -> Value {
    if status == 0 { Value::Null } else { json!(status) }
}

fn object<const N: usize>(members: [(&str, Value); N]) -> Value {
    let is_told = |value: &Value| !value.is_null() && value.as_str() != Some("");
    let told = members.into_iter().filter(|(_, value)| is_told(value));
    Value::Object(told.map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retried_request_is_told_in_the_order_of_events() {
        let tried = Try { endpoint: "10.0.0.1:80".into(), failure: "connect".into(), ..Try::default() };
        let again = Try {
            endpoint: "10.0.0.2:80".into(),
            began_us: 1_500,
            connected_us: Some(2_000),
            answered_us: Some(1_301_500),
            status: 200,
            ..Try::default()
        };
        let request = Request {
            method: "GET".into(),
            host: "a.test".into(),
            path: "/x".into(),
            protocol: "HTTP/1.1".into(),
            client: "192.0.2.1".into(),
            tenant: "acme".into(),
            listener: "default/web/http".into(),
            route: "default/shop".into(),
            rule: "spec.rules[0]".into(),
            backend: "default/shop:80".into(),
            status: 200,
            outcome: "forwarded".into(),
            duration_us: 1_302_000,
            queue_delay_us: 20_000,
            tries: vec![tried, again],
            retries: 1,
            bytes_out: 5,
            ..Request::default()
        };
        let expect = [
            "GET a.test/x came from 192.0.2.1 by HTTP/1.1",
            "its thread was 20.0 ms late with its work: the request waited about as long before it was seen",
            "it entered by listener default/web/http of tenant acme: spec.rules[0] of route default/shop answers",
            "forwarded to backend default/shop:80",
            "at 0 us: endpoint 10.0.0.1:80, no connection, failed (connect)",
            "at 1.5 ms: endpoint 10.0.0.2:80, connected after 500 us, answered 200 after 1.300 s",
            "answered with 200 (forwarded) after 1.302 s, 0 bytes in, 5 bytes out",
        ];
        assert_eq!(steps(&request), expect);
        let json = json(&request);
        assert_eq!(json["tries"][1]["connected_us"], 2_000);
        assert_eq!(json.get("refusal"), None);
        assert_eq!(json["steps"].as_array().map(Vec::len), Some(expect.len()));
    }

    #[test]
    fn a_refusal_says_why() {
        let request = Request {
            method: "GET".into(),
            tenant: "acme".into(),
            status: 404,
            outcome: "refused".into(),
            refusal: "no_route".into(),
            detail: "no route matches".into(),
            ..Request::default()
        };
        let steps = steps(&request);
        assert!(steps[1].contains("acme"), "{steps:?}");
        assert_eq!(steps[2], "refused (no_route): no route matches");
        let unread =
            Request { client: "::1".into(), refusal: "bare_lf".into(), status: 400, ..Request::default() };
        let steps = super::steps(&unread);
        assert_eq!(steps[..2], ["what came from ::1 could not be read as a request", "refused (bare_lf)"]);
    }
}
