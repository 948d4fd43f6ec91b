//! HTTP/2 connections that are told to go.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use h2::{Reason, server::SendResponse};
use http::Response;
use loadtest::{FailureKind, Plan, Protocol};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{ms, plan, run, server};

/// Forty requests, 10 ms apart, over one connection at a time.
fn forty(address: SocketAddr) -> Plan {
    let mut plan = plan(address, 100.0, ms(400));
    plan.protocol = Protocol::H2;
    plan.connections = 1;
    plan
}

fn answer(respond: &mut SendResponse<Bytes>) {
    let mut body = respond.send_response(Response::new(()), false).unwrap();
    body.send_data(Bytes::from_static(b"hello"), true).unwrap();
}

/// Answers everything on one connection.
async fn answer_all(stream: TcpStream) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((_, mut respond))) = connection.accept().await {
        answer(&mut respond);
    }
}

#[tokio::test]
async fn requests_share_connections() {
    let address = server::serve_by(Protocol::H2, |_, _| async {
        tokio::time::sleep(ms(50)).await;
        server::ok()
    })
    .await;
    let mut plan = plan(address, 200.0, ms(1000));
    plan.protocol = Protocol::H2;
    plan.connections = 2;
    plan.streams = 50;
    let report = run(plan).await;
    assert_eq!((report.ok, report.connect_us.count), (200, 2), "{report}");
    assert_eq!(report.body_bytes, 1000);
    // Ten at a time on two connections: one after the other they would have taken five seconds.
    assert!(report.latency_us.p99.unwrap() < 500_000, "{report}");
}

#[tokio::test]
async fn a_graceful_goaway_costs_no_request() {
    let connections = Arc::new(AtomicU64::new(0));
    let count = connections.clone();
    let address = server::accept(move |_, stream| {
        count.fetch_add(1, Ordering::Relaxed);
        async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            let mut seen = 0;
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                answer(&mut respond);
                seen += 1;
                if seen == 10 {
                    connection.graceful_shutdown();
                }
            }
        }
    })
    .await;
    let report = run(forty(address)).await;
    assert_eq!((report.ok, report.failures()), (40, 0), "{report}");
    assert_eq!(report.reconnects, connections.load(Ordering::Relaxed) - 1, "{report}");
    assert!(report.reconnects >= 3, "{report}");
}

#[tokio::test]
async fn a_refused_stream_is_sent_once_more_and_counted() {
    let seen = Arc::new(AtomicU64::new(0));
    let count = seen.clone();
    let address = server::accept(move |_, stream| {
        let count = count.clone();
        async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                if count.fetch_add(1, Ordering::Relaxed) == 10 {
                    respond.send_reset(Reason::REFUSED_STREAM);
                } else {
                    answer(&mut respond);
                }
            }
        }
    })
    .await;
    let report = run(forty(address)).await;
    assert_eq!((report.ok, report.failures(), report.retried_safe), (40, 0, 1), "{report}");
    assert_eq!(seen.load(Ordering::Relaxed), 41);
}

#[tokio::test]
async fn a_server_that_always_refuses_fails_requests() {
    let address = server::accept(|_, stream| async move {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            respond.send_reset(Reason::REFUSED_STREAM);
        }
    })
    .await;
    let report = run(forty(address)).await;
    assert_eq!((report.ok, report.failed[&FailureKind::Reset]), (0, 40), "{report}");
    assert_eq!(report.retried_safe, 40, "once each");
}

#[tokio::test]
async fn any_other_reset_is_a_failure() {
    let address = server::accept(|_, stream| async move {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            respond.send_reset(Reason::INTERNAL_ERROR);
        }
    })
    .await;
    let report = run(forty(address)).await;
    assert_eq!((report.failed[&FailureKind::Reset], report.retried_safe), (40, 0), "{report}");
}

#[tokio::test]
async fn a_connection_that_breaks_fails_the_requests_on_it() {
    let address = server::accept(|number, stream| async move {
        if number > 0 {
            return answer_all(stream).await;
        }
        let mut connection = h2::server::handshake(stream).await.unwrap();
        drop(connection.accept().await);
    })
    .await;
    let report = run(forty(address)).await;
    assert_eq!((report.ok, report.failures(), report.retried_safe), (39, 1, 0), "{report}");
    assert_eq!(report.reconnects, 1, "{report}");
}

/// What no library sends: a GOAWAY that names a lower stream than the one that is under way.
async fn go_away(mut stream: TcpStream, last_stream: u32) {
    let frame = |length: u8, kind: u8, stream: u32| {
        let mut frame = vec![0, 0, length, kind, 0];
        frame.extend(stream.to_be_bytes());
        frame
    };
    stream.read_exact(&mut [0; 24]).await.unwrap();
    stream.write_all(&frame(0, 0x4, 0)).await.unwrap();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        stream.read_exact(&mut vec![0; length as usize]).await.unwrap();
        if head[3] == 0x1 {
            break;
        }
    }
    let mut goaway = frame(8, 0x7, 0);
    goaway.extend(last_stream.to_be_bytes());
    goaway.extend([0; 4]);
    stream.write_all(&goaway).await.unwrap();
}

#[tokio::test]
async fn a_request_above_the_goaways_last_stream_is_sent_once_more() {
    let address = server::accept(|number, stream| async move {
        if number > 0 { answer_all(stream).await } else { go_away(stream, 0).await }
    })
    .await;
    let report = run(forty(address)).await;
    assert_eq!((report.ok, report.retried_safe, report.reconnects), (40, 1, 1), "{report}");
}

#[tokio::test]
async fn a_request_below_it_may_have_been_processed_and_has_failed() {
    let address = server::accept(|number, stream| async move {
        if number > 0 { answer_all(stream).await } else { go_away(stream, 1).await }
    })
    .await;
    let report = run(forty(address)).await;
    assert_eq!((report.ok, report.failures(), report.retried_safe), (39, 1, 0), "{report}");
}

#[tokio::test]
async fn bodies_are_sent() {
    let address = server::serve_by(Protocol::H2, |_, request| async move {
        use http_body_util::BodyExt;
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let mut response = server::ok();
        if body.len() != 200_000 {
            *response.status_mut() = http::StatusCode::BAD_REQUEST;
        }
        response
    })
    .await;
    let mut plan = forty(address);
    plan.method = http::Method::POST;
    plan.body = vec![b'x'; 200_000].into();
    let report = run(plan).await;
    assert_eq!(report.ok, 40, "{report}");
}
