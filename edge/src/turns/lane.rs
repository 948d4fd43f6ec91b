//! One tenant's requests that wait for their turns.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use crate::limits::{QUANTUM, STANDING};

/// Where a request is on its way to its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Waiting,
    Granted,
    Refused,
    /// Its client has gone away.
    Gone,
}

/// A request that waits.
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) came: Instant,
    state: Cell<State>,
    waker: RefCell<Option<Waker>>,
}

impl Ticket {
    /// Its waiting is over.
    pub(super) fn end(&self, state: State) {
        self.state.set(state);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// What the waiting request holds; dropped with it.
pub(super) struct Pass {
    ticket: Rc<Ticket>,
    waiting: Rc<Cell<usize>>,
}

impl Pass {
    /// Ready with whether it may begin.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<bool> {
        match self.ticket.state.get() {
            State::Waiting => {
                let mut waker = self.ticket.waker.borrow_mut();
                if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    *waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
            state => Poll::Ready(state == State::Granted),
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.ticket.state.get() == State::Waiting {
            self.ticket.state.set(State::Gone);
            self.waiting.set(self.waiting.get() - 1);
        }
    }
}

/// Requests that wait, in the order in which they came.
#[derive(Debug, Default)]
struct Queue {
    tickets: RefCell<VecDeque<Rc<Ticket>>>,
    /// Those of them whose clients are still there.
    waiting: Rc<Cell<usize>>,
}

impl Queue {
    fn len(&self) -> usize {
        self.waiting.get()
    }

    fn push(&self, now: Instant) -> Pass {
        let ticket =
            Rc::new(Ticket { came: now, state: Cell::new(State::Waiting), waker: RefCell::default() });
        self.tickets.borrow_mut().push_back(Rc::clone(&ticket));
        self.waiting.set(self.waiting.get() + 1);
        Pass { ticket, waiting: Rc::clone(&self.waiting) }
    }

    fn pop(&self) -> Option<Rc<Ticket>> {
        while let Some(ticket) = self.pop_first() {
            if ticket.state.get() == State::Waiting {
                return Some(ticket);
            }
        }
        None
    }

    /// Also one whose client has gone away.
    fn pop_first(&self) -> Option<Rc<Ticket>> {
        let ticket = self.tickets.borrow_mut().pop_front()?;
        if ticket.state.get() == State::Waiting {
            self.waiting.set(self.waiting.get() - 1);
        }
        Some(ticket)
    }

    /// How long the first of them has waited.
    fn longest(&self, now: Instant) -> Duration {
        let tickets = self.tickets.borrow();
        tickets.front().map_or(Duration::ZERO, |first| now.saturating_duration_since(first.came))
    }
}

/// Of so many turns of a lane one is a stranger's, if any waits.
const STRANGERS: u32 = 4;

/// The requests of one tenant that wait, and what is known of them.
///
/// Those of clients that have had an answer on their connection go before those of strangers, one of each connection at a time: a
/// crowd that has just come, or asks for much at once, does not hold up those who are here.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    known: Queue,
    strangers: Queue,
    /// Turns that known clients had since a stranger's.
    passed: Cell<u32>,
    /// Where it stands in the order, if it does, and the weight that counts there.
    pub(super) place: Cell<Option<(u64, u64)>>,
    pub(super) entered_as: Cell<u64>,
    /// When, in virtual time, what has begun is paid for.
    pub(super) finish: Cell<u64>,
    /// CPU time of a request up to its answer's head, nanoseconds, an average; zero: none was measured.
    head: Cell<u64>,
    /// The same of what is left then.
    rest: Cell<u64>,
    load: Cell<Load>,
}

/// What is asked for in a lane, beside what can be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Load {
    /// Nobody waits for too long.
    #[default]
    Light,
    /// Somebody has waited for too long since then. That may be a burst.
    Late(Instant),
    /// Too much.
    Over,
    /// It was too much, until nobody waited at that time.
    Eased(Instant),
}

impl Load {
    /// What it is at `now`, when `longest` is how long somebody waits who may wait for `limit`.
    fn at(self, now: Instant, longest: Duration, limit: Duration) -> Self {
        let has_stood = |since: Instant| now.saturating_duration_since(since) >= STANDING;
        match self {
            Self::Light if longest > limit => Self::Late(now),
            Self::Late(since) if has_stood(since) => Self::Over,
            Self::Eased(at) if has_stood(at) => Self::Light.at(now, longest, limit),
            // Whoever refuses those who wait too long has an empty queue at times, and no less to do: this is no new burst.
            Self::Eased(_) if longest > limit => Self::Over,
            same => same,
        }
    }

