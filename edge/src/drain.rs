//! How connections end without losing a request. A pure policy (`verdict`) and the registry that applies it.
//!
//! ```text
//!            drain, age, retire_above            protocol allows it           deadline
//! Stay ------------------------------> Retire ----------------------> (end)
//!                                        |  idle past what we advertised; a tunnel's turn
//!                                        +----------------------> Leave --> (end)
//!                                        |  deadline
//!                                        +----------------------> Abort --> (end)
//! ```
//!
//! HTTP/1 cannot take a request back: closing an idle connection may meet a request that is on its way. So one in cleartext goes
//! to another worker, if there is one ([`exit`](crate::exit)). Else a
//! retired connection answers its next request with `Connection: close`; one that stays idle is closed once it
//! has been idle for longer than the `Keep-Alive: timeout` that we advertised, when a careful client no longer
//! uses it. HTTP/2 says GOAWAY and finishes its streams; HTTP/3, too, and goes on
//! serving what was sent before the client heard of it. Tunnels have no such moment: they end at the deadline, and those
//! that can say goodbye (WebSocket) are told to in good time before it, one by one. Sessions of UDP know no end at all: they
//! end when nothing was said for a while.

use std::{
    cell::{Cell, RefCell},
    collections::BinaryHeap,
    rc::Rc,
    task::{Context, Waker},
    time::Duration,
};

use model::{RouteId, TenantId};

use crate::{clock::Clock, limits::LIMITS};

/// What a connection should do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// Go on.
    Stay,
    /// Finish what runs and end: `Connection: close` on the next response, GOAWAY.
    Retire,
    /// End as soon as that cuts nothing: no request runs, no message of a WebSocket is under way.
    Leave,
    /// End now.
    Abort,
}

/// What the policy knows of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Life {
    /// When it was accepted.
    pub(crate) born_ms: u64,
    /// What it is busy with.
    pub(crate) doing: Doing,
    /// Drawn at its birth, 0 to 999: spreads what would otherwise happen at once.
    pub(crate) jitter_permille: u64,
    /// Picked to relieve a hot worker.
    pub(crate) retired: bool,
}

/// What a connection is busy with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doing {
    /// Nothing, since then.
    Idle { since_ms: u64 },
    /// Requests.
    Requests,
    /// A tunnel. One whose route is gone drains by itself: since when, and until when.
    Tunnel { drain: Option<(u64, u64)> },
    /// A session of UDP: its client cannot be told to go elsewhere, so it ends by silence, or with the drain.
    Session,
}

/// What holds for all connections of a thread.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Policy {
    /// When the drain began and when it must be over.
    pub(crate) drain: Option<(u64, u64)>,
    /// Connections retire at this age, give or take a tenth.
    pub(crate) max_age_ms: Option<u64>,
}

/// A century: keeps the arithmetic from overflowing.
const LONGEST_AGE_MS: u64 = 100 * 365 * 24 * 3600 * 1000;

/// Idle for this much longer than advertised: a request sent in the last moment may still be on its way.
const IDLE_MARGIN_MS: u64 = 2_000;

/// What a connection should do at `now_ms`. Never milder for the same connection at a later time, except that an
/// idle one that got a request is no longer idle.
pub(crate) fn verdict(life: &Life, policy: &Policy, now_ms: u64) -> Verdict {
    let retires = life.doing != Doing::Session;
    let mut verdict = if life.retired && retires { Verdict::Retire } else { Verdict::Stay };
    if let Some(max) = policy.max_age_ms.filter(|_| retires)
        && now_ms.saturating_sub(life.born_ms) >= max - max / 10 + max * life.jitter_permille / 5_000
    {
        verdict = Verdict::Retire;
    }
    if let Some((began, deadline)) = ends(life, policy) {
        if now_ms >= deadline {
            return Verdict::Abort;
        }
        verdict = Verdict::Retire;
        let length = deadline.saturating_sub(began);
        // One by one, so that their clients do not come back all at once.
        let turn = match life.doing {
            Doing::Requests | Doing::Session => None,
            // In the last tenth of the drain.
            Doing::Idle { .. } => Some(deadline - length / 10 * life.jitter_permille / 1_000),
            // After half of it, in which it may end by itself, and before the last fifth, in which both sides answer.
            Doing::Tunnel { .. } => Some(began + length / 2 + length * 3 / 10 * life.jitter_permille / 1_000),
        };
        if turn.is_some_and(|turn| now_ms >= turn) {
            return Verdict::Leave;
        }
    }
    let patience = u64::try_from(LIMITS.advertised_idle.as_millis()).unwrap_or(u64::MAX) + IDLE_MARGIN_MS;
    match life.doing {
        Doing::Idle { since_ms }
            if verdict == Verdict::Retire && now_ms.saturating_sub(since_ms) >= patience =>
        {
            Verdict::Leave
        }
        _ => verdict,
    }
}

