//! Two byte streams joined, after the upstream has agreed to change protocols.
//!
//! A tunnel ends when both sides have ended, one breaks, or nothing moves for too long. One that has to go earlier, because
//! its worker drains or its route is gone, is cut at the deadline; a WebSocket says goodbye before it:
//!
//! ```text
//! Open --(leave)--> ToUpstream --(Close 1001 sent)--> FromUpstream --(its Close, or no answer)--> ToClient --(its Close)--> end
//! ```
//!
//! Each Close is sent between two messages, so that none is cut. Upstream goes first: what it has got it may still answer,
//! and what the client says later is not delivered, whole, so that it can be said again elsewhere.

mod way;

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    buffer::ReadBuffer,
    clock::Timer,
    drain::{Seat, TunnelRoute, Verdict},
    limits::WEBSOCKET_GOODBYE,
    share::{Bill, Share},
    upstream::{Occupied, pool::Connection},
    websocket::going_away,
    worker::Thread,
};
use way::Pass;
pub(crate) use way::Way;

/// The upstream's side of a tunnel, and what it is for.
pub(crate) struct Tunnel {
    pub(crate) upstream: Box<Connection>,
    /// The place that it takes up on its endpoint, if it is one of a backend's.
    pub(crate) occupied: Option<Occupied>,
    /// It speaks WebSocket.
    pub(crate) websocket: bool,
    /// Without which it has no business here.
    pub(crate) route: TunnelRoute,
}

impl Tunnel {
    /// Joins the client's side, of which `input` was read already, to the upstream's, until the tunnel's end. What it buffers is
    /// for `share`.
    pub(crate) async fn run(
        self,
        thread: &Thread,
        mut client: impl AsyncRead + AsyncWrite + Unpin,
        input: ReadBuffer,
        seat: &Seat,
        share: Option<&Rc<Share>>,
    ) {
        let Self { mut upstream, occupied: _occupied, websocket, route } = self;
        thread.counters.tunnels.add(1);
        seat.tunnel(route);
        let received = std::mem::take(&mut upstream.input);
        let (up, down) = if websocket {
            let goodbye = going_away(Some(rand::random()));
            (Way::websocket(input, goodbye), Way::websocket(received, going_away(None)))
        } else {
            (Way::opaque(input), Way::opaque(received))
        };
        let mut joint = Joint { up, down, step: Step::Open, timer: thread.clock.timer() };
        joint.timer.set(thread.limits.tunnel_idle);
        let bill = share.map(Bill::new);
        let moving = |cx: &mut Context<'_>| {
            let moved = joint.poll(cx, thread, Pin::new(&mut client), Pin::new(&mut upstream.stream), seat);
            if let Some(bill) = &bill {
                bill.note(joint.up.held() + joint.down.held());
            }
            moved
        };
        if poll_fn(moving).await == End::Ours {
            joint.farewell(Pin::new(&mut client), Pin::new(&mut upstream.stream));
        }
    }
}

/// How far a tunnel is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Open,
    /// The upstream is to be told, at the next border of the client's messages.
    ToUpstream,
    /// The upstream is to answer with a Close of its own.
    FromUpstream,
    /// The client is to be told, or to answer.
    ToClient,
}

/// Who ended a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The two sides, or one that broke.
    Theirs,
    /// We did.
    Ours,
}

/// The two directions of a tunnel.
struct Joint {
    up: Way,
    down: Way,
    step: Step,
    timer: Timer,
}

impl Joint {
    /// Moves bytes both ways. Ready at the tunnel's end.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        thread: &Thread,
        mut client: Pin<&mut (impl AsyncRead + AsyncWrite)>,
        mut upstream: Pin<&mut (impl AsyncRead + AsyncWrite)>,
        seat: &Seat,
    ) -> Poll<End> {
        loop {
            let upward = self.up.poll(cx, client.as_mut(), upstream.as_mut());
            let downward = self.down.poll(cx, upstream.as_mut(), client.as_mut());
            let (received, sent) = (self.up.take_moved(), self.down.take_moved());
            thread.counters.bytes_in.add(received);
            thread.counters.bytes_out.add(sent);
            if is_over(upward, downward) {
                return Poll::Ready(End::Theirs);
            }
            if received + sent > 0 {
                match self.step {
                    Step::Open | Step::ToUpstream => self.timer.set(thread.limits.tunnel_idle),
                    // A message that has begun is finished, however long that takes.
                    Step::ToClient if !self.down.is_closed() => self.timer.set(WEBSOCKET_GOODBYE),
                    Step::FromUpstream | Step::ToClient => {}
                }
            }
            let verdict = seat.poll(cx);
            if verdict == Verdict::Abort {
                return Poll::Ready(End::Ours);
            }
            match self.advance(verdict, self.timer.poll(cx).is_ready()) {
                // What it allows may be there already.
                Progress::Made => {}
                Progress::None => return Poll::Pending,
                Progress::Ended => return Poll::Ready(End::Ours),
            }
        }
    }

    /// The next step on the way out, if it is time for it.
    fn advance(&mut self, verdict: Verdict, late: bool) -> Progress {
        match self.step {
            Step::Open if verdict == Verdict::Leave || late => {
                if !self.up.knows_borders() {
                    return if late { Progress::Ended } else { Progress::None };
                }
                if late {
                    // A message that was begun had all that time.
                    self.timer.set(WEBSOCKET_GOODBYE);
                }
                self.up.set_pass(Pass::ToBorder);
                self.step = Step::ToUpstream;
            }
            Step::ToUpstream if self.up.is_closed() => {
                self.timer.set(WEBSOCKET_GOODBYE);
                if self.up.has_said_goodbye() {
                    self.down.set_pass(Pass::ToClose);
                }
                self.step = Step::FromUpstream;
            }
            Step::FromUpstream if late || self.down.is_closed() => {
                self.timer.set(WEBSOCKET_GOODBYE);
                self.down.set_pass(Pass::ToBorder);
                self.step = Step::ToClient;
            }
            Step::ToClient if self.down.is_closed() && self.up.is_answered() => return Progress::Ended,
            Step::ToUpstream | Step::ToClient if late => return Progress::Ended,
            _ => return Progress::None,
        }
        Progress::Made
    }

    /// The last moment: what can be said without waiting, and cuts nothing, is said.
    fn farewell(&mut self, mut client: Pin<&mut impl AsyncWrite>, mut upstream: Pin<&mut impl AsyncWrite>) {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        self.up.say_goodbye(&mut cx, upstream.as_mut());
        self.down.say_goodbye(&mut cx, client.as_mut());
        // Frames say themselves whether they are whole. Other bytes that we cut must not look complete: in TLS, and on a
        // stream, whoever does not say the end has broken off.
        if self.up.knows_borders() {
            let _either = (upstream.poll_shutdown(&mut cx), client.poll_shutdown(&mut cx));
        }
    }
}

enum Progress {
    Made,
    None,
    Ended,
}

/// Whether one side broke or both have ended.
fn is_over(upward: Poll<io::Result<()>>, downward: Poll<io::Result<()>>) -> bool {
    matches!(
        (upward, downward),
        (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) | (Poll::Ready(Ok(())), Poll::Ready(Ok(())))
    )
}
