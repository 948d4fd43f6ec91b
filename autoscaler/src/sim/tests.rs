//! The loop closed: time to capacity, and no flapping.

use super::*;
use crate::Capacity;

/// 10,000 requests a second fill a worker.
const COST: f64 = 100e-6;
const FULL: f64 = 1.0 / COST;

fn scenario(trace: Vec<Second>) -> Scenario {
    let policy = PoolPolicy { max_workers: 32, ..PoolPolicy::default() };
    Scenario { policy, workers: 1, start: Duration::from_millis(1_500), cost_seconds: COST, cpus: 64, trace }
}

fn check(scenario: &Scenario) -> Timeline {
    let timeline = run(&"default".parse().unwrap(), scenario);
    let (min, max) = scenario.policy.bounds();
    for point in &timeline.points {
        assert!((min..=max).contains(&point.target), "{point:?}");
    }
    timeline
}

/// Arrivals at `workers(second)` times what one worker can do.
fn trace(seconds: u32, workers: impl Fn(u32) -> f64) -> Vec<Second> {
    (0..seconds).map(|s| Second::of(workers(s) * FULL)).collect()
}

/// The sum of arrivals, so that noise is the same in each run.
fn noise(second: u32) -> f64 {
    // Two incommensurable waves and a hash; within +-1.
    let t = f64::from(second);
    let hash = f64::from((second.wrapping_mul(2_654_435_761) >> 16) & 0xff) / 255.0 - 0.5;
    (t * 0.9).sin() * 0.3 + (t * 0.37).sin() * 0.2 + hash
}

fn targets(timeline: &Timeline) -> Vec<(u64, u32)> {
    let mut changes: Vec<(u64, u32)> = Vec::new();
    for point in &timeline.points {
        if changes.last().is_none_or(|(_, target)| *target != point.target) {
            changes.push((point.second, point.target));
        }
    }
    changes
}

#[test]
fn steady_load_changes_nothing() {
    let timeline = check(&Scenario { workers: 3, ..scenario(trace(600, |_| 2.0)) });
    assert_eq!(targets(&timeline).last().unwrap().1, 3, "{:?}", targets(&timeline));
    assert_eq!(timeline.changes, 0, "{:?}", targets(&timeline));
    assert_eq!(timeline.worst_queue_seconds, 0.0);
}

#[test]
fn noisy_load_does_not_flap() {
    for level in [0.65, 0.7, 1.38, 2.1, 3.4] {
        let workers = crate::number::whole_up(level / 0.7);
        let trace = trace(1_800, |s| level * (1.0 + 0.1 * noise(s)));
        let timeline = check(&Scenario { workers, ..scenario(trace) });
        assert!(timeline.changes <= 2, "{level}: {:?}", targets(&timeline));
    }
}

#[test]
fn a_step_is_served_within_seconds() {
    // One worker at half its capacity, then eight workers' worth.
    let timeline = check(&scenario(trace(300, |s| if s < 60 { 0.5 } else { 5.6 })));
    let capacity = timeline.time_to_capacity(60).unwrap();
    assert!(capacity <= Duration::from_secs(8), "{capacity:?} {:?}", targets(&timeline));
    let peak = timeline.points.iter().map(|p| p.target).max().unwrap();
    assert!(peak <= 16, "{:?}", targets(&timeline));
    let last = timeline.points.last().unwrap();
    assert!((8..=10).contains(&last.target), "{:?}", targets(&timeline));
    assert!(timeline.changes <= 12, "{:?}", targets(&timeline));
}

#[test]
fn a_ramp_is_served_without_a_queue() {
    let timeline = check(&scenario(trace(700, |s| 0.3 + f64::from(s.min(400)) * 0.02)));
    assert!(timeline.worst_queue_seconds < 0.1, "{}", timeline.worst_queue_seconds);
    let first = timeline.points.iter().position(|p| p.target < 2).unwrap();
    let falls = timeline.points[first..500].windows(2).filter(|p| p[1].target < p[0].target).count();
    assert_eq!(falls, 0, "{:?}", targets(&timeline));
}

#[test]
fn a_spike_is_left_slowly_and_in_steps() {
    let timeline = check(&scenario(trace(400, |s| if (60..70).contains(&s) { 6.0 } else { 0.4 })));
    let peak = timeline.points.iter().map(|p| p.target).max().unwrap();
    assert!(peak >= 6, "{:?}", targets(&timeline));
    let changes = targets(&timeline);
    let falls: Vec<_> = changes.windows(2).filter(|c| c[1].1 < c[0].1).collect();
    for fall in &falls {
        let step = (fall[0].1 / 4).max(1);
        assert!(fall[0].1 - fall[1].1 <= step, "{changes:?}");
    }
    // The spike's worst second was its second or third.
    assert!(falls[0][1].0 >= 61 + 60, "{changes:?}");
    assert_eq!(timeline.points.last().unwrap().target, 1, "{changes:?}");
}