/// When the drain that ends it began and when it must be over: the thread's or its own.
fn ends(life: &Life, policy: &Policy) -> Option<(u64, u64)> {
    let own = match life.doing {
        Doing::Tunnel { drain } => drain,
        Doing::Idle { .. } | Doing::Requests | Doing::Session => None,
    };
    policy.drain.into_iter().chain(own).min_by_key(|(_, deadline)| *deadline)
}

/// Whose a tunnel is, and why it may be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TunnelRoute {
    pub(crate) tenant: TenantId,
    /// The host that was asked, without a port.
    pub(crate) host: String,
    pub(crate) opened_by: OpenedBy,
}

/// What allowed a tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OpenedBy {
    Route(RouteId),
    /// A listener that allows CONNECT to that destination.
    Connect {
        listener_port: u16,
        host: String,
        port: u16,
    },
}

struct Entry {
    place: Cell<usize>,
    life: Cell<Life>,
    verdict: Cell<Verdict>,
    waker: RefCell<Option<Waker>>,
    /// If it is a tunnel.
    route: RefCell<Option<Box<TunnelRoute>>>,
}

impl Entry {
    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// The connections of one thread.
pub(crate) struct Registry {
    clock: Rc<Clock>,
    policy: Cell<Policy>,
    entries: RefCell<Vec<Rc<Entry>>>,
    emptied: RefCell<Option<Waker>>,
}

impl Registry {
    pub(crate) fn new(clock: Rc<Clock>) -> Rc<Self> {
        Rc::new(Self {
            clock,
            policy: Cell::default(),
            entries: RefCell::default(),
            emptied: RefCell::default(),
        })
    }

    /// Connections, with those in their handshake.
    pub(crate) fn len(&self) -> usize {
        self.entries.borrow().len()
    }

    /// Enters a connection, as idle.
    pub(crate) fn enter(self: &Rc<Self>, jitter_permille: u64) -> Seat {
        self.enter_aged(jitter_permille, 0)
    }

    /// Enters a connection that was accepted so long ago, as idle.
    pub(crate) fn enter_aged(self: &Rc<Self>, jitter_permille: u64, age_ms: u64) -> Seat {
        let now = self.clock.now_ms();
        let mut entries = self.entries.borrow_mut();
        let doing = Doing::Idle { since_ms: now };
        let life = Life { born_ms: now.saturating_sub(age_ms), doing, jitter_permille, retired: false };
        let entry = Rc::new(Entry {
            place: Cell::new(entries.len()),
            life: Cell::new(life),
            verdict: Cell::new(verdict(&life, &self.policy.get(), now)),
            waker: RefCell::new(None),
            route: RefCell::new(None),
        });
        entries.push(Rc::clone(&entry));
        Seat { registry: Rc::clone(self), entry }
    }

    /// Begins the drain, or shortens it.
    pub(crate) fn drain(&self, deadline: Duration) {
        let now = self.clock.now_ms();
        let end = now.saturating_add(u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX));
        let mut policy = self.policy.get();
        policy.drain = Some(policy.drain.map_or((now, end), |(began, earlier)| (began, end.min(earlier))));
        self.policy.set(policy);
        self.sweep();
        // Those that were to go before have another way out now.
        self.entries.borrow().iter().for_each(|entry| entry.wake());
    }

    /// Whether the drain has begun.
    pub(crate) fn is_draining(&self) -> bool {
        self.policy.get().drain.is_some()
    }