    /// What it is when nobody waits any more.
    fn at_rest(self, now: Instant) -> Self {
        match self {
            Self::Light | Self::Late(_) => Self::Light,
            Self::Over => Self::Eased(now),
            eased @ Self::Eased(_) => eased,
        }
    }
}

impl Lane {
    /// How many wait before one that comes now.
    pub(super) fn ahead_of(&self, known: bool) -> usize {
        match (known, self.known.len()) {
            // A few strangers' turns are among those of known clients: a third more.
            (true, waiting) => waiting + waiting.div_ceil(3),
            (false, 0) => self.len(),
            // Known clients will go on coming.
            (false, _) => self.len().max(self.strangers.len() * STRANGERS as usize),
        }
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.known.len() + self.strangers.len()
    }

    /// Whether somebody waits.
    pub(super) fn waits(&self) -> bool {
        self.len() > 0
    }

    /// What its requests cost, whose heads cost `usual` unless that is known better; never nothing.
    pub(super) fn cost(&self, usual: u64) -> u64 {
        self.head(usual) + self.rest()
    }

    /// What its requests cost up to their answers' heads, or else `usual`; never nothing.
    pub(super) fn head(&self, usual: u64) -> u64 {
        let own = self.head.get();
        if own > 0 { own } else { usual.max(1) }
    }

    /// What they cost beside that.
    pub(super) fn rest(&self) -> u64 {
        self.rest.get()
    }

    /// A request cost so much up to its answer's head.
    pub(super) fn learn(&self, spent: u64, expected: u64) {
        self.head.set(super::average(expected, spent).max(1));
    }

    /// A request cost so much beside that. One that costs very much, and has paid for it, tells little of others.
    pub(super) fn learn_rest(&self, spent: u64) {
        self.rest.set(super::average(self.rest.get(), spent.min(super::nanos(QUANTUM))));
    }

    /// Whether a request that comes now is the first of its lane to begin.
    pub(super) fn is_first(&self, known: bool) -> bool {
        known && self.known.len() == 0
    }

    /// A request joins the queue.
    pub(super) fn wait(&self, now: Instant, known: bool) -> Pass {
        if known { self.known.push(now) } else { self.strangers.push(now) }
    }

    /// Where the lane is overloaded, refuses those that have waited for twice the limit: whoever would be served then has given up,
    /// and stands before those who have not.
    pub(super) fn expire(&self, now: Instant, limit: Duration) {
        if !self.is_overloaded(now, limit) {
            return;
        }
        for queue in [&self.known, &self.strangers] {
            while queue.longest(now) > limit * 2
                && let Some(ticket) = queue.pop_first()
            {
                ticket.end(State::Refused);
            }
        }
    }

    /// The request whose turn it is leaves the queue.
    pub(super) fn next(&self) -> Option<Rc<Ticket>> {
        if self.passed.get() + 1 < STRANGERS
            && let Some(ticket) = self.known.pop()
        {
            self.passed.set(self.passed.get() + 1);
            return Some(ticket);
        }
        self.passed.set(0);
        self.strangers.pop().or_else(|| self.known.pop())
    }

    /// Whether its queue has been too long for a while.
    pub(super) fn is_overloaded(&self, now: Instant, limit: Duration) -> bool {
        let longest = self.known.longest(now).max(self.strangers.longest(now));
        self.load.set(self.load.get().at(now, longest, limit));
        self.load.get() == Load::Over
    }

    /// Nobody waits any more.
    pub(super) fn rests(&self, now: Instant) {
        self.load.set(self.load.get().at_rest(now));
    }
}
