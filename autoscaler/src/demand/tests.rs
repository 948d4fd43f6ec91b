use super::*;

fn declared(requests_per_second: f64) -> PoolPolicy {
    PoolPolicy { capacity: Capacity::Declared { requests_per_second }, ..PoolPolicy::default() }
}

fn load(requests_per_second: f64, cpu_cores: f64) -> PoolLoad {
    PoolLoad {
        requests_per_second,
        cpu_cores,
        cost_seconds: 50e-6,
        complete: true,
        all_reported: true,
        ..PoolLoad::default()
    }
}

#[test]
fn work_is_arrivals_times_cost_or_the_cpu_that_is_used() {
    let check = |policy: &PoolPolicy, load: PoolLoad, expect: f64| {
        let work = work(policy, &load);
        assert!((work - expect).abs() < 1e-9, "{load:?}: {work}, expected {expect}");
    };
    let learned = PoolPolicy::default();
    check(&learned, load(10_000.0, 0.4), 0.5);
    // A cost that was learned from something else.
    check(&learned, load(100_000.0, 0.4), 0.6);
    // Tunnels: no requests end, the CPU is used all the same.
    check(&learned, load(0.0, 0.9), 0.9);
    check(&PoolPolicy { threads_per_worker: 2, ..learned.clone() }, load(10_000.0, 0.4), 0.25);
    check(&declared(100.0), load(250.0, 0.1), 2.5);
    check(&declared(1_000_000.0), load(250.0, 1.9), 1.9);
    // Shed for want of workers, and for another reason.
    let shed = |saturated| PoolLoad { shed_per_second: 250.0, saturated, ..load(250.0, 0.1) };
    check(&declared(100.0), shed(1), 5.0);
    check(&declared(100.0), shed(0), 2.5);
}

#[test]
fn requests_in_flight_make_no_work() {
    let slow = PoolLoad { in_flight: 1_000_000, ..load(1_000.0, 0.05) };
    assert_eq!(work(&PoolPolicy::default(), &slow), work(&PoolPolicy::default(), &load(1_000.0, 0.05)));
}

fn observe(estimator: &mut Estimator, load: PoolLoad, at: u64) -> Demand {
    estimator.observe(&declared(100.0), &load, Duration::from_secs(2), Time::from_secs(at))
}

#[test]
fn the_peak_lasts_as_long_as_the_scale_in_delay() {
    let mut estimator = Estimator::default();
    for at in 0..10 {
        observe(&mut estimator, load(1_000.0, 0.1), at);
    }
    let mut peaks = (10..100).map(|at| (at, observe(&mut estimator, load(100.0, 0.1), at).peak));
    let first_low = peaks.find(|(_, peak)| *peak < 9.0).unwrap().0;
    assert_eq!(first_low, 9 + 60 + 1);
}

#[test]
fn a_hole_in_the_evidence_starts_the_count_again() {
    let mut estimator = Estimator::default();
    let covered = |estimator: &mut Estimator, load, at| observe(estimator, load, at).covered.as_secs();
    for at in 0..=30 {
        assert_eq!(covered(&mut estimator, load(100.0, 0.1), at), at);
    }
    assert_eq!(covered(&mut estimator, PoolLoad { complete: false, ..load(100.0, 0.1) }, 31), 0);
    assert_eq!(covered(&mut estimator, load(100.0, 0.1), 32), 0);
    assert_eq!(covered(&mut estimator, load(100.0, 0.1), 33), 1);
    // The autoscaler itself slept.
    assert_eq!(covered(&mut estimator, load(100.0, 0.1), 60), 0);
}

#[test]
fn idleness_takes_complete_reports_of_nothing() {
    let mut estimator = Estimator::default();
    let idle = |estimator: &mut Estimator, load, at| observe(estimator, load, at).idle.as_secs();
    let nothing = load(0.0, 0.01);
    assert_eq!(idle(&mut estimator, nothing, 0), 0);
    assert_eq!(idle(&mut estimator, nothing, 5), 5);
    assert_eq!(idle(&mut estimator, PoolLoad { in_flight: 1, ..nothing }, 6), 0);
    assert_eq!(idle(&mut estimator, nothing, 7), 0);
    assert_eq!(idle(&mut estimator, nothing, 8), 1);
    assert_eq!(idle(&mut estimator, PoolLoad { complete: false, ..nothing }, 9), 0);
}

#[test]
fn a_backlog_is_spread_over_the_time_allowed() {
    let backlog = PoolLoad { backlog_seconds: 3.0, ..load(100.0, 0.9) };
    let demand = observe(&mut Estimator::default(), backlog, 0);
    // 1.5 workers at full use are worth 1.05 at 70 %.
    assert!((demand.backlog - 1.05).abs() < 1e-9);
    assert!((demand.expected() - 2.05).abs() < 1e-9);
}
