use std::{
    num::NonZeroU32,
    task::{Context, Poll, Waker},
};

use model::TrafficQuota;

use super::*;
use crate::limits::LIMITS;

const LIMIT: Duration = LIMITS.queue_delay;

/// What each request costs.
const COST: Duration = Duration::from_millis(1);

/// What a refusal costs, and the look at a request that waits.
const LITTLE: Duration = Duration::from_micros(10);

/// A tenant whose requests come evenly.
struct Tenant {
    share: Rc<Share>,
    per_second: f64,
    due: f64,
    passes: Vec<(Pass, Instant)>,
    waits: Vec<Duration>,
    refused: usize,
}

impl Tenant {
    fn new(per_second: f64, weight: u32) -> Self {
        let quota = TrafficQuota { weight: NonZeroU32::new(weight).unwrap(), ..TrafficQuota::default() };
        let share = Share::new(std::sync::Arc::default(), quota);
        Self { share, per_second, due: 0.0, passes: vec![], waits: vec![], refused: 0 }
    }

    fn served(&self) -> usize {
        self.waits.len()
    }

    fn worst(&mut self) -> Duration {
        self.waits.sort_unstable();
        self.waits[self.waits.len() * 99 / 100]
    }
}

/// A thread on a clock of its own.
struct World {
    turns: Turns,
    now: Instant,
}

impl World {
    fn new() -> Self {
        let turns = Turns::default();
        turns.busy.set(true);
        Self { turns, now: Instant::now() }
    }

    fn serve(&mut self, tenant: &mut Tenant, came: Instant) {
        tenant.waits.push(self.now - came);
        self.now += COST;
        self.turns.spent.set(self.turns.spent.get() + COST);
        self.turns.charge(&tenant.share, COST);
    }

    /// One round of the thread: what has come is looked at, then some begin.
    fn round(&mut self, tenants: &mut [Tenant], last: Instant) {
        let began = self.now;
        for tenant in &mut *tenants {
            tenant.due += tenant.per_second * (began - last).as_secs_f64();
            while tenant.due >= 1.0 {
                tenant.due -= 1.0;
                self.now += LITTLE;
                match self.turns.ask(&tenant.share, false, began, LIMIT) {
                    Ok(Asked::Now) => self.serve(tenant, began),
                    Ok(Asked::Later(pass)) => tenant.passes.push((pass, began)),
                    Err(_) => tenant.refused += 1,
                }
            }
        }
        let more = self.turns.turn(self.now, LIMIT);
        assert_eq!(more, !self.turns.waiting.borrow().is_empty());
        for tenant in tenants {
            let cx = Context::from_waker(Waker::noop());
            let (ended, waiting): (Vec<_>, Vec<_>) =
                tenant.passes.drain(..).partition(|(pass, _)| pass.poll(&cx).is_ready());
            tenant.passes = waiting;
            for (pass, came) in ended {
                match pass.poll(&cx) {
                    Poll::Ready(true) => self.serve(tenant, came),
                    _ => tenant.refused += 1,
                }
            }
        }
        if self.now == began {
            self.now += LITTLE * 10;
        }
    }

    fn run(&mut self, tenants: &mut [Tenant], time: Duration) {
        let (ends, mut last) = (self.now + time, self.now);
        while self.now < ends {
            let began = self.now;
            self.round(tenants, last);
            last = began;
        }
        for tenant in tenants {
            assert!(tenant.passes.len() < 10_000, "the queue is bounded");
        }
    }
}

/// Forgets what was, for the time that counts.
fn forget(tenants: &mut [Tenant]) {
    for tenant in tenants {
        tenant.waits.clear();
        tenant.refused = 0;
    }
}

#[test]
fn five_times_the_load_is_served_as_fast_as_can_be_and_no_answer_is_late() {
    let (mut world, mut tenants) = (World::new(), [Tenant::new(5000.0, 100)]);
    world.run(&mut tenants, Duration::from_secs(3));
    forget(&mut tenants);
    world.run(&mut tenants, Duration::from_secs(5));
    let [tenant] = &mut tenants;
    let (served, worst) = (tenant.served(), tenant.worst());
    // 4,000 refusals a second cost 4 % of the time.
    assert!(served > 5 * 930, "{served} served");
    assert!(worst < LIMIT * 5 / 4, "{worst:?}");
}

#[test]
fn when_the_flood_is_over_the_next_second_refuses_nobody() {
    let (mut world, mut tenants) = (World::new(), [Tenant::new(5000.0, 100)]);
    world.run(&mut tenants, Duration::from_secs(4));
    tenants[0].per_second = 800.0;
    world.run(&mut tenants, Duration::from_millis(1000));
    forget(&mut tenants);
    world.run(&mut tenants, Duration::from_secs(1));
    assert_eq!(tenants[0].refused, 0);
    assert!(tenants[0].worst() < Duration::from_millis(20), "{:?}", tenants[0].worst());
}

