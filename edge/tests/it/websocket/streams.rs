//! WebSocket by a stream of HTTP/2 (RFC 8441) or HTTP/3 (RFC 9220), to an upstream that speaks HTTP/1.1.

use std::time::Duration;

use edge::{
    Limits,
    h3::{FrameKind, frame_header, qpack, write_frame_header},
};
use hyper::{Request, StatusCode, ext::Protocol, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use quinn::{RecvStream, SendStream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::frames::{CLOSE, GOING_AWAY, TEXT, echo, masked, next, upstream};
use crate::{
    h2::{Sender, ask, empty, get, prior_knowledge},
    h3::{Served, serve},
    support::{Edge, PATIENCE, Upstream, proxy},
};

/// Half of it is over when tunnels begin to leave.
const DRAIN: Duration = Duration::from_secs(4);

async fn extended(sender: &mut Sender, protocol: &'static str) -> http::Response<hyper::body::Incoming> {
    let mut request = Request::connect("http://a.test/chat?room=1");
    request = request.header("sec-websocket-version", "13").header("sec-websocket-protocol", "chat");
    let mut request = request.body(empty()).unwrap();
    request.extensions_mut().insert(Protocol::from_static(protocol));
    timeout(PATIENCE, sender.send_request(request)).await.unwrap().unwrap()
}

async fn sender(edge: &Edge) -> Sender {
    let mut sender = prior_knowledge(edge).await;
    // Our settings, which allow extended CONNECT, are there with the first answer.
    assert_eq!(ask(&mut sender, get("/")).await.status(), 200);
    sender
}

async fn open(edge: &Edge) -> TokioIo<Upgraded> {
    let response = extended(&mut sender(edge).await, "websocket").await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
    for name in ["sec-websocket-accept", "upgrade", "connection", "content-length"] {
        assert!(!response.headers().contains_key(name), "{name}");
    }
    TokioIo::new(hyper::upgrade::on(response).await.unwrap())
}

/// Reads a short frame of a server: its first byte and payload.
async fn hear(stream: &mut (impl AsyncReadExt + Unpin)) -> (u8, Vec<u8>) {
    let mut head = [0; 2];
    timeout(PATIENCE, stream.read_exact(&mut head)).await.unwrap().unwrap();
    let mut payload = vec![0; usize::from(head[1])];
    timeout(PATIENCE, stream.read_exact(&mut payload)).await.unwrap().unwrap();
    (head[0], payload)
}

#[test]
fn http2_carries_a_websocket_and_says_goodbye() {
    let (upstream, told) = upstream(echo(1000));
    let edge = Edge::start(&proxy(&upstream));
    edge.runtime.block_on(async {
        let mut stream = open(&edge).await;
        stream.write_all(&masked(TEXT, b"hello")).await.unwrap();
        assert_eq!(hear(&mut stream).await, (TEXT, b"hello".to_vec()));
        edge.control.drain(DRAIN).await;
        let goodbye = GOING_AWAY.to_be_bytes();
        assert_eq!(hear(&mut stream).await, (CLOSE, goodbye.to_vec()));
        stream.write_all(&masked(CLOSE, &goodbye)).await.unwrap();
        let mut rest = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap().unwrap();
        assert!(rest.is_empty());
    });
    assert_eq!(next(&told).unwrap().payload, b"hello");
    let goodbye = next(&told).unwrap();
    assert_eq!((goodbye.close_code(), goodbye.masked), (Some(GOING_AWAY), true));
    edge.drain(PATIENCE);
}

#[test]
fn a_client_that_ends_its_stream_ends_the_tunnel() {
    let (upstream, told) = upstream(echo(1000));
    let edge = Edge::start(&proxy(&upstream));
    edge.runtime.block_on(async {
        let mut stream = open(&edge).await;
        stream.write_all(&masked(TEXT, b"bye")).await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(hear(&mut stream).await.1, b"bye");
    });
    assert_eq!(next(&told).unwrap().payload, b"bye");
    assert_eq!(next(&told), None);
}

#[test]
fn a_tunnel_is_bounded_in_silence_and_keeps_its_connection() {
    let limits = Limits {
        tunnel_idle: Duration::from_millis(750),
        idle: Duration::from_millis(250),
        ..Limits::default()
    };
    let (upstream, _told) = upstream(echo(GOING_AWAY));
    let edge = Edge::start_with(&proxy(&upstream), limits);
    edge.runtime.block_on(async {
        let mut stream = open(&edge).await;
        for _ in 0..6 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            stream.write_all(&masked(TEXT, b"still here")).await.unwrap();
            assert_eq!(hear(&mut stream).await.1, b"still here");
        }
        assert_eq!(hear(&mut stream).await, (CLOSE, GOING_AWAY.to_be_bytes().to_vec()));
    });
}

#[test]
fn an_upstream_that_does_not_switch_is_no_success() {
    let upstream = Upstream::start(|exchange, request| match request.line() {
        "GET / HTTP/1.1" => exchange.reply("x"),
        _ if request.header("sec-websocket-protocol") == Some("chat") => exchange.reply("not a WebSocket"),
        _ => exchange.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"),
    });
    let edge = Edge::start(&proxy(&upstream));
    edge.runtime.block_on(async {
        let mut sender = sender(&edge).await;
        assert_eq!(extended(&mut sender, "websocket").await.status(), StatusCode::BAD_GATEWAY);
        // Other answers are the upstream's to give.
        let mut request = Request::connect("http://a.test/chat").body(empty()).unwrap();
        request.extensions_mut().insert(Protocol::from_static("websocket"));
        assert_eq!(sender.send_request(request).await.unwrap().status(), StatusCode::FORBIDDEN);
    });
    let received = upstream.received();
    assert_eq!(received[1].line(), "GET /chat?room=1 HTTP/1.1");
    assert_eq!(received[1].header("connection"), Some("upgrade"));
    assert_eq!(received[1].header("sec-websocket-key").unwrap().len(), 24);
}

#[test]
fn an_answer_to_another_key_is_no_websocket() {
    let upstream = Upstream::start(|exchange, request| {
        match request.header("upgrade") {
        None => exchange.reply("x"),
        Some(_) => exchange.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"),
    }
    });
    let edge = Edge::start(&proxy(&upstream));
    edge.runtime.block_on(async {
        let mut sender = sender(&edge).await;
        assert_eq!(extended(&mut sender, "websocket").await.status(), StatusCode::BAD_GATEWAY);
        assert_eq!(extended(&mut sender, "connect-udp").await.status(), StatusCode::NOT_IMPLEMENTED);
    });
    assert_eq!(upstream.received().len(), 2, "only a WebSocket is asked for");
}

/// An extended CONNECT by HTTP/3, and the status of the answer.
async fn open_by_h3(served: &Served, connection: &quinn::Connection) -> (SendStream, RecvStream, Vec<u8>) {
    let fields = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https"),
        (":authority", "a.test"),
        (":path", "/chat"),
        ("sec-websocket-version", "13"),
    ];
    let opened = open_stream(connection, &fields).await;
    opened.unwrap_or_else(|| panic!("{}", served.edge.control.metrics()))
}

