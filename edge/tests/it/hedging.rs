//! Hedging: a request whose answer is late goes to a second endpoint, within the budget and only if it may be done twice.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::support::{Edge, PATIENCE, Upstream, forward, pause, route, wait_for};

/// An upstream that answers after a while, whether a client hung up before, and how many requests came.
struct Slow {
    upstream: Upstream,
    gone: Arc<AtomicUsize>,
}

fn slow(delay: Duration, body: &'static str) -> Slow {
    let gone = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&gone);
    let upstream = Upstream::start(move |exchange, _| {
        let ends = Instant::now() + delay;
        exchange.stream.set_nonblocking(true).unwrap();
        while Instant::now() < ends {
            if !is_waiting(&exchange.stream) {
                counter.fetch_add(1, Ordering::SeqCst);
                exchange.stream.set_nonblocking(false).unwrap();
                return exchange.close();
            }
            pause(Duration::from_millis(1));
        }
        exchange.stream.set_nonblocking(false).unwrap();
        exchange.reply(body);
    });
    Slow { upstream, gone }
}

/// Whether the other side is still there.
fn is_waiting(stream: &std::net::TcpStream) -> bool {
    match stream.peek(&mut [0]) {
        Ok(count) => count > 0,
        Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
    }
}

fn gateway(upstreams: &[&Upstream], hedging: &str) -> String {
    let endpoints: Vec<_> =
        upstreams.iter().map(|upstream| format!("{{address: \"{}\"}}", upstream.address)).collect();
    route(&forward("up"))
        + &format!(
            "---\napiVersion: weir.dev/v1\nkind: Backend\nmetadata: {{name: up}}\nspec: {{endpoints: [{}], \
             loadBalancer: {{type: RoundRobin}}, hedging: {{{hedging}}}}}\n",
            endpoints.join(", ")
        )
}

fn metric(edge: &Edge, name: &str) -> u64 {
    let metrics = edge.control.metrics();
    metrics.lines().find_map(|line| line.strip_prefix(&format!("{name} "))).unwrap().parse().unwrap()
}

/// What became of the last request with that id.
fn recall(edge: &Edge, id: &str) -> api::request::Request {
    edge.runtime.block_on(edge.control.recall(id, None)).expect("it is remembered")
}

#[test]
fn a_late_answer_is_outrun_by_a_second_endpoint() {
    let late = slow(Duration::from_secs(10), "late");
    let quick = Upstream::saying("quick");
    let edge = Edge::start(&gateway(&[&late.upstream, &quick], "delay: 30ms"));
    for _ in 0..6 {
        let began = Instant::now();
        let response = edge.get("/");
        assert_eq!(response.text(), "quick");
        assert!(began.elapsed() < Duration::from_secs(5));
        let told = recall(&edge, response.header("x-request-id").unwrap());
        if told.retries == 1 {
            let [first, second] = &told.tries[..] else { panic!("{told:?}") };
            assert_eq!(
                (first.failure.as_str(), first.endpoint.as_str()),
                ("outrun", late.upstream.address.to_string().as_str())
            );
            assert_eq!((second.failure.as_str(), second.status), ("", 200));
            assert!(second.began_us >= 30_000, "{told:?}");
        }
    }
    assert_eq!(metric(&edge, "weir_edge_hedges_total"), 3, "every other request");
    assert_eq!(metric(&edge, "weir_edge_won_hedges_total"), 3);
    wait_for("the loser's connection to be closed", || late.gone.load(Ordering::SeqCst) == 3);
}

#[test]
fn the_first_is_heard_if_it_answers_in_the_end() {
    let late = slow(Duration::from_millis(200), "late");
    let later = slow(Duration::from_secs(10), "later");
    let edge = Edge::start(&gateway(&[&late.upstream, &later.upstream], "delay: 20ms"));
    for _ in 0..2 {
        assert_eq!(edge.get("/").text(), "late");
    }
    assert_eq!(metric(&edge, "weir_edge_hedges_total"), 2);
    // Round robin: of two requests one began with the endpoint that answers, and one with the other.
    assert_eq!(metric(&edge, "weir_edge_won_hedges_total"), 1);
    wait_for("both losers to be gone", || later.gone.load(Ordering::SeqCst) == 2);
}

#[test]
fn only_what_may_be_done_twice_is_sent_twice() {
    let one = slow(Duration::from_millis(150), "x");
    let two = slow(Duration::from_millis(150), "x");
    let edge = Edge::start(&gateway(&[&one.upstream, &two.upstream], "delay: 10ms"));
    for request in [
        "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n",
        "PUT / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\n\r\nx",
        "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    ] {
        edge.ask(request);
    }
    assert_eq!(metric(&edge, "weir_edge_hedges_total"), 0);
    let received = one.upstream.received().len() + two.upstream.received().len();
    assert_eq!(received, 3);
    for request in ["GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", "DELETE / HTTP/1.1\r\nHost: a.test\r\n\r\n"] {
        edge.ask(request);
    }
    assert_eq!(metric(&edge, "weir_edge_hedges_total"), 2);
}

