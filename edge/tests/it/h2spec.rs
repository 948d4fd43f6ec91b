//! HTTP/2 by the letter: cases of RFC 9113 and RFC 7541, by their sections, each on a connection of its own.
//!
//! They are modelled on what h2spec checks, and stricter: an error must be said, by GOAWAY or RST_STREAM with its code, where
//! h2spec takes a close for an answer; and whatever does not end the connection must leave it alive.
//!
//! All run on cleartext and on TLS, each with an upstream that answers at once and with one that takes its time, so that a
//! verdict does not hang on whether an answer overtakes the next frame.

mod cases;
mod drain;
mod floods;
pub(crate) mod wire;

use std::time::Duration;

use futures_util::future::join_all;
use tokio::{net::TcpStream, time::timeout};

use crate::{
    support::{Edge, PATIENCE, Upstream, pause, proxy},
    tls,
};
use wire::Peer;

/// What every answer says.
const BODY: &str = "0123456789abcdef";

/// What is done and what must come of it.
#[derive(Debug, Clone)]
enum Step {
    Send(Vec<u8>),
    /// The connection ends with one of these codes.
    Dies(&'static [u32]),
    /// The stream ends with one of these codes.
    Resets(u32, &'static [u32]),
    /// The stream or the connection does.
    Fails(u32, &'static [u32]),
    /// The stream is answered to its end, with that status.
    Answers(u32, u16),
    /// PING is answered.
    Pong([u8; 8]),
    /// So many SETTINGS were acknowledged, those of the beginning among them.
    Acks(usize),
    /// A DATA frame of so many bytes comes.
    Data(u32, usize),
    /// The connection is closed, whatever is said before.
    Closes,
}

struct Case {
    /// Of RFC 9113, or with `hpack` before it of RFC 7541.
    section: &'static str,
    what: &'static str,
    /// Without the preface and settings before it.
    raw: bool,
    steps: Vec<Step>,
}

async fn run(case: &Case, mut peer: Peer) -> Result<(), String> {
    if !case.raw {
        peer.greet().await;
    }
    for step in &case.steps {
        let done = match step {
            Step::Send(bytes) => {
                peer.send(bytes).await;
                true
            }
            Step::Dies(codes) => peer.until(|log| log.goaway(codes)).await && peer.ends().await,
            Step::Resets(id, codes) => peer.until(|log| log.reset(*id, codes)).await,
            Step::Fails(id, codes) => peer.until(|log| log.reset(*id, codes) || log.goaway(codes)).await,
            Step::Answers(id, status) => peer.until(|log| log.answer(*id) == Some(*status)).await,
            Step::Pong(payload) => peer.until(|log| log.pong(payload)).await,
            Step::Acks(count) => peer.until(|log| log.acks() >= *count).await,
            Step::Data(id, size) => peer.until(|log| log.data(*id).contains(size)).await,
            Step::Closes => peer.ends().await,
        };
        if !done {
            return Err(format!("{step:?} did not come of it, but {:?}", peer.log));
        }
    }
    let lives = match case.steps.last() {
        Some(Step::Dies(_) | Step::Closes | Step::Fails(..)) => true,
        _ => {
            peer.send(&wire::frame(6, 0, 0, b"alive?!?")).await;
            peer.until(|log| log.pong(b"alive?!?")).await
        }
    };
    if lives { Ok(()) } else { Err(format!("the connection did not live on: {:?}", peer.log)) }
}

/// Runs all cases at once.
async fn judge(open: impl AsyncFn() -> Peer) {
    let cases = cases::all();
    let verdicts = cases.iter().map(async |case| {
        let peer = open().await;
        match timeout(PATIENCE, run(case, peer)).await {
            Ok(verdict) => verdict.err(),
            Err(_) => Some("nothing more came".to_owned()),
        }
    });
    let verdicts = join_all(verdicts).await;
    let wrong: Vec<_> = cases
        .iter()
        .zip(verdicts)
        .filter_map(|(case, wrong)| Some(format!("{} {}: {}", case.section, case.what, wrong?)))
        .collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

fn upstream(delay: Duration) -> Upstream {
    Upstream::start(move |exchange, _| {
        pause(delay);
        exchange.reply(BODY);
    })
}

const AT_ONCE: Duration = Duration::ZERO;
const LATER: Duration = Duration::from_millis(30);

fn in_cleartext(delay: Duration) {
    let upstream = upstream(delay);
    let edge = Edge::start(&proxy(&upstream));
    let at = edge.at(80);
    edge.runtime.block_on(judge(async || Peer::new(TcpStream::connect(at).await.unwrap())));
}

fn by_tls(delay: Duration) {
    let upstream = upstream(delay);
    let secured = tls::secured(&upstream, &["a.test"]);
    let edge = Edge::start(&secured.yaml);
    let config = tls::client_config(&secured.roots, &[b"h2"]);
    edge.runtime.block_on(judge(async || Peer::new(tls::connect(&edge, &config, "a.test").await.unwrap())));
}

#[test]
fn in_cleartext_answered_at_once() {
    in_cleartext(AT_ONCE);
}

#[test]
fn in_cleartext_answered_later() {
    in_cleartext(LATER);
}

#[test]
fn by_tls_answered_at_once() {
    by_tls(AT_ONCE);
}

#[test]
fn by_tls_answered_later() {
    by_tls(LATER);
}
