//! Latency is what a user would have seen.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use loadtest::Arrivals;
use tokio::time::Instant;

use crate::{ms, plan, run, server};

/// A server that answers at once, but nothing between one and two seconds after its first request.
async fn stalling() -> std::net::SocketAddr {
    let first = Arc::new(OnceLock::new());
    server::serve(move |_, _| {
        let first: Instant = *first.get_or_init(Instant::now);
        async move {
            let now = Instant::now();
            if now >= first + ms(1000) {
                tokio::time::sleep_until(first + ms(2000)).await;
            }
            server::ok()
        }
    })
    .await
}

#[tokio::test]
async fn a_stall_of_a_second_is_in_the_percentiles() {
    let report = run(plan(stalling().await, 100.0, ms(3000))).await;
    assert_eq!(report.ok, 300, "{report}");
    // 100 of 300 requests fell due during the stall and waited 0 to 1 s: p90 is that of the 30 worst, 0.7 s.
    let p90 = report.latency_us.p90.unwrap();
    assert!((600_000..900_000).contains(&p90), "{report}");
    // Each of the four connections saw it once: what a closed loop would have reported.
    assert!(report.service_us.p90.unwrap() < 100_000, "{report}");
    assert!(report.service_us.max > 900_000, "{report}");
}

#[tokio::test]
async fn waiting_for_a_busy_connection_is_the_targets_latency_and_not_the_generators_lag() {
    let address = server::serve(|_, _| async {
        tokio::time::sleep(ms(50)).await;
        server::ok()
    })
    .await;
    // One connection serves 20 a second; 40 come: the last of 20 waits half a second.
    let mut plan = plan(address, 40.0, ms(500));
    plan.connections = 1;
    let report = run(plan).await;
    assert!(report.latency_us.max > 450_000, "{report}");
    assert!(report.service_us.p50.unwrap() < 100_000, "{report}");
    assert!(report.lag_us.p50.unwrap() < 20_000, "{report}");
}

#[tokio::test]
async fn service_time_is_measured() {
    let address = server::serve(|_, _| async {
        tokio::time::sleep(ms(30)).await;
        server::ok()
    })
    .await;
    let mut plan = plan(address, 50.0, ms(1000));
    plan.connections = 16;
    plan.arrivals = Arrivals::Poisson { seed: 3 };
    let report = run(plan).await;
    assert_eq!(report.failures() + report.not_sent, 0, "{report}");
    assert!((30_000..60_000).contains(&report.service_us.p50.unwrap()), "{report}");
    assert!(report.latency_us.p50 >= report.service_us.p50, "{report}");
}

#[tokio::test]
async fn more_than_the_generator_can_send_is_an_invalid_run() {
    let address = server::serve(|_, _| async { server::ok() }).await;
    let mut plan = plan(address, 1_000_000.0, ms(300));
    plan.connections = 1000;
    plan.max_waiting = 1_000_000;
    plan.timeout = Duration::from_secs(1);
    let report = run(plan).await;
    assert!(!report.validity.valid, "{report}");
    assert!(report.to_string().contains("INVALID"), "{report}");
}
