//! gRPC through the gateway: with grpcio on both sides, and what the gateway says itself.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use futures_util::FutureExt;
use http::{Request, Response};

use crate::{
    support::{Edge, PATIENCE, backend, dead_address, forward, route},
    upstreams::{H2C, Manner, Peer, Turn, connect_h2c, proxy},
};

/// A Python that has the module: `WEIR_PYTHON`, or `python3`.
pub(crate) fn python_with(module: &str) -> Option<String> {
    let python = std::env::var("WEIR_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let import = Command::new(&python).args(["-c", &format!("import {module}")]).output().ok()?;
    import.status.success().then_some(python)
}

#[test]
fn grpcio_is_served_in_all_of_its_ways() {
    let Some(python) = python_with("grpc") else {
        println!("skipped: no grpcio (pip install grpcio, WEIR_PYTHON)");
        return;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/peers/grpc_peer.py");
    let mut peer =
        Command::new(python).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(peer.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    let port: u16 = first.strip_prefix("port ").unwrap().parse().unwrap();
    let to = |prefix: &str, name: &str| {
        format!(
            "  - matches: [{{path: {{value: /{prefix}}}}}]\n    backendRefs: [{{group: weir.dev, kind: Backend, name: {name}}}]\n"
        )
    };
    let live = backend("live", ([127, 0, 0, 1], port).into())
        .replace("spec: {", "spec: {appProtocol: kubernetes.io/h2c, ");
    let rules = to("test.Peer", "live") + &to("dead.Peer", "dead");
    let edge = Edge::start(&(route(&rules) + &live + &backend("dead", dead_address())));
    writeln!(peer.stdin.take().unwrap(), "gateway {}", edge.at(80)).unwrap();
    let report: Vec<String> = lines.map(Result::unwrap).collect();
    assert!(peer.wait().unwrap().success(), "{report:#?}");
    assert!(report.len() >= 14 && report.iter().all(|line| line.starts_with("ok ")), "{report:#?}");
}

/// Asks for `/s/m` as a gRPC client with that timeout, and gives head and trailers of the answer.
async fn ask(edge: &Edge, timeout: Option<&str>) -> (Response<()>, Option<http::HeaderMap>) {
    let mut sender = connect_h2c(edge).await;
    let mut request = Request::post("http://a.test/s/m").header("content-type", "application/grpc");
    if let Some(timeout) = timeout {
        request = request.header("grpc-timeout", timeout);
    }
    let (response, _send) = sender.send_request(request.body(()).unwrap(), true).unwrap();
    let response = tokio::time::timeout(PATIENCE, response).await.expect("an answer").unwrap();
    let (parts, mut body) = response.into_parts();
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
    }
    let trailers = body.trailers().await.unwrap();
    (Response::from_parts(parts, ()), trailers)
}

#[test]
fn a_deadline_is_kept_by_the_gateway_itself() {
    // An upstream that says nothing, and one that begins and says no more.
    for begins in [false, true] {
        let peer = Peer::start(Manner::default(), move |turn| {
            async move {
                let Turn { mut respond, .. } = turn;
                let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
                let _begun = begins.then(|| respond.send_response(head, false).unwrap());
                tokio::time::sleep(Duration::from_secs(3600)).await;
            }
            .boxed()
        });
        let edge = Edge::start(&proxy(&peer, H2C));
        let (response, trailers) = edge.runtime.block_on(ask(&edge, Some("300m")));
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/grpc");
        let said = if begins { trailers.as_ref().unwrap() } else { response.headers() };
        assert_eq!(said["grpc-status"], "4", "{response:?} {trailers:?}");
        assert_eq!(said["grpc-message"], "the upstream did not answer in time");
    }
}

#[test]
fn what_goes_wrong_is_said_in_grpcs_terms() {
    let dead = backend("up", dead_address());
    for (yaml, status, message) in [
        (route(&forward("up")) + &dead, "14", "the upstream cannot be reached"),
        (route("  - {}\n"), "14", "the route has no backend"),
    ] {
        let edge = Edge::start(&yaml);
        let (response, trailers) = edge.runtime.block_on(ask(&edge, None));
        assert_eq!((response.status().as_u16(), trailers), (200, None), "only trailers");
        assert_eq!(response.headers()["grpc-status"], status);
        assert_eq!(response.headers()["grpc-message"], message);
        assert!(!response.headers().contains_key("content-length"));
    }
}

#[test]
fn a_stream_that_breaks_ends_with_a_status() {
    let peer = Peer::start(Manner::default(), |turn| {
        async move {
            let Turn { mut respond, .. } = turn;
            let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
            let mut send = respond.send_response(head, false).unwrap();
            send.send_data("half".into(), false).unwrap();
            tokio::task::yield_now().await;
            send.send_reset(h2::Reason::INTERNAL_ERROR);
        }
        .boxed()
    });
    let edge = Edge::start(&proxy(&peer, H2C));
    let (response, trailers) = edge.runtime.block_on(ask(&edge, None));
    let status =
        trailers.as_ref().and_then(|t| t.get("grpc-status")).or(response.headers().get("grpc-status"));
    assert_eq!(status.unwrap(), "14");
}

#[test]
fn a_drain_that_ends_cuts_calls_off_with_a_status_and_all_else_by_a_reset() {
    let (came, mut coming) = tokio::sync::mpsc::unbounded_channel();
    let peer = Peer::start(Manner::default(), move |turn| {
        let came = came.clone();
        async move {
            let Turn { request, mut respond, .. } = turn;
            let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
            let mut begun =
                (request.uri().path() == "/s/begins").then(|| respond.send_response(head, false).unwrap());
            if let Some(send) = &mut begun {
                send.send_data("half".into(), false).unwrap();
            }
            came.send(()).unwrap();
            std::future::pending::<()>().await;
        }
        .boxed()
    });
    let edge = Edge::start(&proxy(&peer, H2C));
    let answers = edge.runtime.block_on(async {
        let mut sender = connect_h2c(&edge).await;
        let mut answers = Vec::new();
        let calls =
            [("begins", "application/grpc"), ("silent", "application/grpc"), ("silent", "text/plain")];
        for (path, kind) in calls {
            sender = sender.ready().await.unwrap();
            let request = Request::post(format!("http://a.test/s/{path}")).header("content-type", kind);
            answers.push(sender.send_request(request.body(()).unwrap(), false).unwrap());
        }
        for _ in &answers {
            tokio::time::timeout(PATIENCE, coming.recv()).await.unwrap().unwrap();
        }
        answers
    });
    let runtime = edge.drain_apart(Duration::from_millis(300));
    runtime.block_on(async {
        let mut answers = answers.into_iter();
        let (begun, _send) = answers.next().unwrap();
        let mut body = begun.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "half");
        assert!(body.data().await.is_none());
        assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "14");
        let (silent, _send) = answers.next().unwrap();
        let silent = silent.await.unwrap();
        assert_eq!(silent.headers()["content-type"], "application/grpc");
        assert_eq!(silent.headers()["grpc-status"], "14");
        let (other, _send) = answers.next().unwrap();
        assert_eq!(other.await.unwrap_err().reason(), Some(h2::Reason::INTERNAL_ERROR));
    });
}
