//! WebSocket: over each protocol, and when it has to go: both sides are told, and no message is cut.

mod autobahn;
mod frames;
pub(crate) mod streams;

use std::time::Duration;

use edge::Limits;

use crate::support::{Client, Edge, PATIENCE, Upstream, backend, forward, gate, proxy, route};
use frames::{
    CLOSE, CONTINUES_AND_ENDS, Frame, GOING_AWAY, TEXT, TEXT_BEGINS, close, echo, frame, masked, next,
    upstream,
};

fn open(edge: &Edge) -> Client {
    let mut client = edge.connect();
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n");
    assert_eq!(client.response().status, 101);
    client
}

fn hear(client: &mut Client) -> Option<Frame> {
    Frame::read(&mut client.stream)
}

/// Half of it is over when tunnels begin to leave, and four fifths when the last does.
const DRAIN: Duration = Duration::from_secs(4);

#[test]
fn a_drain_says_goodbye_to_both_sides() {
    let (upstream, told) = upstream(echo(1000));
    let edge = Edge::start(&proxy(&upstream));
    let mut client = open(&edge);
    edge.runtime.block_on(edge.control.drain(DRAIN));
    client.send(masked(TEXT, b"still here"));
    assert_eq!(hear(&mut client).unwrap().payload, b"still here", "a tunnel is not ended at once");
    assert_eq!(next(&told).unwrap().payload, b"still here");

    let goodbye = next(&told).unwrap();
    assert_eq!((goodbye.close_code(), goodbye.masked), (Some(GOING_AWAY), true));
    // Whatever the upstream says, the client is to come back.
    let goodbye = hear(&mut client).unwrap();
    assert_eq!((goodbye.close_code(), goodbye.masked), (Some(GOING_AWAY), false));
    client.send(masked(CLOSE, &GOING_AWAY.to_be_bytes()));
    assert!(client.is_closed());
    let began = std::time::Instant::now();
    edge.drain(PATIENCE);
    assert!(began.elapsed() < DRAIN, "the worker waits for nobody");
}

#[test]
fn a_message_that_was_begun_is_finished_first() {
    let (upstream, told) = upstream(echo(GOING_AWAY));
    // Being silent ends a tunnel as a drain does, and sooner here.
    let limits = Limits { tunnel_idle: Duration::from_millis(500), ..Limits::default() };
    let edge = Edge::start_with(&proxy(&upstream), limits);
    let mut client = open(&edge);
    client.send(masked(TEXT_BEGINS, b"hel"));
    assert_eq!(next(&told).unwrap().payload, b"hel");
    assert_eq!(hear(&mut client).unwrap().payload, b"hel");
    let quiet = told.recv_timeout(Duration::from_millis(1500));
    assert!(quiet.is_err(), "the upstream got something in the middle of a message: {quiet:?}");
    // What comes after the message is not delivered, not even when it comes in the same write.
    client.send([masked(CONTINUES_AND_ENDS, b"lo"), masked(TEXT, b"late")].concat());
    assert_eq!(next(&told).unwrap().payload, b"lo");
    assert_eq!(next(&told).unwrap().close_code(), Some(GOING_AWAY));
    assert_eq!(next(&told), None);
    let end = hear(&mut client).unwrap();
    assert_eq!((end.first, &*end.payload), (CONTINUES_AND_ENDS, &b"lo"[..]));
    assert_eq!(hear(&mut client).unwrap().close_code(), Some(GOING_AWAY));
    client.send(masked(CLOSE, &GOING_AWAY.to_be_bytes()));
    assert!(client.is_closed());
}

#[test]
fn what_the_upstream_says_before_its_close_arrives() {
    let (upstream, _told) = upstream(|exchange, got| {
        if got.first == CLOSE {
            exchange.send(frame(TEXT_BEGINS, b"last ", None));
            exchange.send(frame(CONTINUES_AND_ENDS, b"words", None));
            exchange.send(close(1000));
            exchange.close();
        }
    });
    let edge = Edge::start(&proxy(&upstream));
    let mut client = open(&edge);
    edge.runtime.block_on(edge.control.drain(DRAIN));
    assert_eq!(hear(&mut client).unwrap().payload, b"last ");
    assert_eq!(hear(&mut client).unwrap().payload, b"words");
    assert_eq!(hear(&mut client).unwrap().close_code(), Some(GOING_AWAY));
    client.send(masked(CLOSE, &GOING_AWAY.to_be_bytes()));
    assert!(client.is_closed());
}

#[test]
fn an_upstream_that_does_not_answer_keeps_nothing_from_the_client() {
    let (upstream, told) = upstream(|_, _| {});
    let edge = Edge::start(&proxy(&upstream));
    let mut client = open(&edge);
    edge.runtime.block_on(edge.control.drain(Duration::from_secs(2)));
    assert_eq!(next(&told).unwrap().close_code(), Some(GOING_AWAY));
    assert_eq!(hear(&mut client).unwrap().close_code(), Some(GOING_AWAY), "at the deadline at the latest");
    assert!(client.is_closed());
}

#[test]
fn a_closing_handshake_that_is_under_way_is_left_alone() {
    let (_open, never) = gate();
    let (upstream, told) = upstream(move |exchange, got| {
        if got.first == CLOSE {
            // Slower than the tunnel's patience.
            let _late = never.lock().unwrap().recv_timeout(Duration::from_secs(1));
            exchange.send(close(got.close_code().unwrap()));
            exchange.close();
        }
    });
    let limits = Limits { tunnel_idle: Duration::from_millis(500), ..Limits::default() };
    let edge = Edge::start_with(&proxy(&upstream), limits);
    let mut client = open(&edge);
    client.send(masked(CLOSE, &1000_u16.to_be_bytes()));
    assert_eq!(next(&told).unwrap().close_code(), Some(1000));
    assert_eq!(hear(&mut client).unwrap().close_code(), Some(1000));
    assert_eq!(next(&told), None, "no second Close");
}

/// A Pool with a short drain.
const POOL: &str = "---
apiVersion: weir.dev/v1
kind: Pool
metadata: {name: default}
spec: {drainDeadline: 2s, listen: [{port: 80, bind: '127.0.0.1:8080', protocol: HTTP}]}
";

#[test]
fn a_route_that_is_removed_takes_its_tunnels_with_it() {
    let (upstream, told) = upstream(echo(GOING_AWAY));
    let mut edge = Edge::start(&(proxy(&upstream) + POOL));
    let mut client = open(&edge);
    edge.activate(&(route("  - backendRefs: []\n").replace("name: all", "name: other") + POOL));
    assert_eq!(next(&told).unwrap().close_code(), Some(GOING_AWAY));
    assert_eq!(hear(&mut client).unwrap().close_code(), Some(GOING_AWAY));
    client.send(masked(CLOSE, &GOING_AWAY.to_be_bytes()));
    assert!(client.is_closed());
}

#[test]
fn a_route_that_changes_keeps_its_tunnels() {
    let (upstream, told) = upstream(echo(GOING_AWAY));
    let other = Upstream::saying("other");
    let mut edge = Edge::start(&(proxy(&upstream) + POOL));
    let mut client = open(&edge);
    edge.activate(&(route(&forward("up")) + &backend("up", other.address) + POOL));
    assert_eq!(edge.get("/").text(), "other");
    assert!(told.recv_timeout(Duration::from_secs(3)).is_err());
    client.send(masked(TEXT, b"hello"));
    assert_eq!(hear(&mut client).unwrap().payload, b"hello");
}