    /// Begins to drain the tunnels whose routes are gone.
    pub(crate) fn drain_tunnels(&self, deadline: Duration, mut is_gone: impl FnMut(&TunnelRoute) -> bool) {
        let now = self.clock.now_ms();
        let end = now.saturating_add(u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX));
        for entry in self.entries.borrow().iter() {
            if let Some(route) = &*entry.route.borrow()
                && let life @ Life { doing: Doing::Tunnel { drain: None }, .. } = entry.life.get()
                && is_gone(route)
            {
                let doing = Doing::Tunnel { drain: Some((now, end)) };
                entry.life.set(Life { doing, ..life });
            }
        }
    }

    /// Sets the age at which connections retire.
    pub(crate) fn limit_age(&self, max_age: Option<Duration>) {
        let max_age_ms =
            max_age.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX).min(LONGEST_AGE_MS));
        self.policy.set(Policy { max_age_ms, ..self.policy.get() });
    }

    /// Retires the oldest connections above `keep`, at most an eighth of all at a time.
    ///
    /// The oldest, because new ones were just given to us by the kernel while others had room; an eighth,
    /// because whoever is retired connects again, and should find that the load has moved in the meantime.
    pub(crate) fn retire_above(&self, keep: usize) {
        let entries = self.entries.borrow();
        let stays = |life: Life| !life.retired && life.doing != Doing::Session;
        let staying = entries.iter().filter(|e| stays(e.life.get())).count();
        let excess = staying.saturating_sub(keep).min(staying.div_ceil(8));
        let mut oldest: BinaryHeap<_> = BinaryHeap::with_capacity(excess + 1);
        for entry in entries.iter().filter(|e| stays(e.life.get())) {
            oldest.push((entry.life.get().born_ms, entry.place.get()));
            if oldest.len() > excess {
                oldest.pop();
            }
        }
        for (_, place) in oldest {
            let entry = &entries[place];
            entry.life.set(Life { retired: true, ..entry.life.get() });
        }
    }

    /// Tells every connection whose verdict changed.
    pub(crate) fn sweep(&self) {
        let (policy, now) = (self.policy.get(), self.clock.now_ms());
        for entry in self.entries.borrow().iter() {
            let verdict = verdict(&entry.life.get(), &policy, now);
            if verdict != entry.verdict.replace(verdict) {
                entry.wake();
            }
        }
    }

    /// Returns when the last connection is gone.
    pub(crate) async fn empty(&self) {
        std::future::poll_fn(|cx| {
            if self.len() == 0 {
                return std::task::Poll::Ready(());
            }
            *self.emptied.borrow_mut() = Some(cx.waker().clone());
            std::task::Poll::Pending
        })
        .await;
    }
}

/// One connection's place in the registry; leaving is dropping it.
pub(crate) struct Seat {
    registry: Rc<Registry>,
    entry: Rc<Entry>,
}

impl Seat {
    /// A request begins.
    pub(crate) fn busy(&self) {
        self.set_doing(Doing::Requests);
    }

    /// It is a session of UDP.
    pub(crate) fn session(&self) {
        self.set_doing(Doing::Session);
    }

    /// It is a tunnel from now on.
    pub(crate) fn tunnel(&self, route: TunnelRoute) {
        *self.entry.route.borrow_mut() = Some(Box::new(route));
        self.set_doing(Doing::Tunnel { drain: None });
    }

    /// No request runs any more.
    pub(crate) fn idle(&self) {
        let now = self.registry.clock.now_ms();
        self.set_doing(Doing::Idle { since_ms: now });
    }

    fn set_doing(&self, doing: Doing) {
        self.entry.life.set(Life { doing, ..self.entry.life.get() });
    }

    /// How long ago the connection was accepted, milliseconds.
    pub(crate) fn age_ms(&self) -> u64 {
        self.registry.clock.now_ms().saturating_sub(self.entry.life.get().born_ms)
    }

    /// What to do now.
    pub(crate) fn verdict(&self) -> Verdict {
        self.entry.verdict.get()
    }

    /// What to do now; the task is woken when that changes.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> Verdict {
        let mut waker = self.entry.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        self.entry.verdict.get()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut entries = self.registry.entries.borrow_mut();
        let place = self.entry.place.get();
        entries.swap_remove(place);
        if let Some(moved) = entries.get(place) {
            moved.place.set(place);
        }
        if entries.is_empty()
            && let Some(waker) = self.registry.emptied.borrow_mut().take()
        {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests;