/// A request by HTTP/3 whose stream goes on, and the head of the answer. `None`: the stream has ended without one.
pub(crate) async fn open_stream(
    connection: &quinn::Connection,
    fields: &[(&str, &str)],
) -> Option<(SendStream, RecvStream, Vec<u8>)> {
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    let mut section = Vec::new();
    qpack::begin(&mut section);
    for (name, value) in fields {
        qpack::write_field(&mut section, name.as_bytes(), value.as_bytes());
    }
    let mut frame = Vec::new();
    write_frame_header(&mut frame, FrameKind::Headers, section.len());
    frame.extend(section);
    send.write_all(&frame).await.unwrap();
    let (kind, head) = read_frame(&mut recv).await?;
    assert_eq!(kind, FrameKind::Headers);
    Some((send, recv, head))
}

/// The next frame; `None` at the stream's end.
pub(crate) async fn read_frame(recv: &mut RecvStream) -> Option<(FrameKind, Vec<u8>)> {
    let mut bytes = Vec::new();
    let header = loop {
        let mut byte = [0];
        timeout(PATIENCE, recv.read(&mut byte)).await.unwrap().unwrap()?;
        bytes.extend(byte);
        if let Some(header) = frame_header(&bytes) {
            break header;
        }
    };
    let mut payload = vec![0; usize::try_from(header.length).unwrap()];
    timeout(PATIENCE, recv.read_exact(&mut payload)).await.unwrap().unwrap();
    Some((header.kind, payload))
}

/// The bytes of one DATA frame.
pub(crate) fn data(bytes: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    write_frame_header(&mut frame, FrameKind::Data, bytes.len());
    frame.extend(bytes);
    frame
}

/// What comes in DATA frames until there are `count` bytes.
pub(crate) async fn hear_by_h3(recv: &mut RecvStream, count: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < count {
        let (kind, payload) = read_frame(recv).await.expect("the stream ended");
        assert_eq!(kind, FrameKind::Data);
        all.extend(payload);
    }
    all
}

#[test]
fn http3_carries_a_websocket_and_says_goodbye() {
    let (upstream, told) = upstream(echo(1000));
    let served = serve(&upstream);
    served.edge.runtime.block_on(async {
        let (_endpoint, connection) = served.dial().await;
        let (mut send, mut recv, head) = open_by_h3(&served, &connection).await;
        // `:status: 200` is entry 25 of the static table.
        assert!(head.contains(&(0xc0 | 25)), "{head:x?}");
        // A WebSocket's frame need not be one of HTTP/3's.
        let hello = masked(TEXT, b"hello");
        send.write_all(&[data(&hello[..3]), data(&hello[3..]), data(&masked(TEXT, b"again"))].concat())
            .await
            .unwrap();
        assert_eq!(hear_by_h3(&mut recv, 14).await, b"\x81\x05hello\x81\x05again");
        served.edge.control.drain(DRAIN).await;
        let goodbye = [&[CLOSE, 2][..], &GOING_AWAY.to_be_bytes()].concat();
        assert_eq!(hear_by_h3(&mut recv, 4).await, goodbye);
        // Nobody may be waiting for it any more: the upstream has said its Close as well.
        let _late = send.write_all(&data(&masked(CLOSE, &GOING_AWAY.to_be_bytes()))).await;
        assert_eq!(read_frame(&mut recv).await, None, "the stream ends, and is not reset");
    });
    assert_eq!(next(&told).unwrap().payload, b"hello");
    assert_eq!(next(&told).unwrap().payload, b"again");
    assert_eq!(next(&told).unwrap().close_code(), Some(GOING_AWAY));
    served.edge.drain(PATIENCE);
}