#[test]
fn a_burst_waits_and_is_not_refused() {
    let (mut world, mut tenants) = (World::new(), [Tenant::new(100.0, 100)]);
    tenants[0].due = 600.0;
    world.run(&mut tenants, Duration::from_secs(2));
    assert_eq!(tenants[0].refused, 0);
    assert!(tenants[0].served() > 750, "{}", tenants[0].served());
}

#[test]
fn ten_times_the_load_of_one_tenant_is_not_felt_by_the_other() {
    let (mut world, mut tenants) = (World::new(), [Tenant::new(10_000.0, 100), Tenant::new(300.0, 100)]);
    world.run(&mut tenants, Duration::from_secs(3));
    forget(&mut tenants);
    world.run(&mut tenants, Duration::from_secs(5));
    let [flood, honest] = &mut tenants;
    assert_eq!(honest.refused, 0);
    assert!(honest.served() >= 1490, "{}", honest.served());
    assert!(honest.worst() <= COST * 3, "{:?}", honest.worst());
    assert!(flood.served() > 2800, "what is left is the other's: {}", flood.served());
}

#[test]
fn several_requests_at_once_of_who_asks_for_little_go_before_a_flood() {
    let (mut world, mut tenants) = (World::new(), [Tenant::new(10_000.0, 100), Tenant::new(0.0, 100)]);
    world.run(&mut tenants, Duration::from_secs(3));
    forget(&mut tenants);
    for _ in 0..100 {
        tenants[1].due += 4.0;
        world.run(&mut tenants, Duration::from_millis(14));
    }
    let [flood, honest] = &mut tenants;
    assert_eq!((honest.refused, honest.served()), (0, 400));
    assert!(honest.worst() < COST * 5, "the flood gets no turn among them: {:?}", honest.worst());
    // Of 1,400 ms; 10,000 refusals a second cost 10 % of the time.
    assert!(flood.served() > 850, "what is left is the other's: {}", flood.served());
}

#[test]
fn whoever_asks_for_too_much_is_served_by_weight() {
    let mut world = World::new();
    let mut tenants = [Tenant::new(5_000.0, 100), Tenant::new(5_000.0, 300)];
    world.run(&mut tenants, Duration::from_secs(4));
    forget(&mut tenants);
    world.run(&mut tenants, Duration::from_secs(4));
    let [one, three] = &tenants;
    let ratio = three.served() as f64 / one.served() as f64;
    assert!((2.7..3.3).contains(&ratio), "{} and {}", one.served(), three.served());
}

#[test]
fn whoever_would_be_next_begins_at_once_for_up_to_a_quantum_a_round() {
    let world = World::new();
    let [flood, honest] = [Tenant::new(0.0, 100), Tenant::new(0.0, 100)];
    let ask = |tenant: &Tenant| world.turns.ask(&tenant.share, true, world.now, LIMIT);
    honest.share.lane.learn(nanos(COST), nanos(COST));
    let _waiting: Vec<_> = (0..100).map(|_| ask(&flood)).collect();
    assert!(world.turns.turn(world.now, LIMIT), "others wait");
    assert!(matches!(ask(&flood), Ok(Asked::Later(_))), "behind its own");
    assert!(matches!(ask(&honest), Ok(Asked::Now)));
    let _second = ask(&honest);
    assert_eq!(honest.share.lane.len(), 1, "the quantum is spent");
}

#[test]
fn who_is_known_begins_at_once_before_its_own_tenants_strangers() {
    let world = World::new();
    let [crowd, other] = [Tenant::new(0.0, 100), Tenant::new(0.0, 100)];
    let ask = |tenant: &Tenant, known| world.turns.ask(&tenant.share, known, world.now, LIMIT);
    let _strangers: Vec<_> = (0..100).map(|_| ask(&crowd, false)).collect();
    assert!(world.turns.turn(world.now, LIMIT), "strangers wait");
    assert!(matches!(ask(&crowd, false), Ok(Asked::Later(_))), "a stranger is behind them");
    assert!(matches!(ask(&crowd, true), Ok(Asked::Now)));
    // Where another tenant's turn comes before, its own does not.
    world.turns.owed.set(nanos(QUANTUM));
    other.share.lane.finish.set(0);
    world.turns.enter(&other.share, (0, 0));
    let _before = other.share.lane.wait(world.now, false);
    assert!(matches!(ask(&crowd, true), Ok(Asked::Later(_))));
}

#[test]
fn what_is_left_of_a_reply_is_paid_for_and_expected_the_next_time() {
    let world = World::new();
    let share = Tenant::new(0.0, 100).share;
    let work = || {
        let began = Instant::now();
        while began.elapsed() < Duration::from_micros(200) {}
    };
    let mut rest = world.turns.rest(Some(&share));
    rest.timed(work);
    let once = share.lane.finish.get();
    assert!(once >= 200_000, "{once} ns");
    rest.timed(work);
    assert!(share.lane.finish.get() >= once + 200_000);
    assert_eq!(share.lane.rest(), 0, "it has not ended");
    drop(rest);
    let expected = share.lane.rest();
    assert!(expected >= 50_000, "an eighth of it: {expected} ns");
    assert_eq!(share.lane.cost(7), expected + 7);
    assert!(world.turns.spent.get() >= Duration::from_micros(400));

    // What was expected is paid for when a request begins.
    let before = share.lane.finish.get();
    world.turns.rest(Some(&share)).timed(|| ());
    assert_eq!(share.lane.finish.get(), before);
    // Who is not busy does not look at the clock.
    world.turns.busy.set(false);
    world.turns.rest(Some(&share)).timed(work);
    assert_eq!((share.lane.finish.get(), share.lane.rest()), (before, share.lane.rest()));
}

