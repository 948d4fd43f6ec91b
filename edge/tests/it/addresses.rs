//! Address families, names, more than one thread.

use edge::Limits;

use crate::support::{Client, Edge, PATIENCE, Upstream, backend, forward, proxy, route};

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

#[test]
fn ipv6_is_served_and_forwarded_to() {
    let upstream = Upstream::raw_on("[::1]:0", |exchange| {
        while let Some(request) = exchange.head() {
            let client = request.header("x-forwarded-for").unwrap_or_default().to_owned();
            exchange.reply(&client);
        }
    });
    let edge = Edge::start_on(&proxy(&upstream), Limits::default(), &["[::1]:0"]);
    let mut client = edge.connect();
    assert!(client.stream.peer_addr().unwrap().is_ipv6());
    for _ in 0..2 {
        client.send(GET);
        assert_eq!(client.response().text(), "::1");
    }
}

#[test]
fn a_name_is_resolved_and_a_name_that_is_none_is_503() {
    let upstream = Upstream::saying("x");
    let named = |host: &str| {
        let address = format!("address: \"{}\"", upstream.address);
        let name = format!("host: {host}, port: {}", upstream.address.port());
        route(&forward("up")) + &backend("up", upstream.address).replace(&address, &name)
    };
    let edge = Edge::start(&named("localhost"));
    let began = std::time::Instant::now();
    // Until it is resolved there is no endpoint; where it has two addresses, one of them refuses.
    while edge.get("/").status != 200 {
        assert!(began.elapsed() < PATIENCE, "localhost does not resolve");
        std::thread::yield_now();
    }
    let edge = Edge::start(&named("nothing.invalid"));
    let response = edge.get("/");
    assert_eq!((response.status, response.header("retry-after")), (503, Some("1")));
}

#[test]
fn two_threads_serve_and_drain_as_one_worker() {
    let upstream = Upstream::saying("x");
    // One socket for each thread, so that which of them answers is known.
    let edge = Edge::start_on(&proxy(&upstream), Limits::default(), &["127.0.0.1:0", "127.0.0.1:0"]);
    assert_eq!(edge.control.threads(), 2);
    let mut clients: Vec<Client> = edge.bound.iter().map(|address| Client::connect(*address)).collect();
    for client in &mut clients {
        client.send(GET);
        assert_eq!(client.response().text(), "x");
    }
    assert_eq!(upstream.connections(), 2, "threads share no upstream connection");
    assert_eq!(edge.control.load().connections, 2);
    edge.runtime.block_on(edge.control.drain(PATIENCE));
    for client in &mut clients {
        client.send(GET);
        let response = client.response();
        assert_eq!((response.text(), response.header("connection")), ("x", Some("close")));
    }
    drop(clients);
    edge.drain(PATIENCE);
}
