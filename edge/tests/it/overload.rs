//! What a worker refuses when it has too much to do.

use std::time::{Duration, Instant};

use edge::Limits;

use crate::support::{Edge, PATIENCE, Upstream, gate, pass, proxy};

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\nAccept: application/json\r\n\r\n";

#[test]
fn a_standing_queue_is_shed_and_the_connection_goes_on() {
    let upstream = Upstream::saying("x");
    // No thread is ever this quick, so that each tick shows a queue.
    let limits = Limits { queue_delay: Duration::ZERO, ..Limits::default() };
    let edge = Edge::start_with(&proxy(&upstream), limits);
    let mut client = edge.connect();
    let began = Instant::now();
    let refused = loop {
        assert!(began.elapsed() < PATIENCE, "nothing was shed");
        client.send(GET);
        let response = client.response();
        if response.status == 503 {
            break response;
        }
    };
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_ne!(refused.header("connection"), Some("close"));
    assert!(refused.text().contains("\"error\":\"overload_queue\""), "{}", refused.text());
    client.send(GET);
    assert!([200, 503].contains(&client.response().status));
    assert!(edge.control.load().shed > 0);
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
