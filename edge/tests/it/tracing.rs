//! Traces: which one a request is part of, for the upstream and for the collector, which is one of the test's own that
//! reads what it gets with OpenTelemetry's own definitions.

use std::{sync::mpsc, time::Duration};

use edge::{
    Limits,
    accesslog::Logger,
    trace::{Exporting, TraceArgs},
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use prost::Message;

use crate::support::{Edge, PATIENCE, Upstream, backend, dead_address, forward, proxy, route, wait_for};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

/// Takes spans, once `refusals` requests were answered with 503.
fn collector(refusals: usize) -> (Upstream, mpsc::Receiver<ExportTraceServiceRequest>) {
    let (taken, spans) = mpsc::channel();
    let asked = std::sync::atomic::AtomicUsize::new(0);
    let collector = Upstream::start(move |exchange, received| {
        let is_export = received.line() == "POST /v1/traces HTTP/1.1"
            && received.header("content-type") == Some("application/x-protobuf")
            && received.header("x-team") == Some("edge");
        if !is_export || asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < refusals {
            return exchange.send("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n");
        }
        drop(taken.send(ExportTraceServiceRequest::decode(received.body.as_slice()).unwrap()));
        exchange.reply("");
    });
    (collector, spans)
}

/// A worker that samples so many of a million traces that begin on it.
fn traced(yaml: &str, collector: &Upstream, sampled_ppm: u32) -> (Edge, Exporting) {
    let url = format!("http://{}", collector.address);
    let collector = url.parse::<edge::trace::Collector>().unwrap().with_headers("x-team=edge").unwrap();
    let (tracing, export) = TraceArgs { collector, sampled_ppm }.open();
    let edge = Edge::start_as(yaml, Limits::default(), &["127.0.0.1:0"], &Logger::off, Some(tracing));
    let entered = edge.runtime.enter();
    let exporting = export.start("w-1", &edge.control);
    drop(entered);
    (edge, exporting)
}

/// The spans of the next batch, with the exporter at work.
fn next(edge: &Edge, spans: &mpsc::Receiver<ExportTraceServiceRequest>) -> Vec<Span> {
    let mut batch = None;
    wait_for("spans", || {
        edge.runtime.block_on(async { tokio::time::sleep(Duration::from_millis(10)).await });
        batch = spans.try_recv().ok();
        batch.is_some()
    });
    let [resource] = <[_; 1]>::try_from(batch.unwrap().resource_spans).unwrap();
    let about = resource.resource.unwrap().attributes;
    assert_eq!((text(&about, "service.name"), text(&about, "service.instance.id")), ("weir", "w-1"));
    resource.scope_spans.into_iter().flat_map(|scope| scope.spans).collect()
}

fn value<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a Value> {
    attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref()?.value.as_ref()
}

fn text<'a>(attributes: &'a [KeyValue], key: &str) -> &'a str {
    match value(attributes, key) {
        Some(Value::StringValue(text)) => text,
        other => panic!("{key}: {other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn ask(edge: &Edge, fields: &str) -> crate::support::Response {
    edge.ask(&format!("GET /a?secret=1 HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n"))
}

#[test]
fn a_callers_trace_goes_on_through_the_worker() {
    let upstream = Upstream::saying("hello");
    let (collector, spans) = collector(0);
    let (edge, exporting) = traced(&proxy(&upstream), &collector, 0);
    let response = ask(&edge, &format!("Traceparent: 00-{TRACE}-{SPAN}-01\r\nTracestate: foo=1\r\n"));
    let parent = upstream.last().header("traceparent").unwrap().to_owned();
    assert_eq!(upstream.last().header("tracestate"), Some("foo=1"));
    let [server, client] = <[Span; 2]>::try_from(next(&edge, &spans)).unwrap();
    assert_eq!((hex(&server.trace_id).as_str(), hex(&server.parent_span_id).as_str()), (TRACE, SPAN));
    assert_eq!((server.kind(), client.kind()), (SpanKind::Server, SpanKind::Client));
    assert_eq!((&client.trace_id, &client.parent_span_id), (&server.trace_id, &server.span_id));
    assert_eq!(parent, format!("00-{TRACE}-{}-01", hex(&client.span_id)), "the upstream is the try's child");
    assert_eq!((server.name.as_str(), client.name.as_str()), ("GET default/all", "GET default/up"));
    assert!(server.start_time_unix_nano <= client.start_time_unix_nano);
    assert!(client.end_time_unix_nano <= server.end_time_unix_nano && client.start_time_unix_nano > 0);
    assert_eq!(text(&server.attributes, "url.path"), "/a", "and no query");
    assert_eq!(text(&server.attributes, "weir.request_id"), response.header("x-request-id").unwrap());
    assert_eq!(value(&server.attributes, "http.response.status_code"), Some(&Value::IntValue(200)));
    let port = i64::from(upstream.address.port());
    assert_eq!(value(&client.attributes, "server.port"), Some(&Value::IntValue(port)));
    assert!(server.status.is_none() && client.status.is_none());
    assert!(edge.control.metrics().contains("weir_edge_spans_exported_total 2\n"));

    // What the caller has decided against passes as it came, and nobody hears of it.
    let unsampled = format!("00-{TRACE}-{SPAN}-00");
    ask(&edge, &format!("Traceparent: {unsampled}\r\nTracestate: foo=1\r\n"));
    assert_eq!(upstream.last().header("traceparent"), Some(unsampled.as_str()));
    assert_eq!(upstream.last().header("tracestate"), Some("foo=1"));
    // What is not valid, or is not there, begins a trace, which with a share of zero is not sampled.
    for fields in
        [format!("Traceparent: 00-{TRACE}-{}-01\r\nTracestate: foo=1\r\n", "0".repeat(16)), String::new()]
    {
        ask(&edge, &fields);
        let parent = upstream.last().header("traceparent").unwrap().to_owned();
        assert!(parent.ends_with("-00") && !parent.contains(TRACE), "{parent}");
        assert_eq!(upstream.last().header("tracestate"), None, "a state without its parent");
    }
    let runtime = edge.drain_apart(PATIENCE);
    runtime.block_on(exporting.end());
    assert!(spans.try_recv().is_err(), "nothing else was sampled");
}

#[test]
fn a_listener_says_which_share_of_its_traces_is_sampled() {
    let upstream = Upstream::saying("hello");
    let (collector, spans) = collector(0);
    let policy = "---\napiVersion: weir.dev/v1\nkind: ListenerPolicy\nmetadata: {name: traced}\nspec:\n  \
                  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: gateway}]\n  \
                  tracing: {sampledPercent: 100}\n";
    let (edge, exporting) = traced(&(proxy(&upstream) + policy), &collector, 0);
    (0..10).for_each(|_| drop(ask(&edge, "")));
    let parent = upstream.last().header("traceparent").unwrap().to_owned();
    let runtime = edge.drain_apart(PATIENCE);
    runtime.block_on(exporting.end());
    let all: Vec<Span> = spans
        .try_iter()
        .flat_map(|batch| batch.resource_spans)
        .flat_map(|resource| resource.scope_spans)
        .flat_map(|scope| scope.spans)
        .collect();
    assert_eq!(all.len(), 20, "a drained worker has exported all that it had");
    assert!(all.iter().any(|span| parent == format!("00-{}-{}-01", hex(&span.trace_id), hex(&span.span_id))));
}

#[test]
fn each_try_has_a_span_and_says_how_it_failed() {
    let (collector, spans) = collector(0);
    let (edge, _exporting) =
        traced(&(route(&forward("up")) + &backend("up", dead_address())), &collector, 1_000_000);
    assert_eq!(ask(&edge, "").status, 502);
    let [server, first, second] = <[Span; 3]>::try_from(next(&edge, &spans)).unwrap();
    assert_eq!(server.status.as_ref().map(|status| status.code()), Some(StatusCode::Error));
    for (span, resends) in [(&first, None), (&second, Some(&Value::IntValue(1)))] {
        assert_eq!(span.parent_span_id, server.span_id);
        assert_eq!(span.status.as_ref().map(|status| status.code()), Some(StatusCode::Error));
        assert_eq!(text(&span.attributes, "error.type"), "connect");
        assert_eq!(value(&span.attributes, "http.request.resend_count"), resends);
    }
    assert_ne!(first.span_id, second.span_id);
    assert!(first.end_time_unix_nano <= second.start_time_unix_nano);
}

#[test]
fn a_collector_that_is_busy_is_asked_again_and_one_that_is_gone_costs_spans_only() {
    let upstream = Upstream::saying("hello");
    let (busy, spans) = collector(1);
    let (edge, _exporting) = traced(&proxy(&upstream), &busy, 1_000_000);
    assert_eq!(ask(&edge, "").status, 200);
    assert_eq!(next(&edge, &spans).len(), 2);

    let gone = collector(usize::MAX).0;
    let (edge, _never_run) = traced(&proxy(&upstream), &gone, 1_000_000);
    let mut client = edge.connect();
    for _ in 0..6_000 {
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
        assert_eq!(client.response().status, 200);
    }
    let metrics = edge.control.metrics();
    let dropped = metrics.lines().find_map(|line| line.strip_prefix("weir_edge_spans_dropped_total "));
    assert!(dropped.is_some_and(|count| count != "0"), "the queue is bounded: {dropped:?}");
}

#[test]
fn what_is_passed_on_as_it_is_has_spans_as_well() {
    let echo = Upstream::raw(|exchange| {
        let ping = exchange.exactly(4);
        exchange.send(ping);
    });
    let (collector, spans) = collector(0);
    let yaml = |to: std::net::SocketAddr| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: gateway}}