#[test]
fn a_sawtooth_keeps_its_capacity_between_the_teeth() {
    // A tooth each 30 s, shorter than the scale-in delay.
    let timeline = check(&scenario(trace(900, |s| 1.0 + 3.0 * f64::from(s % 30) / 30.0)));
    let settled = &timeline.points[120..];
    let (low, high) = settled.iter().fold((u32::MAX, 0), |(l, h), p| (l.min(p.target), h.max(p.target)));
    assert!(high - low <= 2, "{low} to {high}: {:?}", targets(&timeline));
    assert!(timeline.changes <= 12, "{:?}", targets(&timeline));
}

#[test]
fn a_slow_upstream_adds_no_worker() {
    let mut seconds = trace(300, |_| 0.5);
    // Upstreams take 2,000 times as long: 100,000 requests in flight.
    seconds[60..240].iter_mut().for_each(|s| s.upstream_ms = 20_000.0);
    let timeline = check(&scenario(seconds));
    assert_eq!(targets(&timeline), [(0, 1)]);
}

#[test]
fn a_declared_capacity_ignores_a_slow_upstream_too() {
    let mut seconds: Vec<_> = (0..300).map(|_| Second::of(120.0)).collect();
    seconds[60..240].iter_mut().for_each(|s| s.upstream_ms = 20_000.0);
    let mut scenario = Scenario { workers: 2, ..scenario(seconds) };
    scenario.policy.capacity = Capacity::Declared { requests_per_second: 100.0 };
    assert_eq!(targets(&check(&scenario)), [(0, 2)]);
}

#[test]
fn lost_reports_remove_nobody() {
    let mut seconds = trace(600, |s| if s < 120 { 4.0 } else { 0.2 });
    seconds[130..400].iter_mut().for_each(|s| s.reports_lost = true);
    let timeline = check(&Scenario { workers: 6, ..scenario(seconds) });
    let while_lost = &timeline.points[130..400];
    let before = timeline.points[129].target;
    assert!(while_lost.iter().all(|p| p.target >= before), "{:?}", targets(&timeline));
    assert!(while_lost[70..].iter().all(|p| p.hold && p.reason.contains("silent")), "{:?}", while_lost[80]);
    // All of the scale-in delay must be known again.
    assert!(timeline.points[400..459].iter().all(|p| p.target >= before), "{:?}", targets(&timeline));
    assert_eq!(timeline.points.last().unwrap().target, 1, "{:?}", targets(&timeline));
}

#[test]
fn a_report_lost_now_and_then_stops_nothing() {
    let mut seconds = trace(400, |s| if s < 60 { 2.0 } else { 0.2 });
    seconds.iter_mut().step_by(7).for_each(|s| s.reports_lost = true);
    let timeline = check(&Scenario { workers: 3, ..scenario(seconds) });
    assert_eq!(timeline.points.last().unwrap().target, 1, "{:?}", targets(&timeline));
    assert!(timeline.changes <= 3, "{:?}", targets(&timeline));
}

#[test]
fn equal_scenarios_give_equal_timelines() {
    let scenario = scenario(trace(200, |s| 1.0 + noise(s)));
    assert_eq!(check(&scenario), check(&scenario));
}

#[test]
fn an_idle_pool_sleeps_and_wakes() {
    let mut scenario = scenario(trace(400, |s| if (30..300).contains(&s) { 0.0 } else { 0.01 }));
    scenario.policy.min_workers = 0;
    let timeline = check(&scenario);
    let changes = targets(&timeline);
    assert_eq!(changes.iter().map(|(_, target)| *target).collect::<Vec<_>>(), [1, 0, 1], "{changes:?}");
    let (asleep, awake) = (changes[1].0, changes[2].0);
    assert!((90..=100).contains(&asleep), "{changes:?}");
    assert_eq!(awake, 300, "{changes:?}");
    assert!(timeline.points[310].served > 0.0);
}

#[test]
fn a_machine_that_is_full_gets_no_more_than_two_threads_a_cpu() {
    let timeline = check(&Scenario { cpus: 2, ..scenario(trace(200, |_| 20.0)) });
    assert_eq!(timeline.points.last().unwrap().target, 4);
    assert!(timeline.points.last().unwrap().reason.contains("CPUs"), "{:?}", timeline.points.last());
}
