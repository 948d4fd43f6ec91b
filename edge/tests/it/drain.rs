//! Leaving without losing a request.

use std::time::Duration;

use crate::support::{Client, Edge, PATIENCE, Upstream, gate, pass, proxy, route};

#[test]
fn requests_in_flight_are_finished_and_their_connections_closed() {
    let (open, wait) = gate();
    let upstream = Upstream::start(move |exchange, _| {
        pass(&wait);
        exchange.reply("finished");
    });
    let edge = Edge::start(&proxy(&upstream));
    let mut clients: Vec<Client> = (0..8).map(|_| edge.connect()).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    }
    while upstream.received().len() < clients.len() {
        std::thread::yield_now();
    }
    edge.runtime.block_on(edge.control.drain(PATIENCE));
    for _ in &clients {
        open.send(()).unwrap();
    }
    for client in &mut clients {
        let response = client.response();
        assert!(response.whole);
        assert_eq!((response.text(), response.header("connection")), ("finished", Some("close")));
        assert!(client.is_closed());
    }
    edge.drain(PATIENCE);
}

#[test]
fn an_idle_connection_may_send_one_more_request() {
    let upstream = Upstream::saying("x");
    let edge = Edge::start(&proxy(&upstream));
    let mut client = edge.connect();
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert_ne!(client.response().header("connection"), Some("close"));
    edge.runtime.block_on(edge.control.drain(PATIENCE));
    assert_eq!(*edge.control.phase().borrow(), edge::Phase::Draining);
    // Who connects during the drain is served, too: nobody else may hold the socket yet.
    let mut late = edge.connect();
    for client in [&mut client, &mut late] {
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
        let response = client.response();
        assert_eq!((response.status, response.header("connection")), (200, Some("close")));
    }
    edge.drain(PATIENCE);
}

#[test]
fn the_deadline_ends_what_is_left() {
    let (_never, wait) = gate();
    let upstream = Upstream::start(move |_, _| wait.lock().unwrap().recv().unwrap_or_default());
    let edge = Edge::start(&proxy(&upstream));
    let mut client = edge.connect();
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let mut idle = edge.connect();
    while upstream.received().is_empty() {
        std::thread::yield_now();
    }
    edge.drain(Duration::from_millis(500));
    assert!(client.response_to("GET").is_none());
    assert!(idle.is_closed());
}

#[test]
fn slots_that_are_given_back_are_not_listened_on() {
    let upstream = Upstream::saying("x");
    let edge = Edge::start(&proxy(&upstream));
    let held = edge.control.held_slots().unwrap();
    assert_eq!(held.len(), 1);
    let (slots, sockets) = held.into_iter().next().unwrap();
    edge.runtime.block_on(edge.control.unlisten(&slots));
    assert!(edge.control.held_slots().unwrap().is_empty());
    // Our duplicate keeps the queue alive: connections wait in it, nobody accepts them.
    let mut waiting = edge.connect();
    waiting.stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    waiting.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let mut byte = [0];
    assert!(std::io::Read::read(&mut waiting.stream, &mut byte).is_err(), "nobody answers");
    // Whoever gets the socket next answers what waits.
    edge.runtime.block_on(edge.control.listen(slots.clone(), sockets)).unwrap();
    waiting.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(waiting.response().text(), "x");
    let again = edge.control.held_slots().unwrap().pop().unwrap();
    assert!(edge.runtime.block_on(edge.control.listen(slots, again.1)).is_err(), "held already");
}

#[test]
fn connections_above_the_level_are_retired() {
    let upstream = Upstream::saying("x");
    let edge = Edge::start(&proxy(&upstream));
    let mut clients: Vec<Client> = (0..8).map(|_| edge.connect()).collect();
    let ask = |client: &mut Client| {
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
        client.response().header("connection") == Some("close")
    };
    assert_eq!(clients.iter_mut().filter_map(|c| ask(c).then_some(())).count(), 0);
    edge.control.retire_above(7);
    let began = std::time::Instant::now();
    loop {
        assert!(began.elapsed() < PATIENCE, "nothing was retired");
        if let Some(retired) = clients.iter_mut().position(ask) {
            assert!(clients.swap_remove(retired).is_closed());
            break;
        }
    }
    assert_eq!(clients.iter_mut().filter_map(|c| ask(c).then_some(())).count(), 0, "one was enough");
}

#[test]
fn connections_that_are_queued_when_listening_stops_are_served() {
    let edge = Edge::start(&route("  - backendRefs: []\n"));
    let (slots, mut sockets) = edge.control.held_slots().unwrap().pop().unwrap();
    edge.runtime.block_on(edge.control.unlisten(&slots));
    let mut clients: Vec<Client> = (0..60).map(|_| edge.connect()).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    }
    // All three orders are given before the worker looks at the first.
    edge.runtime.block_on(async {
        let listen = edge.control.listen(slots, std::mem::take(&mut sockets));
        let (listening, (), ()) =
            tokio::join!(listen, edge.control.drain(PATIENCE), edge.control.stop_listening());
        listening.unwrap();
    });
    for (n, client) in clients.iter_mut().enumerate() {
        let status = client.response_to("GET").map(|response| response.status);
        assert_eq!(status, Some(500), "connection {n}");
    }
    drop(clients);
    edge.drain(Duration::from_millis(500));
}

#[test]
fn who_has_connected_and_said_nothing_is_served_when_listening_stops() {
    let edge = Edge::start(&route("  - backendRefs: []\n"));
    let mut clients: Vec<Client> = (0..20).map(|_| edge.connect()).collect();
    assert_eq!(edge.control.load().connections, 0, "the kernel keeps them");
    edge.runtime.block_on(edge.control.stop_listening());
    for (n, client) in clients.iter_mut().enumerate() {
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
        assert_eq!(client.response_to("GET").map(|response| response.status), Some(500), "connection {n}");
    }
}