spec: {{gatewayClassName: weir, listeners: [{{name: tcp, port: 5432, protocol: TCP}}]}}
---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: {{name: all}}
spec:
  parentRefs: [{{name: gateway}}]
  rules: [{{backendRefs: [{{group: weir.dev, kind: Backend, name: up}}]}}]
---
apiVersion: weir.dev/v1
kind: Pool
metadata: {{name: default}}
spec: {{listen: [{{port: 5432, bind: \"127.0.0.1:1\", protocol: TCP, tenant: static}}]}}
{}",
            backend("up", to)
        )
    };
    let (mut edge, _exporting) = traced(&yaml(echo.address), &collector, 1_000_000);
    let mut client = crate::support::Client::connect(edge.at(5432));
    client.send("ping");
    assert_eq!(&client.bytes::<4>(), b"ping");
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(client.is_closed());
    let [server, connect] = <[Span; 2]>::try_from(next(&edge, &spans)).unwrap();
    assert_eq!((server.name.as_str(), connect.name.as_str()), ("TCP TCPRoute/default/all", "TCP"));
    assert_eq!((server.kind(), connect.kind()), (SpanKind::Server, SpanKind::Client));
    assert_eq!(connect.parent_span_id, server.span_id);
    assert_eq!(text(&server.attributes, "network.transport"), "tcp");
    assert_eq!(text(&server.attributes, "client.address"), "127.0.0.1");
    assert_eq!(value(&server.attributes, "weir.bytes_in"), Some(&Value::IntValue(4)));
    assert_eq!(value(&server.attributes, "weir.bytes_out"), Some(&Value::IntValue(4)));
    assert_eq!(value(&server.attributes, "http.request.method"), None);
    let port = i64::from(echo.address.port());
    assert_eq!(value(&connect.attributes, "server.port"), Some(&Value::IntValue(port)));
    assert!(server.status.is_none() && connect.status.is_none());

    edge.activate(&yaml(dead_address()));
    assert!(crate::support::Client::connect(edge.at(5432)).is_closed());
    let [server, connect] = <[Span; 2]>::try_from(next(&edge, &spans)).unwrap();
    for span in [&server, &connect] {
        assert_eq!(text(&span.attributes, "error.type"), "connect");
        assert_eq!(span.status.as_ref().map(|status| status.code()), Some(StatusCode::Error));
    }
}
