//! Whose turn it is. Under overload requests begin in an order that is fair to tenants, and those that would wait for too long
//! are refused.
//!
//! A thread works through what is ready in the order in which it became ready, so whoever sends most gets most. While that takes
//! longer than [`BUSY`] a request queues here once its head is read, in a lane of its tenant's. The dispatcher, which runs behind
//! all that is ready, lets some of them begin: as many as their tenants' requests cost, for about [`QUANTUM`]. So what is ready
//! stays little, and whoever asks for little waits for little. Which lane is next is start-time fair queueing (Goyal, Vin and
//! Cheng, 1996), by CPU time and weight, with a little memory: a tenant that had less than its part lately goes first until it has
//! caught up, for several of its requests may come at once. Whether too much is asked for is seen in a lane as in CoDel (RFC
//! 8289): a queue that comes and goes is a burst, which is what queues are for, and one that stands for [`STANDING`] is overload.
//!
//! While a thread is not busy a request costs a comparison, and a task every [`PROBE_PAUSE`] measures how long what is ready takes.

mod lane;
mod rest;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    future::poll_fn,
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::task::{spawn_local, yield_now};

pub(crate) use lane::Lane;
use lane::Pass;
pub(crate) use rest::Rest;

use crate::{
    admit::Overload,
    limits::{BUSY, CREDIT, PROBE_PAUSE, QUANTUM, QUANTUM_MOST},
    listen::{Asking, Membership},
    share::Share,
    worker::{Thread, micros},
};

/// What is known of how long ready work waits.
#[derive(Debug, Clone, Copy)]
enum Probe {
    /// A task was sent through the queue then.
    Out(Instant),
    /// The last one came back then.
    Back(Option<Instant>),
}

/// Where a lane is in the order: its virtual start, and a number that makes it unique.
type Place = (u64, u64);

/// The turns of one thread.
#[derive(Debug)]
pub(crate) struct Turns {
    probe: Cell<Probe>,
    /// How long the last probe waited.
    delay: Cell<Duration>,
    busy: Cell<bool>,
    /// Lanes in which somebody waits.
    waiting: RefCell<BTreeMap<Place, Rc<Share>>>,
    /// Their weights.
    weights: Cell<u64>,
    /// The virtual time, nanoseconds of a lane of ordinary weight.
    now: Cell<u64>,
    numbers: Cell<u64>,
    /// What is left of the quantum, nanoseconds.
    left: Cell<u64>,
    /// What may still begin at once in this round although others wait, nanoseconds.
    owed: Cell<u64>,
    /// The last round: when it began, how many began in it, and what requests cost in it.
    round: Cell<Option<Instant>>,
    begun: Cell<u32>,
    spent: Cell<Duration>,
    /// A request's CPU time, and how long a thread is at work for each, all else included; nanoseconds, averages.
    cost: Cell<u64>,
    pace: Cell<u64>,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            probe: Cell::new(Probe::Back(None)),
            delay: Cell::default(),
            busy: Cell::default(),
            waiting: RefCell::default(),
            weights: Cell::default(),
            now: Cell::default(),
            numbers: Cell::default(),
            left: Cell::default(),
            owed: Cell::default(),
            round: Cell::default(),
            begun: Cell::default(),
            spent: Cell::default(),
            cost: Cell::new(FIRST_COST),
            pace: Cell::new(FIRST_COST),
        }
    }
}

/// What a request is taken to cost before one was measured, nanoseconds.
const FIRST_COST: u64 = 50_000;

/// What came of asking for a turn.
enum Asked {
    Now,
    Later(Pass),
}

impl Turns {
    /// How long ready work waited lately.
    pub(crate) fn delay(&self) -> Duration {
        self.delay.get()
    }

    /// A request has come at `now`: perhaps it is time to measure.
    pub(crate) fn look(&self, thread: &Rc<Thread>, now: Instant) {
        match self.probe.get() {
            Probe::Out(sent) if now.saturating_duration_since(sent) > BUSY => self.busy.set(true),
            Probe::Back(at) if at.is_none_or(|at| now.saturating_duration_since(at) >= PROBE_PAUSE) => {
                self.probe.set(Probe::Out(now));
                drop(spawn_local(probe(Rc::clone(thread), now)));
            }
            _ => {}
        }
    }

