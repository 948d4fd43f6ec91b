//! The agent over real sockets and processes: a server that plans, workers that speak the agent's protocol, and
//! clients that must all be answered.

#![expect(clippy::unwrap_used, reason = "a test's helpers panic as its functions do")]

mod client;
mod host;
mod server;
mod worker;

use std::time::Duration;

use api::node::WorkerState;

use crate::{
    client::{Connection, Load},
    host::{Host, Pool},
};

fn ready(pool: &Pool, count: usize) -> bool {
    pool.workers.len() == count && pool.workers.iter().all(|w| w.state() == WorkerState::Ready && w.slots > 0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_all_answered_while_workers_come_and_go() {
    let mut host = Host::start("serve").await;
    host.plan(1);
    host.until("one is ready", |pool| ready(pool, 1)).await;
    let load = Load::start(host.address, 4);
    for workers in [3, 2, 4, 1, 2] {
        host.plan(workers);
        host.until("as planned", |pool| ready(pool, workers as usize)).await;
        load.at_least(50).await;
    }
    host.until("even", |pool| pool.workers.iter().map(|w| w.slots).eq([8, 8])).await;
    assert!(load.stop().await >= 250);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leaver_serves_its_connections_to_their_end() {
    let mut host = Host::start("serve").await;
    host.plan(1);
    host.until("one is ready", |pool| ready(pool, 1)).await;
    let mut old = Connection::open(host.address).await;
    let first = old.ask("hello").await;
    host.plan_without(1, &first);
    host.plan(2);
    host.until("two are ready", |pool| ready(pool, 2)).await;
    host.plan_without(1, &first);
    host.until("the first drains", |pool| {
        pool.workers.iter().any(|w| w.worker == first && w.state() == WorkerState::Draining && w.slots == 0)
    })
    .await;
    for _ in 0..20 {
        assert_ne!(Connection::open(host.address).await.ask("hello").await, first);
    }
    assert_eq!(old.ask("still there?").await, first);
    drop(old);
    host.until("the first is gone", |pool| ready(pool, 1)).await;
    assert_eq!(host.ended(&first), "exit status: 0");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_handed_over_is_another_workers() {
    let mut host = Host::start("serve").await;
    host.plan(1);
    host.until("one is ready", |pool| ready(pool, 1)).await;
    let mut connection = Connection::open(host.address).await;
    let first = connection.ask("hello").await;
    assert_eq!(connection.ask("hand over").await, first, "there is nobody else");
    host.plan(2);
    host.until("two are ready", |pool| ready(pool, 2)).await;
    connection.say("hand over").await;
    // Said before anybody has it.
    let second = connection.ask("hello").await;
    assert_ne!(second, first);
    assert_eq!(connection.ask("hello").await, second);
    drop(connection);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_killed_lose_no_queued_connection() {
    let mut host = Host::start("serve").await;
    host.plan(1);
    host.until("one is ready", |pool| ready(pool, 1)).await;
    let first = Connection::open(host.address).await.ask("stick").await;
    let mut queued = Vec::new();
    for _ in 0..40 {
        let mut connection = Connection::open(host.address).await;
        connection.say("hello").await;
        queued.push(connection);
    }
    host.kill(&first).await;
    for mut connection in queued {
        assert_ne!(connection.hear().await, first);
    }
    assert_eq!(host.ended(&first), "signal: 9 (SIGKILL)");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_agent_finds_the_sockets_and_what_is_queued_on_them() {
    let mut host = Host::start("serve").await;
    host.plan(1);
    let pool = host.until("one is ready", |pool| ready(pool, 1)).await;
    let pid = pool.workers[0].pid;
    let first = Connection::open(host.address).await.ask("stick").await;
    let mut queued = vec![Connection::open(host.address).await];
    host.crash().await;
    queued.push(Connection::open(host.address).await);
    host.restart();
    queued.push(Connection::open(host.address).await);
    let pool = host.until("it is found", |pool| ready(pool, 1) && pool.problem.is_empty()).await;
    assert_eq!((&pool.workers[0].worker, pool.workers[0].pid), (&first, pid));
    assert_eq!((pool.workers[0].slots, pool.slots), (16, 16));
    // Now the agent's copies are the only ones that keep the queues.
    host.kill(&first).await;
    for mut connection in queued {
        assert_ne!(connection.ask("hello").await, first);
    }
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_serve_on_while_there_is_no_agent() {
    let mut host = Host::start("serve").await;
    host.plan(2);
    host.until("two are ready", |pool| ready(pool, 2)).await;
    let load = Load::start(host.address, 2);
    host.crash().await;
    load.at_least(50).await;
    host.restart();
    host.until("both are found", |pool| ready(pool, 2) && pool.problem.is_empty()).await;
    host.plan(1);
    host.until("one is left", |pool| ready(pool, 1)).await;
    load.stop().await;
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_plan_holds_without_a_server() {
    let mut host = Host::start("serve").await;
    host.plan(1);
    let pool = host.until("one is ready", |pool| ready(pool, 1)).await;
    host.crash().await;
    host.lose_server();
    host.kill(&pool.workers[0].worker).await;
    host.restart();
    // Refused until the new agent listens.
    let answer = client::ask_until_answered(host.address).await;
    assert_ne!(answer, pool.workers[0].worker);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_connection_wakes_a_sleeping_pool() {
    let mut host = Host::start("serve").await;
    host.plan(0);
    host.until("it sleeps", |pool| pool.slots == 16 && pool.workers.is_empty()).await;
    // A connection that says nothing wakes nobody.
    let mut silent = Connection::open(host.address).await;
    let answer = Connection::open(host.address).await.ask("hello").await;
    let pool = host.until("it is woken", |pool| ready(pool, 1)).await;
    assert_eq!((&pool.workers[0].worker, &*pool.problem), (&answer, "woken by a connection"));
    assert!(answer.ends_with("-1"), "{answer} is not the first to be started");
    // Left in the queue when the worker goes, it would wake the next one.
    assert_eq!(silent.ask("hello").await, answer);
    drop(silent);
    host.plan(0);
    host.until("it sleeps again", |pool| pool.workers.is_empty()).await;
    assert_ne!(Connection::open(host.address).await.ask("hello").await, answer);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stuck_worker_is_relieved() {
    let mut host = Host::start("serve").await;
    host.plan(2);
    host.until("two are ready", |pool| ready(pool, 2)).await;
    let stuck = Connection::open(host.address).await.ask("stick").await;
    for _ in 0..40 {
        assert_ne!(Connection::open(host.address).await.ask("hello").await, stuck);
    }
    host.kill(&stuck).await;
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_to_a_worker_drains_and_replaces_it() {
    let mut host = Host::start("serve").await;
    host.plan(1);
    let pool = host.until("one is ready", |pool| ready(pool, 1)).await;
    let first = pool.workers[0].worker.clone();
    let load = Load::start(host.address, 2);
    host.terminate(&first);
    host.until("it is replaced", |pool| ready(pool, 1) && pool.workers[0].worker != first).await;
    load.at_least(20).await;
    load.stop().await;
    assert_eq!(host.ended(&first), "exit status: 0");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_cannot_start_is_a_problem() {
    let mut host = Host::start("crash").await;
    host.plan(1);
    let pool = host.until("it is reported", |pool| pool.problem.contains("workers in a row failed")).await;
    assert!(pool.problem.ends_with("exit status: 3"), "{}", pool.problem);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_in_use_is_a_problem_until_it_is_free() {
    let mut host = Host::start("serve").await;
    let stranger = tokio::net::TcpListener::bind(host.address).await.unwrap();
    host.plan(1);
    let pool = host.until("it is reported", |pool| !pool.problem.is_empty()).await;
    assert!(pool.problem.contains(&format!("listen on TCP {}", host.address)), "{}", pool.problem);
    drop(stranger);
    host.until("it listens", |pool| ready(pool, 1) && pool.problem.is_empty()).await;
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_agent_on_the_same_directory_is_refused() {
    let mut host = Host::start("serve").await;
    host.plan(1);
    host.until("one is ready", |pool| ready(pool, 1)).await;
    let (_scraper, scrapes) = node::scrapes();
    let error = node::run(host.config(), scrapes, std::future::pending()).await.unwrap_err();
    let expect = format!("agent.lock is locked by process {}", std::process::id());
    assert!(error.to_string().ends_with(&expect), "{error}");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_graceful_end_waits_for_open_connections() {
    let mut host = Host::start("serve").await;
    host.plan(1);
    host.until("one is ready", |pool| ready(pool, 1)).await;
    let mut open = Connection::open(host.address).await;
    let worker = open.ask("hello").await;
    let address = host.address;
    let client = tokio::spawn(async move {
        // New connections are refused at once, not left in a queue that nobody reads.
        client::until_refused(address).await;
        assert_eq!(open.ask("still there?").await, worker);
    });
    host.stop().await;
    tokio::time::timeout(Duration::from_secs(10), client).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scrape_has_what_each_worker_says() {
    let mut host = Host::start("serve").await;
    host.plan(2);
    let pool = host.until("two are ready", |pool| ready(pool, 2)).await;
    let scraper = host.scraper.clone().unwrap();
    // Several at once wait for their turn, and each is asked anew.
    let texts = tokio::join!(scraper.metrics(), scraper.metrics());
    for text in [texts.0, texts.1] {
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert_eq!(lines[0], "# TYPE weir_edge_connections gauge");
        for worker in &pool.workers {
            let series =
                format!("weir_edge_connections{{pool=\"{}\",worker=\"{}\"}} ", pool.pool, worker.worker);
            assert!(lines.iter().any(|line| line.starts_with(&series)), "{series} in {text}");
        }
    }
    host.stop().await;
    assert_eq!(scraper.metrics().await, "", "of an agent that has ended");
}
