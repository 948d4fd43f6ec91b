//! Clients that never send anything twice. Each request is answered or counted as failed; a connection that the
//! server ended in order (`Connection: close`, GOAWAY, a Close frame) is replaced before the next request is sent.

pub(super) mod grpc;
pub(super) mod h1;
pub(super) mod h3;
pub(super) mod websocket;

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use rand::RngExt as _;
use tokio::task::JoinSet;

use super::{doors::Doors, size::Size, tally::Tally, upstream::Delivered};

/// A wait of that length on average, from nothing to twice as much: clients do not move in step.
pub(super) async fn breathe(mean: Duration) {
    let micros = rand::rng().random_range(0..=2 * u64::try_from(mean.as_micros()).unwrap_or(u64::MAX / 2));
    tokio::time::sleep(Duration::from_micros(micros)).await;
}

/// Runs clients of every protocol until they are told to stop, and each has ended what it had begun.
pub(super) async fn run(doors: Doors, delivered: Delivered, size: Size, tally: Arc<Tally>) -> Result<()> {
    let mut running = JoinSet::new();
    for secure in [false, true] {
        let (idle, close) = match secure {
            false => ("HTTP/1.1, long pauses", "HTTP/1.1, body, a connection each"),
            true => ("HTTP/1.1, TLS, long pauses", "HTTP/1.1, TLS, body, a connection each"),
        };
        let (idle, close) = (tally.row(idle), tally.row(close));
        for _ in 0..size.clients {
            let way = doors.by(secure.then(|| doors.tls("http/1.1")).transpose()?);
            running.spawn(h1::visit_now_and_then(way.clone(), Arc::clone(&tally), Arc::clone(&idle)));
            running.spawn(h1::post_once(way, size.pause, Arc::clone(&tally), Arc::clone(&close)));
        }
    }
    let row = tally.row("HTTP/3");
    for _ in 0..size.clients {
        let tls = doors.tls("h3")?;
        running.spawn(h3::ask(doors.https, tls, size.pause, Arc::clone(&tally), Arc::clone(&row)));
    }
    for secure in [false, true] {
        let (calls, streams) = match secure {
            false => ("gRPC unary, cleartext", "gRPC stream messages, cleartext"),
            true => ("gRPC unary", "gRPC stream messages"),
        };
        let (calls, streams) = (tally.row(calls), tally.row(streams));
        let way = doors.by(secure.then(|| doors.tls("h2")).transpose()?);
        let link = grpc::Link::new(way, Arc::clone(&calls));
        for _ in 0..size.clients {
            running.spawn(grpc::call(Arc::clone(&link), size.pause, Arc::clone(&tally), Arc::clone(&calls)));
            running.spawn(grpc::converse(Arc::clone(&link), size, Arc::clone(&tally), Arc::clone(&streams)));
        }
    }
    for secure in [false, true] {
        let row = tally.row(if secure { "WebSocket messages, TLS" } else { "WebSocket messages" });
        for number in 0..size.clients {
            let way = doors.by(secure.then(|| doors.tls("http/1.1")).transpose()?);
            let client = websocket::Client::new(
                u64::from(secure) << 32 | u64::from(number),
                way,
                Arc::clone(&delivered),
                Arc::clone(&row),
            );
            running.spawn(client.talk(size.pause, Arc::clone(&tally)));
        }
    }
    while let Some(ended) = running.join_next().await {
        ended?;
    }
    Ok(())
}
