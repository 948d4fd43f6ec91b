//! Honest clients, by which attacks are measured.

use std::{
    io::{Error, ErrorKind},
    rc::Rc,
    sync::Arc,
};

use bytes::{Buf, Bytes};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    task::spawn_local,
};
use tokio_rustls::TlsConnector;

use super::{Honest, Targets};

/// A request that is answered at once.
pub(super) const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// A request whose answer takes a while.
const WAIT: &str = "GET /wait HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// Makes so many requests, one after another, on as many connections as its kind says.
pub(super) async fn honest(kind: Honest, targets: &Targets, count: usize) {
    match kind {
        Honest::Http1 => {
            let mut stream = TcpStream::connect(targets.http).await.unwrap();
            for _ in 0..count {
                ask(&mut stream, GET).await;
            }
        }
        Honest::Http1Close => {
            for _ in 0..count {
                ask(&mut TcpStream::connect(targets.http).await.unwrap(), GET).await;
            }
        }
        Honest::Tls => {
            for _ in 0..count {
                ask(&mut tls(targets).await, GET).await;
            }
        }
        Honest::Http2 => {
            let sender = h2(targets).await;
            for _ in 0..count {
                h2_ask(&sender, "/").await;
            }
        }
        Honest::Http3 => {
            let (endpoint, mut sender) = h3(targets).await;
            for _ in 0..count {
                h3_ask(&mut sender, "/").await;
            }
            drop(endpoint);
        }
    }
}

/// A client that waits for its answer.
pub(super) async fn waiting(kind: Honest, targets: &Targets) {
    match kind {
        Honest::Http1 | Honest::Http1Close => {
            ask(&mut TcpStream::connect(targets.http).await.unwrap(), WAIT).await;
        }
        Honest::Tls => ask(&mut tls(targets).await, WAIT).await,
        Honest::Http2 => h2_ask(&h2(targets).await, "/wait").await,
        Honest::Http3 => {
            let (_endpoint, mut sender) = h3(targets).await;
            h3_ask(&mut sender, "/wait").await;
        }
    }
}

async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), request: &str) {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\nxx") {
        assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "{:?}", String::from_utf8_lossy(&answer));
    }
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{:?}", String::from_utf8_lossy(&answer));
}

pub(super) async fn tls(targets: &Targets) -> tokio_rustls::client::TlsStream<TcpStream> {
    let stream = TcpStream::connect(targets.https).await.unwrap();
    let name = ServerName::try_from("a.test").unwrap();
    TlsConnector::from(Arc::clone(&targets.tls)).connect(name, stream).await.unwrap()
}

async fn h2(targets: &Targets) -> h2::client::SendRequest<Bytes> {
    let stream = TcpStream::connect(targets.http).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    drop(spawn_local(async move { drop(connection.await) }));
    sender
}

async fn h2_ask(sender: &h2::client::SendRequest<Bytes>, path: &str) {
    let mut sender = sender.clone().ready().await.unwrap();
    let request = http::Request::get(format!("http://a.test{path}")).body(()).unwrap();
    let (response, _) = sender.send_request(request, true).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    while let Some(data) = body.data().await {
        body.flow_control().release_capacity(data.unwrap().len()).unwrap();
    }
}

/// An endpoint of its own, and a connection.
pub(super) async fn quic(targets: &Targets) -> std::io::Result<(quinn::Endpoint, quinn::Connection)> {
    let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap())?;
    endpoint.set_default_client_config(targets.quic_config.clone());
    let connecting = endpoint.connect(targets.quic, "a.test").map_err(Error::other)?;
    let connection = connecting.await.map_err(|error| Error::new(ErrorKind::ConnectionReset, error))?;
    Ok((endpoint, connection))
}

type Sender = h3::client::SendRequest<h3_quinn::OpenStreams, Bytes>;

async fn h3(targets: &Targets) -> (Rc<quinn::Endpoint>, Sender) {
    let (endpoint, connection) = quic(targets).await.unwrap();
    (Rc::new(endpoint), crate::h3::speak(connection).await)
}

async fn h3_ask(sender: &mut Sender, path: &str) {
    let request = http::Request::get(format!("https://a.test{path}")).body(()).unwrap();
    let mut stream = sender.send_request(request).await.unwrap();
    stream.finish().await.unwrap();
    assert_eq!(stream.recv_response().await.unwrap().status(), 200);
    while let Some(mut data) = stream.recv_data().await.unwrap() {
        let all = data.remaining();
        data.advance(all);
    }
}
