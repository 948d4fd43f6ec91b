use std::time::Duration;

use proptest::prelude::*;

use super::*;

const NOW: Time = Time::from_secs(1_000);

fn policy() -> PoolPolicy {
    PoolPolicy { min_workers: 1, max_workers: 10, ..PoolPolicy::default() }
}

/// As many as planned are ready, all is quiet.
fn crew(target: u32) -> Crew {
    Crew { target, ready: target, ..Crew::default() }
}

/// So much work for as long as anyone remembers.
fn demand(work: f64) -> Demand {
    Demand {
        work,
        forecast: work,
        peak: work,
        covered: Duration::from_secs(600),
        horizon: Duration::from_secs(3),
        ..Demand::default()
    }
}

fn check(policy: &PoolPolicy, crew: Crew, demand: Demand, target: u32, reason: &str) {
    let decision = decide(policy, &crew, &demand, NOW);
    assert_eq!((decision.target, decision.reason.name()), (target, reason), "{crew:?} {demand:?}");
    let held = ["at-maximum", "no-room", "missing", "unsettled", "too-early", "pause"];
    assert_eq!(decision.hold, held.contains(&reason), "{decision:?}");
}

#[test]
fn out_at_once_as_far_as_demand_says() {
    for (current, work, target, reason) in [
        (1, 0.0, 1, "steady"),
        (1, 0.7, 1, "steady"),
        (1, 0.71, 2, "demand"),
        (2, 1.4, 2, "steady"),
        (1, 3.5, 5, "demand"),
        (1, 7.0, 10, "demand"),
        (1, 70.0, 10, "demand"),
        (10, 70.0, 10, "at-maximum"),
    ] {
        check(&policy(), crew(current), demand(work), target, reason);
    }
}

#[test]
fn the_forecast_the_backlog_and_past_errors_count() {
    let d = demand(1.0);
    check(&policy(), crew(2), d, 2, "steady");
    check(&policy(), crew(2), Demand { forecast: 2.0, ..d }, 3, "demand");
    check(&policy(), crew(2), Demand { backlog: 0.5, ..d }, 3, "demand");
    // Headroom that the target utilisation covers, and some that it does not.
    check(&policy(), crew(2), Demand { headroom: 0.4, ..d }, 2, "steady");
    check(&policy(), crew(2), Demand { headroom: 1.0, work: 1.2, forecast: 1.2, ..d }, 3, "demand");
}

#[test]
fn no_evidence_is_needed_to_add_workers() {
    let blind = Crew { missing: 1, starting: 1, leaving: 1, lost_nodes: 1, changed_at: NOW, ..crew(2) };
    check(&policy(), blind, Demand { covered: Duration::ZERO, ..demand(3.0) }, 5, "demand");
}

#[test]
fn full_workers_double_the_pool_once_the_last_change_had_time_to_help() {
    let full = |saturated| Demand { saturated, ..demand(2.0) };
    check(&policy(), crew(3), full(3), 6, "saturated");
    check(&policy(), crew(4), full(2), 6, "saturated");
    let ago = |s| NOW - Duration::from_secs(s);
    check(&policy(), Crew { changed_at: ago(5), ..crew(3) }, full(3), 3, "steady");
    check(&policy(), Crew { changed_at: ago(6), ..crew(3) }, full(3), 6, "saturated");
    // One of many: it has too many connections.
    check(&policy(), crew(5), Demand { saturated: 1, ..demand(3.2) }, 5, "steady");
}

#[test]
fn in_slowly_by_a_quarter_and_at_least_one() {
    let policy = PoolPolicy { max_workers: 100, ..policy() };
    for (current, work, target) in [(2, 0.1, 1), (3, 0.1, 2), (8, 0.1, 6), (40, 0.1, 30), (40, 20.0, 32)] {
        check(&policy, crew(current), demand(work), target, "surplus");
    }
    // The one fewer would be used to 69 %: too near to 70 %.
    check(&policy, crew(3), demand(1.38), 3, "steady");
    check(&policy, crew(3), demand(1.26), 2, "surplus");
    // The highest of the delay counts, not what is now.
    check(&policy, crew(3), Demand { peak: 1.9, ..demand(0.1) }, 3, "steady");
}

