//! A thread's coarse clock: deadlines in seconds for any number of connections, at the price of two cell
//! writes each.
//!
//! A runtime timer costs a lock and a wheel operation to arm and again to disarm, for every phase of every
//! request. Here arming is a store, and one sweep each [`TICK`](crate::limits::TICK) finds what is due. Route
//! timeouts in milliseconds are rare and use the runtime's timer instead.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant, SystemTime},
};

/// The deadline of the phase passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("deadline passed")]
pub(crate) struct Expired;

/// Milliseconds since the clock began. Never zero, so that zero means "none".
type Millis = u64;

const NEVER: Millis = Millis::MAX;

#[derive(Debug)]
struct Entry {
    place: Cell<usize>,
    deadline: Cell<Millis>,
    waker: RefCell<Option<Waker>>,
}

/// The clock of one thread.
#[derive(Debug)]
pub(crate) struct Clock {
    began: Instant,
    now: Cell<Millis>,
    /// One moment on both clocks.
    wall: Cell<(Instant, SystemTime)>,
    entries: RefCell<Vec<Rc<Entry>>>,
}

impl Clock {
    pub(crate) fn new(now: Instant) -> Rc<Self> {
        let wall = Cell::new((now, SystemTime::now()));
        Rc::new(Self { began: now, now: Cell::new(1), wall, entries: RefCell::default() })
    }

    /// The time of day at the last sweep.
    pub(crate) fn swept(&self) -> SystemTime {
        self.wall.get().1
    }

    /// The time of day at `at`, a moment since the last sweep; costs no look at a clock.
    pub(crate) fn wall(&self, at: Instant) -> SystemTime {
        let (swept, time) = self.wall.get();
        time + at.saturating_duration_since(swept)
    }

    /// Milliseconds as of the last sweep.
    pub(crate) fn now_ms(&self) -> u64 {
        self.now.get()
    }

    /// Moves the clock on and wakes whoever's deadline has passed.
    pub(crate) fn sweep(&self, at: Instant) {
        let now = millis(at.saturating_duration_since(self.began)) + 1;
        self.now.set(now);
        self.wall.set((at, SystemTime::now()));
        // Waking only queues the task, so the list cannot change under the loop.
        for entry in self.entries.borrow().iter().filter(|e| e.deadline.get() <= now) {
            if let Some(waker) = entry.waker.borrow_mut().take() {
                waker.wake();
            }
        }
    }

    /// A disarmed timer.
    pub(crate) fn timer(self: &Rc<Self>) -> Timer {
        let mut entries = self.entries.borrow_mut();
        let entry = Rc::new(Entry {
            place: Cell::new(entries.len()),
            deadline: Cell::new(NEVER),
            waker: RefCell::new(None),
        });
        entries.push(Rc::clone(&entry));
        Timer { clock: Rc::clone(self), entry }
    }
}

fn millis(duration: Duration) -> Millis {
    u64::try_from(duration.as_millis()).unwrap_or(NEVER - 1)
}

/// One deadline, of one task at a time.
#[derive(Debug)]
pub(crate) struct Timer {
    clock: Rc<Clock>,
    entry: Rc<Entry>,
}

impl Timer {
    /// Arms it: it expires `after` from now, to within a tick.
    pub(crate) fn set(&self, after: Duration) {
        self.entry.deadline.set(self.clock.now_ms().saturating_add(millis(after)));
    }

    /// Disarms it.
    pub(crate) fn clear(&self) {
        self.entry.deadline.set(NEVER);
    }

    /// Whether it is armed.
    pub(crate) fn is_set(&self) -> bool {
        self.entry.deadline.get() != NEVER
    }

    /// Milliseconds of its thread's clock.
    pub(crate) fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// Ready once the deadline has passed; otherwise the task is woken when it does.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        if self.entry.deadline.get() <= self.clock.now_ms() {
            return Poll::Ready(());
        }
        let mut waker = self.entry.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Arms the timer and polls `poll` until it is ready or the time is over.
    ///
    /// # Errors
    /// [`Expired`]; what `poll` drove stays as it is.
    pub(crate) async fn within<T>(
        &self,
        limit: Duration,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Result<T, Expired> {
        self.set(limit);
        poll_fn(|cx| match poll(cx) {
            Poll::Ready(value) => Poll::Ready(Ok(value)),
            Poll::Pending => self.poll(cx).map(|()| Err(Expired)),
        })
        .await
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let mut entries = self.clock.entries.borrow_mut();
        let place = self.entry.place.get();
        entries.swap_remove(place);
        if let Some(moved) = entries.get(place) {
            moved.place.set(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, pin::pin};

    use super::*;

    #[test]
    fn timers_expire_at_the_sweep_after_their_deadline() {
        let start = Instant::now();
        let clock = Clock::new(start);
        let timer = clock.timer();
        let cx = Context::from_waker(Waker::noop());
        assert_eq!(timer.poll(&cx), Poll::Pending, "a new timer is disarmed");
        timer.set(Duration::from_secs(2));
        clock.sweep(start + Duration::from_millis(1999));
        assert_eq!(timer.poll(&cx), Poll::Pending);
        clock.sweep(start + Duration::from_secs(2));
        assert_eq!(timer.poll(&cx), Poll::Ready(()));
        timer.clear();
        assert_eq!(timer.poll(&cx), Poll::Pending);
    }

    #[test]
    fn a_dropped_timer_leaves_the_others_in_place() {
        let start = Instant::now();
        let clock = Clock::new(start);
        let timers: Vec<_> = (0..3).map(|_| clock.timer()).collect();
        let [first, second, third] = <[_; 3]>::try_from(timers).expect("three timers");
        drop(first);
        drop(third);
        second.set(Duration::from_secs(1));
        clock.sweep(start + Duration::from_secs(1));
        assert!(second.poll(&Context::from_waker(Waker::noop())).is_ready());
        drop(second);
        assert!(clock.entries.borrow().is_empty());
    }

    #[tokio::test]
    async fn within_gives_up_after_its_limit() {
        let start = Instant::now();
        let clock = Clock::new(start);
        let timer = clock.timer();
        let mut never = pin!(pending::<()>());
        let mut waiting = pin!(timer.within(Duration::from_secs(1), |cx| never.as_mut().poll(cx)));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
        clock.sweep(start + Duration::from_secs(1));
        assert_eq!(waiting.as_mut().poll(&mut cx), Poll::Ready(Err(Expired)));
    }
}