#[test]
fn the_budget_of_retries_bounds_it() {
    let one = slow(Duration::from_millis(8), "x");
    let two = slow(Duration::from_millis(8), "x");
    let edge = Edge::start(&gateway(&[&one.upstream, &two.upstream], "delay: 1ms"));
    for _ in 0..40 {
        assert_eq!(edge.get("/").status, 200);
    }
    let hedges = metric(&edge, "weir_edge_hedges_total");
    // A reserve of ten, and a fifth of the requests.
    assert!((10..=18).contains(&hedges), "{hedges}");
    assert_eq!(hedges + metric(&edge, "weir_edge_denied_retries_total"), 40);
}

#[test]
fn a_failure_does_not_outrun_an_answer() {
    let late = slow(Duration::from_millis(150), "late");
    let broken = Upstream::start(|exchange, _| exchange.send("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"));
    let edge = Edge::start(&gateway(&[&late.upstream, &broken], "delay: 10ms"));
    let statuses: Vec<_> = (0..4).map(|_| edge.get("/").status).collect();
    // Two begin with the one that is late. What begins with the broken one is answered before it is late, as a rule.
    let answered = statuses.iter().filter(|status| **status == 200).count();
    assert!(answered >= 2, "{statuses:?}");
    assert_eq!(metric(&edge, "weir_edge_hedges_total"), answered as u64);
    let dead = crate::support::dead_address();
    let gone = gateway(&[&late.upstream, &broken], "delay: 10ms")
        .replace(&broken.address.to_string(), &dead.to_string());
    let edge = Edge::start(&gone);
    for _ in 0..4 {
        assert_eq!(edge.get("/").text(), "late");
    }
}

#[test]
fn what_is_late_follows_what_is_observed() {
    let slow_now = Arc::new(AtomicBool::new(false));
    let is_slow = Arc::clone(&slow_now);
    let moody = Upstream::start(move |exchange, _| {
        if is_slow.load(Ordering::SeqCst) {
            pause(Duration::from_secs(1));
        }
        exchange.reply("moody");
    });
    let quick = Upstream::saying("quick");
    let edge = Edge::start(&gateway(&[&moody, &quick], "percentile: 90, minDelay: 2ms"));
    for _ in 0..100 {
        edge.get("/");
    }
    // Looked at once in a tick.
    pause(Duration::from_millis(600));
    let before = metric(&edge, "weir_edge_hedges_total");
    slow_now.store(true, Ordering::SeqCst);
    let mut longest = Duration::ZERO;
    for _ in 0..8 {
        let began = Instant::now();
        assert_eq!(edge.get("/").text(), "quick");
        longest = longest.max(began.elapsed());
    }
    assert!(longest < Duration::from_millis(900), "{longest:?}");
    assert!(metric(&edge, "weir_edge_hedges_total") >= before + 4);
    edge.drain(PATIENCE);
}

/// The 50th and 99th percentile of so many requests by clients at once, one endpoint of three answering late now and then.
fn tail(hedging: &str, late_percent: usize) -> (Duration, Duration, u64) {
    const CLIENTS: usize = 8;
    const EACH: usize = 250;
    let asked = AtomicUsize::new(0);
    let fitful = Upstream::start(move |exchange, _| {
        let number = asked.fetch_add(1, Ordering::SeqCst);
        pause(Duration::from_millis(if number * late_percent % 100 < late_percent { 300 } else { 2 }));
        exchange.reply("x");
    });
    let steady = || {
        Upstream::start(|exchange, _| {
            pause(Duration::from_millis(2));
            exchange.reply("x");
        })
    };
    let (one, two) = (steady(), steady());
    let mut yaml = gateway(&[&fitful, &one, &two], hedging);
    if hedging.is_empty() {
        yaml = yaml.replace(", hedging: {}", "");
    }
    let edge = Edge::start(&yaml);
    let address = edge.at(80);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            std::thread::spawn(move || {
                let mut client = crate::support::Client::connect(address);
                (0..EACH)
                    .map(|_| {
                        let began = Instant::now();
                        client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
                        assert_eq!(client.response().status, 200);
                        began.elapsed()
                    })
                    .collect::<Vec<_>>()
            })
        })
        .collect();
    let mut times: Vec<_> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    times.sort_unstable();
    let at = |percent: usize| times[times.len() * percent / 100];
    (at(50), at(99), metric(&edge, "weir_edge_hedges_total"))
}

/// What it is for.
#[test]
fn the_tail_is_shorter() {
    if std::env::var_os("WEIR_LONG").is_none() {
        return println!("skipped: measured with WEIR_LONG=1");
    }
    for late_percent in [100, 20] {
        let (p50, p99, _) = tail("", late_percent);
        println!("one of three late in {late_percent} %, no hedging: p50 {p50:?}, p99 {p99:?}");
        for hedging in ["delay: 20ms", "percentile: 95, minDelay: 5ms"] {
            let (hedged_p50, hedged_p99, hedges) = tail(hedging, late_percent);
            println!("  {hedging}: p50 {hedged_p50:?}, p99 {hedged_p99:?}, {hedges} hedges of 2000");
            if late_percent < 50 {
                assert!(hedged_p99 < p99 / 2, "{hedged_p99:?} {p99:?}");
            }
        }
    }
}
