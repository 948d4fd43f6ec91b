//! The search finds the rate that a server is built for.

use std::{ops::ControlFlow, sync::Arc};

use loadtest::{Limit, Range, Slo};
use tokio::sync::Mutex;

use crate::{ms, plan, server};

#[tokio::test]
async fn the_highest_rate_within_the_objective_is_found() {
    // One request at a time, 10 ms each: a hundred a second at the very most.
    let one = Arc::new(Mutex::new(()));
    let address = server::serve(move |_, _| {
        let one = one.clone();
        async move {
            let _one_at_a_time = one.lock().await;
            tokio::time::sleep(ms(10)).await;
            server::ok()
        }
    })
    .await;
    let mut plan = plan(address, 0.0, ms(0));
    plan.connections = 200;
    let range = Range { start: 10.0, highest: 10_000.0, trial: ms(1000), precision: 0.3 };
    let found =
        loadtest::search(&plan, Slo { p99: ms(150) }, range, |_| ControlFlow::Continue(())).await.unwrap();
    let best = found.best.unwrap();
    // A trial of one second may end before its queue has grown past 150 ms: some rates above 100 pass.
    assert!((40.0..=120.0).contains(&best), "{found:?}");
    assert_eq!(found.limit, Limit::Objective, "{found:?}");
    assert!(found.trials.iter().any(|t| !t.passed) && found.trials.iter().any(|t| t.passed));
}

#[tokio::test]
async fn a_search_can_be_stopped() {
    let address = server::serve(|_, _| async { server::ok() }).await;
    let range = Range { start: 10.0, highest: 10_000.0, trial: ms(100), precision: 0.3 };
    let plan = plan(address, 0.0, ms(0));
    let found =
        loadtest::search(&plan, Slo { p99: ms(100) }, range, |_| ControlFlow::Break(())).await.unwrap();
    assert_eq!((found.limit, found.trials.len()), (Limit::Stopped, 1));
}
