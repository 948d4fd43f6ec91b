//! Whatever an upstream says and whatever the requests do meanwhile: nothing panics, what is held is bounded, and what is over
//! leaves nothing behind.

use proptest::prelude::*;

use super::*;

/// What happens next.
#[derive(Debug, Clone)]
enum Step {
    /// A request begins.
    Ask {
        ends: bool,
    },
    /// One of them sends, takes, ends or leaves.
    Send(usize, usize),
    Take(usize),
    Finish(usize),
    Leave(usize),
    /// The upstream says something about one of the first streams.
    Says {
        kind: u8,
        flags: u8,
        stream: u32,
        payload: Vec<u8>,
    },
    /// It answers as it should.
    Answers {
        stream: u32,
        ends: bool,
        length: Option<u16>,
    },
    Sends {
        stream: u32,
        ends: bool,
        size: usize,
    },
    /// It takes what waits for it.
    Hears,
    Second,
}

fn step() -> impl Strategy<Value = Step> {
    let stream = || 0_u32..12;
    let payload = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..20),
        Just(vec![0x88]),
        Just(vec![0x88, 0x40, 1, b'a', 1, b'b']),
        Just(vec![0xbe]),
        Just(vec![0, 0, 0, 1]),
        Just(vec![0, 0, 0, 5, 0, 0, 0, 0]),
        Just(vec![0, 4, 0, 0, 0, 9]),
    ];
    prop_oneof![
        3 => any::<bool>().prop_map(|ends| Step::Ask { ends }),
        2 => (0_usize..8, 0_usize..40_000).prop_map(|(at, size)| Step::Send(at, size)),
        3 => (0_usize..8).prop_map(Step::Take),
        1 => (0_usize..8).prop_map(Step::Finish),
        1 => (0_usize..8).prop_map(Step::Leave),
        2 => (0_u8..11, any::<u8>(), stream(), payload)
            .prop_map(|(kind, flags, stream, payload)| Step::Says { kind, flags, stream, payload }),
        3 => (stream(), any::<bool>(), proptest::option::of(0_u16..2000))
            .prop_map(|(stream, ends, length)| Step::Answers { stream, ends, length }),
        4 => (stream(), any::<bool>(), 0_usize..16_000)
            .prop_map(|(stream, ends, size)| Step::Sends { stream, ends, size }),
        2 => Just(Step::Hears),
        1 => Just(Step::Second),
    ]
}

const KINDS: [FrameKind; 11] = [
    FrameKind::Data,
    FrameKind::Headers,
    FrameKind::Priority,
    FrameKind::Reset,
    FrameKind::Settings,
    FrameKind::PushPromise,
    FrameKind::Ping,
    FrameKind::GoAway,
    FrameKind::WindowUpdate,
    FrameKind::Continuation,
    FrameKind::Unknown,
];

/// Does the steps up to the connection's end, if that comes.
fn run(steps: Vec<Step>) {
    let limits = Limits { upstream_stream_window: 40_000, upstream_connection_window: 100_000, ..LIMITS };
    let mut peer = Peer::with(limits);
    peer.settles(&[]);
    let (mut asked, mut second): (Vec<OpenStream>, _) = (vec![], 0);
    for step in steps {
        let said = match step {
            Step::Ask { ends } if asked.len() < 8 => {
                asked.extend(peer.channel.open(false, ends, |out| out.push(0x82)));
                vec![]
            }
            Step::Send(at, size) if at < asked.len() => {
                let _any = asked[at].poll_write(&cx(), &vec![0; size]);
                vec![]
            }
            Step::Take(at) if at < asked.len() => {
                let _any = asked[at].poll_head(&cx());
                if let Poll::Ready(Ok(Came::Data)) = asked[at].poll_body(&cx()) {
                    let half = asked[at].data().len().div_ceil(2);
                    asked[at].consume(half);
                }
                vec![]
            }
            Step::Finish(at) if at < asked.len() => {
                asked[at].finish(&Fields::new());
                vec![]
            }
            Step::Leave(at) if at < asked.len() => {
                drop(asked.remove(at));
                vec![]
            }
            Step::Says { kind, flags, stream, payload } => {
                frame(KINDS[usize::from(kind)], flags, stream, &payload)
            }
            Step::Answers { stream, ends, length } => {
                let length = length.map(|length| length.to_string());
                let mut fields = vec![(":status", "200")];
                fields.extend(length.as_deref().map(|length| ("content-length", length)));
                head(stream, if ends { END } else { 0 }, &fields)
            }
            Step::Sends { stream, ends, size } => data(stream, if ends { END } else { 0 }, &vec![b'x'; size]),
            Step::Hears => {
                peer.bytes();
                vec![]
            }
            Step::Second => {
                second += 1;
                peer.clock.sweep(peer.began + std::time::Duration::from_secs(second));
                vec![]
            }
            _ => vec![],
        };
        if peer.says(&said).is_err() {
            peer.channel.end(std::io::ErrorKind::InvalidData);
            break;
        }
        let state = peer.channel.state.borrow();
        assert!(state.mux.unwritten() < 200_000, "{} bytes wait", state.mux.unwritten());
        assert!(state.mux.held(100_000) < 512_000);
        drop(state);
        assert!(peer.streams() <= asked.len(), "a stream that nobody holds");
    }
    drop(asked);
    peer.bytes();
    assert_eq!(peer.streams(), 0);
    let state = peer.channel.state.borrow();
    assert!(state.held_streams() == 0 && state.mux.held(100_000) == 0, "all windows are given back");
}

proptest! {
    #[test]
    fn whatever_happens_nothing_is_left_behind(steps in proptest::collection::vec(step(), 0..120)) {
        run(steps);
    }
}
