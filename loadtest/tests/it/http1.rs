//! HTTP/1.1 connections that end, with and without warning.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use loadtest::{FailureKind, Plan};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{ms, plan, run, server};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

/// Twenty requests, 20 ms apart, over one connection at a time.
fn twenty(address: std::net::SocketAddr) -> Plan {
    let mut plan = plan(address, 50.0, ms(400));
    plan.connections = 1;
    plan
}

#[tokio::test]
async fn a_connection_closed_between_requests_is_opened_again() {
    let address = server::accept(|_, mut stream| async move {
        for _ in 0..2 {
            if server::read_request(&mut stream).await {
                server::write(&mut stream, OK).await;
            }
        }
        // Closed without having said so.
    })
    .await;
    let report = run(twenty(address)).await;
    assert_eq!((report.ok, report.failures(), report.reconnects), (20, 0, 9), "{report}");
}

#[tokio::test]
async fn an_announced_close_is_no_surprise() {
    let address = server::accept(|_, mut stream| async move {
        assert!(server::read_request(&mut stream).await);
        server::write(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
        // The client closes first, or uses the connection again against its word.
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "the connection was used again");
    })
    .await;
    let report = run(twenty(address)).await;
    assert_eq!((report.ok, report.reconnects, report.connect_us.count), (20, 0, 20), "{report}");
}

#[tokio::test]
async fn a_request_that_was_written_and_lost_has_failed_and_is_not_sent_again() {
    let requests = Arc::new(AtomicU64::new(0));
    let count = requests.clone();
    let address = server::accept(move |number, mut stream| {
        let count = count.clone();
        async move {
            while server::read_request(&mut stream).await {
                count.fetch_add(1, Ordering::Relaxed);
                if number % 2 == 1 {
                    return;
                }
                server::write(&mut stream, OK).await;
                if number % 4 == 0 {
                    // Half of an answer is no answer.
                    assert!(server::read_request(&mut stream).await);
                    count.fetch_add(1, Ordering::Relaxed);
                    return server::write(&mut stream, &OK[..OK.len() - 1]).await;
                }
            }
        }
    })
    .await;
    let report = run(twenty(address)).await;
    assert!(report.failed[&FailureKind::Reset] >= 2, "{report}");
    assert_eq!(report.failures() + report.ok, 20, "{report}");
    assert_eq!(requests.load(Ordering::Relaxed), 20, "each request was sent once");
}

#[tokio::test]
async fn an_answer_may_end_with_its_connection() {
    let address = server::accept(|_, mut stream| async move {
        assert!(server::read_request(&mut stream).await);
        server::write(&mut stream, "HTTP/1.1 200 OK\r\n\r\nhello").await;
    })
    .await;
    let report = run(twenty(address)).await;
    assert_eq!((report.ok, report.body_bytes, report.reconnects), (20, 100, 0), "{report}");
}

#[tokio::test]
async fn interim_answers_are_skipped() {
    let address = server::accept(|_, mut stream| async move {
        while server::read_request(&mut stream).await {
            server::write(&mut stream, "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n").await;
            server::write(&mut stream, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel").await;
            server::write(&mut stream, "lo\r\n0\r\n\r\n").await;
        }
    })
    .await;
    let report = run(twenty(address)).await;
    assert_eq!((report.ok, report.body_bytes, report.connect_us.count), (20, 100, 1), "{report}");
}

#[tokio::test]
async fn what_is_not_http_is_a_protocol_failure() {
    let address = server::accept(|_, mut stream| async move {
        assert!(server::read_request(&mut stream).await);
        server::write(&mut stream, "SSH-2.0-OpenSSH_9.2\r\n").await;
    })
    .await;
    let report = run(twenty(address)).await;
    assert_eq!(report.failed[&FailureKind::Protocol], 20, "{report}");
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_body_is_an_answer() {
    let address = server::accept(|_, mut stream| async move {
        let mut head = [0; 64];
        stream.read_exact(&mut head).await.unwrap();
        server::write(&mut stream, "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await;
        stream.shutdown().await.unwrap();
        // Reads on, so that the answer is not overtaken by a reset.
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.ok();
    })
    .await;
    let mut plan = twenty(address);
    plan.method = http::Method::POST;
    plan.body = vec![b'x'; 1 << 20].into();
    let report = run(plan).await;
    assert_eq!(report.ok, 20, "{report}");
}

#[tokio::test]
async fn each_request_may_have_its_own_connection() {
    let address = server::serve(|_, request| async move {
        assert_eq!(request.headers()["connection"], "close");
        server::ok()
    })
    .await;
    let mut plan = plan(address, 100.0, ms(500));
    plan.connect_per_request = true;
    let report = run(plan).await;
    assert_eq!((report.ok, report.connect_us.count, report.reconnects), (50, 50, 0), "{report}");
}