    fn probed(&self, delay: Duration, at: Instant) {
        self.probe.set(Probe::Back(Some(at)));
        self.delay.set(delay);
        if delay > BUSY {
            self.busy.set(true);
        }
    }

    /// A tick: a thread that has caught up is not busy.
    pub(crate) fn sweep(&self, now: Instant) {
        if let Probe::Back(at) = self.probe.get() {
            if at.is_none_or(|at| now.saturating_duration_since(at) > PROBE_PAUSE * 4) {
                // Nobody asked: nothing waits.
                self.delay.set(Duration::ZERO);
            }
            if self.delay.get() <= BUSY / 2 && self.waiting.borrow().is_empty() {
                self.busy.set(false);
            }
        }
    }

    /// Asks for a turn for one of `share`'s requests, which came at `now`; `known`: of a client that goes before strangers.
    fn ask(&self, share: &Rc<Share>, known: bool, now: Instant, limit: Duration) -> Result<Asked, Overload> {
        let lane = &share.lane;
        let cost = lane.cost(self.cost.get());
        let start = self.start_of(lane);
        let next = self.waiting.borrow().first_key_value().map(|(place, _)| *place);
        let is_next = |next: Place| match lane.place.get() {
            None => start <= next.0,
            place => place == Some(next) && lane.is_first(known),
        };
        let left = match next {
            None if self.left.get() >= cost => Some(&self.left),
            // It would be the next to begin: it need not wait for the dispatcher to find that out, nor behind all that is ready
            // for a second time.
            Some(next) if self.owed.get() > 0 && is_next(next) => Some(&self.owed),
            _ => None,
        };
        if let Some(left) = left {
            left.set(left.get().saturating_sub(cost));
            self.begins(share, cost);
            return Ok(Asked::Now);
        }
        if lane.is_overloaded(now, limit) && self.wait_in(share, known) > limit {
            return Err(Overload::Queue);
        }
        if lane.place.get().is_none() {
            self.numbers.set(self.numbers.get() + 1);
            self.enter(share, (start, self.numbers.get()));
        }
        Ok(Asked::Later(lane.wait(now, known)))
    }

    /// Where a lane's next request stands in the order: behind what its tenant has had, of which it is credited [`CREDIT`] at most.
    fn start_of(&self, lane: &Lane) -> u64 {
        lane.finish.get().max(self.now.get().saturating_sub(nanos(CREDIT)))
    }

