//! The generator against servers with known behaviour, in this process and on loopback.
#![expect(clippy::unwrap_used, reason = "a test panics on what it did not expect, in its helpers too")]

mod counts;
mod http1;
mod http2;
mod search;
mod server;
mod times;
mod tls;

use std::{net::SocketAddr, ops::ControlFlow, time::Duration};

use loadtest::{Plan, Report, Second};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// `rate` requests per second for `duration` over four connections.
fn plan(address: SocketAddr, rate: f64, duration: Duration) -> Plan {
    let url = format!("http://test.localhost:{}/", address.port());
    let mut plan = Plan::new(url.parse().unwrap(), rate, duration);
    plan.connections = 4;
    plan.streams = 8;
    plan
}

fn quiet(_: &Second) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Runs the plan and checks what holds for every report.
async fn run(plan: Plan) -> Report {
    let report = loadtest::run(plan, quiet).await.unwrap();
    check_sums(&report);
    report
}

fn check_sums(report: &Report) {
    assert_eq!(report.planned, report.ok + report.failures() + report.not_sent, "{report}");
    assert_eq!(report.sent, report.ok + report.failures(), "{report}");
    assert_eq!(report.latency_us.count, report.ok, "{report}");
    assert_eq!(report.lag_us.count, report.sent, "{report}");
    let rows = |count: fn(&Second) -> u64| report.timeline.iter().map(count).sum::<u64>();
    if report.timeline.iter().all(|s| !s.warmup) {
        assert_eq!(rows(|s| s.planned), report.planned, "{report}");
        assert_eq!(rows(|s| s.sent), report.sent, "{report}");
        assert_eq!(rows(|s| s.ok), report.ok, "{report}");
        assert_eq!(rows(Second::failures), report.failures(), "{report}");
        assert_eq!(rows(|s| s.not_sent), report.not_sent, "{report}");
    }
    let numbers: Vec<_> = report.timeline.iter().map(|s| s.second).collect();
    assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>(), "no gaps");
}
