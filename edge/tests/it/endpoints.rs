//! What is known of endpoints while configurations come and go, and who gets a retry.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use crate::support::{Edge, PATIENCE, Upstream, backend, dead_address, forward, proxy, route};

/// A Backend `up` with these endpoints and more of its spec.
pub(crate) fn spread(endpoints: &[&Upstream], more: &str) -> String {
    let endpoints: Vec<_> = endpoints.iter().map(|up| format!("{{address: \"{}\"}}", up.address)).collect();
    route(&forward("up"))
        + &format!(
            "---\napiVersion: weir.dev/v1\nkind: Backend\nmetadata: {{name: up}}\nspec:\n  endpoints: [{}]\n{more}",
            endpoints.join(", ")
        )
}

/// Waits until the thread has looked at its upstreams, twice: each time it says how much CPU it has used.
fn two_looks(edge: &Edge) {
    let used = || {
        let metrics = edge.control.metrics();
        metrics.lines().find(|line| line.starts_with("weir_edge_cpu_microseconds_total ")).unwrap().to_owned()
    };
    for _ in 0..3 {
        let (before, began) = (used(), Instant::now());
        while used() == before {
            assert!(began.elapsed() < PATIENCE, "{before}");
            thread::yield_now();
        }
    }
}

#[test]
fn idle_connections_outlive_a_configuration() {
    let upstream = Upstream::saying("x");
    let mut edge = Edge::start(&proxy(&upstream));
    assert_eq!(edge.get("/").status, 200);
    for timeout in ["1s", "2s", "3s"] {
        edge.activate(&spread(&[&upstream], &format!("  connectTimeout: {timeout}\n")));
        // No request in between, so that nobody asks for the endpoint.
        two_looks(&edge);
        assert_eq!(edge.get("/").status, 200);
    }
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn a_change_under_traffic_disturbs_nobody_who_stays() {
    const CLIENTS: usize = 4;
    let (stays, comes) = (Upstream::saying("stays"), Upstream::saying("comes"));
    let tunnelled = Upstream::raw(|exchange| {
        while exchange.head().is_some() {
            exchange.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
        }
    });
    let yaml = |endpoints: &[&Upstream], timeout: usize| {
        let rules =
            "  - matches: [{path: {value: /tunnel}}]\n    ".to_owned() + forward("tunnel")[4..].trim_start();
        spread(endpoints, &format!("  connectTimeout: {}s\n", timeout % 9 + 1))
            .replace("  rules:\n", &format!("  rules:\n{rules}"))
            + &backend("tunnel", tunnelled.address)
    };
    let mut edge = Edge::start(&yaml(&[&stays], 0));
    let mut tunnel = edge.connect();
    tunnel.send("GET /tunnel HTTP/1.1\r\nHost: a.test\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    assert_eq!(tunnel.response().status, 101);

    let (over, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (mut client, over, done) = (edge.connect(), Arc::clone(&over), Arc::clone(&done));
            thread::spawn(move || {
                while !over.load(Ordering::SeqCst) {
                    client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
                    assert_eq!(client.response().status, 200);
                    done.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    for change in 0..100 {
        let before = done.load(Ordering::SeqCst);
        let endpoints: &[_] = if change % 2 == 0 { &[&stays, &comes] } else { &[&stays] };
        edge.activate(&yaml(endpoints, change));
        while done.load(Ordering::SeqCst) < before + 2 * CLIENTS {
            assert!(clients.iter().all(|client| !client.is_finished()), "a request failed");
            thread::yield_now();
        }
    }
    over.store(true, Ordering::SeqCst);
    clients.into_iter().for_each(|client| client.join().unwrap());
    assert!(comes.connections() > 0, "it took part");
    assert!(stays.connections() <= CLIENTS, "{} connections", stays.connections());
    tunnel.send("GET / HTTP/1.1\r\n\r\n");
    assert_eq!(tunnel.response().status, 101, "the tunnel goes on");
    assert!(edge.control.metrics().contains("weir_edge_retries_total 0"));
}

#[test]
fn a_retry_goes_to_another_endpoint() {
    let (good, bad) = (Upstream::saying("good"), Upstream::raw(|exchange| drop(exchange.head())));
    let edge = Edge::start(&spread(&[&good, &bad], ""));
    let mut asked = 0;
    while bad.connections() < 5 {
        let response = edge.get("/");
        assert_eq!((response.status, response.text()), (200, "good"), "request {asked}");
        asked += 1;
    }
    let retries = format!("weir_edge_retries_total {}\n", bad.connections());
    assert!(edge.control.metrics().contains(&retries), "{retries}{}", edge.control.metrics());
}

#[test]
fn a_backend_that_is_down_uses_up_no_other_backends_retries() {
    let flaky = Upstream::raw(|exchange| {
        while exchange.head().is_some() {
            if exchange.connection > 0 {
                exchange.reply("second");
            } else {
                exchange.close();
            }
        }
    });
    let rules = "  - matches: [{path: {value: /down}}]\n    ".to_owned() + forward("down")[4..].trim_start();
    let yaml = spread(&[&flaky], "").replace("  rules:\n", &format!("  rules:\n{rules}"))
        + &backend("down", dead_address());
    let edge = Edge::start(&yaml);
    for _ in 0..50 {
        assert_eq!(edge.get("/down").status, 502);
    }
    assert!(!edge.control.metrics().contains("weir_edge_denied_retries_total 0\n"), "its budget is used up");
    assert_eq!(edge.get("/").text(), "second");
}
