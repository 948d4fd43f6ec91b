//! HTTP/2 from clients, HTTP/1.1 to upstreams.

use std::time::Duration;

use bytes::Bytes;
use edge::Limits;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::{Request, Response, body::Frame, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::net::TcpStream;

use crate::{
    support::{Edge, PATIENCE, Upstream, gate, pass, proxy},
    tls,
};

pub(crate) type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, std::convert::Infallible>;
pub(crate) type Sender = http2::SendRequest<Body>;

pub(crate) async fn prior_knowledge(edge: &Edge) -> Sender {
    over(TcpStream::connect(edge.at(80)).await.unwrap()).await
}

pub(crate) async fn over(
    io: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
) -> Sender {
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    sender
}

pub(crate) fn empty() -> Body {
    Full::default().boxed_unsync()
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

pub(crate) fn get(path: &str) -> Request<Body> {
    Request::get(format!("http://a.test{path}")).body(empty()).unwrap()
}

pub(crate) async fn ask(sender: &mut Sender, request: Request<Body>) -> Response<Bytes> {
    let (parts, body) = sender.send_request(request).await.unwrap().into_parts();
    Response::from_parts(parts, body.collect().await.unwrap().to_bytes())
}

#[test]
fn prior_knowledge_is_served() {
    let upstream = Upstream::start(|exchange, request| exchange.reply(request.line()));
    let edge = Edge::start(&proxy(&upstream));
    edge.runtime.block_on(async {
        let mut sender = prior_knowledge(&edge).await;
        for n in 0..20 {
            let response = ask(&mut sender, get(&format!("/{n}?q"))).await;
            assert_eq!(response.status(), 200);
            assert_eq!(response.body(), format!("GET /{n}?q HTTP/1.1").as_bytes());
        }
    });
    assert_eq!(upstream.connections(), 1);
    let received = upstream.last();
    assert_eq!(received.header("host"), Some("a.test"));
    assert_eq!(received.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(received.header("transfer-encoding"), None);
}

#[test]
fn tls_is_served() {
    let upstream = Upstream::saying("x");
    let secured = tls::secured(&upstream, &["a.test"]);
    let edge = Edge::start(&secured.yaml);
    let config = tls::client_config(&secured.roots, &[b"h2"]);
    edge.runtime.block_on(async {
        let mut sender = over(tls::connect(&edge, &config, "a.test").await.unwrap()).await;
        for _ in 0..3 {
            assert_eq!(ask(&mut sender, get("/")).await.body(), &"x");
        }
    });
}

#[test]
fn many_streams_and_large_bodies_go_both_ways() {
    let upstream = Upstream::start(|exchange, request| {
        exchange.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", request.body.len()));
        exchange.send(&request.body);
    });
    let edge = Edge::start(&proxy(&upstream));
    edge.runtime.block_on(async {
        let sender = prior_knowledge(&edge).await;
        let tasks: Vec<_> = (0..40_u8)
            .map(|n| {
                let mut sender = sender.clone();
                tokio::spawn(async move {
                    let body = vec![n; 1 << 20];
                    let request = Request::post("http://a.test/").body(full(body.clone())).unwrap();
                    assert!(*ask(&mut sender, request).await.body() == body, "{n}");
                })
            })
            .collect();
        for task in tasks {
            tokio::time::timeout(PATIENCE * 2, task).await.unwrap().unwrap();
        }
    });
}

#[test]
fn a_body_without_a_length_is_chunked_and_trailers_pass() {
    let upstream = Upstream::start(|exchange, request| {
        exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        exchange.send(format!("{:x}\r\n", request.body.len()));
        exchange.send(&request.body);
        exchange.send("\r\n0\r\nx-sum: 42\r\n\r\n");
    });
    let edge = Edge::start(&proxy(&upstream));
    edge.runtime.block_on(async {
        let mut sender = prior_knowledge(&edge).await;
        let mut trailers = http::HeaderMap::new();
        trailers.insert("x-check", "yes".parse().unwrap());
        let frames = [Frame::data(Bytes::from("hello")), Frame::trailers(trailers)];
        let body = StreamBody::new(futures_util::stream::iter(frames.map(Ok))).boxed_unsync();
        let response =
            sender.send_request(Request::post("http://a.test/").body(body).unwrap()).await.unwrap();
        assert_eq!(response.headers().get("transfer-encoding"), None);
        let collected = response.into_body().collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["x-sum"], "42");
        assert_eq!(collected.to_bytes(), "hello");
    });
    let received = upstream.last();
    assert_eq!(received.header("transfer-encoding"), Some("chunked"));
    assert_eq!(received.trailers, "x-check: yes\r\n");
}

#[test]
fn heads_without_bodies() {
    for (method, head, length) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n", Some("1234")),
        ("GET", "HTTP/1.1 204 No Content\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\n\r\n", None),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", Some("7")),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Some("0")),
    ] {
        let upstream = Upstream::start(move |exchange, _| exchange.send(head));
        let edge = Edge::start(&proxy(&upstream));
        edge.runtime.block_on(async {
            let mut sender = prior_knowledge(&edge).await;
            for _ in 0..2 {
                let request = Request::builder().method(method).uri("http://a.test/").body(empty()).unwrap();
                let response = ask(&mut sender, request).await;
                let found = response.headers().get("content-length").map(|v| v.to_str().unwrap());
                assert_eq!(found, length, "{method} {head}");
                assert!(response.headers().get("keep-alive").is_none());
                assert!(response.body().is_empty());
            }
        });
        assert_eq!(upstream.connections(), 1, "{method} {head}");
    }
}

#[test]
fn a_response_that_breaks_off_resets_the_stream() {
    let upstream = Upstream::start(|exchange, _| {
        exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
        exchange.close();
    });
    let edge = Edge::start(&proxy(&upstream));
    edge.runtime.block_on(async {
        let mut sender = prior_knowledge(&edge).await;
        for _ in 0..3 {
            // The reset may overtake the head, never the other way round; the connection goes on.
            if let Ok(response) = sender.send_request(get("/")).await {
                assert!(response.into_body().collect().await.is_err());
            }
            assert!(sender.is_ready());
        }
    });
    let truncated = "outcome=\"truncated\",code=\"2xx\"} 3";
    let metrics = edge.control.metrics();
    assert!(metrics.contains(truncated), "{metrics}");
}

#[test]
fn what_http_1_could_misread_is_refused() {
    let upstream = Upstream::saying("x");
    let edge = Edge::start(&proxy(&upstream));
    edge.runtime.block_on(async {
        let mut sender = prior_knowledge(&edge).await;
        let with = |name: &str, value: &[u8]| {
            Request::get("http://a.test/").header(name, value).body(empty()).unwrap()
        };
        for (request, status) in [
            (with("host", b"b.test"), 400),
            (with("x_y", b"1"), 400),
            (with("content-length", b"+0"), 400),
            (with("x-fine", b"1"), 200),
        ] {
            let shown = format!("{:?}", request.headers());
            // Some are refused by hyper itself, with a reset.
            match sender.send_request(request).await {
                Ok(response) => assert_eq!(response.status(), status, "{shown}"),
                Err(_) => assert_ne!(status, 200, "{shown}"),
            }
            sender = prior_knowledge(&edge).await;
        }
        let crumbs = Request::get("http://a.test/").header("cookie", "a=1").header("cookie", "b=2");
        assert_eq!(ask(&mut sender, crumbs.body(empty()).unwrap()).await.status(), 200);
    });
    assert_eq!(upstream.received().len(), 2);
    assert_eq!(upstream.last().header("cookie"), Some("a=1; b=2"));
}

#[test]
fn a_drain_finishes_streams_and_says_goaway() {
    let (open, wait) = gate();
    let upstream = Upstream::start(move |exchange, _| {
        pass(&wait);
        exchange.reply("finished");
    });
    let edge = Edge::start(&proxy(&upstream));
    let (address, control) = (edge.at(80), edge.control.clone());
    let client = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    client.block_on(async {
        let sender = over(TcpStream::connect(address).await.unwrap()).await;
        let mut answers = Vec::new();
        for _ in 0..10 {
            let mut sender = sender.clone();
            answers.push(tokio::spawn(async move { ask(&mut sender, get("/")).await }));
        }
        while upstream.received().len() < answers.len() {
            tokio::task::yield_now().await;
        }
        control.drain(PATIENCE).await;
        (0..20).for_each(|_| open.send(()).unwrap());
        for answer in answers {
            let answer = tokio::time::timeout(PATIENCE, answer).await.unwrap().unwrap();
            assert_eq!(answer.body(), &"finished");
        }
        // The connection ends by itself, long before the deadline.
        let mut sender = sender;
        tokio::time::timeout(PATIENCE, async {
            while sender.ready().await.is_ok() {
                tokio::task::yield_now().await
            }
        })
        .await
        .unwrap();
    });
    edge.drain(PATIENCE);
}

#[test]
fn a_silent_connection_is_closed() {
    let upstream = Upstream::saying("x");
    let limits = Limits { idle: Duration::from_millis(300), ..Limits::default() };
    let edge = Edge::start_with(&proxy(&upstream), limits);
    edge.runtime.block_on(async {
        let mut sender = prior_knowledge(&edge).await;
        assert_eq!(ask(&mut sender, get("/")).await.status(), 200);
        tokio::time::timeout(PATIENCE, async {
            while sender.ready().await.is_ok() {
                tokio::task::yield_now().await
            }
        })
        .await
        .unwrap();
    });
}

#[test]
fn a_connection_on_which_only_requests_move_is_not_silent() {
    let upstream = Upstream::start(|exchange, request| exchange.reply(&request.body.len().to_string()));
    let limits = Limits { tunnel_idle: Duration::from_millis(750), ..Limits::default() };
    let edge = Edge::start_with(&proxy(&upstream), limits);
    edge.runtime.block_on(async {
        let mut sender = prior_knowledge(&edge).await;
        let frames = futures_util::stream::unfold(0, async |sent| {
            tokio::time::sleep(Duration::from_millis(100)).await;
            (sent < 25).then(|| (Ok(Frame::data(Bytes::from("x"))), sent + 1))
        });
        let body = StreamBody::new(frames).boxed_unsync();
        let request = Request::post("http://a.test/").body(body).unwrap();
        assert_eq!(ask(&mut sender, request).await.body(), &"25");
    });
}

#[test]
fn empty_frames_without_end_are_refused() {
    let upstream = Upstream::saying("x");
    let edge = Edge::start(&proxy(&upstream));
    edge.runtime.block_on(async {
        let mut sender = prior_knowledge(&edge).await;
        let frames = futures_util::stream::iter((0..1000).map(|_| Ok(Frame::data(Bytes::new()))));
        let body = StreamBody::new(frames).boxed_unsync();
        let request = Request::post("http://a.test/").body(body).unwrap();
        if let Ok(response) = sender.send_request(request).await {
            assert_eq!(response.status(), 400);
        }
        assert_eq!(ask(&mut prior_knowledge(&edge).await, get("/")).await.body(), &"x", "the others go on");
    });
    assert_eq!(upstream.received().len(), 1);
}

/// Streams of all sizes through windows of all sizes, some taken back on the way: what comes to its end is what was sent.
#[test]
fn whatever_the_windows_and_whoever_gives_up_bodies_are_whole() {
    let seed =
        std::env::var("WEIR_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    let mut random = StdRng::seed_from_u64(seed);
    let upstream = Upstream::start(|exchange, request| {
        exchange.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", request.body.len()));
        exchange.send(&request.body);
    });
    let edge = Edge::start(&proxy(&upstream));
    edge.runtime.block_on(async {
        for _ in 0..6 {
            let (window, all) = (random.random_range(1..100_000), random.random_range(65_535..200_000));
            let stream = TcpStream::connect(edge.at(80)).await.unwrap();
            let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                .initial_stream_window_size(window)
                .initial_connection_window_size(all)
                .handshake(TokioIo::new(stream))
                .await
                .unwrap();
            tokio::spawn(async move { drop(connection.await) });
            let tasks: Vec<_> = (0..30_u8)
                .map(|n| {
                    let mut sender = sender.clone();
                    let magnitude = random.random_range(0..18);
                    let length = random.random_range(0..1_usize << magnitude);
                    // Small windows are slow: they are about single bytes.
                    let length = length.min(usize::try_from(window).unwrap() * 200);
                    let gives_up = random.random_range(0..8) == 0;
                    tokio::spawn(async move {
                        let body = vec![n; length];
                        let request = Request::post("http://a.test/").body(full(body.clone())).unwrap();
                        let response = sender.send_request(request).await.unwrap();
                        if !gives_up {
                            assert!(response.into_body().collect().await.unwrap().to_bytes() == body, "{n}");
                        }
                    })
                })
                .collect();
            for task in tasks {
                let done = tokio::time::timeout(PATIENCE, task).await;
                done.unwrap_or_else(|_| panic!("a window of {window} (WEIR_SEED={seed})")).unwrap();
            }
        }
    });
}
