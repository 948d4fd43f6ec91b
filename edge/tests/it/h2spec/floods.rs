//! What a client may not do too often, too slowly or too largely: each ends its connection with `ENHANCE_YOUR_CALM`, or its
//! stream, and others go on.

use std::time::Duration;

use edge::Limits;
use tokio::{net::TcpStream, time::timeout};

use super::{
    BODY, upstream,
    wire::{Peer, block, frame},
};
use crate::support::{Edge, PATIENCE, Upstream, gate, pass, proxy};

const CALM: &[u32] = &[0xb];
const CANCEL: &[u32] = &[8];
const FIELDS: &[(&str, &str)] =
    &[(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a.test")];

fn head(stream: u32, flags: u8) -> Vec<u8> {
    frame(1, 4 | flags, stream, &block(FIELDS))
}

fn reset(stream: u32) -> Vec<u8> {
    frame(3, 0, stream, &[0, 0, 0, 8])
}

fn update(stream: u32, increment: u32) -> Vec<u8> {
    frame(8, 0, stream, &increment.to_be_bytes())
}

/// The number of the n-th stream.
fn nth(n: u32) -> u32 {
    2 * n + 1
}

async fn connect(edge: &Edge) -> Peer {
    let mut peer = Peer::new(TcpStream::connect(edge.at(80)).await.unwrap());
    peer.greet().await;
    peer
}

/// Whether so many of something end the connection, and one less does not.
fn check(what: &str, most: u32, before: &[u8], make: impl Fn(u32) -> Vec<u8>) {
    let upstream = upstream(Duration::ZERO);
    let edge = Edge::start(&proxy(&upstream));
    edge.runtime.block_on(async {
        let mut peer = connect(&edge).await;
        let fine: Vec<_> = (0..most).map(&make).collect();
        peer.send(&[before, &fine.concat(), &frame(6, 0, 0, b"alive?!?")].concat()).await;
        let lives = timeout(PATIENCE, peer.until(|log| log.pong(b"alive?!?"))).await;
        assert_eq!(lives, Ok(true), "{most} {what}: {:?}", peer.log.0.last());
        let mut peer = connect(&edge).await;
        // One more, and one in place of the question.
        let many: Vec<_> = (0..=most + 1).map(&make).collect();
        peer.send(&[before, &many.concat()].concat()).await;
        let dies = timeout(PATIENCE, peer.until(|log| log.goaway(CALM))).await;
        assert_eq!(dies, Ok(true), "{what}: {:?}", peer.log.0.last());
        assert!(timeout(PATIENCE, peer.ends()).await.unwrap());
        let mut other = connect(&edge).await;
        other.send(&head(1, 1)).await;
        assert!(other.until(|log| log.answer(1) == Some(200)).await, "others are served");
    });
    let counted = "weir_edge_h2_failed_connections_total{reason=\"flood\"} 1\n";
    assert!(edge.control.metrics().contains(counted), "{what}");
}

#[test]
fn requests_that_are_taken_back() {
    let limits = Limits::default();
    check("requests taken back", limits.h2_pending_resets, &[], |n| {
        [head(nth(n), 0), reset(nth(n))].concat()
    });
}

/// Also of streams that have ended; the one that was answered allows one more.
#[test]
fn resets() {
    let limits = Limits::default();
    let before = [head(1, 0), reset(1)].concat();
    check("resets", limits.h2_resets_per_s - 1, &before, |_| reset(1));
}

#[test]
fn streams_that_we_are_made_to_reset() {
    let most = u32::try_from(Limits::default().h2_local_resets).unwrap();
    check("faults", most, &[], |n| [head(nth(n), 0), update(nth(n), 0)].concat());
}

#[test]
fn pings_and_settings() {
    let limits = Limits::default();
    // The last one asks whether it is still alive.
    check("pings", limits.h2_pings_per_s - 1, &[], |_| frame(6, 0, 0, b"12345678"));
    // One came at the beginning.
    check("settings", limits.h2_settings_per_s - 1, &[], |_| frame(4, 0, 0, &[]));
}

#[test]
fn frames_that_ask_for_nothing() {
    // The acknowledgement of our settings was one.
    let most = Limits::default().h2_small_frames_per_s - 1;
    check("openings", most, &[], |_| update(0, 1));
    check("priorities", most, &[], |n| frame(2, 0, nth(n), &[0, 0, 0, 0, 16]));
    check("frames of an unknown kind", most, &[], |_| frame(0x16, 0, 0, b"what?"));
    check("answers to no PING", most, &[], |_| frame(6, 1, 0, b"12345678"));
    let closed = [head(1, 0), update(1, 0)].concat();
    check("frames of a stream that we reset", most, &closed, |_| frame(0, 0, 1, b""));
}

#[test]
fn data_without_data() {
    check("empty frames", Limits::default().h2_empty_frames, &head(1, 0), |_| frame(0, 0, 1, b""));
}

#[test]
fn continuations() {
    let begin = frame(1, 1, 1, &block(FIELDS));
    let upstream = upstream(Duration::ZERO);
    let edge = Edge::start(&proxy(&upstream));
    edge.runtime.block_on(async {
        let mut peer = connect(&edge).await;
        let most = [vec![frame(9, 0, 1, b""); 19], vec![frame(9, 4, 1, b"")]].concat();
        peer.send(&[begin.clone(), most.concat()].concat()).await;
        assert!(timeout(PATIENCE, peer.until(|log| log.answer(1) == Some(200))).await.unwrap());
        for more in [vec![frame(9, 0, 1, b""); 21], vec![frame(9, 0, 1, &[0; 16_384]); 9]] {
            let mut peer = connect(&edge).await;
            peer.send(&[begin.clone(), more.concat()].concat()).await;
            assert!(timeout(PATIENCE, peer.until(|log| log.goaway(CALM))).await.unwrap());
        }
    });
}

/// An entry of 4 KB, and references to it of one byte each.
#[test]
fn a_block_that_grows_without_end() {
    let upstream = upstream(Duration::ZERO);
    let edge = Edge::start(&proxy(&upstream));
    edge.runtime.block_on(async {
        let mut peer = connect(&edge).await;
        let entry = [&b"\x40\x01x\x7f\xa0\x1e"[..], &[b'v'; 3999]].concat();
        peer.send(&frame(1, 5, 1, &[entry, vec![0xbe; 10_000]].concat())).await;
        assert!(timeout(PATIENCE, peer.until(|log| log.goaway(CALM))).await.unwrap());
    });
}

#[test]
fn a_head_that_does_not_end_in_time() {
    let upstream = upstream(Duration::ZERO);
    let limits = Limits { head: Duration::from_millis(300), ..Limits::default() };
    let edge = Edge::start_with(&proxy(&upstream), limits);
    edge.runtime.block_on(async {
        let mut silent = Peer::new(TcpStream::connect(edge.at(80)).await.unwrap());
        silent.send(edge::h2::PREFACE).await;
        let mut slow = connect(&edge).await;
        slow.send(&frame(1, 1, 1, &block(FIELDS))).await;
        assert!(timeout(PATIENCE, slow.until(|log| log.goaway(CALM))).await.unwrap());
        assert!(timeout(PATIENCE, silent.ends()).await.unwrap());
    });
}

#[test]
fn more_than_a_window() {
    let upstream = upstream(Duration::ZERO);
    let limits = Limits { h2_stream_window: 1000, ..Limits::default() };
    let edge = Edge::start_with(&proxy(&upstream), limits);
    edge.runtime.block_on(async {
        let mut peer = connect(&edge).await;
        // By then our settings are known to be known.
        peer.send(&frame(6, 0, 0, b"12345678")).await;
        assert!(peer.until(|log| log.pong(b"12345678")).await);
        peer.send(&[head(1, 0), frame(0, 0, 1, &[0; 1001])].concat()).await;
        assert!(timeout(PATIENCE, peer.until(|log| log.reset(1, &[3]))).await.unwrap());
        // What fits is given back when it was taken.
        peer.send(&head(3, 0)).await;
        for _ in 0..20 {
            let before = peer.log.opened(3);
            peer.send(&frame(0, 0, 3, &[0; 1000])).await;
            assert!(timeout(PATIENCE, peer.until(|log| log.opened(3) == before + 1000)).await.unwrap());
        }
        peer.send(&frame(0, 1, 3, b"")).await;
        assert!(timeout(PATIENCE, peer.until(|log| log.answer(3) == Some(200))).await.unwrap());
    });
}

#[test]
fn one_stream_that_takes_nothing_beside_busy_ones() {
    let upstream = upstream(Duration::ZERO);
    let limits = Limits { stall: Duration::from_millis(700), ..Limits::default() };
    let edge = Edge::start_with(&proxy(&upstream), limits);
    edge.runtime.block_on(async {
        let mut peer = Peer::new(TcpStream::connect(edge.at(80)).await.unwrap());
        // No window but for those that ask for one.
        peer.greet_saying(&[0, 4, 0, 0, 0, 0]).await;
        peer.send(&head(1, 1)).await;
        let busy = async {
            for n in 1.. {
                peer.send(&[head(nth(n), 1), update(nth(n), 100)].concat()).await;
                assert!(peer.until(|log| log.answer(nth(n)) == Some(200)).await);
                if peer.log.reset(1, CANCEL) {
                    return n;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            0
        };
        let served = timeout(PATIENCE, busy).await.expect("it is held for ever");
        assert!(served > 5, "{served}");
        assert!(peer.log.data(1).is_empty());
    });
    let metrics = edge.control.metrics();
    assert!(metrics.contains("code=\"2xx\""), "{metrics}");
}

/// What it makes us say is bounded: it is read no further until it reads.
#[test]
fn a_client_that_asks_and_does_not_read() {
    let upstream = upstream(Duration::ZERO);
    let limits = Limits { h2_pings_per_s: u32::MAX, ..Limits::default() };
    let edge = Edge::start_with(&proxy(&upstream), limits);
    edge.runtime.block_on(async {
        let mut peer = connect(&edge).await;
        let pings = vec![frame(6, 0, 0, b"12345678"); 60_000].concat();
        let mut sent = 0;
        // 100 MB, more than the kernel holds.
        while sent < 100 && timeout(Duration::from_millis(500), peer.send(&pings)).await.is_ok() {
            sent += 1;
        }
        assert!(sent < 100, "all was read");
        // The rest of the frame that was cut is lost: only that it is read again is of interest.
        assert!(timeout(PATIENCE, peer.until(|log| log.0.len() > 60_000 * sent)).await.unwrap());
    });
}

/// Streams take turns, frame by frame, and a short answer need not wait for long ones.
#[test]
fn streams_take_turns() {
    const LONG: usize = 2 << 20;
    let (open, wait) = gate();
    let upstream = Upstream::start(move |exchange, request| {
        if request.line().contains("/long") {
            pass(&wait);
            exchange.reply(&"x".repeat(LONG));
        } else {
            exchange.reply(BODY);
        }
    });
    let edge = Edge::start(&proxy(&upstream));
    edge.runtime.block_on(async {
        let mut peer = Peer::new(TcpStream::connect(edge.at(80)).await.unwrap());
        peer.greet_saying(&[0, 4, 0x7f, 0xff, 0xff, 0xff]).await;
        let long = block(&[FIELDS[0], FIELDS[1], (":path", "/long"), FIELDS[3]]);
        peer.send(&[frame(1, 5, 1, &long), frame(1, 5, 3, &long)].concat()).await;
        while upstream.received().len() < 2 {
            tokio::task::yield_now().await;
        }
        (0..2).for_each(|_| open.send(()).unwrap());
        // The window of the connection is used up, and all three wait for it.
        assert!(peer.until(|log| log.data(1).iter().chain(&log.data(3)).sum::<usize>() == 65_535).await);
        peer.send(&head(5, 1)).await;
        assert!(peer.until(|log| [1, 3, 5].iter().all(|id| log.has_head(*id))).await);
        let before = peer.log.0.len();
        peer.send(&update(0, (1 << 31) - 1 - 65_535)).await;
        assert!(peer.until(|log| log.answer(1).is_some() && log.answer(3).is_some()).await);
        let order: Vec<_> = peer.log.0[before..]
            .iter()
            .filter(|came| came.header.kind == edge::h2::FrameKind::Data)
            .map(|came| came.header.stream)
            .collect();
        // Each has something to send: one frame, then it is the next one's turn.
        let mut first = order[..3].to_vec();
        first.sort_unstable();
        assert_eq!(first, [1, 3, 5], "{:?}", &order[..10]);
        assert_eq!(peer.log.data(1).iter().sum::<usize>(), LONG);
    });
}