#[test]
fn in_only_on_complete_evidence() {
    let low = demand(0.1);
    check(&policy(), crew(4), low, 3, "surplus");
    check(&policy(), Crew { missing: 1, ..crew(4) }, low, 4, "missing");
    check(&policy(), Crew { lost_nodes: 1, ..crew(4) }, low, 4, "missing");
    check(&policy(), Crew { starting: 1, ..crew(4) }, low, 4, "unsettled");
    check(&policy(), Crew { leaving: 1, ..crew(4) }, low, 4, "unsettled");
    check(&policy(), crew(4), Demand { covered: Duration::from_secs(59), ..low }, 4, "too-early");
    check(&policy(), Crew { changed_at: NOW - Duration::from_secs(9), ..crew(4) }, low, 4, "pause");
    check(&policy(), Crew { changed_at: NOW - Duration::from_secs(10), ..crew(4) }, low, 3, "surplus");
}

#[test]
fn bounds_hold_at_once_and_without_evidence() {
    let narrow = PoolPolicy { min_workers: 2, max_workers: 4, ..policy() };
    let blind = |target| Crew { missing: 1, ..crew(target) };
    check(&narrow, blind(0), Demand::default(), 2, "below-minimum");
    check(&narrow, blind(9), Demand::default(), 4, "above-maximum");
    check(&narrow, crew(2), demand(0.0), 2, "steady");
    // A minimum above the maximum, and a maximum of none, are not taken at their word.
    check(&PoolPolicy { min_workers: 9, max_workers: 4, ..policy() }, crew(4), demand(9.0), 4, "at-maximum");
    check(&PoolPolicy { min_workers: 0, max_workers: 0, ..policy() }, crew(0), demand(9.0), 1, "demand");
}

#[test]
fn cpus_bound_scale_out_and_never_scale_in() {
    let room = |room, target| Crew { room: Some(room), ..crew(target) };
    check(&policy(), room(4, 2), demand(7.0), 4, "demand");
    check(&policy(), room(4, 4), demand(7.0), 4, "no-room");
    check(&policy(), room(2, 4), demand(7.0), 4, "no-room");
    check(&policy(), room(0, 1), demand(7.0), 1, "no-room");
}

#[test]
fn a_pool_sleeps_when_it_was_idle_for_long_and_wakes_at_once() {
    let sleepy = PoolPolicy { min_workers: 0, ..policy() };
    let idle = |s| Demand { idle: Duration::from_secs(s), ..demand(0.0) };
    check(&sleepy, crew(1), idle(59), 1, "steady");
    check(&sleepy, crew(1), idle(60), 0, "idle");
    check(&sleepy, Crew { missing: 1, ..crew(1) }, idle(60), 1, "missing");
    // Not in one step from many.
    check(&sleepy, crew(4), idle(600), 3, "surplus");
    check(&sleepy, crew(0), idle(600), 0, "steady");
    check(&sleepy, Crew { woken: true, ready: 1, ..crew(0) }, idle(600), 1, "woken");
    check(&sleepy, crew(0), demand(0.2), 1, "demand");
    // With a minimum there is no sleep.
    check(&policy(), crew(1), idle(600), 1, "steady");
}

#[test]
fn reasons_bring_their_figures() {
    let said = |crew, demand| decide(&policy(), &crew, &demand, NOW).reason.to_string();
    let rising = Demand { forecast: 3.0, backlog: 0.25, ..demand(2.5) };
    assert_eq!(
        said(crew(1), rising),
        "demand of 2.50 workers, 3.00 expected in 3.0 s, 0.25 more for the backlog; each worker is used to 70 %"
    );
    assert_eq!(said(crew(4), demand(0.5)), "demand was at most 0.50 workers for 60 s: 1 will do");
    let missing = Crew { missing: 2, ..crew(4) };
    assert_eq!(said(missing, demand(0.5)), "fewer would do, but 2 workers and 0 nodes are silent");
    assert_eq!(said(crew(10), demand(9.0)), "13 workers are needed; the maximum is 10");
}

