use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use api::feed::WorkerPhase;
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use tokio::sync::watch;

use super::*;
use crate::{Autoscaler, Leadership, Policies};

/// Counters by name and label.
#[derive(Default)]
struct Counters(Mutex<BTreeMap<String, Arc<AtomicU64>>>);

impl Counters {
    fn read(&self, key: &str) -> Option<u64> {
        self.0.lock().unwrap().get(key).map(|counter| counter.load(Ordering::Relaxed))
    }
}

impl Recorder for Counters {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let labels: Vec<_> = key.labels().map(metrics::Label::value).collect();
        let name = [key.name(), &labels.join(",")].join(" ").trim_end().to_owned();
        Counter::from_arc(Arc::clone(self.0.lock().unwrap().entry(name).or_default()))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

fn intake() -> Intake {
    let (_, policies) = watch::channel(Policies::new());
    let (_, leadership) = watch::channel(Leadership::default());
    Autoscaler::new(policies, leadership).intake()
}

fn report(worker: &str, sequence: u64, tenants: impl IntoIterator<Item = (String, u64)>) -> LoadReport {
    LoadReport {
        worker: worker.to_owned(),
        pool: "default".to_owned(),
        sequence,
        window_us: 1_000_000,
        requests: 10,
        errors: 2,
        shed: 3,
        bytes_in: 400,
        bytes_out: 5000,
        phase: WorkerPhase::Ready.into(),
        tenant_requests: tenants.into_iter().collect(),
        ..LoadReport::default()
    }
}

#[test]
fn a_report_is_counted_once() {
    let (intake, counters) = (intake(), Counters::default());
    let shop = |requests| [("shop".to_owned(), requests), ("Not a tenant".to_owned(), 1)];
    metrics::with_local_recorder(&counters, || {
        // A worker repeats what it is not sure of; an older one comes late.
        for (worker, sequence) in [("w1", 1), ("w1", 2), ("w1", 2), ("w1", 1), ("w2", 1)] {
            intake.take(&report(worker, sequence, shop(8))).unwrap();
        }
    });
    for (key, expect) in [
        ("weir_autoscaler_reports_total", 5),
        ("weir_pool_requests_total default", 30),
        ("weir_pool_errors_total default", 6),
        ("weir_pool_shed_total default", 9),
        ("weir_pool_bytes_in_total default", 1200),
        ("weir_pool_bytes_out_total default", 15_000),
        ("weir_tenant_requests_total shop", 24),
        ("weir_tenant_requests_total _other", 3),
    ] {
        assert_eq!(counters.read(key), Some(expect), "{key}");
    }
}

#[test]
fn tenants_beyond_the_bound_share_a_label() {
    let (intake, counters) = (intake(), Counters::default());
    metrics::with_local_recorder(&counters, || {
        intake.take(&report("w1", 1, (0..1000).map(|n| (format!("t{n}"), 1)))).unwrap();
        intake.take(&report("w1", 2, (990..1010).map(|n| (format!("t{n}"), 1)))).unwrap();
    });
    assert_eq!(counters.read("weir_tenant_requests_total t999"), Some(2));
    assert_eq!(counters.read("weir_tenant_requests_total t1000"), None);
    assert_eq!(counters.read("weir_tenant_requests_total _other"), Some(10));
}
