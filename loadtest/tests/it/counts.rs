//! What was planned is accounted for.

use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use loadtest::{FailureKind, Plan, RunError, Step, TargetError};

use crate::{check_sums, ms, plan, run, server};

#[tokio::test]
async fn the_rate_is_kept_and_every_request_is_answered() {
    let address = server::serve(|_, _| async { server::ok() }).await;
    let report = run(plan(address, 500.0, ms(2000))).await;
    assert_eq!((report.planned, report.ok, report.not_sent), (1000, 1000, 0), "{report}");
    assert!((report.throughput - 500.0).abs() < 10.0, "within 2 %: {report}");
    assert_eq!(report.connect_us.count, 4);
    assert_eq!(report.body_bytes, 5000);
    assert_eq!(report.reconnects + report.retried_safe, 0);
}

#[tokio::test]
async fn several_threads_send_one_schedule() {
    let address = server::serve(|_, _| async { server::ok() }).await;
    let mut plan = plan(address, 301.0, ms(1000));
    plan.threads = 3;
    plan.connections = 7;
    let report = run(plan).await;
    assert_eq!((report.ok, report.connect_us.count), (301, 7), "{report}");
}

#[tokio::test]
async fn steps_go_up_and_down_and_the_warm_up_does_not_count() {
    let served = Arc::new(AtomicU64::new(0));
    let count = served.clone();
    let address = server::serve(move |_, _| {
        count.fetch_add(1, Ordering::Relaxed);
        async { server::ok() }
    })
    .await;
    let mut plan = plan(address, 0.0, ms(0));
    plan.steps = [(100.0, 500), (300.0, 500), (50.0, 1000)]
        .map(|(rate, duration)| Step { rate, duration: ms(duration) })
        .to_vec();
    plan.warmup = ms(1000);
    let report = run(plan).await;
    assert_eq!((report.planned, report.ok), (250, 250), "{report}");
    assert_eq!(served.load(Ordering::Relaxed), 350);
    assert!(report.timeline[0].warmup && !report.timeline[1].warmup);
    assert_eq!(report.timeline[0].planned, 100, "the warm-up has the first step's rate");
}

#[tokio::test]
async fn error_statuses_are_failures_by_class_with_an_example() {
    let address = server::serve(|number, _| async move {
        let mut response = server::ok();
        *response.status_mut() = match number % 10 {
            0 => http::StatusCode::NOT_FOUND,
            1 | 2 => http::StatusCode::SERVICE_UNAVAILABLE,
            _ => http::StatusCode::OK,
        };
        response
    })
    .await;
    let report = run(plan(address, 200.0, ms(1000))).await;
    assert_eq!(report.ok, 140, "{report}");
    assert_eq!(report.failed[&FailureKind::Status4xx], 20);
    assert_eq!(report.failed[&FailureKind::Status5xx], 40);
    assert!(report.examples.contains_key(&FailureKind::Status5xx));
    assert!(report.latency_us.p50.is_some(), "half were answered");
    assert_eq!(report.latency_us.p90, None, "30 % were not: their rank is above every answer");
}

#[tokio::test]
async fn workers_are_counted_by_their_header() {
    let address = server::serve(|number, _| async move {
        let mut response = server::ok();
        let worker = if number % 4 == 0 { "w-1" } else { "w-2" };
        response.headers_mut().insert("x-weir-worker", worker.parse().unwrap());
        response
    })
    .await;
    let report = run(plan(address, 100.0, ms(400))).await;
    assert_eq!((report.workers["w-1"], report.workers["w-2"]), (10, 30), "{report}");
}

#[tokio::test]
async fn what_finds_no_room_to_wait_is_not_sent() {
    let address = server::serve(|_, _| async {
        tokio::time::sleep(ms(100)).await;
        server::ok()
    })
    .await;
    let mut plan = plan(address, 100.0, ms(1000));
    plan.connections = 1;
    plan.max_waiting = 5;
    let report = run(plan).await;
    assert!((70..=90).contains(&report.not_sent), "one connection serves ten a second: {report}");
    assert_eq!(report.failures(), 0, "{report}");
    assert_eq!(report.latency_us.p50, None, "most were never sent");
}

#[tokio::test]
async fn what_waits_longer_than_the_timeout_is_not_sent() {
    let address = server::serve(|_, _| async {
        tokio::time::sleep(ms(100)).await;
        server::ok()
    })
    .await;
    let mut plan = plan(address, 100.0, ms(500));
    plan.connections = 1;
    plan.timeout = ms(300);
    let report = run(plan).await;
    assert!(report.not_sent > 30, "{report}");
    assert!(report.latency_us.max <= 500_000, "{report}");
}

#[tokio::test]
async fn no_answer_is_a_timeout() {
    let address = server::accept(|_, stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let mut plan = plan(address, 40.0, ms(500));
    plan.timeout = ms(200);
    plan.connections = 20;
    let report = run(plan).await;
    assert_eq!((report.failed[&FailureKind::Timeout], report.ok), (20, 0), "{report}");
}

#[tokio::test]
async fn a_run_can_be_stopped() {
    let address = server::serve(|_, _| async { server::ok() }).await;
    let mut seen = 0;
    let stopped = loadtest::run(plan(address, 100.0, Duration::from_secs(60)), |second| {
        seen += second.ok;
        ControlFlow::Break(())
    });
    let report = stopped.await.unwrap();
    check_sums(&report);
    assert!(report.interrupted && (100..1000).contains(&report.planned), "{report}");
    assert!(seen >= 90, "{seen}");
}

#[tokio::test]
async fn nothing_there_is_an_error_and_no_report() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = loadtest::run(plan(address, 10.0, ms(100)), crate::quiet).await.unwrap_err();
    assert!(matches!(error, RunError::NoConnection { .. }), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn a_foreign_address_is_refused_before_anything_is_sent() {
    let plan = Plan::new("http://192.0.2.1/".parse().unwrap(), 1.0, ms(100));
    let error = loadtest::run(plan, crate::quiet).await.unwrap_err();
    assert!(matches!(error, RunError::Target(TargetError::Remote { .. })), "{error}");
}

#[tokio::test]
async fn a_report_survives_json() {
    let address = server::serve(|_, _| async { server::ok() }).await;
    let report = run(plan(address, 50.0, ms(200))).await;
    let json = serde_json::to_string(&report).unwrap();
    let again: loadtest::Report = serde_json::from_str(&json).unwrap();
    assert_eq!(again.latency_us, report.latency_us);
    assert_eq!(again.timeline, report.timeline);
}