prop_compose! {
    fn any_policy()(min in 0_u32..20, extra in 0_u32..40, util in 1_u32..1200, step in 0_u32..1200) -> PoolPolicy {
        PoolPolicy {
            min_workers: min,
            max_workers: min + extra,
            target_utilization_permille: util,
            scale_in_step_permille: step,
            ..PoolPolicy::default()
        }
    }
}

prop_compose! {
    fn any_crew()(
        target in 0_u32..70, ready in 0_u32..70, changed in 0_u64..1_000, woken: bool,
        counts in prop::array::uniform4(prop_oneof![4 => Just(0_u32), 1 => 1_u32..5]),
        room in prop::option::of(0_u32..80),
    ) -> Crew {
        let [starting, leaving, missing, lost_nodes] = counts;
        let changed_at = Time::from_secs(changed);
        Crew { target, changed_at, ready, starting, leaving, missing, lost_nodes, woken, room }
    }
}

prop_compose! {
    fn any_demand()(
        work in 0.0..60.0, rise in 0.0..10.0, backlog in 0.0..10.0, headroom in 0.0..1.0, above in 0.0..20.0,
        covered in 0_u64..120, idle in 0_u64..120, saturated in 0_u32..70,
    ) -> Demand {
        let forecast = work + rise;
        let (covered, idle) = (Duration::from_secs(covered), Duration::from_secs(idle));
        let horizon = Duration::from_secs(3);
        Demand { work, forecast, horizon, backlog, headroom, peak: forecast + backlog + above, covered, idle, saturated }
    }
}

proptest! {
    #[test]
    fn the_target_is_within_bounds(policy in any_policy(), crew in any_crew(), demand in any_demand()) {
        let (min, max) = policy.bounds();
        let target = decide(&policy, &crew, &demand, NOW).target;
        prop_assert!((min..=max).contains(&target), "{}", target);
    }

    #[test]
    fn more_load_never_makes_fewer_workers(
        policy in any_policy(), crew in any_crew(), demand in any_demand(),
        more in prop::array::uniform3(0.0..20.0), saturated in 0_u32..20,
    ) {
        let [work, backlog, headroom] = more;
        let busier = Demand {
            work: demand.work + work,
            forecast: demand.forecast + work,
            backlog: demand.backlog + backlog,
            headroom: demand.headroom + headroom / 20.0,
            peak: demand.peak + work + backlog,
            saturated: demand.saturated + saturated,
            idle: if work > 0.0 { Duration::ZERO } else { demand.idle },
            ..demand
        };
        let (less, more) = (decide(&policy, &crew, &demand, NOW), decide(&policy, &crew, &busier, NOW));
        prop_assert!(more.target >= less.target, "{:?} then {:?}", less, more);
    }

    #[test]
    fn missing_evidence_never_scales_in(
        policy in any_policy(), crew in any_crew(), demand in any_demand(), which in 0..5,
    ) {
        let (mut crew, mut demand) = (crew, demand);
        match which {
            0 => crew.missing += 1,
            1 => crew.lost_nodes += 1,
            2 => crew.starting += 1,
            3 => crew.leaving += 1,
            _ => (demand.covered, demand.idle) = (Duration::from_secs(59), Duration::ZERO),
        }
        // Within the bounds, that is: an operator who lowers the maximum is obeyed.
        let (min, max) = policy.bounds();
        crew.target = crew.target.clamp(min, max);
        let decision = decide(&policy, &crew, &demand, NOW);
        prop_assert!(decision.target >= crew.target, "{:?}", decision);
    }

    #[test]
    fn a_step_in_is_small(policy in any_policy(), crew in any_crew(), demand in any_demand()) {
        let (min, max) = policy.bounds();
        let crew = Crew { target: crew.target.clamp(min, max), ..crew };
        let target = decide(&policy, &crew, &demand, NOW).target;
        prop_assert!(crew.target.saturating_sub(target) <= policy.scale_in_step(crew.target));
    }

    #[test]
    fn a_hold_changes_nothing(policy in any_policy(), crew in any_crew(), demand in any_demand()) {
        let decision = decide(&policy, &crew, &demand, NOW);
        prop_assert!(!decision.hold || decision.target == crew.target, "{:?}", decision);
    }
}
