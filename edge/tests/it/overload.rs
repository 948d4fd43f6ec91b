//! What a worker refuses when it has too much to do.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use edge::Limits;

use crate::support::{Edge, PATIENCE, Upstream, backend, forward, gate, pass, proxy, route, wait_for};

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\nAccept: application/json\r\n\r\n";

/// What the file's one tenant may take of a thread.
fn quotas(said: &str) -> String {
    format!(
        "---\napiVersion: weir.dev/v1\nkind: Tenant\nmetadata: {{name: static}}\nspec: {{quotas: {said}}}\n"
    )
}

#[test]
fn a_standing_queue_is_shed_and_the_connection_goes_on() {
    let upstream = Upstream::saying("x");
    let toll = Duration::from_millis(2);
    let limits = Limits { queue_delay: Duration::from_millis(20), toll, ..Limits::default() };
    let edge = Edge::start_with(&proxy(&upstream), limits);
    let (done, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| {
                let mut client = edge.connect();
                while !done.load(Ordering::Relaxed) && began.elapsed() < PATIENCE {
                    client.send(GET);
                    let response = client.response();
                    if response.status == 503 {
                        assert_eq!(response.header("retry-after"), Some("1"));
                        assert_ne!(response.header("connection"), Some("close"));
                        assert!(
                            response.text().contains("\"error\":\"overload_queue\""),
                            "{}",
                            response.text()
                        );
                        done.store(true, Ordering::Relaxed);
                        // The refused connection goes on.
                        client.send(GET);
                        assert!([200, 503].contains(&client.response().status));
                    } else {
                        assert_eq!(response.status, 200);
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert!(done.load(Ordering::Relaxed), "nothing was shed");
    assert!(began.elapsed() > edge::limits::STANDING, "a burst was shed");
    assert!(served.load(Ordering::Relaxed) > 50, "nothing was served");
    assert!(edge.control.load().shed > 0);
    let metrics = edge.control.metrics();
    let shed = "weir_edge_tenant_shed_requests_total{tenant=\"static\",reason=\"overload_queue\"}";
    assert!(metrics.contains(shed), "{metrics}");
    wait_for("all is well again", || edge.get("/").status == 200);
}

#[test]
fn requests_above_the_bound_are_shed_and_others_finish() {
    let (open, wait) = gate();
    let upstream = Upstream::start(move |exchange, _| {
        pass(&wait);
        exchange.reply("finished");
    });
    let limits = Limits { in_flight: 1, ..Limits::default() };
    let edge = Edge::start_with(&proxy(&upstream), limits);
    let (mut first, mut second) = (edge.connect(), edge.connect());
    first.send(GET);
    while upstream.received().is_empty() {
        std::thread::yield_now();
    }
    second.send(GET);
    let refused = second.response();
    assert_eq!(refused.status, 503);
    assert!(refused.text().contains("overload_in_flight"), "{}", refused.text());
    open.send(()).unwrap();
    open.send(()).unwrap();
    assert_eq!(first.response().text(), "finished");
    second.send(GET);
    assert_eq!(second.response().text(), "finished");
    assert_eq!(edge.control.load().shed, 1);
}

#[test]
fn a_tenant_has_no_more_requests_at_once_than_its_quota_allows_and_is_told_why() {
    let (open, wait) = gate();
    let upstream = Upstream::start(move |exchange, _| {
        pass(&wait);
        exchange.reply("finished");
    });
    let mut edge = Edge::start(&(proxy(&upstream) + &quotas("{requestsInFlight: 1}")));
    let (mut first, mut second) = (edge.connect(), edge.connect());
    first.send(GET);
    wait_for("the first is on its way", || !upstream.received().is_empty());
    second.send(GET);
    let refused = second.response();
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    assert!(refused.text().contains("\"error\":\"quota_in_flight\""), "{}", refused.text());
    let id = refused.header("x-request-id").unwrap().to_owned();
    let tenant = "static".parse().unwrap();
    wait_for("the tenant hears why", || {
        let known = edge.runtime.block_on(edge.control.recall(&id, Some(&tenant)));
        known.is_some_and(|known| {
            assert_eq!(known.refusal, "quota_in_flight");
            assert!(known.detail.contains("spec.quotas.requestsInFlight"), "{}", known.detail);
            true
        })
    });
    let metrics = edge.control.metrics();
    for expect in [
        "weir_edge_tenant_requests_in_flight{tenant=\"static\"} 1\n",
        "weir_edge_tenant_connections{tenant=\"static\"} 1\n",
        "weir_edge_tenant_shed_requests_total{tenant=\"static\",reason=\"quota_in_flight\"} 1\n",
    ] {
        assert!(metrics.contains(expect), "{expect} is not in\n{metrics}");
    }
    // A quota is as the configuration has it now.
    edge.activate(&proxy(&upstream));
    second.send(GET);
    wait_for("both are on their way", || upstream.received().len() == 2);
    open.send(()).unwrap();
    open.send(()).unwrap();
    assert_eq!(first.response().text(), "finished");
    assert_eq!(second.response().text(), "finished");
}

#[test]
fn a_tenant_has_no_more_connections_than_its_quota_allows() {
    let upstream = Upstream::saying("x");
    let edge = Edge::start(&(proxy(&upstream) + &quotas("{connections: 1}")));
    let mut first = edge.connect();
    first.send(GET);
    assert_eq!(first.response().status, 200);
    let mut second = edge.connect();
    second.send(GET);
    let refused = second.response();
    assert_eq!((refused.status, refused.header("connection")), (503, Some("close")));
    assert!(refused.text().contains("\"error\":\"quota_connections\""), "{}", refused.text());
    assert!(second.is_closed());
    first.send(GET);
    assert_eq!(first.response().status, 200);
    drop(first);
    wait_for("there is room again", || edge.ask(GET).status == 200);
}

#[test]
fn what_is_buffered_for_slow_readers_counts_for_their_tenant() {
    let rules = forward("large").replace("  - ", "  - matches: [{path: {value: /large}}]\n    ")
        + "  - matches: [{path: {value: /}}]\n    backendRefs: [{group: weir.dev, kind: Backend, name: up}]\n";
    let large = Upstream::start(|exchange, _| {
        exchange.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 64 << 20));
        let part = vec![b'x'; 1 << 20];
        for _ in 0..64 {
            exchange.send(&part);
        }
    });
    let upstream = Upstream::saying("x");
    let yaml = route(&rules) + &backend("large", large.address) + &backend("up", upstream.address);
    let edge = Edge::start(&(yaml + &quotas("{bufferedBytes: 131072}")));
    let mut readers: Vec<_> = (0..3).map(|_| edge.connect()).collect();
    for reader in &mut readers {
        reader.send("GET /large HTTP/1.1\r\nHost: a.test\r\n\r\n");
    }
    let mut refused = None;
    wait_for("the buffers are full", || {
        let response = edge.ask(GET);
        let full = response.status == 503;
        refused = full.then_some(response);
        full
    });
    let refused = refused.unwrap();
    assert!(refused.text().contains("\"error\":\"quota_memory\""), "{}", refused.text());
    drop(readers);
    wait_for("the buffers are gone", || edge.ask(GET).status == 200);
    let metrics = edge.control.metrics();
    assert!(metrics.contains("weir_edge_tenant_buffered_bytes{tenant=\"static\"} 0\n"), "{metrics}");
}

#[test]
fn what_a_tunnel_buffers_counts_for_its_tenant() {
    let upstream = Upstream::raw(|exchange| {
        exchange.head().unwrap();
        exchange.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: anything\r\nConnection: upgrade\r\n\r\n");
        // More than all that is between us and the client takes; the client's end breaks it off.
        let part = vec![b'x'; 1 << 20];
        while std::io::Write::write_all(&mut exchange.stream, &part).is_ok() {}
    });
    let edge = Edge::start(&proxy(&upstream));
    let buffered = |edge: &Edge| {
        let metrics = edge.control.metrics();
        let name = "weir_edge_tenant_buffered_bytes{tenant=\"static\"} ";
        metrics.lines().find_map(|line| line.strip_prefix(name)).map(|bytes| bytes.parse::<u64>().unwrap())
    };
    let mut client = edge.connect();
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\nUpgrade: anything\r\nConnection: upgrade\r\n\r\n");
    assert_eq!(client.response().status, 101);
    wait_for("the buffer that the client does not empty", || buffered(&edge).is_some_and(|bytes| bytes > 0));
    drop(client);
    wait_for("nothing is left", || buffered(&edge).is_none_or(|bytes| bytes == 0));
}

#[test]
fn a_tenant_object_of_another_name_is_refused_with_what_to_do() {
    let upstream = Upstream::saying("x");
    let content = proxy(&upstream) + &quotas("{weight: 1}").replace("name: static", "name: acme");
    let file = dialect::SourceFile { name: "f.yaml".to_owned(), content };
    let error = edge::static_config::compile(file, model::Revision(1)).unwrap_err().to_string();
    assert!(
        error.contains("Tenant default/acme metadata.name") && error.contains("call the Tenant static"),
        "{error}"
    );
    let content = proxy(&upstream) + &quotas("{connections: 0, weight: 20000}");
    let file = dialect::SourceFile { name: "f.yaml".to_owned(), content };
    let error = edge::static_config::compile(file, model::Revision(1)).unwrap_err().to_string();
    for field in ["spec.quotas.connections", "spec.quotas.weight"] {
        assert!(error.contains(field), "{error}");
    }
}

#[test]
fn a_worker_without_memory_takes_no_connection() {
    let upstream = Upstream::saying("x");
    let limits = Limits { memory_bytes: 1, ..Limits::default() };
    let edge = Edge::start_with(&proxy(&upstream), limits);
    let began = Instant::now();
    loop {
        assert!(began.elapsed() < PATIENCE, "connections are still taken");
        let mut client = edge.connect();
        // The worker may close under us: that is the point.
        drop(std::io::Write::write_all(&mut client.stream, GET.as_bytes()));
        if client.response_to("GET").is_none() {
            break;
        }
    }
    assert!(edge.control.metrics().contains("weir_edge_over_limit_connections_total 1\n"));
}