    /// How long one more request of `share`'s would wait.
    fn wait_in(&self, share: &Rc<Share>, known: bool) -> Duration {
        let lane = &share.lane;
        let own = share.weight();
        let weights = self.weights.get() + if lane.place.get().is_none() { own } else { 0 };
        let each = u128::from(self.pace.get()) * u128::from(weights) / u128::from(own);
        let wait = each * (lane.ahead_of(known) as u128 + 1);
        Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX))
    }

    fn enter(&self, share: &Rc<Share>, place: Place) {
        share.lane.place.set(Some(place));
        self.weights.set(self.weights.get() + share.weight());
        share.lane.entered_as.set(share.weight());
        self.waiting.borrow_mut().insert(place, Rc::clone(share));
    }

    /// Takes the lane that is next out of the order.
    fn leave_first(&self) -> Option<Rc<Share>> {
        let (place, share) = self.waiting.borrow_mut().pop_first()?;
        share.lane.place.set(None);
        self.weights.set(self.weights.get().saturating_sub(share.lane.entered_as.get()));
        self.now.set(self.now.get().max(place.0));
        Some(share)
    }

    /// One of `share`'s requests begins, which is expected to cost so much.
    fn begins(&self, share: &Share, cost: u64) {
        let lane = &share.lane;
        lane.finish.set(self.start_of(lane) + stretched(cost, share.weight()));
        self.begun.set(self.begun.get() + 1);
    }

    /// A request of `share`'s that waited its turn was answered, and cost so much CPU time up to there.
    pub(crate) fn charge(&self, share: &Share, spent: Duration) {
        let spent = nanos(spent);
        let expected = share.lane.head(self.cost.get());
        share.lane.learn(spent, expected);
        self.cost.set(average(self.cost.get(), spent));
        // What it cost above what was expected is paid for by its tenant's next requests.
        let more = stretched(spent.saturating_sub(expected), share.weight());
        share.lane.finish.set(share.lane.finish.get() + more);
    }

    /// Lets a request work, and adds the time that it takes to `spent` if that is of interest.
    pub(crate) fn timed<T>(&self, spent: &mut Duration, work: impl FnOnce() -> T) -> T {
        if !self.busy.get() {
            return work();
        }
        let began = Instant::now();
        let done = work();
        let took = began.elapsed();
        self.spent.set(self.spent.get() + took);
        *spent += took;
        done
    }

    /// What is left to do for one of `share`'s requests, whose head is answered.
    pub(crate) fn rest<'t>(&'t self, share: Option<&'t Rc<Share>>) -> Rest<'t> {
        Rest::new(self, share)
    }

    /// A round: lets those begin whose turn it is. Whether others still wait.
    fn turn(&self, now: Instant, limit: Duration) -> bool {
        let count = self.begun.replace(0);
        let spent = self.spent.take();
        let round = self.round.replace(Some(now)).map(|last| now.saturating_duration_since(last));
        if let Some(round) = round.filter(|_| count > 0) {
            self.pace.set(average(self.pace.get(), nanos(round) / u64::from(count)));
        }
        // All else costs time, too, refusals among it. Requests get at least as much, half of the thread, and no more than that
        // beyond their quantum: what becomes ready in a round waits for its end.
        let other = round.unwrap_or_default().saturating_sub(spent);
        let owed = nanos(QUANTUM);
        // Those who did not wait had their part of it.
        let begun = owed.saturating_sub(self.owed.replace(owed));
        let mut left = nanos(other.clamp(QUANTUM, QUANTUM_MOST)).saturating_sub(begun);
        while let Some(share) = self.leave_first() {
            let cost = share.lane.cost(self.cost.get());
            share.lane.expire(now, limit);
            if let Some(ticket) = share.lane.next() {
                ticket.end(lane::State::Granted);
                self.begins(&share, cost);
                left = left.saturating_sub(cost);
            }
            if share.lane.waits() {
                self.numbers.set(self.numbers.get() + 1);
                let start = self.start_of(&share.lane);
                self.enter(&share, (start, self.numbers.get()));
            } else {
                share.lane.rests(now);
            }
            if left == 0 {
                break;
            }
        }
        self.left.set(left);
        !self.waiting.borrow().is_empty()
    }
}

/// Waits until one of `share`'s requests may begin, which came at `now` on `member`'s connection, if that is known. How long that
/// was.
///
/// # Errors
/// [`Overload`], if it would be too long.
pub(crate) async fn wait(
    thread: &Rc<Thread>,
    share: &Rc<Share>,
    member: Option<&Membership>,
    now: Instant,
) -> Result<Duration, Overload> {
    let turns = &thread.turns;
    if !turns.busy.get() {
        return Ok(Duration::ZERO);
    }
    let asking = member.map_or_else(Asking::stranger, Membership::asks);
    let was_idle = turns.waiting.borrow().is_empty();
    let pass = match turns.ask(share, asking.is_known(), now, thread.limits.queue_delay)? {
        Asked::Now => return Ok(Duration::ZERO),
        Asked::Later(pass) => pass,
    };
    if was_idle {
        drop(spawn_local(dispatch(Rc::clone(thread))));
    }
    let granted = poll_fn(|cx| pass.poll(cx)).await;
    let waited = now.elapsed();
    thread.counters.queue_delay_us.raise(micros(waited));
    if granted { Ok(waited) } else { Err(Overload::Queue) }
}

/// Gives turns for as long as somebody waits.
async fn dispatch(thread: Rc<Thread>) {
    // A round that began before nobody waited says nothing of this one.
    thread.turns.round.set(None);
    loop {
        // Behind all that is ready, and all that the kernel has got in the meantime.
        yield_now().await;
        if !thread.turns.turn(Instant::now(), thread.limits.queue_delay) {
            return;
        }
    }
}

async fn probe(thread: Rc<Thread>, sent: Instant) {
    let now = Instant::now();
    let delay = now.saturating_duration_since(sent);
    thread.counters.queue_delay_us.raise(micros(delay));
    thread.turns.probed(delay, now);
}

/// In virtual time: whoever has twice the weight pays half.
fn stretched(cost: u64, weight: u64) -> u64 {
    cost.saturating_mul(model::TrafficQuota::WEIGHT.get().into()) / weight.max(1)
}

fn average(old: u64, new: u64) -> u64 {
    old - old / 8 + new / 8
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
