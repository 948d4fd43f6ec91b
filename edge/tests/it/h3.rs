//! HTTP/3: requests, bodies, limits, and ways out.

use std::{future::poll_fn, net::UdpSocket, sync::Arc, time::Duration};

use bytes::{Buf, Bytes};
use edge::Limits;
use h3::client::{RequestStream, SendRequest};
use http::{HeaderMap, Request, Response, StatusCode};
use quinn::{ConnectionError, Endpoint, TransportConfig, VarInt};
use tokio::time::timeout;

use crate::{
    support::{Edge, PATIENCE, Upstream, gate, pass},
    tls::{Secured, client_config, secured},
};

pub(crate) type Sender = SendRequest<h3_quinn::OpenStreams, Bytes>;
type Stream = RequestStream<h3_quinn::BidiStream<Bytes>, Bytes>;

/// An edge that serves `a.test` by HTTPS and HTTP/3.
pub(crate) struct Served {
    pub(crate) edge: Edge,
    pub(crate) secured: Secured,
}

pub(crate) fn serve(upstream: &Upstream) -> Served {
    serve_with(upstream, Limits::default())
}

pub(crate) fn serve_with(upstream: &Upstream, limits: Limits) -> Served {
    let secured = secured(upstream, &["a.test"]);
    let edge = Edge::start_with(&secured.yaml, limits);
    Served { edge, secured }
}

impl Served {
    /// A QUIC connection, without HTTP.
    pub(crate) async fn dial(&self) -> (Endpoint, quinn::Connection) {
        let endpoint = client_endpoint(&self.secured);
        let connecting = endpoint.connect(self.edge.udp_at(443), "a.test").unwrap();
        let connection = timeout(PATIENCE, connecting).await.unwrap().unwrap();
        (endpoint, connection)
    }

    pub(crate) async fn connect(&self) -> (Sender, quinn::Connection, Endpoint) {
        let (endpoint, connection) = self.dial().await;
        (speak(connection.clone()).await, connection, endpoint)
    }

    fn metric(&self, name: &str) -> u64 {
        let metrics = self.edge.control.metrics();
        let line = metrics.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }
}

fn client_settings(secured: &Secured) -> quinn::ClientConfig {
    let tls = client_config(&secured.roots, &[b"h3"]);
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    quinn::ClientConfig::new(Arc::new(crypto))
}

pub(crate) fn client_endpoint(secured: &Secured) -> Endpoint {
    let mut endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint.set_default_client_config(client_settings(secured));
    endpoint
}

pub(crate) async fn speak(connection: quinn::Connection) -> Sender {
    let (mut driver, sender) = h3::client::new(h3_quinn::Connection::new(connection)).await.unwrap();
    tokio::spawn(async move { drop(poll_fn(|cx| driver.poll_close(cx)).await) });
    sender
}

fn get(path: &str) -> Request<()> {
    Request::get(format!("https://a.test{path}")).body(()).unwrap()
}

async fn response(stream: &mut Stream) -> (Response<()>, Bytes, Option<HeaderMap>) {
    let head = timeout(PATIENCE, stream.recv_response()).await.unwrap().unwrap();
    let mut body = Vec::new();
    while let Some(mut data) = timeout(PATIENCE, stream.recv_data()).await.unwrap().unwrap() {
        body.extend_from_slice(&data.copy_to_bytes(data.remaining()));
    }
    let trailers = timeout(PATIENCE, stream.recv_trailers()).await.unwrap().unwrap();
    (head, body.into(), trailers)
}

pub(crate) async fn ask(sender: &mut Sender, request: Request<()>) -> (StatusCode, Bytes) {
    let mut stream = sender.send_request(request).await.unwrap();
    stream.finish().await.unwrap();
    let (head, body, _) = response(&mut stream).await;
    (head.status(), body)
}

