//! One tenant's requests that wait for their turns.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use crate::limits::STANDING;

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

/// The requests of one tenant that wait, and what is known of them.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    tickets: RefCell<VecDeque<Rc<Ticket>>>,
    /// Those of them whose clients are still there.
    waiting: Rc<Cell<usize>>,
    /// Where it stands in the order, if it does, and the weight that counts there.
    pub(super) place: Cell<Option<(u64, u64)>>,
    pub(super) entered_as: Cell<u64>,
    /// When, in virtual time, what has begun is paid for.
    pub(super) finish: Cell<u64>,
    /// CPU time of a request, nanoseconds, an average; zero: none was measured.
    cost: Cell<u64>,
    /// Since when requests wait for too long.
    late_since: Cell<Option<Instant>>,
}

impl Lane {
    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.get()
    }

    /// Whether somebody waits.
    pub(super) fn waits(&self) -> bool {
        self.waiting.get() > 0
    }

    /// What its requests cost, or else `usual`; never nothing.
    pub(super) fn cost(&self, usual: u64) -> u64 {
        let own = self.cost.get();
        if own > 0 { own } else { usual.max(1) }
    }

    /// A request cost so much.
    pub(super) fn learn(&self, spent: u64, expected: u64) {
        self.cost.set(super::average(expected, spent).max(1));
    }

    /// A request joins the queue.
    pub(super) fn wait(&self, now: Instant) -> Pass {
        let ticket =
            Rc::new(Ticket { came: now, state: Cell::new(State::Waiting), waker: RefCell::default() });
        self.tickets.borrow_mut().push_back(Rc::clone(&ticket));
        self.waiting.set(self.waiting.get() + 1);
        Pass { ticket, waiting: Rc::clone(&self.waiting) }
    }

    /// The request that waits longest leaves the queue.
    pub(super) fn next(&self) -> Option<Rc<Ticket>> {
        let mut tickets = self.tickets.borrow_mut();
        while let Some(ticket) = tickets.pop_front() {
            if ticket.state.get() == State::Waiting {
                self.waiting.set(self.waiting.get() - 1);
                return Some(ticket);
            }
        }
        None
    }

    /// A request has waited for so long. Whether the lane is overloaded.
    pub(super) fn note(&self, now: Instant, waited: Duration, limit: Duration) -> bool {
        if waited > limit && self.late_since.get().is_none() {
            self.late_since.set(Some(now));
        }
        self.is_standing(now)
    }

    /// Whether its queue has been too long for a while.
    pub(super) fn is_overloaded(&self, now: Instant, limit: Duration) -> bool {
        let tickets = self.tickets.borrow();
        let longest = tickets.front().map(|first| now.saturating_duration_since(first.came));
        self.note(now, longest.unwrap_or_default(), limit)
    }

    fn is_standing(&self, now: Instant) -> bool {
        self.late_since.get().is_some_and(|since| now.saturating_duration_since(since) >= STANDING)
    }

    /// Nobody waits any more: it was a burst.
    pub(super) fn rests(&self) {
        self.late_since.set(None);
    }
}
