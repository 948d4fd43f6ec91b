//! How a connection ends without losing a request (RFC 9113 section 6.8).

use std::time::Duration;

use edge::{Limits, h2::MOST};
use tokio::{net::TcpStream, time::timeout};

use super::{
    upstream,
    wire::{Peer, block, frame},
};
use crate::support::{Edge, PATIENCE, proxy};

fn get(stream: u32) -> Vec<u8> {
    let fields = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a.test")];
    frame(1, 5, stream, &block(&fields))
}

async fn connect(edge: &Edge) -> Peer {
    let mut peer = Peer::new(TcpStream::connect(edge.at(80)).await.unwrap());
    peer.greet().await;
    peer
}

/// The first GOAWAY names no stream, so that what was sent before it came is served; the answer to the PING behind it says that
/// it came, and the second one names the last.
#[test]
fn what_was_sent_before_goaway_came_is_served() {
    let upstream = upstream(Duration::ZERO);
    let edge = Edge::start(&proxy(&upstream));
    edge.runtime.block_on(async {
        let mut peer = connect(&edge).await;
        peer.send(&get(1)).await;
        assert!(peer.until(|log| log.answer(1) == Some(200)).await);
        edge.control.drain(PATIENCE).await;
        assert!(
            timeout(PATIENCE, peer.until(|log| log.leaves_after(MOST) && log.ping().is_some()))
                .await
                .unwrap()
        );
        peer.send(&get(3)).await;
        assert!(timeout(PATIENCE, peer.until(|log| log.answer(3) == Some(200))).await.unwrap());
        let ping = peer.log.ping().unwrap().to_vec();
        peer.send(&frame(6, 1, 0, &ping)).await;
        assert!(timeout(PATIENCE, peer.until(|log| log.leaves_after(3))).await.unwrap());
        peer.send(&get(5)).await;
        assert!(timeout(PATIENCE, peer.ends()).await.unwrap());
        assert_eq!(peer.log.answer(5), None);
    });
    assert_eq!(upstream.received().len(), 2);
    edge.drain(PATIENCE);
}

/// Whoever does not answer is not waited for beyond the time of an idle connection.
#[test]
fn a_client_that_does_not_answer_is_left() {
    let upstream = upstream(Duration::ZERO);
    let limits = Limits { idle: Duration::from_millis(300), ..Limits::default() };
    let edge = Edge::start_with(&proxy(&upstream), limits);
    edge.runtime.block_on(async {
        let mut peer = connect(&edge).await;
        assert!(timeout(PATIENCE, peer.until(|log| log.leaves_after(MOST))).await.unwrap());
        assert!(timeout(PATIENCE, peer.until(|log| log.leaves_after(0))).await.unwrap());
        assert!(timeout(PATIENCE, peer.ends()).await.unwrap());
    });
}