#[test]
fn a_request_is_answered_as_on_any_protocol() {
    let upstream = Upstream::start(|exchange, _| {
        exchange.send(
            "HTTP/1.1 200 OK\r\nServer: x\r\nX-Own: y\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi",
        );
    });
    let served = serve(&upstream);
    served.edge.runtime.block_on(async {
        let (mut sender, ..) = served.connect().await;
        let request = Request::get("https://a.test/p?q=1")
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .header("x-forwarded-proto", "ftp")
            .body(())
            .unwrap();
        let mut stream = sender.send_request(request).await.unwrap();
        stream.finish().await.unwrap();
        let (head, body, trailers) = response(&mut stream).await;
        assert_eq!((head.status(), &body[..], trailers), (StatusCode::OK, &b"hi"[..], None));
        let header = |name: &str| head.headers().get(name).map(|value| value.to_str().unwrap());
        assert_eq!((header("x-own"), header("server"), header("connection")), (Some("y"), None, None));
        assert_eq!((header("content-length"), header("alt-svc")), (Some("2"), None));
        assert!(header("date").is_some());

        let mut stream =
            sender.send_request(Request::head("https://a.test/").body(()).unwrap()).await.unwrap();
        stream.finish().await.unwrap();
        let (head, body, _) = response(&mut stream).await;
        assert_eq!((head.status(), body.len()), (StatusCode::OK, 0));
        assert_eq!(head.headers()["content-length"], "2");
    });
    let received = &upstream.received()[0];
    assert_eq!(received.line(), "GET /p?q=1 HTTP/1.1");
    assert_eq!(received.header("host"), Some("a.test"));
    assert_eq!(received.header("cookie"), Some("a=1; b=2"));
    assert_eq!(received.header("x-forwarded-proto"), Some("https"));
    assert_eq!(received.header("transfer-encoding"), None, "no body");
    assert_eq!(served.metric("weir_edge_quic_connections_total"), 1);
}

