use std::time::Instant;

use super::*;

const IDLE: Life =
    Life { born_ms: 0, doing: Doing::Idle { since_ms: 0 }, jitter_permille: 500, retired: false };
const BUSY: Life = Life { doing: Doing::Requests, ..IDLE };
const TUNNEL: Life = Life { doing: Doing::Tunnel { drain: None }, ..IDLE };
/// Its route is gone since 50 s.
const STRAY: Life = Life { doing: Doing::Tunnel { drain: Some((50_000, 60_000)) }, ..IDLE };
const DRAIN: Policy = Policy { drain: Some((100_000, 130_000)), max_age_ms: None };
const SERVE: Policy = Policy { drain: None, max_age_ms: None };

#[test]
fn verdicts() {
    let idle_at = |since_ms| Life { doing: Doing::Idle { since_ms }, ..IDLE };
    let aged = Policy { max_age_ms: Some(10_000), ..SERVE };
    for (name, life, policy, now, expect) in [
        ("serving", IDLE, SERVE, 1_000_000, Verdict::Stay),
        ("a drain retires", BUSY, DRAIN, 100_000, Verdict::Retire),
        ("an idle connection is not closed at once", idle_at(99_000), DRAIN, 100_001, Verdict::Retire),
        ("idle longer than advertised", IDLE, DRAIN, 100_000, Verdict::Leave),
        ("idle at the end, spread", idle_at(118_000), DRAIN, 128_499, Verdict::Retire),
        ("idle at the end, its turn", idle_at(118_000), DRAIN, 128_500, Verdict::Leave),
        ("busy to the end", BUSY, DRAIN, 129_999, Verdict::Retire),
        ("a tunnel, however long it said nothing", TUNNEL, DRAIN, 119_499, Verdict::Retire),
        ("a tunnel's turn", TUNNEL, DRAIN, 119_500, Verdict::Leave),
        ("a tunnel at the deadline", TUNNEL, DRAIN, 130_000, Verdict::Abort),
        ("a tunnel without a route", STRAY, SERVE, 56_499, Verdict::Retire),
        ("a tunnel without a route, its turn", STRAY, SERVE, 56_500, Verdict::Leave),
        ("a tunnel without a route, its deadline", STRAY, SERVE, 60_000, Verdict::Abort),
        ("a tunnel of age", TUNNEL, aged, 1_000_000, Verdict::Retire),
        ("the deadline", BUSY, DRAIN, 130_000, Verdict::Abort),
        ("young", BUSY, aged, 9_999, Verdict::Stay),
        ("of age", BUSY, aged, 10_000, Verdict::Retire),
        ("of age, jittered", Life { jitter_permille: 999, ..BUSY }, aged, 10_000, Verdict::Stay),
        ("picked", Life { retired: true, ..BUSY }, SERVE, 1, Verdict::Retire),
    ] {
        assert_eq!(verdict(&life, &policy, now), expect, "{name}");
    }
}

#[test]
fn a_drain_always_ends() {
    for jitter_permille in [0, 1, 500, 999] {
        let idle = [0, 129_999].map(|since_ms| Doing::Idle { since_ms });
        for doing in [Doing::Requests, TUNNEL.doing, idle[0], idle[1]] {
            let life = Life { jitter_permille, doing, ..IDLE };
            let mut last = Verdict::Stay;
            for now in 100_000..=130_000 {
                let verdict = verdict(&life, &DRAIN, now);
                assert!(verdict >= last, "{verdict:?} after {last:?} at {now}");
                last = verdict;
            }
            assert_eq!(last, Verdict::Abort);
        }
    }
}

#[test]
fn the_oldest_retire_first_and_an_eighth_at_a_time() {
    let start = Instant::now();
    let clock = Clock::new(start);
    let registry = Registry::new(Rc::clone(&clock));
    let seats: Vec<_> = (0..16)
        .map(|second| {
            clock.sweep(start + Duration::from_secs(second));
            registry.enter(0)
        })
        .collect();
    registry.retire_above(15);
    registry.sweep();
    let retired = || seats.iter().filter(|s| s.verdict() == Verdict::Retire).count();
    assert_eq!(retired(), 1);
    assert_eq!(seats[0].verdict(), Verdict::Retire);
    registry.retire_above(0);
    registry.sweep();
    assert_eq!(retired(), 3, "an eighth of the fifteen that stay, rounded up");
    assert_eq!(seats[2].verdict(), Verdict::Retire);
}

#[test]
fn a_drain_wakes_those_that_were_to_go_before() {
    let registry = Registry::new(Clock::new(Instant::now()));
    let seat = registry.enter(0);
    registry.retire_above(0);
    registry.sweep();
    let waits = || {
        seat.poll(&Context::from_waker(Waker::noop()));
        registry.sweep();
        seat.entry.waker.borrow().is_some()
    };
    assert!(waits(), "its verdict is as before");
    registry.drain(Duration::from_secs(30));
    assert!(seat.entry.waker.borrow().is_none(), "woken");
    assert!(waits());
}

#[test]
fn a_seat_leaves_when_dropped() {
    let registry = Registry::new(Clock::new(Instant::now()));
    let (first, second) = (registry.enter(0), registry.enter(0));
    drop(first);
    assert_eq!(registry.len(), 1);
    registry.drain(Duration::from_secs(1));
    assert_eq!(second.verdict(), Verdict::Retire);
    drop(second);
    assert_eq!(registry.len(), 0);
}

#[test]
fn only_tunnels_whose_routes_are_gone_drain() {
    let registry = Registry::new(Clock::new(Instant::now()));
    let seats = ["a", "b"].map(|name| {
        let seat = registry.enter(0);
        let opened_by = OpenedBy::Route(RouteId(format!("default/{name}")));
        seat.tunnel(TunnelRoute { tenant: "acme".parse().unwrap(), host: "a.test".to_owned(), opened_by });
        seat
    });
    let idle = registry.enter(0);
    registry.drain_tunnels(Duration::ZERO, |tunnel| {
        tunnel.opened_by == OpenedBy::Route(RouteId("default/a".to_owned()))
    });
    registry.sweep();
    assert_eq!(seats.each_ref().map(Seat::verdict), [Verdict::Abort, Verdict::Stay]);
    assert_eq!(idle.verdict(), Verdict::Stay);
}