#[test]
fn who_is_known_goes_before_strangers_but_not_always() {
    let lane = Lane::default();
    let now = Instant::now();
    let _strangers: Vec<_> = (0..100).map(|_| lane.wait(now, false)).collect();
    let later = now + Duration::from_millis(1);
    let _known: Vec<_> = (0..6).map(|_| lane.wait(later, true)).collect();
    assert_eq!((lane.ahead_of(true), lane.ahead_of(false)), (8, 400));
    let order: Vec<_> = (0..10)
        .map(|_| {
            let ticket = lane.next().unwrap();
            ticket.end(lane::State::Granted);
            ticket.came == later
        })
        .collect();
    let expected = [true, true, true, false, true, true, true, false, false, false];
    assert_eq!(order, expected);
}

#[test]
fn a_crowd_of_strangers_is_refused_and_who_is_known_is_not() {
    let world = World::new();
    let share = Tenant::new(0.0, 100).share;
    let ask = |known, at| world.turns.ask(&share, known, at, LIMIT);
    world.turns.pace.set(nanos(COST));
    let _crowd: Vec<_> = (0..200).map(|_| ask(false, world.now)).collect();
    let late = world.now + LIMIT * 2;
    let _seen = ask(false, late);
    let standing = late + crate::limits::STANDING;
    assert!(matches!(ask(false, standing), Err(Overload::Queue)));
    assert!(matches!(ask(true, standing), Ok(Asked::Later(_))));
}

#[test]
fn who_has_waited_for_too_long_does_not_stand_before_others() {
    let lane = Lane::default();
    let now = Instant::now();
    let _strangers: Vec<_> = (0..100).map(|_| lane.wait(now, false)).collect();
    lane.expire(now + LIMIT * 3, LIMIT);
    assert_eq!(lane.len(), 100, "it may be a burst");
    let standing = now + LIMIT * 3 + crate::limits::STANDING;
    let fresh = lane.wait(standing, false);
    lane.expire(standing, LIMIT);
    assert_eq!(lane.len(), 1);
    let first = lane.next().unwrap();
    first.end(lane::State::Granted);
    assert_eq!(first.came, standing);
    drop(fresh);
}

#[test]
fn a_flood_that_pauses_for_a_moment_is_the_same_flood() {
    let (mut world, mut tenants) = (World::new(), [Tenant::new(5000.0, 100)]);
    world.run(&mut tenants, Duration::from_secs(3));
    let flood = std::mem::replace(&mut tenants[0].per_second, 0.0);
    world.run(&mut tenants, Duration::from_millis(300));
    assert!(world.turns.waiting.borrow().is_empty(), "nobody waits any more");
    tenants[0].per_second = flood;
    forget(&mut tenants);
    world.run(&mut tenants, Duration::from_secs(3));
    assert!(tenants[0].worst() < LIMIT * 2, "{:?}", tenants[0].worst());
    tenants[0].per_second = 0.0;
    world.run(&mut tenants, crate::limits::STANDING * 2);
    forget(&mut tenants);
    tenants[0].due = 600.0;
    world.run(&mut tenants, Duration::from_secs(2));
    assert_eq!(tenants[0].refused, 0, "a burst some time later is one");
}

#[test]
fn whoever_goes_away_takes_no_turn() {
    let world = World::new();
    let share = Tenant::new(0.0, 100).share;
    let passes: Vec<_> = (0..10)
        .map(|_| match world.turns.ask(&share, false, world.now, LIMIT) {
            Ok(Asked::Later(pass)) => pass,
            _ => panic!("a turn without a round"),
        })
        .collect();
    assert_eq!(share.lane.len(), 10);
    drop(passes);
    assert_eq!(share.lane.len(), 0);
    assert!(!world.turns.turn(world.now, LIMIT));
    assert_eq!((world.turns.begun.get(), world.turns.weights.get()), (0, 0));
}

#[test]
fn a_thread_is_busy_while_what_is_ready_waits_and_not_for_longer() {
    let (turns, now) = (Turns::default(), Instant::now());
    turns.probed(BUSY / 2, now);
    assert!(!turns.busy.get());
    turns.probed(BUSY * 2, now);
    assert!(turns.busy.get());
    turns.sweep(now);
    assert!(turns.busy.get(), "it was late a moment ago");
    turns.sweep(now + Duration::from_secs(1));
    assert!(!turns.busy.get() && turns.delay().is_zero(), "nobody asked since");
}