#[test]
fn bodies_and_trailers_stream_in_both_directions() {
    let upstream = Upstream::start(|exchange, request| {
        exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n");
        for part in request.body.chunks(100_000) {
            exchange.send(format!("{:x}\r\n", part.len()));
            exchange.send(part);
            exchange.send("\r\n");
        }
        exchange.send("0\r\nx-sum: 7\r\n\r\n");
    });
    let served = serve(&upstream);
    let body: Vec<u8> = (0..3_000_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
    served.edge.runtime.block_on(async {
        let (mut sender, ..) = served.connect().await;
        let mut stream =
            sender.send_request(Request::post("https://a.test/").body(()).unwrap()).await.unwrap();
        for part in body.chunks(70_000) {
            stream.send_data(Bytes::copy_from_slice(part)).await.unwrap();
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("x-up", "1".parse().unwrap());
        stream.send_trailers(trailers).await.unwrap();
        stream.finish().await.unwrap();
        let (head, echoed, trailers) = response(&mut stream).await;
        assert_eq!(head.status(), StatusCode::OK);
        assert!(echoed == body, "{} bytes", echoed.len());
        assert_eq!(trailers.unwrap()["x-sum"], "7");
    });
    assert_eq!(upstream.last().trailers, "x-up: 1\r\n");
}

#[test]
fn the_first_bytes_of_a_response_do_not_wait_for_the_rest() {
    let (open, wait) = gate();
    let upstream = Upstream::start(move |exchange, _| {
        exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst");
        pass(&wait);
        exchange.send("after");
    });
    let served = serve(&upstream);
    served.edge.runtime.block_on(async {
        let (mut sender, ..) = served.connect().await;
        let mut stream = sender.send_request(get("/")).await.unwrap();
        stream.finish().await.unwrap();
        timeout(PATIENCE, stream.recv_response()).await.unwrap().unwrap();
        let mut first = timeout(PATIENCE, stream.recv_data()).await.unwrap().unwrap().unwrap();
        assert_eq!(first.copy_to_bytes(first.remaining()), "first");
        open.send(()).unwrap();
        let mut rest = timeout(PATIENCE, stream.recv_data()).await.unwrap().unwrap().unwrap();
        assert_eq!(rest.copy_to_bytes(rest.remaining()), "after");
    });
}

#[test]
fn a_response_that_breaks_off_does_not_look_complete() {
    let upstream = Upstream::start(|exchange, _| {
        exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nparts\r\n");
        exchange.close();
    });
    let served = serve(&upstream);
    served.edge.runtime.block_on(async {
        let (mut sender, ..) = served.connect().await;
        let mut stream = sender.send_request(get("/")).await.unwrap();
        stream.finish().await.unwrap();
        let end = 'read: {
            // A reset overtakes what was sent before it, the head as well.
            if let Err(error) = timeout(PATIENCE, stream.recv_response()).await.unwrap() {
                break 'read Some(error);
            }
            while let Some(_data) = match timeout(PATIENCE, stream.recv_data()).await.unwrap() {
                Ok(data) => data,
                Err(error) => break 'read Some(error),
            } {}
            None
        };
        let reset = h3::error::Code::H3_INTERNAL_ERROR;
        assert!(
            matches!(&end, Some(h3::error::StreamError::RemoteTerminate { code, .. }) if *code == reset),
            "{end:?}"
        );
    });
}

#[test]
fn a_request_that_breaks_off_does_not_look_complete() {
    let (seen, end) = std::sync::mpsc::channel();
    let upstream = Upstream::raw(move |exchange| {
        let mut request = exchange.head().unwrap();
        exchange.body(&mut request);
        seen.send(request.raw).unwrap();
    });
    let served = serve(&upstream);
    served.edge.runtime.block_on(async {
        let (mut sender, ..) = served.connect().await;
        let mut stream =
            sender.send_request(Request::post("https://a.test/").body(()).unwrap()).await.unwrap();
        stream.send_data(Bytes::from_static(b"part")).await.unwrap();
        // The edge forwards what there is before it hears of the end.
        while upstream.connections() == 0 {
            tokio::task::yield_now().await;
        }
        stream.stop_stream(h3::error::Code::H3_REQUEST_CANCELLED);
    });
    let raw = end.recv_timeout(PATIENCE).unwrap();
    assert!(!String::from_utf8_lossy(&raw).contains("0\r\n\r\n"), "{raw:?}");
}

#[test]
fn a_request_that_the_client_takes_back_is_taken_back_upstream() {
    let (gone, saw) = std::sync::mpsc::channel();
    let upstream = Upstream::raw(move |exchange| {
        exchange.head().unwrap();
        gone.send(exchange.head().is_none()).unwrap();
    });
    let served = serve(&upstream);
    served.edge.runtime.block_on(async {
        let (mut sender, ..) = served.connect().await;
        let mut stream = sender.send_request(get("/")).await.unwrap();
        stream.finish().await.unwrap();
        while upstream.connections() == 0 {
            tokio::task::yield_now().await;
        }
        stream.stop_sending(h3::error::Code::H3_REQUEST_CANCELLED);
        let saw = tokio::task::spawn_blocking(move || saw.recv_timeout(PATIENCE).unwrap());
        assert!(saw.await.unwrap(), "the upstream's connection was closed");
    });
}

#[test]
fn the_length_that_is_declared_must_be_that_of_the_body() {
    let upstream = Upstream::saying("x");
    let served = serve(&upstream);
    served.edge.runtime.block_on(async {
        let (mut sender, ..) = served.connect().await;
        for (body, whole) in [("four", true), ("five!", false), ("due", false)] {
            let request = Request::post("https://a.test/").header("content-length", "4").body(()).unwrap();
            let mut stream = sender.send_request(request).await.unwrap();
            // An error: it was reset already.
            drop(stream.send_data(Bytes::from_static(body.as_bytes())).await);
            drop(stream.finish().await);
            let status = timeout(PATIENCE, stream.recv_response()).await.unwrap().map(|head| head.status());
            match (whole, status) {
                (true, Ok(status)) => assert_eq!(status, StatusCode::OK),
                (false, Ok(status)) => assert_eq!(status, StatusCode::BAD_REQUEST),
                (whole, status) => panic!("{body}: {whole} {status:?}"),
            }
        }
    });
    assert_eq!(upstream.received().iter().map(|r| &r.body[..]).collect::<Vec<_>>(), [b"four"]);
}

#[test]
fn heads_have_bounds() {
    let upstream = Upstream::saying("x");
    let served = serve(&upstream);
    served.edge.runtime.block_on(async {
        let (mut sender, connection, _) = served.connect().await;
        let large = "x".repeat(66_000);
        let many = |count: usize| {
            let request = Request::get("https://a.test/");
            (0..count).fold(request, |r, n| r.header(format!("x-{n}"), "1")).body(()).unwrap()
        };
        assert_eq!(ask(&mut sender, many(100)).await.0, StatusCode::OK);
        assert_eq!(ask(&mut sender, many(101)).await.0, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        // This client keeps to our settings; others send what they like.
        let mut frame = vec![0x01];
        let section = section(&[("x", &large)]);
        frame.extend((0x8000_0000 | u32::try_from(section.len()).unwrap()).to_be_bytes());
        frame.extend(&section);
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        drop(send.write_all(&frame).await);
        let answer = timeout(PATIENCE, recv.read_to_end(10_000)).await.unwrap().unwrap();
        assert!(String::from_utf8_lossy(&answer).contains("431"), "{answer:?}");
        assert_eq!(ask(&mut sender, get("/")).await.0, StatusCode::OK, "the connection goes on");
    });
}

#[test]
fn a_head_has_its_time() {
    let upstream = Upstream::saying("x");
    let served = serve_with(&upstream, Limits { head: Duration::from_millis(300), ..Limits::default() });
    served.edge.runtime.block_on(async {
        let (_endpoint, connection) = served.dial().await;
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        send.write_all(&[0x01, 0x20, 0x00]).await.unwrap();
        let answer = timeout(PATIENCE, recv.read_to_end(10_000)).await.unwrap().unwrap();
        assert!(String::from_utf8_lossy(&answer).contains("408"), "{answer:?}");
    });
}

/// A field section, and before it what a request needs.
fn section(more: &[(&str, &str)]) -> Vec<u8> {
    let mut section = Vec::new();
    edge::h3::qpack::begin(&mut section);
    let pseudo = [(":method", "GET"), (":scheme", "https"), (":authority", "a.test"), (":path", "/")];
    for (name, value) in pseudo.iter().chain(more) {
        edge::h3::qpack::write_field(&mut section, name.as_bytes(), value.as_bytes());
    }
    section
}

fn headers(more: &[(&str, &str)]) -> Vec<u8> {
    let section = section(more);
    let mut frame = Vec::new();
    edge::h3::write_frame_header(&mut frame, edge::h3::FrameKind::Headers, section.len());
    frame.extend(section);
    frame
}

/// What the edge answers to bytes on streams of these kinds.
#[derive(Clone)]
enum Sent {
    /// On a request's stream, which then ends.
    Request(Vec<u8>),
    /// On a unidirectional stream, which stays open.
    Uni(Vec<u8>),
    /// On one that ends.
    UniThenEnd(Vec<u8>),
}

#[test]
fn errors_of_the_protocol_end_the_connection_with_their_code() {
    use Sent::{Request, Uni, UniThenEnd};
    let upstream = Upstream::saying("x");
    let served = serve(&upstream);
    let after_headers = |frame: &[u8]| Request([&headers(&[]), frame].concat());
    let trailers = [0x01, 0x05, 0x00, 0x00, 0x21, b'x', 0x00];
    let cases: Vec<(&str, Vec<Sent>, u64)> = vec![
        ("DATA before HEADERS", vec![Request(vec![0x00, 0x01, b'x'])], 0x105),
        ("SETTINGS on a request", vec![Request(vec![0x04, 0x00])], 0x105),
        ("GOAWAY on a request", vec![after_headers(&[0x07, 0x01, 0x00])], 0x105),
        ("PUSH_PROMISE", vec![after_headers(&[0x05, 0x01, 0x00])], 0x105),
        ("MAX_PUSH_ID on a request", vec![after_headers(&[0x0d, 0x01, 0x00])], 0x105),
        ("a frame of HTTP/2", vec![after_headers(&[0x08, 0x00])], 0x105),
        ("DATA after trailers", vec![after_headers(&[&trailers[..], &[0x00, 0x00]].concat())], 0x105),
        ("a frame that breaks off", vec![after_headers(&[0x00, 0x05, b'x'])], 0x106),
        ("a header that breaks off", vec![after_headers(&[0x40])], 0x106),
        ("HEADERS that break off", vec![Request(vec![0x01, 0x30, 0x00])], 0x106),
        ("a dynamic reference", vec![Request(vec![0x01, 0x03, 0x00, 0x00, 0x80])], 0x200),
        ("a section that is none", vec![Request(vec![0x01, 0x01, 0x00])], 0x200),
        ("no SETTINGS", vec![Uni(vec![0x00, 0x07, 0x01, 0x00])], 0x10a),
        ("SETTINGS twice", vec![Uni(vec![0x00, 0x04, 0x00, 0x04, 0x00])], 0x105),
        ("a setting of HTTP/2", vec![Uni(vec![0x00, 0x04, 0x02, 0x03, 0x01])], 0x109),
        ("a setting twice", vec![Uni(vec![0x00, 0x04, 0x04, 0x06, 0x01, 0x06, 0x01])], 0x109),
        ("DATA on control", vec![Uni(vec![0x00, 0x04, 0x00, 0x00, 0x00])], 0x105),
        ("HEADERS on control", vec![Uni(vec![0x00, 0x04, 0x00, 0x01, 0x00])], 0x105),
        ("CANCEL_PUSH", vec![Uni(vec![0x00, 0x04, 0x00, 0x03, 0x01, 0x00])], 0x108),
        ("MAX_PUSH_ID falls", vec![Uni(vec![0x00, 0x04, 0x00, 0x0d, 0x01, 0x02, 0x0d, 0x01, 0x01])], 0x108),
        ("GOAWAY rises", vec![Uni(vec![0x00, 0x04, 0x00, 0x07, 0x01, 0x00, 0x07, 0x01, 0x01])], 0x108),
        ("GOAWAY with more", vec![Uni(vec![0x00, 0x04, 0x00, 0x07, 0x02, 0x00, 0x00])], 0x106),
        ("two control streams", vec![Uni(vec![0x00, 0x04, 0x00]), Uni(vec![0x00, 0x04, 0x00])], 0x103),
        ("two encoder streams", vec![Uni(vec![0x02]), Uni(vec![0x02])], 0x103),
        ("a push stream", vec![Uni(vec![0x01, 0x00])], 0x103),
        ("control ends", vec![UniThenEnd(vec![0x00, 0x04, 0x00])], 0x104),
        ("encoder ends", vec![UniThenEnd(vec![0x02])], 0x104),
        ("an insertion", vec![Uni(vec![0x02, 0x41, b'x', 0x00])], 0x201),
        ("an acknowledgement", vec![Uni(vec![0x03, 0x80])], 0x202),
        ("an increment", vec![Uni(vec![0x03, 0x01])], 0x202),
        ("a control frame without end", vec![Uni(vec![0x00, 0x04, 0x80, 0x01, 0x00, 0x00])], 0x107),
        ("foreign frames", vec![Request([0x21, 0x00].repeat(101))], 0x107),
        ("empty DATA", vec![after_headers(&[0x00, 0x00].repeat(102))], 0x107),
        (
            "a flood of control frames",
            vec![Uni([&[0x00, 0x04, 0x00][..], &[0x21, 0x00].repeat(101)].concat())],
            0x107,
        ),
    ];
    served.edge.runtime.block_on(async {
        for (what, sent, code) in cases {
            let (_endpoint, connection) = served.dial().await;
            let (mut open, mut answers) = (Vec::new(), Vec::new());
            for sent in sent {
                match sent {
                    Sent::Request(bytes) => {
                        let (mut send, recv) = connection.open_bi().await.unwrap();
                        drop(send.write_all(&bytes).await);
                        drop(send.finish());
                        // Dropped, it would take the request back.
                        answers.push(recv);
                    }
                    Sent::Uni(bytes) => {
                        let mut send = connection.open_uni().await.unwrap();
                        drop(send.write_all(&bytes).await);
                        open.push(send);
                    }
                    Sent::UniThenEnd(bytes) => {
                        let mut send = connection.open_uni().await.unwrap();
                        drop(send.write_all(&bytes).await);
                        drop(send.finish());
                    }
                }
            }
            let closed = timeout(PATIENCE, connection.closed()).await.expect(what);
            let ConnectionError::ApplicationClosed(close) = closed else { panic!("{what}: {closed:?}") };
            assert_eq!(close.error_code, VarInt::from_u64(code).unwrap(), "{what}");
        }
    });
    // Whatever was wrong after a whole head may have been forwarded as far as it was right, never as a whole request.
    assert!(upstream.received().iter().all(|request| request.header("content-length").is_none()));
}

#[test]
fn a_client_that_gives_no_room_for_our_settings_is_left() {
    let upstream = Upstream::saying("x");
    let served = serve_with(&upstream, Limits { handshake: Duration::from_millis(300), ..Limits::default() });
    served.edge.runtime.block_on(async {
        let (mut no_stream, mut no_room) = (TransportConfig::default(), TransportConfig::default());
        no_stream.max_concurrent_uni_streams(0_u8.into());
        no_room.stream_receive_window(0_u8.into());
        for transport in [no_stream, no_room] {
            let mut config = client_settings(&served.secured);
            config.transport_config(Arc::new(transport));
            let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
            let to = served.edge.udp_at(443);
            let connection = endpoint.connect_with(config, to, "a.test").unwrap().await.unwrap();
            let closed = timeout(PATIENCE, connection.closed()).await.expect("it is left");
            let ConnectionError::ApplicationClosed(close) = closed else { panic!("{closed:?}") };
            assert_eq!(close.error_code, VarInt::from_u32(0x103));
        }
    });
}

#[test]
fn what_is_allowed_to_be_odd_is_no_error() {
    let upstream = Upstream::saying("x");
    let served = serve(&upstream);
    served.edge.runtime.block_on(async {
        let (_endpoint, connection) = served.dial().await;
        let mut open = Vec::new();
        for bytes in [
            &[0x00, 0x04, 0x02, 0x21, 0x01, 0x21, 0x01, 0xff][..],
            &[0x02, 0x20],
            &[0x03, 0x44, 0x7f, 0x80, 0x01],
            &[0x40, 0x21, 0xff],
        ] {
            let mut send = connection.open_uni().await.unwrap();
            send.write_all(bytes).await.unwrap();
            open.push(send);
        }
        // Unknown frames before, between and after.
        let request = [&[0x21, 0x02, 0, 0][..], &headers(&[]), &[0x40, 0x40, 0x01, 0x00]].concat();
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        send.write_all(&request).await.unwrap();
        send.finish().unwrap();
        let answer = timeout(PATIENCE, recv.read_to_end(10_000)).await.unwrap().unwrap();
        assert_eq!(answer.last(), Some(&b'x'));
        assert!(connection.close_reason().is_none());
    });
}

#[test]
fn a_malformed_request_ends_its_stream_only() {
    let upstream = Upstream::saying("x");
    let served = serve(&upstream);
    served.edge.runtime.block_on(async {
        let (mut sender, connection, _endpoint) = served.connect().await;
        for more in [
            &[("connection", "close")][..],
            &[("transfer-encoding", "chunked")],
            &[(":path", "/twice")],
            &[("te", "gzip")],
            &[("x", "a\nb")],
        ] {
            let (mut send, mut recv) = connection.open_bi().await.unwrap();
            send.write_all(&headers(more)).await.unwrap();
            drop(send.finish());
            let end = timeout(PATIENCE, recv.read_to_end(10_000)).await.unwrap();
            let reset = quinn::ReadToEndError::Read(quinn::ReadError::Reset(VarInt::from_u32(0x10e)));
            assert_eq!(end, Err(reset), "{more:?}");
        }
        for (more, status) in [(&[("host", "b.test")][..], "400"), (&[("a_b", "1")], "400")] {
            let (mut send, mut recv) = connection.open_bi().await.unwrap();
            send.write_all(&headers(more)).await.unwrap();
            drop(send.finish());
            let answer = timeout(PATIENCE, recv.read_to_end(10_000)).await.unwrap().unwrap();
            assert!(String::from_utf8_lossy(&answer).contains(status), "{more:?}");
        }
        assert_eq!(ask(&mut sender, get("/")).await.0, StatusCode::OK);
    });
    assert_eq!(upstream.received().len(), 1);
}

#[test]
fn requests_taken_back_again_and_again_end_the_connection() {
    let upstream = Upstream::saying("x");
    let served = serve_with(&upstream, Limits { h3_cancelled_per_s: 20, ..Limits::default() });
    served.edge.runtime.block_on(async {
        let (_endpoint, connection) = served.dial().await;
        let mut sent = 0;
        while connection.close_reason().is_none() {
            let Ok((mut send, mut recv)) = connection.open_bi().await else { break };
            drop(send.write_all(&headers(&[])[..10]).await);
            drop(send.reset(VarInt::from_u32(0x10c)));
            drop(recv.stop(VarInt::from_u32(0x10c)));
            sent += 1;
            assert!(sent < 2_000, "nobody minds");
        }
        let closed = timeout(PATIENCE, connection.closed()).await.unwrap();
        let ConnectionError::ApplicationClosed(close) = closed else { panic!("{closed:?}") };
        assert_eq!(close.error_code, VarInt::from_u32(0x107));
    });
}

#[test]
fn tls_responses_say_that_there_is_http_3() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let upstream = Upstream::saying("x");
    for (http3, expect) in [("on", Some("h3=\":8443\"; ma=86400")), ("unadvertised", None), ("off", None)] {
        let mut secured = secured(&upstream, &["a.test"]);
        secured.yaml += &format!(
            "---\napiVersion: weir.dev/v1\nkind: Pool\nmetadata: {{name: default}}\n\
             spec: {{http3: {http3}, listen: [{{port: 443, bind: \"127.0.0.1:443\", protocol: HTTPS}}]}}\n"
        );
        let edge = Edge::start(&secured.yaml);
        edge.runtime.block_on(async {
            let config = client_config(&secured.roots, &[b"http/1.1"]);
            let mut stream = crate::tls::connect(&edge, &config, "a.test").await.unwrap();
            let request = "GET / HTTP/1.1\r\nHost: a.test:8443\r\nConnection: close\r\n\r\n";
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut response = String::new();
            stream.read_to_string(&mut response).await.unwrap();
            assert_eq!(crate::support::header(&response, "alt-svc"), expect, "{http3}");
        });
        assert_eq!(edge.has_udp(443), http3 != "off");
    }
}

#[test]
fn a_client_that_moves_is_served_on() {
    let upstream = Upstream::saying("x");
    let served = serve(&upstream);
    served.edge.runtime.block_on(async {
        let (mut sender, _connection, endpoint) = served.connect().await;
        for _ in 0..5 {
            endpoint.rebind(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
            assert_eq!(ask(&mut sender, get("/")).await.0, StatusCode::OK);
        }
    });
    assert_eq!(served.metric("weir_edge_quic_connections_total"), 1);
}

#[test]
fn under_many_unproved_handshakes_clients_prove_their_address_first() {
    let upstream = Upstream::saying("x");
    let served = serve_with(&upstream, Limits { quic_unproved: 0, ..Limits::default() });
    served.edge.runtime.block_on(async {
        let (mut sender, ..) = served.connect().await;
        assert_eq!(ask(&mut sender, get("/")).await.0, StatusCode::OK);
    });
    assert_eq!(served.metric("weir_edge_quic_retries_total"), 1);
}

#[test]
fn an_idle_connection_ends_in_order() {
    let upstream = Upstream::saying("x");
    let served = serve_with(&upstream, Limits { idle: Duration::from_millis(500), ..Limits::default() });
    served.edge.runtime.block_on(async {
        let (mut sender, connection, _endpoint) = served.connect().await;
        assert_eq!(ask(&mut sender, get("/")).await.0, StatusCode::OK);
        let closed = timeout(PATIENCE, connection.closed()).await.unwrap();
        let ConnectionError::ApplicationClosed(close) = closed else { panic!("{closed:?}") };
        assert_eq!(close.error_code, VarInt::from_u32(0x100));
    });
}

#[test]
fn a_drain_finishes_what_runs_and_what_was_on_its_way() {
    let (open, wait) = gate();
    let upstream = Upstream::start(move |exchange, _| {
        pass(&wait);
        exchange.reply("finished");
    });
    let served = serve(&upstream);
    let Served { edge, secured } = served;
    let endpoint_of = || client_endpoint(&secured);
    edge.runtime.block_on(async {
        let dial = async || {
            let endpoint = endpoint_of();
            let connection = endpoint.connect(edge.udp_at(443), "a.test").unwrap().await.unwrap();
            (speak(connection.clone()).await, connection, endpoint)
        };
        let (mut busy, busy_connection, _e1) = dial().await;
        let (mut idle, idle_connection, _e2) = dial().await;
        open.send(()).unwrap();
        assert_eq!(ask(&mut idle, get("/")).await.1, "finished");
        let mut running = busy.send_request(get("/")).await.unwrap();
        running.finish().await.unwrap();
        while upstream.received().len() < 2 {
            tokio::task::yield_now().await;
        }
        edge.control.drain(PATIENCE).await;
        // What the client sent before it heard of the drain.
        let mut late = idle.send_request(get("/late")).await.unwrap();
        late.finish().await.unwrap();
        while upstream.received().len() < 3 {
            tokio::task::yield_now().await;
        }
        open.send(()).unwrap();
        open.send(()).unwrap();
        for stream in [&mut running, &mut late] {
            let (head, body, _) = response(stream).await;
            assert_eq!((head.status(), body), (StatusCode::OK, Bytes::from_static(b"finished")));
        }
        for connection in [busy_connection, idle_connection] {
            let closed = timeout(PATIENCE, connection.closed()).await.unwrap();
            let ConnectionError::ApplicationClosed(close) = closed else { panic!("{closed:?}") };
            assert_eq!(close.error_code, VarInt::from_u32(0x100));
        }
    });
    edge.drain(PATIENCE);
}

#[test]
fn the_drains_deadline_ends_what_is_left() {
    let (_never, wait) = gate();
    let upstream = Upstream::start(move |_, _| wait.lock().unwrap().recv().unwrap_or_default());
    let Served { edge, secured } = serve(&upstream);
    let connection = edge.runtime.block_on(async {
        let endpoint = client_endpoint(&secured);
        let connection = endpoint.connect(edge.udp_at(443), "a.test").unwrap().await.unwrap();
        let mut sender = speak(connection.clone()).await;
        let mut stream = sender.send_request(get("/")).await.unwrap();
        stream.finish().await.unwrap();
        while upstream.received().is_empty() {
            tokio::task::yield_now().await;
        }
        edge.control.stop_listening().await;
        edge.control.drain(Duration::from_millis(500)).await;
        let closed = timeout(PATIENCE, connection.closed()).await.unwrap();
        assert!(matches!(closed, ConnectionError::ApplicationClosed(_)), "{closed:?}");
        connection
    });
    drop(connection);
    edge.drain(Duration::ZERO);
}

#[test]
fn each_thread_has_a_slot_and_connections_stay_on_theirs() {
    use std::os::fd::{AsFd, OwnedFd};
    let upstream = Upstream::saying("x");
    let secured = secured(&upstream, &["a.test"]);
    let edge = Edge::start_on(&secured.yaml, Limits::default(), &["127.0.0.1:0", "127.0.0.1:0"]);
    // One more address, of two sockets in a group.
    let options = sys::reuseport::ReuseportOptions::default();
    let first = sys::reuseport::bind_udp("127.0.0.1:0".parse().unwrap(), options).unwrap();
    let bind = sys::reuseport::local_address(first.as_fd()).unwrap();
    let sockets = vec![first, sys::reuseport::bind_udp(bind, options).unwrap()];
    let group = sys::steer::Group { slots: &[0, 1], active: &[0, 1] };
    let program = sys::steer::Program::new(
        &group,
        sys::steer::CidKey::new(api::quic::QuicSecret::new([7; 32]).cid_key()),
    );
    sys::steer::attach(sockets[0].as_fd(), &program).unwrap();
    let listen =
        api::agent::Listen { bind, port: 443, tls: true, transport: api::agent::Transport::Udp, raw: false };
    let slots = |slots: &[u32]| api::agent::Slots { listen: listen.clone(), slots: slots.to_vec() };
    let third: Vec<OwnedFd> = vec![sys::reuseport::bind_udp(bind, options).unwrap()];
    edge.runtime.block_on(async {
        edge.control.listen(slots(&[0, 1]), sockets).await.unwrap();
        assert!(edge.control.listen(slots(&[2]), third).await.is_err(), "there are two threads");
        let mut clients = Vec::new();
        for _ in 0..20 {
            let endpoint = client_endpoint(&secured);
            let connection = endpoint.connect(bind, "a.test").unwrap().await.unwrap();
            clients.push((speak(connection).await, endpoint));
        }
        for (sender, endpoint) in &mut clients {
            for _ in 0..3 {
                endpoint.rebind(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
                assert_eq!(ask(sender, get("/")).await.0, StatusCode::OK);
            }
        }
    });
}
